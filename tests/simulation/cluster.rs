//! The objects of a cluster, and an API server for the requests that k6u makes: small and quick enough for hundreds of
//! nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k6u::prefix::Prefix;
use k6u::resources::config::CONFIGS;
use k6u::resources::node_config::NODE_CONFIGS;
use k6u_testkit::apiserver::http::{Request, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::json::{NodeConfig, absent, body, is_outdated, list, metadata, number, refused, sent, sent_text, texts};
use crate::site::{Health, LENGTH, Layout, SECOND, cidrs};

/// The virtual time's start.
const START: OffsetDateTime = time::macros::datetime!(2026-11-23 06:00:00 UTC);
const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
/// The IP6UpdateConfig.
pub const CONFIG: &str = "lan";
/// The IP6UpdateNodeConfig for the second uplink.
const SECOND_UPLINK: &str = "second-uplink";
/// The group whose history the checks use.
pub const GROUP: &str = "ip6-local-lan";

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reads of any kind.
    Read,
    /// Writes of node configs' statuses.
    Publication,
    /// Writes of groups.
    GroupWrite,
    /// Writes of statuses of configs, and of Events.
    Report,
    /// Writes of CRDs, at the start of a node.
    Deployment,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// When it was answered.
    pub at: Duration,
    /// Its purpose.
    pub kind: Kind,
    /// Request and answer, head and body.
    pub bytes: usize,
}

/// A list that the group held.
#[derive(Clone, Debug)]
pub struct Held {
    /// Since when it held this.
    pub at: Duration,
    /// Its list.
    pub cidrs: BTreeSet<String>,
    /// Whether k6u wrote it.
    pub is_k6u: bool,
    /// CIDRs that were added though no entry has their prefix, or had it shortly before.
    pub unjustified: Vec<String>,
    /// CIDRs that were removed though an entry has had their prefix since before the last write.
    pub premature: Vec<String>,
}

/// The clocks of the API servers, which answer in turn.
#[derive(Clone, Debug, Default)]
pub struct Clocks {
    /// The error of each clock in seconds.
    pub skews: Vec<i64>,
    /// The time at which all clocks jump, and by how many seconds.
    pub jump: Option<(Duration, i64)>,
}

/// The cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    version: u64,
    config: Value,
    node_configs: BTreeMap<String, NodeConfig>,
    groups: BTreeMap<String, Group>,
    labels: BTreeMap<String, Value>,
    /// Nodes that have an IP6UpdateNodeConfig of their own in every layout.
    selected: BTreeSet<String>,
    /// Whether another IP6UpdateNodeConfig is for a second interface.
    pub has_second_uplink: bool,
    /// Faults of the API server, each with its begin and end.
    pub health: Vec<(Duration, Duration, Health)>,
    /// The clocks of the API servers.
    pub clocks: Clocks,
    /// For how long after a change of an entry a node may still act on the entry's old content.
    pub just_before: Duration,
    /// Prefixes that left an entry, and when.
    left: Vec<(Duration, Vec<Prefix>)>,
    /// The prefixes in all entries, each with the time since when an entry has it.
    published: BTreeMap<Prefix, Duration>,
    /// Every answer, in order.
    pub served: Vec<Served>,
    /// The number of publications so far.
    publications: u64,
    /// The number of requests so far, for faults.
    seen: usize,
    /// Every change of the group, in order.
    pub history: Vec<Held>,
    /// When each other group was created.
    pub others: BTreeMap<String, Duration>,
    /// Every change of Ready's reason, in order.
    pub reasons: Vec<(Duration, String)>,
}

#[derive(Debug)]
struct Group {
    version: u64,
    cidrs: Vec<String>,
}

impl Group {
    fn object(&self, name: &str) -> Value {
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata":
            {"name": name, "uid": "uid", "resourceVersion": self.version.to_string()},
            "spec": {"externalCIDRs": self.cidrs}})
    }
}

