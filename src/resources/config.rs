//! IP6UpdateConfig: which objects follow the delegated prefix, and with which parts of it.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::shown;
use super::target_spec::{TargetSpec, targets};
use super::targets::TargetKey;
use crate::kube::decode::{Bounded, Item, spend, with_long_texts};
use crate::kube::objects::{BadItem, Condition, Metadata};
use crate::prefix::{LINK_LENGTH, Prefix};

/// The path of the list.
pub const CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updateconfigs";

/// What is kept of a spec. With [`CLAIMS`] it leaves room in [`MAX_ITEM`](crate::kube::decode::MAX_ITEM) for metadata and
/// status, so that a spec that is larger is reported in the object, which keeps its claims.
const MAX_SPEC: usize = 4 * 1024 * 1024;
/// What is kept beyond that of all but the lists of the entries.
const CLAIMS: usize = 512 * 1024;
/// The memory of a claim, with the longest names.
const MAX_CLAIM: usize = 512;

/// IP6UpdateConfig: which objects follow the delegated prefix, and with which parts of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    /// Its metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// What it asks for, or why that cannot be done.
    #[serde(default = "absent_config_spec", deserialize_with = "config_spec")]
    pub spec: Result<ConfigSpec, BadSpec>,
    /// What was last reported.
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
    /// The length that the provider delegates, 1 to 64.
    pub delegated_prefix_length: u8,
    /// Only delegated prefixes inside one of these count; `None` lets all count.
    pub allowed_prefixes: Option<Vec<Prefix>>,
    /// The objects, each once: CiliumCIDRGroups first, then `targets`.
    pub targets: Vec<TargetSpec>,
}

/// Why a spec is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadSpec {
    /// One sentence for each thing that is wrong.
    pub problems: Vec<String>,
    /// The objects that it names all the same: nobody else takes them over because of a typing error.
    pub claims: Vec<TargetKey>,
    /// As in [`ConfigSpec`], so that a typing error elsewhere does not change what nodes publish; `None` also if the
    /// list cannot be read.
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
    /// Which objects fail, and how; `None` if none does, or where the schema served drops it.
    pub failing: Option<Vec<String>>,
    /// As stored: k6u 0.3 left up to three of the type Ready.
    pub conditions: Vec<Condition>,
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
        let targets = targets(spec, length, &mut bad.problems);
        match length {
            Some(delegated_prefix_length) if bad.problems.is_empty() => Ok(ConfigSpec {
                delegated_prefix_length,
                allowed_prefixes,
                targets,
            }),
            _ => {
                bad.claims = targets.into_iter().map(|target| target.key).collect();
                bad.allowed_prefixes = allowed_prefixes;
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

/// The list, if all of it can be read.
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
    (allowed.len() == items.len()).then_some(allowed)
}

/// The allowedPrefixes of all configs together, valid or not: what is outside of them concerns nobody. `None` if one
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
    let spec = Bounded::within(MAX_SPEC, CLAIMS, deserializer)?;
    let read = ConfigSpec::read(&spec.value);
    if !spec.is_cut {
        return Ok(read);
    }
    // What it claims, as far as it was read, stays claimed. Its other lists may have lost elements.
    let claims: Vec<TargetKey> = match read {
        Ok(spec) => spec.targets.into_iter().map(|target| target.key).collect(),
        Err(bad) => bad.claims,
    };
    spend(claims.len() * MAX_CLAIM);
    Ok(Err(BadSpec {
        problems: vec![format!("spec takes more than {MAX_SPEC} bytes of memory")],
        claims,
        allowed_prefixes: None,
    }))
}

fn config_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ConfigStatus, D::Error> {
    // The conditions of others are written back.
    let status = with_long_texts(|| Bounded::deserialize(deserializer))?.value;
    let conditions = status["conditions"].as_array().into_iter().flatten();
    Ok(ConfigStatus {
        observed_generation: status["observedGeneration"].as_i64(),
        delegated_prefixes: prefixes(&status["delegatedPrefixes"]),
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

/// The prefixes in a list that k6u itself wrote; what is none is not k6u's.
fn prefixes(list: &Value) -> Vec<Prefix> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str()?.parse().ok()).collect()
}
