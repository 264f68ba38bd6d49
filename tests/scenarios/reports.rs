//! What several nodes, one after the other, report about one failure.

use std::time::Duration;

use k6u_testkit::apiserver::fault::Plan;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, NODE, NODE_2, NODE_CONFIGS, Site, WEBHOOK, denial,
    name_groups, ready, reasons, refusal, requests,
};
use k6u_testkit::trio::{Layout, NAMES, Trio};
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::{Clockwork, INTERVAL, after_a_refused_status};

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
    a_refused_removal_of_its_own_entry,
    a_router_reboots_while_two_targets_are_refused,
    a_node_that_is_selected_again_is_refused_again,
    a_typing_error_while_no_node_can_publish,
    a_refused_removal_and_one_lost_publication,
    the_prefix_that_was_seen_last,
    an_altered_entry_is_refused,
    one_node_cannot_read_a_group_beside_a_contested_one,
    one_node_cannot_read_a_fixed_group_without_a_prefix,
    two_nodes_are_refused_in_different_ways,
    no_node_can_publish_and_the_last_prefix_vanished,
    an_altered_entry_is_left_behind,
    no_node_can_publish_and_one_cannot_read_a_group,
];

const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";
const FIRST: &str = "ip6-update-node1";

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
    site.select_all_nodes();
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "Updated");
    (site, nodes)
}

fn rounds(nodes: &mut [Clockwork], count: usize) {
    (0..count).for_each(|_| nodes.iter_mut().for_each(|node| node.rounds(1)));
}

fn refuse_publications(site: &Site) {
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/{FIRST}/status"),
        usize::MAX,
        denial(FIRST),
    ));
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
    site.overwrite_group();
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
    site.select_all_nodes();
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
    site.overwrite_group();
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
    site.overwrite_group();
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
    site.select_all_nodes();
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
    site.overwrite_group();
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
    let (site, mut node) = after_a_refused_status();
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

/// The only node that publishes moves to another IP6UpdateNodeConfig, and a webhook refuses that it removes its entry
/// from the first one.
fn a_refused_removal_of_its_own_entry() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::of(&site, NODE, INTERVAL);
    node.run(Duration::from_secs(120));
    site.wait_reason(CONFIG_NAME, "Updated");
    let second = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
        "metadata": {"name": "second"}, "spec": {"interface": site.interface.name}});
    site.server.admin("POST", NODE_CONFIGS, "application/json", &second);
    refuse_publications(&site);
    site.patch(
        &format!("{NODE_CONFIGS}/{FIRST}"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "node9.example.com"}}}),
    );
    node.run(Duration::from_secs(3600));
    let all = reasons(&site.server.store(), CONFIG_NAME);
    assert!(
        all.len() <= 3,
        "in an hour in which nothing changed Ready turned {} times; {} Events: {:?}",
        all.len(),
        site.events().len(),
        &all[..all.len().min(12)]
    );
}

/// A webhook refuses two groups, one of which depends on no prefix. The router reboots. Then the first one is exempted.
fn a_router_reboots_while_two_targets_are_refused() {
    let (site, mut nodes) = pair();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]},
            {"ciliumCIDRGroupName": "fixed", "prefixIds": [], "extraCIDRs": ["192.168.0.0/16"]}]}}),
    );
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "Updated");
    for name in [GROUP, "fixed"] {
        site.server
            .inject(Plan::on(&format!("PATCH {GROUPS}/{name}"), usize::MAX, denial(name)));
        site.patch(
            &format!("{GROUPS}/{name}"),
            json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
        );
    }
    rounds(&mut nodes, 6);
    assert_eq!(stored(&site, CONFIG_NAME)["failing"].as_array().unwrap().len(), 2);
    site.interface.remove(ADDRESS);
    rounds(&mut nodes, 6);
    site.interface.add(NEW_ADDRESS);
    let mut count = 0;
    while !stored(&site, CONFIG_NAME)["failing"].to_string().contains(GROUP) && count < 120 {
        rounds(&mut nodes, 1);
        count += 1;
    }
    assert!(
        count <= 8,
        "a webhook refused each write of {GROUP}, and Ready did not name it for {count} rounds, 10 s apart"
    );
}

