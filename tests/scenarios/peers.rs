//! Several nodes of one cluster: which of them adds and removes CIDRs, which removes a silent node's entry, and kill
//! -9.

use std::thread;
use std::time::Duration;

use k6u_testkit::apiserver::fault::Plan;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::site::{
    ADDRESS, CONFIG_NAME, CONFIGS, CRDS, GROUP, NEW_ADDRESS, NODE, NODE_2, NODE_CONFIG, NODE_CONFIGS, Running, SOON,
    Site, entry, ready, refusal, requests,
};
use k6u_testkit::trio::{Layout, NAMES, Trio, published};
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::{self, Clockwork, INTERVAL, beside_a_silent_node, rounds_of_all};

pub const ALL: &[Scenario] = scenarios![
    ten_nodes_match_the_simulated_cost,
    the_api_servers_clock_jumps_by_a_year,
    an_entry_that_stood_still_for_five_minutes_is_removed,
    an_outage_makes_no_node_silent,
    a_node_that_could_not_publish_restarts_its_watch,
    a_removal_that_is_always_refused,
    a_dead_node_beside_a_refused_node_config,
    a_publication_that_met_a_conflict,
    a_removal_that_fails_once,
    endless_conflicts_on_a_removal,
    three_nodes_see_a_new_prefix_one_after_another,
    a_change_is_reported_once_by_three_nodes,
    three_nodes_all_read_the_group,
    a_node_config_changes_among_several_nodes,
    several_nodes_and_the_crds_of_another_release,
    clocks_do_not_remove_a_dead_node,
    recreated_node_configs,
    recreated_between_two_reads,
    recreated_just_before_a_publication,
    killed_with_an_object_for_each_node,
    killed_with_one_object,
    a_refused_removal_ends_with_its_entry,
    races_for_removals_are_no_refusal,
    a_dead_node_beside_entries_that_a_webhook_changes,
    a_dead_node_while_answers_to_publications_are_lost,
    time_without_entries_is_no_time_to_come_back,
];

const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// An entry that does not change for this many intervals is removed.
const SILENT: usize = 30;

/// Each node reads the target in each round. No node undoes a write: in a renumbering the group is written twice, first
/// with both prefixes and then with the new one.
fn ten_nodes_match_the_simulated_cost() {
    const NODES: usize = 10;
    let site = Site::with_address(ADDRESS);
    let node_config = format!("{NODE_CONFIGS}/ip6-update-node1");
    site.patch(&node_config, json!({"spec": {"nodeSelector": null}}));
    let start = |number| {
        let name = format!("worker{number}.example.com");
        site.publish(&name, &["2001:db8:1234:5671::/64"]);
        let start = site.start().with("NODE_NAME", &name).with("UPDATE_INTERVAL", "1");
        Running(start.spawn())
    };
    let nodes: Vec<Running> = (0..NODES).map(start).collect();
    nodes.iter().for_each(|node| node.wait_log("DEBUG round: ", SOON));
    site.wait_rounds(2 * NODES);
    let counts = || {
        let store = site.server.store();
        let (all, second) = (
            requests(&store, &format!("GET {NODE_CONFIGS}")),
            requests(&store, &format!("GET {CONFIGS}")),
        );
        (all.len(), second.len())
    };
    let before = counts();
    site.wait_rounds(20 * NODES);
    let after = counts();
    // Counting begins and ends in the middle of a round, at most once for each node.
    let lists = (after.0 - before.0, after.1 - before.1);
    assert!(
        lists.0.abs_diff(lists.1) <= 2 * NODES,
        "{lists:?} lists of node configs and configs"
    );
    let written = site.group_history(GROUP).len();
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    site.wait_rounds(2 * NODES);
    let written = site.group_history(GROUP).len() - written;
    assert!(written <= 2, "{written} writes of the group for a renumbering");
    for node in &nodes {
        assert_eq!(node.complaints(), [""; 0]);
    }
}

/// The delegated prefix of a renumbering, up to its last hex digit.
fn delegated(number: usize) -> String {
    format!("2001:db8:{number:x}:567")
}

fn killed_with_an_object_for_each_node() {
    kill_at_moments(Trio::start(1), 1);
}

fn killed_with_one_object() {
    kill_at_moments(Trio::sharing(1), 2);
}

