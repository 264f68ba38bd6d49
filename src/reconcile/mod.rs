//! One round: reads the objects, publishes what this node sees, plans, and writes the difference.
//!
//! Two rules keep nodes from undoing each other's work. A node publishes what it sees before it reads
//! what others see, and reads that before it writes. And a target is written only after the other objects
//! were read once more, later than the target: so whoever wrote that target, and published its new prefix
//! before, is heard.

pub mod condition;
pub mod plan;
mod publication;
mod rejoin;
mod report;
mod selection;
mod served;
mod silence;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::kube::{Client, Error};
use crate::node::Host;
use crate::node::select::{Observation, Watch};
use crate::prefix::Prefix;
use crate::problems::{Problems, Subject};
use crate::resources::config::{Config, all_allowed_prefixes};
use crate::resources::crds::Crds;
use crate::resources::node_config::{NODE_CONFIGS, NodeConfig};
use crate::resources::targets::{Kind, TargetApi, TargetKey};
use crate::schedule::{self, Ended};
use crate::time::Timestamp;
use publication::{Publication, Published};
use rejoin::Rejoin;
use selection::Labels;
use silence::Silence;

/// So many objects may time out in one round. If they are k6u's own the API server is in trouble; if they are targets
/// of one kind, what serves that kind, or a webhook.
const MOST_TIMEOUTS: usize = 2;

/// What was changed by somebody else between read and write so often in a row is refused.
const MOST_CONFLICTS: u32 = 20;

/// Why a round did not come to its end.
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

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// What the time of the next round follows from.
    pub ended: Ended,
    /// Every config is Ready, as far as this node looked.
    pub is_ready: bool,
    /// How many nodes have an entry.
    pub nodes: usize,
}

/// Makes rounds, and remembers what need not be asked again.
#[derive(Debug)]
pub struct Reconciler {
    client: Client,
    node: String,
    reporter: String,
    update_interval: Duration,
    crds: Crds,
    labels: Labels,
    target_api: TargetApi,
    publication: Publication,
    silence: Silence,
    rejoin: Rejoin,
    /// How many nodes had an entry in the last list, and in the one that had the most.
    nodes: usize,
    most_nodes: usize,
    last_read: Option<Duration>,
    /// The lists that the API server has given since it was last found not to serve them.
    served: BTreeSet<&'static str>,
    /// What timed out in this round.
    hung: Vec<Subject>,
    /// Writes in a row that met a conflict.
    conflicts: BTreeMap<Subject, u32>,
    /// The last second half left something to do, or there was none yet.
    is_unsettled: bool,
    seen: BTreeMap<Watch, Observation>,
    /// What some config lets count, as read last.
    allowed: Option<Vec<Prefix>>,
    was_idle: Option<bool>,
    /// What is wrong at the moment.
    pub problems: Problems,
}

impl Reconciler {
    /// A reconciler on this node; `reporter` is who Events are from.
    pub fn new(client: Client, node: String, reporter: String, update_interval: Duration) -> Self {
        Reconciler {
            client,
            node,
            reporter,
            update_interval,
            crds: Crds::default(),
            labels: Labels::default(),
            target_api: TargetApi::default(),
            publication: Publication::default(),
            silence: Silence::default(),
            rejoin: Rejoin::default(),
            nodes: 1,
            most_nodes: 1,
            last_read: None,
            served: BTreeSet::new(),
            hung: Vec::new(),
            conflicts: BTreeMap::new(),
            is_unsettled: true,
            seen: BTreeMap::new(),
            allowed: None,
            was_idle: None,
            problems: Problems::default(),
        }
    }

    /// The client, for its counters.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the interfaces look other than in the last round.
    pub fn sees_change(&mut self, host: &mut dyn Host) -> bool {
        let allowed = self.allowed.as_deref();
        let mut is_change = false;
        for (watch, before) in &mut self.seen {
            match host.observe(watch, allowed) {
                Ok(seen) if seen.is_like(before) => before.until = seen.until,
                // If the kernel does not answer, the round says so.
                _ => (before.until, is_change) = (None, true),
            }
        }
        is_change
    }

