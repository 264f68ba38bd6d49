//! What several nodes, one after the other, report about one failure.

use std::time::Duration;

use k6u_testkit::apiserver::fault::Plan;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, NODE, NODE_2, NODE_CONFIGS, Site, denial, name_groups,
    ready, reasons, refusal,
};
use k6u_testkit::trio::{Layout, NAMES, Trio};
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::{Clockwork, INTERVAL};

pub const ALL: &[Scenario] = scenarios![
    a_router_reboots_while_a_target_is_refused,
    an_older_config_is_gone_while_its_group_is_refused,
    a_failure_of_another_kind_by_a_node_that_is_gone,
    a_refused_target_that_was_too_large_for_a_while,
    recreated_beside_a_node_without_a_prefix,
    a_node_that_cannot_publish_beside_a_refused_status,
    a_config_whose_only_group_belongs_to_another,
    a_typing_error_while_no_status_is_taken,
    a_prefix_that_goes_while_no_status_is_taken,
    a_config_of_extra_cidrs_only,
    a_refused_removal_of_a_node_that_comes_back,
];

const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";

fn status(site: &Site, config: &str) -> Value {
    ready(&site.server.store(), config).unwrap_or_default()
}

fn stored(site: &Site, config: &str) -> Value {
    let config = site.object("apps.fuwafuwatime.moe", "ip6updateconfigs", config);
    config.expect("it is there")["status"].clone()
}

/// Two nodes in the same IP6UpdateNodeConfig; all is right and reported.
fn pair() -> (Site, [Clockwork; 2]) {
    let site = Site::with_address(ADDRESS);
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": null}}),
    );
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "Updated");
    (site, nodes)
}

fn rounds(nodes: &mut [Clockwork], count: usize) {
    (0..count).for_each(|_| nodes.iter_mut().for_each(|node| node.rounds(1)));
}

fn refuse_group(site: &Site) {
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), usize::MAX, denial(GROUP)));
}

/// A webhook refuses the group, which Ready reports. The router reboots: for a minute there is no prefix. Then both
/// nodes see a new one, and the failure is reported again.
fn a_router_reboots_while_a_target_is_refused() {
    let (site, mut nodes) = pair();
    refuse_group(&site);
    site.patch(
        &format!("{GROUPS}/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
    );
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.interface.remove(ADDRESS);
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "NoPrefix");
    site.interface.add(NEW_ADDRESS);
    let mut count = 0;
    while status(&site, CONFIG_NAME)["reason"] == "NoPrefix" && count < 120 {
        rounds(&mut nodes, 1);
        count += 1;
    }
    assert!(
        count <= 8,
        "two nodes see a prefix, but Ready said NoPrefix for {count} rounds, 10 s apart; then {}",
        stored(&site, CONFIG_NAME)
    );
}

/// A webhook refuses the group, which Ready reports. For a minute an older config names the same group.
fn an_older_config_is_gone_while_its_group_is_refused() {
    let site = Site::with_address(ADDRESS);
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": null}}),
    );
    site.server.advance_clock(Duration::from_secs(1));
    let younger = CONFIG.replace(CONFIG_NAME, "younger");
    site.server.create(&younger);
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    // The older one names another group at first.
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": [{"ciliumCIDRGroupName": "other", "prefixIds": [0]}]}}),
    );
    rounds(&mut nodes, 6);
    site.wait_reason("younger", "Updated");
    refuse_group(&site);
    site.patch(
        &format!("{GROUPS}/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
    );
    rounds(&mut nodes, 6);
    site.wait_reason("younger", "UpdateFailed");
    name_groups(&site, &[]);
    rounds(&mut nodes, 6);
    site.wait_reason("younger", "GroupConflict");
    site.server
        .admin("DELETE", &format!("{CONFIGS}/{CONFIG_NAME}"), "", &Value::Null);
    let mut count = 0;
    while status(&site, "younger")["reason"] == "GroupConflict" && count < 120 {
        rounds(&mut nodes, 1);
        count += 1;
    }
    assert!(
        count <= 8,
        "the older config is gone, but Ready said GroupConflict for {count} rounds, 10 s apart; then {}",
        stored(&site, "younger")
    );
}

