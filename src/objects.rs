//! k6u's own objects: what they mean, and what is wrong with one that means nothing.
//!
//! The schemas in manifests/crds.yaml say the same rules. They are checked here again because an
//! object may be older than its schema; so each field is read whatever its type is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::interface::{DEFAULT_STALE_AFTER, Watch};
use crate::kube::objects::{Condition, Metadata};
use crate::kube::scalars::{Bounded, FromMap, Text};
use crate::prefix::{LINK_LENGTH, Prefix, highest_id};
use crate::settings::is_subdomain;
use crate::time::Timestamp;

/// The API group of both kinds.
pub const GROUP: &str = "apps.fuwafuwatime.moe";
/// The path of the IP6UpdateConfig list.
pub const CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updateconfigs";
/// The path of the IP6UpdateNodeConfig list.
pub const NODE_CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs";

/// Cilium compiles a group into a policy map, which holds 16384 entries unless told otherwise.
pub const MOST_CIDRS_IN_GROUP: usize = 16_384;

/// A prefix that a router takes back stays valid for two hours at most (RFC 4862 section 5.5.3 e).
const MOST_KEEP_DEPRECATED: u64 = 7200;
/// A week: longer than any router is silent.
const MOST_STALE_AFTER: u64 = 604_800;

/// IP6UpdateConfig: which groups follow the delegated prefix, and with which prefix ids.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it asks for, or why that cannot be done.
    #[serde(default = "absent_config_spec", deserialize_with = "config_spec")]
    pub spec: Result<ConfigSpec, BadSpec>,
    /// What was last reported.
    #[serde(default, deserialize_with = "config_status")]
    pub status: ConfigStatus,
}

/// The spec of an IP6UpdateConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpec {
    /// The length that the provider delegates, 1 to 64.
    pub delegated_prefix_length: u8,
    /// Only delegated prefixes inside one of these count; `None` lets all count.
    pub allowed_prefixes: Option<Vec<Prefix>>,
    /// How long a deprecated prefix stays in the groups, 0 to 7200 seconds.
    pub keep_deprecated: i64,
    /// The groups, each name once.
    pub groups: Vec<GroupSpec>,
}

/// What one group is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// The name of the CiliumCIDRGroup.
    pub name: String,
    /// The numbers of its /64 inside every delegated prefix.
    pub prefix_ids: BTreeSet<u64>,
}

/// Why a spec is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadSpec {
    /// One sentence for each thing that is wrong.
    pub problems: Vec<String>,
    /// The groups that it names all the same: nobody else takes them over because of a typing error.
    pub claims: Vec<String>,
}

/// The status of an IP6UpdateConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigStatus {
    /// The generation that was handled.
    pub observed_generation: Option<i64>,
    /// The delegated prefixes that the groups were written for.
    pub delegated_prefixes: Vec<Prefix>,
    /// As stored: k6u 0.3 left up to three of the type Ready.
    pub conditions: Vec<Condition>,
}

/// IP6UpdateNodeConfig: which interface to watch on which nodes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NodeConfig {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it asks for.
    #[serde(default = "absent_node_spec", deserialize_with = "node_spec")]
    pub spec: NodeSpec,
    /// What each node published.
    #[serde(default)]
    pub status: FromMap<NodeConfigStatus>,
}

/// The spec of an IP6UpdateNodeConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Labels that a node must have; `None` if unreadable, which no node matches.
    pub selector: Option<BTreeMap<String, String>>,
    /// The interface and when a prefix on it is stale, or what is wrong with that.
    pub watch: Result<Watch, String>,
}

/// The status of an IP6UpdateNodeConfig.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeConfigStatus {
    /// By node name.
    pub nodes: FromMap<BTreeMap<String, NodeEntry>>,
}

/// What one node published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeEntry {
    /// The /64 prefixes that it saw.
    pub prefixes: Vec<Prefix>,
    /// Those that it saw deprecated, but still valid, and since when.
    pub deprecated: Vec<Deprecated>,
    /// When, by the API server's clock; `None` if unreadable.
    pub observed_time: Option<Timestamp>,
    /// Why there is none, when there is none.
    pub message: String,
}

/// A deprecated prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deprecated {
    /// The /64.
    pub prefix: Prefix,
    /// When the node first saw it so, by the API server's clock.
    pub since: Timestamp,
}

impl NodeConfig {
    /// What the nodes published.
    pub fn nodes(&self) -> &BTreeMap<String, NodeEntry> {
        &self.status.0.nodes.0
    }
}

