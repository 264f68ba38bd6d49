//! Several nodes: a process and an interface for each, one API server.

use std::time::Duration;

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::machine::namespace::Interface;
use serde_json::{Map, Value, json};

use crate::Scenario;
use crate::clockwork::{self, Clockwork, rounds_of_all};
use crate::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CRDS, GROUP, NEW_ADDRESS, NODE, NODE_CONFIG, NODE_CONFIGS, Running, SOON, Site,
    follows, ready, reasons, refusal, requests, writes,
};
use crate::trio::{NAMES, Trio, published};

pub const ALL: &[Scenario] = scenarios![
    three_nodes_see_a_new_prefix_one_after_another,
    up_to_three_nodes_do_everything,
    a_dead_node_counts_whatever_the_clocks_say,
    an_idle_node_asks_for_one_list_while_others_publish,
    idle_nodes_tell_that_nobody_publishes,
    an_entry_is_removed_though_conflicts_come_first,
    trouble_ends_with_the_node_config_that_it_is_about,
    a_long_node_selector,
    node_configs_that_are_made_anew,
    a_change_is_told_once_by_three_nodes,
    publications_whose_answers_are_lost,
    a_node_config_changes_among_several_nodes,
    several_nodes_and_the_crds_of_another_release,
    a_node_config_stops_matching,
    a_node_that_kubernetes_does_not_know,
    one_node_config_refused_for_all,
    a_node_that_moves_and_is_refused,
    a_stale_message_of_an_idle_node,
    a_single_node_that_cannot_publish_restores_its_group,
    made_anew_between_the_two_looks,
    made_anew_just_before_a_publication,
    two_node_configs_hang,
    the_first_node_that_publishes_comes_last,
];

fn three_nodes_see_a_new_prefix_one_after_another() {
    let trio = Trio::start(1);
    let first = trio.site.group_history(GROUP).len();
    for (at, interface) in trio.interfaces.iter().enumerate() {
        interface.add(&format!("2001:db8:9876:543{at}::10"));
        interface.deprecate(&format!("2001:db8:1234:567{at}::10"));
        // Long enough for the others to make rounds of their own, and to undo it if they would.
        std::thread::sleep(Duration::from_millis(1200));
    }
    trio.site.wait_lan("2001:db8:9876:543");
    trio.site.wait_rounds(6);
    let history = trio.site.group_history(GROUP);
    assert!(history.len() > first, "nothing was written");
    for cidr in [0, 1, 2].map(|id| format!("2001:db8:9876:543{id}::/64")) {
        let held: Vec<bool> = history.iter().map(|cidrs| cidrs.contains(&cidr)).collect();
        let since = held.iter().position(|holds| *holds).expect("it was written");
        assert!(
            held[since..].iter().all(|holds| *holds),
            "{cidr} disappeared again: {history:#?}"
        );
    }
    assert_eq!(
        history.last().unwrap().len(),
        3,
        "the old prefix is gone once the last node left it"
    );
    for node in &trio.nodes {
        assert_eq!(node.complaints(), [""; 0]);
    }
}

fn a_change_is_told_once_by_three_nodes() {
    let trio = Trio::start(1);
    for (at, interface) in trio.interfaces.iter().enumerate() {
        interface.remove(&format!("2001:db8:1234:567{at}::10"));
    }
    trio.site.wait_reason(CONFIG_NAME, "NoPrefix");
    trio.site.wait_rounds(6);
    let count = |reason: &str| trio.site.events().iter().filter(|(r, _)| r == reason).count();
    assert_eq!(count("NoPrefix"), 1, "{:?}", trio.site.events());
    assert_eq!(count("PrefixChanged"), 1, "{:?}", trio.site.events());
}

fn up_to_three_nodes_do_everything() {
    let trio = Trio::sharing(1);
    trio.site.wait_rounds(9);
    let counts = |store: &Store| {
        let count = |start: &str| requests(store, start).len();
        (
            count(&format!("GET {NODE_CONFIGS}")),
            count("GET /apis/cilium.io/v2/ciliumcidrgroups/"),
        )
    };
    let before = counts(&trio.site.server.store());
    trio.site.wait_rounds(24);
    let after = counts(&trio.site.server.store());
    let (lists, groups) = (after.0 - before.0, after.1 - before.1);
    // A round that is under way when it is counted has one of the two only.
    assert!(
        lists.abs_diff(groups) <= NAMES.len(),
        "{groups} reads of the group, {lists} of the node configs"
    );
    trio.site.patch(
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
    );
    trio.site.wait_lan("2001:db8:1234:567");
}