/// Kills nodes in the middle of ten renumberings. The group is right afterwards, and never was wrong.
fn kill_at_moments(mut trio: Trio, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    trio.renumber("2001:db8:1234:567", &delegated(0));
    trio.site.wait_lan(&delegated(0));
    for number in 1..=10 {
        let before = trio.site.group_history(GROUP).len();
        // The first reaction to a change takes ten milliseconds, the second one up to a second.
        let moment = Duration::from_millis(if rng.u8(..4) == 0 {
            rng.u64(..1200)
        } else {
            rng.u64(..25)
        });
        let victims: Vec<usize> = (0..3).filter(|_| rng.bool()).collect();
        let links = trio.interfaces.len();
        let first = rng.usize(..links);
        let pauses = [0, 1, 2].map(|_| Duration::from_micros(rng.u64(..8000)));
        let outage = Duration::from_millis(rng.u64(..30));
        let trio_now = &trio;
        thread::scope(|scope| {
            scope.spawn(move || {
                for (step, pause) in pauses.into_iter().take(links).enumerate() {
                    trio_now.renumber_link((first + step) % links, &delegated(number - 1), &delegated(number));
                    thread::sleep(pause);
                }
            });
            thread::sleep(moment);
            for victim in &victims {
                trio.nodes[*victim].signal(libc::SIGKILL);
            }
        });
        thread::sleep(outage);
        for victim in &victims {
            trio.nodes[*victim].wait(SOON).expect("it is dead");
            trio.nodes[*victim] = trio.run(NAMES[*victim], 1);
        }
        trio.site.wait_lan(&delegated(number));

        let ours = |cidr: &String, of: usize| cidr.starts_with(&delegated(of));
        let history = trio.site.group_history(GROUP);
        let mut had_new = Vec::new();
        for held in &history[before..] {
            let strange: Vec<&String> = held
                .iter()
                .filter(|cidr| !ours(cidr, number) && !ours(cidr, number - 1))
                .collect();
            assert!(strange.is_empty(), "moment {number}: {strange:?} in {history:#?}");
            let new: Vec<String> = held.iter().filter(|cidr| ours(cidr, number)).cloned().collect();
            assert!(
                had_new.iter().all(|cidr| new.contains(cidr)),
                "moment {number}: a new CIDR was removed again: {history:#?}"
            );
            had_new = new;
        }
    }
}

fn the_api_servers_clock_jumps_by_a_year() {
    type Jump = fn(&Site);
    let jumps: [Jump; 2] = [|s| s.server.advance_clock(YEAR), |s| s.server.set_back_clock(YEAR)];
    let trio = Trio::start(1);
    // The third node is at another site: no other node publishes its prefix.
    trio.interfaces[2].remove("2001:db8:1234:5672::10");
    trio.interfaces[2].add("2001:db8:9876:5432::10");
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(
        trio.site.server.wait(SOON, both).is_some(),
        "both sites are in the group"
    );
    trio.site.wait_rounds(9);
    for jump in jumps {
        let before = trio.site.group_history(GROUP).len();
        jump(&trio.site);
        trio.site.wait_rounds(20);
        let after = trio.site.group_history(GROUP).split_off(before);
        assert!(after.is_empty(), "a clock is no reason to write: {after:#?}");
        for (name, node) in NAMES.iter().zip(&trio.nodes) {
            assert_eq!(node.complaints(), [""; 0]);
            assert!(
                published(&trio.site.server.store(), name).is_some(),
                "{name}'s entry is gone"
            );
        }
    }
    trio.interfaces[2].add("2001:db8:aaaa:bbb2::10");
    trio.interfaces[2].remove("2001:db8:9876:5432::10");
    let follows = |store: &Store| {
        let held = cidrs(store, GROUP)?;
        (held.len() == 6 && held.iter().any(|cidr| cidr.starts_with("2001:db8:aaaa"))).then_some(())
    };
    assert!(
        trio.site.server.wait(SOON, follows).is_some(),
        "the group does not follow"
    );
}

fn is_there(site: &Site) -> bool {
    entry(&site.server.store(), NODE_2).is_some()
}

fn an_entry_that_stood_still_for_five_minutes_is_removed() {
    let (site, mut node) = beside_a_silent_node();
    node.rounds(SILENT - 1);
    assert!(is_there(&site));
    assert_eq!(site.held(), 6);
    // In the round of its own heartbeat the object it read is not the newest any more, so the removal comes
    // one round later; and then the group follows.
    node.rounds(3);
    assert!(!is_there(&site));
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert!(entry(&site.server.store(), NODE).is_some());
}

