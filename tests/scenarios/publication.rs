//! Publications: a node's entry, and the node configs that select the node.

use std::time::{Duration, Instant};

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::server::{Cilium, cidrs};
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, CRDS, GROUP, NEW_ADDRESS, NODE, NODE_2, NODE_CONFIG, NODE_CONFIGS, Running,
    SOON, Site, at_once, denial, entry, follows, message, name_groups, ready, reasons, refusal, refusals, requests,
    writes,
};
use k6u_testkit::trio::{NAMES, Trio, published};
use serde_json::{Map, Value, json};

use crate::Scenario;
use crate::clockwork::{Clockwork, INTERVAL, beside_a_silent_node, rounds_of_all};

pub const ALL: &[Scenario] = scenarios![
    a_change_whose_second_list_fails,
    labels_are_read_every_five_minutes,
    a_node_object_that_is_missing_once,
    a_node_object_that_is_missing_at_the_start,
    an_entry_that_a_webhook_always_changes,
    publications_whose_answers_are_lost,
    a_node_config_stops_matching,
    an_idle_node_asks_for_one_list_while_others_publish,
    idle_nodes_report_that_no_node_publishes,
    an_entry_is_removed_after_conflicts,
    a_problem_ends_with_its_node_config,
    a_long_node_selector,
    a_node_that_kubernetes_does_not_know,
    one_node_config_refused_for_all,
    a_node_that_moves_and_is_refused,
    a_stale_message_of_an_idle_node,
    a_single_node_that_cannot_publish_restores_its_group,
    two_node_configs_hang,
    the_publishing_node_starts_last,
    a_refused_status_of_a_node_config,
    endless_conflicts_on_a_publication,
    an_entry_that_is_not_stored_as_it_was_sent,
    another_machine_writes_the_entry,
    a_webhook_changes_the_message_of_each_entry,
    every_answer_to_a_publication_is_lost,
    a_backup_is_restored,
    an_entry_is_deleted_by_hand,
    one_of_two_uplinks_is_refused,
    an_event_that_hangs_delays_no_target,
    a_typing_error_in_the_interface_of_one_of_two_uplinks,
    an_entry_that_is_deleted_where_this_node_is_refused,
    a_spec_that_changes_while_the_node_cannot_publish,
    a_node_config_is_deleted_while_publications_are_refused,
    an_event_of_a_round_that_fails,
    a_long_message_of_an_entry,
    a_recreated_node_config_that_is_refused,
    labels_that_were_read_an_hour_ago,
];

/// "A node does this half if it published a change [...] or did not come to its end."
fn a_change_whose_second_list_fails() {
    let (site, node) = Site::settled(1);
    let entry = json!({"prefixes": ["2001:db8:1234:5671::/64"], "observedTime": "2026-11-24T00:00:00Z"});
    let others: Map<String, Value> = (0..296)
        .map(|n| (format!("other{n}.example.com"), entry.clone()))
        .collect();
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1/status"),
        json!({"status": {"nodes": others}}),
    );
    site.wait_rounds(2);
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/"),
        1,
        Fault::Late(Duration::from_millis(1500)),
    ));
    site.interface.add(NEW_ADDRESS);
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let published = |store: &Store| {
        let entry = &store.objects[&key]["status"]["nodes"][NODE];
        entry.to_string().contains("2001:db8:9876:5431").then_some(())
    };
    assert!(site.server.wait(SOON, published).is_some());
    site.server.inject(Plan::on(
        &format!("GET {NODE_CONFIGS}"),
        1,
        refusal(500, "InternalError", "etcdserver: leader changed", ""),
    ));
    let since = Instant::now();
    let reached = site
        .server
        .wait(Duration::from_secs(12), |store| follows(store, "2001:db8:9876:543"));
    let log = node.log();
    let rounds: Vec<&String> = log
        .iter()
        .rev()
        .filter(|line| line.contains("round: "))
        .take(6)
        .collect();
    let rounds: Vec<String> = rounds.into_iter().cloned().collect();
    drop(node);
    assert!(
        reached.is_some(),
        "published {:?} ago, and no second half since: {rounds:#?}",
        since.elapsed()
    );
}

