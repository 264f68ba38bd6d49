//! The addresses of one interface, and which of them say what prefix this node is in.
//!
//! getifaddrs(3) lists them, rtnetlink tells how alive each one is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::ptr;

use crate::netlink::{Life, Netlink};
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
    Stale {
        /// Seconds since this prefix was last announced.
        seconds: u32,
        /// The prefix that was announced last.
        newest: Prefix,
        /// Seconds since that.
        newest_seconds: u32,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotGlobal => f.write_str("not global unicast (2000::/3)"),
            Why::Deprecated => f.write_str("deprecated"),
            Why::Duplicate => f.write_str("duplicate address detection failed"),
            Why::Stale {
                seconds,
                newest,
                newest_seconds,
            } => {
                let (since, newest_since) = (Age(*seconds), Age(*newest_seconds));
                write!(f, "not refreshed for {since}, while {newest} was {newest_since} ago")
            }
        }
    }
}

/// Seconds as a person says them.
struct Age(u32);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds @ 0..120 => write!(f, "{seconds} s"),
            seconds @ 120..7200 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{} h", seconds / 3600),
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

/// What of a message stays the same while only time passes.
pub fn substance(message: &str) -> impl Iterator<Item = &str> {
    message
        .split("; ")
        .map(|part| part.split(": not refreshed for ").next().unwrap_or(part))
}

/// Which of the addresses count. Tentative and temporary ones do: it is the prefix that matters.
///
/// Among announced addresses a prefix is stale that was last announced more than `stale_after`
/// seconds before the one that was announced last. To announce it as deprecated is to announce it: so
/// a router that stops does not hand the group to a prefix that was stale before. Static addresses
/// and those of DHCPv6 are never stale, and temporary ones are no evidence.
///
/// `now` is in hundredths of a second since the system started, as are the addresses' time stamps;
/// it serves messages only.
pub fn select(addresses: &[Life], stale_after: u32, now: u32) -> Observation {
    let refreshed = last_announced(addresses);
    let stale = stale_prefixes(&refreshed, stale_after, now);
    let (mut prefixes, mut deprecated, mut left_out) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for life in addresses {
        let prefix = Prefix::of(life.address, LINK_LENGTH);
        // What announced a prefix once, or derives from that, goes with it; other addresses stand for themselves.
        let derives = life.is_announced() || life.is_temporary();
        let why = if !is_global_unicast(life.address) {
            Why::NotGlobal
        } else if life.is_duplicate() {
            Why::Duplicate
        } else if life.is_deprecated() {
            deprecated.insert(prefix);
            Why::Deprecated
        } else if let Some(why) = stale.get(&prefix).filter(|_| derives) {
            *why
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
    }
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

fn stale_prefixes(refreshed: &BTreeMap<Prefix, u32>, stale_after: u32, now: u32) -> BTreeMap<Prefix, Why> {
    let newest = refreshed
        .iter()
        .reduce(|newest, other| if is_later(*other.1, *newest.1) { other } else { newest });
    let Some((newest, newest_at)) = newest.filter(|_| stale_after > 0) else {
        return BTreeMap::new();
    };
    let seconds = |from: u32, to: u32| to.wrapping_sub(from) / 100;
    let stale = refreshed
        .iter()
        .filter(|(_, at)| seconds(**at, *newest_at) > stale_after);
    let why = |at: u32| Why::Stale {
        seconds: seconds(at, now),
        newest: *newest,
        newest_seconds: seconds(*newest_at, now),
    };
    stale.map(|(prefix, at)| (*prefix, why(*at))).collect()
}

/// Whether one time stamp is later than another. They wrap after 497 days.
fn is_later(one: u32, other: u32) -> bool {
    one != other && one.wrapping_sub(other) < u32::MAX / 2
}

fn is_global_unicast(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xe000 == 0x2000
}

/// Hundredths of a second since the system started, not counting sleep: the clock of the kernel's
/// time stamps (net/ipv6/addrconf.c `cstamp_delta`).
fn hundredths_since_start() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    if status != 0 {
        return 0;
    }
    (time.tv_sec as u64 * 100 + time.tv_nsec as u64 / 10_000_000) as u32
}

/// Looks at interfaces.
#[derive(Debug)]
pub struct Observer {
    netlink: Netlink,
}

impl Observer {
    /// Opens what looking needs; no privilege is needed.
    ///
    /// # Errors
    /// Those of opening a netlink socket.
    pub fn new() -> io::Result<Self> {
        Ok(Observer {
            netlink: Netlink::open()?,
        })
    }

    /// What is on the interface now. An interface that does not exist is an observation, not an error.
    ///
    /// # Errors
    /// When the kernel does not answer: nothing is known then, which is not the same as no address.
    pub fn observe(&mut self, watch: &Watch) -> io::Result<Observation> {
        let interface = &watch.interface;
        let absent = Observation {
            absent: true,
            ..Observation::default()
        };
        let Some(index) = index_of(interface)? else {
            return Ok(absent);
        };
        let listed = listed(interface)?;
        let mut lives = match self.netlink.addresses(index) {
            // It went since its number was asked for.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(absent),
            lives => lives?,
        };
        // An address in one list only came or went in between: the next wake-up tells.
        lives.retain(|life| life.interface == index && listed.contains(&life.address));
        Ok(select(&lives, watch.stale_after, hundredths_since_start()))
    }

    /// The interfaces with at least one address that counts, in the kernel's order.
    ///
    /// # Errors
    /// As [`Observer::observe`].
    pub fn interfaces_with_prefix(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for (name, _) in getifaddrs()? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut with_prefix = Vec::new();
        for name in names {
            let watch = Watch {
                interface: name,
                stale_after: DEFAULT_STALE_AFTER,
            };
            if !self.observe(&watch)?.prefixes.is_empty() {
                with_prefix.push(watch.interface);
            }
        }
        Ok(with_prefix)
    }
}

/// This machine's name; for a pod on the host network, the node's.
pub fn hostname() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the pointer and the length describe `name`, whose last byte is left as it is: a NUL.
    let status = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    if status == 0 {
        name.to_string_lossy().into_owned()
    } else {
        "unknown".into()
    }
}

