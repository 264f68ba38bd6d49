//! Random scenarios of a site: faults, with renumberings and restarts around them.

use std::time::Duration;

use k6u::prefix::Prefix;

use crate::check::rest_from;
use crate::cluster::Clocks;
use crate::site::{Action, Health, INTERVAL, Layout, NEVER, Node, SLOWEST, Scenario};

/// The fault of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The API server is away for 1 to 60 minutes, and may answer 503 for a minute when it is back.
    Outage,
    /// The API server answers 503 and asks for 200 seconds of rest.
    AsksForRest,
    /// The API server answers reads, but refuses writes for 5 to 30 minutes.
    TakesNoWrites,
    /// Every other publication is refused by 409, for 5 to 30 minutes.
    Contention,
    /// k6u restarts on all nodes, at once or one by one, during an outage or after it.
    Restarts,
    /// Half of the nodes die at once.
    HalfDie,
    /// All nodes that publish die; idle ones are left.
    PublishersDie,
    /// All nodes that publish are cut off for eight minutes; an idle one is not.
    PublishersCutOff,
    /// One node is cut off for three minutes.
    OneCutOffShortly,
    /// One node is cut off for six minutes.
    OneCutOff,
    /// All IP6UpdateNodeConfigs are deleted and recreated.
    Recreated,
    /// The same, from one object for all nodes to one for each, or back.
    Moved,
    /// API servers whose clocks differ by an hour answer in turn, and jump by a year.
    Clocks,
    /// Requests and answers take up to two seconds each.
    SlowNetwork,
    /// One node's prefix goes and comes back within seconds.
    Flaps,
    /// A node restarts while IP6UpdateNodeConfigs are recreated: it knows of no vanished entries.
    RestartWhileRecreated,
    /// A node that was idle is selected; in half of the scenarios no node published before.
    IdleSelected,
    /// Requests for the group, or writes of it, are refused for 1 to 10 minutes.
    TargetRefused,
    /// One node publishes, all others are idle; in half of the scenarios the IP6UpdateNodeConfigs come after the nodes.
    FirstInstall,
    /// Every fifth answer is lost on its way, for 1 to 10 minutes; the request is carried out all the same.
    LostAnswers,
    /// No node sees a prefix, or one does not, for 1 to 10 minutes.
    PrefixLost,
    /// Publications are refused for 1 to 20 minutes.
    PublicationsRefused,
    /// Publications of one node are refused for 1 to 3 minutes.
    OneRefused,
    /// Statuses are refused for 1 to 20 minutes.
    StatusesRefused,
    /// Every third request meets 429, for 1 to 20 minutes.
    Throttled,
}

/// All faults.
pub const FAULTS: [Fault; 25] = [
    Fault::Outage,
    Fault::AsksForRest,
    Fault::TakesNoWrites,
    Fault::Contention,
    Fault::Restarts,
    Fault::HalfDie,
    Fault::PublishersDie,
    Fault::PublishersCutOff,
    Fault::OneCutOffShortly,
    Fault::OneCutOff,
    Fault::Recreated,
    Fault::Moved,
    Fault::Clocks,
    Fault::SlowNetwork,
    Fault::Flaps,
    Fault::RestartWhileRecreated,
    Fault::IdleSelected,
    Fault::TargetRefused,
    Fault::FirstInstall,
    Fault::LostAnswers,
    Fault::PrefixLost,
    Fault::PublicationsRefused,
    Fault::OneRefused,
    Fault::StatusesRefused,
    Fault::Throttled,
];

const MINUTE: Duration = Duration::from_secs(60);
const YEAR: i64 = 365 * 86_400;

/// The prefix of a link in the delegated prefix with this number.
pub fn prefix(number: u16) -> Prefix {
    format!("2001:db8:{number:x}:5671::/64").parse().expect("a prefix")
}

