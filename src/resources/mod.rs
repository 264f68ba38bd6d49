//! This project's own objects, and those that it writes: what their fields mean, and what is wrong
//! with one that means nothing.
//!
//! The schemas in manifests/crds.yaml say the same rules. They are checked here again because an
//! object may be older than its schema; so each field is read whatever its type is.

pub mod config;
pub mod crds;
pub mod node_config;
pub mod schema;
pub mod target_spec;
pub mod targets;

use serde_json::Value;

/// The API group of both kinds.
pub const GROUP: &str = "apps.fuwafuwatime.moe";

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

#[cfg(test)]
mod tests;
