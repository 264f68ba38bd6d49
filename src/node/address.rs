//! An IPv6 address of an interface as the kernel describes it, and the properties that follow.

use std::net::Ipv6Addr;

use crate::prefix::{LINK_LENGTH, Prefix};

/// linux/if_addr.h, IFAPROT_KERNEL_RA: the kernel made the address from a router advertisement.
const KERNEL_RA: u8 = 2;

/// One IPv6 address as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub interface: u32,
    /// The local address.
    pub ip: Ipv6Addr,
    /// The length of its prefix, 0 to 128.
    pub prefix_length: u8,
    /// `IFA_F_*` of linux/if_addr.h.
    pub flags: u32,
    /// Origin of the address, `IFAPROT_*` of linux/if_addr.h; 0 if not given, and before Linux 5.18.
    pub protocol: u8,
    /// Seconds for which it stays preferred; `u32::MAX` is infinite, 0 is deprecated.
    pub preferred: u32,
    /// Seconds for which it stays valid; `u32::MAX` is infinite.
    pub valid: u32,
    /// The kernel's time stamp of when it was created, in hundredths of a second.
    pub created: u32,
    /// The kernel's time stamp of when it was last written, in hundredths of a second. A 32-bit kernel's wraps after
    /// days (net/ipv6/addrconf.c `cstamp_delta`).
    pub updated: u32,
}

impl Address {
    /// An address without lifetimes, such as an administrator sets by hand.
    pub fn permanent(ip: Ipv6Addr) -> Self {
        Address {
            interface: 0,
            ip,
            prefix_length: LINK_LENGTH,
            flags: libc::IFA_F_PERMANENT,
            protocol: 0,
            preferred: u32::MAX,
            valid: u32::MAX,
            created: 0,
            updated: 0,
        }
    }

    /// The /64 that it is in.
    pub fn subnet(&self) -> Prefix {
        Prefix::of(self.ip, LINK_LENGTH)
    }

    /// Whether it is in 2000::/3, all that IANA has allocated as global unicast (RFC 4291 section 2.4).
    pub fn is_global_unicast(&self) -> bool {
        self.ip.segments()[0] & 0xe000 == 0x2000
    }

    /// Whether no new connection should use it (RFC 4862 section 5.5.4).
    ///
    /// The kernel sets the flag only when it next looks at a lifetime that ran out, so both count. So does the last
    /// second: NetworkManager rounds lifetimes up, and writes a prefix that a router announces as deprecated with a
    /// preferred lifetime of one second, again at each announcement.
    pub fn is_deprecated(&self) -> bool {
        self.flags & libc::IFA_F_DEPRECATED != 0 || self.preferred <= 1
    }

    /// Whether a program or a person wrote it without a lifetime. The kernel never makes such an address from a router
    /// advertisement, even with an infinite lifetime.
    pub fn is_permanent(&self) -> bool {
        self.flags & libc::IFA_F_PERMANENT != 0
    }

    /// Whether it is a privacy address (RFC 8981), made from a prefix that was announced once.
    pub fn is_temporary(&self) -> bool {
        self.flags & libc::IFA_F_TEMPORARY != 0
    }

    /// Whether duplicate address detection found another owner (RFC 4862 section 5.4).
    pub fn is_duplicate(&self) -> bool {
        self.flags & libc::IFA_F_DADFAILED != 0
    }

    /// Whether the kernel made it from a router advertisement; false where the kernel does not report that.
    pub fn is_kernels(&self) -> bool {
        self.protocol == KERNEL_RA
    }

    /// Whether it looks like an address in an announced prefix: with a length of 64 and a lifetime.
    pub fn is_like_announced(&self) -> bool {
        self.prefix_length == LINK_LENGTH && !self.is_permanent() && !self.is_temporary()
    }

    /// Whether it was written by hand or as a lease, and not made from an announced prefix.
    pub fn stands_for_itself(&self) -> bool {
        !self.is_temporary() && !self.is_like_announced()
    }
}