fn labels_are_read_every_five_minutes() {
    let site = Site::with_address(ADDRESS);
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": null, "uplink": "dsl"}}}),
    );
    let mut node = Clockwork::start(&site);
    site.patch(
        "/api/v1/nodes/node1.example.com",
        json!({"metadata": {"labels": {"uplink": "dsl"}}}),
    );
    node.rounds(29);
    let asked = || requests(&site.server.store(), "GET /api/v1/nodes/").len();
    assert_eq!((asked(), site.held()), (1, 0));
    // They are read at the end of a round, and count from the next one on.
    node.rounds(2);
    assert_eq!((asked(), site.held()), (2, 3));
}

/// "A failed read of the node's labels leaves the last known ones" (4xx).
fn a_node_object_that_is_missing_once() {
    let (site, mut node) = beside_a_silent_node();
    site.server.inject(Plan::on(
        "GET /api/v1/nodes/",
        1,
        refusal(404, "NotFound", "nodes \"node1.example.com\" not found", NODE),
    ));
    let mut rounds = 0;
    for round in 1..=26 {
        node.round_after(INTERVAL);
        if site.held() < 6 {
            rounds += 1;
            eprintln!("round {round}: the group holds {}", site.held());
        }
    }
    assert_eq!(
        rounds, 0,
        "rounds in which the prefix of node 1, which sees it all the time, was not in the group"
    );
}

/// "Before the first success this node stays where it has an entry."
fn a_node_object_that_is_missing_at_the_start() {
    let site = Site::with_address(ADDRESS);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.server.inject(Plan::on(
        "GET /api/v1/nodes/",
        1,
        refusal(404, "NotFound", "nodes \"node1.example.com\" not found", NODE),
    ));
    let mut node = Clockwork::start(&site);
    node.rounds(6);
    assert!(entry(&site.server.store(), NODE).is_some());
    assert_eq!(site.held(), 3);
}

/// The number of writes of the example's node config status.
pub fn publications(site: &Site) -> usize {
    requests(
        &site.server.store(),
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
    )
    .len()
}

/// An entry that is not stored as it was sent is published once a minute, and the CRDs are applied as often.
fn an_entry_that_a_webhook_always_changes() {
    let site = Site::with_address(ADDRESS);
    site.server.store().mutation = Some(|key, object| {
        if key.resource == "ip6updatenodeconfigs" {
            object["status"]["nodes"][NODE]["prefixes"] = json!([]);
        }
    });
    let mut node = Clockwork::start(&site);
    let apply = || requests(&site.server.store(), "PATCH /apis/apiextensions.k8s.io/").len();
    let before = (publications(&site), apply());
    node.rounds(60);
    let (published, applied) = (publications(&site) - before.0, apply() - before.1);
    assert!(
        published <= 11 && applied <= 2 * 11,
        "{published} publications, {applied} CRDs in ten minutes"
    );
    let reported = site.wait_reason(CONFIG_NAME, "UpdateFailed").to_string();
    assert!(reported.contains("an admission webhook changes it"), "{reported}");
    let events = site.events();
    assert_eq!(
        events.iter().filter(|(reason, _)| reason == "PublishFailed").count(),
        1,
        "{events:?}"
    );
    site.server.store().mutation = None;
    node.rounds(8);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
}

/// The change is stored, so the next round sees no change; but perhaps no node has followed it yet.
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
        "the group does not follow"
    );
    let recovered = "IP6UpdateNodeConfig ip6-update-node1: recovered after 1 failure";
    assert_eq!(node.count(recovered), 1, "{:#?}", node.log());
}

fn a_node_config_stops_matching() {
    let site = Site::with_address(ADDRESS);
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
    assert_eq!(node.count("no IP6UpdateNodeConfig selects"), 1, "logged once");
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

fn idle_nodes_report_that_no_node_publishes() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let idle = run_idle(&site);
    idle.wait_log("no IP6UpdateNodeConfig selects node other.example.com", SOON);
    // A typing error: the node that published stops.
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
    // It is reported once, by the node that is left.
    site.wait_rounds(3);
    let reported = site.events().iter().filter(|(reason, _)| reason == "NoPrefix").count();
    assert_eq!(reported, 1, "{:?}", site.events());
}

