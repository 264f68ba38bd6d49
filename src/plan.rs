//! What should be: a pure function from what is known to what the groups have to hold.
//!
//! Every node computes this from the same objects, so all come to the same answer and none has to lead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::interface::{Observation, substance};
use crate::objects::{Config, ConfigSpec, Deprecated, MOST_CIDRS_IN_GROUP, NodeConfig, NodeEntry, NodeSpec};
use crate::prefix::{Prefix, join};
use crate::time::Timestamp;

/// An entry older than this many seconds says nothing any more: its node is gone.
pub const FRESH_SECONDS: i64 = 5 * 60;
/// A node publishes again after this many seconds, even if it sees what it saw before.
pub const PUBLISH_SECONDS: i64 = 2 * 60;

/// What is known at the time of planning.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Every IP6UpdateConfig.
    pub configs: &'a [Config],
    /// Every IP6UpdateNodeConfig, with what the nodes published in it.
    pub node_configs: &'a [NodeConfig],
    /// The name of this node.
    pub node: &'a str,
    /// What this node sees right now, by the name of the IP6UpdateNodeConfig that selects it.
    pub seen: &'a BTreeMap<String, NodeEntry>,
    /// By the API server's clock.
    pub now: Timestamp,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One for each IP6UpdateConfig, in the same order.
    pub verdicts: Vec<Verdict>,
    /// Entries of nodes that fell silent: IP6UpdateNodeConfig and node.
    pub stale: Vec<(String, String)>,
}

/// What becomes of the groups of one IP6UpdateConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are to hold this.
    Write {
        /// The delegated prefixes, sorted.
        delegated: Vec<Prefix>,
        /// What each group is to hold.
        groups: Vec<WantedGroup>,
        /// Groups that an older config has: the group and that config.
        contested: Vec<(String, String)>,
        /// Groups that would hold more than Cilium takes: the group and how many CIDRs.
        oversized: Vec<(String, usize)>,
    },
    /// They keep what they hold.
    Keep {
        /// Why, for programs.
        reason: Reason,
        /// Why, and what to do next.
        message: String,
    },
}

/// What a group is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedGroup {
    /// The name of the CiliumCIDRGroup.
    pub name: String,
    /// Sorted, each once.
    pub cidrs: Vec<Prefix>,
}

/// The reason of the condition Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All groups hold what they should.
    Updated,
    /// No node knows a prefix that counts.
    NoPrefix,
    /// The spec cannot be followed.
    InvalidSpec,
    /// An older config has one of the groups.
    GroupConflict,
    /// A group could not be written.
    UpdateFailed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Plans.
pub fn plan(known: &Known) -> Plan {
    let fresh = fresh_entries(known);
    let owners = owners(known.configs);
    let verdict = |config: &Config| match &config.spec {
        Err(bad) => Verdict::Keep {
            reason: Reason::InvalidSpec,
            message: format!(
                "{}. The groups keep what they hold; correct the spec.",
                bad.problems.join("; ")
            ),
        },
        Ok(spec) => follow(config, spec, &fresh, &owners, known.now),
    };
    Plan {
        verdicts: known.configs.iter().map(verdict).collect(),
        stale: stale_entries(known),
    }
}

/// What this node has to say of an observation, given what it published before.
pub fn entry(spec: &NodeSpec, seen: &Observation, published: Option<&NodeEntry>, now: Timestamp) -> NodeEntry {
    let known = published.map_or(&[][..], |entry| &entry.deprecated);
    let deprecated = seen
        .deprecated
        .iter()
        .filter_map(|prefix| match known.iter().find(|d| d.prefix == *prefix) {
            // Since when is in the cluster, so a restart of k6u does not restart that clock.
            Some(known) => Some(*known),
            // It left the groups when it became stale; that its lifetime is over now is no news.
            None if seen.long_gone.contains(prefix) => None,
            None => Some(Deprecated {
                prefix: *prefix,
                since: now,
            }),
        });
    NodeEntry {
        prefixes: seen.prefixes.clone(),
        deprecated: deprecated.collect(),
        observed_time: Some(now),
        message: match &spec.watch {
            Ok(watch) => seen.message(&watch.interface),
            Err(problem) => problem.clone(),
        },
    }
}

