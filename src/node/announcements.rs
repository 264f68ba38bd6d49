//! When each prefix was last announced, on k6u's own clock. Pure.
//!
//! The kernel's time stamps show only that an address was written again. They do not show when, because they wrap, on a
//! 32-bit kernel within days.
//!
//! When a new prefix appears, NetworkManager removes its other addresses and adds them again, in its own order. Their
//! lifetimes end at the same time as before. An announcement prolongs the lifetime, or rewrites the address without
//! removing it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::Duration;

use super::address::Address;
use crate::prefix::Prefix;

/// Milliseconds of steady time; negative before k6u started.
pub type Time = i64;

/// Lifetimes are whole seconds, which each program and the kernel round in their own way.
const ROUNDING: Time = 3_000;
/// An address was not written since it was created if the two time stamps are this close, in hundredths of a second.
const AT_ONCE: u32 = 10;
/// A program that removes an address to add it again needs less time than this.
pub const LINGER: Time = 200;
/// The greatest age that time stamps can show at a first look. Those of a 32-bit kernel start again at 0 after two
/// days, at 250 ticks a second: beyond half of that, the older of two stamps may be the newer one.
const MAX_AGE: Time = if cfg!(target_pointer_width = "32") {
    85_899_000
} else {
    Time::MAX
};
/// At most this many prefixes that have no address any more are remembered.
const MAX_REMEMBERED: usize = 64;

/// A point of steady time as a [`Time`].
pub fn time(steady: Duration) -> Time {
    Time::try_from(steady.as_millis()).unwrap_or(Time::MAX)
}

/// History of one interface.
#[derive(Debug, Default)]
pub struct Announcements {
    /// The interface's index and its addresses at the last look; `None` before the first one.
    last: Option<(u32, BTreeMap<Key, Known>)>,
    /// The announcements on it, by /64.
    pub subnets: Subnets,
}

/// History of each /64.
pub type Subnets = BTreeMap<Prefix, Subnet>;

/// History of one /64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// When it was last announced, if it ever was.
    pub announced: Option<Time>,
    /// Whether the kernel made an address from an announcement.
    pub is_kernels: bool,
    /// Set from when it is first seen deprecated until it is announced as preferred.
    pub deprecated: Option<Deprecated>,
}

/// A /64 that is deprecated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deprecated {
    /// Since when, as far as this k6u knows.
    pub since: Time,
    /// The time from its last announcement to the newest one on the interface, when it was first seen deprecated. A /64
    /// that was stale then is not kept.
    pub lag: Time,
}

/// An address, and when it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The address.
    pub address: Address,
    /// When it was last written, without writes that keep the end of its lifetime.
    pub written: Time,
    /// The newest announcement on the interface when it was written.
    pub newest_then: Time,
    /// The time until which it counts, if it was removed before the end of its lifetime.
    pub lingers_until: Option<Time>,
}

/// An address and the length of its prefix.
type Key = (Ipv6Addr, u8);

/// An address at the last look.
#[derive(Clone, Copy, Debug)]
struct Known {
    dated: Dated,
    ends: Time,
}

impl Announcements {
    /// Forgets the interface, which is gone: a later one of this name is another interface.
    pub fn interface_is_gone(&mut self) {
        self.last = None;
    }