/// A webhook refuses what the second node publishes. The administrator excludes it for a while, then selects it again.
fn a_node_that_is_selected_again_is_refused_again() {
    let site = Site::with_address(ADDRESS);
    site.server.add_node(NODE_2);
    let mut node = Clockwork::of(&site, NODE, INTERVAL);
    let mut other = Clockwork::of(&site, NODE_2, INTERVAL);
    let second = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
        "metadata": {"name": "second"},
        "spec": {"interface": site.interface.name, "nodeSelector": {"kubernetes.io/hostname": NODE_2}}});
    site.server.admin("POST", NODE_CONFIGS, "application/json", &second);
    let refuse = || {
        site.server.inject(Plan::on(
            &format!("PATCH {NODE_CONFIGS}/second/status"),
            usize::MAX,
            denial("second"),
        ));
    };
    let select = |name: &str| {
        site.patch(
            &format!("{NODE_CONFIGS}/second"),
            json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": name}}}),
        );
    };
    refuse();
    let both = |node: &mut Clockwork, other: &mut Clockwork, count| {
        for _ in 0..count {
            node.rounds(1);
            other.rounds(1);
        }
    };
    both(&mut node, &mut other, 30);
    assert_eq!(site.count_events("PublishFailed"), 1);
    select("node9.example.com");
    site.server.heal();
    // A month without any trouble.
    both(&mut node, &mut other, 360);
    refuse();
    select(NODE_2);
    both(&mut node, &mut other, 360);
    assert_eq!(
        site.count_events("PublishFailed"),
        2,
        "for an hour a webhook refused what the node publishes, and nothing says so: {}; {:?}; {:?}",
        status(&site, CONFIG_NAME),
        site.events(),
        other.complaints()
    );
}

/// No node can publish, and Ready says so. The user makes a typing error, and corrects it.
fn a_typing_error_while_no_node_can_publish() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::of(&site, NODE, INTERVAL);
    node.run(Duration::from_secs(60));
    site.wait_reason(CONFIG_NAME, "Updated");
    refuse_publications(&site);
    site.renumber();
    node.run(Duration::from_secs(300));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let right = json!({"delegatedPrefixLength": 60,
        "ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]}]});
    let wrong = json!({"delegatedPrefixLength": 60,
        "ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 20]}]});
    let tries = || requests(&site.server.store(), &format!("PATCH {NODE_CONFIGS}/{FIRST}/status")).len();
    let before = tries();
    while tries() == before {
        node.round_after(Duration::from_secs(1));
    }
    site.force_spec(wrong);
    node.round_after(Duration::from_secs(5));
    site.wait_reason(CONFIG_NAME, "InvalidSpec");
    site.force_spec(right);
    node.run(Duration::from_secs(120));
    let all = reasons(&site.server.store(), CONFIG_NAME);
    assert_eq!(
        all,
        ["Updated", "UpdateFailed", "InvalidSpec", "UpdateFailed"],
        "the node sees another prefix than the group holds, and cannot publish it"
    );
}

/// A webhook keeps the entry of a silent node for ever. Four times, a quarter of an hour apart, one publication of the other
/// node fails, in another object.
fn a_refused_removal_and_one_lost_publication() {
    let site = Site::with_address(ADDRESS);
    let second = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
        "metadata": {"name": "second"},
        "spec": {"interface": "eth0", "nodeSelector": {"kubernetes.io/hostname": NODE_2}}});
    site.server.admin("POST", NODE_CONFIGS, "application/json", &second);
    let entry = json!({"prefixes": ["2001:db8:aaaa:bbb1::/64"], "observedTime": "2026-11-24T00:00:00Z"});
    site.patch(
        &format!("{NODE_CONFIGS}/second/status"),
        json!({"status": {"nodes": {NODE_2: entry}}}),
    );
    let mut node = Clockwork::start(&site);
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/second/status"),
        usize::MAX,
        denial("second"),
    ));
    node.rounds(60);
    assert_eq!(
        (node.count("cannot be removed"), site.count_events("PublishFailed")),
        (1, 1)
    );
    for _ in 0..4 {
        site.server.inject(Plan::on(
            &format!("PATCH {NODE_CONFIGS}/{FIRST}/status"),
            1,
            refusal(500, "InternalError", "etcdserver: leader changed", FIRST),
        ));
        node.rounds(90);
    }
    let lines = || node.log().into_iter().filter(|line| line.contains("removal of"));
    assert!(
        !lines().any(|line| line.contains("recovered")),
        "the entry is still there, and each removal is refused, {} Events: {:#?}",
        site.count_events("PublishFailed"),
        lines().collect::<Vec<_>>()
    );
}

