//! The rules that the outcome of every scenario must keep.

use std::collections::BTreeSet;
use std::time::Duration;

use k6u::limits::{LINGER, MAX_BACKOFF};
use k6u::prefix::{Prefix, join};

use crate::cluster::{Held, Kind, Served};
use crate::site::{Action, Health, INTERVAL, LENGTH, NEVER, Node, Outcome, Scenario, View, Window, cidrs};

const MINUTE: Duration = Duration::from_secs(60);
/// An entry without a heartbeat is removed after this time.
const SILENT_AFTER: Duration = Duration::from_secs(300);
/// The longest pause of a node after failures.
const BACKOFF: Duration = Duration::from_secs(60);
/// A node that alone is cut off for this long may be removed.
const ALONE: Duration = Duration::from_secs(240);

/// The violations of all rules, as texts.
pub fn violations(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let mut violations = contradictions(outcome);
    violations.extend(emptied(outcome));
    violations.extend(locked_out(scenario, outcome));
    violations.extend(late(scenario, outcome));
    violations.extend(false_alarms(scenario, outcome));
    violations.extend(hasty_reports(scenario, outcome));
    violations.extend(unreported_refusals(scenario, outcome));
    violations.extend(dead_prefixes(scenario, outcome));
    violations.extend(at_rest(scenario, outcome));
    violations
}

/// Writes that contradict the entries: they added a CIDR that no entry justifies, or removed one that an entry has.
fn contradictions(outcome: &Outcome) -> Vec<String> {
    let added = outcome.history.iter().filter(|held| !held.unjustified.is_empty());
    let added = added.map(|held| format!("{:?}: added {:?}, which is in no entry", held.at, held.unjustified));
    let taken = outcome.history.iter().filter(|held| !held.premature.is_empty());
    let taken = taken.map(|held| format!("{:?}: took out {:?}, which is in an entry", held.at, held.premature));
    added.chain(taken).collect()
}

/// Writes that emptied the group, which no scenario justifies.
fn emptied(outcome: &Outcome) -> Vec<String> {
    let emptied = outcome
        .history
        .iter()
        .filter(|held| held.is_k6u && held.cidrs.is_empty());
    emptied
        .map(|held| format!("{:?}: emptied the group", held.at))
        .collect()
}

/// Writes that removed a CIDR of a live node that sees its prefix. A prefix that a node has just begun to see may be
/// missing until the next round.
fn locked_out(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let mut violations = Vec::new();
    let longest = INTERVAL + scenario.just_before();
    for (taken, cidr, held) in taken_out(outcome) {
        let has = |node: &&Node| needs(scenario, node, &cidr, held.at);
        let Some(number) = scenario.nodes.iter().position(|node| has(&node)) else {
            continue;
        };
        let node = &scenario.nodes[number];
        let sees = |view: &View| cidrs(view).contains(&cidr);
        let came = node
            .sees
            .windows(2)
            .filter(|views| !sees(&views[0].1) && sees(&views[1].1));
        let came = came.map(|views| reachable_from(scenario, views[1].0).max(views[1].0));
        let changed = node
            .sees
            .iter()
            .map(|(since, _)| *since)
            .filter(|since| *since <= held.at);
        let is_news = changed.chain(came).any(|since| since + longest > held.at);
        let is_back = || {
            let later = outcome.history[taken..].iter();
            let back = later.filter(|later| later.cidrs.contains(&cidr)).map(|later| later.at);
            let views = node
                .sees
                .iter()
                .map(|(since, _)| *since)
                .filter(|since| *since > held.at);
            let gone = views.filter(|since| !needs(scenario, node, &cidr, *since));
            back.chain(gone)
                .chain([node.death()])
                .any(|at| at <= held.at.max(reachable_from(scenario, held.at)) + longest)
        };
        let may_not_know = || is_news || wrote_without_memory(scenario, held.at);
        if !may_not_know() || !is_back() {
            violations.push(format!("{:?}: took out {cidr}, but node {number} has it", held.at));
        }
    }
    violations
}

/// Whether a node that started after IP6UpdateNodeConfigs were deleted may have written at a time, before the others
/// published again. Such a node knows of no vanished entries, and waits for nothing.
fn wrote_without_memory(scenario: &Scenario, at: Duration) -> bool {
    let Some((deleted, recreated)) = replaced(scenario) else {
        return false;
    };
    let a_round = INTERVAL + scenario.just_before();
    // The node may not have read anything before they were deleted.
    let is_short = |start: &Duration| reachable_from(scenario, *start) + a_round >= deleted && *start <= at;
    let restarts = scenario.nodes.iter().flat_map(|node| node.runs.iter().skip(1));
    let are_back = reachable_from(scenario, recreated) + a_round;
    (deleted..are_back).contains(&at) && restarts.map(|(start, _)| *start).any(|start| is_short(&start))
}

