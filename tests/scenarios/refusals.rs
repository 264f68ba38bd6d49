//! What is refused for one object stays that object's trouble.

use std::time::Duration;

use k6u::kube::Client;
use k6u::resources::crds::{Crds, Deployment};
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::server::{Cilium, cidrs};
use k6u_testkit::apiserver::store::{Key, Mutation, Store};
use k6u_testkit::machine::namespace::Interface;
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::{self, Clockwork, rounds_of_all};
use crate::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, CRDS, GROUP, NEW_ADDRESS, NODE, NODE_CONFIG, NODE_CONFIGS, SOON, Site,
    at_once, follows, name_groups, ready, reasons, refusal, requests,
};
use crate::trio::Trio;

pub const ALL: &[Scenario] = scenarios![
    a_webhook_that_is_down_concerns_its_group_only,
    a_refused_status_of_a_node_config,
    a_refused_status_of_a_config,
    crds_that_cannot_be_updated,
    crds_refused_for_a_moment,
    crds_that_somebody_replaces,
    crds_of_a_newer_release,
    crds_are_tried_again_after_an_hour,
    somebody_deletes_the_crds,
    somebody_deletes_one_crd,
    a_group_that_cilium_manages,
    a_long_message_end_to_end,
    conflicts_for_ever_on_a_target,
    prefixes_that_were_not_written,
    a_prefix_that_was_never_written_is_shown,
    ready_after_a_webhook_was_down,
    conflicts_for_ever_on_a_status,
    conflicts_for_ever_on_a_publication,
    a_read_that_is_refused_for_ever,
    one_target_that_answers_401_or_breaks_off,
    a_webhook_that_changes_what_is_stored,
    a_tool_that_reverts_each_write,
    refusals_in_other_words_each_time,
    an_entry_that_is_not_stored_as_it_was_sent,
    somebody_else_writes_the_entry,
];

const WEBHOOK: &str = "Internal error occurred: failed calling webhook \"guard.example.com\": connection refused";

/// The ways in which admission refuses; none of them is a missing right.
fn refusals(name: &str) -> [Fault; 3] {
    let policy = format!("{name:?} is forbidden: ValidatingAdmissionPolicy 'guard' denied request: not on Fridays");
    [
        refusal(500, "InternalError", WEBHOOK, name),
        refusal(403, "Forbidden", &policy, name),
        refusal(422, "Invalid", &format!("{name:?} is invalid: too long"), name),
    ]
}

fn message(condition: &Value) -> String {
    condition["message"].as_str().unwrap_or_default().to_string()
}

