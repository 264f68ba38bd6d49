//! Many nodes, in virtual time: k6u's own loop against a cluster in memory.
//!
//! [`scenarios`] draws random faults, [`check`] has the rules that every outcome must keep, [`measure`] takes the
//! figures of a day. `make test` runs one or two random scenarios of each fault and size, `make test-simulation` seven,
//! and large clusters; `make simulate` runs thousands, of two faults at once, too, and prints the table.

#![allow(clippy::pedantic)]

mod cases;
mod check;
mod clock;
mod cluster;
mod json;
mod measure;
mod scenarios;
mod site;
mod wire;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use k6u::limits::{HEARTBEAT, LABELS_FRESH};
use k6u::schedule;

use crate::measure::{Figures, HEAD};
use crate::scenarios::{FAULTS, Fault, PUBLISHERS, Publishers, scenario};
use crate::site::INTERVAL;

/// The usual numbers of nodes.
const SMALL: [usize; 6] = [1, 2, 3, 4, 6, 10];
/// Up to this number of nodes a scenario is quick.
const QUICK: usize = 4;

/// Faults, a number of nodes, a seed.
type Draw = (Vec<Fault>, usize, u64);

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Runs random scenarios, on all cores; panics with the violations in them.
fn run_scenarios(scenarios: &[Draw]) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((faults, count, seed)) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let scenario = scenario(faults, *count, *seed);
            let violations = check::violations(&scenario, &site::run(&scenario));
            if !violations.is_empty() {
                let text = format!("{faults:?}, {count} nodes, seed {seed}: {}", violations.join("\n    "));
                failed.lock().expect("no panic meanwhile").push((faults.clone(), text));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..cores).for_each(|_| {
            scope.spawn(work);
        });
    });
    let failed = failed.into_inner().expect("no panic meanwhile");
    let mut counts = BTreeMap::new();
    for (faults, _) in &failed {
        *counts.entry(format!("{faults:?}")).or_insert(0) += 1;
    }
    let shown = number("K6U_SHOWN", 8) as usize;
    let examples: Vec<&str> = failed.iter().take(shown).map(|(_, text)| text.as_str()).collect();
    let all = scenarios.len();
    assert!(
        failed.is_empty(),
        "{} of {all} scenarios, {counts:?}:\n{}",
        failed.len(),
        examples.join("\n")
    );
}

/// Whether one of these faults is the one in K6U_FAULT, if that is set.
fn is_chosen(faults: &[Fault]) -> bool {
    let only = std::env::var("K6U_FAULT").unwrap_or_default();
    faults.iter().any(|fault| format!("{fault:?}").contains(&only))
}

/// This many scenarios of each fault for each small size; `seeds_of_larger` for the sizes that take longer.
fn of_small_sizes(seeds: u64, seeds_of_larger: u64) -> Vec<Draw> {
    let faults = FAULTS.into_iter().filter(|fault| is_chosen(&[*fault]));
    let seeds_of = move |count: usize| if count <= QUICK { seeds } else { seeds_of_larger };
    let of = |fault| {
        SMALL
            .into_iter()
            .flat_map(move |count| (0..seeds_of(count)).map(move |seed| (vec![fault], count, seed)))
    };
    faults.flat_map(of).collect()
}

/// This many scenarios of each pair of faults, of changing sizes.
fn of_pairs(seeds: u64) -> Vec<Draw> {
    let pairs = FAULTS.into_iter().flat_map(|one| FAULTS.map(|other| vec![one, other]));
    let pairs = pairs.filter(|pair| pair[0] != pair[1] && is_chosen(pair)).enumerate();
    let of = |(number, pair): (usize, Vec<Fault>)| {
        let size = move |seed: u64| SMALL[(number + seed as usize) % SMALL.len()];
        (0..seeds).map(move |seed| (pair.clone(), size(seed), seed))
    };
    pairs.flat_map(of).collect()
}

/// One or two scenarios of each fault and each small size.
#[test]
fn random_scenarios() {
    run_scenarios(&of_small_sizes(number("K6U_SEEDS", 2), number("K6U_SEEDS", 1)));
}

