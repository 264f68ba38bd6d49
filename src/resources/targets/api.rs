//! Reading and writing one object, in whichever version the API server serves.

use std::collections::BTreeMap;
use std::time::Duration;

use log::debug;
use serde_json::json;

use super::{DesiredTarget, Held, Kind, Stored, StoredList, TargetKey};
use crate::kube::objects::ApiResources;
use crate::kube::{Client, Error};
use crate::limits::MAX_READ;

/// An API group and a version of it.
pub type Api = (&'static str, &'static str);

/// A list that the served version does not have must be an error, not be dropped (Kubernetes API concepts,
/// "Field validation").
const STRICT: &str = "fieldValidation=Strict";

/// How long a version that is served is used before the API server is asked again: a newer one may have come.
const ASK_AGAIN: Duration = Duration::from_hours(1);

/// The API that serves each kind, once that is known.
#[derive(Debug, Default)]
pub struct TargetApi {
    known: BTreeMap<&'static str, Known>,
}

/// The API that serves a kind.
#[derive(Clone, Copy, Debug)]
struct Known {
    api: Api,
    /// When the API server was last asked.
    asked: Duration,
}

impl TargetApi {
    /// Reads an object; `None` if there is none of that name. `now` is a steady clock.
    ///
    /// # Errors
    /// The API server's error. An absent API means that the kind is not installed.
    pub fn read(&mut self, client: &mut Client, key: &TargetKey, now: Duration) -> Result<Option<Held>, Error> {
        let was_known = self.known.contains_key(key.kind.name);
        let api = self.api(client, key.kind, now)?;
        let path = object_path(key, api);
        match client.get::<Stored>(&path) {
            Ok(stored) => {
                let held = Held::read(key.kind, stored).map_err(|what| Error::malformed("GET", &path, what));
                held.map(Some)
            }
            Err(e) if e.is_absent_object() => Ok(None),
            // A version that was served may vanish in an upgrade.
            Err(e) if e.is_absent_api() => {
                self.known.remove(key.kind.name);
                if was_known { self.read(client, key, now) } else { Err(e) }
            }
            Err(e) => Err(e),
        }
    }

    /// Writes the desired list into an object, in the version in which it was read, and changes nothing else: `held`
    /// is the object as it was read, `None` creates it. Returns the list as it is stored.
    ///
    /// # Errors
    /// The API server's error: a conflict if the object has changed since it was read. An error as well if the list is
    /// not stored as it was sent.
    pub fn write(
        &mut self,
        client: &mut Client,
        desired: &DesiredTarget,
        held: Option<&Held>,
    ) -> Result<StoredList, Error> {
        let key = &desired.key;
        let api = self.known(key.kind);
        let (verb, path) = match held {
            Some(_) => ("PATCH", object_path(key, api)),
            None => ("POST", list_path(key, api)),
        };
        let stored: Stored = match held {
            Some(held) => {
                // I3: this is a conflict if the object was written since it was read.
                debug_assert!(!held.metadata.resource_version.is_empty(), "{key} was read without one");
                let patch = json!({
                    "metadata": {"resourceVersion": held.metadata.resource_version},
                    "spec": desired.spec(),
                });
                client.merge_patch_returning(&format!("{path}?{STRICT}"), &patch)?
            }
            None => client.create_returning(&path, &desired.object(api))?,
        };
        let stored = Held::read(key.kind, stored).map_err(|what| Error::malformed(verb, &path, what))?;
        if stored.list.matches(desired) {
            return Ok(stored.list);
        }
        let what = format!(
            "it is stored with {}, not as it was sent: an admission webhook or policy changes it; exempt it from that \
             (docs/gitops.md)",
            stored.list
        );
        Err(Error::malformed(verb, &path, what))
    }

    /// The API that serves a kind, as far as it is known; else the newest.
    pub fn known(&self, kind: &Kind) -> Api {
        self.known.get(kind.name).map_or(kind.apis[0], |known| known.api)
    }

    fn api(&mut self, client: &mut Client, kind: &'static Kind, now: Duration) -> Result<Api, Error> {
        let known = self.known.get(kind.name).copied();
        if let Some(known) = known.filter(|known| now.saturating_sub(known.asked) < ASK_AGAIN) {
            return Ok(known.api);
        }
        // The rest of the time is for the request itself.
        let found = client.within(MAX_READ / 2, |client| find_api(client, kind));
        let api = match (found, known) {
            (Ok(found), _) => found,
            // The version that was served may be served still; reading shows it.
            (Err(_), Some(known)) => known.api,
            (Err(e), None) => return Err(e),
        };
        self.known.insert(kind.name, Known { api, asked: now });
        Ok(api)
    }
}

fn find_api(client: &mut Client, kind: &'static Kind) -> Result<Api, Error> {
    for (group, version) in kind.apis {
        // A group and version may be older than the kind in it, so it is the kind that is looked for.
        match client.get::<ApiResources>(&format!("/apis/{group}/{version}")) {
            Ok(list) if list.resources.iter().any(|resource| resource.name == kind.plural) => {
                debug!("the API server serves {} in {group}/{version}", kind.plural);
                return Ok((group, version));
            }
            Ok(_) => {}
            Err(e) if e.is_absent_api() => {}
            Err(e) => return Err(e),
        }
    }
    Err(Error::absent_api("GET", &format!("/apis/{}", kind.apis[0].0)))
}

fn list_path(key: &TargetKey, (group, version): Api) -> String {
    let plural = key.kind.plural;
    match key.namespace.as_str() {
        "" => format!("/apis/{group}/{version}/{plural}"),
        namespace => format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}"),
    }
}

fn object_path(key: &TargetKey, api: Api) -> String {
    format!("{}/{}", list_path(key, api), key.name)
}
