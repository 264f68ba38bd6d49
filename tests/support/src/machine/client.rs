//! Address clients, which listen to routers and write a node's addresses instead of the kernel: NetworkManager,
//! systemd-networkd and dhcpcd. They run without an init system, in namespaces that the caller made. There /run,
//! /etc/NetworkManager and the folders in /var/lib are empty and writable, /sys is read-only (which tells
//! NetworkManager and systemd-networkd that there is no udev), and all files and interfaces are removed with the
//! namespace.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::router::{Program, spawn, wait_for_link_local};

/// A program, or the kernel, that makes addresses from router advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// SLAAC by the kernel itself.
    Kernel,
    /// dhcpcd.
    Dhcpcd,
    /// systemd-networkd.
    Networkd,
    /// NetworkManager with its own DHCPv6 client.
    NetworkManager,
}

/// A running client, which ends when this is dropped.
pub struct Running {
    programs: Vec<Program>,
    folder: PathBuf,
}

impl Client {
    /// All clients.
    pub const ALL: [Client; 4] = [Client::Kernel, Client::Dhcpcd, Client::Networkd, Client::NetworkManager];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Client::Kernel => "kernel",
            Client::Dhcpcd => "dhcpcd",
            Client::Networkd => "systemd-networkd",
            Client::NetworkManager => "NetworkManager",
        }
    }

    /// The programs that it needs.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Client::Kernel => &[],
            Client::Dhcpcd => &["dhcpcd"],
            Client::Networkd => &[NETWORKD],
            Client::NetworkManager => &["NetworkManager", "dbus-daemon"],
        }
    }

    /// Starts it on an interface: SLAAC, and DHCPv6 where a router says so.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(self, interface: &str) -> Running {
        let mut running = Running::new(interface);
        match self {
            Client::Kernel => {}
            Client::Dhcpcd => running.dhcpcd(&[interface], &format!("interface {interface}\nia_na 1\n")),
            Client::Networkd => running.networkd(&[(interface, "[Network]\nIPv6AcceptRA=yes\nDHCP=no\n")]),
            Client::NetworkManager => running.network_manager(interface, "ethernet", ""),
        }
        running
    }

    /// Starts it on a bridge that has this interface as a port.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_on_bridge(self, port: &str, bridge: &str) -> Running {
        if self == Client::NetworkManager {
            // It creates the bridge itself, and ignores interfaces that have addresses already.
            shell(&format!("ip link set {port} down"));
            let mut running = Running::new(bridge);
            running.profile(
                port,
                "ethernet",
                None,
                &format!("[connection]\nmaster={bridge}\nslave-type=bridge\n"),
            );
            running.network_manager(bridge, "bridge", "[bridge]\nstp=false\n");
            return running;
        }
        shell(&format!(
            "ip link add {bridge} type bridge forward_delay 0; echo 0 > /proc/sys/net/ipv6/conf/{bridge}/accept_dad; \
             echo 1 > /proc/sys/net/ipv6/conf/{port}/disable_ipv6; ip link set {port} master {bridge}; \
             ip link set {bridge} up"
        ));
        self.start(bridge)
    }

    /// Starts it on a VLAN of an interface. The client creates the VLAN if it can. Returns the VLAN's interface, too.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_on_vlan(self, parent: &str, vlan: u16) -> (Running, String) {
        let name = format!("{parent}.{vlan}");
        let mut running = Running::new(&name);
        match self {
            Client::Kernel | Client::Dhcpcd => {
                shell(&format!(
                    "ip link add link {parent} name {name} type vlan id {vlan}; \
                     echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad; ip link set {name} up"
                ));
                running = self.start(&name);
            }
            Client::Networkd => {
                let device = format!("[NetDev]\nName={name}\nKind=vlan\n[VLAN]\nId={vlan}\n");
                write(Path::new("/run/systemd/network/10-vlan.netdev"), &device);
                let below = format!("[Network]\nVLAN={name}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nDHCP=no\n");
                running.networkd(&[(parent, &below), (&name, "[Network]\nIPv6AcceptRA=yes\nDHCP=no\n")]);
            }
            Client::NetworkManager => {
                running.network_manager(&name, "vlan", &format!("[vlan]\nparent={parent}\nid={vlan}\nflags=1\n"));
            }
        }
        (running, name)
    }

    /// Dials to a server on an interface's cable (PPPoE), and starts it on the interface ppp0.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_on_ppp(self, parent: &str) -> Running {
        let mut running = Running::new("ppp0");
        if self == Client::NetworkManager {
            // It starts pppd itself.
            running.network_manager("ppp0", "pppoe", &format!("[pppoe]\nparent={parent}\nusername=k6u\n"));
            return running;
        }
        let mut pppd = Command::new("pppd");
        pppd.args(["plugin", "rp-pppoe.so"]).arg(format!("nic-{parent}"));
        pppd.args([
            "noauth", "noip", "+ipv6", "ipv6", "::2,::1", "nodetach", "persist", "debug",
        ]);
        running.add(&mut pppd, "pppd.log");
        match self {
            Client::Dhcpcd => {
                // Without udev it ends if the interface is not there yet.
                shell(&wait_for_link_local("ppp0"));
                running.dhcpcd(&["ppp0"], "interface ppp0\nia_na 1\n");
            }
            Client::Networkd => running.networkd(&[("ppp0", "[Network]\nIPv6AcceptRA=yes\nDHCP=no\n")]),
            Client::Kernel | Client::NetworkManager => {}
        }
        running
    }

    /// Starts it as a router's client: it asks for a delegated prefix on `uplink`, and gives `lan` the /64 with the
    /// number 1. `None` if the client cannot do this.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_delegated(self, uplink: &str, lan: &str) -> Option<Running> {
        let mut running = Running::new(uplink);
        match self {
            Client::Dhcpcd => {
                let conf = format!("noipv6rs\ninterface {uplink}\nia_na 1\nia_pd 2 {lan}/1/64\n");
                running.dhcpcd(&[uplink, lan], &conf);
            }
            Client::Networkd => {
                let up = "[Network]\nIPv6AcceptRA=no\nDHCP=ipv6\n[DHCPv6]\nWithoutRA=solicit\n";
                let down = format!(
                    "[Network]\nIPv6AcceptRA=no\nDHCPPrefixDelegation=yes\n\
                     [DHCPPrefixDelegation]\nUplinkInterface={uplink}\nSubnetId=1\nAnnounce=no\n"
                );
                running.networkd(&[(uplink, up), (lan, &down)]);
            }
            Client::NetworkManager => {
                running.profile(lan, "ethernet", Some("shared"), "");
                running.network_manager(uplink, "ethernet", "");
            }
            Client::Kernel => return None,
        }
        Some(running)
    }
}

