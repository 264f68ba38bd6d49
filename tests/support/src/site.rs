//! A site: a cluster, a node, an interface, and the two objects of the examples.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::apiserver::fault::{Fault, Plan};
use crate::apiserver::http::Response;
use crate::apiserver::kinds::KINDS;
use crate::apiserver::rbac::{Attempt, Identity, cluster_role};
use crate::apiserver::server::{ApiServer, Cilium, TOKEN, cidrs, cidrs_of};
use crate::apiserver::store::{Key, Store};
use crate::example::cidrs_for;
pub use crate::example::{CONFIG, CRDS, GROUP, NODE, NODE_CONFIG, RBAC};
use crate::machine::namespace::Interface;
use crate::machine::node::{Account, Node, Start};
use serde_json::{Value, json};

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Sets the binary under test: the one that cargo built for this test, or K6U_BIN, a musl build for example. A test's
/// `main` calls this first.
pub fn use_binary(built: &str) {
    let binary = std::env::var_os("K6U_BIN").map_or_else(|| built.into(), PathBuf::from);
    BINARY.get_or_init(|| binary);
}

/// The binary under test.
///
/// # Panics
/// If [`use_binary`] was not called.
pub fn binary() -> &'static Path {
    BINARY.get().expect("main calls use_binary")
}

/// The config of the examples.
pub const CONFIG_NAME: &str = "ip6-update-config";

/// Another node.
pub const NODE_2: &str = "node2.example.com";

/// The time limit of each wait, long enough for any machine: a wait ends as soon as its condition holds.
pub const SOON: Duration = Duration::from_secs(120);
/// The list of IP6UpdateConfigs.
pub const CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updateconfigs";
/// The list of IP6UpdateNodeConfigs.
pub const NODE_CONFIGS: &str = "/apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs";
/// The content type of merge patches.
pub const MERGE: &str = "application/merge-patch+json";
/// An address of the first delegated prefix.
pub const ADDRESS: &str = "2001:db8:1234:5671::10";
/// An address of the delegated prefix after a renumbering.
pub const NEW_ADDRESS: &str = "2001:db8:9876:5431::10";

/// A cluster with one interface.
pub struct Site {
    /// The API server.
    pub server: ApiServer,
    /// The service account's files.
    pub account: Account,
    /// The interface that the node config names.
    pub interface: Interface,
}

impl Default for Site {
    fn default() -> Self {
        Site::new()
    }
}

impl Site {
    /// An API server without k6u's CRDs, and an interface without address.
    pub fn bare(ip: &str, cilium: Option<Cilium>) -> Self {
        let server = ApiServer::start(ip, cilium, RBAC).expect("a server");
        let account = Account::new(&server);
        Site {
            server,
            account,
            interface: Interface::new(),
        }
    }

    /// A site with the CRDs and the two objects. The node config names this site's interface.
    pub fn new() -> Self {
        let site = Site::bare("127.0.0.1", Some(Cilium::Both));
        site.install();
        site
    }

    /// A site with an address on the interface as well.
    pub fn with_address(address: &str) -> Self {
        let site = Site::new();
        site.interface.add(address);
        site
    }

    /// Deploys the CRDs and the two objects.
    pub fn install(&self) {
        self.server.apply_crds(CRDS, "k6u");
        self.server.create(CONFIG);
        self.server.create(&NODE_CONFIG.replace("eth0", &self.interface.name));
    }

    /// The start of k6u on this site. The log has level trace, so that all of it is searched for the token.
    pub fn start(&self) -> Start {
        Start::new(binary(), &self.server, &self.account, NODE).with("RUST_LOG", "trace")
    }

    /// Runs k6u with this interval in seconds.
    pub fn run(&self, interval: u32) -> Running {
        Running(self.start().with("UPDATE_INTERVAL", &interval.to_string()).spawn())
    }

    /// Stores an entry with these prefixes, as one that a node published some time ago.
    pub fn publish(&self, node: &str, prefixes: &[&str]) {
        let entry = json!({"prefixes": prefixes, "observedTime": "2026-11-24T00:00:00Z", "message": ""});
        self.patch(
            &format!("{NODE_CONFIGS}/ip6-update-node1/status"),
            json!({"status": {"nodes": {node: entry}}}),
        );
    }

