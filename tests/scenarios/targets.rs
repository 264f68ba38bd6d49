//! Targets of other kinds than CiliumCIDRGroup.

use std::time::{Duration, Instant};

use k6u::kube::Client;
use k6u::resources::targets::{self, TargetApi, TargetKey};
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use k6u_testkit::apiserver::kinds::{CALICO_V3, DNS_NAME, KINDS, Kind, NAME, POOL_BEFORE_BLOCKS, TTL};
use k6u_testkit::apiserver::server::{Cilium, cidrs};
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::site::{
    ADDRESS, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, NODE, NODE_CONFIGS, Running, SOON, Site, at_once, denial,
    follows, name_groups, ready, refusal, requests, writes,
};
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::Clockwork;

pub const ALL: &[Scenario] = scenarios![
    each_kind_follows_and_keeps_the_rest,
    a_pool_gets_the_new_block_before_the_old_one_goes,
    a_missing_object_is_reported,
    a_missing_right_is_named,
    a_kind_that_is_not_installed,
    a_right_holds_in_one_namespace,
    a_middleware_without_an_allow_list_is_left_alone,
    a_list_that_the_version_does_not_have,
    ciliums_pools_in_either_version,
    calicos_api_server_comes_first,
    two_configs_name_one_pool,
    a_suffix_that_the_schema_cannot_check,
    a_version_that_comes_later,
    a_record_without_the_right_to_create,
    a_dns_record_follows,
    a_record_in_a_namespace_that_does_not_exist,
    ranges_in_both_pools,
    pools_of_two_kinds_with_one_name,
    foreign_elements_are_replaced,
    lists_are_kept_without_a_global_prefix,
    thirty_targets_hang,
    twelve_targets_that_take_six_seconds,
    a_slow_target_beside_a_new_one,
    a_slow_target_beside_one_that_failed_once,
    a_target_that_is_slow_to_read,
    a_spec_that_is_corrected_after_refusals,
];

const SUFFIX: &str = "::1:ffff:0:0:0/112";
/// The /64 with id 1, without its colons.
const BEFORE: &str = "2001:db8:1234:5671";
const AFTER: &str = "2001:db8:9876:5431";
const OLD: &str = "2001:db8:1234:5671:ffff::/112";
const NEW: &str = "2001:db8:9876:5431:ffff::/112";
/// More rounds than the 75 seconds for which the prefixes of a vanished entry stay.
const ROUNDS_OF_LINGER: usize = 9;
/// The element in each list before k6u writes it.
const FOREIGN: &str = "192.0.2.7/32";

fn kind(name: &str) -> Kind {
    Kind::named(name)
}

/// Names a target beside the group.
fn add_target(site: &Site, target: Value) {
    add_targets(site, &[target]);
}

fn add_targets(site: &Site, targets: &[Value]) {
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"targets": targets}}),
    );
}

/// Replaces the spec of an object, as another writer would.
fn replace_spec(site: &Site, kind: Kind, spec: &Value) {
    site.patch(&format!("{}/{NAME}", kind.path()), json!({"spec": spec}));
}

/// Creates an object as its owner would.
fn create(site: &Site, kind: Kind, cidrs: &[&str]) -> Value {
    site.server
        .admin("POST", &kind.path(), "application/json", &kind.object(cidrs))
}

/// A site with this kind, and an object of it with a foreign element.
fn site_with(kind: Kind) -> Site {
    let site = Site::with_address(ADDRESS);
    site.server.install(kind.crd);
    site.grant(kind.rights);
    create(&site, kind, &[FOREIGN]);
    add_target(&site, kind.target(kind.suffix()));
    site
}

/// The same site with k6u running.
fn with_kind(kind: Kind) -> (Site, Running) {
    let site = site_with(kind);
    let node = site.run(1);
    (site, node)
}

fn wait_held(site: &Site, kind: Kind, expected: &[&str]) {
    let reached = site
        .server
        .wait(SOON, |store| (kind.held(store)? == expected).then_some(()));
    assert!(
        reached.is_some(),
        "{} holds {:?}, not {expected:?}",
        kind.name,
        kind.held(&site.server.store())
    );
}

