//! CiliumCIDRGroups: finding the version that is served, reading one, writing one.

use std::collections::BTreeSet;

use log::debug;
use serde_json::json;

use crate::kube::objects::{ApiGroup, ApiResources, CidrGroup};
use crate::kube::{Client, Error};
use crate::plan::WantedGroup;
use crate::prefix::{Prefix, join, texts};

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

    /// Makes a group hold what is wanted: `held` is what it was when read, `None` creates it.
    ///
    /// # Errors
    /// What the API server answered; a conflict if the group is not what was read any more.
    pub fn write(&mut self, client: &mut Client, held: Option<&CidrGroup>, wanted: &WantedGroup) -> Result<(), Error> {
        let version = self.version(client)?;
        let (list, name, cidrs) = (list_path(version), &wanted.name, texts(&wanted.cidrs));
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

/// Whether a group holds just these CIDRs, each once, in whatever order.
pub fn holds(group: &CidrGroup, wanted: &[Prefix]) -> bool {
    let held = &group.spec.external_cidrs;
    let set: BTreeSet<Prefix> = held.prefixes.iter().copied().collect();
    held.others == 0 && set.len() == wanted.len() && wanted.iter().all(|prefix| set.contains(prefix))
}

/// What a group holds, for a log line.
pub fn describe(group: &CidrGroup) -> String {
    const MOST: usize = 16;
    let held = &group.spec.external_cidrs;
    let shown = &held.prefixes[..held.prefixes.len().min(MOST)];
    match held.others + held.prefixes.len() - shown.len() {
        0 => join(shown),
        more => format!("{} and {more} others", join(shown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(cidrs: &[&str]) -> CidrGroup {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"externalCIDRs": cidrs}})).unwrap()
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_set_in_any_order() {
        let wanted = prefixes(&["2001:db8::/64", "2001:db8:1::/64"]);
        assert!(holds(&group(&["2001:db8:1::/64", "2001:db8::/64"]), &wanted));
        assert!(holds(
            &group(&["2001:DB8:1:0::/64", "2001:db8::/64", "2001:db8::/64"]),
            &wanted
        ));
        for other in [
            vec![],
            vec!["2001:db8::/64"],
            vec!["2001:db8::/64", "2001:db8:1::/64", "2001:db8:2::/64"],
            vec!["2001:db8::/64", "2001:db8:1::/63"],
            vec!["2001:db8::/64", "2001:db8:1::/64", "10.0.0.0/8"],
            vec!["2001:db8::/64", "2001:db8:1::/64", "nonsense"],
        ] {
            assert!(!holds(&group(&other), &wanted), "{other:?}");
        }
        assert!(holds(&group(&[]), &[]));
    }

    #[test]
    fn long_lists_are_cut_in_the_log() {
        let many: Vec<String> = (0..20).map(|n| format!("2001:db8:{n:x}::/64")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(describe(&group(&many)).ends_with("2001:db8:f::/64 and 4 others"));
        assert_eq!(describe(&group(&[])), "none");
        assert_eq!(describe(&group(&["10.0.0.0/8"])), "none and 1 others");
    }
}