    /// Lets the IP6UpdateNodeConfig select every node.
    pub fn select_all_nodes(&self) {
        self.patch(
            &format!("{NODE_CONFIGS}/ip6-update-node1"),
            json!({"spec": {"nodeSelector": null}}),
        );
    }

    /// Another writer overwrites the group.
    pub fn overwrite_group(&self) {
        self.patch(
            &format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
            json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
        );
    }

    /// A site with a running k6u after its first round. The group follows 2001:db8:1234:5670::/60. The node finds an
    /// entry of its own, as after a restart, so it may remove CIDRs from lists.
    pub fn settled(interval: u32) -> (Self, Running) {
        let site = Site::with_address("2001:db8:1234:5671::10");
        site.publish(NODE, &["2001:db8:1234:5671::/64"]);
        let node = site.run(interval);
        node.wait_log("DEBUG round: ", SOON);
        site.wait_lan("2001:db8:1234:567");
        (site, node)
    }

    /// Renumbers the interface to [`NEW_ADDRESS`].
    pub fn renumber(&self) {
        self.interface.add(NEW_ADDRESS);
        self.interface.remove(ADDRESS);
    }

    /// Deletes the IP6UpdateNodeConfig and creates it again.
    pub fn recreate_node_config(&self) {
        self.server
            .admin("DELETE", &format!("{NODE_CONFIGS}/ip6-update-node1"), "", &Value::Null);
        self.server.create(&NODE_CONFIG.replace("eth0", &self.interface.name));
    }

