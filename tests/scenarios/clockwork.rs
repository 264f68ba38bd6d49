//! A node on a steady clock that the test moves: k6u's own loop, over real TLS, with the addresses of a real interface.
//! An hour of it takes half a second. Tests of what the binary does outside of that loop need [`Running`].
//!
//! [`Running`]: k6u_testkit::site::Running

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use k6u::agent::Agent;
use k6u::kube::{Client, Redactor};
use k6u::node::Host;
use k6u::node::observe::Observer;
use k6u::node::select::{Observation, Watch};
use k6u::node::wait::Woken;
use k6u::prefix::Prefix;
use k6u::reconcile::Reconciler;
use k6u::schedule::Schedule;
use k6u_testkit::apiserver::server::TOKEN;
use log::{LevelFilter, Log, Metadata, Record};

use k6u_testkit::apiserver::fault::Plan;
use k6u_testkit::site::{ADDRESS, CONFIG_NAME, CONFIGS, NODE, NODE_2, Site, denial, is_complaint};
use k6u_testkit::trio::{Layout, NAMES, Trio};

/// The interval between two rounds, if the test does not choose another one.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// A node on a clock of its own.
pub struct Clockwork {
    agent: Agent,
    host: MovedHost,
    log: Lines,
}

struct MovedHost {
    now: Duration,
    /// When the loop ends.
    end: Duration,
    /// When each wait ended.
    waits: Vec<Duration>,
    observer: Observer,
}

impl Host for MovedHost {
    fn now(&self) -> Duration {
        self.now
    }

    fn random(&mut self) -> f64 {
        0.0
    }

    fn observe(&mut self, watch: &Watch, allowed: Option<&[Prefix]>) -> io::Result<Observation> {
        self.observer.observe(watch, allowed, self.now)
    }

    fn sleep(&mut self, until: Duration) {
        self.now = self.now.max(until);
    }

    fn wait_for_change(&mut self, until: Duration) -> Woken {
        self.now = self.now.max(until);
        self.waits.push(self.now);
        if self.now < self.end {
            Woken::Timeout
        } else {
            Woken::Stop
        }
    }
}

impl Clockwork {
    /// Node 1, before its first round.
    pub fn new(site: &Site) -> Self {
        Clockwork::of(site, NODE, INTERVAL)
    }

    /// A node with its UPDATE_INTERVAL, before its first round.
    pub fn of(site: &Site, node: &str, interval: Duration) -> Self {
        let redactor = Redactor::default();
        let client = Client::new(format!("https://{}", site.server.address), &site.account.folder)
            .with_redactor(redactor.clone());
        let reconciler = Reconciler::new(client, node.into(), "test".into(), interval);
        let host = MovedHost {
            now: Duration::ZERO,
            end: Duration::MAX,
            waits: Vec::new(),
            observer: Observer::new().expect("a netlink socket"),
        };
        Clockwork {
            agent: Agent::new(reconciler, Schedule::new(interval)),
            host,
            log: Lines::new(redactor),
        }
    }

    /// Node 1, after its first round.
    pub fn start(site: &Site) -> Self {
        let mut clockwork = Clockwork::new(site);
        clockwork.round_after(Duration::ZERO);
        clockwork
    }

    /// A site whose node 1 published [`ADDRESS`] some time ago, and that node, which makes a round each second; the
    /// group follows.
    pub fn settled() -> (Site, Self) {
        let site = Site::with_address(ADDRESS);
        site.publish(NODE, &["2001:db8:1234:5671::/64"]);
        let mut clockwork = Clockwork::of(&site, NODE, Duration::from_secs(1));
        clockwork.run(Duration::from_secs(2));
        site.wait_lan("2001:db8:1234:567");
        (site, clockwork)
    }

