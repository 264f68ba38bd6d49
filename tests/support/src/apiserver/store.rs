//! The objects of the API server, their versions, and their history.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::apiserver::rbac::Attempt;

/// The key of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The API group.
    pub group: String,
    /// The plural name of the resource.
    pub resource: String,
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A cluster-scoped object.
    pub fn new(group: &str, resource: &str, name: &str) -> Self {
        Key {
            group: group.into(),
            resource: resource.into(),
            namespace: String::new(),
            name: name.into(),
        }
    }
}

/// A request that was handled.
#[derive(Clone, Debug)]
pub struct Logged {
    /// When the answer was ready.
    pub at: Instant,
    /// `GET /path` without the query.
    pub line: String,
    /// The attempts that RBAC checked; none for discovery.
    pub attempts: Vec<Attempt>,
    /// The status of the answer; 0 if a fault answered nothing.
    pub status: u16,
    /// The number of its connection, from 1.
    pub connection: u64,
    /// Bytes of the request's body and of the whole response.
    pub bytes: (usize, usize),
}

/// A resource that is served.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The API group.
    pub group: String,
    /// Versions, best first, each with its schema if it has one.
    pub versions: Vec<(String, Option<Value>)>,
    /// The plural name.
    pub plural: String,
    /// The kind.
    pub kind: String,
    /// Names for kubectl.
    pub short_names: Value,
    /// Whether it has a status subresource.
    pub has_status: bool,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// A former value of an object.
#[derive(Clone, Debug)]
pub struct Past {
    /// When it was stored.
    pub at: Instant,
    /// The key of the object.
    pub key: Key,
    /// The value; `None` if the object was deleted.
    pub object: Option<Value>,
}

/// Changes an object that is about to be stored.
pub type Mutation = fn(&Key, &mut Value);

/// The objects and their history.
#[derive(Debug)]
pub struct Store {
    /// All objects.
    pub objects: BTreeMap<Key, Value>,
    /// Every change, in order.
    pub history: Vec<Past>,
    /// Every request, in order.
    pub log: Vec<Logged>,
    /// The time from a CRD's creation until it is Established.
    pub establish_after: Duration,
    /// The time from then until its objects can be read, in which the answer is 429.
    pub initialize_for: Duration,
    /// Whether fields that do not change are not validated again (Kubernetes 1.30 and newer).
    pub ratchets: bool,
    /// A mutating webhook, which changes an object that is created or patched before it is validated.
    pub mutation: Option<Mutation>,
    /// When each CRD was created, by the server's clock in milliseconds.
    pub created: BTreeMap<String, i64>,
    version: u64,
    names: u64,
}

/// The group of CRDs.
pub const APIEXTENSIONS: &str = "apiextensions.k8s.io";
/// Their plural name.
pub const CRDS: &str = "customresourcedefinitions";

impl Default for Store {
    fn default() -> Self {
        Store {
            objects: BTreeMap::new(),
            history: Vec::new(),
            log: Vec::new(),
            establish_after: Duration::ZERO,
            initialize_for: Duration::ZERO,
            ratchets: true,
            mutation: None,
            created: BTreeMap::new(),
            version: 200,
            names: 0,
        }
    }
}

impl Store {
    /// The current resourceVersion of the store.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns a number that it never returned before.
    pub fn unique(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// Stores an object with the next resourceVersion.
    pub fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Past {
            at: Instant::now(),
            key: key.clone(),
            object: Some(object.clone()),
        });
        self.objects.insert(key, object.clone());
        object
    }

    /// Removes an object.
    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        let gone = self.objects.remove(key)?;
        self.version += 1;
        self.history.push(Past {
            at: Instant::now(),
            key: key.clone(),
            object: None,
        });
        Some(gone)
    }

    /// The resources that are served, with those of Established CRDs.
    pub fn resources(&self, now_ms: i64) -> Vec<Resource> {
        let built_in = |group: &str, plural: &str, kind: &str, namespaced| Resource {
            group: group.into(),
            versions: vec![("v1".into(), None)],
            plural: plural.into(),
            kind: kind.into(),
            short_names: json!([]),
            has_status: false,
            namespaced,
        };
        let mut resources = vec![
            built_in("", "nodes", "Node", false),
            built_in(APIEXTENSIONS, CRDS, "CustomResourceDefinition", false),
            built_in("", "events", "Event", true),
            built_in("events.k8s.io", "events", "Event", true),
        ];
        for (key, crd) in &self.objects {
            if key.resource == CRDS && self.is_established(&key.name, now_ms) {
                resources.push(defined_by(crd));
            }
        }
        resources
    }

    /// Whether this CRD's API is served.
    pub fn is_established(&self, crd: &str, now_ms: i64) -> bool {
        let age = now_ms - self.created.get(crd).copied().unwrap_or(i64::MIN / 2);
        age >= self.establish_after.as_millis() as i64
    }

    /// Whether this CRD's objects can be read.
    pub fn is_initialized(&self, crd: &str, now_ms: i64) -> bool {
        let age = now_ms - self.created.get(crd).copied().unwrap_or(i64::MIN / 2);
        age >= (self.establish_after + self.initialize_for).as_millis() as i64
    }
}

fn defined_by(crd: &Value) -> Resource {
    let spec = &crd["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let served = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|v| v["served"] == true);
    let mut versions: Vec<(String, Option<Value>)> = served
        .map(|version| {
            (
                text(&version["name"]),
                Some(version["schema"]["openAPIV3Schema"].clone()),
            )
        })
        .collect();
    // Kubernetes sorts stable versions before beta and alpha ones.
    versions.sort_by_key(|(name, _)| (name.contains("alpha"), name.contains("beta")));
    Resource {
        group: text(&spec["group"]),
        versions,
        plural: text(&spec["names"]["plural"]),
        kind: text(&spec["names"]["kind"]),
        short_names: spec["names"]["shortNames"].clone(),
        has_status: spec["versions"][0]["subresources"]["status"].is_object(),
        namespaced: spec["scope"] == "Namespaced",
    }
}
