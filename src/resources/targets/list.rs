//! What the list of an object holds.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::{Kind, Shape};
use crate::cidr::Cidr;
use crate::kube::decode::{Bounded, MAX_KEPT};
use crate::kube::objects::{Metadata, whole};
use crate::kube::redact::excerpt;

/// The most that k6u writes into one list. Cilium compiles a group into a policy map, which holds as many
/// unless told otherwise.
pub const MOST_CIDRS: usize = 16_384;

/// An object of any kind, as it is read: each has its list inside its spec.
#[derive(Debug, Deserialize)]
pub struct Stored {
    #[serde(deserialize_with = "whole")]
    metadata: Metadata,
    #[serde(default)]
    spec: Bounded,
}

/// An object, as far as k6u reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its list.
    pub list: Cidrs,
    /// It has no such list, and not even the map inside its spec that the list would be in.
    pub is_something_else: bool,
}

/// The elements of a list, as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cidrs(pub Vec<Element>);

/// One element of a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    /// A CIDR.
    Cidr(Cidr),
    /// Anything else, as it is: k6u did not write it.
    Other(Value),
}

impl Held {
    /// What an object of this kind holds.
    ///
    /// # Errors
    /// If there is something else where the list should be, or the object is too large.
    pub fn read(kind: &Kind, stored: Stored) -> Result<Self, String> {
        if stored.spec.is_cut {
            return Err(format!("spec takes more than {MAX_KEPT} bytes of memory"));
        }
        let list = list(kind, stored.spec.value)?;
        Ok(Held {
            metadata: stored.metadata,
            is_something_else: list.is_none(),
            list: list.unwrap_or_default(),
        })
    }
}

/// The list in a spec; `None` if there is not even the map inside the spec that the list is in.
fn list(kind: &Kind, spec: Value) -> Result<Option<Cidrs>, String> {
    let mut value = spec;
    for (depth, field) in kind.list.iter().enumerate() {
        value = match value {
            Value::Object(mut map) => map.remove(*field).unwrap_or_default(),
            // The spec itself may be left out.
            Value::Null if depth == 0 => Value::Null,
            Value::Null => return Ok(None),
            _ => return Err(format!("spec.{} is not a map", kind.list[..depth].join("."))),
        };
    }
    match value {
        Value::Null => Ok(Some(Cidrs::default())),
        Value::Array(items) => {
            let elements = items.into_iter().map(|item| kind.shape.element(item));
            Ok(Some(Cidrs(elements.collect())))
        }
        _ => Err(format!("spec.{} is not a list", kind.list.join("."))),
    }
}

impl Shape {
    fn element(self, value: Value) -> Element {
        let text = match self {
            Shape::Text => value.as_str(),
            Shape::Field(name) => value
                .as_object()
                .filter(|map| map.len() == 1)
                .and_then(|map| map.get(name)?.as_str()),
        };
        let cidr = text.and_then(|text| text.parse().ok());
        cidr.map_or(Element::Other(value), Element::Cidr)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Cidr(cidr) => cidr.fmt(f),
            Element::Other(Value::String(text)) => f.write_str(&excerpt(text)),
            Element::Other(value) => value.fmt(f),
        }
    }
}

impl Cidrs {
    fn known(&self) -> BTreeSet<Cidr> {
        let cidr = |element: &Element| match element {
            Element::Cidr(cidr) => Some(*cidr),
            Element::Other(_) => None,
        };
        self.0.iter().filter_map(cidr).collect()
    }

    /// Whether these are just the wanted CIDRs, in whatever order.
    pub fn are(&self, wanted: &[Cidr]) -> bool {
        let no_others = self.0.iter().all(|element| matches!(element, Element::Cidr(_)));
        let known = self.known();
        no_others && known.len() == wanted.len() && wanted.iter().all(|cidr| known.contains(cidr))
    }

    /// These as they are, and the wanted CIDRs; `None` if no list holds as many.
    pub fn and(&self, wanted: &[Cidr]) -> Option<Vec<Element>> {
        let known = self.known();
        let missing = wanted.iter().filter(|cidr| !known.contains(cidr));
        let mut all = self.0.clone();
        all.extend(missing.map(|cidr| Element::Cidr(*cidr)));
        (all.len() <= MOST_CIDRS).then_some(all)
    }
}

impl fmt::Display for Cidrs {
    /// For a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 16;
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let shown: Vec<String> = self.0.iter().take(MOST).map(Element::to_string).collect();
        f.write_str(&shown.join(", "))?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