fn each_kind_follows_and_keeps_the_rest() {
    at_once(KINDS, |kind| {
        let (site, node) = with_kind(kind);
        wait_held(&site, kind, &[&kind.part(BEFORE)]);
        site.wait_lan("2001:db8:1234:567");
        site.wait_reason(CONFIG_NAME, "Updated");
        site.wait_message("Updated", "2001:db8:1234:5670::/60");
        site.renumber();
        let new = kind.part(AFTER);
        wait_held(&site, kind, &[&new]);
        site.wait_lan("2001:db8:9876:543");
        site.wait_message("Updated", "2001:db8:9876:5430::/60");

        // k6u changed nothing but the list.
        let mut object = site.server.store().objects[&kind.key()].clone();
        let made = kind.object(&[&new]);
        assert_eq!(object["spec"], made["spec"], "{}", kind.name);
        assert_eq!(
            object["metadata"]["labels"], made["metadata"]["labels"],
            "{}",
            kind.name
        );

        // The same in capitals and with leading zeros is left alone.
        let same = new.to_uppercase().replace(":DB8:", ":0DB8:");
        *object.pointer_mut(kind.list).expect("a list") = kind.elements(&[&same]);
        replace_spec(&site, kind, &object["spec"]);
        let before = site.server.store().history.len();
        site.wait_rounds(3);
        let after: Vec<_> = site.server.store().history[before..]
            .iter()
            .map(|past| past.key.clone())
            .collect();
        assert!(
            !after.contains(&kind.key()),
            "{}: an equivalent list was written",
            kind.name
        );
        // Drift is undone.
        *object.pointer_mut(kind.list).expect("a list") = kind.elements(&["2001:db8:bad::1/128", &new]);
        replace_spec(&site, kind, &object["spec"]);
        wait_held(&site, kind, &[&new]);
        assert_eq!(node.complaints(), [""; 0], "{}", kind.name);

        // Two lists, and one request for each target.
        site.wait_rounds(2);
        node.wait_log("DEBUG round: 4 requests", SOON);
    });
}

fn a_pool_gets_the_new_block_before_the_old_one_goes() {
    let pool = kind("IPAddressPool");
    let site = site_with(pool);
    let mut node = Clockwork::start(&site);
    wait_held(&site, pool, &[OLD]);
    // Another node published the old prefix, and has seen no change yet.
    let entry = json!({"prefixes": ["2001:db8:1234:5671::/64"], "observedTime": "2026-01-01T00:00:00Z", "message": ""});
    let path = format!("{NODE_CONFIGS}/ip6-update-node1/status");
    site.patch(&path, json!({"status": {"nodes": {"node2.example.com": entry}}}));
    site.renumber();
    node.rounds(1);
    wait_held(&site, pool, &[OLD, NEW]);
    site.patch(&path, json!({"status": {"nodes": {"node2.example.com": null}}}));
    node.rounds(ROUNDS_OF_LINGER);
    wait_held(&site, pool, &[NEW]);
}

fn a_missing_object_is_reported() {
    at_once(KINDS.into_iter().filter(|kind| !kind.is_created()), |kind| {
        let site = Site::with_address(ADDRESS);
        site.server.install(kind.crd);
        site.grant(kind.rights);
        add_target(&site, kind.target(kind.suffix()));
        let node = site.run(1);
        let message = site.wait_message("UpdateFailed", "create it first: ");
        site.wait_lan("2001:db8:1234:567");
        site.wait_rounds(3);
        assert!(
            writes(&site.server.store())
                .iter()
                .all(|line| !line.contains(kind.plural))
        );
        // An administrator can apply the object in the message.
        let json = message.split_once("create it first: ").expect("some JSON").1;
        let object: Value = serde_json::from_str(json).expect("JSON");
        if kind.api.0 == "crd.projectcalico.org" {
            assert_eq!(
                object["apiVersion"], "crd.projectcalico.org/v1",
                "the version that is served"
            );
        }
        site.server.admin("POST", &kind.path(), "application/json", &object);
        wait_held(&site, kind, &[&kind.part(BEFORE)]);
        site.wait_reason(CONFIG_NAME, "Updated");
        node.wait_complaints(2);
    });
}

fn a_missing_right_is_named() {
    at_once(KINDS, |kind| {
        let site = Site::with_address(ADDRESS);
        site.server.install(kind.crd);
        create(&site, kind, &[FOREIGN]);
        add_target(&site, kind.target(kind.suffix()));
        let node = site.run(1);
        let right = format!(
            "cannot get resource \"{}\" in API group \"{}\"",
            kind.plural, kind.api.0
        );
        let message = site.wait_message("UpdateFailed", &right);
        let component = format!("manifests/components/{} is what to apply", kind.name.to_lowercase());
        assert!(message.contains(&component), "{message}");
        site.wait_lan("2001:db8:1234:567");
        // The right to read is not enough.
        site.grant(&kind.rights.replace(", patch]", "]"));
        site.wait_message("UpdateFailed", &right.replace(" get ", " patch "));
        assert_eq!(kind.held(&site.server.store()).expect("it is there"), [FOREIGN]);
        site.grant(kind.rights);
        wait_held(&site, kind, &[&kind.part(BEFORE)]);
        site.wait_reason(CONFIG_NAME, "Updated");
        drop(node);
    });
}

