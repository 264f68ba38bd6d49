//! Router advertisements (RFC 4861 section 4.2) from the other end of an interface's cable. They need no router
//! software, and may contain what no router software can announce.

use std::io;
use std::mem::{ManuallyDrop, size_of};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::machine::namespace::{Interface, index};
use crate::machine::system::checked;

/// An infinite lifetime (RFC 4861 section 4.6.2).
pub const INFINITE: u32 = u32::MAX;

/// A prefix as a router announces it for SLAAC.
#[derive(Clone, Copy, Debug)]
pub struct Announced<'a> {
    /// The first address of the /64.
    pub prefix: &'a str,
    /// Seconds.
    pub preferred: u32,
    /// Seconds.
    pub valid: u32,
}

/// A prefix that is announced with usual lifetimes.
pub fn preferred(prefix: &str) -> Announced<'_> {
    Announced {
        prefix,
        preferred: 1_800,
        valid: 7_200,
    }
}

/// A prefix that is announced as deprecated.
pub fn deprecated(prefix: &str) -> Announced<'_> {
    Announced {
        preferred: 0,
        ..preferred(prefix)
    }
}

/// A router on the other end of an interface's cable, which is in this namespace.
#[derive(Debug)]
pub struct Router {
    socket: OwnedFd,
    index: u32,
}

impl Router {
    /// A router that announces nothing yet.
    ///
    /// # Panics
    /// If the kernel refuses: the namespace was entered, so it should not.
    pub fn on(interface: &Interface) -> Self {
        // It is removed with the interface.
        let own = ManuallyDrop::new(Interface {
            name: format!("{}p", interface.name),
        });
        own.set("fe80::1", 64, u32::MAX, u32::MAX);
        let index = index(&own.name).expect("the other end");
        Router {
            socket: open(index).expect("a raw socket"),
            index,
        }
    }

    /// Announces these prefixes to all nodes, once.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn announce(&self, prefixes: &[Announced]) {
        // Type, code, checksum, hop limit, flags, the router's lifetime, and two times that are unspecified.
        let mut message = vec![134, 0, 0, 0, 64, 0];
        message.extend(1_800u16.to_be_bytes());
        message.extend([0; 8]);
        for announced in prefixes {
            // Prefix Information: 32 bytes, a /64 that is on the link and for SLAAC.
            message.extend([3, 4, 64, 0xc0]);
            message.extend(announced.valid.to_be_bytes());
            message.extend(announced.preferred.to_be_bytes());
            message.extend([0; 4]);
            let prefix: Ipv6Addr = announced.prefix.parse().expect("an IPv6 address");
            message.extend(prefix.octets());
        }
        send(&self.socket, self.index, &message).expect("an advertisement");
    }
}

fn open(interface: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        libc::socket(
            libc::AF_INET6,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_ICMPV6,
        )
    };
    checked(fd)?;
    // SAFETY: it was just opened, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // Nodes ignore an advertisement that was routed, or that comes from an address that is not link-local.
    set(&socket, libc::IPV6_MULTICAST_HOPS, 255)?;
    set(&socket, libc::IPV6_MULTICAST_IF, interface as libc::c_int)?;
    let own = socket_address("fe80::1", interface);
    let length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `own`, which outlives the call.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const own).cast(), length) })?;
    Ok(socket)
}

fn set(socket: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let pointer = (&raw const value).cast();
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, option, pointer, length) }).map(drop)
}

fn socket_address(ip: &str, interface: u32) -> libc::sockaddr_in6 {
    // SAFETY: all-zero is a valid sockaddr_in6: plain integers.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    address.sin6_addr.s6_addr = ip.parse::<Ipv6Addr>().expect("an IPv6 address").octets();
    address.sin6_scope_id = interface;
    address
}

fn send(socket: &OwnedFd, interface: u32, message: &[u8]) -> io::Result<()> {
    let all_nodes = socket_address("ff02::1", interface);
    let length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    let (data, to) = (message.as_ptr().cast(), (&raw const all_nodes).cast());
    // SAFETY: each pointer and its length describe a value that outlives the call.
    let sent = unsafe { libc::sendto(socket.as_raw_fd(), data, message.len(), 0, to, length) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
