//! Output for users: conditions, Events, and the log.

use std::process::Command;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::kinds::KINDS;
use k6u_testkit::apiserver::server::{TOKEN, cidrs};
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::golden;
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, NODE, NODE_2, NODE_CONFIGS, SOON, Site, WEBHOOK,
    at_once, denial, follows, message, name_groups, ready, reasons, refusal, refusals, requests,
};
use k6u_testkit::skip::skip;
use k6u_testkit::trio::Trio;
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::{self, Clockwork, INTERVAL, after_a_refused_status, rounds_of_all};

pub const ALL: &[Scenario] = scenarios![
    conditions_match_the_golden_files,
    events_match_the_golden_file,
    a_status_that_an_older_server_refuses,
    the_readme_shows_events_as_they_are_stored,
    events_of_one_node_are_in_order,
    events_of_three_nodes_are_in_order,
    events_that_hang,
    an_event_after_a_refused_one,
    a_response_that_repeats_the_token,
    values_that_would_forge_a_log_line,
    a_list_with_control_characters,
    names_that_would_forge_a_log_line,
    foreign_changes_are_reported_for_ten_minutes,
    foreign_changes_seen_by_one_of_two_nodes,
    a_report_of_changes_that_go_on,
    a_spec_that_is_edited_while_two_reads_fail,
    ready_after_reads_failed_while_no_status_was_taken,
    a_target_that_one_of_three_nodes_cannot_read,
    a_config_is_recreated_while_its_target_fails,
    a_refused_status_of_a_config,
    a_long_message_end_to_end,
    prefixes_that_were_not_written,
    a_prefix_that_was_never_written_is_shown,
    ready_after_a_webhook_was_down,
    endless_conflicts_on_a_status,
    refusals_whose_text_differs_each_time,
    as_the_daemonset_runs_it,
    argo_waits_for_a_new_group,
    ready_while_an_address_flaps,
    a_refusal_in_a_renumbering_is_reported,
    a_slow_status_beside_another,
    a_webhook_that_drops_prefixes_of_the_status,
    a_webhook_that_changes_the_status,
    the_reference_names_every_event,
    a_failing_target_moves_to_another_config,
    a_status_from_before_the_failure_is_restored,
    a_constant_group_beside_one_that_is_refused,
    a_failure_that_ended_while_the_node_cannot_publish,
    a_failure_that_ended_beside_entries_that_a_webhook_changes,
    a_failure_that_ended_while_answers_to_publications_are_lost,
    changes_by_another_writer_and_a_router_that_reboots,
    changes_by_another_writer_and_a_typing_error,
    a_recreated_config_whose_status_is_refused,
    recreated_on_two_nodes,
];

