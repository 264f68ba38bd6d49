//! Runs k6u's rounds one by one, for the measurements of `make bench`.
//!
//! The environment is k6u's. Arguments: the number of rounds, and the pause before each of them in milliseconds, 0 by
//! default. The output is one line of JSON.

#![allow(clippy::pedantic)]

use std::time::Duration;

use k6u::agent::Agent;
use k6u::kube::Client;
use k6u::node::host::ThisNode;
use k6u::node::observe::hostname;
use k6u::node::watchdog;
use k6u::reconcile::Reconciler;
use k6u::schedule::{RoundEnd, Schedule};
use k6u::settings::Settings;

/// The first rounds deploy CRDs, publish and write. After this many quiet rounds in a row the following ones are idle.
const QUIET: u32 = 3;
const MAX_FIRST_ROUNDS: u32 = 200;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().ok());
    let rounds = arguments.next().flatten().ok_or("how many rounds?")?;
    let pause = Duration::from_millis(arguments.next().flatten().unwrap_or(0));
    let settings = Settings::read(|name| std::env::var(name).ok(), hostname).map_err(|e| e.to_string())?;
    let mut node = ThisNode::new().map_err(|e| e.to_string())?;
    let schedule = Schedule::new(settings.interval);
    let client = Client::new(settings.api_server, &settings.service_account).on_answer(watchdog::restart);
    let reconciler = Reconciler::new(
        client,
        settings.node_name,
        settings.reporter,
        schedule.update_interval(),
    );
    let mut agent = Agent::new(reconciler, schedule);
    settle(&mut agent, &mut node)?;

    let requests = agent.reconciler().client().requests();
    let (mut cpu, mut faults) = (Vec::new(), 0);
    for _ in 0..rounds {
        std::thread::sleep(pause);
        let before = usage();
        let end = agent.step(&mut node).end;
        let after = usage();
        cpu.push((processor_us(&after) - processor_us(&before)).to_string());
        faults += after.ru_minflt - before.ru_minflt;
        if end != RoundEnd::Quiet {
            return Err(format!("a round was not idle: {end:?}"));
        }
    }
    let client = agent.reconciler().client();
    let (requests, connections) = (client.requests() - requests, client.connections());
    let (cpu, resident, peak) = (cpu.join(","), status("VmRSS:"), status("VmHWM:"));
    println!(
        "{{\"rounds\":{rounds},\"cpu_us\":[{cpu}],\"faults\":{faults},\"requests\":{requests},\
         \"connections\":{connections},\"resident_kib\":{resident},\"peak_kib\":{peak}}}"
    );
    Ok(())
}

/// Makes rounds until nothing is left to do.
fn settle(agent: &mut Agent, node: &mut ThisNode) -> Result<(), String> {
    let mut quiet = 0;
    for _ in 0..MAX_FIRST_ROUNDS {
        match agent.step(node).end {
            RoundEnd::Quiet => quiet += 1,
            RoundEnd::Failed { .. } => return Err("a round failed".into()),
            _ => {
                quiet = 0;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        if quiet == QUIET {
            return Ok(());
        }
    }
    Err("the first rounds did not come to an end".into())
}

/// The resources that this process has used so far.
fn usage() -> libc::rusage {
    // SAFETY: all-zero is a valid rusage: plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage
}

/// User and system time in microseconds.
fn processor_us(usage: &libc::rusage) -> i64 {
    let us = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// A number of KiB from /proc/self/status.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
