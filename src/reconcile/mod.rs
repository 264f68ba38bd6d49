//! One round: observe, publish, read, plan, write. It is the same on every node, every time.
//!
//! Targets are read before the entries that say what they should hold. Every node publishes before it writes a target.
//! So if another node wrote a target before it was read here, its entry is read here later. If it writes the target
//! after that, the write from here carries an old resourceVersion and is refused.
//!
//! `I1` to `I8` in comments are the invariants of docs/design.md.

pub mod condition;
mod context;
mod entry;
mod events;
mod peers;
pub mod plan;
pub mod problems;
mod report;
mod selection;
mod served;
mod silent;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use log::debug;

use crate::kube::{Client, Error};
use crate::limits::MAX_PASSES;
use crate::node::Host;
use crate::prefix::Prefix;
use crate::resources::config::{CONFIGS, Config, all_allowed_prefixes};
use crate::resources::node_config::{NODE_CONFIGS, NodeConfig, NodeEntry};
use crate::schedule::{self, RoundEnd};
use context::Context;
use entry::{Entry, Published};
use events::Event;
use peers::Peers;
use plan::Plan;
use problems::{Problems, Subject};
use report::{Facts, report};
use selection::Selection;
use served::Served;
use silent::remove_silent;
use targets::Targets;

/// Reason why a round did not reach its end.
#[derive(Debug)]
pub enum Failure {
    /// A request failed, and others would fail too.
    Request(Error),
    /// The kernel did not say what the addresses are; better do nothing than guess.
    Addresses(String),
    /// The API server does not serve this CRD yet, which is normal for a moment.
    NotServed(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Request(e)
    }
}

/// Outcome of a round, or of a step of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Decides when the next round is due.
    pub end: RoundEnd,
    /// Every config is Ready, as far as this node looked.
    pub is_ready: bool,
}

impl Outcome {
    /// Nothing is left to do.
    const READY: Outcome = Outcome {
        end: RoundEnd::Quiet,
        is_ready: true,
    };

    fn not_ready(end: RoundEnd) -> Self {
        Outcome { end, is_ready: false }
    }

    fn and(self, other: Self) -> Self {
        Outcome {
            end: self.end.or_more_urgent(other.end),
            is_ready: self.is_ready && other.is_ready,
        }
    }
}

/// Makes rounds, and remembers what the steps need from one to the next.
#[derive(Debug)]
pub struct Reconciler {
    node: String,
    reporter: String,
    update_interval: Duration,
    client: Client,
    /// Current problems.
    pub problems: Problems,
    events: Vec<Event>,
    memory: Memory,
}

/// State of each step.
#[derive(Debug, Default)]
struct Memory {
    served: Served,
    selection: Selection,
    entry: Entry,
    peers: Peers,
    targets: Targets,
    /// `None` at the start and after a failed round.
    objects: Option<Objects>,
    /// The number of nodes that have an entry.
    nodes: usize,
}

/// The objects of this project, as last read.
#[derive(Debug, Default)]
struct Objects {
    configs: Vec<Config>,
    node_configs: Vec<NodeConfig>,
    /// Only prefixes inside one of these count for any config; `None` lets all count.
    allowed: Option<Vec<Prefix>>,
}

impl Reconciler {
    /// A reconciler on this node; `reporter` is the reporting instance of Events.
    pub fn new(client: Client, node: String, reporter: String, update_interval: Duration) -> Self {
        Reconciler {
            node,
            reporter,
            update_interval,
            client,
            problems: Problems::default(),
            events: Vec::new(),
            memory: Memory::default(),
        }
    }

    /// The client, for its counters.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The number of nodes that have an entry.
    pub fn nodes(&self) -> usize {
        self.memory.nodes
    }

    /// Looks at the interfaces again. Returns whether they differ from what was last logged. If a round follows, that
    /// logs the difference; else it is logged here, when it is seen.
    pub fn look(&mut self, host: &mut dyn Host, round_follows: bool) -> bool {
        self.memory.entry.look(host, round_follows)
    }

    /// When the interfaces have to be looked at again though nothing changes, in steady time.
    pub fn look_at(&self) -> Option<Duration> {
        self.memory.entry.look_at()
    }

    /// One round; `is_reaction` if it is early because of a change of address.
    ///
    /// # Errors
    /// If it did not reach its end. A failure that concerns one object is reported in a status or a log line instead.
    pub fn reconcile(&mut self, host: &mut dyn Host, is_reaction: bool) -> Result<Outcome, Failure> {
        self.client.read_account()?;
        let cx = &mut Context {
            node: &self.node,
            reporter: &self.reporter,
            interval: schedule::max_interval(self.update_interval, self.memory.nodes),
            is_reaction,
            client: &mut self.client,
            problems: &mut self.problems,
            events: &mut self.events,
            host,
        };
        let outcome = self.memory.round(cx)?;
        events::send(cx);
        Ok(outcome)
    }
}

impl Memory {
    fn round(&mut self, cx: &mut Context<'_>) -> Result<Outcome, Failure> {
        self.served.deploy(cx)?;
        let mut objects = match self.objects.take() {
            Some(objects) => objects,
            None => self.list(cx, Objects::default(), true)?,
        };
        let outcome = self.passes(cx, &mut objects)?;
        // Those that are known are good enough for a round: a renumbering does not wait for them.
        self.selection.renew(cx, &objects.node_configs)?;
        // The configs are read in each round; only the prefixes that they allow are kept.
        objects.configs = Vec::new();
        self.objects = Some(objects);
        Ok(outcome)
    }

