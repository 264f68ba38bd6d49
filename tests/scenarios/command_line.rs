//! The command line, settings and signals.

use std::fs;
use std::process::{Command, Output};

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::kinds::KINDS;
use k6u_testkit::apiserver::store::Store;
use k6u_testkit::golden;
use k6u_testkit::machine::init::stopped_at;
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::Node;
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CRDS, GROUP, NODE, NODE_CONFIG, NODE_CONFIGS, Running, SOON, Site, binary,
};
use k6u_testkit::skip::skip;

use crate::Scenario;
use crate::addresses::alternative_names;

pub const ALL: &[Scenario] = scenarios![
    bad_settings_are_named_in_one_line,
    the_daemonset_of_0_3_sets_fewer_variables,
    help_version_and_crds,
    preview_of_one_name_twice,
    preview_prints_groups,
    preview_prints_each_kind_as_yaml,
    preview_reports_errors,
    standard_error_is_full,
    the_first_line_shows_the_effective_interval,
    once_exits_with_0_only_if_all_is_ready,
    sigterm_and_sigint_end_k6u_while_idle,
    sigterm_ends_k6u_while_a_request_hangs,
    sigterm_ends_k6u_while_it_starts_as_pid_1,
    the_readme_matches_the_manifests_and_its_commands_work,
    once_without_the_right_to_crds,
    once_without_the_right_to_events,
    once_without_the_right_to_nodes,
    preview_takes_alternative_names,
];

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("k6u starts");
    (
        status.code(),
        String::from_utf8(stdout).expect("text"),
        String::from_utf8(stderr).expect("text"),
    )
}

