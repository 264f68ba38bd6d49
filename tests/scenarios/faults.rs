//! What goes wrong between k6u and the API server, on the node, and in its files: k6u keeps running,
//! says once what is wrong and once that it is over, writes nothing wrong meanwhile, and is right soon after.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::certificates::{Authority, Certificate};
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::kinds::KINDS;
use k6u_testkit::apiserver::server::TOKEN;
use k6u_testkit::apiserver::store::Key;
use k6u_testkit::machine::node::Node;
use serde_json::{Value, json};

use crate::Scenario;
use crate::site::{ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, Running, SOON, Site, at_once};

pub const ALL: &[Scenario] = scenarios![
    answers_that_break_off,
    a_server_that_never_answers,
    a_server_that_answers_a_byte_a_second,
    overload_and_breakage,
    each_right_in_turn,
    a_conflict_five_times_in_a_row,
    certificates_that_do_not_hold,
    a_new_ca,
    the_server_loses_all_objects,
    answers_that_are_not_what_they_should_be,
    the_servers_reflection_of_the_token,
    values_that_would_forge_a_log_line,
    an_object_that_cannot_be_read,
    a_list_that_is_null,
    a_webhook_that_is_slower_than_the_request,
    name_servers_that_do_not_answer,
    a_long_token,
    account_files_that_are_no_good,
    no_file_descriptors,
    what_the_process_holds,
    a_list_with_control_characters,
    names_that_would_forge_a_log_line,
];

pub const LIST: &str = "GET /apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs";

/// While the fault lasts the provider renumbers. Nothing wrong is written; one complaint that
/// contains `complaint` is made; afterwards the group follows.
pub fn survives(complaint: &str, begin: impl FnOnce(&Site), end: impl FnOnce(&Site)) {
    let (site, node) = Site::settled(1);
    begin(&site);
    site.interface.add(NEW_ADDRESS);
    site.interface.remove("2001:db8:1234:5671::10");
    let deadline = Instant::now() + SOON;
    while !node.complaints().iter().any(|line| line.contains(complaint)) {
        assert!(Instant::now() < deadline, "no {complaint:?} in {:#?}", node.log());
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(1500));
    end(&site);
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_log("recovered after", SOON);
    // One line each for the API server and the objects that met it first.
    let complaints = node.complaints();
    let subjects: BTreeSet<&str> = complaints.iter().filter_map(|line| line.split(": ").next()).collect();
    let is_about_it = complaints.iter().all(|line| line.contains(complaint));
    assert!(is_about_it && subjects.len() == complaints.len(), "{complaints:#?}");
    let right = |cidrs: &Vec<String>| {
        let start = if cidrs[0].starts_with("2001:db8:1234") {
            "2001:db8:1234:567"
        } else {
            "2001:db8:9876:543"
        };
        cidrs.len() == 3 && cidrs.iter().all(|cidr| cidr.starts_with(start))
    };
    let history = site.group_history(GROUP);
    assert!(history.iter().all(right), "{history:#?}");
}

fn fault(complaint: &str, fault: Fault) {
    survives(
        complaint,
        |site| site.server.inject(Plan::on(LIST, usize::MAX, fault)),
        |site| site.server.heal(),
    );
}

fn answers_that_break_off() {
    let faults = [
        Fault::CutAt(0),
        Fault::CutAt(20),
        Fault::CutBodyAt(0),
        Fault::CutBodyAt(100),
    ];
    at_once(faults, |fault| {
        self::fault(
            "API server: GET /apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs: ",
            fault,
        );
    });
    // In the middle of a chunk: long answers are sent in chunks.
    let large = |site: &Site| {
        let config = format!(
            "{CONFIG}  - ciliumCIDRGroupName: {}\n    prefixIds: [1]\n",
            "a".repeat(250)
        );
        for number in 0..8 {
            let config = config
                .replace(CONFIG_NAME, &format!("filler-{number}"))
                .replace(GROUP, &format!("filler-{number}"));
            site.server
                .create(&config.replace(&"a".repeat(250), &format!("{}-{number}", "a".repeat(240))));
        }
        site.wait_rounds(3);
        site.server
            .inject(Plan::on(&format!("GET {CONFIGS}"), usize::MAX, Fault::CutBodyAt(2100)));
    };
    survives(
        "API server: GET /apis/apps.fuwafuwatime.moe/v1/ip6updateconfigs: ",
        large,
        |site| site.server.heal(),
    );
}