fn an_entry_is_removed_after_conflicts() {
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

fn a_problem_ends_with_its_node_config() {
    let (site, node) = Site::settled(1);
    site.revoke("patch", "ip6updatenodeconfigs/status");
    site.interface.add(NEW_ADDRESS);
    let reported = "WARN  IP6UpdateNodeConfig ip6-update-node1: node node1.example.com cannot publish what it sees: ";
    node.wait_log(reported, SOON);
    let path = format!("{NODE_CONFIGS}/ip6-update-node1");
    site.server.admin("DELETE", &path, "", &Value::Null);
    node.wait_log("no IP6UpdateNodeConfig selects node node1.example.com", SOON);
    site.wait_rounds(2);
    assert_eq!(node.count(reported), 1, "reported once");
    // A new object has a new problem.
    site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
    node.wait_count(reported, 2, SOON);
    assert_eq!(node.count("IP6UpdateNodeConfig ip6-update-node1: recovered"), 0);
}

fn a_long_node_selector() {
    let site = Site::with_address(ADDRESS);
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
    // A change of the last label is noticed.
    site.patch(&path, json!({"spec": {"nodeSelector": {long(29).0: "y"}}}));
    node.wait_log("no IP6UpdateNodeConfig selects node node1.example.com", SOON);
    site.patch(&path, json!({"spec": {"nodeSelector": {long(29).0: long(29).1}}}));
    node.wait_log("an IP6UpdateNodeConfig selects node node1.example.com now", SOON);
    site.wait_reason(CONFIG_NAME, "Updated");
}

fn a_node_that_kubernetes_does_not_know() {
    let site = Site::with_address(ADDRESS);
    let node = Running(
        site.start()
            .with("NODE_NAME", "unknown.example.com")
            .with("UPDATE_INTERVAL", "1")
            .spawn(),
    );
    node.wait_log("check that NODE_NAME is the name of a Node", SOON);
    // The second complaint: no node publishes.
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
    let reported = ready(&store, CONFIG_NAME);
    let entries = published(&store, NODE);
    drop(store);
    assert!(
        reached.is_some(),
        "all published the new prefix ({entries:?}) three minutes ago, but no node wrote it; {reported:?}"
    );
}

/// A node moves from one IP6UpdateNodeConfig to another, whose status is always refused.
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
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, Duration::from_secs(1)));
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
    let reported = ready(&site.server.store(), CONFIG_NAME);
    assert_eq!(
        held.len(),
        6,
        "node 1 sees 2001:db8:1234:5671::/64 all the time: {held:?}, {reported:?}"
    );
}

