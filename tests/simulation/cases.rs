//! Stories of which each once ended badly.

use std::time::Duration;

use crate::check::{self, rest_from};
use crate::cluster::{Clocks, Kind};
use crate::site::{self, Action, Health, INTERVAL, Layout, Node, SLOWEST, Story};
use crate::stories::prefix;

const MINUTE: Duration = Duration::from_secs(60);

/// Each node sees the prefix of this number, all the time.
fn story(sites: &[u16], layout: Layout, seed: u64) -> Story {
    let mut lot = fastrand::Rng::with_seed(seed);
    let nodes = sites
        .iter()
        .map(|number| Node::new((INTERVAL * 3).mul_f64(lot.f64()), &[prefix(*number)]));
    Story {
        nodes: nodes.collect(),
        layout,
        health: Vec::new(),
        clocks: Clocks::default(),
        actions: Vec::new(),
        slowest: SLOWEST,
        end: MINUTE * 20,
        seed,
    }
}

fn tell(wrongs: &[String]) {
    assert!(
        wrongs.is_empty(),
        "{} wrongs:\n{}",
        wrongs.len(),
        wrongs[..wrongs.len().min(12)].join("\n")
    );
}

fn all(stories: impl Iterator<Item = Story>) {
    let mut wrongs = Vec::new();
    for mut story in stories {
        story.end = story.end.max(rest_from(&story) + INTERVAL * 9);
        let found = check::wrongs(&story, &site::run(&story));
        wrongs.extend(found.into_iter().map(|wrong| format!("seed {}: {wrong}", story.seed)));
    }
    tell(&wrongs);
}

/// 150 nodes make a round every 20 seconds. All IP6UpdateNodeConfigs are made anew.
#[test]
fn made_anew_in_a_large_cluster() {
    all((0..4).map(|seed| {
        let mut sites = vec![1; 150];
        sites[149] = 2;
        let mut story = story(&sites, Layout::Shared, seed);
        story.actions.push((
            MINUTE * 5 + Duration::from_secs(seed),
            Action::Replace(Some(Layout::Shared)),
        ));
        story
    }));
}

/// The API server answers 503 for ten minutes; when it is back, the IP6UpdateNodeConfigs were made anew.
#[test]
fn made_anew_while_nodes_back_off() {
    all((0..6).map(|seed| {
        let mut story = story(&[1, 2, 3], Layout::PerNode, seed);
        let unavailable = Health::Unavailable { retry_after: None };
        story.health.push((MINUTE * 5, MINUTE * 15, unavailable));
        story
            .actions
            .push((MINUTE * 14, Action::Replace(Some(Layout::PerNode))));
        story
    }));
}

/// Every publication meets a conflict for so long, of all nodes; then all is well.
#[test]
fn conflicts_for_ten_minutes() {
    all((0..6).map(|seed| {
        let mut story = story(&[1, 2, 3], Layout::PerNode, seed);
        story
            .health
            .push((MINUTE * 5, MINUTE * 15, Health::RefusesPublications(409)));
        story
    }));
}

/// A node is moved from one IP6UpdateNodeConfig to another.
#[test]
fn a_node_moves() {
    all((0..80).map(|seed| {
        let mut story = story(&[1, 2, 3], Layout::PerNode, seed);
        story.slowest = Duration::from_secs(2);
        let at = MINUTE * 5 + Duration::from_secs(seed);
        story.actions.push((at, Action::Move(0)));
        story.actions.push((at + MINUTE, Action::Move(1)));
        story.actions.push((at + MINUTE * 2, Action::Move(2)));
        story
    }));
}

/// No node can publish, for an hour: what is there to write?
#[test]
fn nobody_can_publish() {
    let mut story = story(&[1, 1, 1], Layout::Shared, 1);
    story.end = MINUTE * 70;
    story
        .health
        .push((MINUTE * 5, MINUTE * 80, Health::RefusesPublications(422)));
    let outcome = site::run(&story);
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
