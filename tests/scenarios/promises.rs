//! Promises of the documentation, each of which was broken once.

use std::time::{Duration, Instant};

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::kinds::KINDS;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::{Key, Store};
use serde_json::{Map, Value, json};

use crate::Scenario;
use crate::site::{
    CONFIG, CONFIG_NAME, CONFIGS, GROUP, NODE, NODE_CONFIG, NODE_CONFIGS, Running, SOON, Site, ready, requests,
};
use crate::trio::Trio;

pub const ALL: &[Scenario] = scenarios![
    ready_after_a_webhook_was_down,
    a_stale_message_of_an_idle_node,
    once_without_the_right_to_nodes,
    conflicts_for_ever_on_a_status,
    conflicts_for_ever_on_a_publication,
    a_read_that_asks_for_rest,
    a_read_that_is_refused_for_ever,
    an_oversized_group_is_not_written_for_a_prefix,
    a_change_whose_second_list_fails,
    a_single_node_that_cannot_publish_restores_its_group,
    events_that_hang,
    labels_and_a_target_hang,
    two_node_configs_hang,
    a_list_with_control_characters,
    made_anew_between_the_two_looks,
    made_anew_just_before_a_publication,
];

const OLD: &str = "2001:db8:1234:5671::10";
const NEW: &str = "2001:db8:9876:5431::10";
const MINUTE: Duration = Duration::from_secs(60);

fn refusal(status: u16, reason: &str, message: &str, name: &str) -> Fault {
    let body = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": status, "message": message,
        "details": {"name": name}});
    Fault::Answer(Response::new(status, "application/json", body.to_string()))
}

fn follows(store: &Store, start: &str) -> Option<()> {
    cidrs(store, GROUP)?
        .iter()
        .any(|cidr| cidr.starts_with(start))
        .then_some(())
}

/// The reasons of Ready that were ever stored, each time that one was another than before.
fn reasons(store: &Store, config: &str) -> Vec<String> {
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", config);
    let mut reasons: Vec<String> = store
        .history
        .iter()
        .filter(|past| past.key == key)
        .filter_map(|past| past.object.as_ref())
        .filter_map(|object| Some(object["status"]["conditions"][0]["reason"].as_str()?.to_string()))
        .collect();
    reasons.dedup();
    reasons
}

/// A webhook was down while the provider renumbered; it is back, and the group is right.
fn ready_after_a_webhook_was_down() {
    let trio = Trio::start(1);
    let site = &trio.site;
    site.server.inject(Plan::on(
        "PATCH /apis/cilium.io",
        usize::MAX,
        refusal(500, "InternalError", "failed calling webhook", GROUP),
    ));
    trio.renumber("2001:db8:1234:567", "2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    std::thread::sleep(Duration::from_secs(25));
    site.server.heal();
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    let before = reasons(&site.server.store(), CONFIG_NAME).len();
    let events = site.events().len();
    site.wait_rounds(90);
    let after = reasons(&site.server.store(), CONFIG_NAME).split_off(before - 1);
    let events = site.events().len() - events;
    assert_eq!(
        after,
        ["Updated"],
        "Ready in 30 rounds after the group was right; {events} Events"
    );
}

/// The config comes first, then the node config with a typing error in its nodeSelector.
fn a_stale_message_of_an_idle_node() {
    let site = Site::bare("127.0.0.1", Some(k6u_testkit::apiserver::server::Cilium::Both));
    site.interface.add(OLD);
    site.server.apply_crds(crate::site::CRDS, "k6u");
    site.server.create(CONFIG);
    let _node = site.run(1);
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
    site.wait_rounds(15);
    let told = ready(&site.server.store(), CONFIG_NAME).unwrap();
    assert!(
        told["message"].as_str().unwrap().contains("ip6-update-node1"),
        "15 rounds later: {told}"
    );
}

fn run_once(site: &Site, node: &str) -> (Option<i32>, String) {
    let output = site
        .start()
        .with("NODE_NAME", node)
        .with("RUST_LOG", "info")
        .arguments(&["once"])
        .command()
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn once_without_the_right_to_nodes() {
    let site = Site::with_address(OLD);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.revoke("get", "nodes");
    let (status, stderr) = run_once(&site, NODE);
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(status, Some(0), "every config is Ready: {stderr}");
}

/// "One line for a failure."
fn conflicts_for_ever_on_a_status() {
    let (site, node) = Site::settled(1);
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
    site.interface.add(NEW);
    site.interface.remove(OLD);
    site.wait_lan("2001:db8:9876:543");
    site.wait_rounds(60);
    let tried = requests(&site.server.store(), &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status")).len();
    let complaints = node.complaints();
    let told = ready(&site.server.store(), CONFIG_NAME);
    drop(node);
    assert!(
        !complaints.is_empty(),
        "refused {tried} times, and no line says so: {told:?}"
    );
}

fn conflicts_for_ever_on_a_publication() {
    let (site, node) = Site::settled(1);
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
    site.interface.add(NEW);
    site.interface.remove(OLD);
    site.wait_rounds(90);
    let tried = requests(&site.server.store(), &format!("PATCH {NODE_CONFIGS}/")).len();
    let complaints = node.complaints();
    let told = ready(&site.server.store(), CONFIG_NAME);
    let held = cidrs(&site.server.store(), GROUP);
    let events = site.events();
    drop(node);
    assert!(
        !complaints.is_empty() || told.as_ref().is_some_and(|told| told["status"] != "True"),
        "refused {tried} times, the group holds {held:?}, and nobody is told: {told:?} {events:?}"
    );
}

/// "429 and 5xx: honour Retry-After, back off with jitter up to a minute."
fn a_read_that_asks_for_rest() {
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

/// "A request that is refused for one object is [...] tried again after a pause that doubles, up to a minute."
fn a_read_that_is_refused_for_ever() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.revoke("get", "ciliumcidrgroups");
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let asked = || requests(&site.server.store(), "GET /apis/cilium.io/v2/ciliumcidrgroups/").len();
    let before = asked();
    site.wait_rounds(30);
    let again = asked() - before;
    drop(node);
    assert!(again <= 8, "asked {again} times in 30 rounds");
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
    let told = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let config = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap();
    let held = cidrs(&site.server.store(), GROUP).unwrap().len();
    assert_eq!(
        config["status"]["prefix"],
        "2001:db8:1234:5600::/56",
        "the only group holds {held} CIDRs as before, {told}; {:?}",
        site.events().last()
    );
}

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
    site.interface.add(NEW);
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

/// "An entry counts as long as it is there"; "it checks every ten seconds, and restores a group".
fn a_single_node_that_cannot_publish_restores_its_group() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/ip6-update-node1/status"),
        usize::MAX,
        refusal(500, "InternalError", "failed calling webhook", "ip6-update-node1"),
    ));
    site.interface.add(NEW);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.patch(
        &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        json!({"spec": {"externalCIDRs": ["2001:db8:dead::/64"]}}),
    );
    site.wait_rounds(60);
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
    site.interface.add(NEW);
    site.interface.remove(OLD);
    site.wait_lan("2001:db8:9876:543");
    let hung = |store: &Store| (requests(store, "POST /api/v1/namespaces/default/events").len() >= 12).then_some(());
    let _ = site.server.wait(Duration::from_secs(5), hung);
    // While it waits for Events, the prefix changes once more.
    site.interface.add("2001:db8:aaaa:bbb1::10");
    let since = Instant::now();
    let reached = site
        .server
        .wait(MINUTE * 2, |store| follows(store, "2001:db8:aaaa:bbb"));
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

/// The Node cannot be read, and one target cannot be written: both hang.
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
    site.interface.add(NEW);
    site.interface.remove(OLD);
    let reached = site
        .server
        .wait(MINUTE * 4, |store| follows(store, "2001:db8:9876:543"));
    let told = ready(&site.server.store(), CONFIG_NAME);
    let complaints = node.complaints();
    drop(node);
    assert!(reached.is_some(), "after four minutes: {told:?}, {complaints:#?}");
}