    /// The steps of the round, in order; again from the first one while the objects change under it.
    fn passes(&mut self, cx: &mut Context<'_>, objects: &mut Objects) -> Result<Outcome, Failure> {
        for _ in 0..MAX_PASSES {
            // 1. Observe the interfaces that the objects, as read last, name for this node.
            let wanted = self.selection.wanted(cx, objects)?;
            let entries = self.entry.observe(cx, &wanted)?;

            // 2. Publish what differs from this node's entries, or is due.
            let published = self.publish(cx, &objects.node_configs, &entries)?;

            // 3. Read the targets of the last plan: before the entries (I2). A node that does not publish leaves them
            // to those that do (I6).
            let is_leading = self.leads(cx, &published);
            if is_leading {
                self.targets.read(cx)?;
            }

            // 4. Read what they should hold: the configs, and last the node configs with the entries (I2).
            *objects = self.list(cx, std::mem::take(objects), is_leading)?;
            let is_settled = self.selection.wanted(cx, objects)? == wanted && published.is_there(cx.node, objects);
            if !is_leading || !self.leads(cx, &published) {
                if is_settled {
                    return Ok(published.outcome());
                }
                continue;
            }

            // 5. Plan.
            let plan = plan::plan(
                &objects.configs,
                &plan::Observed {
                    node_configs: &objects.node_configs,
                    are_all_silent: published.is_idle(),
                    vanished: self.peers.vanished(),
                },
            );

            // 6. Write the targets that differ, then statuses; remove who is silent. Events are sent after the round.
            if self.targets.follow(&objects.configs, &plan) && is_settled {
                return self.write(cx, objects, &plan, &published);
            }
        }
        debug!("the objects changed {MAX_PASSES} times during this round: the next one goes on");
        Ok(Outcome::not_ready(RoundEnd::Soon))
    }

    /// Whether this node takes part in writing targets (I6).
    fn leads(&self, cx: &Context<'_>, published: &Published) -> bool {
        published.has_published() || self.peers.are_silent(cx.node, cx.interval)
    }

    fn publish(
        &mut self,
        cx: &mut Context<'_>,
        node_configs: &[NodeConfig],
        entries: &BTreeMap<String, NodeEntry>,
    ) -> Result<Published, Failure> {
        // While entries are missing it publishes in every round, and so learns whether nodes can come back.
        let is_urgent = !self.peers.vanished().is_empty();
        let published = self.entry.publish(cx, node_configs, entries, is_urgent);
        let published = published.inspect_err(|_| self.peers.reset())?;
        self.peers.published(&published.tries);
        if cx
            .problems
            .subjects()
            .any(|subject| matches!(subject, Subject::Entry(_)))
        {
            self.served.suspect();
        }
        Ok(published)
    }

    /// Reads the configs, if this node leads, and then the node configs: up to date, so they count for what this
    /// node has watched.
    fn list(&mut self, cx: &mut Context<'_>, before: Objects, is_leading: bool) -> Result<Objects, Failure> {
        let (configs, allowed) = if is_leading {
            let configs = self.served.list::<Config>(cx, CONFIGS)?;
            let allowed = all_allowed_prefixes(&configs);
            (configs, allowed)
        } else {
            (before.configs, before.allowed)
        };
        let node_configs = self.served.list::<NodeConfig>(cx, NODE_CONFIGS)?;
        self.peers.saw(cx.node, &node_configs, cx.host.now(), cx.interval);
        let nodes: BTreeSet<&String> = node_configs.iter().flat_map(|config| config.nodes().keys()).collect();
        self.nodes = nodes.len();
        cx.problems.retain(|subject| match subject {
            Subject::Removal(id, silent) => node_configs
                .iter()
                .any(|config| id.is(&config.metadata) && silent.iter().any(|node| config.nodes().contains_key(node))),
            _ => true,
        });
        Ok(Objects {
            configs,
            node_configs,
            allowed,
        })
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        objects: &Objects,
        plan: &Plan,
        published: &Published,
    ) -> Result<Outcome, Failure> {
        cx.problems.retain(|subject| match subject {
            Subject::Config(id) => objects.configs.iter().any(|config| id.is(&config.metadata)),
            Subject::Read(key) | Subject::Target(key) => self.targets.is_planned(key),
            _ => true,
        });
        let mut outcome = self.targets.write(cx, plan)?.and(published.outcome());
        if cx.is_reaction {
            outcome = outcome.and(Outcome::not_ready(RoundEnd::Changed));
        } else {
            let mut entries = objects.node_configs.iter().flat_map(NodeConfig::nodes);
            let facts = Facts {
                has_peers: entries.any(|(node, _)| node != cx.node),
                configs: &objects.configs,
                node_configs: &objects.node_configs,
                plan,
                published,
                are_peers_silent: self.peers.are_silent(cx.node, cx.interval),
            };
            outcome = outcome.and(report(cx, &facts, &mut self.targets)?);
        }
        // Only a node that publishes knows that one can (I6).
        if published.has_published() {
            outcome = outcome.and(remove_silent(cx, &objects.node_configs, &self.peers)?);
        }
        Ok(outcome)
    }
}

/// For comparing a value with a later one without keeping it.
fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn status_path(list: &str, name: &str) -> String {
    format!("{list}/{name}/status")
}