/// The group is refused while the provider renumbers; then the prefix goes.
fn the_prefix_that_was_seen_last() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), usize::MAX, denial(GROUP)));
    site.renumber();
    node.rounds(6);
    assert_eq!(stored(&site, CONFIG_NAME)["prefix"], "2001:db8:9876:5430::/60");
    site.interface.remove(NEW_ADDRESS);
    node.rounds(6);
    site.wait_reason(CONFIG_NAME, "NoPrefix");
    assert_eq!(
        stored(&site, CONFIG_NAME)["prefix"],
        "2001:db8:9876:5430::/60",
        "the delegated prefixes that the nodes see, or saw last"
    );
}

/// A webhook changes the entry of the only node; then another one refuses it.
fn an_altered_entry_is_refused() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::of(&site, NODE, INTERVAL);
    node.run(Duration::from_secs(60));
    site.wait_reason(CONFIG_NAME, "Updated");
    site.change_messages();
    node.run(Duration::from_secs(300));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    refuse_publications(&site);
    node.run(Duration::from_secs(300));
    let writes = || requests(&site.server.store(), &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status")).len();
    let before = writes();
    node.run(Duration::from_secs(3600));
    let count = writes() - before;
    assert!(
        count <= 3,
        "in an hour in which nothing changed the status was written {count} times"
    );
}

/// Lets two nodes make rounds; the second one cannot read this group.
fn rounds_with_a_failure_of_the_second(site: &Site, nodes: &mut [Clockwork; 2], group: &str, count: usize) {
    for _ in 0..count {
        nodes[0].rounds(1);
        let down = refusal(503, "ServiceUnavailable", "unavailable", group);
        site.server
            .inject(Plan::on(&format!("GET {GROUPS}/{group}$"), usize::MAX, down));
        nodes[1].rounds(1);
        site.server.heal();
    }
}

/// Two nodes. The config has a group that an older one owns, and one that the second node cannot read.
fn one_node_cannot_read_a_group_beside_a_contested_one() {
    let site = Site::with_address(ADDRESS);
    site.select_all_nodes();
    site.server.advance_clock(Duration::from_secs(1));
    site.server.create(&CONFIG.replace(CONFIG_NAME, "younger"));
    site.patch(
        &format!("{CONFIGS}/younger"),
        json!({"spec": {"ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0]},
            {"ciliumCIDRGroupName": "mine", "prefixIds": [1]}]}}),
    );
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    rounds(&mut nodes, 6);
    site.wait_reason("younger", "GroupConflict");
    rounds_with_a_failure_of_the_second(&site, &mut nodes, "mine", 180);
    let all = reasons(&site.server.store(), "younger");
    assert!(
        all.len() <= 8,
        "in half an hour Ready turned {} times, with {} Events",
        all.len(),
        site.events_about("ip6updateconfigs", "younger").len()
    );
}

/// Two nodes without a prefix. The config has a group that depends on none, and the second node cannot read it.
fn one_node_cannot_read_a_fixed_group_without_a_prefix() {
    let (site, mut nodes) = pair();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]},
            {"ciliumCIDRGroupName": "fixed", "prefixIds": [], "extraCIDRs": ["192.168.0.0/16"]}]}}),
    );
    site.interface.remove(ADDRESS);
    rounds(&mut nodes, 6);
    site.wait_reason(CONFIG_NAME, "NoPrefix");
    rounds_with_a_failure_of_the_second(&site, &mut nodes, "fixed", 180);
    let all = reasons(&site.server.store(), CONFIG_NAME);
    assert!(
        all.len() <= 8,
        "in half an hour Ready turned {} times, with {} Events",
        all.len(),
        site.events().len()
    );
}