impl NodeSpec {
    /// Whether a node with these labels is meant; an empty selector means every node.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let Some(selector) = &self.selector else {
            return false;
        };
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether labels matter at all.
    pub fn needs_labels(&self) -> bool {
        self.selector.as_ref().is_some_and(|selector| !selector.is_empty())
    }

    /// Reads `spec`.
    pub fn read(spec: &Value) -> Self {
        let selector = match &spec["nodeSelector"] {
            Value::Null => Some(BTreeMap::new()),
            Value::Object(map) => {
                let pair = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_string()));
                map.iter().map(pair).collect()
            }
            _ => None,
        };
        NodeSpec {
            selector,
            watch: watch(spec),
        }
    }
}

impl ConfigSpec {
    /// Reads and checks `spec`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(spec: &Value) -> Result<Self, BadSpec> {
        let mut bad = BadSpec::default();
        let length = delegated_prefix_length(&spec["delegatedPrefixLength"], &mut bad.problems);
        let allowed_prefixes = allowed_prefixes(&spec["allowedPrefixes"], &mut bad.problems);
        let keep_deprecated = keep_deprecated(&spec["keepDeprecatedSeconds"], &mut bad.problems);
        let groups = groups(&spec["ciliumCIDRGroups"], length, &mut bad.problems);
        match length {
            Some(delegated_prefix_length) if bad.problems.is_empty() => Ok(ConfigSpec {
                delegated_prefix_length,
                allowed_prefixes,
                keep_deprecated,
                groups,
            }),
            _ => {
                bad.claims = groups.into_iter().map(|group| group.name).collect();
                Err(bad)
            }
        }
    }
}

fn delegated_prefix_length(value: &Value, problems: &mut Vec<String>) -> Option<u8> {
    let length = value.as_u64().and_then(|n| u8::try_from(n).ok());
    let length = length.filter(|n| (1..=LINK_LENGTH).contains(n));
    if length.is_none() {
        problems.push(format!(
            "spec.delegatedPrefixLength is {}, but it must be a whole number from 1 to 64",
            shown(value)
        ));
    }
    length
}

fn allowed_prefixes(value: &Value, problems: &mut Vec<String>) -> Option<Vec<Prefix>> {
    let items = match value {
        Value::Null => return None,
        Value::Array(items) => items,
        other => {
            problems.push(format!(
                "spec.allowedPrefixes is {}, but it must be a list",
                shown(other)
            ));
            return None;
        }
    };
    let mut allowed = Vec::new();
    for (at, item) in items.iter().enumerate() {
        match item.as_str().and_then(|text| text.parse().ok()) {
            Some(prefix) => allowed.push(prefix),
            None => problems.push(format!(
                "spec.allowedPrefixes[{at}] is {}, but it must be an IPv6 prefix such as 2001:db8::/32",
                shown(item)
            )),
        }
    }
    Some(allowed)
}

fn keep_deprecated(value: &Value, problems: &mut Vec<String>) -> i64 {
    if value.is_null() {
        return 0;
    }
    let seconds = whole_number(value, MOST_KEEP_DEPRECATED);
    if seconds.is_none() {
        let found = shown(value);
        problems.push(format!(
            "spec.keepDeprecatedSeconds is {found}, but it must be a whole number from 0 to {MOST_KEEP_DEPRECATED}"
        ));
    }
    seconds.unwrap_or(0) as i64
}

fn groups(value: &Value, length: Option<u8>, problems: &mut Vec<String>) -> Vec<GroupSpec> {
    let Value::Array(items) = value else {
        problems.push(format!(
            "spec.ciliumCIDRGroups is {}, but it must be a list of groups",
            shown(value)
        ));
        return Vec::new();
    };
    let mut groups: Vec<GroupSpec> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let field = format!("spec.ciliumCIDRGroups[{at}]");
        let prefix_ids = prefix_ids(&item["prefixIds"], length, &field, problems);
        match item["ciliumCIDRGroupName"].as_str().filter(|name| is_subdomain(name)) {
            None => problems.push(format!(
                "{field}.ciliumCIDRGroupName is {}, but it must be the name of a CiliumCIDRGroup \
                 (lower case letters, digits, '-' and '.')",
                shown(&item["ciliumCIDRGroupName"])
            )),
            Some(name) if groups.iter().any(|group| group.name == name) => {
                problems.push(format!(
                    "{field} names {name} again, but each group may have one entry only"
                ));
            }
            Some(name) => groups.push(GroupSpec {
                name: name.to_string(),
                prefix_ids,
            }),
        }
    }
    groups
}

