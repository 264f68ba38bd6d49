//! The API server fails, or refuses.

use std::time::{Duration, Instant};

use k6u_testkit::apiserver::certificates::Certificate;
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::rbac::{Identity, cluster_role};
use k6u_testkit::apiserver::server::{ApiServer, Cilium, TOKEN, cidrs};
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::machine::node::{Account, Start};
use serde_json::{Map, Value, json};

use crate::Scenario;
use crate::site::{
    ADDRESS, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, NODE, NODE_CONFIGS, RBAC, Running, SOON, Site, follows, reasons,
    refusal, requests,
};

pub const ALL: &[Scenario] = scenarios![
    the_api_server_has_an_ipv6_address,
    a_conflict_is_computed_afresh,
    the_token_is_rotated,
    a_proxy_in_the_environment_is_ignored,
    connections_that_died_while_idle_cost_a_retry,
    the_api_server_restarts,
    a_renumbering_during_an_outage_is_logged_when_it_is_seen,
    a_flood_of_changes_during_an_outage,
    the_api_servers_own_address_in_place_of_the_services,
    a_right_is_missing_and_named,
    an_authorizer_that_is_not_ready_yet,
    a_target_that_is_forbidden_for_a_moment,
    retry_after_is_honoured,
    a_read_that_asks_for_rest,
    a_change_whose_second_list_fails,
];

fn move_prefix(site: &Site) {
    site.interface.add("2001:db8:9876:5431::10");
    site.interface.remove(ADDRESS);
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

fn a_conflict_is_computed_afresh() {
    let (site, node) = Site::settled(1);
    let conflict = json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409,
        "message": "the object has been modified", "details": {"name": GROUP}});
    let conflict = Response::new(409, "application/json", conflict.to_string());
    site.server
        .inject(Plan::on("PATCH /apis/cilium.io", 2, Fault::Answer(conflict)));
    move_prefix(&site);
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(node.complaints(), [""; 0], "a conflict is no trouble");
}

fn the_token_is_rotated() {
    let (site, node) = Site::settled(1);
    let second = format!("{TOKEN}-second");
    site.server.set_token(TOKEN, None);
    node.wait_log(": 401 Unauthorized", SOON);
    move_prefix(&site);
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
        // Between two rounds: what breaks in the middle of an answer may fail a round.
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
    move_prefix(&site);
    std::thread::sleep(Duration::from_millis(2500));
    site.server.restart().unwrap();
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("API server: recovered after", SOON);
    node.wait_complaints(1);
}

/// Each change has one line, which comes when the kernel reports it.
fn a_renumbering_during_an_outage_is_logged_when_it_is_seen() {
    let (site, node) = Site::settled(1);
    site.server.stop();
    node.wait_log("no response from the API server: connection refused", SOON);
    move_prefix(&site);
    node.wait_log(" -> 2001:db8:9876:5431::/64", SOON);
    site.server.restart().unwrap();
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("API server: recovered after", SOON);
    site.wait_rounds(2);
    let log = node.log();
    let changes = log
        .iter()
        .filter_map(|line| line.split_once(": prefixes ")?.1.split_once(" -> "));
    // What is not in use follows in parentheses.
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
    let most = 5 + start.elapsed().as_secs() as usize + 1;
    assert!(lines <= most, "{lines} lines: {:#?}", node.log());
    site.interface.add(NEW_ADDRESS);
    site.server.restart().unwrap();
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(site.server.wait(SOON, both).is_some());
}

/// kube-proxy may take a minute to let anybody through to the Service again. The certificate is for the own address,
/// and verified as always.
fn the_api_servers_own_address_in_place_of_the_services() {
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
    // Nobody is behind the Service's address.
    let through_service = Running(
        site.start()
            .with("KUBERNETES_SERVICE_HOST", "127.0.0.96")
            .with("NODE_NAME", "node2.example.com")
            .spawn(),
    );
    through_service.wait_log("no response from the API server", SOON);
    move_prefix(&site);
    site.wait_lan("2001:db8:9876:543");
    assert_eq!(node.complaints(), at_start);
    site.server
        .set_tls(site.server.authority.server(&certificate("fd00:1::11")));
    site.server.close_connections();
    node.wait_log("certificate", SOON);
}

fn a_right_is_missing_and_named() {
    let (site, node) = Site::settled(1);
    site.revoke("patch", "ciliumcidrgroups");
    move_prefix(&site);
    let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.contains("cannot patch resource \"ciliumcidrgroups\" in API group \"cilium.io\"")
            && message.contains("grant k6u this right"),
        "{message}"
    );
    site.wait_rounds(2);
    site.restore_rights();
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_log("CiliumCIDRGroup ip6-local-lan: recovered after", SOON);
}

