//! Promises of which each once was not kept.

use std::time::Duration;

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::kinds::KINDS;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::machine::namespace::Interface;
use serde_json::json;

use crate::Scenario;
use crate::site::{CONFIG_NAME, CONFIGS, GROUP, NODE, NODE_CONFIG, NODE_CONFIGS, Running, SOON, Site, ready, requests};
use crate::trio::Trio;

pub const ALL: &[Scenario] = scenarios![
    a_long_message_end_to_end,
    thirty_targets_hang,
    two_targets_hang_on_write,
    one_node_config_refused_for_all,
    once_without_the_right_to_crds,
    once_without_the_right_to_events,
    conflicts_for_ever_on_a_target,
    prefixes_that_were_not_written,
    a_node_that_moves_and_is_refused
];

const OLD: &str = "2001:db8:1234:5671::10";
const NEW: &str = "2001:db8:9876:5431::10";
const MINUTE: Duration = Duration::from_secs(60);

fn refusal(status: u16, reason: &str, message: &str, name: &str) -> Fault {
    let body = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": status, "message": message,
        "details": {"name": name}});
    Fault::Answer(Response::new(status, "application/json", body.to_string()))
}

fn follows(store: &Store, start: &str) -> Option<()> {
    cidrs(store, GROUP)?
        .iter()
        .any(|cidr| cidr.starts_with(start))
        .then_some(())
}

fn renumber(site: &Site) {
    site.interface.add(NEW);
    site.interface.remove(OLD);
}

fn groups(site: &Site, names: &[String]) {
    let mut list = vec![json!({"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]})];
    list.extend(
        names
            .iter()
            .map(|name| json!({"ciliumCIDRGroupName": name, "prefixIds": [1]})),
    );
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": list}}),
    );
}

fn a_long_message_end_to_end() {
    let (site, node) = Site::settled(1);
    site.revoke("create", "ciliumcidrgroups");
    groups(&site, &["a", "b", "c", "d"].map(String::from));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.wait_rounds(3);
    let status = format!("PATCH {CONFIGS}/{CONFIG_NAME}/status");
    let before = requests(&site.server.store(), &status).len();
    site.wait_rounds(10);
    let written = requests(&site.server.store(), &status).len() - before;
    drop(node);
    assert!(written <= 1, "the same status was written {written} times in 10 rounds");
}

/// Nothing else hangs: the sets' kind is another one than the group's.
fn thirty_targets_hang() {
    let kind = KINDS.into_iter().find(|kind| kind.name == "GlobalNetworkSet").unwrap();
    let site = Site::with_address(OLD);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.server.install(kind.crd);
    site.grant(kind.rights);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.server
        .inject(Plan::on("/globalnetworksets/", usize::MAX, Fault::Hang));
    let targets: Vec<_> = (0..30)
        .map(|number| json!({"kind": "GlobalNetworkSet", "name": format!("set-{number}"), "prefixIds": [1]}))
        .collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"targets": targets}}),
    );
    site.wait_rounds(1);
    renumber(&site);
    let reached = site
        .server
        .wait(MINUTE * 2, |store| follows(store, "2001:db8:9876:543"));
    let told = ready(&site.server.store(), CONFIG_NAME);
    let complaints = node.complaints();
    drop(node);
    assert!(reached.is_some(), "after two minutes: {told:?}, {complaints:#?}");
}

fn two_targets_hang_on_write() {
    let (site, node) = Site::settled(1);
    groups(&site, &["a", "b"].map(String::from));
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_group("b", &["2001:db8:1234:5671::/64"]);
    for name in ["a", "b"] {
        let write = format!("PATCH /apis/cilium.io/v2/ciliumcidrgroups/{name}?");
        site.server.inject(Plan::on(&write, usize::MAX, Fault::Hang));
    }
    renumber(&site);
    let reached = site
        .server
        .wait(MINUTE * 5, |store| follows(store, "2001:db8:9876:543"));
    let log = node.complaints();
    drop(node);
    assert!(reached.is_some(), "after five minutes {log:#?}");
}