/// The config comes first, then the node config with a typing error in its nodeSelector.
fn a_stale_message_of_an_idle_node() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.interface.add(ADDRESS);
    site.server.apply_crds(CRDS, "k6u");
    site.server.create(CONFIG);
    let mut node = Clockwork::of(&site, NODE, Duration::from_secs(1));
    node.run(Duration::from_secs(5));
    let reported = site.wait_reason(CONFIG_NAME, "NoPrefix");
    assert!(
        reported["message"]
            .as_str()
            .unwrap()
            .contains("There is no IP6UpdateNodeConfig"),
        "{reported}"
    );
    site.server.create(
        &NODE_CONFIG
            .replace("eth0", &site.interface.name)
            .replace(NODE, "nod1.example.com"),
    );
    node.run(Duration::from_secs(15));
    let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
    assert!(
        reported["message"].as_str().unwrap().contains("ip6-update-node1"),
        "15 rounds later: {reported}"
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
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let entry = site.server.store().objects[&key]["status"]["nodes"][NODE].clone();
    drop(node);
    assert_eq!(
        held.map(|held| held.len()),
        Some(3),
        "60 rounds after the group was changed; the entry is {entry}; {reported:?}"
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
    site.renumber();
    let reached = site.server.wait(SOON * 2, |store| follows(store, "2001:db8:9876:543"));
    let tried: usize = sent().iter().sum::<usize>() - before.iter().sum::<usize>();
    let complaints = node.complaints();
    drop(node);
    assert!(
        reached.is_some() && tried <= 5,
        "{tried} publications hung before the third node config got its own: {complaints:#?}"
    );
}

/// In a first install, nodes that publish nothing may have the image sooner.
fn the_publishing_node_starts_last() {
    let site = Site::with_address(ADDRESS);
    let run = |name: &str| {
        let start = site.start().with("NODE_NAME", name).with("UPDATE_INTERVAL", "10");
        Running(start.spawn())
    };
    NAMES[1..].iter().for_each(|name| site.server.add_node(name));
    let idle: Vec<Running> = NAMES[1..].iter().map(|name| run(name)).collect();
    idle.iter().for_each(|node| node.wait_log("DEBUG round: ", SOON));
    std::thread::sleep(Duration::from_secs(2));
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let events = site.events();
    assert!(reported.is_none() && events.is_empty(), "{reported:?}, {events:?}");
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

/// The status of one of this node's two IP6UpdateNodeConfigs is refused.
fn a_refused_status_of_a_node_config() {
    at_once(refusals("ip6-update-node1"), |refused| {
        let site = Site::with_address(ADDRESS);
        let second = Interface::new();
        second.add("2001:db8:1234:5672::10");
        site.server.create(
            &NODE_CONFIG
                .replace("eth0", &second.name)
                .replace("ip6-update-node1", "z-second"),
        );
        let node = site.run(1);
        site.wait_lan("2001:db8:1234:567");
        site.wait_reason(CONFIG_NAME, "Updated");
        let status = format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status");
        site.server.inject(Plan::on(&status, usize::MAX, refused));
        site.interface.add("2001:db8:aaaa:bbb1::10");
        let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
        assert!(
            message(&condition).contains("IP6UpdateNodeConfig ip6-update-node1"),
            "{condition}"
        );
        assert!(!message(&condition).contains("grant k6u this right"), "{condition}");
        // The node still publishes in the other one.
        second.add(NEW_ADDRESS);
        second.remove("2001:db8:1234:5672::10");
        let follows = |store: &_| {
            let held = cidrs(store, GROUP)?;
            held.iter()
                .any(|cidr| cidr.starts_with("2001:db8:9876:543"))
                .then_some(())
        };
        assert!(site.server.wait(SOON, follows).is_some(), "{:#?}", node.log());
        let reported = |store: &Store| {
            let mut events = store.objects.iter().filter(|(key, _)| key.resource == "events");
            events.find_map(|(_, event)| (event["reason"] == "PublishFailed").then_some(()))
        };
        assert!(site.server.wait(SOON, reported).is_some(), "{:?}", site.events());
        site.server.heal();
        let deadline = Duration::from_secs(70);
        let right = |store: &_| {
            let held = cidrs(store, GROUP)?;
            held.iter()
                .any(|cidr| cidr.starts_with("2001:db8:aaaa:bbb"))
                .then_some(())
        };
        assert!(site.server.wait(deadline, right).is_some(), "it is not tried again");
        site.wait_reason(CONFIG_NAME, "Updated");
        node.wait_log("IP6UpdateNodeConfig ip6-update-node1: recovered", SOON);
    });
}

fn endless_conflicts_on_a_publication() {
    let (site, mut node) = Clockwork::settled();
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
        usize::MAX,
        refusal(
            409,
            "Conflict",
            "admission webhook \"guard\" denied the request: locked",
            "ip6-update-node1",
        ),
    ));
    site.renumber();
    node.run(Duration::from_secs(90));
    let tried = requests(&site.server.store(), &format!("PATCH {NODE_CONFIGS}/")).len();
    let complaints = node.complaints();
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let held = cidrs(&site.server.store(), GROUP);
    let events = site.events();
    drop(node);
    assert!(
        !complaints.is_empty() || reported.as_ref().is_some_and(|reported| reported["status"] != "True"),
        "refused {tried} times, the group holds {held:?}, and nothing is reported: {reported:?} {events:?}"
    );
}

