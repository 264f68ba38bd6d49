//! One node whose addresses change. The interval is the longest: only a wake-up reacts at once.

use std::time::{Duration, Instant};

use k6u_testkit::apiserver::server::cidrs;
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::example::cidrs_for;
use k6u_testkit::machine::namespace::Interface;
use k6u_testkit::site::{
    ADDRESS, CONFIG_NAME, CONFIGS, GROUP, NEW_ADDRESS, NODE, NODE_CONFIG, NODE_CONFIGS, SOON, Site, requests,
};
use serde_json::json;

use crate::Scenario;

pub const ALL: &[Scenario] = scenarios![
    an_interface_by_an_alternative_name,
    an_interface_with_three_hundred_names,
    the_old_prefix_is_deprecated,
    the_old_address_is_removed,
    an_address_changes_in_two_steps,
    all_addresses_are_lost,
    only_local_addresses,
    two_uplinks_keep_both,
    addresses_that_are_rewritten,
    a_rogue_prefix_is_kept_out,
    irrelevant_changes_cost_no_request,
    a_flood_of_changes_costs_one_round_a_second,
    a_prefix_moves_between_two_interfaces,
    a_thousand_prefixes_of_an_attacker,
    the_interface_disappears_and_comes_back,
    the_interface_is_renamed,
    a_prefix_that_is_announced_no_longer,
    a_deprecated_prefix_is_kept_for_a_while,
];

/// The log line for a change that k6u reacts to without delay.
const AT_ONCE: &str = "the addresses changed: next round in 0 ms";

/// Alternative names for an interface: one that a plain name could be, and one that is too long for that.
pub fn alternative_names(site: &Site) -> [String; 2] {
    let name = &site.interface.name;
    [
        format!("uplink-{name}"),
        format!("{name}-that-udev-named-by-its-slot-enp135s0f1v3d1np1"),
    ]
}

fn an_interface_by_an_alternative_name() {
    for at in 0..2 {
        let site = Site::with_address(ADDRESS);
        let name = &alternative_names(&site)[at];
        site.interface.add_name(name).expect("an alternative name");
        let path = format!("{NODE_CONFIGS}/ip6-update-node1");
        site.patch(&path, json!({"spec": {"interface": name}}));
        let node = site.run(1);
        site.wait_lan("2001:db8:1234:567");
        // A change of the address wakes it, whichever name it knows.
        site.renumber();
        site.wait_lan("2001:db8:9876:543");
        let entry = site
            .object("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1")
            .unwrap();
        let entry = &entry["status"]["nodes"][NODE];
        assert_eq!(entry["prefixes"], json!(["2001:db8:9876:5431::/64"]));
        assert_eq!(entry["message"].as_str().unwrap_or_default(), "");
        node.wait_log(&format!("{name}: prefixes "), SOON);
        site.wait_reason(CONFIG_NAME, "Updated");
        assert_eq!(node.complaints(), [""; 0]);
    }
}

/// The kernel's answer contains all names, whatever the request asks for.
fn an_interface_with_three_hundred_names() {
    let site = Site::with_address(ADDRESS);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    for number in 0..300 {
        let name = format!("{number:03}-{}", "x".repeat(120));
        site.interface.add_name(&name).expect("an alternative name");
    }
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    assert_eq!(node.complaints(), [""; 0]);
}

