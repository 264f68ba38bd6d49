//! The entries of an IP6UpdateConfig: which object holds which parts of the delegated prefix.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::shown;
use super::targets::{KINDS, Kind, TargetKey};
use crate::cidr::{Cidr, Misfit, Suffix};
use crate::prefix::{Prefix, highest_id};
use crate::settings::is_subdomain;

/// Entries of `spec.targets`.
pub const MOST_TARGETS: usize = 64;
/// Suffixes of one entry.
pub const MOST_SUFFIXES: usize = 64;
/// Extra CIDRs of one entry.
pub const MOST_EXTRA: usize = 256;

/// What one object is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// Which object.
    pub key: TargetKey,
    /// The parts of the delegated prefix, and what else.
    pub parts: Parts,
}

/// What a list is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Numbers of /64 prefixes inside every delegated prefix.
    pub prefix_ids: BTreeSet<u64>,
    /// What stands behind every delegated prefix.
    pub suffixes: BTreeSet<Suffix>,
    /// What is always in the list.
    pub extra: BTreeSet<Cidr>,
}

impl Parts {
    /// How many CIDRs there are with so many delegated prefixes, some of which may be the same.
    pub fn count(&self, delegated: usize) -> usize {
        let parts = self.prefix_ids.len() + self.suffixes.len();
        delegated.saturating_mul(parts).saturating_add(self.extra.len())
    }

    /// The parts of every delegated prefix, and the extra CIDRs: sorted, each once.
    pub fn of(&self, delegated: &[Prefix]) -> Vec<Cidr> {
        let parts = delegated.iter().flat_map(|prefix| {
            let subnets = self.prefix_ids.iter().filter_map(|id| prefix.subnet(*id));
            subnets.chain(self.suffixes.iter().filter_map(|suffix| suffix.append_to(*prefix)))
        });
        let sorted: BTreeSet<Cidr> = parts.map(Cidr::V6).chain(self.extra.iter().copied()).collect();
        sorted.into_iter().collect()
    }
}

/// Reads `ciliumCIDRGroups` and `targets` of a spec, which delegates prefixes of `length`.
pub fn targets(spec: &Value, length: Option<u8>, problems: &mut Vec<String>) -> Vec<TargetSpec> {
    let mut reader = Reader {
        length,
        problems,
        targets: Vec::new(),
    };
    let (groups, others) = (&spec["ciliumCIDRGroups"], &spec["targets"]);
    if !groups.is_null() || others.is_null() {
        reader.groups(groups);
    }
    if !others.is_null() {
        reader.others(others);
    }
    reader.targets
}

struct Reader<'a> {
    length: Option<u8>,
    problems: &'a mut Vec<String>,
    targets: Vec<TargetSpec>,
}