/// A golden file for each reason of Ready.
fn conditions_match_the_golden_files() {
    type Case = (&'static str, &'static str, fn(&Site));
    let with_address: fn(&Site) = |site| site.interface.add(ADDRESS);
    let cases: [Case; 5] = [
        ("Updated", CONFIG_NAME, with_address),
        ("NoPrefix", CONFIG_NAME, |site| site.interface.add("fd12:3456:789a::10")),
        ("InvalidSpec", CONFIG_NAME, |site| {
            let group = json!({"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 200]});
            site.force_spec(json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": [group]}));
        }),
        ("GroupConflict", "younger", |site| {
            site.interface.add(ADDRESS);
            site.server.advance_clock(Duration::from_secs(1));
            site.server.create(&CONFIG.replace(CONFIG_NAME, "younger"));
        }),
        ("UpdateFailed", CONFIG_NAME, |site| {
            site.interface.add(ADDRESS);
            site.create_group(GROUP, &["2001:db8:1::/64"]);
            site.revoke("patch", "ciliumcidrgroups");
        }),
    ];
    at_once(cases, |(reason, config, begin)| {
        let site = Site::new();
        begin(&site);
        let mut node = Clockwork::start(&site);
        node.rounds(2);
        let condition = ready(&site.server.store(), config).expect("a condition");
        assert_eq!(condition["reason"], reason);
        let text = serde_yaml::to_string(&condition).expect("YAML");
        let interface = (site.interface.name.as_str(), "<interface>");
        golden::check(
            &format!("ready-{}.yaml", reason.to_lowercase()),
            &text,
            &[golden::TIME, golden::LINK_LOCAL, interface],
        );
    });
}

/// The Events of a config, as `kubectl describe ip6updateconfig` prints them, with two spaces between columns.
fn events_match_the_golden_file() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(1);
    site.interface.remove(ADDRESS);
    site.interface.add("fd12:3456:789a::10");
    node.rounds(2);
    site.interface.add(NEW_ADDRESS);
    node.rounds(2);
    site.revoke("patch", "ciliumcidrgroups");
    site.interface.add("2001:db8:aaaa:bbb1::10");
    node.rounds(2);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let mut rows = vec![
        ["Type", "Reason", "Age", "From", "Message"].map(String::from),
        ["----", "------", "----", "----", "-------"].map(String::from),
    ];
    for event in described(&site.server.store()) {
        let age = "<age>".to_string();
        let from = text(&event["source"]["component"]);
        rows.push([
            text(&event["type"]),
            text(&event["reason"]),
            age,
            from,
            text(&event["message"]),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0) + 2;
    let widths = [0, 1, 2, 3].map(width);
    let mut printed = "Events:\n".to_string();
    for [kind, reason, age, from, message] in &rows {
        let [a, b, c, d] = widths;
        printed += &format!("  {kind:a$}{reason:b$}{age:c$}{from:d$}{message}\n");
    }
    let interface = (site.interface.name.as_str(), "<interface>");
    golden::check("events.txt", &printed, &[golden::LINK_LOCAL, interface]);
}

fn a_status_that_an_older_server_refuses() {
    let (site, node) = Site::settled(1);
    // Before 1.30 the API server refuses the status of an object that does not fit its schema.
    site.server.store().ratchets = false;
    site.force_spec(json!({"delegatedPrefixLength": 0, "ciliumCIDRGroups": []}));
    node.wait_log("WARN  IP6UpdateConfig ip6-update-config: PATCH", SOON);
    site.wait_rounds(3);
    assert!(node.wait_complaints(1)[0].contains("422 Invalid"));
    site.wait_lan("2001:db8:1234:567");
    // The status still says Ready, so an Event reports the error.
    let events = site.events();
    let is_reported = |(reason, note): &&(String, String)| {
        reason == "StatusRefused" && note.contains("should say InvalidSpec: ") && note.contains("422 Invalid")
    };
    assert_eq!(events.iter().filter(is_reported).count(), 1, "{events:?}");
}

/// The Events in the order of `kubectl describe`: by lastTimestamp, and within a second by name, as the API server
/// lists them (k8s.io/kubectl, pkg/util/event/sorted_event_list.go).
fn described(store: &Store) -> Vec<Value> {
    let events = store.objects.iter().filter(|(key, _)| key.resource == "events");
    let about = |event: &&Value| event["involvedObject"]["name"] == CONFIG_NAME;
    let mut events: Vec<Value> = events.map(|(_, event)| event).filter(about).cloned().collect();
    events.sort_by_key(|event| event["lastTimestamp"].to_string());
    events
}

/// Waits until the last Event names this prefix, and checks that all Events make one chain of changes.
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
        // kubectl computes the age from these.
        assert_eq!(event["firstTimestamp"], event["lastTimestamp"]);
        assert!(event["lastTimestamp"].is_string(), "{event}");
        assert!(event["count"] == 1 && event["source"]["component"] == "k6u", "{event}");
        assert_eq!(event["involvedObject"]["kind"], "IP6UpdateConfig");
    }
}

/// The delegated prefix with this number.
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
    site.interface.remove(ADDRESS);
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

/// Two configs have an Event in one round. The first Event is refused, and lost; the second one is sent a round later.
fn an_event_after_a_refused_one() {
    let site = Site::with_address(ADDRESS);
    site.server
        .create(&CONFIG.replace(CONFIG_NAME, "another").replace(GROUP, "another"));
    site.server.inject(Plan::on(
        "POST /api/v1/namespaces/default/events",
        1,
        denial("an Event"),
    ));
    let mut node = Clockwork::start(&site);
    node.rounds(4);
    let reasons: Vec<String> = site.events().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["PrefixChanged"], "two, of which one was refused");
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
    site.renumber();
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
    let max = rounds
        .map(|round| round.iter().filter(|line| line.contains("/events")).count())
        .skip(1)
        .max();
    drop(node);
    assert!(
        reached.is_some() && max <= Some(2),
        "the change reached the group after {time:?}; requests that timed out between two lists: {max:?}"
    );
}

fn a_response_that_repeats_the_token() {
    // A proxy's error page may do this. `Running` searches the log when it is dropped.
    let text = format!("you sent {TOKEN}\r\n\x1b[31mand\x07 that is wrong");
    let echo = Response::new(403, "text/plain", text);
    let (site, node) = Site::settled(1);
    site.server
        .inject(Plan::on("GET /apis/cilium.io", usize::MAX, Fault::Answer(echo)));
    let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("you sent [token] [31mand that is wrong"), "{message}");
    assert!(
        site.events().iter().all(|(_, note)| !note.contains(TOKEN)),
        "{:?}",
        site.events()
    );
    assert!(
        node.log()
            .iter()
            .all(|line| !line.contains(TOKEN) && !line.contains('\x1b'))
    );
    site.server.heal();
    site.wait_reason(CONFIG_NAME, "Updated");
}

/// A list element with the token, or with characters that end a line.
fn values_that_would_forge_a_log_line() {
    let site = Site::with_address(ADDRESS);
    let label = json!({"metadata": {"labels": {"x": TOKEN}}});
    let forged = "2001:db8::1\n2026-11-26T00:00:00Z ERROR forged\u{2028}by \u{1b}[2K";
    site.create_group(GROUP, &[TOKEN, forged, &TOKEN[..TOKEN.len() - 5]]);
    site.patch(&format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"), label);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    node.wait_log(
        "[token], 2001:db8::1 2026-11-26T00:00:00Z ERROR forged by [2K, [token]",
        SOON,
    );
    let log = node.log();
    assert!(
        log.iter().all(|line| !line.starts_with("2026-11-26T00:00:00Z ERROR")),
        "{log:#?}"
    );
    assert!(log.iter().all(|line| !line.contains(char::is_control)), "{log:#?}");
}

