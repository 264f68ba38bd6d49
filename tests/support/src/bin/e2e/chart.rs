//! The Helm chart with Helm's own library: installation, upgrade and removal.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k6u_testkit::example::GROUP;
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::Node;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE};

/// Whether $HELM_PYTHON has Helm's library.
pub fn has_helm() -> bool {
    std::env::var_os("HELM_PYTHON").is_some_and(|python| {
        let import = Command::new(python)
            .args(["-c", "import helm_python"])
            .stderr(Stdio::null())
            .status();
        import.is_ok_and(|status| status.success())
    })
}

/// Runs scripts/helm.py with a command for the release k6u in kube-system.
fn try_helm(cluster: &Cluster, command: &str, values: &Value) -> Result<Value, String> {
    let kubeconfig = cluster.folder.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {
            "server": cluster.address(),
            "certificate-authority": cluster.folder.join("certs/apiserver.crt"),
        }}],
        "users": [{"name": "e2e", "user": {"token": "admin-token"}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        "current-context": "e2e",
    });
    fs::write(&kubeconfig, config.to_string()).expect("a file");
    let mut child = Command::new(std::env::var_os("HELM_PYTHON").expect("HELM_PYTHON"))
        .args(["scripts/helm.py", command, "charts/k6u"])
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let request = json!([{"name": "k6u", "namespace": "kube-system", "values": values}]);
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(request.to_string().as_bytes()).expect("its input");
    drop(stdin);
    let output = child.wait_with_output().expect("its output");
    let answers: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    match answers[0]["error"].as_str() {
        None => Ok(answers[0].clone()),
        Some(error) => Err(error.into()),
    }
}

fn helm(cluster: &Cluster, command: &str, values: &Value) {
    try_helm(cluster, command, values).unwrap_or_else(|e| panic!("helm {command} {values}: {e}"));
}

fn held(cluster: &Cluster) -> Value {
    cluster.json(&["get", "ciliumcidrgroup", GROUP])["spec"]["externalCIDRs"].clone()
}

fn wait(node: &Node, until: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !until() {
        assert!(Instant::now() < deadline, "{:#?}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One command installs the CRDs, k6u with its rights, and the user's objects. An upgrade changes them beside k6u's own
/// writes. An uninstallation leaves the CRDs, and the groups with their content, even if k6u still runs.
pub fn helm_install_upgrade_uninstall(cluster: &mut Cluster, binary: &Path) {
    cluster.kubectl(&["delete", "--ignore-not-found", "ciliumcidrgroup", GROUP]);
    let interface = Interface::named("lan0");
    interface.add("2001:db8:1234:5671::10");
    let group = |ids: &[u32]| json!([{"ciliumCIDRGroupName": GROUP, "prefixIds": ids}]);
    let mut values = json!({"interface": "lan0", "delegatedPrefixLength": 60, "ciliumCIDRGroups": group(&[0, 1, 2])});
    helm(cluster, "install", &values);
    cluster.kubectl(&["get", "ip6uc/k6u", "ip6unc/k6u"]);
    let daemon_set = cluster.json(&["--namespace=kube-system", "get", "daemonset", "k6u"]);
    assert_eq!(daemon_set["spec"]["template"]["spec"]["serviceAccountName"], "k6u");
    // With the rights of the chart and nothing else.
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:1234:567", &node);
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "ip6uc/k6u"]);

    let can = |namespace: &str| {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": "system:serviceaccount:kube-system:k6u",
                "resourceAttributes": {
                    "group": "metallb.io", "resource": "ipaddresspools", "verb": "patch", "namespace": namespace,
                },
            },
        });
        let (_, text) = cluster.try_kubectl(&["create", "-o", "json", "-f", "-"], &review.to_string());
        let review: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        review["status"]["allowed"] == true
    };
    cluster.try_kubectl(&["create", "namespace", "pools"], "");
    assert!(!can("pools"));
    values["ciliumCIDRGroups"] = group(&[3]);
    values["targetRights"] = json!({"IPAddressPool": {"enabled": true, "namespaces": ["pools"]}});
    helm(cluster, "upgrade", &values);
    wait(&node, || can("pools"));
    assert!(!can("kube-system"));
    wait(&node, || held(cluster) == json!(["2001:db8:1234:5673::/64"]));
    // The API server refuses what the schema of the values cannot check, and names the field.
    values["ciliumCIDRGroups"] = group(&[16]);
    let refused = try_helm(cluster, "upgrade", &values).expect_err("an id that does not fit");
    assert!(
        refused.contains("a prefix id does not fit the delegated prefix"),
        "{refused}"
    );
    values["ciliumCIDRGroups"] = group(&[3]);
    helm(cluster, "upgrade", &values);

    helm(cluster, "uninstall", &json!({}));
    // The rights are gone before the pods are.
    let seen = node.log().len();
    wait(&node, || node.log().len() > seen);
    drop(node);
    assert_eq!(held(cluster), json!(["2001:db8:1234:5673::/64"]));
    let left = cluster.kubectl(&[
        "get",
        "clusterroles,clusterrolebindings,roles,rolebindings,ip6uc,ip6unc",
        "-A",
        "-o",
        "name",
    ]);
    assert!(!left.contains("k6u"), "{left}");
    let (found, _) = cluster.try_kubectl(&["--namespace=kube-system", "get", "daemonset", "k6u"], "");
    assert!(!found);
    assert!(
        cluster
            .kubectl(&["get", "crd", "-o", "name"])
            .contains("ip6updateconfigs")
    );

    // The CRDs of the first installation are no obstacle.
    helm(cluster, "install", &values);
    cluster.kubectl(&["get", "ip6uc/k6u", "ip6unc/k6u"]);
    helm(cluster, "uninstall", &json!({}));
    cluster.kubectl(&["delete", "-f", "manifests/crds.yaml"]);
}