/// The time in which IP6UpdateNodeConfigs are deleted.
fn replaced(scenario: &Scenario) -> Option<Window> {
    let is_replaced = |(_, action): &&(Duration, Action)| matches!(action, Action::Replace(_));
    let mut times = scenario.actions.iter().filter(is_replaced).map(|(at, _)| *at);
    let first = times.next()?;
    Some((first, times.next_back().unwrap_or(first)))
}

/// The time from which every live node can publish again, after the obstacles at `time` or within a round of it.
fn reachable_from(scenario: &Scenario, time: Duration) -> Duration {
    let health = scenario.health.iter().map(|(from, to, _)| (*from, *to));
    let cuts = scenario.nodes.iter().flat_map(|node| node.cuts.iter().copied());
    let mut windows: Vec<Window> = health.chain(cuts).collect();
    windows.sort();
    let a_round = INTERVAL + scenario.just_before();
    let in_the_way = |time: Duration, (from, to): &Window| match *from <= time + a_round && time < *to + BACKOFF {
        true => *to + BACKOFF,
        false => time,
    };
    windows.iter().fold(time, in_the_way)
}

/// The CIDRs that k6u removed, each with the number of the write and the list after it.
fn taken_out(outcome: &Outcome) -> impl Iterator<Item = (usize, String, &Held)> {
    let pairs = outcome.history.iter().zip(outcome.history.iter().skip(1)).zip(1..);
    pairs
        .filter(|((_, after), _)| after.is_k6u)
        .flat_map(|((before, after), number)| {
            let taken: Vec<String> = before.cidrs.difference(&after.cidrs).cloned().collect();
            taken.into_iter().map(move |cidr| (number, cidr, after))
        })
}

/// Whether a node's CIDR must be in the group at a time.
fn needs(scenario: &Scenario, node: &Node, cidr: &str, at: Duration) -> bool {
    let is_in = cidrs(node.at(at)).contains(cidr);
    node.publishes && node.selected_at <= at && node.death() > at && is_in && !was_alone(scenario, node, at)
}

/// Prefixes that were not in the group an interval after a node first saw them, or, after an obstacle, an interval and
/// the longest backoff after its end.
fn late(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let a_round = INTERVAL + scenario.just_before();
    let mut violations = Vec::new();
    for (number, node) in scenario.nodes.iter().enumerate().filter(|(_, node)| node.publishes) {
        let mut obstacles: Vec<Window> = scenario.health.iter().map(|(from, to, _)| (*from, *to)).collect();
        obstacles.extend(&node.cuts);
        obstacles.extend(node.runs.iter().zip(&node.runs[1..]).map(|(run, next)| (run.1, next.0)));
        // The time in which the node configs are deleted.
        obstacles.extend(replaced(scenario));
        obstacles.sort();
        for (at, (since, view)) in node.sees.iter().enumerate() {
            let mut due = (*since).max(node.runs[0].0).max(node.selected_at) + a_round;
            for (from, to) in &obstacles {
                let after = *to + BACKOFF + a_round;
                if *from < due && after > due {
                    due = after;
                }
            }
            let until = node
                .sees
                .get(at + 1)
                .map_or(NEVER, |next| next.0)
                .min(node.death())
                .min(scenario.end);
            let held = outcome.history.iter().rev().find(|held| held.at <= due);
            let wanted = cidrs(view);
            if due < until
                && !was_alone(scenario, node, due)
                && !held.is_some_and(|held| held.cidrs.is_superset(&wanted))
            {
                violations.push(format!(
                    "{due:?}: what node {number} sees since {since:?} is not in the group"
                ));
            }
        }
    }
    violations
}