/// "Control characters in the server's messages do not reach the log."
fn a_list_with_control_characters() {
    let kind = KINDS.into_iter().find(|kind| kind.name == "GlobalNetworkSet").unwrap();
    let site = Site::with_address(ADDRESS);
    site.server.install(kind.crd);
    site.grant(kind.rights);
    site.server.admin(
        "POST",
        &kind.path(),
        "application/json",
        &kind.object(&["x\n2026-11-25T00:00:00Z WARN  API server: forged \u{1b}[31m"]),
    );
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"targets": [kind.target("::1:ffff:0:0:0/112")]}}),
    );
    let node = site.run(1);
    node.wait_log("forged", SOON);
    let forged: Vec<String> = node.log().into_iter().filter(|line| line.contains("forged")).collect();
    drop(node);
    assert!(
        !forged.is_empty()
            && forged
                .iter()
                .all(|line| !line.starts_with("2026-11-25T00:00:00Z") && !line.contains('\u{1b}')),
        "{forged:#?}"
    );
}

/// A node's and an interface's name, written past the schema.
fn names_that_would_forge_a_log_line() {
    const FORGED: &str = "x\n2026-11-26T00:00:00Z ERROR forged \u{1b}[2K";
    let site = Site::with_address(ADDRESS);
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let mut second = site.server.store().objects[&key].clone();
    second["metadata"]["name"] = json!("z-second");
    second["metadata"]["uid"] = json!("z-second");
    second["spec"]["interface"] = json!("e\n\u{1b}[2Kforged");
    let entry = json!({"prefixes": ["2001:db8:aaaa:bbb1::/64"], "observedTime": "2026-11-24T00:00:00Z",
        "ignoresRouters": true, "message": FORGED});
    second["status"] = json!({"nodes": {FORGED: entry.clone(), TOKEN: entry}});
    let second_key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "z-second");
    site.server.store().put(second_key, second);
    let node = site.run(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.interface.add(NEW_ADDRESS);
    site.wait_rounds(5);
    // The group gets Cilium's label, which is reported.
    let label = json!({"metadata": {"labels": {format!("extgrp.cilium.io/{TOKEN}"): FORGED}}});
    site.patch(&format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"), label);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.wait_rounds(3);
    let is_clean = |text: &str| !text.contains(TOKEN) && !text.contains(char::is_control);
    let log = node.log();
    assert!(log.iter().all(|line| is_clean(line)), "{log:#?}");
    assert!(
        log.iter().all(|line| !line.starts_with("2026-11-26T00:00:00Z ERROR")),
        "{log:#?}"
    );
    assert!(log.iter().any(|line| line.contains("forged")), "{log:#?}");
    let events = site.events();
    assert!(
        !events.is_empty() && events.iter().all(|(_, note)| is_clean(note)),
        "{events:#?}"
    );
    let store = site.server.store();
    for past in &store.history {
        let object = past.object.as_ref().filter(|_| past.key.resource == "ip6updateconfigs");
        let conditions = object
            .into_iter()
            .flat_map(|object| object["status"]["conditions"].as_array());
        for condition in conditions.flatten() {
            assert!(is_clean(condition["message"].as_str().unwrap()), "{condition}");
        }
    }
}

fn revert(site: &Site) {
    site.patch(
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
    );
}

fn foreign_changes_are_reported_for_ten_minutes() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(1);
    for reverts in 1..=3 {
        site.wait_reason(CONFIG_NAME, "Updated");
        revert(&site);
        node.rounds(2);
        assert_eq!(site.held(), 3, "after {reverts}");
    }
    let reported = site.wait_reason(CONFIG_NAME, "UpdateFailed").to_string();
    assert!(
        reported.contains("somebody else changed it 3 times within ten minutes"),
        "{reported}"
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

/// The other node always finds the group right, and must not report the contrary.
fn foreign_changes_seen_by_one_of_two_nodes() {
    let site = Site::with_address(ADDRESS);
    site.select_all_nodes();
    let mut node = Clockwork::start(&site);
    let mut other = Clockwork::of(&site, NODE_2, INTERVAL);
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
    // The node that saw the changes stops before it can report their end.
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

fn a_refused_status_of_a_config() {
    at_once(refusals(CONFIG_NAME), |refused| {
        let (site, node) = Site::settled(1);
        site.server
            .create(&CONFIG.replace(CONFIG_NAME, "z-config").replace(GROUP, "z-third"));
        site.wait_reason("z-config", "Updated");
        let status = format!("PATCH {CONFIGS}/{CONFIG_NAME}/status");
        site.server.inject(Plan::on(&status, usize::MAX, refused));
        site.renumber();
        site.wait_lan("2001:db8:9876:543");
        let written = |store: &_| {
            let condition = ready(store, "z-config")?;
            message(&condition).contains("2001:db8:9876:5430::/60").then_some(())
        };
        assert!(site.server.wait(SOON, written).is_some(), "{:#?}", node.log());
        let complaints = node.wait_complaints(1);
        assert!(
            complaints[0].contains(&format!("IP6UpdateConfig {CONFIG_NAME}: PATCH")),
            "{complaints:?}"
        );
        assert!(!complaints[0].contains("grant k6u this right"), "{complaints:?}");
    });
}

fn a_long_message_end_to_end() {
    let (site, node) = Site::settled(1);
    site.revoke("create", "ciliumcidrgroups");
    name_groups(&site, &["a", "b", "c", "d"].map(String::from));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.wait_rounds(3);
    let status = format!("PATCH {CONFIGS}/{CONFIG_NAME}/status");
    let before = requests(&site.server.store(), &status).len();
    site.wait_rounds(10);
    let written = requests(&site.server.store(), &status).len() - before;
    drop(node);
    assert!(written <= 1, "the same status was written {written} times in 10 rounds");
}

fn prefixes_that_were_not_written() {
    let (site, _node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.revoke("patch", "ciliumcidrgroups");
    site.renumber();
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
    assert_eq!(
        config["status"]["prefix"], "2001:db8:9876:5430::/60",
        "the prefix that the node sees"
    );
}

/// `kubectl get ip6uc` shows it in the column PREFIX.
fn a_prefix_that_was_never_written_is_shown() {
    let site = Site::with_address(ADDRESS);
    let create = "POST /apis/cilium.io/v2/ciliumcidrgroups";
    let refused = refusal(500, "InternalError", WEBHOOK, GROUP);
    site.server.inject(Plan::on(create, usize::MAX, refused));
    let _node = site.run(1);
    let shown = |expected: &str| {
        site.wait_reason(CONFIG_NAME, "UpdateFailed");
        let key = Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME);
        let is_shown = |store: &Store| (store.objects[&key]["status"]["prefix"] == expected).then_some(());
        let reached = site.server.wait(SOON, is_shown);
        let status = site.server.store().objects[&key]["status"].clone();
        assert!(reached.is_some(), "{status}");
        assert_eq!(status["delegatedPrefixes"], json!([]), "nothing holds it");
    };
    shown("2001:db8:1234:5670::/60");
    site.renumber();
    shown("2001:db8:9876:5430::/60");
    let events = site.events();
    assert!(events.iter().all(|(reason, _)| reason == "UpdateFailed"), "{events:?}");
}

/// A webhook was down while the provider renumbered. Once it is back and the group is right, Ready stays True.
fn ready_after_a_webhook_was_down() {
    let mut trio = clockwork::trio();
    trio.site.server.inject(Plan::on(
        "PATCH /apis/cilium.io",
        usize::MAX,
        refusal(500, "InternalError", "failed calling webhook", GROUP),
    ));
    trio.renumber("2001:db8:1234:567", "2001:db8:9876:543");
    rounds_of_all(&mut trio.nodes, 25);
    trio.site.wait_reason(CONFIG_NAME, "UpdateFailed");
    trio.site.server.heal();
    rounds_of_all(&mut trio.nodes, 60);
    trio.site.wait_lan("2001:db8:9876:543");
    trio.site.wait_reason(CONFIG_NAME, "Updated");
    let before = reasons(&trio.site.server.store(), CONFIG_NAME).len();
    let events = trio.site.events().len();
    rounds_of_all(&mut trio.nodes, 30);
    let after = reasons(&trio.site.server.store(), CONFIG_NAME).split_off(before - 1);
    let events = trio.site.events().len() - events;
    assert_eq!(
        after,
        ["Updated"],
        "Ready in 30 rounds after the group was right; {events} Events"
    );
}

/// "One line for a failure."
fn endless_conflicts_on_a_status() {
    let (site, mut node) = Clockwork::settled();
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status"),
        usize::MAX,
        refusal(
            409,
            "Conflict",
            "admission webhook \"guard\" denied the request: locked",
            CONFIG_NAME,
        ),
    ));
    site.renumber();
    node.run(Duration::from_secs(60));
    site.wait_lan("2001:db8:9876:543");
    let tried = requests(&site.server.store(), &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status")).len();
    let complaints = node.complaints();
    let reported = ready(&site.server.store(), CONFIG_NAME);
    drop(node);
    assert!(
        !complaints.is_empty(),
        "refused {tried} times, and no line says so: {reported:?}"
    );
}

/// Three nodes meet a webhook whose error names another port each time.
fn refusals_whose_text_differs_each_time() {
    let trio = Trio::start(1);
    let site = &trio.site;
    for port in 40_000..41_000 {
        let text = format!("failed calling webhook: read tcp 10.0.0.1:{port}: connection reset by peer");
        site.server.inject(Plan::on(
            "PATCH /apis/cilium.io",
            1,
            refusal(500, "InternalError", &text, GROUP),
        ));
    }
    trio.renumber("2001:db8:1234:567", "2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let status = format!("PATCH {CONFIGS}/{CONFIG_NAME}/status");
    let before = requests(&site.server.store(), &status).len();
    std::thread::sleep(Duration::from_secs(10));
    let written = requests(&site.server.store(), &status).len() - before;
    assert!(written <= 3, "{written} status writes in ten seconds");
    for node in &trio.nodes {
        assert!(node.complaints().len() <= 2, "{:#?}", node.complaints());
    }
}

fn as_the_daemonset_runs_it() {
    let site = Site::with_address(ADDRESS);
    let start = site.start().with("RUST_LOG", "info");
    let node = start.spawn();
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    let log = node.log();
    assert!(
        log[0].contains(" on node node1.example.com, every 10 s, API server https://127.0.0.1:"),
        "{log:#?}"
    );
    let expected = "CiliumCIDRGroup ip6-local-lan: created with 2001:db8:1234:5670::/64, 2001:db8:1234:5671::/64, \
                    2001:db8:1234:5672::/64";
    node.wait_log(expected, SOON);
    let entry = site
        .object("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1")
        .unwrap();
    let entry = &entry["status"]["nodes"][NODE];
    assert_eq!(entry["prefixes"], json!(["2001:db8:1234:5671::/64"]));
    assert_eq!(entry.get("message"), None, "there is nothing to report");
    let status = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap()["status"]
        .clone();
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(status["delegatedPrefixes"], json!(["2001:db8:1234:5670::/60"]));
    assert_eq!(
        status["conditions"][0]["message"],
        "1 target up to date with 2001:db8:1234:5670::/60"
    );
    site.server
        .wait(SOON, |store| {
            store.objects.keys().find(|key| key.resource == "events").cloned()
        })
        .unwrap();
    assert_eq!(
        site.events(),
        [(
            "PrefixChanged".to_string(),
            "none -> 2001:db8:1234:5670::/60".to_string()
        )]
    );
}

/// The health check of docs/gitops.md, as Argo CD runs it.
fn argo_waits_for_a_new_group() {
    let text = include_str!("../../docs/gitops.md");
    let script = text.split("IP6UpdateConfig: |\n").nth(1).unwrap();
    let script = script.split("\nThe status of").next().unwrap();
    let site = Site::with_address(ADDRESS);
    let health = || {
        let object = site
            .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
            .unwrap();
        let condition = ready(&site.server.store(), CONFIG_NAME).unwrap();
        let program = format!(
            "local obj = {{metadata = {{generation = {}}}, status = {{observedGeneration = {}, conditions = {{{{type = \
             \"Ready\", status = {}, message = \"\"}}}}}}}}\nlocal function check()\n{script}\nend\nio.write(check().status)",
            object["metadata"]["generation"], object["status"]["observedGeneration"], condition["status"]
        );
        let output = Command::new("lua5.4").arg("-e").arg(&program).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut node = Clockwork::start(&site);
    node.rounds(2);
    site.wait_reason(CONFIG_NAME, "Updated");
    let Some(before) = health() else {
        return skip("lua5.4 is needed to run the health check of docs/gitops.md");
    };
    assert_eq!(before, "Healthy");
    name_groups(&site, &["new-group".to_string()]);
    assert_eq!(health().as_deref(), Some("Progressing"));
    node.rounds(1);
    assert_eq!(health().as_deref(), Some("Healthy"));
}

fn ready_while_an_address_flaps() {
    let (site, node) = Site::settled(10);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on("PATCH /apis/cilium.io", usize::MAX, denial(GROUP)));
    let start = Instant::now();
    let mut failed_at = None;
    let mut number = 0;
    while start.elapsed() < Duration::from_secs(40) && failed_at.is_none() {
        let address = format!("2001:db8:{:x}:1::10", number % 40);
        number += 1;
        site.interface.add(&address);
        std::thread::sleep(Duration::from_millis(120));
        site.interface.remove(&address);
        let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
        if reported["status"] == "False" {
            failed_at = Some(start.elapsed());
        }
    }
    let refused = requests(&site.server.store(), "PATCH /apis/cilium.io").len();
    assert!(
        failed_at.is_some_and(|at| at < Duration::from_secs(15)),
        "after {:?} of flapping, {refused} refused writes, Ready: {:?}; Ready was False at {failed_at:?}",
        start.elapsed(),
        ready(&site.server.store(), CONFIG_NAME).map(|reported| reported["status"].clone())
    );
    drop(node);
}

fn a_refusal_in_a_renumbering_is_reported() {
    let (site, node) = Site::settled(30);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on("PATCH /apis/cilium.io", usize::MAX, denial(GROUP)));
    let start = Instant::now();
    site.renumber();
    node.wait_log("denied the request", SOON);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let longest = start.elapsed();
    assert!(
        longest < Duration::from_secs(5),
        "the webhook refused the new list at once; Ready was True for another {longest:?}"
    );
}

fn a_slow_status_beside_another() {
    let (site, node) = Site::settled(1);
    let second = CONFIG.replace(CONFIG_NAME, "z-config").replace(GROUP, "z-group");
    site.server.create(&second);
    site.wait_reason("z-config", "Updated");
    site.server.store().mutation = Some(|key, object| {
        if key.resource == "ip6updateconfigs" && key.name == CONFIG_NAME && object["status"].is_object() {
            object["status"]["conditions"][0]["message"] = json!("seen by policy");
        }
    });
    site.server.inject(Plan::on(
        &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status"),
        usize::MAX,
        Fault::Late(Duration::from_secs(3)),
    ));
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    let path = format!("{CONFIGS}/z-config");
    site.patch(
        &path,
        json!({"spec": {"delegatedPrefixLength": 60, "ciliumCIDRGroups": [
        {"ciliumCIDRGroupName": "z-group", "prefixIds": [0, 1]}]}}),
    );
    let reported = |store: &k6u_testkit::apiserver::store::Store| {
        let reported = ready(store, "z-config")?;
        reported["message"]
            .as_str()?
            .contains("2001:db8:9876:5430")
            .then_some(())
    };
    let reached = site.server.wait(Duration::from_secs(60), reported);
    assert!(
        reached.is_some(),
        "a minute after the renumbering z-config says {:?}",
        ready(&site.server.store(), "z-config")
    );
    drop(node);
}

fn a_webhook_that_drops_prefixes_of_the_status() {
    let (site, _node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.store().mutation = Some(|key, object| {
        if key.resource == "ip6updateconfigs" && object["status"].is_object() {
            object["status"].as_object_mut().unwrap().remove("delegatedPrefixes");
        }
    });
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    let before = site.events().len();
    site.wait_rounds(20);
    let events = site.events();
    let (count, last) = (events.len() - before, events.last());
    assert!(
        count <= 3,
        "{count} Events in 20 rounds of one node, of a prefix that changed once: {last:?}"
    );
}

fn a_webhook_that_changes_the_status() {
    let site = Site::with_address(ADDRESS);
    site.server.store().mutation = Some(|key, object| {
        if key.resource == "ip6updateconfigs"
            && let Some(message) = object["status"]["conditions"][0]["message"].as_str()
        {
            let short = message.chars().take(10).collect::<String>();
            object["status"]["conditions"][0]["message"] = json!(short);
        }
    });
    let mut node = Clockwork::start(&site);
    node.rounds(5);
    let status = format!("PATCH {CONFIGS}/{CONFIG_NAME}/status");
    let before = requests(&site.server.store(), &status).len();
    node.rounds(360);
    let written = requests(&site.server.store(), &status).len() - before;
    assert!(
        written <= 125,
        "one node wrote the same status {written} times in an hour; events: {:?}",
        site.events()
    );
}

fn the_reference_names_every_event() {
    let (site, _node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status"),
        usize::MAX,
        denial(CONFIG_NAME),
    ));
    site.renumber();
    site.wait_rounds(5);
    let reference = include_str!("../../docs/reference.md");
    let unknown: Vec<_> = site
        .events()
        .into_iter()
        .filter(|(reason, _)| !reference.contains(reason.as_str()))
        .collect();
    assert!(unknown.is_empty(), "docs/reference.md does not know {unknown:#?}");
}

/// Two nodes in the same IP6UpdateNodeConfig; all is right and reported.
fn pair() -> (Site, Clockwork, Clockwork) {
    let site = Site::with_address(ADDRESS);
    site.select_all_nodes();
    let (mut one, mut two) = (Clockwork::start(&site), Clockwork::of(&site, NODE_2, INTERVAL));
    two.rounds(3);
    one.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    (site, one, two)
}

/// The observedGeneration of the example's config, and its generation.
fn generations(site: &Site) -> (i64, i64) {
    let config = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .expect("it is there");
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    (
        number(&config["status"]["observedGeneration"]),
        number(&config["metadata"]["generation"]),
    )
}

fn pool(name: &str) -> Value {
    json!({"kind": "IPAddressPool", "namespace": "metallb-system", "name": name, "suffixes": ["::1:ffff:0:0:0/112"]})
}

/// Two nodes. A tool writes its own list every minute, for an hour, just before the round of the first one.
fn a_report_of_changes_that_go_on() {
    let (site, mut one, mut two) = pair();
    for _ in 0..60 {
        revert(&site);
        for _ in 0..6 {
            one.rounds(1);
            two.rounds(1);
        }
    }
    let warnings = site.count_events("UpdateFailed");
    assert_eq!(
        reasons(&site.server.store(), CONFIG_NAME),
        ["Updated", "UpdateFailed"],
        "one change a minute without end; {warnings} Warnings"
    );
}

/// The spec names two pools, one a while after the other; MetalLB is not installed. Later somebody adds a group, which a
/// webhook refuses. The status describes the new spec all the same.
fn a_spec_that_is_edited_while_two_reads_fail() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(2);
    site.wait_reason(CONFIG_NAME, "Updated");
    let path = format!("{CONFIGS}/{CONFIG_NAME}");
    site.patch(&path, json!({"spec": {"targets": [pool("one")]}}));
    node.rounds(1);
    site.patch(&path, json!({"spec": {"targets": [pool("one"), pool("two")]}}));
    node.rounds(30);
    assert_eq!(generations(&site), (3, 3));
    site.server.inject(Plan::on(
        "POST /apis/cilium.io/v2/ciliumcidrgroups",
        usize::MAX,
        denial("new"),
    ));
    name_groups(&site, &["new".to_string()]);
    node.rounds(360);
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let lines = node.complaints();
    assert_eq!(
        generations(&site),
        (4, 4),
        "an hour after the change: {reported:?}; {} Events; {lines:#?}",
        site.events().len()
    );
}

/// For five minutes a webhook refuses the status. Meanwhile two targets become unreadable, one after the other.
fn ready_after_reads_failed_while_no_status_was_taken() {
    let site = Site::with_address(ADDRESS);
    name_groups(&site, &["a".to_string(), "b".to_string()]);
    let mut node = Clockwork::start(&site);
    node.rounds(2);
    site.wait_reason(CONFIG_NAME, "Updated");
    let down = |name: &str| {
        refusal(
            503,
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
            name,
        )
    };
    let reads = |name: &str| {
        Plan::on(
            &format!("GET /apis/cilium.io/v2/ciliumcidrgroups/{name}$"),
            usize::MAX,
            down(name),
        )
    };
    let status = format!("PATCH {CONFIGS}/{CONFIG_NAME}/status");
    site.server.inject(Plan::on(&status, usize::MAX, denial(CONFIG_NAME)));
    site.server.inject(reads("a"));
    node.rounds(1);
    site.server.inject(reads("b"));
    node.rounds(30);
    site.server.heal();
    site.server.inject(reads("a"));
    site.server.inject(reads("b"));
    node.rounds(360);
    let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
    assert_eq!(
        reported["status"],
        "False",
        "an hour after the webhook is back, two of three targets cannot be read: {reported}; the last log lines: {:#?}",
        node.complaints()
    );
}

/// The API server of the first of three nodes cannot reach a target's API; those of the others can. It reports that once in
/// ten minutes at most.
fn a_target_that_one_of_three_nodes_cannot_read() {
    let mut trio = clockwork::trio();
    let down = refusal(
        503,
        "ServiceUnavailable",
        "the server is currently unable to handle the request",
        GROUP,
    );
    for _ in 0..180 {
        trio.site
            .server
            .inject(Plan::on("GET /apis/cilium.io", usize::MAX, down.clone()));
        trio.nodes[0].round_after(INTERVAL);
        trio.site.server.heal();
        trio.nodes[1].round_after(INTERVAL);
        trio.nodes[2].round_after(INTERVAL);
    }
    let turned = reasons(&trio.site.server.store(), CONFIG_NAME).len() - 1;
    assert!(
        (1..=6).contains(&turned),
        "half an hour: Ready turned {turned} times, {:?}",
        trio.site.events()
    );
}

/// Its status is empty then, and has the failure again with the next try.
fn a_config_is_recreated_while_its_target_fails() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(2);
    let reads = format!("GET /apis/cilium.io/v2/ciliumcidrgroups/{GROUP}$");
    let down = refusal(503, "ServiceUnavailable", "unavailable", GROUP);
    site.server.inject(Plan::on(&reads, usize::MAX, down));
    node.rounds(6);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.server
        .admin("DELETE", &format!("{CONFIGS}/{CONFIG_NAME}"), "", &Value::Null);
    site.server.create(CONFIG);
    node.rounds(7);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
}

