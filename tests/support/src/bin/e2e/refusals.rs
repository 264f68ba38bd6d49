//! Refusals by admission webhooks and policies, and the Events that report them.

use std::path::Path;
use std::time::{Duration, Instant};

use k6u_testkit::example::GROUP;
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::Node;
use serde_json::{Value, json};

use crate::CONFIG;
use crate::cluster::{Cluster, PATIENCE};

const CONFIG_NAME: &str = "ip6-update-config";
/// The delegated prefix before and after each of these tests.
const HOME: &str = "2001:db8:9876:543";
const AWAY: &str = "2001:db8:bbbb:ccc";
const K6U: &str = "--as=system:serviceaccount:kube-system:k6u";
const DENIED: &str = "denied request: not on Fridays";

fn wait(what: &str, node: &Node, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: {:#?}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn apply(cluster: &Cluster, object: &Value) {
    let (applied, text) = cluster.try_kubectl(&["apply", "-f", "-"], &object.to_string());
    assert!(applied, "{text}");
}

fn renumber(interface: &Interface, from: &str, to: &str) {
    interface.add(&format!("{to}1::10"));
    interface.remove(&format!("{from}1::10"));
}

fn ready(cluster: &Cluster) -> Value {
    let config = cluster.json(&["get", "ip6updateconfig", CONFIG_NAME]);
    config["status"]["conditions"][0].clone()
}

fn wait_ready(cluster: &Cluster, node: &Node, reason: &str, words: &str) {
    wait(reason, node, || {
        let condition = ready(cluster);
        condition["reason"] == reason && condition["message"].as_str().is_some_and(|text| text.contains(words))
    });
}

/// Adds a policy that refuses requests about these objects, and waits until `denied` is refused.
fn refuse(cluster: &Cluster, node: Option<&Node>, constraints: &Value, reason: &str, denied: &[&str]) {
    apply(
        cluster,
        &json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "guard"}, "spec": {"failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [constraints["rule"]]}, "matchConditions": constraints["conditions"],
            "validations": [{"expression": "false", "message": "not on Fridays", "reason": reason}]}}),
    );
    apply(
        cluster,
        &json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "guard"}, "spec": {"policyName": "guard", "validationActions": ["Deny"]}}),
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, text) = cluster.try_kubectl(denied, "");
        if text.contains(DENIED) {
            return;
        }
        assert!(Instant::now() < deadline, "{text}: {:#?}", node.map(Node::log));
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn allow(cluster: &Cluster) {
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        cluster.kubectl(&["delete", kind, "guard"]);
    }
}

/// A webhook that fails closed and does not answer, for one of two groups.
pub fn a_webhook_that_is_down(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let node = cluster.run(binary);
    let groups = json!({"spec": {"ciliumCIDRGroups": [
        {"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]},
        {"ciliumCIDRGroupName": "z-second", "prefixIds": [1]}]}})
    .to_string();
    cluster.kubectl(&["patch", "ip6uc", CONFIG_NAME, "--type=merge", "--patch", &groups]);
    let second = |start: &str| {
        let (found, text) = cluster.try_kubectl(&["get", "ciliumcidrgroup", "z-second", "-o", "json"], "");
        let group: Value = serde_json::from_str(&text).unwrap_or_default();
        found && group["spec"]["externalCIDRs"] == json!([format!("{start}1::/64")])
    };
    wait("the second group", &node, || second(HOME));
    apply(
        cluster,
        &json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "guard"}, "webhooks": [{"name": "guard.example.com", "failurePolicy": "Fail",
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "matchConditions": [{"name": "one", "expression": format!("object.metadata.name == '{GROUP}'")}],
            "rules": [{"apiGroups": ["cilium.io"], "apiVersions": ["*"], "resources": ["ciliumcidrgroups"],
                "operations": ["UPDATE"]}]}]}),
    );
    let touch = [
        "annotate",
        "--overwrite",
        "--dry-run=server",
        "ciliumcidrgroup",
        GROUP,
        "a=b",
    ];
    wait("the webhook", &node, || !cluster.try_kubectl(&touch, "").0);
    renumber(interface, HOME, AWAY);
    wait("the group behind the refused one", &node, || second(AWAY));
    wait_ready(
        cluster,
        &node,
        "UpdateFailed",
        "failed calling webhook \"guard.example.com\"",
    );
    cluster.kubectl(&["delete", "validatingwebhookconfiguration", "guard"]);
    cluster.wait_group(AWAY, &node);
    wait_ready(cluster, &node, "Updated", AWAY);
    renumber(interface, AWAY, HOME);
    cluster.wait_group(HOME, &node);
    cluster.kubectl(&["apply", "-f", CONFIG]);
    cluster.kubectl(&["delete", "ciliumcidrgroup", "z-second"]);
}

