//! When the next round is due: pure, but for the dice.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::plan::PUBLISH_SECONDS;

/// While changes keep coming, at most one round in this time.
const BETWEEN_CHANGES: Duration = Duration::from_secs(1);
/// After the first failure; each further one doubles it.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longer than this no pause gets.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// How a round ended, as far as the next one is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All is as it should be.
    Well,
    /// The same, and it was made when it was this node's turn.
    Turn,
    /// Somebody else wrote at the same time: look again soon.
    Again,
    /// The API server sets up what it needs, and said how long that takes.
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
pub struct Pace {
    interval: Duration,
    failures: u32,
    /// When the last round for a change was, or will be.
    change_round: Option<Instant>,
    changes_count: bool,
}

impl Pace {
    /// Rounds are `interval` apart when nothing happens, but two minutes at the most: whoever
    /// publishes more rarely is taken for dead.
    pub fn new(interval: Duration) -> Self {
        Pace {
            interval: interval.min(Duration::from_secs(PUBLISH_SECONDS.unsigned_abs())),
            failures: 0,
            change_round: None,
            changes_count: true,
        }
    }

    /// The time from one round to the next when nothing happens.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// A round ended at `now`, and so. Gives the time of the next one.
    /// `dice` is a random number in 0..1: nodes must not come back all at once.
    pub fn after_round(&mut self, now: Instant, ended: Ended, dice: f64) -> Instant {
        self.failures = match ended {
            Ended::Failed { .. } => self.failures.saturating_add(1),
            Ended::NotYet(_) => self.failures,
            Ended::Well | Ended::Turn | Ended::Again => 0,
        };
        // Whoever must wait is not woken by a change: it would fail again.
        self.changes_count = !matches!(ended, Ended::Failed { .. } | Ended::NotYet(_));
        let pause = match ended {
            Ended::Well => self.interval,
            // Turns begin for all at the same point of an interval; what follows must not.
            Ended::Turn => self.interval.mul_f64(dice),
            Ended::Again => self.interval.min(BETWEEN_CHANGES).mul_f64(0.2 + 0.8 * dice),
            Ended::NotYet(wait) => wait.unwrap_or(FIRST_BACKOFF).mul_f64(1.0 + 0.1 * dice),
            Ended::Failed {
                wants_rest,
                retry_after,
            } => self.backoff(wants_rest, retry_after, dice),
        };
        now + pause
    }

    /// The address of an interface changed at `now`; this node is to react so much later. Gives the time
    /// of the round for it, if that is before `due`, when the next one is due anyway.
    pub fn after_change(&mut self, now: Instant, due: Instant, delay: Duration) -> Instant {
        if !self.changes_count {
            return due;
        }
        let at_once = now + delay;
        let earliest = self
            .change_round
            .map_or(at_once, |last| at_once.max(last + BETWEEN_CHANGES));
        let round = earliest.min(due);
        self.change_round = Some(round);
        round
    }

    fn backoff(&self, wants_rest: bool, retry_after: Option<Duration>, dice: f64) -> Duration {
        let doubled = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow(self.failures.saturating_sub(1).min(10)));
        // A server that does not answer at all is not hurt by being asked; so it is asked as often as
        // when all is well, and k6u is back one interval after it is.
        let longest = if wants_rest {
            LONGEST_BACKOFF
        } else {
            self.interval.min(LONGEST_BACKOFF)
        };
        let pause = doubled.min(longest).mul_f64(0.5 + 0.5 * dice);
        pause.max(retry_after.unwrap_or_default())
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