/// The change is stored, so to the next round it is none; but nobody may have followed it yet.
fn publications_whose_answers_are_lost() {
    let (site, mut node) = Clockwork::settled();
    // The publication is carried out twice, because a dead connection is tried again; both answers are lost.
    let lost = Plan::on(
        "PATCH /apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs",
        2,
        Fault::CutAt(0),
    );
    site.server.inject(lost);
    site.interface.add("2001:db8:aaaa:bbb0::10");
    node.run(Duration::from_secs(30));
    assert_eq!(
        cidrs(&site.server.store(), GROUP).map(|held| held.len()),
        Some(6),
        "nobody took it on"
    );
    let recovered = "IP6UpdateNodeConfig ip6-update-node1: recovered after 1 failure";
    assert_eq!(node.count(recovered), 1, "{:#?}", node.log());
}

fn a_node_config_changes_among_several_nodes() {
    let trio = Trio::start(1);
    trio.site.wait_rounds(9);
    let other = Interface::new();
    other.add("2001:db8:9876:5432::10");
    let path = format!("{NODE_CONFIGS}/{}", NAMES[2]);
    trio.site.patch(&path, json!({"spec": {"interface": other.name}}));
    let sees = |store: &Store| {
        Some(published(store, NAMES[2])?).filter(|entry| entry["prefixes"] == json!(["2001:db8:9876:5432::/64"]))
    };
    assert!(
        trio.site.server.wait(SOON, sees).is_some(),
        "the other interface is not watched"
    );
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(trio.site.server.wait(SOON, both).is_some(), "the group does not follow");
    trio.site.server.admin("DELETE", &path, "", &Value::Null);
    trio.nodes[2].wait_log("no IP6UpdateNodeConfig selects node node3.example.com", SOON);
    trio.site.wait_lan("2001:db8:1234:567");
}

fn several_nodes_and_the_crds_of_another_release() {
    let site = Site::new();
    site.revoke("patch", "customresourcedefinitions");
    site.server
        .apply_crds(&CRDS.replace("name: Stale after", "name: Patience"), "kubectl");
    let trio = Trio::on(site, 1);
    trio.site.wait_rounds(6);
    trio.renumber("2001:db8:1234:567", "2001:db8:9876:543");
    trio.site.wait_lan("2001:db8:9876:543");
    for node in &trio.nodes {
        assert_eq!(node.wait_complaints(1).len(), 1, "about the CRDs only");
    }
}

/// Only those who watched its entry stand still for five minutes of their own remove it: see the simulation.
fn a_dead_node_counts_whatever_the_clocks_say() {
    let mut trio = Trio::start(1);
    // The third one is at another site, with a prefix of its own.
    trio.interfaces[2].remove("2001:db8:1234:5672::10");
    trio.interfaces[2].add("2001:db8:9876:5432::10");
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(
        trio.site.server.wait(SOON, both).is_some(),
        "both sites are in the group"
    );
    drop(trio.nodes.pop());
    let entry = published(&trio.site.server.store(), NAMES[2]);
    let written = trio.site.group_history(GROUP).len();
    // An hour passes on the server's clock; the others start anew meanwhile, and know nothing of before.
    trio.site.server.advance_clock(Duration::from_secs(3600));
    trio.site.wait_rounds(8);
    trio.nodes = NAMES[..2].iter().map(|name| trio.run(name, 1)).collect();
    trio.site.wait_rounds(8);
    assert_eq!(published(&trio.site.server.store(), NAMES[2]), entry);
    assert_eq!(
        trio.site.group_history(GROUP).len(),
        written,
        "a clock is no reason to write"
    );
}

fn a_node_config_stops_matching() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "another"}}}),
    );
    node.wait_log("no IP6UpdateNodeConfig selects node node1.example.com", SOON);
    let config = || {
        site.object("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1")
            .unwrap()
    };
    let removed = site.server.wait(SOON, |store| {
        let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
        store.objects[&key]["status"]["nodes"].get(NODE).is_none().then_some(())
    });
    assert!(removed.is_some(), "{}", config());
    site.wait_rounds(3);
    assert_eq!(node.count("no IP6UpdateNodeConfig selects"), 1, "said once");
    site.wait_lan("2001:db8:1234:567");
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": NODE}}}),
    );
    node.wait_log("an IP6UpdateNodeConfig selects node node1.example.com now", SOON);
}