fn bad_settings_are_named_in_one_line() {
    let site = Site::new();
    for (start, expected) in [
        (
            site.start().with("UPDATE_INTERVAL", "0"),
            "UPDATE_INTERVAL=\"0\" is not accepted: it must be a whole number",
        ),
        (
            site.start().with("UPDATE_INTERVAL", "ten"),
            "UPDATE_INTERVAL=\"ten\" is not accepted",
        ),
        (
            site.start().without("NODE_NAME"),
            "NODE_NAME is not set: it must be the name of this node",
        ),
        (
            site.start().with("KUBERNETES_SERVICE_HOST", "http://127.0.0.1"),
            "KUBERNETES_SERVICE_HOST=\"http://127.0.0.1\"",
        ),
        (
            site.start().without("KUBERNETES_SERVICE_PORT"),
            "KUBERNETES_SERVICE_PORT is not set",
        ),
        (
            site.start().with("RUST_LOG", "loud"),
            "RUST_LOG=\"loud\" is not accepted",
        ),
        (
            site.start().with("SERVICE_ACCOUNT_DIR", "here"),
            "SERVICE_ACCOUNT_DIR=\"here\" is not accepted",
        ),
    ] {
        let (status, _, stderr) = output(&mut start.command());
        assert_eq!(status, Some(2), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

/// Users keep the manifest of 0.3: it has no POD_NAME and no POD_NAMESPACE.
fn the_daemonset_of_0_3_sets_fewer_variables() {
    let site = Site::with_address(ADDRESS);
    let start = site.start().without("POD_NAME").without("POD_NAMESPACE");
    let node = Running(start.spawn());
    site.wait_lan("2001:db8:1234:567");
    let is_event = |store: &Store| {
        let (_, event) = store.objects.iter().find(|(key, _)| key.resource == "events")?;
        Some(event["reportingInstance"].as_str()?.to_string())
    };
    let reporter = site.server.wait(SOON, is_event).expect("an Event");
    assert!(
        reporter.starts_with("kube-system/") && reporter.len() > 12,
        "{reporter}"
    );
    assert_eq!(node.complaints(), [""; 0]);
}

fn help_version_and_crds() {
    let run = |argument: &str| output(Command::new(binary()).env_clear().arg(argument));
    let (status, stdout, _) = run("--version");
    assert_eq!(status, Some(0));
    assert!(
        stdout.starts_with(concat!("k6u ", env!("CARGO_PKG_VERSION"))),
        "{stdout}"
    );
    let (status, stdout, _) = run("--help");
    assert_eq!(status, Some(0));
    for word in ["once", "preview", "crds", "--address", "UPDATE_INTERVAL", "RUST_LOG"] {
        assert!(stdout.contains(word), "{word} is missing in {stdout}");
    }
    assert_eq!(run("crds"), (Some(0), CRDS.to_string(), String::new()));
    let (status, stdout, stderr) = run("frobnicate");
    assert_eq!((status, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("frobnicate") && stderr.contains("--help"), "{stderr}");
}

fn preview_prints_groups() {
    let site = Site::with_address(ADDRESS);
    let folder = &site.account.folder;
    fs::write(folder.join("config.yaml"), CONFIG).unwrap();
    fs::write(
        folder.join("node.yaml"),
        NODE_CONFIG.replace("eth0", &site.interface.name),
    )
    .unwrap();
    let preview = |arguments: &[&str]| {
        output(
            Command::new(binary())
                .env_clear()
                .current_dir(folder)
                .arg("preview")
                .args(arguments),
        )
    };
    let (status, stdout, stderr) = preview(&["config.yaml", "node.yaml"]);
    assert_eq!(status, Some(0), "{stderr}");
    for line in [
        "kind: CiliumCIDRGroup",
        "  name: ip6-local-lan",
        "  - 2001:db8:1234:5672::/64",
    ] {
        assert!(stdout.lines().any(|l| l == line), "{stdout}");
    }
    assert!(
        stderr.contains(&format!("{}: prefixes 2001:db8:1234:5671::/64", site.interface.name)),
        "{stderr}"
    );

    let (status, stdout, _) = preview(&["--address", "2001:db8:0:56::1", "config.yaml"]);
    assert_eq!(status, Some(0));
    assert!(stdout.contains("  - 2001:db8:0:50::/64\n"), "{stdout}");
}

fn preview_prints_each_kind_as_yaml() {
    let site = Site::new();
    let targets: String = KINDS
        .iter()
        .map(|kind| format!("  - {}\n", kind.target(kind.suffix())))
        .collect();
    let config = site.account.folder.join("config.yaml");
    fs::write(&config, format!("{CONFIG}  targets:\n{targets}")).expect("a file");
    let mut preview = Command::new(binary());
    let preview = preview.env_clear().args(["preview", "--address", ADDRESS]).arg(&config);
    let (status, stdout, stderr) = output(preview);
    assert_eq!(status, Some(0), "{stderr}");
    golden::check("preview.yaml", &stdout, &[]);
}

fn preview_reports_errors() {
    let site = Site::new();
    let bad = site.account.folder.join("bad.yaml");
    fs::write(&bad, CONFIG.replace("[0, 1, 2]", "[0, 200]")).unwrap();
    let preview = |arguments: &[&str]| output(Command::new(binary()).env_clear().arg("preview").args(arguments));
    let bad = bad.to_str().unwrap();
    let (status, stdout, stderr) = preview(&["--address", "2001:db8::1", bad]);
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    let expected = format!(
        "k6u: {bad}, document 1: IP6UpdateConfig ip6-update-config: spec.ciliumCIDRGroups[0].prefixIds[1] is 200, \
         but a /60 holds the prefix ids 0 to 15 only\n"
    );
    assert_eq!(stderr, expected);
    assert_eq!(preview(&[]).0, Some(2));
    assert_eq!(preview(&["--address", "nonsense", bad]).0, Some(2));
    assert_eq!(preview(&["--frobnicate", bad]).0, Some(2));
    let (status, _, stderr) = preview(&["/nowhere.yaml"]);
    assert_eq!(status, Some(1));
    assert!(stderr.contains("cannot read /nowhere.yaml"), "{stderr}");
}

/// Standard error takes nothing, as with `2>/dev/full` or a closed pipe.
fn standard_error_is_full() {
    let site = Site::new();
    let config = site.account.folder.join("config.yaml");
    fs::write(&config, CONFIG).unwrap();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.env_clear().args(arguments).stderr(full());
        let Output { status, stdout, .. } = command.output().expect("k6u starts");
        (status.code(), String::from_utf8(stdout).unwrap())
    };
    let (status, stdout) = run(&["preview", "--address", "2001:db8:0:56::1", config.to_str().unwrap()]);
    assert_eq!(status, Some(0));
    assert!(stdout.contains("  - 2001:db8:0:50::/64\n"), "{stdout}");
    assert_eq!(run(&["frobnicate"]).0, Some(2));
    assert_eq!(run(&["preview", "/nowhere.yaml"]).0, Some(1));
    assert_eq!(run(&["once"]).0, Some(2), "settings are missing");
}

fn the_first_line_shows_the_effective_interval() {
    for (interval, expected) in [
        ("60", "every 60 s"),
        ("61", "every 60 s"),
        ("86400", "every 60 s"),
        ("7", "every 7 s"),
    ] {
        let site = Site::new();
        let node = Running(site.start().with("UPDATE_INTERVAL", interval).spawn());
        node.wait_log(" on node node1.example.com, every ", SOON);
        assert!(node.log()[0].contains(expected), "{:?}", node.log()[0]);
    }
}

fn once_exits_with_0_only_if_all_is_ready() {
    let site = Site::with_address(ADDRESS);
    let once = || output(&mut site.start().with("RUST_LOG", "info").arguments(&["once"]).command());
    let (status, _, stderr) = once();
    assert_eq!(status, Some(0), "{stderr}");
    site.wait_lan("2001:db8:1234:567");
    site.interface.remove(ADDRESS);
    let (status, _, stderr) = once();
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("NoPrefix"), "{stderr}");
    site.wait_lan("2001:db8:1234:567");
    site.server.stop();
    let (status, _, stderr) = once();
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("connection refused"), "{stderr}");
}

fn sigterm_and_sigint_end_k6u_while_idle() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (site, mut node) = Site::settled(3600);
        let asked = site.server.store().log.len();
        node.signal(signal);
        let status = node.wait(SOON).expect("it ends");
        assert_eq!(status.code(), Some(0), "signal {signal}");
        assert_eq!(site.server.store().log.len(), asked, "it made another round first");
    }
}

