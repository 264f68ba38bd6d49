//! Interfaces by name: RTM_GETLINK (rtnetlink(7)).

use std::io;

use super::{
    ATTRIBUTE_HEADER, HEADER, Netlink, each_attribute, kernel_error, malformed, receive, send, u16_at, u32_at,
};
use std::os::fd::AsRawFd;

/// Length of struct ifinfomsg.
const LINK_HEADER: usize = 16;
/// Linux takes names of 15 bytes, and alternative names of 127 (linux/if.h, IFNAMSIZ and ALTIFNAMSIZ).
const MAX_NAME: usize = libc::IFNAMSIZ - 1;
/// linux/if_link.h
const IFLA_ALT_IFNAME: u16 = 53;
/// linux/if.h
const IFF_LOWER_UP: u32 = 1 << 16;
/// linux/rtnetlink.h: the answer has no counters, which the kernel would add up over all processors.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name; whoever asked may have used an alternative one.
    pub name: String,
    /// Whether an administrator wants it to work.
    pub is_up: bool,
    /// Whether there is something on the other end.
    pub has_carrier: bool,
}

impl Netlink {
    /// The interface of this name, or of this alternative name (`ip link property add`, Linux 5.5);
    /// `None` if there is none.
    ///
    /// # Errors
    /// The errors of send(2) and recv(2), and an error that the kernel answers.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        if name.is_empty() || name.contains('\0') {
            return Ok(None);
        }
        let kind = if name.len() > MAX_NAME {
            IFLA_ALT_IFNAME
        } else {
            libc::IFLA_IFNAME
        };
        let mut attributes = Vec::new();
        add_attribute(&mut attributes, kind, &[name.as_bytes(), b"\0"].concat());
        self.ask(0, attributes)
    }

    /// The interface of this index; `None` if there is none.
    ///
    /// # Errors
    /// As [`Netlink::link`].
    pub fn link_of(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.ask(index, Vec::new())
    }

    fn ask(&mut self, index: u32, attributes: Vec<u8>) -> io::Result<Option<Link>> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &request(self.sequence, index, attributes))?;
        loop {
            // An answer longer than the buffer is cut off: alternative names may fill much more, and come last.
            let length = receive(self.socket.as_raw_fd(), &mut self.buffer, 0)?;
            let message = self.buffer.get(..length).ok_or_else(malformed)?;
            // Another sequence is what was left of an earlier answer.
            if u32_at(message, 8)? == self.sequence {
                return answer(message);
            }
        }
    }
}

fn request(sequence: u32, index: u32, mut attributes: Vec<u8>) -> Vec<u8> {
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
    // The rest of struct nlmsghdr, then struct ifinfomsg, whose second half is the index.
    message.resize(HEADER + 4, 0);
    message.extend(index.to_ne_bytes());
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
    let payload = message.get(HEADER..).ok_or_else(malformed)?;
    match u16_at(message, 4)? {
        libc::RTM_NEWLINK => {
            let flags = u32_at(payload, 8)?;
            let is_set = |flag: u32| flags & flag != 0;
            let attributes = payload.get(LINK_HEADER..).ok_or_else(malformed)?;
            Ok(Some(Link {
                index: u32_at(payload, 4)?,
                name: name_in(attributes)?,
                is_up: is_set(libc::IFF_UP as u32),
                has_carrier: is_set(IFF_LOWER_UP),
            }))
        }
        kind if i32::from(kind) == libc::NLMSG_ERROR => match kernel_error(u32_at(payload, 0)? as i32) {
            // A kernel that knows no alternative names finds no name in the request: EINVAL.
            e if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ERANGE)) => Ok(None),
            e => Err(e),
        },
        _ => Err(malformed()),
    }
}

/// The name among attributes that may be cut off behind it.
fn name_in(attributes: &[u8]) -> io::Result<String> {
    let mut name = None;
    let all = each_attribute(attributes, |kind, value| {
        if kind == libc::IFLA_IFNAME {
            name = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_string());
        }
        Ok(())
    });
    name.map_or_else(|| Err(all.err().unwrap_or_else(malformed)), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_its_name() {
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("lo").unwrap().unwrap();
        assert_eq!((link.index, link.name.as_str()), (1, "lo"));
        assert_eq!(netlink.link_of(1).unwrap().as_ref(), Some(&link));
        assert_eq!(netlink.link("k6u-nowhere").unwrap(), None);
        assert_eq!(netlink.link_of(1_000_000).unwrap(), None);
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
        let mut attributes = Vec::new();
        add_attribute(&mut attributes, libc::IFLA_IFNAME, b"eth0\0");
        let mut message = request(7, 0, attributes);
        message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        message[HEADER + 4..HEADER + 8].copy_from_slice(&3u32.to_ne_bytes());
        message[HEADER + 8..HEADER + 12].copy_from_slice(&(libc::IFF_UP as u32 | IFF_LOWER_UP).to_ne_bytes());
        let link = Link {
            index: 3,
            name: "eth0".into(),
            is_up: true,
            has_carrier: true,
        };
        assert_eq!(answer(&message).unwrap().as_ref(), Some(&link));
        // Whatever follows the name.
        assert_eq!(answer(&message[..message.len() - 4]).unwrap(), Some(link));
        for length in 0..HEADER + LINK_HEADER + ATTRIBUTE_HEADER {
            assert!(answer(&message[..length]).is_err(), "{length} bytes");
        }
    }
}