/// Runs k6u on a node that no IP6UpdateNodeConfig selects.
fn run_idle(site: &Site) -> Running {
    site.server.add_node("other.example.com");
    Running(
        site.start()
            .with("NODE_NAME", "other.example.com")
            .with("UPDATE_INTERVAL", "1")
            .spawn(),
    )
}

fn an_idle_node_asks_for_one_list_while_others_publish() {
    let site = Site::new();
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    let _node = run_idle(&site);
    site.wait_rounds(2);
    let before = site.server.store().log.len();
    site.wait_rounds(3);
    let store = site.server.store();
    let since: Vec<&String> = store.log[before..].iter().map(|logged| &logged.line).collect();
    assert!(
        since.iter().all(|line| **line == format!("GET {NODE_CONFIGS}")),
        "{since:?}"
    );
    assert!(
        writes(&store)
            .iter()
            .all(|line| line.contains("customresourcedefinitions")),
        "{:?}",
        writes(&store)
    );
}

fn idle_nodes_tell_that_nobody_publishes() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let idle = run_idle(&site);
    idle.wait_log("no IP6UpdateNodeConfig selects node other.example.com", SOON);
    // A typing error; then the node that published does so no more.
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "node1.example.com."}}}),
    );
    let removed = |store: &Store| entry(store, NODE).is_none().then_some(());
    assert!(site.server.wait(SOON, removed).is_some(), "its entry is still there");
    drop(node);
    let condition = site.wait_reason(CONFIG_NAME, "NoPrefix");
    assert_eq!(condition["status"], "False");
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.contains("ip6-update-node1") && message.contains("nodeSelector"),
        "{message}"
    );
    site.wait_lan("2001:db8:1234:567");
    // It is told once, by whoever is left.
    site.wait_rounds(3);
    let told = site.events().iter().filter(|(reason, _)| reason == "NoPrefix").count();
    assert_eq!(told, 1, "{:?}", site.events());
}

/// What a node published in the example's IP6UpdateNodeConfig.
pub fn entry(store: &Store, node: &str) -> Option<Value> {
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    Some(store.objects.get(&key)?["status"]["nodes"][node].clone()).filter(Value::is_object)
}

fn an_entry_is_removed_though_conflicts_come_first() {
    let (site, node) = Site::settled(1);
    let conflict = json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409,
        "message": "the object has been modified", "details": {"name": "ip6-update-node1"}});
    let conflict = Response::new(409, "application/json", conflict.to_string());
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
        3,
        Fault::Answer(conflict),
    ));
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "another"}}}),
    );
    let removed = |store: &Store| entry(store, NODE).is_none().then_some(());
    assert!(site.server.wait(SOON, removed).is_some(), "{:#?}", node.log());
    let refused = site
        .server
        .store()
        .log
        .iter()
        .filter(|logged| logged.status == 409)
        .count();
    assert_eq!(refused, 3);
    site.wait_lan("2001:db8:1234:567");
}

fn trouble_ends_with_the_node_config_that_it_is_about() {
    let (site, node) = Site::settled(1);
    site.revoke("patch", "ip6updatenodeconfigs/status");
    site.interface.add("2001:db8:9876:5431::10");
    let told = "WARN  IP6UpdateNodeConfig ip6-update-node1: node node1.example.com cannot publish what it sees: ";
    node.wait_log(told, SOON);
    let path = format!("{NODE_CONFIGS}/ip6-update-node1");
    site.server.admin("DELETE", &path, "", &Value::Null);
    node.wait_log("no IP6UpdateNodeConfig selects node node1.example.com", SOON);
    site.wait_rounds(2);
    assert_eq!(node.count(told), 1, "told once");
    // The new one is not the old one: its trouble is news.
    site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
    node.wait_count(told, 2, SOON);
    assert_eq!(node.count("IP6UpdateNodeConfig ip6-update-node1: recovered"), 0);
}

