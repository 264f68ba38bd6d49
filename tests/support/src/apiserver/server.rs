//! The API server on a socket, over real TLS, with a thread for each connection.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::apiserver::api::{self, handle, http_date};
use crate::apiserver::certificates::{Authority, Certificate};
use crate::apiserver::fault::{Fault, Plan};
use crate::apiserver::http::{Request, Response};
use crate::apiserver::rbac::{Identity, cluster_role};
use crate::apiserver::store::{APIEXTENSIONS, CRDS, Key, Logged, Store};

/// The token of the administrator.
pub const ADMIN: &str = "admin-token";
/// The token of k6u's service account, at first.
pub const TOKEN: &str = "k6u-token-1-eyJhbGciOiJSUzI1NiIsImtpZCI6InRlc3QifQ";

/// Cilium's CRD, three generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cilium {
    /// 1.17 and before: v2alpha1 only.
    V2Alpha1,
    /// 1.18: both.
    Both,
    /// To come: v2 only.
    V2,
}

/// A running API server.
pub struct ApiServer {
    /// The address at which it listens.
    pub address: SocketAddr,
    /// The CA that signed its certificate.
    pub authority: Authority,
    shared: Arc<Shared>,
}

struct Shared {
    store: Mutex<Store>,
    changed: Condvar,
    identities: Mutex<BTreeMap<String, Identity>>,
    faults: Mutex<Vec<Plan>>,
    tls: Mutex<Arc<ServerConfig>>,
    connections: Mutex<BTreeMap<u64, TcpStream>>,
    opened: AtomicU64,
    clock_offset_ms: AtomicI64,
    stopped: AtomicBool,
}

impl ApiServer {
    /// Starts on a free port of this address, with the given Cilium, the node `node1.example.com`, and a service
    /// account with the rights in `rbac` (a manifest).
    ///
    /// # Errors
    /// Those of listening.
    pub fn start(ip: &str, cilium: Option<Cilium>, rbac: &str) -> io::Result<Self> {
        let authority = Authority::new();
        let listener = TcpListener::bind((ip, 0))?;
        let mut store = Store::default();
        if let Some(cilium) = cilium {
            install_cilium(&mut store, cilium);
        }
        let account = Identity::ServiceAccount(cluster_role(rbac));
        let shared = Arc::new(Shared {
            store: Mutex::new(store),
            changed: Condvar::new(),
            identities: Mutex::new(BTreeMap::from([
                (ADMIN.into(), Identity::Admin),
                (TOKEN.into(), account),
            ])),
            faults: Mutex::default(),
            tls: Mutex::new(authority.server(&Certificate::default())),
            connections: Mutex::default(),
            opened: AtomicU64::new(0),
            clock_offset_ms: AtomicI64::new(0),
            stopped: AtomicBool::new(false),
        });
        let address = listener.local_addr()?;
        let server = ApiServer {
            address,
            authority,
            shared,
        };
        server.accept(listener);
        server.add_node("node1.example.com");
        Ok(server)
    }

