//! The entries of an IP6UpdateConfig: which object holds which parts of the delegated prefix.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::field::{But, Field, parse};
use super::targets::{CIDR_GROUP, DesiredTarget, KINDS, Kind, Record, TargetKey};
use crate::cidr::{Cidr, Item, Misfit, Suffix, SuffixRange};
use crate::prefix::{Prefix, PrefixLength};
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
    /// The DNS record that holds the content, for a kind that has records.
    pub record: Option<Record>,
}

impl TargetSpec {
    /// The desired content with these delegated prefixes, and with others that linger.
    pub fn desired(&self, delegated: &[Prefix], lingering: &[Prefix]) -> DesiredTarget {
        let items = self.parts.of(delegated);
        debug_assert!(
            items.len() <= self.parts.count(delegated.len()),
            "the plan has room for them"
        );
        let mut lingering = BTreeSet::from_iter(self.parts.of(lingering));
        lingering.retain(|item| items.binary_search(item).is_err());
        DesiredTarget {
            key: self.key.clone(),
            items,
            lingering,
            record: self.record.clone(),
            is_constant: self.parts.is_constant(),
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

/// Reads `ciliumCIDRGroups` and `targets` of a spec that delegates prefixes of this length.
pub fn targets(spec: &Field, length: Option<PrefixLength>) -> Vec<TargetSpec> {
    let (groups, others) = (spec.get("ciliumCIDRGroups"), spec.get("targets"));
    if groups.is_absent() && others.is_absent() {
        groups.refuse("it must be a list of groups");
    }
    let mut targets: Vec<TargetSpec> = Vec::new();
    let mut add = |entry: &Field, target: TargetSpec, name: String, what: &str| {
        if targets.iter().any(|known| known.key == target.key) {
            entry.note(format_args!(
                "names {name} again, but each {what} may have one entry only"
            ));
        } else {
            targets.push(target);
        }
    };
    for entry in groups.list("groups", usize::MAX) {
        // An empty list of ids empties the group in every release so far.
        if entry.get("prefixIds").is_absent() {
            check_that_parts_are_named(&entry, Some(CIDR_GROUP));
        }
        let name = entry
            .get("ciliumCIDRGroupName")
            .text(is_subdomain, must_name(CIDR_GROUP));
        if let Some(target) = target(&entry, Some(CIDR_GROUP), length, |_| Some(TargetKey::group(name?))) {
            let name = target.key.name.clone();
            add(&entry, target, name, "group");
        }
    }
    for entry in others.list("targets", MAX_TARGETS) {
        let kind = entry.get("kind").read(kind);
        check_that_parts_are_named(&entry, kind);
        if let Some(target) = target(&entry, kind, length, |kind| key(&entry, kind)) {
            let name = target.key.to_string();
            add(&entry, target, name, "object");
        }
    }
    targets
}

fn target(
    entry: &Field,
    kind: Option<&'static Kind>,
    length: Option<PrefixLength>,
    key: impl FnOnce(&'static Kind) -> Option<TargetKey>,
) -> Option<TargetSpec> {
    let parts = parts(entry, kind, length);
    let record = record(entry, kind?);
    let key = key(kind?)?;
    Some(TargetSpec { key, parts, record })
}

fn kind(value: &Value) -> Result<&'static Kind, But> {
    let kind = value.as_str().and_then(Kind::named);
    Ok(kind.ok_or_else(|| format!("it must be one of {}", kinds_that(|_| true, ", ")))?)
}

fn key(entry: &Field, kind: &'static Kind) -> Option<TargetKey> {
    let name = entry.get("name").text(is_subdomain, must_name(kind));
    let namespace = entry.get("namespace");
    let namespace = if kind.is_namespaced {
        let but = format_args!("objects of kind {} are in a namespace: name it", kind.name);
        namespace.text(is_label, but)?
    } else {
        namespace.must_be_absent(format_args!("objects of kind {} are in no namespace", kind.name));
        ""
    };
    Some(TargetKey {
        kind,
        namespace: namespace.into(),
        name: name?.into(),
    })
}

fn must_name(kind: &Kind) -> String {
    format!(
        "it must be the name of the {} (lower case letters, digits, '-' and '.')",
        kind.name
    )
}

/// The record of an entry: `dnsName` and `recordTTL`, which only a kind with records has.
fn record(entry: &Field, kind: &Kind) -> Option<Record> {
    let (name, ttl) = (entry.get("dnsName"), entry.get("recordTTL"));
    if !kind.has_records() {
        let but = format!("only {} has it", kinds_that(Kind::has_records, " and "));
        name.must_be_absent(&but);
        ttl.must_be_absent(&but);
        return None;
    }
    let (dns_name, ttl) = (name.read(dns_name), ttl.number(1..=MAX_TTL, " of seconds"));
    let dns_name = dns_name?.into();
    Some(Record { dns_name, ttl })
}

fn parts(entry: &Field, kind: Option<&Kind>, length: Option<PrefixLength>) -> Parts {
    let holds_hosts = kind.is_some_and(Kind::has_records);
    let (ids, ranges) = (entry.get("prefixIds"), entry.get("ranges"));
    if holds_hosts && ids.value().as_array().is_some_and(|ids| !ids.is_empty()) {
        ids.refuse("a DNS record holds hosts only: give their suffixes");
    }
    let can_hold_ranges = kind.is_none_or(Kind::has_ranges);
    if !can_hold_ranges {
        let kinds = kinds_that(Kind::has_ranges, " and ");
        ranges.must_be_absent(format_args!("only {kinds} can hold ranges"));
    }
    Parts {
        prefix_ids: ids
            .list("prefix ids", usize::MAX)
            .filter_map(|id| id.read(|value| prefix_id(value, length)))
            .collect(),
        suffixes: set(&entry.get("suffixes"), "suffixes", MAX_SUFFIXES, |value| {
            suffix(value, length, holds_hosts)
        }),
        ranges: if can_hold_ranges {
            set(&ranges, "ranges", MAX_RANGES, |value| range(value, length))
        } else {
            Vec::new()
        },
        extra: set(&entry.get("extraCIDRs"), "CIDRs", MAX_EXTRA_CIDRS, |value| {
            extra_cidr(value, holds_hosts)
        }),
    }
}

/// The elements of a list, each once, however often and in whichever spelling it occurs.
fn set<T: PartialEq>(list: &Field, of: &str, max: usize, rule: impl Fn(&Value) -> Result<T, But>) -> Vec<T> {
    let mut set = Vec::new();
    for element in list.list(of, max).filter_map(|element| element.read(&rule)) {
        if !set.contains(&element) {
            set.push(element);
        }
    }
    set
}

fn prefix_id(value: &Value, length: Option<PrefixLength>) -> Result<u64, But> {
    let id = value.as_u64().ok_or("it must be a whole number from 0")?;
    match length.map(|length| (length, length.highest_id())) {
        Some((length, highest)) if id > highest => {
            Err(format!("a /{length} holds the prefix ids 0 to {highest} only").into())
        }
        // Without a delegated length there is nothing to compare with.
        _ => Ok(id),
    }
}

fn suffix(value: &Value, length: Option<PrefixLength>, must_be_host: bool) -> Result<Suffix, But> {
    let suffix: Suffix = parse(value)?;
    if must_be_host && !suffix.is_host() {
        return Err("a DNS record holds hosts only: give it no length".into());
    }
    length.map_or(Ok(()), |length| suffix.fits(length))?;
    Ok(suffix)
}

fn range(value: &Value, length: Option<PrefixLength>) -> Result<SuffixRange, But> {
    let range: SuffixRange = parse(value)?;
    length.map_or(Ok(()), |length| range.fits(length))?;
    Ok(range)
}

fn extra_cidr(value: &Value, must_be_host: bool) -> Result<Cidr, But> {
    let text = value.as_str().unwrap_or_default();
    let address = text.split('/').next().and_then(|address| address.parse().ok());
    // Each reader of a list takes an IPv4-mapped address for something else.
    let is_mapped = matches!(address, Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some());
    let cidr: Cidr = if is_mapped { "" } else { text }.parse()?;
    if must_be_host && cidr.host().is_none() {
        return Err("a DNS record holds hosts only: its length must be 32 or 128".into());
    }
    if address != Some(cidr.address()) {
        return Err(Misfit::BitsBelow(cidr).into());
    }
    Ok(cidr)
}

/// The names of the kinds with a property.
fn kinds_that(has: impl Fn(&Kind) -> bool, separator: &str) -> String {
    let names: Vec<&str> = KINDS.iter().filter(|kind| has(kind)).map(|kind| kind.name).collect();
    names.join(separator)
}

fn dns_name(value: &Value) -> Result<&str, But> {
    let name = value.as_str().unwrap_or_default();
    match name.split('.').map(str::len).max() {
        _ if is_dns_name(name) => Ok(name),
        Some(length @ 64..) => {
            Err(format!("a label of a DNS name has at most 63 characters, and one here has {length}").into())
        }
        _ => Err("it must be a DNS name in lower case such as nas.example.com".into()),
    }
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

/// Checks that an entry names parts of the delegated prefix. Invalid parts count, because they have messages of their
/// own.
fn check_that_parts_are_named(entry: &Field, kind: Option<&Kind>) {
    let is_named = |name| match entry.get(name).value() {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    if !["prefixIds", "suffixes", "ranges"].into_iter().any(is_named) {
        let fields = match kind {
            Some(kind) if kind.has_records() => "suffixes",
            Some(kind) if kind.has_ranges() => "prefixIds, suffixes or ranges",
            _ => "prefixIds or suffixes",
        };
        entry.note(format_args!("names no part of the delegated prefix: give it {fields}"));
    }
}

/// A name of a namespace (RFC 1123 label).
fn is_label(text: &str) -> bool {
    is_subdomain(text) && text.len() <= 63 && !text.contains('.')
}

#[cfg(test)]
mod tests;
