//! What this node has to say in the status of the node configs, and whose word there is out of date.

use std::collections::{BTreeMap, BTreeSet};

use log::{debug, info};
use serde_json::{Value, json};

use super::{Failure, Look, Operator, status_path};
use crate::interface::Observation;
use crate::objects::{NODE_CONFIGS, NodeConfig, NodeEntry, NodeSpec};
use crate::plan::{self, must_publish, says_the_same};
use crate::prefix::{join, texts};
use crate::time::Timestamp;

impl Operator {
    /// Looks at the interfaces of the selected node configs, and logs what changed. Gives what this
    /// node has to publish in each of them.
    pub(super) fn observe(
        &mut self,
        specs: &BTreeMap<String, NodeSpec>,
        selected: &BTreeSet<String>,
        published: &BTreeMap<String, NodeEntry>,
        look: Look,
        now: Timestamp,
    ) -> Result<BTreeMap<String, NodeEntry>, Failure> {
        let (mut entries, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for (name, spec) in specs.iter().filter(|(name, _)| selected.contains(*name)) {
            let subject = format!("IP6UpdateNodeConfig {name}");
            let observation = match &spec.watch {
                Ok(watch) => {
                    let interface = &watch.interface;
                    let observation = look(watch).map_err(|e| {
                        Failure::Addresses(format!("the kernel does not say what addresses {interface} has: {e}"))
                    })?;
                    self.journal.works(&subject);
                    self.log_change(interface, self.seen.get(watch), &observation);
                    seen.insert(watch.clone(), observation.clone());
                    observation
                }
                Err(problem) => {
                    self.journal.fails(&subject, problem);
                    Observation::default()
                }
            };
            let entry = plan::entry(spec, &observation, published.get(name), now);
            entries.insert(name.clone(), entry);
        }
        self.seen = seen;
        Ok(entries)
    }

    fn log_change(&self, interface: &str, before: Option<&Observation>, seen: &Observation) {
        let facts = |o: &Observation| (o.prefixes.clone(), o.absent);
        if before.map(facts) != Some(facts(seen)) {
            let old = before.map_or("unknown".to_string(), |before| join(&before.prefixes));
            let message = seen.message(interface);
            let why = if message.is_empty() {
                message
            } else {
                format!(" ({message})")
            };
            info!("{interface}: prefixes {old} -> {}{why}", join(&seen.prefixes));
        }
    }

    /// Publishes what is seen where that is due, in the cluster and in `node_configs`. Says whether any of
    /// it is another thing than before.
    pub(super) fn publish(
        &mut self,
        node_configs: &mut [NodeConfig],
        seen: &BTreeMap<String, NodeEntry>,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let mut is_change = false;
        for config in node_configs {
            let Some(entry) = seen.get(&config.metadata.name) else {
                continue;
            };
            let before = config.nodes().get(&self.node);
            if !must_publish(before, entry) {
                continue;
            }
            is_change |= before.is_none_or(|before| !says_the_same(before, entry));
            let path = status_path(NODE_CONFIGS, &config.metadata.name);
            match self.client.merge_patch(&path, &self.publication(entry, now)) {
                // Deleted since it was listed: nothing to publish to.
                Err(e) if e.is_absent_object() => debug!("{e}"),
                published => published?,
            }
            config.status.0.nodes.0.insert(self.node.clone(), entry.clone());
        }
        Ok(is_change)
    }

    /// The patch that publishes an entry.
    pub(super) fn publication(&self, entry: &NodeEntry, now: Timestamp) -> Value {
        let deprecated = entry.deprecated.iter();
        let deprecated = deprecated.map(|d| json!({"prefix": d.prefix.to_string(), "since": d.since.to_string()}));
        let published = json!({
            "prefixes": texts(&entry.prefixes),
            "deprecated": deprecated.collect::<Vec<_>>(),
            "observedTime": now.to_string(),
            "message": entry.message,
        });
        json!({"status": {"nodes": {self.node.as_str(): published}}})
    }

    /// Removes entries of nodes that fell silent.
    pub(super) fn remove_stale(
        &mut self,
        node_configs: &[NodeConfig],
        stale: &[(String, String)],
    ) -> Result<(), Failure> {
        for config in node_configs {
            let nodes: serde_json::Map<String, Value> = stale
                .iter()
                .filter(|(name, _)| *name == config.metadata.name)
                .map(|(_, node)| (node.clone(), Value::Null))
                .collect();
            if nodes.is_empty() {
                continue;
            }
            let gone: Vec<&String> = nodes.keys().collect();
            let gone = format!("{gone:?}");
            // With the resourceVersion: if the node just came back, its new entry stays.
            let patch = json!({
                "metadata": {"resourceVersion": config.metadata.resource_version},
                "status": {"nodes": nodes},
            });
            match self
                .client
                .merge_patch(&status_path(NODE_CONFIGS, &config.metadata.name), &patch)
            {
                Ok(()) => info!(
                    "IP6UpdateNodeConfig {}: removed the stale entries of {gone}",
                    config.metadata.name
                ),
                Err(e) if e.is_conflict() || e.is_absent_object() => debug!("{e}"),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}
