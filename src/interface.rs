//! The addresses of one interface, and which of them say what prefix this node is in.
//!
//! getifaddrs(3) lists them, rtnetlink tells how alive each one is.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::ptr;

use crate::netlink::{Life, Netlink};
use crate::prefix::{LINK_LENGTH, Prefix};

/// At most this many prefixes of one interface are published; more are an attack or a mistake.
pub const MOST_PREFIXES: usize = 64;

/// What is seen on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The /64 prefixes that count, sorted, each once, at most [`MOST_PREFIXES`].
    pub prefixes: Vec<Prefix>,
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
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::NotGlobal => "not global unicast (2000::/3)",
            Why::Deprecated => "deprecated",
            Why::Duplicate => "duplicate address detection failed",
        })
    }
}

impl Observation {
    /// Why there is no prefix, or that there are too many; empty when all is well.
    ///
    /// Stable as long as what is seen is: it is published.
    pub fn message(&self, interface: &str) -> String {
        if self.excess > 0 {
            return format!(
                "{interface} has {} prefixes; only the first {MOST_PREFIXES} count",
                self.prefixes.len() + self.excess
            );
        }
        if !self.prefixes.is_empty() {
            return String::new();
        }
        if self.absent {
            return format!("there is no interface {interface}");
        }
        if self.left_out.is_empty() {
            return format!("{interface} has no IPv6 address");
        }
        let whys: Vec<String> = [Why::Deprecated, Why::Duplicate, Why::NotGlobal]
            .iter()
            .filter_map(|why| {
                let (first, _) = self.left_out.iter().find(|(_, w)| w == why)?;
                Some(format!("{first} is {why}"))
            })
            .collect();
        format!("{interface} has no global IPv6 address in use: {}", whys.join("; "))
    }
}

/// Which of the addresses count. Tentative and temporary ones do: it is the prefix that matters.
pub fn select(addresses: &[Life]) -> Observation {
    let mut prefixes = BTreeSet::new();
    let mut left_out = Vec::new();
    for life in addresses {
        let why = if !is_global_unicast(life.address) {
            Why::NotGlobal
        } else if life.is_duplicate() {
            Why::Duplicate
        } else if life.is_deprecated() {
            Why::Deprecated
        } else {
            prefixes.insert(Prefix::of(life.address, LINK_LENGTH));
            continue;
        };
        left_out.push((life.address, why));
    }
    left_out.sort_by_key(|(address, _)| *address);
    let excess = prefixes.len().saturating_sub(MOST_PREFIXES);
    Observation {
        prefixes: prefixes.into_iter().take(MOST_PREFIXES).collect(),
        left_out,
        excess,
        absent: false,
    }
}