fn a_server_that_never_answers() {
    // The request that hangs ends after 10 s by itself, or when the server closes the connection.
    let end = |site: &Site| {
        site.server.heal();
        site.server.close_connections();
    };
    survives(
        "timed out after 10 s",
        |s| s.server.inject(Plan::on(LIST, usize::MAX, Fault::Hang)),
        end,
    );
}

fn a_server_that_answers_a_byte_a_second() {
    let drip = Fault::Drip(Duration::from_secs(1));
    survives(
        "timed out after 10 s",
        |s| s.server.inject(Plan::on(LIST, usize::MAX, drip)),
        |site| {
            site.server.heal();
            site.server.close_connections();
        },
    );
}

fn overload_and_breakage() {
    let answer = |status, kind, body: &str| Response::new(status, kind, body);
    let busy = json!({"kind": "Status", "reason": "TooManyRequests", "message": "too many requests", "code": 429});
    let cases = [
        (
            ": 429 TooManyRequests too many requests",
            answer(429, "application/json", &busy.to_string()).with("Retry-After", "1"),
        ),
        (
            ": 429 TooManyRequests too many requests",
            answer(429, "application/json", &busy.to_string()),
        ),
        (": 503 shutting down", answer(503, "text/plain", "shutting down")),
        (
            ": 500 <html> <h1>Internal error</h1> </html>",
            answer(500, "text/html", "<html>\n<h1>Internal error</h1>\n</html>"),
        ),
    ];
    at_once(cases, |(complaint, response)| fault(complaint, Fault::Answer(response)));
}

fn each_right_in_turn() {
    const OWN: &str = "apps.fuwafuwatime.moe";
    let cannot = |verb: &str, resource: &str, group: &str| {
        format!(
            "cannot {verb} resource \"{resource}\" in API group \"{group}\" at the cluster scope; grant k6u this right"
        )
    };
    let rights = [
        ("list", "ip6updatenodeconfigs", OWN),
        ("list", "ip6updateconfigs", OWN),
        ("patch", "ip6updatenodeconfigs/status", OWN),
        ("get", "ciliumcidrgroups", "cilium.io"),
    ];
    at_once(rights, |(verb, resource, group)| {
        let complaint = cannot(verb, resource, group);
        let begin = |site: &Site| site.revoke(verb, resource);
        if verb != "list" {
            // The status tells it as well, so there are two lines.
            let (site, node) = Site::settled(1);
            begin(&site);
            site.interface.add(NEW_ADDRESS);
            site.interface.remove("2001:db8:1234:5671::10");
            let told = site.wait_reason(CONFIG_NAME, "UpdateFailed");
            assert!(told["message"].as_str().unwrap().contains(&complaint), "{told}");
            let complaints = node.wait_complaints(2);
            assert!(
                complaints.iter().all(|line| line.contains(&complaint)),
                "{complaints:#?}"
            );
            site.wait_lan("2001:db8:1234:567");
            site.restore_rights();
            site.wait_lan("2001:db8:9876:543");
            site.wait_reason(CONFIG_NAME, "Updated");
            assert_eq!(node.complaints().len(), 2, "{:#?}", node.complaints());
        } else {
            survives(&complaint, begin, Site::restore_rights);
        }
    });
    // Without a group there is one to create; and the labels of the node say what selects it.
    for (verb, resource, group) in [("create", "ciliumcidrgroups", "cilium.io"), ("get", "nodes", "")] {
        let site = Site::with_address("2001:db8:1234:5671::10");
        site.revoke(verb, resource);
        let node = site.run(1);
        node.wait_log(&cannot(verb, resource, group), SOON);
        site.restore_rights();
        site.wait_lan("2001:db8:1234:567");
    }
    // Events are worth a line, but no more.
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.revoke("create", "events");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert!(node.wait_complaints(1)[0].contains("cannot create resource \"events\""));
    // The status of the config: the groups are right all the same.
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.revoke("patch", "ip6updateconfigs/status");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    assert!(node.wait_complaints(1)[0].contains(&cannot("patch", "ip6updateconfigs/status", OWN)));
}

