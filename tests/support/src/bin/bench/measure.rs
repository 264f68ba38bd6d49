//! The measurements.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::{ApiServer, Cilium};
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::{CONFIG, CRDS, GROUP, NODE, NODE_CONFIG, RBAC, follows_since};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::{Account, Node, Start};
use k6u_testkit::skip::skip;
use serde_json::{Value, json};

use crate::limits::Limits;
use crate::report::Report;

const PATIENCE: Duration = Duration::from_secs(120);
/// Between the coming of a new address and the going of the old one, where these are two steps.
const BETWEEN_STEPS: Duration = Duration::from_millis(300);
/// Instructions of an idle round, as measured when the code was last looked at for them.
const BASELINE: &str = include_str!("../../../../data/bench-baseline.json");

/// What is measured.
pub struct Subject {
    pub binary: PathBuf,
    pub rounds: PathBuf,
    /// Whether its C library is musl, as in the image that users run.
    pub musl: bool,
    pub full: bool,
}

/// A cluster with one interface.
struct Site {
    server: ApiServer,
    account: Account,
    interface: Interface,
}

impl Site {
    /// One config with so many groups, and `configs` of them. In the status are entries of so many `nodes`; one of
    /// them is this node's, because k6u was restarted: a new node takes nothing out of lists at first.
    fn new(groups: usize, configs: usize, nodes: usize) -> Self {
        let server = ApiServer::start("127.0.0.1", Some(Cilium::Both), RBAC).expect("a server");
        let account = Account::new(&server);
        let interface = Interface::new();
        interface.add("2001:db8:1234:5671::10");
        server.apply_crds(CRDS, "kubectl");
        let extra: String = (1..groups)
            .map(|n| format!("  - ciliumCIDRGroupName: group-{n}\n    prefixIds: [{}]\n", n % 16))
            .collect();
        server.create(&format!("{CONFIG}{extra}"));
        for number in 1..configs {
            let config = CONFIG.replace("ip6-update-config", &format!("config-{number}"));
            server.create(&config.replace(GROUP, &format!("of-config-{number}")));
        }
        server.create(&NODE_CONFIG.replace("eth0", &interface.name));
        let time = k6u_testkit::apiserver::api::timestamp(server.now());
        let entry = |n: usize| {
            let entry = json!({"prefixes": [format!("2001:db8:1234:567{:x}::/64", n % 16)],
                "observedTime": time, "message": ""});
            let name = if n == 1 {
                NODE.into()
            } else {
                format!("other{n}.example.com")
            };
            (name, entry)
        };
        let entries: serde_json::Map<String, Value> = (1..=nodes).map(entry).collect();
        let path = "/apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs/ip6-update-node1/status";
        server.admin(
            "PATCH",
            path,
            "application/merge-patch+json",
            &json!({"status": {"nodes": entries}}),
        );
        Site {
            server,
            account,
            interface,
        }
    }

    fn start(&self, binary: &Path) -> Start {
        Start::new(binary, &self.server, &self.account, NODE)
    }

    /// Waits until so many rounds began since now.
    fn wait_rounds(&self, rounds: usize, node: &Node) {
        let list = "GET /apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs";
        let count = |store: &Store| store.log.iter().filter(|logged| logged.line.starts_with(list)).count();
        let before = count(&self.server.store());
        let reached = self
            .server
            .wait(PATIENCE, |store| (count(store) >= before + rounds).then_some(()));
        reached.unwrap_or_else(|| panic!("{:#?}", node.log()))
    }

    /// Waits until the group follows; gives the milliseconds since `begun`.
    fn follows(&self, begun: Instant, start: &str, node: &Node) -> f64 {
        let at = self.server.wait(PATIENCE, |store| follows_since(store, start));
        at.unwrap_or_else(|| panic!("{:#?}", node.log()))
            .duration_since(begun)
            .as_secs_f64()
            * 1e3
    }
}