fn a_kind_that_is_not_installed() {
    at_once(KINDS, |kind| {
        let site = Site::with_address(ADDRESS);
        site.grant(kind.rights);
        add_target(&site, kind.target(kind.suffix()));
        let node = site.run(1);
        let message = site.wait_message("UpdateFailed", "the API server does not serve ");
        assert!(message.contains(": install "), "{message}");
        site.wait_lan("2001:db8:1234:567");
        site.wait_rounds(2);
        site.server.install(kind.crd);
        create(&site, kind, &[FOREIGN]);
        wait_held(&site, kind, &[&kind.part(BEFORE)]);
        site.wait_reason(CONFIG_NAME, "Updated");
        drop(node);
    });
}

fn a_right_holds_in_one_namespace() {
    at_once(KINDS.into_iter().filter(|kind| !kind.namespace.is_empty()), |kind| {
        let kind = Kind {
            namespace: "elsewhere",
            ..kind
        };
        let (site, _node) = with_kind(kind);
        let right = format!(
            "cannot get resource \"{}\" in API group \"{}\"",
            kind.plural, kind.api.0
        );
        let message = site.wait_message("UpdateFailed", &right);
        assert!(message.contains("in the namespace \"elsewhere\""), "{message}");
        assert!(message.ends_with("its Role in the namespace elsewhere"), "{message}");
        assert_eq!(kind.held(&site.server.store()).expect("it is there"), [FOREIGN]);
        site.wait_lan("2001:db8:1234:567");
    });
}

fn a_middleware_without_an_allow_list_is_left_alone() {
    let middlewares = [
        ("Middleware", json!({"redirectScheme": {"scheme": "https"}})),
        ("MiddlewareTCP", json!({"inFlightConn": {"amount": 7}})),
    ];
    at_once(middlewares, |(name, spec)| {
        let middleware = kind(name);
        let site = Site::with_address(ADDRESS);
        site.server.install(middleware.crd);
        site.grant(middleware.rights);
        let mut object = middleware.object(&[]);
        object["spec"] = spec;
        site.server
            .admin("POST", &middleware.path(), "application/json", &object);
        add_target(&site, middleware.target(SUFFIX));
        let node = site.run(1);
        let what_to_do = format!("it has no spec.ipAllowList; name a {name} that has one");
        site.wait_message("UpdateFailed", &what_to_do);
        site.wait_rounds(3);
        assert_eq!(site.server.store().objects[&middleware.key()]["spec"], object["spec"]);
        node.wait_complaints(2);
    });
}

/// Without strict validation the API server would drop the list silently, and k6u would report Updated.
fn a_list_that_the_version_does_not_have() {
    let pool = Kind {
        api: ("cilium.io", "v2alpha1"),
        ..kind("CiliumLoadBalancerIPPool")
    };
    let site = Site::with_address(ADDRESS);
    site.server.install(POOL_BEFORE_BLOCKS);
    site.grant(pool.rights);
    let mut object = pool.object(&[]);
    object["spec"] = json!({"cidrs": [{"cidr": "192.0.2.0/24"}]});
    site.server.admin("POST", &pool.path(), "application/json", &object);
    add_target(&site, pool.target(SUFFIX));
    let _node = site.run(1);
    site.wait_message(
        "UpdateFailed",
        "400 BadRequest strict decoding error: unknown field \"spec.blocks\"",
    );
    assert_eq!(site.server.store().objects[&pool.key()]["spec"], object["spec"]);
}

fn ciliums_pools_in_either_version() {
    let pool = kind("CiliumLoadBalancerIPPool");
    let mut crd: Value = serde_yaml::from_str(pool.crd).expect("YAML");
    crd["spec"]["versions"].as_array_mut().expect("versions").remove(0);
    let alpha = serde_yaml::to_string(&crd).expect("YAML");
    let site = Site::with_address(ADDRESS);
    site.server.install(&alpha);
    site.grant(pool.rights);
    let older = Kind {
        api: ("cilium.io", "v2alpha1"),
        ..pool
    };
    create(&site, older, &[FOREIGN]);
    add_target(&site, pool.target(SUFFIX));
    let node = site.run(1);
    wait_held(&site, pool, &[OLD]);
    let mut crd: Value = serde_yaml::from_str(pool.crd).expect("YAML");
    crd["spec"]["versions"].as_array_mut().expect("versions").remove(1);
    site.server.install(&serde_yaml::to_string(&crd).expect("YAML"));
    site.renumber();
    wait_held(&site, pool, &[NEW]);
    assert_eq!(node.complaints(), [""; 0], "an upgrade is no problem");
    // The log has the request after its answer.
    let patch = "PATCH /apis/cilium.io/v2/ciliumloadbalancerippools/lan";
    let is_patched = |store: &Store| (!requests(store, patch).is_empty()).then_some(());
    assert!(site.server.wait(SOON, is_patched).is_some());
}

