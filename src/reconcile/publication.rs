//! What this node has to say in the status of the node configs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::{debug, info};
use serde_json::{Value, json};

use super::{Failure, Reconciler, status_path};
use crate::node::Host;
use crate::node::select::Observation;
use crate::prefix::{join, texts};
use crate::problems::Subject;
use crate::resources::node_config::{NODE_CONFIGS, NodeConfig, NodeEntry};
use crate::schedule::Ended;
use crate::time::Timestamp;

/// A node publishes again after this time, even if it sees what it saw before.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// What this node published, and what it counts for that.
#[derive(Debug, Default)]
pub(super) struct Publication {
    /// When, in steady time, by IP6UpdateNodeConfig.
    published: BTreeMap<String, Duration>,
}

/// What came of publishing.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Plans may follow from it.
    pub is_change: bool,
    /// This node has something to say, and not all of it was refused.
    pub is_heard: bool,
    /// This node has nothing to say: nothing selects it.
    pub is_idle: bool,
    /// A refused entry waits for its next try. There is nothing to tell meanwhile: that may succeed.
    pub waits: bool,
    /// Whether all that was sent was taken.
    pub ended: Ended,
    /// Why this node's entries are not what it sees; one sentence for each.
    pub failures: Vec<String>,
    /// So many entries met a conflict.
    conflicts: usize,
}

/// The entry for what is observed. Its time is set when it is sent.
fn entry(config: &NodeConfig, observed: &Observation) -> NodeEntry {
    NodeEntry {
        prefixes: observed.prefixes.clone(),
        observed_time: String::new(),
        message: match &config.spec.watch {
            Ok(watch) => observed.message(&watch.interface),
            Err(problem) => problem.clone(),
        },
    }
}

/// Whether plans or people make the same of two entries.
fn says_the_same(one: &NodeEntry, other: &NodeEntry) -> bool {
    one.prefixes == other.prefixes && one.message == other.message
}

impl Publication {
    /// Forgets what belongs to node configs that do not select this node.
    fn retain(&mut self, selected: &BTreeMap<String, NodeEntry>) {
        self.published.retain(|name, _| selected.contains_key(name));
    }

    /// Whether a sign of life is due. Rounds come once an interval, so it may be half of one early.
    fn is_due(&self, name: &str, now: Duration, interval: Duration) -> bool {
        let published = self.published.get(name);
        published.is_none_or(|then| now.saturating_sub(*then) + interval / 2 >= SIGN_OF_LIFE)
    }
}

