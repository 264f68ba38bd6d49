//! The life cycle of k6u in a cluster: installation, renumbering, restart, upgrade, removal.

use std::path::Path;
use std::time::{Duration, Instant};

use k6u_testkit::example::{GROUP, NODE};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::Node;
use serde_json::json;

use crate::cluster::{Cluster, PATIENCE, start_apiserver};
use crate::{CILIUM, CONFIG, CRDS_OF_0_3, NODE_CONFIG};

/// The CRDs, objects and statuses that k6u 0.3 left behind keep working, and become those of this release.
pub fn upgrade_from_0_3(cluster: &mut Cluster, binary: &Path) {
    let node =
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {NODE}, labels: {{kubernetes.io/hostname: {NODE}}}}}\n");
    let (created, text) = cluster.try_kubectl(&["apply", "-f", "-"], &node);
    assert!(created, "{text}");
    cluster.kubectl(&["apply", "-f", CILIUM, "-f", "manifests/rbac.yaml"]);
    cluster.kubectl(&[
        "apply",
        "--server-side",
        "--field-manager=update_crds",
        "-f",
        CRDS_OF_0_3,
    ]);
    cluster.wait_established(&["crd", "--all"]);
    let deadline = Instant::now() + PATIENCE;
    while !cluster.try_kubectl(&["apply", "-f", CONFIG, "-f", NODE_CONFIG], "").0 {
        assert!(Instant::now() < deadline, "the objects of 0.3 cannot be created");
        std::thread::sleep(Duration::from_millis(200));
    }
    let ready = json!({"type": "Ready", "status": "True", "reason": "Updated", "message": "",
        "lastTransitionTime": "2025-06-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [ready, ready, ready]}}).to_string();
    for object in [
        "ip6updateconfig/ip6-update-config",
        "ip6updatenodeconfig/ip6-update-node1",
    ] {
        cluster.kubectl(&[
            "patch",
            object,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &status,
        ]);
    }
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:1234:567", &node);
    let deadline = Instant::now() + PATIENCE;
    let conditions = || cluster.json(&["get", "ip6updateconfig", "ip6-update-config"])["status"]["conditions"].clone();
    while conditions().as_array().is_none_or(|list| list.len() != 1) {
        assert!(Instant::now() < deadline, "{}", conditions());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(conditions()[0]["lastTransitionTime"], "2025-06-01T00:00:00Z");
    assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 0, "{:#?}", node.log());
}

pub fn install_and_main_job(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", "manifests"]);
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:1234:567", &node);
    interface.add("2001:db8:9876:5431::10");
    interface.deprecate("2001:db8:1234:5671::10");
    cluster.wait_group("2001:db8:9876:543", &node);
    // The next test needs the whole list.
    node.wait_log("2001:db8:9876:5432::/64", PATIENCE);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 0, "{:#?}", node.log());
}

pub fn drift_is_restored_and_a_right_list_kept(cluster: &mut Cluster, binary: &Path) {
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:9876:543", &node);
    let drift = r#"{"spec": {"externalCIDRs": ["2001:db8:bad::/48"]}}"#;
    cluster.kubectl(&["patch", "ciliumcidrgroup", GROUP, "--type=merge", "--patch", drift]);
    cluster.wait_group("2001:db8:9876:543", &node);
    let version = || cluster.json(&["get", "ciliumcidrgroup", GROUP])["metadata"]["resourceVersion"].clone();
    let before = version();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(version(), before, "a right list was written again");
}

pub fn api_server_restart(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let node = cluster.run(binary);
    node.wait_log("the CRDs of this release are deployed", PATIENCE);
    std::thread::sleep(Duration::from_secs(1));
    cluster.apiserver.kill().expect("it runs");
    cluster.apiserver.wait().expect("it ends");
    interface.add("2001:db8:aaaa:bbb1::10");
    interface.deprecate("2001:db8:9876:5431::10");
    node.wait_log("API server: ", PATIENCE);
    cluster.apiserver = start_apiserver(&cluster.assets, &cluster.folder);
    cluster.wait_ready();
    cluster.wait_group("2001:db8:aaaa:bbb", &node);
    node.wait_log("API server: recovered", PATIENCE);
}