/// A field of /proc/PID/status or smaps_rollup in KiB.
fn kib(process: u32, file: &str, field: &str) -> f64 {
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

impl Subject {
    fn runs(&self) -> usize {
        if self.full { 20 } else { 3 }
    }

    /// KiB at rest.
    fn resident_budget(&self) -> Option<f64> {
        Some(if self.musl { 2048.0 } else { 3072.0 })
    }

    /// KiB at the most.
    fn peak_budget(&self) -> Option<f64> {
        Some(if self.musl { 3072.0 } else { 4096.0 })
    }

    /// Runs the rounds example, with so long a sleep before each round; gives its line.
    fn run_rounds(&self, site: &Site, rounds: u64, pause: Duration, before: &[&str]) -> Value {
        let start = site.start(&self.rounds);
        let mut words: Vec<String> = before.iter().map(|word| word.to_string()).collect();
        words.push(self.rounds.display().to_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(rounds.to_string())
            .arg(pause.as_millis().to_string())
            .envs(start.environment.clone());
        let output = command.stderr(Stdio::piped()).output().expect("the example starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut line: Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}{stderr}"));
        line["stderr"] = json!(stderr);
        line
    }

    /// Processor time of an idle round after a second of sleep, as k6u makes it on a node: caches are cold then.
    pub fn idle(&self, report: &mut Report) {
        const ROUNDS: u64 = 30;
        for (nodes, budget) in [(1, Some(1000.0)), (10, Some(1000.0)), (100, Some(1000.0))] {
            let site = Site::new(1, 1, nodes);
            let line = self.run_rounds(&site, ROUNDS, Duration::from_secs(1), &[]);
            report.add(
                &format!("CPU of an idle round, nodes: {nodes}"),
                "us",
                &cpu(&line),
                budget,
            );
        }
    }

    /// Resident memory of the real binary after its first idle rounds, split, and its threads.
    pub fn memory(&self, report: &mut Report) {
        let (mut resident, mut anonymous, mut file, mut peak, mut threads) = (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let begun = Instant::now();
            let node = site.start(&self.binary).with("UPDATE_INTERVAL", "1").spawn();
            site.follows(begun, "2001:db8:1234:567", &node);
            site.wait_rounds(3, &node);
            resident.push(kib(node.id(), "smaps_rollup", "Rss:"));
            anonymous.push(kib(node.id(), "smaps_rollup", "Anonymous:"));
            file.push(kib(node.id(), "status", "RssFile:"));
            peak.push(kib(node.id(), "status", "VmHWM:"));
            threads.push(kib(node.id(), "status", "Threads:"));
        }
        report.add(
            "resident memory after its first idle rounds",
            "KiB",
            &resident,
            self.resident_budget(),
        );
        report.add("  of it anonymous", "KiB", &anonymous, None);
        report.add("  of it file-backed", "KiB", &file, None);
        report.add("peak of resident memory", "KiB", &peak, self.peak_budget());
        report.add("threads", "", &threads, Some(1.0));
    }

    /// A thousand idle rounds: processor time, memory, requests, bytes, writes, connections.
    pub fn rounds(&self, report: &mut Report) {
        const ROUNDS: u64 = 1000;
        let (mut resident, mut peak, mut requests, mut connections) = (vec![], vec![], vec![], vec![]);
        let (mut writes, mut bytes) = (vec![], vec![]);
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let line = self.run_rounds(&site, ROUNDS, Duration::ZERO, &[]);
            let number = |field: &str| line[field].as_f64().expect("a number");
            resident.push(number("resident_kib"));
            peak.push(number("peak_kib"));
            requests.push(number("requests") / ROUNDS as f64);
            connections.push(number("connections"));
            let store = site.server.store();
            let idle = &store.log[store.log.len() - (ROUNDS as usize) * 3..];
            writes.push(idle.iter().filter(|logged| !logged.line.starts_with("GET ")).count() as f64);
            bytes.push(idle.iter().map(|logged| logged.bytes.0 + logged.bytes.1).sum::<usize>() as f64 / ROUNDS as f64);
        }
        report.add(
            "resident memory after 1000 rounds",
            "KiB",
            &resident,
            self.resident_budget(),
        );
        report.add("  its peak", "KiB", &peak, self.peak_budget());
        report.add("requests of an idle round", "", &requests, Some(3.0));
        report.add("bytes received in an idle round", "B", &bytes, None);
        report.add("writes in 1000 idle rounds", "", &writes, Some(0.0));
        report.add("connections in 1000 rounds", "", &connections, Some(1.0));
    }

    /// Instructions of an idle round, which do not depend on what else the machine does.
    /// The baseline is that of the glibc build.
    pub fn instructions(&self, report: &mut Report) {
        if !installed("valgrind") {
            skip("valgrind is not installed, so no instructions are counted");
            return;
        }
        let site = Site::new(1, 1, 1);
        let count = |rounds| {
            let words = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
            let line = self.run_rounds(&site, rounds, Duration::ZERO, &words);
            let stderr = line["stderr"].as_str().unwrap_or_default().to_string();
            let refs = stderr.lines().find_map(|line| line.split("Collected :").nth(1));
            refs.and_then(|n| n.trim().parse::<f64>().ok())
                .unwrap_or_else(|| panic!("no count in {stderr}"))
        };
        let per_round: Vec<f64> = (0..self.runs()).map(|_| (count(150) - count(50)) / 100.0).collect();
        let baseline: Value = serde_json::from_str(BASELINE).expect("JSON");
        let baseline = baseline["instructionsPerIdleRound"].as_f64().expect("a number");
        report.add(
            "instructions of an idle round",
            "",
            &per_round,
            (!self.musl).then_some((baseline * 1.05).round()),
        );
    }

    /// System calls of an idle round.
    pub fn system_calls(&self, report: &mut Report) {
        if !installed("strace") {
            skip("strace is not installed, so no system calls are counted");
            return;
        }
        let site = Site::new(1, 1, 1);
        let count = |rounds| {
            let line = self.run_rounds(&site, rounds, Duration::ZERO, &["strace", "-c"]);
            let stderr = line["stderr"].as_str().unwrap_or_default().to_string();
            let total = stderr.lines().find(|line| line.trim_end().ends_with("total"));
            // % time, seconds, usecs/call, calls.
            total
                .and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok())
                .expect("a total")
        };
        let per_round: Vec<f64> = (0..self.runs()).map(|_| (count(150) - count(50)) / 100.0).collect();
        report.add("system calls of an idle round", "", &per_round, None);
    }

    /// What grows with groups, configs and nodes.
    pub fn growth(&self, report: &mut Report) {
        const ROUNDS: u64 = 100;
        for (what, sites) in [
            ("groups", [[1, 1, 1], [10, 1, 1], [100, 1, 1]]),
            ("configs", [[1, 1, 1], [1, 10, 1], [1, 100, 1]]),
            ("nodes", [[1, 1, 1], [1, 1, 10], [1, 1, 100]]),
        ] {
            let mut cost_of_one: Option<[f64; 3]> = None;
            for [groups, configs, nodes] in sites {
                let (mut requests, mut times, mut resident, mut bytes) = (vec![], vec![], vec![], vec![]);
                for _ in 0..self.runs() {
                    let site = Site::new(groups, configs, nodes);
                    let line = self.run_rounds(&site, ROUNDS, Duration::ZERO, &[]);
                    let number = |field: &str| line[field].as_f64().expect("a number");
                    requests.push(number("requests") / ROUNDS as f64);
                    times.push(cpu(&line).iter().sum::<f64>() / ROUNDS as f64);
                    resident.push(number("resident_kib"));
                    let store = site.server.store();
                    let idle = &store.log[store.log.len() - number("requests") as usize..];
                    bytes.push(idle.iter().map(|logged| logged.bytes.1).sum::<usize>() as f64 / ROUNDS as f64);
                }
                let label = format!("with {} {what}", groups.max(configs).max(nodes));
                report.add(&format!("{label}: requests"), "", &requests, None);
                report.add(&format!("{label}: bytes read"), "B", &bytes, None);
                report.add(&format!("{label}: resident"), "KiB", &resident, Some(4096.0));
                if !self.full {
                    continue;
                }
                // A round may cost no more for each answer, or for each byte, than the round of one group does.
                let cost = [median(&times), median(&bytes), median(&requests)];
                let [cpu_of_one, bytes_of_one, requests_of_one] = *cost_of_one.get_or_insert(cost);
                let growth = (cost[1] / bytes_of_one).max(cost[2] / requests_of_one);
                let most = cpu_of_one * growth.max(1.0) * 1.25;
                report.add(&format!("{label}: CPU, no sleep"), "us", &times, Some(most));
            }
        }
    }

    /// From the address to the group, when the new address comes before or after the old one goes, and from the
    /// start to the group.
    pub fn latency(&self, report: &mut Report) {
        let mut starts = vec![];
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let begun = Instant::now();
            let node = site.start(&self.binary).spawn();
            starts.push(site.follows(begun, "2001:db8:1234:567", &node));
        }
        report.add("from start to the first right group", "ms", &starts, None);
        for (how, pause) in [("", Duration::ZERO), (" in two steps", BETWEEN_STEPS)] {
            let site = Site::new(1, 1, 1);
            let node = site.start(&self.binary).with("UPDATE_INTERVAL", "3600").spawn();
            let changes = renumberings(&site, &node, 30, pause);
            report.add(&format!("address to group{how}, p50"), "ms", &changes, Some(10.0));
            let p99 = percentile(&changes, 0.99);
            report.add(&format!("address to group{how}, p99"), "ms", &[p99], Some(50.0));
        }
    }

    /// The same under the pod's limits: what the kubelet makes of 8m CPU and 16Mi memory.
    pub fn latency_limited(&self, report: &mut Report) {
        let Some(limits) = Limits::make() else {
            skip("no control group can be made here (this needs root), so nothing is limited");
            return;
        };
        let start = |site: &Site| {
            let mut command = site.start(&self.binary).with("UPDATE_INTERVAL", "3600").command();
            limits.hold(&mut command);
            Node::of(command.spawn().expect("k6u starts"))
        };
        let mut starts = vec![];
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let begun = Instant::now();
            let node = start(&site);
            starts.push(site.follows(begun, "2001:db8:1234:567", &node));
        }
        report.add("under the pod's limits: start to group", "ms", &starts, None);
        let site = Site::new(1, 1, 1);
        let node = start(&site);
        let changes = renumberings(&site, &node, 20, Duration::ZERO);
        report.add("under the pod's limits: address to group, p50", "ms", &changes, None);
        report.add(
            "under the pod's limits: address to group, p99",
            "ms",
            &[percentile(&changes, 0.99)],
            Some(1000.0),
        );
        drop(node);
    }

    /// From SIGTERM to the end.
    pub fn exit(&self, report: &mut Report) {
        let mut times = vec![];
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let begun = Instant::now();
            let mut node = site.start(&self.binary).spawn();
            site.follows(begun, "2001:db8:1234:567", &node);
            let sent = Instant::now();
            node.signal(libc::SIGTERM);
            node.wait(PATIENCE).expect("it ends");
            times.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        report.add("from SIGTERM to the end", "ms", &times, Some(100.0));
    }
}

