//! When a request about one object that failed is tried again, and what does not wait for it.

use std::time::Duration;

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::kinds::Kind;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::site::{
    ADDRESS, CONFIG_NAME, CONFIGS, GROUP, NODE, NODE_CONFIGS, Site, denial, reasons, refusal, requests,
};
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::{Clockwork, INTERVAL};

pub const ALL: &[Scenario] = scenarios![
    a_write_that_failed_twice,
    a_publication_that_failed_twice,
    discovery_hangs_once_an_hour,
    labels_that_hang_delay_no_renumbering,
    a_conflict_of_a_new_publication,
    a_conflict_of_a_new_list,
    a_pool_that_comes_later,
    a_refused_group_is_deleted,
    throttled_before_a_renumbering,
    a_failure_of_a_new_publication,
];

const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";
const FIRST: &str = "ip6-update-node1";

/// A node after its first minute; all is right and reported.
fn settled(interval: Duration) -> (Site, Clockwork) {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::of(&site, NODE, interval);
    node.run(Duration::from_secs(60));
    site.wait_reason(CONFIG_NAME, "Updated");
    (site, node)
}

/// Ends the faults just after another try of this request, so that its pause has just begun.
fn heal_after_a_try(site: &Site, node: &mut Clockwork, path: &str) {
    let tries = || requests(&site.server.store(), path).len();
    let before = tries();
    while tries() == before {
        node.round_after(Duration::from_secs(1));
    }
    site.server.heal();
}

/// Makes a round a second; the seconds until it is done, at most 120.
fn seconds_until(node: &mut Clockwork, is_done: impl Fn() -> bool) -> u32 {
    let mut seconds = 0;
    while !is_done() && seconds < 120 {
        node.round_after(Duration::from_secs(1));
        seconds += 1;
    }
    seconds
}

fn leader_changed(name: &str) -> Fault {
    refusal(500, "InternalError", "etcdserver: leader changed", name)
}

/// The pauses are those of the request, not of the rounds, which are a minute apart.
fn a_write_that_failed_twice() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::of(&site, NODE, Duration::from_secs(60));
    node.run(Duration::from_secs(130));
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), 2, leader_changed(GROUP)));
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
        leader_changed("ip6-update-node1"),
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

/// Publications fail for some minutes. Then the API server is well again, the provider renumbers, and the first
/// publication of the new prefix meets a conflict.
fn a_conflict_of_a_new_publication() {
    let (site, mut node) = settled(INTERVAL);
    let path = format!("PATCH {NODE_CONFIGS}/{FIRST}/status");
    site.server.inject(Plan::on(&path, usize::MAX, leader_changed(FIRST)));
    node.run(Duration::from_secs(240));
    heal_after_a_try(&site, &mut node, &path);
    site.server.inject(Plan::on(
        &path,
        1,
        refusal(409, "Conflict", "the object has been modified", FIRST),
    ));
    site.renumber();
    let seconds = seconds_until(&mut node, || {
        !cidrs(&site.server.store(), GROUP).unwrap()[0].starts_with("2001:db8:1234")
    });
    assert!(seconds <= 5, "a round a second: the group followed after {seconds} s");
}

/// The same for the write of a group.
fn a_conflict_of_a_new_list() {
    let (site, mut node) = settled(INTERVAL);
    let path = format!("PATCH {GROUPS}/{GROUP}");
    site.server.inject(Plan::on(&path, usize::MAX, leader_changed(GROUP)));
    site.overwrite_group();
    node.run(Duration::from_secs(240));
    heal_after_a_try(&site, &mut node, &path);
    site.server.inject(Plan::on(
        &path,
        1,
        refusal(409, "Conflict", "the object has been modified", GROUP),
    ));
    site.renumber();
    let seconds = seconds_until(&mut node, || {
        cidrs(&site.server.store(), GROUP).unwrap()[0].starts_with("2001:db8:9876")
    });
    assert!(seconds <= 5, "a round a second: the group followed after {seconds} s");
}