fn one_node_config_refused_for_all() {
    let trio = Trio::sharing(1);
    let second = Interface::new();
    second.add("2001:db8:1234:5673::10");
    trio.site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/z-second/status"),
        usize::MAX,
        refusal(
            422,
            "Invalid",
            "z-second is invalid: spec.interface: too long",
            "z-second",
        ),
    ));
    trio.site.server.admin(
        "POST",
        NODE_CONFIGS,
        "application/json",
        &json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
            "metadata": {"name": "z-second"}, "spec": {"interface": second.name}}),
    );
    trio.site.wait_rounds(9);
    trio.renumber("2001:db8:1234:567", "2001:db8:9876:543");
    let site = &trio.site;
    let reached = site
        .server
        .wait(MINUTE * 5, |store| follows(store, "2001:db8:9876:543"));
    let store = site.server.store();
    let told = ready(&store, CONFIG_NAME);
    let entries = crate::trio::published(&store, NODE);
    drop(store);
    assert!(
        reached.is_some(),
        "all published the new prefix ({entries:?}) three minutes ago, but nobody wrote it; {told:?}"
    );
}

fn run_once(site: &Site, node: &str) -> (Option<i32>, String) {
    let output = site
        .start()
        .with("NODE_NAME", node)
        .with("RUST_LOG", "info")
        .arguments(&["once"])
        .command()
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn once_without_the_right_to_crds() {
    let site = Site::with_address(OLD);
    site.revoke("patch", "customresourcedefinitions");
    let (status, stderr) = run_once(&site, NODE);
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(status, Some(0), "every config is Ready: {stderr}");
}

fn once_without_the_right_to_events() {
    let site = Site::with_address(OLD);
    site.revoke("create", "events");
    let (status, stderr) = run_once(&site, NODE);
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(status, Some(0), "every config is Ready: {stderr}");
}

fn conflicts_for_ever_on_a_target() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        "PATCH /apis/cilium.io",
        usize::MAX,
        refusal(
            409,
            "Conflict",
            "admission webhook \"guard\" denied the request: locked",
            GROUP,
        ),
    ));
    renumber(&site);
    let told = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    assert!(
        told["message"].as_str().is_some_and(|text| text.contains("locked")),
        "{told}"
    );
    node.wait_log("CiliumCIDRGroup ip6-local-lan: PATCH ", SOON);
}

fn prefixes_that_were_not_written() {
    let (site, _node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.revoke("patch", "ciliumcidrgroups");
    renumber(&site);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let config = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap();
    let held = cidrs(&site.server.store(), GROUP);
    let events = site.events();
    assert_eq!(
        config["status"]["delegatedPrefixes"],
        json!(["2001:db8:1234:5670::/60"]),
        "the only group holds {held:?}; {events:?}"
    );
}

/// It is moved from one IP6UpdateNodeConfig to another, whose status is refused for ever.
fn a_node_that_moves_and_is_refused() {
    let site = Site::with_address(OLD);
    let other = "2001:db8:aaaa:bbb1::10";
    let second = Interface::new();
    second.add(other);
    site.server.add_node("node2.example.com");
    site.server.create(
        &NODE_CONFIG
            .replace("eth0", &second.name)
            .replace("ip6-update-node1", "second")
            .replace(NODE, "node2.example.com"),
    );
    let first = site.run(1);
    let node2 = Running(
        site.start()
            .with("NODE_NAME", "node2.example.com")
            .with("UPDATE_INTERVAL", "1")
            .spawn(),
    );
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(site.server.wait(MINUTE, both).is_some());
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_rounds(30);
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/z-moved/status"),
        usize::MAX,
        refusal(500, "InternalError", "failed calling webhook", "z-moved"),
    ));
    site.server.admin(
        "POST",
        NODE_CONFIGS,
        "application/json",
        &json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig", "metadata":
            {"name": "z-moved"}, "spec": {"nodeSelector": {"kubernetes.io/hostname": NODE},
            "interface": site.interface.name}}),
    );
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "nobody"}}}),
    );
    site.wait_rounds(20);
    let held = cidrs(&site.server.store(), GROUP).unwrap();
    let told = ready(&site.server.store(), CONFIG_NAME);
    drop((first, node2));
    assert_eq!(
        held.len(),
        6,
        "node 1 sees 2001:db8:1234:5671::/64 all the time: {held:?}, {told:?}"
    );
}