fn calicos_api_server_comes_first() {
    for (name, crd) in CALICO_V3 {
        let stored = kind(name);
        let shown = Kind {
            api: ("projectcalico.org", "v3"),
            ..stored
        };
        let site = Site::with_address(ADDRESS);
        site.server.install(stored.crd);
        site.server.install(crd);
        site.grant(stored.rights);
        create(&site, shown, &[FOREIGN]);
        create(&site, stored, &[FOREIGN]);
        add_target(&site, stored.target(SUFFIX));
        let node = site.run(1);
        wait_held(&site, shown, &[OLD]);
        assert_eq!(stored.held(&site.server.store()).expect("it is there"), [FOREIGN]);
        assert_eq!(node.complaints(), [""; 0]);
    }
}

fn two_configs_name_one_pool() {
    let pool = kind("IPAddressPool");
    let (site, _node) = with_kind(pool);
    wait_held(&site, pool, &[OLD]);
    site.server.advance_clock(Duration::from_secs(1));
    let younger = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateConfig",
        "metadata": {"name": "younger"}, "spec": {"delegatedPrefixLength": 60, "targets": [pool.target("::2:0:0:0:0/64")]}});
    site.server.admin("POST", CONFIGS, "application/json", &younger);
    let condition = site.wait_reason("younger", "GroupConflict");
    let message = condition["message"].as_str().expect("a message");
    assert!(
        message.starts_with("IPAddressPool metallb-system/lan belongs to the older ip6-update-config; "),
        "{message}"
    );
    wait_held(&site, pool, &[OLD]);
}

fn a_suffix_that_the_schema_cannot_check() {
    let pool = kind("IPAddressPool");
    let (site, _node) = with_kind(pool);
    wait_held(&site, pool, &[OLD]);
    add_target(&site, pool.target("2001:db8::1:ffff:0:0:0/112"));
    site.wait_message(
        "InvalidSpec",
        "spec.targets[0].suffixes[0] is \"2001:db8::1:ffff:0:0:0/112\", but its first 60 bits come from the delegated \
         prefix and must be 0 here: ::1:ffff:0:0:0/112 fits",
    );
    wait_held(&site, pool, &[OLD]);
}

/// k6u asks for the served versions once an hour, and at once when the version in use is gone.
fn a_version_that_comes_later() {
    let (name, crd) = CALICO_V3[1];
    let stored = kind(name);
    let site = Site::new();
    site.server.install(stored.crd);
    site.grant(stored.rights);
    let mut client = Client::new(format!("https://{}", site.server.address), &site.account.folder);
    client.read_account().expect("a token");
    let key = TargetKey {
        kind: targets::Kind::named(name).expect("a kind"),
        namespace: stored.namespace.into(),
        name: NAME.into(),
    };
    let mut api = TargetApi::default();
    let mut group_at = |seconds| {
        let read = api.read(&mut client, &key, Duration::from_secs(seconds));
        assert!(read.is_ok_and(|held| held.is_none()));
        api.known(key.kind).0
    };
    assert_eq!(group_at(7), "crd.projectcalico.org");
    site.server.install(crd);
    assert_eq!(group_at(7 + 3599), "crd.projectcalico.org");
    // The discovery fails, so k6u uses the known version for another hour.
    let answer = Fault::Answer(Response::new(500, "text/plain", "no"));
    site.server
        .inject(Plan::on("GET /apis/projectcalico.org/v3", 1, answer));
    assert_eq!(group_at(7 + 3600), "crd.projectcalico.org");
    assert_eq!(group_at(7 + 7199), "crd.projectcalico.org");
    assert_eq!(group_at(7 + 7200), "projectcalico.org");
    let asked = requests(&site.server.store(), "GET /apis/projectcalico.org/v3");
    assert_eq!(
        asked.iter().filter(|line| !line.contains("networksets")).count(),
        3,
        "{asked:?}"
    );
}

fn a_record_without_the_right_to_create() {
    let endpoint = kind("DNSEndpoint");
    let site = Site::with_address(ADDRESS);
    site.server.install(endpoint.crd);
    site.grant(&endpoint.rights.replace("create, ", ""));
    add_target(&site, endpoint.target(endpoint.suffix()));
    let node = site.run(1);
    let right = "cannot create resource \"dnsendpoints\" in API group \"externaldns.k8s.io\"";
    let message = site.wait_message("UpdateFailed", right);
    assert!(
        message.contains("manifests/components/dnsendpoint is what to apply"),
        "{message}"
    );
    site.wait_lan("2001:db8:1234:567");
    site.grant(endpoint.rights);
    wait_held(&site, endpoint, &[&endpoint.part(BEFORE)]);
    drop(node);
}

