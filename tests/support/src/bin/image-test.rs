//! `make test-image`: the image in a real container, restricted as the DaemonSet restricts it.
//!
//! Arguments: the image, and the version of its k6u binary. Needs podman, and root for the network namespace of the
//! container. Reports a skip where it cannot run.

#![allow(clippy::pedantic)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::{ApiServer, Cilium, cidrs};
use k6u_testkit::example::{CONFIG, CRDS, GROUP, NODE, NODE_CONFIG, RBAC, follows_since};
use k6u_testkit::machine::namespace::{self, Interface};
use k6u_testkit::machine::node::{Account, Node, Start};
use k6u_testkit::skip::skip;

const NAME: &str = "k6u-image-test";
/// A container with 1 ms of processor time in 100 ms is slow to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The restrictions that the kubelet derives from the DaemonSet: 8m CPU is 1 ms in 100 ms, the minimum of the kernel.
const RESTRICTIONS: &[&str] = &[
    "--network=host",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--user=1000:1000",
    "--security-opt=no-new-privileges",
    "--memory=16m",
    "--cpu-period=100000",
    "--cpu-quota=1000",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
];

/// A test of an image whose binary has this version.
type Test = fn(&str, &str);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, version] = &arguments[..] else {
        eprintln!("image-test: name the image and the version");
        return ExitCode::from(2);
    };
    if let Err(e) = namespace::enter_network() {
        return skipped(&format!("no network namespace can be made ({e}); run as root"));
    }
    let probe = podman(&["run", "--rm", image, "--version"]);
    // 125 is podman's own failure, any other status comes from the image (podman-run(1), "Exit status").
    if probe.status.code() == Some(125) {
        return skipped(&String::from_utf8_lossy(&probe.stderr));
    }
    let tests: [(&str, Test); 3] = [
        ("version", says_its_version),
        ("preview", previews),
        ("renumbering", renumbers),
    ];
    for (name, test) in tests {
        test(image, version);
        println!("test image::{name} ... ok");
    }
    println!("{} passed, 0 failed, 0 skipped", tests.len());
    ExitCode::SUCCESS
}

fn skipped(why: &str) -> ExitCode {
    skip(&format!("no container runs here: {}", why.trim()));
    println!("0 passed, 0 failed, 3 skipped");
    ExitCode::SUCCESS
}

/// A podman command that also works inside another container: no overlay, no systemd.
fn command() -> Command {
    let mut command = Command::new("podman");
    command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--runtime=runc"]);
    command
}

fn podman(arguments: &[&str]) -> Output {
    let mut command = command();
    let (verb, rest) = arguments.split_first().expect("a verb");
    command.arg(verb);
    if *verb == "run" {
        command.args(RESTRICTIONS);
    }
    match command.args(rest).output() {
        Ok(output) => output,
        Err(e) => Output {
            status: std::os::unix::process::ExitStatusExt::from_raw(125 << 8),
            stdout: Vec::new(),
            stderr: format!("podman: {e}").into_bytes(),
        },
    }
}

fn succeeded(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

fn says_its_version(image: &str, version: &str) {
    let output = succeeded(&podman(&["run", "--rm", image, "--version"]));
    assert!(output.starts_with(&format!("k6u {version} (")), "{output}");
}

fn previews(image: &str, _: &str) {
    let folder = std::env::temp_dir().join(format!("k6u-image-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("config.yaml"), CONFIG).expect("a file");
    let mount = format!("--volume={}:/config:ro", folder.display());
    let address = "2001:db8:1234:5671::10";
    let arguments = [
        "run",
        "--rm",
        &mount,
        image,
        "preview",
        "--address",
        address,
        "/config/config.yaml",
    ];
    let yaml = succeeded(&podman(&arguments));
    assert!(yaml.contains("  - 2001:db8:1234:5672::/64"), "{yaml}");
    fs::remove_dir_all(folder).expect("the folder was there");
}

fn renumbers(image: &str, _: &str) {
    let server = ApiServer::start("127.0.0.1", Some(Cilium::Both), RBAC).expect("a server");
    let account = Account::new(&server);
    let interface = Interface::named("eth0");
    server.apply_crds(CRDS, "kubectl");
    server.create(CONFIG);
    server.create(NODE_CONFIG);
    interface.add("2001:db8:1234:5671::10");

    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let environment = Start::new(&PathBuf::from("/k6u"), &server, &account, NODE).without("SERVICE_ACCOUNT_DIR");
    let _ = podman(&["rm", "--force", NAME]);
    let begun = Instant::now();
    let mut run = command();
    run.args(["run", "--rm", "--name", NAME]).args(RESTRICTIONS);
    run.arg(format!("--volume={}:{folder}:ro", account.folder.display()));
    run.args(
        environment
            .environment
            .iter()
            .map(|(name, value)| format!("--env={name}={value}")),
    );
    let child = run
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut node = Node::of(child.expect("podman starts"));

    let first = follows(&server, begun, "2001:db8:1234:567", &node);
    println!("   {first:.0} ms from `podman run` to the group");
    for (old, new) in [
        ("2001:db8:1234:5671", "2001:db8:9876:5431"),
        ("2001:db8:9876:5431", "2001:db8:aaaa:bbb1"),
    ] {
        // The container is idle for a while, as between two renumberings.
        std::thread::sleep(Duration::from_secs(2));
        let begun = Instant::now();
        interface.add(&format!("{new}::10"));
        interface.deprecate(&format!("{old}::10"));
        let took = follows(&server, begun, new.strip_suffix('1').expect("it ends so"), &node);
        println!("   {took:.0} ms from address to group");
    }
    println!("   {}", memory_peak());
    let killed = podman(&["kill", "--signal=TERM", NAME]);
    succeeded(&killed);
    let status = node.wait(PATIENCE).expect("the container ends");
    assert_eq!(status.code(), Some(0), "{:#?}", node.log());
    let complaints = node.count(" WARN ") + node.count(" ERROR ");
    assert_eq!(complaints, 0, "{:#?}", node.log());
}

/// Waits until the group follows the delegated prefix that starts with this text. Returns the milliseconds since
/// `begun`.
fn follows(server: &ApiServer, begun: Instant, start: &str, node: &Node) -> f64 {
    let at = server.wait(PATIENCE, |store| follows_since(store, start));
    let at = at.unwrap_or_else(|| panic!("{GROUP}: {:?}, {:#?}", cidrs(&server.store(), GROUP), node.log()));
    at.duration_since(begun).as_secs_f64() * 1e3
}

/// The memory that the kernel counted against the container's 16 MiB, at its peak.
fn memory_peak() -> String {
    let id = succeeded(&podman(&["inspect", "--format", "{{.State.Pid}}", NAME]));
    let cgroups = fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap_or_default();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let file = match controllers {
            "memory" => format!("/sys/fs/cgroup/memory{path}/memory.max_usage_in_bytes"),
            "" => format!("/sys/fs/cgroup{path}/memory.peak"),
            _ => continue,
        };
        if let Ok(Ok(bytes)) = fs::read_to_string(file).map(|text| text.trim().parse::<u64>()) {
            return format!("{} KiB was the memory cgroup's peak, of 16384", bytes / 1024);
        }
    }
    "this kernel does not report the memory cgroup's peak".into()
}
