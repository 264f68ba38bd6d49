//! The list that an object holds, and how it compares with the desired one.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::{DesiredTarget, Kind, Record, is_set};
use crate::cidr::Item;
use crate::kube::decode::{Bounded, MAX_KEPT};
use crate::kube::objects::{Metadata, whole};
use crate::kube::redact::excerpt;

/// The most items that k6u writes into one list. Cilium compiles a group into a policy map, which has room for this
/// many unless configured otherwise.
pub const MAX_ITEMS: usize = 16_384;

/// An object of any kind, as it is read: each has its list inside its spec.
#[derive(Debug, Deserialize)]
pub struct Stored {
    #[serde(deserialize_with = "whole")]
    metadata: Metadata,
    #[serde(default)]
    spec: Bounded,
}

/// An object, with the fields that k6u reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its list.
    pub list: StoredList,
    /// It has no list, and not even the map inside its spec that the list would be in.
    pub lacks_list: bool,
}

/// The elements of a stored list, by meaning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredList {
    /// Sorted, each once.
    items: Vec<Item>,
    /// Name and TTL of the records that the items are in; `None` for all other lists.
    record: Option<Record>,
    /// The number of elements that k6u would write in another way, or not at all.
    other_count: usize,
    /// The first of them, for log lines.
    others: Vec<String>,
}

/// At most this many elements are shown in a log line.
const MAX_SHOWN: usize = 16;

impl Held {
    /// Reads an object of this kind.
    ///
    /// # Errors
    /// If there is something else in the place of the list, or the object is too large.
    pub fn read(kind: &Kind, stored: Stored) -> Result<Self, String> {
        if stored.spec.is_cut {
            return Err(format!("spec takes more than {MAX_KEPT} bytes of memory"));
        }
        let list = list(kind, stored.spec.value)?;
        Ok(Held {
            metadata: stored.metadata,
            lacks_list: list.is_none(),
            list: list.unwrap_or_default(),
        })
    }
}

/// The list in a spec; `None` if there is not even the map inside the spec that the list is in.
fn list(kind: &Kind, spec: Value) -> Result<Option<StoredList>, String> {
    let mut value = spec;
    for (depth, field) in kind.list.iter().enumerate() {
        value = match value {
            Value::Object(mut map) => map.remove(*field).unwrap_or_default(),
            // The spec itself may be absent.
            Value::Null if depth == 0 => Value::Null,
            Value::Null => return Ok(None),
            _ => return Err(format!("spec.{} is not a map", kind.list[..depth].join("."))),
        };
    }
    match value {
        Value::Null => Ok(Some(StoredList::default())),
        Value::Array(elements) => Ok(Some(StoredList::read(kind, elements))),
        _ => Err(format!("spec.{} is not a list", kind.list.join("."))),
    }
}

impl StoredList {
    fn read(kind: &Kind, elements: Vec<Value>) -> Self {
        let mut list = StoredList::default();
        let mut types = Vec::new();
        for element in elements {
            let Some(read) = kind.shape.read(&element) else {
                list.add_other(&element);
                continue;
            };
            list.items.extend(read.items);
            // All records have one name and one TTL, and each type occurs once.
            if let Some((record, record_type)) = read.record {
                if types.contains(&record_type) || list.record.as_ref().is_some_and(|first| *first != record) {
                    list.add_other(&element);
                }
                types.push(record_type);
                list.record = Some(record);
            }
        }
        list.items.sort_unstable();
        list.items.dedup();
        list.items.shrink_to_fit();
        list
    }

    /// Whether it is as desired: it has all desired items, and others only if they linger (I5).
    pub fn matches(&self, desired: &DesiredTarget) -> bool {
        debug_assert!(
            is_set(&desired.items) && is_set(&self.items),
            "both are searched by halves"
        );
        let is_expected = |item: &Item| desired.lingering.contains(item) || desired.holds(item);
        self.other_count == 0
            && (self.record == desired.record || self.items.is_empty())
            && desired.items.iter().all(|item| self.holds(item))
            && self.items.iter().all(is_expected)
    }

    /// The list to write: the desired items, and those of this list that linger. Sorted, each once.
    pub fn with_lingering(&self, desired: &DesiredTarget) -> Vec<Item> {
        let kept = self.items.iter().filter(|item| desired.lingering.contains(item));
        let all: BTreeSet<Item> = desired.items.iter().chain(kept).copied().collect();
        all.into_iter().collect()
    }

    /// The items in it: sorted, each once.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.items.len() + self.other_count
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add_other(&mut self, element: &Value) {
        self.other_count += 1;
        if self.others.len() < MAX_SHOWN {
            self.others.push(match element {
                Value::String(text) => excerpt(text),
                other => excerpt(&other.to_string()),
            });
        }
    }

    fn holds(&self, item: &Item) -> bool {
        self.items.binary_search(item).is_ok()
    }
}

impl fmt::Display for StoredList {
    /// For a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let items = self.items.iter().map(Item::to_string);
        let shown: Vec<String> = items.chain(self.others.iter().cloned()).take(MAX_SHOWN).collect();
        f.write_str(&shown.join(", "))?;
        match self.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