/// Three nodes on one node config, each of which makes complete rounds.
pub fn three_nodes_on_one_node_config(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let selector = r#"{"spec": {"nodeSelector": null}}"#;
    cluster.kubectl(&[
        "patch",
        "ip6updatenodeconfig",
        "ip6-update-node1",
        "--type=merge",
        "--patch",
        selector,
    ]);
    cluster.give_token(&cluster.token());
    let names = [NODE, "node2.example.com", "node3.example.com"];
    let nodes = names.map(|name| cluster.run_as(binary, name));
    let all = |prefix: &str| {
        let status = cluster.json(&["get", "ip6updatenodeconfig", "ip6-update-node1"])["status"]["nodes"].clone();
        names.iter().all(|name| status[name]["prefixes"] == json!([prefix]))
    };
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(
                Instant::now() < deadline,
                "{what}: {:#?}",
                nodes.each_ref().map(Node::log)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("all publish", &|| all("2001:db8:aaaa:bbb1::/64"));
    for node in &nodes {
        // Two lists, and the group.
        wait("an idle round", &|| node.count("DEBUG round: 3 requests") >= 3);
    }
    let version = || cluster.json(&["get", "ciliumcidrgroup", GROUP])["metadata"]["generation"].as_i64();
    let before = version().expect("a number");
    interface.add("2001:db8:cccc:ddd1::10");
    interface.remove("2001:db8:aaaa:bbb1::10");
    for node in &nodes {
        cluster.wait_group("2001:db8:cccc:ddd", node);
    }
    wait("all publish", &|| all("2001:db8:cccc:ddd1::/64"));
    std::thread::sleep(Duration::from_secs(3));
    let written = version().expect("a number") - before;
    assert!(written <= 2, "{written} writes of the group for one renumbering");
    for node in &nodes {
        assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 0, "{:#?}", node.log());
    }
    println!("   {written} writes of the group for a renumbering that three nodes saw");
}

/// The kubelet replaces a token long before it expires. If it did not, k6u would wait for a new one.
pub fn a_token_expires(cluster: &mut Cluster, binary: &Path) {
    // The API server lets a token live a minute longer (go-jose, jwt.DefaultLeeway).
    cluster.give_token(&cluster.key.limited(&cluster.token(), 5 - 60));
    let node = cluster.run_as(binary, NODE);
    node.wait_log("DEBUG round: ", PATIENCE);
    assert_eq!(node.count(" WARN "), 0, "{:#?}", node.log());
    node.wait_log("401 Unauthorized", PATIENCE);
    cluster.give_token(&cluster.token());
    node.wait_log("API server: recovered", PATIENCE);
    // Two lines at most: one for the group, if a round met the error there, and one for the API server.
    let (group, all) = (
        format!(" WARN  CiliumCIDRGroup {GROUP}: "),
        node.count(" WARN ") + node.count(" ERROR "),
    );
    assert_eq!(node.count(" WARN  API server: "), 1, "{:#?}", node.log());
    assert!(node.count(&group) <= 1, "{:#?}", node.log());
    assert_eq!(all, 1 + node.count(&group), "{:#?}", node.log());
}

/// k6u deploys its CRDs, whose storage the API server then sets up, and does it again when they are deleted.
pub fn an_empty_cluster(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    cluster.kubectl(&["delete", "ciliumcidrgroup", GROUP]);
    cluster.kubectl(&["apply", "-f", "manifests/rbac.yaml"]);
    let node = cluster.run(binary);
    node.wait_log("no IP6UpdateNodeConfig selects node", PATIENCE);
    cluster.kubectl(&["apply", "-f", CONFIG, "-f", NODE_CONFIG]);
    cluster.wait_group("2001:db8:cccc:ddd", &node);
    assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 0, "{:#?}", node.log());
    println!(
        "   storage was being set up in {} requests",
        node.count("storage is (re)initializing")
    );
    cluster.kubectl(&["delete", "-f", "manifests/crds.yaml"]);
    let deadline = Instant::now() + PATIENCE;
    while node.count("the CRDs of this release are deployed") < 2 {
        assert!(Instant::now() < deadline, "{:#?}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    interface.add("2001:db8:eeee:fff1::10");
    interface.remove("2001:db8:cccc:ddd1::10");
    let deadline = Instant::now() + PATIENCE;
    while !cluster.try_kubectl(&["apply", "-f", CONFIG, "-f", NODE_CONFIG], "").0 {
        assert!(Instant::now() < deadline, "{:#?}", node.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.wait_group("2001:db8:eeee:fff", &node);
    cluster.kubectl(&[
        "delete",
        "--ignore-not-found",
        "-f",
        "manifests/crds.yaml",
        "-f",
        "manifests/rbac.yaml",
    ]);
}

/// `make uninstall` and `make purge` remove k6u first, and then the users' objects; the groups stay.
pub fn uninstall(cluster: &mut Cluster) {
    cluster.kubectl(&["delete", "--ignore-not-found", "-k", "manifests"]);
    // The rights of the components, as in make uninstall.
    let rights = "clusterroles,clusterrolebindings,roles,rolebindings";
    let label = "app.kubernetes.io/name=k6u";
    cluster.kubectl(&["delete", "--ignore-not-found", "--all-namespaces", "-l", label, rights]);
    let roles = cluster.kubectl(&["get", "roles,rolebindings", "--all-namespaces", "-o", "name"]);
    assert!(!roles.contains("k6u"), "{roles}");
    let clusterroles = cluster.kubectl(&["get", "clusterroles", "-o", "name"]);
    assert!(!clusterroles.contains("k6u"), "{clusterroles}");
    cluster.kubectl(&["get", "ip6uc/ip6-update-config", "ip6unc/ip6-update-node1"]);
    cluster.kubectl(&["delete", "--ignore-not-found", "-f", "manifests/crds.yaml"]);
    let crds = cluster.kubectl(&["get", "crd", "-o", "name"]);
    assert!(!crds.contains("fuwafuwatime"), "{crds}");
    cluster.kubectl(&["get", "ciliumcidrgroup", GROUP]);
}
