//! `make demo`: the main job step by step, with the real binary, which is the first argument. With `--check`, compares
//! the log with a golden file.

#![allow(clippy::pedantic)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::kinds::{DNS_NAME, Kind, NAME, TTL};
use k6u_testkit::apiserver::rbac::{Identity, cluster_role};
use k6u_testkit::apiserver::server::{ApiServer, Cilium, TOKEN, cidrs};
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::example::{CONFIG, CRDS, GROUP, NODE, NODE_CONFIG, RBAC, cidrs_for, follows_since};
use k6u_testkit::golden;
use k6u_testkit::machine::namespace::{self, Interface};
use k6u_testkit::machine::node::{Account, Node, Start};
use k6u_testkit::machine::router::{Announced, Router, is_installed};
use k6u_testkit::skip::skip;
use serde_json::Value;

/// The kinds of the targets beside the group: a pool of addresses for Services, and the DNS record of a host.
const KINDS: [&str; 2] = ["CiliumLoadBalancerIPPool", "DNSEndpoint"];
/// Scaled down, as in the tests with routers.
const STALE_AFTER: u32 = 3;
/// The time limit of each step; all steps together take less than 20 s.
const PATIENCE: Duration = Duration::from_secs(6);

fn main() -> ExitCode {
    let Some(binary) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("demo: name the k6u binary");
        return ExitCode::from(2);
    };
    let is_checked = std::env::args_os().nth(2).is_some_and(|argument| argument == "--check");
    let result = match namespace::enter() {
        Ok(()) => show(&binary, is_checked),
        Err(e) => {
            println!(
                "This machine forbids network namespaces ({e}), so k6u cannot be shown on an interface of its own."
            );
            println!("The same without one, by k6u preview --address 2001:db8:1234:5671::10:\n");
            preview(&binary)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("demo: FAILED: {what}");
            ExitCode::FAILURE
        }
    }
}

fn preview(binary: &Path) -> Result<(), String> {
    let mut child = Command::new(binary)
        .args(["preview", "--address", "2001:db8:1234:5671::10", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .map_err(|e| format!("{} does not start: {e}", binary.display()))?;
    let mut input = child.stdin.take().ok_or("no standard input")?;
    input.write_all(CONFIG.as_bytes()).map_err(|e| e.to_string())?;
    drop(input);
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("k6u preview ended with {status}"))
    }
}

fn show(binary: &Path, is_checked: bool) -> Result<(), String> {
    let server = ApiServer::start("127.0.0.1", Some(Cilium::Both), RBAC).map_err(|e| e.to_string())?;
    let account = Account::new(&server);
    let interface = Interface::named("eth0");
    // The administrator applies the two objects; the CRDs must be there for that, so they come first.
    server.apply_crds(CRDS, "kubectl");
    let [pool, record] = KINDS.map(Kind::named);
    let targets = [pool, record]
        .map(|kind| format!("  - {}\n", kind.target(kind.suffix())))
        .concat();
    server.create(&format!("{CONFIG}  targets:\n{targets}"));
    server.create(&format!("{NODE_CONFIG}  staleAfterSeconds: {STALE_AFTER}\n"));
    // A pool as its owner made it, and the rights to write both. The record is created by k6u.
    server.install(pool.crd);
    server.install(record.crd);
    server.admin(
        "POST",
        &pool.path(),
        "application/json",
        &pool.object(&["2001:db8:ffff::/112"]),
    );
    let rights = [RBAC, pool.rights, record.rights].map(cluster_role).concat();
    server.set_token(TOKEN, Some(Identity::ServiceAccount(rights)));

    println!(
        "An API server runs on {}, with Cilium's CRD, node {NODE} and two objects:",
        server.address
    );
    println!("  IP6UpdateConfig      delegatedPrefixLength 60, group {GROUP}: prefix ids 0, 1, 2");
    println!("                       {} {NAME}: {}", pool.name, pool.suffix());
    println!(
        "                       {} {}/{NAME}: {DNS_NAME}, TTL {TTL}, {}",
        record.name,
        record.namespace,
        record.suffix()
    );
    println!("  IP6UpdateNodeConfig  nodeSelector kubernetes.io/hostname={NODE}, interface eth0\n");

    println!("1. The router announces 2001:db8:1234:5671::/64 on eth0, and k6u starts.");
    interface.add("2001:db8:1234:5671::10");
    let mut step = Step::begin(&server);
    let start = Start::new(
        &binary.canonicalize().map_err(|e| e.to_string())?,
        &server,
        &account,
        NODE,
    );
    let mut node = start.with("UPDATE_INTERVAL", "2").spawn();
    step.end("from start to group", "2001:db8:1234:567", &node)?;

    println!(
        "2. The provider renumbers by the book: it announces 2001:db8:9876:5431::/64 and deprecates the old prefix."
    );
    pause();
    step = Step::begin(&server);
    // With lifetimes, as an announced address has.
    interface.announce("2001:db8:9876:5431::10", 600, 7200);
    step.wait_new("2001:db8:9876:543")?;
    interface.deprecate("2001:db8:1234:5671::10");
    step.end("from address to group", "2001:db8:9876:543", &node)?;

    pause();
    step = Step::begin(&server);
    let third = Announced {
        prefix: "2001:db8:aaaa:bbb1::/64".into(),
        preferred: 600,
    };
    let radvd;
    let has_router = ["radvd", "nsenter", "unshare"]
        .iter()
        .all(|program| is_installed(program));
    if has_router {
        println!(
            "3. The router crashes, and then announces 2001:db8:aaaa:bbb1::/64 only (radvd). It does not withdraw the"
        );
        println!(
            "   old prefix, which stays preferred for ten minutes, but is stale after {STALE_AFTER} s here (1800 s by default)."
        );
        interface.announce("2001:db8:9876:5431::10", 600, 7200);
        let router = Router::behind(&interface);
        radvd = Some((router.radvd("demo", "0.2", "0.3", &[third]), router));
        step.end("from the crash to the group", "2001:db8:aaaa:bbb", &node)?;
    } else {
        println!(
            "3. The provider renumbers without a word: the old address is gone, 2001:db8:aaaa:bbb1::/64 is there."
        );
        println!("   (With radvd installed, this would be a router that crashes.)");
        radvd = None;
        interface.remove("2001:db8:9876:5431::10");
        interface.add("2001:db8:aaaa:bbb1::10");
        step.end("from address to group", "2001:db8:aaaa:bbb", &node)?;
    }

    println!("4. k6u gets SIGTERM.");
    let sent = Instant::now();
    node.signal(libc::SIGTERM);
    let status = node.wait(PATIENCE).ok_or("k6u does not end on SIGTERM")?;
    drop(radvd);
    if status.code() != Some(0) {
        return Err(format!("k6u ended with {status}"));
    }
    println!(
        "   It ended with status 0 after {:.1} ms.\n",
        sent.elapsed().as_secs_f64() * 1e3
    );

    println!("What it logged:");
    for line in node.log() {
        println!("   {line}");
    }
    println!(
        "\nIt also wrote an Event for each change of prefix, and the status of both objects: kubectl would show them."
    );
    io::stdout().flush().map_err(|e| e.to_string())?;
    if is_checked {
        if !has_router {
            skip("radvd is needed to compare the demo's log with tests/golden/demo.log");
            return Ok(());
        }
        let log: String = node.log().iter().map(|line| format!("{line}\n")).collect();
        let varying = [golden::TIME, golden::PORT, golden::RELEASE];
        golden::compare("demo.log", &log, &varying)?;
    }
    Ok(())
}

