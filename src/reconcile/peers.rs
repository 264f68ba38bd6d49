//! What this node has seen of the other nodes: how long each entry has stood still, and which entries vanished (I5).
//!
//! No clocks are compared. client-go's leader election does the same: it goes by when it saw a record change, not by
//! the time that the record says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::entry::Try;
use super::fingerprint;
use crate::limits::{LINGER, NEARLY_SILENT, SILENT_AFTER};
use crate::prefix::Prefix;
use crate::resources::node_config::{NodeConfig, NodeEntry};

/// The entries of all nodes, as this node saw them in its own successful, up-to-date reads.
#[derive(Debug, Default)]
pub struct Peers {
    watches: BTreeMap<Key, Watched>,
    vanished: BTreeMap<Key, Vanished>,
    /// Which IP6UpdateNodeConfigs there are, and what they ask for.
    specs: u64,
    /// Reachable time since the IP6UpdateNodeConfigs, or any entry in them, were seen to change.
    unchanged_for: Duration,
    last_read: Option<Duration>,
    /// The IP6UpdateNodeConfigs in which this node publishes, and whether its last try was refused.
    own: BTreeMap<String, bool>,
}

/// The names of an IP6UpdateNodeConfig and of a node with an entry in it.
type Key = (String, String);

#[derive(Debug)]
struct Watched {
    fingerprint: u64,
    unchanged_for: Duration,
    prefixes: Vec<Prefix>,
}

/// An entry that is gone although its node was not silent.
#[derive(Debug)]
struct Vanished {
    prefixes: Vec<Prefix>,
    /// The time left for its node to come back.
    left: Duration,
}

impl Peers {
    /// Records what an up-to-date read shows at `now`, in steady time. A gap between two reads counts as one
    /// `interval` at most: beyond that this node knows nothing.
    pub fn saw(&mut self, own: &str, node_configs: &[NodeConfig], now: Duration, interval: Duration) {
        let since = self.last_read.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        let gap = since.min(interval);
        debug_assert!(
            self.last_read.is_none_or(|last| last <= now),
            "steady time does not go back"
        );
        self.last_read = Some(now);
        self.unchanged_for += gap;
        if since > interval * 2 {
            // Nothing could be read, so the others could not publish. They come back first.
            self.unchanged_for = Duration::ZERO;
        }
        self.pass(node_configs, gap);
        let mut before = std::mem::take(&mut self.watches);
        for config in node_configs {
            for (node, entry) in config.nodes() {
                let key = (config.metadata.name.clone(), node.clone());
                let watched = watch(before.remove(&key), entry, gap);
                if node != own && watched.unchanged_for.is_zero() {
                    self.unchanged_for = Duration::ZERO;
                }
                self.vanished.remove(&key);
                self.watches.insert(key, watched);
            }
        }
        for (key, gone) in before {
            if key.1 != own {
                self.unchanged_for = Duration::ZERO;
            }
            if gone.unchanged_for < NEARLY_SILENT {
                let prefixes = gone.prefixes;
                self.vanished.insert(key, Vanished { prefixes, left: LINGER });
            }
        }
        self.judge_refusals(own);
        let specs = fingerprint(&specs(node_configs));
        if std::mem::replace(&mut self.specs, specs) != specs {
            self.unchanged_for = Duration::ZERO;
        }
    }

    /// Records what became of this node's entries, by IP6UpdateNodeConfig.
    pub fn published(&mut self, tries: &BTreeMap<String, Try>) {
        let before = std::mem::take(&mut self.own);
        let is_refused = |(name, one): (&String, &Try)| match one {
            Try::Published(_) | Try::Altered => false,
            Try::Refused => true,
            Try::Pending => before.get(name).copied().unwrap_or_default(),
        };
        let own = tries.iter().map(|own| (own.0.clone(), is_refused(own)));
        self.own = own.collect();
    }

