//! IP6UpdateNodeConfig: which interface to watch on which nodes, and the entry of each node.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::field::{Field, Problems};
use super::prefixes;
use crate::kube::decode::{Bounded, Item, entries, map_only};
use crate::kube::objects::{BadItem, Metadata};
use crate::kube::{Client, Error};
use crate::node::select::{DEFAULT_STALE_AFTER, MAX_PREFIXES, Watch};
use crate::prefix::Prefix;

/// The path of the list.
pub const NODE_CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs";

/// Linux takes names of 15 bytes, and alternative names of 127 (linux/if.h, ALTIFNAMSIZ).
const MAX_NAME: usize = 127;
/// A week: longer than any router is silent.
const MAX_STALE_AFTER: u32 = 604_800;
/// A prefix that a router takes back stays valid for two hours at most (RFC 4862 section 5.5.3 e).
const MAX_KEEP_DEPRECATED: u32 = 7_200;

/// IP6UpdateNodeConfig: which interface to watch on which nodes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NodeConfig {
    /// Its metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// The spec.
    #[serde(default = "absent_node_spec", deserialize_with = "node_spec")]
    pub spec: NodeSpec,
    /// The status.
    #[serde(default, deserialize_with = "node_status")]
    pub status: NodeConfigStatus,
}

impl Item for NodeConfig {
    fn name(&self) -> Result<&str, BadItem> {
        self.metadata.check()
    }
}

/// The spec of an IP6UpdateNodeConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Labels that a node must have; `None` if unreadable, which no node matches.
    pub selector: Option<BTreeMap<String, String>>,
    /// The interface and the rules for prefixes on it, or why they are refused.
    pub watch: Result<Watch, String>,
}

/// The status of an IP6UpdateNodeConfig.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeConfigStatus {
    /// The entries, by node name.
    #[serde(deserialize_with = "entries")]
    pub nodes: BTreeMap<String, NodeEntry>,
}

/// The entry of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeEntry {
    /// The /64 prefixes that it sees, at most [`MAX_PREFIXES`].
    pub prefixes: Vec<Prefix>,
    /// The heartbeat, a time in RFC 3339 for people. k6u checks only that it changes.
    pub observed_time: String,
    /// Its interface ignores routers, so it does not notice when the prefix changes.
    pub ignores_routers: bool,
    /// Why there is no prefix, or which prefixes do not count.
    pub message: String,
}

impl NodeConfig {
    /// The entries, by node name.
    pub fn nodes(&self) -> &BTreeMap<String, NodeEntry> {
        &self.status.nodes
    }
}

impl NodeSpec {
    /// Whether it selects a node with these labels; an empty selector selects every node.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let Some(selector) = &self.selector else {
            return false;
        };
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether the selection depends on labels.
    pub fn needs_labels(&self) -> bool {
        self.selector.as_ref().is_some_and(|selector| !selector.is_empty())
    }

    /// Reads `spec`.
    pub fn read(spec: &Value) -> Self {
        let problems = Problems::default();
        let spec = Field::top("spec", spec, &problems);
        let selector = selector(spec.get("nodeSelector").value());
        let but = format_args!("it must be a name of a network interface, 1 to {MAX_NAME} characters");
        let interface = spec.get("interface").text(is_interface_name, but);
        let seconds = |field, max| spec.get(field).number(0..=max, "");
        let stale_after = seconds("staleAfterSeconds", MAX_STALE_AFTER);
        let keep_deprecated = seconds("keepDeprecatedSeconds", MAX_KEEP_DEPRECATED);
        let watch = match (interface, problems.take()) {
            (Some(interface), problems) if problems.is_empty() => Ok(Watch {
                interface: interface.into(),
                stale_after: stale_after.unwrap_or(DEFAULT_STALE_AFTER),
                keep_deprecated: keep_deprecated.unwrap_or(0),
            }),
            (_, problems) => Err(problems.join("; ")),
        };
        NodeSpec { selector, watch }
    }
}

/// Reads labels; `None` if they are not a map of texts.
fn selector(value: &Value) -> Option<BTreeMap<String, String>> {
    match value {
        Value::Null => Some(BTreeMap::new()),
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_string()));
            map.iter().map(pair).collect()
        }
        _ => None,
    }
}

/// Whether the kernel takes this as a name (net/core/dev.c `dev_valid_name`) or an alternative name. Control characters
/// are refused: the name is written to logs.
fn is_interface_name(name: &str) -> bool {
    let is_odd = |c: char| "/:".contains(c) || c.is_whitespace() || c.is_control();
    (1..=MAX_NAME).contains(&name.len()) && ![".", ".."].contains(&name) && !name.contains(is_odd)
}

fn absent_node_spec() -> NodeSpec {
    NodeSpec::read(&Value::Null)
}

fn node_spec<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeSpec, D::Error> {
    Ok(NodeSpec::read(&Bounded::deserialize(deserializer)?.value))
}

fn node_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeConfigStatus, D::Error> {
    Ok(map_only(deserializer)?.unwrap_or_default())
}

/// The fields of an entry, of any type.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EntryFields {
    prefixes: Bounded,
    observed_time: Bounded,
    ignores_routers: Bounded,
    message: Bounded,
}

impl<'de> Deserialize<'de> for NodeEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields: EntryFields = map_only(deserializer)?.unwrap_or_default();
        let text = |field: &Bounded| field.value.as_str().unwrap_or_default().to_string();
        Ok(NodeEntry {
            prefixes: prefixes(&fields.prefixes.value).take(MAX_PREFIXES).collect(),
            observed_time: text(&fields.observed_time),
            ignores_routers: fields.ignores_routers.value == Value::Bool(true),
            message: text(&fields.message),
        })
    }
}

/// Removes entries by a patch of the status of an IP6UpdateNodeConfig.
///
/// # Errors
/// If the API server refuses, and if an entry is still there afterwards.
pub fn remove_entries<'a>(
    client: &mut Client,
    path: &str,
    patch: &Value,
    mut nodes: impl Iterator<Item = &'a String>,
) -> Result<(), Error> {
    let stored: NodeConfig = client.merge_patch_returning(path, patch)?;
    match nodes.find(|node| stored.nodes().contains_key(*node)) {
        Some(node) => {
            let what = format!("the entry of {node} is still there: an admission webhook keeps it");
            Err(Error::malformed("PATCH", path, what))
        }
        None => Ok(()),
    }
}
