//! Coming back: a node that finds its own entry missing takes nothing out of a list for a while.
//!
//! The objects were made anew, or the node is new. The others may have to come back as well, and until
//! they did, what this node knows is not all.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::resources::node_config::NodeConfig;
use crate::schedule::LONGEST_BACKOFF;

/// What is left of that while, in reachable time.
#[derive(Debug, Default)]
pub struct Rejoin {
    /// The uid of the object that held this node's entry when last looked at, by the name of the IP6UpdateNodeConfig;
    /// empty where the entry is missing.
    holders: BTreeMap<String, String>,
    left: Duration,
    /// The last round failed: the others may be backing off, too.
    after_failure: bool,
}

impl Rejoin {
    /// Looks whether the IP6UpdateNodeConfigs that select this node hold its entry, and are still those that did:
    /// one that was made anew since it was listed may hold what this node published, and nothing of others.
    pub fn look<'a>(&mut self, node: &str, selecting: impl Iterator<Item = &'a NodeConfig>, interval: Duration) {
        let before = std::mem::take(&mut self.holders);
        for config in selecting {
            let name = config.metadata.name.clone();
            let holder = match config.nodes().contains_key(node) {
                true => config.metadata.uid.clone(),
                false => String::new(),
            };
            let is_lost = match before.get(&name) {
                Some(before) => !before.is_empty() && *before != holder,
                None => holder.is_empty(),
            };
            if is_lost {
                self.left = self.left.max(self.while_others_return(interval));
            }
            self.holders.insert(name, holder);
        }
    }

    /// Time in which the API server was reachable passed.
    pub fn pass(&mut self, gap: Duration) {
        self.left = self.left.saturating_sub(gap);
    }

    /// A round came to its end, or failed.
    pub fn round_ended(&mut self, failed: bool, interval: Duration) {
        self.after_failure = failed;
        if failed && !self.left.is_zero() {
            self.left = self.while_others_return(interval);
        }
    }

    /// For how long this node only adds to lists; `None` if it need not.
    pub fn left(&self) -> Option<Duration> {
        (!self.left.is_zero()).then_some(self.left)
    }

    /// Every other node makes a round in an interval, or when its pause after a failure is over; the quarter is
    /// for what that takes.
    fn while_others_return(&self, interval: Duration) -> Duration {
        let pause = if self.after_failure {
            LONGEST_BACKOFF
        } else {
            Duration::ZERO
        };
        pause + interval * 5 / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const INTERVAL: Duration = Duration::from_secs(10);
    const WHILE: Duration = Duration::from_millis(12_500);

    fn config(name: &str, uid: &str, nodes: &[&str]) -> NodeConfig {
        let nodes: BTreeMap<&str, _> = nodes.iter().map(|node| (*node, json!({}))).collect();
        let metadata = json!({"name": name, "uid": uid});
        serde_json::from_value(json!({"metadata": metadata, "status": {"nodes": nodes}})).unwrap()
    }

    fn look(rejoin: &mut Rejoin, configs: &[NodeConfig]) {
        rejoin.look("node1", configs.iter(), INTERVAL);
    }

    /// Without this node's entry, and with it.
    fn without(name: &str) -> NodeConfig {
        config(name, "1", &["node2"])
    }

    fn with(name: &str) -> NodeConfig {
        config(name, "1", &["node1", "node2"])
    }

    #[test]
    fn an_interval_and_a_quarter_from_when_it_was_found() {
        let mut rejoin = Rejoin::default();
        look(&mut rejoin, &[with("a")]);
        assert_eq!(rejoin.left(), None, "it was started again");
        look(&mut rejoin, &[without("a")]);
        assert_eq!(rejoin.left(), Some(WHILE));
        rejoin.pass(INTERVAL);
        look(&mut rejoin, &[without("a")]);
        assert_eq!(
            rejoin.left(),
            Some(WHILE - INTERVAL),
            "an entry that is refused does not prolong it"
        );
        rejoin.pass(INTERVAL);
        assert_eq!(rejoin.left(), None);
        look(&mut rejoin, &[without("a"), without("b")]);
        assert_eq!(rejoin.left(), Some(WHILE), "another one");
    }

    #[test]
    fn an_entry_that_went_again() {
        let mut rejoin = Rejoin::default();
        look(&mut rejoin, &[without("a")]);
        rejoin.pass(WHILE);
        look(&mut rejoin, &[with("a")]);
        look(&mut rejoin, &[without("a")]);
        assert_eq!(rejoin.left(), Some(WHILE));
    }

    #[test]
    fn what_was_made_anew_and_published_to_since_it_was_listed() {
        let mut rejoin = Rejoin::default();
        look(&mut rejoin, &[with("a")]);
        look(&mut rejoin, &[config("a", "2", &["node1"])]);
        assert_eq!(rejoin.left(), Some(WHILE));
        rejoin.pass(WHILE);
        look(&mut rejoin, &[config("a", "2", &["node1"])]);
        assert_eq!(rejoin.left(), None);
    }

    #[test]
    fn an_outage_in_the_middle_prolongs_it() {
        let mut rejoin = Rejoin::default();
        rejoin.round_ended(true, INTERVAL);
        assert_eq!(rejoin.left(), None, "only if it was under way");
        rejoin.round_ended(false, INTERVAL);
        look(&mut rejoin, &[without("a")]);
        assert_eq!(rejoin.left(), Some(WHILE));
        rejoin.round_ended(true, INTERVAL);
        assert_eq!(rejoin.left(), Some(LONGEST_BACKOFF + WHILE));
    }

    #[test]
    fn after_an_outage_others_may_be_backing_off() {
        let mut rejoin = Rejoin::default();
        rejoin.round_ended(true, INTERVAL);
        look(&mut rejoin, &[without("a")]);
        assert_eq!(rejoin.left(), Some(LONGEST_BACKOFF + WHILE));
    }
}
