//! When the next round is due: intervals, jitter, backoff, and the allowance for changes. Pure, but for
//! [`random`]. All times are steady time: since k6u started, whatever the clocks say.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::limits::{
    BETWEEN_REACTIONS, FIRST_BACKOFF, JITTER, MAX_BACKOFF, MAX_INTERVAL, NODES_PER_INTERVAL, PATIENT_ROUNDS,
    REACTIONS_AT_ONCE, SOON, SPREAD, STILL,
};

/// The time between two rounds of a node when nothing happens, where this many nodes have an entry.
#[must_use]
pub fn interval(update_interval: Duration, nodes: usize) -> Duration {
    let factor = u32::try_from(nodes.div_ceil(NODES_PER_INTERVAL).max(1)).unwrap_or(u32::MAX);
    update_interval.saturating_mul(factor).min(MAX_INTERVAL)
}

/// The longest time between two rounds of a node when nothing happens.
#[must_use]
pub fn max_interval(update_interval: Duration, nodes: usize) -> Duration {
    jittered(interval(update_interval, nodes), 1.0)
}

fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(1.0 + JITTER * random).min(MAX_INTERVAL)
}

/// The pause after this many failures in a row, with jitter: half of it at least.
/// `random` is in 0..1.
#[must_use]
pub fn backoff(failures: u32, random: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10)));
    doubled.min(MAX_BACKOFF).mul_f64(0.5 + 0.5 * random)
}

/// End of a round, or of a step of it, as far as the next round is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoundEnd {
    /// Nothing is left to do, but what failed and is tried again later.
    #[default]
    Quiet,
    /// The addresses have just changed: look again, and report, when they are still.
    Changed,
    /// Somebody else wrote at the same time, or something was not reached: again soon.
    Soon,
    /// The API server sets up what it needs: again after this time.
    NotYet(Duration),
    /// The round failed; an overloaded server is asked less and less often.
    Failed {
        /// The server is overloaded or broken (429, 5xx).
        is_overloaded: bool,
        /// The pause that the server asked for.
        retry_after: Option<Duration>,
    },
}

impl RoundEnd {
    /// A failure that is no word of the API server's.
    pub const FAILED: RoundEnd = RoundEnd::Failed {
        is_overloaded: false,
        retry_after: None,
    };

    /// The more urgent of two.
    #[must_use]
    pub fn or_more_urgent(self, other: Self) -> Self {
        let urgency = |end: Self| match end {
            RoundEnd::Quiet => 0,
            RoundEnd::Changed => 1,
            RoundEnd::Soon => 2,
            RoundEnd::NotYet(_) => 3,
            RoundEnd::Failed { .. } => 4,
        };
        if urgency(other) > urgency(self) { other } else { self }
    }
}

/// Decides when rounds are due.
///
/// ```
/// # use k6u::schedule::{RoundEnd, Schedule};
/// # use std::time::Duration;
/// let mut schedule = Schedule::new(Duration::from_secs(10));
/// let due = schedule.after_round(Duration::from_secs(100), RoundEnd::Soon, 1.0);
/// assert_eq!(due, Duration::from_secs(101), "a conflict is tried again after a second at most");
/// ```
#[derive(Debug)]
pub struct Schedule {
    update_interval: Duration,
    nodes: usize,
    failures: u32,
    /// Rounds in a row that ended in a conflict.
    conflicts: u32,
    reactions: Allowance,
    /// See [`Schedule::is_reaction`].
    is_reaction: bool,
    /// See [`Schedule::reacts`].
    reacts: bool,
    /// Other nodes may have started, or reacted, at the same time.
    is_in_step: bool,
}

impl Schedule {
    /// A schedule with this UPDATE_INTERVAL.
    #[must_use]
    pub fn new(update_interval: Duration) -> Self {
        Schedule {
            update_interval: update_interval.min(MAX_INTERVAL),
            nodes: 1,
            failures: 0,
            conflicts: 0,
            reactions: Allowance::new(REACTIONS_AT_ONCE, BETWEEN_REACTIONS),
            is_reaction: false,
            reacts: true,
            is_in_step: true,
        }
    }

    /// UPDATE_INTERVAL, a minute at most.
    #[must_use]
    pub fn update_interval(&self) -> Duration {
        self.update_interval
    }

    /// Sets how many nodes have an entry.
    pub fn set_nodes(&mut self, nodes: usize) {
        self.nodes = nodes;
    }

