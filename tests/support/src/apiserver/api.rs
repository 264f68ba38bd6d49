//! The answers of the API server: a function of the objects, the request, the client's identity, and the time.
//!
//! Modelled on the recorded answers of a real kube-apiserver (recordings.json), which it is tested against.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::apiserver::http::{Request, Response};
use crate::apiserver::rbac::{Attempt, Identity};
use crate::apiserver::route::Route;
use crate::apiserver::schema;
use crate::apiserver::store::{CRDS, Key, Resource, Store};

/// A point in time as metav1.Time writes it.
pub fn timestamp(now: OffsetDateTime) -> String {
    now.replace_nanosecond(0)
        .expect("0 is in range")
        .format(&Rfc3339)
        .expect("a date")
}

/// A point in time as HTTP writes it.
pub fn http_date(now: OffsetDateTime) -> String {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    now.format(format).expect("a date")
}

/// Returns the answer to a request, and the attempts that RBAC checked for it.
pub fn handle(
    store: &mut Store,
    request: &Request,
    identity: Option<&Identity>,
    now: OffsetDateTime,
) -> (Response, Vec<Attempt>) {
    let mut call = Call {
        store,
        request,
        now,
        attempts: Vec::new(),
    };
    let answer = match identity {
        None => Err(failure(401, "Unauthorized", "Unauthorized", None)),
        Some(identity) => call.answer(identity),
    };
    let response = answer.unwrap_or_else(|error| error);
    (response, call.attempts)
}

struct Call<'a> {
    store: &'a mut Store,
    request: &'a Request,
    now: OffsetDateTime,
    attempts: Vec<Attempt>,
}

type Answer = Result<Response, Response>;

/// The body of an error (metav1.Status).
fn failure(status: u16, reason: &str, message: &str, details: Option<Value>) -> Response {
    let mut body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status});
    if let Some(details) = details {
        body["details"] = details;
    }
    Response::new(status, "application/json", body.to_string())
}

/// The answer when the timeout that a request asked for is over (apimachinery/pkg/api/errors `NewTimeoutError`).
pub fn timed_out() -> Response {
    let message = "Timeout: request did not complete within requested timeout - context deadline exceeded";
    failure(504, "Timeout", message, Some(json!({})))
}

fn details(route: &Route, kind: &str) -> Value {
    let mut details = json!({"name": route.name, "kind": kind});
    if !route.group.is_empty() {
        details["group"] = json!(route.group);
    }
    details
}

fn not_served() -> Response {
    Response::new(404, "text/plain; charset=utf-8", "404 page not found\n").with("X-Content-Type-Options", "nosniff")
}

fn found(status: u16, body: &Value) -> Response {
    Response::new(status, "application/json", body.to_string())
}

