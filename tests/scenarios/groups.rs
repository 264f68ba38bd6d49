//! CiliumCIDRGroups: the versions of Cilium, changes by others, and writes that fail.

use std::time::{Duration, Instant};

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::server::{Cilium, cidrs, upgrade_cilium};
use k6u_testkit::apiserver::store::{Mutation, Store};
use k6u_testkit::example::cidrs_for;
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, GROUP, Running, SOON, Site, WEBHOOK, at_once, follows, message, name_groups,
    ready, reasons, refusal, requests,
};
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::Clockwork;

pub const ALL: &[Scenario] = scenarios![
    cilium_1_17_serves_v2alpha1_only,
    cilium_1_18_serves_both,
    a_later_cilium_serves_v2_only,
    cilium_is_upgraded_while_k6u_runs,
    cilium_is_not_there_yet,
    drift_is_restored_within_an_interval,
    a_group_is_deleted,
    a_conflict_is_recomputed,
    a_right_is_missing_and_named,
    a_target_that_is_forbidden_for_a_moment,
    a_read_with_retry_after,
    a_conflict_five_times_in_a_row,
    a_webhook_that_is_slower_than_the_request,
    a_webhook_that_is_down_concerns_its_group_only,
    a_group_that_cilium_manages,
    endless_conflicts_on_a_group,
    a_read_that_is_always_refused,
    one_target_whose_answer_is_of_no_use,
    a_webhook_that_changes_what_is_stored,
    a_tool_that_reverts_each_write,
    a_group_with_other_content_is_overwritten,
    objects_that_are_applied_later,
    a_group_that_is_right_gets_no_write,
    parts_and_extra_cidrs_of_a_group,
    two_targets_hang_on_write,
    an_oversized_group_is_not_written_for_a_prefix,
    labels_and_a_target_hang,
    four_targets_hang_on_write,
    thirty_targets_hang_on_write,
    a_group_of_extra_cidrs_needs_no_prefix,
    a_group_that_is_reverted_beside_another,
];

fn served(cilium: Cilium, version: &str) -> (Site, Running) {
    let site = Site::bare("127.0.0.1", Some(cilium));
    site.install();
    site.interface.add(ADDRESS);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_rounds(2);
    let group = site.group(GROUP).unwrap();
    assert_eq!(group["apiVersion"], format!("cilium.io/{version}"));
    assert_eq!(group["metadata"]["labels"]["app.kubernetes.io/managed-by"], "k6u");
    let asked = requests(
        &site.server.store(),
        &format!("GET /apis/cilium.io/{version}/ciliumcidrgroups/"),
    );
    let all = requests(&site.server.store(), "GET /apis/cilium.io/").len();
    assert!(
        asked.len() >= 2 && all <= asked.len() + 2,
        "{all} requests, {} of them for the group",
        asked.len()
    );
    assert_eq!(node.complaints(), [""; 0]);
    (site, node)
}

fn cilium_1_17_serves_v2alpha1_only() {
    served(Cilium::V2Alpha1, "v2alpha1");
}

fn cilium_1_18_serves_both() {
    served(Cilium::Both, "v2");
}

fn a_later_cilium_serves_v2_only() {
    served(Cilium::V2, "v2");
}

fn cilium_is_upgraded_while_k6u_runs() {
    let (site, node) = served(Cilium::V2Alpha1, "v2alpha1");
    upgrade_cilium(&site.server, Cilium::V2);
    site.wait_rounds(3);
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    assert_eq!(node.complaints(), [""; 0], "an upgrade is no problem");
}

fn cilium_is_not_there_yet() {
    let site = Site::bare("127.0.0.1", None);
    site.install();
    site.interface.add(ADDRESS);
    let node = site.run(1);
    let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    assert!(
        condition["message"]
            .as_str()
            .unwrap()
            .contains("install Cilium 1.14 or newer"),
        "{condition}"
    );
    assert_eq!(condition["status"], Value::from("False"));
    site.wait_rounds(2);
    upgrade_cilium(&site.server, Cilium::Both);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_log("CiliumCIDRGroup ip6-local-lan: recovered after", SOON);
}

