//! The two CustomResourceDefinitions, which are embedded, and their deployment.

use std::time::Duration;

use log::{debug, info};

use crate::kube::objects::{ApiResources, Crd};
use crate::kube::{Client, ContentType, Error};
use crate::limits::{FIRST_BACKOFF, STARTUP_TIME};
use crate::schedule::backoff;

/// manifests/crds.yaml, the one source of the schemas.
pub const MANIFEST: &str = include_str!("../../manifests/crds.yaml");

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SERVED: &str = "/apis/apps.fuwafuwatime.moe/v1";
const PLURALS: [&str; 2] = ["ip6updateconfigs", "ip6updatenodeconfigs"];
const KINDS: [&str; 2] = ["IP6UpdateConfig", "IP6UpdateNodeConfig"];
/// The annotation with the release of k6u that applied a CRD.
const RELEASE: &str = "apps.fuwafuwatime.moe/release";
/// The pause after a refusal that lasts.
const REFUSED: Duration = Duration::from_hours(1);
/// The pause before CRDs are applied again because a write was not stored as it was sent.
const SUSPECT: Duration = Duration::from_mins(1);

/// The state of the CRDs: whether they have to be applied, and when.
#[derive(Clone, Debug, Default)]
pub struct Crds {
    state: State,
    failures: u32,
    /// Since when the right to apply them is refused, in steady time.
    forbidden_since: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// They have to be applied now.
    #[default]
    Due,
    /// They are served, but may be another release's: the next try is at this steady time.
    Retry(Duration),
    /// CRDs of this release or a newer one were served at this steady time.
    Established { at: Duration, is_suspect: bool },
}

/// The result of [`Crds::deploy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// There was nothing to do.
    Unchanged,
    /// CRDs of this release or a newer one are served now.
    Established,
    /// They could not be applied, but may be served all the same.
    NotApplied {
        /// A text that is the same for all failures of this kind.
        kind: String,
        /// The reason, and what to do.
        text: String,
    },
    /// The API server has this one, but does not serve it yet.
    NotYet(String),
}

impl Crds {
    /// Applies both CRDs, if that is due at `now`, and checks that they are served. `random` is in 0..1.
    ///
    /// # Errors
    /// The API server's error, if a CRD could not be applied and not both are served.
    pub fn deploy(&mut self, client: &mut Client, now: Duration, random: f64) -> Result<Deployment, Error> {
        let was_established = matches!(self.state, State::Established { .. });
        let is_due = match self.state {
            State::Due => true,
            State::Retry(due) => now >= due,
            State::Established { at, is_suspect } => is_suspect && now >= at + SUSPECT,
        };
        if !is_due {
            return Ok(Deployment::Unchanged);
        }
        match apply(client, was_established) {
            Ok(None) => {
                self.failures = 0;
                self.forbidden_since = None;
                self.state = State::Established {
                    at: now,
                    is_suspect: false,
                };
                Ok(Deployment::Established)
            }
            Ok(Some(name)) => Ok(Deployment::NotYet(name)),
            Err(e) if e.is_unreachable() || e.is_initializing() => Err(e),
            // Whether they are served shows in the lists.
            Err(e) => match missing(client) {
                Ok(kinds) if !kinds.is_empty() => Err(e),
                _ if e.is_forbidden_by_rbac() && !self.is_forbidden_for_long(now) => {
                    self.state = State::Retry(now + FIRST_BACKOFF);
                    Ok(Deployment::Unchanged)
                }
                _ => Ok(Deployment::NotApplied {
                    kind: e.kind().to_string(),
                    text: self.failed(&e, now, random),
                }),
            },
        }
    }

    /// Whether the right to apply them is missing: an API server that starts has not read the roles yet.
    fn is_forbidden_for_long(&mut self, now: Duration) -> bool {
        now >= *self.forbidden_since.get_or_insert(now) + STARTUP_TIME
    }

    fn failed(&mut self, error: &Error, now: Duration, random: f64) -> String {
        self.failures = self.failures.saturating_add(1);
        let (pause, advice) = if error.is_lasting_refusal() {
            let advice = "allow that, or apply those of this release (k6u crds | kubectl apply --server-side \
                          --force-conflicts -f -). k6u tries again in an hour";
            (REFUSED, advice)
        } else {
            let pause = backoff(self.failures, random).max(error.retry_after().unwrap_or_default());
            (pause, "k6u tries again")
        };
        self.state = State::Retry(now + pause);
        format!("they may be those of another release, because k6u could not update them; {advice}: {error}")
    }

