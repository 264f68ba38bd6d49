//! Tests of the alert rules of manifests/monitoring, on the objects that k6u writes.
//!
//! k6u's own loop runs on the API server of tests/support in virtual time. Once a minute the objects are converted to
//! samples, as manifests/monitoring/kube-state-metrics.yaml says. promtool tests the rules on these series.

#![allow(clippy::pedantic)]

mod rules;
mod timeline;

use std::time::Duration;

use k6u::agent::Agent;
use k6u::kube::Client;
use k6u::node::Host;
use k6u::node::select::{Observation, Watch};
use k6u::node::wait::Woken;
use k6u::prefix::Prefix;
use k6u::reconcile::Reconciler;
use k6u::schedule::{RoundEnd, Schedule};
use k6u_testkit::apiserver::server::{ApiServer, Cilium};
use k6u_testkit::example::{CRDS, RBAC};
use k6u_testkit::machine::node::Account;
use serde_json::{Value, json};

use rules::{Case, Expected};
use timeline::Timeline;

const INTERVAL: Duration = Duration::from_secs(20);
const GROUP: &str = "/apis/apps.fuwafuwatime.moe/v1";

/// A node in virtual time.
struct Machine {
    now: Duration,
    prefix: String,
}

impl Host for Machine {
    fn now(&self) -> Duration {
        self.now
    }

    fn random(&mut self) -> f64 {
        0.5
    }

    fn observe(&mut self, _: &Watch, _: Option<&[Prefix]>) -> std::io::Result<Observation> {
        Ok(Observation {
            prefixes: vec![self.prefix.parse().expect("a prefix")],
            ..Observation::default()
        })
    }

    fn sleep(&mut self, until: Duration) {
        self.now = until;
    }

    fn wait_for_change(&mut self, until: Duration) -> Woken {
        self.now = until;
        Woken::Timeout
    }
}

struct Node {
    agent: Agent,
    machine: Machine,
}

/// A cluster whose minutes pass at once.
struct Cluster {
    server: ApiServer,
    account: Account,
    nodes: Vec<Node>,
    now: Duration,
    timeline: Timeline,
}

impl Cluster {
    fn new() -> Self {
        let server = ApiServer::start("127.0.0.1", Some(Cilium::Both), RBAC).expect("a server");
        let account = Account::new(&server);
        server.apply_crds(CRDS, "k6u");
        let timeline = Timeline::new(server.now());
        Cluster {
            server,
            account,
            nodes: Vec::new(),
            // The machine has been up for a while.
            now: Duration::from_secs(1000),
            timeline,
        }
    }

    fn create(&self, kind: &str, name: &str, spec: Value) {
        let path = format!("{GROUP}/{}s", kind.to_lowercase());
        let object = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": kind, "metadata": {"name": name},
            "spec": spec});
        self.server.admin("POST", &path, "application/json", &object);
    }

    /// An IP6UpdateConfig with a group of its own.
    fn create_config(&self, name: &str, allowed: &str) {
        let groups = json!([{"ciliumCIDRGroupName": format!("group-{name}"), "prefixIds": [0, 1]}]);
        let spec = json!({"delegatedPrefixLength": 60, "allowedPrefixes": [allowed], "ciliumCIDRGroups": groups});
        self.create("IP6UpdateConfig", name, spec);
    }

    /// Starts k6u on a node.
    fn start(&mut self, name: &str) {
        if name != "node1.example.com" {
            self.server.add_node(name);
        }
        let client = Client::new(format!("https://{}", self.server.address), &self.account.folder);
        let schedule = Schedule::new(INTERVAL);
        let reporter = format!("kube-system/k6u-{name}");
        self.nodes.push(Node {
            agent: Agent::new(Reconciler::new(client, name.into(), reporter, INTERVAL), schedule),
            machine: Machine {
                now: self.now,
                prefix: "2001:db8:1234:5671::/64".into(),
            },
        });
    }

    /// Runs the cluster for this many minutes, and takes samples at the start of each one.
    fn pass(&mut self, minutes: usize) {
        for _ in 0..minutes {
            self.timeline.scrape(&self.server.store());
            for _ in 0..3 {
                self.round();
            }
        }
    }

    fn round(&mut self) {
        self.now += INTERVAL;
        self.server.advance_clock(INTERVAL);
        for node in &mut self.nodes {
            node.machine.now = self.now;
            // Rounds that are due soon happen within the interval.
            for _ in 0..20 {
                let end = node.agent.step(&mut node.machine).end;
                assert!(!matches!(end, RoundEnd::Failed { .. }), "{end:?}");
                if end == RoundEnd::Quiet {
                    break;
                }
                node.machine.now += Duration::from_millis(900);
            }
        }
    }
}

