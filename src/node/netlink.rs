//! rtnetlink: the IPv6 addresses of an interface, and reports of their changes.
//!
//! getifaddrs(3) uses the same answers, but returns neither flags nor lifetimes, and fails or leaves out an interface
//! whose alternative names fill more than its buffer (rtnetlink(7), net/ipv6/addrconf.c `inet6_fill_ifaddr`).

pub mod link;

use std::io;
use std::mem::size_of;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::address::Address;

/// The kernel fills dump messages up to this size at most on pages of 4 KiB; a larger buffer
/// saves calls where it uses more (net/netlink/af_netlink.c `netlink_dump`).
const BUFFER: usize = 16 * 1024;
/// Lengths of the fixed parts: struct nlmsghdr, struct ifaddrmsg, struct rtattr.
const HEADER: usize = size_of::<libc::nlmsghdr>();
const ADDRESS_HEADER: usize = 8;
const ATTRIBUTE_HEADER: usize = 4;
/// linux/if_addr.h: who made an address, since Linux 5.18.
const IFA_PROTO: u16 = 11;
/// Attempts to read a list that changes during the dump, and the pause between two of them.
const ATTEMPTS: u32 = 20;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(5);

/// Meaning of a datagram of a dump, beyond the addresses in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The dump ends here; no further datagram comes.
    pub is_last: bool,
    /// The list changed during the dump, so the result is inconsistent.
    pub is_interrupted: bool,
}

/// A netlink route socket that asks for addresses.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens the socket; needs no privilege.
    ///
    /// # Errors
    /// The errors of socket(2).
    pub fn open() -> io::Result<Self> {
        Ok(Netlink {
            socket: open_strict()?,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// The IPv6 addresses of one interface, by its index; 0 is all interfaces.
    ///
    /// # Errors
    /// The errors of send(2) and recv(2), an error that the kernel reports, and a list that keeps changing.
    pub fn addresses(&mut self, interface: u32) -> io::Result<Vec<Address>> {
        for _ in 0..ATTEMPTS {
            match self.dump(interface) {
                Ok(Some(mut list)) => {
                    // Before Linux 4.20 the kernel lists all of them anyway.
                    list.retain(|address| [0, address.interface].contains(&interface));
                    return Ok(list);
                }
                Ok(None) => std::thread::sleep(BETWEEN_ATTEMPTS),
                Err(e) => {
                    // The dump that broke off may still go on in the kernel: leave it to the old socket.
                    self.socket = open_strict()?;
                    if e.raw_os_error() != Some(libc::ENOBUFS) {
                        return Err(e);
                    }
                }
            }
        }
        Err(io::Error::other(
            "the kernel's list of addresses changed each time it was read",
        ))
    }

    /// Reads one dump; `None` if it has to be repeated.
    fn dump(&mut self, interface: u32) -> io::Result<Option<Vec<Address>>> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &request(self.sequence, interface))?;
        let mut list = Vec::new();
        let mut consistent = true;
        loop {
            let length = receive(self.socket.as_raw_fd(), &mut self.buffer, libc::MSG_TRUNC)?;
            let Some(messages) = self.buffer.get(..length) else {
                return Err(io::Error::other("a message of the kernel is longer than any should be"));
            };
            let part = parse(messages, self.sequence, &mut list)?;
            consistent &= !part.is_interrupted;
            if part.is_last {
                return Ok(consistent.then_some(list));
            }
        }
    }
}

/// A netlink route socket that becomes readable when an IPv6 address is added, changed or removed.
///
/// # Errors
/// The errors of socket(2) and bind(2).
pub fn subscribe() -> io::Result<OwnedFd> {
    // linux/rtnetlink.h: the bit mask of the group RTNLGRP_IPV6_IFADDR.
    open(libc::RTMGRP_IPV6_IFADDR as u32)
}

