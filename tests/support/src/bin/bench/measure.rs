//! The measurements.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k6u_testkit::skip::skip;
use serde_json::{Value, json};

use crate::report::{Report, median};
use crate::site::{FIRST, PATIENCE, Site, kib};

/// The last accepted measurement of the instructions of an idle round.
const BASELINE: &str = include_str!("../../../../data/bench-baseline.json");

/// The binary that is measured.
pub struct Subject {
    pub binary: PathBuf,
    pub rounds: PathBuf,
    /// Whether its C library is musl, as in the image that users run.
    pub musl: bool,
    pub full: bool,
}

impl Subject {
    pub fn runs(&self) -> usize {
        if self.full { 20 } else { 3 }
    }

    /// Its C library.
    pub fn library(&self) -> &'static str {
        if self.musl { "musl" } else { "glibc" }
    }

    fn measure_on(&self, report: &mut Report, program: &str) {
        report.measure_on(&format!("{program}, {}", self.library()));
    }

    /// The budget at rest, in KiB.
    fn resident_budget(&self) -> Option<f64> {
        // With glibc two steps of fault-around (64 KiB each) depend on the layout of the binary.
        Some(if self.musl { 2048.0 } else { 3072.0 + 128.0 })
    }

    /// The budget of the peak, in KiB.
    fn peak_budget(&self) -> Option<f64> {
        Some(if self.musl { 3072.0 } else { 4096.0 })
    }

    /// Runs the rounds example with this pause before each round. Returns its line.
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

    /// Processor time of an idle round after a second of sleep, with cold caches, as on a node.
    pub fn idle(&self, report: &mut Report) {
        const ROUNDS: u64 = 30;
        self.measure_on(report, "rounds");
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

    /// Resident memory of the real binary after its first idle rounds, by kind, and its threads.
    pub fn memory(&self, report: &mut Report) {
        self.measure_on(report, "k6u");
        let (mut resident, mut anonymous, mut file, mut peak, mut threads) = (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let begun = Instant::now();
            let node = site.start(&self.binary).with("UPDATE_INTERVAL", "1").spawn();
            site.follows(begun, FIRST, &node);
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

    /// A thousand idle rounds: memory, requests, bytes, writes, connections, page faults.
    pub fn rounds(&self, report: &mut Report) {
        const ROUNDS: u64 = 1000;
        self.measure_on(report, "rounds");
        let (mut resident, mut peak, mut requests, mut connections) = (vec![], vec![], vec![], vec![]);
        let (mut writes, mut bytes, mut faults) = (vec![], vec![], vec![]);
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let line = self.run_rounds(&site, ROUNDS, Duration::ZERO, &[]);
            let number = |field: &str| line[field].as_f64().expect("a number");
            resident.push(number("resident_kib"));
            peak.push(number("peak_kib"));
            requests.push(number("requests") / ROUNDS as f64);
            connections.push(number("connections"));
            faults.push(number("faults") / ROUNDS as f64);
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
        report.add("page faults of an idle round", "", &faults, None);
    }

    /// Instructions of an idle round, which do not depend on the load of the machine. The baseline is that of the glibc
    /// build.
    pub fn instructions(&self, report: &mut Report) {
        self.measure_on(report, "rounds");
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
        self.measure_on(report, "rounds");
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

    /// Growth of costs with groups, configs and nodes.
    pub fn growth(&self, report: &mut Report) {
        const ROUNDS: u64 = 100;
        self.measure_on(report, "rounds");
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
                let targets = groups + configs - 1;
                report.add(&format!("{label}: requests"), "", &requests, Some(2.0 + targets as f64));
                report.add(&format!("{label}: bytes read"), "B", &bytes, None);
                report.add(&format!("{label}: resident"), "KiB", &resident, Some(4096.0));
                if !self.full {
                    continue;
                }
                // The cost for each answer, or for each byte, may not exceed that of a round with one group.
                let cost = [median(&times), median(&bytes), median(&requests)];
                let [cpu_of_one, bytes_of_one, requests_of_one] = *cost_of_one.get_or_insert(cost);
                let growth = (cost[1] / bytes_of_one).max(cost[2] / requests_of_one);
                let max = cpu_of_one * growth.max(1.0) * 1.25;
                report.add(&format!("{label}: CPU, no sleep"), "us", &times, Some(max));
            }
        }
    }

    /// The time from SIGTERM to the end.
    pub fn exit(&self, report: &mut Report) {
        self.measure_on(report, "k6u");
        let mut times = vec![];
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let begun = Instant::now();
            let mut node = site.start(&self.binary).spawn();
            site.follows(begun, FIRST, &node);
            let sent = Instant::now();
            node.signal(libc::SIGTERM);
            node.wait(PATIENCE).expect("it ends");
            times.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        report.add("from SIGTERM to the end", "ms", &times, Some(100.0));
    }
}

/// The processor time of each round in microseconds.
fn cpu(line: &Value) -> Vec<f64> {
    let rounds = line["cpu_us"].as_array().expect("a list");
    rounds.iter().map(|us| us.as_f64().expect("a number")).collect()
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
