//! Fixed scenarios: those that once violated a rule, and some that are rare.

use std::time::Duration;

use crate::check::{self, rest_from};
use crate::cluster::{Clocks, Kind};
use crate::scenarios::prefix;
use crate::site::{self, Action, Health, INTERVAL, Layout, Node, Outcome, SLOWEST, Scenario};

const MINUTE: Duration = Duration::from_secs(60);

/// A scenario without faults. Each node always sees the prefix of its number in `sites`.
fn scenario(sites: &[u16], layout: Layout, seed: u64) -> Scenario {
    let mut random = fastrand::Rng::with_seed(seed);
    let nodes = sites
        .iter()
        .map(|number| Node::new((INTERVAL * 3).mul_f64(random.f64()), &[prefix(*number)]));
    Scenario {
        nodes: nodes.collect(),
        layout,
        health: Vec::new(),
        clocks: Clocks::default(),
        actions: Vec::new(),
        slowest: SLOWEST,
        end: Duration::ZERO,
        seed,
    }
}

fn assert_none(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        violations[..violations.len().min(12)].join("\n")
    );
}

fn check_all(scenarios: impl Iterator<Item = Scenario>) {
    let mut violations = Vec::new();
    for mut scenario in scenarios {
        scenario.end = scenario.end.max(rest_from(&scenario) + INTERVAL * 9);
        let found = check::violations(&scenario, &site::run(&scenario));
        violations.extend(
            found
                .into_iter()
                .map(|violation| format!("seed {}: {violation}", scenario.seed)),
        );
    }
    assert_none(&violations);
}

/// `count` nodes, one with another prefix. All IP6UpdateNodeConfigs are recreated.
fn recreated(count: usize, seed: u64) -> Scenario {
    let mut sites = vec![1; count];
    sites[count - 1] = 2;
    let mut scenario = scenario(&sites, Layout::Shared, seed);
    let at = MINUTE * 2 + Duration::from_secs(seed);
    scenario.actions.push((at, Action::Replace(Some(Layout::Shared))));
    scenario
}

/// 60 nodes make a round every 30 seconds.
#[test]
fn recreated_in_a_large_cluster() {
    check_all((0..2).map(|seed| recreated(60, seed)));
}

/// 150 nodes make a round every minute.
#[test]
#[ignore = "takes a minute: make test-simulation"]
fn recreated_in_a_very_large_cluster() {
    check_all((0..4).map(|seed| recreated(150, seed)));
}

/// A hundred nodes are installed; one of them publishes, and starts last.
#[test]
fn first_install_on_many_nodes() {
    check_all((0..3).map(|seed| {
        let mut scenario = scenario(&[1; 100], Layout::Shared, seed);
        let last = scenario.nodes.iter().map(|node| node.runs[0].0).max().expect("nodes");
        scenario.nodes.iter_mut().for_each(|node| {
            node.publishes = false;
            node.runs[0].0 = node.runs[0].0.mul_f64(0.6);
        });
        scenario.nodes[50].publishes = true;
        scenario.nodes[50].runs[0].0 = last.mul_f64(0.6);
        scenario
    }));
}

/// The API server answers 503 for ten minutes, in which the IP6UpdateNodeConfigs are recreated.
#[test]
fn recreated_while_nodes_back_off() {
    check_all((0..6).map(|seed| {
        let mut scenario = scenario(&[1, 2, 3], Layout::PerNode, seed);
        let unavailable = Health::Unavailable { retry_after: None };
        scenario.health.push((MINUTE * 5, MINUTE * 15, unavailable));
        scenario
            .actions
            .push((MINUTE * 14, Action::Replace(Some(Layout::PerNode))));
        scenario
    }));
}

/// IP6UpdateNodeConfigs are recreated between the requests of a round: an entry that was just published is gone.
#[test]
fn recreated_during_rounds() {
    check_all((0..12).map(|seed| {
        let mut scenario = scenario(&[1, 2, 3], Layout::Shared, seed);
        scenario.slowest = Duration::from_secs(2);
        let at = MINUTE * 3 + Duration::from_secs(seed);
        scenario.actions.push((at, Action::Replace(Some(Layout::Shared))));
        scenario
    }));
}

/// IP6UpdateNodeConfigs are away for longer than vanished entries linger, so no node can publish in time.
#[test]
fn recreated_after_minutes() {
    check_all((0..12).map(|seed| {
        let mut scenario = scenario(&[1, 2, 3], Layout::PerNode, seed);
        let back = MINUTE * 6 + Duration::from_secs(37) * seed as u32;
        scenario.actions.push((MINUTE * 3, Action::Replace(None)));
        scenario.actions.push((back, Action::Replace(Some(Layout::PerNode))));
        scenario
    }));
}

