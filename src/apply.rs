//! A round: reads the objects, publishes what this node sees, plans, and writes the difference.
//!
//! Two rules keep nodes from undoing each other's work. A node publishes what it sees before it
//! writes a group for it. And a group is written only after the other objects were read once more,
//! later than the group: so whoever wrote that group, and named its new prefix before, is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use log::{debug, info, warn};
use serde_json::{Value, json};

use crate::groups::{self, Groups};
use crate::interface::{Observation, Watch};
use crate::journal::Journal;
use crate::kube::objects::{CidrGroup, List, Object};
use crate::kube::{Cause, Client, Error};
use crate::objects::{CONFIGS, Config, GROUP, NODE_CONFIGS, NodeConfig, NodeEntry};
use crate::plan::{self, Known, PUBLISH_SECONDS, Plan, Verdict, WantedGroup, must_publish};
use crate::prefix::{join, texts};
use crate::status::{self, Notice};
use crate::time::Timestamp;

/// Events about cluster-scoped objects belong in this namespace (Kubernetes, pkg/apis/core/validation/events.go).
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

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
}

/// Makes rounds, and remembers what need not be asked again.
#[derive(Debug)]
pub struct Operator {
    client: Client,
    node: String,
    reporter: String,
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

/// A group that has to be written: what it holds, if it exists, and what it is to hold.
struct Due {
    held: Option<CidrGroup>,
    wanted: WantedGroup,
}

impl Operator {
    /// An operator on this node; `reporter` is who Events are from.
    pub fn new(client: Client, node: String, reporter: String) -> Self {
        Operator {
            client,
            node,
            reporter,
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

    /// One round.
    ///
    /// # Errors
    /// When it could not come to its end. What concerns one config only is noted in its status.
    pub fn round(&mut self, look: Look) -> Result<Outcome, Failure> {
        self.client.read_account()?;
        let mut node_configs = self.client.get::<List<NodeConfig>>(NODE_CONFIGS)?.items;
        let now = self.now();
        let selected = self.selected(&node_configs, now)?;
        let seen = self.observe(&node_configs, &selected, look, now)?;
        self.publish(&mut node_configs, &seen, now)?;
        self.say_whether_idle(selected.is_empty());
        if selected.is_empty() {
            self.remove_stale(&node_configs, &self.stale_of_idle(&node_configs))?;
            return Ok(Outcome {
                again: false,
                ready: true,
            });
        }

        let mut configs = self.client.get::<List<Config>>(CONFIGS)?.items;
        let mut plan = self.plan(&configs, &node_configs, &seen, now);
        let mut failures = BTreeMap::new();
        let mut due = self.due(&plan, &mut failures)?;
        let mut outcome = Outcome {
            again: false,
            ready: true,
        };
        if !due.is_empty() {
            // The second look, later than the groups were read.
            configs = self.client.get::<List<Config>>(CONFIGS)?.items;
            node_configs = self.client.get::<List<NodeConfig>>(NODE_CONFIGS)?.items;
            plan = self.plan(&configs, &node_configs, &seen, now);
            let still_due = |due: &Due| wanted_groups(&plan).any(|wanted| *wanted == due.wanted);
            outcome.again = !due.iter().all(still_due);
            due.retain(still_due);
        }
        for due in &due {
            outcome.again |= self.write_group(due, &mut failures)?;
        }
        // A status tells of groups; until those are settled it is not known what to tell.
        if !outcome.again {
            outcome.again |= self.report(&configs, &plan, &failures, now, &mut outcome.ready)?;
        }
        self.remove_stale(&node_configs, &plan.stale)?;
        self.forget_troubles(&configs, &plan);
        Ok(outcome)
    }

    /// The API server's clock, or, should it send none, this machine's.
    fn now(&self) -> Timestamp {
        self.client.server_time().unwrap_or_else(Timestamp::of_this_machine)
    }

    /// The names of the node configs that select this node.
    fn selected(&mut self, node_configs: &[NodeConfig], now: Timestamp) -> Result<BTreeSet<String>, Failure> {
        // Labels change rarely: they are read when this node would publish anyway.
        let is_due = self
            .labels
            .as_ref()
            .is_none_or(|l| !(0..PUBLISH_SECONDS).contains(&now.since(l.read)));
        if is_due && node_configs.iter().any(|config| config.spec.needs_labels()) {
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
        let selected = node_configs.iter().filter(|config| config.spec.selects(labels));
        Ok(selected.map(|config| config.metadata.name.clone()).collect())
    }

    /// Looks at the interfaces of the selected node configs, and logs what changed. Gives what this
    /// node has to publish in each of them.
    fn observe(
        &mut self,
        node_configs: &[NodeConfig],
        selected: &BTreeSet<String>,
        look: Look,
        now: Timestamp,
    ) -> Result<BTreeMap<String, NodeEntry>, Failure> {
        let (mut entries, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for config in node_configs
            .iter()
            .filter(|config| selected.contains(&config.metadata.name))
        {
            let subject = format!("IP6UpdateNodeConfig {}", config.metadata.name);
            let observation = match &config.spec.watch {
                Ok(watch) => {
                    let interface = &watch.interface;
                    let observation = look(watch).map_err(|e| {
                        Failure::Addresses(format!("the kernel does not say what addresses {interface} has: {e}"))
                    })?;
                    self.journal.works(&subject);
                    self.log_change(interface, self.seen.get(watch), &observation);
                    seen.insert(watch.clone(), observation.clone());
                    observation
                }
                Err(problem) => {
                    self.journal.fails(&subject, problem);
                    Observation::default()
                }
            };
            let published = config.nodes().get(&self.node);
            entries.insert(
                config.metadata.name.clone(),
                plan::entry(config, &observation, published, now),
            );
        }
        self.seen = seen;
        Ok(entries)
    }

    fn log_change(&self, interface: &str, before: Option<&Observation>, seen: &Observation) {
        let facts = |o: &Observation| (o.prefixes.clone(), o.absent);
        if before.map(facts) != Some(facts(seen)) {
            let old = before.map_or("unknown".to_string(), |before| join(&before.prefixes));
            let message = seen.message(interface);
            let why = if message.is_empty() {
                message
            } else {
                format!(" ({message})")
            };
            info!("{interface}: prefixes {old} -> {}{why}", join(&seen.prefixes));
        }
    }

    /// Publishes what is seen where that is due, in the cluster and in `node_configs`.
    fn publish(
        &mut self,
        node_configs: &mut [NodeConfig],
        seen: &BTreeMap<String, NodeEntry>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        for config in node_configs {
            let Some(entry) = seen.get(&config.metadata.name) else {
                continue;
            };
            if !must_publish(config.nodes().get(&self.node), entry) {
                continue;
            }
            let deprecated = entry.deprecated.iter();
            let deprecated = deprecated.map(|d| json!({"prefix": d.prefix.to_string(), "since": d.since.to_string()}));
            let published = json!({
                "prefixes": texts(&entry.prefixes),
                "deprecated": deprecated.collect::<Vec<_>>(),
                "observedTime": now.to_string(),
                "message": entry.message,
            });
            let patch = json!({"status": {"nodes": {self.node.as_str(): published}}});
            match self
                .client
                .merge_patch(&status_path(NODE_CONFIGS, &config.metadata.name), &patch)
            {
                // Deleted since it was listed: nothing to publish to.
                Err(e) if e.is_absent_object() => debug!("{e}"),
                published => published?,
            }
            config.status.0.nodes.0.insert(self.node.clone(), entry.clone());
        }
        Ok(())
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

    fn plan(
        &self,
        configs: &[Config],
        node_configs: &[NodeConfig],
        seen: &BTreeMap<String, NodeEntry>,
        now: Timestamp,
    ) -> Plan {
        plan::plan(&Known {
            configs,
            node_configs,
            node: &self.node,
            seen,
            now,
        })
    }

    /// The groups that differ from what is wanted. A group that cannot be read is a failure of its own.
    fn due(&mut self, plan: &Plan, failures: &mut BTreeMap<String, String>) -> Result<Vec<Due>, Failure> {
        let mut due = Vec::new();
        for wanted in wanted_groups(plan) {
            match self.groups.read(&mut self.client, &wanted.name) {
                Ok(Some(held)) if groups::holds(&held, &wanted.cidrs) => {
                    self.journal.works(&group_subject(&wanted.name))
                }
                Ok(held) => due.push(Due {
                    held,
                    wanted: wanted.clone(),
                }),
                Err(e) => self.group_failed(&wanted.name, e, failures)?,
            }
        }
        Ok(due)
    }

    /// Notes a failure that is about one group only; passes on any other.
    fn group_failed(
        &mut self,
        name: &str,
        error: Error,
        failures: &mut BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let concerns_group = error.is_about_this_object() || matches!(error.cause, Cause::Unclear(_));
        if !concerns_group {
            return Err(error.into());
        }
        let text = if error.is_absent_api() {
            format!("the API server serves no ciliumcidrgroups.cilium.io: is Cilium 1.13 or newer installed? ({error})")
        } else {
            error.to_string()
        };
        self.journal.fails(&group_subject(name), &text);
        failures.insert(name.to_string(), format!("{name}: {text}"));
        Ok(())
    }

    /// Writes one group; says whether somebody else was faster.
    fn write_group(&mut self, due: &Due, failures: &mut BTreeMap<String, String>) -> Result<bool, Failure> {
        let name = &due.wanted.name;
        match self.groups.write(&mut self.client, due.held.as_ref(), &due.wanted) {
            Ok(()) => {
                self.journal.works(&group_subject(name));
                let old = due.held.as_ref().map_or("not there".to_string(), groups::describe);
                info!("CiliumCIDRGroup {name}: {old} -> {}", join(&due.wanted.cidrs));
                Ok(false)
            }
            // Changed, created or deleted since it was read.
            Err(e) if e.is_conflict() || e.is_absent_object() => {
                debug!("{e}");
                Ok(true)
            }
            Err(e) => self.group_failed(name, e, failures).map(|()| false),
        }
    }

    /// Writes the statuses that changed, and their Events; says whether somebody else was faster.
    fn report(
        &mut self,
        configs: &[Config],
        plan: &Plan,
        failures: &BTreeMap<String, String>,
        now: Timestamp,
        all_ready: &mut bool,
    ) -> Result<bool, Failure> {
        let mut again = false;
        for (config, verdict) in configs.iter().zip(&plan.verdicts) {
            let (delegated, own_failures) = match verdict {
                Verdict::Keep { .. } => (None, Vec::new()),
                Verdict::Write { delegated, groups, .. } => {
                    let own = groups.iter().filter_map(|group| failures.get(&group.name).cloned());
                    (Some(delegated.as_slice()), own.collect())
                }
            };
            let (reason, message) = status::judge(verdict, &own_failures);
            *all_ready &= reason == plan::Reason::Updated;
            let name = &config.metadata.name;
            let subject = config_subject(name);
            let Some(change) = status::change(config, reason, &message, delegated, now) else {
                self.journal.works(&subject);
                continue;
            };
            match self.client.merge_patch(&status_path(CONFIGS, name), &change.patch) {
                Ok(()) => {
                    self.journal.works(&subject);
                    match change.turned {
                        Some((plan::Reason::Updated, message)) => info!("IP6UpdateConfig {name} is Ready: {message}"),
                        Some((reason, message)) => warn!("IP6UpdateConfig {name} is not Ready: {reason}: {message}"),
                        None => {}
                    }
                    for notice in &change.events {
                        self.send_event(config, notice, now);
                    }
                }
                Err(e) if e.is_conflict() => again = true,
                Err(e) if e.is_absent_object() => debug!("{e}"),
                Err(e) if e.is_about_this_object() => {
                    *all_ready = false;
                    self.journal.fails(&subject, &e.to_string());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(again)
    }

    /// Reports an Event. One that is lost is no reason to fail: the status says the same.
    fn send_event(&mut self, config: &Config, notice: &Notice, now: Timestamp) {
        let name = &config.metadata.name;
        let seconds = now.to_string();
        let event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": format!("{name}-")},
            "eventTime": seconds.replace('Z', ".000000Z"),
            "reportingController": format!("{GROUP}/k6u"),
            "reportingInstance": cut(&self.reporter, 128),
            "action": "UpdateGroups",
            "reason": notice.reason,
            "type": notice.kind,
            "note": notice.note,
            "regarding": {
                "apiVersion": format!("{GROUP}/v1"),
                "kind": "IP6UpdateConfig",
                "name": name,
                "uid": config.metadata.uid,
            },
        });
        let sent = self.client.create(EVENTS, &event);
        self.journal.note("Events", sent);
    }

    /// An idle node removes what it published when it was not idle, and leaves the rest to others.
    fn stale_of_idle(&self, node_configs: &[NodeConfig]) -> Vec<(String, String)> {
        let mine = node_configs
            .iter()
            .filter(|config| config.nodes().contains_key(&self.node));
        mine.map(|config| (config.metadata.name.clone(), self.node.clone()))
            .collect()
    }

    /// Removes entries of nodes that fell silent.
    fn remove_stale(&mut self, node_configs: &[NodeConfig], stale: &[(String, String)]) -> Result<(), Failure> {
        for config in node_configs {
            let nodes: serde_json::Map<String, Value> = stale
                .iter()
                .filter(|(name, _)| *name == config.metadata.name)
                .map(|(_, node)| (node.clone(), Value::Null))
                .collect();
            if nodes.is_empty() {
                continue;
            }
            let gone: Vec<&String> = nodes.keys().collect();
            let gone = format!("{gone:?}");
            // With the resourceVersion: if the node just came back, its new entry stays.
            let patch = json!({
                "metadata": {"resourceVersion": config.metadata.resource_version},
                "status": {"nodes": nodes},
            });
            match self
                .client
                .merge_patch(&status_path(NODE_CONFIGS, &config.metadata.name), &patch)
            {
                Ok(()) => info!(
                    "IP6UpdateNodeConfig {}: removed the stale entries of {gone}",
                    config.metadata.name
                ),
                Err(e) if e.is_conflict() || e.is_absent_object() => debug!("{e}"),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Troubles end with the objects that they are about.
    fn forget_troubles(&mut self, configs: &[Config], plan: &Plan) {
        let mut known: BTreeSet<String> = configs
            .iter()
            .map(|config| config_subject(&config.metadata.name))
            .collect();
        known.extend(wanted_groups(plan).map(|group| group_subject(&group.name)));
        self.journal.retain(|subject| {
            let is_about_object = subject.starts_with("IP6UpdateConfig ") || subject.starts_with("CiliumCIDRGroup ");
            !is_about_object || known.contains(subject)
        });
    }
}

/// Every group that a plan wants to hold something.
fn wanted_groups(plan: &Plan) -> impl Iterator<Item = &WantedGroup> {
    plan.verdicts.iter().flat_map(|verdict| match verdict {
        Verdict::Write { groups, .. } => groups.as_slice(),
        Verdict::Keep { .. } => &[],
    })
}

fn status_path(list: &str, name: &str) -> String {
    format!("{list}/{name}/status")
}

fn group_subject(name: &str) -> String {
    format!("CiliumCIDRGroup {name}")
}

fn config_subject(name: &str) -> String {
    format!("IP6UpdateConfig {name}")
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
