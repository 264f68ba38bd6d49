//! IP6UpdateConfig: which objects follow the delegated prefix, and with which parts of it.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::field::{Field, Problems};
use super::prefixes;
use super::target_spec::{TargetSpec, targets};
use super::targets::TargetKey;
use crate::cidr::SuffixRange;
use crate::kube::decode::{Bounded, Budget, Item, MAX_KEPT, spend};
use crate::kube::objects::{BadItem, Condition, Metadata};
use crate::prefix::{Prefix, PrefixLength};

/// The path of the list.
pub const CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updateconfigs";

/// Elements of `spec.allowedPrefixes`.
const MAX_ALLOWED_PREFIXES: usize = 64;

/// Bytes kept of a spec. With [`CLAIMS`] that leaves room in [`MAX_ITEM`](crate::kube::decode::MAX_ITEM) for metadata
/// and status: so a larger spec is reported in the object, which keeps its claims.
const MAX_SPEC: usize = 4 * 1024 * 1024;
/// Further bytes for all of a spec but the lists of its entries.
const CLAIMS: usize = 512 * 1024;
/// Bytes of a claim with the longest names.
const MAX_CLAIM: usize = 512;
/// Bytes of a prefix id: a node of a `BTreeSet` is full by half at least.
const PREFIX_ID: usize = 24;
/// Bytes of any other part: a vector is full by half at least.
const PART: usize = 2 * size_of::<SuffixRange>();

/// IP6UpdateConfig: which objects follow the delegated prefix, and with which parts of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    /// Its metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// The spec, or the reasons why it is refused.
    #[serde(default = "absent_config_spec", deserialize_with = "config_spec")]
    pub spec: Result<ConfigSpec, BadSpec>,
    /// The status, as last written.
    #[serde(default, deserialize_with = "config_status")]
    pub status: ConfigStatus,
}

impl Item for Config {
    fn name(&self) -> Result<&str, BadItem> {
        self.metadata.check()
    }
}

/// The spec of an IP6UpdateConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpec {
    /// The length that the provider delegates.
    pub delegated_prefix_length: PrefixLength,
    /// Only delegated prefixes inside one of these count; `None` lets all count.
    pub allowed_prefixes: Option<Vec<Prefix>>,
    /// The objects, each once: CiliumCIDRGroups first, then `targets`.
    pub targets: Vec<TargetSpec>,
}

/// A spec that is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadSpec {
    /// The problems, one sentence each.
    pub problems: Vec<String>,
    /// The objects that it names. They stay this config's, in spite of a typing error.
    pub claims: Vec<TargetKey>,
    /// As in [`ConfigSpec`], so that a typing error in another field does not change the nodes' entries; `None` also if
    /// the list cannot be read.
    pub allowed_prefixes: Option<Vec<Prefix>>,
}

/// The status of an IP6UpdateConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigStatus {
    /// The generation that was handled.
    pub observed_generation: Option<i64>,
    /// The delegated prefixes that the objects were written for.
    pub delegated_prefixes: Vec<Prefix>,
    /// The same as one text, for the column of `kubectl get`; `None` where the schema served is an older
    /// release's, which drops it.
    pub prefix: Option<String>,
    /// The objects that fail, each with its failure; `None` if none does, or where the schema served drops it.
    pub failing: Option<Vec<String>>,
    /// The stored conditions. k6u 0.3 left up to three of the type Ready.
    pub conditions: Vec<Condition>,
}