/// Every publication of every node meets a conflict for ten minutes.
#[test]
fn conflicts_for_ten_minutes() {
    check_all((0..6).map(|seed| {
        let mut scenario = scenario(&[1, 2, 3], Layout::PerNode, seed);
        scenario
            .health
            .push((MINUTE * 5, MINUTE * 15, Health::RefusesPublications(409)));
        scenario
    }));
}

/// The IP6UpdateNodeConfig of the second interface takes no publications for a while. No node is removed from it when
/// it takes them again.
#[test]
fn one_object_takes_no_publications() {
    check_all((0..6).map(|seed| {
        let mut scenario = scenario(&[1, 2, 3], Layout::Shared, seed);
        for (node, number) in scenario.nodes.iter_mut().zip(0x11..) {
            node.has_second_uplink = true;
            node.sees[0].1.push(prefix(number));
        }
        scenario
            .health
            .push((MINUTE * 5, MINUTE * 15, Health::RefusesSecondUplink));
        scenario
    }));
}

/// A node is moved from one IP6UpdateNodeConfig to another.
#[test]
fn a_node_moves() {
    check_all((0..80).step_by(4).map(moves));
}

/// The same at each phase of the heartbeats.
#[test]
#[ignore = "takes a minute: make test-simulation"]
fn a_node_moves_at_any_time() {
    check_all((0..80).map(moves));
}

fn moves(seed: u64) -> Scenario {
    let mut scenario = scenario(&[1, 2, 3], Layout::PerNode, seed);
    scenario.slowest = Duration::from_secs(2);
    let at = MINUTE * 5 + Duration::from_secs(seed);
    scenario.actions.push((at, Action::Move(0)));
    scenario.actions.push((at + MINUTE, Action::Move(1)));
    scenario.actions.push((at + MINUTE * 2, Action::Move(2)));
    scenario
}

/// No node can publish from the fifth minute on, until the end.
fn refused_for_an_hour(mut scenario: Scenario) -> Outcome {
    scenario.end = MINUTE * 70;
    scenario
        .health
        .push((MINUTE * 5, MINUTE * 80, Health::RefusesPublications(422)));
    site::run(&scenario)
}

/// There is nothing new to report.
fn check_reports_of_refusals(scenario: Scenario) {
    let outcome = refused_for_an_hour(scenario);
    let reports = outcome
        .served
        .iter()
        .filter(|served| served.at > MINUTE * 20 && served.kind == Kind::Report)
        .count();
    assert!(
        reports <= 3,
        "{reports} statuses and Events were written in 50 minutes in which nothing changed: {:?}",
        outcome.ready
    );
}

#[test]
fn publications_are_refused_for_an_hour() {
    check_reports_of_refusals(scenario(&[1, 1, 1], Layout::Shared, 1));
}

/// The same with an IP6UpdateNodeConfig for each node, the usual layout.
#[test]
fn publications_are_refused_for_an_hour_in_an_object_each() {
    check_reports_of_refusals(scenario(&[1, 1, 1], Layout::PerNode, 1));
}

/// No node can publish, for an hour. In the middle k6u restarts on one node. Whether a fourth node is idle makes no
/// difference: nothing is new.
fn restarted_while_publications_are_refused(has_idle: bool) {
    let mut scenario = scenario(&[1, 1, 1, 1], Layout::Shared, 1);
    scenario.nodes[3].publishes = !has_idle;
    scenario.nodes[0].restarts(MINUTE * 30, MINUTE * 30 + Duration::from_secs(2));
    let outcome = refused_for_an_hour(scenario);
    let turned: Vec<_> = outcome.reasons.iter().filter(|(at, _)| *at > MINUTE * 20).collect();
    assert!(
        turned.len() <= 2,
        "Ready turned {} times after the restart, though no node can publish: {turned:?}",
        turned.len()
    );
}

/// See [`restarted_while_publications_are_refused`].
#[test]
fn a_node_restarts_while_publications_are_refused() {
    restarted_while_publications_are_refused(false);
}

/// See [`restarted_while_publications_are_refused`].
#[test]
fn a_node_restarts_beside_an_idle_one_while_publications_are_refused() {
    restarted_while_publications_are_refused(true);
}

