//! The objects that hold the prefix, of each kind.

use k6u_testkit::apiserver::kinds::{CALICO_V3, KINDS, Kind, NAME, POOL_BEFORE_BLOCKS};
use serde_json::{Value, json};

use crate::Scenario;
use crate::site::{CONFIG_NAME, CONFIGS, NODE_CONFIGS, Running, SOON, Site, requests, writes};

pub const ALL: &[Scenario] = scenarios![
    each_kind_follows_and_keeps_the_rest,
    a_pool_gets_the_new_block_before_the_old_one_goes,
    parts_and_extra_cidrs_of_a_group,
    a_missing_object_is_asked_for,
    a_kind_without_rights_is_named,
    a_kind_that_is_not_installed,
    another_namespace_is_another_right,
    a_middleware_for_something_else_is_left_alone,
    a_list_that_the_version_does_not_have,
    ciliums_pools_in_either_version,
    calicos_api_server_comes_first,
    two_configs_name_one_pool,
    what_a_pattern_cannot_see_is_told
];

const SUFFIX: &str = "::1:ffff:0:0:0/112";
const OLD: &str = "2001:db8:1234:5671:ffff::/112";
const NEW: &str = "2001:db8:9876:5431:ffff::/112";

fn kind(name: &str) -> Kind {
    KINDS.into_iter().find(|kind| kind.name == name).expect("a kind")
}

/// Names a target beside the group.
fn add_target(site: &Site, target: Value) {
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"targets": [target]}}),
    );
}

/// An object as its owner makes it.
fn create(site: &Site, kind: Kind, cidrs: &[&str]) -> Value {
    site.server
        .admin("POST", &kind.path(), "application/json", &kind.object(cidrs))
}

