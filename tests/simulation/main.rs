//! Many nodes, in virtual time: k6u's own rounds against a cluster in memory, from one node to thousands.
//!
//! `make test` runs a few sizes and checks what must hold; `make simulate` prints the table.

mod clock;
mod cluster;
mod site;
mod wire;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k6u::prefix::Prefix;

use crate::site::{Node, Outcome, Setting, cidrs};

/// All nodes run from here on, and nothing happens until [`CHANGES`].
const STEADY: Duration = Duration::from_secs(60);
/// Renumberings that all nodes see.
const CHANGES: [Duration; 3] = [
    Duration::from_secs(300),
    Duration::from_secs(330),
    Duration::from_secs(360),
];
/// Somebody else writes the group.
const DRIFTS: [Duration; 3] = [
    Duration::from_secs(393),
    Duration::from_secs(427),
    Duration::from_secs(456),
];
/// One node alone gets another uplink.
const ALONE: Duration = Duration::from_secs(490);
/// A renumbering whose first witness dies.
const DEATH: Duration = Duration::from_secs(530);
const END: Duration = Duration::from_secs(900);
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

/// The link that every node is on; the number says which delegated prefix it is in.
fn prefix(number: u16) -> Prefix {
    format!("2001:db8:{number:x}:5671::/64").parse().expect("a prefix")
}

/// The story above, for so many nodes. All see each renumbering within a tenth of a second.
fn story(count: usize, rng: &mut fastrand::Rng) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..count)
        .map(|_| Node {
            start: Duration::from_secs(20).mul_f64(rng.f64()),
            death: FOR_EVER,
            sees: vec![(Duration::ZERO, vec![prefix(1)])],
        })
        .collect();
    for (at, number) in CHANGES.into_iter().chain([DEATH]).zip(2..) {
        for node in &mut nodes {
            let seen = at + Duration::from_millis(100).mul_f64(rng.f64());
            node.sees.push((seen, vec![prefix(number)]));
        }
    }
    let alone = &mut nodes[count / 2];
    alone.sees.insert(4, (ALONE, vec![prefix(4), prefix(99)]));
    let first = nodes.iter_mut().min_by_key(|node| node.sees.last().expect("it sees").0);
    if let Some(first) = first.filter(|_| count > 1) {
        first.death = first.sees.last().expect("it sees").0 + Duration::from_millis(40).mul_f64(rng.f64());
    }
    nodes
}

/// What one size gave.
struct Row {
    nodes: Vec<Node>,
    outcome: Outcome,
    wrongs: Vec<String>,
}

fn simulate(count: usize, seed: u64) -> Row {
    let account = Account::new();
    let nodes = story(count, &mut fastrand::Rng::with_seed(seed));
    let setting = account.setting(&DRIFTS, END, seed);
    let outcome = site::run(&nodes, &setting);
    let wrongs = outcome.wrongs(&nodes, &setting);
    Row { nodes, outcome, wrongs }
}

impl Row {
    /// When each node first saw a renumbering.
    fn seen(&self, change: usize) -> impl Iterator<Item = Duration> {
        let wanted = prefix(change as u16 + 2);
        let first = move |node: &Node| {
            node.sees
                .iter()
                .find(|(_, prefixes)| prefixes.contains(&wanted))
                .map(|s| s.0)
        };
        self.nodes.iter().filter_map(first)
    }

    /// From the first node that sees a renumbering until its CIDRs are in the group.
    fn in_after(&self, change: usize) -> Option<Duration> {
        let wanted = cidrs(&[prefix(change as u16 + 2)]);
        let first = self.seen(change).min().expect("a node");
        self.outcome.until(first, |held| held.is_superset(&wanted))
    }

    /// From the last node that sees a renumbering until the group holds nothing else.
    fn out_after(&self, change: usize) -> Option<Duration> {
        let wanted = cidrs(&[prefix(change as u16 + 2)]);
        let last = self.seen(change).max().expect("a node");
        self.outcome.until(last, |held| *held == wanted)
    }

    fn restored_after(&self, drift: Duration) -> Option<Duration> {
        let wanted = cidrs(&[prefix(4)]);
        self.outcome.until(drift, |held| *held == wanted)
    }

    fn alone_after(&self) -> Option<Duration> {
        let wanted = cidrs(&[prefix(4), prefix(99)]);
        self.outcome.until(ALONE, |held| *held == wanted)
    }
}