    /// Holds back the answer to the next request that starts with this line, until it is released.
    pub fn hold(&self, line: &str) -> Hold<'_> {
        let before = requests(&self.server.store(), line).len();
        let release = Arc::new(AtomicBool::new(false));
        self.server.inject(Plan::on(line, 1, Fault::Held(Arc::clone(&release))));
        Hold {
            site: self,
            line: line.into(),
            before,
            release,
        }
    }

    /// Waits until the group holds exactly these CIDRs, in this order.
    pub fn wait_group(&self, group: &str, expected: &[&str]) {
        let reached = self
            .server
            .wait(SOON, |store| (cidrs(store, group)? == expected).then_some(()));
        assert!(
            reached.is_some(),
            "{group} holds {:?}, not {expected:?}",
            cidrs(&self.server.store(), group)
        );
    }

    /// Waits until the example's group follows this delegated prefix, given up to its last hex digit.
    pub fn wait_lan(&self, start: &str) {
        let expected = cidrs_for(start);
        self.wait_group(GROUP, &expected.each_ref().map(String::as_str));
    }

    /// Waits until the config's Ready has this reason; returns the condition.
    pub fn wait_reason(&self, config: &str, reason: &str) -> Value {
        let found = self.server.wait(SOON, |store| {
            Some(ready(store, config)?).filter(|c| c["reason"] == reason)
        });
        found.unwrap_or_else(|| panic!("{config} is {:?}, not {reason}", ready(&self.server.store(), config)))
    }

    /// Waits until Ready of the example's config has this reason, and this text in its message; returns the message.
    pub fn wait_message(&self, reason: &str, text: &str) -> String {
        let found = self.server.wait(SOON, |store| {
            let condition = ready(store, CONFIG_NAME)?;
            let message = condition["message"].as_str()?.to_string();
            (condition["reason"] == reason && message.contains(text)).then_some(message)
        });
        found.unwrap_or_else(|| {
            let now = ready(&self.server.store(), CONFIG_NAME);
            panic!("{now:?}, not {reason} with {text:?}")
        })
    }

    /// Waits until this many more rounds began.
    pub fn wait_rounds(&self, rounds: usize) {
        let count = |store: &Store| requests(store, &format!("GET {NODE_CONFIGS}")).len();
        let before = count(&self.server.store());
        let reached = self
            .server
            .wait(SOON, |store| (count(store) >= before + rounds).then_some(()));
        assert!(reached.is_some(), "no {rounds} rounds");
    }

    /// An object as it is stored.
    pub fn object(&self, group: &str, resource: &str, name: &str) -> Option<Value> {
        self.server
            .store()
            .objects
            .get(&Key::new(group, resource, name))
            .cloned()
    }

    /// The group as it is stored.
    pub fn group(&self, name: &str) -> Option<Value> {
        self.object("cilium.io", "ciliumcidrgroups", name)
    }

    /// The number of CIDRs in the example's group.
    pub fn held(&self) -> usize {
        cidrs(&self.server.store(), GROUP).map_or(0, |cidrs| cidrs.len())
    }

    /// Stores a spec of the example's config that the schema would refuse, as one that is older than the schema.
    pub fn force_spec(&self, spec: Value) {
        let key = Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME);
        let mut store = self.server.store();
        let mut config = store.objects[&key].clone();
        config["spec"] = spec;
        let generation = config["metadata"]["generation"].as_i64().unwrap_or_default();
        config["metadata"]["generation"] = json!(generation + 1);
        store.put(key, config);
    }

    /// Creates a group, as another writer would.
    pub fn create_group(&self, name: &str, cidrs: &[&str]) {
        let group = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": name},
            "spec": {"externalCIDRs": cidrs}});
        self.server.admin(
            "POST",
            "/apis/cilium.io/v2/ciliumcidrgroups",
            "application/json",
            &group,
        );
    }

    /// Patches an object as an administrator.
    pub fn patch(&self, path: &str, patch: Value) {
        self.server.admin("PATCH", path, MERGE, &patch);
    }

    /// Revokes a right of k6u's service account.
    pub fn revoke(&self, verb: &str, resource: &str) {
        let mut rules = Vec::new();
        for mut rule in cluster_role(RBAC) {
            if rule.resources.iter().any(|r| r == resource) {
                let mut less = rule.clone();
                less.resources.retain(|r| r == resource);
                less.verbs.retain(|v| v != verb);
                rules.push(less);
                rule.resources.retain(|r| r != resource);
            }
            rules.push(rule);
        }
        self.server.set_token(TOKEN, Some(Identity::ServiceAccount(rules)));
    }

    /// Grants k6u's service account the rights of a component, beside its own.
    pub fn grant(&self, component: &str) {
        let rules = [cluster_role(RBAC), cluster_role(component)].concat();
        self.server.set_token(TOKEN, Some(Identity::ServiceAccount(rules)));
    }

    /// Restores all rights.
    pub fn restore_rights(&self) {
        self.server
            .set_token(TOKEN, Some(Identity::ServiceAccount(cluster_role(RBAC))));
    }

    /// The reasons of all Events so far, each with its note.
    pub fn events(&self) -> Vec<(String, String)> {
        let store = self.server.store();
        let events = store.objects.iter().filter(|(key, _)| key.resource == "events");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        events
            .map(|(_, event)| (text(&event["reason"]), text(&event["message"])))
            .collect()
    }

    /// The number of Events so far with this reason.
    pub fn count_events(&self, reason: &str) -> usize {
        self.events().iter().filter(|event| event.0 == reason).count()
    }

    /// The reasons of the Events about this object of k6u, as it is now: `kubectl describe` goes by the uid.
    pub fn events_about(&self, resource: &str, name: &str) -> Vec<String> {
        let object = self.object("apps.fuwafuwatime.moe", resource, name);
        let uid = object.expect("it is there")["metadata"]["uid"].clone();
        let store = self.server.store();
        let events = store.objects.iter().filter(|(key, _)| key.resource == "events");
        events
            .filter(|(_, event)| event["involvedObject"]["uid"] == uid)
            .map(|(_, event)| event["reason"].to_string())
            .collect()
    }

    /// A second uplink with this address, and an IP6UpdateNodeConfig `second` for it, which selects every node.
    pub fn second_uplink(&self, address: &str) -> Interface {
        let uplink = Interface::new();
        uplink.add(address);
        let second = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
            "metadata": {"name": "second"}, "spec": {"interface": uplink.name}});
        self.server.admin("POST", NODE_CONFIGS, "application/json", &second);
        uplink
    }

    /// From now on a webhook writes its own message into each entry.
    pub fn change_messages(&self) {
        self.server.store().mutation = Some(|key, object| {
            if key.resource == "ip6updatenodeconfigs" {
                for (_, entry) in object["status"]["nodes"].as_object_mut().into_iter().flatten() {
                    entry["message"] = json!("seen by policy");
                }
            }
        });
    }

    /// From now on publications are stored, but their answers are lost.
    pub fn lose_answers_to_publications(&self) {
        let publications = format!("PATCH {NODE_CONFIGS}/");
        self.server.inject(Plan::on(&publications, usize::MAX, Fault::CutAt(0)));
    }

    /// The requests so far that write, without publications.
    pub fn changes(&self) -> Vec<String> {
        let mut all = writes(&self.server.store());
        all.retain(|line| !line.starts_with(&format!("PATCH {NODE_CONFIGS}/")));
        all
    }

    /// Every list that the group has held, in order.
    pub fn group_history(&self, name: &str) -> Vec<Vec<String>> {
        let store = self.server.store();
        let of_group = store
            .history
            .iter()
            .filter(|p| p.key == Key::new("cilium.io", "ciliumcidrgroups", name));
        of_group.filter_map(|past| past.object.as_ref()).map(cidrs_of).collect()
    }
}

