//! Events, in the order in which kubectl lists them.

use std::time::{Duration, Instant};

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::store::Store;
use serde_json::Value;

use crate::Scenario;
use crate::site::{ADDRESS, CONFIG, CONFIG_NAME, GROUP, NEW_ADDRESS, NODE_CONFIGS, SOON, Site, follows, requests};
use crate::trio::Trio;

pub const ALL: &[Scenario] = scenarios![
    the_readme_shows_events_as_they_are_stored,
    events_of_one_node_are_in_order,
    events_of_three_nodes_are_in_order,
    events_that_hang,
];

/// What `kubectl describe` lists: by lastTimestamp, and within a second as the API server lists them, by name
/// (k8s.io/kubectl, pkg/util/event/sorted_event_list.go).
fn described(store: &Store) -> Vec<Value> {
    let events = store.objects.iter().filter(|(key, _)| key.resource == "events");
    let about = |event: &&Value| event["involvedObject"]["name"] == CONFIG_NAME;
    let mut events: Vec<Value> = events.map(|(_, event)| event).filter(about).cloned().collect();
    events.sort_by_key(|event| event["lastTimestamp"].to_string());
    events
}

/// Waits until the last Event tells of this prefix; all of them make one chain of changes.
fn wait_chain(site: &Site, last: &str) {
    let arrived = |store: &Store| {
        let events = described(store);
        let end = format!(" -> {last}");
        let is_there = |event: &Value| event["message"].as_str().is_some_and(|text| text.ends_with(&end));
        events.iter().any(is_there).then_some(events)
    };
    let events = site.server.wait(SOON, arrived).expect("the Event of the last change");
    let mut held = "none".to_string();
    for event in events.iter().filter(|event| event["reason"] == "PrefixChanged") {
        let message = event["message"].as_str().expect("a message");
        let (from, to) = message.split_once(" -> ").expect("a change");
        assert_eq!(from, held, "{events:#?}");
        held = to.to_string();
    }
    assert_eq!(held, last);
    for event in &events {
        // What the age is made of.
        assert_eq!(event["firstTimestamp"], event["lastTimestamp"]);
        assert!(event["lastTimestamp"].is_string(), "{event}");
        assert!(event["count"] == 1 && event["source"]["component"] == "k6u", "{event}");
        assert_eq!(event["involvedObject"]["kind"], "IP6UpdateConfig");
    }
}

/// The delegated prefixes in turn, and an address in the link of a node.
fn prefix(number: usize) -> String {
    format!("2001:db8:{number}:5670::/60")
}

fn address(number: usize, node: usize) -> String {
    format!("2001:db8:{number}:567{node}::10")
}

/// The columns of the table in the README are those of kubectl (k8s.io/kubectl, pkg/describe/describe.go).
fn the_readme_shows_events_as_they_are_stored() {
    let (site, _node) = Site::settled(1);
    wait_chain(&site, "2001:db8:1234:5670::/60");
    let store = site.server.store();
    let event = &described(&store)[0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let from = match text(&event["source"]["component"]) {
        component if component.is_empty() => text(&event["reportingComponent"]),
        component => component,
    };
    let readme = include_str!("../../README.md").lines();
    let rows: Vec<Vec<&str>> = readme
        .filter(|line| line.contains("  PrefixChanged  "))
        .map(|line| {
            line.split("  ")
                .filter(|part| !part.is_empty())
                .map(str::trim)
                .collect()
        })
        .collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for row in &rows {
        assert_eq!(
            (row[0], row[1], row[3]),
            (
                text(&event["type"]).as_str(),
                text(&event["reason"]).as_str(),
                from.as_str()
            )
        );
    }
    assert_eq!(rows[0][4], text(&event["message"]));
}

fn events_of_one_node_are_in_order() {
    let (site, _node) = Site::settled(1);
    site.wait_rounds(4);
    site.interface.add(&address(1, 1));
    site.interface.remove("2001:db8:1234:5671::10");
    for number in 2..=6 {
        site.wait_lan(&format!("2001:db8:{}:567", number - 1));
        site.interface.add(&address(number, 1));
        site.interface.remove(&address(number - 1, 1));
    }
    wait_chain(&site, &prefix(6));
}

fn events_of_three_nodes_are_in_order() {
    let trio = Trio::start(1);
    trio.site.wait_rounds(12);
    let mut before = "2001:db8:1234:567".to_string();
    for number in 1..=4 {
        let after = format!("2001:db8:{number}:567");
        trio.renumber(&before, &after);
        trio.site.wait_lan(&after);
        before = after;
    }
    wait_chain(&trio.site, &prefix(4));
}

/// "Two requests that time out end a round."
fn events_that_hang() {
    let (site, node) = Site::settled(1);
    for at in 0..3 {
        site.server.create(
            &CONFIG
                .replace(CONFIG_NAME, &format!("z-{at}"))
                .replace(GROUP, &format!("group-{at}")),
        );
        site.wait_reason(&format!("z-{at}"), "Updated");
    }
    site.server.inject(Plan::on(
        "POST /api/v1/namespaces/default/events",
        usize::MAX,
        Fault::Hang,
    ));
    site.interface.add(NEW_ADDRESS);
    site.interface.remove(ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    let hung = |store: &Store| (requests(store, "POST /api/v1/namespaces/default/events").len() >= 12).then_some(());
    let _ = site.server.wait(Duration::from_secs(5), hung);
    // While it waits for Events, the prefix changes once more.
    site.interface.add("2001:db8:aaaa:bbb1::10");
    let since = Instant::now();
    let reached = site.server.wait(SOON, |store| follows(store, "2001:db8:aaaa:bbb"));
    let time = since.elapsed();
    let lines: Vec<String> = site
        .server
        .store()
        .log
        .iter()
        .map(|logged| logged.line.clone())
        .collect();
    let rounds = lines.split(|line| *line == format!("GET {NODE_CONFIGS}"));
    let most = rounds
        .map(|round| round.iter().filter(|line| line.contains("/events")).count())
        .skip(1)
        .max();
    drop(node);
    assert!(
        reached.is_some() && most <= Some(2),
        "the change reached the group after {time:?}; requests that timed out between two lists: {most:?}"
    );
}