impl Reconciler {
    /// Looks at the interfaces of the selected node configs, and logs what changed. Gives the entry that
    /// this node should have in each of them.
    pub(super) fn observe(
        &mut self,
        node_configs: &[NodeConfig],
        selected: &BTreeSet<String>,
        host: &mut dyn Host,
    ) -> Result<BTreeMap<String, NodeEntry>, Failure> {
        let (mut entries, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for config in node_configs
            .iter()
            .filter(|config| selected.contains(&config.metadata.name))
        {
            let name = &config.metadata.name;
            let mut observed = Observation::default();
            if let Ok(watch) = &config.spec.watch {
                let interface = &watch.interface;
                observed = host.observe(watch, self.allowed.as_deref()).map_err(|e| {
                    Failure::Addresses(format!("the kernel did not list the addresses of {interface}: {e}"))
                })?;
                log_change(interface, self.seen.get(watch), &observed);
                seen.insert(watch.clone(), observed.clone());
            }
            entries.insert(name.clone(), entry(config, &observed));
        }
        self.seen = seen;
        Ok(entries)
    }

    /// Publishes what changed or is due, in the cluster and in `node_configs`. Then, if all that was said,
    /// removes this node's entry where nothing selects it any more: a node that moves is always there.
    pub(super) fn publish(
        &mut self,
        node_configs: &mut [NodeConfig],
        entries: &BTreeMap<String, NodeEntry>,
        host: &mut dyn Host,
    ) -> Result<Published, Failure> {
        let mut published = Published {
            is_idle: entries.is_empty(),
            ..Published::default()
        };
        self.publication.retain(entries);
        let is_selected = |config: &&mut NodeConfig| entries.contains_key(&config.metadata.name);
        for config in node_configs.iter_mut().filter(is_selected) {
            self.publish_in(config, entries, &mut published, host)?;
        }
        published.is_heard = published.failures.len() < entries.len();
        if published.failures.len() + published.conflicts == entries.len() {
            // A node that publishes nothing removes nobody.
            self.silence.reset();
        }
        let is_all_said = published.failures.is_empty() && published.ended < Ended::Unsettled;
        for config in node_configs
            .iter_mut()
            .filter(|config| is_all_said && !is_selected(config))
        {
            self.publish_in(config, entries, &mut published, host)?;
        }
        Ok(published)
    }

    fn publish_in(
        &mut self,
        config: &mut NodeConfig,
        entries: &BTreeMap<String, NodeEntry>,
        published: &mut Published,
        host: &mut dyn Host,
    ) -> Result<(), Failure> {
        let name = config.metadata.name.clone();
        let stored = config.nodes().get(&self.node);
        let entry = entries.get(&name);
        let is_change = match (stored, entry) {
            (None, None) => return Ok(()),
            (Some(stored), Some(entry)) => !says_the_same(stored, entry),
            _ => true,
        };
        if !is_change && !self.publication.is_due(&name, host.now(), self.interval()) {
            return Ok(());
        }
        let subject = Subject::NodeConfig(name.clone());
        if let Some(problem) = self.not_now(&subject, host.now()) {
            published.failures.push(format!("{subject}: {problem}"));
            published.waits = true;
            return Ok(());
        }
        let mut entry = entry.cloned();
        if let Some(entry) = &mut entry {
            entry.observed_time = self.sign_of_life(stored);
        }
        let body = json!({"status": {"nodes": {self.node.as_str(): entry.as_ref().map(body)}}});
        match self.client.merge_patch(&status_path(NODE_CONFIGS, &name), &body) {
            Ok(()) => {
                self.works(&subject);
                self.publication.published.insert(name, host.now());
                if is_change {
                    // Should the round end before its second half.
                    self.is_unsettled = true;
                    published.is_change = true;
                    published.ended = published.ended.max(Ended::Changed);
                }
                let nodes = &mut config.status.nodes;
                match entry {
                    Some(entry) => nodes.insert(self.node.clone(), entry),
                    None => nodes.remove(&self.node),
                };
            }
            // Deleted since it was listed: nothing to publish to.
            Err(e) if e.is_absent_object() => debug!("{e}"),
            // Too many nodes wrote at the same time (Kubernetes, apiserver patch.go: it tries five times).
            Err(e) if e.is_conflict() && !self.has_too_many_conflicts(&subject) => {
                debug!("{e}");
                self.silence.reset_in(&name);
                published.conflicts += 1;
                published.ended = Ended::Unsettled;
            }
            Err(e) => {
                // It may be stored all the same; then the next round sees no change, but has to follow it.
                self.is_unsettled |= is_change;
                let text = format!("node {} cannot publish what it sees: {e}", self.node);
                if self.publication_failed(subject.clone(), &name, &text, &e, host)? {
                    self.warn_of_node_config(config, &text, host);
                }
                published.failures.push(format!("{subject}: {text}"));
            }
        }
        Ok(())
    }

    /// The time, and always another text than the one that is stored, whatever the clock says.
    fn sign_of_life(&self, stored: Option<&NodeEntry>) -> String {
        let now = self.time();
        let before = stored.map_or("", |entry| &entry.observed_time);
        let text = now.to_string();
        if text == before {
            return Timestamp(now.0.saturating_add(1)).to_string();
        }
        text
    }
}

fn log_change(interface: &str, before: Option<&Observation>, seen: &Observation) {
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

/// An entry as it is stored. What is empty is left out, and so taken out (RFC 7396): with hundreds of nodes
/// entries are most of what is read.
fn body(entry: &NodeEntry) -> Value {
    json!({
        "prefixes": texts(&entry.prefixes),
        "observedTime": entry.observed_time,
        "message": (!entry.message.is_empty()).then_some(&entry.message),
    })
}

#[cfg(test)]
mod tests;