/// The attempts of k6u in all scenarios that RBAC allowed.
static ALLOWED: Mutex<BTreeSet<Attempt>> = Mutex::new(BTreeSet::new());

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let store = self.server.store();
        let allowed = store.log.iter().filter(|logged| ![401, 403].contains(&logged.status));
        ALLOWED
            .lock()
            .expect("no panic meanwhile")
            .extend(allowed.flat_map(|logged| logged.attempts.clone()));
    }
}

/// A request whose answer is held back.
pub struct Hold<'a> {
    site: &'a Site,
    line: String,
    before: usize,
    release: Arc<AtomicBool>,
}

impl Hold<'_> {
    /// Waits until the request has arrived.
    pub fn wait(&self) {
        let came = |store: &Store| (requests(store, &self.line).len() > self.before).then_some(());
        assert!(self.site.server.wait(SOON, came).is_some(), "no {}", self.line);
    }

    /// Releases the answer.
    pub fn release(&self) {
        self.release.store(true, Ordering::Relaxed);
    }
}

/// The rights in rbac.yaml and the components that no scenario used.
pub fn unused_rights() -> Vec<String> {
    let asked = ALLOWED.lock().expect("no panic meanwhile");
    let mut unused = Vec::new();
    let components = KINDS.iter().flat_map(|kind| cluster_role(kind.rights));
    for rule in cluster_role(RBAC).into_iter().chain(components) {
        let resources = rule
            .groups
            .iter()
            .flat_map(|group| rule.resources.iter().map(move |r| (group, r)));
        let rights = resources.flat_map(|(group, r)| rule.verbs.iter().map(move |verb| (verb, group, r)));
        for (verb, group, resource) in rights {
            let names = if rule.names.is_empty() {
                vec![None]
            } else {
                rule.names.iter().map(Some).collect()
            };
            for name in names {
                let used = asked.iter().any(|attempt| {
                    let named = name.is_none_or(|name| attempt.name == *name);
                    attempt.verb == *verb
                        && attempt.resource == *resource
                        && attempt.group == *group
                        && (rule.namespace.is_empty() || rule.namespace == attempt.namespace)
                        && named
                });
                if !used {
                    let name = name.map_or("", String::as_str);
                    unused.push(format!("{verb} {resource} {group} {name}"));
                }
            }
        }
    }
    unused
}

/// A running k6u. When it is dropped, its log is searched for the token.
pub struct Running(pub Node);

impl std::ops::Deref for Running {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("k6u logged:\n{}", self.0.log().join("\n"));
        } else {
            assert_eq!(self.0.count(TOKEN), 0, "the token is in the log");
            assert_eq!(self.0.count("Bearer"), 0, "an Authorization header is in the log");
        }
    }
}

impl Running {
    /// Waits until there are this many warnings and errors. Returns them.
    pub fn wait_complaints(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + SOON;
        while self.complaints().len() < count && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let complaints = self.complaints();
        assert_eq!(complaints.len(), count, "{complaints:#?}");
        complaints
    }

