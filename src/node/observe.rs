//! Observes interfaces: getifaddrs(3) lists their addresses, rtnetlink has the details of each, and of the link.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use log::debug;

use super::address::Address;
use super::announcements::{Announcements, time};
use super::getifaddrs;
use super::netlink::Netlink;
use super::netlink::link::Link;
use super::select::{Look, Observation, Remark, Watch};
use crate::prefix::Prefix;

/// Looks at interfaces.
#[derive(Debug)]
pub struct Observer {
    netlink: Netlink,
    /// By the name of the interface.
    past: BTreeMap<String, Past>,
}

/// State of an interface since the last look.
#[derive(Debug, Default)]
struct Past {
    announcements: Announcements,
    /// The addresses that getifaddrs listed.
    listed: BTreeSet<Ipv6Addr>,
}

impl Past {
    /// Keeps only the addresses that getifaddrs lists as well. getifaddrs lists all addresses of the node, perhaps
    /// hundreds, so it is called only if there is a new one. If it fails, all addresses are kept.
    fn check(&mut self, interface: &str, addresses: &mut Vec<Address>) {
        let there: BTreeSet<Ipv6Addr> = addresses.iter().map(|address| address.ip).collect();
        self.listed.retain(|address| there.contains(address));
        if self.listed.len() < there.len() {
            match getifaddrs::addresses_of(interface) {
                Ok(Some(listed)) => self.listed = listed,
                other => return debug!("getifaddrs does not list {interface}: {other:?}"),
            }
        }
        // An address in only one list was added or removed in between, and k6u will wake for that change.
        addresses.retain(|address| self.listed.contains(&address.ip));
    }
}

impl Observer {
    /// Opens the socket; needs no privilege.
    ///
    /// # Errors
    /// The errors of opening a netlink socket.
    pub fn new() -> io::Result<Self> {
        Ok(Observer {
            netlink: Netlink::open()?,
            past: BTreeMap::new(),
        })
    }

    /// Observes the interface at `now`, in steady time. Only prefixes inside `allowed` count; `None` lets all count. An
    /// interface that does not exist is an observation, not an error.
    ///
    /// # Errors
    /// When the kernel does not answer: nothing is known then, which is not the same as no address.
    pub fn observe(&mut self, watch: &Watch, allowed: Option<&[Prefix]>, now: Duration) -> io::Result<Observation> {
        let past = self.past.entry(watch.interface.clone()).or_default();
        let Some(link) = self.netlink.link(&watch.interface)? else {
            past.announcements.interface_is_gone();
            return Ok(Observation::absent());
        };
        let mut addresses = match self.netlink.addresses(link.index) {
            // The interface went away after its index was asked for.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                past.announcements.interface_is_gone();
                return Ok(Observation::absent());
            }
            addresses => addresses?,
        };
        past.check(&link.name, &mut addresses);
        let past = &mut past.announcements;
        let addresses = past.date(link.index, &addresses, time(now));
        let look = Look {
            addresses: &addresses,
            watch,
            allowed,
            kernel_slaac: link.settings.accept_ra != Some(0) && link.settings.autoconf != Some(0),
            now: time(now),
        };
        past.remember(look.judge(&past.subnets), &addresses);
        Ok(look.select(&past.subnets, remarks(&link, addresses.len())))
    }

    /// The interfaces with a global unicast address that is not deprecated, in the kernel's order.
    ///
    /// # Errors
    /// As [`Observer::observe`].
    pub fn interfaces_with_prefix(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for address in self.netlink.addresses(0)? {
            let counts = address.is_global_unicast() && !address.is_deprecated();
            // One that is gone by now has no name.
            let name = self.netlink.link_of(address.interface)?.map(|link| link.name);
            names.extend(name.filter(|name| counts && !names.contains(name)));
        }
        Ok(names)
    }
}

/// Reads the state of an interface that has this number of addresses.
fn remarks(link: &Link, addresses: usize) -> Vec<Remark> {
    let mut remarks = Vec::new();
    if !link.is_up {
        remarks.push(Remark::Down);
    } else if !link.has_carrier {
        remarks.push(Remark::NoCarrier);
    }
    let settings = &link.settings;
    if settings.accept_ra == Some(1) && settings.forwarding.is_some_and(|value| value != 0) {
        remarks.push(Remark::IgnoresRouters);
    }
    // 0 is no limit.
    let is_full = |max: &usize| (1..=addresses).contains(max);
    let max = settings.max_addresses.and_then(|max| usize::try_from(max).ok());
    remarks.extend(max.filter(is_full).map(Remark::Full));
    remarks
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::select::DEFAULT_STALE_AFTER;

    fn watch(interface: &str) -> Watch {
        Watch {
            interface: interface.into(),
            stale_after: DEFAULT_STALE_AFTER,
            keep_deprecated: 0,
        }
    }

    fn observe(interface: &str) -> Observation {
        let mut observer = Observer::new().unwrap();
        observer.observe(&watch(interface), None, Duration::ZERO).unwrap()
    }

    #[test]
    fn an_unknown_interface_is_an_observation() {
        let seen = observe("k6u-nowhere");
        assert!(seen.absent && seen.prefixes.is_empty());
        assert!(observe("nul\0").absent);
    }

    #[test]
    fn loopback_has_no_prefix() {
        let seen = observe("lo");
        assert!(!seen.absent && seen.prefixes.is_empty());
    }
}
