//! What every Kubernetes object has, and the types that are not k6u's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The part of ObjectMeta that k6u reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Unique within its kind.
    pub name: String,
    /// Unique for ever.
    pub uid: String,
    /// What a write has to name to be refused if the object changed meanwhile.
    pub resource_version: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// RFC 3339 with whole seconds: its order as text is its order in time.
    pub creation_timestamp: String,
    /// For selectors.
    pub labels: Option<BTreeMap<String, String>>,
}

/// A list as the API gives it, whole.
#[derive(Debug, Deserialize)]
pub struct List<T> {
    /// The objects.
    #[serde(bound(deserialize = "T: Deserialize<'de>"))]
    pub items: Vec<T>,
}

/// Any object, of which only the metadata matters.
#[derive(Debug, Deserialize)]
pub struct Object {
    /// Its metadata.
    #[serde(default)]
    pub metadata: Metadata,
}

/// A CustomResourceDefinition, as far as it says whether its API is served.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Crd {
    /// The state of its API.
    pub status: CrdStatus,
}

/// The state of a CustomResourceDefinition.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CrdStatus {
    /// `null` right after creation.
    pub conditions: Option<Vec<Condition>>,
}

impl Crd {
    /// Whether the API server accepted the names and serves the API.
    pub fn is_established(&self) -> bool {
        let conditions = self.status.conditions.iter().flatten();
        conditions
            .into_iter()
            .any(|c| c.kind == "Established" && c.status == "True")
    }
}

/// A condition (Kubernetes API conventions, "Typical status properties").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// What it is about; `type` in JSON.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The generation of the object that it speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed, RFC 3339.
    pub last_transition_time: String,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The resources of a version of an API group (discovery).
#[derive(Debug, Deserialize)]
pub struct ApiResources {
    /// All of them, subresources too.
    pub resources: Vec<ApiResource>,
}

/// One resource.
#[derive(Debug, Deserialize)]
pub struct ApiResource {
    /// The plural name.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crd_right_after_creation_is_not_established() {
        let new: Crd = serde_json::from_str(r#"{"status":{"conditions":null,"storedVersions":["v1"]}}"#).unwrap();
        assert!(!new.is_established());
        let accepted = r#"{"status":{"conditions":[{"type":"NamesAccepted","status":"True"},
            {"type":"Established","status":"False"}]}}"#;
        assert!(!serde_json::from_str::<Crd>(accepted).unwrap().is_established());
        let served = r#"{"status":{"conditions":[{"type":"Established","status":"True"}]}}"#;
        assert!(serde_json::from_str::<Crd>(served).unwrap().is_established());
    }

    #[test]
    fn a_fat_managed_fields_is_skipped() {
        let text = format!(
            r#"{{"metadata":{{"name":"a","managedFields":[{}1{}]}},"spec":{{}}}}"#,
            r#"{"f:x":["#.repeat(5000),
            "]}".repeat(5000)
        );
        let object: Object = serde_json::from_str(&text).unwrap();
        assert_eq!(object.metadata.name, "a");
    }
}
