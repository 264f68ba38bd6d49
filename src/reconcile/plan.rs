//! The plan: what each target should hold, as a pure function of the objects.
//!
//! An entry counts as long as it is there (I1). Every node computes the plan from the same objects, so all nodes come to
//! the same answer, and none has to lead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::limits::MAX_PLANNED;
use crate::prefix::{Prefix, join};
use crate::resources::config::{Config, ConfigSpec};
use crate::resources::node_config::{NodeConfig, NodeEntry};
use crate::resources::targets::{DesiredTarget, MAX_ITEMS, TargetKey};

/// A message names at most this many things of a kind.
const MAX_NAMED: usize = 4;
/// End of each message about a verdict that writes nothing.
const KEEP: &str = "The targets keep what they hold";

/// Observations that plans are made from.
#[derive(Clone, Debug, Default)]
pub struct Observed<'a> {
    /// The entries of all nodes.
    pub node_configs: &'a [NodeConfig],
    /// No entry counts: none has changed for five minutes, and this node publishes none that would replace them.
    pub are_all_silent: bool,
    /// Prefixes of entries that vanished, and may come back.
    pub vanished: BTreeSet<Prefix>,
}

/// The plan of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One for each IP6UpdateConfig, in the same order.
    pub verdicts: Vec<Verdict>,
    /// IP6UpdateNodeConfigs in which no node has an entry.
    pub without_entry: Vec<String>,
    /// Nodes that do not listen to routers.
    pub ignoring_routers: Vec<String>,
    /// Nodes with an entry that has no prefix.
    pub without_prefix: Vec<String>,
}

/// Verdict on the targets of one IP6UpdateConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The reason why the targets that depend on a prefix keep what they hold; `None` if they do not.
    pub keep: Option<Keep>,
    /// The delegated prefixes, sorted.
    pub delegated: Vec<Prefix>,
    /// Delegated prefixes that only vanished entries stand for, sorted: neither taken out nor put in.
    pub lingering: Vec<Prefix>,
    /// The desired content of each target.
    pub targets: Vec<DesiredTarget>,
    /// Targets that an older config has: the target and that config.
    pub contested: Vec<(TargetKey, String)>,
    /// Targets that would hold more than [`MAX_ITEMS`], or more than what is left of [`MAX_PLANNED`]: the target and how
    /// many items.
    pub oversized: Vec<(TargetKey, usize)>,
}

/// Reason why targets keep what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// For programs.
    pub reason: Reason,
    /// And what to do next.
    pub message: String,
}

/// The reason of the condition Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// All targets hold what they should.
    Updated,
    /// No node knows a prefix that counts.
    NoPrefix,
    /// The spec cannot be followed.
    InvalidSpec,
    /// An older config has one of the targets.
    GroupConflict,
    /// A target could not be written.
    UpdateFailed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Plan {
    /// Every target that has to hold something, of all configs.
    pub fn targets(&self) -> impl Iterator<Item = &DesiredTarget> {
        self.verdicts.iter().flat_map(|verdict| &verdict.targets)
    }

    /// Facts that need attention although the targets are right.
    pub fn remarks(&self) -> Vec<String> {
        let ignoring = (!self.ignoring_routers.is_empty()).then(|| {
            format!(
                "The interface of {} ignores routers, so a new prefix may go unnoticed: see the message in its \
                 IP6UpdateNodeConfig",
                named(&self.ignoring_routers)
            )
        });
        let without = (!self.without_prefix.is_empty()).then(|| {
            format!(
                "There is no prefix from {}: see the message in its IP6UpdateNodeConfig",
                named(&self.without_prefix)
            )
        });
        let nobody = nobody_publishes(&self.without_entry);
        nobody.into_iter().chain(without).chain(ignoring).collect()
    }
}

