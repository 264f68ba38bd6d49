//! Real router software on the other side of a link: radvd, and dnsmasq as a second implementation.
//! SLAAC is the kernel's, DHCPv6 is dhcpcd's. Lifetimes and intervals are scaled down to seconds.
//!
//! `make test-routers` runs these. Where a program is missing, they are reported as skipped.

#![allow(clippy::pedantic)]

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::cidrs_for;
use k6u_testkit::machine::namespace;
use k6u_testkit::machine::router::{Announced, Dhcpcd, Router, is_installed};
use k6u_testkit::site::{CONFIG_NAME, GROUP, NODE_CONFIGS, Running, SOON, Site, use_binary};
use k6u_testkit::skip::skip;
use libtest_mimic::{Arguments, Trial};
use serde_json::json;

/// A test's name, the programs that it needs, and what it does.
type Case = (&'static str, &'static [&'static str], fn());

const ALL: &[Case] = &[
    ("case_1_by_the_book_radvd", &["radvd"], case_1_by_the_book_radvd),
    ("case_1_by_the_book_dnsmasq", &["dnsmasq"], case_1_by_the_book_dnsmasq),
    (
        "case_1_by_the_book_beside_a_lease",
        &["radvd", "dnsmasq", "dhcpcd"],
        case_1_by_the_book_beside_a_lease,
    ),
    (
        "case_1_by_the_book_beside_a_permanent_lease",
        &["radvd"],
        case_1_by_the_book_beside_a_permanent_lease,
    ),
    (
        "case_2_flash_renumbering_radvd",
        &["radvd"],
        case_2_flash_renumbering_radvd,
    ),
    ("case_3_router_restart_radvd", &["radvd"], case_3_router_restart_radvd),
    ("case_4_two_uplinks_radvd", &["radvd"], case_4_two_uplinks_radvd),
    ("case_4_two_uplinks_dnsmasq", &["dnsmasq"], case_4_two_uplinks_dnsmasq),
    ("case_5_dhcpv6_only", &["dnsmasq", "dhcpcd"], case_5_dhcpv6_only),
    (
        "case_5_dhcpv6_beside_slaac_renumbered",
        &["dnsmasq", "dhcpcd"],
        case_5_dhcpv6_beside_slaac_renumbered,
    ),
    (
        "case_5_dhcpv6_beside_slaac_of_the_kernel",
        &["dnsmasq", "dhcpcd"],
        case_5_dhcpv6_beside_slaac_of_the_kernel,
    ),
    (
        "case_5_a_lease_that_is_renewed_in_a_stale_prefix",
        &["radvd", "dnsmasq", "dhcpcd"],
        case_5_a_lease_that_is_renewed_in_a_stale_prefix,
    ),
    (
        "case_6_privacy_addresses_radvd",
        &["radvd"],
        case_6_privacy_addresses_radvd,
    ),
    (
        "case_8_frequent_and_rare_announcements_radvd",
        &["radvd"],
        case_8_frequent_and_rare_announcements_radvd,
    ),
    ("keep_deprecated_radvd", &["radvd"], keep_deprecated_radvd),
];

fn main() -> ExitCode {
    use_binary(env!("CARGO_BIN_EXE_k6u"));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(4);
    let entered = namespace::enter_with_mounts();
    if let Err(e) = &entered {
        skip(&format!(
            "this machine forbids user, network and mount namespaces ({e})"
        ));
    }
    let missing = |programs: &[&str]| {
        let missing: Vec<&str> = programs
            .iter()
            .copied()
            .filter(|program| !is_installed(program))
            .collect();
        (!missing.is_empty()).then(|| missing.join(" and "))
    };
    let trial = |(name, programs, case): &Case| {
        let missing = missing(&[programs, &["nsenter", "unshare"][..]].concat());
        if let Some(missing) = &missing {
            skip(&format!("{name} needs {missing}, which is not installed"));
        }
        let case = *case;
        let run = move || {
            case();
            Ok(())
        };
        Trial::test(*name, run).with_ignored_flag(entered.is_err() || missing.is_some())
    };
    libtest_mimic::run(&arguments, ALL.iter().map(trial).collect()).exit_code()
}

/// How long a test waits before it fails. DHCPv6 waits between its messages.
const PATIENCE: Duration = Duration::from_secs(60);

/// Delegated prefixes. Where a test uses all three, the provider gives ZEROTH first.
const FIRST: &str = "2001:db8:1:567";
const SECOND: &str = "2001:db8:2:567";
const ZEROTH: &str = "2001:db8:a:567";

/// The link's prefix in a delegated prefix.
fn link(delegated: &str) -> String {
    format!("{delegated}1::/64")
}

fn preferred(delegated: &str) -> Announced {
    Announced {
        prefix: link(delegated),
        preferred: 600,
    }
}

fn deprecated(delegated: &str) -> Announced {
    Announced {
        prefix: link(delegated),
        preferred: 0,
    }
}

/// A node on a link with a router, and k6u on it.
struct Home {
    site: Site,
    router: Router,
}

impl Home {
    fn new(stale_after: u32) -> Self {
        let site = Site::new();
        let patch = json!({"spec": {"staleAfterSeconds": stale_after}});
        site.patch(&format!("{NODE_CONFIGS}/ip6-update-node1"), patch);
        let router = Router::behind(&site.interface);
        Home { site, router }
    }

    fn run(&self) -> Running {
        self.site.run(1)
    }

    /// Whether the node has a preferred address in the link's prefix, of this length.
    fn has_address(&self, delegated: &str, length: u8) -> bool {
        let link: std::net::Ipv6Addr = link(delegated).trim_end_matches("/64").parse().expect("an address");
        let prefix: String = link.octets()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let addresses = fs::read_to_string("/proc/net/if_inet6").expect("the kernel's list");
        addresses.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // IFA_F_DEPRECATED is 0x20.
            let is_preferred = u32::from_str_radix(fields[4], 16).is_ok_and(|flags| flags & 0x20 == 0);
            let is_here = fields[5] == self.site.interface.name;
            fields[0].starts_with(&prefix) && fields[2] == format!("{length:02x}") && is_preferred && is_here
        })
    }

    fn wait_address(&self, delegated: &str, length: u8) {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_address(delegated, length) {
            let addresses = fs::read_to_string("/proc/net/if_inet6").expect("the kernel's list");
            assert!(
                Instant::now() < deadline,
                "no /{length} in {}: {addresses}",
                link(delegated)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the group follows this delegated prefix, for up to [`PATIENCE`].
    fn wait_patiently(&self, delegated: &str) {
        let expected = cidrs_for(delegated);
        let follows = |store: &Store| (cidrs(store, GROUP)? == expected).then_some(());
        let reached = self.site.server.wait(PATIENCE, follows);
        assert!(reached.is_some(), "{:?}", cidrs(&self.site.server.store(), GROUP));
    }

    /// Waits until the group follows both; the first is lower in order.
    fn wait_both(&self, low: &str, high: &str) {
        let both: Vec<String> = [low, high]
            .iter()
            .flat_map(|start| [0, 1, 2].map(|id| format!("{start}{id}::/64")))
            .collect();
        let both: Vec<&str> = both.iter().map(String::as_str).collect();
        self.site.wait_group(GROUP, &both);
    }
}

/// Prints how long a wrong prefix stayed, for the table in the documentation.
fn report(case: &str, since: Instant) {
    println!(
        "{case}: the old prefix was out of the group after {:.2} s",
        since.elapsed().as_secs_f64()
    );
}

fn case_1_by_the_book_radvd() {
    let home = Home::new(60);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let _node = home.run();
    home.site.wait_lan(FIRST);
    let changed = Instant::now();
    radvd.announce(&[deprecated(FIRST), preferred(SECOND)]);
    home.site.wait_lan(SECOND);
    report("case 1, radvd", changed);
}

fn case_1_by_the_book_dnsmasq() {
    let home = Home::new(60);
    let dnsmasq = home.router.dnsmasq(&[preferred(FIRST)]);
    let _node = home.run();
    home.site.wait_lan(FIRST);
    drop(dnsmasq);
    let changed = Instant::now();
    let _dnsmasq = home.router.dnsmasq(&[deprecated(FIRST), preferred(SECOND)]);
    home.site.wait_lan(SECOND);
    report("case 1, dnsmasq", changed);
}

/// OpenWrt's default is SLAAC beside DHCPv6. The server is gone, its lease goes on, and the router deprecates the
/// prefix.
fn case_1_by_the_book_beside_a_lease() {
    let home = Home::new(2);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let dnsmasq = home.router.dnsmasq_silent(&link(FIRST));
    let _dhcpcd = home.router.dhcpcd_beside_kernel(&home.site.interface);
    home.wait_address(FIRST, 64);
    home.wait_address(FIRST, 128);
    let node = home.run();
    home.site.wait_lan(FIRST);
    drop(dnsmasq);
    let changed = Instant::now();
    radvd.announce(&[deprecated(FIRST), preferred(SECOND)]);
    home.site.wait_lan(SECOND);
    report("case 1, radvd, beside a lease of dnsmasq", changed);
    assert!(home.has_address(FIRST, 128), "the lease goes on, and it is preferred");
    node.wait_log(&format!("{} left out: deprecated", link(FIRST)), SOON);
    assert_eq!(node.complaints(), [""; 0]);
}

/// Talos and ISC dhclient's script write a lease without a lifetime.
fn case_1_by_the_book_beside_a_permanent_lease() {
    let home = Home::new(60);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    home.wait_address(FIRST, 64);
    home.site
        .interface
        .set(&format!("{FIRST}1::abc"), 128, u32::MAX, u32::MAX);
    let _node = home.run();
    home.site.wait_lan(FIRST);
    let changed = Instant::now();
    radvd.announce(&[deprecated(FIRST), preferred(SECOND)]);
    home.site.wait_lan(SECOND);
    report("case 1, radvd, beside a permanent lease", changed);
    assert!(home.has_address(FIRST, 128), "the lease goes on, and it is preferred");
}

fn case_2_flash_renumbering_radvd() {
    let home = Home::new(2);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let node = home.run();
    home.site.wait_lan(FIRST);
    radvd.crash();
    let changed = Instant::now();
    let _radvd = home.router.radvd("b", "0.2", "0.3", &[preferred(SECOND)]);
    home.wait_both(FIRST, SECOND);
    home.site.wait_lan(SECOND);
    report("case 2, radvd, staleAfterSeconds 2", changed);
    node.wait_log(&format!("{} left out: stale ", link(FIRST)), SOON);
}

fn case_3_router_restart_radvd() {
    let home = Home::new(2);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(ZEROTH)]);
    let _node = home.run();
    home.site.wait_lan(ZEROTH);
    // The router does not withdraw the zeroth prefix, so it stays preferred for ten minutes.
    radvd.crash();
    let mut radvd = home.router.radvd("b", "0.2", "0.3", &[preferred(FIRST)]);
    home.site.wait_lan(FIRST);
    let before = home.site.group_history(GROUP).len();
    radvd.stop();
    home.site.wait_reason(CONFIG_NAME, "NoPrefix");
    home.site.wait_rounds(4);
    home.site.wait_lan(FIRST);
    let _radvd = home.router.radvd("c", "0.2", "0.3", &[preferred(FIRST)]);
    home.site.wait_reason(CONFIG_NAME, "Updated");
    home.site.wait_rounds(2);
    assert_eq!(
        home.site.group_history(GROUP).len(),
        before,
        "the group was neither emptied nor taken back"
    );
}

/// Checks that both prefixes are in the group, and that it does not change for some rounds.
fn assert_keeps_both(home: &Home) {
    home.wait_both(FIRST, SECOND);
    let before = home.site.group_history(GROUP).len();
    for _ in 0..3 {
        home.site.wait_rounds(2);
    }
    assert_eq!(home.site.group_history(GROUP).len(), before, "nothing flaps");
}

fn case_4_two_uplinks_radvd() {
    let home = Home::new(4);
    let _often = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let _seldom = home.router.radvd("b", "1.4", "2", &[preferred(SECOND)]);
    let _node = home.run();
    assert_keeps_both(&home);
}

fn case_4_two_uplinks_dnsmasq() {
    let home = Home::new(6);
    let _dnsmasq = home.router.dnsmasq(&[preferred(FIRST), preferred(SECOND)]);
    let _node = home.run();
    assert_keeps_both(&home);
}

fn case_5_dhcpv6_only() {
    let home = Home::new(1);
    let _dnsmasq = home.router.dnsmasq_managed(&link(FIRST));
    let _dhcpcd = home.router.dhcpcd(&home.site.interface);
    let _node = home.run();
    home.site.wait_lan(FIRST);
    // The lease is not renewed for minutes, and its prefix stays.
    home.site.wait_rounds(3);
    home.site.wait_lan(FIRST);
    home.wait_address(FIRST, 128);
}

/// SLAAC and DHCPv6, as on most LANs. The router dies and comes back with another prefix. The lease of the first prefix
/// has ten minutes left, but its prefix is stale.
fn case_5_dhcpv6_beside_slaac_renumbered() {
    dhcpv6_beside_slaac(|home| home.router.dhcpcd(&home.site.interface));
}

fn case_5_dhcpv6_beside_slaac_of_the_kernel() {
    dhcpv6_beside_slaac(|home| home.router.dhcpcd_beside_kernel(&home.site.interface));
}

fn dhcpv6_beside_slaac(dhcpcd: impl FnOnce(&Home) -> Dhcpcd) {
    let home = Home::new(2);
    let dnsmasq = home.router.dnsmasq_both(&link(FIRST));
    let _dhcpcd = dhcpcd(&home);
    home.wait_address(FIRST, 64);
    home.wait_address(FIRST, 128);
    let node = home.run();
    home.site.wait_lan(FIRST);
    drop(dnsmasq);
    let changed = Instant::now();
    let _dnsmasq = home.router.dnsmasq_both(&link(SECOND));
    home.wait_patiently(SECOND);
    report("case 5, SLAAC and DHCPv6, staleAfterSeconds 2", changed);
    assert!(home.has_address(FIRST, 128), "the lease goes on, and it is preferred");
    node.wait_log(&format!("{} left out: ", link(FIRST)), SOON);
    assert_eq!(node.complaints(), [""; 0]);
}

/// A renewed lease keeps its prefix in use, though no router announces it any more.
fn case_5_a_lease_that_is_renewed_in_a_stale_prefix() {
    let home = Home::new(2);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let _dnsmasq = home.router.dnsmasq_silent(&link(FIRST));
    let dhcpcd = home.router.dhcpcd_beside_kernel(&home.site.interface);
    home.wait_address(FIRST, 64);
    home.wait_address(FIRST, 128);
    let _node = home.run();
    home.site.wait_lan(FIRST);
    radvd.crash();
    let _radvd = home.router.radvd("b", "0.2", "0.3", &[preferred(SECOND)]);
    home.wait_patiently(SECOND);
    assert!(home.has_address(FIRST, 128), "the lease goes on");
    // Lifetimes are rounded, so a renewal within three seconds of the first lease looks like the same lease.
    home.site.wait_rounds(4);
    dhcpcd.renew();
    home.wait_both(FIRST, SECOND);
    // Both stay in the group.
    home.site.wait_rounds(4);
    home.wait_both(FIRST, SECOND);
}

fn case_6_privacy_addresses_radvd() {
    let home = Home::new(2);
    let name = &home.site.interface.name;
    fs::write(format!("/proc/sys/net/ipv6/conf/{name}/use_tempaddr"), "2").expect("privacy addresses");
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    home.wait_address(FIRST, 64);
    let node = home.run();
    home.site.wait_lan(FIRST);
    radvd.crash();
    let changed = Instant::now();
    let _radvd = home.router.radvd("b", "0.2", "0.3", &[preferred(SECOND)]);
    home.site.wait_lan(SECOND);
    report("case 6, radvd, staleAfterSeconds 2", changed);
    // IFA_F_TEMPORARY is 1: the old prefix has a temporary address that is still preferred.
    let addresses = fs::read_to_string("/proc/net/if_inet6").expect("the kernel's list");
    let temporary = |l: &str| l.starts_with("20010db800015671") && l.split_whitespace().nth(4) == Some("01");
    assert!(
        addresses
            .lines()
            .any(|l| l.ends_with(&format!(" {name}")) && temporary(l)),
        "{addresses}"
    );
    assert_eq!(node.complaints(), [""; 0]);
}

fn case_8_frequent_and_rare_announcements_radvd() {
    for (min, max) in [("0.07", "0.1"), ("2.2", "3")] {
        let home = Home::new(4);
        let _radvd = home.router.radvd("a", min, max, &[preferred(FIRST)]);
        home.wait_address(FIRST, 64);
        let node = home.run();
        home.site.wait_lan(FIRST);
        let requests = home.site.server.store().log.len();
        home.site.wait_rounds(5);
        assert_eq!(home.site.group_history(GROUP).len(), 1, "every {max} s: nothing flaps");
        let requests = home.site.server.store().log.len() - requests;
        assert!(
            requests <= 7 * 3,
            "every {max} s: {requests} requests in five rounds: announcements cost some"
        );
        assert_eq!(node.complaints(), [""; 0]);
    }
}

fn keep_deprecated_radvd() {
    let home = Home::new(60);
    let keep = |seconds: u32| {
        let patch = json!({"spec": {"keepDeprecatedSeconds": seconds}});
        home.site.patch(&format!("{NODE_CONFIGS}/ip6-update-node1"), patch);
    };
    keep(3600);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let node = home.run();
    home.site.wait_lan(FIRST);
    radvd.announce(&[deprecated(FIRST), preferred(SECOND)]);
    home.wait_both(FIRST, SECOND);
    // The prefix is kept through a restart of k6u, until the config says otherwise.
    drop(node);
    let _node = home.run();
    home.site.wait_rounds(3);
    home.wait_both(FIRST, SECOND);
    keep(1);
    home.site.wait_lan(SECOND);
}