fn a_conflict_five_times_in_a_row() {
    let (site, node) = Site::settled(1);
    let body = json!({"kind": "Status", "reason": "Conflict", "message": "modified", "details": {"name": GROUP}});
    let conflict = Fault::Answer(Response::new(409, "application/json", body.to_string()));
    site.server.inject(Plan::on("PATCH /apis/cilium.io", 5, conflict));
    site.interface.add(NEW_ADDRESS);
    site.interface.remove("2001:db8:1234:5671::10");
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(node.complaints(), [""; 0]);
}

fn certificates_that_do_not_hold() {
    let other = |names: &[&str]| Certificate {
        names: names.iter().map(|n| n.to_string()).collect(),
        ..Certificate::default()
    };
    let expired = Certificate {
        expired: true,
        ..Certificate::default()
    };
    let cases = [
        ("invalid peer certificate", true, Certificate::default()),
        ("certificate expired", false, expired),
        (
            "certificate not valid for name",
            false,
            other(&["192.0.2.1", "kubernetes.example.com"]),
        ),
    ];
    at_once(cases, |(complaint, foreign, certificate)| {
        let begin = |site: &Site| {
            let stranger = Authority::new();
            let authority = if foreign { &stranger } else { &site.server.authority };
            site.server.set_tls(authority.server(&certificate));
            site.server.close_connections();
        };
        // No connection came about with that certificate; to close what begins with the new one would be a trouble
        // of another kind.
        survives(complaint, begin, |site| {
            site.server
                .set_tls(site.server.authority.server(&Certificate::default()));
        });
    });
}

fn a_new_ca() {
    let (site, node) = Site::settled(1);
    let authority = Authority::new();
    site.account.write("ca.crt", authority.pem());
    site.server.set_tls(authority.server(&Certificate::default()));
    site.server.close_connections();
    site.interface.add(NEW_ADDRESS);
    site.interface.remove("2001:db8:1234:5671::10");
    site.wait_lan("2001:db8:9876:543");
    assert!(node.complaints().len() <= 1, "{:#?}", node.complaints());
}

fn the_server_loses_all_objects() {
    let (site, node) = Site::settled(1);
    let ours = |key: &k6u_testkit::apiserver::store::Key| !key.group.is_empty() && !key.name.contains("cilium");
    site.server.store().objects.retain(|key, _| !ours(key));
    node.wait_log("CustomResourceDefinitions: somebody deleted them, and all ", SOON);
    // k6u deploys its CRDs again by itself.
    let crd = |store: &k6u_testkit::apiserver::store::Store| {
        store
            .objects
            .keys()
            .find(|key| key.name == "ip6updatenodeconfigs.apps.fuwafuwatime.moe")
            .cloned()
    };
    assert!(site.server.wait(SOON, crd).is_some());
    site.wait_rounds(1);
    site.server.create(CONFIG);
    let node_config = crate::site::NODE_CONFIG.replace("eth0", &site.interface.name);
    site.server.create(&node_config);
    site.wait_lan("2001:db8:1234:567");
    node.wait_log("CustomResourceDefinitions: recovered after", SOON);
}

pub fn json_answer(body: &Value) -> Fault {
    Fault::Answer(Response::new(200, "application/json", body.to_string()))
}

fn answers_that_are_not_what_they_should_be() {
    let cases = [
        (
            "unexpected response: expected",
            Fault::Answer(Response::new(200, "text/html", "<html>hello</html>")),
        ),
        ("unexpected response: ", json_answer(&json!({"items": {"a": 1}}))),
        ("unexpected response: ", json_answer(&json!([1, 2, 3]))),
        (
            "unexpected response: ",
            Fault::Answer(Response::new(200, "application/json", "")),
        ),
    ];
    at_once(cases, |(complaint, answer)| fault(complaint, answer));
}

/// The most that k6u ever had in memory, in KiB.
pub fn peak(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The pod's limit, in KiB. This binary is not the stripped one of the image, so its own size is added.
pub fn limit() -> u64 {
    16 * 1024 + fs::metadata(crate::binary()).expect("the binary").len() / 1024
}

fn the_servers_reflection_of_the_token() {
    // What a proxy's error page may do. `Running` searches the log when it goes.
    let text = format!("you sent {TOKEN}\r\n\x1b[31mand\x07 that is wrong");
    let echo = Response::new(403, "text/plain", text);
    let (site, node) = Site::settled(1);
    site.server
        .inject(Plan::on("GET /apis/cilium.io", usize::MAX, Fault::Answer(echo)));
    let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("you sent [token] [31mand that is wrong"), "{message}");
    assert!(
        site.events().iter().all(|(_, note)| !note.contains(TOKEN)),
        "{:?}",
        site.events()
    );
    assert!(
        node.log()
            .iter()
            .all(|line| !line.contains(TOKEN) && !line.contains('\x1b'))
    );
    site.server.heal();
    site.wait_reason(CONFIG_NAME, "Updated");
}