/// The kernel's number for an interface name.
fn index_of(interface: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(interface) else {
        return Ok(None);
    };
    // SAFETY: `name` ends in NUL and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index > 0 {
        return Ok(Some(index));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // glibc says the first two, musl the first, for a name that the kernel does not know.
        Some(libc::ENODEV | libc::ENXIO | libc::EINVAL) => Ok(None),
        _ => Err(error),
    }
}

/// The IPv6 addresses that getifaddrs lists for this interface.
fn listed(interface: &str) -> io::Result<BTreeSet<Ipv6Addr>> {
    let all = getifaddrs()?;
    let own = all.into_iter().filter(|(name, _)| name == interface);
    Ok(own.map(|(_, address)| address).collect())
}

/// Every IPv6 address with the name of its interface.
fn getifaddrs() -> io::Result<Vec<(String, Ipv6Addr)>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `first` is writable; the list that it points to afterwards is freed below.
    let status = unsafe { libc::getifaddrs(&mut first) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut list = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: `next` is an element of the list, which is not freed before the loop's end.
        let entry = unsafe { &*next };
        list.extend(ipv6_of(entry));
        next = entry.ifa_next;
    }
    // SAFETY: `first` came from getifaddrs, and no reference into the list is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(list)
}

/// Name and address of an element, if it holds an IPv6 address.
fn ipv6_of(entry: &libc::ifaddrs) -> Option<(String, Ipv6Addr)> {
    if entry.ifa_addr.is_null() {
        return None;
    }
    // SAFETY: ifa_addr is not null, so it points to a socket address, which starts with its family.
    let family = unsafe { (*entry.ifa_addr).sa_family };
    if i32::from(family) != libc::AF_INET6 {
        return None;
    }
    // SAFETY: an address of the family AF_INET6 is a sockaddr_in6; it may not be aligned as one.
    let address = unsafe { ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in6>()) };
    // SAFETY: ifa_name is a string that ends in NUL and lives as long as the list.
    let name = unsafe { CStr::from_ptr(entry.ifa_name) };
    Some((name.to_string_lossy().into_owned(), address.sin6_addr.s6_addr.into()))
}

#[cfg(test)]
mod tests;