/// A webhook drops a field of the entry, or the CRDs are those of 0.3, which lack that field.
fn an_entry_that_is_not_stored_as_it_was_sent() {
    let drops: fn(&Site) = |site| {
        site.server.store().mutation = Some(|key, object| {
            if key.resource == "ip6updatenodeconfigs" {
                object["status"]["nodes"][NODE]["prefixes"] = json!([]);
            }
        });
    };
    let replaces: fn(&Site) = |site| {
        site.server
            .apply_crds(include_str!("../data/crds-0.3.yaml"), "update_crds");
    };
    at_once([("a webhook", drops), ("older CRDs", replaces)], |(what, begin)| {
        let (site, node) = Site::settled(1);
        site.wait_reason(CONFIG_NAME, "Updated");
        begin(&site);
        site.renumber();
        let published = || requests(&site.server.store(), &format!("PATCH {NODE_CONFIGS}/")).len();
        let (before, since) = (published(), std::time::Instant::now());
        std::thread::sleep(Duration::from_secs(10));
        let (count, time) = (published() - before, since.elapsed());
        let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
        let log = node.complaints();
        // A renumbering may be seen as two changes: each is sent, and once more.
        assert!(
            count <= 4,
            "{what}: {count} publications in {time:?}: {reported}, {log:#?}"
        );
        assert!(
            log.iter().any(|line| line.contains("is not stored as it was sent")),
            "{what}: {reported}, {log:#?}"
        );
        assert!(
            reported["status"] == "False" && message(&reported).contains("k6u crds prints them"),
            "{what}: {reported}"
        );
    });
}

/// Two machines run k6u with one NODE_NAME.
fn another_machine_writes_the_entry() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let status = format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status");
    let (before, since) = (requests(&site.server.store(), &status).len(), std::time::Instant::now());
    let deadline = since + Duration::from_secs(10);
    while std::time::Instant::now() < deadline {
        let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
        let entry = site.server.store().objects[&key]["status"]["nodes"][NODE].to_string();
        if !entry.contains("2001:db8:aaaa:bbb1::/64") {
            site.publish(NODE, &["2001:db8:aaaa:bbb1::/64"]);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let written = requests(&site.server.store(), &status).len() - before;
    let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
    let log = node.complaints();
    assert!(
        written <= 2,
        "{written} publications in {:?}: {reported}, {log:#?}",
        since.elapsed()
    );
    let warning = format!("check that no other machine runs k6u with NODE_NAME {NODE}");
    assert!(log.iter().any(|line| line.contains(&warning)), "{reported}, {log:#?}");
    assert!(message(&reported).contains(&warning), "{reported}");
}

fn a_webhook_changes_the_message_of_each_entry() {
    let site = Site::with_address(ADDRESS);
    site.select_all_nodes();
    let (mut one, mut two) = (Clockwork::start(&site), Clockwork::of(&site, NODE_2, INTERVAL));
    two.rounds(3);
    one.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.store().mutation = Some(|key, object| {
        if key.resource == "ip6updatenodeconfigs" {
            for (_, entry) in object["status"]["nodes"].as_object_mut().into_iter().flatten() {
                entry["message"] = json!("seen by policy");
            }
        }
    });
    site.renumber();
    let mut seconds = 0;
    let is_new = || cidrs(&site.server.store(), GROUP).is_some_and(|list| list[0].starts_with("2001:db8:9876:543"));
    while seconds < 7200 && !is_new() {
        one.rounds(1);
        two.rounds(1);
        seconds += 10;
    }
    let entry = k6u_testkit::site::entry(&site.server.store(), NODE);
    let held = cidrs(&site.server.store(), GROUP);
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let is_new = is_new();
    assert!(
        is_new,
        "{seconds} s after the renumbering the group holds {held:?}; node 1's entry is {entry:?}; Ready is {reported:?}"
    );
}

/// Two nodes; each publication is carried out, but its answer never arrives.
fn every_answer_to_a_publication_is_lost() {
    let site = Site::with_address(ADDRESS);
    site.select_all_nodes();
    let (mut one, mut two) = (Clockwork::start(&site), Clockwork::of(&site, NODE_2, INTERVAL));
    two.rounds(3);
    one.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on(&format!("PATCH {NODE_CONFIGS}/"), usize::MAX, Fault::CutAt(0)));
    site.renumber();
    let mut seconds = 0;
    let is_new = || cidrs(&site.server.store(), GROUP).is_some_and(|list| list[0].starts_with("2001:db8:9876:543"));
    while seconds < 3600 && !is_new() {
        one.rounds(1);
        two.rounds(1);
        seconds += 10;
    }
    let entries = [NODE, NODE_2].map(|node| {
        k6u_testkit::site::entry(&site.server.store(), node)
            .unwrap()
            .to_string()
    });
    let held = cidrs(&site.server.store(), GROUP);
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let is_new = is_new();
    assert!(
        is_new,
        "{seconds} s after the renumbering the group holds {held:?}; the entries are {entries:?}; Ready is {reported:?}"
    );
}

