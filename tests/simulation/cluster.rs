//! The objects, and an API server that answers for them as far as k6u asks: small and quick enough for
//! thousands of nodes. The answers' form and size are those of a real kube-apiserver 1.36.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use k6u::objects::{CONFIGS, NODE_CONFIGS};
use k6u_testkit::http::{Request, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The virtual time's start.
const START: OffsetDateTime = time::macros::datetime!(2026-11-23 06:00:00 UTC);
const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reads of any kind.
    Read,
    /// Of node configs' statuses.
    Publication,
    /// Of groups.
    GroupWrite,
    /// Statuses of configs, and Events.
    Report,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// When.
    pub at: Duration,
    /// What for.
    pub kind: Kind,
    /// Request and answer, head and body.
    pub bytes: usize,
}

/// What the group held, and since when.
#[derive(Clone, Debug)]
pub struct Held {
    /// Since when.
    pub at: Duration,
    /// Its list.
    pub cidrs: Vec<String>,
}

/// The cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    version: u64,
    configs: BTreeMap<String, Value>,
    node_configs: BTreeMap<String, NodeConfig>,
    groups: BTreeMap<String, Group>,
    labels: BTreeMap<String, Value>,
    /// Every answer, in order.
    pub served: Vec<Served>,
    /// Every change of a group, in order.
    pub history: Vec<Held>,
}

#[derive(Debug)]
struct NodeConfig {
    version: u64,
    spec: Value,
    /// What each node published, as JSON.
    nodes: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Group {
    version: u64,
    cidrs: Vec<String>,
}

impl Cluster {
    /// An administrator makes an IP6UpdateConfig for one group: prefix ids 0, 1 and 2 of a /60.
    pub fn add_config(&mut self, name: &str, group: &str) {
        self.version += 1;
        let config = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateConfig", "metadata":
            {"name": name, "uid": format!("uid-of-{name}"), "generation": 1, "creationTimestamp": timestamp(Duration::ZERO),
            "resourceVersion": self.version.to_string()},
            "spec": {"delegatedPrefixLength": 60, "ciliumCIDRGroups": [{"ciliumCIDRGroupName": group, "prefixIds": [0, 1, 2]}]}});
        self.configs.insert(name.into(), config);
    }

    /// An administrator makes an IP6UpdateNodeConfig for nodes with these labels.
    pub fn add_node_config(&mut self, name: &str, selector: Value) {
        self.version += 1;
        let node_config = NodeConfig {
            version: self.version,
            spec: json!({"interface": "eth0", "nodeSelector": selector}),
            nodes: BTreeMap::new(),
        };
        self.node_configs.insert(name.into(), node_config);
    }

    /// A Node object.
    pub fn add_node(&mut self, name: &str, labels: Value) {
        self.labels.insert(name.into(), labels);
    }

    /// Somebody else writes a group.
    pub fn overwrite(&mut self, name: &str, cidrs: &[&str], at: Duration) {
        self.put_group(name, cidrs.iter().map(|cidr| cidr.to_string()).collect(), at);
    }

    fn put_group(&mut self, name: &str, cidrs: Vec<String>, at: Duration) {
        self.version += 1;
        self.history.push(Held {
            at,
            cidrs: cidrs.clone(),
        });
        let group = Group {
            version: self.version,
            cidrs,
        };
        self.groups.insert(name.into(), group);
    }

    /// Answers; `skew` is how wrong the clock of this API server is, in milliseconds.
    pub fn answer(&mut self, request: &Request, size: usize, at: Duration, skew: i64) -> Vec<u8> {
        let response = self.handle(request, at);
        let date = START + at + time::Duration::milliseconds(skew);
        let (bytes, _) = response.bytes(&k6u_testkit::api::http_date(date));
        self.served.push(Served {
            at,
            kind: kind(request),
            bytes: size + bytes.len(),
        });
        bytes
    }

    fn handle(&mut self, request: &Request, at: Duration) -> Response {
        let (path, method) = (request.path.as_str(), request.method.as_str());
        let is_table = request.header("accept").contains("as=Table");
        if let Some(name) = path.strip_prefix("/api/v1/nodes/") {
            return match self.labels.get(name) {
                Some(labels) => sent(200, &json!({"metadata": {"name": name, "labels": labels}})),
                None => absent("nodes", name),
            };
        }
        match (method, path) {
            ("GET", NODE_CONFIGS) if is_table => sent_text(200, table(self.node_configs.iter())),
            ("GET", NODE_CONFIGS) => sent_text(200, self.list_node_configs()),
            ("GET", CONFIGS) => {
                let items: Vec<&Value> = self.configs.values().collect();
                sent(
                    200,
                    &json!({"items": items, "metadata": {"resourceVersion": self.version.to_string()}}),
                )
            }
            ("GET", "/apis/cilium.io") => sent(200, &json!({"versions": [{"version": "v2"}]})),
            ("GET", "/apis/cilium.io/v2") => sent(200, &json!({"resources": [{"name": "ciliumcidrgroups"}]})),
            ("POST", GROUPS) => {
                let group = body(request);
                let name = group["metadata"]["name"].as_str().expect("a name");
                if self.groups.contains_key(name) {
                    return refused(409, "AlreadyExists", name);
                }
                self.put_group(name, texts(&group["spec"]["externalCIDRs"]), at);
                sent(201, &json!({"metadata": {"name": name}}))
            }
            ("POST", _) => sent(201, &json!({})),
            _ => self.handle_object(request, path, method, is_table, at),
        }
    }

    fn handle_object(&mut self, request: &Request, path: &str, method: &str, is_table: bool, at: Duration) -> Response {
        let parts: Vec<&str> = path.rsplitn(3, '/').collect();
        if let Some(name) = path.strip_prefix(GROUPS).map(|rest| rest.trim_start_matches('/')) {
            let Some(group) = self.groups.get(name) else {
                return absent("ciliumcidrgroups", name);
            };
            if method == "GET" {
                return sent(
                    200,
                    &json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata":
                    {"name": name, "uid": "uid", "resourceVersion": group.version.to_string()},
                    "spec": {"externalCIDRs": group.cidrs}}),
                );
            }
            let patch = body(request);
            if is_outdated(&patch, group.version) {
                return refused(409, "Conflict", name);
            }
            self.put_group(name, texts(&patch["spec"]["externalCIDRs"]), at);
            return sent(200, &json!({"metadata": {"name": name}}));
        }
        let &["status", name, list] = &parts[..] else {
            return absent("paths", path);
        };
        self.version += 1;
        let version = self.version;
        let patch = body(request);
        if list == CONFIGS {
            let Some(config) = self.configs.get_mut(name) else {
                return absent("ip6updateconfigs", name);
            };
            if is_outdated(&patch, number(&config["metadata"]["resourceVersion"])) {
                return refused(409, "Conflict", name);
            }
            k6u_testkit::api::merge(&mut config["status"], &patch["status"]);
            config["metadata"]["resourceVersion"] = json!(version.to_string());
            return sent(200, &json!({"metadata": config["metadata"]}));
        }
        let Some(config) = self.node_configs.get_mut(name) else {
            return absent("ip6updatenodeconfigs", name);
        };
        if is_outdated(&patch, config.version) {
            return refused(409, "Conflict", name);
        }
        for (node, entry) in patch["status"]["nodes"].as_object().into_iter().flatten() {
            match entry {
                Value::Null => config.nodes.remove(node),
                entry => config.nodes.insert(node.clone(), entry.to_string()),
            };
        }
        config.version = version;
        let config = (&name.to_string(), &*config);
        match (is_table, request.header("accept").contains("as=PartialObjectMetadata")) {
            (true, _) => sent_text(200, table([config].into_iter())),
            (false, true) => sent_text(200, format!("{{{}}}", metadata(config.0, config.1))),
            (false, false) => sent_text(200, node_config(config.0, config.1)),
        }
    }

    fn list_node_configs(&self) -> String {
        let items: Vec<String> = self
            .node_configs
            .iter()
            .map(|(name, config)| node_config(name, config))
            .collect();
        format!(
            r#"{{"items":[{}],"metadata":{{"resourceVersion":"{}"}}}}"#,
            items.join(","),
            self.version
        )
    }
}

