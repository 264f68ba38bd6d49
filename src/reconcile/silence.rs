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

use super::{Failure, Reconciler, status_path};
use crate::kube::Error;
use crate::node::Host;
use crate::problems::Subject;
use crate::resources::node_config::{NODE_CONFIGS, NodeConfig, NodeEntry};
use crate::schedule::Ended;

/// A node publishes once a minute; after so long without a sign of life its entry is removed.
pub const SILENT_AFTER: Duration = Duration::from_secs(5 * 60);

/// The entries of the other nodes, watched in this node's own successful reads.
#[derive(Debug, Default)]
pub struct Silence {
    /// By IP6UpdateNodeConfig and node.
    watches: BTreeMap<(String, String), Watched>,
    /// Reachable time since any entry was seen to come or to change.
    all_still: Duration,
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
        self.all_still += gap;
        for config in node_configs {
            for (node, entry) in config.nodes().iter().filter(|(node, _)| *node != own) {
                let key = (config.metadata.name.clone(), node.clone());
                let fingerprint = fingerprint(entry);
                let still = match before.remove(&key) {
                    Some(watched) if watched.fingerprint == fingerprint => watched.still + gap,
                    _ => {
                        self.all_still = Duration::ZERO;
                        Duration::ZERO
                    }
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

    /// The same for one IP6UpdateNodeConfig.
    pub fn reset_in(&mut self, config: &str) {
        let of_config = self.watches.iter_mut().filter(|((name, _), _)| name == config);
        of_config.for_each(|(_, watched)| watched.still = Duration::ZERO);
    }

    /// Whether this node's entry in this IP6UpdateNodeConfig has stood still for too long.
    pub fn is_silent(&self, config: &str, node: &str) -> bool {
        let watched = self.watches.get(&(config.to_string(), node.to_string()));
        watched.is_some_and(|watched| watched.still >= SILENT_AFTER)
    }

    /// The IP6UpdateNodeConfigs with silent nodes.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        let silent = self.watches.iter().filter(|(_, watched)| watched.still >= SILENT_AFTER);
        silent.map(|((config, _), _)| config.as_str())
    }

    /// Whether there is no other node with an entry, or none of them was seen to publish for five minutes.
    pub fn does_nobody_publish(&self) -> bool {
        self.watches.is_empty() || self.all_still >= SILENT_AFTER
    }

    /// Waits for others to publish for another five minutes: where this node cannot write a status, they may
    /// not be able to either.
    pub fn wait_for_others(&mut self) {
        self.all_still = Duration::ZERO;
    }
}

impl Reconciler {
    /// Whether there is a silent node whose removal was not refused just now.
    pub(super) fn is_removal_due(&self, now: Duration) -> bool {
        let mut places = self.silence.places();
        places.any(|config| self.not_now(&Subject::Removal(config.to_string()), now).is_none())
    }

    /// Removes the entries of nodes that fell silent.
    pub(super) fn remove_silent(&mut self, node_configs: &[NodeConfig], host: &mut dyn Host) -> Result<Ended, Failure> {
        let mut ended = Ended::Quiet;
        for config in node_configs {
            let name = &config.metadata.name;
            let subject = Subject::Removal(name.clone());
            if self.not_now(&subject, host.now()).is_some() {
                continue;
            }
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
            match self.client.merge_patch(&status_path(NODE_CONFIGS, name), &patch) {
                Ok(()) => {
                    self.problems.works(&subject);
                    info!("IP6UpdateNodeConfig {name}: removed {gone}, silent for five minutes");
                    ended = Ended::Unsettled;
                }
                Err(e) if e.is_conflict() || e.is_absent_object() => {
                    debug!("{e}");
                    ended = Ended::Unsettled;
                }
                Err(e) => {
                    let text = format!("the entry of {gone}, silent for five minutes, cannot be removed: {e}");
                    if self.object_failed(subject, &text, &e, host)? {
                        self.warn_of_node_config(config, &text, host);
                    }
                }
            }
        }
        Ok(ended)
    }

    /// A publication in an IP6UpdateNodeConfig failed: the others may not be able to write it either, or
    /// nothing at all. Says whether that is new.
    pub(super) fn publication_failed(
        &mut self,
        subject: Subject,
        config: &str,
        text: &str,
        error: &Error,
        host: &mut dyn Host,
    ) -> Result<bool, Failure> {
        self.silence.reset_in(config);
        let failed = self.object_failed(subject, text, error, host);
        if failed.is_err() {
            self.silence.reset();
        }
        failed
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

    fn is_any_silent(silence: &Silence) -> bool {
        silence.places().next().is_some()
    }

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
        assert!(silence.is_silent("n", "dead") && is_any_silent(&silence));
        assert!(!silence.is_silent("n", "alive") && !silence.is_silent("n", "me") && !silence.is_silent("n", "x"));
        assert!(!silence.does_nobody_publish());
        silence.watch("me", &published(&[("dead", 1)]), MINUTE);
        assert!(!is_any_silent(&silence), "it is back");
    }

    #[test]
    fn whatever_changes_is_a_sign_of_life() {
        let mut silence = Silence::default();
        for (time, message) in [(0, ""), (0, "x"), (1, "x"), (0, "x")] {
            let mut configs = published(&[("a", time)]);
            configs[0].status.nodes.get_mut("a").unwrap().message = message.into();
            silence.watch("me", &configs, SILENT_AFTER);
            assert!(!is_any_silent(&silence));
            assert!(!silence.does_nobody_publish());
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
        assert!(!is_any_silent(&silence));
    }

    #[test]
    fn a_reset_starts_all_watches_anew() {
        let mut silence = Silence::default();
        silence.watch("me", &published(&[("a", 0)]), MINUTE);
        silence.watch("me", &published(&[("a", 0)]), SILENT_AFTER);
        assert!(is_any_silent(&silence));
        silence.reset();
        assert!(!is_any_silent(&silence));
    }

    #[test]
    fn nobody_publishes() {
        let mut silence = Silence::default();
        assert!(silence.does_nobody_publish(), "there are none");
        let watch = |silence: &mut Silence, time, gap| silence.watch("me", &published(&[("a", 0), ("b", time)]), gap);
        watch(&mut silence, 0, MINUTE);
        watch(&mut silence, 0, MINUTE * 4);
        assert!(!silence.does_nobody_publish());
        watch(&mut silence, 0, MINUTE);
        assert!(silence.does_nobody_publish());
        silence.reset();
        assert!(
            silence.does_nobody_publish(),
            "a node that cannot publish saw it all the same"
        );
        silence.wait_for_others();
        assert!(!silence.does_nobody_publish());
        watch(&mut silence, 0, SILENT_AFTER);
        watch(&mut silence, 1, MINUTE);
        assert!(!silence.does_nobody_publish());
        silence.watch("me", &published(&[]), MINUTE);
        assert!(silence.does_nobody_publish(), "all are gone");
    }
}
