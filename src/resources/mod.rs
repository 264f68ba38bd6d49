//! This project's own objects, and those that it writes: what their fields mean, and what is wrong
//! with one that means nothing.
//!
//! The schemas in manifests/crds.yaml say the same rules. They are checked here again because an
//! object may be older than its schema; so each field is read whatever its type is.

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

/// The prefixes in a list that k6u itself wrote; what is none was not written by k6u.
fn prefixes(list: &Value) -> impl Iterator<Item = Prefix> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests;