    /// When to look at the interfaces again.
    pub fn until(&self) -> Option<Duration> {
        self.seen.values().filter_map(|seen| seen.until).min()
    }

    /// One round.
    ///
    /// # Errors
    /// When it could not come to its end. What concerns one object only is told in a status or a log line.
    pub fn reconcile(&mut self, host: &mut dyn Host) -> Result<Outcome, Failure> {
        let outcome = self.round(host);
        self.rejoin.round_ended(outcome.is_err(), self.longest_interval());
        outcome
    }

    fn round(&mut self, host: &mut dyn Host) -> Result<Outcome, Failure> {
        self.hung.clear();
        self.client.read_account()?;
        self.deploy_crds(host)?;
        let mut node_configs = self.list_node_configs(host)?;
        let selected = self.select(&node_configs, host)?;
        self.look_for_own_entry(&node_configs, &selected);
        let entries = self.observe(&node_configs, &selected, host)?;
        let published = self.publish(&mut node_configs, &entries, host)?;
        if published.is_change {
            // Of two nodes that publish a change at the same time, the later one has to see both.
            node_configs = self.list_node_configs(host)?;
        }
        self.problems.retain(|subject| match subject {
            Subject::NodeConfig(name) | Subject::Removal(name) => {
                node_configs.iter().any(|config| config.metadata.name == *name)
            }
            _ => true,
        });
        let (mut ended, mut is_ready) = (published.ended, published.failures.is_empty());
        if self.has_reason(&published, host) {
            self.is_unsettled = true;
            let (second, all_ready) = self.second_half(node_configs, &selected, &published, host)?;
            // What is refused for ever is tried again by those whose lot it is.
            self.is_unsettled = second > Ended::Quiet;
            ended = ended.max(second);
            is_ready &= all_ready;
        }
        Ok(Outcome {
            ended,
            is_ready,
            nodes: self.nodes,
        })
    }

    /// Whether this node has reason to plan and to look after the targets in this round.
    fn has_reason(&self, published: &Published, host: &mut dyn Host) -> bool {
        published.is_change
            || if published.is_heard {
                self.is_unsettled
                    || self.is_removal_due(host.now())
                    || host.dice() < schedule::share(self.update_interval, self.nodes)
            } else {
                // Others that publish know more.
                self.silence.does_nobody_publish()
            }
    }

    /// Plans, and makes the targets what they should be.
    fn second_half(
        &mut self,
        mut node_configs: Vec<NodeConfig>,
        selected: &BTreeSet<String>,
        published: &Published,
        host: &mut dyn Host,
    ) -> Result<(Ended, bool), Failure> {
        let mut configs = self.list_configs()?;
        self.allowed = all_allowed_prefixes(&configs);
        let mut plan = self.plan(&configs, &mut node_configs, published);
        let mut targets = self.read_targets(&plan, host)?;
        if !targets.are_right(&plan) || self.has_news(&configs, &plan, &targets, published) {
            // The second look, later than what is to be written was read.
            configs = self.list_configs()?;
            node_configs = self.list_node_configs(host)?;
            self.look_for_own_entry(&node_configs, selected);
            plan = self.plan(&configs, &mut node_configs, published);
        }
        let written = self.write_targets(&plan, &mut targets, host)?;
        let (reported, is_ready) = self.report(&configs, &plan, &targets, published, host)?;
        let removed = self.remove_silent(&node_configs, host)?;
        self.forget_problems(&configs, &plan);
        Ok((written.max(reported).max(removed), is_ready))
    }

    fn plan(&self, configs: &[Config], node_configs: &mut [NodeConfig], published: &Published) -> plan::Plan {
        if published.is_idle && self.silence.does_nobody_publish() {
            // Nobody speaks for these entries any more.
            node_configs.iter_mut().for_each(|config| config.status.nodes.clear());
        }
        plan::plan(configs, node_configs)
    }