const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";

fn status(site: &Site) -> Value {
    ready(&site.server.store(), CONFIG_NAME).unwrap_or_default()
}

/// Two nodes publish; `trouble` concerns what they publish. A webhook refuses the group for a minute, then all is right.
fn a_failure_that_ended(trouble: fn(&Site)) {
    let site = Site::with_address(ADDRESS);
    site.select_all_nodes();
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    let mut rounds = |count: usize| (0..count).for_each(|_| nodes.iter_mut().for_each(|node| node.rounds(1)));
    rounds(4);
    site.wait_reason(CONFIG_NAME, "Updated");
    trouble(&site);
    rounds(12);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), 3, denial(GROUP)));
    site.overwrite_group();
    rounds(360);
    let held = cidrs(&site.server.store(), GROUP).unwrap();
    assert!(held.len() == 3 && held[0].starts_with("2001:db8:1234:567"), "{held:?}");
    assert_eq!(
        status(&site)["status"],
        "True",
        "an hour later the group is right: {held:?}; {}",
        status(&site)
    );
}

/// A tool writes its own list every minute, and Ready says so. `pause` makes the config not Ready for another reason for a
/// minute. "Once a node has reported them, the config stays UpdateFailed until the spec of the target has been the same
/// for ten minutes."
fn contested_around(pause: fn(&Site), end: fn(&Site)) {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    let revert = || {
        site.overwrite_group();
    };
    for _ in 0..5 {
        revert();
        node.rounds(6);
    }
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    pause(&site);
    node.rounds(6);
    end(&site);
    node.rounds(3);
    revert();
    node.rounds(3);
    let reported = status(&site);
    assert_eq!(
        reported["status"], "False",
        "the tool wrote its list a minute ago, and k6u restored its own: {reported}"
    );
}

