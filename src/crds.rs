//! The two CustomResourceDefinitions, embedded, and how they get into the cluster.

use log::{info, warn};

use crate::kube::objects::{ApiResources, Crd};
use crate::kube::{Client, ContentType, Error};

/// manifests/crds.yaml, the one source of the schemas.
pub const MANIFEST: &str = include_str!("../manifests/crds.yaml");

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SERVED: &str = "/apis/apps.fuwafuwatime.moe/v1";
const PLURALS: [&str; 2] = ["ip6updateconfigs", "ip6updatenodeconfigs"];

/// How far the deployment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployed {
    /// Both are served.
    Established,
    /// The API server has this one, but does not serve it yet.
    NotYet(String),
}

/// Applies both CRDs and looks whether they are served.
///
/// Where RBAC forbids that, an administrator has to have done it: a warning if so.
///
/// # Errors
/// What the API server answered; the refusal, if the CRDs are not there either.
pub fn deploy(client: &mut Client) -> Result<Deployed, Error> {
    let mut waits_for = None;
    for (plural, document) in documents() {
        let name = format!("{plural}.apps.fuwafuwatime.moe");
        let path = format!("{PATH}/{name}");
        let apply = format!("{path}?fieldManager=k6u&force=true");
        let applied = client.patch(&apply, ContentType::Apply, document.as_bytes());
        // Reading comes second: it must wait for what the API server makes of the patch.
        match applied.and_then(|()| client.get::<Crd>(&path)) {
            Ok(crd) if crd.is_established() => {}
            // The other one need not wait for it.
            Ok(_) => waits_for = waits_for.or(Some(name)),
            Err(refused) if refused.is_forbidden() => return served_already(client, refused),
            Err(e) => return Err(e),
        }
    }
    if let Some(name) = waits_for {
        return Ok(Deployed::NotYet(name));
    }
    info!("the CRDs of this release are deployed");
    Ok(Deployed::Established)
}

fn served_already(client: &mut Client, refused: Error) -> Result<Deployed, Error> {
    let served = match client.get::<ApiResources>(SERVED) {
        Ok(resources) => resources,
        Err(e) if e.is_absent_api() => return Err(refused),
        Err(e) => return Err(e),
    };
    let has = |plural: &str| served.resources.iter().any(|resource| resource.name == plural);
    if !PLURALS.iter().all(|plural| has(plural)) {
        return Err(refused);
    }
    warn!(
        "the CRDs are there but may be those of another release, because k6u may not update them: either grant that \
         or apply those of this release (k6u crds | kubectl apply --server-side -f -): {refused}"
    );
    Ok(Deployed::Established)
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
