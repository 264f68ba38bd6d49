//! Looks at interfaces: getifaddrs(3) lists the addresses, rtnetlink tells how alive each one is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;
use std::net::Ipv6Addr;
use std::ptr;
use std::time::{Duration, Instant};

use super::memory::Memory;
use super::netlink::{Life, Netlink};
use super::select::{DEFAULT_STALE_AFTER, Observation, Watch, select};
use super::stamps::Stamps;

/// Whoever takes an address away to write it anew needs less time than so many looks with such pauses.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Looks at interfaces.
#[derive(Debug)]
pub struct Observer {
    netlink: Netlink,
    /// What getifaddrs listed, by the number of the interface.
    listed: BTreeMap<u32, BTreeSet<Ipv6Addr>>,
    memory: Memory,
    since: Instant,
    stamps: Stamps,
}

impl Observer {
    /// Opens what looking needs; no privilege is needed.
    ///
    /// # Errors
    /// Those of opening a netlink socket.
    pub fn new() -> io::Result<Self> {
        Ok(Observer {
            netlink: Netlink::open()?,
            listed: BTreeMap::new(),
            memory: Memory::default(),
            since: Instant::now(),
            stamps: Stamps::of_this_kernel(),
        })
    }

    /// What is on the interface now. An interface that does not exist is an observation, not an error.
    ///
    /// # Errors
    /// When the kernel does not answer: nothing is known then, which is not the same as no address.
    pub fn observe(&mut self, watch: &Watch) -> io::Result<Observation> {
        let mut looks = 1;
        loop {
            let Some((index, mut lives)) = self.look(&watch.interface)? else {
                self.memory.forget(&watch.interface);
                return Ok(Observation {
                    absent: true,
                    ..Observation::default()
                });
            };
            let now = self.since.elapsed();
            if looks == LOOKS || !self.memory.misses(&watch.interface, &lives, now) {
                self.memory.recall(&watch.interface, &mut lives, now);
                self.stamps.correct(index, &mut lives);
                return Ok(select(&lives, watch.stale_after));
            }
            looks += 1;
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// The number and the addresses of an interface; `None` if there is no such interface.
    fn look(&mut self, interface: &str) -> io::Result<Option<(u32, Vec<Life>)>> {
        let Some(link) = self.netlink.link(interface)? else {
            return Ok(None);
        };
        let mut lives = match self.netlink.addresses(link.index) {
            // It went since its number was asked for.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            lives => lives?,
        };
        lives.retain(|life| life.interface == link.index);
        // It lists all links and addresses of the node, which may be hundreds: so only what is new is asked for.
        let known = self.listed.entry(link.index).or_default();
        if lives.iter().any(|life| !known.contains(&life.address)) {
            // It knows interfaces by their names only, not by alternative ones.
            *known = listed(&link.name)?;
        }
        // An address in one list only came or went in between: the next wake-up tells.
        lives.retain(|life| known.contains(&life.address));
        Ok(Some((link.index, lives)))
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

    fn watch(interface: &str) -> Watch {
        Watch {
            interface: interface.into(),
            stale_after: DEFAULT_STALE_AFTER,
        }
    }

    #[test]
    fn an_unknown_interface_is_an_observation() {
        let seen = Observer::new().unwrap().observe(&watch("k6u-nowhere")).unwrap();
        assert!(seen.absent && seen.prefixes.is_empty());
        assert!(Observer::new().unwrap().observe(&watch("nul\0")).unwrap().absent);
    }

    #[test]
    fn loopback_has_no_prefix() {
        let seen = Observer::new().unwrap().observe(&watch("lo")).unwrap();
        assert!(!seen.absent && seen.prefixes.is_empty());
    }
}
