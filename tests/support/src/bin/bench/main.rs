//! `make bench`: what k6u costs, against the budget.
//!
//! Arguments: the static binary, the static `rounds` example, the number of crates, and `full` or `short`.
//! The short form leaves out what depends on the machine's speed. `make test-boards` measures with the binary
//! alone: its memory.

mod limits;
mod measure;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use k6u_testkit::machine::namespace;
use k6u_testkit::skip::skip;

use measure::Subject;
use report::Report;

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
        full: form == "full",
    };
    if let Err(e) = namespace::enter() {
        skip(&format!("this machine forbids user and network namespaces ({e})"));
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    let size = std::fs::metadata(&subject.binary).expect("the binary").len() as f64;
    report.add(
        "size of the static binary",
        "KiB",
        &[size / 1024.0],
        Some(if subject.musl { 2048.0 } else { 3328.0 }),
    );
    subject.memory(&mut report);
    if let Some(crates) = crates {
        let crates = crates.parse().expect("a number of crates");
        report.add("crates in the normal dependency tree", "", &[crates], Some(50.0));
        subject.rounds(&mut report);
        subject.instructions(&mut report);
        subject.system_calls(&mut report);
        subject.growth(&mut report);
    }
    if subject.full {
        subject.idle(&mut report);
        subject.latency(&mut report);
        subject.latency_limited(&mut report);
        subject.exit(&mut report);
    }
    let library = if subject.musl { "musl" } else { "glibc" };
    println!("measured on {binary} ({library} inside):");
    report.print();
    report.write(&format!("target/bench/{library}"));
    if report.missed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