fn sigterm_ends_k6u_while_a_request_hangs() {
    let site = Site::with_address(ADDRESS);
    site.server
        .inject(Plan::on(&format!("GET {NODE_CONFIGS}"), usize::MAX, Fault::Hang));
    let mut node = site.run(1);
    site.wait_rounds(1);
    node.signal(libc::SIGTERM);
    assert_eq!(node.wait(SOON).expect("it ends").code(), Some(0));
    assert_eq!(node.complaints(), [""; 0], "it waited until the request was given up");
    assert!(site.group(GROUP).is_none());
}

/// The kernel drops a signal to PID 1 that has no handler: without a handler, a pod that is deleted right after its
/// creation would hang for the whole grace period.
fn sigterm_ends_k6u_while_it_starts_as_pid_1() {
    let site = Site::new();
    // Settings are the first thing that the loop reads, and without POD_NAME it asks the kernel for the hostname.
    let start = site.start().without("POD_NAME");
    for further in 0..12 {
        let child = match stopped_at(start.command(), libc::SYS_uname, further) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return skip(&format!("this machine forbids PID namespaces or ptrace ({e})"));
            }
            child => child.expect("k6u stops at a system call"),
        };
        let mut node = Running(Node::of(child));
        node.signal(libc::SIGTERM);
        node.signal(libc::SIGCONT);
        let ended = node.wait(SOON);
        assert_eq!(
            ended.and_then(|status| status.code()),
            Some(0),
            "SIGTERM {further} system calls after uname: {ended:?}"
        );
    }
}

/// The indented blocks of the README, without their indentation.
fn readme_blocks() -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in include_str!("../../README.md").lines() {
        match line.strip_prefix("    ") {
            Some(text) => *blocks.last_mut().unwrap() += &format!("{text}\n"),
            None if !blocks.last().unwrap().is_empty() && line.is_empty() => blocks.last_mut().unwrap().push('\n'),
            None if !blocks.last().unwrap().is_empty() => blocks.push(String::new()),
            None => {}
        }
    }
    blocks
        .into_iter()
        .map(|block| format!("{}\n", block.trim_end()))
        .collect()
}

