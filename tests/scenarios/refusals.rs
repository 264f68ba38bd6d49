//! What is refused for one object stays that object's trouble.

use std::time::Duration;

use k6u::kube::Client;
use k6u::resources::crds::{Crds, Deployment};
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::server::{Cilium, cidrs};
use k6u_testkit::machine::namespace::Interface;
use serde_json::{Value, json};

use crate::Scenario;
use crate::site::{CONFIG, CONFIG_NAME, CONFIGS, CRDS, GROUP, NODE_CONFIG, NODE_CONFIGS, SOON, Site, ready, requests};

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
    a_group_that_cilium_manages
];

const OLD: &str = "2001:db8:1234:5671::10";
const NEW: &str = "2001:db8:9876:5431::10";
const WEBHOOK: &str = "Internal error occurred: failed calling webhook \"guard.example.com\": connection refused";

/// What an API server answers that refuses something about one object.
fn refusal(status: u16, reason: &str, message: &str, name: &str) -> Fault {
    let body = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": status, "message": message,
        "details": {"name": name}});
    Fault::Answer(Response::new(status, "application/json", body.to_string()))
}

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
    site.interface.add(NEW);
    site.interface.remove(OLD);
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
    for refused in refusals("ip6-update-node1") {
        let site = Site::with_address(OLD);
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
        second.add(NEW);
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
    }
}

fn a_refused_status_of_a_config() {
    for refused in refusals(CONFIG_NAME) {
        let (site, node) = Site::settled(1);
        site.server
            .create(&CONFIG.replace(CONFIG_NAME, "z-config").replace(GROUP, "z-third"));
        site.wait_reason("z-config", "Updated");
        let status = format!("PATCH {CONFIGS}/{CONFIG_NAME}/status");
        site.server.inject(Plan::on(&status, usize::MAX, refused));
        site.interface.add(NEW);
        site.interface.remove(OLD);
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
    }
}

fn crds_that_cannot_be_updated() {
    let apply = "PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    for refused in [
        refusal(400, "BadRequest", "strict decoding error: unknown field", "x"),
        refusal(422, "Invalid", "x is invalid: a rule is too expensive", "x"),
        refusal(403, "Forbidden", "admission webhook \"guard\" denied the request", "x"),
    ] {
        let site = Site::with_address(OLD);
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
    }
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
        site.interface.add(OLD);
        site.server.inject(Plan::on(apply, 1, fault.clone()));
        let node = site.run(1);
        node.wait_log("the CRDs of this release are deployed", Duration::from_secs(60));
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
    let site = Site::with_address(OLD);
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
    site.interface.add(NEW);
    site.interface.remove(OLD);
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
    let site = Site::with_address(OLD);
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
