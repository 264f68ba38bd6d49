//! The rows of the table: the behaviour of routers, and k6u's conclusion, which is the same with each client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::machine::client::{Client, Running as RunningClient};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::router::{Announced, Radvd, Router};
use serde_json::json;

use crate::RESULT;
use k6u_testkit::site::{CONFIG_NAME, GROUP, NODE_CONFIGS, Running, Site, ready};

/// A kind of interface that not every kernel has.
#[derive(Clone, Copy, Debug)]
pub enum Link {
    Vlan,
    Ppp,
}

/// One row of the table.
pub struct Row {
    pub name: &'static str,
    /// The router's programs.
    pub programs: &'static [&'static str],
    /// The kernel feature that this row needs beyond the usual.
    pub link: Option<Link>,
    pub clients: &'static [Client],
    pub case: fn(Client),
}

const fn row(name: &'static str, programs: &'static [&'static str], case: fn(Client)) -> Row {
    let clients = &Client::ALL;
    Row {
        name,
        programs,
        link: None,
        clients,
        case,
    }
}

pub const ALL: &[Row] = &[
    row("by_the_book_radvd", &["radvd"], by_the_book_radvd),
    row("by_the_book_dnsmasq", &["dnsmasq"], by_the_book_dnsmasq),
    row("flash_radvd", &["radvd"], flash_radvd),
    row("flash_dnsmasq", &["dnsmasq"], flash_dnsmasq),
    row("flash_twice_radvd", &["radvd"], flash_twice_radvd),
    row("router_restart_radvd", &["radvd"], router_restart_radvd),
    row("two_uplinks_radvd", &["radvd"], two_uplinks_radvd),
    row("quiet_radvd", &["radvd"], quiet_radvd),
    Row {
        // The kernel knows no DHCPv6.
        clients: &[Client::Dhcpcd, Client::Networkd, Client::NetworkManager],
        ..row("dhcpv6_beside_slaac_dnsmasq", &["dnsmasq"], dhcpv6_beside_slaac_dnsmasq)
    },
    Row {
        clients: &[Client::Dhcpcd, Client::Networkd, Client::NetworkManager],
        ..row(
            "by_the_book_beside_a_lease",
            &["radvd", "dnsmasq"],
            by_the_book_beside_a_lease,
        )
    },
    row("bridge_radvd", &["radvd"], bridge_radvd),
    Row {
        link: Some(Link::Vlan),
        ..row("flash_on_vlan_radvd", &["radvd"], flash_on_vlan_radvd)
    },
    Row {
        link: Some(Link::Ppp),
        ..row(
            "flash_on_ppp_radvd",
            &["radvd", "pppd", "pppoe-server"],
            flash_on_ppp_radvd,
        )
    },
    Row {
        clients: DELEGATED,
        ..row("delegated_renewed_kea", &["kea-dhcp6"], delegated_renewed_kea)
    },
    Row {
        clients: DELEGATED,
        ..row("delegated_flash_kea", &["kea-dhcp6"], delegated_flash_kea)
    },
    Row {
        clients: DELEGATED,
        ..row(
            "delegated_beside_announced_kea",
            &["kea-dhcp6"],
            delegated_beside_announced,
        )
    },
];

/// The clients that assign a part of a delegated prefix to another interface.
const DELEGATED: &[Client] = &[Client::Dhcpcd, Client::Networkd, Client::NetworkManager];

/// How long a test waits before it fails. DHCPv6 waits between its messages.
const PATIENCE: Duration = Duration::from_secs(90);
/// `staleAfterSeconds` where announcements come every 0.3 s, and where dnsmasq makes them.
const STALE_AFTER: u32 = 3;

const ZEROTH: &str = "2001:db8:a:567";
const FIRST: &str = "2001:db8:1:567";
const SECOND: &str = "2001:db8:2:567";
const THIRD: &str = "2001:db8:3:567";

/// The link's prefix in a delegated prefix.
fn link(delegated: &str) -> String {
    format!("{delegated}1::/64")
}

fn preferred(delegated: &str) -> Announced {
    let prefix = link(delegated);
    Announced { prefix, preferred: 600 }
}

fn deprecated(delegated: &str) -> Announced {
    let prefix = link(delegated);
    Announced { prefix, preferred: 0 }
}

/// The list of the group for these delegated prefixes.
fn cidrs_for(delegated: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = delegated
        .iter()
        .flat_map(|start| [0, 1, 2].map(|id| format!("{start}{id}::/64")))
        .collect();
    all.sort();
    all
}

/// Sorts a list, because its order depends on what the group held before.
fn sorted(mut cidrs: Vec<String>) -> Vec<String> {
    cidrs.sort();
    cidrs
}

/// A node with a client on a link with a router, and k6u on it.
struct Home {
    site: Site,
    router: Router,
    client: Client,
}

impl Home {
    fn new(client: Client, stale_after: u32) -> Self {
        let site = Site::new();
        let router = Router::behind(&site.interface);
        if client != Client::Kernel {
            // Otherwise the kernel would be quicker than the client, which takes over only at the next announcement.
            for interface in ["default", &site.interface.name] {
                fs::write(accept_ra(interface), "0").expect("no SLAAC by the kernel");
            }
        }
        let home = Home { site, router, client };
        home.watch(&home.site.interface.name, stale_after);
        home
    }

    fn watch(&self, interface: &str, stale_after: u32) {
        let patch = json!({"spec": {"interface": interface, "staleAfterSeconds": stale_after}});
        self.site.patch(&format!("{NODE_CONFIGS}/ip6-update-node1"), patch);
    }

    fn start(&self) -> (RunningClient, Running) {
        (self.client.start(&self.site.interface.name), self.site.run(1))
    }

    /// Waits until the group follows these delegated prefixes. Returns the seconds since `since`.
    fn wait(&self, delegated: &[&str], since: Instant) -> f64 {
        let expected = cidrs_for(delegated);
        let reached = self.site.server.wait(PATIENCE, |store| {
            (sorted(cidrs(store, GROUP)?) == expected).then_some(())
        });
        assert!(
            reached.is_some(),
            "the group holds {:?}, not {expected:?}; addresses:\n{}",
            cidrs(&self.site.server.store(), GROUP),
            addresses()
        );
        since.elapsed().as_secs_f64()
    }

    fn wait_reason(&self, reason: &str) {
        let has_reason = |c: &serde_json::Value| c["reason"] == reason;
        let found = self
            .site
            .server
            .wait(PATIENCE, |store| ready(store, CONFIG_NAME).filter(has_reason));
        assert!(found.is_some(), "not {reason}; addresses:\n{}", addresses());
    }

    /// The number of writes of the group so far.
    fn writes(&self) -> usize {
        self.site.group_history(GROUP).len()
    }

    /// The lists of the group after its first `writes` writes, each sorted.
    fn history_since(&self, writes: usize) -> Vec<Vec<String>> {
        let history = self.site.group_history(GROUP);
        history.into_iter().skip(writes).map(sorted).collect()
    }

    /// Waits for this many seconds of rounds, and checks that the group does not change.
    fn assert_unchanged(&self, seconds: usize) {
        let before = self.writes();
        for _ in 0..seconds.div_ceil(2) {
            self.site.wait_rounds(2);
        }
        let history = self.site.group_history(GROUP);
        assert_eq!(
            history.len(),
            before,
            "nothing flaps: {:?}; {}",
            &history[before - 1..],
            addresses()
        );
        assert!(
            self.client == Client::Kernel || kernel_listens_on().is_empty(),
            "the addresses on {:?} may be the kernel's",
            kernel_listens_on()
        );
    }
}

/// The node's addresses, for messages of tests that fail.
fn addresses() -> String {
    let output = Command::new("ip")
        .args(["-6", "address", "show", "scope", "global"])
        .output();
    output.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
}

/// The file of the sysctl accept_ra: with 0 the kernel makes no addresses from router advertisements.
fn accept_ra(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv6/conf").join(interface).join("accept_ra")
}

/// The interfaces on which the kernel makes addresses from router advertisements.
fn kernel_listens_on() -> Vec<String> {
    let all = fs::read_dir("/proc/sys/net/ipv6/conf").expect("the interfaces");
    let names = all
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let listens = |name: &String| fs::read_to_string(accept_ra(name)).is_ok_and(|value| value.trim() != "0");
    names
        .filter(|name| !["all", "lo"].contains(&name.as_str()))
        .filter(listens)
        .collect()
}

/// Puts a line into the table.
fn report(text: &str) {
    println!("{RESULT}{text}");
}

fn by_the_book_radvd(client: Client) {
    let home = Home::new(client, 60);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let _running = home.start();
    home.wait(&[FIRST], Instant::now());
    let changed = Instant::now();
    radvd.announce(&[deprecated(FIRST), preferred(SECOND)]);
    let took = home.wait(&[SECOND], changed);
    home.assert_unchanged(4);
    report(&format!("only the new one after {took:.1} s"));
}

fn by_the_book_dnsmasq(client: Client) {
    let home = Home::new(client, 60);
    let dnsmasq = home.router.dnsmasq(&[preferred(FIRST)]);
    let _running = home.start();
    home.wait(&[FIRST], Instant::now());
    drop(dnsmasq);
    let changed = Instant::now();
    let _dnsmasq = home.router.dnsmasq(&[deprecated(FIRST), preferred(SECOND)]);
    let took = home.wait(&[SECOND], changed);
    home.assert_unchanged(6);
    report(&format!("only the new one after {took:.1} s"));
}

fn flash_radvd(client: Client) {
    let home = Home::new(client, STALE_AFTER);
    let _running = home.start();
    flash(&home);
}

/// The router dies, and comes back with another prefix, without withdrawing the old one.
fn flash(home: &Home) {
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    home.wait(&[FIRST], Instant::now());
    radvd.crash();
    let changed = Instant::now();
    let _radvd = home.router.radvd("b", "0.2", "0.3", &[preferred(SECOND)]);
    home.wait(&[FIRST, SECOND], changed);
    let took = home.wait(&[SECOND], changed);
    home.assert_unchanged(8);
    report(&format!("both, then only the new one after {took:.1} s"));
}

fn flash_dnsmasq(client: Client) {
    let home = Home::new(client, 8);
    let dnsmasq = home.router.dnsmasq(&[preferred(FIRST)]);
    let _running = home.start();
    home.wait(&[FIRST], Instant::now());
    drop(dnsmasq);
    let changed = Instant::now();
    let _dnsmasq = home.router.dnsmasq(&[preferred(SECOND)]);
    let took = home.wait(&[SECOND], changed);
    home.assert_unchanged(10);
    report(&format!("only the new one after {took:.1} s (staleAfterSeconds 8)"));
}

/// A second renumbering, in which the client must not write the stale prefix again.
fn flash_twice_radvd(client: Client) {
    let home = Home::new(client, STALE_AFTER);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let _running = home.start();
    home.wait(&[FIRST], Instant::now());
    radvd.crash();
    let mut radvd = home.router.radvd("b", "0.2", "0.3", &[preferred(SECOND)]);
    home.wait(&[SECOND], Instant::now());
    let before = home.writes();
    radvd.crash();
    let changed = Instant::now();
    let _radvd = home.router.radvd("c", "0.2", "0.3", &[preferred(THIRD)]);
    let took = home.wait(&[THIRD], changed);
    home.assert_unchanged(8);
    let both = cidrs_for(&[SECOND, THIRD]);
    assert_eq!(home.history_since(before), [both, cidrs_for(&[THIRD])]);
    report(&format!(
        "both, then only the newest after {took:.1} s; never the oldest"
    ));
}

/// The router deprecates everything and stops, while an older, stale prefix is still preferred.
fn router_restart_radvd(client: Client) {
    let home = Home::new(client, STALE_AFTER);
    let mut radvd = home.router.radvd("a", "0.2", "0.3", &[preferred(ZEROTH)]);
    let _running = home.start();
    home.wait(&[ZEROTH], Instant::now());
    radvd.crash();
    let mut radvd = home.router.radvd("b", "0.2", "0.3", &[preferred(FIRST)]);
    home.wait(&[FIRST], Instant::now());
    let before = home.writes();
    radvd.stop();
    home.wait_reason("NoPrefix");
    home.assert_unchanged(10);
    let _radvd = home.router.radvd("c", "0.2", "0.3", &[preferred(FIRST)]);
    home.wait_reason("Updated");
    home.wait(&[FIRST], Instant::now());
    home.assert_unchanged(6);
    assert_eq!(home.writes(), before, "{:?}", home.site.group_history(GROUP));
    report("the group kept what it held");
}

/// Two routers announce at different intervals; later one of them stops.
fn two_uplinks_radvd(client: Client) {
    let home = Home::new(client, 6);
    let _often = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let mut seldom = home.router.another_radvd("b", "1.4", "2", &[preferred(SECOND)]);
    let _running = home.start();
    home.wait(&[FIRST, SECOND], Instant::now());
    home.assert_unchanged(14);
    seldom.crash();
    let took = home.wait(&[FIRST], Instant::now());
    report(&format!(
        "both; after one went silent, the other one alone after {took:.1} s (staleAfterSeconds 6)"
    ));
}

/// No router announces anything for a long time, which is no evidence against a prefix.
fn quiet_radvd(client: Client) {
    let home = Home::new(client, STALE_AFTER);
    let mut one = home.router.radvd("a", "0.2", "0.3", &[preferred(FIRST)]);
    let mut other = home.router.another_radvd("b", "0.2", "0.3", &[preferred(SECOND)]);
    let _running = home.start();
    home.wait(&[FIRST, SECOND], Instant::now());
    one.crash();
    other.crash();
    home.assert_unchanged(5 * STALE_AFTER as usize);
    report("both stay");
}

fn dhcpv6_beside_slaac_dnsmasq(client: Client) {
    let home = Home::new(client, 8);
    let dnsmasq = home.router.dnsmasq_both(&link(FIRST));
    let _running = home.start();
    home.wait(&[FIRST], Instant::now());
    wait_lease(FIRST);
    home.assert_unchanged(10);
    drop(dnsmasq);
    let changed = Instant::now();
    let _dnsmasq = home.router.dnsmasq_both(&link(SECOND));
    let took = home.wait(&[SECOND], changed);
    home.assert_unchanged(12);
    let lease = lease_is(FIRST);
    report(&format!(
        "only the new one after {took:.1} s (staleAfterSeconds 8); the old lease is {lease}"
    ));
}

/// The DHCPv6 server is gone, its lease goes on, and the router announces that the prefix is over.
fn by_the_book_beside_a_lease(client: Client) {
    let home = Home::new(client, 60);
    let dnsmasq = home.router.dnsmasq_both(&link(FIRST));
    let _running = home.start();
    home.wait(&[FIRST], Instant::now());
    wait_lease(FIRST);
    drop(dnsmasq);
    let changed = Instant::now();
    let _radvd = home
        .router
        .radvd("a", "0.2", "0.3", &[deprecated(FIRST), preferred(SECOND)]);
    let took = home.wait(&[SECOND], changed);
    home.assert_unchanged(6);
    let lease = lease_is(FIRST);
    report(&format!("only the new one after {took:.1} s; the old lease is {lease}"));
}

fn has_lease(delegated: &str) -> bool {
    let lease = format!("inet6 {delegated}1::1");
    addresses()
        .lines()
        .any(|l| l.trim().starts_with(&lease) && l.contains("/128 "))
}

fn wait_lease(delegated: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !has_lease(delegated) {
        assert!(Instant::now() < deadline, "no lease:\n{}", addresses());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn lease_is(delegated: &str) -> &'static str {
    match has_lease(delegated) {
        true => "still there",
        false => "given up by the client",
    }
}

/// The node's interface is a port of a bridge, and the bridge has the addresses.
fn bridge_radvd(client: Client) {
    let home = Home::new(client, STALE_AFTER);
    home.watch("br0", STALE_AFTER);
    let _client = client.start_on_bridge(&home.site.interface.name, "br0");
    let _node = home.site.run(1);
    flash(&home);
}

fn flash_on_vlan_radvd(client: Client) {
    let mut home = Home::new(client, STALE_AFTER);
    home.router.tag(5);
    let (_client, vlan) = client.start_on_vlan(&home.site.interface.name, 5);
    home.watch(&vlan, STALE_AFTER);
    let _node = home.site.run(1);
    flash(&home);
}

fn flash_on_ppp_radvd(client: Client) {
    let mut home = Home::new(client, STALE_AFTER);
    let parent = home.site.interface.name.clone();
    let _dialled = home.router.pppoe(|| client.start_on_ppp(&parent));
    home.watch("ppp0", STALE_AFTER);
    let _node = home.site.run(1);
    flash(&home);
}

/// A node that is the router itself: its LAN interface, and the client that got the prefix.
struct OwnLan {
    home: Home,
    lan: Interface,
    _client: RunningClient,
    _node: Running,
    _radvd: Option<Radvd>,
}

fn own_lan(client: Client, stale_after: u32) -> OwnLan {
    let home = Home::new(client, stale_after);
    let lan = Interface::named("home0");
    home.watch("home0", stale_after);
    // NetworkManager asks for a prefix where it has a default route.
    let radvd = (client == Client::NetworkManager).then(|| home.router.radvd("a", "0.2", "0.3", &[]));
    let running = client.start_delegated(&home.site.interface.name, "home0");
    let node = home.site.run(1);
    OwnLan {
        _client: running.expect("a client that gives prefixes on"),
        lan,
        _node: node,
        _radvd: radvd,
        home,
    }
}

/// The delegated prefix, for Kea.
fn site_of(delegated: &str) -> String {
    format!("{delegated}0::")
}

/// Renewals of a delegated prefix change nothing.
fn delegated_renewed_kea(client: Client) {
    let own = own_lan(client, 1);
    let _kea = own.home.router.kea(&site_of(FIRST), 12, 24);
    own.home.wait(&[FIRST], Instant::now());
    own.home.assert_unchanged(20);
    report("the prefix, through five renewals");
}

/// The server lost its state and delegates another prefix.
fn delegated_flash_kea(client: Client) {
    let own = own_lan(client, STALE_AFTER);
    let kea = own.home.router.kea(&site_of(FIRST), 24, 48);
    own.home.wait(&[FIRST], Instant::now());
    drop(kea);
    let changed = Instant::now();
    let _kea = own.home.router.kea(&site_of(SECOND), 24, 48);
    let before = own.home.writes();
    let took = own.home.wait(&[SECOND], changed);
    own.home.assert_unchanged(10);
    let both = own.home.history_since(before).contains(&cidrs_for(&[FIRST, SECOND]));
    let both = if both { "both, then " } else { "" };
    report(&format!(
        "{both}only the new one after {took:.1} s (renewal after 6 s, rebinding after 12 s)"
    ));
}

/// On its LAN the node has a delegated prefix, which is renewed now and then, and one that another router announces
/// often. The first looks like one that is no longer announced.
fn delegated_beside_announced(client: Client) {
    let own = own_lan(client, STALE_AFTER);
    let _kea = own.home.router.kea(&site_of(FIRST), 80, 160);
    own.home.wait(&[FIRST], Instant::now());
    // As another router on the LAN would: with each announcement the address is rewritten.
    let announce = || own.lan.set("2001:db8:2:5671::2", 64, 600, 7200);
    let changed = Instant::now();
    while cidrs(&own.home.site.server.store(), GROUP) != Some(cidrs_for(&[SECOND])) {
        assert!(changed.elapsed() < PATIENCE, "{}", addresses());
        announce();
        std::thread::sleep(Duration::from_millis(300));
    }
    own.home.watch("home0", 0);
    let took = changed.elapsed().as_secs_f64();
    own.home.wait(&[FIRST, SECOND], Instant::now());
    report(&format!(
        "the delegated one is taken for stale after {took:.1} s; staleAfterSeconds 0 keeps both"
    ));
}
