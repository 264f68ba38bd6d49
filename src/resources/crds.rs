//! The two CustomResourceDefinitions, embedded, and how they get into the cluster.

use std::time::Duration;

use log::info;

use crate::kube::objects::{ApiResources, Crd};
use crate::kube::{Client, ContentType, Error};

/// manifests/crds.yaml, the one source of the schemas.
pub const MANIFEST: &str = include_str!("../../manifests/crds.yaml");

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SERVED: &str = "/apis/apps.fuwafuwatime.moe/v1";
const PLURALS: [&str; 2] = ["ip6updateconfigs", "ip6updatenodeconfigs"];
const KINDS: [&str; 2] = ["IP6UpdateConfig", "IP6UpdateNodeConfig"];
/// Where they cannot be applied, but are served, this is tried again after so long.
const RETRY: Duration = Duration::from_secs(60 * 60);

/// Whether the CRDs have to be applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crds {
    /// Now.
    #[default]
    Unknown,
    /// Never again: those of this release are served.
    Established,
    /// At this steady time: both are served, but they may be another release's.
    Served(Duration),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// Nothing had to be done.
    Unchanged,
    /// Those of this release are served now.
    Established,
    /// Both are served, but could not be applied: why, and what to do.
    Served(String),
    /// The API server has this one, but does not serve it yet.
    NotYet(String),
}

impl Crds {
    /// Applies both CRDs, if that is due at `now`, and looks whether they are served.
    ///
    /// # Errors
    /// What the API server answered, if a CRD could not be applied and both are not served either.
    pub fn deploy(&mut self, client: &mut Client, now: Duration) -> Result<Deployment, Error> {
        match self {
            Crds::Established => return Ok(Deployment::Unchanged),
            Crds::Served(retry) if now < *retry => return Ok(Deployment::Unchanged),
            _ => {}
        }
        match apply(client) {
            Ok(None) => {
                *self = Crds::Established;
                info!("the CRDs of this release are deployed");
                Ok(Deployment::Established)
            }
            Ok(Some(name)) => Ok(Deployment::NotYet(name)),
            Err(refused) if refused.is_transport() || refused.is_unauthorized() || refused.is_initializing() => {
                Err(refused)
            }
            Err(refused) if !missing(client)?.is_empty() => Err(refused),
            Err(refused) => {
                *self = Crds::Served(now + RETRY);
                Ok(Deployment::Served(format!(
                    "they are served, but may be those of another release, because k6u could not update them; allow \
                     that, or apply those of this release (k6u crds | kubectl apply --server-side --force-conflicts -f -). k6u tries \
                     again in an hour: {refused}"
                )))
            }
        }
    }

    /// Somebody deleted them, or the cluster is a new one.
    pub fn forget(&mut self) {
        *self = Crds::Unknown;
    }
}

/// Applies both; gives the name of one that is not served yet.
fn apply(client: &mut Client) -> Result<Option<String>, Error> {
    let mut waits_for = None;
    for (plural, document) in documents() {
        let name = format!("{plural}.apps.fuwafuwatime.moe");
        let path = format!("{PATH}/{name}");
        let apply = format!("{path}?fieldManager=k6u&force=true");
        client.patch(&apply, ContentType::Apply, document.as_bytes())?;
        // Reading comes second: it must wait for what the API server makes of the patch.
        if !client.get::<Crd>(&path)?.is_established() {
            // The other one need not wait for it.
            waits_for = waits_for.or(Some(name));
        }
    }
    Ok(waits_for)
}

/// The kinds that the API server does not serve.
///
/// # Errors
/// What the API server answered.
pub fn missing(client: &mut Client) -> Result<Vec<&'static str>, Error> {
    let served = match client.get::<ApiResources>(SERVED) {
        Ok(served) => served.resources,
        Err(e) if e.is_absent_api() => Vec::new(),
        Err(e) => return Err(e),
    };
    let is_missing = |plural: &str| served.iter().all(|resource| resource.name != plural);
    let kinds = PLURALS.into_iter().zip(KINDS);
    Ok(kinds
        .filter(|(plural, _)| is_missing(plural))
        .map(|(_, kind)| kind)
        .collect())
}

/// The documents of the manifest with the plural name that each defines.
fn documents() -> impl Iterator<Item = (&'static str, &'static str)> {
    PLURALS.into_iter().zip(MANIFEST.split("\n---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn each_document_is_the_crd_that_its_name_says() {
        let documents: Vec<_> = documents().collect();
        assert_eq!(documents.len(), 2);
        assert_eq!(MANIFEST.split("\n---\n").count(), 2);
        for (plural, document) in documents {
            let crd: Value = serde_yaml::from_str(document).unwrap();
            assert_eq!(crd["kind"], "CustomResourceDefinition");
            assert_eq!(crd["metadata"]["name"], format!("{plural}.apps.fuwafuwatime.moe"));
            assert_eq!(crd["spec"]["names"]["plural"], plural);
        }
    }

    #[test]
    fn the_schema_lists_the_highest_id_of_every_length() {
        let highest: Vec<String> = (1..=64)
            .map(|length| crate::prefix::highest_id(length).unwrap().to_string())
            .collect();
        let table = format!("[0,{}][int(self.delegatedPrefixLength)]", highest.join(","));
        assert!(MANIFEST.contains(&table), "{table}");
    }

    #[test]
    fn every_field_has_a_description() {
        fn check(path: &str, schema: &Value) {
            let is_described = schema["description"].as_str().is_some_and(|text| text.len() > 10);
            let is_plain = path.ends_with(".metadata") || path.ends_with("[]") || path.ends_with("{}");
            assert!(is_described || is_plain, "{path} has no description");
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                check(&format!("{path}.{name}"), field);
            }
            if schema["items"].is_object() {
                check(&format!("{path}[]"), &schema["items"]);
            }
            if schema["additionalProperties"].is_object() {
                check(&format!("{path}{{}}"), &schema["additionalProperties"]);
            }
        }
        for (plural, document) in documents() {
            let crd: Value = serde_yaml::from_str(document).unwrap();
            check(plural, &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
        }
    }
}