fn the_readme_matches_the_manifests_and_its_commands_work() {
    let blocks = readme_blocks();
    assert!(
        blocks.contains(&CONFIG.to_string()),
        "the README does not show this as it is shipped:\n{CONFIG}"
    );
    // It shows the lines of the policy that refer to the group.
    let policy = include_str!("../../manifests/examples/networkpolicy.yaml");
    let reference = "  ingress:\n  - fromCIDRSet:\n    - cidrGroupRef: ip6-local-lan\n";
    assert!(policy.contains(reference) && blocks.contains(&reference.to_string()));
    assert!(reference.contains(GROUP) && CONFIG.contains(GROUP));
    // Its offline commands work as written, in the project's folder, on a machine with that interface.
    let interface = Interface::named("eth0");
    interface.add(ADDRESS);
    let commands: Vec<&str> = blocks
        .iter()
        .flat_map(|b| b.lines())
        .filter(|l| l.starts_with("k6u preview "))
        .collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in commands {
        let words = command.split_whitespace().skip(1);
        let mut run = Command::new(binary());
        let (status, stdout, stderr) = output(run.env_clear().current_dir(env!("CARGO_MANIFEST_DIR")).args(words));
        assert_eq!(status, Some(0), "{command}: {stderr}");
        assert!(stdout.contains("kind: CiliumCIDRGroup"), "{command}: {stdout}");
    }
    // Every make target that it names exists.
    let makefile = include_str!("../../Makefile");
    for line in include_str!("../../README.md")
        .split('`')
        .filter_map(|part| part.strip_prefix("make "))
    {
        let target = line.split_whitespace().next().unwrap();
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
}

fn run_once(site: &Site, node: &str) -> (Option<i32>, String) {
    let output = site
        .start()
        .with("NODE_NAME", node)
        .with("RUST_LOG", "info")
        .arguments(&["once"])
        .command()
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn once_without_the_right_to_crds() {
    let site = Site::with_address(ADDRESS);
    site.revoke("patch", "customresourcedefinitions");
    let (status, stderr) = run_once(&site, NODE);
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(status, Some(0), "every config is Ready: {stderr}");
}

fn once_without_the_right_to_events() {
    let site = Site::with_address(ADDRESS);
    site.revoke("create", "events");
    let (status, stderr) = run_once(&site, NODE);
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(status, Some(0), "every config is Ready: {stderr}");
}

fn once_without_the_right_to_nodes() {
    let site = Site::with_address(ADDRESS);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.revoke("get", "nodes");
    let (status, stderr) = run_once(&site, NODE);
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(status, Some(0), "every config is Ready: {stderr}");
}

fn preview_takes_alternative_names() {
    let site = Site::with_address(ADDRESS);
    let folder = &site.account.folder;
    for name in &alternative_names(&site) {
        site.interface.add_name(name).expect("an alternative name");
        fs::write(folder.join("config.yaml"), CONFIG).expect("a file");
        fs::write(folder.join("node.yaml"), NODE_CONFIG.replace("eth0", name)).expect("a file");
        let mut preview = Command::new(binary());
        preview.env_clear().current_dir(folder);
        let output = preview
            .args(["preview", "config.yaml", "node.yaml"])
            .output()
            .expect("k6u starts");
        let (yaml, notes) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{notes}");
        assert!(yaml.contains("2001:db8:1234:5670::/64"), "{yaml}");
        assert!(notes.contains(name.as_str()), "{notes}");
    }
}

/// Two files have the same config.
fn preview_of_one_name_twice() {
    let site = Site::new();
    let file = site.account.folder.join("config.yaml");
    fs::write(&file, CONFIG).unwrap();
    let other = site.account.folder.join("other.yaml");
    fs::write(&other, CONFIG.replace("[0, 1, 2]", "[3]")).unwrap();
    let mut command = Command::new(binary());
    command
        .env_clear()
        .args(["preview", "--address", "2001:db8::1"])
        .args([&file, &other]);
    let output = command.output().expect("k6u starts");
    let text = String::from_utf8(output.stdout).unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}{notes}");
    assert!(!notes.contains("panicked"), "{notes}");
}