/// A scenario of these faults for `count` publishing nodes. Each fault begins before the last one is over, or up to a
/// minute later.
pub fn scenario(faults: &[Fault], count: usize, seed: u64) -> Scenario {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let sites = if count > 1 && random.either() { 2 } else { 1 };
    let mut nodes: Vec<Node> = (0..count)
        .map(|number| {
            Node::new(
                random.within(Duration::ZERO, INTERVAL * 2),
                &[prefix(site(number, sites))],
            )
        })
        .collect();
    let is_any = |those: &[Fault]| faults.iter().any(|fault| those.contains(fault));
    let is_idle_needed = is_any(&[Fault::PublishersDie, Fault::PublishersCutOff]);
    if is_idle_needed || random.0.u8(..4) == 0 {
        let mut idle = Node::new(random.within(Duration::ZERO, INTERVAL * 2), &[prefix(0x77)]);
        idle.publishes = false;
        nodes.push(idle);
    }
    let mut scenario = Scenario {
        nodes,
        layout: if random.either() {
            Layout::Shared
        } else {
            Layout::PerNode
        },
        health: Vec::new(),
        clocks: Clocks::default(),
        actions: Vec::new(),
        slowest: SLOWEST,
        end: Duration::ZERO,
        seed,
    };
    // At any phase of the rounds and of the heartbeats.
    let from = random.within(MINUTE * 7, MINUTE * 8);
    let mut to = from;
    for (number, fault) in faults.iter().enumerate() {
        let begin = if number == 0 {
            from
        } else {
            random.within(from, to + MINUTE)
        };
        to = to.max(apply_fault(*fault, &mut scenario, count, begin, &mut random));
    }
    for node in &mut scenario.nodes {
        node.sees.sort_by_key(|(since, _)| *since);
    }
    if !is_any(&[Fault::Flaps]) && random.either() {
        let at = random.within(from - MINUTE, to + MINUTE);
        renumber(&mut scenario, sites, at, &mut random);
    }
    if !is_any(&[Fault::Clocks]) && random.0.u8(..4) == 0 {
        scenario.clocks.skews = vec![0, 3600];
    }
    if std::env::var("K6U_UPLINK").is_ok() && !is_any(&[Fault::IdleSelected]) {
        for (number, node) in scenario.nodes.iter_mut().enumerate() {
            node.has_second_uplink = true;
            for (_, view) in &mut node.sees {
                if !view.is_empty() {
                    view.truncate(1);
                    view.push(prefix(0x200 + (number % 3) as u16));
                }
            }
        }
    }
    scenario.actions.sort_by_key(|(at, _)| *at);
    scenario.end = rest_from(&scenario) + INTERVAL * 9;
    scenario
}

fn site(number: usize, sites: u16) -> u16 {
    1 + number as u16 % sites
}