impl Call<'_> {
    fn now_ms(&self) -> i64 {
        (self.now.unix_timestamp_nanos() / 1_000_000) as i64
    }

    fn answer(&mut self, identity: &Identity) -> Answer {
        self.settle_crds();
        if self.request.query.contains_key("timeout") && self.request.timeout().is_none() {
            let message = "invalid timeout specified in the request URL";
            return Err(failure(400, "BadRequest", message, None));
        }
        let Some(route) = Route::of(&self.request.path) else {
            return Err(not_served());
        };
        if route.resource.is_empty() {
            return self.discovery(&route);
        }
        let verb = match (self.request.method.as_str(), route.name.is_empty()) {
            ("GET", true) => "list",
            ("GET", false) => "get",
            ("POST", _) => "create",
            ("PATCH", _) => "patch",
            ("PUT", _) => "update",
            ("DELETE", _) => "delete",
            _ => {
                return Err(failure(
                    405,
                    "MethodNotAllowed",
                    "the server does not allow this method",
                    None,
                ));
            }
        };
        self.authorize(identity, verb, &route)?;
        let resource = self.resource(&route).ok_or_else(not_served)?;
        if !(route.subresource.is_empty() || route.subresource == "status" && resource.has_status) {
            return Err(not_served());
        }
        if !self.store.is_initialized(&route.qualified(), self.now_ms()) {
            let details = json!({"retryAfterSeconds": 1});
            let busy = failure(429, "TooManyRequests", "storage is (re)initializing", Some(details));
            return Err(busy.with("Retry-After", "1"));
        }
        match verb {
            "list" => Ok(self.list(&route, &resource)),
            "get" => Ok(self.sent(200, &route, self.existing(&route)?)),
            "create" => self.create(route, &resource),
            "patch" => self.patch(&route, &resource, identity),
            "delete" => {
                let gone = self.existing(&route)?;
                self.store.remove(&key(&route));
                Ok(found(200, &gone))
            }
            _ => Err(failure(
                405,
                "MethodNotAllowed",
                "not needed by k6u, so not modelled",
                None,
            )),
        }
    }

    fn authorize(&mut self, identity: &Identity, verb: &str, route: &Route) -> Result<(), Response> {
        let resource = match route.subresource.as_str() {
            "" => route.resource.clone(),
            subresource => format!("{}/{subresource}", route.resource),
        };
        let attempt = Attempt {
            verb: verb.into(),
            group: route.group.clone(),
            resource,
            namespace: route.namespace.clone(),
            name: route.name.clone(),
        };
        let allowed = identity.may(&attempt);
        let resource = attempt.resource.clone();
        self.attempts.push(attempt);
        if allowed {
            return Ok(());
        }
        let object = if route.name.is_empty() {
            String::new()
        } else {
            format!(" \"{}\"", route.name)
        };
        let scope = match route.namespace.as_str() {
            "" => "at the cluster scope".to_string(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let message = format!(
            "{}{object} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {scope}",
            route.qualified(),
            identity.user(),
            route.group
        );
        let denied = failure(403, "Forbidden", &message, Some(details(route, &route.resource)));
        Err(denied.with("X-Content-Type-Options", "nosniff"))
    }

    fn resource(&self, route: &Route) -> Option<Resource> {
        let all = self.store.resources(self.now_ms());
        all.into_iter().find(|resource| {
            resource.group == route.group
                && resource.plural == route.resource
                && resource.namespaced != route.namespace.is_empty()
                && resource.versions.iter().any(|(name, _)| *name == route.version)
        })
    }

    /// Gives each CRD the status that follows from its age.
    fn settle_crds(&mut self) {
        let at = timestamp(self.now);
        let condition = |kind: &str, ok: bool, reason: &str, message: &str| {
            let status = if ok { "True" } else { "False" };
            json!({"type": kind, "status": status, "lastTransitionTime": at, "reason": reason, "message": message})
        };
        let crds: Vec<Key> = self
            .store
            .objects
            .keys()
            .filter(|key| key.resource == CRDS)
            .cloned()
            .collect();
        for key in crds {
            let established = self.store.is_established(&key.name, self.now_ms());
            let mut crd = self.store.objects[&key].clone();
            let conditions = crd["status"]["conditions"].as_array();
            let is_current =
                conditions.is_some_and(|list| list.len() == 2 && (list[1]["status"] == "True") == established);
            if !is_current {
                let reason = if established {
                    "InitialNamesAccepted"
                } else {
                    "Installing"
                };
                crd["status"]["conditions"] = json!([
                    condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
                    condition(
                        "Established",
                        established,
                        reason,
                        "the initial names have been accepted"
                    ),
                ]);
                crd["status"]["acceptedNames"] = crd["spec"]["names"].clone();
                self.store.put(key, crd);
            }
        }
    }

    fn discovery(&self, route: &Route) -> Answer {
        let all = self.store.resources(self.now_ms());
        let of_group: Vec<&Resource> = all.iter().filter(|resource| resource.group == route.group).collect();
        if of_group.is_empty() {
            return Err(not_served());
        }
        if route.version.is_empty() {
            let mut versions: Vec<Value> = Vec::new();
            for (version, _) in of_group.iter().flat_map(|resource| &resource.versions) {
                let entry = json!({"groupVersion": format!("{}/{version}", route.group), "version": version});
                if !versions.contains(&entry) {
                    versions.push(entry);
                }
            }
            let body = json!({"kind": "APIGroup", "apiVersion": "v1", "name": route.group, "versions": versions,
                "preferredVersion": versions[0]});
            return Ok(found(200, &body));
        }
        let served = |resource: &&&Resource| resource.versions.iter().any(|(name, _)| *name == route.version);
        let mut entries = Vec::new();
        for resource in of_group.iter().filter(served) {
            entries.push(
                json!({"name": resource.plural, "singularName": resource.kind.to_lowercase(),
                "namespaced": resource.namespaced, "kind": resource.kind, "shortNames": resource.short_names,
                "verbs": ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]}),
            );
            if resource.has_status {
                entries.push(
                    json!({"name": format!("{}/status", resource.plural), "singularName": "",
                    "namespaced": resource.namespaced, "kind": resource.kind, "verbs": ["get", "patch", "update"]}),
                );
            }
        }
        if entries.is_empty() {
            return Err(not_served());
        }
        let version = route.group_version();
        let body =
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": entries});
        Ok(found(200, &body))
    }

    /// A response with the object in the version of the path and the form of the Accept header.
    fn sent(&self, status: u16, route: &Route, mut object: Value) -> Response {
        object["apiVersion"] = json!(route.group_version());
        if self.request.header("accept").contains("as=PartialObjectMetadata") {
            object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"]});
        }
        found(status, &object)
    }

    fn existing(&self, route: &Route) -> Object {
        self.store.objects.get(&key(route)).cloned().ok_or_else(|| {
            let message = format!("{} \"{}\" not found", route.qualified(), route.name);
            failure(404, "NotFound", &message, Some(details(route, &route.resource)))
        })
    }

    fn list(&self, route: &Route, resource: &Resource) -> Response {
        let of_list = |k: &&Key| {
            k.group == route.group
                && k.resource == route.resource
                && (route.namespace.is_empty() || k.namespace == route.namespace)
        };
        let items: Vec<Value> = self
            .store
            .objects
            .iter()
            .filter(|(k, _)| of_list(k))
            .map(|(_, object)| {
                let mut object = object.clone();
                object["apiVersion"] = json!(route.group_version());
                object
            })
            .collect();
        let metadata = json!({"continue": "", "resourceVersion": self.store.version().to_string()});
        found(
            200,
            &json!({"apiVersion": route.group_version(), "items": items,
            "kind": format!("{}List", resource.kind), "metadata": metadata}),
        )
    }

    fn manager(&self) -> String {
        let given = self.request.query.get("fieldManager").cloned();
        let agent = self.request.header("user-agent").split('/').next().unwrap_or_default();
        given.unwrap_or_else(|| {
            if agent.is_empty() {
                "unknown".into()
            } else {
                agent.into()
            }
        })
    }

    fn create(&mut self, mut route: Route, resource: &Resource) -> Answer {
        let mut object = self.body()?;
        let metadata = object["metadata"].as_object().cloned().unwrap_or_default();
        route.name = match (metadata.get("name"), metadata.get("generateName")) {
            (Some(Value::String(name)), _) => name.clone(),
            // Names are in no order, as those of a real server.
            (_, Some(Value::String(start))) => {
                let number = self.store.unique().wrapping_mul(0x9e37_79b1) & 0xf_ffff;
                format!("{start}{number:05x}")
            }
            _ => return Err(failure(422, "Invalid", "name or generateName is required", None)),
        };
        if self.store.objects.contains_key(&key(&route)) {
            let message = format!("{} \"{}\" already exists", route.qualified(), route.name);
            return Err(failure(
                409,
                "AlreadyExists",
                &message,
                Some(details(&route, &route.resource)),
            ));
        }
        object["metadata"]["name"] = json!(route.name);
        if !route.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(route.namespace);
        }
        if resource.has_status {
            object.as_object_mut().and_then(|map| map.remove("status"));
        }
        self.mutate(&route, &mut object);
        let warnings = self.fit(&route, resource, &mut object, None)?;
        let stored = self.store_new(&route, object, "Update");
        let mut response = self.sent(201, &route, stored);
        if let Some(first) = warnings.first() {
            response = response.with("Warning", &format!("299 - \"unknown field \\\"{first}\\\"\""));
        }
        Ok(response)
    }

    fn mutate(&self, route: &Route, object: &mut Value) {
        if let Some(mutation) = self.store.mutation {
            mutation(&key(route), object);
        }
    }

    fn store_new(&mut self, route: &Route, mut object: Value, operation: &str) -> Value {
        let unique = self.store.unique();
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{unique:012}"));
        metadata["creationTimestamp"] = json!(timestamp(self.now));
        if route.resource != "nodes" && route.resource != "events" {
            metadata["generation"] = json!(1);
        }
        self.manage(&mut object, route, operation);
        self.store.put(key(route), object)
    }

    /// Records the manager of each field, much as a real server does.
    fn manage(&self, object: &mut Value, route: &Route, operation: &str) {
        fn fields(value: &Value) -> Value {
            match value {
                Value::Object(map) => {
                    let mut out: Map<String, Value> = map.iter().map(|(k, v)| (format!("f:{k}"), fields(v))).collect();
                    out.insert(".".into(), json!({}));
                    Value::Object(out)
                }
                _ => json!({}),
            }
        }
        let part = if route.subresource == "status" {
            "status"
        } else {
            "spec"
        };
        let name = format!("f:{part}");
        let mut entry = json!({"manager": self.manager(), "operation": operation, "apiVersion": route.group_version(),
            "time": timestamp(self.now), "fieldsType": "FieldsV1", "fieldsV1": {name: fields(&object[part])}});
        if !route.subresource.is_empty() {
            entry["subresource"] = json!(route.subresource);
        }
        let list = object["metadata"]["managedFields"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let same = |old: &Value| old["manager"] == entry["manager"] && old["subresource"] == entry["subresource"];
        let mut list: Vec<Value> = list.into_iter().filter(|old| !same(old)).collect();
        list.push(entry);
        object["metadata"]["managedFields"] = json!(list);
    }

    fn field_validation(&self) -> Option<&str> {
        self.request.query.get("fieldValidation").map(String::as_str)
    }

    fn body(&self) -> Object {
        let parsed = match self.request.header("content-type").contains("yaml") {
            true => serde_yaml::from_slice(&self.request.body).map_err(|e| e.to_string()),
            false => serde_json::from_slice(&self.request.body).map_err(|e| e.to_string()),
        };
        parsed.map_err(|e| failure(400, "BadRequest", &format!("the body cannot be read: {e}"), None))
    }

    /// Prunes and validates; returns the unknown fields.
    fn fit(
        &self,
        route: &Route,
        resource: &Resource,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Vec<String>, Response> {
        let version = resource.versions.iter().find(|(name, _)| *name == route.version);
        let Some((_, Some(schema))) = version else {
            return Ok(Vec::new());
        };
        let mut unknown = Vec::new();
        schema::prune(schema, object, "", &mut unknown);
        let mut causes = schema::validate(schema, object);
        if let Some(old) = old.filter(|_| self.store.ratchets) {
            let known = schema::validate(schema, old);
            causes.retain(|cause| !known.contains(cause));
        }
        if causes.is_empty() {
            return Ok(unknown);
        }
        let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = if texts.len() == 1 {
            texts[0].clone()
        } else {
            format!("[{}]", texts.join(", "))
        };
        let message = format!(
            "{}.{} \"{}\" is invalid: {text}",
            resource.kind, resource.group, route.name
        );
        let mut details = details(route, &resource.kind);
        details["causes"] = causes
            .iter()
            .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
            .collect();
        Err(failure(422, "Invalid", &message, Some(details)))
    }

    fn patch(&mut self, route: &Route, resource: &Resource, identity: &Identity) -> Answer {
        let patch = self.body()?;
        match self.request.header("content-type") {
            "application/merge-patch+json" => self.merge_patch(route, resource, patch),
            "application/apply-patch+yaml" => self.apply(route, patch, identity),
            other => Err(failure(
                415,
                "UnsupportedMediaType",
                &format!("the body is of type {other:?}"),
                None,
            )),
        }
    }

    fn merge_patch(&mut self, route: &Route, resource: &Resource, mut patch: Value) -> Answer {
        let old = self.existing(route)?;
        let metadata = patch.get_mut("metadata").and_then(Value::as_object_mut);
        let expected = metadata.and_then(|map| map.remove("resourceVersion"));
        if expected.is_some_and(|version| version != old["metadata"]["resourceVersion"]) {
            let message = format!(
                "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes \
                 to the latest version and try again",
                route.qualified(),
                route.name
            );
            return Err(failure(
                409,
                "Conflict",
                &message,
                Some(details(route, &route.resource)),
            ));
        }
        let mut merged = old.clone();
        merge(&mut merged, &patch);
        let mut new = merged.clone();
        if route.subresource == "status" {
            new = old.clone();
            new["status"] = merged["status"].clone();
        } else if resource.has_status {
            new["status"] = old["status"].clone();
        }
        if new["status"].is_null() {
            new.as_object_mut().and_then(|map| map.remove("status"));
        }
        self.mutate(route, &mut new);
        let unknown = self.fit(route, resource, &mut new, Some(&old))?;
        if let (Some(first), Some("Strict")) = (unknown.first(), self.field_validation()) {
            let message = format!("strict decoding error: unknown field \"{first}\"");
            return Err(failure(400, "BadRequest", &message, None));
        }
        if new == old {
            return Ok(self.sent(200, route, old));
        }
        if new["spec"] != old["spec"] {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        self.manage(&mut new, route, "Update");
        let stored = self.store.put(key(route), new);
        Ok(self.sent(200, route, stored))
    }

    /// Server-side apply, as far as CRDs need it: applied fields win, lists are replaced.
    fn apply(&mut self, route: &Route, applied: Value, identity: &Identity) -> Answer {
        let Some(old) = self.store.objects.get(&key(route)).cloned() else {
            // A patch that creates needs the right to create, for this name.
            self.authorize(identity, "create", route)?;
            let mut object = applied;
            if route.resource == CRDS {
                default_crd(&mut object);
                object["status"] = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""},
                    "storedVersions": ["v1"]});
                self.store.created.insert(route.name.clone(), self.now_ms());
            }
            let stored = self.store_new(route, object, "Apply");
            return Ok(self.sent(201, route, stored));
        };
        let mut new = old.clone();
        merge(&mut new, &applied);
        // Annotations that the manager no longer applies are removed; there is no other manager here.
        if let Some(metadata) = new["metadata"].as_object_mut() {
            match &applied["metadata"]["annotations"] {
                Value::Null => metadata.remove("annotations"),
                annotations => metadata.insert("annotations".into(), annotations.clone()),
            };
        }
        if new == old {
            return Ok(self.sent(200, route, old));
        }
        new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        self.manage(&mut new, route, "Apply");
        let stored = self.store.put(key(route), new);
        Ok(self.sent(200, route, stored))
    }
}

type Object = Result<Value, Response>;

fn key(route: &Route) -> Key {
    Key {
        group: route.group.clone(),
        resource: route.resource.clone(),
        namespace: route.namespace.clone(),
        name: route.name.clone(),
    }
}

/// Adds the defaults that an API server gives a CRD.
fn default_crd(crd: &mut Value) {
    let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_string();
    let names = &mut crd["spec"]["names"];
    if names["listKind"].is_null() {
        names["listKind"] = json!(format!("{kind}List"));
    }
    if names["singular"].is_null() {
        names["singular"] = json!(kind.to_lowercase());
    }
    crd["spec"]["conversion"] = json!({"strategy": "None"});
}

/// JSON merge patch (RFC 7396).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().expect("an object");
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