fn a_long_node_selector() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let long = |number: usize| (format!("example.com/{number:050}"), json!("x".repeat(63)));
    let labels: Map<String, Value> = (0..30).map(long).collect();
    assert!(json!(labels).to_string().len() > 3 * 1024);
    site.patch(
        &format!("/api/v1/nodes/{NODE}"),
        json!({"metadata": {"labels": labels}}),
    );
    let path = format!("{NODE_CONFIGS}/ip6-update-node1");
    site.patch(&path, json!({"spec": {"nodeSelector": labels}}));
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    // A change of its last label counts as one of its first does.
    site.patch(&path, json!({"spec": {"nodeSelector": {long(29).0: "y"}}}));
    node.wait_log("no IP6UpdateNodeConfig selects node node1.example.com", SOON);
    site.patch(&path, json!({"spec": {"nodeSelector": {long(29).0: long(29).1}}}));
    node.wait_log("an IP6UpdateNodeConfig selects node node1.example.com now", SOON);
    site.wait_reason(CONFIG_NAME, "Updated");
}

/// Two sites in one object. Nobody knows all of it before both are back, so nothing is taken out until then.
fn node_configs_that_are_made_anew() {
    let mut trio = clockwork::trio();
    trio.interfaces[2].remove("2001:db8:1234:5672::10");
    trio.interfaces[2].add("2001:db8:9876:5432::10");
    // What a node has not read yet it cannot miss.
    rounds_of_all(&mut trio.nodes, 3);
    let held = cidrs(&trio.site.server.store(), GROUP);
    assert_eq!(held.map(|held| held.len()), Some(6), "both sites are in the group");
    let written = trio.site.group_history(GROUP).len();
    let key = |name: &str| Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", name);
    let anew = |name: &str| {
        let mut config = trio.site.server.store().objects[&key(name)].clone();
        let path = format!("{NODE_CONFIGS}/{name}");
        trio.site.server.admin("DELETE", &path, "", &Value::Null);
        config["metadata"] = json!({"name": name});
        config.as_object_mut().unwrap().remove("status");
        trio.site
            .server
            .admin("POST", NODE_CONFIGS, "application/json", &config);
    };
    NAMES.iter().for_each(|name| anew(name));
    rounds_of_all(&mut trio.nodes, 1);
    for name in NAMES {
        let back = published(&trio.site.server.store(), name);
        assert!(back.is_some(), "{name} did not publish again");
    }
    rounds_of_all(&mut trio.nodes, 90);
    let history = trio.site.group_history(GROUP).split_off(written);
    assert!(history.is_empty(), "{history:#?}");
}

fn a_node_that_kubernetes_does_not_know() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let node = Running(
        site.start()
            .with("NODE_NAME", "unknown.example.com")
            .with("UPDATE_INTERVAL", "1")
            .spawn(),
    );
    node.wait_log("check that NODE_NAME is the name of a Node", SOON);
    // And that nobody publishes.
    let complaints = node.wait_complaints(2);
    assert!(complaints[1].contains("is not Ready: NoPrefix: "), "{complaints:?}");
    site.wait_rounds(3);
    assert_eq!(node.complaints().len(), 2, "{:?}", node.complaints());
    assert!(site.group(GROUP).is_none());
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
    let reached = site.server.wait(SOON * 2, |store| follows(store, "2001:db8:9876:543"));
    let store = site.server.store();
    let told = ready(&store, CONFIG_NAME);
    let entries = crate::trio::published(&store, NODE);
    drop(store);
    assert!(
        reached.is_some(),
        "all published the new prefix ({entries:?}) three minutes ago, but nobody wrote it; {told:?}"
    );
}

/// It is moved from one IP6UpdateNodeConfig to another, whose status is refused for ever.
fn a_node_that_moves_and_is_refused() {
    let site = Site::with_address(ADDRESS);
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
    let mut nodes = [NODE, OTHER].map(|name| Clockwork::of(&site, name, Duration::from_secs(1)));
    rounds_of_all(&mut nodes, 15);
    assert_eq!(cidrs(&site.server.store(), GROUP).map(|held| held.len()), Some(6));
    site.wait_reason(CONFIG_NAME, "Updated");
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
    rounds_of_all(&mut nodes, 120);
    let held = cidrs(&site.server.store(), GROUP).unwrap();
    let told = ready(&site.server.store(), CONFIG_NAME);
    assert_eq!(
        held.len(),
        6,
        "node 1 sees 2001:db8:1234:5671::/64 all the time: {held:?}, {told:?}"
    );
}

