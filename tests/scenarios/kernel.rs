//! The machine under k6u: links, netlink, descriptors, clocks, the watchdog, an empty root.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::certificates::Certificate;
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::server::{Cilium, TOKEN};
use k6u_testkit::machine::confine::{ACCOUNT, confine};
use k6u_testkit::machine::link::{bridge, ppp, vlan};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::{Node, Start};
use k6u_testkit::site::{ADDRESS, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, NODE, Running, SOON, Site, binary};
use serde_json::{Value, json};

use crate::Scenario;

pub const ALL: &[Scenario] = scenarios![
    alone_in_an_empty_root,
    no_file_descriptors,
    open_descriptors_and_threads,
    reading_the_token_blocks,
    standard_error_blocks,
    each_round_resets_the_alarm,
    each_response_resets_the_alarm,
    a_vlan,
    a_bridge,
    a_ppp_link,
    netlink_overruns,
    the_nodes_clock_jumps_by_a_year,
];

/// A scenario, the kernel feature that it needs, and a function that tries this feature.
type Need = (&'static str, &'static str, fn(&Interface) -> io::Result<()>);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn alone_in_an_empty_root() {
    let site = Site::with_address(ADDRESS);
    let place = site.account.folder.with_extension("root");
    fs::create_dir_all(&place).expect("a folder");
    let mut start = site
        .start()
        .with("UPDATE_INTERVAL", "1")
        .with("SERVICE_ACCOUNT_DIR", ACCOUNT);
    start.binary = PathBuf::from("/k6u");
    let mut command = start.command();
    confine(&mut command, binary(), &site.account.folder, &place);
    let mut node = Running(Node::of(command.spawn().expect("k6u starts")));
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");

    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).expect("it runs");
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the field")
            .trim()
    };
    for (name, value) in [
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("Threads:", "1"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    let map = fs::read_to_string(format!("/proc/{}/uid_map", node.id())).expect("it runs");
    assert_eq!(map.split_whitespace().next(), Some("1000"), "{map}");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", node.id())).expect("it runs");
    let options = mounts.lines().map(|line| line.split(' ').nth(3).unwrap_or_default());
    assert_eq!(
        options.clone().count(),
        3,
        "the root, the binary, the account: {mounts}"
    );
    assert!(options.into_iter().all(|options| options.starts_with("ro")), "{mounts}");

    // k6u follows a change, a new token and CA, and a server that restarts.
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    site.account.write("token", TOKEN);
    site.server.stop();
    node.wait_log("connection refused", SOON);
    site.server.restart().expect("it listens again");
    site.interface.add("2001:db8:aaaa:bbb1::10");
    site.interface.remove(NEW_ADDRESS);
    site.wait_lan("2001:db8:aaaa:bbb");
    node.signal(libc::SIGTERM);
    let ended = node.wait(SOON).expect("it ends");
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    fs::remove_dir(&place).expect("it was only mounted on");
}

fn no_file_descriptors() {
    let site = Site::with_address(ADDRESS);
    // Enough to start: standard streams, two netlink sockets; nothing is left for a connection or a file.
    let k6u = site.start().with("UPDATE_INTERVAL", "1");
    let script = format!("ulimit -Sn 5; exec {}", k6u.binary.display());
    let shell = Start {
        binary: "/bin/sh".into(),
        ..k6u
    };
    let node = Running(shell.arguments(&["-c", &script]).spawn());
    // EMFILE, by its number: glibc and musl say it in different words.
    node.wait_log("(os error 24)", SOON);
    let more = libc::rlimit {
        rlim_cur: 64,
        rlim_max: 64,
    };
    // SAFETY: `more` outlives the call, and the old limit is not asked for.
    let set = unsafe {
        libc::prlimit(
            node.id() as libc::pid_t,
            libc::RLIMIT_NOFILE,
            &more,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(set, 0);
    site.wait_lan("2001:db8:1234:567");
    node.wait_log("recovered after", SOON);
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
}

fn open_descriptors_and_threads() {
    let (site, node) = Site::settled(1);
    site.wait_rounds(3);
    let proc = format!("/proc/{}", node.id());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    assert!(status.lines().any(|line| line == "Threads:\t1"), "{status}");
    let children = fs::read_to_string(format!("{proc}/task/{}/children", node.id())).unwrap_or_default();
    assert_eq!(children.trim(), "", "it has children");
    // A round opens descriptors for a moment; those that k6u holds are in each sample.
    let open = || -> BTreeSet<String> {
        let entries = fs::read_dir(format!("{proc}/fd")).unwrap().flatten();
        let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    };
    let is_file = |target: &&String| target.starts_with('/') && *target != "/dev/null";
    let is_socket = |target: &&String| target.starts_with("socket:");
    let mut held = open();
    let deadline = Instant::now() + SOON;
    while held.iter().any(|target| is_file(&target)) || held.iter().filter(is_socket).count() > 3 {
        assert!(
            Instant::now() < deadline,
            "it holds a file open, or too many sockets: {held:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
        held = held.intersection(&open()).cloned().collect();
    }
    let kinds: Vec<&String> = held.iter().filter(is_socket).collect();
    assert_eq!(kinds.len(), 3, "two netlink sockets and one connection: {kinds:?}");
    // 0A is LISTEN.
    for file in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("{proc}/net/{file}")).unwrap();
        let inode = |line: &str| line.split_whitespace().nth(9).map(|inode| format!("socket:[{inode}]"));
        let listens = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
        let own = table
            .lines()
            .filter(listens)
            .filter_map(inode)
            .any(|socket| kinds.contains(&&socket));
        assert!(!own, "it listens: {table}");
    }
}

/// A library to preload: it shortens the alarm from five minutes to three seconds.
const SHORT_ALARM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>

unsigned alarm(unsigned seconds) {
    unsigned (*real)(unsigned) = (unsigned (*)(unsigned))dlsym(RTLD_NEXT, "alarm");
    return real(seconds == 300 ? 3 : seconds);
}
"#;

/// 128 + SIGALRM.
const SIGALRM_STATUS: Option<i32> = Some(142);

/// Starts k6u with an alarm after three seconds.
fn with_short_alarm(site: &Site) -> Start {
    let folder = &site.account.folder;
    fs::write(folder.join("alarm.c"), SHORT_ALARM).expect("a file");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", "alarm.so", "alarm.c", "-ldl"])
        .current_dir(folder)
        .status();
    assert!(built.expect("a C compiler").success());
    let library = folder.join("alarm.so").display().to_string();
    site.start().with("UPDATE_INTERVAL", "1").with("LD_PRELOAD", &library)
}

/// open(2) blocks, as on a file system whose server is gone.
fn reading_the_token_blocks() {
    let site = Site::with_address(ADDRESS);
    let mut node = Running(with_short_alarm(&site).spawn());
    site.wait_lan("2001:db8:1234:567");
    let token = site.account.folder.join("token");
    fs::remove_file(&token).expect("the token");
    let made = Command::new("mkfifo").arg(&token).status();
    assert!(made.expect("mkfifo").success());
    let ended = node.wait(Duration::from_secs(60)).expect("it hangs forever");
    assert_eq!(ended.code(), SIGALRM_STATUS, "{ended}");
    node.wait_log("k6u: no API response for five minutes", SOON);
}

/// k6u cannot log why it exits.
fn standard_error_blocks() {
    let site = Site::with_address(ADDRESS);
    let (reader, mut writer) = io::pipe().expect("a pipe");
    // SAFETY: no pointers are passed.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
    let full = vec![b'x'; usize::try_from(size).expect("the pipe's size")];
    writer.write_all(&full).expect("as much as fits");
    let child = with_short_alarm(&site)
        .command()
        .stderr(writer)
        .stdout(Stdio::null())
        .spawn();
    let mut child = child.expect("k6u starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        assert!(Instant::now() < deadline, "it hangs forever");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended.code(), SIGALRM_STATUS, "{ended}");
    drop(reader);
}

/// The alarm covers one round, and not the time between two rounds.
fn each_round_resets_the_alarm() {
    let site = Site::with_address(ADDRESS);
    let mut node = Running(with_short_alarm(&site).with("UPDATE_INTERVAL", "4").spawn());
    site.wait_lan("2001:db8:1234:567");
    assert_eq!(node.wait(Duration::from_secs(7)), None, "{:#?}", node.log());
    assert!(node.count("DEBUG round: ") >= 2, "{:#?}", node.log());
}

/// A slow API server and many targets: the round is longer than the alarm, but nothing hangs.
fn each_response_resets_the_alarm() {
    let site = Site::with_address(ADDRESS);
    let node = Running(with_short_alarm(&site).spawn());
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::always(Fault::Late(Duration::from_millis(700))));
    let groups: Vec<Value> = (0..5)
        .map(|n| json!({"ciliumCIDRGroupName": format!("g{n}"), "prefixIds": [0]}))
        .collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": groups}}),
    );
    for n in 0..5 {
        site.wait_group(&format!("g{n}"), &["2001:db8:1234:5670::/64"]);
    }
    let microseconds = |line: &String| {
        let (_, time) = line.split_once("requests, ")?;
        time.split_once(" us: ")?.0.parse::<u64>().ok()
    };
    let longest = || node.log().iter().filter_map(microseconds).max();
    let deadline = Instant::now() + SOON;
    while longest() < Some(3_000_000) {
        assert!(
            Instant::now() < deadline,
            "no round is longer than the alarm: {:#?}",
            node.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(node.count("k6u: no API response"), 0, "{:#?}", node.log());
}

const NEEDS: &[Need] = &[
    ("a_vlan", "VLANs (8021q)", |lower| vlan(lower, 7).map(drop)),
    ("a_bridge", "bridges", |lower| bridge(lower).map(drop)),
    ("a_ppp_link", "PPPoE and a /dev/ppp that may be opened", |lower| {
        ppp(lower).map(drop)
    }),
];

/// Returns the scenarios whose kind of interface this kernel lacks, each with the missing feature. To be called in the
/// namespace.
pub fn unsupported() -> Vec<(&'static str, String)> {
    let tried = NEEDS.iter().map(|(name, need, attempt)| {
        let error = attempt(&Interface::new()).err()?;
        Some((*name, format!("{need}: {error}")))
    });
    tried.flatten().collect()
}

/// Runs k6u on the upper one of two interfaces, through a renumbering.
fn follows_upper(make: impl FnOnce(&Interface) -> Interface, move_to: impl FnOnce(&Interface, &str)) {
    let mut site = Site::bare("127.0.0.1", Some(Cilium::Both));
    let upper = make(&site.interface);
    let lower = std::mem::replace(&mut site.interface, upper);
    site.install();
    lower.add("2001:db8:bad:1::10");
    site.interface.add(ADDRESS);
    // The node has published before, so it may remove prefixes at once.
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    let node = site.run(3600);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    let published = || {
        let node_config = site.object("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
        node_config.expect("it is there")["status"]["nodes"][NODE]["prefixes"].clone()
    };
    assert_eq!(published(), json!(["2001:db8:1234:5671::/64"]));

    lower.add("2001:db8:bad:2::10");
    move_to(&site.interface, NEW_ADDRESS);
    site.interface.remove(ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("the addresses changed: next round in 0 ms", SOON);
    assert_eq!(published(), json!(["2001:db8:9876:5431::/64"]));
    let history = site.group_history(GROUP);
    assert!(
        history.iter().flatten().all(|cidr| !cidr.starts_with("2001:db8:bad")),
        "{history:#?}"
    );
    assert_eq!(node.complaints(), [""; 0]);
}

fn a_vlan() {
    follows_upper(|lower| vlan(lower, 7).expect("a VLAN"), Interface::add);
}

fn a_bridge() {
    follows_upper(|port| bridge(port).expect("a bridge"), Interface::add);
}

/// The address of a PPP link may name the other end, whose prefix is another one.
fn a_ppp_link() {
    let mut session = None;
    let make = |lower: &Interface| {
        let (interface, its_session) = ppp(lower).expect("a PPP link");
        session = Some(its_session);
        interface.add_with_peer("fe80::10", "fe80::1");
        interface
    };
    follows_upper(make, |interface, address| {
        interface.add_with_peer(address, "2001:db8:bad:3::1");
    });
    drop(session);
}

fn netlink_overruns() {
    let (site, node) = Site::settled(3600);
    // Sockets of other processes are in the same table; its last column is the inode.
    let own: BTreeSet<String> = fs::read_dir(format!("/proc/{}/fd", node.id()))
        .expect("it runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            Some(
                target
                    .to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_string(),
            )
        })
        .collect();
    let drops = || -> u64 {
        let table = fs::read_to_string(format!("/proc/{}/net/netlink", node.id())).expect("it runs");
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let of_k6u = rows.filter(|row| row.get(9).is_some_and(|inode| own.contains(*inode)));
        of_k6u.map(|row| row[8].parse::<u64>().expect("a number")).sum()
    };
    let before = drops();
    // While k6u is stopped, the kernel reports more than the socket holds, so the last change is lost.
    node.signal(libc::SIGSTOP);
    for number in 0..1500 {
        site.interface.add(&format!("2001:db8:1234:5671::{:x}", number + 0x100));
    }
    site.interface.add(NEW_ADDRESS);
    for number in 0..1500 {
        site.interface
            .remove(&format!("2001:db8:1234:5671::{:x}", number + 0x100));
    }
    site.interface.remove(ADDRESS);
    assert!(drops() > before, "nothing overran");
    node.signal(libc::SIGCONT);
    site.wait_lan("2001:db8:9876:543");
    // And it still listens.
    site.interface.add("2001:db8:aaaa:bbb1::10");
    site.interface.remove(NEW_ADDRESS);
    site.wait_lan("2001:db8:aaaa:bbb");
    assert_eq!(node.complaints(), [""; 0]);
}

/// Moves the clock of dynamically linked programs by the seconds in the file $CLOCK.
const CLOCK_SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, time);
    FILE *file = id == CLOCK_REALTIME && getenv("CLOCK") ? fopen(getenv("CLOCK"), "r") : NULL;
    long shift = 0;
    if (file) {
        if (fscanf(file, "%ld", &shift) != 1) shift = 0;
        fclose(file);
    }
    time->tv_sec += shift;
    return status;
}
"#;

fn the_nodes_clock_jumps_by_a_year() {
    let site = Site::with_address(ADDRESS);
    let folder = &site.account.folder;
    fs::write(folder.join("shift.c"), CLOCK_SHIFT).expect("a file");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", "shift.so", "shift.c", "-ldl"])
        .current_dir(folder)
        .status();
    assert!(built.expect("a C compiler").success());
    let set = |seconds: i64| site.account.write("clock", seconds.to_string());
    set(0);
    let lasting = |days| Certificate {
        days,
        ..Certificate::default()
    };
    site.server.set_tls(site.server.authority.server(&lasting(30)));
    let start = site
        .start()
        .with("UPDATE_INTERVAL", "1")
        .with("LD_PRELOAD", &folder.join("shift.so").display().to_string())
        .with("CLOCK", &folder.join("clock").display().to_string());
    let node = Running(start.spawn());
    site.wait_lan("2001:db8:1234:567");
    site.wait_rounds(2);
    let year = YEAR.as_secs() as i64;
    for (shift, prefix, address, before) in [
        (year, "2001:db8:9876:543", NEW_ADDRESS, ADDRESS),
        (-year, "2001:db8:aaaa:bbb", "2001:db8:aaaa:bbb1::10", NEW_ADDRESS),
    ] {
        let said = node.complaints().len();
        let written = site.changes().len();
        set(shift);
        site.wait_rounds(4);
        assert_eq!(node.complaints().len(), said, "no time of this machine's clock matters");
        assert_eq!(site.changes().len(), written);
        // A connection that resumes no session checks the certificate's validity by this machine's clock.
        site.server.set_tls(site.server.authority.server(&lasting(30)));
        site.server.close_connections();
        node.wait_complaints(said + 1);
        assert!(
            node.complaints()[said].contains("is this node's clock right?"),
            "{:?}",
            node.complaints()
        );
        site.interface.add(address);
        site.interface.remove(before);
        std::thread::sleep(Duration::from_millis(500));
        set(0);
        site.wait_lan(prefix);
        site.wait_rounds(2);
        assert_eq!(node.complaints().len(), said + 1, "{:?}", node.complaints());
    }
}
