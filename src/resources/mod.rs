//! This project's own objects, and those that it writes: the rules of their fields, and messages about fields that
//! break them.
//!
//! The schemas in manifests/crds.yaml state the same rules. They are checked here again because an
//! object may be older than its schema; so each field may be of any type.

pub mod config;
pub mod crds;
mod field;
pub mod node_config;
pub mod schema;
pub mod target_spec;
pub mod targets;

use serde_json::Value;

use crate::prefix::Prefix;

/// The API group of both kinds.
pub const GROUP: &str = "apps.fuwafuwatime.moe";

/// The prefixes in a list that k6u wrote. Other elements are not k6u's, and are skipped.
fn prefixes(list: &Value) -> impl Iterator<Item = Prefix> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests;
