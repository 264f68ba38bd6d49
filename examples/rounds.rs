//! `make bench` measures with this: k6u's rounds one after the other, without the sleep between them.
//!
//! The environment is k6u's; the argument says how many rounds. It prints one line of JSON.

use std::time::Instant;

use k6u::apply::Operator;
use k6u::crds::{self, Deployed};
use k6u::interface::{Observer, hostname};
use k6u::kube::Client;
use k6u::settings::Settings;

fn main() -> Result<(), String> {
    let rounds: u64 = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .ok_or("how many rounds?")?;
    let settings = Settings::read(|name| std::env::var(name).ok(), hostname).map_err(|e| e.to_string())?;
    let mut observer = Observer::new().map_err(|e| e.to_string())?;
    let client = Client::new(settings.api_server, settings.service_account);
    let mut operator = Operator::new(client, settings.node_name, settings.reporter, settings.interval);
    operator.client().read_account().map_err(|e| e.to_string())?;
    while crds::deploy(operator.client()).map_err(|e| e.to_string())? != Deployed::Established {}
    let start = Instant::now();
    // The first ones write; what follows is idle.
    for _ in 0..3 {
        operator
            .round(start.elapsed(), &mut |watch| observer.observe(watch))
            .map_err(|e| format!("{e:?}"))?;
    }
    let (cpu, requests) = (processor_us(), operator.client().requests());
    for _ in 0..rounds {
        operator
            .round(start.elapsed(), &mut |watch| observer.observe(watch))
            .map_err(|e| format!("{e:?}"))?;
    }
    let cpu = processor_us() - cpu;
    let requests = operator.client().requests() - requests;
    let connections = operator.client().connections();
    let resident = status("VmRSS:");
    let peak = status("VmHWM:");
    println!(
        "{{\"rounds\":{rounds},\"cpu_us\":{cpu},\"requests\":{requests},\"connections\":{connections},\
         \"resident_kib\":{resident},\"peak_kib\":{peak}}}"
    );
    Ok(())
}

/// User and system time of this process in microseconds.
fn processor_us() -> i64 {
    // SAFETY: all-zero is a valid rusage: plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
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
