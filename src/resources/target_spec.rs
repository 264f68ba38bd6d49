//! The entries of an IP6UpdateConfig: which object holds which parts of the delegated prefix.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::shown;
use super::targets::{CIDR_GROUP, DesiredTarget, KINDS, Kind, Record, TargetKey};
use crate::cidr::{Cidr, Item, Misfit, RangeMisfit, Suffix, SuffixRange};
use crate::prefix::{Prefix, highest_id};
use crate::settings::is_subdomain;

/// Entries of `spec.targets`.
pub const MAX_TARGETS: usize = 64;
/// Suffixes of one entry.
pub const MAX_SUFFIXES: usize = 64;
/// Ranges of one entry.
pub const MAX_RANGES: usize = 64;
/// Extra CIDRs of one entry.
pub const MAX_EXTRA_CIDRS: usize = 256;
/// RFC 2181 section 8.
pub const MAX_TTL: u32 = i32::MAX as u32;

/// An entry of a config: one object and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// Which object.
    pub key: TargetKey,
    /// The parts of the delegated prefix, and the extra CIDRs.
    pub parts: Parts,
    /// The record that all this is in, for a kind that has records.
    pub record: Option<Record>,
}

impl TargetSpec {
    /// What the object is to hold with these delegated prefixes, and with others that linger.
    pub fn desired(&self, delegated: &[Prefix], lingering: &[Prefix]) -> DesiredTarget {
        let items = self.parts.of(delegated);
        let mut lingering = BTreeSet::from_iter(self.parts.of(lingering));
        lingering.retain(|item| items.binary_search(item).is_err());
        DesiredTarget {
            key: self.key.clone(),
            items,
            lingering,
            record: self.record.clone(),
        }
    }
}

/// The content of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Numbers of /64 prefixes inside every delegated prefix.
    pub prefix_ids: BTreeSet<u64>,
    /// Suffixes of every delegated prefix; each once, as in the lists below.
    pub suffixes: Vec<Suffix>,
    /// Ranges of suffixes of every delegated prefix.
    pub ranges: Vec<SuffixRange>,
    /// CIDRs that are always in the list.
    pub extra: Vec<Cidr>,
}

impl Parts {
    /// The number of items for this number of delegated prefixes, before equal ones are merged.
    pub fn count(&self, delegated: usize) -> usize {
        let parts = self.prefix_ids.len() + self.suffixes.len() + self.ranges.len();
        delegated.saturating_mul(parts).saturating_add(self.extra.len())
    }

    /// The parts of every delegated prefix, and the extra CIDRs: sorted, each once.
    pub fn of(&self, delegated: &[Prefix]) -> Vec<Item> {
        let mut items = Vec::with_capacity(self.count(delegated.len()));
        items.extend(self.extra.iter().copied().map(Item::Cidr));
        for prefix in delegated {
            let subnets = self.prefix_ids.iter().filter_map(|id| prefix.subnet(*id));
            let parts = self.suffixes.iter().filter_map(|suffix| suffix.append_to(*prefix));
            items.extend(subnets.chain(parts).map(|part| Item::Cidr(Cidr::V6(part))));
            items.extend(self.ranges.iter().filter_map(|range| range.append_to(*prefix)));
        }
        items.sort_unstable();
        items.dedup();
        items
    }

