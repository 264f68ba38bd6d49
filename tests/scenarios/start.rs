//! Starting: on an empty cluster, on one that was used before, after an older release.

use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::Cilium;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::cidrs_for;
use serde_json::{Value, json};

use crate::Scenario;
use crate::site::{
    CONFIG, CONFIG_NAME, CONFIGS, CRDS, GROUP, NODE, NODE_CONFIG, NODE_CONFIGS, SOON, Site, ready, requests,
};

pub const ALL: &[Scenario] = scenarios![
    first_start_on_an_empty_cluster,
    as_the_daemonset_runs_it,
    a_group_that_held_something_else,
    objects_that_are_applied_later,
    a_group_that_is_right_gets_no_write,
    crd_rights_missing_but_crds_installed,
    crd_rights_missing_and_no_crds,
    upgrade_from_0_3,
    an_idle_round_costs_three_requests_and_no_write
];

fn first_start_on_an_empty_cluster() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    {
        let mut store = site.server.store();
        store.establish_after = Duration::from_millis(300);
        store.initialize_for = SOON;
    }
    site.interface.add("2001:db8:1234:5671::10");
    let node = site.run(1);
    node.wait_log("the CRDs of this release are deployed", SOON);
    let busy = |store: &Store| store.log.iter().any(|logged| logged.status == 429).then_some(());
    assert!(
        site.server.wait(SOON, busy).is_some(),
        "the server was not even asked while it was busy"
    );
    site.server.store().initialize_for = Duration::ZERO;
    node.wait_log("no IP6UpdateNodeConfig selects node node1.example.com", SOON);
    site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
    node.wait_log("an IP6UpdateNodeConfig selects node node1.example.com now", SOON);
    site.server.create(CONFIG);
    site.wait_lan("2001:db8:1234:567");
    let condition = site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(condition["status"], "True");
    // An API that is being set up is no trouble worth a word.
    assert_eq!(node.complaints(), [""; 0]);
    node.wait_log(
        "IP6UpdateConfig ip6-update-config is Ready: 1 target up to date with",
        SOON,
    );
}

fn as_the_daemonset_runs_it() {
    let site = Site::with_address("2001:db8:1234:5671::10");
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
    assert_eq!(entry.get("message"), None, "there is nothing to say");
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

fn a_group_that_held_something_else() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.create_group(GROUP, &["192.0.2.0/24", "2001:db8:bad::/48"]);
    let _node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    let history = site.group_history(GROUP);
    assert_eq!(history.len(), 2, "the first write is the right list: {history:?}");
    // docs/cilium.md says how to label it.
    assert_eq!(site.group(GROUP).unwrap()["metadata"]["labels"], Value::Null);
}

/// The first round that reads an object does all that follows from it, and the next one would come an interval later.
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
    let site = Site::with_address("2001:db8:1234:5671::10");
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

fn crd_rights_missing_but_crds_installed() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.revoke("patch", "customresourcedefinitions");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_rounds(3);
    let complaint = &node.wait_complaints(1)[0];
    assert!(complaint.contains("kubectl apply --server-side"), "{complaint}");
    assert!(
        complaint.contains("cannot patch resource \"customresourcedefinitions\" in API group \"apiextensions.k8s.io\""),
        "{complaint}"
    );
}

fn crd_rights_missing_and_no_crds() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.interface.add("2001:db8:1234:5671::10");
    site.revoke("create", "customresourcedefinitions");
    let node = site.run(1);
    let complaint = &node.wait_complaints(1)[0];
    assert!(complaint.contains("grant k6u this right"), "{complaint}");
    site.install();
    site.wait_lan("2001:db8:1234:567");
    node.wait_log("API server: recovered after", SOON);
}

fn upgrade_from_0_3() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.server.apply_crds(CRDS_OF_0_3, "update_crds");
    site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
    site.server.create(CONFIG);
    let condition = |message: &str| {
        json!({"type": "Ready", "status": "True", "reason": "Updated", "message": message,
            "lastTransitionTime": "2025-06-01T00:00:00Z"})
    };
    let status = json!({"status": {"conditions": [condition("a"), condition("b"), condition("c")]}});
    for (list, name) in [
        ("ip6updateconfigs", CONFIG_NAME),
        ("ip6updatenodeconfigs", "ip6-update-node1"),
    ] {
        site.patch(
            &format!("/apis/apps.fuwafuwatime.moe/v1/{list}/{name}/status"),
            status.clone(),
        );
    }
    let spec_before = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap()["spec"]
        .clone();
    site.interface.add("2001:db8:1234:5671::10");

    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    let settled = |config: &Value| {
        config["status"]["conditions"]
            .as_array()
            .is_some_and(|list| list.len() == 1)
    };
    let store = |store: &Store| {
        let key = k6u_testkit::apiserver::store::Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME);
        store.objects.get(&key).filter(|config| settled(config)).cloned()
    };
    let config = site.server.wait(SOON, store).expect("one condition is left");
    assert_eq!(config["spec"], spec_before);
    // It was Ready before and is now, so nothing turned.
    assert_eq!(
        config["status"]["conditions"][0]["lastTransitionTime"],
        "2025-06-01T00:00:00Z"
    );
    assert_eq!(node.complaints(), [""; 0]);
    let crd = site.object(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "ip6updateconfigs.apps.fuwafuwatime.moe",
    );
    assert_eq!(crd.unwrap()["spec"]["names"]["shortNames"], json!(["ip6uc"]));
    assert!(CRDS.contains("shortNames: [ip6uc]"));
}

/// As 0.3 had them: prefixIds as uint8, no printer columns, no rules.
const CRDS_OF_0_3: &str = include_str!("../data/crds-0.3.yaml");

fn an_idle_round_costs_three_requests_and_no_write() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let _node = site.run(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_rounds(2);
    let before = site.server.store().log.len();
    site.wait_rounds(3);
    let store = site.server.store();
    // The last round may still go on.
    let rounds: Vec<&str> = store.log[before..before + 6]
        .iter()
        .map(|logged| logged.line.as_str())
        .collect();
    let of_round = |part: &[&str]| {
        let mut sorted = part.to_vec();
        sorted.sort_unstable();
        sorted.iter().map(|line| line.to_string()).collect::<Vec<_>>()
    };
    let expected = [
        format!("GET {}/{GROUP}", "/apis/cilium.io/v2/ciliumcidrgroups"),
        format!("GET {}", crate::site::CONFIGS),
        format!("GET {NODE_CONFIGS}"),
    ];
    assert_eq!(
        of_round(&rounds[..3]),
        of_round(&expected.each_ref().map(String::as_str))
    );
    assert_eq!(
        of_round(&rounds[3..]),
        of_round(&expected.each_ref().map(String::as_str))
    );
    let connections: std::collections::BTreeSet<u64> = store.log.iter().map(|logged| logged.connection).collect();
    assert_eq!(connections.len(), 1, "one connection for all");
    let written = store.log[before..]
        .iter()
        .filter(|logged| !logged.line.starts_with("GET "));
    assert_eq!(written.map(|logged| &logged.line).collect::<Vec<_>>(), [""; 0]);
    assert!(ready(&store, CONFIG_NAME).is_some());
}
