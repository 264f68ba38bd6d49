//! Transport between k6u and the API server: connections, certificates, tokens, rights, bad answers, and the client
//! by itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use k6u::kube::objects::Object;
use k6u::kube::{Client, ErrorKind};
use k6u_testkit::apiserver::certificates::{Authority, Certificate};
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::rbac::{Identity, cluster_role};
use k6u_testkit::apiserver::server::{ApiServer, Cilium, TOKEN, cidrs};
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::machine::namespace::{self, Interface};
use k6u_testkit::machine::node::{Account, Node, Start};
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, NODE_CONFIGS, RBAC, Running, SOON, Site, at_once,
    json_answer, ready, reasons, refusal,
};
use serde_json::{Value, json};

use crate::Scenario;

pub const ALL: &[Scenario] = scenarios![
    a_write_returns_the_object_as_it_is_stored,
    a_request_keeps_the_limit_of_its_caller,
    a_write_asks_for_half_of_its_time,
    errors_of_the_same_kind,
    the_api_server_has_an_ipv6_address,
    the_token_is_rotated,
    a_proxy_in_the_environment_is_ignored,
    connections_that_died_while_idle_cost_a_retry,
    the_api_server_restarts,
    a_renumbering_during_an_outage_is_logged_when_it_is_seen,
    a_flood_of_changes_during_an_outage,
    a_direct_address_of_the_api_server,
    an_authorizer_that_is_not_ready_yet,
    retry_after_is_honoured,
    answers_that_are_cut_off,
    a_server_that_never_answers,
    a_server_that_answers_a_byte_a_second,
    overload_and_server_errors,
    each_right_in_turn,
    invalid_certificates,
    a_new_ca,
    unexpected_answers,
    an_object_that_cannot_be_read,
    a_list_that_is_null,
    name_servers_that_do_not_answer,
    a_long_token,
    invalid_account_files,
    the_name_of_the_api_server_gets_a_new_address,
    an_idle_round_costs_three_requests_and_no_write,
];

const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";
pub const LIST: &str = "GET /apis/apps.fuwafuwatime.moe/v1/ip6updatenodeconfigs";

fn client(site: &Site) -> Client {
    let mut client = Client::new(format!("https://{}", site.server.address), &site.account.folder);
    client.read_account().unwrap();
    client
}

fn group(name: &str) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": name},
        "spec": {"externalCIDRs": ["2001:db8::/64"], "unknown": 1}})
}

/// The stored object may differ from the one that was sent: here the schema drops a field.
fn a_write_returns_the_object_as_it_is_stored() {
    let site = Site::new();
    let mut client = client(&site);
    let created: Value = client.create_returning(GROUPS, &group(GROUP)).unwrap();
    assert_eq!(created["spec"], json!({"externalCIDRs": ["2001:db8::/64"]}));
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{GROUPS}/{GROUP}");
    let patch = json!({"spec": {"externalCIDRs": ["2001:db8:1::/64"], "unknown": 2}});
    let patched: Value = client.merge_patch_returning(&path, &patch).unwrap();
    assert_eq!(patched["spec"], json!({"externalCIDRs": ["2001:db8:1::/64"]}));
    assert_eq!(patched["metadata"]["generation"], 2);
    assert_eq!(Some(&patched), site.group(GROUP).as_ref());
    // A caller that needs nothing back gets the metadata only.
    let object: Object = client.merge_patch_returning(&path, &json!({})).unwrap();
    assert_eq!(object.metadata.name, GROUP);
    let sent = |line: &str| {
        let store = site.server.store();
        let logged = store.log.iter().rfind(|logged| logged.line.starts_with(line)).unwrap();
        logged.bytes.1
    };
    client.merge_patch(&path, &json!({})).unwrap();
    let less = sent("PATCH ");
    let _: Value = client.merge_patch_returning(&path, &json!({})).unwrap();
    assert!(less < sent("PATCH "), "{less} bytes");
    client.create(GROUPS, &group("other")).unwrap();
    assert!(client.create(GROUPS, &group("other")).unwrap_err().is_conflict());
}