fn an_outage_makes_no_node_silent() {
    let (site, mut node) = beside_a_silent_node();
    node.rounds(SILENT - 5);
    site.server.stop();
    for _ in 0..6 {
        node.round_after(Duration::from_secs(600));
    }
    site.server.restart().expect("it listens again");
    // A publication failed, so its watch starts again.
    node.rounds(SILENT - 1);
    assert!(is_there(&site));
    assert_eq!(site.held(), 6);
    // The node is still silent.
    node.rounds(2);
    assert!(!is_there(&site));
}

fn a_node_that_could_not_publish_restarts_its_watch() {
    let (site, mut node) = beside_a_silent_node();
    node.rounds(SILENT - 5);
    site.revoke("patch", "ip6updatenodeconfigs/status");
    site.interface.add(NEW_ADDRESS);
    node.rounds(1);
    site.restore_rights();
    // The read in the round that could not publish counts.
    node.rounds(SILENT - 2);
    assert!(
        is_there(&site),
        "the other one may not have been able to publish either"
    );
    assert_eq!(site.held(), 9);
    node.rounds(2);
    assert!(!is_there(&site));
}

/// Two nodes with a prefix each; the second one published for the last time in an object of its own, before the
/// first one started.
fn two_sites_per_node() -> (Site, Clockwork) {
    let site = Site::with_address(ADDRESS);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.server.create(
        &NODE_CONFIG
            .replace("eth0", &site.interface.name)
            .replace("ip6-update-node1", "other")
            .replace(NODE, NODE_2),
    );
    site.patch(
        &format!("{NODE_CONFIGS}/other/status"),
        json!({"status": {"nodes": {NODE_2: {"prefixes": ["2001:db8:aaaa:bbb1::/64"], "observedTime": "2026-11-24T00:00:00Z"}}}}),
    );
    let node = Clockwork::start(&site);
    assert_eq!(site.held(), 6);
    (site, node)
}

/// A refusal for one object is reported by one Event.
fn a_removal_that_is_always_refused() {
    let (site, mut node) = two_sites_per_node();
    let status = format!("PATCH {NODE_CONFIGS}/other/status");
    site.server.inject(Plan::on(
        &status,
        usize::MAX,
        refusal(422, "Invalid", "denied by guard", "other"),
    ));
    let before = requests(&site.server.store(), &status).len();
    node.rounds(SILENT * 4);
    let tried = requests(&site.server.store(), &status).len() - before;
    let events = site.events();
    let reported = events.iter().filter(|(_, message)| message.contains("denied by guard"));
    assert!(
        reported.count() == 1,
        "a dead node's prefix is in the group after 20 minutes, its removal was refused {tried} times: {events:?}"
    );
}

/// "Those of dead nodes after five minutes"; "one object's problem is its own".
fn a_dead_node_beside_a_refused_node_config() {
    let (site, mut node) = beside_a_silent_node();
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/z-second/status"),
        usize::MAX,
        refusal(422, "Invalid", "denied by guard", "z-second"),
    ));
    site.server.create(
        &NODE_CONFIG
            .replace("eth0", &site.interface.name)
            .replace("ip6-update-node1", "z-second"),
    );
    node.rounds(SILENT * 12);
    let published = requests(
        &site.server.store(),
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
    )
    .len();
    assert!(
        !is_there(&site),
        "node 2 is silent for an hour, in which node 1 published {published} times in the same object"
    );
}

/// While this node meets conflicts, other nodes may meet them too, in any object.
fn a_publication_that_met_a_conflict() {
    for (site, mut node) in [beside_a_silent_node(), two_sites_per_node()] {
        node.rounds(SILENT - 5);
        site.server.inject(Plan::on(
            &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
            1,
            refusal(409, "Conflict", "the object has been modified", "ip6-update-node1"),
        ));
        site.interface.add(NEW_ADDRESS);
        node.rounds(SILENT);
        assert_eq!(site.held(), 9);
        node.rounds(3);
        assert_eq!(site.held(), 6);
    }
}

