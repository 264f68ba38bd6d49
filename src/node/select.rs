//! Which addresses of an interface say what prefix this node is in: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;

use super::netlink::Life;
use crate::prefix::{LINK_LENGTH, Prefix};

/// The longest interval at which a router announces (RFC 4861 section 6.2.1, MaxRtrAdvInterval).
pub const DEFAULT_STALE_AFTER: u32 = 1800;
/// A message names at most so many things.
const MOST_PARTS: usize = 8;
/// At most this many prefixes of one interface are published; more are an attack or a mistake.
pub const MOST_PREFIXES: usize = 64;

/// What to look at, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch {
    /// The interface's name.
    pub interface: String,
    /// A prefix is stale when it was last announced so many seconds before another one; 0 is never.
    pub stale_after: u32,
}

/// What is seen on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The /64 prefixes that count, sorted, each once, at most [`MOST_PREFIXES`].
    pub prefixes: Vec<Prefix>,
    /// The /64 prefixes that are valid, but deprecated, sorted, at most [`MOST_PREFIXES`].
    pub deprecated: Vec<Prefix>,
    /// Those of them that were stale before: to them nobody holds a connection any more.
    pub long_gone: Vec<Prefix>,
    /// Every address that does not count, and why.
    pub left_out: Vec<(Ipv6Addr, Why)>,
    /// Prefixes beyond [`MOST_PREFIXES`].
    pub excess: usize,
    /// The kernel knows no interface of that name.
    pub absent: bool,
    /// When to look again though nothing changes, in steady time.
    pub until: Option<std::time::Duration>,
}

/// Why an address says nothing about the delegated prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Not in 2000::/3, all that IANA has allocated as global unicast (RFC 4291 section 2.4).
    NotGlobal,
    /// Its preferred lifetime is over: a router that renumbers announces it so (RFC 7084 L-13).
    Deprecated,
    /// Another host has it (duplicate address detection failed, RFC 4862 section 5.4).
    Duplicate,
    /// The router announces another prefix, but no longer this one (flash renumbering, RFC 8978).
    Stale,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotGlobal => f.write_str("not global unicast (2000::/3)"),
            Why::Deprecated => f.write_str("deprecated"),
            Why::Duplicate => f.write_str("duplicate address detection failed"),
            Why::Stale => f.write_str("stale (routers announce other prefixes, but this one no longer)"),
        }
    }
}

impl Observation {
    /// Whether this says the same as `earlier`, as far as anything follows from it.
    pub fn is_like(&self, earlier: &Observation) -> bool {
        let facts = |o: &Observation| (o.absent, o.excess);
        facts(self) == facts(earlier) && self.prefixes == earlier.prefixes && self.deprecated == earlier.deprecated
    }

    /// Why there is no prefix, or too many, and which global prefixes were left out; empty when all is well.
    pub fn message(&self, interface: &str) -> String {
        let mut parts = Vec::new();
        if self.excess > 0 {
            let all = self.prefixes.len() + self.excess;
            parts.push(format!(
                "{interface} has {all} prefixes; only the first {MOST_PREFIXES} count"
            ));
        }
        if self.prefixes.is_empty() {
            parts.push(self.why_none(interface));
        }
        let mut told = BTreeSet::new();
        for (address, why) in &self.left_out {
            let prefix = Prefix::of(*address, LINK_LENGTH);
            if *why != Why::NotGlobal && !self.prefixes.contains(&prefix) && told.insert(prefix) {
                parts.push(format!("{prefix} left out: {why}"));
            }
        }
        parts.truncate(MOST_PARTS);
        parts.join("; ")
    }

    fn why_none(&self, interface: &str) -> String {
        if self.absent {
            return format!("there is no interface {interface}");
        }
        match self.left_out.first() {
            None => format!("{interface} has no IPv6 address"),
            Some((first, Why::NotGlobal)) => {
                // The last in order is the most global one: fd00::/8 rather than ::1, but fe80::/10 is above both.
                let not_link_local = |(a, why): &&(Ipv6Addr, Why)| *why == Why::NotGlobal && !a.is_unicast_link_local();
                let shown = self
                    .left_out
                    .iter()
                    .rfind(not_link_local)
                    .map_or(first, |(address, _)| address);
                format!(
                    "{interface} has no global IPv6 address in use: {shown} is {}",
                    Why::NotGlobal
                )
            }
            Some(_) => format!("{interface} has no global IPv6 address in use"),
        }
    }
}

