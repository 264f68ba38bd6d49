//! Figures of a day: its cost, and how soon the group was right.

use std::collections::BTreeSet;
use std::time::Duration;

use k6u::prefix::Prefix;

use crate::check::violations;
use crate::cluster::{Kind, Served};
use crate::scenarios::{ALONE, CHANGES, DRIFTS, EDITS, Publishers, STEADY, day, prefix};
use crate::site::{self, Layout, Outcome, Scenario, cidrs};

/// The table's first lines.
pub const HEAD: &str = "\
| nodes | publish | requests/s | kB/s | writes/s | group writes | refused ones | busiest second | MB in 10 s | new in | old out | one alone | drift undone | edit done | first dies: old out | violations |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// The figures of one day.
#[derive(Debug)]
pub struct Figures {
    nodes: usize,
    publishers: Publishers,
    /// Per second, at rest.
    pub requests: f64,
    /// Per second, at rest.
    pub kilobytes: f64,
    writes: f64,
    /// Writes of the group in the worst renumbering.
    pub group_writes: usize,
    /// Writes of the group that were refused in the worst renumbering, because another node was first.
    pub conflicts: usize,
    /// In the worst renumbering.
    pub busiest_second: usize,
    /// In the ten seconds after the worst renumbering.
    burst: usize,
    /// From the first node that sees a renumbering until its CIDRs are in.
    pub new_in: Option<Duration>,
    /// From the last node that sees it until nothing else is.
    pub old_out: Option<Duration>,
    /// For a prefix that one node alone sees.
    pub alone_in: Option<Duration>,
    /// Until the group is right after another writer overwrote it.
    pub drift_undone: Option<Duration>,
    /// Until a group that was added to the spec is created.
    pub edit_done: Option<Duration>,
    /// The same as `old_out`, after the death of the first node that saw the new prefix.
    pub death_out: Option<Duration>,
    /// The violations of the rules.
    pub violations: Vec<String>,
}

impl Figures {
    /// Runs a day, and takes its figures.
    pub fn of(count: usize, publishers: Publishers, seed: u64) -> Self {
        let scenario = day(count, publishers, seed);
        let outcome = site::run(&scenario);
        let day = Day { scenario, outcome };
        let seconds = (CHANGES[0] - STEADY).as_secs_f64();
        let steady: Vec<&Served> = day.served_in(STEADY, CHANGES[0]).collect();
        let bytes: usize = steady.iter().map(|served| served.bytes).sum();
        let writes = steady.iter().filter(|served| served.kind != Kind::Read).count();
        let after = |change: usize| CHANGES.get(change + 1).copied().unwrap_or(DRIFTS[0]);
        let changes = || (0..CHANGES.len()).map(|change| (CHANGES[change], after(change)));
        let burst = |at: Duration| -> usize {
            day.served_in(at, at + Duration::from_secs(10))
                .map(|served| served.bytes)
                .sum()
        };
        Figures {
            nodes: count,
            publishers,
            requests: steady.len() as f64 / seconds,
            kilobytes: bytes as f64 / seconds / 1000.0,
            writes: writes as f64 / seconds,
            group_writes: changes()
                .map(|(from, to)| day.group_writes(from, to))
                .max()
                .unwrap_or(0),
            conflicts: changes().map(|(from, to)| day.conflicts(from, to)).max().unwrap_or(0),
            busiest_second: changes()
                .map(|(from, to)| day.busiest_second(from, to))
                .max()
                .unwrap_or(0),
            burst: CHANGES.into_iter().map(burst).max().unwrap_or(0),
            new_in: longest((0..CHANGES.len()).map(|change| day.in_after(change))),
            old_out: longest((0..CHANGES.len()).map(|change| day.out_after(change))),
            alone_in: day.until(ALONE, |held| *held == cidrs(&[prefix(4), prefix(99)])),
            drift_undone: longest(DRIFTS.map(|drift| day.until(drift, |held| *held == cidrs(&[prefix(4)])))),
            edit_done: longest((1..).zip(EDITS).map(|(number, edit)| {
                let made = day.outcome.others.get(&format!("added-{number}"))?;
                made.checked_sub(edit)
            })),
            death_out: day.out_after(CHANGES.len()),
            violations: violations(&day.scenario, &day.outcome),
        }
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let shown = |time| match self.publishers {
            Publishers::None => "-".into(),
            _ => shown(time),
        };
        format!(
            "| {} | {} | {:.1} | {:.1} | {:.2} | {} | {} | {} | {:.1} | {} | {} | {} | {} | {} | {} | {} |",
            self.nodes,
            match self.publishers {
                Publishers::All(Layout::Shared) => "all, in one object",
                Publishers::All(Layout::PerNode) => "all, in one object each",
                Publishers::One => "one",
                Publishers::None => "none",
            },
            self.requests,
            self.kilobytes,
            self.writes,
            self.group_writes,
            self.conflicts,
            self.busiest_second,
            self.burst as f64 / 1e6,
            shown(self.new_in),
            shown(self.old_out),
            shown(self.alone_in),
            shown(self.drift_undone),
            shown(self.edit_done),
            shown(self.death_out),
            self.violations.len(),
        )
    }
}