/// A pool that k6u does not create is applied some minutes after the config; the first write of it fails.
fn a_pool_that_comes_later() {
    let kind = Kind::named("IPAddressPool");
    let site = Site::with_address(ADDRESS);
    site.server.install(kind.crd);
    site.grant(kind.rights);
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"targets": [kind.target(kind.suffix())]}}),
    );
    let mut node = Clockwork::of(&site, NODE, INTERVAL);
    node.run(Duration::from_secs(300));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.server.admin(
        "POST",
        &kind.path(),
        "application/json",
        &kind.object(&["192.0.2.7/32"]),
    );
    let path = format!("PATCH {}", kind.path());
    site.server.inject(Plan::on(&path, 1, leader_changed("pool")));
    let seconds = seconds_until(&mut node, || requests(&site.server.store(), &path).len() >= 2);
    assert!(
        seconds <= 5,
        "a request that failed once was tried again after {seconds} s, with a round a second"
    );
}

/// A webhook refuses a group for some minutes. Then the webhook is gone, and the administrator deletes the group so that k6u
/// makes it anew.
fn a_refused_group_is_deleted() {
    let (site, mut node) = settled(INTERVAL);
    let path = format!("PATCH {GROUPS}/{GROUP}");
    site.server.inject(Plan::on(&path, usize::MAX, denial(GROUP)));
    site.overwrite_group();
    node.run(Duration::from_secs(240));
    heal_after_a_try(&site, &mut node, &path);
    site.server
        .admin("DELETE", &format!("{GROUPS}/{GROUP}"), "", &Value::Null);
    let seconds = seconds_until(&mut node, || site.group(GROUP).is_some());
    assert!(seconds <= 5, "a round a second: the group was there after {seconds} s");
}

/// The API server throttles publications for some minutes, and asks for a second of rest each time, as Kubernetes' priority
/// and fairness does. Then it is well, and the provider renumbers.
fn throttled_before_a_renumbering() {
    let (site, mut node) = settled(INTERVAL);
    let path = format!("PATCH {NODE_CONFIGS}/{FIRST}/status");
    let busy =
        Response::new(429, "text/plain", "Too many requests, please try again later.\n").with("Retry-After", "1");
    site.server.inject(Plan::on(&path, usize::MAX, Fault::Answer(busy)));
    node.run(Duration::from_secs(240));
    heal_after_a_try(&site, &mut node, &path);
    site.renumber();
    let seconds = seconds_until(&mut node, || {
        !cidrs(&site.server.store(), GROUP).unwrap()[0].starts_with("2001:db8:1234")
    });
    assert!(
        seconds <= 5,
        "the server asked for a second of rest; the new prefix was published after {seconds} s"
    );
}

/// A webhook refuses the old prefix for some minutes. The provider renumbers; the first publication of the new prefix meets
/// one 500.
fn a_failure_of_a_new_publication() {
    let (site, mut node) = settled(Duration::from_secs(1));
    let path = format!("PATCH {NODE_CONFIGS}/{FIRST}/status");
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/{FIRST}/status"),
        usize::MAX,
        denial(FIRST),
    ));
    node.run(Duration::from_secs(240));
    site.server.heal();
    site.server.inject(Plan::on(&path, 1, leader_changed(FIRST)));
    let tries = || requests(&site.server.store(), &path).len();
    let before = tries();
    site.renumber();
    node.round_after(Duration::from_secs(1));
    assert_eq!(tries(), before + 1, "another content is tried at once");
    let seconds = seconds_until(&mut node, || {
        !cidrs(&site.server.store(), GROUP).unwrap()[0].starts_with("2001:db8:1234")
    });
    assert!(
        seconds <= 5,
        "the new prefix failed once and was tried again after {seconds} s, with a round a second"
    );
}
