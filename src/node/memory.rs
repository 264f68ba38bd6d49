//! What an interface's addresses were when it was last looked at: tells an address that was written anew from one
//! whose prefix was announced. Pure.
//!
//! When a prefix is new, NetworkManager takes its other addresses away and writes them again, to put all in its order.
//! They have the time stamp of that moment then, but their lifetimes go on: they end when they would have ended
//! before. An announcement lets an address live longer, or leaves it where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::Duration;

use super::netlink::Life;

/// Lifetimes are whole seconds, which each program and the kernel round in their own way.
const ROUNDING: u64 = 3;
/// An address is as new as its time stamp if these are no further apart, in hundredths of a second.
const AT_ONCE: u32 = 10;

/// The addresses of each interface, by its name.
#[derive(Debug, Default)]
pub struct Memory {
    interfaces: BTreeMap<String, BTreeMap<Key, Seen>>,
}

/// An address: the interface's index, itself, the length of its prefix.
type Key = (u32, Ipv6Addr, u8);

/// An address as it was.
#[derive(Clone, Copy, Debug)]
struct Seen {
    life: Life,
    /// When it will end, in seconds of steady time.
    ends: u64,
    /// When its prefix was announced: its time stamp, or an earlier one.
    announced: u32,
}

impl Memory {
    /// Whether an address is missing that was there the last time, and was to live on. One without limits is not
    /// missed: an administrator took it away.
    pub fn misses(&self, interface: &str, lives: &[Life], now: Duration) -> bool {
        let there: BTreeSet<Key> = lives.iter().map(key).collect();
        let mut before = self.interfaces.get(interface).into_iter().flatten();
        before.any(|(key, seen)| {
            let lives_on = seen.life.is_limited() && seen.ends > now.as_secs() + ROUNDING;
            lives_on && !there.contains(key)
        })
    }

    /// Gives the addresses that were only written anew the time stamps that they had before, and remembers all.
    /// `now` is steady time.
    pub fn recall(&mut self, interface: &str, lives: &mut [Life], now: Duration) {
        let before = self.interfaces.remove(interface).unwrap_or_default();
        let mut after = BTreeMap::new();
        for life in lives {
            let ends = now.as_secs().saturating_add(life.valid.into());
            let earlier = before.get(&key(life)).filter(|seen| seen.says_all(life, ends));
            let announced = earlier.map_or(life.updated, |seen| seen.announced);
            let seen = Seen {
                life: *life,
                ends,
                announced,
            };
            after.insert(key(life), seen);
            life.updated = announced;
        }
        self.interfaces.insert(interface.into(), after);
    }

    /// The interface is gone.
    pub fn forget(&mut self, interface: &str) {
        self.interfaces.remove(interface);
    }
}

impl Seen {
    /// Whether no announcement came since: nothing happened, or the address was made anew to end at the same time.
    fn says_all(&self, life: &Life, ends: u64) -> bool {
        if life.created == self.life.created {
            return life.updated == self.life.updated;
        }
        life.updated.wrapping_sub(life.created) <= AT_ONCE && self.ends.abs_diff(ends) <= ROUNDING
    }
}

fn key(life: &Life) -> Key {
    (life.interface, life.address, life.prefix_length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(5_000);

    /// An address that was made and last written at these seconds, and is seen at [`NOW`] and so much later.
    fn life(created: u32, updated: u32, valid: u32) -> Life {
        Life {
            valid,
            preferred: valid,
            created: created * 100,
            updated: updated * 100,
            ..Life::of_preferred("2001:db8:1::1".parse().unwrap())
        }
    }

    /// The time stamp in seconds that counts, of an address seen first like this and after some seconds like that.
    fn then(before: Life, seconds: u64, after: Life) -> u32 {
        let mut memory = Memory::default();
        memory.recall("eth0", &mut [before], NOW);
        let mut lives = [after];
        memory.recall("eth0", &mut lives, NOW + Duration::from_secs(seconds));
        lives[0].updated / 100
    }

    #[test]
    fn an_announcement_counts() {
        assert_eq!(then(life(100, 200, 7_200), 60, life(100, 260, 7_200)), 260);
        // Also by a router that counts the lifetime down.
        assert_eq!(then(life(100, 200, 7_200), 60, life(100, 260, 7_140)), 260);
        // Also the first one after the link was down: it lives longer.
        assert_eq!(then(life(100, 200, 7_200), 60, life(260, 260, 7_200)), 260);
        // Also if there were more since the address was made anew.
        assert_eq!(then(life(100, 200, 7_200), 60, life(240, 260, 7_140)), 260);
    }

    #[test]
    fn an_address_that_is_made_anew_and_lives_no_longer_was_not_announced() {
        assert_eq!(then(life(100, 200, 7_200), 60, life(260, 260, 7_140)), 200);
        // NetworkManager rounds up, the kernel down.
        assert_eq!(then(life(100, 200, 7_199), 60, life(260, 260, 7_142)), 200);
        assert_eq!(then(life(100, 200, 7_199), 60, life(260, 260, 7_143)), 260);
    }

    #[test]
    fn it_is_remembered_for_as_long_as_nothing_is_announced() {
        let mut memory = Memory::default();
        let mut look = |life: Life, seconds: u64| {
            let mut lives = [life];
            memory.recall("eth0", &mut lives, NOW + Duration::from_secs(seconds));
            lives[0].updated / 100
        };
        assert_eq!(look(life(100, 200, 7_200), 0), 200);
        assert_eq!(look(life(210, 210, 7_190), 10), 200);
        assert_eq!(look(life(210, 210, 7_180), 20), 200);
        assert_eq!(look(life(230, 230, 7_170), 30), 200, "once more");
        assert_eq!(look(life(230, 240, 7_160), 40), 240, "a router stands by it again");
        assert_eq!(look(life(230, 240, 7_150), 50), 240);
    }

    #[test]
    fn what_was_gone_is_forgotten() {
        let mut memory = Memory::default();
        memory.recall("eth0", &mut [life(100, 200, 7_200)], NOW);
        memory.recall("eth0", &mut [], NOW);
        let mut again = [life(260, 260, 7_140)];
        memory.recall("eth0", &mut again, NOW + Duration::from_secs(60));
        assert_eq!(again[0].updated, 26_000);
        memory.forget("eth0");
        let mut again = [life(270, 270, 7_130)];
        memory.recall("eth0", &mut again, NOW + Duration::from_secs(70));
        assert_eq!(again[0].updated, 27_000);
    }

    #[test]
    fn an_address_is_missing_that_was_to_live_on() {
        let mut memory = Memory::default();
        memory.recall("eth0", &mut [life(100, 200, 60)], NOW);
        assert!(memory.misses("eth0", &[], NOW));
        assert!(!memory.misses("eth1", &[], NOW));
        assert!(!memory.misses("eth0", &[life(260, 260, 60)], NOW), "written anew");
        assert!(!memory.misses("eth0", &[], NOW + Duration::from_secs(60)), "it ended");
        memory.recall("eth0", &mut [life(100, 100, u32::MAX)], NOW);
        assert!(!memory.misses("eth0", &[], NOW), "somebody took it away");
    }
}
