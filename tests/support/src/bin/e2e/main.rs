//! `make e2e`: the main job, the schemas and the upgrade on a real control plane.
//!
//! etcd and kube-apiserver come from $KUBEBUILDER_ASSETS (the envtest convention), kubectl from the PATH.
//! All of it runs in a user and network namespace of its own. The argument is the k6u binary.

#![allow(clippy::pedantic)]

mod api;
mod chart;
mod cluster;
mod lifecycle;
mod refusals;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;

use k6u_testkit::machine::namespace::{self, Interface};

use crate::cluster::Cluster;

const CRDS_OF_0_3: &str = "tests/data/crds-0.3.yaml";
const CILIUM_POLICIES: &str = "tests/data/ciliumnetworkpolicies.yaml";
const CILIUM: &str = "tests/support/cilium/ciliumcidrgroups-1.18.yaml";
const CONFIG: &str = "manifests/examples/config.yaml";
const NODE_CONFIG: &str = "manifests/examples/nodeconfig.yaml";
const POLICIES: [&str; 3] = [
    "manifests/examples/networkpolicy.yaml",
    "manifests/examples/networkpolicy-to-lan.yaml",
    "manifests/examples/networkpolicy-internet.yaml",
];

fn main() -> ExitCode {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let complete = |folder: &PathBuf| {
        ["etcd", "kube-apiserver"]
            .iter()
            .all(|program| folder.join(program).exists())
    };
    let Some(assets) = assets.filter(complete) else {
        eprintln!("e2e: KUBEBUILDER_ASSETS does not name a folder with etcd and kube-apiserver.");
        eprintln!("     go install sigs.k8s.io/controller-runtime/tools/setup-envtest@latest");
        eprintln!("     export KUBEBUILDER_ASSETS=$(setup-envtest use -p path)");
        return ExitCode::FAILURE;
    };
    let Some(binary) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("e2e: name the k6u binary");
        return ExitCode::from(2);
    };
    if let Err(e) = namespace::enter() {
        eprintln!("e2e: this machine forbids user and network namespaces: {e}");
        return ExitCode::FAILURE;
    }
    let mut cluster = Cluster::start(&assets);
    let interface = Interface::named("eth0");
    interface.add("2001:db8:1234:5671::10");
    let tests: [(&str, &Test); 17] = [
        ("upgrade_from_0_3", &|c| lifecycle::upgrade_from_0_3(c, &binary)),
        ("install_and_main_job", &|c| {
            lifecycle::install_and_main_job(c, &binary, &interface)
        }),
        ("kubectl_output", &|c| api::kubectl_output(c, &binary)),
        ("schemas_refuse_invalid_objects", &|c| {
            api::schemas_refuse_invalid_objects(c)
        }),
        ("least_privilege", &|c| api::least_privilege(c)),
        ("each_kind_of_target", &|c| targets::each_kind(c, &binary, &interface)),
        ("drift_is_restored_and_a_right_list_kept", &|c| {
            lifecycle::drift_is_restored_and_a_right_list_kept(c, &binary)
        }),
        ("a_webhook_that_is_down", &|c| {
            refusals::a_webhook_that_is_down(c, &binary, &interface)
        }),
        ("statuses_that_are_refused", &|c| {
            refusals::statuses_that_are_refused(c, &binary, &interface)
        }),
        ("crds_that_are_refused", &|c| {
            refusals::crds_that_are_refused(c, &binary, &interface)
        }),
        ("events_in_order", &|c| {
            refusals::events_in_order(c, &binary, &interface)
        }),
        ("api_server_restart", &|c| {
            lifecycle::api_server_restart(c, &binary, &interface)
        }),
        ("three_nodes_on_one_node_config", &|c| {
            lifecycle::three_nodes_on_one_node_config(c, &binary, &interface)
        }),
        ("a_token_expires", &|c| lifecycle::a_token_expires(c, &binary)),
        ("uninstall", &|c| lifecycle::uninstall(c)),
        ("an_empty_cluster", &|c| {
            lifecycle::an_empty_cluster(c, &binary, &interface)
        }),
        ("helm_install_upgrade_uninstall", &|c| {
            chart::helm_install_upgrade_uninstall(c, &binary)
        }),
    ];
    // The last test needs Helm's library.
    let has_helm = chart::has_helm();
    if !has_helm {
        eprintln!(
            "SKIPPED, NOT PASSED: helm_install_upgrade_uninstall needs helm-python-sdk: scripts/ci-tools.sh installs it"
        );
        if std::env::var("K6U_STRICT").is_ok_and(|strict| strict == "1") {
            return ExitCode::FAILURE;
        }
    }
    let tests = &tests[..tests.len() - usize::from(!has_helm)];
    for (name, test) in tests {
        test(&mut cluster);
        println!("test e2e::{name} ... ok");
    }
    println!("{} passed, 0 failed", tests.len());
    ExitCode::SUCCESS
}

/// A test on a control plane; panics if it fails.
type Test<'a> = dyn Fn(&mut Cluster) + 'a;
