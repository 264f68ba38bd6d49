//! Router advertisements, addresses that other programs write, and the state of the interface. The interfaces are real,
//! and the kernel makes addresses from real router advertisements.

use std::fs;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::cidrs_for;
use k6u_testkit::machine::advertisement::{Announced, INFINITE, Router, deprecated, preferred};
use k6u_testkit::site::{CONFIG_NAME, CONFIGS, GROUP, NODE, NODE_CONFIGS, Running, SOON, Site, entry, message};
use serde_json::json;

use crate::Scenario;

pub const ALL: &[Scenario] = scenarios![
    a_deprecated_prefix_takes_its_lease_along,
    a_deprecated_prefix_takes_a_permanent_lease_along,
    a_foreign_prefix_makes_nothing_stale,
    sixty_four_foreign_prefixes_hide_nothing,
    an_infinite_lifetime_goes_stale,
    a_load_balancers_address_is_no_announcement,
    a_program_takes_over_from_the_kernel,
    an_interface_that_ignores_routers,
    an_interface_that_is_full,
    an_interface_without_carrier,
    an_address_that_is_deprecated_by_hand,
    a_flap_does_not_keep_a_prefix_once_more,
    a_new_prefix_does_not_wait_for_the_old_one,
    both_lifetimes_zero,
    preferred_longer_than_valid,
    the_new_prefix_is_announced_as_deprecated,
];

const OLD: &str = "2001:db8:1234:5671::";
const NEW: &str = "2001:db8:9876:5431::";
/// Their delegated prefixes, up to the last hex digit.
const OLD_SITE: &str = "2001:db8:1234:567";
const NEW_SITE: &str = "2001:db8:9876:543";
/// How long a scenario watches for a change that must not happen: some rounds.
const A_WHILE: Duration = Duration::from_secs(4);

/// A node on a link with a router.
struct Link {
    site: Site,
    router: Router,
}

impl Link {
    fn new(stale_after: u32) -> Self {
        let site = Site::new();
        let router = Router::on(&site.interface);
        let link = Link { site, router };
        link.configure(json!({"staleAfterSeconds": stale_after}));
        link
    }

    /// Changes the spec of the IP6UpdateNodeConfig.
    fn configure(&self, spec: serde_json::Value) {
        let path = format!("{NODE_CONFIGS}/ip6-update-node1");
        self.site.patch(&path, json!({"spec": spec}));
    }

    fn allow(&self, prefixes: &[&str]) {
        let path = format!("{CONFIGS}/{CONFIG_NAME}");
        self.site.patch(&path, json!({"spec": {"allowedPrefixes": prefixes}}));
    }

    /// Announces these prefixes until the kernel has an address of each: a new interface may not listen yet.
    fn announce(&self, prefixes: &[Announced]) {
        let deadline = Instant::now() + SOON;
        let has = |list: &str, prefix: &str| {
            let digits: String = prefix.parse::<std::net::Ipv6Addr>().expect("an address").octets()[..8]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let is_here = |line: &str| line.ends_with(&format!(" {}", self.site.interface.name));
            list.lines().any(|line| line.starts_with(&digits) && is_here(line))
        };
        loop {
            self.router.announce(prefixes);
            std::thread::sleep(Duration::from_millis(100));
            let list = fs::read_to_string("/proc/net/if_inet6").expect("the kernel's list");
            if prefixes.iter().all(|announced| has(&list, announced.prefix)) {
                return;
            }
            assert!(Instant::now() < deadline, "no address: {list}");
        }
    }