fn prefix_ids(value: &Value, length: Option<u8>, field: &str, problems: &mut Vec<String>) -> BTreeSet<u64> {
    let Value::Array(items) = value else {
        problems.push(format!(
            "{field}.prefixIds is {}, but it must be a list of prefix ids",
            shown(value)
        ));
        return BTreeSet::new();
    };
    let highest = length.and_then(highest_id);
    let mut ids = BTreeSet::new();
    for (at, item) in items.iter().enumerate() {
        match (item.as_u64(), length, highest) {
            (Some(id), Some(length), Some(highest)) if id > highest => problems.push(format!(
                "{field}.prefixIds[{at}] is {id}, but a /{length} holds the prefix ids 0 to {highest} only"
            )),
            (Some(id), _, _) => {
                ids.insert(id);
            }
            (None, _, _) => problems.push(format!(
                "{field}.prefixIds[{at}] is {}, but it must be a whole number from 0",
                shown(item)
            )),
        }
    }
    ids
}

/// A value as a message shows it: short, whatever it is.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "missing".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map".into(),
        Value::String(text) if text.len() > 64 => "a long text".into(),
        other => other.to_string(),
    }
}

fn watch(spec: &Value) -> Result<Watch, String> {
    let interface = match &spec["interface"] {
        Value::String(name) if is_interface_name(name) => name.clone(),
        other => {
            return Err(format!(
                "spec.interface is {}, but it must be the name of a network interface, 1 to 15 characters",
                shown(other)
            ));
        }
    };
    let stale_after = match &spec["staleAfterSeconds"] {
        Value::Null => DEFAULT_STALE_AFTER,
        value => whole_number(value, MOST_STALE_AFTER).ok_or_else(|| {
            let found = shown(value);
            format!("spec.staleAfterSeconds is {found}, but it must be a whole number from 0 to {MOST_STALE_AFTER}")
        })? as u32,
    };
    Ok(Watch { interface, stale_after })
}

fn whole_number(value: &Value, most: u64) -> Option<u64> {
    value.as_u64().filter(|number| *number <= most)
}

/// What the kernel takes for a name (net/core/dev.c `dev_valid_name`).
fn is_interface_name(name: &str) -> bool {
    let fits = (1..=15).contains(&name.len());
    fits && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace())
}

fn absent_config_spec() -> Result<ConfigSpec, BadSpec> {
    ConfigSpec::read(&Value::Null)
}

fn config_spec<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<ConfigSpec, BadSpec>, D::Error> {
    Ok(ConfigSpec::read(&Bounded::deserialize(deserializer)?.0))
}

fn config_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ConfigStatus, D::Error> {
    let status = Bounded::deserialize(deserializer)?.0;
    let conditions = status["conditions"].as_array().into_iter().flatten();
    Ok(ConfigStatus {
        observed_generation: status["observedGeneration"].as_i64(),
        delegated_prefixes: prefixes(&status["delegatedPrefixes"]),
        conditions: conditions.map(condition).collect(),
    })
}

fn condition(value: &Value) -> Condition {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_string();
    Condition {
        kind: text("type"),
        status: text("status"),
        observed_generation: value["observedGeneration"].as_i64(),
        last_transition_time: text("lastTransitionTime"),
        reason: text("reason"),
        message: text("message"),
    }
}

fn absent_node_spec() -> NodeSpec {
    NodeSpec::read(&Value::Null)
}

fn node_spec<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeSpec, D::Error> {
    Ok(NodeSpec::read(&Bounded::deserialize(deserializer)?.0))
}

impl<'de> Deserialize<'de> for NodeEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let FromMap(fields) = FromMap::<BTreeMap<Text, Bounded>>::deserialize(deserializer)?;
        let field = |name: &str| {
            fields
                .iter()
                .find(|(key, _)| key.0 == name)
                .map_or(&Value::Null, |(_, v)| &v.0)
        };
        Ok(NodeEntry {
            prefixes: prefixes(field("prefixes")),
            deprecated: deprecated(field("deprecated")),
            observed_time: field("observedTime").as_str().and_then(Timestamp::from_rfc3339),
            message: field("message").as_str().unwrap_or_default().to_string(),
        })
    }
}

/// The prefixes in a list that k6u itself wrote; what is none is not k6u's.
fn prefixes(list: &Value) -> Vec<Prefix> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str()?.parse().ok()).collect()
}

/// Deprecated prefixes in a list that k6u itself wrote.
fn deprecated(list: &Value) -> Vec<Deprecated> {
    let read = |item: &Value| {
        Some(Deprecated {
            prefix: item["prefix"].as_str()?.parse().ok()?,
            since: Timestamp::from_rfc3339(item["since"].as_str()?)?,
        })
    };
    list.as_array().into_iter().flatten().filter_map(read).collect()
}

pub mod table;

#[cfg(test)]
mod tests;