impl Cluster {
    /// An administrator creates an IP6UpdateConfig for one group: prefix ids 0, 1 and 2.
    pub fn add_config(&mut self) {
        self.version += 1;
        self.config = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateConfig", "metadata":
            {"name": CONFIG, "uid": "uid", "generation": 1, "creationTimestamp": timestamp(Duration::ZERO),
            "resourceVersion": self.version.to_string()},
            "spec": {"delegatedPrefixLength": LENGTH, "ciliumCIDRGroups": [{"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]}]}});
    }

    /// An administrator adds a group to it.
    pub fn add_group(&mut self) {
        self.version += 1;
        let groups = self.config["spec"]["ciliumCIDRGroups"].as_array_mut().expect("a list");
        groups.push(json!({"ciliumCIDRGroupName": format!("added-{}", groups.len()), "prefixIds": [0, 1, 2]}));
        let metadata = &mut self.config["metadata"];
        metadata["generation"] = json!(metadata["generation"].as_i64().expect("a number") + 1);
        metadata["resourceVersion"] = json!(self.version.to_string());
    }

    /// A Node object; `publishes` is a label that all but idle nodes have.
    pub fn add_node(&mut self, name: &str, publishes: bool) {
        let labels = json!({"kubernetes.io/hostname": name, "publishes": publishes.to_string()});
        self.labels.insert(name.into(), labels);
    }

    /// An administrator deletes all IP6UpdateNodeConfigs, and creates those of this layout.
    pub fn replace_node_configs(&mut self, layout: Option<Layout>, at: Duration) {
        for config in std::mem::take(&mut self.node_configs).into_values() {
            let left = config.nodes.values().flat_map(|entry| prefixes(entry)).collect();
            self.left.push((at, left));
        }
        self.note_published(at);
        match layout {
            None => {}
            Some(Layout::Shared) => self.add_node_config("all", json!({"publishes": "true"})),
            Some(Layout::PerNode) => {
                let publishing = self.labels.iter().filter(|(_, labels)| labels["publishes"] == "true");
                let names: Vec<String> = publishing.map(|(name, _)| name.clone()).collect();
                for name in names {
                    self.add_node_config(&name, json!({"kubernetes.io/hostname": name}));
                }
            }
        }
        if self.has_second_uplink && layout.is_some() {
            self.add_node_config(SECOND_UPLINK, json!({"publishes": "true"}));
        }
        for name in self.selected.clone().into_iter().filter(|_| layout.is_some()) {
            self.select_node(&name);
        }
    }

    /// An administrator deletes the IP6UpdateNodeConfig of one node and recreates it.
    pub fn replace_one(&mut self, name: &str, at: Duration) {
        let config = self.node_configs.remove(name).expect("it has one");
        let left = config.nodes.values().flat_map(|entry| prefixes(entry)).collect();
        self.left.push((at, left));
        self.note_published(at);
        self.add_node_config(name, json!({"kubernetes.io/hostname": name}));
    }

    fn add_node_config(&mut self, name: &str, selector: Value) {
        self.version += 1;
        let node_config = NodeConfig {
            uid: self.version,
            version: self.version,
            spec: json!({"interface": if name == SECOND_UPLINK { SECOND } else { "eth0" }, "nodeSelector": selector}),
            nodes: BTreeMap::new(),
        };
        self.node_configs.insert(name.into(), node_config);
    }

    /// An administrator moves a node from its IP6UpdateNodeConfig to another one.
    pub fn move_node(&mut self, name: &str) {
        self.version += 1;
        let config = self.node_configs.get_mut(name).expect("it has one");
        config.spec["nodeSelector"] = json!({"kubernetes.io/hostname": "nobody"});
        config.version = self.version;
        self.add_node_config(&format!("z-{name}"), json!({"kubernetes.io/hostname": name}));
    }

    /// An administrator adds an IP6UpdateNodeConfig for a node that none selects.
    pub fn select_node(&mut self, name: &str) {
        self.selected.insert(name.into());
        self.add_node_config(&format!("z-{name}"), json!({"kubernetes.io/hostname": name}));
    }

    /// Another writer overwrites the group.
    pub fn overwrite(&mut self, cidrs: &[&str], at: Duration) {
        self.put_group(GROUP, cidrs.iter().map(|cidr| cidr.to_string()).collect(), at, false);
    }

    fn put_group(&mut self, name: &str, list: Vec<String>, at: Duration, is_k6u: bool) {
        self.version += 1;
        let version = self.version;
        if name != GROUP {
            self.others.entry(name.into()).or_insert(at);
            self.groups.insert(name.into(), Group { version, cidrs: list });
            return;
        }
        let now: BTreeSet<String> = list.iter().cloned().collect();
        let before = self.history.last().map(|held| held.cidrs.clone()).unwrap_or_default();
        let (mut unjustified, mut premature) = (Vec::new(), Vec::new());
        if is_k6u && now != before {
            let mut justified: BTreeSet<String> = BTreeSet::new();
            for config in self.node_configs.values() {
                config
                    .nodes
                    .values()
                    .for_each(|entry| justified.extend(cidrs(&prefixes(entry))));
            }
            let recent = self
                .left
                .iter()
                .rev()
                .take_while(|(then, _)| *then + self.just_before >= at);
            recent.for_each(|(_, prefixes)| justified.extend(cidrs(prefixes)));
            unjustified = now
                .difference(&before)
                .filter(|cidr| !justified.contains(*cidr))
                .cloned()
                .collect();
            let last = self.history.last().map_or(Duration::ZERO, |held| held.at);
            let lasting = self.published.iter().filter(|(_, since)| **since <= last);
            let lasting = cidrs(&lasting.map(|(prefix, _)| *prefix).collect::<Vec<_>>());
            premature = before
                .difference(&now)
                .filter(|cidr| lasting.contains(*cidr))
                .cloned()
                .collect();
        }
        self.history.push(Held {
            at,
            cidrs: now,
            is_k6u,
            unjustified,
            premature,
        });
        self.groups.insert(name.into(), Group { version, cidrs: list });
    }

    /// Reason and message of Ready.
    pub fn ready(&self) -> (String, String) {
        let ready = &self.config["status"]["conditions"][0];
        let text = |field: &str| ready[field].as_str().unwrap_or_default().to_string();
        (text("reason"), text("message"))
    }

    /// Whether a node has an entry.
    pub fn has_entry(&self, node: &str) -> bool {
        self.node_configs.values().any(|config| config.nodes.contains_key(node))
    }

    /// Answers a request; `None` if nothing listens, or the answer is lost.
    pub fn answer(&mut self, request: &Request, size: usize, at: Duration) -> Option<Vec<u8>> {
        let health = self.health.iter().find(|(from, to, _)| (*from..*to).contains(&at));
        let health = health.map_or(Health::Normal, |(_, _, health)| *health);
        let is_write = request.method != "GET";
        let response = match health {
            Health::Down => return None,
            Health::Unavailable { retry_after } => {
                let response = refused(503, "ServiceUnavailable", "");
                match retry_after {
                    Some(seconds) => response.with("Retry-After", &seconds.to_string()),
                    None => response,
                }
            }
            Health::ReadOnly if is_write => refused(500, "InternalError", "etcd takes no writes"),
            Health::Contended if kind(request) == Kind::Publication && self.publications.is_multiple_of(2) => {
                refused(409, "Conflict", "status")
            }
            Health::RefusesPublications(status) if kind(request) == Kind::Publication => refused(
                status,
                reason(status),
                request.path.rsplit('/').nth(1).unwrap_or_default(),
            ),
            Health::RefusesPublicationsOf(number, status)
                if kind(request) == Kind::Publication
                    && body(request)["status"]["nodes"]
                        .as_object()
                        .is_some_and(|nodes| nodes.contains_key(&crate::site::name(number))) =>
            {
                refused(status, reason(status), "x")
            }
            Health::RefusesStatuses(status) if is_write && request.path.starts_with(CONFIGS) => {
                refused(status, reason(status), CONFIG)
            }
            Health::Throttles if self.served.len().is_multiple_of(3) => {
                refused(429, "TooManyRequests", "").with("Retry-After", "5")
            }
            Health::FailsOnce(at, status)
                if {
                    self.seen += 1;
                    self.seen == at + 1
                } =>
            {
                if status == 0 {
                    return Some(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{".to_vec());
                }
                any(status, request)
            }
            Health::DownFrom(at)
                if {
                    self.seen += 1;
                    self.seen > at
                } =>
            {
                return None;
            }
            Health::RefusesGroupReads if !is_write && request.path.starts_with(GROUPS) => {
                refused(403, "Forbidden", "group")
            }
            Health::RefusesSecondUplink if request.path.contains(SECOND_UPLINK) => {
                refused(422, reason(422), SECOND_UPLINK)
            }
            Health::RefusesGroupWrites(status) if kind(request) == Kind::GroupWrite => {
                refused(status, reason(status), GROUP)
            }
            Health::RefusesGroups(status) if request.path.starts_with(GROUPS) => refused(status, reason(status), GROUP),
            _ => self.handle(request, at),
        };
        self.publications += u64::from(kind(request) == Kind::Publication);
        log::debug!("{at:?}: {} {}: {}", request.method, request.path, response.status);
        let is_lost = health == Health::LosesAnswers && self.served.len().is_multiple_of(5);
        let (bytes, _) = response.bytes(&k6u_testkit::apiserver::api::http_date(self.now(at)));
        self.served.push(Served {
            at,
            kind: kind(request),
            bytes: size + bytes.len(),
        });
        (!is_lost).then_some(bytes)
    }

    /// The time by the clock of the API server that answers.
    fn now(&self, at: Duration) -> OffsetDateTime {
        let skews = &self.clocks.skews;
        let skew = if skews.is_empty() {
            0
        } else {
            skews[self.served.len() % skews.len()]
        };
        let jump = self
            .clocks
            .jump
            .filter(|(from, _)| at >= *from)
            .map_or(0, |(_, seconds)| seconds);
        START + at + time::Duration::seconds(skew + jump)
    }

    fn handle(&mut self, request: &Request, at: Duration) -> Response {
        let (path, method) = (request.path.as_str(), request.method.as_str());
        if let Some(name) = path.strip_prefix("/api/v1/nodes/") {
            return match self.labels.get(name) {
                Some(labels) => sent(200, &json!({"metadata": {"name": name, "labels": labels}})),
                None => absent("nodes", name),
            };
        }
        if path.starts_with(CRDS) {
            return sent(
                200,
                &json!({"status": {"conditions": [{"type": "Established", "status": "True"}]}}),
            );
        }
        match (method, path) {
            ("GET", NODE_CONFIGS) => sent_text(200, list(&self.node_configs, self.version)),
            ("GET", CONFIGS) => sent(
                200,
                &json!({"items": [self.config], "metadata": {"resourceVersion": self.version.to_string()}}),
            ),
            ("GET", "/apis/cilium.io") => sent(200, &json!({"versions": [{"version": "v2"}]})),
            ("GET", "/apis/cilium.io/v2") => sent(200, &json!({"resources": [{"name": "ciliumcidrgroups"}]})),
            ("POST", GROUPS) => {
                let group = body(request);
                let name = group["metadata"]["name"].as_str().expect("a name");
                if self.groups.contains_key(name) {
                    return refused(409, "AlreadyExists", name);
                }
                self.put_group(name, texts(&group["spec"]["externalCIDRs"]), at, true);
                sent(201, &self.groups[name].object(name))
            }
            ("POST", _) => sent(201, &json!({})),
            _ => self.handle_object(request, path, method, at),
        }
    }

    fn handle_object(&mut self, request: &Request, path: &str, method: &str, at: Duration) -> Response {
        if let Some(name) = path.strip_prefix(GROUPS).map(|rest| rest.trim_start_matches('/')) {
            let Some(group) = self.groups.get(name) else {
                return absent("ciliumcidrgroups", name);
            };
            if method == "GET" {
                return sent(200, &group.object(name));
            }
            let patch = body(request);
            if is_outdated(&patch, group.version) {
                return refused(409, "Conflict", name);
            }
            self.put_group(name, texts(&patch["spec"]["externalCIDRs"]), at, true);
            return sent(200, &self.groups[name].object(name));
        }
        let parts: Vec<&str> = path.rsplitn(3, '/').collect();
        match parts[..] {
            ["status", CONFIG, CONFIGS] => self.patch_config(&body(request), at),
            ["status", name, NODE_CONFIGS] => self.patch_node_config(name, &body(request), at),
            _ => absent("paths", path),
        }
    }

    fn patch_config(&mut self, patch: &Value, at: Duration) -> Response {
        if is_outdated(patch, number(&self.config["metadata"]["resourceVersion"])) {
            return refused(409, "Conflict", CONFIG);
        }
        self.version += 1;
        k6u_testkit::apiserver::api::merge(&mut self.config["status"], &patch["status"]);
        self.config["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let (reason, _) = self.ready();
        if self.reasons.last().is_none_or(|(_, last)| *last != reason) {
            self.reasons.push((at, reason));
        }
        sent(200, &self.config)
    }

    fn patch_node_config(&mut self, name: &str, patch: &Value, at: Duration) -> Response {
        let Some(config) = self.node_configs.get_mut(name) else {
            return absent("ip6updatenodeconfigs", name);
        };
        if is_outdated(patch, config.version) {
            return refused(409, "Conflict", name);
        }
        let mut is_change = false;
        for (node, entry) in patch["status"]["nodes"].as_object().into_iter().flatten() {
            let before = match entry {
                Value::Null => config.nodes.remove(node),
                entry => {
                    let mut stored = json!({});
                    k6u_testkit::apiserver::api::merge(&mut stored, entry);
                    config.nodes.insert(node.clone(), stored.to_string())
                }
            };
            is_change |= before.as_deref().map(prefixes) != config.nodes.get(node).map(|entry| prefixes(entry));
            if let Some(before) = before {
                self.left.push((at, prefixes(&before)));
            }
        }
        self.version += 1;
        config.version = self.version;
        let response = sent_text(200, format!("{{{}}}", metadata(name, config)));
        if is_change {
            self.note_published(at);
        }
        response
    }

    /// Records since when an entry has each prefix.
    fn note_published(&mut self, at: Duration) {
        let entries = self.node_configs.values().flat_map(|config| config.nodes.values());
        let now: BTreeSet<Prefix> = entries.flat_map(|entry| prefixes(entry)).collect();
        self.published.retain(|prefix, _| now.contains(prefix));
        now.into_iter().for_each(|prefix| {
            self.published.entry(prefix).or_insert(at);
        });
    }
}

/// The prefixes in an entry.
fn prefixes(entry: &str) -> Vec<Prefix> {
    let entry: Value = serde_json::from_str(entry).expect("JSON");
    let texts = texts(&entry["prefixes"]).into_iter();
    texts.map(|text| text.parse().expect("a prefix")).collect()
}

/// The reason that goes with an HTTP status.
fn reason(status: u16) -> &'static str {
    match status {
        403 => "Forbidden",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    }
}

fn kind(request: &Request) -> Kind {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", _) => Kind::Read,
        (_, path) if path.starts_with(NODE_CONFIGS) => Kind::Publication,
        (_, path) if path.starts_with(GROUPS) => Kind::GroupWrite,
        (_, path) if path.starts_with(CRDS) => Kind::Deployment,
        _ => Kind::Report,
    }
}

fn timestamp(at: Duration) -> String {
    k6u_testkit::apiserver::api::timestamp(START + at)
}

/// A refusal with this status; 4040 is the 404 of a path that is not served.
fn any(status: u16, request: &Request) -> Response {
    let name = request
        .path
        .trim_end_matches("/status")
        .rsplit('/')
        .next()
        .unwrap_or_default();
    match status {
        401 => refused(401, "Unauthorized", name),
        403 => refused(403, "Forbidden", name),
        404 => absent("things", name),
        409 => refused(409, "Conflict", name),
        422 => refused(422, "Invalid", name),
        429 => refused(429, "TooManyRequests", name),
        4040 => Response::new(404, "text/plain", "404 page not found\n".to_string()),
        other => refused(other, "InternalError", name),
    }
}