impl Reader<'_> {
    /// Notes what is wrong with a field.
    fn wrong(&mut self, field: &str, value: &Value, but: &str) {
        self.problems.push(format!("{field} is {}, but {but}", shown(value)));
    }

    fn groups(&mut self, value: &Value) {
        let Some(items) = value.as_array() else {
            return self.wrong("spec.ciliumCIDRGroups", value, "it must be a list of groups");
        };
        for (at, item) in items.iter().enumerate() {
            let field = format!("spec.ciliumCIDRGroups[{at}]");
            let parts = self.parts(item, &field);
            // An empty list of ids, and nothing else, empties the group in every release so far.
            let is_of_0_3 = item["suffixes"].is_null() && !item["prefixIds"].is_null();
            if !is_of_0_3 && parts.prefix_ids.is_empty() && parts.suffixes.is_empty() && !has_items(item) {
                self.without_part(&field);
            }
            let name = &item["ciliumCIDRGroupName"];
            match name.as_str().filter(|name| is_subdomain(name)) {
                Some(name) => self.add(&field, TargetKey::group(name), parts),
                None => self.wrong(
                    &format!("{field}.ciliumCIDRGroupName"),
                    name,
                    "it must be the name of a CiliumCIDRGroup (lower case letters, digits, '-' and '.')",
                ),
            }
        }
    }

    fn others(&mut self, value: &Value) {
        let Some(items) = value.as_array() else {
            return self.wrong("spec.targets", value, "it must be a list of targets");
        };
        self.bound("spec.targets", items.len(), MOST_TARGETS);
        for (at, item) in items.iter().enumerate().take(MOST_TARGETS) {
            let field = format!("spec.targets[{at}]");
            let parts = self.parts(item, &field);
            if parts.prefix_ids.is_empty() && parts.suffixes.is_empty() && !has_items(item) {
                self.without_part(&field);
            }
            if let Some(key) = self.key(item, &field) {
                self.add(&field, key, parts);
            }
        }
    }

    fn key(&mut self, item: &Value, field: &str) -> Option<TargetKey> {
        let Some(kind) = item["kind"].as_str().and_then(Kind::named) else {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            let but = format!("it must be one of {}", names.join(", "));
            self.wrong(&format!("{field}.kind"), &item["kind"], &but);
            return None;
        };
        let name = item["name"].as_str().filter(|name| is_subdomain(name));
        if name.is_none() {
            let but = format!(
                "it must be the name of the {} (lower case letters, digits, '-' and '.')",
                kind.name
            );
            self.wrong(&format!("{field}.name"), &item["name"], &but);
        }
        let namespace = match (&item["namespace"], kind.is_namespaced) {
            (Value::Null, false) => Some(""),
            (Value::String(text), true) => Some(text.as_str()).filter(|text| is_label(text)),
            _ => None,
        };
        if namespace.is_none() {
            let but = if kind.is_namespaced {
                format!("objects of kind {} are in a namespace: name it", kind.name)
            } else {
                format!("objects of kind {} are in no namespace: leave it out", kind.name)
            };
            self.wrong(&format!("{field}.namespace"), &item["namespace"], &but);
        }
        Some(TargetKey {
            kind,
            namespace: namespace?.into(),
            name: name?.into(),
        })
    }

    fn add(&mut self, field: &str, key: TargetKey, parts: Parts) {
        if self.targets.iter().any(|target| target.key == key) {
            // As the field names it: a group's entry by its name alone.
            let (shown, what) = match field.starts_with("spec.targets") {
                false => (key.name.clone(), "group"),
                true => (key.to_string(), "object"),
            };
            let problem = format!("{field} names {shown} again, but each {what} may have one entry only");
            self.problems.push(problem);
        } else {
            self.targets.push(TargetSpec { key, parts });
        }
    }

    fn without_part(&mut self, field: &str) {
        let problem = format!("{field} names no part of the delegated prefix: give it prefixIds or suffixes");
        self.problems.push(problem);
    }

    fn bound(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.problems
                .push(format!("{field} has {count} entries, but at most {most} are taken"));
        }
    }

    fn parts(&mut self, item: &Value, field: &str) -> Parts {
        let mut parts = Parts::default();
        let list = |name: &str| (format!("{field}.{name}"), &item[name]);

        let (name, value) = list("prefixIds");
        for (at, id) in self.items(&name, value, "prefix ids").iter().enumerate() {
            parts.prefix_ids.extend(self.prefix_id(id, &format!("{name}[{at}]")));
        }
        let (name, value) = list("suffixes");
        let items = self.items(&name, value, "suffixes");
        self.bound(&name, items.len(), MOST_SUFFIXES);
        for (at, item) in items.iter().enumerate().take(MOST_SUFFIXES) {
            let field = format!("{name}[{at}]");
            if self
                .suffix(item, &field)
                .is_some_and(|suffix| !parts.suffixes.insert(suffix))
            {
                self.wrong(&field, item, "the list has it already");
            }
        }
        let (name, value) = list("extraCIDRs");
        let items = self.items(&name, value, "CIDRs");
        self.bound(&name, items.len(), MOST_EXTRA);
        for (at, item) in items.iter().enumerate().take(MOST_EXTRA) {
            let field = format!("{name}[{at}]");
            if self.extra(item, &field).is_some_and(|cidr| !parts.extra.insert(cidr)) {
                self.wrong(&field, item, "the list has it already");
            }
        }
        parts
    }

    /// The elements of a list that may be absent.
    fn items<'a>(&mut self, field: &str, value: &'a Value, of: &str) -> &'a [Value] {
        if !value.is_null() && !value.is_array() {
            self.wrong(field, value, &format!("it must be a list of {of}"));
        }
        value.as_array().map_or(&[], Vec::as_slice)
    }

    fn prefix_id(&mut self, item: &Value, field: &str) -> Option<u64> {
        let Some(id) = item.as_u64() else {
            self.wrong(field, item, "it must be a whole number from 0");
            return None;
        };
        if let Some((length, highest)) = self.length.and_then(|length| Some((length, highest_id(length)?)))
            && id > highest
        {
            let but = format!("a /{length} holds the prefix ids 0 to {highest} only");
            self.wrong(field, item, &but);
            return None;
        }
        Some(id)
    }

    fn suffix(&mut self, item: &Value, field: &str) -> Option<Suffix> {
        let Some(suffix) = item.as_str().and_then(|text| text.parse::<Suffix>().ok()) else {
            let but = "it must be an IPv6 address, with or without a length, such as ::1:0:0:0:10 or ::10:0:0:0:0/60";
            self.wrong(field, item, but);
            return None;
        };
        // Without a delegated length there is nothing to compare with.
        let length = self.length?;
        let but = match suffix.fits(length) {
            Ok(()) => return Some(suffix),
            Err(Misfit::TooShort) => format!("a part of a /{length} has a length from {length} to 128"),
            Err(Misfit::BitsAbove(fitting)) => {
                format!("its first {length} bits come from the delegated prefix and must be 0 here: {fitting} fits")
            }
            Err(Misfit::BitsBelow(fitting)) => format!("the bits behind its length must be 0: {fitting} fits"),
        };
        self.wrong(field, item, &but);
        None
    }

    fn extra(&mut self, item: &Value, field: &str) -> Option<Cidr> {
        let text = item.as_str().unwrap_or_default();
        let address = text
            .split('/')
            .next()
            .and_then(|address| address.parse::<IpAddr>().ok());
        // IPv4 in IPv6's clothes is something else to each of those who read the list.
        let is_mapped = matches!(address, Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some());
        let Some(cidr) = text.parse::<Cidr>().ok().filter(|_| !is_mapped) else {
            self.wrong(
                field,
                item,
                "it must be an IPv4 or IPv6 CIDR such as 192.168.0.0/16 or fd00:1::/48",
            );
            return None;
        };
        if address != Some(cidr.address()) {
            self.wrong(
                field,
                item,
                &format!("the bits behind its length must be 0: {cidr} fits"),
            );
            return None;
        }
        Some(cidr)
    }
}

/// Whether prefix ids or suffixes are listed, right or wrong: what is wrong with them was said.
fn has_items(item: &Value) -> bool {
    let is_listed =
        |name: &str| !matches!(&item[name], Value::Null) && item[name].as_array().is_none_or(|l| !l.is_empty());
    is_listed("prefixIds") || is_listed("suffixes")
}

/// A name of a namespace (RFC 1123 label).
fn is_label(text: &str) -> bool {
    is_subdomain(text) && text.len() <= 63 && !text.contains('.')
}

#[cfg(test)]
mod tests;