/// Plans for these objects.
pub fn plan(configs: &[Config], observed: &Observed<'_>) -> Plan {
    let entries = entries(observed);
    let is_without_entry = |config: &&NodeConfig| observed.are_all_silent || config.nodes().is_empty();
    let without_entry = observed.node_configs.iter().filter(is_without_entry);
    let without_entry: Vec<String> = without_entry.map(|config| config.metadata.name.clone()).collect();
    let owners = owners(configs);
    let mut room = MAX_PLANNED;
    let mut verdict = |config: &Config| match &config.spec {
        Err(bad) => Verdict {
            keep: Some(Keep {
                reason: Reason::InvalidSpec,
                message: format!("{}. {KEEP}; correct the spec.", bad.problems.join("; ")),
            }),
            ..Verdict::default()
        },
        Ok(spec) => {
            let (delegated, lingering) = delegated_prefixes(spec, &entries, &observed.vanished);
            let mut verdict = desire(config, spec, delegated, lingering, &owners, &mut room);
            // Nothing but extra CIDRs depends on no prefix.
            let is_constant = !spec.targets.is_empty() && spec.targets.iter().all(|target| target.parts.is_constant());
            if verdict.delegated.is_empty() && !is_constant {
                verdict.keep = Some(Keep {
                    reason: Reason::NoPrefix,
                    message: no_prefix(spec, &entries, &without_entry),
                });
            }
            verdict
        }
    };
    let mut verdicts = vec![Verdict::default(); configs.len()];
    for at in by_age(configs) {
        verdicts[at] = verdict(&configs[at]);
    }
    let targets = || verdicts.iter().flat_map(|verdict| &verdict.targets);
    debug_assert!(
        targets().map(|target| target.items.len()).sum::<usize>() <= MAX_PLANNED,
        "bounded together"
    );
    debug_assert_eq!(
        targets().map(|target| &target.key).collect::<BTreeSet<_>>().len(),
        targets().count(),
        "each target has one owner"
    );
    let nodes = |is_meant: fn(&NodeEntry) -> bool| {
        let meant = entries.iter().filter(|entry| is_meant(entry.published));
        let nodes: BTreeSet<String> = meant.map(|entry| entry.node.to_string()).collect();
        nodes.into_iter().collect()
    };
    Plan {
        verdicts,
        without_entry,
        ignoring_routers: nodes(|entry| entry.ignores_routers),
        without_prefix: nodes(|entry| entry.prefixes.is_empty()),
    }
}

/// The entry of one node.
struct Entry<'a> {
    node: &'a str,
    published: &'a NodeEntry,
}

fn entries<'a>(observed: &Observed<'a>) -> Vec<Entry<'a>> {
    if observed.are_all_silent {
        return Vec::new();
    }
    let all = observed.node_configs.iter().flat_map(NodeConfig::nodes);
    let mut entries: Vec<Entry> = all.map(|(node, published)| Entry { node, published }).collect();
    entries.sort_by_key(|entry| entry.node);
    entries
}

/// The places of the configs in their list, the oldest first.
fn by_age(configs: &[Config]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..configs.len()).collect();
    places.sort_by_key(|at| (&configs[*at].metadata.creation_timestamp, &configs[*at].metadata.name));
    places
}

/// Which config has each target: the oldest that names it.
fn owners(configs: &[Config]) -> BTreeMap<&TargetKey, &str> {
    let mut owners = BTreeMap::new();
    for config in by_age(configs).into_iter().map(|at| &configs[at]) {
        for key in claims(config) {
            owners.entry(key).or_insert(config.metadata.name.as_str());
        }
    }
    owners
}

/// The targets that a config names, whether the plan has something for them or not.
pub fn claims(config: &Config) -> Vec<&TargetKey> {
    match &config.spec {
        Ok(spec) => spec.targets.iter().map(|target| &target.key).collect(),
        Err(bad) => bad.claims.iter().collect(),
    }
}

/// Computes the desired content of a config's targets, as long as there is room. Without a delegated prefix, targets that
/// depend on one are left alone (I4).
fn desire(
    config: &Config,
    spec: &ConfigSpec,
    delegated: Vec<Prefix>,
    lingering: Vec<Prefix>,
    owners: &BTreeMap<&TargetKey, &str>,
    room: &mut usize,
) -> Verdict {
    let mut verdict = Verdict::default();
    for target in &spec.targets {
        let key = target.key.clone();
        let count = target.parts.count(delegated.len());
        match owners.get(&key) {
            Some(owner) if *owner != config.metadata.name => verdict.contested.push((key, owner.to_string())),
            _ if delegated.is_empty() && !target.parts.is_constant() => {}
            _ if count > MAX_ITEMS || count > *room => verdict.oversized.push((key, count)),
            _ => {
                *room -= count;
                verdict.targets.push(target.desired(&delegated, &lingering));
            }
        }
    }
    Verdict {
        delegated,
        lingering,
        ..verdict
    }
}