fn is_global_unicast(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xe000 == 0x2000
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
    pub fn observe(&mut self, interface: &str) -> io::Result<Observation> {
        let absent = Observation {
            absent: true,
            ..Observation::default()
        };
        let Some(index) = index_of(interface)? else {
            return Ok(absent);
        };
        let listed = listed(interface)?;
        let mut lives = self.netlink.addresses()?;
        // An address in one list only came or went in between: the next wake-up tells.
        lives.retain(|life| life.interface == index && listed.contains(&life.address));
        Ok(select(&lives))
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
            if !self.observe(&name)?.prefixes.is_empty() {
                with_prefix.push(name);
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
mod tests {
    use super::*;

    fn life(address: &str) -> Life {
        Life {
            interface: 2,
            address: address.parse().unwrap(),
            prefix_length: 64,
            flags: 0,
            preferred: 3600,
            valid: 7200,
            updated: 0,
        }
    }

    fn texts(observation: &Observation) -> Vec<String> {
        observation.prefixes.iter().map(Prefix::to_string).collect()
    }

    #[test]
    fn only_global_unicast_counts() {
        let addresses = [
            "::1",
            "fe80::1",
            "fd00::1",
            "fc00::1",
            "ff02::1",
            "1fff::1",
            "4000::1",
            "64:ff9b::192.0.2.1",
            "2000::1",
            "3fff:ffff::1",
            "2001:db8:1:2::3",
        ];
        let seen = select(&addresses.map(life));
        assert_eq!(texts(&seen), ["2000::/64", "2001:db8:1:2::/64", "3fff:ffff::/64"]);
        assert_eq!(seen.left_out.len(), 8);
        assert!(seen.left_out.iter().all(|(_, why)| *why == Why::NotGlobal));
        assert_eq!(seen.message("eth0"), "");
    }

    #[test]
    fn deprecated_and_duplicate_addresses_do_not_count() {
        let mut deprecated = life("2001:db8:1::1");
        deprecated.flags = libc::IFA_F_DEPRECATED;
        let mut over = life("2001:db8:2::1");
        over.preferred = 0;
        let mut duplicate = life("2001:db8:3::1");
        duplicate.flags = libc::IFA_F_DADFAILED | libc::IFA_F_TENTATIVE;
        let seen = select(&[deprecated, over, duplicate]);
        assert_eq!(texts(&seen), [""; 0]);
        let whys: Vec<Why> = seen.left_out.iter().map(|(_, why)| *why).collect();
        assert_eq!(whys, [Why::Deprecated, Why::Deprecated, Why::Duplicate]);
        assert_eq!(
            seen.message("eth0"),
            "eth0 has no global IPv6 address in use: 2001:db8:1::1 is deprecated; \
             2001:db8:3::1 is duplicate address detection failed"
        );
    }

    #[test]
    fn tentative_and_temporary_addresses_and_a_128_count() {
        let mut tentative = life("2001:db8:1::1");
        tentative.flags = libc::IFA_F_TENTATIVE;
        let mut temporary = life("2001:db8:2::1");
        temporary.flags = libc::IFA_F_TEMPORARY;
        let mut dhcp = life("2001:db8:3::1");
        dhcp.prefix_length = 128;
        let seen = select(&[dhcp, temporary, tentative]);
        assert_eq!(texts(&seen), ["2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::/64"]);
    }

    #[test]
    fn one_prefix_with_a_living_and_a_deprecated_address_counts() {
        let mut deprecated = life("2001:db8:1::1");
        deprecated.preferred = 0;
        let seen = select(&[deprecated, life("2001:db8:1::2")]);
        assert_eq!(texts(&seen), ["2001:db8:1::/64"]);
    }

    #[test]
    fn duplicates_fold_and_order_does_not_matter() {
        let (a, b, c) = (life("2001:db8:2::1"), life("2001:db8:1::1"), life("2001:db8:2::2"));
        assert_eq!(select(&[a, b, c]), select(&[c, b, a]));
        assert_eq!(texts(&select(&[a, b, c])), ["2001:db8:1::/64", "2001:db8:2::/64"]);
    }

    #[test]
    fn at_most_64_prefixes_count_and_the_rest_is_reported() {
        let flood: Vec<Life> = (0..1000).map(|n| life(&format!("2001:db8:{n:x}::1"))).collect();
        let seen = select(&flood);
        assert_eq!((seen.prefixes.len(), seen.excess), (64, 936));
        assert_eq!(seen.message("eth0"), "eth0 has 1000 prefixes; only the first 64 count");
        assert_eq!(select(&flood[..64]).excess, 0);
    }

    #[test]
    fn messages_say_what_is_there_instead() {
        let mut absent = Observation::default();
        assert_eq!(absent.message("eth0"), "eth0 has no IPv6 address");
        absent.absent = true;
        assert_eq!(absent.message("eth0"), "there is no interface eth0");
        assert_eq!(
            select(&[life("fe80::1"), life("fd00::1")]).message("eth0"),
            "eth0 has no global IPv6 address in use: fd00::1 is not global unicast (2000::/3)"
        );
    }

    #[test]
    fn an_unknown_interface_is_an_observation() {
        let seen = Observer::new().unwrap().observe("k6u-nowhere").unwrap();
        assert!(seen.absent && seen.prefixes.is_empty());
        assert!(Observer::new().unwrap().observe("nul\0").unwrap().absent);
    }

    #[test]
    fn loopback_has_no_prefix() {
        let seen = Observer::new().unwrap().observe("lo").unwrap();
        assert!(!seen.absent && seen.prefixes.is_empty());
    }
}