/// A list element with the token, or with what ends a line, whoever wrote it.
fn values_that_would_forge_a_log_line() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let label = json!({"metadata": {"labels": {"x": TOKEN}}});
    let forged = "2001:db8::1\n2026-11-26T00:00:00Z ERROR forged\u{2028}by \u{1b}[2K";
    site.create_group(GROUP, &[TOKEN, forged, &TOKEN[..TOKEN.len() - 5]]);
    site.patch(&format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"), label);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    node.wait_log(
        "[token], 2001:db8::1 2026-11-26T00:00:00Z ERROR forged by [2K, [token]",
        SOON,
    );
    let log = node.log();
    assert!(
        log.iter().all(|line| !line.starts_with("2026-11-26T00:00:00Z ERROR")),
        "{log:#?}"
    );
    assert!(log.iter().all(|line| !line.contains(char::is_control)), "{log:#?}");
}

/// One item of a list that is not what the API says is that item's trouble.
fn an_object_that_cannot_be_read() {
    let cases = [
        json!(null),
        json!({"name": "b-bad", "labels": {"a": 1}}),
        json!({"name": "b-bad", "uid": {}}),
    ];
    at_once(cases, |metadata| {
        let (site, node) = Site::settled(1);
        for list in ["ip6updateconfigs", "ip6updatenodeconfigs"] {
            let key = Key::new("apps.fuwafuwatime.moe", list, "b-bad");
            // `put` would give it a resourceVersion.
            site.server
                .store()
                .objects
                .insert(key, json!({"metadata": metadata, "spec": {}}));
        }
        site.wait_rounds(3);
        site.interface.add(NEW_ADDRESS);
        site.interface.remove("2001:db8:1234:5671::10");
        site.wait_lan("2001:db8:9876:543");
        site.wait_reason(CONFIG_NAME, "Updated");
        assert_eq!(node.count("unexpected response"), 0, "{:#?}", node.complaints());
    });
}

/// As empty lists of Go are encoded.
fn a_list_that_is_null() {
    let (site, node) = Site::settled(1);
    let nothing = json_answer(&json!({"kind": "IP6UpdateConfigList", "items": null}));
    site.server.inject(Plan::on(&format!("GET {CONFIGS}"), 5, nothing));
    site.wait_rounds(7);
    site.interface.add(NEW_ADDRESS);
    site.interface.remove("2001:db8:1234:5671::10");
    site.wait_lan("2001:db8:9876:543");
    assert_eq!(node.complaints(), [""; 0]);
}

/// The API server gives up first: so what k6u takes for failed is not carried out behind its back.
fn a_webhook_that_is_slower_than_the_request() {
    let (site, node) = Site::settled(1);
    let write = "PATCH /apis/cilium.io/v2/ciliumcidrgroups/";
    site.server
        .inject(Plan::on(write, 1, Fault::Webhook(Duration::from_secs(12))));
    let begin = Instant::now();
    site.interface.add(NEW_ADDRESS);
    site.interface.remove("2001:db8:1234:5671::10");
    node.wait_log(
        ": 504 Timeout Timeout: request did not complete within requested timeout",
        SOON,
    );
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    // One that is quick enough, or not there, makes no difference.
    let answered = site
        .server
        .store()
        .log
        .iter()
        .any(|logged| logged.line.starts_with(write) && logged.status == 200);
    assert!(answered);
    // Also rights, which are checked before, and what is refused: the parameter breaks nothing.
    assert!(site.server.store().log.iter().all(|logged| logged.status != 400));
}

