//! Coming back: a node that finds its own entry missing takes nothing out of a list for a while.
//!
//! The objects were made anew, or the node is new. The others may have to come back as well, and until
//! they did, what this node knows is not all.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::schedule::LONGEST_BACKOFF;

/// What is left of that while, in reachable time.
#[derive(Debug, Default)]
pub struct Rejoin {
    missing: BTreeSet<String>,
    left: Duration,
    /// The last round failed: the others may be backing off, too.
    after_failure: bool,
}

impl Rejoin {
    /// Notes the IP6UpdateNodeConfigs that select this node, but do not hold its entry.
    pub fn find_missing(&mut self, missing: BTreeSet<String>, interval: Duration) {
        if !missing.is_subset(&self.missing) {
            self.left = self.left.max(self.while_others_return(interval));
        }
        self.missing = missing;
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

    const INTERVAL: Duration = Duration::from_secs(10);
    const WHILE: Duration = Duration::from_millis(12_500);

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn an_interval_and_a_quarter_from_when_it_was_found() {
        let mut rejoin = Rejoin::default();
        rejoin.find_missing(names(&[]), INTERVAL);
        assert_eq!(rejoin.left(), None);
        rejoin.find_missing(names(&["a"]), INTERVAL);
        assert_eq!(rejoin.left(), Some(WHILE));
        rejoin.pass(INTERVAL);
        rejoin.find_missing(names(&["a"]), INTERVAL);
        assert_eq!(
            rejoin.left(),
            Some(WHILE - INTERVAL),
            "an entry that is refused does not prolong it"
        );
        rejoin.pass(INTERVAL);
        assert_eq!(rejoin.left(), None);
        rejoin.find_missing(names(&["a", "b"]), INTERVAL);
        assert_eq!(rejoin.left(), Some(WHILE), "another one");
    }

    #[test]
    fn an_entry_that_went_again() {
        let mut rejoin = Rejoin::default();
        rejoin.find_missing(names(&["a"]), INTERVAL);
        rejoin.pass(WHILE);
        rejoin.find_missing(names(&[]), INTERVAL);
        rejoin.find_missing(names(&["a"]), INTERVAL);
        assert_eq!(rejoin.left(), Some(WHILE));
    }

    #[test]
    fn an_outage_in_the_middle_prolongs_it() {
        let mut rejoin = Rejoin::default();
        rejoin.round_ended(true, INTERVAL);
        assert_eq!(rejoin.left(), None, "only if it was under way");
        rejoin.round_ended(false, INTERVAL);
        rejoin.find_missing(names(&["a"]), INTERVAL);
        assert_eq!(rejoin.left(), Some(WHILE));
        rejoin.round_ended(true, INTERVAL);
        assert_eq!(rejoin.left(), Some(LONGEST_BACKOFF + WHILE));
    }

    #[test]
    fn after_an_outage_others_may_be_backing_off() {
        let mut rejoin = Rejoin::default();
        rejoin.round_ended(true, INTERVAL);
        rejoin.find_missing(names(&["a"]), INTERVAL);
        assert_eq!(rejoin.left(), Some(LONGEST_BACKOFF + WHILE));
    }
}
