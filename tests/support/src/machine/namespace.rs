//! A network for this process alone: an unprivileged user and network namespace, and interfaces in it.

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::machine::system::{c_path, checked, mount};

/// Puts this process into a new user and network namespace, with its loopback interface up.
/// To be called before the first thread is started.
///
/// # Errors
/// Where the machine forbids it: tests that need it are then skipped.
pub fn enter() -> io::Result<()> {
    enter_user(libc::CLONE_NEWNET)
}

/// The same with mounts of its own: /run and /var/lib/dhcpcd are empty and writable.
///
/// # Errors
/// Where the machine forbids it.
pub fn enter_with_mounts() -> io::Result<()> {
    enter_user(libc::CLONE_NEWNET | libc::CLONE_NEWNS)?;
    for folder in [c"/run", c"/var/lib/dhcpcd"] {
        match mount(Some(c"tmpfs"), folder, Some(c"tmpfs"), 0) {
            // A missing folder belongs to a program that is not installed.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn enter_user(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let user = unsafe { libc::getuid() };
    // SAFETY: no pointers are passed.
    let group = unsafe { libc::getgid() };
    // SAFETY: no pointers are passed; the process has one thread yet.
    let status = unsafe { libc::unshare(libc::CLONE_NEWUSER | namespaces) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    set_up(index("lo")?)
}

/// Puts this process into a new network namespace only, for root, which needs no user namespace.
/// To be called before the first thread is started.
///
/// # Errors
/// Where the process may not.
pub fn enter_network() -> io::Result<()> {
    // SAFETY: no pointers are passed; the process has one thread yet.
    let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    set_up(index("lo")?)
}

/// A network interface with a cable whose other end is in the same namespace.
#[derive(Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
}

impl Interface {
    /// A new interface that is up, with a unique name.
    ///
    /// # Panics
    /// If the kernel refuses: the namespace was entered, so it should not.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lan{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Interface::named(&name)
    }

    /// A new interface that is up, with this name.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn named(name: &str) -> Self {
        let peer_name = format!("{name}p");
        let mut peer = link_header(0, 0);
        attribute(&mut peer, libc::IFLA_IFNAME, &c_text(&peer_name));
        // linux/veth.h: VETH_INFO_PEER is 1; linux/if_link.h: IFLA_INFO_KIND is 1, IFLA_INFO_DATA is 2.
        let (mut data, mut info) = (Vec::new(), Vec::new());
        attribute(&mut data, 1, &peer);
        attribute(&mut info, 1, b"veth");
        attribute(&mut info, 2, &data);
        let mut link = link_header(0, 0);
        attribute(&mut link, libc::IFLA_IFNAME, &c_text(name));
        attribute(&mut link, libc::IFLA_LINKINFO, &info);
        ask(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &link).expect("a veth pair");
        for end in [name, &peer_name] {
            // An end can only be up once the other one is there.
            index(end).and_then(set_up).expect("an end that is up");
        }
        Interface { name: name.into() }
    }

    /// Moves the other end of its cable into the network namespace of a process.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn give_peer_to(&self, process: u32) {
        let peer = index(&format!("{}p", self.name)).expect("the other end");
        let mut link = link_header(peer, 0);
        attribute(&mut link, libc::IFLA_NET_NS_PID, &process.to_ne_bytes());
        ask(libc::RTM_NEWLINK, 0, &link).expect("the other end moves");
    }

    /// Adds an address that is preferred and valid forever.
    pub fn add(&self, address: &str) {
        self.set(address, 64, u32::MAX, u32::MAX);
    }

    /// Deprecates an address: it stays valid, but is no longer preferred, as when a router renumbers.
    pub fn deprecate(&self, address: &str) {
        self.set(address, 64, 0, 7200);
    }

    /// Adds or changes an address with these lifetimes in seconds.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn set(&self, address: &str, prefix_length: u8, preferred: u32, valid: u32) {
        self.set_by(0, address, prefix_length, preferred, valid);
    }

    /// Adds or changes an address with a length of 64, marked as made by the kernel from a router advertisement.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn announce(&self, address: &str, preferred: u32, valid: u32) {
        // linux/if_addr.h: IFAPROT_KERNEL_RA.
        self.set_by(2, address, 64, preferred, valid);
    }

    fn set_by(&self, protocol: u8, address: &str, prefix_length: u8, preferred: u32, valid: u32) {
        // linux/if_addr.h; kernels before 5.18 ignore it.
        const IFA_PROTO: u16 = 11;
        let mut message = self.address_header(address, prefix_length);
        if protocol != 0 {
            attribute(&mut message, IFA_PROTO, &[protocol]);
        }
        let lifetimes: Vec<u8> = [preferred, valid, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
        attribute(&mut message, libc::IFA_CACHEINFO, &lifetimes);
        attribute(&mut message, libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        ask(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &message).expect("an address");
    }

    /// Adds an address of a point-to-point link, with that of the other end.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn add_with_peer(&self, address: &str, peer: &str) {
        let mut message = self.header(address, peer, 64);
        attribute(&mut message, libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        ask(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &message).expect("an address");
    }

    /// Removes an address.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn remove(&self, address: &str) {
        ask(libc::RTM_DELADDR, 0, &self.address_header(address, 64)).expect("an address to remove");
    }

    /// Changes its name. Before Linux 6.2 it has to be down for that, and loses its addresses.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn rename(&mut self, name: &str) {
        let number = index(&self.name).expect("the interface");
        let mut link = link_header(number, 0);
        attribute(&mut link, libc::IFLA_IFNAME, &c_text(name));
        match ask(libc::RTM_NEWLINK, 0, &link) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                let mut down = link_header(number, 0);
                // struct ifinfomsg ends with the mask of the flags that change.
                down[12..16].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
                ask(libc::RTM_NEWLINK, 0, &down).expect("an interface that is down");
                ask(libc::RTM_NEWLINK, 0, &link).expect("a new name");
                set_up(number).expect("an interface that is up");
            }
            renamed => renamed.expect("a new name"),
        }
        self.name = name.into();
    }

    /// Sets the cable's other end down.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn unplug(&self) {
        let mut peer = link_header(index(&format!("{}p", self.name)).expect("the other end"), 0);
        // struct ifinfomsg ends with the mask of the flags that change.
        peer[12..16].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
        ask(libc::RTM_NEWLINK, 0, &peer).expect("an end that is down");
    }

    /// Adds an alternative name (`ip link property add`).
    ///
    /// # Errors
    /// Where the kernel is older than Linux 5.5.
    pub fn add_name(&self, name: &str) -> io::Result<()> {
        // linux/if_link.h: IFLA_PROP_LIST is 52, IFLA_ALT_IFNAME is 53; linux/netlink.h: NLA_F_NESTED.
        const NESTED: u16 = 0x8000;
        const RTM_NEWLINKPROP: u16 = 108;
        let mut names = Vec::new();
        attribute(&mut names, 53, &c_text(name));
        let mut link = link_header(index(&self.name)?, 0);
        attribute(&mut link, 52 | NESTED, &names);
        ask(RTM_NEWLINKPROP, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &link)
    }

    fn address_header(&self, address: &str, prefix_length: u8) -> Vec<u8> {
        self.header(address, address, prefix_length)
    }

    fn header(&self, address: &str, peer: &str, prefix_length: u8) -> Vec<u8> {
        let [address, peer] = [address, peer].map(|text| text.parse::<Ipv6Addr>().expect("an IPv6 address"));
        let mut message = vec![libc::AF_INET6 as u8, prefix_length, 0, 0];
        message.extend(index(&self.name).expect("the interface").to_ne_bytes());
        attribute(&mut message, libc::IFA_LOCAL, &address.octets());
        attribute(&mut message, libc::IFA_ADDRESS, &peer.octets());
        message
    }
}