    /// Records how a round ended and returns when the next one is due. `random` is in 0..1: nodes must not come
    /// back all at once.
    pub fn after_round(&mut self, now: Duration, end: RoundEnd, random: f64) -> Duration {
        debug_assert!((0.0..=1.0).contains(&random), "{random}");
        self.is_in_step |= std::mem::take(&mut self.is_reaction);
        self.failures = match end {
            RoundEnd::Failed { .. } => self.failures.saturating_add(1),
            RoundEnd::NotYet(_) => self.failures,
            _ => 0,
        };
        self.conflicts = match end {
            RoundEnd::Soon => self.conflicts.saturating_add(1),
            _ => 0,
        };
        self.reacts = !matches!(end, RoundEnd::Failed { .. } | RoundEnd::NotYet(_));
        let pause = match end {
            RoundEnd::Quiet => self.quiet(random),
            RoundEnd::Changed => STILL + self.spread().mul_f64(random),
            RoundEnd::Soon => self.soon().mul_f64(0.2 + 0.8 * random),
            RoundEnd::NotYet(pause) => pause.mul_f64(1.0 + 0.1 * random),
            RoundEnd::Failed {
                is_overloaded,
                retry_after,
            } => self.pause(is_overloaded, retry_after, random),
        };
        now + pause
    }

    /// The time of the next round if it is `due`, and a request about one object is tried again at `retry`: whatever comes
    /// first; but not after a round that failed.
    pub fn retry(&self, due: Duration, retry: Duration, random: f64) -> Duration {
        if self.reacts {
            due.min(retry + self.spread().mul_f64(random))
        } else {
            due
        }
    }

    /// Whether a change of address starts a round: not after a failure, because the round would fail again.
    pub fn reacts(&self) -> bool {
        self.reacts
    }

    /// Whether the next round is early because of a change of address.
    pub fn is_reaction(&self) -> bool {
        self.is_reaction
    }

    /// The address of an interface changed at `now`. Returns the time of the round for it, or `due` if the next
    /// one is due before that anyway.
    pub fn after_change(&mut self, now: Duration, due: Duration, random: f64) -> Duration {
        let round = self.reactions.next(now) + self.spread().mul_f64(random);
        if !self.reacts || self.is_reaction || round >= due {
            return due;
        }
        self.reactions.take(now);
        self.is_reaction = true;
        round
    }

    /// At a random phase of the interval at first, so that nodes that started or reacted together part.
    fn quiet(&mut self, random: f64) -> Duration {
        let interval = interval(self.update_interval, self.nodes);
        if std::mem::take(&mut self.is_in_step) {
            return interval.mul_f64(random);
        }
        jittered(interval, random)
    }

    fn spread(&self) -> Duration {
        let others = u32::try_from(self.nodes.saturating_sub(1)).unwrap_or(u32::MAX);
        SPREAD.saturating_mul(others).min(self.update_interval)
    }

    fn soon(&self) -> Duration {
        let doubled = 2u32.saturating_pow(self.conflicts.saturating_sub(PATIENT_ROUNDS).min(10));
        SOON.saturating_mul(doubled).min(self.update_interval)
    }

