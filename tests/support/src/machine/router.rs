//! A router: a network namespace of its own with the other end of a node's cable, and router software in it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::namespace::Interface;

/// The time limit for a program.
const MINUTE: Duration = Duration::from_secs(60);

/// A prefix in a router advertisement.
pub struct Announced {
    /// The /64 of the link.
    pub prefix: String,
    /// Its preferred lifetime in seconds; 0 deprecates it.
    pub preferred: u32,
}

/// A router on the other end of an interface's cable.
pub struct Router {
    /// The process that keeps the namespace.
    holder: Program,
    /// The router's interface.
    name: String,
    folder: PathBuf,
}

/// A program that ends with the test.
pub struct Program(Child);

impl Program {
    fn signal(&self, signal: i32) {
        // SAFETY: no pointers are passed; the child was not waited for, so its id is its own.
        unsafe { libc::kill(self.0.id() as libc::pid_t, signal) };
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running dhcpcd.
pub struct Dhcpcd {
    program: Program,
    log: PathBuf,
}

impl Dhcpcd {
    /// Lets it renew its leases now (dhcpcd, src/dhcpcd.c `dhcpcd_signal_cb`). dhcpcd can miss a signal while it starts
    /// a process for a new address.
    pub fn renew(&self) {
        let deadline = Instant::now() + MINUTE;
        loop {
            self.program.signal(libc::SIGUSR1);
            std::thread::sleep(Duration::from_millis(500));
            let log = fs::read_to_string(&self.log).expect("dhcpcd's log");
            if log.contains("received SIGUSR1") {
                return;
            }
            assert!(Instant::now() < deadline, "dhcpcd does not renew: {log}");
        }
    }
}

impl Drop for Dhcpcd {
    fn drop(&mut self) {
        // dhcpcd ends its own children.
        self.program.signal(libc::SIGTERM);
        let deadline = Instant::now() + MINUTE;
        while matches!(self.program.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A running radvd.
pub struct Radvd {
    program: Program,
    conf: PathBuf,
    head: String,
}

/// Whether this program is installed.
pub fn is_installed(program: &str) -> bool {
    [
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
        "/usr/local/sbin",
        "/usr/local/bin",
    ]
    .iter()
    .any(|folder| PathBuf::from(folder).join(program).exists())
}

pub(crate) fn spawn(command: &mut Command, log: PathBuf) -> Program {
    let log = fs::File::create(log).expect("a log file");
    let error = log.try_clone().expect("the same file");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error);
    Program(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
}

/// A shell script that waits for a link-local address: with PPP, both ends have one when they have agreed.
pub(crate) fn wait_for_link_local(interface: &str) -> String {
    format!(
        "for second in $(seq 90); do ip -6 address show dev {interface} 2>/dev/null | grep -q fe80 && exit; sleep 1; \
         done; echo no {interface} >&2; exit 1"
    )
}

impl Router {
    /// Moves the other end of the interface's cable into a namespace of its own.
    pub fn behind(interface: &Interface) -> Self {
        let name = format!("{}p", interface.name);
        let folder = std::env::temp_dir().join(format!("k6u-router-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut unshare = Command::new("unshare");
        let holder = spawn(unshare.args(["--net", "sleep", "600"]), folder.join("holder.log"));
        let id = holder.0.id();
        let of = |id: &str| fs::read_link(format!("/proc/{id}/ns/net")).ok();
        while of(&id.to_string()) == of("self") {
            std::thread::sleep(Duration::from_millis(2));
        }
        interface.give_peer_to(id);
        // The node's end gets addresses at once, without duplicate address detection.
        let setting = format!("/proc/sys/net/ipv6/conf/{}/accept_dad", interface.name);
        fs::write(setting, "0").expect("no duplicate address detection");
        let router = Router { holder, name, folder };
        let name = &router.name;
        router.shell(&format!(
            "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad; \
             ip link set {name} up"
        ));
        router
    }

    /// Moves the router to a VLAN of the cable.
    pub fn tag(&mut self, vlan: u16) {
        let tagged = format!("{}.{vlan}", self.name);
        self.shell(&format!(
            "ip link add link {} name {tagged} type vlan id {vlan}; \
             echo 0 > /proc/sys/net/ipv6/conf/{tagged}/accept_dad; ip link set {tagged} up",
            self.name
        ));
        self.name = tagged;
    }

    /// Moves the router to the other end of a PPP link, over Ethernet on the cable (RFC 2516), where nodes get
    /// addresses by announcements only. Returns when `dial` has made the connection.
    pub fn pppoe<T>(&mut self, dial: impl FnOnce() -> T) -> (Program, T) {
        let options = self.folder.join("pppoe-options");
        fs::write(
            &options,
            "noauth\nnoip\n+ipv6\nipv6 ::1,::2\nlcp-echo-interval 0\ndebug\n",
        )
        .expect("options");
        let mut command = self.command("pppoe-server");
        command.args(["-F", "-I", &self.name, "-O"]).arg(options);
        let server = spawn(&mut command, self.folder.join("pppoe-server.log"));
        let dialled = dial();
        self.name = "ppp0".into();
        self.shell(&wait_for_link_local(&self.name));
        (server, dialled)
    }

    /// A command in the router's namespace.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.0.id().to_string(), "--net", program]);
        command
    }

    fn shell(&self, script: &str) {
        let output = self.command("sh").args(["-ec", script]).output().expect("a shell");
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs radvd, which announces at intervals between `min` and `max` seconds.
    pub fn radvd(&self, id: &str, min: &str, max: &str, prefixes: &[Announced]) -> Radvd {
        self.radvd_at(&self.name, id, min, max, prefixes)
    }

    /// Runs another radvd with a link-local address of its own, as another router on the same link.
    pub fn another_radvd(&self, id: &str, min: &str, max: &str, prefixes: &[Announced]) -> Radvd {
        let (name, own) = (&self.name, format!("{}{id}", self.name));
        self.shell(&format!(
            "ip link add {own} link {name} type macvlan mode bridge; \
             echo 0 > /proc/sys/net/ipv6/conf/{own}/accept_dad; ip link set {own} up"
        ));
        self.radvd_at(&own, id, min, max, prefixes)
    }

    fn radvd_at(&self, interface: &str, id: &str, min: &str, max: &str, prefixes: &[Announced]) -> Radvd {
        let head = format!(
            "interface {interface} {{\n  AdvSendAdvert on;\n  AdvIntervalOpt on;\n  MinDelayBetweenRAs 0.03;\n  \
             MinRtrAdvInterval {min};\n  MaxRtrAdvInterval {max};\n"
        );
        let conf = self.folder.join(format!("radvd-{id}.conf"));
        write_conf(&conf, &head, prefixes);
        let mut command = self.command("radvd");
        command
            .args(["--nodaemon", "--logmethod", "stderr", "--config"])
            .arg(&conf);
        command
            .arg("--pidfile")
            .arg(self.folder.join(format!("radvd-{id}.pid")));
        Radvd {
            program: spawn(&mut command, self.folder.join(format!("radvd-{id}.log"))),
            conf,
            head,
        }
    }

    /// Runs dnsmasq, which announces these prefixes for SLAAC.
    pub fn dnsmasq(&self, prefixes: &[Announced]) -> Program {
        let mut command = self.dnsmasq_command();
        for announced in prefixes {
            let network = self.own_address(&announced.prefix);
            let life = if announced.preferred == 0 {
                "deprecated".into()
            } else {
                format!("{}s", announced.preferred)
            };
            command.arg(format!("--dhcp-range={network},ra-only,64,{life}"));
        }
        spawn(&mut command, self.folder.join("dnsmasq.log"))
    }

    /// Runs dnsmasq, which gives addresses by DHCPv6 only.
    pub fn dnsmasq_managed(&self, prefix: &str) -> Program {
        let network = self.own_address(prefix);
        let mut command = self.dnsmasq_command();
        command.arg(format!("--dhcp-range={network}100,{network}1ff,64,10m"));
        spawn(&mut command, self.folder.join("dnsmasq.log"))
    }

    /// Runs dnsmasq with OpenWrt's default: addresses by SLAAC and by DHCPv6.
    pub fn dnsmasq_both(&self, prefix: &str) -> Program {
        let network = self.own_address(prefix);
        let mut command = self.dnsmasq_command();
        command.arg(format!("--dhcp-range={network}100,{network}1ff,slaac,64,10m"));
        spawn(&mut command, self.folder.join("dnsmasq.log"))
    }

    /// Runs dnsmasq, which gives addresses by DHCPv6, and announces nothing.
    pub fn dnsmasq_silent(&self, prefix: &str) -> Program {
        let network = self.own_address(prefix);
        let mut command = self.dnsmasq_command_with(&[]);
        command.arg(format!("--dhcp-range={network}100,{network}1ff,64,10m"));
        spawn(&mut command, self.folder.join("dnsmasq.log"))
    }

    /// Runs Kea, which delegates a /60 by DHCPv6, and loses its leases in a restart. Lifetimes are in seconds; the
    /// client renews after a quarter of the preferred one.
    pub fn kea(&self, delegated: &str, preferred: u32, valid: u32) -> Program {
        let name = &self.name;
        let conf = self.folder.join("kea.json");
        let text = serde_json::json!({"Dhcp6": {
            "data-directory": self.folder,
            // A new link takes a moment until it works.
            "interfaces-config": {"interfaces": [name], "service-sockets-max-retries": 100,
                "service-sockets-retry-wait-time": 200},
            "lease-database": {"type": "memfile", "persist": false},
            "preferred-lifetime": preferred, "valid-lifetime": valid,
            "renew-timer": preferred / 4, "rebind-timer": preferred / 2,
            "subnet6": [{"id": 1, "subnet": "2001:db8:ffff::/64", "interface": name, "rapid-commit": true,
                "pools": [{"pool": "2001:db8:ffff::100-2001:db8:ffff::1ff"}],
                "pd-pools": [{"prefix": delegated, "prefix-len": 60, "delegated-len": 60}]}],
            "loggers": [{"name": "kea-dhcp6", "severity": "DEBUG", "debuglevel": 50,
                "output_options": [{"output": "stderr"}]}],
        }});
        fs::write(&conf, text.to_string()).expect("a configuration");
        let mut command = self.command("kea-dhcp6");
        for variable in ["KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR"] {
            command.env(variable, &self.folder);
        }
        spawn(command.arg("-c").arg(conf), self.folder.join("kea.log"))
    }

    /// Gives the router an address in a prefix. Returns the prefix as dnsmasq writes it.
    fn own_address(&self, prefix: &str) -> String {
        let network = prefix.trim_end_matches("/64");
        self.shell(&format!("ip -6 address replace {network}1/64 dev {}", self.name));
        network.to_string()
    }

    fn dnsmasq_command(&self) -> Command {
        let interval = format!("--ra-param={},4", self.name);
        self.dnsmasq_command_with(&["--enable-ra", &interval])
    }

    fn dnsmasq_command_with(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("dnsmasq");
        command.args([
            "--no-daemon",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--pid-file=",
        ]);
        command.arg(format!("--interface={}", self.name)).args(arguments);
        command.arg(format!("--dhcp-leasefile={}", self.folder.join("leases").display()));
        command
    }

    /// Runs dhcpcd on the node's end: DHCPv6, and SLAAC where a router announces prefixes for it.
    pub fn dhcpcd(&self, interface: &Interface) -> Dhcpcd {
        self.dhcpcd_with(interface, "")
    }

    /// Runs dhcpcd for DHCPv6 only, while the kernel does SLAAC.
    pub fn dhcpcd_beside_kernel(&self, interface: &Interface) -> Dhcpcd {
        self.dhcpcd_with(interface, "noipv6rs\n")
    }

    fn dhcpcd_with(&self, interface: &Interface, more: &str) -> Dhcpcd {
        let conf = self.folder.join("dhcpcd.conf");
        let text = format!(
            "duid\nipv6only\nnohook resolv.conf\ninterface {}\n{more}ia_na 1\n",
            interface.name
        );
        fs::write(&conf, text).expect("a configuration");
        let mut command = Command::new("dhcpcd");
        command
            .args(["--nobackground", "--debug", "--ipv6only", "--config"])
            .arg(conf)
            .arg(&interface.name);
        let log = self.folder.join("dhcpcd.log");
        Dhcpcd {
            program: spawn(&mut command, log.clone()),
            log,
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                eprintln!("{}:\n{text}", entry.path().display());
            }
        }
        // A temporary folder that stays does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Radvd {
    /// Announces these prefixes from now on.
    pub fn announce(&mut self, prefixes: &[Announced]) {
        write_conf(&self.conf, &self.head, prefixes);
        self.signal_handled(libc::SIGHUP);
    }

    /// Kills radvd, which withdraws nothing.
    pub fn crash(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// Stops radvd, which then announces all its prefixes as deprecated.
    pub fn stop(&mut self) {
        self.signal_handled(libc::SIGTERM);
        self.wait();
    }

    /// Sends a signal once radvd has a handler for it. radvd announces first and installs its handlers then; a signal
    /// that comes earlier kills it.
    fn signal_handled(&self, signal: i32) {
        let status = format!("/proc/{}/status", self.program.0.id());
        let caught = || {
            let status = fs::read_to_string(&status).expect("radvd's status");
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            u64::from_str_radix(mask.expect("signals").trim(), 16).expect("a mask") >> (signal - 1) & 1 == 1
        };
        let deadline = Instant::now() + MINUTE;
        while !caught() {
            assert!(Instant::now() < deadline, "radvd does not handle signal {signal}");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.signal(signal);
    }

    fn signal(&self, signal: i32) {
        self.program.signal(signal);
    }

    fn wait(&mut self) {
        self.program.0.wait().expect("radvd ends");
    }
}

fn write_conf(conf: &PathBuf, head: &str, prefixes: &[Announced]) {
    let mut text = head.to_string();
    for Announced { prefix, preferred } in prefixes {
        text += &format!(
            "  prefix {prefix} {{\n    AdvAutonomous on;\n    AdvValidLifetime 7200;\n    \
             AdvPreferredLifetime {preferred};\n    DeprecatePrefix on;\n  }};\n"
        );
    }
    fs::write(conf, text + "};\n").expect("a configuration");
}
