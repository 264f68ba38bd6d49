//! Checks of the manifests: the release, what deleting them removes, the references in the examples, and the copies in
//! the Helm chart.

#![allow(clippy::pedantic)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_yaml::Value;

const DAEMON_SET: &str = include_str!("../manifests/daemonset.yaml");
const CRDS: &str = include_str!("../manifests/crds.yaml");
const RBAC: &str = include_str!("../manifests/rbac.yaml");
const KUSTOMIZATION: &str = include_str!("../manifests/kustomization.yaml");
const CONFIG: &str = include_str!("../manifests/examples/config.yaml");
const POLICIES: [&str; 3] = [
    include_str!("../manifests/examples/networkpolicy.yaml"),
    include_str!("../manifests/examples/networkpolicy-to-lan.yaml"),
    include_str!("../manifests/examples/networkpolicy-internet.yaml"),
];

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("YAML")
}

fn pod() -> Value {
    yaml(DAEMON_SET)["spec"]["template"]["spec"].clone()
}

#[test]
fn the_daemon_set_runs_this_release_and_starts_without_the_registry() {
    let container = &pod()["containers"][0];
    let image = container["image"].as_str().unwrap();
    let tag = image.rsplit_once(':').unwrap().1;
    assert_eq!(tag, env!("CARGO_PKG_VERSION"), "image of manifests/daemonset.yaml");
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn the_pod_runs_on_control_planes_and_is_evicted_last() {
    assert_eq!(pod()["priorityClassName"], "system-node-critical");
    let tolerations = pod()["tolerations"].as_sequence().unwrap().clone();
    let tolerated = |key: &str| tolerations.iter().any(|toleration| toleration["key"] == key);
    assert!(tolerated("node-role.kubernetes.io/control-plane"));
    // A comment above each toleration gives the reason.
    let lines: Vec<&str> = DAEMON_SET.lines().map(str::trim).collect();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("- key: ")) {
        assert!(lines[at - 1].starts_with("# "), "{line} has no comment");
    }
}

/// A SIGTERM that comes while the container starts is lost, and the pod ends after this time.
#[test]
fn a_pod_that_misses_its_signal_ends_soon() {
    assert_eq!(pod()["terminationGracePeriodSeconds"], 5);
    let reference = include_str!("../docs/reference.md");
    assert!(reference.contains("the DaemonSet's grace period of 5 s"));
}

/// Each place that recommends a limit shows the same table.
#[test]
fn the_costs_of_the_cpu_limit_are_the_same_everywhere() {
    let limit = pod()["containers"][0]["resources"]["limits"]["cpu"].clone();
    let rows = |text: &'static str| -> Vec<&str> {
        let lines = text.lines().map(|line| line.trim_start_matches("# "));
        let mut lines = lines.skip_while(|line| !line.starts_with("| CPU limit |"));
        lines.by_ref().take_while(|line| line.starts_with('|')).collect()
    };
    let measured = rows(include_str!("../docs/performance.md"));
    assert_eq!(measured.len(), 6, "{measured:#?}");
    let shipped = format!("| {}, as shipped |", limit.as_str().unwrap());
    assert!(measured[2].starts_with(&shipped), "{measured:#?}");
    for text in [
        include_str!("../README.md"),
        include_str!("../docs/reference.md"),
        include_str!("../charts/k6u/values.yaml"),
    ] {
        assert_eq!(rows(text), measured);
        assert!(text.contains("50m costs no more at rest"));
    }
}