    fn pause(&self, is_overloaded: bool, retry_after: Option<Duration>, random: f64) -> Duration {
        // A server that does not answer at all is not hurt by being asked; so it is asked as often as
        // when all is well, and k6u is back one interval after it is.
        let longest = if is_overloaded {
            MAX_BACKOFF
        } else {
            self.update_interval
        };
        let pause = backoff(self.failures, random).min(longest.mul_f64(0.5 + 0.5 * random));
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
    #[must_use]
    pub fn new(burst: u32, every: Duration) -> Self {
        Allowance {
            burst,
            every,
            full_at: Duration::ZERO,
        }
    }

    /// The time from which on one that is taken at `now` may be used.
    fn next(&self, now: Duration) -> Duration {
        now.max((self.full_at + self.every).saturating_sub(self.every * self.burst))
    }

    /// Takes one at `now`; gives the time from which on it may be used.
    pub fn take(&mut self, now: Duration) -> Duration {
        let at = self.next(now);
        self.full_at = self.full_at.max(now) + self.every;
        at
    }
}

/// A random number in 0..1, from the seed that the standard library takes for its hash maps.
#[must_use]
pub fn random() -> f64 {
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

    fn failed(is_overloaded: bool, retry_after: Option<u64>) -> RoundEnd {
        RoundEnd::Failed {
            is_overloaded,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    /// A schedule after its first round.
    fn schedule() -> Schedule {
        let mut schedule = Schedule::new(INTERVAL);
        schedule.after_round(Duration::ZERO, RoundEnd::Quiet, 0.0);
        schedule
    }

    /// The longest pauses after these rounds.
    fn pauses(rounds: &[RoundEnd]) -> Vec<f64> {
        let mut schedule = schedule();
        let pause = |ended: &RoundEnd| (schedule.after_round(INTERVAL, *ended, 1.0) - INTERVAL).as_secs_f64();
        rounds.iter().map(pause).collect()
    }

    #[test]
    fn a_quiet_day() {
        assert_eq!(pauses(&[RoundEnd::Quiet, RoundEnd::Quiet]), [11.0, 11.0]);
        let mut schedule = schedule();
        let mut pause = |random| schedule.after_round(Duration::ZERO, RoundEnd::Quiet, random);
        assert_eq!([pause(0.0), pause(0.5)], [at(10.0), at(10.5)]);
        schedule.set_nodes(300);
        assert_eq!(schedule.after_round(Duration::ZERO, RoundEnd::Quiet, 1.0), MAX_INTERVAL);
    }

    #[test]
    fn rounds_get_rarer_with_the_nodes() {
        for (nodes, seconds) in [(0, 10), (1, 10), (25, 10), (26, 20), (100, 40), (300, 60), (5000, 60)] {
            assert_eq!(interval(INTERVAL, nodes), Duration::from_secs(seconds), "{nodes}");
        }
        assert_eq!(interval(Duration::from_secs(86_400), 1), MAX_INTERVAL);
    }

    #[test]
    fn nodes_that_started_or_reacted_together_part() {
        let mut schedule = Schedule::new(INTERVAL);
        let mut pause = |end, random| schedule.after_round(Duration::ZERO, end, random);
        assert_eq!(pause(RoundEnd::Quiet, 0.1), INTERVAL / 10, "the first round");
        assert_eq!(pause(RoundEnd::Quiet, 0.0), INTERVAL);
        schedule.after_change(Duration::ZERO, INTERVAL, 0.0);
        let mut pause = |end, random| schedule.after_round(Duration::ZERO, end, random);
        assert_eq!(pause(RoundEnd::Changed, 0.7), STILL, "no others");
        assert_eq!(
            pause(RoundEnd::Quiet, 0.3),
            INTERVAL * 3 / 10,
            "the reports are written"
        );
        assert_eq!(pause(RoundEnd::Quiet, 0.0), INTERVAL);
    }

    #[test]
    fn the_more_urgent_end_counts() {
        let not_yet = RoundEnd::NotYet(INTERVAL);
        let by_urgency = [
            RoundEnd::Quiet,
            RoundEnd::Changed,
            RoundEnd::Soon,
            not_yet,
            failed(true, None),
        ];
        for (at, less) in by_urgency.iter().enumerate() {
            for more in &by_urgency[at..] {
                assert_eq!(less.or_more_urgent(*more), *more);
                assert_eq!(more.or_more_urgent(*less), *more);
            }
        }
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
        let rounds = [
            failed(true, None),
            failed(true, None),
            RoundEnd::Quiet,
            failed(true, None),
        ];
        assert_eq!(pauses(&rounds), [1.0, 2.0, 11.0, 1.0]);
    }

    #[test]
    fn a_server_that_says_when_is_obeyed() {
        assert_eq!(pauses(&[failed(true, Some(30)), failed(true, Some(1))]), [30.0, 2.0]);
        assert_eq!(pauses(&[RoundEnd::NotYet(Duration::from_secs(2))]), [2.2]);
    }

    #[test]
    fn a_conflict_is_tried_again_soon() {
        assert_eq!(
            pauses(&[RoundEnd::Soon; 10]),
            [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
        );
        let pause = Schedule::new(INTERVAL).after_round(Duration::ZERO, RoundEnd::Soon, 0.0);
        assert_eq!(pause, Duration::from_millis(200));
    }

    #[test]
    fn jitter_spreads_what_failed_at_the_same_time() {
        let pause = |random| Schedule::new(INTERVAL).after_round(Duration::ZERO, failed(true, None), random);
        assert_eq!(
            [pause(0.0), pause(1.0)],
            [Duration::from_millis(500), Duration::from_secs(1)]
        );
    }

    #[test]
    fn five_changes_at_once_then_one_a_second() {
        let mut schedule = Schedule::new(INTERVAL);
        let mut react = |now: f64| {
            let due = schedule.after_round(at(now), RoundEnd::Quiet, 1.0);
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
        let mut schedule = schedule();
        schedule.set_nodes(101);
        let due = schedule.after_round(at(0.0), RoundEnd::Quiet, 0.0);
        assert_eq!(due, at(50.0));
        let due = schedule.after_change(at(1.0), due, 0.5);
        assert_eq!(due, at(1.1), "reactions are spread over 2 ms for each other node");
        assert_eq!(schedule.after_change(at(1.05), due, 0.9), due);
        assert_eq!(schedule.after_round(at(1.1), RoundEnd::Changed, 0.5), at(1.7));
        assert_eq!(
            schedule.after_change(at(1.69), at(1.7), 1.0),
            at(1.7),
            "not later than what is due anyway"
        );
    }

    /// Reports wait for a round that is none.
    #[test]
    fn a_round_that_is_due_anyway_is_no_reaction() {
        let mut schedule = schedule();
        let mut now = at(100.0);
        let mut reactions = Vec::new();
        for _ in 0..12 {
            let due = schedule.after_round(now, RoundEnd::Changed, 0.0);
            now = schedule.after_change(now + STILL / 2, due, 0.0);
            reactions.push(schedule.is_reaction());
        }
        assert_eq!(reactions[..5], [true; 5], "five at once");
        assert!(
            !reactions[5..].windows(2).any(|two| two == [true, true]),
            "{reactions:?}"
        );
        schedule.after_round(now, RoundEnd::Quiet, 0.0);
        assert!(!schedule.is_reaction());
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
        let due = schedule.after_round(at(0.0), RoundEnd::NotYet(Duration::from_secs(1)), 0.0);
        assert_eq!(schedule.after_change(at(0.0), due, 0.0), due);
    }
}