/// Until an API server that starts has read the roles, it refuses whatever they allow.
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
    move_prefix(&site);
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
    // What lasts is a missing right.
    forbid_all();
    node.wait_log(" WARN  API server: GET ", SOON);
    let complaints = node.complaints();
    assert!(
        complaints.iter().all(|line| line.contains("grant k6u this right")),
        "{complaints:#?}"
    );
}

fn a_target_that_is_forbidden_for_a_moment() {
    for verb in ["get", "patch"] {
        let (site, node) = Site::settled(1);
        site.wait_reason(CONFIG_NAME, "Updated");
        site.revoke(verb, "ciliumcidrgroups");
        move_prefix(&site);
        let refused = |store: &Store| {
            let refused = store.log.iter().filter(|logged| logged.status == 403);
            (refused.count() >= 2).then_some(())
        };
        assert!(site.server.wait(SOON, refused).is_some(), "{verb} is not tried again");
        site.restore_rights();
        site.wait_lan("2001:db8:9876:543");
        site.wait_rounds(2);
        assert_eq!(node.complaints(), [""; 0]);
        assert_eq!(reasons(&site.server.store(), CONFIG_NAME), ["Updated"], "{verb}");
    }
}

fn retry_after_is_honoured() {
    let (site, node) = Site::settled(1);
    let busy = Response::new(503, "text/plain", "apiserver is shutting down\n").with("Retry-After", "2");
    site.server.inject(Plan::always(Fault::Answer(busy)));
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
            "it was told to wait for two seconds: {pause:?}"
        );
    }
    node.wait_log("503 apiserver is shutting down", SOON);
    site.server.heal();
    move_prefix(&site);
    site.wait_lan("2001:db8:9876:543");
    // The target met it first.
    node.wait_complaints(2);
}

/// "429 and 5xx: honour Retry-After, back off with jitter up to a minute."
fn a_read_that_asks_for_rest() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    let body = json!({"kind": "Status", "status": "Failure", "reason": "TooManyRequests", "code": 429,
        "message": "too many requests, please try again later", "details": {"name": GROUP}});
    let answer = Response::new(429, "application/json", body.to_string()).with("Retry-After", "30");
    site.server.inject(Plan::on(
        "GET /apis/cilium.io/v2/ciliumcidrgroups/",
        usize::MAX,
        Fault::Answer(answer),
    ));
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    let asked = || requests(&site.server.store(), "GET /apis/cilium.io/v2/ciliumcidrgroups/").len();
    let before = asked();
    let since = Instant::now();
    site.wait_rounds(12);
    let (again, time) = (asked() - before, since.elapsed());
    drop(node);
    assert!(
        again <= 1,
        "asked for 30 s of rest, and asked again {again} times in {time:?}"
    );
}

/// "A node does this half if it published a change [...] or did not come to its end."
fn a_change_whose_second_list_fails() {
    let (site, node) = Site::settled(1);
    let entry = json!({"prefixes": ["2001:db8:1234:5671::/64"], "observedTime": "2026-11-24T00:00:00Z"});
    let others: Map<String, Value> = (0..296)
        .map(|n| (format!("other{n}.example.com"), entry.clone()))
        .collect();
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1/status"),
        json!({"status": {"nodes": others}}),
    );
    site.wait_rounds(2);
    site.server.inject(Plan::on(
        &format!("PATCH {NODE_CONFIGS}/"),
        1,
        Fault::Late(Duration::from_millis(1500)),
    ));
    site.interface.add(NEW_ADDRESS);
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let published = |store: &Store| {
        let entry = &store.objects[&key]["status"]["nodes"][NODE];
        entry.to_string().contains("2001:db8:9876:5431").then_some(())
    };
    assert!(site.server.wait(SOON, published).is_some());
    site.server.inject(Plan::on(
        &format!("GET {NODE_CONFIGS}"),
        1,
        refusal(500, "InternalError", "etcdserver: leader changed", ""),
    ));
    let since = Instant::now();
    let reached = site
        .server
        .wait(Duration::from_secs(12), |store| follows(store, "2001:db8:9876:543"));
    let log = node.log();
    let rounds: Vec<&String> = log
        .iter()
        .rev()
        .filter(|line| line.contains("round: "))
        .take(6)
        .collect();
    let rounds: Vec<String> = rounds.into_iter().cloned().collect();
    drop(node);
    assert!(
        reached.is_some(),
        "published {:?} ago, and no second half since: {rounds:#?}",
        since.elapsed()
    );
}
