//! Metadata, which every Kubernetes object has, and types that are not k6u's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use super::decode::BadItem;
use super::decode::{Bounded, Item, Text, entries, items, list, map_only, null_is_default, text};

/// The part of ObjectMeta that k6u reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Unique within its kind.
    pub name: String,
    /// Unique for ever.
    pub uid: String,
    /// A write that names it is a conflict if the object has changed since.
    pub resource_version: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// RFC 3339 with whole seconds: its order as text is its order in time.
    pub creation_timestamp: String,
    /// Labels, for selectors.
    pub labels: Option<BTreeMap<String, String>>,
    /// Why a field cannot be read, if there is one: it counts as absent.
    pub problem: Option<String>,
}

/// The fields as they come: each may be of another type, or `null`, which is the same as absent.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Fields {
    name: Bounded,
    uid: Bounded,
    resource_version: Bounded,
    generation: Bounded,
    creation_timestamp: Bounded,
    labels: Bounded,
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut problem = None;
        let fields: Option<Fields> = map_only(deserializer)?;
        if fields.is_none() {
            problem = Some("metadata is not a map".to_string());
        }
        let fields = fields.unwrap_or_default();
        let mut bad = |field: &str, expected: &str| {
            problem.get_or_insert_with(|| format!("metadata.{field} is not {expected}"));
        };
        let mut text = |field: &str, value: Bounded| match value.value {
            Value::String(text) => text,
            Value::Null => String::new(),
            _ => {
                bad(field, "a text");
                String::new()
            }
        };
        let name = text("name", fields.name);
        let uid = text("uid", fields.uid);
        let resource_version = text("resourceVersion", fields.resource_version);
        let creation_timestamp = text("creationTimestamp", fields.creation_timestamp);
        let generation = match fields.generation.value {
            Value::Null => 0,
            value => value.as_i64().unwrap_or_else(|| {
                bad("generation", "a whole number");
                0
            }),
        };
        let labels = match fields.labels.value {
            Value::Null => None,
            Value::Object(map) => {
                let pairs = map.into_iter().map(|(key, value)| match value {
                    Value::String(value) => Some((key, value)),
                    Value::Null => Some((key, String::new())),
                    _ => None,
                });
                pairs.collect::<Option<_>>().or_else(|| {
                    bad("labels", "a map of texts");
                    None
                })
            }
            _ => {
                bad("labels", "a map of texts");
                None
            }
        };
        Ok(Metadata {
            name,
            uid,
            resource_version,
            generation,
            creation_timestamp,
            labels,
            problem,
        })
    }
}

impl Metadata {
    /// The name.
    ///
    /// # Errors
    /// Which field cannot be read, or that there is no name.
    pub fn check(&self) -> Result<&str, BadItem> {
        match &self.problem {
            None if !self.name.is_empty() => Ok(&self.name),
            problem => Err(BadItem {
                name: self.name.clone(),
                problem: problem.clone().unwrap_or_else(|| "it has no name".into()),
            }),
        }
    }
}

/// Reads the metadata of an object that is not an item of a list: if they cannot be read, the object cannot.
///
/// # Errors
/// As [`Metadata::check`].
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
    let metadata = Metadata::deserialize(deserializer)?;
    match metadata.check() {
        Ok(_) => Ok(metadata),
        Err(bad) => Err(serde::de::Error::custom(bad.problem)),
    }
}

/// A list as the API returns it, with all its objects; `null` is an empty list.
#[derive(Debug, Deserialize)]
pub struct List<T: Item> {
    /// The objects, each as far as it can be read.
    #[serde(deserialize_with = "items")]
    pub items: Vec<Result<T, BadItem>>,
}

/// Any object, of which only the metadata matters.
#[derive(Debug, Deserialize)]
pub struct Object {
    /// Its metadata.
    #[serde(deserialize_with = "whole")]
    pub metadata: Metadata,
}

/// A CustomResourceDefinition, as far as it says whether its API is served.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Crd {
    /// Its metadata.
    #[serde(deserialize_with = "null_is_default")]
    pub metadata: CrdMetadata,
    /// The state of its API.
    #[serde(deserialize_with = "null_is_default")]
    pub status: CrdStatus,
}

/// The metadata of a CustomResourceDefinition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CrdMetadata {
    /// Changes with each write.
    pub resource_version: Text,
    /// For tools.
    #[serde(deserialize_with = "entries")]
    pub annotations: BTreeMap<String, Text>,
}

/// The state of a CustomResourceDefinition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CrdStatus {
    /// `null` right after creation.
    pub conditions: Bounded,
}

impl Crd {
    /// Whether the API server accepted the names and serves the API.
    pub fn is_established(&self) -> bool {
        let mut conditions = self.status.conditions.value.as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == "Established" && c["status"] == "True")
    }
}

/// A condition (Kubernetes API conventions, "Typical status properties").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The subject; `type` in JSON.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The generation of the object that it describes.
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
    #[serde(deserialize_with = "list")]
    pub resources: Vec<ApiResource>,
}

/// One resource.
#[derive(Debug, Deserialize)]
pub struct ApiResource {
    /// The plural name.
    #[serde(deserialize_with = "text")]
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::decode::decode;

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
    fn long_managed_fields_are_skipped() {
        let text = format!(
            r#"{{"metadata":{{"name":"a","managedFields":[{}1{}]}},"spec":{{}}}}"#,
            r#"{"f:x":["#.repeat(5000),
            "]}".repeat(5000)
        );
        let object: Object = serde_json::from_str(&text).unwrap();
        assert_eq!(object.metadata.name, "a");
    }

    #[test]
    fn an_object_whose_metadata_cannot_be_read_cannot_be() {
        let read = |text: &str| decode::<Object>(text.as_bytes());
        assert!(read(r#"{"metadata":{"name":"a","labels":null}}"#).is_ok());
        for text in [
            "{}",
            "[1]",
            r#"{"metadata":null}"#,
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"name":"a","labels":{"x":1}}}"#,
            r#"{"metadata":{"name":"a","resourceVersion":7}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    /// However large a response is, the part that is kept is bounded.
    #[test]
    fn answers_of_any_size() {
        fn kept<T: serde::de::DeserializeOwned>(body: &str) -> Result<T, String> {
            decode(body.as_bytes()).map_err(|e| e.to_string())
        }
        let many = |item: &str| vec![item; 200_000].join(",");
        let resources = format!(r#"{{"resources":[{}]}}"#, many(r#"{"name":"x"}"#));
        assert!(
            kept::<ApiResources>(&resources)
                .unwrap_err()
                .starts_with("the list is too large")
        );
        let named = format!(r#"{{"name":"{}"}}"#, "x".repeat(100_000));
        let resources = format!(r#"{{"resources":[{}]}}"#, vec![named; 20].join(","));
        assert!(
            kept::<ApiResources>(&resources)
                .unwrap()
                .resources
                .iter()
                .all(|r| r.name.len() == 1024)
        );
        let conditions = many(r#"{"type":"x"}"#);
        let crd = format!(r#"{{"status":{{"conditions":[{conditions}]}}}}"#);
        assert!(kept::<Crd>(&crd).unwrap().status.conditions.is_cut);
        let value = "x".repeat(100_000);
        let annotations: Vec<String> = (0..20).map(|n| format!(r#""a{n}":"{value}""#)).collect();
        let crd = format!(r#"{{"metadata":{{"annotations":{{{}}}}}}}"#, annotations.join(","));
        assert!(
            kept::<Crd>(&crd)
                .unwrap()
                .metadata
                .annotations
                .values()
                .all(|text| text.0.len() == 1024)
        );
    }
}
