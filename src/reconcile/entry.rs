//! This node's entry in the status of each IP6UpdateNodeConfig that selects it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::info;
use serde_json::{Value, json};

use super::condition::{Failing, cut};
use super::context::{Context, Tried};
use super::events::warn_of_node_config;
use super::problems::{Id, Problem, Subject};
use super::selection::Wanted;
use super::{Failure, Objects, Outcome, status_path};
use crate::kube::{Client, Error};
use crate::limits::HEARTBEAT;
use crate::node::Host;
use crate::node::select::{Observation, Watch};
use crate::prefix::{Prefix, join, texts};
use crate::resources::node_config::{NODE_CONFIGS, NodeConfig, NodeEntry, remove_entries};
use crate::schedule::RoundEnd;
use crate::time::Timestamp;

/// Observations of this node, and the entries that it published.
#[derive(Debug, Default)]
pub struct Entry {
    seen: BTreeMap<Watch, Observation>,
    /// The allowed prefixes of the last look.
    allowed: Option<Vec<Prefix>>,
    /// When the interfaces have to be looked at again though nothing changes, in steady time.
    look_at: Option<Duration>,
    /// By IP6UpdateNodeConfig.
    sent: BTreeMap<String, Sent>,
}

/// An entry that was published.
#[derive(Debug)]
struct Sent {
    entry: NodeEntry,
    /// The IP6UpdateNodeConfig that it was published in.
    uid: String,
    /// In steady time.
    at: Duration,
    /// It was sent again because it was not stored as it was sent, since the last heartbeat.
    is_repeated: bool,
}

/// Result of publishing.
#[derive(Debug, Default)]
pub struct Published {
    /// What became of this node's entry in each IP6UpdateNodeConfig that selects it.
    pub tries: BTreeMap<String, Try>,
    /// An entry of this node was last read with the prefixes that it sees: plans are made from what is stored.
    pub is_represented: bool,
    /// Whether all that was sent was taken.
    pub end: RoundEnd,
    /// The reasons why entries of this node do not say what it sees.
    pub failures: Vec<Failing>,
    /// More of them, of earlier rounds: it is too early to try again, and they may have ended by now.
    pub pending: Vec<Failing>,
}

/// Result of publishing one entry.
#[derive(Debug)]
pub enum Try {
    /// It says what this node sees.
    Published(NodeEntry),
    /// It is not stored as it was sent.
    Altered,
    /// The request failed.
    Refused,
    /// It was not sent, because it is too early to try again.
    Pending,
}

impl Try {
    /// Whether the entry says what this node sees.
    pub fn is_published(&self) -> bool {
        matches!(self, Try::Published(_))
    }
}

impl Published {
    /// Whether this node has nothing to publish: nothing selects it.
    pub fn is_idle(&self) -> bool {
        self.tries.is_empty()
    }

    /// Whether at least one entry of this node has the prefixes that it sees: as sent, or as stored, whatever became of the
    /// request that stored it.
    pub fn has_published(&self) -> bool {
        self.is_represented || self.is_any_published()
    }

    /// Whether the prefixes of these entries are there, in objects that were read since.
    pub fn is_there(&self, node: &str, objects: &Objects) -> bool {
        objects.node_configs.iter().all(|config| {
            let stored = config.nodes().get(node);
            match self.tries.get(&config.metadata.name) {
                Some(Try::Published(entry)) => stored.is_some_and(|stored| stored.prefixes == entry.prefixes),
                _ => true,
            }
        })
    }

    /// The part that this step has in the outcome of the round.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            end: self.end,
            is_ready: self.failures.is_empty() && self.pending.is_empty() && self.is_all_said(),
        }
    }

    /// Whether at least one entry says what this node sees, and the API server took it.
    pub fn is_any_published(&self) -> bool {
        self.tries.values().any(Try::is_published)
    }

    fn is_all_said(&self) -> bool {
        self.tries.values().all(Try::is_published)
    }
}

