//! Memory with the largest configs, and with answers of any shape and of the maximum length that k6u reads.

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::{CONFIG, GROUP};
use k6u_testkit::machine::node::Node;
use serde_json::Value;

use crate::measure::Subject;
use crate::report::Report;
use crate::site::{CONFIGS, NODE_CONFIGS, Site, kib};

const GROUPS: usize = 16;
const IDS: usize = 256;
const PREFIXES: usize = 64;
/// The size of an answer. k6u reads up to 4 MiB.
const SIZE: usize = 4_000_000;

impl Subject {
    /// The budget in KiB. The design bounds the musl binary, which users run. glibc takes a MiB more from the start, and its
    /// allocator keeps room that a large buffer leaves.
    fn load_budget(&self) -> Option<f64> {
        Some(if self.musl { 8192.0 } else { 12_288.0 })
    }

    /// Measures peaks of resident memory. An object that is too large may fail instead.
    pub fn memory_under_load(&self, report: &mut Report) {
        report.measure_on(&format!("k6u, {}", self.library()));
        self.memory_with_large_groups(report);
        for path in [
            CONFIGS,
            NODE_CONFIGS,
            &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        ] {
            let site = Site::new(1, 1, 1);
            let node = site.start(&self.binary).with("UPDATE_INTERVAL", "1").spawn();
            site.wait_rounds(3, &node);
            for body in bodies(path.ends_with('s')) {
                let answer = Fault::Answer(Response::new(200, "application/json", body));
                site.server.inject(Plan::on(&format!("GET {path}"), 1, answer));
                let before = site.server.store().log.len();
                let asked = |store: &Store| {
                    store.log[before..]
                        .iter()
                        .any(|logged| logged.line == format!("GET {path}"))
                };
                site.wait(&node, |store| asked(store).then_some(()));
                site.wait_rounds(2, &node);
            }
            let name = path.rsplit('/').next().unwrap_or(path);
            let peak = kib(node.id(), "status", "VmHWM:");
            report.add(
                &format!("peak with answers of 4 MB for {name}"),
                "KiB",
                &[peak],
                self.load_budget(),
            );
        }
    }

    fn memory_with_large_groups(&self, report: &mut Report) {
        let ids: Vec<String> = (0..IDS).map(|id| id.to_string()).collect();
        let group = |n: usize| {
            format!(
                "  - ciliumCIDRGroupName: group-{n}\n    prefixIds: [{}]\n",
                ids.join(", ")
            )
        };
        let (head, _) = CONFIG.split_once("  - ciliumCIDRGroupName").expect("a list of groups");
        let head = head.replace("delegatedPrefixLength: 60", "delegatedPrefixLength: 56");
        let site = Site::with_configs(&format!("{head}{}", (0..GROUPS).map(group).collect::<String>()));
        (1..PREFIXES).for_each(|n| site.interface.add(&format!("2001:db8:{:x}:5601::10", 0x3000 + n)));
        let node = site.start(&self.binary).with("UPDATE_INTERVAL", "1").spawn();
        let is_written = |store: &Store, n: usize| {
            cidrs(store, &format!("group-{n}")).is_some_and(|cidrs| cidrs.len() == IDS * PREFIXES)
        };
        let written = |store: &Store| (0..GROUPS).filter(|n| is_written(store, *n)).count();
        site.wait(&node, |store| {
            (written(store) == GROUPS || has_failed(store)).then_some(())
        });
        site.wait_rounds(3, &node);
        let what = format!("{GROUPS} groups of {IDS} ids, {PREFIXES} prefixes");
        add_memory(report, &what, &node, self.load_budget());
        let written = written(&site.server.store());
        report.add("  of them written", "", &[written as f64], None);
    }
}

fn add_memory(report: &mut Report, what: &str, node: &Node, budget: Option<f64>) {
    let resident = kib(node.id(), "smaps_rollup", "Rss:");
    report.add(&format!("{what}: resident"), "KiB", &[resident], budget);
    report.add("  its peak", "KiB", &[kib(node.id(), "status", "VmHWM:")], budget);
}

/// Whether a config reports that one of its targets fails.
fn has_failed(store: &Store) -> bool {
    let is_failure = |condition: &Value| condition["reason"] == "UpdateFailed";
    let configs = store
        .objects
        .iter()
        .filter(|(key, _)| key.resource == "ip6updateconfigs");
    let mut conditions =
        configs.flat_map(|(_, config)| config["status"]["conditions"].as_array().into_iter().flatten());
    conditions.any(is_failure)
}

/// Answers that would take the most memory if they were kept.
fn bodies(is_list: bool) -> Vec<String> {
    let repeated = |item: &str| format!("{item}{}", format!(",{item}").repeat(SIZE / (item.len() + 1)));
    let text = format!("\"{}\"", "x".repeat(SIZE / 1000));
    let cidr = r#""2001:db8:1234:5671::/64""#;
    let inside = [
        repeated("1"),
        repeated(cidr),
        repeated("{\"cidr\":1}"),
        vec![text; 1000].join(","),
        repeated("[1]"),
        format!("{}{}", "[".repeat(SIZE / 2), "]".repeat(SIZE / 2)),
        format!("\"{}\"", r"\u0000".repeat(SIZE / 6)),
        " ".repeat(31 << 20),
    ];
    let object = |values: &String| {
        format!(
            r#"{{"metadata":{{"name":"a","resourceVersion":"1"}},"spec":{{"externalCIDRs":[{values}],"targets":1}}}}"#
        )
    };
    let mut bodies: Vec<String> = inside.iter().map(object).collect();
    if is_list {
        bodies = bodies.iter().map(|body| format!(r#"{{"items":[{body}]}}"#)).collect();
        for item in [
            "0",
            r#"{"metadata":{}}"#,
            r#"{"spec":{"a":{"b":{"c":{}}}},"status":{"nodes":{"a":{}}}}"#,
        ] {
            bodies.push(format!(r#"{{"items":[{}]}}"#, repeated(item)));
        }
    }
    bodies
}
