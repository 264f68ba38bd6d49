//! Which nodes fell silent: those whose entries this node has watched standing still for five minutes; and
//! the removal of their entries.
//!
//! Like client-go's leader election, which looks at when it saw a record change, not at what time the
//! record says: no clocks are compared.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use log::{debug, info};
use serde_json::{Map, Value, json};

use super::{Failure, Left, Reconciler, status_path};
use crate::problems::Subject;
use crate::resources::node_config::{NODE_CONFIGS, NodeConfig, NodeEntry};

/// A node publishes once a minute; after so long without a sign of life its entry is removed.
pub const SILENT_AFTER: Duration = Duration::from_secs(5 * 60);
/// A node that cannot publish leaves the work to others that gave a sign of life within this time.
const ALIVE_WITHIN: Duration = Duration::from_secs(2 * 60);

/// The entries of the other nodes, watched in this node's own successful reads.
#[derive(Debug, Default)]
pub struct Silence {
    /// By IP6UpdateNodeConfig and node.
    watches: BTreeMap<(String, String), Watched>,
    /// Reachable time since any entry was seen to change.
    since_change: Duration,
}

#[derive(Debug)]
struct Watched {
    fingerprint: u64,
    still: Duration,
}

impl Silence {
    /// Notes what an up-to-date read shows. `gap` is the time since the read before, one interval at most:
    /// beyond that this node knows nothing.
    pub fn watch(&mut self, own: &str, node_configs: &[NodeConfig], gap: Duration) {
        let mut before = std::mem::take(&mut self.watches);
        self.since_change += gap;
        for config in node_configs {
            for (node, entry) in config.nodes().iter().filter(|(node, _)| *node != own) {
                let key = (config.metadata.name.clone(), node.clone());
                let fingerprint = fingerprint(entry);
                let still = match before.remove(&key) {
                    Some(watched) if watched.fingerprint == fingerprint => watched.still + gap,
                    Some(_) => {
                        self.since_change = Duration::ZERO;
                        Duration::ZERO
                    }
                    None => Duration::ZERO,
                };
                self.watches.insert(key, Watched { fingerprint, still });
            }
        }
    }

    /// Starts all watches anew: where this node cannot write, the others may not be able to either.
    pub fn reset(&mut self) {
        self.watches
            .values_mut()
            .for_each(|watched| watched.still = Duration::ZERO);
    }

    /// Whether this node's entry in this IP6UpdateNodeConfig has stood still for too long.
    pub fn is_silent(&self, config: &str, node: &str) -> bool {
        let watched = self.watches.get(&(config.to_string(), node.to_string()));
        watched.is_some_and(|watched| watched.still >= SILENT_AFTER)
    }

    /// Whether any other node is silent.
    pub fn is_any_silent(&self) -> bool {
        self.watches.values().any(|watched| watched.still >= SILENT_AFTER)
    }

    /// Whether there is no entry of another node but silent ones.
    pub fn are_all_silent(&self) -> bool {
        self.watches.values().all(|watched| watched.still >= SILENT_AFTER)
    }

    /// Whether there are others of which one was seen to publish a short time ago.
    pub fn has_seen_others_publish(&self) -> bool {
        !self.watches.is_empty() && self.since_change < ALIVE_WITHIN
    }
}

impl Reconciler {
    /// Removes the entries of nodes that fell silent.
    pub(super) fn remove_silent(&mut self, node_configs: &[NodeConfig]) -> Result<Left, Failure> {
        let mut left = Left::Nothing;
        for config in node_configs {
            let name = &config.metadata.name;
            let silent = config.nodes().keys().filter(|node| self.silence.is_silent(name, node));
            let nodes: Map<String, Value> = silent.map(|node| (node.clone(), Value::Null)).collect();
            if nodes.is_empty() {
                continue;
            }
            let gone = nodes.keys().cloned().collect::<Vec<_>>().join(", ");
            // With the resourceVersion: if a node just came back, its new entry stays.
            let patch = json!({
                "metadata": {"resourceVersion": config.metadata.resource_version},
                "status": {"nodes": nodes},
            });
            left = Left::Soon;
            match self.client.merge_patch(&status_path(NODE_CONFIGS, name), &patch) {
                Ok(()) => info!("IP6UpdateNodeConfig {name}: removed {gone}, silent for five minutes"),
                Err(e) if e.is_conflict() || e.is_absent_object() => debug!("{e}"),
                Err(e) => {
                    self.silence.reset();
                    self.object_failed(&e)?;
                    self.problems.fails(Subject::NodeConfig(name.clone()), &e.to_string());
                    left = Left::Failures;
                }
            }
        }
        Ok(left)
    }
}