impl Default for Interface {
    fn default() -> Self {
        Interface::new()
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        if let Ok(number) = index(&self.name) {
            // It may be gone already.
            let _ = ask(libc::RTM_DELLINK, 0, &link_header(number, 0));
        }
    }
}

pub(super) fn set_up(number: u32) -> io::Result<()> {
    ask(libc::RTM_NEWLINK, 0, &link_header(number, libc::IFF_UP as u32))
}

/// The index of an interface.
pub(super) fn index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name ends in NUL and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}

pub(super) fn c_text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// struct ifinfomsg with these flags set.
pub(super) fn link_header(number: u32, flags: u32) -> Vec<u8> {
    let mut header = vec![0u8; 4];
    header.extend(number.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header
}

pub(super) fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((value.len() + 4) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Sends one request and waits for its acknowledgement.
pub(super) fn ask(kind: u16, flags: i32, payload: &[u8]) -> io::Result<()> {
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
    // SAFETY: it was just opened, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut message = ((payload.len() + 16) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(((flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([1u32, 0].iter().flat_map(|n| n.to_ne_bytes()));
    message.extend(payload);
    // SAFETY: the pointer and the length describe the message, which outlives the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    let mut answer = [0u8; 4096];
    // SAFETY: the pointer and the length describe the buffer, which outlives the call.
    let length = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    if sent < 0 || length < 20 {
        return Err(io::Error::last_os_error());
    }
    // struct nlmsgerr after the header: 0, or a negative errno.
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Mounts `file` over `target` for a child, in a mount namespace of its own.
pub fn bind_in_child(command: &mut Command, file: &Path, target: &Path) {
    let (file, target) = (c_path(file), c_path(target));
    let bind = move || {
        // SAFETY: no pointers are passed.
        checked(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
        mount(Some(&file), &target, None, libc::MS_BIND)
    };
    // SAFETY: between fork and exec the closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(bind) };
}
