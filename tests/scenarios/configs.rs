//! What IP6UpdateConfigs say, and what becomes of it.

use std::thread::sleep;
use std::time::Duration;

use k6u_testkit::apiserver::server::Cilium;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::CRDS;
use k6u_testkit::machine::namespace::Interface;
use serde_json::{Value, json};

use crate::Scenario;
use crate::site::{CONFIG, CONFIG_NAME, CONFIGS, GROUP, NODE_CONFIGS, Running, SOON, Site, requests};
use crate::trio::NAMES;

pub const ALL: &[Scenario] = scenarios![
    drift_is_restored_within_an_interval,
    an_id_that_does_not_fit_changes_no_group,
    a_spec_that_is_corrected,
    a_typing_error_in_one_of_two_configs,
    a_status_that_an_older_server_refuses,
    two_configs_name_one_group,
    a_config_is_deleted_and_created_again,
    a_group_is_deleted,
    a_group_that_is_new_in_the_second_plan,
    unknown_fields_and_odd_types_of_old_objects
];

fn path() -> String {
    format!("{CONFIGS}/{CONFIG_NAME}")
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

/// Puts a spec into the store that the schema would refuse, as if it were older than the schema.
fn force_spec(site: &Site, spec: Value) {
    let key = k6u_testkit::apiserver::store::Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME);
    let mut store = site.server.store();
    let mut config = store.objects[&key].clone();
    config["spec"] = spec;
    config["metadata"]["generation"] = json!(config["metadata"]["generation"].as_i64().unwrap() + 1);
    store.put(key, config);
}

fn an_id_that_does_not_fit_changes_no_group() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.create_group("good", &["192.0.2.0/24"]);
    let group = |name: &str, ids: Value| json!({"ciliumCIDRGroupName": name, "prefixIds": ids});
    let groups = json!([group("good", json!([0])), group("bad", json!([1, 200]))]);
    force_spec(&site, json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": groups}));
    let node = site.run(1);
    let condition = site.wait_reason(CONFIG_NAME, "InvalidSpec");
    assert_eq!(condition["status"], "False");
    let expected = "spec.ciliumCIDRGroups[1].prefixIds[1] is 200, but a /60 holds the prefix ids 0 to 15 only";
    assert!(
        condition["message"].as_str().unwrap().starts_with(expected),
        "{condition}"
    );
    site.wait_rounds(3);
    assert_eq!(site.group_history("good"), [["192.0.2.0/24"]]);
    assert!(site.group("bad").is_none());
    assert_eq!(
        requests(&site.server.store(), "GET /apis/cilium.io/v2/ciliumcidrgroups"),
        [""; 0]
    );
    node.wait_complaints(1);
}

fn a_spec_that_is_corrected() {
    let (site, _node) = Site::settled(1);
    force_spec(&site, json!({"delegatedPrefixLength": 0, "ciliumCIDRGroups": []}));
    site.wait_reason(CONFIG_NAME, "InvalidSpec");
    site.wait_lan("2001:db8:1234:567");
    let group = json!({"ciliumCIDRGroupName": GROUP, "prefixIds": [255]});
    site.patch(
        &path(),
        json!({"spec": {"delegatedPrefixLength": 56, "ciliumCIDRGroups": [group]}}),
    );
    site.wait_group(GROUP, &["2001:db8:1234:56ff::/64"]);
    let condition = site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(condition["observedGeneration"], 3);
}

/// Two sites, and two configs with allowedPrefixes of their own. While the spec of one is invalid, its prefixes are
/// published all the same; so whoever reads the correction first knows them.
fn a_typing_error_in_one_of_two_configs() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.server.apply_crds(CRDS, "k6u");
    for (name, allowed) in [("a", "2001:db8::/32"), ("b", "2001:470::/32")] {
        let group = json!({"ciliumCIDRGroupName": format!("group-{name}"), "prefixIds": [1]});
        let config = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateConfig",
            "metadata": {"name": name}, "spec": {"delegatedPrefixLength": 60, "allowedPrefixes": [allowed],
            "ciliumCIDRGroups": [group]}});
        site.server.admin("POST", CONFIGS, "application/json", &config);
    }
    site.server.add_node(NAMES[1]);
    let interfaces = [Interface::new(), Interface::new()];
    for (at, interface) in interfaces.iter().enumerate() {
        interface.add(&format!("2001:db8:{}:5671::10", at + 1));
        let node_config = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
            "metadata": {"name": NAMES[at]},
            "spec": {"nodeSelector": {"kubernetes.io/hostname": NAMES[at]}, "interface": interface.name}});
        site.server
            .admin("POST", NODE_CONFIGS, "application/json", &node_config);
    }
    let run = |name: &str, interval: &str| {
        let node = site.start().with("NODE_NAME", name).with("UPDATE_INTERVAL", interval);
        Running(node.spawn())
    };
    let _nodes = [run(NAMES[0], "1"), run(NAMES[1], "10")];
    site.wait_group("group-a", &["2001:db8:1:5671::/64", "2001:db8:2:5671::/64"]);
    site.wait_reason("a", "Updated");
    let lists = site.group_history("group-a").len();
    let with_ids = |ids: Value| {
        let group = json!({"ciliumCIDRGroupName": "group-a", "prefixIds": ids});
        site.patch(&format!("{CONFIGS}/a"), json!({"spec": {"ciliumCIDRGroups": [group]}}));
    };
    with_ids(json!([99]));
    site.wait_reason("a", "InvalidSpec");
    // The other node has a round, too.
    sleep(Duration::from_secs(13));
    with_ids(json!([1]));
    site.wait_reason("a", "Updated");
    site.wait_rounds(3);
    let history = site.group_history("group-a");
    assert_eq!(history[lists..], [[""; 0]; 0], "it held both all the time");
}