    /// Lets the next round apply them, because they were deleted, or the cluster is a new one.
    pub fn forget(&mut self) {
        self.state = State::Due;
    }

    /// Lets a later round apply them again, once a minute at most: a write was not stored as it was sent, so the CRDs
    /// may be those of another release.
    pub fn suspect(&mut self) {
        if let State::Established { is_suspect, .. } = &mut self.state {
            *is_suspect = true;
        }
    }
}

/// Applies both, unless a newer release did. Returns the name of one that is not served yet.
fn apply(client: &mut Client, was_established: bool) -> Result<Option<String>, Error> {
    let (mut pending, mut is_changed) = (None, false);
    for (plural, document) in documents() {
        let name = format!("{plural}.apps.fuwafuwatime.moe");
        let path = format!("{PATH}/{name}");
        let before = match client.get::<Crd>(&path) {
            Ok(crd) => Some(crd),
            Err(e) if e.is_absent_object() => None,
            Err(e) => return Err(e),
        };
        let mut after = before.clone().unwrap_or_default();
        match newer_release(&after) {
            Some(release) if was_established => debug!("{name} is of k6u {release}"),
            Some(release) => info!(
                "{name} is of k6u {release}, newer than this one ({}): it stays as it is",
                env!("CARGO_PKG_VERSION")
            ),
            None => {
                let apply = format!("{path}?fieldManager=k6u&force=true");
                client.patch(&apply, ContentType::Apply, document.as_bytes())?;
                // Read after the patch, to see its result.
                after = client.get::<Crd>(&path)?;
            }
        }
        let version = |crd: &Crd| crd.metadata.resource_version.clone();
        is_changed |= before.as_ref().map(version) != Some(version(&after));
        if !after.is_established() {
            // The other one need not wait for it.
            pending = pending.or(Some(name));
        }
    }
    if pending.is_none() && (is_changed || !was_established) {
        info!("the CRDs of this release are deployed");
    }
    Ok(pending)
}

/// The release of k6u that applied a CRD, if it is newer than this one.
fn newer_release(crd: &Crd) -> Option<&str> {
    let release = &crd.metadata.annotations.get(RELEASE)?.0;
    (version(release)? > version(env!("CARGO_PKG_VERSION"))?).then_some(release)
}

/// The numbers of a version, and whether it is a release: semver.org's order, as far as k6u's versions need it.
fn version(text: &str) -> Option<([u64; 3], bool)> {
    let text = text.split('+').next()?;
    let (numbers, is_release) = match text.split_once('-') {
        Some((numbers, _)) => (numbers, false),
        None => (text, true),
    };
    let numbers: Vec<u64> = numbers.split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    Some((numbers.try_into().ok()?, is_release))
}

/// The kinds that the API server does not serve.
///
/// # Errors
/// The API server's error.
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
    use crate::prefix::PrefixLength;
    use serde_json::Value;

    #[test]
    fn versions_are_compared_as_numbers() {
        let sorted = ["0.3.9", "0.4.0-rc.1", "0.4.0", "0.4.1", "0.10.0", "1.0.0"];
        assert!(sorted.map(|text| version(text).unwrap()).is_sorted_by(|a, b| a < b));
        assert_eq!(version("0.4.0+build"), version("0.4.0"));
        for text in ["", "0.4", "0.4.0.1", "v0.4.0", "0.x.0"] {
            assert_eq!(version(text), None, "{text}");
        }
    }

    #[test]
    fn the_manifest_says_which_release_it_is_of() {
        for (_, document) in documents() {
            let crd: Crd = serde_yaml::from_str(document).unwrap();
            let release = &crd.metadata.annotations[RELEASE];
            assert_eq!(release.0, env!("CARGO_PKG_VERSION"));
            assert_eq!(newer_release(&crd), None);
        }
    }

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
        let highest: Vec<String> = (1..=64u64)
            .map(|length| PrefixLength::try_from(length).unwrap().highest_id().to_string())
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