    /// Announces these prefixes until the group follows only this delegated prefix.
    fn announce_until(&self, prefixes: &[Announced], site: &str) {
        let deadline = Instant::now() + SOON;
        let expected = cidrs_for(site).to_vec();
        while cidrs(&self.site.server.store(), GROUP).as_ref() != Some(&expected) {
            let held = cidrs(&self.site.server.store(), GROUP);
            assert!(Instant::now() < deadline, "the group holds {held:?}");
            self.router.announce(prefixes);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Repeats `act` for [`A_WHILE`], and checks that the group does not change.
    fn assert_unchanged_while(&self, mut act: impl FnMut()) {
        let before = self.site.group_history(GROUP);
        let end = Instant::now() + A_WHILE;
        while Instant::now() < end {
            act();
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(self.site.group_history(GROUP), before);
    }

    /// Waits until this node's entry has these prefixes, and a message that contains this text.
    fn wait_entry(&self, prefixes: &[&str], text: &str) {
        let is_expected = |store: &Store| {
            let entry = entry(store, NODE)?;
            (entry["prefixes"] == json!(prefixes) && message(&entry).contains(text)).then_some(())
        };
        assert!(
            self.site.server.wait(SOON, is_expected).is_some(),
            "{:?}",
            entry(&self.site.server.store(), NODE)
        );
    }

    fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/ipv6/conf/{}/{name}", self.site.interface.name);
        fs::write(path, value).expect("a setting");
    }

    fn run(&self) -> Running {
        self.site.run(1)
    }
}

/// SLAAC beside DHCPv6 with a lease of twelve hours, as in OpenWrt; the router renumbers by the book.
fn a_deprecated_prefix_takes_its_lease_along() {
    leased(43_200);
}

/// The same with a lease that Talos or ISC dhclient's script writes without a lifetime.
fn a_deprecated_prefix_takes_a_permanent_lease_along() {
    leased(u32::MAX);
}

fn leased(lifetime: u32) {
    let link = Link::new(1800);
    link.announce(&[preferred(OLD)]);
    let lease = || link.site.interface.set(&format!("{OLD}abc"), 128, lifetime, lifetime);
    lease();
    let _node = link.run();
    link.site.wait_lan(OLD_SITE);
    link.announce(&[deprecated(OLD), preferred(NEW)]);
    link.site.wait_lan(NEW_SITE);
    // The announced address goes before the lease does.
    let list = fs::read_to_string("/proc/net/if_inet6").expect("the kernel's list");
    let name = &link.site.interface.name;
    let slaac = list.lines().find(|line| {
        line.starts_with("20010db812345671") && line.contains(" 40 ") && line.ends_with(&format!(" {name}"))
    });
    let digits: Vec<&str> = (0..8).map(|n| &slaac.expect("it is there")[n * 4..n * 4 + 4]).collect();
    link.site.interface.remove(&digits.join(":"));
    link.assert_unchanged_while(|| {});
    // The server renews the lease.
    lease();
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(link.site.server.wait(SOON, both).is_some());
}

fn a_foreign_prefix_makes_nothing_stale() {
    let link = Link::new(1);
    link.allow(&["2001:db8::/32"]);
    link.announce(&[preferred(OLD)]);
    let _node = link.run();
    link.site.wait_lan(OLD_SITE);
    link.announce(&[preferred("2a00:bad:bad:bad1::")]);
    link.assert_unchanged_while(|| link.router.announce(&[preferred("2a00:bad:bad:bad1::")]));
    link.wait_entry(
        &["2001:db8:1234:5671::/64"],
        "2a00:bad:bad:bad1::/64 left out: outside every allowedPrefixes",
    );
    // The config allows it from now on.
    link.allow(&["2001:db8::/32", "2a00::/16"]);
    link.wait_entry(&["2a00:bad:bad:bad1::/64"], "2001:db8:1234:5671::/64 left out: stale");
}

fn sixty_four_foreign_prefixes_hide_nothing() {
    let link = Link::new(1800);
    link.allow(&["2001:db8::/32"]);
    for number in 0..64 {
        link.site.interface.add(&format!("2001:bad:{number:x}::10"));
    }
    link.site.interface.add(&format!("{OLD}10"));
    let _node = link.run();
    link.site.wait_lan(OLD_SITE);
    link.wait_entry(&["2001:db8:1234:5671::/64"], "2001:bad::/64 left out: outside every");
    link.site.wait_reason(CONFIG_NAME, "Updated");
}

fn an_infinite_lifetime_goes_stale() {
    let link = Link::new(2);
    link.announce(&[Announced {
        prefix: OLD,
        preferred: INFINITE,
        valid: INFINITE,
    }]);
    let node = link.run();
    link.site.wait_lan(OLD_SITE);
    link.announce_until(&[preferred(NEW)], NEW_SITE);
    node.wait_log("2001:db8:1234:5671::/64 left out: stale ", SOON);
}

/// Returns the scenario that needs IFA_PROTO, which says who made an address, if this kernel lacks it.
pub fn unsupported() -> Option<(&'static str, String)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let is_reported = (numbers.next(), numbers.next()) >= (Some(5), Some(18));
    let need = || {
        (
            "a_load_balancers_address_is_no_announcement",
            "IFA_PROTO (Linux 5.18)".into(),
        )
    };
    (!is_reported).then(need)
}

/// PureLB puts a Service's address on the interface, with the pool's mask and a lifetime that it refreshes.
fn a_load_balancers_address_is_no_announcement() {
    let link = Link::new(1);
    let refresh = || link.site.interface.set(&format!("{OLD}80"), 64, 300, 300);
    link.announce(&[preferred(NEW)]);
    refresh();
    let _node = link.run();
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(link.site.server.wait(SOON, both).is_some());
    // The router is silent for longer than staleAfterSeconds.
    link.assert_unchanged_while(refresh);
    // It deprecates the prefix that the Service's address is in.
    link.announce(&[deprecated(OLD), preferred(NEW)]);
    link.site.wait_lan(NEW_SITE);
    link.assert_unchanged_while(refresh);
}

/// A program listens to routers in the kernel's place, and the kernel's own address stays.
fn a_program_takes_over_from_the_kernel() {
    let link = Link::new(2);
    link.announce(&[preferred(OLD)]);
    let _node = link.run();
    link.site.wait_lan(OLD_SITE);
    link.set("accept_ra", "0");
    let write = || link.site.interface.set(&format!("{NEW}80"), 64, 300, 300);
    // Only the program sees that the router announces another prefix, and that one alone.
    write();
    std::thread::sleep(Duration::from_secs(3));
    write();
    link.site.wait_lan(NEW_SITE);
}

/// Every CNI turns forwarding on, and then the kernel ignores routers.
fn an_interface_that_ignores_routers() {
    let link = Link::new(1800);
    link.announce(&[preferred(OLD)]);
    let _node = link.run();
    link.site.wait_lan(OLD_SITE);
    link.wait_entry(&["2001:db8:1234:5671::/64"], "");
    link.set("forwarding", "1");
    let ignores = format!("{} ignores routers, because it forwards", link.site.interface.name);
    link.wait_entry(&["2001:db8:1234:5671::/64"], &ignores);
    for _ in 0..3 {
        link.router.announce(&[deprecated(OLD), preferred(NEW)]);
    }
    link.assert_unchanged_while(|| {});
    // The message recommends this.
    link.set("accept_ra", "2");
    link.announce(&[deprecated(OLD), preferred(NEW)]);
    link.site.wait_lan(NEW_SITE);
    link.wait_entry(
        &["2001:db8:9876:5431::/64"],
        "2001:db8:1234:5671::/64 left out: deprecated",
    );
}

/// Deprecated addresses fill the interface, and the kernel makes no more.
fn an_interface_that_is_full() {
    let link = Link::new(1800);
    link.set("max_addresses", "4");
    let dead: Vec<String> = (0..8).map(|n| format!("2001:db8:dead:{n:x}::")).collect();
    let _node = link.run();
    let deadline = Instant::now() + SOON;
    let full = format!(
        "{} has as many addresses as the kernel makes (4,",
        link.site.interface.name
    );
    let entry = || entry(&link.site.server.store(), NODE);
    while !entry().is_some_and(|entry| message(&entry).contains(&full)) {
        assert!(Instant::now() < deadline, "{:?}", entry());
        link.router
            .announce(&dead.iter().map(|prefix| deprecated(prefix)).collect::<Vec<_>>());
        link.router.announce(&[preferred(NEW)]);
        std::thread::sleep(Duration::from_millis(200));
    }
    link.wait_entry(&[], &full);
    link.site.wait_message("NoPrefix", &full);
}

fn an_interface_without_carrier() {
    let link = Link::new(1800);
    let _node = link.run();
    link.wait_entry(&[], "has no global IPv6 address in use: fe80:");
    link.site.interface.unplug();
    link.wait_entry(&[], &format!("{} has no carrier", link.site.interface.name));
}

/// kube-vip and keepalived write such addresses.
fn an_address_that_is_deprecated_by_hand() {
    let link = Link::new(1800);
    link.site.interface.set(&format!("{OLD}80"), 128, 0, u32::MAX);
    let _node = link.run();
    link.wait_entry(&[], "2001:db8:1234:5671::/64 left out: deprecated by hand");
}

/// The old prefix goes, and comes back deprecated.
fn a_flap_does_not_keep_a_prefix_once_more() {
    let link = Link::new(1800);
    link.configure(json!({"keepDeprecatedSeconds": 3}));
    let address = format!("{OLD}10");
    let write = |preferred| link.site.interface.set(&address, 64, preferred, 7200);
    write(1800);
    link.site.interface.add(&format!("{NEW}10"));
    let _node = link.run();
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(link.site.server.wait(SOON, both).is_some());
    write(0);
    link.site.wait_lan(NEW_SITE);
    for _ in 0..2 {
        link.site.interface.remove(&address);
        link.assert_unchanged_while(|| {});
        write(0);
        link.assert_unchanged_while(|| {});
    }
}

/// `ip addr del` and a restart of networkd remove an address that has time left.
fn a_new_prefix_does_not_wait_for_the_old_one() {
    let link = Link::new(1800);
    link.site.interface.set(&format!("{OLD}10"), 64, 1800, 7200);
    // This node has published before.
    link.site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    let _node = link.site.run(3600);
    link.site.wait_lan(OLD_SITE);
    link.site.wait_reason(CONFIG_NAME, "Updated");
    link.site.interface.remove(&format!("{OLD}10"));
    link.site.interface.add(&format!("{NEW}10"));
    link.site.wait_lan(NEW_SITE);
    let history = link.site.group_history(GROUP);
    let sizes: Vec<usize> = history.iter().map(Vec::len).collect();
    assert_eq!(sizes, [3, 6, 3], "the new one first: {history:?}");
}

/// OpenWrt's odhcpd does this since autumn 2025, as RFC 9096 section 3.5 says.
fn both_lifetimes_zero() {
    let link = Link::new(1800);
    link.announce(&[preferred(OLD)]);
    let _node = link.run();
    link.site.wait_lan(OLD_SITE);
    let none = Announced {
        prefix: OLD,
        preferred: 0,
        valid: 0,
    };
    link.announce_until(&[none, preferred(NEW)], NEW_SITE);
}

/// The kernel ignores such a prefix (RFC 4862 section 5.5.3 c).
fn preferred_longer_than_valid() {
    let link = Link::new(1);
    link.announce(&[preferred(OLD)]);
    let _node = link.run();
    link.site.wait_lan(OLD_SITE);
    let odd = Announced {
        prefix: NEW,
        preferred: 7_200,
        valid: 1_800,
    };
    link.assert_unchanged_while(|| link.router.announce(&[odd]));
}

fn the_new_prefix_is_announced_as_deprecated() {
    let link = Link::new(1800);
    link.announce(&[preferred(OLD)]);
    let _node = link.run();
    link.site.wait_lan(OLD_SITE);
    link.announce(&[deprecated(OLD), deprecated(NEW)]);
    link.wait_entry(
        &[],
        "2001:db8:1234:5671::/64 left out: deprecated; 2001:db8:9876:5431::/64 left out: deprecated",
    );
    link.site.wait_reason(CONFIG_NAME, "NoPrefix");
    assert_eq!(link.site.group_history(GROUP).len(), 1, "the group keeps what it holds");
}