fn a_webhook_that_is_down_concerns_its_group_only() {
    let (site, node) = Site::settled(1);
    // Behind the refused one in the same config, and in a config behind that.
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
    site.interface.add(NEW_ADDRESS);
    site.interface.remove(ADDRESS);
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
    let is_told = |event: &Value| {
        event["reason"] == "UpdateFailed" && event["message"].as_str().is_some_and(|text| text.contains(WEBHOOK))
    };
    let told = |store: &k6u_testkit::apiserver::store::Store| {
        let mut events = store.objects.iter().filter(|(key, _)| key.resource == "events");
        events.find_map(|(_, event)| is_told(event).then_some(()))
    };
    assert!(site.server.wait(SOON, told).is_some(), "{:?}", site.events());
    // Rounds go on; the group is tried less and less often.
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

/// Of two IP6UpdateNodeConfigs of this node, one takes no status.
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
        // What it can publish goes on.
        second.add(NEW_ADDRESS);
        second.remove("2001:db8:1234:5672::10");
        let follows = |store: &_| {
            let held = cidrs(store, GROUP)?;
            held.iter()
                .any(|cidr| cidr.starts_with("2001:db8:9876:543"))
                .then_some(())
        };
        assert!(site.server.wait(SOON, follows).is_some(), "{:#?}", node.log());
        let told = |store: &k6u_testkit::apiserver::store::Store| {
            let mut events = store.objects.iter().filter(|(key, _)| key.resource == "events");
            events.find_map(|(_, event)| (event["reason"] == "PublishFailed").then_some(()))
        };
        assert!(site.server.wait(SOON, told).is_some(), "{:?}", site.events());
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

fn a_refused_status_of_a_config() {
    at_once(refusals(CONFIG_NAME), |refused| {
        let (site, node) = Site::settled(1);
        site.server
            .create(&CONFIG.replace(CONFIG_NAME, "z-config").replace(GROUP, "z-third"));
        site.wait_reason("z-config", "Updated");
        let status = format!("PATCH {CONFIGS}/{CONFIG_NAME}/status");
        site.server.inject(Plan::on(&status, usize::MAX, refused));
        site.interface.add(NEW_ADDRESS);
        site.interface.remove(ADDRESS);
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

fn crds_that_cannot_be_updated() {
    let apply = "PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    let refusals = [
        refusal(400, "BadRequest", "strict decoding error: unknown field", "x"),
        refusal(422, "Invalid", "x is invalid: a rule is too expensive", "x"),
        refusal(403, "Forbidden", "admission webhook \"guard\" denied the request", "x"),
    ];
    at_once(refusals, |refused| {
        let site = Site::with_address(ADDRESS);
        site.server.inject(Plan::on(apply, usize::MAX, refused));
        let node = site.run(1);
        site.wait_lan("2001:db8:1234:567");
        site.wait_reason(CONFIG_NAME, "Updated");
        site.wait_rounds(4);
        let complaints = node.wait_complaints(1);
        assert!(
            complaints[0].contains("CustomResourceDefinitions: they are served, but"),
            "{complaints:?}"
        );
        assert_eq!(requests(&site.server.store(), apply).len(), 1, "once an hour");
        // Another version of k6u tries at once.
        drop(node);
        site.server.heal();
        let node = site.run(1);
        node.wait_log("the CRDs of this release are deployed", SOON);
    });
    // Where they are not served, nothing goes.
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.server
        .inject(Plan::on(apply, 2, refusal(500, "InternalError", WEBHOOK, "x")));
    let node = site.run(1);
    node.wait_log("API server: PATCH /apis/apiextensions.k8s.io/", SOON);
    node.wait_log("API server: recovered", SOON);
}

/// ONE refusal that passes by itself must not keep 0.3's CRDs for an hour: their schema drops what is published.
fn crds_refused_for_a_moment() {
    let apply = "PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    for fault in [
        refusal(429, "TooManyRequests", "too many requests", "x"),
        refusal(500, "InternalError", WEBHOOK, "x"),
        refusal(503, "ServiceUnavailable", "shutting down", "x"),
        refusal(504, "Timeout", "context deadline exceeded", "x"),
        Fault::CutAt(0),
    ] {
        let site = Site::bare("127.0.0.1", Some(Cilium::Both));
        site.server
            .apply_crds(include_str!("../data/crds-0.3.yaml"), "update_crds");
        site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
        site.server.create(CONFIG);
        site.interface.add(ADDRESS);
        site.server.inject(Plan::on(apply, 1, fault.clone()));
        let mut node = Clockwork::of(&site, NODE, Duration::from_secs(1));
        node.run(Duration::from_secs(60));
        assert_eq!(
            node.count("the CRDs of this release are deployed"),
            1,
            "{:#?}",
            node.log()
        );
        node.run(Duration::from_secs(70));
        site.wait_lan("2001:db8:1234:567");
        site.wait_reason(CONFIG_NAME, "Updated");
        let published = requests(&site.server.store(), &format!("PATCH {NODE_CONFIGS}/")).len();
        assert!(published <= 10, "{published} publications: {fault:?}");
    }
}

fn crds_of(site: &Site) -> (Client, Crds) {
    let mut client = Client::new(format!("https://{}", site.server.address), site.account.folder.clone());
    client.read_account().unwrap();
    (client, Crds::default())
}

fn crd(site: &Site) -> Value {
    let name = "ip6updateconfigs.apps.fuwafuwatime.moe";
    site.object("apiextensions.k8s.io", "customresourcedefinitions", name)
        .expect("the CRD")
}

/// What is not stored as it was sent makes them suspect; then they are applied again, once a minute.
fn crds_that_somebody_replaces() {
    let site = Site::new();
    let (mut client, mut crds) = crds_of(&site);
    let mut deploy = |crds: &mut Crds, seconds| crds.deploy(&mut client, Duration::from_secs(seconds), 1.0).unwrap();
    assert_eq!(deploy(&mut crds, 100), Deployment::Established);
    let ours = crd(&site)["spec"].clone();
    let older = include_str!("../data/crds-0.3.yaml");
    site.server.apply_crds(older, "update_crds");
    assert_ne!(crd(&site)["spec"], ours);
    assert_eq!(deploy(&mut crds, 1000), Deployment::Unchanged, "nothing seems wrong");
    crds.suspect();
    assert_eq!(deploy(&mut crds, 1000), Deployment::Established);
    assert_eq!(crd(&site)["spec"]["versions"], ours["versions"]);
    site.server.apply_crds(older, "update_crds");
    crds.suspect();
    assert_eq!(deploy(&mut crds, 1059), Deployment::Unchanged, "once a minute");
    assert_eq!(deploy(&mut crds, 1060), Deployment::Established);
    assert_eq!(crd(&site)["spec"]["versions"], ours["versions"]);
    assert_eq!(deploy(&mut crds, 2000), Deployment::Unchanged, "that was it");
}

/// A pod of an older release that starts again, in the middle of an upgrade or after it.
fn crds_of_a_newer_release() {
    let site = Site::with_address(ADDRESS);
    let release = format!("apps.fuwafuwatime.moe/release: {:?}", env!("CARGO_PKG_VERSION"));
    assert_eq!(CRDS.matches(&release).count(), 2);
    let newer = CRDS
        .replace(&release, "apps.fuwafuwatime.moe/release: \"1000.0.0\"")
        .replace(
            "description: The reason in one word.",
            "description: Of a newer release.",
        );
    site.server.apply_crds(&newer, "k6u");
    let before = crd(&site);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_rounds(3);
    assert_eq!(crd(&site), before);
    assert_eq!(
        node.count("is of k6u 1000.0.0, newer than this one"),
        2,
        "once for each"
    );
    assert_eq!(node.complaints(), [""; 0]);
    let apply = "PATCH /apis/apiextensions.k8s.io/";
    assert_eq!(requests(&site.server.store(), apply), [""; 0]);
    drop(node);
    // An older one, or one without such an annotation, is replaced.
    for older in [&release.replace(env!("CARGO_PKG_VERSION"), "0.3.9"), "x: y"] {
        site.server.apply_crds(
            &newer.replace("apps.fuwafuwatime.moe/release: \"1000.0.0\"", older),
            "k6u",
        );
        let (mut client, mut crds) = crds_of(&site);
        assert_eq!(
            crds.deploy(&mut client, Duration::ZERO, 1.0),
            Ok(Deployment::Established)
        );
        let text = crd(&site).to_string();
        assert!(
            text.contains("The reason in one word.") && !text.contains("Of a newer release."),
            "{older}"
        );
        assert_eq!(
            crd(&site)["metadata"]["annotations"]["apps.fuwafuwatime.moe/release"],
            env!("CARGO_PKG_VERSION")
        );
    }
}

/// The scenario's hour is a number: k6u's own reckoning takes the time as an argument.
fn crds_are_tried_again_after_an_hour() {
    let site = Site::new();
    let apply = "PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    site.server
        .inject(Plan::on(apply, 1, refusal(422, "Invalid", "x is invalid", "x")));
    let mut client = Client::new(format!("https://{}", site.server.address), site.account.folder.clone());
    client.read_account().unwrap();
    let mut crds = Crds::default();
    let mut deploy = |seconds| crds.deploy(&mut client, Duration::from_secs(seconds), 1.0).unwrap();
    let first = deploy(100);
    assert!(
        matches!(&first, Deployment::Served(why) if why.contains("x is invalid")),
        "{first:?}"
    );
    assert_eq!(deploy(100 + 3599), Deployment::Unchanged);
    assert_eq!(deploy(100 + 3600), Deployment::Established);
    assert_eq!(deploy(100 + 7200), Deployment::Unchanged);
    let applied = requests(&site.server.store(), apply).len();
    assert_eq!(applied, 1 + 2, "one that was refused, and both");
}

fn somebody_deletes_the_crds() {
    let (site, node) = Site::settled(1);
    // A node that is new takes nothing out of a list for a while, and longer if rounds fail meanwhile.
    site.wait_rounds(4);
    site.server
        .store()
        .objects
        .retain(|key, _| !key.group.contains("fuwafuwatime") && !key.name.contains("fuwafuwatime"));
    node.wait_log("all IP6UpdateConfigs and IP6UpdateNodeConfigs went with them", SOON);
    node.wait_log("CustomResourceDefinitions: recovered", SOON);
    site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
    site.server.create(CONFIG);
    site.interface.add(NEW_ADDRESS);
    site.interface.remove(ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    // That there is no node config yet may be a complaint as well.
    let mut complaints = node.complaints();
    complaints.retain(|line| !line.contains("NoPrefix"));
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(complaints[0].contains(": 404 page not found"), "{complaints:?}");
}

fn somebody_deletes_one_crd() {
    let (site, node) = Site::settled(1);
    site.server
        .store()
        .objects
        .retain(|key, _| key.resource != "ip6updateconfigs" && !key.name.starts_with("ip6updateconfigs."));
    node.wait_log("all IP6UpdateConfigs went with them", SOON);
    node.wait_log("CustomResourceDefinitions: recovered", SOON);
    site.server.create(CONFIG);
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_complaints(1);
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
    // Somebody took it from Cilium.
    site.patch(&path, json!({"metadata": {"labels": {label: null}}}));
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
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

fn conflicts_for_ever_on_a_target() {
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
    let told = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    assert!(
        told["message"].as_str().is_some_and(|text| text.contains("locked")),
        "{told}"
    );
    node.wait_log("CiliumCIDRGroup ip6-local-lan: PATCH ", SOON);
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
        "what the node sees"
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

/// A webhook was down while the provider renumbered; it is back, and the group is right.
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
fn conflicts_for_ever_on_a_status() {
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
    site.interface.add(NEW_ADDRESS);
    site.interface.remove(ADDRESS);
    node.run(Duration::from_secs(60));
    site.wait_lan("2001:db8:9876:543");
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
    site.interface.add(NEW_ADDRESS);
    site.interface.remove(ADDRESS);
    node.run(Duration::from_secs(90));
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

/// "A request that is refused for one object is [...] tried again after a pause that doubles, up to a minute."
fn a_read_that_is_refused_for_ever() {
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

/// Such as an aggregated API that does not accept the front proxy, a webhook whose status.code is 401, or a proxy that
/// closes the connection: the other group follows, the config says which object fails, and rounds go on.
fn one_target_that_answers_401_or_breaks_off() {
    let faults = [refusal(401, "Unauthorized", "Unauthorized", "a"), Fault::CutBodyAt(20)];
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
        let told = ready(&site.server.store(), CONFIG_NAME);
        assert!(
            reached.is_some(),
            "{fault:?} to {line}: {told:?}, {:#?}",
            node.complaints()
        );
        // A write that is carried out though its answer breaks off is found right by the next read.
        if verb == "GET" || matches!(fault, Fault::Answer(_)) {
            let told = site.wait_reason(CONFIG_NAME, "UpdateFailed");
            assert!(message(&told).starts_with("CiliumCIDRGroup a: "), "{told}");
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

/// A policy engine that takes out what k6u writes, or adds something of its own.
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
        let told = ready(&site.server.store(), CONFIG_NAME).unwrap();
        let held = cidrs(&site.server.store(), GROUP);
        let reported = reasons(&site.server.store(), CONFIG_NAME);
        assert!(
            told["status"] == "False" && message(&told).contains("an admission webhook or policy changes it"),
            "{what}: {written} writes in 20 rounds, the group holds {held:?}: {told}"
        );
        assert!(message(&told).contains("docs/gitops.md"), "{told}");
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

/// GitOps that has another list in its repository.
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
    let told = ready(&site.server.store(), CONFIG_NAME).unwrap();
    assert!(
        told["status"] == "False" && message(&told).contains("somebody else changed it 3 times within ten minutes"),
        "{told}"
    );
    assert!(message(&told).contains("docs/gitops.md"), "{told}");
    site.wait_rounds(10);
    let failed = site
        .events()
        .iter()
        .filter(|(reason, _)| reason == "UpdateFailed")
        .count();
    assert_eq!(failed, 1, "{:?}", site.events());
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
}

/// Three nodes meet a webhook whose error has a port in it that differs each time.
fn refusals_in_other_words_each_time() {
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

/// A webhook drops a field of an entry; or somebody replaces the CRDs by those of 0.3, which have none of it.
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
        let told = ready(&site.server.store(), CONFIG_NAME).unwrap();
        let log = node.complaints();
        assert!(count <= 2, "{what}: {count} publications in {time:?}: {told}, {log:#?}");
        assert!(
            log.iter().any(|line| line.contains("is not stored as it was sent")),
            "{what}: {told}, {log:#?}"
        );
        assert!(
            told["status"] == "False" && message(&told).contains("k6u crds prints them"),
            "{what}: {told}"
        );
    });
}

/// Two machines run k6u with one NODE_NAME.
fn somebody_else_writes_the_entry() {
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
    let told = ready(&site.server.store(), CONFIG_NAME).unwrap();
    let log = node.complaints();
    assert!(
        written <= 2,
        "{written} publications in {:?}: {told}, {log:#?}",
        since.elapsed()
    );
    let warning = format!("check that no other machine runs k6u with NODE_NAME {NODE}");
    assert!(log.iter().any(|line| line.contains(&warning)), "{told}, {log:#?}");
    assert!(message(&told).contains(&warning), "{told}");
}
