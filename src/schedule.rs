//! When the next round is due: intervals, jitter, backoff, and the allowance for changes. Pure, but for
//! [`dice`]. All times are steady time: since k6u started, whatever the clocks say.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Rounds are at most so far apart: a node publishes once a minute.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// One round per UPDATE_INTERVAL for each so many nodes: it bounds the load on the API server.
const NODES_PER_INTERVAL: usize = 100;
/// So many nodes of the cluster make the second half of a round in every UPDATE_INTERVAL.
const SECOND_HALVES: f64 = 3.0;
/// So many changes are reacted to at once, then one in each [`BETWEEN_CHANGES`].
const CHANGES_AT_ONCE: u32 = 5;
const BETWEEN_CHANGES: Duration = Duration::from_secs(1);
/// For each node that may see the same change, the reaction to it is spread by so much: an API server
/// takes some hundred writes of one object a second.
const SPREAD: Duration = Duration::from_millis(2);
/// After a conflict with another writer, at most. So many in a row are normal where many nodes write; after
/// that each one doubles the pause.
const SOON: Duration = Duration::from_secs(1);
const CONFLICTS: u32 = 5;
/// After the first failure; each further one doubles it.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// No pause gets longer than this.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Rounds of each node are so far apart when nothing happens, in a cluster with so many publishing nodes.
pub fn interval(update_interval: Duration, nodes: usize) -> Duration {
    let factor = u32::try_from(nodes.div_ceil(NODES_PER_INTERVAL).max(1)).unwrap_or(u32::MAX);
    update_interval.saturating_mul(factor).min(LONGEST_INTERVAL)
}

/// The probability with which each of so many nodes makes the second half of a round, so that
/// three do in every `update_interval`.
pub fn share(update_interval: Duration, nodes: usize) -> f64 {
    let rounds = interval(update_interval, nodes).as_secs_f64() / update_interval.as_secs_f64();
    SECOND_HALVES * rounds / nodes as f64
}

/// The pause after so many failures in a row, with jitter: half of it at least.
/// `dice` is a random number in 0..1.
pub fn backoff(failures: u32, dice: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10)));
    doubled.min(LONGEST_BACKOFF).mul_f64(0.5 + 0.5 * dice)
}

/// How a round ended, or a step of it, as far as the next round is concerned: the more urgent, the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// Nothing is left to do, but what failed.
    #[default]
    Quiet,
    /// It published a change, which other nodes may have seen at the same time.
    Changed,
    /// What is left can be done after this time.
    After(Duration),
    /// Somebody else wrote at the same time, or something was not read yet: look again soon.
    Unsettled,
    /// The API server sets up what it needs, and may have said how long that takes.
    NotYet(Option<Duration>),
    /// It failed; a server that wants rest is asked less and less often.
    Failed {
        /// The server is overloaded or broken (429, 5xx).
        wants_rest: bool,
        /// How long the server said to wait.
        retry_after: Option<Duration>,
    },
}

/// Decides when rounds are due.
#[derive(Debug)]
pub struct Schedule {
    update_interval: Duration,
    nodes: usize,
    failures: u32,
    unsettled: u32,
    changes: Allowance,
    /// When the round for a change is due.
    reaction: Option<Duration>,
    changes_count: bool,
}

impl Schedule {
    /// A schedule with this UPDATE_INTERVAL.
    pub fn new(update_interval: Duration) -> Self {
        Schedule {
            update_interval: update_interval.min(LONGEST_INTERVAL),
            nodes: 1,
            failures: 0,
            unsettled: 0,
            changes: Allowance::new(CHANGES_AT_ONCE, BETWEEN_CHANGES),
            reaction: None,
            changes_count: true,
        }
    }

    /// UPDATE_INTERVAL, a minute at most.
    pub fn update_interval(&self) -> Duration {
        self.update_interval
    }

    /// Notes how many nodes publish.
    pub fn set_nodes(&mut self, nodes: usize) {
        self.nodes = nodes;
    }