/// The config comes first, then the node config with a typing error in its nodeSelector.
fn a_stale_message_of_an_idle_node() {
    let site = Site::bare("127.0.0.1", Some(k6u_testkit::apiserver::server::Cilium::Both));
    site.interface.add(ADDRESS);
    site.server.apply_crds(crate::site::CRDS, "k6u");
    site.server.create(CONFIG);
    let mut node = Clockwork::of(&site, NODE, Duration::from_secs(1));
    node.run(Duration::from_secs(5));
    let told = site.wait_reason(CONFIG_NAME, "NoPrefix");
    assert!(
        told["message"]
            .as_str()
            .unwrap()
            .contains("There is no IP6UpdateNodeConfig"),
        "{told}"
    );
    site.server.create(
        &NODE_CONFIG
            .replace("eth0", &site.interface.name)
            .replace(NODE, "nod1.example.com"),
    );
    node.run(Duration::from_secs(15));
    let told = ready(&site.server.store(), CONFIG_NAME).unwrap();
    assert!(
        told["message"].as_str().unwrap().contains("ip6-update-node1"),
        "15 rounds later: {told}"
    );
}

/// "An entry counts as long as it is there"; "it checks every ten seconds, and restores a group".
fn a_single_node_that_cannot_publish_restores_its_group() {
    let (site, mut node) = Clockwork::settled();
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
        usize::MAX,
        refusal(500, "InternalError", "failed calling webhook", "ip6-update-node1"),
    ));
    site.interface.add(NEW_ADDRESS);
    node.run(Duration::from_secs(15));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.patch(
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["2001:db8:dead::/64"]}}),
    );
    node.run(Duration::from_secs(60));
    let held = cidrs(&site.server.store(), GROUP);
    let told = ready(&site.server.store(), CONFIG_NAME);
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let entry = site.server.store().objects[&key]["status"]["nodes"][NODE].clone();
    drop(node);
    assert_eq!(
        held.map(|held| held.len()),
        Some(3),
        "60 rounds after somebody changed the group; the entry is {entry}; {told:?}"
    );
}

const OTHER: &str = "node2.example.com";
const OTHERS: [&str; 1] = ["2001:db8:aaaa:bbb1::/64"];

/// Another node has published another prefix, and the group holds both.
fn two_sites() -> (Site, Clockwork) {
    let (site, mut node) = Clockwork::settled();
    site.publish(OTHER, &OTHERS);
    node.run(Duration::from_secs(2));
    assert_eq!(cidrs(&site.server.store(), GROUP).map(|held| held.len()), Some(6));
    site.wait_reason(CONFIG_NAME, "Updated");
    (site, node)
}

/// "A node whose own entry is missing only adds to lists for an interval and a quarter."
fn made_anew_between_the_two_looks() {
    let (site, mut node) = two_sites();
    // Somebody adds a CIDR; k6u reads the group, and its answer is slow.
    let path = format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
    let mut more = cidrs(&site.server.store(), GROUP).unwrap();
    more.push("2001:db8:dead::/64".into());
    site.patch(&path, json!({"spec": {"externalCIDRs": more}}));
    let read = site.hold(&format!("GET {path}"));
    let written = std::thread::scope(|scope| {
        scope.spawn(|| node.round_after(Duration::from_secs(1)));
        read.wait();
        // Meanwhile the IP6UpdateNodeConfig is made anew, and node 2 is the first to be back.
        site.make_node_config_anew();
        site.publish(OTHER, &OTHERS);
        let written = site.group_history(GROUP).len();
        read.release();
        written
    });
    node.run(Duration::from_secs(90));
    let history = site.group_history(GROUP).split_off(written);
    drop(node);
    assert!(
        history
            .iter()
            .all(|held| held.iter().any(|cidr| cidr.starts_with("2001:db8:1234:567"))),
        "node 1 sees 2001:db8:1234:5671::/64 all the time, found its entry missing, and wrote {history:#?}"
    );
}