/// A site whose config names a DNSEndpoint with an IPv4 address beside the host.
fn with_record() -> (Site, Kind, Value) {
    let endpoint = kind("DNSEndpoint");
    let site = Site::with_address(ADDRESS);
    site.server.install(endpoint.crd);
    site.grant(endpoint.rights);
    let mut target = endpoint.target(endpoint.suffix());
    target["extraCIDRs"] = json!(["192.0.2.10/32"]);
    add_target(&site, target.clone());
    (site, endpoint, target)
}

fn a_dns_record_follows() {
    let (site, endpoint, mut target) = with_record();
    let mut node = Clockwork::start(&site);
    let (a, old, new) = ("192.0.2.10/32", endpoint.part(BEFORE), endpoint.part(AFTER));
    // k6u creates the object.
    wait_held(&site, endpoint, &[a, &old]);
    let object = site.server.store().objects[&endpoint.key()].clone();
    assert_eq!(
        object["metadata"]["labels"],
        json!({"app.kubernetes.io/managed-by": "k6u"})
    );
    assert_eq!(
        object["spec"],
        json!({"endpoints": [
            {"dnsName": DNS_NAME, "recordType": "A", "recordTTL": TTL, "targets": ["192.0.2.10"]},
            {"dnsName": DNS_NAME, "recordType": "AAAA", "recordTTL": TTL, "targets": [ADDRESS]}]})
    );
    // While nodes differ the name has both addresses.
    site.publish("node2.example.com", &["2001:db8:1234:5672::/64"]);
    site.renumber();
    node.rounds(1);
    wait_held(&site, endpoint, &[a, &old, &new]);
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1/status"),
        json!({"status": {"nodes": {"node2.example.com": null}}}),
    );
    node.rounds(ROUNDS_OF_LINGER);
    wait_held(&site, endpoint, &[a, &new]);
    // Another TTL, and none.
    let aaaa = |ttl: Value| {
        let mut record = json!({"dnsName": DNS_NAME, "recordType": "AAAA", "targets": [NEW_ADDRESS]});
        if !ttl.is_null() {
            record["recordTTL"] = ttl;
        }
        json!({"endpoints": [record]})
    };
    for ttl in [json!(300), json!(null)] {
        let fields = target.as_object_mut().expect("a map");
        fields.insert("recordTTL".into(), ttl.clone());
        fields.retain(|_, value| !value.is_null());
        target["extraCIDRs"] = json!([]);
        add_target(&site, target.clone());
        node.rounds(2);
        let is_written = |spec: &Value| *spec == aaaa(ttl.clone());
        let written = site.server.wait(SOON, |store| {
            is_written(&store.objects.get(&endpoint.key())?["spec"]).then_some(())
        });
        assert!(written.is_some(), "{:?}", site.server.store().objects[&endpoint.key()]);
    }
    // A TTL of 0 is none, and records of others are replaced.
    replace_spec(&site, endpoint, &aaaa(json!(0)));
    let before = site.server.store().history.len();
    node.rounds(2);
    assert!(
        site.server.store().history[before..]
            .iter()
            .all(|past| past.key != endpoint.key())
    );
    let foreign = json!({"endpoints": [
        {"dnsName": DNS_NAME, "recordType": "CNAME", "targets": ["www.example.com"]},
        {"dnsName": "www.example.com", "recordType": "AAAA", "targets": [NEW_ADDRESS]}]});
    replace_spec(&site, endpoint, &foreign);
    node.rounds(2);
    let written = site.server.wait(SOON, |store| {
        (store.objects.get(&endpoint.key())?["spec"] == aaaa(json!(null))).then_some(())
    });
    assert!(written.is_some(), "{:?}", site.server.store().objects[&endpoint.key()]);
    assert_eq!(node.complaints(), [""; 0]);
}

/// The namespace does not exist, and k6u does not try again at once.
fn a_record_in_a_namespace_that_does_not_exist() {
    let endpoint = kind("DNSEndpoint");
    let site = Site::with_address(ADDRESS);
    site.server.install(endpoint.crd);
    site.grant(endpoint.rights);
    let create = format!("POST {}", endpoint.path());
    let message = "namespaces \"external-dns\" not found";
    let body = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": message,
        "details": {"name": "external-dns", "kind": "namespaces"}});
    let answer = Fault::Answer(Response::new(404, "application/json", body.to_string()));
    site.server.inject(Plan::on(&create, usize::MAX, answer));
    add_target(&site, endpoint.target(endpoint.suffix()));
    let node = site.run(1);
    site.wait_message("UpdateFailed", message);
    site.wait_lan("2001:db8:1234:567");
    let tried = requests(&site.server.store(), &create).len();
    assert!(tried <= 2, "{tried} times");
    site.server.heal();
    wait_held(&site, endpoint, &[&endpoint.part(BEFORE)]);
    site.wait_reason(CONFIG_NAME, "Updated");
    drop(node);
}

