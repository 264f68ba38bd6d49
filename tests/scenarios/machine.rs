//! What happens to the machines: to the node that k6u runs on, and to the API server's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use k6u_testkit::apiserver::certificates::Certificate;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::machine::namespace;
use k6u_testkit::machine::node::Node;

use crate::Scenario;
use crate::site::{GROUP, NEW_ADDRESS, Running, SOON, Site, writes};
use crate::trio::{NAMES, Trio, published};

pub const ALL: &[Scenario] = scenarios![
    crds_that_are_not_established_for_half_a_minute,
    the_api_server_moves_behind_its_name,
    netlink_overruns,
    the_api_servers_clock_jumps_by_a_year,
    the_nodes_clock_jumps_by_a_year
];

/// A clock is only moved for a binary that asks the C library of the system for it.
pub const NEEDS_DYNAMIC: &str = "the_nodes_clock_jumps_by_a_year";

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const OLD: &str = "2001:db8:1234:5671::10";

fn crds_that_are_not_established_for_half_a_minute() {
    let site = Site::bare("127.0.0.1", Some(k6u_testkit::apiserver::server::Cilium::Both));
    site.interface.add(OLD);
    site.server.store().establish_after = Duration::from_secs(30);
    let node = site.run(1);
    node.wait_log("WARN  API server: the API server does not serve", SOON);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
    let written = writes(&site.server.store());
    assert!(
        written.iter().all(|line| line.contains("customresourcedefinitions")),
        "{written:?}"
    );
    site.server.advance_clock(Duration::from_secs(30));
    node.wait_log("API server: recovered after", SOON);
    site.install();
    site.wait_lan("2001:db8:1234:567");
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
}

fn the_api_server_moves_behind_its_name() {
    let mut site = Site::with_address(OLD);
    let hosts = site.account.folder.join("hosts");
    fs::write(&hosts, "127.0.0.1 kubernetes.default.svc\n").expect("a file");
    let start = site
        .start()
        .with("UPDATE_INTERVAL", "1")
        .with("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc");
    let mut command = start.command();
    namespace::bind_in_child(&mut command, &hosts, Path::new("/etc/hosts"));
    let node = Running(Node::of(command.spawn().expect("k6u starts")));
    node.wait_log("DEBUG round: ", SOON);
    site.server
        .move_to("127.0.0.9".parse().expect("an address"))
        .expect("it listens there");
    site.interface.add(NEW_ADDRESS);
    site.interface.remove(OLD);
    node.wait_log("connection refused", SOON);
    fs::write(&hosts, "127.0.0.9 kubernetes.default.svc\n").expect("a file");
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("API server: recovered after", SOON);
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
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
    // While it stands still, more is reported than its socket holds; so the last change is not among it.
    node.signal(libc::SIGSTOP);
    for number in 0..1500 {
        site.interface.add(&format!("2001:db8:1234:5671::{:x}", number + 0x100));
    }
    site.interface.add(NEW_ADDRESS);
    for number in 0..1500 {
        site.interface
            .remove(&format!("2001:db8:1234:5671::{:x}", number + 0x100));
    }
    site.interface.remove(OLD);
    assert!(drops() > before, "nothing overran");
    node.signal(libc::SIGCONT);
    site.wait_lan("2001:db8:9876:543");
    // And it still listens.
    site.interface.add("2001:db8:aaaa:bbb1::10");
    site.interface.remove(NEW_ADDRESS);
    site.wait_lan("2001:db8:aaaa:bbb");
    assert_eq!(node.complaints(), [""; 0]);
}

fn the_api_servers_clock_jumps_by_a_year() {
    type Jump = fn(&Site);
    let jumps: [Jump; 2] = [|s| s.server.advance_clock(YEAR), |s| s.server.set_back_clock(YEAR)];
    let trio = Trio::start(1);
    // The third one is at another site: nobody else publishes its prefix.
    trio.interfaces[2].remove("2001:db8:1234:5672::10");
    trio.interfaces[2].add("2001:db8:9876:5432::10");
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(
        trio.site.server.wait(SOON, both).is_some(),
        "both sites are in the group"
    );
    trio.site.wait_rounds(9);
    for jump in jumps {
        let before = trio.site.group_history(GROUP).len();
        jump(&trio.site);
        trio.site.wait_rounds(20);
        let after = trio.site.group_history(GROUP).split_off(before);
        assert!(after.is_empty(), "a clock is no reason to write: {after:#?}");
        for (name, node) in NAMES.iter().zip(&trio.nodes) {
            assert_eq!(node.complaints(), [""; 0]);
            assert!(
                published(&trio.site.server.store(), name).is_some(),
                "{name}'s entry is gone"
            );
        }
    }
    trio.interfaces[2].add("2001:db8:aaaa:bbb2::10");
    trio.interfaces[2].remove("2001:db8:9876:5432::10");
    let follows = |store: &Store| {
        let held = cidrs(store, GROUP)?;
        (held.len() == 6 && held.iter().any(|cidr| cidr.starts_with("2001:db8:aaaa"))).then_some(())
    };
    assert!(trio.site.server.wait(SOON, follows).is_some(), "and it works on");
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
    let site = Site::with_address(OLD);
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
        (year, "2001:db8:9876:543", NEW_ADDRESS, OLD),
        (-year, "2001:db8:aaaa:bbb", "2001:db8:aaaa:bbb1::10", NEW_ADDRESS),
    ] {
        let said = node.complaints().len();
        let written = site.changes().len();
        set(shift);
        site.wait_rounds(4);
        assert_eq!(node.complaints().len(), said, "no time of this machine's clock matters");
        assert_eq!(site.changes().len(), written);
        // A connection that continues no earlier session asks whether the certificate is valid by this
        // machine's clock.
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

/// Whether a binary brings its C library along.
pub fn is_static(binary: &Path) -> bool {
    // The name of the loader stands in every program that needs one.
    let bytes = fs::read(binary).expect("the binary");
    let loader = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    !loader(b"/lib64/ld-linux") && !loader(b"/lib/ld-linux")
}