impl Entry {
    /// Looks at the wanted interfaces, and logs what changed. Returns the entry that this node should have in each
    /// IP6UpdateNodeConfig.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn observe(&mut self, cx: &mut Context<'_>, wanted: &Wanted) -> Result<BTreeMap<String, NodeEntry>, Failure> {
        let (mut entries, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for (name, watch) in &wanted.watches {
            let entry = match watch {
                Err(problem) => NodeEntry {
                    message: cx.clean(problem),
                    ..NodeEntry::default()
                },
                Ok(watch) => {
                    let observed = observe(cx.host, watch, wanted.allowed.as_deref())?;
                    log_change(&watch.interface, self.seen.get(watch), &observed);
                    seen.insert(watch.clone(), observed.clone());
                    NodeEntry {
                        message: cut(&cx.clean(&observed.message(&watch.interface))).into(),
                        ignores_routers: observed.ignores_routers(),
                        prefixes: observed.prefixes,
                        observed_time: String::new(),
                    }
                }
            };
            entries.insert(name.clone(), entry);
        }
        self.look_at = seen.values().filter_map(|observed| observed.until).min();
        self.allowed.clone_from(&wanted.allowed);
        self.seen = seen;
        Ok(entries)
    }

    /// Looks at the interfaces again. Returns whether they differ from what was last logged. If a round follows, that
    /// logs the difference; else it is logged here, when it is seen.
    pub fn look(&mut self, host: &mut dyn Host, round_follows: bool) -> bool {
        self.look_at = None;
        let mut is_changed = false;
        for (watch, before) in &mut self.seen {
            // If the kernel does not answer, the round says so.
            let seen = observe(host, watch, self.allowed.as_deref()).ok();
            let is_like = seen.as_ref().is_some_and(|seen| seen.is_like(before));
            is_changed |= !is_like;
            let Some(seen) = seen.filter(|_| is_like || !round_follows) else {
                continue;
            };
            log_change(&watch.interface, Some(before), &seen);
            self.look_at = [self.look_at, seen.until].into_iter().flatten().min();
            *before = seen;
        }
        is_changed
    }

    /// When the interfaces have to be looked at again though nothing changes, in steady time.
    pub fn look_at(&self) -> Option<Duration> {
        self.look_at
    }

    /// Publishes what differs from `node_configs` as last read, or is due, or all if it is urgent. Then removes this
    /// node's entry where nothing selects it any more: if all was published, so that a node that moves is always there,
    /// or if the entry says what this node does not see.
    ///
    /// # Errors
    /// As [`Context::attempt`].
    pub fn publish(
        &mut self,
        cx: &mut Context<'_>,
        node_configs: &[NodeConfig],
        entries: &BTreeMap<String, NodeEntry>,
        is_urgent: bool,
    ) -> Result<Published, Failure> {
        let mut published = Published::default();
        // A problem lasts as long as this node has something to write there.
        let is_concerned =
            |config: &&NodeConfig| entries.contains_key(&config.metadata.name) || config.nodes().contains_key(cx.node);
        let concerned = || node_configs.iter().filter(is_concerned);
        cx.problems.retain(|subject| match subject {
            Subject::NodeConfig(id) | Subject::Entry(id) => concerned().any(|config| id.is(&config.metadata)),
            _ => true,
        });
        self.sent.retain(|name, _| entries.contains_key(name));
        let selecting = node_configs
            .iter()
            .filter_map(|config| Some((config, entries.get(&config.metadata.name)?)));
        for (config, entry) in cx.in_turn(selecting, |(config, _)| Subject::NodeConfig(Id::of(&config.metadata))) {
            let result = self.publish_in(cx, config, entry, is_urgent, &mut published)?;
            published.tries.insert(config.metadata.name.clone(), result);
        }
        let is_all_said = published.is_all_said();
        let seen: BTreeSet<&Prefix> = entries.values().flat_map(|entry| &entry.prefixes).collect();
        let has_left = |config: &&NodeConfig| {
            let left = config
                .nodes()
                .get(cx.node)
                .filter(|_| !entries.contains_key(&config.metadata.name));
            left.is_some_and(|left| is_all_said || !left.prefixes.iter().all(|prefix| seen.contains(prefix)))
        };
        for config in node_configs.iter().filter(has_left).collect::<Vec<_>>() {
            send(cx, config, None, &mut published)?;
        }
        Ok(published)
    }