/// Changes of Ready to False, though all publishing nodes ran all the time and could publish.
fn false_alarms(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let is_steady = |node: &Node| !node.publishes || node.death() == NEVER && node.cuts.is_empty();
    if !scenario.nodes.iter().all(is_steady) || !scenario.actions.is_empty() {
        return Vec::new();
    }
    let once_ready = outcome.reasons.iter().skip_while(|(_, reason)| reason != "Updated");
    let is_refused = |at: Duration| {
        let mut health = scenario.health.iter();
        health.any(|(from, to, health)| match health {
            // A refused request is tried again after the longest pause.
            Health::RefusesPublications(_)
            | Health::RefusesPublicationsOf(..)
            | Health::Throttles
            | Health::RefusesGroups(_)
            | Health::RefusesGroupWrites(_) => (*from..*to + MAX_BACKOFF + INTERVAL).contains(&at),
            _ => false,
        })
    };
    // While writes are refused all entries stand still, and an idle node may be the first whose write succeeds.
    let has_idle = scenario.nodes.iter().any(|node| !node.publishes);
    let all_stood_still = |at: Duration| {
        let mut health = scenario.health.iter();
        health.any(|(from, to, health)| {
            let others_are_back = *to + MAX_BACKOFF + INTERVAL * 2;
            *health == Health::ReadOnly && (*from + SILENT_AFTER..others_are_back).contains(&at)
        })
    };
    let no_node_sees = |at: Duration| {
        let just_before = at.saturating_sub(INTERVAL + scenario.just_before());
        let saw_nothing = |node: &Node| {
            let mut views = node.sees.iter().filter(|(since, _)| (just_before..at).contains(since));
            node.at(just_before).is_empty() || views.any(|(_, view)| view.is_empty())
        };
        scenario.nodes.iter().filter(|node| node.publishes).all(saw_nothing)
    };
    let is_true = |at: Duration, reason: &str| match reason {
        "UpdateFailed" => is_refused(at),
        "NoPrefix" => has_idle && all_stood_still(at) || no_node_sees(at),
        reason => reason == "Updated",
    };
    let false_reports = once_ready.filter(|(at, reason)| !is_true(*at, reason));
    false_reports
        .map(|(at, reason)| format!("{at:?}: Ready turned to {reason}"))
        .collect()
}

/// Statuses and Events before the first publication, while the selected nodes had no time to publish.
fn hasty_reports(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let is_created = |(at, action): &&(Duration, Action)| *at < MINUTE * 3 && matches!(action, Action::Replace(_));
    let created = scenario
        .actions
        .iter()
        .filter(is_created)
        .map(|(at, _)| *at)
        .max()
        .unwrap_or_default();
    let start = |node: &Node| node.runs[0].0;
    let first_idle = scenario.nodes.iter().filter(|node| !node.publishes).map(start).min();
    let publishing = scenario
        .nodes
        .iter()
        .filter(|node| node.publishes && node.selected_at.is_zero());
    let Some((idle, publisher)) = first_idle.zip(publishing.map(start).min()) else {
        return Vec::new();
    };
    if publisher >= created.max(idle) + INTERVAL * 2 {
        return Vec::new();
    }
    let publication = outcome
        .served
        .iter()
        .find(|served| served.at >= created && served.kind == Kind::Publication);
    let Some(publication) = publication else {
        return vec!["no node ever published".into()];
    };
    let from = if created.is_zero() {
        created
    } else {
        created + scenario.just_before()
    };
    let is_hasty = |served: &&Served| served.kind == Kind::Report && (from..publication.at).contains(&served.at);
    let hasty = outcome.served.iter().filter(is_hasty);
    hasty
        .map(|served| {
            format!(
                "{:?}: reported before the first publication, at {:?}",
                served.at, publication.at
            )
        })
        .collect()
}

/// Periods in which every request for the group was refused, and Ready did not show it within two intervals.
fn unreported_refusals(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let always_sees = |node: &Node| node.sees.iter().all(|(_, view)| !view.is_empty());
    let is_steady = |node: &Node| node.publishes && node.death() == NEVER && node.cuts.is_empty() && always_sees(node);
    if scenario.health.len() > 1 || !scenario.actions.is_empty() || !scenario.nodes.iter().any(is_steady) {
        return Vec::new();
    }
    let is_reported = |from: Duration| {
        let mut reasons = outcome.reasons.iter();
        reasons.any(|(at, reason)| (from..from + INTERVAL * 2).contains(at) && reason == "UpdateFailed")
    };
    let refused = scenario
        .health
        .iter()
        .filter(|(_, _, health)| matches!(health, Health::RefusesGroups(_)));
    let unreported = refused.filter(|(from, _, _)| !is_reported(*from));
    unreported
        .map(|(from, _, _)| {
            format!(
                "{from:?}: Ready does not show that the group is refused: {:?}",
                outcome.reasons
            )
        })
        .collect()
}