/// The output of scripts/next-steps.sh, the end of `make install`, with these objects in the cluster.
fn next_steps(objects: &[&str]) -> String {
    let folder = std::env::temp_dir().join(format!("k6u-next-steps-{}-{}", std::process::id(), objects.len()));
    fs::create_dir_all(&folder).unwrap();
    let kubectl = folder.join("kubectl");
    // kubectl get KIND -o name
    let list = objects
        .iter()
        .map(|name| format!("case {name} in $2*) echo {name};; esac\n"));
    fs::write(&kubectl, list.collect::<String>()).unwrap();
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/next-steps.sh"))
        .env("KUBECTL", format!("sh {}", kubectl.display()))
        .output()
        .unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn next_steps_name_missing_objects() {
    let (config, interface) = ("ip6updateconfigs/a", "ip6updatenodeconfigs/b");
    for objects in [&[][..], &[config], &[interface], &[config, interface]] {
        let output = next_steps(objects);
        let shows = |part: &str| output.contains(part);
        assert_eq!(shows("examples/config.yaml"), !objects.contains(&config), "{output}");
        assert_eq!(
            shows("examples/nodeconfig.yaml"),
            !objects.contains(&interface),
            "{output}"
        );
        assert_eq!(shows("left to do"), objects.len() < 2, "{output}");
        assert_eq!(shows("kubectl apply"), objects.len() < 2, "{output}");
        assert!(shows("kubectl get ip6uc"), "{output}");
    }
}

#[test]
fn events_are_created_in_one_namespace_only() {
    let rights = |kind: &str| -> Vec<(Value, Value)> {
        let documents = RBAC.split("\n---\n").map(yaml).filter(|object| object["kind"] == kind);
        let rules = documents.flat_map(|role| {
            let rules = role["rules"].as_sequence().unwrap().clone();
            rules.into_iter().map(move |rule| (role["metadata"].clone(), rule))
        });
        let is_events = |rule: &Value| rule["resources"].as_sequence().unwrap().contains(&"events".into());
        rules.filter(|(_, rule)| is_events(rule)).collect()
    };
    assert_eq!(rights("ClusterRole"), []);
    let [(metadata, rule)] = &rights("Role")[..] else {
        panic!("one Role has it");
    };
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(rule["verbs"], yaml("[create]"));
    let binding = RBAC
        .split("\n---\n")
        .map(yaml)
        .find(|object| object["kind"] == "RoleBinding")
        .unwrap();
    assert_eq!(binding["metadata"]["namespace"], "default");
    assert_eq!(binding["roleRef"]["name"], metadata["name"]);
    assert_eq!(binding["subjects"][0]["name"], "k6u");
    assert_eq!(binding["subjects"][0]["namespace"], "kube-system");
}

#[test]
fn deleting_the_manifests_leaves_the_crds() {
    let kustomization = yaml(KUSTOMIZATION);
    let resources = kustomization["resources"].as_sequence().unwrap();
    assert!(resources.iter().any(|name| name == "daemonset.yaml"));
    assert!(!resources.iter().any(|name| name == "crds.yaml"));
    for document in serde_yaml::Deserializer::from_str(CRDS) {
        let crd = Value::deserialize(document).unwrap();
        let annotations = &crd["metadata"]["annotations"];
        assert_eq!(
            annotations["argocd.argoproj.io/sync-options"],
            "Prune=false,Delete=false"
        );
        assert_eq!(annotations["kustomize.toolkit.fluxcd.io/prune"], "disabled");
    }
}

#[test]
fn the_policies_refer_to_the_group_of_the_example() {
    let config = yaml(CONFIG);
    let group = config["spec"]["ciliumCIDRGroups"][0]["ciliumCIDRGroupName"]
        .as_str()
        .unwrap();
    for policy in POLICIES {
        let refers = |line: &str| line.trim() == format!("- cidrGroupRef: {group}");
        assert!(policy.lines().any(refers), "{policy}");
    }
}

#[test]
fn the_chart_repeats_the_manifests() {
    for (path, text) in k6u_testkit::chart::files(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == text,
            "{} differs from manifests/: make chart-sync writes it",
            path.display()
        );
        // Helm would package a link as what it points to; not every checkout has links.
        assert!(!path.is_symlink(), "{}", path.display());
    }
}

#[test]
fn the_chart_is_of_this_release() {
    let chart = yaml(include_str!("../charts/k6u/Chart.yaml"));
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field} in Chart.yaml");
    }
}