    fn publish_in(
        &mut self,
        cx: &mut Context<'_>,
        config: &NodeConfig,
        entry: &NodeEntry,
        is_urgent: bool,
        published: &mut Published,
    ) -> Result<Try, Failure> {
        let name = &config.metadata.name;
        let stored = config.nodes().get(cx.node);
        published.is_represented |= stored.is_some_and(|stored| stored.prefixes == entry.prefixes);
        let is_same = |sent: &&mut Sent| is_equivalent(&sent.entry, entry) && sent.uid == config.metadata.uid;
        let mut sent = self.sent.get_mut(name).filter(is_same);
        let is_due = sent
            .as_ref()
            .is_none_or(|sent| is_heartbeat_due(sent.at, cx.host.now(), cx.interval));
        let is_right = stored.is_some_and(|stored| is_equivalent(stored, entry));
        if is_right {
            cx.problems.works(&Subject::Entry(Id::of(&config.metadata)));
        }
        // Somebody may have restored a backup: what differs is sent again at once, but if it differs again before the
        // next heartbeat, only with that.
        let is_altered = match &mut sent {
            Some(sent) if !is_right => std::mem::replace(&mut sent.is_repeated, true),
            Some(sent) => {
                sent.is_repeated &= !is_due;
                false
            }
            None => false,
        };
        if let Some(sent) = sent.as_ref().filter(|_| is_altered) {
            published.failures.push(altered_entry(cx, config, &sent.entry, stored));
        }
        if is_right && !is_due && !is_urgent {
            return Ok(Try::Published(entry.clone()));
        }
        if is_altered && !is_due {
            return Ok(Try::Altered);
        }
        let is_repeated = sent.is_some_and(|sent| sent.is_repeated);
        let entry = NodeEntry {
            observed_time: heartbeat(cx.time(), stored),
            ..entry.clone()
        };
        debug_assert!(
            stored.is_none_or(|stored| stored.observed_time != entry.observed_time),
            "a heartbeat differs from the one before"
        );
        match send(cx, config, Some(&entry), published)? {
            Tried::Done(()) => {}
            Tried::Refused(refused) if refused.is_retry_pending => return Ok(Try::Pending),
            Tried::Overtaken | Tried::Refused(_) => return Ok(Try::Refused),
        }
        let sent = Sent {
            entry: entry.clone(),
            uid: config.metadata.uid.clone(),
            at: cx.host.now(),
            is_repeated,
        };
        self.sent.insert(name.clone(), sent);
        Ok(if is_altered {
            Try::Altered
        } else {
            Try::Published(entry)
        })
    }
}

/// Writes this node's entry in an IP6UpdateNodeConfig, or removes it.
fn send(
    cx: &mut Context<'_>,
    config: &NodeConfig,
    entry: Option<&NodeEntry>,
    published: &mut Published,
) -> Result<Tried<()>, Failure> {
    let node = cx.node;
    let subject = Subject::NodeConfig(Id::of(&config.metadata));
    let body = json!({"status": {"nodes": {node: entry.map(body)}}});
    let explain = |e: &Error| Problem::explained(e, format!("node {node} cannot publish what it sees: {e}"));
    let path = status_path(NODE_CONFIGS, &config.metadata.name);
    let write = |client: &mut Client| match entry {
        Some(_) => client.merge_patch(&path, &body),
        None => remove_entries(client, &path, &body, std::iter::once(&node.to_string())),
    };
    let content = entry.map(|entry| (&entry.prefixes, &entry.message));
    let tried = cx.attempt(&subject, &content, explain, write)?;
    match &tried {
        Tried::Done(()) => {}
        // Deleted since it was listed, or too many nodes wrote at the same time (Kubernetes, apiserver patch.go: it
        // tries five times).
        Tried::Overtaken => published.end = RoundEnd::Soon,
        Tried::Refused(refused) => {
            if refused.is_new {
                warn_of_node_config(cx, config, &refused.problem.text);
            }
            let failing = Failing::new(&subject, &refused.problem);
            if refused.is_retry_pending {
                published.pending.push(failing);
            } else {
                published.failures.push(failing);
            }
        }
    }
    Ok(tried)
}