/// "Ready is set to True only if all targets of the config were read and found right, or written."
fn a_failing_target_moves_to_another_config() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    site.server
        .create(&CONFIG.replace(CONFIG_NAME, "second").replace(GROUP, "other"));
    node.rounds(4);
    site.wait_reason("second", "Updated");
    site.server
        .inject(Plan::on(&format!("POST {GROUPS}"), usize::MAX, denial("wanted")));
    name_groups(&site, &["wanted".to_string()]);
    node.rounds(4);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    // The failing group goes from one config into the other.
    name_groups(&site, &[]);
    site.patch(
        &format!("{CONFIGS}/second"),
        json!({"spec": {"ciliumCIDRGroups": [
            {"ciliumCIDRGroupName": "other", "prefixIds": [0, 1, 2]},
            {"ciliumCIDRGroupName": "wanted", "prefixIds": [1]}]}}),
    );
    let mut rounds = 0;
    let mut now = Value::Null;
    while rounds < 120 {
        node.rounds(1);
        rounds += 1;
        now = ready(&site.server.store(), "second").unwrap();
        if now["status"] == "False" {
            break;
        }
    }
    assert!(
        rounds <= 8,
        "its group \"wanted\" does not exist, but Ready stayed True for {rounds} rounds, 10 s apart; now {now}"
    );
}

