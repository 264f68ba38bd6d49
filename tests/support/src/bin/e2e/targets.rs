//! Targets of each kind, with the schemas that their projects ship.

use std::path::Path;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::kinds::{CALICO_V3, KINDS, Kind, NAME};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::Node;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE};

/// The /64 with id 1, without its colons.
const BEFORE: &str = "2001:db8:9876:5431";
const MOVED: &str = "2001:db8:7777:6661";
/// The element in each list before k6u writes it.
const FOREIGN: &str = "192.0.2.7/32";

/// Tests each kind: not installed, missing, without right, in a wrong namespace; then its list follows, and its other
/// fields stay.
pub fn each_kind(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    schemas_of_targets(cluster);
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:9876:543", &node);
    for kind in KINDS {
        one_kind(cluster, kind, &node);
        println!("   {} follows", kind.name);
    }
    // All kinds at once.
    let targets: Vec<Value> = KINDS.iter().map(|kind| kind.target(kind.suffix())).collect();
    name_targets(cluster, &targets);
    interface.add("2001:db8:7777:6661::10");
    interface.deprecate("2001:db8:9876:5431::10");
    for kind in KINDS {
        wait_held(cluster, kind, &kind.part(MOVED), &node);
    }
    cluster.wait_group("2001:db8:7777:666", &node);
    let all = format!("{} targets ", KINDS.len() + 1);
    let message = wait_message(cluster, "Updated", "2001:db8:7777:6660::/60", &node);
    assert!(message.starts_with(&all), "{message}");
    name_targets(cluster, &[]);
    interface.add("2001:db8:9876:5431::10");
    interface.remove("2001:db8:7777:6661::10");
    cluster.wait_group("2001:db8:9876:543", &node);
    calico_v3(cluster, &node);
}

fn one_kind(cluster: &Cluster, kind: Kind, node: &Node) {
    if !kind.namespace.is_empty() {
        cluster.try_kubectl(&["create", "namespace", kind.namespace], "");
    }
    name_targets(cluster, &[kind.target(kind.suffix())]);
    wait_message(cluster, "UpdateFailed", "the API server does not serve", node);

    let (installed, text) = cluster.try_kubectl(&["apply", "--server-side", "-f", "-"], kind.crd);
    assert!(installed, "{text}");
    let name = format!("crd/{}.{}", kind.plural, kind.api.0);
    cluster.wait_established(&[&name]);
    let right = format!(
        "cannot get resource \"{}\" in API group \"{}\"",
        kind.plural, kind.api.0
    );
    wait_message(cluster, "UpdateFailed", &right, node);

    let component = format!("manifests/components/{}", kind.name.to_lowercase());
    cluster.kubectl(&["apply", "-k", &component]);
    let before = kind.part(BEFORE);
    if !kind.is_created() {
        let message = wait_message(cluster, "UpdateFailed", "create it first: ", node);
        let json = message.split_once("create it first: ").expect("some JSON").1;
        // Calico's newest API is not the one that is installed here.
        let json = json.replace("projectcalico.org/v3", "crd.projectcalico.org/v1");
        let (created, text) = cluster.try_kubectl(&["create", "--validate=strict", "-f", "-"], &json);
        assert!(created, "{json} {text}");
    }
    wait_held(cluster, kind, &before, node);

    // The owner replaces the object, and k6u restores the list.
    let (replaced, text) = cluster.try_kubectl(&["replace", "-f", "-"], &kind.object(&[FOREIGN]).to_string());
    assert!(replaced, "{text}");
    wait_held(cluster, kind, &before, node);
    let (object, made) = (read(cluster, kind), kind.object(&[&before]));
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
    wait_message(cluster, "Updated", "2 targets ", node);

    if !kind.namespace.is_empty() {
        let mut elsewhere = kind.target(kind.suffix());
        elsewhere["namespace"] = json!("default");
        name_targets(cluster, &[elsewhere]);
        wait_message(cluster, "UpdateFailed", "in the namespace \"default\"", node);
    }
    if kind.is_created() {
        in_a_missing_namespace(cluster, kind, node);
    }
    name_targets(cluster, &[]);
    wait_message(cluster, "Updated", "1 target ", node);
}

/// With rights in all namespaces, k6u reports a namespace that does not exist.
fn in_a_missing_namespace(cluster: &Cluster, kind: Kind, node: &Node) {
    let role = "--clusterrole=everywhere";
    let resource = format!("--resource={}.{}", kind.plural, kind.api.0);
    cluster.kubectl(&[
        "create",
        "clusterrole",
        "everywhere",
        "--verb=get,create,patch",
        &resource,
    ]);
    let account = "--serviceaccount=kube-system:k6u";
    cluster.kubectl(&["create", "clusterrolebinding", "everywhere", role, account]);
    let mut nowhere = kind.target(kind.suffix());
    nowhere["namespace"] = json!("nowhere");
    name_targets(cluster, &[nowhere]);
    wait_message(cluster, "UpdateFailed", "namespaces \"nowhere\" not found", node);
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", "everywhere"]);
}

