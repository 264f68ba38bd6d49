//! What the list of an object holds.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{Kind, Shape};
use crate::cidr::Cidr;
use crate::kube::decode::{Bounded, Text};
use crate::kube::objects::Metadata;

/// The most that k6u writes into one list. Cilium compiles a group into a policy map, which holds as many
/// unless told otherwise.
pub const MOST_CIDRS: usize = 16_384;

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

/// The CIDRs that an object holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cidrs {
    /// As they are listed, at most [`MOST_CIDRS`].
    pub listed: Vec<Element>,
    /// How many more there are.
    pub excess: usize,
}

/// One element of a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    /// A CIDR.
    Cidr(Cidr),
    /// Anything else, as it is: k6u did not write it.
    Other(Value),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Cidr(cidr) => cidr.fmt(f),
            Element::Other(Value::String(text)) => f.write_str(text),
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
        self.listed.iter().filter_map(cidr).collect()
    }

    /// Whether these are just the wanted CIDRs, in whatever order.
    pub fn are(&self, wanted: &[Cidr]) -> bool {
        let no_others = self.excess == 0 && self.listed.iter().all(|element| matches!(element, Element::Cidr(_)));
        let known = self.known();
        no_others && known.len() == wanted.len() && wanted.iter().all(|cidr| known.contains(cidr))
    }

    /// These as they are, and the wanted CIDRs; `None` if no list holds as many.
    pub fn and(&self, wanted: &[Cidr]) -> Option<Vec<Element>> {
        let known = self.known();
        let missing = wanted.iter().filter(|cidr| !known.contains(cidr));
        let mut all = self.listed.clone();
        all.extend(missing.map(|cidr| Element::Cidr(*cidr)));
        (self.excess == 0 && all.len() <= MOST_CIDRS).then_some(all)
    }
}

impl fmt::Display for Cidrs {
    /// For a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 16;
        if self.listed.is_empty() && self.excess == 0 {
            return f.write_str("none");
        }
        let shown: Vec<String> = self.listed.iter().take(MOST).map(Element::to_string).collect();
        f.write_str(&shown.join(", "))?;
        match self.excess + self.listed.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Looks in an object of this kind for its metadata and its list.
#[derive(Clone, Copy, Debug)]
pub struct HeldSeed(pub &'static Kind);

impl<'de> DeserializeSeed<'de> for HeldSeed {
    type Value = Held;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Held, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeldSeed {
    type Value = Held;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", self.0.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Held, A::Error> {
        // The spec itself may be left out.
        let spec_has_list = self.0.list.len() == 2;
        let (mut held, mut list) = (Held::default(), None);
        while let Some(Text(name)) = fields.next_key()? {
            if name == "metadata" {
                held.metadata = fields.next_value()?;
            } else if name == self.0.list[0] {
                list = fields.next_value_seed(At {
                    path: &self.0.list[1..],
                    shape: self.0.shape,
                })?;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        held.is_something_else = list.is_none() && !spec_has_list;
        held.list = list.unwrap_or_default();
        Ok(held)
    }
}

/// Looks for a list at a path below this value. `None` if there is not even the map that the list is in.
#[derive(Clone, Copy)]
struct At {
    path: &'static [&'static str],
    shape: Shape,
}

impl<'de> DeserializeSeed<'de> for At {
    type Value = Option<Cidrs>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Cidrs>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At {
    type Value = Option<Cidrs>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.first() {
            None => f.write_str("a list of CIDRs"),
            Some(field) => write!(f, "a map with {field}"),
        }
    }

    fn visit_unit<E>(self) -> Result<Option<Cidrs>, E> {
        // A list that is null is an empty one.
        Ok(self.path.is_empty().then(Cidrs::default))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Option<Cidrs>, A::Error> {
        let Some((wanted, path)) = self.path.split_first() else {
            return Err(serde::de::Error::invalid_type(serde::de::Unexpected::Map, &self));
        };
        let mut found = path.is_empty().then(Cidrs::default);
        while let Some(Text(name)) = fields.next_key()? {
            if name == *wanted {
                found = fields.next_value_seed(At { path, ..self })?;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Cidrs>, A::Error> {
        if !self.path.is_empty() {
            return Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        let mut cidrs = Cidrs::default();
        while cidrs.listed.len() < MOST_CIDRS {
            match items.next_element_seed(self.shape)? {
                Some(element) => cidrs.listed.push(element),
                None => return Ok(Some(cidrs)),
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {
            cidrs.excess += 1;
        }
        Ok(Some(cidrs))
    }
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = Element;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Element, D::Error> {
        let value = Bounded::deserialize(deserializer)?.0;
        let text = match self {
            Shape::Text => value.as_str(),
            Shape::Field(name) => value
                .as_object()
                .filter(|map| map.len() == 1)
                .and_then(|map| map.get(name)?.as_str()),
        };
        let cidr = text.and_then(|text| text.parse().ok());
        Ok(cidr.map_or(Element::Other(value), Element::Cidr))
    }
}