/// The only node has two uplinks, an object for each, and can publish in none for an hour.
#[test]
fn publications_for_two_uplinks_are_refused_for_an_hour() {
    let mut scenario = scenario(&[1], Layout::Shared, 1);
    scenario.nodes[0].has_second_uplink = true;
    scenario.nodes[0].sees[0].1.push(prefix(0x11));
    check_reports_of_refusals(scenario);
}

/// Groups cannot be read for ten minutes, because a right is missing. Ready changes once when the right is back.
#[test]
fn a_right_that_comes_back() {
    let mut scenario = scenario(&[1, 1, 1, 1, 1], Layout::Shared, 0);
    scenario
        .health
        .push((MINUTE * 5, MINUTE * 15, Health::RefusesGroupReads));
    scenario.end = MINUTE * 25;
    let outcome = site::run(&scenario);
    let reported: Vec<_> = outcome.reasons.iter().filter(|(at, _)| *at >= MINUTE * 15).collect();
    assert!(
        reported.len() <= 1,
        "Ready turned {} times: {reported:?}",
        reported.len()
    );
}

/// The same with a webhook that refuses only writes.
#[test]
fn a_webhook_that_comes_back() {
    let mut scenario = scenario(&[1, 1, 1, 1, 1], Layout::Shared, 0);
    for node in &mut scenario.nodes {
        node.then_sees(MINUTE * 6, &[prefix(2)]);
    }
    scenario
        .health
        .push((MINUTE * 5, MINUTE * 15, Health::RefusesGroupWrites(500)));
    scenario.end = MINUTE * 25;
    let outcome = site::run(&scenario);
    let reported: Vec<_> = outcome.reasons.iter().filter(|(at, _)| *at >= MINUTE * 15).collect();
    assert!(
        reported.len() <= 1,
        "Ready turned {} times: {reported:?}",
        reported.len()
    );
}

/// Another writer changes the group every 100 seconds. The first node that sees a change undoes it, so nodes count
/// different changes. A report may be withdrawn and repeated, but not more than twice in ten minutes.
#[test]
fn the_group_is_overwritten_repeatedly() {
    let mut scenario = scenario(&[1, 1, 1, 1], Layout::Shared, 0);
    for count in 0..20 {
        scenario
            .actions
            .push((MINUTE * 5 + Duration::from_secs(100) * count, Action::Overwrite));
    }
    scenario.end = MINUTE * 50;
    let outcome = site::run(&scenario);
    let reported: Vec<_> = outcome.reasons.iter().filter(|(at, _)| *at >= MINUTE * 5).collect();
    assert!(
        reported.len() <= 10,
        "Ready turned {} times: {reported:?}",
        reported.len()
    );
}

/// All IP6UpdateNodeConfigs are recreated while every other publication meets a conflict. No node removes a prefix that
/// it sees itself.
#[test]
fn recreated_while_publications_conflict() {
    check_all((0..16).map(|seed| {
        let mut scenario = scenario(&[1, 2, 1, 2], Layout::Shared, seed);
        scenario.health.push((MINUTE * 5, MINUTE * 8, Health::Contended));
        scenario.actions.push((
            MINUTE * 6 + Duration::from_secs(seed),
            Action::Replace(Some(Layout::Shared)),
        ));
        scenario
    }));
}

/// The same with a refusal of all publications by 409 for a few seconds.
#[test]
fn recreated_while_all_publications_conflict() {
    check_all((0..16).map(|seed| {
        let mut scenario = scenario(&[1, 2], Layout::PerNode, seed);
        let at = MINUTE * 6 + Duration::from_secs(seed);
        scenario
            .health
            .push((at, at + Duration::from_secs(15), Health::RefusesPublications(409)));
        scenario.actions.push((at, Action::Replace(Some(Layout::PerNode))));
        scenario
    }));
}

/// The API server refuses writes for ten minutes, in which the IP6UpdateNodeConfig of one node is recreated.
#[test]
fn one_recreated_while_no_writes_are_taken() {
    check_all((0..12).map(|seed| {
        let mut scenario = scenario(&[1, 2, 1], Layout::PerNode, seed);
        scenario.health.push((MINUTE * 5, MINUTE * 15, Health::ReadOnly));
        scenario.actions.push((MINUTE * 8, Action::ReplaceOne(1)));
        scenario
    }));
}