fn drift_is_restored_within_an_interval() {
    let (site, node) = Site::settled(1);
    let group = format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
    site.patch(&group, json!({"spec": {"externalCIDRs": ["2001:db8:bad::/48"]}}));
    site.wait_lan("2001:db8:1234:567");
    node.wait_log(
        "CiliumCIDRGroup ip6-local-lan: 2001:db8:bad::/48 -> 2001:db8:1234:5670::/64",
        SOON,
    );
    site.patch(&group, json!({"spec": {"externalCIDRs": []}}));
    site.wait_lan("2001:db8:1234:567");
}

fn a_group_is_deleted() {
    let (site, node) = Site::settled(1);
    site.server.admin(
        "DELETE",
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        "",
        &Value::Null,
    );
    site.wait_lan("2001:db8:1234:567");
    assert_eq!(
        site.group(GROUP).unwrap()["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "k6u"
    );
    assert_eq!(node.complaints(), [""; 0]);
}

fn a_conflict_is_recomputed() {
    let (site, node) = Site::settled(1);
    let conflict = json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409,
        "message": "the object has been modified", "details": {"name": GROUP}});
    let conflict = Response::new(409, "application/json", conflict.to_string());
    site.server
        .inject(Plan::on("PATCH /apis/cilium.io", 2, Fault::Answer(conflict)));
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(node.complaints(), [""; 0], "a conflict is no problem");
}

fn a_right_is_missing_and_named() {
    let (site, node) = Site::settled(1);
    site.revoke("patch", "ciliumcidrgroups");
    site.renumber();
    let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.contains("cannot patch resource \"ciliumcidrgroups\" in API group \"cilium.io\"")
            && message.contains("grant k6u this right"),
        "{message}"
    );
    site.wait_rounds(2);
    site.restore_rights();
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_log("CiliumCIDRGroup ip6-local-lan: recovered after", SOON);
}

fn a_target_that_is_forbidden_for_a_moment() {
    for verb in ["get", "patch"] {
        let (site, node) = Site::settled(1);
        site.wait_reason(CONFIG_NAME, "Updated");
        site.revoke(verb, "ciliumcidrgroups");
        site.renumber();
        let refused = |store: &Store| {
            let refused = store.log.iter().filter(|logged| logged.status == 403);
            (refused.count() >= 2).then_some(())
        };
        assert!(site.server.wait(SOON, refused).is_some(), "{verb} is not tried again");
        site.restore_rights();
        site.wait_lan("2001:db8:9876:543");
        site.wait_rounds(2);
        assert_eq!(node.complaints(), [""; 0]);
        assert_eq!(reasons(&site.server.store(), CONFIG_NAME), ["Updated"], "{verb}");
    }
}

/// "429 and 5xx: honour Retry-After, back off with jitter up to a minute."
fn a_read_with_retry_after() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let body = json!({"kind": "Status", "status": "Failure", "reason": "TooManyRequests", "code": 429,
        "message": "too many requests, please try again later", "details": {"name": GROUP}});
    let answer = Response::new(429, "application/json", body.to_string()).with("Retry-After", "30");
    site.server.inject(Plan::on(
        "GET /apis/cilium.io/v2/ciliumcidrgroups/",
        usize::MAX,
        Fault::Answer(answer),
    ));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let asked = || requests(&site.server.store(), "GET /apis/cilium.io/v2/ciliumcidrgroups/").len();
    let before = asked();
    let since = Instant::now();
    site.wait_rounds(12);
    let (again, time) = (asked() - before, since.elapsed());
    drop(node);
    assert!(
        again <= 1,
        "asked for 30 s of rest, and asked again {again} times in {time:?}"
    );
}

fn a_conflict_five_times_in_a_row() {
    let (site, node) = Site::settled(1);
    let body = json!({"kind": "Status", "reason": "Conflict", "message": "modified", "details": {"name": GROUP}});
    let conflict = Fault::Answer(Response::new(409, "application/json", body.to_string()));
    site.server.inject(Plan::on("PATCH /apis/cilium.io", 5, conflict));
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(node.complaints(), [""; 0]);
}