fn ranges_in_both_pools() {
    let range = |subnet: &str| [format!("{subnet}::1:0"), format!("{subnet}::1:ff")];
    let element = |kind: Kind, [start, stop]: [String; 2]| match kind.name {
        "IPAddressPool" => json!(format!("{start}-{stop}")),
        _ => json!({"start": start, "stop": stop}),
    };
    at_once(["CiliumLoadBalancerIPPool", "IPAddressPool"], |name| {
        let pool = kind(name);
        let site = Site::with_address(ADDRESS);
        site.server.install(pool.crd);
        site.grant(pool.rights);
        create(&site, pool, &[FOREIGN]);
        let mut target = pool.target(SUFFIX);
        target.as_object_mut().expect("a map").remove("suffixes");
        target["ranges"] = json!(["::1:0:0:1:0-::1:0:0:1:ff"]);
        add_target(&site, target);
        let node = site.run(1);
        let wait_list = |expected: &Value| {
            let list = |store: &Store| store.objects.get(&pool.key())?.pointer(pool.list).cloned();
            let reached = site
                .server
                .wait(SOON, |store| (list(store)? == *expected).then_some(()));
            assert!(
                reached.is_some(),
                "{name}: {:?}, not {expected}",
                list(&site.server.store())
            );
        };
        wait_list(&json!([element(pool, range(BEFORE))]));
        site.renumber();
        wait_list(&json!([element(pool, range(AFTER))]));
        // k6u leaves another spelling alone.
        let same = range(AFTER).map(|text| text.to_uppercase().replace(":DB8:", ":0DB8:"));
        let same = match name {
            "IPAddressPool" => json!(same.join(" - ")),
            _ => element(pool, same),
        };
        let mut object = site.server.store().objects[&pool.key()].clone();
        *object.pointer_mut(pool.list).expect("a list") = json!([same]);
        replace_spec(&site, pool, &object["spec"]);
        site.wait_rounds(3);
        wait_list(&json!([same]));
        // A part of the range is not equivalent.
        let part = [format!("{AFTER}::1:0"), format!("{AFTER}::1:fe")];
        *object.pointer_mut(pool.list).expect("a list") = json!([element(pool, part)]);
        replace_spec(&site, pool, &object["spec"]);
        wait_list(&json!([element(pool, range(AFTER))]));
        assert_eq!(node.complaints(), [""; 0], "{name}");
    });
}

/// Each pool has its own list, with a single address in either spelling.
fn pools_of_two_kinds_with_one_name() {
    let pools = ["CiliumLoadBalancerIPPool", "IPAddressPool"].map(kind);
    let site = Site::with_address(ADDRESS);
    for pool in pools {
        site.server.install(pool.crd);
        create(&site, pool, &[FOREIGN]);
    }
    site.grant(&pools.map(|pool| pool.rights).join("\n---\n"));
    let suffixes = ["::1:0:0:0:10", "::2:0:0:0:20"];
    add_targets(&site, &[pools[0].target(suffixes[0]), pools[1].target(suffixes[1])]);
    let node = site.run(1);
    wait_held(&site, pools[0], &["2001:db8:1234:5671::10/128"]);
    wait_held(&site, pools[1], &["2001:db8:1234:5672::20/128"]);
    site.renumber();
    wait_held(&site, pools[0], &["2001:db8:9876:5431::10/128"]);
    wait_held(&site, pools[1], &["2001:db8:9876:5432::20/128"]);
    site.wait_reason(CONFIG_NAME, "Updated");
    // Cilium takes a start without a stop for one address.
    for same in [
        json!({"start": "2001:DB8:9876:5431::010"}),
        json!({"start": NEW_ADDRESS, "stop": ""}),
    ] {
        let mut object = site.server.store().objects[&pools[0].key()].clone();
        object["spec"]["blocks"] = json!([same]);
        replace_spec(&site, pools[0], &object["spec"]);
        site.wait_rounds(3);
        assert_eq!(
            site.server.store().objects[&pools[0].key()]["spec"]["blocks"],
            json!([same])
        );
    }
    assert_eq!(node.complaints(), [""; 0]);
}