fn a_status_that_an_older_server_refuses() {
    let (site, node) = Site::settled(1);
    // Before 1.30 an object that does not fit its schema takes no status either.
    site.server.store().ratchets = false;
    force_spec(&site, json!({"delegatedPrefixLength": 0, "ciliumCIDRGroups": []}));
    node.wait_log("WARN  IP6UpdateConfig ip6-update-config: PATCH", SOON);
    site.wait_rounds(3);
    assert!(node.wait_complaints(1)[0].contains("422 Invalid"));
    site.wait_lan("2001:db8:1234:567");
    // Its status says Ready still, so an Event says what is wrong.
    let events = site.events();
    let is_told = |(reason, note): &&(String, String)| {
        reason == "StatusRefused" && note.starts_with("InvalidSpec: ") && note.contains("422 Invalid")
    };
    assert_eq!(events.iter().filter(is_told).count(), 1, "{events:?}");
}

fn two_configs_name_one_group() {
    let (site, node) = Site::settled(1);
    let other = CONFIG.replace(CONFIG_NAME, "a-younger-one").replace("[0, 1, 2]", "[7]");
    let other = format!("{other}  - ciliumCIDRGroupName: of-its-own\n    prefixIds: [8]\n");
    // A second later, by the server's clock: the age decides, not the name.
    site.server.advance_clock(std::time::Duration::from_secs(1));
    site.server.create(&other);
    let condition = site.wait_reason("a-younger-one", "GroupConflict");
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.starts_with("CiliumCIDRGroup ip6-local-lan belongs to the older ip6-update-config; "),
        "{message}"
    );
    site.wait_group("of-its-own", &["2001:db8:1234:5678::/64"]);
    site.wait_rounds(3);
    assert_eq!(site.group_history(GROUP).len(), 1, "the older one keeps it");
    node.wait_complaints(1);
    site.server.admin("DELETE", &path(), "", &Value::Null);
    site.wait_group(GROUP, &["2001:db8:1234:5677::/64"]);
    site.wait_reason("a-younger-one", "Updated");
}

fn a_config_is_deleted_and_created_again() {
    let (site, node) = Site::settled(1);
    site.server.admin("DELETE", &path(), "", &Value::Null);
    site.wait_rounds(3);
    site.wait_lan("2001:db8:1234:567");
    site.server.create(CONFIG);
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(
        site.group_history(GROUP).len(),
        1,
        "it held the right list all the time"
    );
    assert_eq!(node.complaints(), [""; 0]);
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

/// Between its first look and its second one somebody asks for one more group, which is not there.
fn a_group_that_is_new_in_the_second_plan() {
    let (site, _node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let group = format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}");
    let round = site.hold(&format!("GET {NODE_CONFIGS}"));
    round.wait();
    site.patch(&group, json!({"spec": {"externalCIDRs": ["2001:db8:bad::/48"]}}));
    let target = site.hold(&format!("GET {group}"));
    round.release();
    target.wait();
    let both = json!([{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]}, {"ciliumCIDRGroupName": "new", "prefixIds": [3]}]);
    site.patch(&path(), json!({"spec": {"ciliumCIDRGroups": both}}));
    target.release();
    let is_told = |object: &Value| {
        let ready = &object["status"]["conditions"][0];
        ready["status"] == "True" && ready["observedGeneration"] == 2
    };
    let told = |store: &Store| {
        store
            .history
            .iter()
            .position(|past| past.key.name == CONFIG_NAME && past.object.as_ref().is_some_and(is_told))
    };
    let told = site.server.wait(SOON, told).expect("it is Ready in the end");
    let made = site
        .server
        .store()
        .history
        .iter()
        .position(|past| past.key.name == "new");
    assert!(
        made.is_some_and(|made| made < told),
        "Ready was told of a group that did not exist"
    );
    site.wait_group("new", &["2001:db8:1234:5673::/64"]);
}

fn unknown_fields_and_odd_types_of_old_objects() {
    let (site, _node) = Site::settled(1);
    for spec in [
        json!("text"),
        json!([1]),
        json!({"delegatedPrefixLength": "60", "ciliumCIDRGroups": {"a": 1}}),
        json!(7),
    ] {
        force_spec(&site, spec);
        site.wait_reason(CONFIG_NAME, "InvalidSpec");
    }
    site.wait_lan("2001:db8:1234:567");
    let group = json!({"ciliumCIDRGroupName": GROUP, "prefixIds": [3], "later": {"deep": [[[[[[[[[[1]]]]]]]]]]}});
    let spec = json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": [group], "later": [1, {"x": null}]});
    force_spec(&site, spec);
    site.wait_group(GROUP, &["2001:db8:1234:5673::/64"]);
    assert_eq!(site.group_history(GROUP).len(), 2);
}