/// Discards all messages on a subscribed socket. Returns whether there were any.
pub fn drain(socket: &OwnedFd) -> bool {
    // The list shows every change, so the messages may be truncated.
    let mut scrap = [0u8; 64];
    let mut any = false;
    loop {
        match receive(socket.as_raw_fd(), &mut scrap, libc::MSG_DONTWAIT) {
            Ok(0) => return any,
            Ok(_) => any = true,
            // Messages were lost: something changed.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => any = true,
            Err(_) => return any,
        }
    }
}

/// RTM_GETADDR for the IPv6 addresses of an interface: struct nlmsghdr and struct ifaddrmsg.
fn request(sequence: u32, interface: u32) -> [u8; HEADER + ADDRESS_HEADER] {
    let mut message = [0u8; HEADER + ADDRESS_HEADER];
    let length = message.len() as u32;
    message[0..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_GETADDR.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    message[HEADER] = libc::AF_INET6 as u8;
    message[HEADER + 4..HEADER + 8].copy_from_slice(&interface.to_ne_bytes());
    message
}

/// Reads the messages of one datagram and adds the addresses in them to `list`.
///
/// Answers to other requests than `sequence`, and messages and attributes of unknown types, are
/// skipped: the kernel may add new ones at any time.
///
/// # Errors
/// `InvalidData` when a length does not fit, and the error that the kernel reports.
pub fn parse(mut datagram: &[u8], sequence: u32, list: &mut Vec<Address>) -> io::Result<Part> {
    let mut part = Part::default();
    while !datagram.is_empty() {
        let (message, rest) = split_message(datagram)?;
        datagram = rest;
        if u32_at(message, 8)? != sequence {
            continue;
        }
        if i32::from(u16_at(message, 6)?) & libc::NLM_F_DUMP_INTR != 0 {
            part.is_interrupted = true;
        }
        let payload = &message[HEADER..];
        match u16_at(message, 4)? {
            libc::RTM_NEWADDR => list.extend(address(payload)?),
            kind if i32::from(kind) == libc::NLMSG_DONE => {
                part.is_last = true;
                // A dump that fails on its way ends so too (net/netlink/af_netlink.c `netlink_dump_done`).
                return match u32_at(payload, 0).map_or(0, |code| code as i32) {
                    code @ ..0 => Err(kernel_error(code)),
                    _ => Ok(part),
                };
            }
            kind if i32::from(kind) == libc::NLMSG_ERROR => return Err(kernel_error(u32_at(payload, 0)? as i32)),
            _ => {}
        }
    }
    Ok(part)
}

/// The first message, and what follows it.
fn split_message(datagram: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let length = u32_at(datagram, 0)? as usize;
    if length < HEADER {
        return Err(malformed());
    }
    split_aligned(datagram, length)
}

/// The first `length` bytes, and what follows them on the next multiple of four
/// (NLMSG_ALIGN of linux/netlink.h, RTA_ALIGN of linux/rtnetlink.h).
fn split_aligned(bytes: &[u8], length: usize) -> io::Result<(&[u8], &[u8])> {
    let part = bytes.get(..length).ok_or_else(malformed)?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Ok((part, &bytes[next..]))
}

/// struct ifaddrmsg and its attributes; `None` if this is not an IPv6 address.
fn address(payload: &[u8]) -> io::Result<Option<Address>> {
    let header = payload.get(..ADDRESS_HEADER).ok_or_else(malformed)?;
    if i32::from(header[0]) != libc::AF_INET6 {
        return Ok(None);
    }
    let (mut local, mut peer_or_local) = (None, None);
    let mut address = Address {
        interface: u32_at(header, 4)?,
        ip: Ipv6Addr::UNSPECIFIED,
        prefix_length: header[1],
        flags: header[2].into(),
        protocol: 0,
        preferred: u32::MAX,
        valid: u32::MAX,
        created: 0,
        updated: 0,
    };
    each_attribute(&payload[ADDRESS_HEADER..], |kind, value| {
        match kind {
            libc::IFA_LOCAL => local = Some(ipv6(value)?),
            libc::IFA_ADDRESS => peer_or_local = Some(ipv6(value)?),
            // The old flags field has eight bits; this has them all.
            libc::IFA_FLAGS => address.flags = u32_at(value, 0)?,
            IFA_PROTO => address.protocol = value.first().copied().unwrap_or(0),
            libc::IFA_CACHEINFO => {
                address.preferred = u32_at(value, 0)?;
                address.valid = u32_at(value, 4)?;
                address.created = u32_at(value, 8)?;
                address.updated = u32_at(value, 12)?;
            }
            _ => {}
        }
        Ok(())
    })?;
    // On a point-to-point link IFA_ADDRESS is the other end.
    Ok(local.or(peer_or_local).map(|ip| Address { ip, ..address }))
}

/// Calls `take` with the type and the value of each attribute.
fn each_attribute<'a>(
    mut attributes: &'a [u8],
    mut take: impl FnMut(u16, &'a [u8]) -> io::Result<()>,
) -> io::Result<()> {
    while attributes.len() >= ATTRIBUTE_HEADER {
        let length = usize::from(u16_at(attributes, 0)?);
        if length < ATTRIBUTE_HEADER {
            return Err(malformed());
        }
        let (attribute, rest) = split_aligned(attributes, length)?;
        take(u16_at(attribute, 2)?, &attribute[ATTRIBUTE_HEADER..])?;
        attributes = rest;
    }
    Ok(())
}

fn ipv6(value: &[u8]) -> io::Result<Ipv6Addr> {
    let octets: [u8; 16] = value.try_into().map_err(|_| malformed())?;
    Ok(octets.into())
}

fn u32_at(bytes: &[u8], offset: usize) -> io::Result<u32> {
    let part = bytes.get(offset..offset + 4).ok_or_else(malformed)?;
    Ok(u32::from_ne_bytes(part.try_into().map_err(|_| malformed())?))
}

fn u16_at(bytes: &[u8], offset: usize) -> io::Result<u16> {
    let part = bytes.get(offset..offset + 2).ok_or_else(malformed)?;
    Ok(u16::from_ne_bytes(part.try_into().map_err(|_| malformed())?))
}

/// The error that the kernel reports by a negative number.
fn kernel_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.checked_neg().unwrap_or(libc::EIO))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a netlink message whose lengths do not fit")
}