/// Adds a fault to the scenario. Returns the time at which it is over.
fn apply_fault(fault: Fault, scenario: &mut Scenario, count: usize, from: Duration, random: &mut Random) -> Duration {
    let victim = random.0.usize(..count);
    match fault {
        Fault::Outage => outage(scenario, from, random.within(MINUTE, MINUTE * 60), random),
        Fault::AsksForRest => {
            let to = from + random.within(MINUTE, MINUTE * 10);
            scenario
                .health
                .push((from, to, Health::Unavailable { retry_after: Some(200) }));
            to
        }
        Fault::TakesNoWrites | Fault::Contention => {
            let to = from + random.within(MINUTE * 5, MINUTE * 30);
            let is_contended = fault == Fault::Contention;
            let health = if is_contended {
                Health::Contended
            } else {
                Health::ReadOnly
            };
            scenario.health.push((from, to, health));
            to
        }
        Fault::Restarts => {
            let over = outage(scenario, from, random.within(MINUTE * 2, MINUTE * 15), random);
            let at_once = random.either();
            let first = if random.either() {
                random.within(from, over - MINUTE)
            } else {
                random.within(over, over + MINUTE)
            };
            for (number, node) in (0..).zip(&mut scenario.nodes) {
                let at = if at_once {
                    first
                } else {
                    first + Duration::from_secs(15) * number
                };
                restart(node, at, random);
            }
            over
        }
        Fault::HalfDie => {
            for node in scenario.nodes.iter_mut().take(count).step_by(2).take(count / 2) {
                die(node, from + random.within(Duration::ZERO, Duration::from_secs(1)));
            }
            from
        }
        Fault::PublishersDie => {
            for node in scenario.nodes.iter_mut().take(count) {
                die(node, from + random.within(Duration::ZERO, MINUTE));
            }
            from + MINUTE
        }
        Fault::PublishersCutOff => {
            let to = from + MINUTE * 8;
            scenario
                .nodes
                .iter_mut()
                .take(count)
                .for_each(|node| node.cuts.push((from, to)));
            to
        }
        Fault::OneCutOffShortly => cut_off(&mut scenario.nodes[victim], from, MINUTE * 3),
        Fault::OneCutOff => cut_off(&mut scenario.nodes[victim], from, MINUTE * 6),
        Fault::Recreated => replace(scenario, scenario.layout, from, random),
        Fault::Moved => {
            let other = match scenario.layout {
                Layout::Shared => Layout::PerNode,
                Layout::PerNode => Layout::Shared,
            };
            replace(scenario, other, from, random)
        }
        Fault::Clocks => {
            scenario.clocks = Clocks {
                skews: vec![0, 3600, -3600],
                jump: Some((from, if random.either() { YEAR } else { -YEAR })),
            };
            from
        }
        Fault::SlowNetwork => {
            scenario.slowest = Duration::from_secs(2);
            // Many requests are under way at the same time.
            for change in 0..10 {
                let at = from + Duration::from_secs(12) * change;
                for (number, node) in (0..).zip(scenario.nodes.iter_mut().take(count)) {
                    let seen = at + random.within(Duration::ZERO, Duration::from_secs(8));
                    let site = if number < 2 { number } else { 0 };
                    node.then_sees(seen, &[prefix(0x100 + 0x10 * change as u16 + site)]);
                }
            }
            from + MINUTE * 2
        }
        Fault::Flaps => {
            let node = &mut scenario.nodes[victim];
            let home = node.at(from).clone();
            let mut at = from;
            for _ in 0..6 {
                at += random.within(Duration::from_millis(5), Duration::from_secs(3));
                node.then_sees(at, &[prefix(0x30)]);
                at += random.within(Duration::from_millis(5), Duration::from_secs(3));
                node.then_sees(at, &home);
            }
            at
        }
        Fault::RestartWhileRecreated => {
            let back = replace(scenario, scenario.layout, from, random);
            let recreated = scenario.actions.last().expect("an action").0;
            let at = random.within(from - INTERVAL, recreated + INTERVAL);
            restart(&mut scenario.nodes[victim], at, random);
            back
        }
        Fault::IdleSelected => {
            if random.either() {
                // No node publishes before.
                scenario.nodes[..count]
                    .iter_mut()
                    .for_each(|node| node.publishes = false);
            }
            let number = scenario.nodes.len();
            let mut node = Node::new(random.within(Duration::ZERO, INTERVAL * 2), &[prefix(0x20)]);
            node.selected_at = from;
            scenario.nodes.push(node);
            scenario.actions.push((from, Action::Select(number)));
            from
        }
        Fault::TargetRefused => {
            let to = from + random.within(MINUTE, MINUTE * 10);
            let status = [403, 422, 500][random.0.usize(..3)];
            let health = match random.either() {
                true => Health::RefusesGroups(status),
                false => Health::RefusesGroupWrites(status),
            };
            scenario.health.push((from, to, health));
            to
        }
        Fault::LostAnswers => {
            let to = from + random.within(MINUTE, MINUTE * 10);
            scenario.health.push((from, to, Health::LosesAnswers));
            to
        }
        Fault::PublicationsRefused => {
            let to = from + random.within(MINUTE, MINUTE * 20);
            let status = [403, 422, 500, 409][random.0.usize(..4)];
            scenario.health.push((from, to, Health::RefusesPublications(status)));
            to
        }
        Fault::OneRefused => {
            let to = from + random.within(MINUTE, MINUTE * 3);
            let status = [403, 422, 500, 409][random.0.usize(..4)];
            scenario
                .health
                .push((from, to, Health::RefusesPublicationsOf(victim, status)));
            to
        }
        Fault::StatusesRefused => {
            let to = from + random.within(MINUTE, MINUTE * 20);
            let status = [403, 422, 500, 409][random.0.usize(..4)];
            scenario.health.push((from, to, Health::RefusesStatuses(status)));
            to
        }
        Fault::Throttled => {
            let to = from + random.within(MINUTE, MINUTE * 20);
            scenario.health.push((from, to, Health::Throttles));
            to
        }
        Fault::PrefixLost => {
            let length = random.within(MINUTE, MINUTE * 10);
            let all = random.either();
            for (number, node) in scenario.nodes.iter_mut().take(count).enumerate() {
                if all || number == victim {
                    let (lost, back) = (from + random.a_moment(), from + length + random.a_moment());
                    let home = node.at(lost).clone();
                    node.then_sees(lost, &[]);
                    node.then_sees(back, &home);
                }
            }
            from + length
        }
        Fault::FirstInstall => {
            for (number, node) in scenario.nodes.iter_mut().take(count).enumerate() {
                node.publishes = number == victim;
            }
            if random.either() {
                let created = random.within(Duration::ZERO, MINUTE * 2);
                scenario.actions.push((Duration::ZERO, Action::Replace(None)));
                scenario.actions.push((created, Action::Replace(Some(scenario.layout))));
            }
            from
        }
    }
}