/// Whether this node has to publish what it sees: when that changed, and every two minutes.
pub fn must_publish(published: Option<&NodeEntry>, seen: &NodeEntry) -> bool {
    let (Some(published), Some(now)) = (published, seen.observed_time) else {
        return true;
    };
    // An entry from the future was written by another clock; it would never become old.
    !says_the_same(published, seen)
        || published
            .observed_time
            .is_none_or(|then| !(0..PUBLISH_SECONDS).contains(&now.since(then)))
}

/// Whether two entries say the same, whenever that was.
pub fn says_the_same(one: &NodeEntry, other: &NodeEntry) -> bool {
    one.prefixes == other.prefixes
        && one.deprecated == other.deprecated
        && substance(&one.message).eq(substance(&other.message))
}

/// Whether it matters to the groups that this node published `after` in place of `before`: when it is
/// the first to see something, the last to see it no more, or alone. `config` is as it was right after
/// that: so of many nodes that publish the same, just one finds that it was the first, and one the last.
pub fn is_news(config: &NodeConfig, node: &str, before: &NodeEntry, after: &NodeEntry, now: Timestamp) -> bool {
    let others = || {
        config
            .nodes()
            .iter()
            .filter(|(name, entry)| *name != node && is_fresh(entry, now))
    };
    // That a prefix lives is one fact, that it is deprecated another.
    let facts = |entry: &NodeEntry| -> Vec<(bool, Prefix)> {
        let lives = entry.prefixes.iter().map(|prefix| (true, *prefix));
        lives
            .chain(entry.deprecated.iter().map(|d| (false, d.prefix)))
            .collect()
    };
    let (before, after) = (facts(before), facts(after));
    let mut changed = before
        .iter()
        .chain(&after)
        .filter(|fact| before.contains(fact) != after.contains(fact));
    let is_known = |fact: &(bool, Prefix)| others().any(|(_, other)| facts(other).contains(fact));
    others().next().is_none() || !changed.all(is_known)
}

/// The nodes whose entries count, this one among them if anything selects it.
pub fn publishers<'a>(known: &Known<'a>) -> BTreeSet<&'a str> {
    fresh_entries(known).into_iter().map(|fresh| fresh.node).collect()
}

/// An entry that counts, and where it is from.
struct Fresh<'a> {
    node: &'a str,
    entry: &'a NodeEntry,
}

fn fresh_entries<'a>(known: &Known<'a>) -> Vec<Fresh<'a>> {
    let mut fresh = Vec::new();
    for config in known.node_configs {
        // What this node sees right now counts more than what it published, or did not publish yet.
        if let Some(entry) = known.seen.get(&config.metadata.name) {
            fresh.push(Fresh {
                node: known.node,
                entry,
            });
        }
        for (node, entry) in config.nodes() {
            if node != known.node && is_fresh(entry, known.now) {
                fresh.push(Fresh { node, entry });
            }
        }
    }
    fresh.sort_by_key(|entry| entry.node);
    fresh
}

fn is_fresh(entry: &NodeEntry, now: Timestamp) -> bool {
    entry
        .observed_time
        .is_some_and(|then| now.since(then).saturating_abs() <= FRESH_SECONDS)
}

fn stale_entries(known: &Known) -> Vec<(String, String)> {
    let mut stale = Vec::new();
    for config in known.node_configs {
        for (node, entry) in config.nodes() {
            // This node's own entry is stale as soon as the config no longer selects it.
            let is_stale = if node == known.node {
                !known.seen.contains_key(&config.metadata.name)
            } else {
                !is_fresh(entry, known.now)
            };
            if is_stale {
                stale.push((config.metadata.name.clone(), node.clone()));
            }
        }
    }
    stale
}

/// Which config has each group: the oldest that names it.
fn owners(configs: &[Config]) -> BTreeMap<&str, &str> {
    let mut by_age: Vec<&Config> = configs.iter().collect();
    by_age.sort_by_key(|config| (&config.metadata.creation_timestamp, &config.metadata.name));
    let mut owners = BTreeMap::new();
    for config in by_age {
        for group in claims(config) {
            owners.entry(group).or_insert(config.metadata.name.as_str());
        }
    }
    owners
}