    /// An up-to-date list: it counts for what this node has watched.
    fn list_node_configs(&mut self, host: &mut dyn Host) -> Result<Vec<NodeConfig>, Failure> {
        let node_configs = self.list::<NodeConfig>(NODE_CONFIGS)?;
        let now = host.now();
        let since = self.last_read.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        let gap = since.min(self.interval());
        self.last_read = Some(now);
        self.silence.watch(&self.node, &node_configs, gap);
        self.rejoin.pass(gap);
        let nodes: BTreeSet<&String> = node_configs.iter().flat_map(|config| config.nodes().keys()).collect();
        self.nodes = nodes.len().max(1);
        self.most_nodes = self.most_nodes.max(self.nodes);
        Ok(node_configs)
    }

    fn look_for_own_entry(&mut self, node_configs: &[NodeConfig], selected: &BTreeSet<String>) {
        let interval = self.longest_interval();
        let selecting = node_configs.iter();
        let selecting = selecting.filter(|config| selected.contains(&config.metadata.name));
        self.rejoin.look(&self.node, selecting, interval);
    }

    /// A request about `subject` failed. That is this object's trouble, and tried again after a pause, unless others
    /// would fail, too. Says whether it is new.
    fn object_failed(
        &mut self,
        subject: Subject,
        text: &str,
        error: &Error,
        host: &mut dyn Host,
    ) -> Result<bool, Failure> {
        if error.is_transport() || error.is_unauthorized() {
            return Err(Failure::Request(error.clone()));
        }
        let is_new = self
            .problems
            .backs_off(subject.clone(), text, error, host.now(), host.dice());
        if error.is_timeout() {
            self.hung.push(subject);
        }
        let is_own = |subject: &&Subject| !matches!(subject, Subject::Read(_) | Subject::Target(_));
        if self.hung.iter().filter(is_own).count() >= MOST_TIMEOUTS {
            return Err(Failure::Request(error.clone()));
        }
        Ok(is_new)
    }

    /// What is wrong with `subject`, if it is not to be tried now: too early, or it may hang, and something else
    /// hung in this round already.
    fn not_now(&self, subject: &Subject, now: Duration) -> Option<&str> {
        match self.hung.is_empty() {
            true => self.problems.waits(subject, now),
            false => self.problems.of(subject),
        }
    }

    /// Whether targets of this kind are left to the next round, because others hung in this one.
    fn is_kind_hanging(&self, kind: &Kind) -> bool {
        let is_of_kind = |subject: &&Subject| match subject {
            Subject::Read(key) | Subject::Target(key) => key.kind.name == kind.name,
            _ => false,
        };
        self.hung.iter().filter(is_of_kind).count() >= MOST_TIMEOUTS
    }

    /// A request about `subject` did what it should, or there was no need for it.
    fn works(&mut self, subject: &Subject) {
        self.problems.works(subject);
        self.conflicts.remove(subject);
    }

    /// Counts a conflict. Nobody writes so often: it is a refusal in other words.
    fn has_too_many_conflicts(&mut self, subject: &Subject) -> bool {
        let conflicts = self.conflicts.entry(subject.clone()).or_default();
        *conflicts = conflicts.saturating_add(1);
        *conflicts > MOST_CONFLICTS
    }

    /// Problems end with the objects that they are about.
    fn forget_problems(&mut self, configs: &[Config], plan: &plan::Plan) {
        let targets: BTreeSet<&TargetKey> = plan.targets().map(|target| &target.key).collect();
        let is_there = |subject: &Subject| match subject {
            Subject::Config(name) => configs.iter().any(|config| config.metadata.name == *name),
            Subject::Read(key) | Subject::Target(key) => targets.contains(key),
            _ => true,
        };
        self.problems.retain(is_there);
        self.conflicts.retain(|subject, _| is_there(subject));
    }

    /// From one round of this node to the next, when nothing happens.
    fn interval(&self) -> Duration {
        schedule::interval(self.update_interval, self.nodes)
    }

    /// The same in the largest cluster that this node has seen: entries may have gone since then.
    fn longest_interval(&self) -> Duration {
        schedule::interval(self.update_interval, self.most_nodes)
    }

    /// The API server's clock, or, should it send none, this machine's: for people, nothing follows from it.
    fn time(&self) -> Timestamp {
        self.client.server_time().unwrap_or_else(Timestamp::of_this_machine)
    }
}

fn status_path(list: &str, name: &str) -> String {
    format!("{list}/{name}/status")
}
