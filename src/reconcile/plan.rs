//! What should be: a pure function from the objects to what the targets have to hold.
//!
//! An entry counts as long as it is there. Every node computes this from the same objects, so all come
//! to the same answer and none has to lead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::cidr::Cidr;
use crate::prefix::{Prefix, join};
use crate::resources::config::{Config, ConfigSpec};
use crate::resources::node_config::{NodeConfig, NodeEntry};
use crate::resources::targets::{MOST_CIDRS, TargetKey};

/// A message names at most so many things of a kind.
const MOST_NAMED: usize = 4;
/// What follows from a verdict that writes nothing.
const KEEP: &str = "The targets keep what they hold";

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One for each IP6UpdateConfig, in the same order.
    pub verdicts: Vec<Verdict>,
    /// IP6UpdateNodeConfigs in which no node has an entry.
    pub without_entry: Vec<String>,
}

/// What becomes of the targets of one IP6UpdateConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are to hold this.
    Write {
        /// The delegated prefixes, sorted.
        delegated: Vec<Prefix>,
        /// What each target is to hold.
        targets: Vec<DesiredTarget>,
        /// Targets that an older config has: the target and that config.
        contested: Vec<(TargetKey, String)>,
        /// Targets that would hold more than [`MOST_CIDRS`]: the target and how many CIDRs.
        oversized: Vec<(TargetKey, usize)>,
    },
    /// They keep what they hold.
    Keep {
        /// Why, for programs.
        reason: Reason,
        /// Why, and what to do next.
        message: String,
    },
}

/// What a target is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredTarget {
    /// Which object.
    pub key: TargetKey,
    /// Sorted, each once.
    pub cidrs: Vec<Cidr>,
}

/// The reason of the condition Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        self.verdicts.iter().flat_map(|verdict| match verdict {
            Verdict::Write { targets, .. } => targets.as_slice(),
            Verdict::Keep { .. } => &[],
        })
    }
}

/// Plans for these objects.
pub fn plan(configs: &[Config], node_configs: &[NodeConfig]) -> Plan {
    let entries = entries(node_configs);
    let without_entry: Vec<String> = node_configs
        .iter()
        .filter(|config| config.nodes().is_empty())
        .map(|config| config.metadata.name.clone())
        .collect();
    let owners = owners(configs);
    let verdict = |config: &Config| match &config.spec {
        Err(bad) => Verdict::Keep {
            reason: Reason::InvalidSpec,
            message: format!("{}. {KEEP}; correct the spec.", bad.problems.join("; ")),
        },
        Ok(spec) => follow(config, spec, &entries, &without_entry, &owners),
    };
    Plan {
        verdicts: configs.iter().map(verdict).collect(),
        without_entry,
    }
}

/// What one node published, and its name.
struct Entry<'a> {
    node: &'a str,
    published: &'a NodeEntry,
}

fn entries(node_configs: &[NodeConfig]) -> Vec<Entry<'_>> {
    let all = node_configs.iter().flat_map(NodeConfig::nodes);
    let mut entries: Vec<Entry> = all.map(|(node, published)| Entry { node, published }).collect();
    entries.sort_by_key(|entry| entry.node);
    entries
}

/// Which config has each target: the oldest that names it.
fn owners(configs: &[Config]) -> BTreeMap<&TargetKey, &str> {
    let mut by_age: Vec<&Config> = configs.iter().collect();
    by_age.sort_by_key(|config| (&config.metadata.creation_timestamp, &config.metadata.name));
    let mut owners = BTreeMap::new();
    for config in by_age {
        for key in claims(config) {
            owners.entry(key).or_insert(config.metadata.name.as_str());
        }
    }
    owners
}

fn claims(config: &Config) -> Vec<&TargetKey> {
    match &config.spec {
        Ok(spec) => spec.targets.iter().map(|target| &target.key).collect(),
        Err(bad) => bad.claims.iter().collect(),
    }
}

fn follow(
    config: &Config,
    spec: &ConfigSpec,
    entries: &[Entry],
    without_entry: &[String],
    owners: &BTreeMap<&TargetKey, &str>,
) -> Verdict {
    let delegated = delegated_prefixes(spec, entries);
    if delegated.is_empty() {
        return Verdict::Keep {
            reason: Reason::NoPrefix,
            message: no_prefix(spec, entries, without_entry),
        };
    }
    let (mut targets, mut contested, mut oversized) = (Vec::new(), Vec::new(), Vec::new());
    for target in &spec.targets {
        let key = target.key.clone();
        let count = target.parts.count(delegated.len());
        match owners.get(&key) {
            Some(owner) if *owner != config.metadata.name => contested.push((key, owner.to_string())),
            _ if count > MOST_CIDRS => oversized.push((key, count)),
            _ => targets.push(DesiredTarget {
                key,
                cidrs: target.parts.of(&delegated),
            }),
        }
    }
    Verdict::Write {
        delegated,
        targets,
        contested,
        oversized,
    }
}

/// The distinct prefixes of all entries, cut to the delegated length, if they are allowed.
fn delegated_prefixes(spec: &ConfigSpec, entries: &[Entry]) -> Vec<Prefix> {
    let cut = |prefix: &Prefix| Some(prefix.cut(spec.delegated_prefix_length)).filter(|p| is_allowed(spec, *p));
    let living = entries.iter().flat_map(|entry| &entry.published.prefixes);
    let distinct: BTreeSet<Prefix> = living.filter_map(cut).collect();
    distinct.into_iter().collect()
}

fn is_allowed(spec: &ConfigSpec, prefix: Prefix) -> bool {
    // A published prefix that is too short for the delegated length names nothing inside it.
    let long_enough = prefix.length() == spec.delegated_prefix_length;
    let allowed = &spec.allowed_prefixes;
    long_enough
        && allowed
            .as_ref()
            .is_none_or(|list| list.iter().any(|range| range.contains(prefix)))
}

/// Why there is no prefix. The same on every node, whoever writes it.
fn no_prefix(spec: &ConfigSpec, entries: &[Entry], without_entry: &[String]) -> String {
    let observed: BTreeSet<Prefix> = entries
        .iter()
        .flat_map(|entry| &entry.published.prefixes)
        .copied()
        .collect();
    if !observed.is_empty() {
        let list: Vec<Prefix> = observed.into_iter().take(8).collect();
        let allowed = spec.allowed_prefixes.as_deref().unwrap_or_default();
        return format!(
            "All observed prefixes ({}) are outside allowedPrefixes ({}). {KEEP}; correct allowedPrefixes if the \
             provider delegates from another range now.",
            join(&list),
            join(allowed)
        );
    }
    if !entries.is_empty() {
        let report = |entry: &Entry| format!("{}: {}", entry.node, entry.published.message);
        let reports: Vec<String> = entries.iter().take(MOST_NAMED).map(report).collect();
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
    let named = without_entry
        .iter()
        .take(MOST_NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let more = match without_entry.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!without_entry.is_empty()).then(|| {
        format!(
            "No node publishes in IP6UpdateNodeConfig {named}{more}: check that nodeSelector matches a node and that \
             k6u runs there"
        )
    })
}

#[cfg(test)]
mod tests;