fn longest(times: impl IntoIterator<Item = Option<Duration>>) -> String {
    let all: Option<Vec<Duration>> = times.into_iter().collect();
    match all.and_then(|times| times.into_iter().max()) {
        None => "never".into(),
        Some(time) if time < Duration::from_secs(1) => format!("{} ms", time.as_millis()),
        Some(time) => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// One line of the table.
fn line(row: &Row) -> String {
    let (outcome, count) = (&row.outcome, row.nodes.len());
    let seconds = (CHANGES[0] - STEADY).as_secs_f64();
    let steady: Vec<_> = outcome.served_in(STEADY, CHANGES[0]).collect();
    let bytes: usize = steady.iter().map(|s| s.bytes).sum();
    let writes = steady.iter().filter(|s| s.kind != cluster::Kind::Read).count();
    let changes = CHANGES.len();
    let next = |change: usize| CHANGES.get(change + 1).copied().unwrap_or(DRIFTS[0]);
    let group_writes = (0..changes).map(|c| outcome.group_writes(CHANGES[c], next(c))).max();
    let peak = (0..changes).map(|c| outcome.busiest_second(CHANGES[c], next(c))).max();
    let burst = |c: usize| {
        outcome
            .served_in(CHANGES[c], CHANGES[c] + Duration::from_secs(10))
            .map(|s| s.bytes)
            .sum::<usize>()
    };
    format!(
        "| {count} | {:.1} | {:.2} | {:.1} | {:.2} | {} | {} | {:.1} | {} | {} | {} | {} | {} | {} | {} |",
        steady.len() as f64 / seconds,
        steady.len() as f64 / seconds / count as f64 * site::INTERVAL.as_secs_f64(),
        bytes as f64 / seconds / 1000.0,
        writes as f64 / seconds,
        group_writes.unwrap_or(0),
        peak.unwrap_or(0),
        (0..changes).map(burst).max().unwrap_or(0) as f64 / 1e6,
        longest((0..changes).map(|c| row.in_after(c))),
        longest((0..changes).map(|c| row.out_after(c))),
        longest([row.alone_after()]),
        longest(DRIFTS.map(|drift| row.restored_after(drift))),
        longest([row.in_after(3)]),
        longest([row.out_after(3)]),
        row.wrongs.len(),
    )
}

/// What must hold whatever the number of nodes and whatever the dice say.
fn check(row: &Row) {
    let (outcome, count) = (&row.outcome, row.nodes.len());
    assert_eq!(row.wrongs, [""; 0], "{count} nodes");
    let seconds = (CHANGES[0] - STEADY).as_secs_f64();
    let intervals = seconds / site::INTERVAL.as_secs_f64();
    let requests = outcome.served_in(STEADY, CHANGES[0]).count() as f64 / intervals;
    // A short read for each node, a publication in twelve intervals, and one node's whole round.
    let most = count as f64 * 1.2 + 4.5;
    assert!(
        requests <= most,
        "{count} nodes: {requests} requests an interval, not {most}"
    );
    for (change, at) in CHANGES.into_iter().enumerate() {
        let next = CHANGES.get(change + 1).copied().unwrap_or(DRIFTS[0]);
        let writes = outcome.group_writes(at, next);
        assert!(
            writes <= 3,
            "{count} nodes: {writes} writes of the group for one renumbering"
        );
        let (new_in, old_out) = (row.in_after(change), row.out_after(change));
        assert!(
            new_in.is_some_and(|time| time < Duration::from_secs(1)),
            "{count} nodes: new in {new_in:?}"
        );
        assert!(
            old_out.is_some_and(|time| time < Duration::from_secs(2)),
            "{count} nodes: old out {old_out:?}"
        );
    }
    let alone = row.alone_after();
    assert!(
        alone.is_some_and(|time| time < Duration::from_secs(2)),
        "{count} nodes: one alone {alone:?}"
    );
    for drift in DRIFTS {
        // The interval, the clocks' differences, and the answers' times.
        let undone = row.restored_after(drift);
        assert!(
            undone.is_some_and(|time| time < Duration::from_secs(13)),
            "{count} nodes: undone {undone:?}"
        );
    }
    let in_all_the_same = row.in_after(3);
    let most = Duration::from_secs(23);
    assert!(
        in_all_the_same.is_some_and(|time| time < most),
        "{count} nodes: the first died: {in_all_the_same:?}"
    );
    // The dead node counts for five minutes after it last published.
    assert!(
        row.out_after(3).is_some_and(|time| time < Duration::from_secs(325)),
        "{count} nodes"
    );
}

#[test]
fn few_nodes_and_many() {
    for count in [1, 2, 3, 10, 30, 100] {
        check(&simulate(count, 1));
    }
}

#[test]
fn whatever_the_dice_say() {
    for seed in 2..22 {
        check(&simulate(2 + seed as usize % 6, seed));
    }
}

/// Runs the nodes over a network as slow as that; nothing wrong is written, and at the end the group holds
/// the last prefix only.
fn check_end(nodes: &[Node], slowest: Duration, end: Duration, seed: u64, last: u16) {
    let account = Account::new();
    let setting = Setting {
        slowest,
        ..account.setting(&[], end, seed)
    };
    let outcome = site::run(nodes, &setting);
    assert_eq!(outcome.wrongs(nodes, &setting), [""; 0], "seed {seed}");
    assert_eq!(outcome.held(end), cidrs(&[prefix(last)]), "seed {seed}");
}

/// Answers take seconds, and nodes see what happens seconds apart: much is under way at the same time.
#[test]
fn a_slow_network_makes_nothing_wrong() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut nodes = Vec::new();
        for _ in 0..5 {
            let change = |number: u16| {
                let at = Duration::from_secs(20 + u64::from(number) * 12);
                let sees = vec![prefix(number + 1)];
                (
                    if number == 0 {
                        Duration::ZERO
                    } else {
                        at + Duration::from_secs(8).mul_f64(rng.f64())
                    },
                    sees,
                )
            };
            let sees = (0..20).map(change).collect();
            nodes.push(Node {
                start: Duration::from_secs(10).mul_f64(rng.f64()),
                death: FOR_EVER,
                sees,
            });
        }
        check_end(&nodes, Duration::from_secs(3), Duration::from_secs(320), seed, 20);
    }
}