    /// Dates the interface's addresses, and adds those that were removed before the end of their lifetime.
    pub fn date(&mut self, interface: u32, addresses: &[Address], now: Time) -> Vec<Dated> {
        let last = self.last.take().filter(|(index, _)| *index == interface);
        let is_first = last.is_none();
        // Changed in place: a map made in each look would be memory that the allocator asks for and gives back each
        // time.
        let mut known = last.map(|(_, addresses)| addresses).unwrap_or_default();
        let newest_stamp = newest_stamp(addresses);
        let newest = newest_announcement(self.subnets.values()).unwrap_or(Time::MIN);
        for address in addresses {
            let ends = ends(address, now);
            let earlier = known.get(&key(address));
            let (written, newest_then) = match earlier.filter(|earlier| !earlier.is_announced_since(address, ends)) {
                Some(earlier) => (earlier.dated.written, earlier.dated.newest_then),
                None if is_first => {
                    let written = now - newest_stamp.map_or(0, |newest| age(address.updated, newest, MAX_AGE));
                    (written, written)
                }
                None => (now, newest),
            };
            let dated = Dated {
                address: *address,
                written,
                newest_then,
                lingers_until: None,
            };
            known.insert(key(address), Known { dated, ends });
        }
        let present: BTreeSet<Key> = addresses.iter().map(key).collect();
        known.retain(|key, known| present.contains(key) || known.lingers(now));
        let dated = known.values().map(|known| known.dated).collect();
        self.last = Some((interface, known));
        dated
    }

    /// Stores the new history of each /64. `addresses` are the present ones; the history of the others is limited.
    pub fn remember(&mut self, subnets: Subnets, addresses: &[Dated]) {
        self.subnets = subnets;
        let present: BTreeSet<Prefix> = addresses.iter().map(|dated| dated.address.subnet()).collect();
        let mut gone: Vec<(Option<Time>, Prefix)> = self
            .subnets
            .iter()
            .filter(|(prefix, _)| !present.contains(prefix))
            .map(|(prefix, subnet)| (subnet.announced, *prefix))
            .collect();
        gone.sort_unstable();
        for (_, prefix) in gone.iter().rev().skip(MAX_REMEMBERED) {
            self.subnets.remove(prefix);
        }
    }
}

impl Known {
    /// Whether an address that was removed counts a little longer.
    fn lingers(&mut self, now: Time) -> bool {
        let until = *self.dated.lingers_until.get_or_insert(now + LINGER);
        // An address without a lifetime was removed by the program or person that wrote it.
        let had_time_left = !self.dated.address.is_permanent() && self.ends > now.saturating_add(ROUNDING);
        had_time_left && until > now
    }

    /// Whether the address was announced since, or written for another reason than its order. A router may count
    /// lifetimes down, but a server that renews a lease moves its end.
    fn is_announced_since(&self, address: &Address, ends: Time) -> bool {
        let earlier = &self.dated.address;
        let ends_as_before = self.ends.abs_diff(ends) <= ROUNDING.unsigned_abs();
        if address.created == earlier.created {
            let is_lease = address.stands_for_itself() && !address.is_permanent();
            return address.updated != earlier.updated && !(is_lease && ends_as_before);
        }
        let is_as_created = address.updated.wrapping_sub(address.created) <= AT_ONCE;
        !(is_as_created && ends_as_before)
    }
}

fn key(address: &Address) -> Key {
    (address.ip, address.prefix_length)
}

/// The newest of these announcements.
pub fn newest_announcement<'a>(subnets: impl Iterator<Item = &'a Subnet>) -> Option<Time> {
    subnets.filter_map(|subnet| subnet.announced).max()
}

/// The newest stamp of an announced address; other addresses may be older than stamps can show.
fn newest_stamp(addresses: &[Address]) -> Option<u32> {
    let is_announced = |address: &&Address| address.is_global_unicast() && address.is_like_announced();
    let stamps = addresses.iter().filter(is_announced).map(|address| address.updated);
    // Relative to one of them, so that it does not matter whether they wrapped within 32 bits.
    let first = stamps.clone().next()?;
    stamps.max_by_key(|stamp| stamp.wrapping_sub(first) as i32)
}

/// Returns how much older a stamp is than the newest one; 0 if it is not, or by more than `max`.
fn age(stamp: u32, newest: u32, max: Time) -> Time {
    let age = Time::from(newest.wrapping_sub(stamp) as i32) * 10;
    if (0..=max).contains(&age) { age } else { 0 }
}

/// When the address will end.
fn ends(address: &Address, now: Time) -> Time {
    match address.valid {
        u32::MAX => Time::MAX,
        seconds => now.saturating_add(Time::from(seconds) * 1000),
    }
}

#[cfg(test)]
mod tests;