/// The API server gives up before k6u does, so a write that k6u counts as failed is not carried out later.
fn a_webhook_that_is_slower_than_the_request() {
    let (site, node) = Site::settled(1);
    let write = "PATCH /apis/cilium.io/v2/ciliumcidrgroups/";
    site.server
        .inject(Plan::on(write, 1, Fault::Webhook(Duration::from_secs(12))));
    let begin = Instant::now();
    site.renumber();
    node.wait_log(
        ": 504 Timeout Timeout: request did not complete within requested timeout",
        SOON,
    );
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    // Without a slow webhook the write succeeds.
    let answered = site
        .server
        .store()
        .log
        .iter()
        .any(|logged| logged.line.starts_with(write) && logged.status == 200);
    assert!(answered);
    // The API server accepts the parameter `timeout` in every request.
    assert!(site.server.store().log.iter().all(|logged| logged.status != 400));
}

fn a_webhook_that_is_down_concerns_its_group_only() {
    let (site, node) = Site::settled(1);
    // One group comes after the refused one in the same config, another one is in a later config.
    let second = json!({"ciliumCIDRGroupName": "z-second", "prefixIds": [1]});
    let first = json!({"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]});
    let groups = json!({"spec": {"ciliumCIDRGroups": [first, second]}});
    site.patch(&format!("{CONFIGS}/{CONFIG_NAME}"), groups);
    site.server
        .create(&CONFIG.replace(CONFIG_NAME, "z-config").replace(GROUP, "z-third"));
    site.wait_reason("z-config", "Updated");
    site.wait_group("z-second", &["2001:db8:1234:5671::/64"]);
    let write = format!("PATCH /apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
    site.server.inject(Plan::on(
        &write,
        usize::MAX,
        refusal(500, "InternalError", WEBHOOK, GROUP),
    ));
    site.renumber();
    site.wait_group("z-second", &["2001:db8:9876:5431::/64"]);
    let third = ["0", "1", "2"].map(|id| format!("2001:db8:9876:543{id}::/64"));
    site.wait_group("z-third", &third.each_ref().map(String::as_str));
    let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    assert!(message(&condition).contains(WEBHOOK), "{condition}");
    assert!(
        message(&condition).starts_with(&format!("CiliumCIDRGroup {GROUP}: ")),
        "{condition}"
    );
    site.wait_reason("z-config", "Updated");
    let is_reported = |event: &Value| {
        event["reason"] == "UpdateFailed" && event["message"].as_str().is_some_and(|text| text.contains(WEBHOOK))
    };
    let reported = |store: &Store| {
        let mut events = store.objects.iter().filter(|(key, _)| key.resource == "events");
        events.find_map(|(_, event)| is_reported(event).then_some(()))
    };
    assert!(site.server.wait(SOON, reported).is_some(), "{:?}", site.events());
    // Rounds go on, and k6u tries the group less and less often.
    let begun = node.count("DEBUG round: ");
    while node.count("DEBUG round: ") < begun + 8 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let tried = requests(&site.server.store(), &write).len();
    assert!((2..=6).contains(&tried), "tried {tried} times");
    site.server.heal();
    let deadline = Duration::from_secs(70);
    let right = |store: &_| (cidrs(store, GROUP)? == third).then_some(());
    assert!(site.server.wait(deadline, right).is_some(), "it is not tried again");
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_log(&format!("CiliumCIDRGroup {GROUP}: recovered"), SOON);
}

fn a_group_that_cilium_manages() {
    let site = Site::with_address(ADDRESS);
    site.create_group(GROUP, &["192.0.2.0/24"]);
    let path = format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
    let label = "extgrp.cilium.io/aws";
    site.patch(&path, json!({"metadata": {"labels": {label: "sg-1"}}}));
    let node = site.run(1);
    let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    assert!(message(&condition).contains(label), "{condition}");
    site.wait_rounds(3);
    site.wait_group(GROUP, &["192.0.2.0/24"]);
    assert_eq!(
        node.complaints().len(),
        2,
        "the group and its config: {:#?}",
        node.complaints()
    );
    // An administrator removes Cilium's label.
    site.patch(&path, json!({"metadata": {"labels": {label: null}}}));
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
}

fn endless_conflicts_on_a_group() {
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
    site.renumber();
    let reported = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    assert!(
        reported["message"].as_str().is_some_and(|text| text.contains("locked")),
        "{reported}"
    );
    node.wait_log("CiliumCIDRGroup ip6-local-lan: PATCH ", SOON);
}

/// "A request that is refused for one object is [...] tried again after a pause that doubles, up to a minute."
fn a_read_that_is_always_refused() {
    let (site, mut node) = Clockwork::settled();
    site.wait_reason(CONFIG_NAME, "Updated");
    site.revoke("get", "ciliumcidrgroups");
    // A right that is refused for ten seconds is missing.
    node.run(Duration::from_secs(15));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let asked = || requests(&site.server.store(), "GET /apis/cilium.io/v2/ciliumcidrgroups/").len();
    let before = asked();
    let rounds = node.run(Duration::from_secs(31)).len();
    assert!(rounds >= 30, "{rounds} rounds");
    let again = asked() - before;
    drop(node);
    assert!(again <= 8, "asked {again} times in 30 rounds");
}

/// An aggregated API that does not accept the front proxy, a webhook with status.code 401, or a proxy that closes the
/// connection or sends more than k6u reads causes this. The other group follows, Ready names the object that fails, and
/// rounds go on.
fn one_target_whose_answer_is_of_no_use() {
    let faults = [
        refusal(401, "Unauthorized", "Unauthorized", "a"),
        Fault::CutBodyAt(20),
        Fault::Answer(Response::new(200, "application/json", " ".repeat(5 << 20))),
    ];
    let cases = faults
        .iter()
        .flat_map(|fault| ["GET", "PATCH"].map(|verb| (fault, verb)));
    at_once(cases, |(fault, verb)| {
        let (site, node) = Site::settled(1);
        let list: Vec<Value> = ["a", GROUP]
            .map(|name| json!({"ciliumCIDRGroupName": name, "prefixIds": [0, 1, 2]}))
            .to_vec();
        site.patch(
            &format!("{CONFIGS}/{CONFIG_NAME}"),
            json!({"spec": {"ciliumCIDRGroups": list}}),
        );
        let both = |store: &Store| (cidrs(store, "a")? == cidrs(store, GROUP)?).then_some(());
        assert!(site.server.wait(SOON, both).is_some());
        site.wait_reason(CONFIG_NAME, "Updated");
        let line = format!("{verb} /apis/cilium.io/v2/ciliumcidrgroups/a");
        site.server.inject(Plan::on(&line, usize::MAX, fault.clone()));
        site.renumber();
        let reached = site
            .server
            .wait(Duration::from_secs(20), |store| follows(store, "2001:db8:9876:543"));
        let reported = ready(&site.server.store(), CONFIG_NAME);
        assert!(
            reached.is_some(),
            "{fault:?} to {line}: {reported:?}, {:#?}",
            node.complaints()
        );
        // If only the answer is cut off, the write is carried out, and the next read finds the right list.
        if verb == "GET" || matches!(fault, Fault::Answer(_)) {
            let reported = site.wait_reason(CONFIG_NAME, "UpdateFailed");
            assert!(message(&reported).starts_with("CiliumCIDRGroup a: "), "{reported}");
        }
        site.wait_rounds(3);
        let complaints = node.complaints();
        assert!(
            complaints.iter().all(|line| !line.contains("WARN  API server: ")),
            "{complaints:#?}"
        );
        site.server.heal();
        assert!(site.server.wait(SOON, both).is_some(), "it is not tried again");
        site.wait_reason(CONFIG_NAME, "Updated");
    });
}

/// A policy engine removes what k6u writes, or adds an element of its own.
fn a_webhook_that_changes_what_is_stored() {
    let strips: Mutation = |key, object| {
        if key.resource == "ciliumcidrgroups" {
            object["spec"]["externalCIDRs"] = json!([]);
        }
    };
    let adds: Mutation = |key, object| {
        if key.resource == "ciliumcidrgroups" {
            let list = object["spec"]["externalCIDRs"].as_array_mut().unwrap();
            let own = json!("192.0.2.0/24");
            if !list.contains(&own) {
                list.push(own);
            }
        }
    };
    for (what, mutation) in [("strips", strips), ("adds", adds)] {
        let (site, mut node) = Clockwork::settled();
        site.wait_reason(CONFIG_NAME, "Updated");
        site.server.store().mutation = Some(mutation);
        let write = format!("PATCH /apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
        let before = requests(&site.server.store(), &write).len();
        site.renumber();
        let rounds = node.run(Duration::from_secs(21)).len();
        assert!(rounds >= 20, "{rounds} rounds");
        let written = requests(&site.server.store(), &write).len() - before;
        let condition = ready(&site.server.store(), CONFIG_NAME).unwrap();
        let held = cidrs(&site.server.store(), GROUP);
        let reported = reasons(&site.server.store(), CONFIG_NAME);
        assert!(
            condition["status"] == "False" && message(&condition).contains("an admission webhook or policy changes it"),
            "{what}: {written} writes in 20 rounds, the group holds {held:?}: {condition}"
        );
        assert!(message(&condition).contains("docs/gitops.md"), "{condition}");
        assert!(written <= 6, "{what}: {written} writes in 20 rounds");
        assert_eq!(reported.last_chunk::<2>().unwrap(), &["Updated", "UpdateFailed"]);
        assert_eq!(
            reported.iter().filter(|reason| *reason == "UpdateFailed").count(),
            1,
            "{reported:?}"
        );
        assert!(node.complaints().len() <= 2, "{:#?}", node.complaints());
        site.server.store().mutation = None;
        node.run(Duration::from_secs(70));
        site.wait_lan("2001:db8:9876:543");
        site.wait_reason(CONFIG_NAME, "Updated");
    }
}

/// A GitOps tool has another list in its repository.
fn a_tool_that_reverts_each_write() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    for _ in 0..3 {
        site.patch(
            &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
            json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
        );
        site.wait_lan("2001:db8:1234:567");
    }
    site.wait_rounds(3);
    let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
    assert!(
        reported["status"] == "False"
            && message(&reported).contains("somebody else changed it 3 times within ten minutes"),
        "{reported}"
    );
    assert!(message(&reported).contains("docs/gitops.md"), "{reported}");
    site.wait_rounds(10);
    let failed = site
        .events()
        .iter()
        .filter(|(reason, _)| reason == "UpdateFailed")
        .count();
    assert_eq!(failed, 1, "{:?}", site.events());
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
}

fn a_group_with_other_content_is_overwritten() {
    let site = Site::with_address(ADDRESS);
    site.create_group(GROUP, &["192.0.2.0/24", "2001:db8:bad::/48"]);
    let _node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    let history = site.group_history(GROUP);
    assert_eq!(history.len(), 2, "the first write is the right list: {history:?}");
    // docs/cilium.md says how to label it.
    assert_eq!(site.group(GROUP).unwrap()["metadata"]["labels"], Value::Null);
}

/// The first round that reads a new object also writes its group and its status. The next round would come an interval
/// later.
fn objects_that_are_applied_later() {
    const INTERVAL: Duration = Duration::from_secs(3);
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.interface.add("2001:db8:1234:5671::10");
    let node = site.run(3);
    node.wait_log("DEBUG round: ", SOON);
    let is_followed = |group: &str, config: &str, apply: &dyn Fn()| {
        site.create_group(group, &["192.0.2.0/24"]);
        apply();
        let applied = Instant::now();
        let expected = cidrs_for("2001:db8:1234:567");
        site.wait_group(group, &expected.each_ref().map(String::as_str));
        site.wait_reason(config, "Updated");
        let store = site.server.store();
        let first = |line: &str| {
            let mut log = store.log.iter();
            let request = log.find(|logged| logged.at >= applied && logged.line == line);
            request.expect("the request").at
        };
        let read = first(&format!("GET {CONFIGS}"));
        for line in [
            format!("PATCH /apis/cilium.io/v2/ciliumcidrgroups/{group}"),
            format!("PATCH {CONFIGS}/{config}/status"),
        ] {
            let (round, all) = (first(&line) - read, first(&line) - applied);
            assert!(round < INTERVAL && all < 2 * INTERVAL, "{line}: {round:?}, {all:?}");
        }
    };
    is_followed(GROUP, CONFIG_NAME, &|| site.install());
    let second = CONFIG.replace(CONFIG_NAME, "second").replace(GROUP, "second");
    is_followed("second", "second", &|| {
        site.server.create(&second);
    });
}

fn a_group_that_is_right_gets_no_write() {
    let site = Site::with_address(ADDRESS);
    // The same set in another order and another spelling.
    site.create_group(
        GROUP,
        &[
            "2001:db8:1234:5672::/64",
            "2001:DB8:1234:5670:0::/64",
            "2001:db8:1234:5671::/64",
        ],
    );
    let before = site.group(GROUP).unwrap();
    let _node = site.run(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_rounds(3);
    assert_eq!(site.group(GROUP).unwrap(), before);
    assert_eq!(requests(&site.server.store(), "PATCH /apis/cilium.io"), [""; 0]);
}

fn parts_and_extra_cidrs_of_a_group() {
    let (site, node) = Site::settled(1);
    let group = json!({"ciliumCIDRGroupName": "site", "suffixes": ["::/60", "::2:0:0:0:10"],
        "extraCIDRs": ["fd00:1::/48", "192.168.0.0/16"]});
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": [group]}}),
    );
    let rest = ["2001:db8:1234:5670::/60", "2001:db8:1234:5672::10/128", "fd00:1::/48"];
    site.wait_group("site", &[&["192.168.0.0/16"], &rest[..]].concat());
    site.interface.remove(ADDRESS);
    site.wait_reason(CONFIG_NAME, "NoPrefix");
    site.wait_group("site", &[&["192.168.0.0/16"], &rest[..]].concat());
    node.wait_complaints(1);
}

fn two_targets_hang_on_write() {
    let (site, node) = Site::settled(1);
    name_groups(&site, &["a", "b"].map(String::from));
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_group("b", &["2001:db8:1234:5671::/64"]);
    for name in ["a", "b"] {
        let write = format!("PATCH /apis/cilium.io/v2/ciliumcidrgroups/{name}?");
        site.server.inject(Plan::on(&write, usize::MAX, Fault::Hang));
    }
    site.renumber();
    let reached = site.server.wait(SOON * 2, |store| follows(store, "2001:db8:9876:543"));
    let log = node.complaints();
    drop(node);
    assert!(reached.is_some(), "after five minutes {log:#?}");
}

/// "status.delegatedPrefixes: the delegated prefixes that the targets were last written for."
fn an_oversized_group_is_not_written_for_a_prefix() {
    let (site, _node) = Site::settled(1);
    let suffixes: Vec<String> = (1..=64).map(|n| format!("::{n:x}")).collect();
    let ids: Vec<u64> = (0..256).collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"delegatedPrefixLength": 56,
            "ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": ids, "suffixes": suffixes}]}}),
    );
    let full = |store: &Store| (cidrs(store, GROUP)?.len() == 320).then_some(());
    assert!(site.server.wait(SOON, full).is_some());
    site.wait_reason(CONFIG_NAME, "Updated");
    let flood: Vec<String> = (0..60).map(|n| format!("2001:db8:{:x}:100::/64", 0x100 + n)).collect();
    site.publish(
        "node2.example.com",
        &flood.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let reported = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let config = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap();
    let held = cidrs(&site.server.store(), GROUP).unwrap().len();
    assert_eq!(
        config["status"]["delegatedPrefixes"],
        json!(["2001:db8:1234:5600::/56"]),
        "the only group holds {held} CIDRs as before, {reported}; {:?}",
        site.events().last()
    );
}