    /// Whether nothing in it depends on the delegated prefix.
    pub fn is_constant(&self) -> bool {
        self.prefix_ids.is_empty() && self.suffixes.is_empty() && self.ranges.is_empty()
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
            let parts = self.parts(item, &field, Some(CIDR_GROUP));
            // An empty list of ids empties the group in every release so far.
            if item["prefixIds"].is_null() && parts.is_constant() && !names_parts(item) {
                self.without_part(&field, Some(CIDR_GROUP));
            }
            let record = self.record(item, &field, CIDR_GROUP);
            let name = &item["ciliumCIDRGroupName"];
            match name.as_str().filter(|name| is_subdomain(name)) {
                Some(name) => self.add(&field, TargetKey::group(name), parts, record),
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
        self.bound("spec.targets", items.len(), MAX_TARGETS);
        for (at, item) in items.iter().enumerate().take(MAX_TARGETS) {
            let field = format!("spec.targets[{at}]");
            let kind = item["kind"].as_str().and_then(Kind::named);
            let parts = self.parts(item, &field, kind);
            if parts.is_constant() && !names_parts(item) {
                self.without_part(&field, kind);
            }
            let Some(kind) = kind else {
                let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
                let but = format!("it must be one of {}", names.join(", "));
                self.wrong(&format!("{field}.kind"), &item["kind"], &but);
                continue;
            };
            let record = self.record(item, &field, kind);
            if let Some(key) = self.key(item, &field, kind) {
                self.add(&field, key, parts, record);
            }
        }
    }

    fn key(&mut self, item: &Value, field: &str, kind: &'static Kind) -> Option<TargetKey> {
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

    /// The record of an entry: `dnsName` and `recordTTL`, which only a kind with records has.
    fn record(&mut self, item: &Value, field: &str, kind: &Kind) -> Option<Record> {
        let (name_field, ttl_field) = (format!("{field}.dnsName"), format!("{field}.recordTTL"));
        let (name, ttl) = (&item["dnsName"], &item["recordTTL"]);
        if !kind.has_records() {
            let but = format!("only {} has it: leave it out", kinds_that(Kind::has_records));
            for (field, value) in [(&name_field, name), (&ttl_field, ttl)] {
                if !value.is_null() {
                    self.wrong(field, value, &but);
                }
            }
            return None;
        }
        let dns_name = name.as_str().filter(|name| is_dns_name(name));
        if dns_name.is_none() {
            let labels = name.as_str().unwrap_or_default().split('.');
            let but = match labels.map(str::len).max() {
                Some(length @ 64..) => {
                    format!("a label of a DNS name has at most 63 characters, and one here has {length}")
                }
                _ => "it must be a DNS name in lower case such as nas.example.com".into(),
            };
            self.wrong(&name_field, name, &but);
        }
        let seconds = ttl.as_u64().and_then(|seconds| u32::try_from(seconds).ok());
        let seconds = seconds.filter(|seconds| (1..=MAX_TTL).contains(seconds));
        if seconds.is_none() && !ttl.is_null() {
            let but = format!("it must be a whole number of seconds from 1 to {MAX_TTL}");
            self.wrong(&ttl_field, ttl, &but);
        }
        Some(Record {
            dns_name: dns_name?.into(),
            ttl: seconds,
        })
    }

    fn add(&mut self, field: &str, key: TargetKey, parts: Parts, record: Option<Record>) {
        if self.targets.iter().any(|target| target.key == key) {
            // As the field names it: a group's entry by its name alone.
            let (shown, what) = match field.starts_with("spec.targets") {
                false => (key.name.clone(), "group"),
                true => (key.to_string(), "object"),
            };
            let problem = format!("{field} names {shown} again, but each {what} may have one entry only");
            self.problems.push(problem);
        } else {
            self.targets.push(TargetSpec { key, parts, record });
        }
    }

    fn without_part(&mut self, field: &str, kind: Option<&Kind>) {
        let fields = match kind {
            Some(kind) if kind.has_records() => "suffixes",
            Some(kind) if kind.has_ranges() => "prefixIds, suffixes or ranges",
            _ => "prefixIds or suffixes",
        };
        let problem = format!("{field} names no part of the delegated prefix: give it {fields}");
        self.problems.push(problem);
    }

    fn bound(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.problems
                .push(format!("{field} has {count} entries, but at most {most} are taken"));
        }
    }

    fn parts(&mut self, item: &Value, field: &str, kind: Option<&Kind>) -> Parts {
        let has_records = kind.is_some_and(Kind::has_records);
        let list = |name: &str| (format!("{field}.{name}"), &item[name]);
        let mut parts = Parts::default();

        let (name, value) = list("prefixIds");
        let ids = self.items(&name, value, "prefix ids");
        if has_records && !ids.is_empty() {
            self.wrong(&name, value, "a DNS record holds hosts only: give their suffixes");
        }
        for (at, id) in ids.iter().enumerate() {
            parts.prefix_ids.extend(self.prefix_id(id, &format!("{name}[{at}]")));
        }
        let (name, value) = list("suffixes");
        parts.suffixes = self.set(&name, value, "suffixes", MAX_SUFFIXES, |reader, item, field| {
            reader.suffix(item, field, has_records)
        });
        let (name, value) = list("ranges");
        if !value.is_null() && kind.is_some_and(|kind| !kind.has_ranges()) {
            let but = format!("only {} can hold ranges: leave it out", kinds_that(Kind::has_ranges));
            self.wrong(&name, value, &but);
        } else {
            parts.ranges = self.set(&name, value, "ranges", MAX_RANGES, Self::range);
        }
        let (name, value) = list("extraCIDRs");
        parts.extra = self.set(&name, value, "CIDRs", MAX_EXTRA_CIDRS, |reader, item, field| {
            reader.extra(item, field, has_records)
        });
        parts
    }

    /// The elements of a list that may be absent, each once, however often and in whichever spelling it occurs.
    fn set<T: PartialEq>(
        &mut self,
        name: &str,
        value: &Value,
        of: &str,
        most: usize,
        read: impl Fn(&mut Self, &Value, &str) -> Option<T>,
    ) -> Vec<T> {
        let items = self.items(name, value, of);
        self.bound(name, items.len(), most);
        let mut set = Vec::new();
        for (at, item) in items.iter().enumerate().take(most) {
            let element = read(self, item, &format!("{name}[{at}]"));
            set.extend(element.filter(|element| !set.contains(element)));
        }
        set
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

    fn suffix(&mut self, item: &Value, field: &str, must_be_host: bool) -> Option<Suffix> {
        let Some(suffix) = item.as_str().and_then(|text| text.parse::<Suffix>().ok()) else {
            let but = "it must be an IPv6 address, with or without a length, such as ::1:0:0:0:10 or ::10:0:0:0:0/60";
            self.wrong(field, item, but);
            return None;
        };
        if must_be_host && !suffix.is_host() {
            self.wrong(field, item, "a DNS record holds hosts only: give it no length");
            return None;
        }
        // Without a delegated length there is nothing to compare with.
        let length = self.length?;
        let but = match suffix.fits(length) {
            Ok(()) => return Some(suffix),
            Err(Misfit::TooShort) => format!("a part of a /{length} has a length from {length} to 128"),
            Err(Misfit::BitsAbove(fitting)) => bits_above(length, &fitting.to_string()),
            Err(Misfit::BitsBelow(fitting)) => format!("the bits behind its length must be 0: {fitting} fits"),
        };
        self.wrong(field, item, &but);
        None
    }

    fn range(&mut self, item: &Value, field: &str) -> Option<SuffixRange> {
        let Some(range) = item.as_str().and_then(|text| text.parse::<SuffixRange>().ok()) else {
            let but = "it must be two IPv6 addresses with a hyphen between them, such as ::1:0:0:1:0-::1:0:0:1:ff";
            self.wrong(field, item, but);
            return None;
        };
        let length = self.length?;
        let but = match range.fits(length) {
            Ok(()) => return Some(range),
            Err(RangeMisfit::BitsAbove(fitting)) => bits_above(length, &fitting.to_string()),
            Err(RangeMisfit::Reversed) => "it ends before it starts".to_string(),
        };
        self.wrong(field, item, &but);
        None
    }

    fn extra(&mut self, item: &Value, field: &str, must_be_host: bool) -> Option<Cidr> {
        let text = item.as_str().unwrap_or_default();
        let address = text
            .split('/')
            .next()
            .and_then(|address| address.parse::<IpAddr>().ok());
        // Each reader of a list takes an IPv4-mapped address for something else.
        let is_mapped = matches!(address, Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some());
        let Some(cidr) = text.parse::<Cidr>().ok().filter(|_| !is_mapped) else {
            self.wrong(
                field,
                item,
                "it must be an IPv4 or IPv6 CIDR such as 192.168.0.0/16 or fd00:1::/48",
            );
            return None;
        };
        if must_be_host && cidr.host().is_none() {
            self.wrong(
                field,
                item,
                "a DNS record holds hosts only: its length must be 32 or 128",
            );
            return None;
        }
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

fn bits_above(length: u8, fitting: &str) -> String {
    format!("its first {length} bits come from the delegated prefix and must be 0 here: {fitting} fits")
}

/// The names of the kinds with a property.
fn kinds_that(has: impl Fn(&Kind) -> bool) -> String {
    let names: Vec<&str> = KINDS.iter().filter(|kind| has(kind)).map(|kind| kind.name).collect();
    names.join(" and ")
}

/// A name of a DNS record: labels may have underscores, and the first may be an asterisk.
fn is_dns_name(name: &str) -> bool {
    let labels = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        (1..=63).contains(&label.len())
            && label.bytes().all(is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && labels.split('.').all(is_label)
}

/// Whether an entry names parts of the delegated prefix, right or wrong: what is wrong with them is reported already.
fn names_parts(item: &Value) -> bool {
    ["prefixIds", "suffixes", "ranges"]
        .iter()
        .any(|name| match &item[*name] {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            _ => true,
        })
}

/// A name of a namespace (RFC 1123 label).
fn is_label(text: &str) -> bool {
    is_subdomain(text) && text.len() <= 63 && !text.contains('.')
}

#[cfg(test)]
mod tests;
