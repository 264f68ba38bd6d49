//! `make e2e`: the main job, the schemas and the upgrade on a real control plane.
//!
//! etcd and kube-apiserver come from $KUBEBUILDER_ASSETS (the envtest convention), kubectl from the PATH.
//! All of it runs in a user and network namespace of its own. The argument is the k6u binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use k6u_testkit::certificates::TokenKey;
use k6u_testkit::example::{GROUP, NODE, cidrs_for};
use k6u_testkit::namespace::{self, Interface};
use k6u_testkit::node::Node;
use serde_json::{Value, json};

const CRDS_OF_0_3: &str = "tests/data/crds-0.3.yaml";
const CILIUM_POLICIES: &str = "tests/data/ciliumnetworkpolicies.yaml";
const CILIUM: &str = "tests/support/cilium/ciliumcidrgroups-1.18.yaml";
const CONFIG: &str = "manifests/examples/config.yaml";
const NODE_CONFIG: &str = "manifests/examples/nodeconfig.yaml";
const PORT: &str = "6443";
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let complete = |folder: &PathBuf| {
        ["etcd", "kube-apiserver"]
            .iter()
            .all(|program| folder.join(program).exists())
    };
    let Some(assets) = assets.filter(complete) else {
        eprintln!("e2e: KUBEBUILDER_ASSETS does not name a folder with etcd and kube-apiserver.");
        eprintln!("     go install sigs.k8s.io/controller-runtime/tools/setup-envtest@latest");
        eprintln!("     export KUBEBUILDER_ASSETS=$(setup-envtest use -p path)");
        return ExitCode::FAILURE;
    };
    let Some(binary) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("e2e: name the k6u binary");
        return ExitCode::from(2);
    };
    if let Err(e) = namespace::enter() {
        eprintln!("e2e: this machine forbids user and network namespaces: {e}");
        return ExitCode::FAILURE;
    }
    let mut cluster = Cluster::start(&assets);
    let interface = Interface::named("eth0");
    interface.add("2001:db8:1234:5671::10");
    let tests: [(&str, &Test); 11] = [
        ("upgrade_from_0_3", &|c| upgrade_from_0_3(c, &binary)),
        ("install_and_main_job", &|c| {
            install_and_main_job(c, &binary, &interface)
        }),
        ("kubectl_shows_it", &|c| kubectl_shows_it(c, &binary)),
        ("schemas_refuse_what_is_wrong", &|c| schemas_refuse_what_is_wrong(c)),
        ("least_privilege", &|c| least_privilege(c)),
        ("drift_and_a_right_list", &|c| drift_and_a_right_list(c, &binary)),
        ("api_server_restart", &|c| api_server_restart(c, &binary, &interface)),
        ("nodes_take_turns", &|c| nodes_take_turns(c, &binary, &interface)),
        ("a_token_expires", &|c| a_token_expires(c, &binary)),
        ("uninstall", &|c| uninstall(c)),
        ("an_empty_cluster", &|c| an_empty_cluster(c, &binary, &interface)),
    ];
    for (name, test) in tests {
        test(&mut cluster);
        println!("test e2e::{name} ... ok");
    }
    println!("{} passed, 0 failed", tests.len());
    ExitCode::SUCCESS
}

/// Does something on a control plane; panics if it is not as it should be.
type Test<'a> = dyn Fn(&mut Cluster) + 'a;

/// A control plane.
struct Cluster {
    assets: PathBuf,
    folder: PathBuf,
    key: TokenKey,
    etcd: Child,
    apiserver: Child,
}

impl Cluster {
    fn start(assets: &Path) -> Self {
        let folder = std::env::temp_dir().join(format!("k6u-e2e-{}", std::process::id()));
        fs::create_dir_all(folder.join("account")).expect("a folder");
        let key = TokenKey::new();
        let (private, public) = key.pem();
        fs::write(folder.join("sa.key"), private).expect("a key");
        fs::write(folder.join("sa.pub"), public).expect("a key");
        fs::write(
            folder.join("tokens.csv"),
            "admin-token,admin,admin,\"system:masters\"\n",
        )
        .expect("tokens");
        let mut etcd = Command::new(assets.join("etcd"));
        etcd.arg("--data-dir").arg(folder.join("etcd"));
        for (name, port) in [
            ("listen-client-urls", 2379),
            ("advertise-client-urls", 2379),
            ("listen-peer-urls", 2380),
        ] {
            etcd.arg(format!("--{name}=http://127.0.0.1:{port}"));
        }
        let etcd = logged(&mut etcd, &folder.join("etcd.log"));
        let apiserver = start_apiserver(assets, &folder);
        let cluster = Cluster {
            assets: assets.into(),
            folder,
            key,
            etcd,
            apiserver,
        };
        cluster.wait_ready();
        cluster
    }

    fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.try_kubectl(&["get", "--raw", "/readyz"], "").0 {
            let log = fs::read_to_string(self.folder.join("apiserver.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the API server does not get ready: {log}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs kubectl; says whether it succeeded, and what it said.
    fn try_kubectl(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let file = self.folder.join("input.yaml");
        fs::write(&file, input).expect("a file");
        let mut command = Command::new("kubectl");
        command
            .arg(format!("--server=https://127.0.0.1:{PORT}"))
            .arg("--token=admin-token");
        command
            .arg("--certificate-authority")
            .arg(self.folder.join("certs/apiserver.crt"));
        command.arg("--cache-dir").arg(self.folder.join("cache"));
        command.args(arguments).stdin(fs::File::open(file).expect("the file"));
        let output = command.output().expect("kubectl is on the PATH");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let (succeeded, text) = self.try_kubectl(arguments, "");
        assert!(succeeded, "kubectl {}: {text}", arguments.join(" "));
        text
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[arguments, &["-o", "json"]].concat())).expect("JSON")
    }

    /// A fresh token of k6u's service account.
    fn token(&self) -> String {
        self.kubectl(&["--namespace=kube-system", "create", "token", "k6u"])
    }

    /// Puts a token where k6u reads it.
    fn give_token(&self, token: &str) {
        let new = self.folder.join("new-token");
        fs::write(&new, token).expect("the token");
        fs::rename(new, self.folder.join("account/token")).expect("the token in place");
    }

    /// k6u with a fresh token of its service account.
    fn run(&self, binary: &Path) -> Node {
        self.give_token(&self.token());
        self.run_as(binary, NODE)
    }

    /// k6u on a node, with the token that is there.
    fn run_as(&self, binary: &Path, node: &str) -> Node {
        let account = self.folder.join("account");
        fs::copy(self.folder.join("certs/apiserver.crt"), account.join("ca.crt")).expect("the CA");
        let mut command = Command::new(binary);
        command
            .env_clear()
            .env("NODE_NAME", node)
            .env("POD_NAMESPACE", "kube-system")
            .env("POD_NAME", "k6u-e2e");
        command
            .env("UPDATE_INTERVAL", "1")
            .env("RUST_LOG", "debug")
            .env("SERVICE_ACCOUNT_DIR", account);
        command
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", PORT);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Node::of(command.spawn().expect("k6u starts"))
    }

    /// Waits until the group holds the three /64 of the delegated prefix that starts so.
    fn wait_group(&self, start: &str, node: &Node) {
        let wanted = json!(cidrs_for(start));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, text) = self.try_kubectl(&["get", "ciliumcidrgroup", GROUP, "-o", "json"], "");
            let group: Value = serde_json::from_str(&text).unwrap_or_default();
            if group["spec"]["externalCIDRs"] == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{text}\n{:#?}", node.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in [&mut self.apiserver, &mut self.etcd] {
            // They may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn start_apiserver(assets: &Path, folder: &Path) -> Child {
    let key = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(assets.join("kube-apiserver"));
    command.args([
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=127.0.0.1",
        "--authorization-mode=RBAC",
    ]);
    command.args(["--advertise-address=192.0.2.2", "--endpoint-reconciler-type=none"]);
    command.args([
        "--service-cluster-ip-range=10.0.0.0/24",
        "--disable-admission-plugins=ServiceAccount",
    ]);
    command
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--secure-port={PORT}"));
    command.arg(format!("--service-account-key-file={}", key("sa.pub")));
    command.arg(format!("--service-account-signing-key-file={}", key("sa.key")));
    command
        .arg("--token-auth-file")
        .arg(folder.join("tokens.csv"))
        .arg("--cert-dir")
        .arg(folder.join("certs"));
    logged(&mut command, &folder.join("apiserver.log"))
}

fn logged(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::create(log).expect("a log file");
    let error = log.try_clone().expect("the same file");
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error)
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// The CRDs, objects and statuses that k6u 0.3 left behind keep working, and become those of this release.
fn upgrade_from_0_3(cluster: &mut Cluster, binary: &Path) {
    let node =
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {NODE}, labels: {{kubernetes.io/hostname: {NODE}}}}}\n");
    let (created, text) = cluster.try_kubectl(&["apply", "-f", "-"], &node);
    assert!(created, "{text}");
    cluster.kubectl(&["apply", "-f", CILIUM, "-f", "manifests/rbac.yaml"]);
    cluster.kubectl(&[
        "apply",
        "--server-side",
        "--field-manager=update_crds",
        "-f",
        CRDS_OF_0_3,
    ]);
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
    let deadline = Instant::now() + PATIENCE;
    while !cluster.try_kubectl(&["apply", "-f", CONFIG, "-f", NODE_CONFIG], "").0 {
        assert!(Instant::now() < deadline, "the objects of 0.3 cannot be created");
        std::thread::sleep(Duration::from_millis(200));
    }
    let ready = json!({"type": "Ready", "status": "True", "reason": "Updated", "message": "",
        "lastTransitionTime": "2025-06-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [ready, ready, ready]}}).to_string();
    for object in [
        "ip6updateconfig/ip6-update-config",
        "ip6updatenodeconfig/ip6-update-node1",
    ] {
        cluster.kubectl(&[
            "patch",
            object,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &status,
        ]);
    }
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:1234:567", &node);
    let deadline = Instant::now() + PATIENCE;
    let conditions = || cluster.json(&["get", "ip6updateconfig", "ip6-update-config"])["status"]["conditions"].clone();
    while conditions().as_array().is_none_or(|list| list.len() != 1) {
        assert!(Instant::now() < deadline, "{}", conditions());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(conditions()[0]["lastTransitionTime"], "2025-06-01T00:00:00Z");
    assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 0, "{:#?}", node.log());
}

fn install_and_main_job(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", "manifests"]);
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:1234:567", &node);
    interface.add("2001:db8:9876:5431::10");
    interface.deprecate("2001:db8:1234:5671::10");
    cluster.wait_group("2001:db8:9876:543", &node);
    // The readers of the next step want all of it.
    node.wait_log("2001:db8:9876:5432::/64", PATIENCE);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 0, "{:#?}", node.log());
}

fn kubectl_shows_it(cluster: &mut Cluster, binary: &Path) {
    // As the README says: k6u crds | kubectl apply --server-side -f -
    let crds = Command::new(binary).arg("crds").output().expect("k6u starts");
    let crds = String::from_utf8(crds.stdout).expect("text");
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let (applied, text) = cluster.try_kubectl(&apply, &crds);
    assert!(applied, "{text}");
    cluster.kubectl(&["-n", "kube-system", "get", "pods", "-l", "app.kubernetes.io/name=k6u"]);
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "ip6uc/ip6-update-config",
        "--timeout=30s",
    ]);
    for (kind, words) in [
        (
            "ip6uc",
            vec!["ip6-update-config", "True", "Updated", "2001:db8:9876:5430::/60"],
        ),
        (
            "ip6unc",
            vec!["ip6-update-node1", NODE, "eth0", "2001:db8:9876:5431::/64"],
        ),
    ] {
        let table = cluster.kubectl(&["get", kind]);
        assert!(table.lines().all(|line| line.len() <= 120), "{table}");
        assert!(words.iter().all(|word| table.contains(word)), "{table}");
        print!("{table}");
    }
    cluster.kubectl(&["apply", "-f", CILIUM_POLICIES]);
    let policies = "crd/ciliumnetworkpolicies.cilium.io";
    cluster.kubectl(&["wait", "--for=condition=Established", policies]);
    let deadline = Instant::now() + PATIENCE;
    let policy = [
        "apply",
        "--validate=strict",
        "-f",
        "manifests/examples/networkpolicy.yaml",
    ];
    while !cluster.try_kubectl(&policy, "").0 {
        let (_, text) = cluster.try_kubectl(&policy, "");
        assert!(Instant::now() < deadline, "{text}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let cnp = cluster.json(&["get", "ciliumnetworkpolicy", "web-from-lan"]);
    assert_eq!(cnp["spec"]["ingress"][0]["fromCIDRSet"][0]["cidrGroupRef"], GROUP);
    let described = cluster.kubectl(&["describe", "ip6uc", "ip6-update-config"]);
    assert!(
        described.contains("2001:db8:1234:5670::/60 -> 2001:db8:9876:5430::/60"),
        "{described}"
    );
    for field in [
        "ip6uc",
        "ip6uc.spec.delegatedPrefixLength",
        "ip6uc.spec.allowedPrefixes",
        "ip6uc.spec.keepDeprecatedSeconds",
        "ip6uc.spec.ciliumCIDRGroups.prefixIds",
        "ip6uc.status.conditions",
        "ip6unc.spec.interface",
        "ip6unc.spec.nodeSelector",
        "ip6unc.spec.staleAfterSeconds",
        "ip6unc.status.nodes",
    ] {
        let text = cluster.kubectl(&["explain", field]);
        let description = text.split("DESCRIPTION:").nth(1).unwrap_or_default().trim();
        assert!(
            description.len() > 20 && !description.starts_with("<empty>"),
            "{field}: {text}"
        );
    }
}

fn schemas_refuse_what_is_wrong(cluster: &mut Cluster) {
    let config = |spec: &str| {
        format!(
            "apiVersion: apps.fuwafuwatime.moe/v1\nkind: IP6UpdateConfig\nmetadata: {{name: x}}\nspec: {{{spec}}}\n"
        )
    };
    let node = |spec: &str| config(spec).replace("IP6UpdateConfig", "IP6UpdateNodeConfig");
    let group = |length: &str, ids: &str| {
        config(&format!(
            "delegatedPrefixLength: {length}, ciliumCIDRGroups: [{{ciliumCIDRGroupName: a, prefixIds: [{ids}]}}]"
        ))
    };
    let mut good = vec![
        node("interface: eth0"),
        node("interface: eth0, staleAfterSeconds: 0, nodeSelector: {}"),
        config("delegatedPrefixLength: 56, allowedPrefixes: ['2001:db8::/32', '::/0'], ciliumCIDRGroups: []"),
        config("delegatedPrefixLength: 56, keepDeprecatedSeconds: 7200, ciliumCIDRGroups: []"),
    ];
    let mut bad = vec![
        (group("0", "0"), "greater than or equal to 1"),
        (group("65", "0"), "less than or equal to 64"),
        (group("60", "-1"), "greater than or equal to 0"),
        (group("60", "1, 1"), "Duplicate value"),
        (group("60", "0.5"), "integer"),
        (config("delegatedPrefixLength: 60"), "Required value"),
        (
            config("delegatedPrefixLength: 60, allowedPrefixes: ['10.0.0.0/8'], ciliumCIDRGroups: []"),
            "should match",
        ),
        (
            config("delegatedPrefixLength: 60, allowedPrefixes: ['2001:db8::'], ciliumCIDRGroups: []"),
            "should match",
        ),
        (
            config("delegatedPrefixLength: 60, keepDeprecatedSeconds: 7201, ciliumCIDRGroups: []"),
            "less than or equal to 7200",
        ),
        (group("60", "0").replace("Name: a", "Name: A_b"), "should match"),
        (node("nodeSelector: {}"), "Required value"),
        (node("interface: a234567890123456"), "Too long"),
        (node("interface: a/b"), "should match"),
        (
            node("interface: eth0, staleAfterSeconds: -1"),
            "greater than or equal to 0",
        ),
    ];
    // The CEL rule, at both ends of every length.
    for length in 1..=64u32 {
        let highest = if length == 64 { 0 } else { u64::MAX >> length };
        good.push(group(
            &length.to_string(),
            &format!("0, {highest}").replace("0, 0", "0"),
        ));
        if length > 1 {
            bad.push((
                group(&length.to_string(), &(highest + 1).to_string()),
                "does not fit the delegated prefix",
            ));
        }
    }
    for object in &good {
        let (accepted, text) = cluster.try_kubectl(&["apply", "--dry-run=server", "-f", "-"], object);
        assert!(accepted, "{object}{text}");
    }
    for (object, why) in &bad {
        let (accepted, text) = cluster.try_kubectl(&["apply", "--dry-run=server", "-f", "-"], object);
        assert!(!accepted && text.contains(why), "{object}{text}");
    }
    println!("   {} objects accepted, {} refused", good.len(), bad.len());
}

fn least_privilege(cluster: &mut Cluster) {
    let may = |verb: &str, resource: &str| {
        let mut arguments = vec![
            "auth",
            "can-i",
            verb,
            resource,
            "--as=system:serviceaccount:kube-system:k6u",
        ];
        if let Some(whole) = resource.strip_suffix("/status") {
            arguments[3] = whole;
            arguments.push("--subresource=status");
        }
        cluster
            .try_kubectl(&arguments, "")
            .1
            .lines()
            .any(|line| line.trim() == "yes")
    };
    for (verb, resource) in [
        ("get", "nodes"),
        ("list", "ip6updateconfigs"),
        ("patch", "ip6updatenodeconfigs/status"),
        ("patch", "ciliumcidrgroups.cilium.io"),
        ("create", "events.events.k8s.io"),
        (
            "patch",
            "customresourcedefinitions/ip6updateconfigs.apps.fuwafuwatime.moe",
        ),
    ] {
        assert!(may(verb, resource), "may not {verb} {resource}");
    }
    for (verb, resource) in [
        ("get", "secrets"),
        ("list", "nodes"),
        ("delete", "ciliumcidrgroups.cilium.io"),
        ("list", "pods"),
        ("patch", "ip6updateconfigs"),
        ("patch", "customresourcedefinitions/ciliumcidrgroups.cilium.io"),
        ("create", "clusterroles"),
    ] {
        assert!(!may(verb, resource), "may {verb} {resource}");
    }
}

fn drift_and_a_right_list(cluster: &mut Cluster, binary: &Path) {
    let node = cluster.run(binary);
    cluster.wait_group("2001:db8:9876:543", &node);
    let drift = r#"{"spec": {"externalCIDRs": ["2001:db8:bad::/48"]}}"#;
    cluster.kubectl(&["patch", "ciliumcidrgroup", GROUP, "--type=merge", "--patch", drift]);
    cluster.wait_group("2001:db8:9876:543", &node);
    let version = || cluster.json(&["get", "ciliumcidrgroup", GROUP])["metadata"]["resourceVersion"].clone();
    let before = version();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(version(), before, "a right list was written again");
}

fn api_server_restart(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let node = cluster.run(binary);
    node.wait_log("the CRDs of this release are deployed", PATIENCE);
    std::thread::sleep(Duration::from_secs(1));
    cluster.apiserver.kill().expect("it runs");
    cluster.apiserver.wait().expect("it ends");
    interface.add("2001:db8:aaaa:bbb1::10");
    interface.deprecate("2001:db8:9876:5431::10");
    node.wait_log("API server: ", PATIENCE);
    cluster.apiserver = start_apiserver(&cluster.assets, &cluster.folder);
    cluster.wait_ready();
    cluster.wait_group("2001:db8:aaaa:bbb", &node);
    node.wait_log("API server: works again", PATIENCE);
}

/// Three nodes on one node config: each glances, and one of them looks at the group.
fn nodes_take_turns(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    let selector = r#"{"spec": {"nodeSelector": null}}"#;
    cluster.kubectl(&[
        "patch",
        "ip6updatenodeconfig",
        "ip6-update-node1",
        "--type=merge",
        "--patch",
        selector,
    ]);
    cluster.give_token(&cluster.token());
    let names = [NODE, "node2.example.com", "node3.example.com"];
    let nodes = names.map(|name| cluster.run_as(binary, name));
    let all = |prefix: &str| {
        let status = cluster.json(&["get", "ip6updatenodeconfig", "ip6-update-node1"])["status"]["nodes"].clone();
        names.iter().all(|name| status[name]["prefixes"] == json!([prefix]))
    };
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(
                Instant::now() < deadline,
                "{what}: {:#?}",
                nodes.each_ref().map(Node::log)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("all publish", &|| all("2001:db8:aaaa:bbb1::/64"));
    for node in &nodes {
        wait("a round of one request", &|| node.count("DEBUG round: 1 requests") >= 3);
        // A glance, and the whole round.
        wait("a turn", &|| node.count("DEBUG round: 4 requests") >= 1);
    }
    let version = || cluster.json(&["get", "ciliumcidrgroup", GROUP])["metadata"]["generation"].as_i64();
    let before = version().expect("a number");
    interface.add("2001:db8:cccc:ddd1::10");
    interface.remove("2001:db8:aaaa:bbb1::10");
    for node in &nodes {
        cluster.wait_group("2001:db8:cccc:ddd", node);
    }
    wait("all publish", &|| all("2001:db8:cccc:ddd1::/64"));
    std::thread::sleep(Duration::from_secs(3));
    let written = version().expect("a number") - before;
    assert!(written <= 2, "{written} writes of the group for one renumbering");
    for node in &nodes {
        assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 0, "{:#?}", node.log());
    }
    println!("   {written} writes of the group for a renumbering that three nodes saw");
}

/// The kubelet replaces a token long before; if it did not, k6u waits for a new one.
fn a_token_expires(cluster: &mut Cluster, binary: &Path) {
    // The API server lets a token live a minute longer (go-jose, jwt.DefaultLeeway).
    cluster.give_token(&cluster.key.limited(&cluster.token(), 5 - 60));
    let node = cluster.run_as(binary, NODE);
    node.wait_log("DEBUG round: ", PATIENCE);
    assert_eq!(node.count(" WARN "), 0, "{:#?}", node.log());
    node.wait_log("401 Unauthorized", PATIENCE);
    cluster.give_token(&cluster.token());
    node.wait_log("API server: works again", PATIENCE);
    assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 1, "{:#?}", node.log());
}