/// The path of systemd-networkd, relative to a folder of programs.
const NETWORKD: &str = "../lib/systemd/systemd-networkd";

impl Running {
    fn new(interface: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("k6u-client-{}-{interface}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Running {
            programs: Vec::new(),
            folder,
        }
    }

    fn add(&mut self, command: &mut Command, log: &str) {
        self.programs.push(spawn(command, self.folder.join(log)));
    }

    fn dhcpcd(&mut self, interfaces: &[&str], more: &str) {
        let conf = self.folder.join("dhcpcd.conf");
        // Without udev, dhcpcd would wait for the news that an interface is ready.
        write(&conf, &format!("duid\nipv6only\nnodev\nnohook resolv.conf\n{more}"));
        let mut command = Command::new("dhcpcd");
        command
            .args(["--nobackground", "--debug", "--ipv6only", "--config"])
            .arg(&conf)
            .args(interfaces);
        self.add(&mut command, "dhcpcd.log");
    }

    fn networkd(&mut self, networks: &[(&str, &str)]) {
        for (interface, network) in networks {
            let path = PathBuf::from(format!("/run/systemd/network/10-{interface}.network"));
            write(&path, &format!("[Match]\nName={interface}\n{network}"));
        }
        let state = Path::new("/run/systemd/netif");
        fs::create_dir_all(state).expect("a folder");
        let (user, group) = user("systemd-network");
        chown(state, Some(user), Some(group)).expect("networkd's own folder");
        let mut command = Command::new(Path::new("/usr/bin").join(NETWORKD));
        command.env("SYSTEMD_LOG_LEVEL", "debug");
        self.add(&mut command, "networkd.log");
    }

    /// Writes a connection profile for NetworkManager; with addresses, unless the interface is a port of another one.
    fn profile(&self, interface: &str, kind: &str, method: Option<&str>, more: &str) {
        let profile = Path::new("/etc/NetworkManager/system-connections").join(format!("{interface}.nmconnection"));
        // PPP has no hardware address for eui64.
        let identifiers = if kind == "pppoe" { "stable-privacy" } else { "eui64" };
        let ip = method.map_or(String::new(), |method| {
            format!("[ipv4]\nmethod=disabled\n[ipv6]\nmethod={method}\naddr-gen-mode={identifiers}\n")
        });
        let text = format!(
            "[connection]\nid={interface}\ntype={kind}\ninterface-name={interface}\nautoconnect=true\n{ip}{more}"
        );
        write(&profile, &text);
        fs::set_permissions(profile, fs::Permissions::from_mode(0o600)).expect("a private file");
    }

    fn network_manager(&mut self, interface: &str, kind: &str, more: &str) {
        let folder = Path::new("/etc/NetworkManager");
        write(
            &folder.join("NetworkManager.conf"),
            "[main]\nplugins=keyfile\ndns=none\nno-auto-default=*\nauth-polkit=false\n[logging]\nlevel=DEBUG\n\
             [device-all]\nmatch-device=*\nmanaged=1\n",
        );
        self.profile(interface, kind, Some("auto"), more);
        fs::create_dir_all("/run/dbus").expect("a folder");
        let mut bus = Command::new("dbus-daemon");
        self.add(bus.args(["--system", "--nofork", "--nopidfile"]), "dbus.log");
        while !Path::new("/run/dbus/system_bus_socket").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let mut command = Command::new("NetworkManager");
        self.add(command.arg("--debug"), "NetworkManager.log");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                eprintln!("{}:\n{text}", entry.path().display());
            }
        }
    }
}

fn shell(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().expect("a shell");
    assert!(status.success(), "{script}");
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
    fs::write(path, text).expect("a configuration");
}

/// The numbers of a user and of its group.
fn user(name: &str) -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("the list of users");
    let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let fields = lines.find(|fields| fields.len() > 3 && fields[0] == name);
    let fields = fields.unwrap_or_else(|| panic!("there is no user {name}"));
    (
        fields[2].parse().expect("a number"),
        fields[3].parse().expect("a number"),
    )
}