    /// The warnings and errors so far.
    pub fn complaints(&self) -> Vec<String> {
        self.0.log().into_iter().filter(|line| is_complaint(line)).collect()
    }
}

/// Runs a scenario for each case, all at the same time, because scenarios mostly wait.
pub fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, scenario: impl Fn(T) + Sync) {
    let scenario = &scenario;
    std::thread::scope(|scope| {
        let cases: Vec<_> = cases
            .into_iter()
            .map(|case| scope.spawn(move || scenario(case)))
            .collect();
        for case in cases {
            case.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// Whether a line of the log is a warning or an error.
pub fn is_complaint(line: &str) -> bool {
    line.contains(" WARN ") || line.contains(" ERROR ")
}

/// The Ready condition of a config.
pub fn ready(store: &Store, config: &str) -> Option<Value> {
    let config = store
        .objects
        .get(&Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", config))?;
    let conditions = config["status"]["conditions"].as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .cloned()
}

/// The requests so far whose `METHOD /path` starts with this.
pub fn requests(store: &Store, start: &str) -> Vec<String> {
    let lines = store.log.iter().map(|logged| logged.line.clone());
    lines.filter(|line| line.starts_with(start)).collect()
}

/// The requests so far that write.
pub fn writes(store: &Store) -> Vec<String> {
    let lines = store.log.iter().map(|logged| logged.line.clone());
    lines.filter(|line| !line.starts_with("GET ")).collect()
}

/// A node's entry in the example's IP6UpdateNodeConfig.
pub fn entry(store: &Store, node: &str) -> Option<Value> {
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    Some(store.objects.get(&key)?["status"]["nodes"][node].clone()).filter(Value::is_object)
}

/// The message of a condition or an entry.
pub fn message(value: &Value) -> &str {
    value["message"].as_str().unwrap_or_default()
}

/// An answer with this JSON.
pub fn json_answer(body: &Value) -> Fault {
    Fault::Answer(Response::new(200, "application/json", body.to_string()))
}

/// The answer of an API server that refuses a request about one object.
pub fn refusal(status: u16, reason: &str, message: &str, name: &str) -> Fault {
    let body = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": status, "message": message,
        "details": {"name": name}});
    Fault::Answer(Response::new(status, "application/json", body.to_string()))
}

/// The message of an API server whose admission webhook is down.
pub const WEBHOOK: &str = "Internal error occurred: failed calling webhook \"guard.example.com\": connection refused";

/// The refusal of a request about this object by an admission webhook.
pub fn denial(name: &str) -> Fault {
    refusal(
        403,
        "Forbidden",
        "admission webhook \"guard\" denied the request: no",
        name,
    )
}

/// The forms of refusals by admission. None of them is a missing right.
pub fn refusals(name: &str) -> [Fault; 3] {
    let policy = format!("{name:?} is forbidden: ValidatingAdmissionPolicy 'guard' denied request: not on Fridays");
    [
        refusal(500, "InternalError", WEBHOOK, name),
        refusal(403, "Forbidden", &policy, name),
        refusal(422, "Invalid", &format!("{name:?} is invalid: too long"), name),
    ]
}

/// `Some` if the example's group holds a CIDR that starts with this text.
pub fn follows(store: &Store, start: &str) -> Option<()> {
    cidrs(store, GROUP)?
        .iter()
        .any(|cidr| cidr.starts_with(start))
        .then_some(())
}

/// Adds groups to the example's config.
pub fn name_groups(site: &Site, names: &[String]) {
    let mut list = vec![json!({"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2]})];
    list.extend(
        names
            .iter()
            .map(|name| json!({"ciliumCIDRGroupName": name, "prefixIds": [1]})),
    );
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": list}}),
    );
}

/// The reasons of Ready that were stored, in order, without repetitions.
pub fn reasons(store: &Store, config: &str) -> Vec<String> {
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", config);
    let mut reasons: Vec<String> = store
        .history
        .iter()
        .filter(|past| past.key == key)
        .filter_map(|past| past.object.as_ref())
        .filter_map(|object| Some(object["status"]["conditions"][0]["reason"].as_str()?.to_string()))
        .collect();
    reasons.dedup();
    reasons
}
