//! k6u with nothing but its binary and its service account.

use std::fs;
use std::path::PathBuf;

use k6u_testkit::machine::confine::{ACCOUNT, confine};
use k6u_testkit::machine::node::Node;

use crate::Scenario;
use crate::site::{CONFIG_NAME, NEW_ADDRESS, Running, SOON, Site};

pub const ALL: &[Scenario] = &[(NEEDS_STATIC, alone_in_an_empty_root)];

/// In an empty root there is no loader and no library.
pub const NEEDS_STATIC: &str = "alone_in_an_empty_root";

fn alone_in_an_empty_root() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let place = site.account.folder.with_extension("root");
    fs::create_dir_all(&place).expect("a folder");
    let mut start = site
        .start()
        .with("UPDATE_INTERVAL", "1")
        .with("SERVICE_ACCOUNT_DIR", ACCOUNT);
    start.binary = PathBuf::from("/k6u");
    let mut command = start.command();
    confine(&mut command, &crate::binary(), &site.account.folder, &place);
    let mut node = Running(Node::of(command.spawn().expect("k6u starts")));
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");

    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).expect("it runs");
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the field")
            .trim()
    };
    for (name, value) in [
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("Threads:", "1"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    let map = fs::read_to_string(format!("/proc/{}/uid_map", node.id())).expect("it runs");
    assert_eq!(map.split_whitespace().next(), Some("1000"), "{map}");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", node.id())).expect("it runs");
    let options = mounts.lines().map(|line| line.split(' ').nth(3).unwrap_or_default());
    assert_eq!(
        options.clone().count(),
        3,
        "the root, the binary, the account: {mounts}"
    );
    assert!(options.into_iter().all(|options| options.starts_with("ro")), "{mounts}");

    // All that it does in its life works there: a change, a new token and CA, a server that restarts.
    site.interface.add(NEW_ADDRESS);
    site.interface.remove("2001:db8:1234:5671::10");
    site.wait_lan("2001:db8:9876:543");
    site.account.write("token", k6u_testkit::apiserver::server::TOKEN);
    site.server.stop();
    node.wait_log("connection refused", SOON);
    site.server.restart().expect("it listens again");
    site.interface.add("2001:db8:aaaa:bbb1::10");
    site.interface.remove(NEW_ADDRESS);
    site.wait_lan("2001:db8:aaaa:bbb");
    node.signal(libc::SIGTERM);
    let ended = node.wait(SOON).expect("it ends");
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    fs::remove_dir(&place).expect("it was only mounted on");
}