/// No node knows another one yet, so all make whole rounds at the same time.
#[test]
fn started_in_the_middle_of_a_renumbering() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut node = |_| {
            let mut within = |most: u64| Duration::from_millis(most).mul_f64(rng.f64());
            let (start, seen) = (within(100), Duration::from_millis(500) + within(20));
            Node {
                start,
                death: FOR_EVER,
                sees: vec![(Duration::ZERO, vec![prefix(1)]), (seen, vec![prefix(2)])],
            }
        };
        let nodes: Vec<Node> = (0..5).map(&mut node).collect();
        check_end(&nodes, Duration::from_millis(200), Duration::from_secs(8), seed, 2);
    }
}

#[test]
fn a_dead_node_stalls_nobody_for_more_than_an_interval() {
    for seed in 1..6 {
        let mut nodes = vec![
            Node {
                start: Duration::ZERO,
                death: FOR_EVER,
                sees: vec![(Duration::ZERO, vec![prefix(1)])],
            };
            3
        ];
        nodes[seed as usize % 3].death = Duration::from_secs(61);
        // Its turns come until its entry is five minutes old.
        let drifts: Vec<Duration> = (0..8).map(|n| Duration::from_secs(70 + n * 25)).collect();
        let account = Account::new();
        let outcome = site::run(&nodes, &account.setting(&drifts, Duration::from_secs(300), seed));
        for drift in drifts {
            let undone = outcome.until(drift, |held| *held == cidrs(&[prefix(1)]));
            // Its interval, the next one, the clocks' differences, and the answers' times.
            assert!(undone.is_some_and(|time| time < Duration::from_secs(23)), "{undone:?}");
        }
    }
}

const HEAD: &str = "\
| nodes | requests/s | per node and interval | kB/s | writes/s | group writes | busiest second | MB in 10 s | new in | old out | one alone | drift undone | first dies: new in | old out | wrong |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

#[test]
#[ignore = "takes minutes: make simulate"]
fn table() {
    println!("{HEAD}");
    let sizes = std::env::var("K6U_NODES").unwrap_or_else(|_| "1 2 3 10 30 100 300 1000".into());
    for count in sizes.split_whitespace().map(|size| size.parse().expect("a number")) {
        println!("{}", line(&simulate(count, 1)));
    }
}

/// A service account's folder, gone with the simulation.
struct Account(PathBuf);

impl Account {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("k6u-simulation-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        // As long as real ones are: they are most of what a request sends.
        fs::write(folder.join("token"), "x".repeat(1000)).expect("a file");
        fs::write(folder.join("ca.crt"), "none: nothing is encrypted here").expect("a file");
        Account(folder)
    }

    fn setting<'a>(&'a self, drifts: &'a [Duration], end: Duration, seed: u64) -> Setting<'a> {
        Setting {
            drifts,
            slowest: site::SLOWEST,
            end,
            seed,
            account: &self.0,
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // What is left in a temporary folder harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}