/// This node's entry is not stored as it was sent: what that means.
fn altered_entry(cx: &mut Context<'_>, config: &NodeConfig, sent: &NodeEntry, stored: Option<&NodeEntry>) -> Failing {
    let node = cx.node;
    let subject = Subject::Entry(Id::of(&config.metadata));
    let text = if stored.is_none_or(|stored| stored.observed_time == sent.observed_time) {
        format!(
            "the entry of node {node} is not stored as it was sent: an admission webhook changes it, or the CRDs are \
             those of another release, which k6u applies again (k6u crds prints them)"
        )
    } else {
        format!(
            "somebody else writes the entry of node {node}: check that no other machine runs k6u with NODE_NAME {node}"
        )
    };
    if cx.problems.fails(&subject, Problem::of(&text)) {
        warn_of_node_config(cx, config, &text);
    }
    let kind = "its entry is not stored as it was sent".into();
    Failing::new(&subject, &Problem { kind, text })
}

fn observe(host: &mut dyn Host, watch: &Watch, allowed: Option<&[Prefix]>) -> Result<Observation, Failure> {
    let interface = &watch.interface;
    host.observe(watch, allowed)
        .map_err(|e| Failure::Addresses(format!("the kernel did not list the addresses of {interface}: {e}")))
}

/// Whether plans and people make the same of two entries.
fn is_equivalent(one: &NodeEntry, other: &NodeEntry) -> bool {
    let facts = |entry: &NodeEntry| (entry.ignores_routers, entry.prefixes.clone(), entry.message.clone());
    facts(one) == facts(other)
}

/// Whether it is time to publish again. Rounds come once an interval, so it may be half of one early.
fn is_heartbeat_due(last: Duration, now: Duration, interval: Duration) -> bool {
    now.saturating_sub(last) + interval / 2 >= HEARTBEAT
}

/// The time, but always another text than the one that is stored, whatever the clock says.
fn heartbeat(now: Timestamp, stored: Option<&NodeEntry>) -> String {
    let text = now.to_string();
    match stored {
        Some(stored) if stored.observed_time == text => Timestamp(now.0.saturating_add(1)).to_string(),
        _ => text,
    }
}

fn log_change(interface: &str, before: Option<&Observation>, seen: &Observation) {
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

/// An entry as it is stored. Empty fields are sent as null, which deletes them (RFC 7396): with hundreds of nodes
/// entries are most of what is read.
fn body(entry: &NodeEntry) -> Value {
    json!({
        "prefixes": texts(&entry.prefixes),
        "observedTime": entry.observed_time,
        "ignoresRouters": entry.ignores_routers.then_some(true),
        "message": (!entry.message.is_empty()).then_some(&entry.message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    fn entry(prefix: &str, time: &str, message: &str) -> NodeEntry {
        NodeEntry {
            prefixes: vec![prefix.parse().unwrap()],
            observed_time: time.into(),
            message: message.into(),
            ..NodeEntry::default()
        }
    }

    #[test]
    fn the_time_is_no_difference_but_all_else_is() {
        let one = entry("2001:db8:1::/64", "1", "");
        assert!(is_equivalent(&one, &entry("2001:db8:1::/64", "2", "")));
        assert!(!is_equivalent(&one, &entry("2001:db8:2::/64", "1", "")));
        assert!(!is_equivalent(&one, &entry("2001:db8:1::/64", "1", "x")));
    }

    #[test]
    fn a_heartbeat_every_minute() {
        let is_due = |after: u64, interval: u64| {
            is_heartbeat_due(START, START + Duration::from_secs(after), Duration::from_secs(interval))
        };
        assert!(!is_due(50, 10) && is_due(60, 10));
        assert!(!is_due(29, 60) && is_due(60, 60));
        assert!(!is_due(44, 30) && is_due(45, 30));
    }

    #[test]
    fn a_heartbeat_differs_from_the_one_before() {
        let now = Timestamp(1_800_000_000);
        let stored = entry("2001:db8:1::/64", &now.to_string(), "");
        assert_ne!(heartbeat(now, Some(&stored)), stored.observed_time);
        assert_eq!(heartbeat(now, None), now.to_string());
        assert_eq!(
            heartbeat(Timestamp(now.0 + 7), Some(&stored)),
            Timestamp(now.0 + 7).to_string()
        );
    }
}