/// Checks what a day costs, and how soon the group is right in it.
fn check_day(count: usize, publishers: Publishers, seed: u64) -> Figures {
    let day = Figures::of(count, publishers, seed);
    let what = format!("{count} nodes, {publishers:?}, seed {seed}: {day:?}");
    assert_eq!(day.violations, [""; 0], "{what}");
    assert!(day.requests <= max_requests(count, publishers), "{what}");
    let kilobytes = match publishers {
        Publishers::All(site::Layout::PerNode) => 2000.0,
        Publishers::All(site::Layout::Shared) => 600.0,
        Publishers::One | Publishers::None => 200.0,
    };
    assert!(day.kilobytes <= kilobytes, "{what}");
    // A node that publishes makes one round for the change, and one for the reports when the addresses are still: a
    // publication, three reads each, and perhaps a write. Conflicts, statuses and Events are few, whatever the number
    // of nodes. Idle nodes do not react; their rounds have random phases.
    let publishing = publishers.of(count);
    let busiest_second = publishing * 8 + (count - publishing) / 2 + 20;
    assert!(day.busiest_second <= busiest_second, "{what}");
    if publishers == Publishers::None {
        assert_eq!(day.group_writes, 0, "{what}");
        return day;
    }
    // The first node that sees the renumbering adds the new prefix, the last one removes the old one.
    assert!(day.group_writes <= 2, "{what}");
    let within = |time: Option<Duration>, milliseconds: u64| {
        time.is_some_and(|time| time <= Duration::from_millis(milliseconds))
    };
    assert!(
        within(day.new_in, 300) && within(day.old_out, 2000) && within(day.alone_in, 1000),
        "{what}"
    );
    // Every node that publishes reads the targets in every round.
    let a_round = (INTERVAL.as_millis() as f64 * 1.1) as u64 + 1000;
    assert!(
        within(day.drift_undone, a_round) && within(day.edit_done, a_round),
        "{what}"
    );
    assert!(within(day.death_out, 340_000), "{what}");
    day
}

/// The limit for requests a second at rest: two lists and a target for each round of a node that publishes, one list
/// for a round of an idle one, or two if no node publishes; heartbeats, which may come half an interval early; and the
/// labels of Nodes every five minutes. A twentieth is added for chance.
fn max_requests(count: usize, publishers: Publishers) -> f64 {
    let publishing = publishers.of(count);
    let interval = schedule::interval(INTERVAL, publishing).as_secs_f64();
    let idle = (count - publishing) as f64;
    let (of_idle, max) = if publishing == 0 { (2.0, 60.0) } else { (1.0, 30.0) };
    let rounds = (publishing as f64 * 3.0 + idle * of_idle) / interval;
    let longest = schedule::max_interval(INTERVAL, publishing).as_secs_f64();
    let heartbeats = publishing as f64 / interval.max(HEARTBEAT.as_secs_f64() - longest / 2.0);
    (1.05 * (rounds + heartbeats + count as f64 / LABELS_FRESH.as_secs_f64())).min(max)
}

#[test]
fn days_of_small_clusters() {
    for publishers in PUBLISHERS {
        for count in [1, 2, 3, 10] {
            check_day(count, publishers, 1);
        }
    }
    check_day(30, Publishers::All(site::Layout::Shared), 1);
}

/// Days of clusters up to the maximum number of nodes.
#[test]
#[ignore = "takes a minute: make test-simulation"]
fn days_of_large_clusters() {
    for publishers in PUBLISHERS {
        for count in [30, 100, 300] {
            check_day(count, publishers, 1);
        }
    }
}

/// Runs the scenario that the environment names, for example K6U_SCENARIO="Recreated 3 0" RUST_LOG=debug, and prints
/// it. Two faults are joined by a plus.
#[test]
#[ignore = "to look at one scenario: K6U_SCENARIO"]
fn one_scenario() {
    let text = std::env::var("K6U_SCENARIO").expect("faults, a number of nodes, a seed");
    let words: Vec<&str> = text.split_whitespace().collect();
    let [faults, count, seed] = words[..] else {
        panic!("{text}");
    };
    let fault = |name: &str| FAULTS.into_iter().find(|known| format!("{known:?}") == name);
    let faults = faults.split('+').map(|name| fault(name).expect("a fault")).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let draw: Draw = (faults, number(count) as usize, number(seed));
    println!("{:#?}", scenario(&draw.0, draw.1, draw.2));
    run_scenarios(&[draw]);
}

#[test]
#[ignore = "takes minutes: make simulate"]
fn thousands_of_scenarios() {
    let seeds = number("K6U_SEEDS", 100);
    run_scenarios(&of_small_sizes(seeds, seeds));
}

#[test]
#[ignore = "takes minutes: make simulate"]
fn pairs_of_faults() {
    run_scenarios(&of_pairs(number("K6U_PAIR_SEEDS", 6)));
}

#[test]
#[ignore = "takes minutes: make simulate"]
fn table() {
    println!("{HEAD}");
    let sizes = std::env::var("K6U_NODES").unwrap_or_else(|_| "1 2 3 10 30 100 300".into());
    for count in sizes.split_whitespace().map(|size| size.parse().expect("a number")) {
        for publishers in PUBLISHERS {
            println!("{}", Figures::of(count, publishers, 1).line());
        }
    }
}