/// The read of the Node and the write of one target hang.
fn labels_and_a_target_hang() {
    let (site, node) = Site::settled(1);
    let list: Vec<Value> = ["a", GROUP]
        .map(|name| json!({"ciliumCIDRGroupName": name, "prefixIds": [0, 1, 2]}))
        .to_vec();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": list}}),
    );
    site.wait_group(
        "a",
        &[
            "2001:db8:1234:5670::/64",
            "2001:db8:1234:5671::/64",
            "2001:db8:1234:5672::/64",
        ],
    );
    site.wait_reason(CONFIG_NAME, "Updated");
    drop(node);
    site.server
        .inject(Plan::on("GET /api/v1/nodes/", usize::MAX, Fault::Hang));
    site.server.inject(Plan::on(
        "PATCH /apis/cilium.io/v2/ciliumcidrgroups/a",
        usize::MAX,
        Fault::Hang,
    ));
    let node = site.run(1);
    site.renumber();
    let reached = site.server.wait(SOON * 2, |store| follows(store, "2001:db8:9876:543"));
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let complaints = node.complaints();
    drop(node);
    assert!(reached.is_some(), "after four minutes: {reported:?}, {complaints:#?}");
}

/// A webhook that never answers is called for each group that comes before the one that works.
fn four_targets_hang_on_write() {
    hang_on_write(4);
}