/// The ten seconds of a request include the lookup of the name, for which the C library takes half a minute.
fn name_servers_that_do_not_answer() {
    // On port 53 of every loopback address; what comes is not even read.
    let _silent = std::net::UdpSocket::bind("0.0.0.0:53").expect("port 53");
    let site = Site::with_address("2001:db8:1234:5671::10");
    let resolv_conf = site.account.folder.join("resolv.conf");
    fs::write(
        &resolv_conf,
        "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n",
    )
    .unwrap();
    let k6u = site
        .start()
        .with("UPDATE_INTERVAL", "1")
        .with("KUBERNETES_SERVICE_HOST", "api.example.com");
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec {}",
        resolv_conf.display(),
        k6u.binary.display()
    );
    let shell = k6u_testkit::machine::node::Start {
        binary: "/usr/bin/unshare".into(),
        ..k6u
    };
    let begin = Instant::now();
    let node = Running(shell.arguments(&["--mount", "/bin/sh", "-c", &script]).spawn());
    node.wait_log("no response from the API server: timed out after 10 s", SOON);
    assert!(begin.elapsed() < Duration::from_secs(13), "{:?}", begin.elapsed());
}

/// As long as a request takes one.
fn a_long_token() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let token = "x".repeat(12 * 1024);
    let rules = k6u_testkit::apiserver::rbac::cluster_role(crate::site::RBAC);
    let identity = k6u_testkit::apiserver::rbac::Identity::ServiceAccount(rules);
    site.server.set_token(&token, Some(identity));
    site.account.write("token", &token);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    assert_eq!(node.complaints(), [""; 0]);
}

fn account_files_that_are_no_good() {
    let ca = |site: &Site| fs::read(site.account.folder.join("ca.crt")).expect("the CA");
    type Break = fn(&Site);
    let breaks: [(&str, Break); 8] = [
        ("cannot open", |s| {
            fs::remove_file(s.account.folder.join("token")).unwrap()
        }),
        // Half a token is one, but not one that the API server knows.
        ("401 Unauthorized", |s| {
            s.account.write("token", &TOKEN[..TOKEN.len() / 2])
        }),
        ("token is empty", |s| s.account.write("token", " \n")),
        ("token is longer than 12288 bytes", |s| {
            s.account.write("token", "x".repeat(100_000))
        }),
        ("token holds no token", |s| s.account.write("token", "a\nb")),
        ("cannot open", |s| {
            fs::remove_file(s.account.folder.join("ca.crt")).unwrap()
        }),
        ("ca.crt holds no certificate", |s| s.account.write("ca.crt", "")),
        ("ca.crt is longer than 524288 bytes", |s| {
            s.account.write("ca.crt", "x".repeat(600_000))
        }),
    ];
    at_once(breaks, |(complaint, break_it)| {
        let restore = |site: &Site| {
            site.account.write("token", TOKEN);
            site.account.write("ca.crt", site.server.authority.pem());
        };
        survives(complaint, break_it, restore);
    });
    survives(
        "ca.crt ",
        |site| {
            let half = ca(site);
            site.account.write("ca.crt", &half[..half.len() / 2]);
        },
        |site| site.account.write("ca.crt", site.server.authority.pem()),
    );
}

fn no_file_descriptors() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    // Enough to start: standard streams, two netlink sockets; nothing is left for a connection or a file.
    let k6u = site.start().with("UPDATE_INTERVAL", "1");
    let script = format!("ulimit -Sn 5; exec {}", k6u.binary.display());
    let shell = k6u_testkit::machine::node::Start {
        binary: "/bin/sh".into(),
        ..k6u
    };
    let node = Running(shell.arguments(&["-c", &script]).spawn());
    // EMFILE, by its number: glibc and musl say it in different words.
    node.wait_log("(os error 24)", SOON);
    let more = libc::rlimit {
        rlim_cur: 64,
        rlim_max: 64,
    };
    // SAFETY: `more` outlives the call, and the old limit is not asked for.
    let set = unsafe {
        libc::prlimit(
            node.id() as libc::pid_t,
            libc::RLIMIT_NOFILE,
            &more,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(set, 0);
    site.wait_lan("2001:db8:1234:567");
    node.wait_log("recovered after", SOON);
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
}

fn what_the_process_holds() {
    let (site, node) = Site::settled(1);
    site.wait_rounds(3);
    let proc = format!("/proc/{}", node.id());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    assert!(status.lines().any(|line| line == "Threads:\t1"), "{status}");
    let children = fs::read_to_string(format!("{proc}/task/{}/children", node.id())).unwrap_or_default();
    assert_eq!(children.trim(), "", "it has children");
    // Rounds, and looks at addresses, open something for a moment; what it holds is there each time.
    let open = || -> BTreeSet<String> {
        let entries = fs::read_dir(format!("{proc}/fd")).unwrap().flatten();
        let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    };
    let is_file = |target: &&String| target.starts_with('/') && *target != "/dev/null";
    let is_socket = |target: &&String| target.starts_with("socket:");
    let mut held = open();
    let deadline = Instant::now() + SOON;
    while held.iter().any(|target| is_file(&target)) || held.iter().filter(is_socket).count() > 3 {
        assert!(
            Instant::now() < deadline,
            "it holds a file open, or too many sockets: {held:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
        held = held.intersection(&open()).cloned().collect();
    }
    let kinds: Vec<&String> = held.iter().filter(is_socket).collect();
    assert_eq!(kinds.len(), 3, "two netlink sockets and one connection: {kinds:?}");
    // 0A is LISTEN.
    for file in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("{proc}/net/{file}")).unwrap();
        let inode = |line: &str| line.split_whitespace().nth(9).map(|inode| format!("socket:[{inode}]"));
        let listens = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
        let own = table
            .lines()
            .filter(listens)
            .filter_map(inode)
            .any(|socket| kinds.contains(&&socket));
        assert!(!own, "it listens: {table}");
    }
}

