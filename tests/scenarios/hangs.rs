//! A round that hangs on what no other limit catches: k6u ends itself after five minutes.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::machine::node::Start;
use serde_json::{Value, json};

use crate::Scenario;
use crate::site::{CONFIG_NAME, CONFIGS, Running, SOON, Site};

pub const ALL: &[Scenario] = &[
    (NEED_DYNAMIC[0], a_token_that_cannot_be_read_to_its_end),
    (NEED_DYNAMIC[1], standard_error_that_nobody_reads),
    (NEED_DYNAMIC[2], rounds_that_end_are_not_counted_together),
    (NEED_DYNAMIC[3], a_long_round_that_is_answered),
];

/// Five minutes are only shortened for a binary that asks the C library of the system for them.
pub const NEED_DYNAMIC: &[&str] = &[
    "a_token_that_cannot_be_read_to_its_end",
    "standard_error_that_nobody_reads",
    "rounds_that_end_are_not_counted_together",
    "a_long_round_that_is_answered",
];

/// Makes three seconds of five minutes.
const SHORT_ALARM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>

unsigned alarm(unsigned seconds) {
    unsigned (*real)(unsigned) = (unsigned (*)(unsigned))dlsym(RTLD_NEXT, "alarm");
    return real(seconds == 300 ? 3 : seconds);
}
"#;
/// 128 + SIGALRM.
const HANGING: Option<i32> = Some(142);

/// k6u whose alarm rings after three seconds.
fn impatient(site: &Site) -> Start {
    let folder = &site.account.folder;
    fs::write(folder.join("alarm.c"), SHORT_ALARM).expect("a file");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", "alarm.so", "alarm.c", "-ldl"])
        .current_dir(folder)
        .status();
    assert!(built.expect("a C compiler").success());
    let library = folder.join("alarm.so").display().to_string();
    site.start().with("UPDATE_INTERVAL", "1").with("LD_PRELOAD", &library)
}

/// As on a file system whose server is gone, open(2) does not come back.
fn a_token_that_cannot_be_read_to_its_end() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let mut node = Running(impatient(&site).spawn());
    site.wait_lan("2001:db8:1234:567");
    let token = site.account.folder.join("token");
    fs::remove_file(&token).expect("the token");
    let made = Command::new("mkfifo").arg(&token).status();
    assert!(made.expect("mkfifo").success());
    let ended = node.wait(Duration::from_secs(60)).expect("it hangs for ever");
    assert_eq!(ended.code(), HANGING, "{ended}");
    node.wait_log("k6u: no API response for five minutes", SOON);
}

/// It says nothing in the end, because it cannot.
fn standard_error_that_nobody_reads() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let (reader, mut writer) = io::pipe().expect("a pipe");
    // SAFETY: no pointers are passed.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
    let full = vec![b'x'; usize::try_from(size).expect("the pipe's size")];
    writer.write_all(&full).expect("as much as fits");
    let child = impatient(&site).command().stderr(writer).stdout(Stdio::null()).spawn();
    let mut child = child.expect("k6u starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        assert!(Instant::now() < deadline, "it hangs for ever");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended.code(), HANGING, "{ended}");
    drop(reader);
}

/// The alarm is for one round, and not for the time between two.
fn rounds_that_end_are_not_counted_together() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let mut node = Running(impatient(&site).with("UPDATE_INTERVAL", "4").spawn());
    site.wait_lan("2001:db8:1234:567");
    assert_eq!(node.wait(Duration::from_secs(7)), None, "{:#?}", node.log());
    assert!(node.count("DEBUG round: ") >= 2, "{:#?}", node.log());
}

/// An API server that takes its time, and many targets: the round is long, but nothing hangs.
fn a_long_round_that_is_answered() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let node = Running(impatient(&site).spawn());
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .inject(Plan::always(Fault::Late(Duration::from_millis(700))));
    let groups: Vec<Value> = (0..5)
        .map(|n| json!({"ciliumCIDRGroupName": format!("g{n}"), "prefixIds": [0]}))
        .collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": groups}}),
    );
    for n in 0..5 {
        site.wait_group(&format!("g{n}"), &["2001:db8:1234:5670::/64"]);
    }
    let microseconds = |line: &String| {
        let (_, time) = line.split_once("requests, ")?;
        time.split_once(" us: ")?.0.parse::<u64>().ok()
    };
    let longest = || node.log().iter().filter_map(microseconds).max();
    let deadline = Instant::now() + SOON;
    while longest() < Some(3_000_000) {
        assert!(
            Instant::now() < deadline,
            "no round is longer than the alarm: {:#?}",
            node.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(node.count("k6u: no API response"), 0, "{:#?}", node.log());
}