fn a_request_keeps_the_limit_of_its_caller() {
    let site = Site::new();
    let mut client = client(&site);
    let path = format!("{GROUPS}/{GROUP}");
    let read = |client: &mut Client| client.get::<Value>(&path).unwrap_err();
    assert!(read(&mut client).is_absent_object());
    site.server.inject(Plan::on("GET ", 2, Fault::Hang));
    let begin = Instant::now();
    let error = client.within(Duration::from_millis(300), read);
    assert!(error.is_timeout() && !error.is_unreachable(), "{error}");
    assert!(error.to_string().ends_with("timed out after 0.3 s"), "{error}");
    let long = client.within(Duration::from_secs(2), |client| {
        client.within(Duration::from_secs(60), read)
    });
    assert!(long.to_string().ends_with("timed out after 2 s"), "{long}");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let (sent, asked) = (client.requests(), site.server.store().log.len());
    let none = client.within(Duration::ZERO, read);
    assert!(none.is_timeout(), "{none}");
    assert_eq!((client.requests(), site.server.store().log.len()), (sent, asked));
    assert!(read(&mut client).is_absent_object(), "it is back to ten seconds");
    // Connecting takes time as well.
    site.server.stop();
    let refused = client.within(Duration::from_secs(1), read);
    assert!(refused.is_unreachable() && !refused.is_timeout(), "{refused}");
}

fn a_write_asks_for_half_of_its_time() {
    let site = Site::new();
    let mut client = client(&site);
    for (limit, webhook, is_stored) in [(400, 300, false), (4000, 300, true), (60_000, 7000, false)] {
        let name = format!("lan-{limit}");
        site.server
            .inject(Plan::on("POST ", 1, Fault::Webhook(Duration::from_millis(webhook))));
        let written = client.within(Duration::from_millis(limit), |client| {
            client.create(GROUPS, &group(&name))
        });
        assert_eq!(written.is_ok(), is_stored, "{limit}: {written:?}");
        if let Err(error) = written {
            assert_eq!(error.kind(), ErrorKind::Refused(504, "Timeout".into()));
            assert!(error.is_overloaded() && !error.is_lasting_refusal());
        }
        // A write that failed is not stored later.
        std::thread::sleep(Duration::from_millis(webhook));
        assert_eq!(site.group(&name).is_some(), is_stored, "{limit}");
    }
}