/// k6u replaces elements that it did not write or cannot read, and the list is never empty.
fn foreign_elements_are_replaced() {
    for (name, foreign) in [
        (
            "CiliumLoadBalancerIPPool",
            json!([{"start": "192.0.2.1", "stop": "192.0.2.9"}, {}]),
        ),
        ("IPAddressPool", json!(["192.0.2.1-192.0.2.9", "nonsense", ""])),
        (
            "NetworkAuthentication",
            json!([{"cidr": OLD, "except": ["2001:db8:1234:5671:ffff::7"]}]),
        ),
        ("ClusterGroup", json!([{"cidr": "nonsense"}, {}])),
        ("MiddlewareTCP", json!(["nonsense", "::ffff:192.0.2.1"])),
        ("NetworkSet", json!(["nonsense"])),
        (
            "DNSEndpoint",
            json!([{}, {"dnsName": DNS_NAME, "recordType": "TXT", "targets": ["nonsense"]}]),
        ),
    ] {
        let kind = kind(name);
        let site = Site::with_address(ADDRESS);
        site.server.install(kind.crd);
        site.grant(kind.rights);
        let mut object = kind.object(&[FOREIGN]);
        *object.pointer_mut(kind.list).expect("a list") = foreign;
        site.server.admin("POST", &kind.path(), "application/json", &object);
        add_target(&site, kind.target(kind.suffix()));
        let node = site.run(1);
        wait_held(&site, kind, &[&kind.part(BEFORE)]);
        site.wait_reason(CONFIG_NAME, "Updated");
        let store = site.server.store();
        let empty = store.history.iter().filter(|past| past.key == kind.key());
        let mut lists = empty.filter_map(|past| past.object.as_ref()?.pointer(kind.list));
        assert!(lists.all(|list| *list != json!([])), "{name}");
        drop(store);
        assert_eq!(node.complaints(), [""; 0], "{name}");
    }
}

/// The router announces only a unique local prefix.
fn lists_are_kept_without_a_global_prefix() {
    let kinds = ["IPAddressPool", "DNSEndpoint", "NetworkAuthentication"].map(kind);
    let site = Site::with_address(ADDRESS);
    for kind in kinds {
        site.server.install(kind.crd);
        create(&site, kind, &[FOREIGN]);
    }
    site.grant(&kinds.map(|kind| kind.rights).join("\n---\n"));
    add_targets(&site, &kinds.map(|kind| kind.target(kind.suffix())));
    let node = site.run(1);
    for kind in kinds {
        wait_held(&site, kind, &[&kind.part(BEFORE)]);
    }
    site.interface.set("fd00:1:2:3::10", 64, 600, 1800);
    site.interface.remove(ADDRESS);
    site.wait_reason(CONFIG_NAME, "NoPrefix");
    site.wait_rounds(3);
    for kind in kinds {
        assert_eq!(
            kind.held(&site.server.store()).expect("it is there"),
            [kind.part(BEFORE)]
        );
    }
    site.interface.add(NEW_ADDRESS);
    for kind in kinds {
        wait_held(&site, kind, &[&kind.part(AFTER)]);
    }
    drop(node);
}

/// Only requests for one kind hang, and the group is of another kind.
fn thirty_targets_hang() {
    let kind = KINDS.into_iter().find(|kind| kind.name == "GlobalNetworkSet").unwrap();
    let site = Site::with_address(ADDRESS);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.server.install(kind.crd);
    site.grant(kind.rights);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.server
        .inject(Plan::on("/globalnetworksets/", usize::MAX, Fault::Hang));
    let targets: Vec<_> = (0..30)
        .map(|number| json!({"kind": "GlobalNetworkSet", "name": format!("set-{number}"), "prefixIds": [1]}))
        .collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"targets": targets}}),
    );
    site.wait_rounds(1);
    site.renumber();
    let reached = site.server.wait(SOON, |store| follows(store, "2001:db8:9876:543"));
    let reported = ready(&site.server.store(), CONFIG_NAME);
    let complaints = node.complaints();
    drop(node);
    assert!(reached.is_some(), "after two minutes: {reported:?}, {complaints:#?}");
}

/// Each read takes longer than k6u waits; there are more of them than fit into a round.
fn twelve_targets_that_take_six_seconds() {
    let kind = KINDS.into_iter().find(|kind| kind.name == "GlobalNetworkSet").unwrap();
    let site = Site::with_address(ADDRESS);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.server.install(kind.crd);
    site.grant(kind.rights);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.server.inject(Plan::on(
        "/globalnetworksets/",
        usize::MAX,
        Fault::Late(Duration::from_secs(6)),
    ));
    let targets: Vec<_> = (0..12)
        .map(|number| json!({"kind": "GlobalNetworkSet", "name": format!("set-{number}"), "prefixIds": [1]}))
        .collect();
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"targets": targets}}),
    );
    site.wait_reason(CONFIG_NAME, "UpdateFailed");
    // In the middle of a round.
    let reads = |store: &Store| requests(store, &format!("GET {}/", kind.path())).len();
    let before = reads(&site.server.store());
    let is_reading = |store: &Store| (reads(store) > before).then_some(());
    assert!(site.server.wait(SOON, is_reading).is_some());
    site.renumber();
    let since = Instant::now();
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let is_published = |store: &Store| {
        let entry = &store.objects[&key]["status"]["nodes"][NODE];
        entry.to_string().contains("2001:db8:9876:5431").then_some(())
    };
    site.server.wait(SOON, is_published);
    let published = since.elapsed();
    site.server.wait(SOON, |store| follows(store, "2001:db8:9876:543"));
    let followed = since.elapsed();
    println!("published after {published:?}, in the group after {followed:?}");
    assert!(
        published < Duration::from_secs(10) && followed < Duration::from_secs(20),
        "published after {published:?}, in the group after {followed:?}: {:#?}",
        node.complaints()
    );
}