fn claims(config: &Config) -> Vec<&str> {
    match &config.spec {
        Ok(spec) => spec.groups.iter().map(|group| group.name.as_str()).collect(),
        Err(bad) => bad.claims.iter().map(String::as_str).collect(),
    }
}

fn follow(
    config: &Config,
    spec: &ConfigSpec,
    fresh: &[Fresh],
    owners: &BTreeMap<&str, &str>,
    now: Timestamp,
) -> Verdict {
    let delegated = delegated_prefixes(spec, fresh, now);
    if delegated.is_empty() {
        return Verdict::Keep {
            reason: Reason::NoPrefix,
            message: no_prefix(spec, fresh),
        };
    }
    let (mut groups, mut contested, mut oversized) = (Vec::new(), Vec::new(), Vec::new());
    for group in &spec.groups {
        let count = delegated.len().saturating_mul(group.prefix_ids.len());
        match owners.get(group.name.as_str()) {
            Some(owner) if *owner != config.metadata.name => contested.push((group.name.clone(), owner.to_string())),
            _ if count > MOST_CIDRS_IN_GROUP => oversized.push((group.name.clone(), count)),
            _ => groups.push(WantedGroup {
                name: group.name.clone(),
                cidrs: cidrs(&delegated, &group.prefix_ids),
            }),
        }
    }
    Verdict::Write {
        delegated,
        groups,
        contested,
        oversized,
    }
}

/// The distinct prefixes of all fresh nodes, cut to the delegated length, if they are allowed; and those
/// that are kept after their deprecation. Without any living prefix nothing is known, and so none is given.
fn delegated_prefixes(spec: &ConfigSpec, fresh: &[Fresh], now: Timestamp) -> Vec<Prefix> {
    let cut = |prefix: &Prefix| Some(prefix.cut(spec.delegated_prefix_length)).filter(|p| is_allowed(spec, *p));
    let mut distinct: BTreeSet<Prefix> = fresh.iter().flat_map(|f| &f.entry.prefixes).filter_map(cut).collect();
    if !distinct.is_empty() {
        let is_kept = |d: &&Deprecated| now.since(d.since) < spec.keep_deprecated;
        let deprecated = fresh.iter().flat_map(|f| &f.entry.deprecated).filter(is_kept);
        distinct.extend(deprecated.filter_map(|d| cut(&d.prefix)));
    }
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

/// Every delegated prefix times every prefix id, sorted.
pub fn cidrs(delegated: &[Prefix], prefix_ids: &BTreeSet<u64>) -> Vec<Prefix> {
    let links = delegated
        .iter()
        .flat_map(|prefix| prefix_ids.iter().filter_map(|id| prefix.link(*id)));
    let sorted: BTreeSet<Prefix> = links.collect();
    sorted.into_iter().collect()
}

/// Why there is no prefix. The same on every node, whoever writes it.
fn no_prefix(spec: &ConfigSpec, fresh: &[Fresh]) -> String {
    const KEEP: &str = "The groups keep what they hold";
    if fresh.is_empty() {
        return format!(
            "No node has published a prefix in the last {} minutes. {KEEP}; is there an IP6UpdateNodeConfig whose \
             nodeSelector selects a node that k6u runs on?",
            FRESH_SECONDS / 60
        );
    }
    let outside: BTreeSet<Prefix> = fresh.iter().flat_map(|f| &f.entry.prefixes).copied().collect();
    if !outside.is_empty() {
        let list: Vec<Prefix> = outside.into_iter().take(8).collect();
        let allowed = spec.allowed_prefixes.as_deref().unwrap_or_default();
        return format!(
            "What the nodes see is not inside allowedPrefixes ({}): {}. {KEEP}; correct allowedPrefixes if the \
             provider delegates from elsewhere now.",
            join(allowed),
            join(&list)
        );
    }
    let reports: Vec<String> = fresh
        .iter()
        .take(4)
        .map(|f| {
            format!(
                "{}: {}",
                f.node,
                substance(&f.entry.message).collect::<Vec<_>>().join("; ")
            )
        })
        .collect();
    format!(
        "No node sees a global IPv6 prefix ({}). {KEEP}; check the router and the interface.",
        reports.join("; ")
    )
}

#[cfg(test)]
mod tests;
