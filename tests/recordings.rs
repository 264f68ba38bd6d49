//! The test API server answers every recorded request like a real one: with the same status and, for errors, the same
//! reason and details.

#![allow(clippy::pedantic)]

use std::time::Duration;

use k6u_testkit::apiserver::api::handle;
use k6u_testkit::apiserver::http::Request;
use k6u_testkit::apiserver::rbac::{Identity, Rule};
use k6u_testkit::apiserver::server::{ApiServer, Cilium};
use k6u_testkit::apiserver::store::Store;
use serde_json::{Value, json};
use time::OffsetDateTime;

const RBAC: &str = include_str!("../manifests/rbac.yaml");

/// A store as it was when the recording started: Cilium 1.18 and one node.
fn recorded_state() -> Store {
    let server = ApiServer::start("127.0.0.1", Some(Cilium::Both), RBAC).expect("a server");
    let mut store = Store::default();
    store.initialize_for = Duration::from_secs(1);
    store.objects = server.store().objects.clone();
    store
}

fn request_of(recorded: &Value, version_of: &dyn Fn(&str) -> String) -> Request {
    let text = |name: &str| recorded[name].as_str().unwrap_or_default();
    let mut request = Request::new(text("verb"), text("path"));
    for (header, field) in [("content-type", "contentType"), ("accept", "accept")] {
        if let Some(value) = recorded[field].as_str() {
            request.headers.insert(header.into(), value.into());
        }
    }
    let mut body = recorded["body"].clone();
    if let Some(version) = body["metadata"]["resourceVersion"].as_str() {
        body["metadata"]["resourceVersion"] = json!(version_of(version));
    }
    if !body.is_null() {
        request.body = body.to_string().into_bytes();
    }
    request
}

#[test]
fn every_recorded_exchange() {
    let recording: Value = serde_json::from_str(include_str!("support/recordings.json")).expect("JSON");
    let exchanges = recording["exchanges"].as_array().expect("exchanges");
    assert_eq!(exchanges.len(), 33);
    let mut store = recorded_state();
    let mut now = OffsetDateTime::now_utc();
    let powerless = Identity::ServiceAccount(Vec::<Rule>::new());
    // The recorded resourceVersions, and those of the test server for the same state.
    let mut versions: Vec<(String, String)> = Vec::new();
    for exchange in exchanges {
        let title = exchange["title"].as_str().expect("a title");
        let identity = match exchange["request"]["as"].as_str().expect("an identity") {
            "cluster-admin" => Some(&Identity::Admin),
            "a service account without the right" => Some(&powerless),
            "an unknown token" => None,
            other => panic!("unknown identity {other}"),
        };
        let version_of = |recorded: &str| {
            let known = versions.iter().find(|(theirs, _)| theirs == recorded);
            known.map_or("1".to_string(), |(_, ours)| ours.clone())
        };
        let request = request_of(&exchange["request"], &version_of);
        let (response, _) = handle(&mut store, &request, identity, now);

        let expected = &exchange["response"];
        assert_eq!(
            u64::from(response.status),
            expected["status"].as_u64().unwrap(),
            "{title}"
        );
        let body = String::from_utf8(response.body.clone()).expect("text");
        let header = |name: &str| {
            let found = response.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        for name in ["content-type", "x-content-type-options", "retry-after", "warning"] {
            assert_eq!(header(name), expected["headers"][name].as_str(), "{title}: {name}");
        }
        if response.status >= 400 && expected["body"].is_object() {
            let body: Value = serde_json::from_str(&body).expect("JSON");
            for field in ["kind", "message", "reason", "details", "code", "status"] {
                assert_eq!(body[field], expected["body"][field], "{title}: {field}");
            }
        } else if response.status >= 400 {
            assert_eq!(body, expected["body"].as_str().unwrap(), "{title}");
        } else {
            let body: Value = serde_json::from_str(&body).expect("JSON");
            for field in ["kind", "apiVersion", "spec"] {
                assert_eq!(body[field], expected["body"][field], "{title}: {field}");
            }
            for field in ["name", "generation", "labels"] {
                let ours = &body["metadata"][field];
                // With generateName, the server chooses the name.
                if !body["metadata"]["generateName"].is_string() {
                    assert_eq!(*ours, expected["body"]["metadata"][field], "{title}: metadata.{field}");
                }
            }
            let theirs = expected["body"]["metadata"]["resourceVersion"].as_str();
            let ours = body["metadata"]["resourceVersion"].as_str();
            if let (Some(theirs), Some(ours)) = (theirs, ours) {
                let known = versions.iter().find(|(t, _)| t == theirs);
                if let Some((_, known)) = known.filter(|_| title.contains("stays")) {
                    assert_eq!(known, ours, "{title}: resourceVersion");
                }
                versions.push((theirs.into(), ours.into()));
            }
        }
        // The recording waited for the time in Retry-After.
        if header("retry-after").is_some() {
            now += Duration::from_secs(1);
        }
    }
}