    /// A round ended at `now`, and so. Gives the time of the next one.
    /// `dice` is a random number in 0..1: nodes must not come back all at once.
    pub fn after_round(&mut self, now: Duration, ended: Ended, dice: f64) -> Duration {
        self.reaction = None;
        self.failures = match ended {
            Ended::Failed { .. } => self.failures.saturating_add(1),
            Ended::NotYet(_) => self.failures,
            _ => 0,
        };
        self.unsettled = match ended {
            Ended::Unsettled => self.unsettled.saturating_add(1),
            _ => 0,
        };
        // Whoever must wait is not woken by a change: it would fail again.
        self.changes_count = !matches!(ended, Ended::Failed { .. } | Ended::NotYet(_));
        let interval = interval(self.update_interval, self.nodes);
        let pause = match ended {
            Ended::Quiet => interval,
            // All nodes may have reacted at the same time; what follows must not stay in step.
            Ended::Changed => interval.mul_f64(dice),
            Ended::Unsettled => self.soon().mul_f64(0.2 + 0.8 * dice),
            Ended::After(time) => time.min(interval),
            Ended::NotYet(wait) => wait.unwrap_or(FIRST_BACKOFF).mul_f64(1.0 + 0.1 * dice),
            Ended::Failed {
                wants_rest,
                retry_after,
            } => self.pause(wants_rest, retry_after, dice),
        };
        now + pause
    }

    /// The address of an interface changed at `now`. Gives the time of the round for it, if that is before
    /// `due`, when the next one is due anyway.
    pub fn after_change(&mut self, now: Duration, due: Duration, dice: f64) -> Duration {
        if !self.changes_count || self.reaction.is_some() {
            return due;
        }
        let nodes = u32::try_from(self.nodes.saturating_sub(1)).unwrap_or(u32::MAX);
        let spread = SPREAD.saturating_mul(nodes).min(self.update_interval);
        let round = due.min(self.changes.take(now) + spread.mul_f64(dice));
        self.reaction = Some(round);
        round
    }

    fn soon(&self) -> Duration {
        let doubled = 2u32.saturating_pow(self.unsettled.saturating_sub(CONFLICTS).min(10));
        SOON.saturating_mul(doubled).min(self.update_interval)
    }

    fn pause(&self, wants_rest: bool, retry_after: Option<Duration>, dice: f64) -> Duration {
        // A server that does not answer at all is not hurt by being asked; so it is asked as often as
        // when all is well, and k6u is back one interval after it is.
        let longest = if wants_rest {
            LONGEST_BACKOFF
        } else {
            self.update_interval
        };
        let pause = backoff(self.failures, dice).min(longest.mul_f64(0.5 + 0.5 * dice));
        pause.max(retry_after.unwrap_or_default())
    }
}

/// Lets a few through at once, and then one in each `every`.
#[derive(Debug)]
pub struct Allowance {
    burst: u32,
    every: Duration,
    /// When all that was taken is made up for.
    full_at: Duration,
}

impl Allowance {
    /// With `burst` of them at once.
    pub fn new(burst: u32, every: Duration) -> Self {
        Allowance {
            burst,
            every,
            full_at: Duration::ZERO,
        }
    }

    /// Takes one at `now`; gives the time from which on it may be used.
    pub fn take(&mut self, now: Duration) -> Duration {
        let at = now.max((self.full_at + self.every).saturating_sub(self.every * self.burst));
        self.full_at = self.full_at.max(now) + self.every;
        at
    }
}

