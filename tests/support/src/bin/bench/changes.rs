//! The time from a change of the address to the target that follows it.

use std::fs;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::cidrs_of;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::{GROUP, cidrs_for, follows_since};
use k6u_testkit::machine::node::Node;
use k6u_testkit::skip::skip;

use crate::limits::Limits;
use crate::measure::Subject;
use crate::report::{Report, percentile};
use crate::site::{FIRST, Site, millis};

/// The time between the new address and the removal of the old one, if these are two steps.
const BETWEEN_STEPS: Duration = Duration::from_millis(300);
/// The time between two changes. k6u reacts at once to five changes, then to one a second; a renumbering may take
/// three.
const BETWEEN_CHANGES: Duration = Duration::from_millis(3200);
/// Idle rounds under the limit.
const IDLE_ROUNDS: usize = 60;
/// The line for a write of the group in the server's log.
const GROUP_WRITE: &str = "PATCH /apis/cilium.io/v2/ciliumcidrgroups/ip6-local-lan";

/// The way in which the old address gives way to the new one.
#[derive(Clone, Copy, PartialEq)]
enum Transition {
    /// It is removed right after.
    Removed,
    /// It stays, deprecated.
    Deprecated,
    /// It is removed right after although it has time left: it counts for another 0.2 s.
    Early,
    /// It is removed 300 ms later. The time counts from then.
    Later,
}

impl Transition {
    fn name(self) -> &'static str {
        match self {
            Transition::Removed => "the old one removed",
            Transition::Deprecated => "the old one deprecated",
            Transition::Early => "the old one gone early",
            Transition::Later => "in two steps",
        }
    }
}

/// Measurements of changes of the address.
#[derive(Default)]
struct Changes {
    /// Milliseconds until the group held the new prefix; without the old one, unless that lingers.
    times: Vec<f64>,
    /// Requests up to the first write of the group, included.
    requests: Vec<f64>,
    /// Processor time, with that of the reports.
    cpu: Vec<f64>,
}

impl Subject {
    /// The time from the start to the first right group, and from the address to the group for each transition.
    pub fn changes(&self, report: &mut Report) {
        report.measure_on(&format!("k6u, {}", self.library()));
        let mut starts = vec![];
        for _ in 0..self.runs() {
            let site = Site::new(1, 1, 1);
            let begun = Instant::now();
            let node = site.start(&self.binary).spawn();
            starts.push(site.follows(begun, FIRST, &node));
        }
        report.add("from start to the first right group", "ms", &starts, None);
        for transition in [
            Transition::Removed,
            Transition::Deprecated,
            Transition::Early,
            Transition::Later,
        ] {
            let site = Site::new(1, 1, 1);
            let node = site.start(&self.binary).with("UPDATE_INTERVAL", "3600").spawn();
            let changes = renumber(&site, &node, 20, transition);
            add(
                report,
                &format!("address to group, {}", transition.name()),
                &changes,
                [5.0, 25.0],
            );
        }
    }

    /// The same under the pod's limits.
    pub fn changes_limited(&self, report: &mut Report) {
        let Some(limits) = Limits::make() else {
            skip("no control group can be made here (this needs root), so nothing is limited");
            return;
        };
        report.measure_on(&format!("k6u, {}, 1 ms of CPU in 100 ms", self.library()));
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
            starts.push(site.follows(begun, FIRST, &node));
        }
        report.add("limited: from start to the first right group", "ms", &starts, None);
        for transition in [Transition::Removed, Transition::Later] {
            let site = Site::new(1, 1, 1);
            let node = start(&site);
            let changes = renumber(&site, &node, 20, transition);
            let name = format!("limited: address to group, {}", transition.name());
            add(report, &name, &changes, [100.0, 500.0]);
        }
        let site = Site::new(1, 1, 1);
        let mut command = site.start(&self.binary).with("UPDATE_INTERVAL", "1").command();
        limits.hold(&mut command);
        let node = Node::of(command.spawn().expect("k6u starts"));
        site.follows(Instant::now(), FIRST, &node);
        let (mut idle, mut before) = (vec![], None);
        for _ in 0..=IDLE_ROUNDS / 10 {
            site.wait_rounds(10, &node);
            let now = cpu_us(&node);
            idle.extend(before.replace(now).map(|before| (now - before) / 10.0));
        }
        report.add("limited: CPU of an idle round, a second apart", "us", &idle, None);
    }
}

fn add(report: &mut Report, name: &str, changes: &Changes, budgets: [f64; 2]) {
    let p99 = percentile(&changes.times, 0.99);
    report.add(&format!("{name}, p50"), "ms", &changes.times, Some(budgets[0]));
    report.add(&format!("{name}, p99"), "ms", &[p99], Some(budgets[1]));
    report.add("  requests to the first write of it", "", &changes.requests, Some(5.0));
    report.add("  CPU, the reports included", "us", &changes.cpu, None);
}

/// The processor time of a process so far, in microseconds.
fn cpu_us(node: &Node) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", node.id())).expect("the process lives");
    let first = text.split_whitespace().next().expect("the time on a processor");
    first.parse::<f64>().expect("nanoseconds") / 1e3
}

/// Renumbers this many times.
fn renumber(site: &Site, node: &Node, count: usize, transition: Transition) -> Changes {
    site.follows(Instant::now(), FIRST, node);
    let mut old = format!("{FIRST}1::10");
    if transition == Transition::Early {
        site.interface.set(&old, 64, 1800, 3600);
    }
    let mut changes = Changes::default();
    std::thread::sleep(BETWEEN_CHANGES);
    for number in 0..count {
        let spent = cpu_us(node);
        let start = format!("2001:db8:{:x}:567", 0x2000 + number);
        let new = format!("{start}1::10");
        let (mut begun, mut before) = (Instant::now(), site.server.store().log.len());
        match transition {
            Transition::Early => site.interface.set(&new, 64, 1800, 3600),
            _ => site.interface.add(&new),
        }
        if transition == Transition::Later {
            std::thread::sleep(BETWEEN_STEPS);
            (begun, before) = (Instant::now(), site.server.store().log.len());
        }
        match transition {
            Transition::Deprecated => site.interface.deprecate(&old),
            _ => site.interface.remove(&old),
        }
        let arrived = match transition {
            Transition::Early => site.wait(node, |store| holds_since(store, &start)),
            _ => site.wait(node, |store| follows_since(store, &start)),
        };
        changes.times.push(millis(begun, arrived));
        let written = |store: &Store| store.log[before..].iter().position(|logged| logged.line == GROUP_WRITE);
        changes.requests.push(site.wait(node, written) as f64 + 1.0);
        site.wait(node, |store| follows_since(store, &start));
        if transition == Transition::Deprecated {
            site.interface.remove(&old);
        }
        old = new;
        std::thread::sleep(BETWEEN_CHANGES);
        changes.cpu.push(cpu_us(node) - spent);
    }
    changes
}

/// The time since which the group has held this prefix, alone or beside others.
fn holds_since(store: &Store, start: &str) -> Option<Instant> {
    let holds = |held: &[String]| cidrs_for(start).iter().all(|cidr| held.contains(cidr));
    let mut writes = store.history.iter().filter(|past| past.key.name == GROUP);
    writes.find_map(|past| holds(&cidrs_of(past.object.as_ref()?)).then_some(past.at))
}