fn a_backup_is_restored() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(7);
    let path = format!("{NODE_CONFIGS}/ip6-update-node1/status");
    site.renumber();
    node.rounds(1);
    site.wait_lan("2001:db8:9876:543");
    let published = requests(&site.server.store(), &format!("PATCH {path}")).len();
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    let old: Vec<String> = (0..3).map(|n| format!("2001:db8:1234:567{n}::/64")).collect();
    site.patch(
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        json!({"spec": {"externalCIDRs": old}}),
    );
    let mut wrong = 0;
    while cidrs(&site.server.store(), GROUP).is_some_and(|list| list == old) && wrong < 60 {
        node.rounds(1);
        wrong += 1;
    }
    let complaints = site.events();
    let published = requests(&site.server.store(), &format!("PATCH {path}")).len() - published;
    assert!(
        wrong <= 2,
        "the group held the old prefix for {} s; {published} publications; {complaints:#?}",
        wrong * 10
    );
}

fn an_entry_is_deleted_by_hand() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(7);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1/status"),
        json!({"status": {"nodes": {NODE: null}}}),
    );
    node.rounds(2);
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let entry = site.server.store().objects[&key]["status"]["nodes"][NODE].clone();
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let events = site.events();
    assert!(
        !entry.is_null() && events.iter().all(|(reason, _)| reason != "PublishFailed"),
        "two rounds after the entry was deleted it is {entry}; {events:#?}; {reported:?}"
    );
}

fn one_of_two_uplinks_is_refused() {
    let site = Site::with_address(ADDRESS);
    let second = Interface::new();
    second.add("2001:db8:aaaa:bbb1::10");
    let mut node = Clockwork::start(&site);
    node.rounds(5);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/second/status"),
        usize::MAX,
        denial("second"),
    ));
    site.server.create(
        &NODE_CONFIG
            .replace("eth0", &second.name)
            .replace("ip6-update-node1", "second"),
    );
    node.rounds(360);
    let all = reasons(&site.server.store(), CONFIG_NAME);
    let status = requests(&site.server.store(), &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status")).len();
    assert!(
        all.len() <= 3,
        "in an hour Ready changed {} times, with {status} status writes and {} Events: {all:?}",
        all.len() - 1,
        site.events().len()
    );
}

fn a_spec_that_changes_while_the_node_cannot_publish() {
    let site = Site::with_address(ADDRESS);
    let names = ["a".to_string(), "b".to_string()];
    name_groups(&site, &names);
    let mut node = Clockwork::start(&site);
    node.rounds(5);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
        usize::MAX,
        denial("ip6-update-node1"),
    ));
    site.renumber();
    node.rounds(40);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let mut reported = Vec::new();
    for turn in 0..8 {
        let order = if turn % 2 == 0 { ["b", "a"] } else { ["a", "b"] };
        name_groups(&site, &order.map(str::to_string));
        node.rounds(1);
        let now = ready(&site.server.store(), CONFIG_NAME).unwrap();
        reported.push((
            now["status"].clone(),
            now["observedGeneration"].clone(),
            now["message"].clone(),
        ));
    }
    let held = cidrs(&site.server.store(), GROUP);
    assert!(
        reported.iter().all(|(status, ..)| status != "True"),
        "the interface has 2001:db8:9876:5431::/64, the group {held:?}, and Ready is {reported:#?}"
    );
}