/// The same with thirty groups, which takes almost three minutes.
fn thirty_targets_hang_on_write() {
    hang_on_write(30);
}

fn hang_on_write(count: usize) {
    let (site, node) = Site::settled(1);
    let names: Vec<String> = (0..count).map(|number| format!("a-{number:02}")).collect();
    let list: Vec<Value> = names
        .iter()
        .map(String::as_str)
        .chain([GROUP])
        .map(|name| json!({"ciliumCIDRGroupName": name, "prefixIds": [0, 1, 2]}))
        .collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": list}}),
    );
    site.wait_group(
        names.last().expect("a name"),
        &[
            "2001:db8:1234:5670::/64",
            "2001:db8:1234:5671::/64",
            "2001:db8:1234:5672::/64",
        ],
    );
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        "PATCH /apis/cilium.io/v2/ciliumcidrgroups/a-",
        usize::MAX,
        Fault::Webhook(SOON),
    ));
    site.renumber();
    let since = Instant::now();
    let reached = site.server.wait(SOON * 2, |store| follows(store, "2001:db8:9876:543"));
    let time = since.elapsed();
    let tried = requests(&site.server.store(), "PATCH /apis/cilium.io/v2/ciliumcidrgroups/a-").len();
    println!("in the group after {time:?} and {tried} writes without an answer");
    assert!(
        reached.is_some(),
        "after {time:?} and {tried} writes that hung: {:#?}",
        node.complaints()
    );
}

