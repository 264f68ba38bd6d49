//! A site in virtual time: nodes that run k6u's own loop, the prefixes on their interfaces, the times when they are cut
//! off or die, and the faults of the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use k6u::agent::Agent;
use k6u::kube::Client;
use k6u::node::Host;
use k6u::node::select::{Observation, Watch};
use k6u::node::wait::Woken;
use k6u::prefix::Prefix;
use k6u::reconcile::Reconciler;
use k6u::schedule::Schedule;

use crate::clock::{Clock, Finished};
use crate::cluster::{Clocks, Cluster, Held, Served};
use crate::wire::Wire;

/// UPDATE_INTERVAL of every node.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The length of the delegated prefixes.
pub const LENGTH: u8 = 60;
/// The interface of the second uplink.
pub const SECOND: &str = "eth1";
/// The maximum latency to the API server, or back, in a good network.
pub const SLOWEST: Duration = Duration::from_millis(20);
/// Later than any simulation ends.
pub const NEVER: Duration = Duration::from_secs(1_000_000);

/// A begin and an end.
pub type Window = (Duration, Duration);

/// Whether a time is in one of these windows.
pub fn within(windows: &[Window], time: Duration) -> bool {
    windows.iter().any(|(from, to)| (*from..*to).contains(&time))
}

/// The state of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Normal,
    /// Nothing listens.
    Down,
    /// It answers 503, perhaps with Retry-After in seconds.
    Unavailable {
        /// The header's value.
        retry_after: Option<u32>,
    },
    /// It answers reads, and writes by 500.
    ReadOnly,
    /// It answers every other publication by 409, as where many write one object.
    Contended,
    /// It answers every publication by this status.
    RefusesPublications(u16),
    /// It answers every publication of this node by this status.
    RefusesPublicationsOf(usize, u16),
    /// It answers every write of a status of an IP6UpdateConfig by this status.
    RefusesStatuses(u16),
    /// It answers every third request by 429, and asks for five seconds of rest.
    Throttles,
    /// The request with this number, counted from the beginning, is answered by this status.
    FailsOnce(usize, u16),
    /// Nothing listens from the request with this number on.
    DownFrom(usize),
    /// It answers every read of a group by 403.
    RefusesGroupReads,
    /// It answers every publication for the second uplink by 422.
    RefusesSecondUplink,
    /// It carries out every request, but every fifth answer is lost.
    LosesAnswers,
    /// It answers every write of a group by this status.
    RefusesGroupWrites(u16),
    /// It answers every request for a group by this status.
    RefusesGroups(u16),
}

/// How IP6UpdateNodeConfigs name nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One object for all of them.
    Shared,
    /// One object for each.
    PerNode,
}

/// The prefixes on an interface.
pub type View = Vec<Prefix>;

/// A node: the prefixes that it sees, and when k6u runs on it.
#[derive(Clone, Debug)]
pub struct Node {
    /// When k6u runs; it starts again each time.
    pub runs: Vec<Window>,
    /// When it is cut off from the API server.
    pub cuts: Vec<Window>,
    /// The prefixes that it sees, each with the time since when, in order.
    pub sees: Vec<(Duration, View)>,
    /// Whether an IP6UpdateNodeConfig selects it.
    pub publishes: bool,
    /// The time from which one does.
    pub selected_at: Duration,
    /// Whether it has a second interface, with the second prefix that it sees, for another IP6UpdateNodeConfig.
    pub has_second_uplink: bool,
}

impl Node {
    /// A node that sees these prefixes from the start on, and never dies.
    pub fn new(start: Duration, prefixes: &[Prefix]) -> Self {
        Node {
            runs: vec![(start, NEVER)],
            cuts: Vec::new(),
            sees: vec![(Duration::ZERO, prefixes.to_vec())],
            publishes: true,
            selected_at: Duration::ZERO,
            has_second_uplink: false,
        }
    }

    /// Lets it see other prefixes from a time on.
    pub fn then_sees(&mut self, at: Duration, prefixes: &[Prefix]) {
        self.sees.push((at, prefixes.to_vec()));
    }

    /// Lets it die at a time.
    pub fn dies(&mut self, at: Duration) {
        self.runs.last_mut().expect("a run").1 = at;
    }

