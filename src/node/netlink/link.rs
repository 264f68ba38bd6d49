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
/// linux/if_link.h
const IFLA_INET6_CONF: u16 = 2;
/// linux/netlink.h: the rest of a type are flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// linux/ipv6.h: the places of the settings in [`IFLA_INET6_CONF`], four bytes each.
const DEVCONF_FORWARDING: usize = 0;
const DEVCONF_ACCEPT_RA: usize = 3;
const DEVCONF_AUTOCONF: usize = 5;
const DEVCONF_MAX_ADDRESSES: usize = 15;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name, even if the request used an alternative one.
    pub name: String,
    /// Whether an administrator has set it up (IFF_UP).
    pub is_up: bool,
    /// Whether it has a carrier (IFF_LOWER_UP).
    pub has_carrier: bool,
    /// Its settings for IPv6.
    pub settings: Settings,
}

/// The settings of an interface in /proc/sys/net/ipv6/conf, by their names there; `None` where the kernel's answer has
/// none, as without IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's names")]
pub struct Settings {
    pub forwarding: Option<i32>,
    pub accept_ra: Option<i32>,
    pub autoconf: Option<i32>,
    pub max_addresses: Option<i32>,
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
                settings: settings_in(attributes),
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

/// The settings for IPv6 among attributes that may be cut off.
fn settings_in(attributes: &[u8]) -> Settings {
    let families = value_in(attributes, libc::IFLA_AF_SPEC);
    let ipv6 = families.and_then(|families| value_in(families, libc::AF_INET6 as u16));
    let values = ipv6
        .and_then(|ipv6| value_in(ipv6, IFLA_INET6_CONF))
        .unwrap_or_default();
    let value = |place: usize| u32_at(values, 4 * place).ok().map(|value| value as i32);
    Settings {
        forwarding: value(DEVCONF_FORWARDING),
        accept_ra: value(DEVCONF_ACCEPT_RA),
        autoconf: value(DEVCONF_AUTOCONF),
        max_addresses: value(DEVCONF_MAX_ADDRESSES),
    }
}

/// The value of the attribute of this type, if it is there as a whole, whatever follows it.
fn value_in(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut found = None;
    let _ = each_attribute(attributes, |kind, value| {
        if kind & NLA_TYPE_MASK == wanted {
            found = Some(value);
        }
        Ok(())
    });
    found
}

/// The name among attributes that may be cut off behind it.
fn name_in(attributes: &[u8]) -> io::Result<String> {
    let name = value_in(attributes, libc::IFLA_IFNAME).ok_or_else(malformed)?;
    Ok(String::from_utf8_lossy(name).trim_end_matches('\0').to_string())
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
    fn the_settings_are_those_of_proc() {
        let settings = Netlink::open().unwrap().link("lo").unwrap().unwrap().settings;
        let Settings {
            forwarding,
            accept_ra,
            autoconf,
            max_addresses,
        } = settings;
        for (name, value) in [
            ("forwarding", forwarding),
            ("accept_ra", accept_ra),
            ("autoconf", autoconf),
            ("max_addresses", max_addresses),
        ] {
            // A container may have no IPv6 at all.
            let text = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/lo/{name}"));
            let in_proc = text.ok().and_then(|text| text.trim().parse().ok());
            assert_eq!(value, in_proc, "{name}");
        }
    }

    #[test]
    fn answers_that_are_cut_off() {
        let mut attributes = Vec::new();
        add_attribute(&mut attributes, libc::IFLA_IFNAME, b"eth0\0");
        let without_settings = attributes.len();
        let conf: Vec<u8> = (100..116i32).flat_map(i32::to_ne_bytes).collect();
        let (mut ipv6, mut families) = (Vec::new(), Vec::new());
        add_attribute(&mut ipv6, IFLA_INET6_CONF, &conf);
        add_attribute(&mut families, libc::AF_INET6 as u16 | libc::NLA_F_NESTED as u16, &ipv6);
        add_attribute(&mut attributes, libc::IFLA_AF_SPEC, &families);
        let mut message = request(7, 0, attributes);
        message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        message[HEADER + 4..HEADER + 8].copy_from_slice(&3u32.to_ne_bytes());
        message[HEADER + 8..HEADER + 12].copy_from_slice(&(libc::IFF_UP as u32 | IFF_LOWER_UP).to_ne_bytes());
        let link = Link {
            index: 3,
            name: "eth0".into(),
            is_up: true,
            has_carrier: true,
            settings: Settings {
                forwarding: Some(100),
                accept_ra: Some(103),
                autoconf: Some(105),
                max_addresses: Some(115),
            },
        };
        assert_eq!(answer(&message).unwrap().as_ref(), Some(&link));
        // Whatever follows.
        assert_eq!(answer(&message[..message.len() - 4]).unwrap().as_ref(), Some(&link));
        let cut = Link {
            settings: Settings::default(),
            ..link
        };
        assert_eq!(answer(&message[..message.len() - 12]).unwrap().as_ref(), Some(&cut));
        let length = HEADER + LINK_HEADER + without_settings;
        assert_eq!(answer(&message[..length]).unwrap(), Some(cut));
        for length in 0..HEADER + LINK_HEADER + ATTRIBUTE_HEADER {
            assert!(answer(&message[..length]).is_err(), "{length} bytes");
        }
    }
}