/// A site with this kind, and an object of it that somebody filled.
fn with_kind(kind: Kind) -> (Site, Running) {
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.server.install(kind.crd);
    site.grant(kind.rights);
    create(&site, kind, &["192.0.2.0/24"]);
    add_target(&site, kind.target(SUFFIX));
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

/// Waits until Ready has this reason and its message this text; gives the message.
fn wait_message(site: &Site, reason: &str, text: &str) -> String {
    let found = site.server.wait(SOON, |store| {
        let condition = crate::site::ready(store, CONFIG_NAME)?;
        let message = condition["message"].as_str()?.to_string();
        (condition["reason"] == reason && message.contains(text)).then_some(message)
    });
    found.unwrap_or_else(|| {
        panic!(
            "{:?}, not {reason} with {text:?}",
            crate::site::ready(&site.server.store(), CONFIG_NAME)
        )
    })
}

fn move_prefix(site: &Site) {
    site.interface.add("2001:db8:9876:5431::10");
    site.interface.remove("2001:db8:1234:5671::10");
}

fn each_kind_follows_and_keeps_the_rest() {
    for kind in KINDS {
        let (site, node) = with_kind(kind);
        wait_held(&site, kind, &[OLD]);
        site.wait_lan("2001:db8:1234:567");
        site.wait_reason(CONFIG_NAME, "Updated");
        wait_message(&site, "Updated", "2 targets follow 2001:db8:1234:5670::/60");
        move_prefix(&site);
        wait_held(&site, kind, &[NEW]);
        site.wait_lan("2001:db8:9876:543");
        wait_message(&site, "Updated", "2 targets follow 2001:db8:9876:5430::/60");

        // All but the list is as it was made.
        let mut object = site.server.store().objects[&kind.key()].clone();
        let made = kind.object(&[NEW]);
        assert_eq!(object["spec"], made["spec"], "{}", kind.name);
        assert_eq!(
            object["metadata"]["labels"], made["metadata"]["labels"],
            "{}",
            kind.name
        );

        // Drift, and a text that means the same.
        *object.pointer_mut(kind.list).expect("a list") = json!([kind.element("2001:DB8:9876:5431:FFFF:0::/112")]);
        let patch = json!({"spec": object["spec"]});
        site.patch(&format!("{}/{NAME}", kind.path()), patch);
        let before = site.server.store().history.len();
        site.wait_rounds(3);
        let after: Vec<_> = site.server.store().history[before..]
            .iter()
            .map(|past| past.key.clone())
            .collect();
        assert!(
            !after.contains(&kind.key()),
            "{}: what means the same was written",
            kind.name
        );
        *object.pointer_mut(kind.list).expect("a list") = json!([kind.element("2001:db8:bad::/48"), kind.element(NEW)]);
        site.patch(&format!("{}/{NAME}", kind.path()), json!({"spec": object["spec"]}));
        wait_held(&site, kind, &[NEW]);
        assert_eq!(node.complaints(), [""; 0], "{}", kind.name);

        // Two lists, and one request for each target.
        site.wait_rounds(2);
        node.wait_log("DEBUG round: 4 requests", SOON);
    }
}

fn a_pool_gets_the_new_block_before_the_old_one_goes() {
    let pool = kind("IPAddressPool");
    let (site, _node) = with_kind(pool);
    wait_held(&site, pool, &[OLD]);
    // Another node saw it as well, and sees no change yet.
    let entry = json!({"prefixes": ["2001:db8:1234:5671::/64"], "observedTime": "2026-01-01T00:00:00Z", "message": ""});
    let path = format!("{NODE_CONFIGS}/ip6-update-node1/status");
    site.patch(&path, json!({"status": {"nodes": {"node2.example.com": entry}}}));
    move_prefix(&site);
    wait_held(&site, pool, &[OLD, NEW]);
    site.patch(&path, json!({"status": {"nodes": {"node2.example.com": null}}}));
    wait_held(&site, pool, &[NEW]);
}

fn parts_and_extra_cidrs_of_a_group() {
    let (site, node) = Site::settled(1);
    let group = json!({"ciliumCIDRGroupName": "site", "suffixes": ["::/60", "::2:0:0:0:10"],
        "extraCIDRs": ["fd00:1::/48", "192.168.0.0/16"]});
    site.patch(
        &format!("{CONFIGS}/{CONFIG_NAME}"),
        json!({"spec": {"ciliumCIDRGroups": [group]}}),
    );
    let rest = ["2001:db8:1234:5670::/60", "2001:db8:1234:5672::10/128", "fd00:1::/48"];
    site.wait_group("site", &[&["192.168.0.0/16"], &rest[..]].concat());
    site.interface.remove("2001:db8:1234:5671::10");
    site.wait_reason(CONFIG_NAME, "NoPrefix");
    site.wait_group("site", &[&["192.168.0.0/16"], &rest[..]].concat());
    node.wait_complaints(1);
}

fn a_missing_object_is_asked_for() {
    for kind in KINDS {
        let site = Site::with_address("2001:db8:1234:5671::10");
        site.server.install(kind.crd);
        site.grant(kind.rights);
        add_target(&site, kind.target(SUFFIX));
        let node = site.run(1);
        let message = wait_message(&site, "UpdateFailed", "create it first: ");
        site.wait_lan("2001:db8:1234:567");
        site.wait_rounds(3);
        assert!(
            writes(&site.server.store())
                .iter()
                .all(|line| !line.contains(kind.plural))
        );
        // What it says is what an administrator applies.
        let yaml = message.split_once("create it first: ").expect("some YAML").1;
        let object: Value = serde_yaml::from_str(yaml).expect("YAML");
        if kind.name == "GlobalNetworkSet" {
            assert_eq!(
                object["apiVersion"], "crd.projectcalico.org/v1",
                "the one that is served"
            );
        }
        site.server.admin("POST", &kind.path(), "application/json", &object);
        wait_held(&site, kind, &[OLD]);
        site.wait_reason(CONFIG_NAME, "Updated");
        node.wait_complaints(2);
    }
}

fn a_kind_without_rights_is_named() {
    for kind in KINDS {
        let site = Site::with_address("2001:db8:1234:5671::10");
        site.server.install(kind.crd);
        create(&site, kind, &["192.0.2.0/24"]);
        add_target(&site, kind.target(SUFFIX));
        let node = site.run(1);
        let right = format!(
            "cannot get resource \"{}\" in API group \"{}\"",
            kind.plural, kind.api.0
        );
        let message = wait_message(&site, "UpdateFailed", &right);
        let component = format!("manifests/components/{} is what to apply", kind.name.to_lowercase());
        assert!(message.contains(&component), "{message}");
        site.wait_lan("2001:db8:1234:567");
        // To read is not enough.
        site.grant(&kind.rights.replace("[get, patch]", "[get]"));
        wait_message(&site, "UpdateFailed", &right.replace(" get ", " patch "));
        assert_eq!(kind.held(&site.server.store()).expect("it is there"), ["192.0.2.0/24"]);
        site.grant(kind.rights);
        wait_held(&site, kind, &[OLD]);
        site.wait_reason(CONFIG_NAME, "Updated");
        drop(node);
    }
}

fn a_kind_that_is_not_installed() {
    for kind in KINDS {
        let site = Site::with_address("2001:db8:1234:5671::10");
        site.grant(kind.rights);
        add_target(&site, kind.target(SUFFIX));
        let node = site.run(1);
        let message = wait_message(&site, "UpdateFailed", "the API server does not serve ");
        assert!(message.contains(": install "), "{message}");
        site.wait_lan("2001:db8:1234:567");
        site.wait_rounds(2);
        site.server.install(kind.crd);
        create(&site, kind, &["192.0.2.0/24"]);
        wait_held(&site, kind, &[OLD]);
        site.wait_reason(CONFIG_NAME, "Updated");
        drop(node);
    }
}

fn another_namespace_is_another_right() {
    let pool = Kind {
        namespace: "elsewhere",
        ..kind("IPAddressPool")
    };
    let (site, _node) = with_kind(pool);
    let message = wait_message(
        &site,
        "UpdateFailed",
        "cannot get resource \"ipaddresspools\" in API group \"metallb.io\"",
    );
    assert!(message.contains("in the namespace \"elsewhere\""), "{message}");
    assert!(message.ends_with("its Role in the namespace elsewhere"), "{message}");
    assert_eq!(pool.held(&site.server.store()).expect("it is there"), ["192.0.2.0/24"]);
    site.wait_lan("2001:db8:1234:567");
}

fn a_middleware_for_something_else_is_left_alone() {
    let middleware = kind("Middleware");
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.server.install(middleware.crd);
    site.grant(middleware.rights);
    let mut object = middleware.object(&[]);
    object["spec"] = json!({"redirectScheme": {"scheme": "https"}});
    site.server
        .admin("POST", &middleware.path(), "application/json", &object);
    add_target(&site, middleware.target(SUFFIX));
    let node = site.run(1);
    wait_message(
        &site,
        "UpdateFailed",
        "it has no spec.ipAllowList, so it is for something else",
    );
    site.wait_rounds(3);
    assert_eq!(site.server.store().objects[&middleware.key()]["spec"], object["spec"]);
    node.wait_complaints(2);
}

/// It would be dropped without a word, and k6u would say that all is well.
fn a_list_that_the_version_does_not_have() {
    let pool = Kind {
        api: ("cilium.io", "v2alpha1"),
        ..kind("CiliumLoadBalancerIPPool")
    };
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.server.install(POOL_BEFORE_BLOCKS);
    site.grant(pool.rights);
    let mut object = pool.object(&[]);
    object["spec"] = json!({"cidrs": [{"cidr": "192.0.2.0/24"}]});
    site.server.admin("POST", &pool.path(), "application/json", &object);
    add_target(&site, pool.target(SUFFIX));
    let _node = site.run(1);
    wait_message(
        &site,
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
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.server.install(&alpha);
    site.grant(pool.rights);
    let older = Kind {
        api: ("cilium.io", "v2alpha1"),
        ..pool
    };
    create(&site, older, &["192.0.2.0/24"]);
    add_target(&site, pool.target(SUFFIX));
    let node = site.run(1);
    wait_held(&site, pool, &[OLD]);
    let mut crd: Value = serde_yaml::from_str(pool.crd).expect("YAML");
    crd["spec"]["versions"].as_array_mut().expect("versions").remove(1);
    site.server.install(&serde_yaml::to_string(&crd).expect("YAML"));
    move_prefix(&site);
    wait_held(&site, pool, &[NEW]);
    assert_eq!(node.complaints(), [""; 0], "an upgrade is no trouble");
    assert!(
        !requests(
            &site.server.store(),
            "PATCH /apis/cilium.io/v2/ciliumloadbalancerippools/lan"
        )
        .is_empty()
    );
}

fn calicos_api_server_comes_first() {
    let stored = kind("GlobalNetworkSet");
    let shown = Kind {
        api: ("projectcalico.org", "v3"),
        ..stored
    };
    let site = Site::with_address("2001:db8:1234:5671::10");
    site.server.install(stored.crd);
    site.server.install(CALICO_V3);
    site.grant(stored.rights);
    create(&site, shown, &["192.0.2.0/24"]);
    create(&site, stored, &["192.0.2.0/24"]);
    add_target(&site, stored.target(SUFFIX));
    let node = site.run(1);
    wait_held(&site, shown, &[OLD]);
    assert_eq!(
        stored.held(&site.server.store()).expect("it is there"),
        ["192.0.2.0/24"]
    );
    assert_eq!(node.complaints(), [""; 0]);
}

fn two_configs_name_one_pool() {
    let pool = kind("IPAddressPool");
    let (site, _node) = with_kind(pool);
    wait_held(&site, pool, &[OLD]);
    site.server.advance_clock(std::time::Duration::from_secs(1));
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

fn what_a_pattern_cannot_see_is_told() {
    let pool = kind("IPAddressPool");
    let (site, _node) = with_kind(pool);
    wait_held(&site, pool, &[OLD]);
    add_target(&site, pool.target("2001:db8::1:ffff:0:0:0/112"));
    wait_message(
        &site,
        "InvalidSpec",
        "spec.targets[0].suffixes[0] is \"2001:db8::1:ffff:0:0:0/112\", but its first 60 bits come from the delegated \
         prefix and must be 0 here: ::1:ffff:0:0:0/112 fits",
    );
    wait_held(&site, pool, &[OLD]);
}