    /// Stops k6u, and starts it again at `back`.
    pub fn restarts(&mut self, at: Duration, back: Duration) {
        self.dies(at);
        self.runs.push((back, NEVER));
    }

    /// When it dies for good.
    pub fn death(&self) -> Duration {
        self.runs.last().expect("a run").1
    }

    /// The prefixes that it sees at a time.
    pub fn at(&self, time: Duration) -> &View {
        let last = self.sees.iter().rev().find(|(since, _)| *since <= time);
        &last.expect("it sees something from the start on").1
    }

    fn next_change(&self, after: Duration) -> Duration {
        let next = self.sees.iter().map(|(since, _)| *since).find(|since| *since > after);
        next.unwrap_or(NEVER)
    }
}

/// An action of an administrator or of another writer.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Overwrites the group.
    Overwrite,
    /// Adds a group to the IP6UpdateConfig.
    AddGroup,
    /// Deletes all IP6UpdateNodeConfigs, and creates those of this layout.
    Replace(Option<Layout>),
    /// Deletes the IP6UpdateNodeConfig of a node and recreates it.
    ReplaceOne(usize),
    /// Moves a node to an IP6UpdateNodeConfig of another name.
    Move(usize),
    /// Adds an IP6UpdateNodeConfig for a node that none selects.
    Select(usize),
}

/// The input of a simulation.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// How IP6UpdateNodeConfigs name them at first.
    pub layout: Layout,
    /// Faults of the API server, each with its begin and end.
    pub health: Vec<(Duration, Duration, Health)>,
    /// The clocks of the API servers.
    pub clocks: Clocks,
    /// The actions of others, in order.
    pub actions: Vec<(Duration, Action)>,
    /// The maximum latency to the API server, or back.
    pub slowest: Duration,
    /// When it is over.
    pub end: Duration,
    /// All random numbers follow from this.
    pub seed: u64,
}

impl Scenario {
    /// For how long after a change a node may still act on the old state: a few requests.
    pub fn just_before(&self) -> Duration {
        Duration::from_secs(1) + self.slowest * 12
    }
}

/// The outcome of a simulation.
#[derive(Debug)]
pub struct Outcome {
    /// Every request.
    pub served: Vec<Served>,
    /// Every write of the group.
    pub history: Vec<Held>,
    /// When each other group was created.
    pub others: BTreeMap<String, Duration>,
    /// Every change of Ready's reason.
    pub reasons: Vec<(Duration, String)>,
    /// Reason and message of Ready at the end.
    pub ready: (String, String),
    /// The nodes that have an entry at the end.
    pub entries: BTreeSet<usize>,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario) -> Outcome {
    // RUST_LOG=debug shows the nodes' logs and the requests.
    let _ = env_logger::try_init();
    let clock = Clock::default();
    let sleeper = clock.sleeper(Duration::ZERO);
    let mut cluster = Cluster::default();
    cluster.health = scenario.health.clone();
    cluster.clocks = scenario.clocks.clone();
    cluster.just_before = scenario.just_before();
    cluster.has_second_uplink = scenario.nodes.iter().any(|node| node.has_second_uplink);
    cluster.add_config();
    for (number, node) in scenario.nodes.iter().enumerate() {
        let is_selected = node.publishes && node.selected_at == Duration::ZERO;
        cluster.add_node(&name(number), is_selected);
    }
    cluster.replace_node_configs(Some(scenario.layout), Duration::ZERO);
    let cluster = Arc::new(Mutex::new(cluster));
    let account = Arc::new(Account::new());
    let mut rng = fastrand::Rng::with_seed(scenario.seed);
    let mut threads = Vec::new();
    for (number, node) in scenario.nodes.iter().enumerate() {
        for (start, end) in node.runs.iter().copied() {
            let wire = Wire {
                sleeper: Arc::new(clock.sleeper(start)),
                cluster: Arc::clone(&cluster),
                latency: Arc::new(Mutex::new(rng.fork())),
                slowest: scenario.slowest,
                cuts: node.cuts.clone(),
                end,
            };
            let (node, account, rng) = (node.clone(), Arc::clone(&account), rng.fork());
            let run = move || run_node(&name(number), node, wire, &account, rng);
            let thread = thread::Builder::new().stack_size(512 * 1024).spawn(run);
            threads.push(thread.expect("a thread"));
        }
    }
    for (at, action) in &scenario.actions {
        sleeper.until(*at).expect("it is not over");
        let mut cluster = cluster.lock().expect("no panic meanwhile");
        match action {
            Action::Overwrite => cluster.overwrite(&["192.0.2.0/24"], *at),
            Action::AddGroup => cluster.add_group(),
            Action::Replace(layout) => cluster.replace_node_configs(*layout, *at),
            Action::ReplaceOne(number) => cluster.replace_one(&name(*number), *at),
            Action::Move(number) => cluster.move_node(&name(*number)),
            Action::Select(number) => cluster.select_node(&name(*number)),
        }
    }
    sleeper.until(scenario.end).expect("it is not over");
    let ready = cluster.lock().expect("no panic meanwhile").ready();
    sleeper.finish();
    drop(sleeper);
    for thread in threads {
        let _ = thread.join().expect("no node panics");
    }
    let mut cluster = cluster.lock().expect("no panic meanwhile");
    Outcome {
        served: std::mem::take(&mut cluster.served),
        history: std::mem::take(&mut cluster.history),
        others: std::mem::take(&mut cluster.others),
        reasons: std::mem::take(&mut cluster.reasons),
        ready,
        entries: (0..scenario.nodes.len())
            .filter(|number| cluster.has_entry(&name(*number)))
            .collect(),
    }
}