    fn failed(wants_rest: bool, retry_after: Option<u64>) -> Ended {
        Ended::Failed {
            wants_rest,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    /// The pauses after these rounds, with the highest throw of the dice.
    fn pauses(rounds: &[Ended]) -> Vec<f64> {
        let (mut pace, start) = (Pace::new(INTERVAL), Instant::now());
        rounds
            .iter()
            .map(|ended| (pace.after_round(start, *ended, 1.0) - start).as_secs_f64())
            .collect()
    }

    #[test]
    fn a_quiet_day() {
        assert_eq!(pauses(&[Ended::Well, Ended::Well]), [10.0, 10.0]);
    }

    #[test]
    fn a_node_is_never_silent_for_so_long_that_it_seems_dead() {
        assert_eq!(
            Pace::new(Duration::from_secs(86_400)).interval(),
            Duration::from_secs(120)
        );
    }

    #[test]
    fn after_their_turns_nodes_are_spread_out_again() {
        let start = Instant::now();
        let pause = |dice| Pace::new(INTERVAL).after_round(start, Ended::Turn, dice) - start;
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
    fn success_forgets_failures() {
        assert_eq!(
            pauses(&[failed(true, None), failed(true, None), Ended::Well, failed(true, None)]),
            [1.0, 2.0, 10.0, 1.0]
        );
    }

    #[test]
    fn retry_after_is_a_lower_bound() {
        assert_eq!(pauses(&[failed(true, Some(30)), failed(true, Some(0))]), [30.0, 2.0]);
    }

    #[test]
    fn the_dice_spread_nodes_out() {
        let start = Instant::now();
        let pause = |dice| Pace::new(INTERVAL).after_round(start, Ended::Again, dice) - start;
        assert!(pause(0.0) >= Duration::from_millis(199) && pause(0.99) <= Duration::from_secs(1));
        assert!((0..1000).map(|_| dice()).all(|d| (0.0..1.0).contains(&d)));
        assert_ne!(dice(), dice());
    }

    #[test]
    fn the_first_change_acts_at_once_and_then_one_a_second() {
        let (mut pace, start) = (Pace::new(INTERVAL), Instant::now());
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let due = pace.after_round(at(0.0), Ended::Well, 0.0);
        assert_eq!(
            pace.after_change(at(0.3), due, Duration::ZERO),
            at(0.3),
            "however short ago an ordinary round was"
        );
        let due = pace.after_round(at(0.4), Ended::Well, 0.0);
        let due = pace.after_change(at(0.5), due, Duration::ZERO);
        assert_eq!(due, at(1.3));
        assert_eq!(
            pace.after_change(at(0.9), due, Duration::ZERO),
            at(1.3),
            "further changes share that round"
        );
        let due = pace.after_round(at(1.4), Ended::Well, 0.0);
        assert_eq!(pace.after_change(at(1.5), due, Duration::ZERO), at(2.3));
        let due = pace.after_round(at(2.4), Ended::Well, 0.0);
        assert_eq!(pace.after_change(at(9.0), due, Duration::ZERO), at(9.0));
        assert_eq!(
            pace.after_change(at(13.0), due, Duration::ZERO),
            at(12.4),
            "not later than what is due anyway"
        );
    }

    #[test]
    fn nodes_react_to_the_same_change_one_after_another() {
        let (mut pace, start) = (Pace::new(INTERVAL), Instant::now());
        let due = pace.after_round(start, Ended::Well, 0.0);
        let delay = Duration::from_millis(700);
        assert_eq!(pace.after_change(start, due, delay), start + delay);
        assert_eq!(
            pace.after_change(start + delay / 2, start + delay, delay),
            start + delay,
            "once"
        );
    }

    #[test]
    fn a_change_does_not_shorten_a_pause_after_a_failure() {
        let (mut pace, start) = (Pace::new(INTERVAL), Instant::now());
        let due = pace.after_round(start, failed(true, Some(30)), 0.0);
        assert_eq!(
            pace.after_change(start + Duration::from_secs(2), due, Duration::ZERO),
            due
        );
        let due = pace.after_round(start, Ended::NotYet(Some(Duration::from_secs(1))), 0.0);
        assert_eq!(pace.after_change(start, due, Duration::ZERO), due);
    }
}
