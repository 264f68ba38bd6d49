//! What takes minutes: the loop's rounds one by one, over real TLS as well, but on a steady clock that the test
//! moves. Everything else here runs the binary, whose clock nobody moves.

use std::time::Duration;

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::server::{Cilium, cidrs};
use serde_json::json;

use crate::Scenario;
use crate::clockwork::{Clockwork, INTERVAL};
use crate::nodes::entry;
use crate::site::{
    ADDRESS, CONFIG_NAME, GROUP, NEW_ADDRESS, NODE, NODE_CONFIG, NODE_CONFIGS, Site, reasons, refusal, requests,
};

pub const ALL: &[Scenario] = scenarios![
    labels_are_read_every_five_minutes,
    an_entry_that_stood_still_for_five_minutes_is_removed,
    after_an_outage_nobody_counts_as_silent,
    a_node_that_could_not_publish_watches_anew,
    a_removal_that_is_refused_for_ever,
    a_dead_node_beside_a_refused_node_config,
    a_node_object_that_is_missing_once,
    a_node_object_that_is_missing_at_the_start,
    a_publication_that_met_a_conflict,
    a_removal_that_fails_once,
    an_api_server_that_initializes_for_long,
    crds_that_are_never_established,
    a_removal_that_meets_conflicts_for_ever,
    an_entry_that_a_webhook_changes_for_ever,
    crds_that_somebody_replaces_while_it_runs,
    changes_of_somebody_else_are_reported_for_ten_minutes,
    changes_that_one_node_has_seen,
];

/// After so many intervals of standing still an entry is removed.
const SILENT: usize = 30;
const OTHER: &str = "node2.example.com";

/// Two nodes with a prefix each; the second one published for the last time before the first one started.
fn two_sites() -> (Site, Clockwork) {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.publish(OTHER, &["2001:db8:aaaa:bbb1::/64"]);
    let node = Clockwork::start(&site);
    assert_eq!(held(&site), 6, "both sites are in the group");
    (site, node)
}

fn held(site: &Site) -> usize {
    cidrs(&site.server.store(), GROUP).map_or(0, |cidrs| cidrs.len())
}

fn is_there(site: &Site) -> bool {
    entry(&site.server.store(), OTHER).is_some()
}

fn labels_are_read_every_five_minutes() {
    let site = Site::with_address("2001:db8:1234:5671::10");
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
    assert_eq!((asked(), held(&site)), (1, 0));
    node.rounds(1);
    assert_eq!((asked(), held(&site)), (2, 3));
}

fn an_entry_that_stood_still_for_five_minutes_is_removed() {
    let (site, mut node) = two_sites();
    node.rounds(SILENT - 1);
    assert!(is_there(&site));
    assert_eq!(held(&site), 6);
    // In the round of its own sign of life the object it read is not the newest any more, so the removal comes
    // one round later; and then the group follows.
    node.rounds(3);
    assert!(!is_there(&site));
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert!(entry(&site.server.store(), NODE).is_some());
}

fn after_an_outage_nobody_counts_as_silent() {
    let (site, mut node) = two_sites();
    node.rounds(SILENT - 5);
    site.server.stop();
    for _ in 0..6 {
        node.round_after(Duration::from_secs(600));
    }
    site.server.restart().expect("it listens again");
    // What passed without a read counts as one interval.
    node.rounds(4);
    assert!(is_there(&site));
    assert_eq!(held(&site), 6);
    // It does not publish either.
    node.rounds(2);
    assert!(!is_there(&site));
}

fn a_node_that_could_not_publish_watches_anew() {
    let (site, mut node) = two_sites();
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
    assert_eq!(held(&site), 9);
    node.rounds(2);
    assert!(!is_there(&site));
}

/// Two nodes with a prefix each; the second one published for the last time in an object of its own, before the
/// first one started.
fn two_sites_per_node() -> (Site, Clockwork) {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.server.create(
        &NODE_CONFIG
            .replace("eth0", &site.interface.name)
            .replace("ip6-update-node1", "other")
            .replace(NODE, OTHER),
    );
    site.patch(
        &format!("{NODE_CONFIGS}/other/status"),
        json!({"status": {"nodes": {OTHER: {"prefixes": ["2001:db8:aaaa:bbb1::/64"], "observedTime": "2026-11-24T00:00:00Z"}}}}),
    );
    let node = Clockwork::start(&site);
    assert_eq!(held(&site), 6);
    (site, node)
}

/// What is refused for one object is told: an Event names it, once.
fn a_removal_that_is_refused_for_ever() {
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
    let told = events.iter().filter(|(_, message)| message.contains("denied by guard"));
    assert!(
        told.count() == 1,
        "a dead node's prefix is in the group after 20 minutes, its removal was refused {tried} times: {events:?}"
    );
}

/// "Those of dead nodes after five minutes"; "one object's trouble is its own".
fn a_dead_node_beside_a_refused_node_config() {
    let (site, mut node) = two_sites();
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

/// "A failed read of the node's labels leaves the last known ones" (4xx).
fn a_node_object_that_is_missing_once() {
    let (site, mut node) = two_sites();
    site.server.inject(Plan::on(
        "GET /api/v1/nodes/",
        1,
        refusal(404, "NotFound", "nodes \"node1.example.com\" not found", NODE),
    ));
    let mut rounds = 0;
    for round in 1..=26 {
        node.round_after(INTERVAL);
        if held(&site) < 6 {
            rounds += 1;
            eprintln!("round {round}: the group holds {}", held(&site));
        }
    }
    assert_eq!(
        rounds, 0,
        "rounds in which the prefix of node 1, which sees it all the time, was not in the group"
    );
}

/// "Before the first success this node stays where it has an entry."
fn a_node_object_that_is_missing_at_the_start() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.server.inject(Plan::on(
        "GET /api/v1/nodes/",
        1,
        refusal(404, "NotFound", "nodes \"node1.example.com\" not found", NODE),
    ));
    let mut node = Clockwork::start(&site);
    node.rounds(6);
    assert!(entry(&site.server.store(), NODE).is_some());
    assert_eq!(held(&site), 3);
}

