//! When a request about one object that failed is tried again, and what does not wait for it.

use std::time::Duration;

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::site::{ADDRESS, CONFIG_NAME, GROUP, NODE, NODE_CONFIGS, Site, reasons, refusal};

use crate::Scenario;
use crate::clockwork::Clockwork;

pub const ALL: &[Scenario] = scenarios![
    a_write_that_failed_twice,
    a_publication_that_failed_twice,
    discovery_hangs_once_an_hour,
    labels_that_hang_delay_no_renumbering,
];

const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";

/// The pauses are those of the request, not of the rounds, which are a minute apart.
fn a_write_that_failed_twice() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::of(&site, NODE, Duration::from_secs(60));
    node.run(Duration::from_secs(130));
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {GROUPS}/{GROUP}"),
        2,
        refusal(500, "InternalError", "etcdserver: leader changed", GROUP),
    ));
    site.renumber();
    node.run(Duration::from_secs(30));
    let held = cidrs(&site.server.store(), GROUP).unwrap();
    assert!(
        held.iter().all(|cidr| cidr.starts_with("2001:db8:9876")),
        "half a minute after a write failed twice, the group holds {held:?}"
    );
}

/// The same for an entry.
fn a_publication_that_failed_twice() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::of(&site, NODE, Duration::from_secs(60));
    node.run(Duration::from_secs(130));
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
        2,
        refusal(500, "InternalError", "etcdserver: leader changed", "ip6-update-node1"),
    ));
    site.renumber();
    node.run(Duration::from_secs(30));
    let held = cidrs(&site.server.store(), GROUP).unwrap();
    assert!(
        held.iter().all(|cidr| cidr.starts_with("2001:db8:9876")),
        "half a minute after a publication failed twice, the group holds {held:?}"
    );
}

/// The version that was found is asked for once an hour. That hangs; the group can be read and written all the time.
fn discovery_hangs_once_an_hour() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on("GET /apis/cilium.io/v2$", usize::MAX, Fault::Hang));
    node.rounds(370);
    let all = reasons(&site.server.store(), CONFIG_NAME);
    assert_eq!(
        all,
        ["Updated"],
        "the group could be read and written all the time: {:?}",
        site.events()
    );
}

/// The labels of the Node are due to be read again, and that hangs. The provider renumbers.
fn labels_that_hang_delay_no_renumbering() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_lan("2001:db8:1234:567");
    site.server
        .inject(Plan::on("GET /api/v1/nodes/", usize::MAX, Fault::Hang));
    site.renumber();
    let start = std::time::Instant::now();
    node.round_after(Duration::from_secs(301));
    site.wait_lan("2001:db8:9876:543");
    let store = site.server.store();
    let mut writes = store
        .history
        .iter()
        .filter(|past| past.key.resource == "ciliumcidrgroups");
    let took = writes.next_back().unwrap().at.saturating_duration_since(start);
    assert!(took < Duration::from_secs(5), "the group followed after {took:?}");
}
