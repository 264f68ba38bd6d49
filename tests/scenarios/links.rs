//! Interfaces that lie on another one, as uplinks often do: k6u watches the upper one, and what is on the lower
//! one does not count.

use std::io;

use k6u_testkit::apiserver::server::Cilium;
use k6u_testkit::machine::link::{bridge, ppp, vlan};
use k6u_testkit::machine::namespace::Interface;
use serde_json::json;

use crate::Scenario;
use crate::site::{CONFIG_NAME, GROUP, NODE, SOON, Site};

pub const ALL: &[Scenario] = scenarios![a_vlan, a_bridge, a_ppp_link];

const OLD: &str = "2001:db8:1234:5671::10";
const NEW: &str = "2001:db8:9876:5431::10";

/// What each scenario needs of the kernel, and how that is tried.
type Need = (&'static str, &'static str, fn(&Interface) -> io::Result<()>);
const NEEDS: &[Need] = &[
    ("a_vlan", "VLANs (8021q)", |lower| vlan(lower, 7).map(drop)),
    ("a_bridge", "bridges", |lower| bridge(lower).map(drop)),
    ("a_ppp_link", "PPPoE and a /dev/ppp that may be opened", |lower| {
        ppp(lower).map(drop)
    }),
];

/// The scenarios whose kind of interface this kernel does not have, each with what is missing. To be called in
/// the namespace.
pub fn unfit() -> Vec<(&'static str, String)> {
    let tried = NEEDS.iter().map(|(name, need, attempt)| {
        let error = attempt(&Interface::new()).err()?;
        Some((*name, format!("{need}: {error}")))
    });
    tried.flatten().collect()
}

/// k6u on the upper interface of two, through a renumbering.
fn follows(make: impl FnOnce(&Interface) -> Interface, move_to: impl FnOnce(&Interface, &str)) {
    let mut site = Site::bare("127.0.0.1", Some(Cilium::Both));
    let upper = make(&site.interface);
    let lower = std::mem::replace(&mut site.interface, upper);
    site.install();
    lower.add("2001:db8:bad:1::10");
    site.interface.add(OLD);
    // It was here before, so it takes things out of the group at once.
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
    move_to(&site.interface, NEW);
    site.interface.remove(OLD);
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
    follows(|lower| vlan(lower, 7).expect("a VLAN"), Interface::add);
}

fn a_bridge() {
    follows(|port| bridge(port).expect("a bridge"), Interface::add);
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
    follows(make, |interface, address| {
        interface.add_with_peer(address, "2001:db8:bad:3::1");
    });
    drop(session);
}