/// Which of the addresses count. Tentative and temporary ones do: it is the prefix that matters.
///
/// Among announced addresses a prefix is stale that was last announced more than `stale_after`
/// seconds before the one that was announced last. To announce it as deprecated is to announce it: so
/// a router that stops does not hand the lists to a prefix that was stale before.
pub fn select(addresses: &[Life], stale_after: u32) -> Observation {
    let stale = stale_prefixes(&last_announced(addresses), stale_after);
    let (mut prefixes, mut deprecated, mut left_out) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for life in addresses {
        let prefix = Prefix::of(life.address, LINK_LENGTH);
        let why = if !is_global_unicast(life.address) {
            Why::NotGlobal
        } else if life.is_duplicate() {
            Why::Duplicate
        } else if life.is_deprecated() {
            deprecated.insert(prefix);
            Why::Deprecated
        } else if stale
            .get(&prefix)
            .is_some_and(|since| goes_with_its_prefix(life, *since))
        {
            Why::Stale
        } else {
            prefixes.insert(prefix);
            continue;
        };
        left_out.push((life.address, why));
    }
    left_out.sort_by_key(|(address, _)| *address);
    let excess = prefixes.len().saturating_sub(MOST_PREFIXES);
    let deprecated: Vec<Prefix> = deprecated.difference(&prefixes).copied().take(MOST_PREFIXES).collect();
    Observation {
        long_gone: deprecated
            .iter()
            .filter(|prefix| stale.contains_key(prefix))
            .copied()
            .collect(),
        deprecated,
        prefixes: prefixes.into_iter().take(MOST_PREFIXES).collect(),
        left_out,
        excess,
        absent: false,
        until: None,
    }
}

/// Whether an address says no more than its prefix, which is stale since then. A static address stands for
/// itself, and so does a lease of DHCPv6 that was renewed afterwards: a server still stands by it. Temporary
/// addresses are made anew without anybody's doing, so they are no evidence.
fn goes_with_its_prefix(life: &Life, stale_since: u32) -> bool {
    let is_lease = !life.is_announced() && !life.is_temporary();
    life.is_limited() && !(is_lease && is_later(life.updated, stale_since))
}

/// When each announced prefix was last announced.
fn last_announced(addresses: &[Life]) -> BTreeMap<Prefix, u32> {
    let mut refreshed = BTreeMap::new();
    for life in addresses
        .iter()
        .filter(|life| is_global_unicast(life.address) && life.is_announced())
    {
        let last = refreshed
            .entry(Prefix::of(life.address, LINK_LENGTH))
            .or_insert(life.updated);
        if is_later(life.updated, *last) {
            *last = life.updated;
        }
    }
    refreshed
}

/// The stale ones of these, and since when.
fn stale_prefixes(refreshed: &BTreeMap<Prefix, u32>, stale_after: u32) -> BTreeMap<Prefix, u32> {
    let newest = refreshed
        .values()
        .copied()
        .reduce(|newest, other| if is_later(other, newest) { other } else { newest });
    let Some(newest) = newest.filter(|_| stale_after > 0) else {
        return BTreeMap::new();
    };
    let stale = refreshed
        .iter()
        .filter(|(_, at)| newest.wrapping_sub(**at) / 100 > stale_after);
    stale
        .map(|(prefix, at)| (*prefix, at.wrapping_add(stale_after.saturating_mul(100))))
        .collect()
}

/// Whether one time stamp is later than another. They wrap after 497 days.
fn is_later(one: u32, other: u32) -> bool {
    one != other && one.wrapping_sub(other) < u32::MAX / 2
}

fn is_global_unicast(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xe000 == 0x2000
}

#[cfg(test)]
mod tests;