/// A netlink route socket on which the kernel applies the filter of a request (Linux 4.20, net/ipv6/addrconf.c
/// `inet6_valid_dump_ifaddr_req`). An older kernel lists the addresses of all interfaces, which costs more, and changes
/// of other interfaces interrupt the dump more often.
fn open_strict() -> io::Result<OwnedFd> {
    let socket = open(0)?;
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, name) = (libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK);
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), length) };
    Ok(socket)
}

/// A netlink route socket in these multicast groups (a bit mask, 0 for none).
fn open(groups: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid sockaddr_nl: plain integers.
    let mut own: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    own.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    own.nl_groups = groups;
    let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: `own` is a sockaddr_nl of that length and outlives the call.
    let bound = unsafe { libc::bind(fd, (&raw const own).cast(), length) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    // The kernel answers at once. Should an answer be lost, this ends the wait with EAGAIN.
    let patience = libc::timeval { tv_sec: 1, tv_usec: 0 };
    let length = size_of::<libc::timeval>() as libc::socklen_t;
    let option = (&raw const patience).cast();
    // SAFETY: `option` points to a timeval of that length, which outlives the call.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, option, length) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `message`, which outlives the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Receives a datagram; with MSG_TRUNC the length is its real one, which may exceed the buffer's.
fn receive(fd: RawFd, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and the length describe `buffer`, which outlives the call.
        let length = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
        match usize::try_from(length) {
            Ok(length) => return Ok(length),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