/// The name of the node with this number.
pub fn name(number: usize) -> String {
    format!("node{number:04}.example.com")
}

/// Runs k6u on one node, from its start to its end.
fn run_node(name: &str, node: Node, wire: Wire, account: &Account, rng: fastrand::Rng) -> Result<(), Finished> {
    wire.sleeper.begin()?;
    let client = Client::new("https://192.0.2.1:443".into(), &account.0);
    let client = client.over(wire.clone()).expect("the account's files are there");
    let schedule = Schedule::new(INTERVAL);
    let reconciler = Reconciler::new(client, name.into(), name.into(), schedule.update_interval());
    Agent::new(reconciler, schedule).run(&mut VirtualHost {
        listened_until: wire.sleeper.now(),
        node,
        wire,
        rng,
    });
    Ok(())
}

/// A node in virtual time.
struct VirtualHost {
    node: Node,
    /// The time until which it has seen all changes.
    listened_until: Duration,
    wire: Wire,
    rng: fastrand::Rng,
}

impl Host for VirtualHost {
    fn now(&self) -> Duration {
        self.wire.sleeper.now()
    }

    fn random(&mut self) -> f64 {
        self.rng.f64()
    }

    fn observe(&mut self, watch: &Watch, _: Option<&[Prefix]>) -> io::Result<Observation> {
        let view = self.node.at(self.now());
        let uplink = usize::from(watch.interface == SECOND);
        let prefixes = match self.node.has_second_uplink {
            true => view.get(uplink).copied().into_iter().collect(),
            false => view.clone(),
        };
        Ok(Observation {
            prefixes,
            ..Observation::default()
        })
    }

    fn sleep(&mut self, until: Duration) {
        // A node whose time is over ends at its next wait.
        let _ = self.wire.sleeper.until(until.min(self.wire.end));
    }

    fn wait_for_change(&mut self, until: Duration) -> Woken {
        // A change since this node last listened wakes it now.
        let change = self.node.next_change(self.listened_until);
        let end = self.wire.end;
        if self.wire.sleeper.until(until.min(change).min(end)).is_err() || self.now() >= end {
            return Woken::Stop;
        }
        if change > self.now() || until <= self.now() {
            return Woken::Timeout;
        }
        self.listened_until = self.now();
        Woken::AddressChange
    }
}

/// A service account's folder, which is removed with the simulation.
struct Account(PathBuf);

impl Account {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("k6u-simulation-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        // As long as a real token, which is the largest part of a request.
        fs::write(folder.join("token"), "x".repeat(1000)).expect("a file");
        fs::write(folder.join("ca.crt"), "none: nothing is encrypted here").expect("a file");
        Account(folder)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // A temporary folder that stays does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The list of the group for these prefixes.
pub fn cidrs(prefixes: &[Prefix]) -> BTreeSet<String> {
    let links = prefixes.iter().map(|prefix| prefix.truncate(LENGTH));
    let texts = links.flat_map(|delegated| [0, 1, 2].map(|id| delegated.subnet(id).expect("it fits").to_string()));
    texts.collect()
}
