//! Several nodes: a process and an interface for each, one API server.

use std::time::Duration;

use k6u_testkit::fault::{Fault, Plan};
use k6u_testkit::namespace::Interface;
use k6u_testkit::server::time_text;
use k6u_testkit::store::{Key, Store};
use serde_json::{Value, json};

use crate::Scenario;
use crate::site::{CONFIG_NAME, CRDS, GROUP, NODE, NODE_CONFIGS, Running, SOON, Site, requests, writes};
use crate::trio::{NAMES, Trio, published};

pub const ALL: &[Scenario] = &[
    (
        "three_nodes_see_a_new_prefix_one_after_another",
        three_nodes_see_a_new_prefix_one_after_another,
    ),
    (
        "a_change_is_told_once_by_three_nodes",
        a_change_is_told_once_by_three_nodes,
    ),
    (
        "nodes_take_turns_instead_of_all_doing_all",
        nodes_take_turns_instead_of_all_doing_all,
    ),
    (
        "ten_nodes_cost_what_the_simulation_says",
        ten_nodes_cost_what_the_simulation_says,
    ),
    (
        "publications_whose_answers_are_lost",
        publications_whose_answers_are_lost,
    ),
    ("several_nodes_and_no_tables", several_nodes_and_no_tables),
    (
        "a_node_config_changes_among_several_nodes",
        a_node_config_changes_among_several_nodes,
    ),
    (
        "several_nodes_and_the_crds_of_another_release",
        several_nodes_and_the_crds_of_another_release,
    ),
    ("a_node_dies_with_its_prefix", a_node_dies_with_its_prefix),
    ("a_node_config_stops_matching", a_node_config_stops_matching),
    (
        "an_idle_node_asks_for_one_list_only",
        an_idle_node_asks_for_one_list_only,
    ),
    ("labels_that_are_added_later", labels_that_are_added_later),
    (
        "a_node_that_kubernetes_does_not_know",
        a_node_that_kubernetes_does_not_know,
    ),
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

fn nodes_take_turns_instead_of_all_doing_all() {
    let trio = Trio::sharing(1);
    // From here on every node knows the others.
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
    // One of three looks at the group in each second, after a glance; the two others glance only.
    let (lists, groups) = (after.0 - before.0, after.1 - before.1);
    assert!(
        groups * 3 <= lists,
        "{groups} reads of the group, {lists} of the node configs"
    );
    assert!(groups >= 3, "{groups} reads of the group, {lists} of the node configs");
    // Drift is undone by whoever's turn it is.
    trio.site.patch(
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
    );
    trio.site.wait_lan("2001:db8:1234:567");
}

/// The simulation gives 1.49 requests for each of ten nodes and each interval, and two writes of the group
/// for a renumbering. If every node did everything, that were 3, and up to ten.
fn ten_nodes_cost_what_the_simulation_says() {
    const NODES: usize = 10;
    const INTERVALS: u64 = 10;
    let site = Site::with_address("2001:db8:1234:5671::10");
    let node_config = format!("{NODE_CONFIGS}/ip6-update-node1");
    site.patch(&node_config, json!({"spec": {"nodeSelector": null}}));
    let start = |number| {
        let name = format!("worker{number}.example.com");
        Running(
            site.start()
                .with("NODE_NAME", &name)
                .with("UPDATE_INTERVAL", "1")
                .spawn(),
        )
    };
    let nodes: Vec<Running> = (0..NODES).map(start).collect();
    let published = |store: &Store| {
        let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
        (store.objects.get(&key)?["status"]["nodes"].as_object()?.len() == NODES).then_some(())
    };
    assert!(site.server.wait(SOON, published).is_some(), "not all publish");
    // Whoever came early learns of the others at its turn.
    std::thread::sleep(Duration::from_secs(NODES as u64 + 1));
    let before = site.server.store().log.len();
    std::thread::sleep(Duration::from_secs(INTERVALS));
    let requests = site.server.store().log.len() - before;
    let each = requests as f64 / NODES as f64 / INTERVALS as f64;
    assert!((1.0..1.9).contains(&each), "{each} requests for each node and interval");
    let before = site.group_history(GROUP).len();
    site.interface.add("2001:db8:9876:5431::10");
    site.interface.remove("2001:db8:1234:5671::10");
    site.wait_lan("2001:db8:9876:543");
    std::thread::sleep(Duration::from_secs(2));
    let written = site.group_history(GROUP).len() - before;
    assert!(written <= 3, "{written} writes of the group for a renumbering");
    for node in &nodes {
        assert_eq!(node.complaints(), [""; 0]);
    }
}

/// Who was first is in the answer. Whoever does not get it must not take for granted that another was.
fn publications_whose_answers_are_lost() {
    let trio = Trio::sharing(60);
    // After this all know each other, and the next turn is up to a minute away.
    trio.renumber("2001:db8:1234:567", "2001:db8:9876:543");
    trio.site.wait_lan("2001:db8:9876:543");
    std::thread::sleep(Duration::from_millis(1500));
    // Each publication is carried out twice, because a dead connection is tried again; both answers are lost.
    let lost = Plan::on(
        "PATCH /apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs",
        6,
        Fault::CutAt(0),
    );
    trio.site.server.inject(lost);
    // A second prefix: no node is the last one that sees another go.
    trio.interfaces[0].add("2001:db8:aaaa:bbb0::10");
    let both = |store: &Store| (k6u_testkit::server::cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(trio.site.server.wait(SOON, both).is_some(), "nobody took it on");
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
    let both = |store: &Store| (k6u_testkit::server::cidrs(store, GROUP)?.len() == 6).then_some(());
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

fn several_nodes_and_no_tables() {
    let trio = Trio::sharing(1);
    trio.site.server.store().tables = false;
    trio.site.wait_rounds(9);
    trio.renumber("2001:db8:1234:567", "2001:db8:9876:543");
    trio.site.wait_lan("2001:db8:9876:543");
    for node in &trio.nodes {
        assert_eq!(node.complaints(), [""; 0]);
    }
}

fn a_node_dies_with_its_prefix() {
    let mut trio = Trio::start(1);
    // The third one is at another site, with a prefix of its own.
    trio.interfaces[2].remove("2001:db8:1234:5672::10");
    trio.interfaces[2].add("2001:db8:9876:5432::10");
    let holds =
        |store: &Store, count: usize| Some(k6u_testkit::server::cidrs(store, GROUP)?.len() == count).filter(|ok| *ok);
    assert!(
        trio.site.server.wait(SOON, |store| holds(store, 6)).is_some(),
        "both sites are in the group"
    );
    drop(trio.nodes.pop());

    // Five minutes pass on the server's clock; the others publish meanwhile, as they do every two.
    for step in 0..4 {
        assert!(
            trio.site.server.wait(Duration::ZERO, |store| holds(store, 6)).is_some(),
            "too early: step {step}"
        );
        trio.site.server.advance_clock(Duration::from_secs(121));
        if step == 2 {
            break;
        }
        let recent = time_text(&trio.site.server, -60);
        for name in &NAMES[..2] {
            let fresh = |store: &Store| {
                published(store, name)
                    .filter(|entry| entry["observedTime"].as_str().unwrap_or_default() > recent.as_str())
            };
            assert!(
                trio.site.server.wait(SOON, fresh).is_some(),
                "{name} did not publish again"
            );
        }
    }
    trio.site.wait_lan("2001:db8:1234:567");
    let gone = trio
        .site
        .server
        .wait(SOON, |store| published(store, NAMES[2]).is_none().then_some(()));
    assert!(gone.is_some(), "the stale entry is still there");
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

fn an_idle_node_asks_for_one_list_only() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.server.add_node("other.example.com");
    let _node = Running(
        site.start()
            .with("NODE_NAME", "other.example.com")
            .with("UPDATE_INTERVAL", "1")
            .spawn(),
    );
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

fn labels_that_are_added_later() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": null, "uplink": "dsl"}}}),
    );
    let _node = site.run(1);
    site.wait_rounds(2);
    site.patch(
        "/api/v1/nodes/node1.example.com",
        json!({"metadata": {"labels": {"uplink": "dsl"}}}),
    );
    // Labels are read every two minutes.
    site.wait_rounds(2);
    assert!(site.group(GROUP).is_none());
    site.server.advance_clock(Duration::from_secs(121));
    site.wait_lan("2001:db8:1234:567");
    let asked = requests(&site.server.store(), "GET /api/v1/nodes/").len();
    assert!(asked <= 3, "the node was asked for {asked} times");
}

fn a_node_that_kubernetes_does_not_know() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let node = Running(
        site.start()
            .with("NODE_NAME", "unknown.example.com")
            .with("UPDATE_INTERVAL", "1")
            .spawn(),
    );
    node.wait_log("is NODE_NAME right?", SOON);
    site.wait_rounds(3);
    assert_eq!(node.complaints().len(), 1, "{:?}", node.complaints());
    assert!(site.group(GROUP).is_none());
}
