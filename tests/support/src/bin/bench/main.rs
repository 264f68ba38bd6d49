//! `make bench`: measures k6u, and compares it with the budget.
//!
//! Arguments: the static binary, the static `rounds` example, the number of crates, and `full`, `short` or the name of
//! one measurement. The short form leaves out what depends on the machine's speed. `make test-boards` measures with the
//! binary alone: its memory.

#![allow(clippy::pedantic)]

mod changes;
mod limits;
mod load;
mod measure;
mod report;
mod site;

use std::path::PathBuf;
use std::process::ExitCode;

use k6u_testkit::machine::namespace;
use k6u_testkit::skip::skip;

use measure::Subject;
use report::Report;

type Measure = fn(&Subject, &mut Report);

/// The measurements: name, whether it depends on the machine's speed, and function.
const MEASUREMENTS: &[(&str, bool, Measure)] = &[
    ("memory", false, Subject::memory),
    ("load", false, Subject::memory_under_load),
    ("rounds", false, Subject::rounds),
    ("instructions", false, Subject::instructions),
    ("calls", false, Subject::system_calls),
    ("growth", false, Subject::growth),
    ("idle", true, Subject::idle),
    ("changes", true, Subject::changes),
    ("limited", true, Subject::changes_limited),
    ("exit", true, Subject::exit),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (binary, rounds, crates, form) = match &arguments[..] {
        [binary] => (binary, "", None, "memory"),
        [binary, rounds, crates, form] => (binary, rounds.as_str(), Some(crates), form.as_str()),
        _ => {
            eprintln!("bench: name the binary, the rounds example, the number of crates, and full or short");
            return ExitCode::from(2);
        }
    };
    let subject = Subject {
        binary: PathBuf::from(binary),
        rounds: PathBuf::from(rounds),
        musl: binary.contains("musl"),
        full: form != "short",
    };
    if let Err(e) = namespace::enter() {
        skip(&format!("this machine forbids user and network namespaces ({e})"));
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    report.measure_on(&format!("k6u, {}", subject.library()));
    let size = std::fs::metadata(&subject.binary).expect("the binary").len() as f64;
    report.add(
        "size of the static binary",
        "KiB",
        &[size / 1024.0],
        Some(if subject.musl { 2048.0 } else { 3328.0 }),
    );
    if let Some(crates) = crates {
        let crates = crates.parse().expect("a number of crates");
        report.add("crates in the normal dependency tree", "", &[crates], Some(50.0));
    }
    for (name, depends_on_speed, measure) in MEASUREMENTS {
        let is_wanted = match form {
            "full" => true,
            "short" => !depends_on_speed,
            one => one == *name,
        };
        if is_wanted {
            measure(&subject, &mut report);
        }
    }
    println!("{binary} on {}", machine());
    report.print();
    report.write(&format!("target/bench/{}", subject.library()));
    if report.missed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A description of this machine and its load.
fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (cpus, kernel, load) = (
        read("/proc/cpuinfo"),
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg"),
    );
    let models: Vec<&str> = cpus.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split(": ").nth(1)).unwrap_or("?");
    format!(
        "Linux {}, {} x {model}; load at the end {}",
        kernel.trim(),
        models.len(),
        load.trim()
    )
}
