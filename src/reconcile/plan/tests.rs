//! The rules of planning, one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cidr::{Cidr, Item};

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn texts<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<String> {
    items.into_iter().map(Item::to_string).collect()
}

fn item(text: &str) -> Item {
    Item::Cidr(text.parse().unwrap())
}

fn config_with(name: &str, created: &str, spec: Value) -> Config {
    let metadata = json!({"name": name, "creationTimestamp": created, "generation": 1});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn spec(length: u8, groups: &[(&str, &[u64])]) -> Value {
    let groups: Vec<Value> = groups
        .iter()
        .map(|(name, ids)| json!({"ciliumCIDRGroupName": name, "prefixIds": ids}))
        .collect();
    json!({"delegatedPrefixLength": length, "ciliumCIDRGroups": groups})
}

fn lan() -> Config {
    config_with(
        "lan",
        "2026-01-01T00:00:00Z",
        spec(60, &[("ip6-local-lan", &[0, 1, 2])]),
    )
}

/// A node config in which these nodes published.
fn node_config(name: &str, nodes: &[(&str, &[&str])]) -> NodeConfig {
    let entry = |(node, prefixes): &(&str, &[&str])| (node.to_string(), json!({"prefixes": prefixes, "message": ""}));
    let nodes: BTreeMap<String, Value> = nodes.iter().map(entry).collect();
    serde_json::from_value(json!({
        "metadata": {"name": name}, "spec": {"interface": "eth0"}, "status": {"nodes": nodes}
    }))
    .unwrap()
}

/// The verdict on one config, when one node publishes these prefixes.
fn follows(config: Config, prefixes: &[&str]) -> Verdict {
    plan_for(&[config], &[node_config("n", &[("me", prefixes)])])
        .verdicts
        .remove(0)
}

/// The plan when this is all that was read.
fn plan_for(configs: &[Config], node_configs: &[NodeConfig]) -> Plan {
    plan(
        configs,
        &Observed {
            node_configs,
            ..Observed::default()
        },
    )
}

/// What a single group is to hold; panics if the verdict is another.
fn group(verdict: &Verdict) -> Vec<String> {
    assert_eq!(verdict.keep, None);
    texts(&verdict.targets[0].items)
}

fn reason(verdict: &Verdict) -> Reason {
    verdict.keep.as_ref().expect("it keeps what it holds").reason
}

fn message(verdict: &Verdict) -> &str {
    &verdict.keep.as_ref().expect("it keeps what it holds").message
}

#[test]
fn the_main_job() {
    let verdict = follows(lan(), &["2001:db8:1234:5671::/64"]);
    assert_eq!(
        verdict,
        Verdict {
            delegated: vec![prefix("2001:db8:1234:5670::/60")],
            targets: vec![DesiredTarget {
                key: TargetKey::group("ip6-local-lan"),
                items: vec![
                    item("2001:db8:1234:5670::/64"),
                    item("2001:db8:1234:5671::/64"),
                    item("2001:db8:1234:5672::/64"),
                ],
                lingering: BTreeSet::new(),
                record: None,
                is_constant: false,
            }],
            ..Verdict::default()
        }
    );
}

#[test]
fn nodes_in_one_delegated_prefix_agree() {
    let nodes = node_config(
        "n",
        &[("b", &["2001:db8:1234:5672::/64"]), ("c", &["2001:db8:1234:5670::/64"])],
    );
    assert_eq!(group(&plan_for(&[lan()], &[nodes]).verdicts[0]).len(), 3);
}

#[test]
fn while_nodes_differ_old_and_new_are_held() {
    let nodes = node_config("n", &[("b", &["2001:db8:1:10::/64"]), ("me", &["2001:db8:2:20::/64"])]);
    assert_eq!(
        group(&plan_for(&[lan()], &[nodes]).verdicts[0]),
        [
            "2001:db8:1:10::/64",
            "2001:db8:1:11::/64",
            "2001:db8:1:12::/64",
            "2001:db8:2:20::/64",
            "2001:db8:2:21::/64",
            "2001:db8:2:22::/64"
        ]
    );
}

#[test]
fn two_sites_and_two_uplinks_keep_both() {
    let sites = [
        node_config("site1", &[("b", &["2001:db8:1:1::/64"])]),
        node_config("site2", &[("c", &["3fff:0:2:1::/64"])]),
    ];
    assert_eq!(group(&plan_for(&[lan()], &sites).verdicts[0]).len(), 6);
    let uplinks = [
        node_config("dsl", &[("me", &["2001:db8:1:1::/64"])]),
        node_config("cable", &[("me", &["3fff:0:2:1::/64"])]),
    ];
    assert_eq!(group(&plan_for(&[lan()], &uplinks).verdicts[0]).len(), 6);
}

#[test]
fn an_entry_counts_as_long_as_it_is_there() {
    for time in ["", "1970-01-01T00:00:00Z", "9999-01-01T00:00:00Z", "nonsense"] {
        let mut nodes = node_config("n", &[("b", &["2001:db8:1:1::/64"])]);
        nodes.status.nodes.get_mut("b").unwrap().observed_time = time.into();
        assert_eq!(group(&plan_for(&[lan()], &[nodes]).verdicts[0]).len(), 3, "{time}");
    }
}

#[test]
fn no_prefix_keeps_the_groups() {
    let nothing = plan_for(&[lan()], &[]);
    assert_eq!(reason(&nothing.verdicts[0]), Reason::NoPrefix);
    assert!(message(&nothing.verdicts[0]).starts_with("There is no IP6UpdateNodeConfig."));

    let nobody = plan_for(&[lan()], &[node_config("a", &[]), node_config("b", &[])]);
    assert_eq!(nobody.without_entry, ["a", "b"]);
    assert_eq!(
        message(&nobody.verdicts[0]),
        "No node publishes in IP6UpdateNodeConfig a, b: check that nodeSelector matches a node and that k6u runs \
         there. The targets keep what they hold."
    );

    let mut blind = node_config("n", &[("me", &[])]);
    blind.status.nodes.get_mut("me").unwrap().message = "there is no interface eth0".into();
    assert_eq!(
        message(&plan_for(&[lan()], &[blind]).verdicts[0]),
        "No node has a global IPv6 prefix (me: there is no interface eth0). The targets keep what they hold; check the \
         router and the interface."
    );
}

#[test]
fn node_configs_without_an_entry_are_named_a_few_at_a_time() {
    let names: Vec<String> = (0..6).map(|n| format!("n{n}")).collect();
    let text = nobody_publishes(&names).unwrap();
    assert!(
        text.starts_with("No node publishes in IP6UpdateNodeConfig n0, n1, n2, n3 and 2 more: "),
        "{text}"
    );
    assert_eq!(nobody_publishes(&[]), None);
}

#[test]
fn nodes_that_ignore_routers_are_named_although_the_targets_are_right() {
    let mut nodes = node_config("n", &[("a", &["2001:db8:1:1::/64"]), ("b", &["2001:db8:1:2::/64"])]);
    nodes.status.nodes.get_mut("b").unwrap().ignores_routers = true;
    let plan = plan_for(&[lan()], &[nodes]);
    assert_eq!(plan.ignoring_routers, ["b"]);
    assert_eq!(plan.verdicts[0].keep, None);
    assert!(
        plan.remarks()[0].starts_with("The interface of b ignores routers"),
        "{:?}",
        plan.remarks()
    );
}

#[test]
fn only_allowed_prefixes_count() {
    let mut with_list = spec(60, &[("lan", &[0])]);
    with_list["allowedPrefixes"] = json!(["2001:db8::/32"]);
    let config = config_with("a", "", with_list);
    let both = follows(config.clone(), &["2001:db8:1:1::/64", "2a00:bad::/64"]);
    assert_eq!(group(&both), ["2001:db8:1::/64"]);
    let rogue = follows(config, &["2a00:bad::/64"]);
    assert_eq!(reason(&rogue), Reason::NoPrefix);
    assert!(
        message(&rogue).starts_with(
            "All observed prefixes (2a00:bad::/64) are outside allowedPrefixes (2001:db8::/32). The targets keep"
        ),
        "{}",
        message(&rogue)
    );
}

#[test]
fn an_allowed_prefix_longer_than_the_delegated_one_allows_nothing() {
    let mut narrow = spec(56, &[("lan", &[0])]);
    narrow["allowedPrefixes"] = json!(["2001:db8:1::/64"]);
    let verdict = follows(config_with("a", "", narrow), &["2001:db8:1::/64"]);
    assert_eq!(reason(&verdict), Reason::NoPrefix);
}

#[test]
fn a_bad_spec_changes_no_group() {
    let bad = config_with("a", "", spec(60, &[("good", &[0]), ("bad", &[200])]));
    let verdict = follows(bad, &["2001:db8:1:1::/64"]);
    assert_eq!(reason(&verdict), Reason::InvalidSpec);
    assert_eq!(
        message(&verdict),
        "spec.ciliumCIDRGroups[1].prefixIds[0] is 200, but a /60 holds the prefix ids 0 to 15 only. The targets keep \
         what they hold; correct the spec."
    );
}

/// One node that publishes one prefix.
fn one_node() -> [NodeConfig; 1] {
    [node_config("n", &[("me", &["2001:db8:1::/64"])])]
}

#[test]
fn of_two_configs_the_older_has_the_group() {
    let younger = config_with(
        "a",
        "2026-02-01T00:00:00Z",
        spec(60, &[("shared", &[0]), ("own", &[1])]),
    );
    let older = config_with("b", "2026-01-01T00:00:00Z", spec(60, &[("shared", &[5])]));
    let plan = plan_for(&[younger, older], &one_node());
    let Verdict { targets, contested, .. } = &plan.verdicts[0];
    assert_eq!(*contested, [(TargetKey::group("shared"), "b".to_string())]);
    assert_eq!((targets.len(), &targets[0].key), (1, &TargetKey::group("own")));
    assert_eq!(group(&plan.verdicts[1]), ["2001:db8:1:5::/64"]);
}

#[test]
fn of_two_configs_of_one_second_the_name_decides() {
    let same = "2026-01-01T00:00:00Z";
    let configs = [
        config_with("z", same, spec(60, &[("shared", &[0])])),
        config_with("y", same, spec(60, &[("shared", &[1])])),
    ];
    let plan = plan_for(&configs, &one_node());
    assert_eq!(
        (plan.verdicts[0].contested.len(), plan.verdicts[0].targets.len()),
        (1, 0)
    );
    assert_eq!(group(&plan.verdicts[1]), ["2001:db8:1:1::/64"]);
}

#[test]
fn a_typing_error_in_the_older_config_hands_its_group_to_nobody() {
    let older = config_with("a", "2026-01-01T00:00:00Z", spec(60, &[("shared", &[200])]));
    let younger = config_with("b", "2026-02-01T00:00:00Z", spec(60, &[("shared", &[1])]));
    let plan = plan_for(&[older, younger], &one_node());
    assert_eq!(plan.verdicts[1].contested.len(), 1);
}

#[test]
fn a_group_without_ids_is_emptied_on_purpose() {
    let verdict = follows(config_with("a", "", spec(60, &[("lan", &[])])), &["2001:db8:1::/64"]);
    assert_eq!(group(&verdict), [""; 0]);
}

#[test]
fn a_group_that_no_policy_map_holds_is_refused() {
    let ids: Vec<u64> = (0..257).collect();
    let prefixes: Vec<String> = (0..64).map(|n| format!("2001:db8:{n:x}::/64")).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    let config = config_with("a", "", spec(48, &[("big", &ids), ("small", &[0])]));
    let Verdict { oversized, targets, .. } = follows(config, &prefixes);
    assert_eq!(oversized, [(TargetKey::group("big"), 64 * 257)]);
    assert_eq!(targets[0].items.len(), 64);
}

#[test]
fn all_targets_together_are_bounded_and_older_configs_come_first() {
    let ids: Vec<u64> = (0..256).collect();
    let prefixes: Vec<String> = (0..64).map(|n| format!("2001:db8:{n:x}::/64")).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    let config = |name: &str, created: &str, group: &str| config_with(name, created, spec(48, &[(group, &ids)]));
    let configs = [
        config("a", "2026-01-03T00:00:00Z", "youngest"),
        config("b", "2026-01-01T00:00:00Z", "oldest"),
        config("c", "2026-01-02T00:00:00Z", "younger"),
    ];
    let plan = plan_for(&configs, &[node_config("n", &[("me", &prefixes)])]);
    assert_eq!(plan.verdicts[0].oversized, [(TargetKey::group("youngest"), 64 * 256)]);
    assert_eq!(
        plan.targets().map(|target| target.items.len()).sum::<usize>(),
        MAX_PLANNED
    );
    assert!(plan.verdicts[1..].iter().all(|verdict| verdict.oversized.is_empty()));
}

#[test]
fn a_published_prefix_shorter_than_the_delegated_length_counts_for_nothing() {
    assert_eq!(reason(&follows(lan(), &["2001:db8::/32"])), Reason::NoPrefix);
}

/// One node publishes the second prefix; the entry with the first one vanished.
fn after_vanishing(config: Config) -> Verdict {
    let node_configs = [node_config("n", &[("me", &["2001:db8:2::/64"])])];
    let observed = Observed {
        node_configs: &node_configs,
        are_all_silent: false,
        vanished: [prefix("2001:db8:1:7::/64"), prefix("2001:db8:2:7::/64")].into(),
    };
    plan(&[config], &observed).verdicts.remove(0)
}

#[test]
fn only_what_a_vanished_entry_alone_stands_for_lingers() {
    let verdict = after_vanishing(lan());
    assert_eq!(verdict.delegated, [prefix("2001:db8:2::/60")]);
    assert_eq!(verdict.lingering, [prefix("2001:db8:1::/60")]);
    assert_eq!(
        group(&verdict),
        ["2001:db8:2::/64", "2001:db8:2:1::/64", "2001:db8:2:2::/64"]
    );
    let lingering = texts(&verdict.targets[0].lingering);
    assert_eq!(lingering, ["2001:db8:1::/64", "2001:db8:1:1::/64", "2001:db8:1:2::/64"]);
}

#[test]
fn what_is_not_allowed_does_not_linger() {
    let mut narrow = spec(60, &[("lan", &[0])]);
    narrow["allowedPrefixes"] = json!(["2001:db8:2::/48"]);
    assert_eq!(after_vanishing(config_with("a", "", narrow)).lingering, []);
}

#[test]
fn an_extra_cidr_does_not_linger() {
    let mut spec = spec(60, &[("lan", &[0])]);
    spec["ciliumCIDRGroups"][0]["extraCIDRs"] = json!(["fd00::/8"]);
    let verdict = after_vanishing(config_with("a", "", spec));
    assert_eq!(texts(&verdict.targets[0].lingering), ["2001:db8:1::/64"]);
}

#[test]
fn entries_that_all_stand_still_count_for_nothing() {
    let node_configs = [node_config("n", &[("b", &["2001:db8:2::/64"])])];
    let observed = Observed {
        node_configs: &node_configs,
        are_all_silent: true,
        vanished: BTreeSet::new(),
    };
    let plan = plan(&[lan()], &observed);
    assert_eq!(plan.without_entry, ["n"]);
    assert!(message(&plan.verdicts[0]).starts_with("No node publishes in IP6UpdateNodeConfig n: "));
}

/// A config with a pool beside its group.
fn with_pool(name: &str, created: &str) -> Config {
    let mut spec = spec(56, &[(name, &[0])]);
    spec["targets"] = json!([{"kind": "IPAddressPool", "namespace": "metallb-system", "name": "lan",
        "suffixes": ["::1:ffff:0:0:0/112"], "extraCIDRs": ["192.168.7.0/24"]}]);
    config_with(name, created, spec)
}

#[test]
fn a_pool_follows_beside_a_group() {
    let nodes = node_config("n", &[("b", &["2001:db8:1:10::/64"]), ("me", &["2001:db8:2:20::/64"])]);
    let plan = plan_for(&[with_pool("a", "")], &[nodes]);
    let targets: Vec<&DesiredTarget> = plan.targets().collect();
    assert_eq!(targets[0].key, TargetKey::group("a"));
    assert_eq!(targets[1].key.to_string(), "IPAddressPool metallb-system/lan");
    assert_eq!(
        texts(&targets[1].items),
        ["192.168.7.0/24", "2001:db8:1:1:ffff::/112", "2001:db8:2:1:ffff::/112"],
        "while nodes differ, old and new"
    );
}

#[test]
fn of_two_configs_the_older_has_the_pool_but_each_its_group() {
    let plan = plan_for(
        &[
            with_pool("young", "2026-02-01T00:00:00Z"),
            with_pool("old", "2026-01-01T00:00:00Z"),
        ],
        &one_node(),
    );
    let Verdict { targets, contested, .. } = &plan.verdicts[0];
    assert_eq!(targets.len(), 1);
    assert_eq!(
        (contested[0].0.to_string(), contested[0].1.as_str()),
        ("IPAddressPool metallb-system/lan".into(), "old")
    );
}

#[test]
fn without_a_prefix_only_what_depends_on_none_is_written() {
    let mut config = spec(56, &[("lan", &[0]), ("emptied", &[])]);
    let groups = config["ciliumCIDRGroups"].as_array_mut().unwrap();
    groups[0]["extraCIDRs"] = json!(["fd00::/8"]);
    groups.push(json!({"ciliumCIDRGroupName": "fixed", "prefixIds": [], "extraCIDRs": ["fd00::/8"]}));
    let plan = plan_for(&[config_with("a", "", config)], &[]);
    assert_eq!(reason(&plan.verdicts[0]), Reason::NoPrefix);
    let written: Vec<(&str, Vec<String>)> = plan
        .targets()
        .map(|target| (target.key.name.as_str(), texts(&target.items)))
        .collect();
    assert_eq!(written, [("emptied", vec![]), ("fixed", vec!["fd00::/8".to_string()])]);
}

proptest! {
    /// Whatever nodes publish, a group holds nothing outside the delegated prefixes of their entries.
    #[test]
    fn nothing_outside_what_nodes_see(
        length in 1u8..=64,
        ids in proptest::collection::btree_set(0u64..300, 0..5),
        nodes in proptest::collection::vec(0u16..40, 0..8),
    ) {
        let links: Vec<String> = (0..40).map(|n: u16| format!("2001:db8:{:x}:{:x}::/64", n / 7, n * 37)).collect();
        let names: Vec<String> = (0..nodes.len()).map(|n| format!("node{n}")).collect();
        let prefixes: Vec<[&str; 1]> = nodes.iter().map(|n| [links[usize::from(*n)].as_str()]).collect();
        let entries: Vec<(&str, &[&str])> =
            names.iter().zip(&prefixes).map(|(name, prefixes)| (name.as_str(), prefixes.as_slice())).collect();
        let ids: Vec<u64> = ids.into_iter().collect();
        let config = [config_with("a", "", spec(length, &[("lan", &ids)]))];
        let plan = plan_for(&config, &[node_config("n", &entries)]);

        let seen: Vec<Prefix> = nodes.iter().map(|n| prefix(&links[usize::from(*n)]).truncate(length)).collect();
        let Verdict { keep, delegated, targets, .. } = &plan.verdicts[0];
        match keep.as_ref().map(|keep| keep.reason) {
            None => {
                // Without ids it depends on no prefix.
                prop_assert!(ids.is_empty() || !seen.is_empty());
                prop_assert!(delegated.iter().all(|p| seen.contains(p)));
                prop_assert!(seen.iter().all(|p| delegated.contains(p)));
                for item in &targets[0].items {
                    prop_assert!(matches!(item, Item::Cidr(Cidr::V6(part)) if seen.iter().any(|p| p.contains(*part))));
                }
                prop_assert_eq!(targets[0].items.len(), delegated.len() * ids.len());
            }
            Some(Reason::NoPrefix) => prop_assert!(seen.is_empty()),
            Some(Reason::InvalidSpec) => {
                let highest = crate::prefix::PrefixLength::try_from(u64::from(length)).unwrap().highest_id();
                prop_assert!(ids.iter().any(|id| *id > highest));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn an_allowed_prefix_that_is_longer_than_the_delegated_one_is_reported_as_such() {
    let mut spec = spec(56, &[("lan", &[0])]);
    spec["allowedPrefixes"] = json!(["2a00::/16", "2001:db8:1234:5670::/60"]);
    let config = config_with("a", "2026-01-01T00:00:00Z", spec);
    for inside in ["2001:db8:1234:5671::/64", "2001:db8:1234:5601::/64"] {
        let verdict = follows(config.clone(), &[inside]);
        assert_eq!(reason(&verdict), Reason::NoPrefix);
        assert_eq!(
            message(&verdict),
            "2001:db8:1234:5670::/60 in allowedPrefixes is longer than delegatedPrefixLength (56), so no delegated \
             prefix is inside it. The targets keep what they hold; correct allowedPrefixes or delegatedPrefixLength."
        );
    }
    let outside = follows(config, &["2001:db8:9:1::/64"]);
    assert!(
        message(&outside).contains("(2001:db8:9:1::/64) are outside allowedPrefixes"),
        "{}",
        message(&outside)
    );
}