/// `"metadata":{…}`, with the managed fields of every node's entry, as a real server has them.
fn metadata(name: &str, config: &NodeConfig) -> String {
    let mut fields = String::new();
    for node in config.nodes.keys() {
        let comma = if fields.is_empty() { "" } else { "," };
        let entry = r#"{".":{},"f:deprecated":{},"f:message":{},"f:observedTime":{},"f:prefixes":{}}"#;
        write!(fields, r#"{comma}"f:{node}":{entry}"#).expect("a string takes all");
    }
    format!(
        r#""metadata":{{"name":"{name}","uid":"uid","generation":1,"resourceVersion":"{}","managedFields":[{{"fieldsV1":{{"f:status":{{"f:nodes":{{{fields}}}}}}}}}]}}"#,
        config.version
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

fn table<'a>(configs: impl Iterator<Item = (&'a String, &'a NodeConfig)>) -> String {
    // The descriptions of the columns make up most of a short table: 1300 bytes.
    let column = |name: &str| json!({"name": name, "type": "string", "format": "", "priority": 0});
    let mut columns: Vec<Value> = ["Name", "Interface", "Selector", "Stale after"].map(column).to_vec();
    columns[0]["description"] = json!("x".repeat(1000));
    let row = |(name, config): (&String, &NodeConfig)| {
        let selector = &config.spec["nodeSelector"];
        json!({"cells": [name, "eth0", selector.to_string(), null], "object": null})
    };
    let rows: Vec<Value> = configs.map(row).collect();
    json!({"kind": "Table", "columnDefinitions": columns, "rows": rows}).to_string()
}

fn kind(request: &Request) -> Kind {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", _) => Kind::Read,
        (_, path) if path.starts_with(NODE_CONFIGS) => Kind::Publication,
        (_, path) if path.starts_with(GROUPS) => Kind::GroupWrite,
        _ => Kind::Report,
    }
}

fn sent(status: u16, body: &Value) -> Response {
    sent_text(status, body.to_string())
}

fn sent_text(status: u16, body: String) -> Response {
    Response::new(status, "application/json", body)
}

fn refused(status: u16, reason: &str, name: &str) -> Response {
    let body = json!({"kind": "Status", "reason": reason, "message": reason, "details": {"name": name}});
    sent(status, &body)
}

fn absent(resource: &str, name: &str) -> Response {
    let body = json!({"kind": "Status", "reason": "NotFound", "message": format!("{resource} \"{name}\" not found"),
        "details": {"name": name, "kind": resource}});
    sent(404, &body)
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("k6u sends JSON")
}

fn number(version: &Value) -> u64 {
    version
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a resourceVersion")
}

fn is_outdated(patch: &Value, version: u64) -> bool {
    let expected = &patch["metadata"]["resourceVersion"];
    !expected.is_null() && number(expected) != version
}

fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(String::from)).collect()
}

fn timestamp(at: Duration) -> String {
    k6u_testkit::api::timestamp(START + at)
}