    /// Where this node is refused, the others may not be able to publish either; unless its entry was seen to change:
    /// then only the answer was lost.
    fn judge_refusals(&mut self, own: &str) {
        for (name, is_refused) in &mut self.own {
            let watched = self.watches.get(&(name.clone(), own.to_string()));
            *is_refused &= watched.is_none_or(|watched| !watched.unchanged_for.is_zero());
        }
        let refused: Vec<String> = self.own.iter().filter(|own| *own.1).map(|own| own.0.clone()).collect();
        for name in &refused {
            self.reset_in(name);
        }
        if !refused.is_empty() && refused.len() == self.own.len() {
            self.reset();
        }
    }

    /// Time passes for those who have to come back, between two reads that both show that anybody can.
    fn pass(&mut self, node_configs: &[NodeConfig], gap: Duration) {
        if self.watches.is_empty() || node_configs.iter().all(|config| config.nodes().is_empty()) {
            return;
        }
        self.vanished.retain(|_, vanished| {
            vanished.left = vanished.left.saturating_sub(gap);
            !vanished.left.is_zero()
        });
    }

    /// This node cannot publish in this IP6UpdateNodeConfig: starts its watches again, since the others may not be able to
    /// either.
    fn reset_in(&mut self, config: &str) {
        let watches = self.watches.iter_mut().filter(|((name, _), _)| name == config);
        watches.for_each(|(_, watched)| watched.unchanged_for = Duration::ZERO);
    }

    /// This node can publish nothing: starts all watches again, and the time in which nodes may come back.
    pub fn reset(&mut self) {
        let watches = self.watches.values_mut();
        watches.for_each(|watched| watched.unchanged_for = Duration::ZERO);
        self.vanished.values_mut().for_each(|vanished| vanished.left = LINGER);
    }

    /// Whether this node's entry in this IP6UpdateNodeConfig has stood still for five minutes.
    pub fn is_silent(&self, config: &str, node: &str) -> bool {
        let watched = self.watches.get(&(config.to_string(), node.to_string()));
        watched.is_some_and(|watched| watched.unchanged_for >= SILENT_AFTER)
    }

    /// Whether no other node publishes: none was seen to for five minutes, or none has an entry and whoever was just
    /// selected has had two intervals to publish.
    pub fn are_silent(&self, own: &str, interval: Duration) -> bool {
        let has_others = self.watches.keys().any(|(_, node)| node != own);
        self.unchanged_for >= if has_others { SILENT_AFTER } else { interval * 2 }
    }

    /// The prefixes of entries that vanished although their nodes were not silent: these may come back.
    pub fn vanished(&self) -> BTreeSet<Prefix> {
        self.vanished
            .values()
            .flat_map(|vanished| &vanished.prefixes)
            .copied()
            .collect()
    }
}

fn watch(before: Option<Watched>, entry: &NodeEntry, gap: Duration) -> Watched {
    let fingerprint = fingerprint(entry);
    match before {
        Some(before) if before.fingerprint == fingerprint => Watched {
            unchanged_for: before.unchanged_for + gap,
            ..before
        },
        _ => Watched {
            fingerprint,
            unchanged_for: Duration::ZERO,
            prefixes: entry.prefixes.clone(),
        },
    }
}