/// k6u tries the removal again soon, not five minutes later.
fn a_removal_that_fails_once() {
    let (site, mut node) = two_sites_per_node();
    let status = format!("PATCH {NODE_CONFIGS}/other/status");
    site.server.inject(Plan::on(
        &status,
        1,
        refusal(503, "ServiceUnavailable", "a webhook restarts", "other"),
    ));
    let before = requests(&site.server.store(), &status).len();
    node.rounds(SILENT + 6);
    assert_eq!(requests(&site.server.store(), &status).len() - before, 2);
    site.wait_lan("2001:db8:1234:567");
}

/// Twenty conflicts in a row count as a refusal, which one Event reports.
fn endless_conflicts_on_a_removal() {
    let (site, mut node) = two_sites_per_node();
    let status = format!("PATCH {NODE_CONFIGS}/other/status");
    site.server.inject(Plan::on(
        &status,
        usize::MAX,
        refusal(409, "Conflict", "denied by guard", "other"),
    ));
    let before = requests(&site.server.store(), &status).len();
    node.rounds(SILENT * 7);
    let tried = requests(&site.server.store(), &status).len() - before;
    let events = site.events();
    let reported = events.iter().filter(|(_, message)| message.contains("denied by guard"));
    assert!(
        reported.count() == 1 && (20..90).contains(&tried),
        "a dead node's prefix is in the group after 35 minutes, its removal met {tried} conflicts: {events:?}"
    );
}