/// Whether the node may have been removed by mistake: it was cut off for four minutes or more, or when
/// IP6UpdateNodeConfigs were recreated and for longer than vanished entries linger, while another one that publishes
/// was not, and has not had the time to come back since.
fn was_alone(scenario: &Scenario, node: &Node, at: Duration) -> bool {
    let back = |end: Duration| end + INTERVAL * 3 + scenario.just_before();
    let others = || {
        scenario
            .nodes
            .iter()
            .filter(|other| other.publishes && !std::ptr::eq(*other, node))
    };
    let a_round = INTERVAL + scenario.just_before();
    let may_be_removed_from = |cut: &Window| {
        // A vanished prefix is removed unless it is back in time.
        let has_no_entry =
            |recreated: &Window| recreated.1 < cut.1 && reachable_from(scenario, recreated.1) + a_round > cut.0;
        let vanished = replaced(scenario)
            .filter(has_no_entry)
            .map(|(deleted, _)| deleted + LINGER);
        vanished.into_iter().chain([cut.0 + ALONE]).min().expect("one at least")
    };
    joined(&node.cuts).iter().chain(&node.cuts).any(|cut| {
        let is_connected = |other: &Node| !other.cuts.iter().any(|theirs| theirs.0 < cut.1 && theirs.1 > cut.0);
        (may_be_removed_from(cut)..back(cut.1)).contains(&at) && others().any(is_connected)
    })
}

