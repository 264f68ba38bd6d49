//! The objects that hold the prefix, of each kind, with the schemas that their projects ship.

use std::path::Path;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::kinds::{CALICO_V3, KINDS, Kind, NAME};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::Node;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE};

const SUFFIX: &str = "::1:ffff:0:0:0/112";
const BEFORE: &str = "2001:db8:9876:5431:ffff::/112";
const MOVED: &str = "2001:db8:7777:6661:ffff::/112";

/// Each kind: not installed, missing, without right, in a wrong namespace; then its list follows and all else stays.
pub fn each_kind(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:9876:543", &node);
    for kind in KINDS {
        one_kind(cluster, kind, &node);
        println!("   {} follows", kind.name);
    }
    // All of them at once.
    let targets: Vec<Value> = KINDS.iter().map(|kind| kind.target(SUFFIX)).collect();
    name_targets(cluster, &targets);
    interface.add("2001:db8:7777:6661::10");
    interface.deprecate("2001:db8:9876:5431::10");
    for kind in KINDS {
        wait_held(cluster, kind, MOVED, &node);
    }
    cluster.wait_group("2001:db8:7777:666", &node);
    wait_message(cluster, "Updated", "5 targets follow 2001:db8:7777:6660::/60", &node);
    name_targets(cluster, &[]);
    interface.add("2001:db8:9876:5431::10");
    interface.remove("2001:db8:7777:6661::10");
    cluster.wait_group("2001:db8:9876:543", &node);
    calico_v3(cluster, &node);
}

fn one_kind(cluster: &Cluster, kind: Kind, node: &Node) {
    if !kind.namespace.is_empty() {
        cluster.kubectl(&["create", "namespace", kind.namespace]);
    }
    name_targets(cluster, &[kind.target(SUFFIX)]);
    wait_message(cluster, "UpdateFailed", "the API server does not serve", node);

    let (installed, text) = cluster.try_kubectl(&["apply", "--server-side", "-f", "-"], kind.crd);
    assert!(installed, "{text}");
    let name = format!("crd/{}.{}", kind.plural, kind.api.0);
    cluster.kubectl(&["wait", "--for=condition=Established", &name]);
    let right = format!(
        "cannot get resource \"{}\" in API group \"{}\"",
        kind.plural, kind.api.0
    );
    wait_message(cluster, "UpdateFailed", &right, node);

    let component = format!("manifests/components/{}", kind.name.to_lowercase());
    cluster.kubectl(&["apply", "-k", &component]);
    let message = wait_message(cluster, "UpdateFailed", "create it first: ", node);
    let yaml = message.split_once("create it first: ").expect("some YAML").1;
    // Calico's newest API is not the one that is installed here.
    let yaml = yaml.replace("projectcalico.org/v3", "crd.projectcalico.org/v1");
    let (created, text) = cluster.try_kubectl(&["create", "--validate=strict", "-f", "-"], &yaml);
    assert!(created, "{yaml} {text}");
    wait_held(cluster, kind, BEFORE, node);

    // As its owner would have it; the list is k6u's.
    let (replaced, text) = cluster.try_kubectl(&["replace", "-f", "-"], &kind.object(&["192.0.2.0/24"]).to_string());
    assert!(replaced, "{text}");
    wait_held(cluster, kind, BEFORE, node);
    let (object, made) = (read(cluster, kind), kind.object(&[BEFORE]));
    assert_eq!(
        object["spec"],
        with_defaults(&object["spec"], &made["spec"]),
        "{}",
        kind.name
    );
    assert_eq!(
        object["metadata"]["labels"], made["metadata"]["labels"],
        "{}",
        kind.name
    );
    wait_message(cluster, "Updated", "2 targets follow", node);

    if !kind.namespace.is_empty() {
        let mut elsewhere = kind.target(SUFFIX);
        elsewhere["namespace"] = json!("default");
        name_targets(cluster, &[elsewhere]);
        wait_message(cluster, "UpdateFailed", "in the namespace \"default\"", node);
    }
    name_targets(cluster, &[]);
    wait_message(cluster, "Updated", "1 target follows", node);
}

/// With Calico's own API served as well, that one is written.
fn calico_v3(cluster: &Cluster, node: &Node) {
    let stored = KINDS
        .into_iter()
        .find(|kind| kind.name == "GlobalNetworkSet")
        .expect("a kind");
    let shown = Kind {
        api: ("projectcalico.org", "v3"),
        ..stored
    };
    cluster.kubectl(&["delete", "crd", "globalnetworksets.crd.projectcalico.org"]);
    let (installed, text) = cluster.try_kubectl(&["apply", "--server-side", "-f", "-"], CALICO_V3);
    assert!(installed, "{text}");
    cluster.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd/globalnetworksets.projectcalico.org",
    ]);
    name_targets(cluster, &[shown.target(SUFFIX)]);
    wait_message(cluster, "UpdateFailed", "create it first: ", node);
    let (created, text) = cluster.try_kubectl(&["create", "-f", "-"], &shown.object(&[]).to_string());
    assert!(created, "{text}");
    wait_held(cluster, shown, BEFORE, node);
    name_targets(cluster, &[]);
    wait_message(cluster, "Updated", "1 target follows", node);
}

/// What was made, with the fields that the API server sets by itself: false, unless somebody said otherwise.
fn with_defaults(found: &Value, made: &Value) -> Value {
    let mut all = made.clone();
    for (name, value) in found.as_object().into_iter().flatten() {
        if all[name].is_null() && *value == json!(false) {
            all[name] = value.clone();
        }
    }
    all
}

fn name_targets(cluster: &Cluster, targets: &[Value]) {
    let patch = json!({"spec": {"targets": targets}}).to_string();
    cluster.kubectl(&["patch", "ip6uc", "ip6-update-config", "--type=merge", "--patch", &patch]);
}

fn resource(kind: Kind) -> String {
    format!("{}.{}/{NAME}", kind.plural, kind.api.0)
}

fn read(cluster: &Cluster, kind: Kind) -> Value {
    let namespace = format!(
        "--namespace={}",
        if kind.namespace.is_empty() {
            "default"
        } else {
            kind.namespace
        }
    );
    cluster.json(&["get", &resource(kind), &namespace])
}

fn wait_held(cluster: &Cluster, kind: Kind, expected: &str, node: &Node) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let held = kind.cidrs(&read(cluster, kind));
        if held == [expected] {
            return;
        }
        assert!(Instant::now() < deadline, "{}: {held:?}\n{:#?}", kind.name, node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until Ready has this reason, and this text in its message; gives the message.
fn wait_message(cluster: &Cluster, reason: &str, text: &str, node: &Node) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ready = cluster.json(&["get", "ip6uc", "ip6-update-config"])["status"]["conditions"][0].clone();
        let message = ready["message"].as_str().unwrap_or_default();
        if ready["reason"] == reason && message.contains(text) {
            return message.to_string();
        }
        assert!(Instant::now() < deadline, "{text:?} in {ready}\n{:#?}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}