fn a_node_config_is_deleted_while_publications_are_refused() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(2);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
        usize::MAX,
        denial("ip6-update-node1"),
    ));
    site.renumber();
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.server.heal();
    site.server
        .admin("DELETE", &format!("{NODE_CONFIGS}/ip6-update-node1"), "", &Value::Null);
    // An hour.
    node.rounds(360);
    let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
    assert!(
        reported["reason"] == "NoPrefix",
        "an hour after the last IP6UpdateNodeConfig was deleted: {reported}"
    );
}

/// A node with two uplinks. A webhook refuses its entry in one of the two IP6UpdateNodeConfigs, and Events hang, when both
/// are renumbered.
fn an_event_that_hangs_delays_no_target() {
    let (site, node) = Site::settled(1);
    let uplink = site.second_uplink("2001:db8:aaaa:5671::10");
    assert!(
        site.server
            .wait(SOON, |store| follows(store, "2001:db8:aaaa:567"))
            .is_some()
    );
    site.wait_rounds(3);
    site.server.inject(Plan::on(
        "POST /api/v1/namespaces/default/events",
        usize::MAX,
        Fault::Hang,
    ));
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/second/status"),
        usize::MAX,
        denial("second"),
    ));
    let before = site.server.store().log.len();
    uplink.add("2001:db8:bbbb:5671::10");
    site.interface.add("2001:db8:9876:5431::10");
    let follows_it = |store: &Store| follows(store, "2001:db8:9876:543");
    assert!(site.server.wait(SOON, follows_it).is_some());
    drop(node);
    let store = site.server.store();
    let first = |start: &str| {
        store.log[before..]
            .iter()
            .position(|logged| logged.line.starts_with(start))
    };
    let (write, event) = (
        first("PATCH /apis/cilium.io"),
        first("POST /api/v1/namespaces/default/events"),
    );
    assert!(
        event.is_none_or(|event| write.is_some_and(|write| write < event)),
        "the Event came first: {event:?}, {write:?}"
    );
}

/// A node with two uplinks. Somebody makes a typing error in the second interface: its prefix goes, and Ready says so.
fn a_typing_error_in_the_interface_of_one_of_two_uplinks() {
    let site = Site::with_address(ADDRESS);
    let _uplink = site.second_uplink("2001:db8:aaaa:5671::10");
    let mut node = Clockwork::start(&site);
    node.rounds(4);
    assert_eq!(site.held(), 6, "both uplinks");
    site.patch(
        &format!("{NODE_CONFIGS}/second"),
        json!({"spec": {"interface": "eth9"}}),
    );
    node.rounds(12);
    let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
    assert_eq!(
        message(&reported),
        format!(
            "1 target up to date with 2001:db8:1234:5670::/60. There is no prefix from {NODE}: see the message in its \
             IP6UpdateNodeConfig"
        )
    );
}

/// A node with two uplinks, which publishes in one IP6UpdateNodeConfig and is refused in the other. In that one an
/// administrator deletes the entry of a node that is no more: its prefix lingers for 75 seconds, as anywhere.
fn an_entry_that_is_deleted_where_this_node_is_refused() {
    let site = Site::with_address(ADDRESS);
    let _uplink = site.second_uplink("2001:db8:aaaa:5671::10");
    let status = format!("{NODE_CONFIGS}/second/status");
    let gone = json!({"prefixes": ["2001:db8:cccc:5671::/64"], "observedTime": "2026-11-24T00:00:00Z"});
    site.patch(&status, json!({"status": {"nodes": {NODE_2: gone}}}));
    let mut node = Clockwork::start(&site);
    node.rounds(4);
    assert_eq!(site.held(), 9, "two uplinks, and what is gone");
    site.patch(&status, json!({"status": {"nodes": {NODE_2: null}}}));
    site.server
        .inject(Plan::on(&format!("PATCH {status}"), usize::MAX, denial("second")));
    let first = format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status");
    let before = requests(&site.server.store(), &first).len();
    node.rounds(360);
    let heartbeats = requests(&site.server.store(), &first).len() - before;
    let held = cidrs(&site.server.store(), GROUP).unwrap();
    assert!(
        held.len() == 6 && heartbeats <= 70,
        "an hour after its entry was deleted: {held:?}; {heartbeats} heartbeats in the other IP6UpdateNodeConfig"
    );
}

