//! When the next round is due: pure, but for the dice.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

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
    /// Rounds are `interval` apart when nothing happens.
    pub fn new(interval: Duration) -> Self {
        Pace {
            interval,
            failures: 0,
            change_round: None,
            changes_count: true,
        }
    }

    /// A round ended at `now`, and so. Gives the time of the next one.
    /// `dice` is a random number in 0..1: nodes must not come back all at once.
    pub fn after_round(&mut self, now: Instant, ended: Ended, dice: f64) -> Instant {
        self.failures = match ended {
            Ended::Failed { .. } => self.failures.saturating_add(1),
            Ended::NotYet(_) => self.failures,
            Ended::Well | Ended::Again => 0,
        };
        // Whoever must wait is not woken by a change: it would fail again.
        self.changes_count = !matches!(ended, Ended::Failed { .. } | Ended::NotYet(_));
        let pause = match ended {
            Ended::Well => self.interval,
            Ended::Again => self.interval.min(BETWEEN_CHANGES).mul_f64(0.2 + 0.8 * dice),
            Ended::NotYet(wait) => wait.unwrap_or(FIRST_BACKOFF).mul_f64(1.0 + 0.1 * dice),
            Ended::Failed {
                wants_rest,
                retry_after,
            } => self.backoff(wants_rest, retry_after, dice),
        };
        now + pause
    }

    /// The address of an interface changed at `now`. Gives the time of the round for it, if that is
    /// before `due`, when the next one is due anyway.
    pub fn after_change(&mut self, now: Instant, due: Instant) -> Instant {
        if !self.changes_count {
            return due;
        }
        let earliest = self.change_round.map_or(now, |last| now.max(last + BETWEEN_CHANGES));
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
            pace.after_change(at(0.3), due),
            at(0.3),
            "however short ago an ordinary round was"
        );
        let due = pace.after_round(at(0.4), Ended::Well, 0.0);
        let due = pace.after_change(at(0.5), due);
        assert_eq!(due, at(1.3));
        assert_eq!(
            pace.after_change(at(0.9), due),
            at(1.3),
            "further changes share that round"
        );
        let due = pace.after_round(at(1.4), Ended::Well, 0.0);
        assert_eq!(pace.after_change(at(1.5), due), at(2.3));
        let due = pace.after_round(at(2.4), Ended::Well, 0.0);
        assert_eq!(pace.after_change(at(9.0), due), at(9.0));
        assert_eq!(
            pace.after_change(at(13.0), due),
            at(12.4),
            "not later than what is due anyway"
        );
    }

    #[test]
    fn a_change_does_not_shorten_a_pause_after_a_failure() {
        let (mut pace, start) = (Pace::new(INTERVAL), Instant::now());
        let due = pace.after_round(start, failed(true, Some(30)), 0.0);
        assert_eq!(pace.after_change(start + Duration::from_secs(2), due), due);
        let due = pace.after_round(start, Ended::NotYet(Some(Duration::from_secs(1))), 0.0);
        assert_eq!(pace.after_change(start, due), due);
    }
}
