//! IP6UpdateConfigs: invalid, corrected, conflicting, deleted and unreadable ones.

use std::thread::sleep;
use std::time::Duration;

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::server::Cilium;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, CRDS, GROUP, NODE_CONFIGS, Running, SOON, Site, requests,
};
use k6u_testkit::trio::NAMES;
use serde_json::{Value, json};

use crate::Scenario;

pub const ALL: &[Scenario] = scenarios![
    an_id_that_does_not_fit_changes_no_group,
    a_spec_that_is_corrected,
    a_typing_error_in_one_of_two_configs,
    two_configs_name_one_group,
    a_config_is_deleted_and_created_again,
    a_group_is_added_during_a_round,
    unknown_fields_and_odd_types_of_old_objects,
    items_without_a_name_are_reported_once,
];

fn path() -> String {
    format!("{CONFIGS}/{CONFIG_NAME}")
}

fn an_id_that_does_not_fit_changes_no_group() {
    let site = Site::with_address(ADDRESS);
    site.create_group("good", &["192.0.2.0/24"]);
    let group = |name: &str, ids: Value| json!({"ciliumCIDRGroupName": name, "prefixIds": ids});
    let groups = json!([group("good", json!([0])), group("bad", json!([1, 200]))]);
    site.force_spec(json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": groups}));
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
    site.force_spec(json!({"delegatedPrefixLength": 0, "ciliumCIDRGroups": []}));
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
/// published all the same; so the node that reads the correction first knows them.
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
    // The other node makes a round in this time, too.
    sleep(Duration::from_secs(13));
    with_ids(json!([1]));
    site.wait_reason("a", "Updated");
    site.wait_rounds(3);
    let history = site.group_history("group-a");
    assert_eq!(history[lists..], [[""; 0]; 0], "it held both all the time");
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

/// The spec gets another group, which does not exist yet, between the two times that a round reads the spec.
fn a_group_is_added_during_a_round() {
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
    let is_reported = |object: &Value| {
        let ready = &object["status"]["conditions"][0];
        ready["status"] == "True" && ready["observedGeneration"] == 2
    };
    let reported = |store: &Store| {
        store
            .history
            .iter()
            .position(|past| past.key.name == CONFIG_NAME && past.object.as_ref().is_some_and(is_reported))
    };
    let reported = site.server.wait(SOON, reported).expect("it is Ready in the end");
    let made = site
        .server
        .store()
        .history
        .iter()
        .position(|past| past.key.name == "new");
    assert!(
        made.is_some_and(|made| made < reported),
        "Ready was reported before the group existed"
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
        site.force_spec(spec);
        site.wait_reason(CONFIG_NAME, "InvalidSpec");
    }
    site.wait_lan("2001:db8:1234:567");
    let group = json!({"ciliumCIDRGroupName": GROUP, "prefixIds": [3], "later": {"deep": [[[[[[[[[[1]]]]]]]]]]}});
    let spec = json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": [group], "later": [1, {"x": null}]});
    site.force_spec(spec);
    site.wait_group(GROUP, &["2001:db8:1234:5673::/64"]);
    assert_eq!(site.group_history(GROUP).len(), 2);
}

fn items_without_a_name_are_reported_once() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let list = site.server.admin("GET", NODE_CONFIGS, "", &Value::Null);
    let mut list = list;
    let items = list["items"].as_array_mut().unwrap();
    items.push(json!({"metadata": {"labels": {"a": 1}}, "spec": {"interface": "eth0"}}));
    items.push(json!(7));
    let answer = Fault::Answer(Response::new(200, "application/json", list.to_string()));
    site.server
        .inject(Plan::on(&format!("GET {NODE_CONFIGS}"), usize::MAX, answer));
    site.wait_rounds(10);
    let complaints = node.complaints();
    assert!(
        complaints.len() <= 2,
        "{} lines in ten rounds: {complaints:#?}",
        complaints.len()
    );
}