/// "What may hang is not tried in a round in which something hung already."
fn two_node_configs_hang() {
    let site = Site::with_address(OLD);
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
    site.interface.add(NEW);
    site.interface.remove(OLD);
    let reached = site
        .server
        .wait(MINUTE * 4, |store| follows(store, "2001:db8:9876:543"));
    let tried: usize = sent().iter().sum::<usize>() - before.iter().sum::<usize>();
    let complaints = node.complaints();
    drop(node);
    assert!(
        reached.is_some() && tried <= 5,
        "{tried} publications hung before the third node config got its own: {complaints:#?}"
    );
}

/// "Control characters in the server's messages do not reach the log."
fn a_list_with_control_characters() {
    let kind = KINDS.into_iter().find(|kind| kind.name == "GlobalNetworkSet").unwrap();
    let site = Site::with_address(OLD);
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
    site.wait_reason(CONFIG_NAME, "Updated");
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

const OTHER: &str = "node2.example.com";
const OTHERS: [&str; 1] = ["2001:db8:aaaa:bbb1::/64"];

/// Another node has published another prefix, and the group holds both.
fn two_sites() -> (Site, Running) {
    let (site, node) = Site::settled(10);
    site.publish(OTHER, &OTHERS);
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(site.server.wait(SOON, both).is_some());
    site.wait_reason(CONFIG_NAME, "Updated");
    (site, node)
}

/// "A node whose own entry is missing only adds to lists for an interval and a quarter."
fn made_anew_between_the_two_looks() {
    let (site, node) = two_sites();
    // Somebody adds a CIDR; k6u reads the group, and its answer is slow.
    let path = format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
    let mut more = cidrs(&site.server.store(), GROUP).unwrap();
    more.push("2001:db8:dead::/64".into());
    site.patch(&path, json!({"spec": {"externalCIDRs": more}}));
    let read = site.hold(&format!("GET {path}"));
    read.wait();
    // Meanwhile the IP6UpdateNodeConfig is made anew, and node 2 is the first to be back.
    site.make_node_config_anew();
    site.publish(OTHER, &OTHERS);
    let written = site.group_history(GROUP).len();
    read.release();
    let deadline = Instant::now() + Duration::from_secs(8);
    while site.group_history(GROUP).len() == written && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
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
    let (site, node) = two_sites();
    // The answer to its first list is under way while the IP6UpdateNodeConfig is made anew.
    let list = site.hold(&format!("GET {NODE_CONFIGS}"));
    list.wait();
    site.make_node_config_anew();
    // Another link of the same delegated prefix: something to publish, which changes no list.
    site.interface.add("2001:db8:1234:5672::10");
    let written = site.group_history(GROUP).len();
    let before = requests(&site.server.store(), "").len();
    list.release();
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
    assert!(site.server.wait(SOON, has_looked).is_some());
    site.publish(OTHER, &OTHERS);
    site.wait_rounds(3);
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
