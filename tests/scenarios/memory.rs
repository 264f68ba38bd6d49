//! Memory: large answers and objects, many addresses and entries.

use std::fs;

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::machine::node::Node;
use k6u_testkit::site::{ADDRESS, CONFIG_NAME, CONFIGS, GROUP, NODE, NODE_CONFIGS, SOON, Site, at_once, binary, ready};
use serde_json::{Map, Value, json};

use crate::{Scenario, boards};

pub const ALL: &[Scenario] = scenarios![
    answers_that_are_too_large,
    answers_that_fill_the_memory,
    large_objects_that_fit,
    an_interface_with_two_thousand_addresses,
    twelve_hundred_entries,
    the_maximum_of_prefixes_groups_and_ids,
];

/// Scenarios that take the whole machine: they run last, one by one.
pub const ALONE: &[&str] = &[
    "answers_that_are_too_large",
    "large_objects_that_fit",
    "an_interface_with_two_thousand_addresses",
    "twelve_hundred_entries",
    "the_maximum_of_prefixes_groups_and_ids",
];

/// The peak of k6u's resident memory, in KiB.
pub fn peak(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The pod's limit, in KiB. This binary is not the stripped one of the image, so its own size is added.
pub fn limit() -> u64 {
    16 * 1024 + fs::metadata(binary()).expect("the binary").len() / 1024
}

/// Whether k6u is built without optimisation or runs on an emulated processor. Answers are smaller then, because a
/// request has ten seconds. The binary in `K6U_BIN` is a release build.
fn is_slow() -> bool {
    cfg!(debug_assertions) && std::env::var_os("K6U_BIN").is_none() || boards::is_emulated()
}

/// How many CIDRs or managedFields a large object has: as many as fit into the 1.5 MiB that etcd takes.
fn large() -> usize {
    if is_slow() { 10_000 } else { 50_000 }
}

fn answers_that_are_too_large() {
    let deep = format!("{{\"items\":{}{}}}", "[".repeat(600_000), "]".repeat(600_000));
    let too_long = "ip6updateconfigs: unexpected response: it is longer than 4 MiB";
    for (complaint, fault) in [
        (
            "ip6updateconfigs: unexpected response: it is nested in more than 524288 levels",
            Fault::Answer(Response::new(200, "application/json", deep)),
        ),
        (too_long, Fault::Endless(b"[".repeat(16_384))),
        (too_long, Fault::Endless(b" ".repeat(16_384))),
    ] {
        let (site, node) = Site::settled(1);
        site.server
            .inject(Plan::on(&format!("GET {CONFIGS}"), usize::MAX, fault));
        node.wait_log(complaint, SOON);
        assert!(peak(&node) < limit(), "{complaint}: {} KiB", peak(&node));
        site.server.heal();
        node.wait_log("recovered after", SOON);
        assert_eq!(site.group_history(GROUP).len(), 1);
    }
}

/// Answers of nearly 4 MiB: k6u keeps little of them, or reports an error.
fn answers_that_fill_the_memory() {
    let size = 4_000_000;
    let repeated = |item: &str| {
        format!(
            r#"{{"items":[{item}{}]}}"#,
            format!(",{item}").repeat(size / (item.len() + 1))
        )
    };
    let name = |n: usize| format!(r#"{{"metadata":{{"name":"{n}"}},"spec":{{"targets":[{{"kind":"X"}}]}}}}"#);
    let named: Vec<String> = (0..size / 100).map(name).collect();
    let texts = |count: usize| vec![format!("\"{}\"", "x".repeat(size / count)); count].join(",");
    for (what, body) in [
        ("objects without anything", repeated(r#"{"metadata":{}}"#)),
        ("no objects", repeated("0")),
        ("objects", format!(r#"{{"items":[{}]}}"#, named.join(","))),
        (
            "maps",
            repeated(r#"{"spec":{"a":{"b":{"c":{}}}},"status":{"nodes":{"a":{}}}}"#),
        ),
        (
            "one spec",
            format!(
                r#"{{"items":[{{"metadata":{{"name":"a"}},"spec":{{"targets":[{}1]}}}}]}}"#,
                "1,".repeat(size / 2)
            ),
        ),
        (
            "one text",
            format!(r#"{{"items":[{{"metadata":{{"name":{}}}}}]}}"#, texts(1)),
        ),
        ("one key", format!(r#"{{"items":[{{"spec":{{{}:1}}}}]}}"#, texts(1))),
        (
            "texts",
            format!(
                r#"{{"items":[{{"metadata":{{"name":"a"}},"spec":[{}]}}]}}"#,
                texts(1000)
            ),
        ),
        (
            "nesting",
            format!(r#"{{"x":{}{},"items":[]}}"#, "[".repeat(size / 2), "]".repeat(size / 2)),
        ),
        (
            "lists",
            format!(
                r#"{{"items":[{{"metadata":{{"name":"a"}},"spec":[{}1]}}]}}"#,
                "[1],".repeat(size / 4)
            ),
        ),
        (
            "escapes",
            format!(
                r#"{{"items":[{{"metadata":{{"name":"{}"}}}}]}}"#,
                r"\u0000".repeat(size / 6)
            ),
        ),
        ("too long", repeated(&"x ".repeat(size))),
    ] {
        at_once([CONFIGS, NODE_CONFIGS], |list| {
            let (site, node) = Site::settled(1);
            let before = peak(&node);
            let answer = Fault::Answer(Response::new(200, "application/json", body.clone()));
            site.server.inject(Plan::on(&format!("GET {list}"), 1, answer));
            site.wait_rounds(3);
            let (grown, max) = (peak(&node) - before, 8 * 1024);
            println!("{what} in {list}: {} KiB, {grown} KiB more", peak(&node));
            assert!(grown < max, "{what} in {list}: {grown} KiB more than {before} KiB");
        });
    }
}

fn large_objects_that_fit() {
    let (site, node) = Site::settled(1);
    // A group with this many foreign CIDRs is overwritten.
    let cidrs: Vec<String> = (0..large())
        .map(|n| format!("2001:db8:{:x}:{:x}::/64", n / 65536, n % 65536))
        .collect();
    site.patch(
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        json!({"spec": {"externalCIDRs": cidrs}}),
    );
    site.wait_lan("2001:db8:1234:567");
    // Megabytes of managedFields are skipped.
    let fields: Vec<Value> = (0..large() / 2)
        .map(
            |n| json!({"manager": format!("m{n}"), "fieldsV1": {"f:spec": {"f:x": {}}, "y": n, "pad": "x".repeat(40)}}),
        )
        .collect();
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME);
    let mut config = site.server.store().objects[&key].clone();
    config["metadata"]["managedFields"] = json!(fields);
    site.server.store().put(key, config);
    site.wait_rounds(2);
    node.wait_log("DEBUG round: 3 requests", SOON);
    assert!(peak(&node) < limit(), "{} KiB", peak(&node));
    assert_eq!(node.complaints(), [""; 0]);
}

fn an_interface_with_two_thousand_addresses() {
    let (site, node) = Site::settled(1);
    for number in 0..2000 {
        site.interface.add(&format!("2001:db8:9876:5431::{number:x}"));
    }
    site.interface.remove(ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_rounds(2);
    assert_eq!(node.complaints(), [""; 0]);
    assert!(peak(&node) < limit(), "{} KiB", peak(&node));
}

fn twelve_hundred_entries() {
    let site = Site::with_address(ADDRESS);
    let entry = |n: usize| {
        let deprecated: Vec<String> = (0..16)
            .map(|at| format!("2001:db8:{:x}:{n:x}::/64 left out: deprecated", 0x2000 + at))
            .collect();
        let entry = json!({"prefixes": ["2001:db8:1234:5672::/64"],
            "observedTime": "2026-11-24T00:00:00Z", "message": deprecated.join("; ")});
        (format!("other{n}.example.com"), entry)
    };
    // On a busy emulated processor a list of 1200 entries takes more than ten seconds.
    let count = if boards::is_emulated() { 120 } else { 1200 };
    let others: Map<String, Value> = (0..count).map(entry).collect();
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1/status"),
        json!({"status": {"nodes": others}}),
    );
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    // All the others still see the old prefix.
    site.renumber();
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(site.server.wait(SOON, both).is_some(), "the group does not follow");
    assert!(peak(&node) < limit(), "{} KiB", peak(&node));
    assert_eq!(node.complaints(), [""; 0]);
}

/// 262,144 CIDRs in all, and in each group as many as k6u writes: they fit into the memory of the pod, or Ready names
/// the groups that have no room.
fn the_maximum_of_prefixes_groups_and_ids() {
    let (site, node) = Site::settled(1);
    let before = peak(&node);
    let flood: Vec<String> = (0..63).map(|n| format!("2001:db8:{:x}:100::/64", 0x100 + n)).collect();
    site.publish(
        "node2.example.com",
        &flood.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let ids: Vec<u64> = (0..256).collect();
    let groups: Vec<Value> = (0..16)
        .map(|n| json!({"ciliumCIDRGroupName": format!("group-{n}"), "prefixIds": ids}))
        .collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"delegatedPrefixLength": 56, "ciliumCIDRGroups": groups}}),
    );
    let is_full = |store: &Store| {
        let held = |n: usize| cidrs(store, &format!("group-{n}"));
        (0..16).all(|n| held(n).is_some_and(|held| held.len() == 16_384))
    };
    let is_refused = |store: &Store| ready(store, CONFIG_NAME).is_some_and(|ready| ready["status"] == "False");
    let reached = site
        .server
        .wait(SOON, |store| (is_full(store) || is_refused(store)).then_some(()));
    site.wait_rounds(4);
    let grown = peak(&node) - before;
    println!("{} KiB, {grown} KiB more", peak(&node));
    let reported = ready(&site.server.store(), CONFIG_NAME);
    assert!(grown < 8 * 1024, "{grown} KiB more: {reported:?}");
    assert!(reached.is_some(), "{reported:?}, {:#?}", node.complaints());
}
