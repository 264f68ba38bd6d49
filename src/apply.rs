//! A round: reads the objects, publishes what this node sees, plans, and writes the difference.
//!
//! Two rules keep nodes from undoing each other's work. A node publishes what it sees before it reads
//! what others see, and before it writes a group. And a group is written only after the other objects
//! were read once more, later than the group: so whoever wrote that group, and named its new prefix
//! before, is heard.
//!
//! Not every node does all of that in every round: see glance.rs.

mod follow;
mod glance;
mod publish;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use log::info;

use crate::clock::ServerClock;
use crate::groups::Groups;
use crate::interface::{Observation, Watch};
use crate::journal::Journal;
use crate::kube::objects::{List, Object};
use crate::kube::{Client, Error};
use crate::objects::{Config, NODE_CONFIGS, NodeConfig, NodeEntry, NodeSpec};
use crate::pace::Ended;
use crate::plan::{self, Known, PUBLISH_SECONDS};
use crate::time::Timestamp;
use crate::turns::Place;
use glance::{Glance, Standing};

/// What a round needs from outside: a look at an interface.
pub type Look<'a> = &'a mut dyn FnMut(&Watch) -> io::Result<Observation>;

/// Why a round did not come to its end.
#[derive(Debug)]
pub enum Failure {
    /// A request failed, so that others would fail too.
    Request(Error),
    /// The kernel did not say what the addresses are; better do nothing than guess.
    Addresses(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Request(e)
    }
}

/// How a round went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Somebody else wrote at the same time: the next round should come soon.
    pub again: bool,
    /// Every config is Ready, as far as this node has to care.
    pub ready: bool,
    /// It was made because it was this node's turn.
    pub turn: bool,
}

impl Outcome {
    /// What the time of the next round follows from.
    pub fn ended(self) -> Ended {
        match (self.again, self.turn) {
            (true, _) => Ended::Again,
            (false, true) => Ended::Turn,
            (false, false) => Ended::Well,
        }
    }
}

/// Makes rounds, and remembers what need not be asked again.
#[derive(Debug)]
pub struct Operator {
    client: Client,
    node: String,
    reporter: String,
    interval: Duration,
    standing: Option<Standing>,
    clock: ServerClock,
    labels: Option<Labels>,
    groups: Groups,
    seen: BTreeMap<Watch, Observation>,
    idle: Option<bool>,
    /// What is wrong at the moment.
    pub journal: Journal,
}

#[derive(Debug)]
struct Labels {
    labels: BTreeMap<String, String>,
    read: Timestamp,
}

impl Operator {
    /// An operator on this node; `reporter` is who Events are from, `interval` is that between rounds.
    pub fn new(client: Client, node: String, reporter: String, interval: Duration) -> Self {
        Operator {
            client,
            node,
            reporter,
            interval,
            standing: None,
            clock: ServerClock::default(),
            labels: None,
            groups: Groups::default(),
            seen: BTreeMap::new(),
            idle: None,
            journal: Journal::default(),
        }
    }

    /// The client, for what is not part of a round.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Whether the interfaces look other than in the last round.
    pub fn sees_change(&self, look: Look) -> bool {
        // If the kernel does not answer, the round says so.
        self.seen
            .iter()
            .any(|(watch, before)| look(watch).map_or(true, |seen| !seen.is_like(before)))
    }

    /// From now until this node's next turn; `None` if it has none, or every round is one.
    pub fn until_turn(&self) -> Option<Duration> {
        let place = self.standing.as_ref()?.place.filter(|place| !place.is_alone())?;
        let now = self.now();
        u64::try_from(place.next_turn(self.interval, now).since(now))
            .ok()
            .map(Duration::from_secs)
    }

    /// Over how long the reaction to a change should be spread, because other nodes may see it as well.
    pub fn spread(&self) -> Duration {
        let place = self.standing.as_ref().and_then(|standing| standing.place);
        place.map_or(Duration::ZERO, |place| place.spread(self.interval))
    }

    /// One round. `uptime` is time that passes evenly, whatever the clocks say.
    ///
    /// # Errors
    /// When it could not come to its end. What concerns one config only is noted in its status.
    pub fn round(&mut self, uptime: Duration, look: Look) -> Result<Outcome, Failure> {
        self.client.read_account()?;
        let mut turn = false;
        if let Some(mut standing) = self.standing.take().filter(Standing::allows_glance) {
            match self.glance(&mut standing, look) {
                Ok(Glance::Same) => {
                    let ready = standing.ready;
                    self.standing = Some(standing);
                    return Ok(Outcome {
                        ready,
                        ..Outcome::default()
                    });
                }
                Ok(glance) => turn = glance == Glance::Turn,
                Err(failure) => {
                    self.standing = Some(standing);
                    return Err(failure);
                }
            }
        }
        self.whole_round(uptime, look)
            .map(|outcome| Outcome { turn, ..outcome })
    }