#[test]
fn three_nodes_of_a_site_that_fall_silent() {
    let mut cluster = Cluster::new();
    cluster.create("IP6UpdateNodeConfig", "site", json!({"interface": "eth0"}));
    let office = json!({"kubernetes.io/hostname": "office.example.com"});
    cluster.create(
        "IP6UpdateNodeConfig",
        "office",
        json!({"interface": "eth0", "nodeSelector": office}),
    );
    cluster.create_config("a", "2001:db8::/32");
    cluster.create_config("b", "2a00::/16");
    for name in ["node1.example.com", "node2.example.com", "node3.example.com"] {
        cluster.start(name);
    }
    cluster.pass(10);
    cluster.nodes.pop();
    cluster.pass(20);
    for node in &mut cluster.nodes {
        node.machine.prefix = "2001:db8:9876:5431::/64".into();
    }
    cluster.pass(20);
    cluster.nodes.clear();
    cluster.pass(20);
    // No alert is about a node that left the cluster.
    cluster
        .server
        .store()
        .objects
        .retain(|key, _| key.name != "node3.example.com");
    cluster.pass(10);

    let entries = cluster.timeline.count("k6u_node_observed_timestamp_seconds");
    assert_eq!(
        (entries[9], entries[14], entries[17], entries[69]),
        (3, 3, 2, 2),
        "{entries:?}"
    );

    let not_ready = Expected::new("K6uNotReady", &[("config", "b")]);
    let unpublished = Expected::new("K6uNodeConfigUnpublished", &[("node_config", "office")]);
    let silent = |node| Expected::new("K6uNodeSilent", &[("k6u_node", node)]);
    let (first, second, third) = (
        silent("node1.example.com"),
        silent("node2.example.com"),
        silent("node3.example.com"),
    );
    let changed = Expected::new(
        "K6uPrefixChanged",
        &[("config", "a"), ("prefix", "2001:db8:9876:5430::/60")],
    );
    let mut case = Case::new("three-nodes", &cluster.timeline);
    case.at(5, &[]);
    case.at(9, &[]);
    case.at(12, &[&not_ready, &unpublished]);
    case.at(19, &[&not_ready, &unpublished]);
    case.at(22, &[&not_ready, &unpublished, &third]);
    case.at(29, &[&not_ready, &unpublished, &third]);
    case.at(33, &[&not_ready, &unpublished, &third, &changed]);
    case.at(45, &[&not_ready, &unpublished, &third]);
    case.at(59, &[&not_ready, &unpublished, &third]);
    case.at(62, &[&not_ready, &unpublished, &first, &second, &third]);
    case.at(79, &[&not_ready, &unpublished, &first, &second]);
    case.check();
}

#[test]
fn one_node_config_for_each_node() {
    let mut cluster = Cluster::new();
    let names = ["node1.example.com", "node2.example.com"];
    for name in names {
        let selector = json!({"kubernetes.io/hostname": name});
        cluster.create(
            "IP6UpdateNodeConfig",
            name,
            json!({"interface": "eth0", "nodeSelector": selector}),
        );
        cluster.start(name);
    }
    cluster.create_config("a", "2001:db8::/32");
    cluster.pass(20);
    cluster.nodes.pop();
    cluster.pass(30);
    let unpublished = Expected::new("K6uNodeConfigUnpublished", &[("node_config", names[1])]);
    let silent = Expected::new("K6uNodeSilent", &[("k6u_node", names[1])]);
    let mut case = Case::new("one-each", &cluster.timeline);
    case.at(15, &[]);
    case.at(29, &[]);
    case.at(32, &[&silent]);
    // The entry is removed after five minutes, and the alert fires ten minutes later.
    case.at(40, &[&silent, &unpublished]);
    case.at(49, &[&silent, &unpublished]);
    case.check();
}

#[test]
fn k6u_does_not_run_and_its_objects_are_deleted() {
    let mut cluster = Cluster::new();
    cluster.create("IP6UpdateNodeConfig", "site", json!({"interface": "eth0"}));
    cluster.create_config("a", "2001:db8::/32");
    cluster.pass(15);
    cluster
        .server
        .store()
        .objects
        .retain(|key, _| key.group != "apps.fuwafuwatime.moe");
    cluster.pass(25);
    let not_ready = Expected::new("K6uNotReady", &[("config", "a")]);
    let unpublished = Expected::new("K6uNodeConfigUnpublished", &[("node_config", "site")]);
    let none = Expected::new("K6uNoConfig", &[]);
    let mut case = Case::new("no-k6u", &cluster.timeline);
    case.at(9, &[]);
    case.at(11, &[&not_ready, &unpublished]);
    case.at(28, &[]);
    case.at(31, &[&none]);
    case.check();
}