fn a_status_from_before_the_failure_is_restored() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    let before = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap()["status"]
        .clone();
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), usize::MAX, denial(GROUP)));
    site.renumber();
    node.rounds(4);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let mut before = before;
    before["failing"] = Value::Null;
    site.patch(&format!("{CONFIGS}/{CONFIG_NAME}/status"), json!({"status": before}));
    let mut rounds = 0;
    while status(&site)["status"] == "True" && rounds < 120 {
        node.rounds(1);
        rounds += 1;
    }
    assert!(
        rounds <= 8,
        "the group holds {:?}, but Ready stayed True for {rounds} rounds, 10 s apart",
        cidrs(&site.server.store(), GROUP)
    );
}

/// "The delegated prefixes that the targets were last written for."
fn a_constant_group_beside_one_that_is_refused() {
    let site = Site::with_address(ADDRESS);
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]},
            {"ciliumCIDRGroupName": "fixed", "prefixIds": [], "extraCIDRs": ["192.168.0.0/16"]}]}}),
    );
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), usize::MAX, denial(GROUP)));
    site.renumber();
    node.rounds(6);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let config = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap();
    let changes: Vec<_> = site
        .events()
        .into_iter()
        .filter(|(reason, _)| reason == "PrefixChanged")
        .collect();
    assert_eq!(
        config["status"]["delegatedPrefixes"],
        json!(["2001:db8:1234:5670::/60"]),
        "the only group that has a prefix holds {:?}; {changes:?}",
        cidrs(&site.server.store(), GROUP)
    );
}