/// A random number in 0..1, from the seed that the standard library takes for its hash maps.
pub fn dice() -> f64 {
    let bits = RandomState::new().hash_one(0);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn failed(wants_rest: bool, retry_after: Option<u64>) -> Ended {
        Ended::Failed {
            wants_rest,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    /// The pauses after these rounds, with the highest throw of the dice.
    fn pauses(rounds: &[Ended]) -> Vec<f64> {
        let mut schedule = Schedule::new(INTERVAL);
        let pause = |ended: &Ended| (schedule.after_round(INTERVAL, *ended, 1.0) - INTERVAL).as_secs_f64();
        rounds.iter().map(pause).collect()
    }

    #[test]
    fn a_quiet_day() {
        assert_eq!(pauses(&[Ended::Quiet, Ended::Quiet]), [10.0, 10.0]);
    }

    #[test]
    fn rounds_get_rarer_with_the_nodes() {
        for (nodes, seconds) in [(0, 10), (1, 10), (100, 10), (101, 20), (300, 30), (5000, 60)] {
            assert_eq!(interval(INTERVAL, nodes), Duration::from_secs(seconds), "{nodes}");
        }
        assert_eq!(interval(Duration::from_secs(86_400), 1), LONGEST_INTERVAL);
    }

    #[test]
    fn three_second_halves_in_every_interval() {
        for nodes in [1, 2, 3] {
            assert!(share(INTERVAL, nodes) >= 1.0, "{nodes}");
        }
        for nodes in [4, 100, 101, 300, 600] {
            let rounds = INTERVAL.as_secs_f64() / interval(INTERVAL, nodes).as_secs_f64();
            let halves = share(INTERVAL, nodes) * nodes as f64 * rounds;
            assert!((halves - 3.0).abs() < 1e-9, "{nodes} nodes: {halves}");
        }
    }

    #[test]
    fn after_a_reaction_nodes_are_spread_out_again() {
        let pause = |dice| Schedule::new(INTERVAL).after_round(Duration::ZERO, Ended::Changed, dice);
        assert_eq!([pause(0.1), pause(0.9)], [INTERVAL / 10, INTERVAL * 9 / 10]);
    }

    #[test]
    fn an_overloaded_server_is_asked_less_and_less() {
        assert_eq!(
            pauses(&[failed(true, None); 8]),
            [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
        );
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_once_an_interval() {
        assert_eq!(pauses(&[failed(false, None); 6]), [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
    }

    #[test]
    fn failures_are_forgotten_after_a_success() {
        let rounds = [failed(true, None), failed(true, None), Ended::Quiet, failed(true, None)];
        assert_eq!(pauses(&rounds), [1.0, 2.0, 10.0, 1.0]);
    }

    #[test]
    fn a_server_that_says_when_is_obeyed() {
        assert_eq!(pauses(&[failed(true, Some(30)), failed(true, Some(1))]), [30.0, 2.0]);
        assert_eq!(pauses(&[Ended::NotYet(Some(Duration::from_secs(2)))]), [2.2]);
    }

    #[test]
    fn what_is_unsettled_is_looked_at_soon() {
        assert_eq!(
            pauses(&[Ended::Unsettled; 10]),
            [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
        );
        let pause = Schedule::new(INTERVAL).after_round(Duration::ZERO, Ended::Unsettled, 0.0);
        assert_eq!(pause, Duration::from_millis(200));
        assert_eq!(
            pauses(&[Ended::After(Duration::from_secs(3)), Ended::After(INTERVAL * 2)]),
            [3.0, 10.0]
        );
    }

    #[test]
    fn jitter_spreads_what_failed_at_the_same_time() {
        let pause = |dice| Schedule::new(INTERVAL).after_round(Duration::ZERO, failed(true, None), dice);
        assert_eq!(
            [pause(0.0), pause(1.0)],
            [Duration::from_millis(500), Duration::from_secs(1)]
        );
    }

    #[test]
    fn five_changes_at_once_then_one_a_second() {
        let mut schedule = Schedule::new(INTERVAL);
        let mut react = |now: f64| {
            let due = schedule.after_round(at(now), Ended::Quiet, 0.0);
            schedule.after_change(at(now), due, 0.0)
        };
        for change in 0..5 {
            let now = 100.0 + 0.001 * f64::from(change);
            assert_eq!(react(now), at(now), "change {change}");
        }
        assert_eq!(react(100.005), at(101.0));
        assert_eq!(react(101.0), at(102.0));
        assert_eq!(react(160.0), at(160.0), "made up for");
    }

    #[test]
    fn further_changes_share_the_round_that_is_due() {
        let mut schedule = Schedule::new(INTERVAL);
        schedule.set_nodes(101);
        let due = schedule.after_round(at(0.0), Ended::Quiet, 0.0);
        assert_eq!(due, at(20.0));
        let due = schedule.after_change(at(1.0), due, 0.5);
        assert_eq!(due, at(1.1), "reactions are spread over 2 ms for each other node");
        assert_eq!(schedule.after_change(at(1.05), due, 0.9), due);
        assert_eq!(schedule.after_round(at(1.1), Ended::Changed, 0.5), at(11.1));
        assert_eq!(
            schedule.after_change(at(11.09), at(11.1), 1.0),
            at(11.1),
            "not later than what is due anyway"
        );
    }

    #[test]
    fn reactions_are_spread_over_an_interval_at_the_most() {
        let mut schedule = Schedule::new(Duration::from_secs(1));
        schedule.set_nodes(1_000_000);
        assert_eq!(schedule.after_change(at(5.0), at(60.0), 1.0), at(6.0));
    }

    #[test]
    fn a_change_does_not_shorten_a_pause_after_a_failure() {
        let mut schedule = Schedule::new(INTERVAL);
        let due = schedule.after_round(at(0.0), failed(true, Some(30)), 0.0);
        assert_eq!(schedule.after_change(at(2.0), due, 0.0), due);
        let due = schedule.after_round(at(0.0), Ended::NotYet(Some(Duration::from_secs(1))), 0.0);
        assert_eq!(schedule.after_change(at(0.0), due, 0.0), due);
    }
}