fn longest(times: impl IntoIterator<Item = Option<Duration>>) -> Option<Duration> {
    let all: Option<Vec<Duration>> = times.into_iter().collect();
    all?.into_iter().max()
}

fn shown(time: Option<Duration>) -> String {
    match time {
        None => "never".into(),
        Some(time) if time < Duration::from_secs(1) => format!("{} ms", time.as_millis()),
        Some(time) => format!("{:.1} s", time.as_secs_f64()),
    }
}

struct Day {
    scenario: Scenario,
    outcome: Outcome,
}

impl Day {
    fn served_in(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Served> {
        self.outcome
            .served
            .iter()
            .filter(move |served| (from..to).contains(&served.at))
    }

    fn group_writes(&self, from: Duration, to: Duration) -> usize {
        let history = self.outcome.history.iter();
        history.filter(|held| (from..to).contains(&held.at)).count()
    }

    fn conflicts(&self, from: Duration, to: Duration) -> usize {
        let tries = self
            .served_in(from, to)
            .filter(|served| served.kind == Kind::GroupWrite);
        tries.count() - self.group_writes(from, to)
    }

    /// The maximum number of requests in a second between two times.
    fn busiest_second(&self, from: Duration, to: Duration) -> usize {
        let times: Vec<Duration> = self.served_in(from, to).map(|served| served.at).collect();
        let end = |at: &Duration| times.partition_point(|time| *time < *at + Duration::from_secs(1));
        let counts = times.iter().enumerate().map(|(first, at)| end(at) - first);
        counts.max().unwrap_or(0)
    }

    /// The time from `since` until the group first held the wanted list; `None` if it never did.
    fn until(&self, since: Duration, wanted: impl Fn(&BTreeSet<String>) -> bool) -> Option<Duration> {
        let history = &self.outcome.history;
        let first = history.iter().rposition(|held| held.at <= since).unwrap_or(0);
        let fits = history[first..].iter().find(|held| wanted(&held.cidrs))?;
        Some(fits.at.saturating_sub(since))
    }

    /// When each node first saw a renumbering.
    fn seen(&self, change: usize) -> (Prefix, Vec<Duration>) {
        let wanted = prefix(change as u16 + 2);
        let first = |view: &&(Duration, site::View)| view.1.contains(&wanted);
        let nodes = self.scenario.nodes.iter().filter(|node| node.publishes);
        let seen = nodes.filter_map(|node| Some(node.sees.iter().find(first)?.0));
        (wanted, seen.collect())
    }

    fn in_after(&self, change: usize) -> Option<Duration> {
        let (wanted, seen) = self.seen(change);
        let wanted = cidrs(&[wanted]);
        self.until(seen.into_iter().min()?, |held| held.is_superset(&wanted))
    }

    fn out_after(&self, change: usize) -> Option<Duration> {
        let (wanted, seen) = self.seen(change);
        let wanted = cidrs(&[wanted]);
        self.until(seen.into_iter().max()?, |held| *held == wanted)
    }
}
