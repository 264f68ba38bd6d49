//! The JSON of requests and answers. The answers' form and size are those of a real kube-apiserver 1.36.

use std::collections::BTreeMap;
use std::fmt::Write;

use k6u_testkit::apiserver::http::{Request, Response};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// An IP6UpdateNodeConfig.
#[derive(Debug)]
pub struct NodeConfig {
    /// Its uid, another one for each object.
    pub uid: u64,
    /// Its resourceVersion.
    pub version: u64,
    /// Its spec.
    pub spec: Value,
    /// What each node published, as JSON.
    pub nodes: BTreeMap<String, String>,
}

/// The list of all IP6UpdateNodeConfigs.
pub fn list(node_configs: &BTreeMap<String, NodeConfig>, version: u64) -> String {
    let items: Vec<String> = node_configs
        .iter()
        .map(|(name, config)| node_config(name, config))
        .collect();
    format!(
        r#"{{"apiVersion":"apps.fuwafuwatime.moe/v1","items":[{}],"kind":"IP6UpdateNodeConfigList","metadata":{{"continue":"","resourceVersion":"{version}"}}}}"#,
        items.join(",")
    )
}

/// `"metadata":{…}`, with the managed fields of the spec and of every node's entry, as a real server has them.
pub fn metadata(name: &str, config: &NodeConfig) -> String {
    let mut fields = String::new();
    for (node, entry) in &config.nodes {
        let entry: BTreeMap<String, IgnoredAny> = serde_json::from_str(entry).expect("JSON");
        let entry: String = entry.keys().map(|field| format!(r#","f:{field}":{{}}"#)).collect();
        let entry = format!(r#"{{".":{{}}{entry}}}"#);
        write!(fields, r#","f:{node}":{entry}"#).expect("a string takes all");
    }
    let time = "2026-11-23T06:00:00Z";
    let of = |manager: &str, fields: &str, rest: &str| {
        format!(
            r#"{{"apiVersion":"apps.fuwafuwatime.moe/v1","fieldsType":"FieldsV1","fieldsV1":{fields},"manager":"{manager}","operation":"Update"{rest},"time":"{time}"}}"#
        )
    };
    let spec = of(
        "kubectl-create",
        r#"{"f:spec":{".":{},"f:interface":{},"f:nodeSelector":{".":{},"f:kubernetes.io/hostname":{}}}}"#,
        "",
    );
    let status = of(
        "k6u",
        &format!(r#"{{"f:status":{{".":{{}},"f:nodes":{{".":{{}}{fields}}}}}}}"#),
        r#","subresource":"status""#,
    );
    format!(
        r#""apiVersion":"apps.fuwafuwatime.moe/v1","kind":"IP6UpdateNodeConfig","metadata":{{"creationTimestamp":"{time}","generation":1,"managedFields":[{spec},{status}],"name":"{name}","resourceVersion":"{}","uid":"c0f9fd4c-4a52-4a3c-a6b2-{:012x}"}}"#,
        config.version, config.uid
    )
}

fn node_config(name: &str, config: &NodeConfig) -> String {
    let nodes: Vec<String> = config
        .nodes
        .iter()
        .map(|(node, entry)| format!("\"{node}\":{entry}"))
        .collect();
    format!(
        r#"{{{},"spec":{},"status":{{"nodes":{{{}}}}}}}"#,
        metadata(name, config),
        config.spec,
        nodes.join(",")
    )
}

/// A response with JSON.
pub fn sent(status: u16, body: &Value) -> Response {
    sent_text(status, body.to_string())
}

/// A response with JSON, given as a text.
pub fn sent_text(status: u16, body: String) -> Response {
    Response::new(status, "application/json", body)
}

/// A refusal.
pub fn refused(status: u16, reason: &str, name: &str) -> Response {
    let body = json!({"kind": "Status", "reason": reason, "message": reason, "details": {"name": name}});
    sent(status, &body)
}

/// 404 for an object.
pub fn absent(resource: &str, name: &str) -> Response {
    let body = json!({"kind": "Status", "reason": "NotFound", "message": format!("{resource} \"{name}\" not found"),
        "details": {"name": name, "kind": resource}});
    sent(404, &body)
}

/// The JSON in a request.
pub fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("k6u sends JSON")
}

/// A resourceVersion as a number.
pub fn number(version: &Value) -> u64 {
    version
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a resourceVersion")
}

/// Whether a patch names another resourceVersion.
pub fn is_outdated(patch: &Value, version: u64) -> bool {
    let expected = &patch["metadata"]["resourceVersion"];
    !expected.is_null() && number(expected) != version
}

/// The texts in a list.
pub fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(String::from)).collect()
}