/// The distinct prefixes of all entries, cut to the delegated length, if they are allowed; and those that only
/// vanished entries stand for (I5).
fn delegated_prefixes(spec: &ConfigSpec, entries: &[Entry], vanished: &BTreeSet<Prefix>) -> (Vec<Prefix>, Vec<Prefix>) {
    let delegated =
        |prefix: &Prefix| Some(prefix.truncate(spec.delegated_prefix_length.bits())).filter(|p| is_allowed(spec, *p));
    let published = entries.iter().flat_map(|entry| &entry.published.prefixes);
    let published: BTreeSet<Prefix> = published.filter_map(delegated).collect();
    let vanished: BTreeSet<Prefix> = vanished.iter().filter_map(delegated).collect();
    let lingering = vanished.difference(&published).copied().collect();
    (published.into_iter().collect(), lingering)
}

fn is_allowed(spec: &ConfigSpec, prefix: Prefix) -> bool {
    // A published prefix that is too short for the delegated length names nothing inside it.
    let long_enough = prefix.length() == spec.delegated_prefix_length.bits();
    let allowed = &spec.allowed_prefixes;
    long_enough
        && allowed
            .as_ref()
            .is_none_or(|list| list.iter().any(|range| range.contains(prefix)))
}

/// The message of NoPrefix: the same on every node.
fn no_prefix(spec: &ConfigSpec, entries: &[Entry], without_entry: &[String]) -> String {
    let observed: BTreeSet<Prefix> = entries
        .iter()
        .flat_map(|entry| &entry.published.prefixes)
        .copied()
        .collect();
    if !observed.is_empty() {
        let length = spec.delegated_prefix_length.bits();
        let allowed = spec.allowed_prefixes.as_deref().unwrap_or_default();
        let delegated: BTreeSet<Prefix> = observed.iter().map(|prefix| prefix.truncate(length)).collect();
        let is_too_long = |range: &&Prefix| delegated.iter().any(|p| range.length() > length && p.contains(**range));
        if let Some(range) = allowed.iter().find(is_too_long) {
            return format!(
                "{range} in allowedPrefixes is longer than delegatedPrefixLength ({length}), so no delegated prefix is \
                 inside it. {KEEP}; correct allowedPrefixes or delegatedPrefixLength."
            );
        }
        let list: Vec<Prefix> = observed.into_iter().take(8).collect();
        return format!(
            "All observed prefixes ({}) are outside allowedPrefixes ({}). {KEEP}; correct allowedPrefixes if the \
             provider delegates from another range now.",
            join(&list),
            join(allowed)
        );
    }
    if !entries.is_empty() {
        let report = |entry: &Entry| format!("{}: {}", entry.node, entry.published.message);
        let reports: Vec<String> = entries.iter().take(MAX_NAMED).map(report).collect();
        return format!(
            "No node has a global IPv6 prefix ({}). {KEEP}; check the router and the interface.",
            reports.join("; ")
        );
    }
    match nobody_publishes(without_entry) {
        Some(nobody) => format!("{nobody}. {KEEP}."),
        None => format!("There is no IP6UpdateNodeConfig. {KEEP}; create one that names the interface to watch."),
    }
}

/// Which node configs have no entry, and what to do about it; `None` if all have one.
pub fn nobody_publishes(without_entry: &[String]) -> Option<String> {
    (!without_entry.is_empty()).then(|| {
        format!(
            "No node publishes in IP6UpdateNodeConfig {}: check that nodeSelector matches a node and that k6u runs \
             there",
            named(without_entry)
        )
    })
}

/// A few names, and how many more there are.
fn named(names: &[String]) -> String {
    let list = names.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => list,
        more => format!("{list} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