    fn accept(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let number = shared.opened.fetch_add(1, Ordering::Relaxed) + 1;
                    if let Ok(clone) = stream.try_clone() {
                        lock(&shared.connections).insert(number, clone);
                    }
                    // A client may go away at any time.
                    let _ = serve(&shared, stream, number);
                    lock(&shared.connections).remove(&number);
                });
            }
        });
    }

    /// Stops listening and closes every connection.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // The listener notices at the next connection, and then takes no more.
        while TcpStream::connect(self.address).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
        self.close_connections();
    }

    /// Listens again, on the same port.
    ///
    /// # Errors
    /// Those of listening.
    pub fn restart(&self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(e) if Instant::now() > deadline => return Err(e),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        self.shared.stopped.store(false, Ordering::Relaxed);
        self.accept(listener);
        Ok(())
    }

    /// Moves to another address, with the same port and the same objects.
    ///
    /// # Errors
    /// Those of listening.
    pub fn move_to(&mut self, ip: IpAddr) -> io::Result<()> {
        self.stop();
        self.address.set_ip(ip);
        self.restart()
    }

    /// Closes every connection, idle ones too.
    pub fn close_connections(&self) {
        for stream in lock(&self.shared.connections).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The number of connections that were opened so far.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Serves new connections with this certificate.
    pub fn set_tls(&self, config: Arc<ServerConfig>) {
        *lock(&self.shared.tls) = config;
    }

    /// Moves the server's clock back.
    pub fn set_back_clock(&self, by: Duration) {
        self.shared
            .clock_offset_ms
            .fetch_sub(by.as_millis() as i64, Ordering::Relaxed);
    }

    /// Moves the server's clock forward.
    pub fn advance_clock(&self, by: Duration) {
        self.shared
            .clock_offset_ms
            .fetch_add(by.as_millis() as i64, Ordering::Relaxed);
    }

    /// The server's clock.
    pub fn now(&self) -> OffsetDateTime {
        self.shared.now()
    }

    /// Gives this token this identity, or makes it invalid.
    pub fn set_token(&self, token: &str, identity: Option<Identity>) {
        let mut identities = lock(&self.shared.identities);
        match identity {
            Some(identity) => identities.insert(token.into(), identity),
            None => identities.remove(token),
        };
    }

    /// The objects and their history. A change made here wakes [`ApiServer::wait`].
    pub fn store(&self) -> StoreGuard<'_> {
        StoreGuard {
            store: lock(&self.shared.store),
            changed: &self.shared.changed,
        }
    }

    /// Adds a fault.
    pub fn inject(&self, plan: Plan) {
        lock(&self.shared.faults).push(plan);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Waits until the condition holds; returns its value, or `None` after the timeout.
    pub fn wait<T>(&self, timeout: Duration, mut condition: impl FnMut(&Store) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut store = lock(&self.shared.store);
        loop {
            if let Some(result) = condition(&store) {
                return Some(result);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            store = self
                .shared
                .changed
                .wait_timeout(store, left)
                .expect("no panic in a handler")
                .0;
        }
    }

    /// Makes a request as the administrator, without the network.
    ///
    /// # Panics
    /// If the request fails.
    pub fn admin(&self, method: &str, target: &str, content_type: &str, body: &Value) -> Value {
        let mut request = Request::new(method, target);
        request.headers.insert("content-type".into(), content_type.into());
        request.body = body.to_string().into_bytes();
        let mut store = lock(&self.shared.store);
        let (response, _) = handle(&mut store, &request, Some(&Identity::Admin), self.shared.now());
        self.shared.changed.notify_all();
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert!(response.status < 300, "{method} {target}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Creates the objects of a manifest, as kubectl would.
    ///
    /// # Panics
    /// If one is refused.
    pub fn create(&self, manifest: &str) {
        for document in manifest.split("\n---\n") {
            let object: Value = serde_yaml::from_str(document).expect("YAML");
            let (version, kind) = (object["apiVersion"].as_str().expect("a version"), &object["kind"]);
            let plural = format!("{}s", kind.as_str().expect("a kind").to_lowercase());
            self.admin(
                "POST",
                &format!("/apis/{version}/{plural}"),
                "application/json",
                &object,
            );
        }
    }

    /// Deploys CRDs from a manifest, as an administrator or another release would.
    pub fn apply_crds(&self, manifest: &str, manager: &str) {
        for document in manifest.split("\n---\n") {
            let crd: Value = serde_yaml::from_str(document).expect("YAML");
            let name = crd["metadata"]["name"].as_str().expect("a name");
            let target = format!("/apis/{APIEXTENSIONS}/v1/{CRDS}/{name}?fieldManager={manager}&force=true");
            self.admin("PATCH", &target, "application/apply-patch+yaml", &crd);
        }
    }

    /// Puts a CRD of another project into the store, as one that was created long ago.
    ///
    /// # Panics
    /// If the manifest cannot be read.
    pub fn install(&self, manifest: &str) {
        let crd: Value = serde_yaml::from_str(manifest).expect("YAML");
        let name = crd["metadata"]["name"].as_str().expect("a name").to_string();
        self.store().put(Key::new(APIEXTENSIONS, CRDS, &name), crd);
    }

    /// Adds a Node with its hostname label.
    pub fn add_node(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        self.admin("POST", "/api/v1/nodes", "application/json", &node);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The locked store. When this is dropped, [`ApiServer::wait`] checks its condition again.
pub struct StoreGuard<'a> {
    store: MutexGuard<'a, Store>,
    changed: &'a Condvar,
}

impl std::ops::Deref for StoreGuard<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl std::ops::DerefMut for StoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl Drop for StoreGuard<'_> {
    fn drop(&mut self) {
        self.changed.notify_all();
    }
}

impl Shared {
    fn now(&self) -> OffsetDateTime {
        let offset = time::Duration::milliseconds(self.clock_offset_ms.load(Ordering::Relaxed));
        OffsetDateTime::now_utc() + offset
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic in a handler")
}

/// Puts Cilium's CRD into the store, as one that was created long ago.
fn install_cilium(store: &mut Store, cilium: Cilium) {
    let manifest = match cilium {
        Cilium::V2Alpha1 => include_str!("../../cilium/ciliumcidrgroups-1.17.yaml"),
        Cilium::Both => include_str!("../../cilium/ciliumcidrgroups-1.18.yaml"),
        Cilium::V2 => include_str!("../../cilium/ciliumcidrgroups-v2-only.yaml"),
    };
    let crd: Value = serde_yaml::from_str(manifest).expect("YAML");
    store.put(Key::new(APIEXTENSIONS, CRDS, "ciliumcidrgroups.cilium.io"), crd);
}

/// Replaces Cilium's CRD, as an upgrade of Cilium does.
pub fn upgrade_cilium(server: &ApiServer, cilium: Cilium) {
    install_cilium(&mut server.store(), cilium);
}

fn serve(shared: &Shared, stream: TcpStream, connection: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let config = Arc::clone(&lock(&shared.tls));
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, stream);
    let mut rest = Vec::new();
    while let Some(request) = Request::read(&mut stream, &mut rest)? {
        let line = format!("{} {}", request.method, request.path);
        let fault = lock(&shared.faults).iter_mut().find_map(|plan| plan.take(&line));
        let date = http_date(shared.now());
        let (response, attempts) = match &fault {
            Some(Fault::Answer(response)) => (response.clone(), Vec::new()),
            Some(Fault::Hang) => (Response::default(), Vec::new()),
            Some(Fault::Webhook(time)) if request.timeout().is_some_and(|timeout| timeout < *time) => {
                thread::sleep(request.timeout().unwrap_or_default());
                (api::timed_out(), Vec::new())
            }
            _ => {
                if let Some(Fault::Webhook(time)) = &fault {
                    thread::sleep(*time);
                }
                let token = request
                    .header("authorization")
                    .strip_prefix("Bearer ")
                    .unwrap_or_default();
                let identity = lock(&shared.identities).get(token).cloned();
                handle(&mut lock(&shared.store), &request, identity.as_ref(), shared.now())
            }
        };
        let sent = response.bytes(&date).0.len();
        lock(&shared.store).log.push(Logged {
            at: Instant::now(),
            line,
            attempts,
            status: response.status,
            connection,
            bytes: (request.body.len(), sent),
        });
        shared.changed.notify_all();
        send(&mut stream, &response, &date, fault)?;
    }
    stream.conn.send_close_notify();
    stream.flush()
}

/// Sends the answer with the fault; an error ends the connection.
fn send(stream: &mut impl Write, response: &Response, date: &str, fault: Option<Fault>) -> io::Result<()> {
    let closed = || Err(io::ErrorKind::ConnectionAborted.into());
    let (bytes, body_at) = response.bytes(date);
    match fault {
        None | Some(Fault::Answer(_) | Fault::Webhook(_)) => {
            stream.write_all(&bytes)?;
            stream.flush()
        }
        Some(Fault::Late(time)) => {
            thread::sleep(time);
            stream.write_all(&bytes)?;
            stream.flush()
        }
        Some(Fault::Held(release)) => {
            while !release.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            stream.write_all(&bytes)?;
            stream.flush()
        }
        Some(Fault::Hang) => {
            thread::sleep(Duration::from_secs(3600));
            closed()
        }
        Some(Fault::Drip(time)) => {
            for byte in bytes {
                stream.write_all(&[byte])?;
                stream.flush()?;
                thread::sleep(time);
            }
            Ok(())
        }
        Some(Fault::CutAt(length)) => {
            stream.write_all(&bytes[..length.min(bytes.len())])?;
            stream.flush()?;
            closed()
        }
        Some(Fault::CutBodyAt(length)) => {
            stream.write_all(&bytes[..(body_at + length).min(bytes.len() - 1)])?;
            stream.flush()?;
            closed()
        }
        Some(Fault::Endless(part)) => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            loop {
                stream.write_all(format!("{:x}\r\n", part.len()).as_bytes())?;
                stream.write_all(&part)?;
                stream.write_all(b"\r\n")?;
            }
        }
    }
}

/// The CIDRs that a group holds.
pub fn cidrs(store: &Store, group: &str) -> Option<Vec<String>> {
    let object = store.objects.get(&Key::new("cilium.io", "ciliumcidrgroups", group))?;
    Some(cidrs_of(object))
}

/// The CIDRs in a group.
pub fn cidrs_of(group: &Value) -> Vec<String> {
    let list = group["spec"]["externalCIDRs"].as_array().into_iter().flatten();
    list.filter_map(|cidr| cidr.as_str().map(String::from)).collect()
}

/// `metav1.Time` of the server's clock, moved by this many seconds.
pub fn time_text(server: &ApiServer, seconds: i64) -> String {
    api::timestamp(server.now() + time::Duration::seconds(seconds))
}