/// k6u brings its CRDs, whose storage the API server then sets up; and again when somebody deletes them.
fn an_empty_cluster(cluster: &mut Cluster, binary: &Path, interface: &Interface) {
    cluster.kubectl(&["delete", "ciliumcidrgroup", GROUP]);
    cluster.kubectl(&["apply", "-f", "manifests/rbac.yaml"]);
    let node = cluster.run(binary);
    node.wait_log("no IP6UpdateNodeConfig selects node", PATIENCE);
    cluster.kubectl(&["apply", "-f", CONFIG, "-f", NODE_CONFIG]);
    cluster.wait_group("2001:db8:cccc:ddd", &node);
    assert_eq!(node.count(" WARN ") + node.count(" ERROR "), 0, "{:#?}", node.log());
    println!(
        "   storage was being set up in {} requests",
        node.count("storage is (re)initializing")
    );
    cluster.kubectl(&["delete", "-f", "manifests/crds.yaml"]);
    let deadline = Instant::now() + PATIENCE;
    while node.count("the CRDs of this release are deployed") < 2 {
        assert!(Instant::now() < deadline, "{:#?}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    interface.add("2001:db8:eeee:fff1::10");
    interface.remove("2001:db8:cccc:ddd1::10");
    let deadline = Instant::now() + PATIENCE;
    while !cluster.try_kubectl(&["apply", "-f", CONFIG, "-f", NODE_CONFIG], "").0 {
        assert!(Instant::now() < deadline, "{:#?}", node.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.wait_group("2001:db8:eeee:fff", &node);
    cluster.kubectl(&[
        "delete",
        "--ignore-not-found",
        "-f",
        "manifests/crds.yaml",
        "-f",
        "manifests/rbac.yaml",
    ]);
}

/// As `make uninstall` does: k6u goes, the groups stay.
fn uninstall(cluster: &mut Cluster) {
    cluster.kubectl(&["delete", "--ignore-not-found", "-k", "manifests"]);
    let crds = cluster.kubectl(&["get", "crd", "-o", "name"]);
    assert!(!crds.contains("fuwafuwatime"), "{crds}");
    cluster.kubectl(&["get", "ciliumcidrgroup", GROUP]);
}