/// Lets the provider renumber so often: the new address comes, and the old one goes, at once or after this pause.
/// Gives the milliseconds from the last of it until the group holds the new prefix only.
fn renumberings(site: &Site, node: &Node, count: usize, pause: Duration) -> Vec<f64> {
    site.follows(Instant::now(), "2001:db8:1234:567", node);
    let mut old = "2001:db8:1234:5671".to_string();
    let mut times = Vec::new();
    for number in 0..count {
        // Five changes are reacted to at once, then one in a second; here are two.
        std::thread::sleep(Duration::from_millis(2200));
        let new = format!("2001:db8:{:x}:5671", 0x2000 + number);
        let mut begun = Instant::now();
        site.interface.add(&format!("{new}::10"));
        if !pause.is_zero() {
            std::thread::sleep(pause);
            begun = Instant::now();
        }
        site.interface.remove(&format!("{old}::10"));
        times.push(site.follows(begun, new.strip_suffix('1').expect("it ends so"), node));
        old = new;
    }
    times
}

/// The microseconds of each round.
fn cpu(line: &Value) -> Vec<f64> {
    let rounds = line["cpu_us"].as_array().expect("a list");
    rounds.iter().map(|us| us.as_f64().expect("a number")).collect()
}

fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).ceil() as usize]
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
