//! The cluster that k6u is measured on.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::{ApiServer, Cilium};
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::{CONFIG, CRDS, GROUP, NODE, NODE_CONFIG, RBAC, follows_since};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::{Account, Node, Start};
use serde_json::{Map, Value, json};

/// The time limit of each wait.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The path of the list of IP6UpdateConfigs.
pub const CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updateconfigs";
/// The path of the list of IP6UpdateNodeConfigs.
pub const NODE_CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs";
/// The first delegated prefix of a site, up to its last hex digit.
pub const FIRST: &str = "2001:db8:1234:567";

/// A cluster with one interface.
pub struct Site {
    pub server: ApiServer,
    pub interface: Interface,
    account: Account,
}

impl Site {
    /// A cluster with the configs of a manifest, and this node's IP6UpdateNodeConfig. The interface has one address.
    pub fn with_configs(manifest: &str) -> Self {
        let server = ApiServer::start("127.0.0.1", Some(Cilium::Both), RBAC).expect("a server");
        let account = Account::new(&server);
        let interface = Interface::new();
        interface.add(&format!("{FIRST}1::10"));
        server.apply_crds(CRDS, "kubectl");
        server.create(manifest);
        server.create(&NODE_CONFIG.replace("eth0", &interface.name));
        Site {
            server,
            interface,
            account,
        }
    }

    /// A cluster with `configs` configs, the first with `groups` groups. The status has entries of `nodes` nodes; one
    /// of them is this node's, as after a restart.
    pub fn new(groups: usize, configs: usize, nodes: usize) -> Self {
        let extra: String = (1..groups)
            .map(|n| format!("  - ciliumCIDRGroupName: group-{n}\n    prefixIds: [{}]\n", n % 16))
            .collect();
        let mut manifest = format!("{CONFIG}{extra}");
        for number in 1..configs {
            let config = CONFIG.replace("ip6-update-config", &format!("config-{number}"));
            manifest += &format!("\n---\n{}", config.replace(GROUP, &format!("of-config-{number}")));
        }
        let site = Site::with_configs(&manifest);
        let time = k6u_testkit::apiserver::api::timestamp(site.server.now());
        let entry = |n: usize| {
            let entry = json!({"prefixes": [format!("{FIRST}{:x}::/64", n % 16)], "observedTime": time, "message": ""});
            let name = match n {
                1 => NODE.into(),
                _ => format!("other{n}.example.com"),
            };
            (name, entry)
        };
        let entries: Map<String, Value> = (1..=nodes).map(entry).collect();
        site.server.admin(
            "PATCH",
            &format!("{NODE_CONFIGS}/ip6-update-node1/status"),
            "application/merge-patch+json",
            &json!({"status": {"nodes": entries}}),
        );
        site
    }

    pub fn start(&self, binary: &Path) -> Start {
        Start::new(binary, &self.server, &self.account, NODE)
    }

    /// Waits until this many rounds began since now.
    pub fn wait_rounds(&self, rounds: usize, node: &Node) {
        let list = format!("GET {NODE_CONFIGS}");
        let count = |store: &Store| store.log.iter().filter(|logged| logged.line == list).count();
        let before = count(&self.server.store());
        self.wait(node, |store| (count(store) >= before + rounds).then_some(()));
    }

    /// Waits until the group holds this prefix only. Returns the milliseconds since `begun`.
    pub fn follows(&self, begun: Instant, start: &str, node: &Node) -> f64 {
        millis(begun, self.wait(node, |store| follows_since(store, start)))
    }

    /// Waits until the condition holds.
    pub fn wait<T>(&self, node: &Node, condition: impl FnMut(&Store) -> Option<T>) -> T {
        let reached = self.server.wait(PATIENCE, condition);
        reached.unwrap_or_else(|| panic!("{:#?}", node.log()))
    }
}

/// The milliseconds from one time to another.
pub fn millis(begun: Instant, at: Instant) -> f64 {
    at.duration_since(begun).as_secs_f64() * 1e3
}

/// A field of /proc/PID/status or smaps_rollup in KiB.
pub fn kib(process: u32, file: &str, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/{file}")).expect("the process lives");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .expect("the field");
    line.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number")
}