/// k6u writes Calico's own API where it is served.
fn calico_v3(cluster: &Cluster, node: &Node) {
    for (name, crd) in CALICO_V3 {
        let stored = Kind::named(name);
        let shown = Kind {
            api: ("projectcalico.org", "v3"),
            ..stored
        };
        let plural = stored.plural;
        cluster.kubectl(&["delete", "crd", &format!("{plural}.crd.projectcalico.org")]);
        let (installed, text) = cluster.try_kubectl(&["apply", "--server-side", "-f", "-"], crd);
        assert!(installed, "{text}");
        let crd = format!("crd/{plural}.projectcalico.org");
        cluster.wait_established(&[&crd]);
        name_targets(cluster, &[shown.target(shown.suffix())]);
        wait_message(cluster, "UpdateFailed", "create it first: ", node);
        let (created, text) = cluster.try_kubectl(&["create", "-f", "-"], &shown.object(&[]).to_string());
        assert!(created, "{text}");
        wait_held(cluster, shown, &shown.part(BEFORE), node);
        name_targets(cluster, &[]);
        wait_message(cluster, "Updated", "1 target ", node);
    }
}

/// Targets that the schema accepts and refuses, by the CEL rules that the test server does not evaluate.
fn schemas_of_targets(cluster: &Cluster) {
    let dry_run = |target: &Value| {
        let patch = json!({"spec": {"targets": [target]}}).to_string();
        let config = [
            "patch",
            "ip6uc",
            "ip6-update-config",
            "--dry-run=server",
            "--type=merge",
            "--patch",
            &patch,
        ];
        cluster.try_kubectl(&config, "")
    };
    let with = |kind: Kind, fields: Value| {
        let mut target = kind.target(kind.suffix());
        let all = target.as_object_mut().expect("a map");
        all.extend(fields.as_object().expect("a map").clone());
        all.retain(|_, value| !value.is_null());
        target
    };
    let (pool, set) = (Kind::named("CiliumLoadBalancerIPPool"), Kind::named("NetworkSet"));
    let endpoint = Kind::named("DNSEndpoint");
    for kind in KINDS {
        let (taken, text) = dry_run(&kind.target(kind.suffix()));
        assert!(taken, "{}: {text}", kind.name);
        let namespace = if kind.namespace.is_empty() {
            json!("web")
        } else {
            Value::Null
        };
        let (taken, text) = dry_run(&with(kind, json!({"namespace": namespace})));
        assert!(
            !taken && text.contains("namespace is needed for an IPAddressPool"),
            "{}: {text}",
            kind.name
        );
    }
    for target in [
        with(pool, json!({"ranges": ["::1:0-::1:ff"], "suffixes": []})),
        with(
            Kind::named("IPAddressPool"),
            json!({"ranges": ["::1:0:0:1:0-::1:0:0:1:ff"]}),
        ),
        with(
            endpoint,
            json!({"suffixes": ["::10", "::11/128"], "extraCIDRs": ["192.0.2.10/32", "fd00::10/128"]}),
        ),
        with(
            endpoint,
            json!({"dnsName": "*.lab.example.com", "recordTTL": null, "prefixIds": []}),
        ),
    ] {
        let (taken, text) = dry_run(&target);
        assert!(taken, "{target}: {text}");
    }
    let hosts_only = "a DNSEndpoint holds hosts only";
    for (target, problem) in [
        (with(set, json!({"ranges": ["::1-::2"]})), "can hold ranges"),
        (with(pool, json!({"ranges": ["::1"]})), "should match"),
        (with(pool, json!({"ranges": ["192.0.2.1-192.0.2.9"]})), "should match"),
        (
            with(pool, json!({"suffixes": [], "ranges": []})),
            "at least one prefix id, suffix or range is needed",
        ),
        (
            with(pool, json!({"dnsName": "nas.example.com"})),
            "dnsName is needed for a DNSEndpoint",
        ),
        (
            with(endpoint, json!({"dnsName": null})),
            "dnsName is needed for a DNSEndpoint",
        ),
        (with(endpoint, json!({"dnsName": "NAS.example.com"})), "should match"),
        (
            with(endpoint, json!({"recordTTL": 0})),
            "should be greater than or equal to 1",
        ),
        (with(set, json!({"recordTTL": 60})), "only a DNSEndpoint has recordTTL"),
        (with(endpoint, json!({"prefixIds": [1]})), hosts_only),
        (with(endpoint, json!({"suffixes": ["::/64"]})), hosts_only),
        (with(endpoint, json!({"extraCIDRs": ["192.0.2.0/24"]})), hosts_only),
        (with(endpoint, json!({"extraCIDRs": ["2001:db8::/32"]})), hosts_only),
        (with(endpoint, json!({"ranges": ["::1-::2"]})), "can hold ranges"),
    ] {
        let (taken, text) = dry_run(&target);
        assert!(!taken && text.contains(problem), "{target}: {text}");
    }
}

/// The spec with the fields that the API server adds: those that are false by default.
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

/// The object; null if there is none.
fn read(cluster: &Cluster, kind: Kind) -> Value {
    let namespace = if kind.namespace.is_empty() {
        "default"
    } else {
        kind.namespace
    };
    let namespace = format!("--namespace={namespace}");
    let (found, text) = cluster.try_kubectl(&["get", &resource(kind), &namespace, "-o", "json"], "");
    assert!(found || text.contains("NotFound"), "{text}");
    if found {
        serde_json::from_str(&text).expect("JSON")
    } else {
        Value::Null
    }
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

/// Waits until Ready has this reason, and this text in its message. Returns the message.
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