/// "The objects were made anew, and the others have to come back first."
fn made_anew_just_before_a_publication() {
    let (site, mut node) = two_sites();
    // The answer to its first list is under way while the IP6UpdateNodeConfig is made anew.
    let list = site.hold(&format!("GET {NODE_CONFIGS}"));
    let (written, before) = std::thread::scope(|scope| {
        scope.spawn(|| node.round_after(Duration::from_secs(1)));
        list.wait();
        site.make_node_config_anew();
        // Another link of the same delegated prefix: something to publish, which changes no list.
        site.interface.add("2001:db8:1234:5672::10");
        let before = (
            site.group_history(GROUP).len(),
            requests(&site.server.store(), "").len(),
        );
        list.release();
        before
    });
    // The other one is back after this node has published, read the group, and looked a second time.
    let steps = [
        format!("PATCH {NODE_CONFIGS}"),
        format!("GET /apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        format!("GET {NODE_CONFIGS}"),
    ];
    let has_looked = |store: &Store| {
        let mut later = requests(store, "").into_iter().skip(before);
        let mut steps = steps.iter();
        steps.all(|step| later.any(|line| line.starts_with(step))).then_some(())
    };
    for _ in 0..3 {
        if has_looked(&site.server.store()).is_none() {
            node.round_after(Duration::from_secs(1));
        }
    }
    assert!(has_looked(&site.server.store()).is_some());
    site.publish(OTHER, &OTHERS);
    node.run(Duration::from_secs(90));
    let history = site.group_history(GROUP).split_off(written);
    let log = node.log();
    let log: Vec<String> = log
        .into_iter()
        .filter(|line| line.contains("CiliumCIDRGroup"))
        .collect();
    drop(node);
    assert!(
        history
            .iter()
            .all(|held| held.iter().any(|cidr| cidr.starts_with("2001:db8:aaaa:bbb"))),
        "node 2 was back within an interval: {log:#?}"
    );
}

/// "What may hang is not tried in a round in which something hung already."
fn two_node_configs_hang() {
    let site = Site::with_address(ADDRESS);
    let others = ["a-first", "b-second"];
    for name in others {
        let node_config = NODE_CONFIG.replace("ip6-update-node1", name);
        site.server.create(&node_config.replace("eth0", &site.interface.name));
    }
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    let publication = |name: &str| format!("PATCH {NODE_CONFIGS}/{name}/status");
    for name in others {
        site.server
            .inject(Plan::on(&publication(name), usize::MAX, Fault::Hang));
    }
    let sent = || others.map(|name| requests(&site.server.store(), &publication(name)).len());
    let before = sent();
    site.interface.add(NEW_ADDRESS);
    site.interface.remove(ADDRESS);
    let reached = site.server.wait(SOON * 2, |store| follows(store, "2001:db8:9876:543"));
    let tried: usize = sent().iter().sum::<usize>() - before.iter().sum::<usize>();
    let complaints = node.complaints();
    drop(node);
    assert!(
        reached.is_some() && tried <= 5,
        "{tried} publications hung before the third node config got its own: {complaints:#?}"
    );
}

/// A first install: the image is there sooner on the nodes that publish nothing.
fn the_first_node_that_publishes_comes_last() {
    let site = Site::with_address(ADDRESS);
    let run = |name: &str| {
        let start = site.start().with("NODE_NAME", name).with("UPDATE_INTERVAL", "10");
        Running(start.spawn())
    };
    NAMES[1..].iter().for_each(|name| site.server.add_node(name));
    let idle: Vec<Running> = NAMES[1..].iter().map(|name| run(name)).collect();
    idle.iter().for_each(|node| node.wait_log("DEBUG round: ", SOON));
    std::thread::sleep(Duration::from_secs(2));
    let told = ready(&site.server.store(), CONFIG_NAME);
    let events = site.events();
    assert!(told.is_none() && events.is_empty(), "{told:?}, {events:?}");
    let publisher = run(NAMES[0]);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(reasons(&site.server.store(), CONFIG_NAME), ["Updated"]);
    let is_event = |store: &Store| store.objects.keys().any(|key| key.resource == "events").then_some(());
    assert!(site.server.wait(SOON, is_event).is_some());
    let events: Vec<String> = site.events().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(events, ["PrefixChanged"]);
    for node in idle.iter().chain([&publisher]) {
        assert_eq!(node.complaints(), [""; 0]);
    }
}