/// A policy refuses the status of the node's IP6UpdateNodeConfig, then that of the IP6UpdateConfig.
pub fn statuses_that_are_refused(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let node = cluster.run(binary);
    wait_ready(cluster, &node, "Updated", HOME);
    let constraints = |resource: &str, name: &str| {
        json!({"rule": {"apiGroups": ["apps.fuwafuwatime.moe"], "apiVersions": ["*"], "operations": ["UPDATE"],
            "resources": [format!("{resource}/status")], "resourceNames": [name]}})
    };
    let touch = |kind| {
        let patch = r#"--patch={"status":{"conditions":[]}}"#;
        [
            "patch",
            "--dry-run=server",
            "--subresource=status",
            "--type=merge",
            patch,
            kind,
        ]
    };
    let of_node = constraints("ip6updatenodeconfigs", "ip6-update-node1");
    refuse(
        cluster,
        Some(&node),
        &of_node,
        "Forbidden",
        &touch("ip6unc/ip6-update-node1"),
    );
    renumber(interface, HOME, AWAY);
    wait_ready(cluster, &node, "UpdateFailed", DENIED);
    let condition = ready(cluster);
    let message = condition["message"].as_str().unwrap_or_default();
    assert!(message.contains("IP6UpdateNodeConfig ip6-update-node1"), "{message}");
    assert!(
        message.contains("403 Forbidden") && !message.contains("grant k6u this right"),
        "{message}"
    );
    wait("the Event", &node, || {
        cluster
            .kubectl(&["describe", "ip6unc", "ip6-update-node1"])
            .contains("PublishFailed")
    });
    allow(cluster);
    cluster.wait_group(AWAY, &node);
    wait_ready(cluster, &node, "Updated", AWAY);

    let of_config = constraints("ip6updateconfigs", CONFIG_NAME);
    refuse(
        cluster,
        Some(&node),
        &of_config,
        "Invalid",
        &touch("ip6uc/ip6-update-config"),
    );
    renumber(interface, AWAY, HOME);
    cluster.wait_group(HOME, &node);
    node.wait_log(&format!("IP6UpdateConfig {CONFIG_NAME}: PATCH"), PATIENCE);
    allow(cluster);
    wait_ready(cluster, &node, "Updated", HOME);
    assert_eq!(node.count("grant k6u this right"), 0, "{:#?}", node.log());
}

/// A policy refuses updates of k6u's CRDs.
pub fn crds_that_are_refused(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let crds = json!({"rule": {"apiGroups": ["apiextensions.k8s.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
            "resources": ["customresourcedefinitions"]},
        "conditions": [{"name": "k6u", "expression": "request.userInfo.username == 'system:serviceaccount:kube-system:k6u'"}]});
    let crd = "crd/ip6updateconfigs.apps.fuwafuwatime.moe";
    let patch = r#"--patch={"metadata":{"annotations":{"a":"b"}}}"#;
    let touch = ["patch", "--dry-run=server", "--type=merge", patch, K6U, crd];
    refuse(cluster, None, &crds, "Invalid", &touch);
    let node = cluster.run(binary);
    node.wait_log(
        "CustomResourceDefinitions: they may be those of another release",
        PATIENCE,
    );
    renumber(interface, HOME, AWAY);
    cluster.wait_group(AWAY, &node);
    wait_ready(cluster, &node, "Updated", AWAY);
    assert_eq!(node.count(" WARN "), 1, "{:#?}", node.log());
    allow(cluster);
    renumber(interface, AWAY, HOME);
    cluster.wait_group(HOME, &node);
}

/// kubectl describe lists Events in the order in which they happened, each with its age.
pub fn events_in_order(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let refused = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "x", "namespace": "default"},
        "eventTime": "2026-11-24T13:00:00.000000Z", "deprecatedLastTimestamp": "2026-11-24T13:00:00Z",
        "reportingController": "example.com/x", "reportingInstance": "x", "action": "x", "reason": "x", "type": "Normal",
        "regarding": {"kind": "Node", "name": "x"}});
    let (created, text) = cluster.try_kubectl(&["create", "-f", "-"], &refused.to_string());
    // If a later Kubernetes accepts this, Events may be of events.k8s.io/v1.
    assert!(!created && text.contains("needs to be unset"), "{text}");

    let node = cluster.run(binary);
    wait_ready(cluster, &node, "Updated", HOME);
    let steps: Vec<String> = (1..=8).map(|number| format!("2001:db8:{number}:567")).collect();
    let mut before = HOME.to_string();
    for after in &steps {
        renumber(interface, &before, after);
        cluster.wait_group(after, &node);
        // Changes that follow within half a second are one report.
        wait_ready(cluster, &node, "Updated", after);
        before.clone_from(after);
    }
    renumber(interface, &before, HOME);
    cluster.wait_group(HOME, &node);
    wait_ready(cluster, &node, "Updated", HOME);
    let last = format!(" -> {HOME}0::/60");
    // kubectl sorts more than a dozen of the same second in any order, so the order is that of the API server's list.
    let changes = || {
        let list = cluster.json(&["get", "events", "--namespace=default"]);
        let is_change =
            |event: &&Value| event["reason"] == "PrefixChanged" && event["involvedObject"]["name"] == CONFIG_NAME;
        let mut events: Vec<&Value> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(is_change)
            .collect();
        events.sort_by_key(|event| event["lastTimestamp"].to_string());
        let message = |event: &&Value| event["message"].as_str().map(String::from);
        events.iter().filter_map(message).collect::<Vec<String>>()
    };
    wait("the last Event", &node, || {
        changes().last().is_some_and(|message| message.ends_with(&last))
    });
    let changes = changes();
    assert!(changes.len() > steps.len(), "{changes:#?}");
    let mut held: Option<&str> = None;
    for change in &changes {
        let (from, to) = change.split_once(" -> ").expect("a change");
        assert!(held.is_none_or(|held| held == from), "{changes:#?}");
        held = Some(to);
    }
    let described = cluster.kubectl(&["describe", "ip6uc", CONFIG_NAME]);
    let rows = described.split("Events:").nth(1).unwrap_or_default();
    let rows: Vec<&str> = rows.lines().filter(|line| line.contains("PrefixChanged")).collect();
    assert_eq!(rows.len(), changes.len(), "{described}");
    for row in rows {
        let fields: Vec<&str> = row.split_whitespace().collect();
        assert!(
            fields[2].ends_with(['s', 'm', 'h']) && fields[2].starts_with(|c: char| c.is_ascii_digit()),
            "{row}"
        );
        assert_eq!(fields[3], "k6u", "{row}");
    }
    println!("   {} Events of changes in order", changes.len());
}