/// While this node meets conflicts, the others may, too, whichever objects they publish in.
fn a_publication_that_met_a_conflict() {
    for (site, mut node) in [two_sites(), two_sites_per_node()] {
        node.rounds(SILENT - 5);
        site.server.inject(Plan::on(
            &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
            1,
            refusal(409, "Conflict", "the object has been modified", "ip6-update-node1"),
        ));
        site.interface.add(NEW_ADDRESS);
        node.rounds(SILENT);
        assert_eq!(held(&site), 9);
        node.rounds(3);
        assert_eq!(held(&site), 6);
    }
}

/// It is tried again like everything else, not five minutes later.
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

/// What is normal right after a CRD was made is a failure like others after a while: it is asked when it said.
fn an_api_server_that_initializes_for_long() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let Fault::Answer(answer) = refusal(429, "TooManyRequests", "storage is (re)initializing", "") else {
        unreachable!("it is an answer");
    };
    site.server.inject(Plan::on(
        &format!("GET {NODE_CONFIGS}"),
        usize::MAX,
        Fault::Answer(answer.with("Retry-After", "30")),
    ));
    let pauses = Clockwork::new(&site).run(Duration::from_secs(600));
    let all_wait = pauses.iter().all(|pause| *pause >= Duration::from_secs(30));
    assert!(all_wait && pauses.len() >= 9, "{pauses:?}");
}

/// Such as those whose names are taken: nothing is written every second.
fn crds_that_are_never_established() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.server.store().establish_after = Duration::from_secs(86_400);
    let pauses = Clockwork::new(&site).run(Duration::from_secs(600));
    // Ten rounds in a hurry, and as many after failures that wait for longer and longer.
    assert!(pauses.len() < 160, "{} rounds in ten minutes: {pauses:?}", pauses.len());
    assert!(pauses.iter().skip(20).all(|pause| *pause >= INTERVAL / 2), "{pauses:?}");
}

/// Twenty conflicts in a row are a refusal: an Event names it, once.
fn a_removal_that_meets_conflicts_for_ever() {
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
    let told = events.iter().filter(|(_, message)| message.contains("denied by guard"));
    assert!(
        told.count() == 1 && (20..90).contains(&tried),
        "a dead node's prefix is in the group after 35 minutes, its removal met {tried} conflicts: {events:?}"
    );
}

fn publications(site: &Site) -> usize {
    requests(
        &site.server.store(),
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
    )
    .len()
}

/// What is not stored as it was sent is published once a minute, and CRDs are applied as often.
fn an_entry_that_a_webhook_changes_for_ever() {
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
    let told = site.wait_reason(CONFIG_NAME, "UpdateFailed").to_string();
    assert!(told.contains("an admission webhook changes it"), "{told}");
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

/// By those of 0.3, whose schema drops what is published: k6u applies its own again within two minutes.
fn crds_that_somebody_replaces_while_it_runs() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(12);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .apply_crds(include_str!("../data/crds-0.3.yaml"), "update_crds");
    site.renumber();
    let before = publications(&site);
    node.rounds(12);
    let published = publications(&site) - before;
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert!(published <= 5, "{published} publications in two minutes");
}

fn revert(site: &Site) {
    site.patch(
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
    );
}

fn changes_of_somebody_else_are_reported_for_ten_minutes() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(1);
    for reverts in 1..=3 {
        site.wait_reason(CONFIG_NAME, "Updated");
        revert(&site);
        node.rounds(2);
        assert_eq!(held(&site), 3, "after {reverts}");
    }
    let told = site.wait_reason(CONFIG_NAME, "UpdateFailed").to_string();
    assert!(
        told.contains("somebody else changed it 3 times within ten minutes"),
        "{told}"
    );
    node.rounds(54);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    node.rounds(8);
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(
        reasons(&site.server.store(), CONFIG_NAME),
        ["Updated", "UpdateFailed", "Updated"]
    );
}

/// The others find the group right each time: none of them may say the contrary.
fn changes_that_one_node_has_seen() {
    let site = Site::with_address(ADDRESS);
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"nodeSelector": null}}),
    );
    let mut node = Clockwork::start(&site);
    let mut other = Clockwork::of(&site, OTHER, INTERVAL);
    other.rounds(2);
    node.rounds(2);
    for _ in 0..3 {
        revert(&site);
        node.rounds(1);
        other.rounds(1);
    }
    for _ in 0..50 {
        node.rounds(1);
        other.rounds(1);
    }
    let reported = reasons(&site.server.store(), CONFIG_NAME);
    assert_eq!(reported, ["Updated", "UpdateFailed"]);
    for _ in 0..20 {
        node.rounds(1);
        other.rounds(1);
    }
    assert_eq!(
        reasons(&site.server.store(), CONFIG_NAME),
        ["Updated", "UpdateFailed", "Updated"]
    );
    // The one that saw the changes is gone before it could say that they ended.
    for _ in 0..3 {
        revert(&site);
        node.rounds(1);
        other.rounds(1);
    }
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    drop(node);
    other.rounds(65);
    site.wait_reason(CONFIG_NAME, "Updated");
}
