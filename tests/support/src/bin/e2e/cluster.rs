//! A control plane for the tests: etcd and kube-apiserver, with kubectl as the client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::certificates::TokenKey;
use k6u_testkit::example::{GROUP, NODE, cidrs_for};
use k6u_testkit::machine::node::Node;
use serde_json::{Value, json};

const PORT: &str = "6443";
/// How long a test waits before it fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A control plane.
pub struct Cluster {
    pub assets: PathBuf,
    pub folder: PathBuf,
    pub key: TokenKey,
    etcd: Child,
    pub apiserver: Child,
}

impl Cluster {
    pub fn start(assets: &Path) -> Self {
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
        // etcd 3.6 looks for a default route otherwise, and there is none in this namespace.
        etcd.arg("--initial-advertise-peer-urls=http://127.0.0.1:2380");
        etcd.arg("--initial-cluster=default=http://127.0.0.1:2380");
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

    pub fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.try_kubectl(&["get", "--raw", "/readyz"], "").0 {
            let log = fs::read_to_string(self.folder.join("apiserver.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the API server does not get ready: {log}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The URL of the API server.
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{PORT}")
    }

    /// Runs kubectl. Returns whether it succeeded, and its output.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let file = self.folder.join("input.yaml");
        fs::write(&file, input).expect("a file");
        let mut command = Command::new("kubectl");
        command
            .arg(format!("--server={}", self.address()))
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

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let (succeeded, text) = self.try_kubectl(arguments, "");
        assert!(succeeded, "kubectl {}: {text}", arguments.join(" "));
        text
    }

    /// Waits until CRDs are served. kubectl fails at a CRD that has no conditions yet.
    pub fn wait_established(&self, crds: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let arguments = [&["wait", "--for=condition=Established"], crds].concat();
            let (is_established, text) = self.try_kubectl(&arguments, "");
            if is_established {
                return;
            }
            assert!(text.contains("accessor error") && Instant::now() < deadline, "{text}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[arguments, &["-o", "json"]].concat())).expect("JSON")
    }

    /// A fresh token of k6u's service account.
    pub fn token(&self) -> String {
        self.kubectl(&["--namespace=kube-system", "create", "token", "k6u"])
    }

    /// Writes a token into the file that k6u reads.
    pub fn give_token(&self, token: &str) {
        let new = self.folder.join("new-token");
        fs::write(&new, token).expect("the token");
        fs::rename(new, self.folder.join("account/token")).expect("the token in place");
    }

    /// Runs k6u with a fresh token of its service account.
    pub fn run(&self, binary: &Path) -> Node {
        self.give_token(&self.token());
        self.run_as(binary, NODE)
    }

    /// Runs k6u on a node, with the current token.
    pub fn run_as(&self, binary: &Path, node: &str) -> Node {
        let account = self.folder.join("account");
        // In one step, because another node may be reading the file.
        let new = self.folder.join("new-ca");
        fs::copy(self.folder.join("certs/apiserver.crt"), &new).expect("the CA");
        fs::rename(new, account.join("ca.crt")).expect("the CA in place");
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

    /// Waits until the group holds the three /64 of the delegated prefix that starts with this text.
    pub fn wait_group(&self, start: &str, node: &Node) {
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

pub fn start_apiserver(assets: &Path, folder: &Path) -> Child {
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
