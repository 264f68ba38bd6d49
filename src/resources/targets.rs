//! CiliumCIDRGroups: what one holds, and which version of them the API server serves.

use std::collections::BTreeSet;
use std::fmt;

use log::debug;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::json;

use crate::kube::objects::{ApiGroup, ApiResources, Metadata};
use crate::kube::{Client, Error};
use crate::prefix::Prefix;

/// Cilium compiles a group into a policy map, which holds 16384 entries unless told otherwise.
pub const MOST_CIDRS: usize = 16_384;
/// No CIDR is as long as this many bytes.
const MOST_CIDR_TEXT: usize = 64;

/// The API group, and the plural name in it.
const CILIUM: &str = "/apis/cilium.io";
const PLURAL: &str = "ciliumcidrgroups";

/// Where the groups are, once that is known.
#[derive(Debug, Default)]
pub struct Groups {
    version: Option<String>,
}

impl Groups {
    /// Reads a group; `None` if there is none of that name.
    ///
    /// # Errors
    /// What the API server answered. An absent API means that Cilium is not there.
    pub fn read(&mut self, client: &mut Client, name: &str) -> Result<Option<CidrGroup>, Error> {
        let was_known = self.version.is_some();
        let list = list_path(self.version(client)?);
        match client.get::<CidrGroup>(&format!("{list}/{name}")) {
            Ok(group) => Ok(Some(group)),
            Err(e) if e.is_absent_object() => Ok(None),
            // A version that was served may vanish when Cilium is upgraded.
            Err(e) if e.is_absent_api() => {
                self.version = None;
                if was_known { self.read(client, name) } else { Err(e) }
            }
            Err(e) => Err(e),
        }
    }

    /// Makes a group hold these CIDRs: `held` is what it was when read, `None` creates it.
    ///
    /// # Errors
    /// What the API server answered; a conflict if the group is not what was read any more.
    pub fn write(
        &mut self,
        client: &mut Client,
        name: &str,
        held: Option<&CidrGroup>,
        cidrs: &[String],
    ) -> Result<(), Error> {
        let version = self.version(client)?;
        let list = list_path(version);
        match held {
            Some(held) => {
                let patch = json!({
                    "metadata": {"resourceVersion": held.metadata.resource_version},
                    "spec": {"externalCIDRs": cidrs},
                });
                client.merge_patch(&format!("{list}/{name}"), &patch)
            }
            None => {
                let group = json!({
                    "apiVersion": format!("cilium.io/{version}"),
                    "kind": "CiliumCIDRGroup",
                    "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "k6u"}},
                    "spec": {"externalCIDRs": cidrs},
                });
                client.create(&list, &group)
            }
        }
    }

    /// The best version that serves the groups.
    fn version(&mut self, client: &mut Client) -> Result<&str, Error> {
        if self.version.is_none() {
            self.version = Some(find_version(client)?);
        }
        Ok(self.version.as_deref().unwrap_or_default())
    }
}

fn find_version(client: &mut Client) -> Result<String, Error> {
    // The server lists the best first.
    for candidate in client.get::<ApiGroup>(CILIUM)?.versions {
        // cilium.io/v2 is older than this resource in it, so the version alone says nothing.
        match client.get::<ApiResources>(&format!("{CILIUM}/{}", candidate.version)) {
            Ok(list) if list.resources.iter().any(|resource| resource.name == PLURAL) => {
                debug!("the API server serves {PLURAL} in cilium.io/{}", candidate.version);
                return Ok(candidate.version);
            }
            Ok(_) => {}
            // Its last CRD went since the versions were listed.
            Err(e) if e.is_absent_api() => {}
            Err(e) => return Err(e),
        }
    }
    Err(Error::absent_api("GET", &list_path("*")))
}

fn list_path(version: &str) -> String {
    format!("{CILIUM}/{version}/{PLURAL}")
}

/// A CiliumCIDRGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CidrGroup {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its list.
    pub spec: CidrGroupSpec,
}

/// The spec of a CiliumCIDRGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CidrGroupSpec {
    /// The CIDRs that the group stands for.
    #[serde(rename = "externalCIDRs")]
    pub external_cidrs: Cidrs,
}

/// The CIDRs of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs {
    /// As they are listed, at most [`MOST_CIDRS`].
    pub listed: Vec<Cidr>,
    /// How many more there are.
    pub excess: usize,
}

/// One element of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cidr {
    /// An IPv6 prefix.
    Prefix(Prefix),
    /// Anything else: k6u did not write it.
    Other(String),
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cidr::Prefix(prefix) => prefix.fmt(f),
            Cidr::Other(text) => f.write_str(text),
        }
    }
}