impl ConfigSpec {
    /// Reads and checks `spec`.
    ///
    /// # Errors
    /// All its problems.
    pub fn read(spec: &Value) -> Result<Self, BadSpec> {
        let problems = Problems::default();
        let spec = Field::top("spec", spec, &problems);
        let length = spec.get("delegatedPrefixLength");
        let length = length.read(|value| Ok(PrefixLength::try_from(value.as_u64().unwrap_or_default())?));
        let allowed_prefixes = allowed_prefixes(&spec.get("allowedPrefixes"));
        let targets = targets(&spec, length);
        match (length, problems.take()) {
            (Some(delegated_prefix_length), problems) if problems.is_empty() => Ok(ConfigSpec {
                delegated_prefix_length,
                allowed_prefixes,
                targets,
            }),
            (_, problems) => Err(BadSpec {
                problems,
                claims: targets.into_iter().map(|target| target.key).collect(),
                allowed_prefixes,
            }),
        }
    }
}

/// The list, if all of it can be read.
fn allowed_prefixes(field: &Field) -> Option<Vec<Prefix>> {
    let count = field.value().as_array().map(Vec::len);
    let allowed = field.list("prefixes", MAX_ALLOWED_PREFIXES);
    let allowed: Vec<Prefix> = allowed.filter_map(|prefix| prefix.parse()).collect();
    (count == Some(allowed.len())).then_some(allowed)
}

/// The allowedPrefixes of all configs together, valid or not: no config uses a prefix outside of them. `None` if one
/// config allows everything, or there is none.
pub fn all_allowed_prefixes(configs: &[Config]) -> Option<Vec<Prefix>> {
    if configs.is_empty() {
        return None;
    }
    let allowed = |config: &'_ Config| match &config.spec {
        Ok(spec) => spec.allowed_prefixes.clone(),
        Err(bad) => bad.allowed_prefixes.clone(),
    };
    let lists: Option<Vec<Vec<Prefix>>> = configs.iter().map(allowed).collect();
    Some(lists?.concat())
}

fn absent_config_spec() -> Result<ConfigSpec, BadSpec> {
    ConfigSpec::read(&Value::Null)
}

fn config_spec<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<ConfigSpec, BadSpec>, D::Error> {
    let spec = Bounded::within(Budget::of(MAX_SPEC).with_reserve(CLAIMS), deserializer)?;
    let read = ConfigSpec::read(&spec.value);
    if !spec.is_cut {
        spend(match &read {
            Ok(spec) => spec.targets.iter().map(kept).sum(),
            Err(bad) => bad.claims.len() * MAX_CLAIM + bad.problems.iter().map(String::len).sum::<usize>(),
        });
        return Ok(read);
    }
    // It keeps its claims, as far as they were read. Its other lists may have lost elements.
    let claims: Vec<TargetKey> = match read {
        Ok(spec) => spec.targets.into_iter().map(|target| target.key).collect(),
        Err(bad) => bad.claims,
    };
    spend(claims.len() * MAX_CLAIM);
    Ok(Err(BadSpec {
        problems: vec![format!(
            "spec takes more than {MAX_SPEC} bytes of memory, or all specs together more than {MAX_KEPT}"
        )],
        claims,
        allowed_prefixes: None,
    }))
}

/// An upper bound for the bytes of a target of a spec.
fn kept(target: &TargetSpec) -> usize {
    let parts = &target.parts;
    let others = parts.suffixes.len() + parts.ranges.len() + parts.extra.len();
    MAX_CLAIM + parts.prefix_ids.len() * PREFIX_ID + others * PART
}

fn config_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ConfigStatus, D::Error> {
    // The conditions of others are written back.
    let status = Bounded::within(Budget::of(MAX_KEPT).with_long_texts(), deserializer)?.value;
    let conditions = status["conditions"].as_array().into_iter().flatten();
    Ok(ConfigStatus {
        observed_generation: status["observedGeneration"].as_i64(),
        delegated_prefixes: prefixes(&status["delegatedPrefixes"]).collect(),
        prefix: status["prefix"].as_str().map(str::to_string),
        failing: status["failing"].as_array().map(|list| texts(list)),
        conditions: conditions.map(condition).collect(),
    })
}

fn texts(list: &[Value]) -> Vec<String> {
    list.iter().filter_map(Value::as_str).map(str::to_string).collect()
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