/// The IP6UpdateNodeConfig of one node is recreated while its publication meets a few conflicts.
#[test]
fn one_recreated_while_publications_conflict() {
    check_all((0..12).map(|seed| {
        let mut scenario = scenario(&[1, 2, 1], Layout::PerNode, seed);
        let at = MINUTE * 6 + Duration::from_secs(seed);
        scenario
            .health
            .push((at, at + Duration::from_secs(15), Health::RefusesPublications(409)));
        scenario.actions.push((at, Action::ReplaceOne(1)));
        scenario
    }));
}

/// Sixty groups, with 90 ms for a request on average. Ready has to become True.
#[test]
fn more_groups_than_fit_into_a_round() {
    let mut scenario = scenario(&[1], Layout::Shared, 0);
    scenario.slowest = Duration::from_millis(200);
    for count in 0..60 {
        scenario
            .actions
            .push((MINUTE + Duration::from_millis(10) * count, Action::AddGroup));
    }
    scenario.end = MINUTE * 20;
    let outcome = site::run(&scenario);
    let requests = outcome.served.iter().filter(|served| served.at > MINUTE * 10).count();
    let statuses: Vec<_> = outcome.reasons.clone();
    let reported = outcome.ready.clone();
    assert!(
        reported.1.starts_with("61 targets"),
        "Ready after 19 minutes: {reported:?}, all of {statuses:?}; {} groups; {requests} requests in ten minutes",
        outcome.others.len()
    );
}

/// In each scenario one request fails, in one way, while the IP6UpdateNodeConfig of one node is recreated.
#[test]
fn any_one_request_fails_while_one_is_recreated() {
    let mut scenarios = Vec::new();
    for status in [404, 409, 500, 401, 0] {
        for number in 0..24 {
            let mut scenario = scenario(&[1, 2, 1], Layout::PerNode, number as u64);
            let at = MINUTE * 4;
            scenario
                .health
                .push((at, at + MINUTE * 3, Health::FailsOnce(number, status)));
            scenario.actions.push((at, Action::ReplaceOne(1)));
            scenarios.push(scenario);
        }
    }
    check_all(scenarios.into_iter());
}

/// Runs scenarios in which `happen` takes place while the API server goes away for five minutes, from any request on.
fn down_from_any_request(happen: impl Fn(&mut Scenario, Duration, Layout)) {
    let mut scenarios = Vec::new();
    for layout in [Layout::PerNode, Layout::Shared] {
        for number in 0..30 {
            let mut scenario = scenario(&[1, 2, 1], layout, number as u64);
            let at = MINUTE * 4;
            scenario.health.push((at, at + MINUTE * 5, Health::DownFrom(number)));
            happen(&mut scenario, at, layout);
            scenarios.push(scenario);
        }
    }
    check_all(scenarios.into_iter());
}

/// The API server goes away for five minutes, from any request on, while a site renumbers.
#[test]
#[ignore = "takes a minute: make test-simulation"]
fn down_from_any_request_while_a_site_renumbers() {
    down_from_any_request(|scenario, at, _| {
        for node in [0, 2] {
            scenario.nodes[node].then_sees(at + Duration::from_millis(5 * node as u64), &[prefix(3)]);
        }
    });
}

/// The same while all IP6UpdateNodeConfigs are recreated.
#[test]
#[ignore = "takes a minute: make test-simulation"]
fn down_from_any_request_while_all_are_recreated() {
    down_from_any_request(|scenario, at, layout| {
        scenario.actions.push((at, Action::Replace(Some(layout))));
    });
}

/// The API server goes away for five minutes, from any request on, while one IP6UpdateNodeConfig is recreated.
#[test]
#[ignore = "takes a minute: make test-simulation"]
fn down_from_any_request_while_one_is_recreated() {
    let mut scenarios = Vec::new();
    for number in 0..30 {
        let mut scenario = scenario(&[1, 2, 1], Layout::PerNode, number as u64);
        let at = MINUTE * 4;
        scenario.health.push((at, at + MINUTE * 5, Health::DownFrom(number)));
        scenario.actions.push((at, Action::ReplaceOne(1)));
        scenarios.push(scenario);
    }
    check_all(scenarios.into_iter());
}

/// One node's IP6UpdateNodeConfig is recreated while writes fail for a minute, for less time than vanished entries
/// linger.
#[test]
fn one_recreated_and_writes_fail_for_a_minute() {
    check_all((0..24).map(|seed| {
        let mut scenario = scenario(&[1, 2, 1], Layout::PerNode, seed);
        let at = MINUTE * 5;
        scenario.health.push((at, at + MINUTE, Health::ReadOnly));
        scenario
            .actions
            .push((at + Duration::from_secs(2), Action::ReplaceOne(1)));
        scenario
    }));
}
