//! A site in virtual time: nodes that run k6u's own rounds, what their interfaces show and when, when one
//! of them dies; and what can be told of it afterwards.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use k6u::apply::{Failure, Operator};
use k6u::interface::{Observation, Watch};
use k6u::kube::Client;
use k6u::pace::{Ended, Pace};
use k6u::prefix::Prefix;
use serde_json::json;

use crate::clock::{Clock, Over};
use crate::cluster::{Cluster, Held, Kind, Served};
use crate::wire::Wire;

/// UPDATE_INTERVAL of every node.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The group that all this is about.
pub const GROUP: &str = "ip6-local-lan";
/// One IP6UpdateNodeConfig serves so many nodes at the most: etcd refuses objects over 1.5 MiB.
const NODES_IN_ONE: usize = 1000;
/// The slowest way to the API server, or back, in a good network.
pub const SLOWEST: Duration = Duration::from_millis(20);

/// What one node sees, and until when it lives.
#[derive(Clone, Debug)]
pub struct Node {
    /// When k6u starts on it.
    pub start: Duration,
    /// When it ends without a word.
    pub death: Duration,
    /// From when on it sees what, in order.
    pub sees: Vec<(Duration, Vec<Prefix>)>,
}

impl Node {
    /// What it sees at a time.
    pub fn at(&self, time: Duration) -> &[Prefix] {
        let last = self.sees.iter().rev().find(|(since, _)| *since <= time);
        last.map_or(&[], |(_, prefixes)| prefixes)
    }

    fn next_change(&self, after: Duration) -> Duration {
        let next = self.sees.iter().map(|(since, _)| *since).find(|since| *since > after);
        next.unwrap_or(Duration::MAX)
    }
}

/// What happened.
#[derive(Debug)]
pub struct Outcome {
    /// Every request.
    pub served: Vec<Served>,
    /// Every write of the group.
    pub history: Vec<Held>,
}

/// Where and how long the nodes run.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// At these times somebody else writes the group.
    pub drifts: &'a [Duration],
    /// The slowest way to the API server, or back.
    pub slowest: Duration,
    /// When it is over.
    pub end: Duration,
    /// All dice follow from this.
    pub seed: u64,
    /// The service account's folder.
    pub account: &'a Path,
}

/// Runs the nodes.
pub fn run(nodes: &[Node], setting: &Setting) -> Outcome {
    let clock = Clock::default();
    let sleeper = clock.sleeper(Duration::ZERO);
    let cluster = Arc::new(Mutex::new(Cluster::default()));
    {
        let mut cluster = cluster.lock().expect("no panic meanwhile");
        cluster.add_config("lan", GROUP);
        let parts = nodes.len().div_ceil(NODES_IN_ONE);
        for part in 0..parts {
            // A selector that is empty needs no labels.
            let selector = if parts == 1 {
                json!({})
            } else {
                json!({"row": part.to_string()})
            };
            cluster.add_node_config(&format!("row-{part}"), selector);
        }
        for number in 0..nodes.len() {
            cluster.add_node(&name(number), json!({"row": (number / NODES_IN_ONE).to_string()}));
        }
    }
    let mut rng = fastrand::Rng::with_seed(setting.seed);
    let start = |(number, node): (usize, &Node)| {
        let sleeper = clock.sleeper(node.start);
        let wire = Wire {
            sleeper: Arc::new(sleeper),
            cluster: Arc::clone(&cluster),
            latency: Arc::new(Mutex::new(rng.fork())),
            slowest: setting.slowest,
            // Three API servers, whose clocks differ by up to two seconds.
            skew: [-1000, 0, 1000][number % 3],
            death: node.death,
        };
        let (node, account, dice) = (node.clone(), setting.account.to_path_buf(), rng.fork());
        thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn(move || live(&name(number), &node, &wire, &account, dice))
            .expect("a thread")
    };
    let threads: Vec<_> = nodes.iter().enumerate().map(start).collect();
    for drift in setting.drifts {
        sleeper.until(*drift).expect("it is not over");
        let mut cluster = cluster.lock().expect("no panic meanwhile");
        cluster.overwrite(GROUP, &["192.0.2.0/24"], *drift);
    }
    sleeper.until(setting.end).expect("it is not over");
    sleeper.finish();
    drop(sleeper);
    for thread in threads {
        let _ = thread.join().expect("no node panics");
    }
    let mut cluster = cluster.lock().expect("no panic meanwhile");
    Outcome {
        served: std::mem::take(&mut cluster.served),
        history: std::mem::take(&mut cluster.history),
    }
}

fn name(number: usize) -> String {
    format!("node{number:04}.example.com")
}

