//! k6u as a child process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::apiserver::server::{ApiServer, TOKEN};

/// A folder with `token` and `ca.crt`, which is removed with the test.
#[derive(Debug)]
pub struct Account {
    /// The folder.
    pub folder: PathBuf,
}

impl Account {
    /// Writes the service account's files for this server.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn new(server: &ApiServer) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("k6u-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let account = Account { folder };
        account.write("token", TOKEN);
        account.write("ca.crt", server.authority.pem());
        account
    }

    /// Replaces a file in one step, as the kubelet does.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let new = self.folder.join(format!("{name}.new"));
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.folder.join(name)).expect("the new file in place");
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // A temporary folder that stays does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The binary, arguments and environment of a k6u that is to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// The binary.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
}

impl Start {
    /// The environment that the DaemonSet has on this node.
    pub fn new(binary: &Path, server: &ApiServer, account: &Account, node: &str) -> Self {
        let start = Start {
            binary: binary.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
        };
        start
            .with("NODE_NAME", node)
            .with("POD_NAMESPACE", "kube-system")
            .with("POD_NAME", &format!("k6u-{}", node.split('.').next().unwrap_or(node)))
            .with("RUST_LOG", "info")
            .with("UPDATE_INTERVAL", "10")
            .with("KUBERNETES_SERVICE_HOST", &server.address.ip().to_string())
            .with("KUBERNETES_SERVICE_PORT", &server.address.port().to_string())
            .with("SERVICE_ACCOUNT_DIR", &account.folder.display().to_string())
    }

    /// The same with another value of a variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(n, _)| n != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The same without a variable.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(n, _)| n != name);
        self
    }

    /// The same with arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|a| a.to_string()).collect();
        self
    }

    /// The command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(&self) -> Node {
        Node::of(self.command().spawn().expect("k6u starts"))
    }
}

/// A running k6u.
#[derive(Debug)]
pub struct Node {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    output: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// Takes over a child whose output is piped.
    ///
    /// # Panics
    /// If it is not piped.
    pub fn of(mut child: Child) -> Self {
        let log = collect(child.stderr.take().expect("stderr is piped"));
        let output = collect(child.stdout.take().expect("stdout is piped"));
        Node { child, log, output }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines on standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic while reading").clone()
    }

    /// The lines on standard output so far.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().expect("no panic while reading").clone()
    }

    /// The number of lines of the log that contain this.
    pub fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|line| line.contains(part)).count()
    }

    /// Waits for a line of the log that contains this.
    ///
    /// # Panics
    /// If it does not come in time.
    pub fn wait_log(&self, part: &str, timeout: Duration) {
        self.wait_count(part, 1, timeout);
    }

    /// Waits until this number of lines of the log contain this.
    ///
    /// # Panics
    /// If they do not come in time.
    pub fn wait_count(&self, part: &str, count: usize, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while self.count(part) < count {
            assert!(
                Instant::now() < deadline,
                "no {count} lines with {part:?} within {timeout:?} in {:#?}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: no pointers are passed; the child was not waited for, so its id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Waits for the end; `None` if it does not come in time.
    ///
    /// # Panics
    /// If the system cannot wait for it.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl std::io::Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            shared.lock().expect("no panic while reading").push(line);
        }
    });
    lines
}
