//! Interfaces on top of another one: a VLAN, a bridge, a PPP link. They are made by system calls, because a small
//! machine has no `ip` that could make them.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::machine::namespace::{Interface, ask, attribute, c_text, index, link_header, set_up};
use crate::machine::system::checked;

/// A VLAN of this number on an interface, named as usual: `eth0.7`.
///
/// # Errors
/// Where the kernel knows no VLANs (8021q).
pub fn vlan(lower: &Interface, number: u16) -> io::Result<Interface> {
    // linux/if_link.h: IFLA_VLAN_ID.
    const ID: u16 = 1;
    let mut data = Vec::new();
    attribute(&mut data, ID, &number.to_ne_bytes());
    let mut on = Vec::new();
    attribute(&mut on, libc::IFLA_LINK, &index(&lower.name)?.to_ne_bytes());
    make(&format!("{}.{number}", lower.name), "vlan", &data, &on)
}

/// A bridge whose port is this interface.
///
/// # Errors
/// Where the kernel knows no bridges.
pub fn bridge(port: &Interface) -> io::Result<Interface> {
    let bridge = make(&format!("br-{}", port.name), "bridge", &[], &[])?;
    let mut link = link_header(index(&port.name)?, 0);
    attribute(&mut link, libc::IFLA_MASTER, &index(&bridge.name)?.to_ne_bytes());
    ask(libc::RTM_NEWLINK, 0, &link)?;
    Ok(bridge)
}

/// Makes an interface of a kind, with the data of that kind and with more attributes, and sets it up.
fn make(name: &str, kind: &str, data: &[u8], more: &[u8]) -> io::Result<Interface> {
    // linux/if_link.h: IFLA_INFO_KIND is 1, IFLA_INFO_DATA is 2.
    let mut info = Vec::new();
    attribute(&mut info, 1, kind.as_bytes());
    attribute(&mut info, 2, data);
    let mut link = link_header(0, 0);
    attribute(&mut link, libc::IFLA_IFNAME, &c_text(name));
    attribute(&mut link, libc::IFLA_LINKINFO, &info);
    link.extend(more);
    ask(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &link)?;
    let interface = Interface { name: name.into() };
    set_up(index(name)?)?;
    Ok(interface)
}

/// The descriptors that keep a PPP link alive: its session, and the kernel's two ends of it.
#[derive(Debug)]
pub struct Session {
    _socket: OwnedFd,
    _channel: File,
    _unit: File,
}

/// struct sockaddr_pppox of linux/if_pppox.h, for PPPoE.
#[repr(C, packed)]
struct SessionAddress {
    family: libc::sa_family_t,
    protocol: u32,
    session: [u8; 2],
    remote: [u8; 6],
    interface: [u8; libc::IFNAMSIZ],
}

/// A PPP link in a PPPoE session on an interface, as with a provider's DSL. The session is in the state in which pppd
/// has found an access concentrator and agreed with it on everything. Nothing answers at the other end.
///
/// # Errors
/// Where the kernel knows no PPPoE, or /dev/ppp may not be opened.
pub fn ppp(lower: &Interface) -> io::Result<(Interface, Session)> {
    // linux/if_pppox.h: PX_PROTO_OE is 0.
    // SAFETY: no pointers are passed.
    let socket = checked(unsafe { libc::socket(libc::AF_PPPOX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: it was just opened, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut address = SessionAddress {
        family: libc::AF_PPPOX as libc::sa_family_t,
        protocol: 0,
        session: 7u16.to_be_bytes(),
        remote: [2, 0, 0, 0, 0, 1],
        interface: [0; libc::IFNAMSIZ],
    };
    address.interface[..lower.name.len()].copy_from_slice(lower.name.as_bytes());
    let length = size_of::<SessionAddress>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe the address, which outlives the call.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) })?;

    // linux/ppp-ioctl.h: PPPIOCGCHAN, PPPIOCATTCHAN, PPPIOCNEWUNIT, PPPIOCCONNECT.
    let mut channel_number = 0;
    control(&socket, 0x8004_7437, &mut channel_number)?;
    let open = || File::options().read(true).write(true).open("/dev/ppp");
    let (channel, unit) = (open()?, open()?);
    control(&channel, 0x4004_7438, &mut channel_number)?;
    let mut number = -1;
    control(&unit, 0xc004_743e, &mut number)?;
    control(&channel, 0x4004_743a, &mut number)?;
    let interface = Interface {
        name: format!("ppp{number}"),
    };
    set_up(index(&interface.name)?)?;
    let session = Session {
        _socket: socket,
        _channel: channel,
        _unit: unit,
    };
    Ok((interface, session))
}

/// Calls ioctl(2) with a number that is read or written.
fn control(file: &impl AsRawFd, request: u32, number: &mut libc::c_int) -> io::Result<()> {
    // SAFETY: the requests above take a pointer to an int, which outlives the call.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), request as libc::Ioctl, &raw mut *number) }).map(drop)
}