fn a_slow_target_beside_a_new_one() {
    let (site, node) = Site::settled(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server.inject(Plan::on(
        &format!("GET /apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        usize::MAX,
        Fault::Late(Duration::from_secs(3)),
    ));
    let start = Instant::now();
    name_groups(&site, &["new".to_string()]);
    let made = site.server.wait(Duration::from_secs(90), |store| cidrs(store, "new"));
    let reads = |name: &str| {
        requests(
            &site.server.store(),
            &format!("GET /apis/cilium.io/v2/ciliumcidrgroups/{name}"),
        )
        .len()
    };
    assert!(
        made.is_some(),
        "{:?} after it was added to the spec, group \"new\" does not exist; it was read {} times, {GROUP} {} times; {:?}",
        start.elapsed(),
        reads("new"),
        reads(GROUP),
        ready(&site.server.store(), CONFIG_NAME)
    );
    drop(node);
}

fn a_slow_target_beside_one_that_failed_once() {
    let (site, node) = Site::settled(1);
    name_groups(&site, &["second".to_string()]);
    site.wait_group("second", &["2001:db8:1234:5671::/64"]);
    site.wait_reason(CONFIG_NAME, "Updated");
    let second = "GET /apis/cilium.io/v2/ciliumcidrgroups/second";
    site.server
        .inject(Plan::on(second, 1, refusal(500, "InternalError", "once", "second")));
    node.wait_log("500 InternalError once", SOON);
    site.server.inject(Plan::on(
        &format!("GET /apis/cilium.io/v2/ciliumcidrgroups/{GROUP}"),
        usize::MAX,
        Fault::Late(Duration::from_secs(3)),
    ));
    let before = requests(&site.server.store(), second).len();
    site.renumber();
    let reached = site.server.wait(Duration::from_secs(90), |store| {
        (cidrs(store, "second")? == ["2001:db8:9876:5431::/64"]).then_some(())
    });
    let reads = requests(&site.server.store(), second).len() - before;
    let stored = cidrs(&site.server.store(), "second");
    assert!(
        reached.is_some(),
        "90 s after the renumbering \"second\" holds {stored:?}, whose read failed once; it was read {reads} times since; {:?}",
        ready(&site.server.store(), CONFIG_NAME)
    );
}

const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";

/// "A read of a target takes five seconds at most."
fn a_target_that_is_slow_to_read() {
    let site = Site::bare("127.0.0.1", Some(Cilium::V2Alpha1));
    site.install();
    site.interface.add(ADDRESS);
    site.publish(NODE, &["2001:db8:1234:5671::/64"]);
    site.server.inject(Plan::on(
        "GET /apis/cilium.io",
        usize::MAX,
        Fault::Late(Duration::from_secs(4)),
    ));
    let mut node = Clockwork::new(&site);
    let start = Instant::now();
    node.rounds(1);
    let took = start.elapsed();
    let reads = requests(&site.server.store(), "GET /apis/cilium.io");
    assert!(
        took < Duration::from_secs(7),
        "the read of one target took {took:?}: {reads:?}"
    );
}

/// "An object that is applied or changed: followed in the next round."
fn a_spec_that_is_corrected_after_refusals() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(3);
    let groups = |extra: &[&str]| {
        site.patch(
            &format!("{CONFIGS}/{CONFIG_NAME}"),
            json!({"spec": {"ciliumCIDRGroups": [
                {"ciliumCIDRGroupName": GROUP, "prefixIds": [0, 1, 2], "extraCIDRs": extra}]}}),
        );
    };
    // The webhook refuses the whole of IPv4; somebody corrects it.
    site.server
        .inject(Plan::on(&format!("PATCH {GROUPS}/{GROUP}"), usize::MAX, denial(GROUP)));
    groups(&["0.0.0.0/0"]);
    node.rounds(32);
    site.server.heal();
    groups(&["10.0.0.0/8"]);
    let mut rounds = 0;
    while site.held() != 4 {
        node.rounds(1);
        rounds += 1;
        assert!(rounds < 30);
    }
    assert!(rounds <= 2, "the corrected spec was followed after {rounds} rounds");
}
