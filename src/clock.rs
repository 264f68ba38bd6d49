//! The API server's clock, as its answers tell it: pure.
//!
//! Small boards have no clock that outlives a power cut; their time is set some minutes after they
//! start, by hours or years. Then every entry seems old, though its node is well: so nobody is
//! counted out until all had the time to publish by the new clock.

use std::time::Duration;

use crate::time::Timestamp;

/// A clock that runs ahead or behind by so many seconds within one interval was set.
const TOLERANCE: i64 = 60;

/// What is known of the API server's clock.
#[derive(Debug, Default)]
pub struct ServerClock {
    last: Option<(Timestamp, Duration)>,
    set: Option<Duration>,
}

impl ServerClock {
    /// Notes what the clock shows. `uptime` is time that passes evenly, whatever any clock says. Gives the
    /// seconds by which the clock was set, if it was set since the last time.
    pub fn note(&mut self, now: Timestamp, uptime: Duration) -> Option<i64> {
        let last = self.last.replace((now, uptime));
        let (then, then_uptime) = last?;
        let passed = uptime.saturating_sub(then_uptime).as_secs() as i64;
        let off = now.since(then).saturating_sub(passed);
        if off.saturating_abs() <= TOLERANCE {
            return None;
        }
        self.set = Some(uptime);
        Some(off)
    }

    /// Whether all nodes had the time to publish since the clock was set: each looks once an interval.
    pub fn is_settled(&self, uptime: Duration, interval: Duration) -> bool {
        self.set.is_none_or(|set| uptime >= set + interval * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_just_runs() {
        let mut clock = ServerClock::default();
        assert_eq!(clock.note(Timestamp(1000), at(5)), None, "nothing to compare with");
        assert_eq!(clock.note(Timestamp(1011), at(15)), None);
        assert_eq!(clock.note(Timestamp(4611), at(3615)), None, "an hour without an answer");
        assert!(clock.is_settled(at(3615), INTERVAL));
    }

    #[test]
    fn a_clock_that_is_set() {
        for year in [365 * 86_400, -365 * 86_400] {
            let mut clock = ServerClock::default();
            clock.note(Timestamp(1_800_000_000), at(5));
            assert_eq!(clock.note(Timestamp(1_800_000_010 + year), at(15)), Some(year));
            assert!(!clock.is_settled(at(15), INTERVAL) && !clock.is_settled(at(34), INTERVAL));
            assert!(clock.is_settled(at(35), INTERVAL));
            assert_eq!(clock.note(Timestamp(1_800_000_020 + year), at(25)), None, "once");
        }
    }

    #[test]
    fn a_clock_that_shows_anything() {
        let mut clock = ServerClock::default();
        for now in [i64::MAX, i64::MIN, 0, i64::MAX] {
            clock.note(Timestamp(now), at(1));
        }
        assert!(!clock.is_settled(at(1), INTERVAL));
    }
}