    /// Runs the loop for this time; the loop decides when rounds are due. Returns the time from each round to the next.
    pub fn run(&mut self, time: Duration) -> Vec<Duration> {
        self.host.end = self.host.now + time;
        self.host.waits.clear();
        let Clockwork { agent, host, log } = self;
        log.collect(|| agent.run(host));
        self.host.waits.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Makes a round, this long after the last one.
    pub fn round_after(&mut self, time: Duration) {
        self.host.now += time;
        let Clockwork { agent, host, log } = self;
        log.collect(|| agent.step(host));
    }

    /// Makes this many rounds, [`INTERVAL`] apart.
    pub fn rounds(&mut self, count: usize) {
        (0..count).for_each(|_| self.round_after(INTERVAL));
    }

    /// Its reconciler.
    pub fn reconciler(&self) -> &Reconciler {
        self.agent.reconciler()
    }

    /// The lines of its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().expect("no panic in a logger").clone()
    }

    /// How many lines of its log contain this.
    pub fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|line| line.contains(part)).count()
    }

    /// The warnings and errors so far.
    pub fn complaints(&self) -> Vec<String> {
        let mut lines = self.log();
        lines.retain(|line| is_complaint(line));
        lines
    }
}

/// Node 1 after its first round; node 2 published another prefix, for the last time before that round.
pub fn beside_a_silent_node() -> (Site, Clockwork) {
    let site = Site::with_address(ADDRESS);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.publish(NODE_2, &["2001:db8:aaaa:bbb1::/64"]);
    let node = Clockwork::start(&site);
    assert_eq!(site.held(), 6, "both sites are in the group");
    (site, node)
}

/// Three nodes ([`NAMES`]) that published some time ago, in an object each; the group follows, and all is reported.
pub fn trio() -> Trio<Clockwork> {
    let mut trio = Trio::of(Site::new(), Layout::PerNode);
    for name in NAMES {
        trio.nodes.push(Clockwork::of(&trio.site, name, Duration::from_secs(1)));
    }
    rounds_of_all(&mut trio.nodes, 4);
    trio.site.wait_lan("2001:db8:1234:567");
    trio.site.wait_reason(CONFIG_NAME, "Updated");
    trio
}

/// Lets each node in turn make this many rounds, a second apart.
pub fn rounds_of_all(nodes: &mut [Clockwork], count: usize) {
    for _ in 0..count {
        nodes
            .iter_mut()
            .for_each(|node| node.round_after(Duration::from_secs(1)));
    }
}

impl Drop for Clockwork {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("k6u logged:\n{}", self.log().join("\n"));
        } else {
            assert_eq!(self.count(TOKEN), 0, "the token is in the log");
        }
    }
}

/// The log of one node, as the binary writes it, without the time.
#[derive(Clone)]
struct Lines {
    redactor: Redactor,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Lines {
    fn new(redactor: Redactor) -> Self {
        static START: Once = Once::new();
        START.call_once(|| {
            log::set_logger(&Logger).expect("no other logger");
            log::set_max_level(LevelFilter::Trace);
        });
        Lines {
            redactor,
            lines: Arc::default(),
        }
    }

    /// Runs `act` and collects its log lines as this node's.
    fn collect<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(self.clone()));
        let result = act();
        CURRENT.set(before);
        result
    }
}

thread_local! {
    /// The node whose log lines this thread writes.
    static CURRENT: RefCell<Option<Lines>> = const { RefCell::new(None) };
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("k6u")
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            CURRENT.with_borrow(|current| {
                let Some(Lines { redactor, lines }) = current else {
                    return;
                };
                let text = redactor.clean(&record.args().to_string());
                let line = format!(" {:5} {text}", record.level());
                lines.lock().expect("no panic in a logger").push(line);
            });
        }
    }

    fn flush(&self) {}
}

/// A webhook refuses the status since the provider renumbered, and an Event reports that.
pub fn after_a_refused_status() -> (Site, Clockwork) {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("PATCH {CONFIGS}/{CONFIG_NAME}/status"),
        usize::MAX,
        denial(CONFIG_NAME),
    ));
    site.renumber();
    node.rounds(10);
    assert!(
        site.events_about("ip6updateconfigs", CONFIG_NAME)
            .iter()
            .any(|reason| reason.contains("StatusRefused"))
    );
    (site, node)
}