/// A webhook refuses the group. Once a second node does not reach it, reports that, and is switched off.
fn a_failure_of_another_kind_by_a_node_that_is_gone() {
    let (site, [mut one, mut two]) = pair();
    site.server.add_node("node3.example.com");
    let mut three = Clockwork::of(&site, "node3.example.com", INTERVAL);
    refuse_group(&site);
    site.patch(
        &format!("{GROUPS}/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
    );
    for _ in 0..6 {
        one.rounds(1);
        two.rounds(1);
        three.rounds(1);
    }
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let down = refusal(503, "ServiceUnavailable", "unavailable", GROUP);
    site.server
        .inject(Plan::on(&format!("GET {GROUPS}/{GROUP}$"), usize::MAX, down));
    two.rounds(1);
    drop(two);
    site.server.heal();
    refuse_group(&site);
    for _ in 0..360 {
        one.rounds(1);
        three.rounds(1);
    }
    let failing = stored(&site, CONFIG_NAME)["failing"].clone();
    assert!(
        !failing.to_string().contains("503"),
        "for an hour each node read the group, and a webhook refused each write: {failing}; {}",
        status(&site, CONFIG_NAME)
    );
}

/// A webhook refuses the group. For five minutes a dead node's 64 prefixes make the group too large.
fn a_refused_target_that_was_too_large_for_a_while() {
    let site = Site::with_address(ADDRESS);
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": null}}),
    );
    let ids: Vec<u32> = (0..256).collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"delegatedPrefixLength": 56,
            "ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": ids}]}}),
    );
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "Updated");
    refuse_group(&site);
    site.patch(
        &format!("{GROUPS}/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
    );
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let many: Vec<String> = (0..64).map(|number| format!("2001:db8:aa:{number:x}00::/64")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    site.publish("node3.example.com", &many);
    rounds(&mut nodes, 3);
    assert!(
        stored(&site, CONFIG_NAME)["failing"]
            .to_string()
            .contains("too many items")
    );
    rounds(&mut nodes, 360);
    let failing = stored(&site, CONFIG_NAME)["failing"].clone();
    assert!(
        !failing.to_string().contains("too many"),
        "the 64 prefixes are gone for almost an hour: {failing}; {}",
        status(&site, CONFIG_NAME)
    );
}

/// The interface of a second node has no prefix. Both IP6UpdateNodeConfigs are recreated, and the second node is first:
/// the prefix of the other one is not known to be gone.
fn recreated_beside_a_node_without_a_prefix() {
    let site = Site::with_address(ADDRESS);
    site.server.add_node(NODE_2);
    let empty = Interface::new();
    let second = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
        "metadata": {"name": "second"},
        "spec": {"interface": empty.name, "nodeSelector": {"kubernetes.io/hostname": NODE_2}}});
    let create_second = || site.server.admin("POST", NODE_CONFIGS, "application/json", &second);
    create_second();
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "Updated");
    let turns = reasons(&site.server.store(), CONFIG_NAME).len();
    site.recreate_node_config();
    site.server
        .admin("DELETE", &format!("{NODE_CONFIGS}/second"), "", &Value::Null);
    create_second();
    nodes[1].rounds(1);
    nodes[0].rounds(1);
    rounds(&mut nodes, 3);
    let all = reasons(&site.server.store(), CONFIG_NAME);
    assert_eq!(all.len(), turns, "{all:?}; {:?}", site.events());
}

/// The only node cannot publish. A webhook refuses the status of another config.
fn a_node_that_cannot_publish_beside_a_refused_status() {
    let site = Site::with_address(ADDRESS);
    site.server
        .create(&CONFIG.replace(CONFIG_NAME, "another").replace(GROUP, "another"));
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {CONFIGS}/another/status"),
        usize::MAX,
        denial("another"),
    ));
    site.patch(
        &format!("{CONFIGS}/another"),
        json!({"spec": {"ciliumCIDRGroups": [{"ciliumCIDRGroupName": "another", "prefixIds": [2]}]}}),
    );
    node.rounds(6);
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
        usize::MAX,
        denial("ip6-update-node1"),
    ));
    node.rounds(360);
    let reported = status(&site, CONFIG_NAME);
    assert_eq!(
        reported["status"],
        "False",
        "for an hour no node could publish: {reported}; {:?}",
        cidrs(&site.server.store(), GROUP)
    );
}