/// Such a list does not depend on the prefix, so k6u writes it without one.
fn a_group_of_extra_cidrs_needs_no_prefix() {
    let site = Site::new();
    let group = json!({"ciliumCIDRGroupName": "fixed", "prefixIds": [], "extraCIDRs": ["192.168.0.0/16"]});
    let lan = json!({"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]});
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": [lan, group]}}),
    );
    let _node = site.run(1);
    let reported = site.wait_reason(CONFIG_NAME, "NoPrefix");
    site.wait_rounds(3);
    let held = cidrs(&site.server.store(), "fixed");
    assert_eq!(held, Some(vec!["192.168.0.0/16".to_string()]), "{reported}");
    assert!(site.group(GROUP).is_none(), "it depends on a prefix");
    site.interface.add(ADDRESS);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
}

fn a_group_that_is_reverted_beside_another() {
    let (site, node) = Site::settled(1);
    name_groups(&site, &["second".to_string()]);
    site.wait_group("second", &["2001:db8:1234:5671::/64"]);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        "PATCH /apis/cilium.io/v2/ciliumcidrgroups/",
        usize::MAX,
        Fault::Late(Duration::from_secs(3)),
    ));
    let path = format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
    let tool = ["192.0.2.0/24".to_string()];
    let revert = || {
        if cidrs(&site.server.store(), GROUP).is_some_and(|list| list != tool) {
            site.patch(&path, json!({"spec": {"externalCIDRs": tool}}));
        }
    };
    revert();
    site.renumber();
    let start = Instant::now();
    let is_new = || cidrs(&site.server.store(), "second").is_some_and(|list| list == ["2001:db8:9876:5431::/64"]);
    while start.elapsed() < Duration::from_secs(90) && !is_new() {
        revert();
        std::thread::sleep(Duration::from_millis(50));
    }
    let wrote = |name: &str| {
        requests(
            &site.server.store(),
            &format!("PATCH /apis/cilium.io/v2/ciliumcidrgroups/{name}"),
        )
        .len()
    };
    let reported = ready(&site.server.store(), CONFIG_NAME).unwrap();
    let stored = cidrs(&site.server.store(), "second");
    assert!(
        is_new(),
        "{:?} after the renumbering \"second\" holds {stored:?}; k6u wrote {GROUP} {} times and \"second\" {} times; {reported}",
        start.elapsed(),
        wrote(GROUP),
        wrote("second")
    );
    drop(node);
}
