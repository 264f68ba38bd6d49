//! The elements of a list: how each kind writes an item and reads a stored element.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::Record;
use crate::cidr::{Cidr, Item};

/// The form of the elements of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    /// A CIDR, as text.
    Cidr,
    /// A CIDR or `first-last`, as text.
    CidrOrRange,
    /// A map with a CIDR in `cidr`.
    Block,
    /// A map with a CIDR in `cidr`, or with `start` and `stop`.
    BlockOrRange,
    /// A DNS record with the addresses of one family.
    Record,
}

/// The meaning of an element.
pub(super) struct Element {
    pub items: Vec<Item>,
    /// For a record: its name and TTL, and its type.
    pub record: Option<(Record, &'static str)>,
}

impl Shape {
    /// Whether an element can be a range of addresses.
    pub fn has_ranges(self) -> bool {
        matches!(self, Shape::CidrOrRange | Shape::BlockOrRange)
    }

    /// Whether an item has to be a single address, in a record with a name.
    pub fn is_record(self) -> bool {
        self == Shape::Record
    }

    /// All elements of a list with these items.
    pub fn write(self, items: &[Item], record: Option<&Record>) -> Vec<Value> {
        match record {
            Some(record) => records(items, record),
            None => items.iter().map(|item| self.element(item)).collect(),
        }
    }

    fn element(self, item: &Item) -> Value {
        match (self, item) {
            (Shape::Block | Shape::BlockOrRange, Item::Cidr(cidr)) => json!({"cidr": cidr.to_string()}),
            (Shape::BlockOrRange, Item::Range(range)) => {
                json!({"start": range.first().to_string(), "stop": range.last().to_string()})
            }
            _ => Value::String(item.to_string()),
        }
    }

    /// Reads a stored element; `None` if k6u writes no element of this form.
    pub fn read(self, element: &Value) -> Option<Element> {
        if self == Shape::Record {
            return read_record(element);
        }
        let item = match self {
            Shape::Cidr => cidr_or_address(element.as_str()?)?,
            Shape::CidrOrRange => cidr_or_range(element.as_str()?)?,
            _ => match fields(element)?.as_slice() {
                [("cidr", cidr)] => cidr_or_address(cidr.as_str()?)?,
                [("start", start)] if self.has_ranges() => range(start.as_str()?, start.as_str()?)?,
                [("start", start), ("stop", stop)] if self.has_ranges() => range(start.as_str()?, stop.as_str()?)?,
                _ => return None,
            },
        };
        Some(Element {
            items: vec![item],
            record: None,
        })
    }
}

/// The fields of a map in the order of their names. An empty field counts as absent.
fn fields(element: &Value) -> Option<Vec<(&str, &Value)>> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let map: &Map<String, Value> = element.as_object()?;
    let mut fields: Vec<(&str, &Value)> = map.iter().map(|(name, value)| (name.as_str(), value)).collect();
    fields.retain(|(_, value)| !is_empty(value));
    fields.sort_unstable_by_key(|(name, _)| *name);
    Some(fields)
}

/// Calico, Linkerd and Traefik take an address without a length as well.
fn cidr_or_address(text: &str) -> Option<Item> {
    let cidr = text.parse().ok();
    let cidr = cidr.or_else(|| text.parse().ok().map(Cidr::of_host));
    cidr.map(Item::Cidr)
}

fn cidr_or_range(text: &str) -> Option<Item> {
    match text.split_once('-') {
        Some((first, last)) => range(first.trim(), last.trim()),
        None => text.parse().ok().map(Item::Cidr),
    }
}

fn range(first: &str, last: &str) -> Option<Item> {
    Item::from_ends(first.parse().ok()?, last.parse().ok()?)
}

/// The type of the record with an address.
fn record_type(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "A",
        IpAddr::V6(_) => "AAAA",
    }
}

/// One record for each type.
fn records(items: &[Item], record: &Record) -> Vec<Value> {
    debug_assert!(items.iter().all(|item| item.host().is_some()), "a record holds hosts");
    let of_type = |wanted: &str| {
        let hosts = items.iter().filter_map(Item::host);
        let targets: Vec<String> = hosts
            .filter(|address| record_type(*address) == wanted)
            .map(|address| address.to_string())
            .collect();
        let mut endpoint = json!({"dnsName": record.dns_name, "recordType": wanted, "targets": targets});
        if let Some(ttl) = record.ttl {
            endpoint["recordTTL"] = json!(ttl);
        }
        (!targets.is_empty()).then_some(endpoint)
    };
    ["A", "AAAA"].into_iter().filter_map(of_type).collect()
}

fn read_record(element: &Value) -> Option<Element> {
    let (mut record, mut stored_type, mut targets) = (Record::default(), "", &Vec::new());
    for (name, value) in fields(element)? {
        match name {
            // DNS knows no capitals, and external-dns no trailing dot.
            "dnsName" => record.dns_name = value.as_str()?.trim_end_matches('.').to_ascii_lowercase(),
            "recordType" => stored_type = value.as_str()?,
            // To external-dns 0 means that none is set.
            "recordTTL" => record.ttl = Some(u32::try_from(value.as_u64()?).ok()?).filter(|ttl| *ttl > 0),
            "targets" => targets = value.as_array()?,
            _ => return None,
        }
    }
    let address = |target: &Value| -> Option<IpAddr> {
        let address = target.as_str()?.parse().ok()?;
        (record_type(address) == stored_type).then_some(address)
    };
    let addresses = targets.iter().map(address).collect::<Option<Vec<IpAddr>>>()?;
    let record_type = record_type(*addresses.first()?);
    Some(Element {
        items: addresses
            .into_iter()
            .map(|address| Cidr::of_host(address).into())
            .collect(),
        record: Some((record, record_type)),
    })
}