    fn whole_round(&mut self, uptime: Duration, look: Look) -> Result<Outcome, Failure> {
        let mut node_configs = self.client.get::<List<NodeConfig>>(NODE_CONFIGS)?.items;
        let now = self.now();
        let specs = node_configs.iter().map(|c| (c.metadata.name.clone(), c.spec.clone()));
        let specs: BTreeMap<String, NodeSpec> = specs.collect();
        let selected = self.selected(&specs, now)?;
        let published = self.own_entries(&node_configs);
        let seen = self.observe(&specs, &selected, &published, look, now)?;
        if self.publish(&mut node_configs, &seen, now)? {
            // Of two nodes that publish a change at the same time, the later one has to see both.
            node_configs = self.client.get::<List<NodeConfig>>(NODE_CONFIGS)?.items;
        }
        self.say_whether_idle(selected.is_empty());
        let mut outcome = Outcome {
            ready: true,
            ..Outcome::default()
        };
        if selected.is_empty() {
            self.remove_stale(&node_configs, &self.stale_of_idle(&node_configs))?;
        } else if !self.clock_is_settled(now, uptime) {
            // Without a standing, the next round is a whole one again.
            return Ok(Outcome::default());
        } else {
            self.follow(&mut node_configs, &seen, now, &mut outcome)?;
        }
        if !outcome.again {
            let nodes = plan::publishers(&self.known(&[], &node_configs, &seen, now));
            self.standing = Some(Standing {
                place: Place::of(&self.node, &nodes),
                published: self.own_entries(&node_configs),
                specs,
                selected,
                round: now,
                ready: outcome.ready,
            });
        }
        Ok(outcome)
    }

    /// Whether the others had time to publish since the API server's clock was set, if it was.
    fn clock_is_settled(&mut self, now: Timestamp, uptime: Duration) -> bool {
        const SUBJECT: &str = "the API server's clock";
        if let Some(seconds) = self.clock.note(now, uptime) {
            let pause = self.interval.as_secs() * 2;
            let text = format!(
                "it was set by {seconds} s, to {now}; the groups wait for {pause} s, until all nodes published by it"
            );
            self.journal.fails(SUBJECT, &text);
        }
        let is_settled = self.clock.is_settled(uptime, self.interval);
        if is_settled {
            self.journal.works(SUBJECT);
        }
        is_settled
    }

    /// What this node published, by the name of the node config.
    fn own_entries(&self, node_configs: &[NodeConfig]) -> BTreeMap<String, NodeEntry> {
        let own = |config: &NodeConfig| Some((config.metadata.name.clone(), config.nodes().get(&self.node)?.clone()));
        node_configs.iter().filter_map(own).collect()
    }

    /// The API server's clock, or, should it send none, this machine's.
    fn now(&self) -> Timestamp {
        self.client.server_time().unwrap_or_else(Timestamp::of_this_machine)
    }

    /// The names of the node configs that select this node.
    fn selected(&mut self, specs: &BTreeMap<String, NodeSpec>, now: Timestamp) -> Result<BTreeSet<String>, Failure> {
        // Labels change rarely: they are read when this node would publish anyway.
        let is_due = self
            .labels
            .as_ref()
            .is_none_or(|l| !(0..PUBLISH_SECONDS).contains(&now.since(l.read)));
        if is_due && specs.values().any(NodeSpec::needs_labels) {
            let labels = match self
                .client
                .get_metadata::<Object>(&format!("/api/v1/nodes/{}", self.node))
            {
                Ok(node) => node.metadata.labels.unwrap_or_default(),
                // A node that is being removed, or a wrong NODE_NAME: it has no labels.
                Err(e) if e.is_absent_object() => {
                    self.journal.fails("this node", &format!("{e}; is NODE_NAME right?"));
                    BTreeMap::new()
                }
                Err(e) => return Err(e.into()),
            };
            if !labels.is_empty() {
                self.journal.works("this node");
            }
            self.labels = Some(Labels {
                labels: labels.into_iter().map(|(key, value)| (key, value.0)).collect(),
                read: now,
            });
        }
        let none = BTreeMap::new();
        let labels = self.labels.as_ref().map_or(&none, |l| &l.labels);
        let selected = specs.iter().filter(|(_, spec)| spec.selects(labels));
        Ok(selected.map(|(name, _)| name.clone()).collect())
    }

    fn say_whether_idle(&mut self, idle: bool) {
        if self.idle != Some(idle) && idle {
            info!(
                "no IP6UpdateNodeConfig selects node {}: idle until one does (kubectl get ip6unc -o wide)",
                self.node
            );
        } else if self.idle == Some(true) && !idle {
            info!("an IP6UpdateNodeConfig selects node {} now", self.node);
        }
        self.idle = Some(idle);
    }

    fn known<'a>(
        &'a self,
        configs: &'a [Config],
        node_configs: &'a [NodeConfig],
        seen: &'a BTreeMap<String, NodeEntry>,
        now: Timestamp,
    ) -> Known<'a> {
        Known {
            configs,
            node_configs,
            node: &self.node,
            seen,
            now,
        }
    }

    /// An idle node removes what it published when it was not idle, and leaves the rest to others.
    fn stale_of_idle(&self, node_configs: &[NodeConfig]) -> Vec<(String, String)> {
        let mine = node_configs
            .iter()
            .filter(|config| config.nodes().contains_key(&self.node));
        mine.map(|config| (config.metadata.name.clone(), self.node.clone()))
            .collect()
    }
}

fn status_path(list: &str, name: &str) -> String {
    format!("{list}/{name}/status")
}

fn config_subject(name: &str) -> String {
    format!("IP6UpdateConfig {name}")
}
