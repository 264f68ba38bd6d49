//! getifaddrs(3): the addresses of this machine, as the C library lists them.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io;
use std::net::Ipv6Addr;
use std::ptr;

/// The IPv6 addresses of an interface; `None` if it is not listed. getifaddrs knows no alternative names.
///
/// An interface with hundreds of alternative names does not fit into the C library's buffer. musl leaves it out; glibc
/// starts over without end (seen with 2.36), so such a node needs the musl binary, which users run.
///
/// # Errors
/// The errors of getifaddrs(3).
pub fn addresses_of(interface: &str) -> io::Result<Option<BTreeSet<Ipv6Addr>>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `first` is writable; the list that it points to afterwards is freed below.
    let status = unsafe { libc::getifaddrs(&mut first) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut addresses, mut is_listed) = (BTreeSet::new(), false);
    let mut next = first;
    while !next.is_null() {
        // SAFETY: `next` is an element of the list, which is not freed before the loop's end.
        let element = unsafe { &*next };
        // SAFETY: ifa_name is a string that ends in NUL and lives as long as the list.
        let name = unsafe { CStr::from_ptr(element.ifa_name) };
        if name.to_bytes() == interface.as_bytes() {
            is_listed = true;
            addresses.extend(ipv6_of(element));
        }
        next = element.ifa_next;
    }
    // SAFETY: `first` came from getifaddrs, and no reference into the list is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(is_listed.then_some(addresses))
}

/// The address in an element, if it is an IPv6 address.
fn ipv6_of(element: &libc::ifaddrs) -> Option<Ipv6Addr> {
    if element.ifa_addr.is_null() {
        return None;
    }
    // SAFETY: ifa_addr is not null, so it points to a socket address, which starts with its family.
    let family = unsafe { (*element.ifa_addr).sa_family };
    if i32::from(family) != libc::AF_INET6 {
        return None;
    }
    // SAFETY: an address of the family AF_INET6 is a sockaddr_in6; it may not be aligned as one.
    let address = unsafe { ptr::read_unaligned(element.ifa_addr.cast::<libc::sockaddr_in6>()) };
    Some(address.sin6_addr.s6_addr.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address() {
        let addresses = addresses_of("lo").unwrap().expect("every machine has it");
        // A container may have no IPv6 at all.
        assert!(addresses.iter().all(Ipv6Addr::is_loopback), "{addresses:?}");
        assert_eq!(addresses_of("k6u-nowhere").unwrap(), None);
    }
}
