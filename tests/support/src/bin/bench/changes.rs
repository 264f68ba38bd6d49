//! From a change of the address to the target that follows it.

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

/// Between the coming of a new address and the going of the old one, where these are two steps.
const BETWEEN_STEPS: Duration = Duration::from_millis(300);
/// Five changes get a reaction at once, then one in a second; a renumbering may take three.
const BETWEEN_CHANGES: Duration = Duration::from_millis(3200);
/// Idle rounds under the limit.
const IDLE_ROUNDS: usize = 60;
/// What a write of the group is called in the server's log.
const GROUP_WRITE: &str = "PATCH /apis/cilium.io/v2/ciliumcidrgroups/ip6-local-lan";

/// How the old address goes when the new one comes.
#[derive(Clone, Copy, PartialEq)]
enum Going {
    /// It is removed right after.
    Removed,
    /// It stays, deprecated.
    Deprecated,
    /// It is removed right after although it has time left: it counts for another 0.2 s.
    Early,
    /// It is removed 300 ms later. The time counts from then.
    Later,
}

impl Going {
    fn name(self) -> &'static str {
        match self {
            Going::Removed => "the old one removed",
            Going::Deprecated => "the old one deprecated",
            Going::Early => "the old one gone early",
            Going::Later => "in two steps",
        }
    }
}

/// What changes of the address led to.
#[derive(Default)]
struct Changes {
    /// Until the group held the new prefix; without the old one, unless that lingers.
    times: Vec<f64>,
    /// Until the first write of the group, with that.
    requests: Vec<f64>,
    /// Processor time, the reports included.
    cpu: Vec<f64>,
}

impl Subject {
    /// From the start to the first right group, and from the address to the group, however the old address goes.
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
        for going in [Going::Removed, Going::Deprecated, Going::Early, Going::Later] {
            let site = Site::new(1, 1, 1);
            let node = site.start(&self.binary).with("UPDATE_INTERVAL", "3600").spawn();
            let changes = renumber(&site, &node, 20, going);
            add(
                report,
                &format!("address to group, {}", going.name()),
                &changes,
                [5.0, 25.0],
            );
        }
    }

    /// The same under the pod's limits: what the kubelet makes of 8m CPU and 16Mi memory.
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
        for going in [Going::Removed, Going::Later] {
            let site = Site::new(1, 1, 1);
            let node = start(&site);
            let changes = renumber(&site, &node, 20, going);
            let name = format!("limited: address to group, {}", going.name());
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

/// The processor time that it has taken, in microseconds.
fn cpu_us(node: &Node) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", node.id())).expect("the process lives");
    let first = text.split_whitespace().next().expect("the time on a processor");
    first.parse::<f64>().expect("nanoseconds") / 1e3
}

/// Lets the provider renumber this often.
fn renumber(site: &Site, node: &Node, count: usize, going: Going) -> Changes {
    site.follows(Instant::now(), FIRST, node);
    let mut old = format!("{FIRST}1::10");
    if going == Going::Early {
        site.interface.set(&old, 64, 1800, 3600);
    }
    let mut changes = Changes::default();
    std::thread::sleep(BETWEEN_CHANGES);
    for number in 0..count {
        let spent = cpu_us(node);
        let start = format!("2001:db8:{:x}:567", 0x2000 + number);
        let new = format!("{start}1::10");
        let (mut begun, mut before) = (Instant::now(), site.server.store().log.len());
        match going {
            Going::Early => site.interface.set(&new, 64, 1800, 3600),
            _ => site.interface.add(&new),
        }
        if going == Going::Later {
            std::thread::sleep(BETWEEN_STEPS);
            (begun, before) = (Instant::now(), site.server.store().log.len());
        }
        match going {
            Going::Deprecated => site.interface.deprecate(&old),
            _ => site.interface.remove(&old),
        }
        let arrived = match going {
            Going::Early => site.wait(node, |store| holds_since(store, &start)),
            _ => site.wait(node, |store| follows_since(store, &start)),
        };
        changes.times.push(millis(begun, arrived));
        let written = |store: &Store| store.log[before..].iter().position(|logged| logged.line == GROUP_WRITE);
        changes.requests.push(site.wait(node, written) as f64 + 1.0);
        site.wait(node, |store| follows_since(store, &start));
        if going == Going::Deprecated {
            site.interface.remove(&old);
        }
        old = new;
        std::thread::sleep(BETWEEN_CHANGES);
        changes.cpu.push(cpu_us(node) - spent);
    }
    changes
}

/// Since when the group has held this prefix, whatever else it holds.
fn holds_since(store: &Store, start: &str) -> Option<Instant> {
    let holds = |held: &[String]| cidrs_for(start).iter().all(|cidr| held.contains(cidr));
    let mut writes = store.history.iter().filter(|past| past.key.name == GROUP);
    writes.find_map(|past| holds(&cidrs_of(past.object.as_ref()?)).then_some(past.at))
}