/// "A failure in the status stands until a node finds that target right."
fn a_failure_that_ended_while_the_node_cannot_publish() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), usize::MAX, denial(GROUP)));
    site.overwrite_group();
    node.rounds(4);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let publish = format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status");
    site.server.heal();
    site.server
        .inject(Plan::on(&publish, usize::MAX, denial("ip6-update-node1")));
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), usize::MAX, denial(GROUP)));
    node.rounds(60);
    site.server.heal();
    site.server
        .inject(Plan::on(&publish, usize::MAX, denial("ip6-update-node1")));
    node.rounds(360);
    let failing = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap()["status"]["failing"]
        .clone();
    assert_eq!(site.held(), 3);
    assert!(
        !failing.to_string().contains(GROUP),
        "an hour after the group became right: {failing}, {}; {:#?}",
        status(&site),
        node.log()
            .iter()
            .filter(|line| line.contains(GROUP))
            .collect::<Vec<_>>()
    );
}

fn a_failure_that_ended_beside_entries_that_a_webhook_changes() {
    a_failure_that_ended(Site::change_messages);
}

fn a_failure_that_ended_while_answers_to_publications_are_lost() {
    a_failure_that_ended(Site::lose_answers_to_publications);
}

fn changes_by_another_writer_and_a_router_that_reboots() {
    contested_around(
        |site| site.interface.remove(ADDRESS),
        |site| site.interface.add(ADDRESS),
    );
}