fn fingerprint(entry: &NodeEntry) -> u64 {
    let mut hasher = DefaultHasher::new();
    entry.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MINUTE: Duration = Duration::from_secs(60);

    fn published(nodes: &[(&str, u32)]) -> Vec<NodeConfig> {
        let entries: BTreeMap<&str, _> = nodes
            .iter()
            .map(|(node, time)| (*node, json!({"observedTime": time.to_string()})))
            .collect();
        let config = json!({"metadata": {"name": "n"}, "spec": {"interface": "eth0"}, "status": {"nodes": entries}});
        vec![serde_json::from_value(config).unwrap()]
    }

    #[test]
    fn who_stands_still_for_five_minutes_is_silent() {
        let mut silence = Silence::default();
        for minute in 0..=5u32 {
            assert!(!silence.is_silent("n", "dead"), "minute {minute}");
            silence.watch("me", &published(&[("me", 0), ("dead", 0), ("alive", minute)]), MINUTE);
        }
        assert!(silence.is_silent("n", "dead") && silence.is_any_silent());
        assert!(!silence.is_silent("n", "alive") && !silence.is_silent("n", "me") && !silence.is_silent("n", "x"));
        assert!(!silence.are_all_silent());
        silence.watch("me", &published(&[("dead", 1)]), MINUTE);
        assert!(!silence.is_any_silent(), "it is back");
    }

    #[test]
    fn whatever_changes_is_a_sign_of_life() {
        let mut silence = Silence::default();
        for (time, message) in [(0, ""), (0, "x"), (1, "x"), (0, "x")] {
            let mut configs = published(&[("a", time)]);
            configs[0].status.0.nodes.0.get_mut("a").unwrap().message = message.into();
            silence.watch("me", &configs, SILENT_AFTER);
            assert!(!silence.is_any_silent());
            assert!(silence.are_all_silent() == silence.watches.is_empty());
        }
    }

    #[test]
    fn an_entry_that_came_back_is_watched_anew() {
        let mut silence = Silence::default();
        silence.watch("me", &published(&[("a", 0)]), MINUTE);
        silence.watch("me", &published(&[("a", 0)]), MINUTE * 4);
        silence.watch("me", &published(&[]), MINUTE);
        silence.watch("me", &published(&[("a", 0)]), MINUTE);
        silence.watch("me", &published(&[("a", 0)]), MINUTE * 4);
        assert!(!silence.is_any_silent());
    }

    #[test]
    fn a_reset_starts_all_watches_anew() {
        let mut silence = Silence::default();
        silence.watch("me", &published(&[("a", 0)]), MINUTE);
        silence.watch("me", &published(&[("a", 0)]), SILENT_AFTER);
        assert!(silence.are_all_silent());
        silence.reset();
        assert!(!silence.is_any_silent());
    }

    #[test]
    fn others_that_publish() {
        let mut silence = Silence::default();
        assert!(!silence.has_seen_others_publish(), "there are none");
        silence.watch("me", &published(&[("a", 0)]), MINUTE);
        silence.watch("me", &published(&[("a", 0)]), MINUTE);
        assert!(!silence.has_seen_others_publish());
        silence.watch("me", &published(&[("a", 1)]), MINUTE);
        assert!(silence.has_seen_others_publish());
    }
}