fn three_nodes_see_a_new_prefix_one_after_another() {
    let trio = Trio::start(1);
    let first = trio.site.group_history(GROUP).len();
    for (at, interface) in trio.interfaces.iter().enumerate() {
        interface.add(&format!("2001:db8:9876:543{at}::10"));
        interface.deprecate(&format!("2001:db8:1234:567{at}::10"));
        // Long enough for the others to make rounds, in which they might undo the change.
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

fn a_change_is_reported_once_by_three_nodes() {
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

fn three_nodes_all_read_the_group() {
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
    // Of a round that is under way only one of the two reads is counted.
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

/// A node removes an entry only after it saw it unchanged for five minutes on its own clock: see the simulation.
fn clocks_do_not_remove_a_dead_node() {
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
    // An hour passes on the server's clock. The others restart, and have seen nothing before.
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

/// Two sites, whose node configs are recreated. No list loses a CIDR before both sites have published again.
fn recreated_node_configs() {
    let mut trio = clockwork::trio();
    trio.interfaces[2].remove("2001:db8:1234:5672::10");
    trio.interfaces[2].add("2001:db8:9876:5432::10");
    // A node misses only entries that it has read.
    rounds_of_all(&mut trio.nodes, 3);
    let held = cidrs(&trio.site.server.store(), GROUP);
    assert_eq!(held.map(|held| held.len()), Some(6), "both sites are in the group");
    let written = trio.site.group_history(GROUP).len();
    let key = |name: &str| Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", name);
    let recreate = |name: &str| {
        let mut config = trio.site.server.store().objects[&key(name)].clone();
        let path = format!("{NODE_CONFIGS}/{name}");
        trio.site.server.admin("DELETE", &path, "", &Value::Null);
        config["metadata"] = json!({"name": name});
        config.as_object_mut().unwrap().remove("status");
        trio.site
            .server
            .admin("POST", NODE_CONFIGS, "application/json", &config);
    };
    NAMES.iter().for_each(|name| recreate(name));
    rounds_of_all(&mut trio.nodes, 1);
    for name in NAMES {
        let back = published(&trio.site.server.store(), name);
        assert!(back.is_some(), "{name} did not publish again");
    }
    rounds_of_all(&mut trio.nodes, 90);
    let history = trio.site.group_history(GROUP).split_off(written);
    assert!(history.is_empty(), "{history:#?}");
}

const OTHERS: [&str; 1] = ["2001:db8:aaaa:bbb1::/64"];

/// Another node has published another prefix, and the group holds both.
fn two_sites() -> (Site, Clockwork) {
    let (site, mut node) = Clockwork::settled();
    site.publish(NODE_2, &OTHERS);
    node.run(Duration::from_secs(2));
    assert_eq!(cidrs(&site.server.store(), GROUP).map(|held| held.len()), Some(6));
    site.wait_reason(CONFIG_NAME, "Updated");
    (site, node)
}

/// "A node whose own entry is missing only adds to lists for an interval and a quarter."
fn recreated_between_two_reads() {
    let (site, mut node) = two_sites();
    // The group has a foreign CIDR, and the answer to k6u's read of it is slow.
    let path = format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
    let mut more = cidrs(&site.server.store(), GROUP).unwrap();
    more.push("2001:db8:dead::/64".into());
    site.patch(&path, json!({"spec": {"externalCIDRs": more}}));
    let read = site.hold(&format!("GET {path}"));
    let written = std::thread::scope(|scope| {
        scope.spawn(|| node.round_after(Duration::from_secs(1)));
        read.wait();
        // The IP6UpdateNodeConfig is recreated, and node 2 publishes first.
        site.recreate_node_config();
        site.publish(NODE_2, &OTHERS);
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

/// "The objects were recreated, and the others have to come back first."
fn recreated_just_before_a_publication() {
    let (site, mut node) = two_sites();
    // The IP6UpdateNodeConfig is recreated while the answer to the first list is under way.
    let list = site.hold(&format!("GET {NODE_CONFIGS}"));
    let (written, before) = std::thread::scope(|scope| {
        scope.spawn(|| node.round_after(Duration::from_secs(1)));
        list.wait();
        site.recreate_node_config();
        // Another link of the same delegated prefix: something to publish, which changes no list.
        site.interface.add("2001:db8:1234:5672::10");
        let before = (
            site.group_history(GROUP).len(),
            requests(&site.server.store(), "").len(),
        );
        list.release();
        before
    });
    // The other node publishes again after this one has published, read the group, and listed a second time.
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
    site.publish(NODE_2, &OTHERS);
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

fn a_refused_removal_ends_with_its_entry() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(2);
    site.publish(NODE_2, &["2001:db8:aaaa:bbb1::/64"]);
    let path = format!("{NODE_CONFIGS}/ip6-update-node1/status");
    node.rounds(29);
    site.server.store().mutation = Some(|key, object| {
        if key.resource == "ip6updatenodeconfigs" && object["status"]["nodes"][NODE_2].is_null() {
            object["status"]["nodes"][NODE_2] =
                json!({"prefixes": ["2001:db8:aaaa:bbb1::/64"], "observedTime": "2026-11-24T00:00:00Z", "message": ""});
        }
    });
    node.rounds(40);
    let reported = site.count_events("PublishFailed");
    assert_eq!(reported, 1, "the removal is refused: {:?}", site.events());
    site.server.store().mutation = None;
    site.patch(&path, json!({"status": {"nodes": {NODE_2: null}}}));
    node.rounds(60);
    let left: Vec<String> = node.reconciler().problems.subjects().map(ToString::to_string).collect();
    // A year later another node dies, and its removal is refused too.
    let third = "node3.example.com";
    site.publish(third, &["2001:db8:cccc:ddd1::/64"]);
    site.server.store().mutation = Some(|key, object| {
        if key.resource == "ip6updatenodeconfigs" && object["status"]["nodes"]["node3.example.com"].is_null() {
            object["status"]["nodes"]["node3.example.com"] =
                json!({"prefixes": ["2001:db8:cccc:ddd1::/64"], "observedTime": "2026-11-24T00:00:00Z", "message": ""});
        }
    });
    node.rounds(120);
    let reported = site.count_events("PublishFailed");
    assert!(
        left.is_empty() && reported == 2,
        "ten minutes after the entry is gone these problems last: {left:?}; of the second dead node, whose removal is \
         refused, there are {} Events; the group holds {:?}",
        reported - 1,
        cidrs(&site.server.store(), GROUP)
    );
}

fn races_for_removals_are_no_refusal() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(2);
    site.server.create(
        &NODE_CONFIG
            .replace("eth0", &site.interface.name)
            .replace("ip6-update-node1", "other")
            .replace(NODE, NODE_2),
    );
    let path = format!("{NODE_CONFIGS}/other/status");
    let removals = |site: &Site| requests(&site.server.store(), &format!("PATCH {path}")).len();
    for death in 1..=25 {
        let entry = json!({"prefixes": ["2001:db8:1234:5671::/64"], "observedTime": death.to_string()});
        site.patch(&path, json!({"status": {"nodes": {NODE_2: entry}}}));
        // Another node was first, so this one meets a conflict.
        let conflict = refusal(409, "Conflict", "the object has been modified", "other");
        site.server.inject(Plan::on(&format!("PATCH {path}"), 1, conflict));
        let before = removals(&site);
        let mut rounds = 0;
        while removals(&site) == before {
            node.rounds(1);
            rounds += 1;
            assert!(rounds < 100, "it tries to remove it");
        }
        site.server.heal();
        site.patch(&path, json!({"status": {"nodes": {NODE_2: null}}}));
        // Six minutes, longer than a silent node stays.
        node.rounds(36);
        let events = site.events();
        let alarms: Vec<_> = events.iter().filter(|(reason, _)| reason == "PublishFailed").collect();
        let left: Vec<String> = node.reconciler().problems.subjects().map(ToString::to_string).collect();
        assert!(
            alarms.is_empty(),
            "after {death} nodes that died one after another, each removed at once by another node: {alarms:?}; six \
             minutes later these problems last: {left:?}"
        );
    }
}

/// Two nodes publish, and a third one, with a prefix of its own, has just died. The trouble keeps neither from publishing:
/// five minutes later the dead node's prefix is gone.
fn a_dead_node_beside(trouble: fn(&Site)) {
    let site = Site::with_address(ADDRESS);
    site.select_all_nodes();
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    site.publish("node3.example.com", &["2001:db8:cccc:5671::/64"]);
    (0..4).for_each(|_| nodes.iter_mut().for_each(|node| node.rounds(1)));
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(site.held(), 6);
    trouble(&site);
    let times = || [NODE, NODE_2].map(|node| entry(&site.server.store(), node).unwrap()["observedTime"].to_string());
    let before = times();
    (0..360).for_each(|_| nodes.iter_mut().for_each(|node| node.rounds(1)));
    let held = cidrs(&site.server.store(), GROUP).unwrap();
    assert_eq!(
        held.len(),
        3,
        "an hour after node 3 died: {held:?}; {:?}; heartbeats {before:?}, {:?}",
        ready(&site.server.store(), CONFIG_NAME),
        times()
    );
}

fn a_dead_node_beside_entries_that_a_webhook_changes() {
    a_dead_node_beside(Site::change_messages);
}

fn a_dead_node_while_answers_to_publications_are_lost() {
    a_dead_node_beside(Site::lose_answers_to_publications);
}

/// Two sites, UPDATE_INTERVAL 60. The IP6UpdateNodeConfigs are deleted, and recreated two minutes later. Two nodes of
/// the first site are back; twenty seconds later the address of one changes. The second site's node has not been back
/// yet.
fn time_without_entries_is_no_time_to_come_back() {
    let trio = Trio::<Clockwork>::of(Site::new(), Layout::PerNode);
    let site = &trio.site;
    trio.interfaces[1].remove("2001:db8:1234:5671::10");
    trio.interfaces[1].add("2001:db8:aaaa:bbb1::10");
    let minute = Duration::from_secs(60);
    let mut one = Clockwork::of(site, NAMES[0], minute);
    let mut two = Clockwork::of(site, NAMES[1], minute);
    let mut three = Clockwork::of(site, NAMES[2], minute);
    for _ in 0..4 {
        one.round_after(minute);
        two.round_after(minute);
        three.round_after(minute);
    }
    assert_eq!(site.held(), 6, "both sites are in the group");
    let delete = |name: &str| {
        site.server
            .admin("DELETE", &format!("{NODE_CONFIGS}/{name}"), "", &Value::Null);
    };
    for name in NAMES {
        delete(name);
    }
    for _ in 0..2 {
        one.round_after(minute);
        two.round_after(minute);
        three.round_after(minute);
    }
    for (name, interface) in NAMES.iter().zip(&trio.interfaces) {
        let node_config = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
            "metadata": {"name": name}, "spec": {"nodeSelector": {"kubernetes.io/hostname": name},
            "interface": interface.name}});
        site.server
            .admin("POST", NODE_CONFIGS, "application/json", &node_config);
    }
    three.round_after(minute);
    one.round_after(minute);
    let is_there = || {
        let held = cidrs(&site.server.store(), GROUP).unwrap();
        held.iter().any(|cidr| cidr.starts_with("2001:db8:aaaa:bbb"))
    };
    assert!(is_there(), "nobody had an entry until now");
    trio.interfaces[0].add("2001:db8:9876:5431::10");
    one.round_after(Duration::from_secs(20));
    let kept = is_there();
    two.round_after(minute);
    assert!(
        kept,
        "twenty seconds after the first entry the second site was taken out: {:?}",
        site.group_history(GROUP)
    );
}