/// k6u's loop on one node, with the parts that main.rs puts together.
fn live(name: &str, node: &Node, wire: &Wire, account: &Path, mut dice: fastrand::Rng) -> Result<(), Over> {
    let sleeper = &wire.sleeper;
    sleeper.begin()?;
    let client = Client::new("https://192.0.2.1:443".into(), account.into());
    let client = client.over(wire.clone()).expect("the account's files are there");
    let mut pace = Pace::new(INTERVAL);
    let mut operator = Operator::new(client, name.into(), name.into(), pace.interval());
    let base = Instant::now();
    let look = |_: &Watch| {
        Ok(Observation {
            prefixes: node.at(sleeper.now()).to_vec(),
            ..Observation::default()
        })
    };
    loop {
        let ended = match operator.round(sleeper.now(), &mut { look }) {
            Err(Failure::Request(e)) if e.is_conflict() => Ended::Again,
            Ok(outcome) => outcome.ended(),
            Err(Failure::Request(e)) => Ended::Failed {
                wants_rest: e.wants_rest(),
                retry_after: e.retry_after(),
            },
            Err(Failure::Addresses(what)) => unreachable!("{what}"),
        };
        let mut due = pace.after_round(base + sleeper.now(), ended, dice.f64()) - base;
        if let (Ended::Well | Ended::Turn, Some(turn)) = (ended, operator.until_turn()) {
            due = due.min(sleeper.now() + turn);
        }
        loop {
            if operator.sees_change(&mut { look }) {
                let delay = operator.spread().mul_f64(dice.f64());
                due = pace.after_change(base + sleeper.now(), base + due, delay) - base;
            }
            if sleeper.now() >= node.death {
                return Ok(());
            }
            if sleeper.now() >= due {
                break;
            }
            sleeper.until(due.min(node.next_change(sleeper.now())).min(node.death))?;
        }
    }
}

impl Outcome {
    /// Requests in a stretch of time.
    pub fn served_in(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Served> {
        self.served.iter().filter(move |s| (from..to).contains(&s.at))
    }

    /// Writes of the group in a stretch of time, tries that were refused included.
    pub fn group_writes(&self, from: Duration, to: Duration) -> usize {
        self.served_in(from, to).filter(|s| s.kind == Kind::GroupWrite).count()
    }

    /// The most requests in any one second of a stretch of time.
    pub fn busiest_second(&self, from: Duration, to: Duration) -> usize {
        let mut times: Vec<Duration> = self.served_in(from, to).map(|s| s.at).collect();
        times.sort();
        let within = |at: &Duration| times.partition_point(|t| *t < *at + Duration::from_secs(1));
        let count = |(first, at): (usize, &Duration)| within(at) - first;
        times.iter().enumerate().map(count).max().unwrap_or(0)
    }

    /// What the group held at a time.
    pub fn held(&self, at: Duration) -> BTreeSet<String> {
        let last = self.history.iter().rev().find(|held| held.at <= at);
        last.map(|held| held.cidrs.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// How long after `since` the group first was as `wanted` says; `None` if that never came.
    pub fn until(&self, since: Duration, wanted: impl Fn(&BTreeSet<String>) -> bool) -> Option<Duration> {
        if wanted(&self.held(since)) {
            return Some(Duration::ZERO);
        }
        let later = self.history.iter().filter(|held| held.at > since);
        let mut fits = later.filter(|held| wanted(&held.cidrs.iter().cloned().collect()));
        fits.next().map(|held| held.at - since)
    }

    /// Every write that made the group wrong, in words: it holds a CIDR that no node's prefix gives, nor
    /// gave just before, nor a node that died in the last five minutes; or it dropped one that a living
    /// node's prefix gives. Just before is within ten seconds and the time that a round takes.
    pub fn wrongs(&self, nodes: &[Node], setting: &Setting) -> Vec<String> {
        let just_before = Duration::from_secs(10) + setting.slowest * 16;
        const DEAD: Duration = Duration::from_secs(330);
        let mut wrongs = Vec::new();
        let mut before: BTreeSet<String> = BTreeSet::new();
        for held in self.history.iter().filter(|held| !setting.drifts.contains(&held.at)) {
            let now: BTreeSet<String> = held.cidrs.iter().cloned().collect();
            let (mut justified, mut needed) = (BTreeSet::new(), BTreeSet::new());
            for node in nodes {
                let last_word = held.at.min(node.death);
                if held.at <= node.death + DEAD {
                    let changes = node.sees.iter().map(|(since, _)| *since);
                    let recent = changes.filter(|since| *since <= last_word && *since + just_before >= last_word);
                    for time in recent
                        .map(|since| since.saturating_sub(Duration::from_nanos(1)))
                        .chain([last_word])
                    {
                        justified.extend(cidrs(node.at(time)));
                    }
                }
                if held.at < node.death {
                    needed.extend(cidrs(node.at(held.at)));
                }
            }
            for cidr in now.difference(&justified) {
                wrongs.push(format!("{:?}: {cidr} is nobody's", held.at));
            }
            for cidr in before.difference(&now).filter(|cidr| needed.contains(*cidr)) {
                wrongs.push(format!("{:?}: {cidr} went, but a node has it", held.at));
            }
            before = now;
        }
        wrongs
    }
}

/// What the group has to hold for these prefixes.
pub fn cidrs(prefixes: &[Prefix]) -> BTreeSet<String> {
    let links = prefixes.iter().map(|prefix| prefix.cut(60));
    let texts = links.flat_map(|delegated| [0, 1, 2].map(|id| delegated.link(id).expect("it fits").to_string()));
    texts.collect()
}