/// Restarts k6u, unless its node is dead.
fn restart(node: &mut Node, at: Duration, random: &mut Random) {
    let back = at + random.within(Duration::from_millis(100), Duration::from_secs(5));
    let (start, death) = *node.runs.last().expect("a run");
    if death == NEVER && start < at {
        node.restarts(at, back);
    }
}

/// Lets the node die, unless it is dead, or is about to restart.
fn die(node: &mut Node, at: Duration) {
    let (start, death) = *node.runs.last().expect("a run");
    if death == NEVER && start < at {
        node.dies(at);
    }
}

/// Adds an outage of this length, in half of the scenarios with a minute of 503 after it. Returns the time at which it
/// is over.
fn outage(scenario: &mut Scenario, from: Duration, length: Duration, random: &mut Random) -> Duration {
    let to = from + length;
    scenario.health.push((from, to, Health::Down));
    if random.either() {
        scenario
            .health
            .push((to, to + MINUTE, Health::Unavailable { retry_after: None }));
        return to + MINUTE;
    }
    to
}

fn cut_off(node: &mut Node, from: Duration, length: Duration) -> Duration {
    node.cuts.push((from, from + length));
    from + length
}

/// Deletes all IP6UpdateNodeConfigs, and creates them again at once or some time later. The API server may go away
/// while nodes publish again.
fn replace(scenario: &mut Scenario, layout: Layout, from: Duration, random: &mut Random) -> Duration {
    let mut back = from;
    if random.either() {
        scenario.actions.push((from, Action::Replace(None)));
        back = random.within(from, from + MINUTE * 2);
    }
    scenario.actions.push((back, Action::Replace(Some(layout))));
    if random.either() {
        let (away, length) = (
            random.within(back, back + INTERVAL),
            random.within(INTERVAL, MINUTE * 6),
        );
        return outage(scenario, away, length, random);
    }
    back
}

/// Every site gets another prefix; nodes see it within a moment.
fn renumber(scenario: &mut Scenario, sites: u16, at: Duration, random: &mut Random) {
    for (number, node) in scenario.nodes.iter_mut().enumerate() {
        let living = [prefix(0x40 + site(number, sites))];
        let seen = at + random.a_moment();
        // Later views are dropped.
        node.sees.retain(|(since, _)| *since < seen);
        node.then_sees(seen, &living);
    }
}

/// A source of random choices.
struct Random(fastrand::Rng);

impl Random {
    fn either(&mut self) -> bool {
        self.0.bool()
    }