fn specs(node_configs: &[NodeConfig]) -> Vec<(&str, i64)> {
    let metadata = node_configs.iter().map(|config| &config.metadata);
    metadata
        .map(|metadata| (metadata.uid.as_str(), metadata.generation))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MINUTE: Duration = Duration::from_secs(60);

    /// The eyes of one node, with a clock.
    #[derive(Default)]
    struct Eyes {
        peers: Peers,
        now: Duration,
    }

    impl Eyes {
        /// After this time it sees these nodes with these texts in their entries.
        fn see(&mut self, gap: Duration, nodes: &[(&str, u32)]) {
            self.see_in("n", "uid", gap, nodes);
        }

        fn see_in(&mut self, name: &str, uid: &str, gap: Duration, nodes: &[(&str, u32)]) {
            self.now += gap;
            let entry = |(node, time): &(&str, u32)| {
                let prefix = format!("2001:db8:{:x}::/64", node.bytes().map(u16::from).sum::<u16>());
                (
                    node.to_string(),
                    json!({"observedTime": time.to_string(), "prefixes": [prefix]}),
                )
            };
            let nodes: BTreeMap<String, _> = nodes.iter().map(entry).collect();
            let config = json!({"metadata": {"name": name, "uid": uid}, "spec": {"interface": "eth0"},
                "status": {"nodes": nodes}});
            self.peers
                .saw("me", &[serde_json::from_value(config).unwrap()], self.now, MINUTE);
        }

        fn see_no_object(&mut self, gap: Duration) {
            self.now += gap;
            self.peers.saw("me", &[], self.now, MINUTE);
        }

        fn lingers(&self) -> usize {
            self.peers.vanished().len()
        }
    }

    #[test]
    fn a_node_whose_entry_stands_still_for_five_minutes_is_silent() {
        let mut eyes = Eyes::default();
        for minute in 0..=5u32 {
            assert!(!eyes.peers.is_silent("n", "dead"), "minute {minute}");
            eyes.see(MINUTE, &[("me", 0), ("dead", 0), ("alive", minute)]);
        }
        assert!(eyes.peers.is_silent("n", "dead") && !eyes.peers.is_silent("n", "alive"));
        assert!(!eyes.peers.is_silent("n", "x"));
        assert!(!eyes.peers.are_silent("me", MINUTE));
        eyes.see(MINUTE, &[("dead", 1)]);
        assert!(!eyes.peers.is_silent("n", "dead"), "it is back");
    }

    #[test]
    fn a_gap_counts_as_one_interval() {
        let mut eyes = Eyes::default();
        eyes.see(MINUTE, &[("a", 0)]);
        eyes.see(MINUTE * 60, &[("a", 0)]);
        assert!(!eyes.peers.is_silent("n", "a") && !eyes.peers.are_silent("me", MINUTE));
        for _ in 0..4 {
            eyes.see(MINUTE * 60, &[("a", 0)]);
        }
        assert!(eyes.peers.is_silent("n", "a"));
        assert!(!eyes.peers.are_silent("me", MINUTE), "the others come back first");
        (0..5).for_each(|_| eyes.see(MINUTE, &[("a", 0)]));
        assert!(eyes.peers.are_silent("me", MINUTE));
    }

    #[test]
    fn whatever_changes_is_a_heartbeat() {
        let mut eyes = Eyes::default();
        for time in [0, 1, 0, 7] {
            (0..4).for_each(|_| eyes.see(MINUTE, &[("a", time)]));
            assert!(!eyes.peers.is_silent("n", "a") && !eyes.peers.are_silent("me", MINUTE));
        }
    }

    #[test]
    fn an_entry_that_came_back_is_watched_from_then_on() {
        let mut eyes = Eyes::default();
        (0..5).for_each(|_| eyes.see(MINUTE, &[("a", 0)]));
        eyes.see(MINUTE, &[]);
        (0..5).for_each(|_| eyes.see(MINUTE, &[("a", 0)]));
        assert!(!eyes.peers.is_silent("n", "a"));
        eyes.see(MINUTE, &[("a", 0)]);
        assert!(eyes.peers.is_silent("n", "a"));
    }

    #[test]
    fn a_reset_starts_watches_again() {
        let mut eyes = Eyes::default();
        (0..6).for_each(|_| eyes.see(MINUTE, &[("a", 0)]));
        eyes.peers.reset_in("other");
        assert!(eyes.peers.is_silent("n", "a"));
        eyes.peers.reset_in("n");
        assert!(!eyes.peers.is_silent("n", "a"));
        (0..5).for_each(|_| eyes.see(MINUTE, &[("a", 0)]));
        assert!(eyes.peers.is_silent("n", "a"));
        eyes.peers.reset();
        assert!(!eyes.peers.is_silent("n", "a"));
        assert!(
            eyes.peers.are_silent("me", MINUTE),
            "a node that cannot publish saw it all the same"
        );
    }

    #[test]
    fn nobody_publishes() {
        let mut eyes = Eyes::default();
        eyes.see(MINUTE, &[]);
        assert!(
            !eyes.peers.are_silent("me", MINUTE),
            "whoever is selected has not had the time to publish"
        );
        eyes.see(MINUTE, &[]);
        assert!(!eyes.peers.are_silent("me", MINUTE));
        eyes.see(MINUTE, &[]);
        assert!(eyes.peers.are_silent("me", MINUTE));
        eyes.see_in("other", "2", MINUTE, &[]);
        assert!(
            !eyes.peers.are_silent("me", MINUTE),
            "an IP6UpdateNodeConfig that is new"
        );
        eyes.see_in("other", "2", MINUTE, &[("a", 0)]);
        (0..4).for_each(|_| eyes.see_in("other", "2", MINUTE, &[("a", 0)]));
        assert!(!eyes.peers.are_silent("me", MINUTE));
        eyes.see_in("other", "2", MINUTE, &[("a", 0)]);
        assert!(eyes.peers.are_silent("me", MINUTE));
    }

    #[test]
    fn what_vanished_lingers_for_75_seconds_in_which_anybody_publishes() {
        let mut eyes = Eyes::default();
        eyes.see(MINUTE, &[("me", 0), ("a", 0)]);
        for _ in 0..60 {
            eyes.see_no_object(MINUTE);
            assert_eq!(eyes.lingers(), 2, "nobody can come back");
        }
        eyes.see_in("n", "2", MINUTE, &[("me", 1)]);
        assert_eq!(eyes.lingers(), 1);
        eyes.see_in("n", "2", MINUTE, &[("me", 1)]);
        assert_eq!(eyes.lingers(), 1, "nobody had an entry before");
        eyes.see_in("n", "2", Duration::from_secs(15), &[("me", 1)]);
        assert_eq!(eyes.lingers(), 0);
    }

    #[test]
    fn what_is_back_lingers_no_more() {
        let mut eyes = Eyes::default();
        eyes.see(MINUTE, &[("a", 0), ("b", 0)]);
        eyes.see(MINUTE, &[("me", 0)]);
        assert_eq!(eyes.lingers(), 2);
        eyes.see(Duration::from_secs(10), &[("me", 0), ("b", 1)]);
        assert_eq!(eyes.lingers(), 1);
        eyes.see(Duration::from_secs(10), &[("me", 0)]);
        assert_eq!(eyes.lingers(), 2, "it vanished once more");
    }

    #[test]
    fn what_was_removed_because_it_was_silent_does_not_linger() {
        for (minutes, lingers) in [(3, 1), (4, 0)] {
            let mut eyes = Eyes::default();
            eyes.see(MINUTE, &[("a", 0)]);
            (0..minutes).for_each(|_| eyes.see(MINUTE, &[("a", 0)]));
            eyes.see(MINUTE, &[("me", 0)]);
            assert_eq!(eyes.lingers(), lingers, "{minutes} minutes");
        }
    }

    /// Its own publication may meet a conflict.
    #[test]
    fn an_entry_of_this_node_lingers_as_well() {
        let mut eyes = Eyes::default();
        eyes.see(MINUTE, &[("me", 0)]);
        eyes.see(MINUTE, &[]);
        assert_eq!(eyes.lingers(), 1);
        assert!(
            !eyes.peers.are_silent("me", MINUTE),
            "no other has had the time to publish"
        );
    }

    #[test]
    fn nodes_cannot_come_back_while_this_one_can_publish_nothing() {
        let mut eyes = Eyes::default();
        eyes.see(MINUTE, &[("me", 0), ("a", 0)]);
        for _ in 0..10 {
            eyes.see(MINUTE, &[("me", 0)]);
            eyes.peers.reset();
            assert_eq!(eyes.lingers(), 1);
        }
        eyes.peers.reset_in("n");
        eyes.see(MINUTE, &[("me", 1)]);
        assert_eq!(eyes.lingers(), 1);
        eyes.see(MINUTE, &[("me", 1)]);
        assert_eq!(eyes.lingers(), 0, "it can publish elsewhere");
    }
}