fn errors_of_the_same_kind() {
    let site = Site::new();
    site.create_group("x", &[]);
    let mut client = client(&site);
    let mut fails = |fault: Fault| {
        // On an old connection k6u sends the request twice.
        site.server.inject(Plan::on("GET ", 2, fault));
        let result = client.within(SOON, |client| client.get::<Object>(&format!("{GROUPS}/x")));
        site.server.heal();
        result.unwrap_err()
    };
    let text = |status, body: &str| Fault::Answer(Response::new(status, "text/plain", body));
    for (one, other) in [
        (
            text(502, "upstream 10.0.0.1:40001"),
            text(502, "upstream 10.0.0.1:40002"),
        ),
        (Fault::CutAt(0), Fault::CutBodyAt(5)),
        (
            json_answer(&json!([1])),
            Fault::Answer(Response::new(200, "application/json", r#"{"metadata":{}"#)),
        ),
    ] {
        let (one, other) = (fails(one), fails(other));
        assert_eq!(one.kind(), other.kind(), "{one}; {other}");
        assert!(one.to_string().contains(&one.kind().to_string()), "{one}");
    }
    let absent = fails(text(404, "404 page not found\n"));
    assert!(absent.is_absent_api());
    // A Status object proves that the API is served, even if it names nothing.
    let status = json!({"kind": "Status", "reason": "NotFound", "message": "not found", "code": 404});
    let unnamed = fails(Fault::Answer(Response::new(
        404,
        "application/json",
        status.to_string(),
    )));
    assert!(unnamed.is_absent_object() && !unnamed.is_absent_api());
}

fn the_api_server_has_an_ipv6_address() {
    let site = Site::bare("::1", Some(Cilium::Both));
    site.install();
    site.interface.add(ADDRESS);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    assert!(
        node.log()[0].contains("API server https://[::1]:"),
        "{:?}",
        node.log()[0]
    );
}

fn the_token_is_rotated() {
    let (site, node) = Site::settled(1);
    let second = format!("{TOKEN}-second");
    site.server.set_token(TOKEN, None);
    node.wait_log(": 401 Unauthorized", SOON);
    site.renumber();
    site.server
        .set_token(&second, Some(Identity::ServiceAccount(cluster_role(RBAC))));
    site.account.write("token", format!("{second}\n"));
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("API server: recovered after", SOON);
    let complaints = node.complaints();
    assert!(
        complaints.iter().all(|line| line.contains("401 Unauthorized")),
        "{complaints:#?}"
    );
    let of_server = complaints.iter().filter(|line| line.contains("API server:"));
    assert_eq!(of_server.count(), 1, "{complaints:#?}");
}

fn a_proxy_in_the_environment_is_ignored() {
    let site = Site::with_address(ADDRESS);
    let through_proxy = |start: Start| {
        ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"]
            .iter()
            .fold(start, |s, n| s.with(n, "http://127.0.0.1:9"))
    };
    let _node = Running(through_proxy(site.start()).spawn());
    site.wait_lan("2001:db8:1234:567");
}

fn connections_that_died_while_idle_cost_a_retry() {
    let (site, node) = Site::settled(1);
    for closed in 1..=3 {
        // Between two rounds: a connection that closes during an answer may fail a round.
        while node.count("DEBUG round: ") <= closed {
            std::thread::sleep(Duration::from_millis(1));
        }
        site.server.close_connections();
    }
    site.wait_rounds(2);
    assert_eq!(node.complaints(), [""; 0], "no round failed");
    assert!(site.server.opened() >= 3, "{} connections", site.server.opened());
}

fn the_api_server_restarts() {
    let (site, node) = Site::settled(1);
    site.server.stop();
    node.wait_log("no response from the API server: connection refused", SOON);
    site.renumber();
    std::thread::sleep(Duration::from_millis(2500));
    site.server.restart().unwrap();
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("API server: recovered after", SOON);
    node.wait_complaints(1);
}

/// k6u logs one line for each change, at the time when the kernel reports it.
fn a_renumbering_during_an_outage_is_logged_when_it_is_seen() {
    let (site, node) = Site::settled(1);
    site.server.stop();
    node.wait_log("no response from the API server: connection refused", SOON);
    site.renumber();
    node.wait_log(" -> 2001:db8:9876:5431::/64", SOON);
    site.server.restart().unwrap();
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("API server: recovered after", SOON);
    site.wait_rounds(2);
    let log = node.log();
    let changes = log
        .iter()
        .filter_map(|line| line.split_once(": prefixes ")?.1.split_once(" -> "));
    // Prefixes that are not in use follow in parentheses.
    let changes: Vec<(&str, &str)> = changes
        .map(|(from, to)| (from, to.split(" (").next().unwrap()))
        .collect();
    let mut seen = "unknown";
    for (from, to) in &changes {
        assert!(*from == seen && to != from, "{changes:#?}");
        seen = to;
    }
    assert_eq!(seen, "2001:db8:9876:5431::/64", "{changes:#?}");
}

/// A line for each change would fill the disk.
fn a_flood_of_changes_during_an_outage() {
    let (site, node) = Site::settled(1);
    site.server.stop();
    node.wait_log("no response from the API server: connection refused", SOON);
    let (before, start) = (node.count(": prefixes "), Instant::now());
    while start.elapsed() < Duration::from_millis(2500) {
        site.interface.add(NEW_ADDRESS);
        site.interface.remove(NEW_ADDRESS);
        site.interface.add(NEW_ADDRESS);
        std::thread::sleep(Duration::from_millis(5));
        site.interface.remove(NEW_ADDRESS);
        std::thread::sleep(Duration::from_millis(5));
    }
    let lines = node.count(": prefixes ") - before;
    let max = 5 + start.elapsed().as_secs() as usize + 1;
    assert!(lines <= max, "{lines} lines: {:#?}", node.log());
    site.interface.add(NEW_ADDRESS);
    site.server.restart().unwrap();
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(site.server.wait(SOON, both).is_some());
}

/// kube-proxy may need a minute until the Service's address works again. The certificate names the API server's own
/// address, and is verified as always.
fn a_direct_address_of_the_api_server() {
    let interface = Interface::new();
    interface.add("fd00:1::10");
    let server = ApiServer::start("fd00:1::10", Some(Cilium::Both), RBAC).expect("a server");
    let certificate = |name: &str| Certificate {
        names: vec![name.into()],
        ..Certificate::default()
    };
    server.set_tls(server.authority.server(&certificate("fd00:1::10")));
    let account = Account::new(&server);
    let site = Site {
        server,
        account,
        interface,
    };
    site.install();
    site.interface.add(ADDRESS);
    let node = Running(site.start().with("UPDATE_INTERVAL", "1").spawn());
    site.wait_lan("2001:db8:1234:567");
    // An address that is new may have no route for a moment.
    let at_start = node.complaints();
    // Nothing listens on the Service's address.
    let through_service = Running(
        site.start()
            .with("KUBERNETES_SERVICE_HOST", "127.0.0.96")
            .with("NODE_NAME", "node2.example.com")
            .spawn(),
    );
    through_service.wait_log("no response from the API server", SOON);
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    assert_eq!(node.complaints(), at_start);
    site.server
        .set_tls(site.server.authority.server(&certificate("fd00:1::11")));
    site.server.close_connections();
    node.wait_log("certificate", SOON);
}

/// An API server refuses everything until it has read the roles.
fn an_authorizer_that_is_not_ready_yet() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let refused = |store: &Store| store.log.iter().filter(|logged| logged.status == 403).count();
    let wait_refused = |count: usize| {
        let before = refused(&site.server.store());
        let reached = site
            .server
            .wait(SOON, |store| (refused(store) >= before + count).then_some(()));
        assert!(reached.is_some(), "it does not ask");
    };
    let text = "\"x\" is forbidden: User \"system:serviceaccount:kube-system:k6u\" cannot get resource \"x\" in API group \
                \"\" at the cluster scope";
    // Discovery as well.
    let forbid_all = || site.server.inject(Plan::always(refusal(403, "Forbidden", text, "")));
    forbid_all();
    site.renumber();
    wait_refused(4);
    site.server.heal();
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(node.complaints(), [""; 0]);
    // Also if it starts together with k6u.
    drop(node);
    forbid_all();
    let node = site.run(1);
    wait_refused(4);
    site.server.heal();
    site.interface.add(ADDRESS);
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(site.server.wait(SOON, both).is_some());
    assert_eq!(node.complaints(), [""; 0]);
    assert_eq!(reasons(&site.server.store(), CONFIG_NAME), ["Updated"]);
    assert!(site.events().iter().all(|(reason, _)| reason == "PrefixChanged"));
    // A refusal that lasts is a missing right.
    forbid_all();
    node.wait_log(" WARN  API server: GET ", SOON);
    let complaints = node.complaints();
    assert!(
        complaints.iter().all(|line| line.contains("grant k6u this right")),
        "{complaints:#?}"
    );
}

fn retry_after_is_honoured() {
    let (site, node) = Site::settled(1);
    let busy = Response::new(503, "text/plain", "apiserver is shutting down\n").with("Retry-After", "2");
    // From the end of a round on: so the next one meets it at the target first.
    let last = site.hold(&format!("GET {NODE_CONFIGS}"));
    last.wait();
    site.server.inject(Plan::always(Fault::Answer(busy)));
    last.release();
    let refused = |store: &Store| -> Option<Vec<Instant>> {
        let list = format!("GET {CONFIGS}");
        let refused = store
            .log
            .iter()
            .filter(|logged| logged.status == 503 && logged.line == list);
        Some(refused.map(|logged| logged.at).collect()).filter(|times: &Vec<Instant>| times.len() >= 3)
    };
    let times = site.server.wait(SOON, refused).expect("it tries again");
    for pause in times.windows(2).map(|pair| pair[1] - pair[0]) {
        assert!(
            pause >= Duration::from_secs(2),
            "Retry-After says two seconds: {pause:?}"
        );
    }
    node.wait_log("503 apiserver is shutting down", SOON);
    site.server.heal();
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    node.wait_complaints(2);
}

/// Renumbers while a fault lasts, from `begin` to `end`. Checks that k6u writes nothing wrong, that each subject has
/// one complaint with this text, and that the group follows afterwards.
pub fn survives(complaint: &str, begin: impl FnOnce(&Site), end: impl FnOnce(&Site)) {
    let (site, node) = Site::settled(1);
    begin(&site);
    site.renumber();
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

fn survives_list_fault(complaint: &str, fault: Fault) {
    survives(
        complaint,
        |site| site.server.inject(Plan::on(LIST, usize::MAX, fault)),
        |site| site.server.heal(),
    );
}

fn answers_that_are_cut_off() {
    let faults = [
        Fault::CutAt(0),
        Fault::CutAt(20),
        Fault::CutBodyAt(0),
        Fault::CutBodyAt(100),
    ];
    at_once(faults, |fault| {
        survives_list_fault(
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
    // The hanging request ends after 10 s, or when the server closes the connection.
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

fn overload_and_server_errors() {
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
    at_once(cases, |(complaint, response)| {
        survives_list_fault(complaint, Fault::Answer(response))
    });
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
            // The status says it as well, so there are two lines.
            let (site, node) = Site::settled(1);
            begin(&site);
            site.renumber();
            let reported = site.wait_reason(CONFIG_NAME, "UpdateFailed");
            assert!(reported["message"].as_str().unwrap().contains(&complaint), "{reported}");
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
    // k6u creates a missing group, and reads the labels of its node.
    for (verb, resource, group) in [("create", "ciliumcidrgroups", "cilium.io"), ("get", "nodes", "")] {
        let site = Site::with_address(ADDRESS);
        site.revoke(verb, resource);
        let node = site.run(1);
        node.wait_log(&cannot(verb, resource, group), SOON);
        site.restore_rights();
        site.wait_lan("2001:db8:1234:567");
    }
    // A missing right to create Events costs a line and nothing else.
    let site = Site::with_address(ADDRESS);
    site.revoke("create", "events");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert!(node.wait_complaints(1)[0].contains("cannot create resource \"events\""));
    // Without the right to write the config's status the groups are right all the same.
    let site = Site::with_address(ADDRESS);
    site.revoke("patch", "ip6updateconfigs/status");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    assert!(node.wait_complaints(1)[0].contains(&cannot("patch", "ip6updateconfigs/status", OWN)));
}

fn invalid_certificates() {
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
        // No connection has the bad certificate. Closing a connection with the new one would cause another problem.
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
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    assert!(node.complaints().len() <= 1, "{:#?}", node.complaints());
}

fn unexpected_answers() {
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
    at_once(cases, |(complaint, answer)| survives_list_fault(complaint, answer));
}

/// A malformed item of a list does not affect the other items.
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
        site.renumber();
        site.wait_lan("2001:db8:9876:543");
        site.wait_reason(CONFIG_NAME, "Updated");
        assert_eq!(node.count("unexpected response"), 0, "{:#?}", node.complaints());
    });
}

/// Go encodes an empty list as null.
fn a_list_that_is_null() {
    let (site, node) = Site::settled(1);
    let nothing = json_answer(&json!({"kind": "IP6UpdateConfigList", "items": null}));
    site.server.inject(Plan::on(&format!("GET {CONFIGS}"), 5, nothing));
    site.wait_rounds(7);
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    assert_eq!(node.complaints(), [""; 0]);
}

/// The ten seconds of a request include the lookup of the name, for which the C library may take half a minute. (musl
/// gives up after five seconds, unless resolv.conf has a timeout.)
fn name_servers_that_do_not_answer() {
    // A name server on every loopback address that never answers.
    let _silent = std::net::UdpSocket::bind("0.0.0.0:53").expect("port 53");
    let site = Site::with_address(ADDRESS);
    let resolv_conf = site.account.folder.join("resolv.conf");
    fs::write(
        &resolv_conf,
        "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\noptions timeout:30\n",
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
    let shell = Start {
        binary: "/usr/bin/unshare".into(),
        ..k6u
    };
    let begin = Instant::now();
    let node = Running(shell.arguments(&["--mount", "/bin/sh", "-c", &script]).spawn());
    node.wait_log("no response from the API server: timed out after 10 s", SOON);
    assert!(begin.elapsed() < Duration::from_secs(13), "{:?}", begin.elapsed());
}

/// The longest token that fits into a request.
fn a_long_token() {
    let site = Site::with_address(ADDRESS);
    let token = "x".repeat(6 * 1024);
    let rules = cluster_role(RBAC);
    let identity = Identity::ServiceAccount(rules);
    site.server.set_token(&token, Some(identity));
    site.account.write("token", &token);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    assert_eq!(node.complaints(), [""; 0]);
}

fn invalid_account_files() {
    let ca = |site: &Site| fs::read(site.account.folder.join("ca.crt")).expect("the CA");
    type Break = fn(&Site);
    let breaks: [(&str, Break); 8] = [
        ("cannot open", |s| {
            fs::remove_file(s.account.folder.join("token")).unwrap()
        }),
        // Half a token is well-formed, but unknown to the API server.
        ("401 Unauthorized", |s| {
            s.account.write("token", &TOKEN[..TOKEN.len() / 2])
        }),
        ("token is empty", |s| s.account.write("token", " \n")),
        ("token is longer than 6144 bytes", |s| {
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

fn the_name_of_the_api_server_gets_a_new_address() {
    let mut site = Site::with_address(ADDRESS);
    let hosts = site.account.folder.join("hosts");
    fs::write(&hosts, "127.0.0.1 kubernetes.default.svc\n").expect("a file");
    let start = site
        .start()
        .with("UPDATE_INTERVAL", "1")
        .with("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc");
    let mut command = start.command();
    namespace::bind_in_child(&mut command, &hosts, Path::new("/etc/hosts"));
    let node = Running(Node::of(command.spawn().expect("k6u starts")));
    node.wait_log("DEBUG round: ", SOON);
    site.server
        .move_to("127.0.0.9".parse().expect("an address"))
        .expect("it listens there");
    site.renumber();
    node.wait_log("connection refused", SOON);
    fs::write(&hosts, "127.0.0.9 kubernetes.default.svc\n").expect("a file");
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("API server: recovered after", SOON);
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
}

fn an_idle_round_costs_three_requests_and_no_write() {
    let site = Site::with_address(ADDRESS);
    let _node = site.run(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_rounds(2);
    let before = site.server.store().log.len();
    site.wait_rounds(3);
    let store = site.server.store();
    // The last round may be incomplete.
    let rounds: Vec<&str> = store.log[before..before + 6]
        .iter()
        .map(|logged| logged.line.as_str())
        .collect();
    let of_round = |part: &[&str]| {
        let mut sorted = part.to_vec();
        sorted.sort_unstable();
        sorted.iter().map(|line| line.to_string()).collect::<Vec<_>>()
    };
    let expected = [
        format!("GET {}/{GROUP}", "/apis/cilium.io/v2/ciliumcidrgroups"),
        format!("GET {}", CONFIGS),
        format!("GET {NODE_CONFIGS}"),
    ];
    assert_eq!(
        of_round(&rounds[..3]),
        of_round(&expected.each_ref().map(String::as_str))
    );
    assert_eq!(
        of_round(&rounds[3..]),
        of_round(&expected.each_ref().map(String::as_str))
    );
    let connections: std::collections::BTreeSet<u64> = store.log.iter().map(|logged| logged.connection).collect();
    assert_eq!(connections.len(), 1, "one connection for all");
    let written = store.log[before..]
        .iter()
        .filter(|logged| !logged.line.starts_with("GET "));
    assert_eq!(written.map(|logged| &logged.line).collect::<Vec<_>>(), [""; 0]);
    assert!(ready(&store, CONFIG_NAME).is_some());
}
