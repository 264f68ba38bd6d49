//! How nodes share the work that any of them could do: pure, but for whoever asks.
//!
//! They take turns in the order of their names, one an interval, by the API server's clock. Nobody has
//! to agree to that: two nodes that know different nodes, or none, make a round too many or too few, and
//! a node that is gone misses its own turn only.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::time::Timestamp;

/// For each node that may see the same change, the reaction to it is spread by so much: an API server
/// takes some hundred writes of one object a second.
const SPREAD: Duration = Duration::from_millis(2);

/// A node's place among those that publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    rank: i64,
    nodes: i64,
}

impl Place {
    /// The place of `node` among `nodes`; `None` if it is not one of them.
    pub fn of(node: &str, nodes: &BTreeSet<&str>) -> Option<Self> {
        let rank = nodes.iter().position(|name| *name == node)?;
        Some(Place {
            rank: rank as i64,
            nodes: nodes.len() as i64,
        })
    }

    /// Whether there is no other node.
    pub fn is_alone(self) -> bool {
        self.nodes == 1
    }

    /// Whether this node had a turn after `since`, up to `now`. `interval` is that between two turns.
    pub fn has_turn(self, interval: Duration, since: Timestamp, now: Timestamp) -> bool {
        let interval = whole_seconds(interval);
        let turns = |time: Timestamp| (time.0.div_euclid(interval) - self.rank).div_euclid(self.nodes);
        // A clock that was set back must not stop the turns.
        now < since || turns(now) > turns(since)
    }

    /// When this node's next turn after `now` begins.
    pub fn next_turn(self, interval: Duration, now: Timestamp) -> Timestamp {
        let interval = whole_seconds(interval);
        let slot = now.0.div_euclid(interval) + 1;
        Timestamp((slot + (self.rank - slot).rem_euclid(self.nodes)) * interval)
    }

    /// Over how long nodes spread their reactions to a change that all may have seen.
    pub fn spread(self, interval: Duration) -> Duration {
        SPREAD
            .saturating_mul(u32::try_from(self.nodes - 1).unwrap_or(u32::MAX))
            .min(interval)
    }
}

fn whole_seconds(interval: Duration) -> i64 {
    (interval.as_secs() as i64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_763_877_600 + seconds)
    }

    fn places(nodes: &[&str]) -> Vec<Place> {
        let set: BTreeSet<&str> = nodes.iter().copied().collect();
        nodes.iter().map(|node| Place::of(node, &set).unwrap()).collect()
    }

    #[test]
    fn one_node_an_interval_and_each_in_its_turn() {
        let places = places(&["a", "b", "c", "d"]);
        let mut counts = [0; 4];
        for slot in 0..40 {
            let has_turn = |place: &Place| place.has_turn(INTERVAL, at(slot * 10), at(slot * 10 + 10));
            let on_turn: Vec<usize> = (0..4).filter(|n| has_turn(&places[*n])).collect();
            assert_eq!(on_turn.len(), 1, "{on_turn:?}");
            counts[on_turn[0]] += 1;
        }
        assert_eq!(counts, [10; 4]);
    }

    #[test]
    fn a_turn_is_not_missed_by_looking_late() {
        for place in places(&["a", "b", "c"]) {
            assert!(place.has_turn(INTERVAL, at(0), at(30)));
            let turn = (1..=3)
                .find(|slot| place.has_turn(INTERVAL, at(0), at(slot * 10)))
                .unwrap();
            assert!(place.has_turn(INTERVAL, at(0), at(turn * 10 + 19)));
            assert!(
                !place.has_turn(INTERVAL, at(turn * 10), at(turn * 10 + 29)),
                "it was taken"
            );
        }
    }

    #[test]
    fn the_next_turn_is_when_it_is_said_to_be() {
        for place in places(&["a", "b", "c"]) {
            for now in 0..60 {
                let turn = place.next_turn(INTERVAL, at(now));
                assert!(turn > at(now) && turn <= at(now + 30));
                assert!(place.has_turn(INTERVAL, at(now), turn));
                assert!(!place.has_turn(INTERVAL, at(now), Timestamp(turn.0 - 1)));
            }
        }
    }

    #[test]
    fn alone_every_interval_is_ones_turn() {
        let alone = places(&["a"])[0];
        assert!(alone.is_alone());
        assert!(alone.has_turn(INTERVAL, at(0), at(10)));
        assert!(!alone.has_turn(INTERVAL, at(0), at(9)));
        assert_eq!(alone.spread(INTERVAL), Duration::ZERO);
    }

    #[test]
    fn a_dead_node_misses_its_own_turn_only() {
        let places = places(&["a", "b"]);
        let alive = places[0];
        for slot in 0..10 {
            let one = alive.has_turn(INTERVAL, at(slot * 10), at(slot * 10 + 10));
            let next = alive.has_turn(INTERVAL, at(slot * 10 + 10), at(slot * 10 + 20));
            assert!(one != next, "every second interval is looked after");
        }
    }

    #[test]
    fn a_clock_that_was_set_back() {
        assert!(
            places(&["a", "b"])
                .iter()
                .all(|place| place.has_turn(INTERVAL, at(0), at(-86_400 * 365)))
        );
    }

    #[test]
    fn who_does_not_publish_has_no_turn() {
        assert_eq!(Place::of("x", &BTreeSet::from(["a"])), None);
        assert_eq!(Place::of("x", &BTreeSet::new()), None);
    }

    #[test]
    fn reactions_are_spread_over_an_interval_at_the_most() {
        let place = |nodes| Place { rank: 0, nodes };
        assert_eq!(place(3).spread(INTERVAL), Duration::from_millis(4));
        assert_eq!(place(5_000).spread(INTERVAL), Duration::from_millis(9_998));
        assert_eq!(place(1_000_000).spread(INTERVAL), INTERVAL);
        assert_eq!(place(1_000_000).spread(Duration::from_secs(1)), Duration::from_secs(1));
    }
}
