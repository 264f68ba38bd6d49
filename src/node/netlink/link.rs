//! Interfaces by name: RTM_GETLINK (rtnetlink(7)).

use std::io;

use super::{
    ATTRIBUTE_HEADER, HEADER, Netlink, each_attribute, kernel_error, malformed, receive, send, split_message, u16_at,
    u32_at,
};
use std::os::fd::AsRawFd;

/// Length of struct ifinfomsg.
const LINK_HEADER: usize = 16;
/// Linux takes names of 15 bytes, and alternative names of 127 (linux/if.h, IFNAMSIZ and ALTIFNAMSIZ).
const MOST_NAME: usize = libc::IFNAMSIZ - 1;
/// linux/if_link.h
const IFLA_ALT_IFNAME: u16 = 53;
/// linux/rtnetlink.h: the answer has no counters, which the kernel would add up over all processors.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name; whoever asked may have used an alternative one.
    pub name: String,
}

impl Netlink {
    /// The interface of this name, or of this alternative name (`ip link property add`, Linux 5.5);
    /// `None` if there is none.
    ///
    /// # Errors
    /// Those of send(2) and recv(2), and what the kernel answers.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        if name.is_empty() || name.contains('\0') {
            return Ok(None);
        }
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &request(self.sequence, name))?;
        loop {
            let length = receive(self.socket.as_raw_fd(), &mut self.buffer, libc::MSG_TRUNC)?;
            let mut datagram = self.buffer.get(..length).ok_or_else(malformed)?;
            while !datagram.is_empty() {
                let (message, rest) = split_message(datagram)?;
                datagram = rest;
                // Another sequence is what was left of an earlier answer.
                if u32_at(message, 8)? == self.sequence {
                    return answer(message);
                }
            }
        }
    }
}

fn request(sequence: u32, name: &str) -> Vec<u8> {
    let kind = if name.len() > MOST_NAME {
        IFLA_ALT_IFNAME
    } else {
        libc::IFLA_IFNAME
    };
    let mut attributes = Vec::new();
    add_attribute(&mut attributes, kind, &[name.as_bytes(), b"\0"].concat());
    add_attribute(
        &mut attributes,
        libc::IFLA_EXT_MASK,
        &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
    );

    let length = HEADER + LINK_HEADER + attributes.len();
    let mut message = (length as u32).to_ne_bytes().to_vec();
    message.extend(libc::RTM_GETLINK.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.resize(HEADER + LINK_HEADER, 0);
    message.extend(attributes);
    message
}

fn add_attribute(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    attributes.extend(((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes());
    attributes.extend(kind.to_ne_bytes());
    attributes.extend(value);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
}

fn answer(message: &[u8]) -> io::Result<Option<Link>> {
    let payload = &message[HEADER..];
    match u16_at(message, 4)? {
        libc::RTM_NEWLINK => {
            let mut name = String::new();
            each_attribute(payload.get(LINK_HEADER..).ok_or_else(malformed)?, |kind, value| {
                if kind == libc::IFLA_IFNAME {
                    name = String::from_utf8_lossy(value).trim_end_matches('\0').to_string();
                }
                Ok(())
            })?;
            let index = u32_at(payload, 4)?;
            Ok(Some(Link { index, name }))
        }
        kind if i32::from(kind) == libc::NLMSG_ERROR => match kernel_error(u32_at(payload, 0)? as i32) {
            // A kernel that knows no alternative names finds no name in the request: EINVAL.
            e if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ERANGE)) => Ok(None),
            e => Err(e),
        },
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_its_name() {
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("lo").unwrap().unwrap();
        assert_eq!((link.index, link.name.as_str()), (1, "lo"));
        assert_eq!(netlink.link("k6u-nowhere").unwrap(), None);
        for odd in [
            "",
            "nul\0",
            "a-name-of-more-than-15-bytes",
            &"x".repeat(127),
            &"x".repeat(128),
            &"x".repeat(5000),
        ] {
            assert_eq!(netlink.link(odd).unwrap(), None, "{odd:?}");
        }
        assert_eq!(netlink.link("lo").unwrap(), Some(link), "the socket still answers");
    }

    #[test]
    fn answers_that_are_cut_off() {
        let mut message = request(7, "eth0");
        message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        message[HEADER + 4..HEADER + 8].copy_from_slice(&3u32.to_ne_bytes());
        let link = answer(&message).unwrap().unwrap();
        assert_eq!((link.index, link.name.as_str()), (3, "eth0"));
        for length in HEADER..HEADER + LINK_HEADER {
            assert!(answer(&message[..length]).is_err(), "{length} bytes");
        }
    }
}