impl Cidrs {
    fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.listed.iter().filter_map(|cidr| match cidr {
            Cidr::Prefix(prefix) => Some(*prefix),
            Cidr::Other(_) => None,
        })
    }

    /// Whether these are just the wanted prefixes, in whatever order.
    pub fn are(&self, wanted: &[Prefix]) -> bool {
        let set: BTreeSet<Prefix> = self.prefixes().collect();
        let no_others = self.excess == 0 && self.listed.iter().all(|cidr| matches!(cidr, Cidr::Prefix(_)));
        no_others && set.len() == wanted.len() && wanted.iter().all(|prefix| set.contains(prefix))
    }

    /// These and the wanted prefixes; `None` if no list holds as many.
    pub fn and(&self, wanted: &[Prefix]) -> Option<Vec<String>> {
        let set: BTreeSet<Prefix> = self.prefixes().collect();
        let missing = wanted.iter().filter(|prefix| !set.contains(prefix));
        let mut all: Vec<String> = self.listed.iter().map(Cidr::to_string).collect();
        all.extend(missing.map(Prefix::to_string));
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
        let shown: Vec<String> = self.listed.iter().take(MOST).map(Cidr::to_string).collect();
        f.write_str(&shown.join(", "))?;
        match self.excess + self.listed.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl<'de> Deserialize<'de> for Cidrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CidrsVisitor)
    }
}

struct CidrsVisitor;

impl<'de> Visitor<'de> for CidrsVisitor {
    type Value = Cidrs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of CIDRs")
    }

    fn visit_unit<E>(self) -> Result<Cidrs, E> {
        Ok(Cidrs::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Cidrs, A::Error> {
        let mut cidrs = Cidrs::default();
        while let Some(item) = items.next_element::<Cidr>()? {
            if cidrs.listed.len() < MOST_CIDRS {
                cidrs.listed.push(item);
            } else {
                cidrs.excess += 1;
            }
        }
        Ok(cidrs)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CidrVisitor;
        impl Visitor<'_> for CidrVisitor {
            type Value = Cidr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CIDR")
            }

            fn visit_str<E>(self, text: &str) -> Result<Cidr, E> {
                let other = || Cidr::Other(text[..text.floor_char_boundary(MOST_CIDR_TEXT)].to_string());
                Ok(text.parse().map_or_else(|_| other(), Cidr::Prefix))
            }
        }
        deserializer.deserialize_str(CidrVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(list: &[&str]) -> Cidrs {
        serde_json::from_value(json!(list)).unwrap()
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_set_in_any_order() {
        let wanted = prefixes(&["2001:db8::/64", "2001:db8:1::/64"]);
        assert!(cidrs(&["2001:db8:1::/64", "2001:db8::/64"]).are(&wanted));
        assert!(cidrs(&["2001:DB8:1:0::/64", "2001:db8::/64", "2001:db8::/64"]).are(&wanted));
        for other in [
            vec![],
            vec!["2001:db8::/64"],
            vec!["2001:db8::/64", "2001:db8:1::/64", "2001:db8:2::/64"],
            vec!["2001:db8::/64", "2001:db8:1::/63"],
            vec!["2001:db8::/64", "2001:db8:1::/64", "10.0.0.0/8"],
            vec!["2001:db8::/64", "2001:db8:1::/64", "nonsense"],
        ] {
            assert!(!cidrs(&other).are(&wanted), "{other:?}");
        }
        assert!(cidrs(&[]).are(&[]));
    }

    #[test]
    fn adding_takes_nothing_out() {
        let held = cidrs(&["10.0.0.0/8", "2001:db8:1::/64"]);
        assert_eq!(
            held.and(&prefixes(&["2001:db8::/64", "2001:db8:1::/64"])).unwrap(),
            ["10.0.0.0/8", "2001:db8:1::/64", "2001:db8::/64"]
        );
        let full = Cidrs { excess: 1, ..held };
        assert_eq!(full.and(&[]), None);
    }

    #[test]
    fn long_lists_are_cut_in_the_log() {
        let many: Vec<String> = (0..20).map(|n| format!("2001:db8:{n:x}::/64")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(cidrs(&many).to_string().ends_with("2001:db8:f::/64 and 4 more"));
        assert_eq!(cidrs(&[]).to_string(), "none");
        assert_eq!(cidrs(&["10.0.0.0/8"]).to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_no_list_of_texts_is_refused() {
        assert_eq!(serde_json::from_str::<Cidrs>("null").unwrap(), Cidrs::default());
        assert!(serde_json::from_str::<Cidrs>("3").is_err());
        assert!(serde_json::from_str::<Cidrs>("[3]").is_err());
    }

    #[test]
    fn a_hundred_thousand_cidrs_are_counted_but_not_kept() {
        let text = format!("[\"2001:db8::/64\"{}]", ",\"2001:db8::/64\"".repeat(99_999));
        let cidrs: Cidrs = serde_json::from_str(&text).unwrap();
        assert_eq!((cidrs.listed.len(), cidrs.excess), (MOST_CIDRS, 100_000 - MOST_CIDRS));
    }
}