/// Windows in order, joined where a node may not have published in between.
fn joined(windows: &[Window]) -> Vec<Window> {
    let mut windows = windows.to_vec();
    windows.sort();
    let mut joined: Vec<Window> = Vec::new();
    for (from, to) in windows {
        match joined.last_mut() {
            Some(last) if from < last.1 + BACKOFF + INTERVAL => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// Prefixes of dead nodes that stayed for longer than five minutes and two intervals.
fn dead_prefixes(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, node) in scenario.nodes.iter().enumerate() {
        let Some(gone_by) = gone_by(scenario, node).filter(|gone_by| *gone_by < scenario.end) else {
            continue;
        };
        let last = cidrs(node.at(node.death()));
        for held in held_from(outcome, gone_by) {
            let strangers = last.iter().filter(|cidr| held.cidrs.contains(*cidr));
            let strangers = strangers.filter(|cidr| {
                !scenario
                    .nodes
                    .iter()
                    .any(|other| other.publishes && other.death() > held.at && sees(other, cidr))
            });
            if let Some(cidr) = strangers.into_iter().next() {
                violations.push(format!(
                    "{cidr} of node {number}, dead since {:?}, is in the group after {gone_by:?}",
                    node.death()
                ));
                break;
            }
        }
    }
    violations
}

fn sees(node: &Node, cidr: &str) -> bool {
    node.sees.iter().any(|(_, view)| cidrs(view).contains(cidr))
}

/// The time by which a dead node's prefix has to be removed; `None` if the node lives, or no node is left to remove it.
fn gone_by(scenario: &Scenario, node: &Node) -> Option<Duration> {
    let survivors: Vec<&Node> = scenario
        .nodes
        .iter()
        .filter(|other| other.publishes && other.death() == NEVER)
        .collect();
    if !node.publishes || node.death() == NEVER || survivors.is_empty() {
        return None;
    }
    // Watching begins when the last watcher has started, and again when a publication failed.
    let last_start = survivors.iter().map(|other| other.runs.last().expect("a run").0);
    let mut from = last_start.chain([node.death()]).max()?;
    for (begin, end, _) in &scenario.health {
        if *end > node.death() && *begin < from + SILENT_AFTER + INTERVAL * 2 {
            from = from.max(*end + BACKOFF);
        }
    }
    // While no node sees a prefix, all targets keep what they hold.
    for views in survivors.iter().flat_map(|other| other.sees.windows(2)) {
        if views[0].1.is_empty() && views[1].0 > node.death() {
            from = from.max(views[1].0);
        }
    }
    for cut in survivors.iter().flat_map(|other| &other.cuts) {
        if cut.1 > node.death() {
            from = from.max(cut.1 + BACKOFF);
        }
    }
    // A gap between two reads counts as one interval, so what a round itself takes does not count.
    let rounds = u32::try_from(SILENT_AFTER.as_secs() / INTERVAL.as_secs()).expect("few");
    Some(from + SILENT_AFTER + INTERVAL * 2 + scenario.slowest * 6 * rounds + scenario.just_before())
}

/// The lists of the group from this time on.
fn held_from(outcome: &Outcome, time: Duration) -> impl Iterator<Item = &Held> {
    let first = outcome.history.iter().rposition(|held| held.at <= time).unwrap_or(0);
    outcome.history[first..].iter()
}

/// The time from which nothing changes any more: after the last event of the scenario, and the reactions to it.
pub fn rest_from(scenario: &Scenario) -> Duration {
    let mut last = Duration::ZERO;
    for node in &scenario.nodes {
        let starts = node.runs.iter().map(|(start, _)| *start);
        let changes = node
            .sees
            .iter()
            .map(|(since, _)| *since)
            .filter(|since| *since < node.death());
        let cuts = node.cuts.iter().map(|cut| cut.1 + BACKOFF);
        last = starts.chain(changes).chain(cuts).fold(last, Duration::max);
    }
    last = scenario
        .health
        .iter()
        .map(|(_, end, _)| *end + BACKOFF)
        .fold(last, Duration::max);
    last = scenario.actions.iter().map(|(at, _)| *at).fold(last, Duration::max);
    for node in scenario.nodes.iter().filter(|node| node.death() < NEVER) {
        // Without survivors that publish, idle nodes take as long to see it.
        let idle = last.max(node.death()) + SILENT_AFTER + INTERVAL * 2 + scenario.slowest * 200;
        last = last.max(gone_by(scenario, node).unwrap_or(idle));
    }
    // Ten intervals are enough for all nodes to have made a round.
    last + INTERVAL * 10 + BACKOFF + scenario.just_before()
}

/// Violations at the end, when nothing changes any more.
fn at_rest(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let rest = rest_from(scenario);
    assert!(
        rest + INTERVAL * 6 < scenario.end,
        "the scenario ends before it rests, at {rest:?}"
    );
    let mut violations = Vec::new();
    let is_write = |kind| kind == Kind::GroupWrite || kind == Kind::Report;
    let restless = outcome
        .served
        .iter()
        .filter(|served| served.at >= rest && is_write(served.kind))
        .count();
    if restless > 0 {
        violations.push(format!(
            "{restless} writes after {rest:?}, when nothing happens any more"
        ));
    }
    let uplinks = if scenario.nodes[0].has_second_uplink { 2.0 } else { 1.0 };
    let nodes = scenario.nodes.iter().filter(|node| node.death() == NEVER).count() as f64;
    let minutes = (scenario.end - rest).as_secs_f64() / 60.0;
    let is_heartbeat = |served: &&Served| served.at >= rest && served.kind == Kind::Publication;
    let heartbeats = outcome.served.iter().filter(is_heartbeat).count() as f64;
    // One a minute, or a quarter earlier.
    if heartbeats > nodes * uplinks * (minutes * 1.25 + 1.0) {
        violations.push(format!(
            "{heartbeats} publications after {rest:?}, in {minutes:.1} minutes"
        ));
    }
    let living: Vec<&Node> = scenario
        .nodes
        .iter()
        .filter(|node| node.publishes && node.death() == NEVER)
        .collect();
    let (reason, message) = &outcome.ready;
    if living.is_empty() {
        let anybody = scenario.nodes.iter().any(|node| node.death() == NEVER);
        // What a node reported that could not publish stands when that node is dead: no other knows better.
        if anybody && reason != "NoPrefix" && !message.contains("cannot publish what it sees") {
            violations.push(format!("no node publishes, but Ready says {reason}: {message}"));
        }
        return violations;
    }
    let expected: BTreeSet<String> = living.iter().flat_map(|node| cidrs(node.at(scenario.end))).collect();
    let held = outcome
        .history
        .last()
        .map(|held| held.cidrs.clone())
        .unwrap_or_default();
    if held != expected {
        violations.push(format!("the group holds {held:?}, not {expected:?}"));
    }
    let delegated: BTreeSet<Prefix> = living
        .iter()
        .flat_map(|node| node.at(scenario.end))
        .map(|p| p.truncate(LENGTH))
        .collect();
    let delegated: Vec<Prefix> = delegated.into_iter().collect();
    if reason != "Updated" || !message.contains(&join(&delegated)) {
        violations.push(format!("Ready says {reason}: {message}"));
    }
    let alive = |number: &usize| scenario.nodes[*number].publishes && scenario.nodes[*number].death() == NEVER;
    let expected: BTreeSet<usize> = (0..scenario.nodes.len()).filter(alive).collect();
    if outcome.entries != expected {
        violations.push(format!("entries of nodes {:?}, not {expected:?}", outcome.entries));
    }
    violations
}