fn the_old_prefix_is_deprecated() {
    let (site, node) = Site::settled(3600);
    site.interface.add(NEW_ADDRESS);
    site.interface.deprecate(ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    node.wait_log(AT_ONCE, SOON);
    let group = site.group(GROUP).unwrap();
    assert_eq!(group["spec"]["externalCIDRs"].as_array().unwrap().len(), 3);
    node.wait_log(
        &format!("{}: prefixes 2001:db8:1234:5671::/64", site.interface.name),
        SOON,
    );
    assert_eq!(node.complaints(), [""; 0]);
}

fn the_old_address_is_removed() {
    let (site, node) = Site::settled(3600);
    site.interface.remove(ADDRESS);
    site.interface.add(NEW_ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    node.wait_log(AT_ONCE, SOON);
    let history = site.group_history(GROUP);
    assert!(
        history.iter().all(|cidrs| !cidrs.is_empty()),
        "the group was empty once: {history:?}"
    );
}

fn an_address_changes_in_two_steps() {
    let (site, node) = Site::settled(3600);
    site.interface.add(NEW_ADDRESS);
    let both = |store: &Store| (cidrs(store, GROUP)?.len() == 6).then_some(());
    assert!(site.server.wait(SOON, both).is_some(), "{:#?}", node.log());
    site.interface.remove(ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    node.wait_count(AT_ONCE, 2, SOON);
    assert_eq!(node.count("the addresses changed: "), 2, "{:#?}", node.log());
    assert_eq!(site.group_history(GROUP).len(), 3);
}

fn all_addresses_are_lost() {
    let (site, node) = Site::settled(3600);
    let group = site.group(GROUP).unwrap();
    site.interface.remove(ADDRESS);
    let condition = site.wait_reason(CONFIG_NAME, "NoPrefix");
    assert_eq!(condition["status"], "False");
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.contains(&format!(
            "{NODE}: {} has no global IPv6 address in use",
            site.interface.name
        )),
        "{message}"
    );
    assert_eq!(site.group(GROUP).unwrap(), group, "the group keeps what it holds");
    let entry = site
        .object("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1")
        .unwrap();
    assert_eq!(entry["status"]["nodes"][NODE]["prefixes"], json!([]));
    assert!(node.wait_complaints(1)[0].contains("IP6UpdateConfig ip6-update-config is not Ready: NoPrefix: "));

    site.interface.add(NEW_ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    let reported = site.server.wait(SOON, |store| {
        let count = store.objects.keys().filter(|key| key.resource == "events").count();
        (count == 3).then_some(())
    });
    assert!(reported.is_some(), "{:?}", site.events());
    let events = site.events();
    assert_eq!(events.iter().filter(|(reason, _)| reason == "NoPrefix").count(), 1);
    let moved = "2001:db8:1234:5670::/60 -> 2001:db8:9876:5430::/60".to_string();
    assert!(events.contains(&("PrefixChanged".to_string(), moved)), "{events:?}");
}

fn only_local_addresses() {
    let site = Site::with_address("fd12:3456:789a::10");
    let node = site.run(3600);
    let condition = site.wait_reason(CONFIG_NAME, "NoPrefix");
    assert!(
        condition["message"]
            .as_str()
            .unwrap()
            .contains("fd12:3456:789a::10 is not global unicast"),
        "{condition}"
    );
    assert!(site.group(GROUP).is_none());
    node.wait_complaints(1);
}

fn two_uplinks_keep_both() {
    let site = Site::with_address(ADDRESS);
    let second = Interface::new();
    second.add(NEW_ADDRESS);
    let node_config = NODE_CONFIG
        .replace("eth0", &second.name)
        .replace("ip6-update-node1", "ip6-update-node1-cable");
    site.server.create(&node_config);
    let _node = site.run(1);
    let both: Vec<String> = ["2001:db8:1234:567", "2001:db8:9876:543"]
        .iter()
        .flat_map(|start| (0..3).map(move |id| format!("{start}{id}::/64")))
        .collect();
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    site.wait_group(GROUP, &both);
    site.wait_rounds(4);
    assert_eq!(site.group_history(GROUP).len(), 1, "nothing flaps");
}

/// NetworkManager, when a new prefix appears, removes the other addresses and adds them again with the rest of their
/// lifetimes.
fn addresses_that_are_rewritten() {
    let site = Site::new();
    let patch = json!({"spec": {"staleAfterSeconds": 2}});
    site.patch(&format!("{NODE_CONFIGS}/ip6-update-node1"), patch);
    let _node = site.run(1);
    // Both end two hours after their last announcement.
    let write = |address: &str, announced: Instant| {
        let left = 7200 - announced.elapsed().as_secs() as u32;
        site.interface.set(address, 64, left, left);
    };
    let first = Instant::now();
    write(ADDRESS, first);
    site.wait_lan("2001:db8:1234:567");
    let mut last = first;
    while cidrs(&site.server.store(), GROUP) != Some(cidrs_for("2001:db8:9876:543").to_vec()) {
        assert!(first.elapsed() < SOON, "the old prefix does not become stale");
        last = Instant::now();
        write(NEW_ADDRESS, last);
        std::thread::sleep(Duration::from_millis(200));
    }
    let before = site.group_history(GROUP).len();
    for _ in 0..20 {
        for (address, announced) in [(ADDRESS, first), (NEW_ADDRESS, last)] {
            site.interface.remove(address);
            write(address, announced);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    site.wait_rounds(3);
    let history = site.group_history(GROUP);
    assert_eq!(history.len(), before, "nothing flaps: {:?}", &history[before - 1..]);
}

fn a_rogue_prefix_is_kept_out() {
    let site = Site::with_address(ADDRESS);
    site.patch(
        &format!("{}/{CONFIG_NAME}", CONFIGS),
        json!({"spec": {"allowedPrefixes": ["2001:db8::/32"]}}),
    );
    let _node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.interface.add("2a00:bad:bad:bad1::10");
    wait_entry(
        &site,
        1,
        "2a00:bad:bad:bad1::/64 left out: outside every allowedPrefixes",
    );
    site.interface.remove("2a00:bad:bad:bad1::10");
    wait_entry(&site, 1, "");
    assert_eq!(site.group_history(GROUP).len(), 1, "{:?}", site.group_history(GROUP));
}

/// Waits until the node's entry has this number of prefixes, and a message that contains this text. An empty text
/// stands for no message.
fn wait_entry(site: &Site, prefixes: usize, text: &str) {
    let key = Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    let is_expected = |store: &Store| {
        let entry = &store.objects[&key]["status"]["nodes"][NODE];
        let message = entry["message"].as_str().unwrap_or_default();
        let has_text = message.contains(text) && message.is_empty() == text.is_empty();
        (has_text && entry["prefixes"].as_array()?.len() == prefixes).then_some(())
    };
    let entry = || site.object("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1");
    assert!(site.server.wait(SOON, is_expected).is_some(), "{:?}", entry());
}

fn irrelevant_changes_cost_no_request() {
    let (site, _node) = Site::settled(3600);
    let request_count = |site: &Site| site.server.store().log.len();
    let before = request_count(&site);
    let other = Interface::new();
    other.add("2001:db8:ffff::1");
    // On the watched interface, but in the same prefix.
    site.interface.add("2001:db8:1234:5671::11");
    site.interface.remove("2001:db8:1234:5671::11");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(request_count(&site), before, "{:?}", &site.server.store().log[before..]);
}

fn a_flood_of_changes_costs_one_round_a_second() {
    let (site, _node) = Site::settled(3600);
    let rounds = |site: &Site| {
        requests(
            &site.server.store(),
            "GET /apis/apps.fuwafuwatime.moe/v1/ip6updateconfigs",
        )
        .len()
    };
    let (before, start) = (rounds(&site), Instant::now());
    let mut number = 0;
    while start.elapsed() < Duration::from_millis(2500) {
        site.interface.add(&format!("2001:db8:{number:x}:1::10"));
        number += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let lists = rounds(&site) - before;
    // Five changes are reacted to at once, then one in each second. A round that writes reads the list twice.
    let max = 2 * (5 + start.elapsed().as_secs() as usize + 1);
    assert!(
        (2..=max).contains(&lists),
        "{lists} lists of configs for {number} changes"
    );
}

fn a_prefix_moves_between_two_interfaces() {
    let site = Site::with_address(ADDRESS);
    let second = Interface::new();
    let node_config = NODE_CONFIG
        .replace("eth0", &second.name)
        .replace("ip6-update-node1", "ip6-update-node1-second");
    site.server.create(&node_config);
    let node = site.run(3600);
    site.wait_lan("2001:db8:1234:567");
    site.interface.remove(ADDRESS);
    second.add(ADDRESS);
    node.wait_log(
        &format!("{}: prefixes none -> 2001:db8:1234:5671::/64", second.name),
        SOON,
    );
    site.wait_reason(CONFIG_NAME, "Updated");
    let history = site.group_history(GROUP);
    assert_eq!(history.len(), 1, "the group was never anything else: {history:?}");
}

fn a_thousand_prefixes_of_an_attacker() {
    let (site, _node) = Site::settled(1);
    let allow = |allowed: serde_json::Value| {
        let spec = json!({"spec": {"allowedPrefixes": allowed}});
        site.patch(&format!("{}/{CONFIG_NAME}", CONFIGS), spec);
    };
    allow(json!(["2001:db8:1234::/48"]));
    // The node reads it in its next round.
    site.wait_rounds(3);
    for number in 0..1000 {
        site.interface.add(&format!("2a00:{number:x}:bad:bad::10"));
    }
    wait_entry(&site, 1, "2a00:0:bad:bad::/64 left out: outside every allowedPrefixes");
    site.wait_lan("2001:db8:1234:567");
    assert_eq!(site.group_history(GROUP).len(), 1, "{:?}", site.group_history(GROUP));
    // Without allowedPrefixes all of them count, up to a limit.
    allow(json!(null));
    wait_entry(&site, 64, "has 1001 prefixes; only the first 64 count");
}

fn the_interface_disappears_and_comes_back() {
    let (mut site, node) = Site::settled(3600);
    let name = site.interface.name.clone();
    site.interface = Interface::new();
    let condition = site.wait_reason(CONFIG_NAME, "NoPrefix");
    assert!(
        condition["message"]
            .as_str()
            .unwrap()
            .contains(&format!("there is no interface {name}")),
        "{condition}"
    );
    site.wait_lan("2001:db8:1234:567");
    site.interface = Interface::named(&name);
    site.interface.add(NEW_ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_complaints(1);
}

fn the_interface_is_renamed() {
    let mut site = Site::with_address(ADDRESS);
    let _node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    let old_name = site.interface.name.clone();
    site.interface.rename("renamed0");
    // Older kernels removed the address.
    site.interface.add(ADDRESS);
    site.wait_reason(CONFIG_NAME, "NoPrefix");
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"interface": "renamed0"}}),
    );
    site.wait_reason(CONFIG_NAME, "Updated");
    site.interface.rename(&old_name);
}

/// The kernel says when an address was last refreshed, in a unit of its own.
fn a_prefix_that_is_announced_no_longer() {
    let (site, node) = Site::settled(1);
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"staleAfterSeconds": 2}}),
    );
    let announce = |address: &str| site.interface.set(address, 64, 1800, 3600);
    announce(ADDRESS);
    announce(NEW_ADDRESS);
    let held = |count: usize| move |store: &Store| (cidrs(store, GROUP)?.len() == count).then_some(());
    assert!(site.server.wait(SOON, held(6)).is_some(), "{:#?}", node.log());
    // The router announces only the new one from here on.
    let deadline = Instant::now() + SOON;
    while held(3)(&site.server.store()).is_none() {
        assert!(Instant::now() < deadline, "{:#?}", node.log());
        announce(NEW_ADDRESS);
        std::thread::sleep(Duration::from_millis(500));
    }
    site.wait_lan("2001:db8:9876:543");
    node.wait_log("2001:db8:1234:5671::/64 left out: stale ", SOON);
    // It is announced again.
    announce(ADDRESS);
    announce(NEW_ADDRESS);
    assert!(site.server.wait(SOON, held(6)).is_some(), "{:#?}", node.log());
}

fn a_deprecated_prefix_is_kept_for_a_while() {
    let (site, node) = Site::settled(1);
    site.patch(
        &format!("{NODE_CONFIGS}/ip6-update-node1"),
        json!({"spec": {"keepDeprecatedSeconds": 5}}),
    );
    site.interface.add(NEW_ADDRESS);
    let held = |count: usize| move |store: &Store| (cidrs(store, GROUP)?.len() == count).then_some(());
    assert!(site.server.wait(SOON, held(6)).is_some(), "{:#?}", node.log());
    let begun = Instant::now();
    site.interface.deprecate(ADDRESS);
    site.wait_lan("2001:db8:9876:543");
    let kept = begun.elapsed();
    assert!(kept >= Duration::from_secs(4), "kept for {kept:?} only");
}