/// "A Warning PublishFailed on an IP6UpdateNodeConfig, when a node cannot publish in it."
fn an_event_of_a_round_that_fails() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    let path = format!("{NODE_CONFIGS}/ip6-update-node1/status");
    site.server.inject(Plan::on(
        &format!("PATCH {path}"),
        usize::MAX,
        denial("ip6-update-node1"),
    ));
    let busy = refusal(
        503,
        "ServiceUnavailable",
        "the server is currently unable to handle the request",
        "",
    );
    site.server.inject(Plan::on(&format!("GET {CONFIGS}"), 1, busy));
    site.renumber();
    node.rounds(360);
    let tried = requests(&site.server.store(), &format!("PATCH {path}")).len();
    let events = site.events();
    assert!(
        events.iter().any(|(reason, _)| reason == "PublishFailed"),
        "an hour in which the node could not publish (refused {tried} times): {events:?}; {:#?}",
        node.complaints()
    );
}

/// "An entry that is not stored as it was sent ... is reported, and the CRDs are applied again."
fn a_long_message_of_an_entry() {
    let site = Site::new();
    let name = format!("uplink-{}", "x".repeat(120));
    if site.interface.add_name(&name).is_err() {
        return;
    }
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"interface": name}}),
    );
    for number in 0..8 {
        site.interface
            .set(&format!("2001:db8:1234:567{number}::10"), 64, 0, u32::MAX);
    }
    site.interface.unplug();
    let mut node = Clockwork::start(&site);
    node.rounds(60);
    let stored = entry(&site.server.store(), NODE).unwrap();
    let complaints = node.complaints();
    assert!(
        complaints
            .iter()
            .all(|line| !line.contains("not stored as it was sent")),
        "a message of {} bytes: {complaints:#?}",
        message(&stored).len()
    );
}

/// "A Warning PublishFailed on an IP6UpdateNodeConfig, when a node cannot publish in it."
fn a_recreated_node_config_that_is_refused() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    let path = format!("{NODE_CONFIGS}/ip6-update-node1/status");
    site.server.inject(Plan::on(
        &format!("PATCH {path}"),
        usize::MAX,
        denial("ip6-update-node1"),
    ));
    site.renumber();
    node.rounds(10);
    let events = || site.events_about("ip6updatenodeconfigs", "ip6-update-node1");
    assert!(events().iter().any(|reason| reason.contains("PublishFailed")));
    site.recreate_node_config();
    node.rounds(360);
    assert!(
        events().iter().any(|reason| reason.contains("PublishFailed")),
        "an hour after it was recreated it has the Events {:?}",
        events()
    );
}

/// The labels were read an hour ago; since then no IP6UpdateNodeConfig has needed them, and the node got other labels.
fn labels_that_were_read_an_hour_ago() {
    let site = Site::with_address(ADDRESS);
    let path = format!("/api/v1/nodes/{NODE}");
    site.patch(&path, json!({"metadata": {"labels": {"site": "a"}}}));
    let mut node = Clockwork::start(&site);
    node.rounds(6);
    site.select_all_nodes();
    node.rounds(6);
    site.patch(&path, json!({"metadata": {"labels": {"site": "b"}}}));
    node.rounds(360);
    let other = k6u_testkit::machine::namespace::Interface::new();
    other.add("2001:db8:aaaa:1::10");
    let of_a = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
        "metadata": {"name": "of-a"}, "spec": {"interface": other.name, "nodeSelector": {"site": "a"}}});
    site.server.admin("POST", NODE_CONFIGS, "application/json", &of_a);
    node.rounds(30);
    let lists = site.group_history(GROUP);
    assert!(
        !lists.iter().flatten().any(|cidr| cidr.starts_with("2001:db8:aaaa")),
        "the node has had the label site=b for an hour, and an object for site=a selects it: {lists:?}"
    );
}