    fn within(&mut self, from: Duration, to: Duration) -> Duration {
        from + to.saturating_sub(from).mul_f64(self.0.f64())
    }

    /// A delay until a node sees a change. In most networks all nodes see it at the same time, behind some switches
    /// later.
    fn a_moment(&mut self) -> Duration {
        let longest = if self.either() {
            Duration::from_millis(100)
        } else {
            Duration::from_secs(8)
        };
        self.within(Duration::ZERO, longest)
    }
}

/// All nodes run from this time on, and nothing happens until [`CHANGES`].
pub const STEADY: Duration = Duration::from_secs(120);
/// Renumberings that all nodes see.
pub const CHANGES: [Duration; 3] = [
    Duration::from_secs(400),
    Duration::from_secs(500),
    Duration::from_secs(600),
];
/// Another writer overwrites the group; three times in ten minutes would cause a report.
pub const DRIFTS: [Duration; 2] = [Duration::from_secs(693), Duration::from_secs(767)];
/// An administrator adds a group.
pub const EDITS: [Duration; 3] = [
    Duration::from_secs(903),
    Duration::from_secs(977),
    Duration::from_secs(1056),
];
/// One node alone gets another uplink.
pub const ALONE: Duration = Duration::from_secs(1130);
/// A renumbering in which the first node that sees it dies.
pub const DEATH: Duration = Duration::from_secs(1200);

/// Which nodes publish, and in how many objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publishers {
    /// All nodes.
    All(Layout),
    /// One of them; the others are idle.
    One,
    /// No node.
    None,
}

/// All variants.
pub const PUBLISHERS: [Publishers; 4] = [
    Publishers::All(Layout::Shared),
    Publishers::All(Layout::PerNode),
    Publishers::One,
    Publishers::None,
];

impl Publishers {
    /// The number of nodes that publish, of `count`.
    pub fn of(self, count: usize) -> usize {
        match self {
            Publishers::All(_) => count,
            Publishers::One => 1,
            Publishers::None => 0,
        }
    }
}

/// A day of `count` nodes with all of these events. All nodes see each renumbering within a tenth of a second. If only
/// one node publishes, it is the one that gets another uplink, and it does not die.
pub fn day(count: usize, publishers: Publishers, seed: u64) -> Scenario {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let mut nodes: Vec<Node> = (0..count)
        .map(|_| Node::new(random.within(Duration::ZERO, INTERVAL * 2), &[prefix(1)]))
        .collect();
    for (at, number) in CHANGES.into_iter().chain([DEATH]).zip(2..) {
        for node in &mut nodes {
            node.then_sees(
                at + random.within(Duration::ZERO, Duration::from_millis(100)),
                &[prefix(number)],
            );
        }
    }
    let alone = &mut nodes[count / 2];
    alone.sees.insert(4, (ALONE, vec![prefix(4), prefix(99)]));
    let last = |node: &Node| node.sees.last().expect("it sees").0;
    let all_publish = matches!(publishers, Publishers::All(_));
    let first = nodes.iter_mut().min_by_key(|node| last(node));
    if let Some(first) = first.filter(|_| count > 1 && all_publish) {
        first.dies(last(first) + random.within(Duration::ZERO, Duration::from_millis(40)));
    }
    for (number, node) in nodes.iter_mut().enumerate() {
        node.publishes = all_publish || publishers == Publishers::One && number == count / 2;
    }
    let layout = match publishers {
        Publishers::All(layout) => layout,
        Publishers::One | Publishers::None => Layout::Shared,
    };
    let drifts = DRIFTS.into_iter().map(|at| (at, Action::Overwrite));
    let edits = EDITS.into_iter().map(|at| (at, Action::AddGroup));
    let mut scenario = Scenario {
        nodes,
        layout,
        health: Vec::new(),
        clocks: Clocks::default(),
        actions: drifts.chain(edits).collect(),
        slowest: SLOWEST,
        end: NEVER,
        seed,
    };
    scenario.end = rest_from(&scenario) + INTERVAL * 9;
    scenario
}