/// Waits until k6u reacts to a change at once: its rounds after several changes are a second apart.
fn pause() {
    std::thread::sleep(Duration::from_millis(1200));
}

/// A step of the demo: a change of addresses, and the group that follows.
struct Step<'a> {
    server: &'a ApiServer,
    begun: Instant,
    requests: usize,
    before: Option<Vec<String>>,
}

impl<'a> Step<'a> {
    fn begin(server: &'a ApiServer) -> Self {
        let store = server.store();
        let (requests, before) = (store.log.len(), cidrs(&store, GROUP));
        drop(store);
        Step {
            server,
            begun: Instant::now(),
            requests,
            before,
        }
    }

    /// Waits until the group holds a prefix that starts with this text.
    fn wait_new(&self, start: &str) -> Result<(), String> {
        let new = |store: &Store| {
            cidrs(store, GROUP)?
                .iter()
                .any(|cidr| cidr.starts_with(start))
                .then_some(())
        };
        self.server
            .wait(PATIENCE, new)
            .ok_or_else(|| format!("the group does not get {start}0::/64"))
    }

    /// Waits until the group holds the three prefixes that start with this text, and no other, and until an Event
    /// reports the change.
    fn end(&self, from: &str, start: &str, node: &Node) -> Result<(), String> {
        let wanted = cidrs_for(start);
        let targets = KINDS.map(Kind::named);
        let parts = targets.map(|kind| vec![kind.part(&format!("{start}1"))]);
        let all = |store: &Store| {
            let follow = targets
                .iter()
                .zip(&parts)
                .all(|(kind, part)| kind.held(store).as_ref() == Some(part));
            follows_since(store, start).filter(|_| follow)
        };
        let Some(at) = self.server.wait(PATIENCE, all) else {
            let (store, log) = (self.server.store(), node.log());
            let held = (cidrs(&store, GROUP), targets.map(|kind| kind.held(&store)));
            return Err(format!(
                "group, pool and record hold {held:?} instead of {wanted:?} and {parts:?}; k6u logged: {log:#?}"
            ));
        };
        let store = self.server.store();
        let requests = store.log[self.requests..]
            .iter()
            .filter(|logged| logged.at <= at)
            .count();
        let text = |list: &[String]| {
            if list.is_empty() {
                "empty".to_string()
            } else {
                list.join("  ")
            }
        };
        println!(
            "   before  {}",
            self.before
                .as_ref()
                .map_or("there is no such group".into(), |list| text(list))
        );
        println!("   after   {}", text(&wanted));
        let [pool, record] = &parts;
        println!("   pool    {}", text(pool));
        let addresses = text(record).replace("/128", "");
        println!("   DNS     {DNS_NAME}. {TTL} IN AAAA {addresses}");
        let took = at.duration_since(self.begun).as_secs_f64() * 1e3;
        println!("   {took:.1} ms {from}, {requests} requests\n");
        drop(store);
        let end = format!(" -> {start}0::/60");
        let is_it = |event: &Value| event["message"].as_str().is_some_and(|text| text.ends_with(&end));
        let reported = |store: &Store| {
            let mut events = store.objects.iter().filter(|(key, _)| key.resource == "events");
            events.any(|(_, event)| is_it(event)).then_some(())
        };
        self.server
            .wait(PATIENCE, reported)
            .ok_or("k6u did not report the change of prefix by an Event".into())
    }
}