/// "Control characters in the server's messages do not reach the log."
fn a_list_with_control_characters() {
    let kind = KINDS.into_iter().find(|kind| kind.name == "GlobalNetworkSet").unwrap();
    let site = Site::with_address(ADDRESS);
    site.server.install(kind.crd);
    site.grant(kind.rights);
    site.server.admin(
        "POST",
        &kind.path(),
        "application/json",
        &kind.object(&["x\n2026-11-25T00:00:00Z WARN  API server: forged \u{1b}[31m"]),
    );
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"targets": [kind.target("::1:ffff:0:0:0/112")]}}),
    );
    let node = site.run(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let forged: Vec<String> = node.log().into_iter().filter(|line| line.contains("forged")).collect();
    drop(node);
    assert!(
        !forged.is_empty()
            && forged
                .iter()
                .all(|line| !line.starts_with("2026-11-25T00:00:00Z") && !line.contains('\u{1b}')),
        "{forged:#?}"
    );
}

/// A node's and an interface's name, written past the schema by whoever can.
fn names_that_would_forge_a_log_line() {
    const FORGED: &str = "x\n2026-11-26T00:00:00Z ERROR forged \u{1b}[2K";
    let site = Site::with_address(ADDRESS);
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let mut second = site.server.store().objects[&key].clone();
    second["metadata"]["name"] = json!("z-second");
    second["metadata"]["uid"] = json!("z-second");
    second["spec"]["interface"] = json!("e\n\u{1b}[2Kforged");
    let entry = json!({"prefixes": ["2001:db8:aaaa:bbb1::/64"], "observedTime": "2026-11-24T00:00:00Z",
        "ignoresRouters": true, "message": FORGED});
    second["status"] = json!({"nodes": {FORGED: entry.clone(), TOKEN: entry}});
    let second_key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "z-second");
    site.server.store().put(second_key, second);
    let node = site.run(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.interface.add(NEW_ADDRESS);
    site.wait_rounds(5);
    // Another group of somebody who labels it so that it is reported.
    let label = json!({"metadata": {"labels": {format!("extgrp.cilium.io/{TOKEN}"): FORGED}}});
    site.patch(&format!("/apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"), label);
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    site.wait_rounds(3);
    let is_clean = |text: &str| !text.contains(TOKEN) && !text.contains(char::is_control);
    let log = node.log();
    assert!(log.iter().all(|line| is_clean(line)), "{log:#?}");
    assert!(
        log.iter().all(|line| !line.starts_with("2026-11-26T00:00:00Z ERROR")),
        "{log:#?}"
    );
    assert!(log.iter().any(|line| line.contains("forged")), "{log:#?}");
    let events = site.events();
    assert!(
        !events.is_empty() && events.iter().all(|(_, note)| is_clean(note)),
        "{events:#?}"
    );
    let store = site.server.store();
    for past in &store.history {
        let object = past.object.as_ref().filter(|_| past.key.resource == "ip6updateconfigs");
        let conditions = object
            .into_iter()
            .flat_map(|object| object["status"]["conditions"].as_array());
        for condition in conditions.flatten() {
            assert!(is_clean(condition["message"].as_str().unwrap()), "{condition}");
        }
    }
}