/// delegatedPrefixes are those that the targets were written for: here there are none.
fn a_config_whose_only_group_belongs_to_another() {
    let site = Site::with_address(ADDRESS);
    site.server.advance_clock(Duration::from_secs(1));
    site.server.create(&CONFIG.replace(CONFIG_NAME, "younger"));
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason("younger", "GroupConflict");
    let events = site.events_about("ip6updateconfigs", "younger");
    assert!(
        !events.iter().any(|reason| reason.contains("PrefixChanged")),
        "{events:?}; {}",
        stored(&site, "younger")
    );
}

/// A webhook refuses each status. First the prefix changes, then the user makes an error.
fn error_while_no_status_is_taken(reason: &str, error: fn(&Site)) {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status"),
        usize::MAX,
        denial(CONFIG_NAME),
    ));
    site.renumber();
    node.rounds(10);
    assert!(
        site.events_about("ip6updateconfigs", CONFIG_NAME)
            .iter()
            .any(|reason| reason.contains("StatusRefused"))
    );
    error(&site);
    node.rounds(360);
    let about: Vec<_> = site
        .events()
        .into_iter()
        .filter(|event| event.0 == "StatusRefused")
        .collect();
    let lines: Vec<String> = node.log().into_iter().filter(|line| line.contains(reason)).collect();
    assert!(
        about.iter().any(|(_, note)| note.contains(reason)) || !lines.is_empty(),
        "for an hour nothing says {reason}: {}; {about:?}",
        status(&site, CONFIG_NAME)
    );
}

fn a_typing_error_while_no_status_is_taken() {
    error_while_no_status_is_taken("InvalidSpec", |site| {
        site.force_spec(json!({"delegatedPrefixLength": 60,
            "ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 20]}]}));
    });
}

fn a_prefix_that_goes_while_no_status_is_taken() {
    error_while_no_status_is_taken("NoPrefix", |site| site.interface.remove(NEW_ADDRESS));
}

/// Its only list depends on no prefix, and there is none.
fn a_config_of_extra_cidrs_only() {
    let site = Site::new();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": [
            {"ciliumCIDRGroupName": "fixed", "prefixIds": [], "extraCIDRs": ["192.168.0.0/16"]}]}}),
    );
    let mut node = Clockwork::start(&site);
    node.rounds(6);
    assert_eq!(
        cidrs(&site.server.store(), "fixed"),
        Some(vec!["192.168.0.0/16".to_string()])
    );
    let reported = status(&site, CONFIG_NAME);
    assert_eq!(reported["status"], "True", "its only list is right: {reported}");
}

/// A node is silent, and a webhook refuses its removal. The node is back before the next try. Later it is silent again,
/// and the webhook refuses again.
fn a_refused_removal_of_a_node_that_comes_back() {
    let trio = Trio::<Clockwork>::of(Site::new(), Layout::PerNode);
    let site = &trio.site;
    let mut one = Clockwork::of(site, NAMES[0], INTERVAL);
    let mut two = Clockwork::of(site, NAMES[1], INTERVAL);
    let path = format!("PATCH {NODE_CONFIGS}/{}/status", NAMES[1]);
    let events = || site.events().iter().filter(|event| event.0 == "PublishFailed").count();
    let warnings = |one: &Clockwork| {
        one.complaints()
            .iter()
            .filter(|line| line.contains("cannot be removed"))
            .count()
    };
    for time in 1..=2 {
        for _ in 0..30 {
            one.rounds(1);
            two.rounds(1);
        }
        site.server.inject(Plan::on(&path, usize::MAX, denial(NAMES[1])));
        one.rounds(60);
        assert_eq!(
            (warnings(&one), events()),
            (time, time),
            "silence {time}: ten minutes: {:?} {:?}",
            one.complaints(),
            one.reconciler().problems.subjects().collect::<Vec<_>>()
        );
        // The webhook is gone, and the node is back before the next try.
        site.server.heal();
        two.rounds(1);
    }
}