/// Two nodes in one IP6UpdateNodeConfig; what they publish is refused to each in another way: their API servers differ.
fn two_nodes_are_refused_in_different_ways() {
    let (site, mut nodes) = pair();
    let path = format!("PATCH {NODE_CONFIGS}/{FIRST}/status");
    let writes = || requests(&site.server.store(), &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status")).len();
    let mut before = 0;
    for round in 0..240 {
        if round == 60 {
            before = writes();
        }
        site.server.inject(Plan::on(&path, usize::MAX, denial(FIRST)));
        nodes[0].rounds(1);
        site.server.heal();
        site.server.inject(Plan::on(
            &path,
            usize::MAX,
            refusal(500, "InternalError", WEBHOOK, FIRST),
        ));
        nodes[1].rounds(1);
        site.server.heal();
    }
    let count = writes() - before;
    assert!(
        count <= 6,
        "in half an hour in which nothing changed the status was written {count} times"
    );
}

/// The second node is the only one with a prefix. Its object is deleted while a webhook refuses what the first one publishes.
fn no_node_can_publish_and_the_last_prefix_vanished() {
    let site = Site::new();
    let second = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
        "metadata": {"name": "second"},
        "spec": {"interface": "eth0", "nodeSelector": {"kubernetes.io/hostname": NODE_2}}});
    site.server.admin("POST", NODE_CONFIGS, "application/json", &second);
    let entry = json!({"prefixes": ["2001:db8:1234:5671::/64"], "observedTime": "2026-11-24T00:00:00Z"});
    site.patch(
        &format!("{NODE_CONFIGS}/second/status"),
        json!({"status": {"nodes": {NODE_2: entry}}}),
    );
    let mut node = Clockwork::start(&site);
    node.rounds(6);
    site.wait_reason(CONFIG_NAME, "Updated");
    refuse_publications(&site);
    node.rounds(6);
    site.server
        .admin("DELETE", &format!("{NODE_CONFIGS}/second"), "", &Value::Null);
    node.rounds(360);
    let reported = status(&site, CONFIG_NAME);
    assert_eq!(
        reported["status"], "False",
        "for an hour no node has a prefix, and none can publish: {reported}"
    );
}

/// A webhook changes the entry of the only node. The node is moved to another IP6UpdateNodeConfig, and the webhook goes.
fn an_altered_entry_is_left_behind() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(6);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.change_messages();
    node.rounds(30);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let second = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
        "metadata": {"name": "second"}, "spec": {"interface": site.interface.name}});
    site.server.store().mutation = None;
    site.server.admin("POST", NODE_CONFIGS, "application/json", &second);
    site.patch(
        &format!("{NODE_CONFIGS}/{FIRST}"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "node9.example.com"}}}),
    );
    node.rounds(30);
    site.wait_reason(CONFIG_NAME, "Updated");
    let writes = || requests(&site.server.store(), "PATCH /apis/apiextensions.k8s.io/").len();
    let before = writes();
    node.rounds(360);
    let count = writes() - before;
    let open: Vec<String> = node
        .reconciler()
        .problems
        .subjects()
        .map(|subject| format!("{subject:?}"))
        .collect();
    assert_eq!(
        count, 0,
        "all is well for an hour, but the CRDs were written {count} times; {open:?}"
    );
}

/// No node can publish. The first one cannot read a group, which the second one can.
fn no_node_can_publish_and_one_cannot_read_a_group() {
    let (site, mut nodes) = pair();
    let writes = || requests(&site.server.store(), &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status")).len();
    let mut before = 0;
    for round in 0..240 {
        if round == 60 {
            before = writes();
        }
        refuse_publications(&site);
        let down = refusal(503, "ServiceUnavailable", "unavailable", GROUP);
        site.server
            .inject(Plan::on(&format!("GET {GROUPS}/{GROUP}$"), usize::MAX, down));
        nodes[0].rounds(1);
        site.server.heal();
        refuse_publications(&site);
        nodes[1].rounds(1);
        site.server.heal();
    }
    let count = writes() - before;
    assert!(
        count <= 12,
        "in half an hour in which nothing changed the status was written {count} times: {}",
        stored(&site, CONFIG_NAME)["failing"]
    );
}