fn changes_by_another_writer_and_a_typing_error() {
    contested_around(
        |site| {
            site.force_spec(json!({"delegatedPrefixLength": 60,
                "ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 20]}]}));
        },
        |site| {
            site.force_spec(json!({"delegatedPrefixLength": 60,
                "ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]}]}));
        },
    );
}

/// "A Warning StatusRefused on an IP6UpdateConfig, when its status cannot be written."
fn a_recreated_config_whose_status_is_refused() {
    let (site, mut node) = after_a_refused_status();
    site.server
        .admin("DELETE", &format!("{CONFIGS}/{CONFIG_NAME}"), "", &Value::Null);
    site.server.create(CONFIG);
    node.rounds(360);
    let events = site.events_about("ip6updateconfigs", CONFIG_NAME);
    assert!(
        events.iter().any(|reason| reason.contains("StatusRefused")),
        "an hour after it was recreated, it has the status {} and the Events {events:?}",
        status(&site)
    );
}

/// Two nodes publish; both have met the same failure.
fn recreated_on_two_nodes() {
    let site = Site::with_address(ADDRESS);
    site.select_all_nodes();
    let mut nodes = [NODE, NODE_2].map(|name| Clockwork::of(&site, name, INTERVAL));
    let mut rounds = |count: usize| (0..count).for_each(|_| nodes.iter_mut().for_each(|node| node.rounds(1)));
    rounds(6);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), usize::MAX, denial(GROUP)));
    site.renumber();
    rounds(4);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.server
        .admin("DELETE", &format!("{CONFIGS}/{CONFIG_NAME}"), "", &Value::Null);
    site.server.create(CONFIG);
    let mut count = 0;
    while status(&site).is_null() && count < 120 {
        rounds(1);
        count += 1;
    }
    assert!(
        count <= 8,
        "the new config has no Ready condition for {count} rounds, 10 s apart; then {}",
        status(&site)
    );
}
