//! The rules of planning, one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000);

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn texts(prefixes: &[Prefix]) -> Vec<String> {
    prefixes.iter().map(Prefix::to_string).collect()
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

/// A node config in which nodes published, each some seconds ago.
fn node_config(name: &str, nodes: &[(&str, &[&str], i64)]) -> NodeConfig {
    let entry = |(node, prefixes, age): &(&str, &[&str], i64)| {
        let observed = Timestamp(NOW.0 - age).to_string();
        (
            node.to_string(),
            json!({"prefixes": prefixes, "observedTime": observed, "message": ""}),
        )
    };
    let nodes: BTreeMap<String, Value> = nodes.iter().map(entry).collect();
    serde_json::from_value(json!({
        "metadata": {"name": name}, "spec": {"interface": "eth0"}, "status": {"nodes": nodes}
    }))
    .unwrap()
}

fn sees(prefixes: &[&str]) -> Observation {
    Observation {
        prefixes: prefixes.iter().map(|text| prefix(text)).collect(),
        ..Observation::default()
    }
}

fn run(configs: &[Config], node_configs: &[NodeConfig], seen: &[(&str, Observation)]) -> Plan {
    let config = |name: &str| {
        node_configs
            .iter()
            .find(|config| config.metadata.name == name)
            .expect("a node config")
    };
    let seen = seen.iter().map(|(name, observation)| {
        let published = config(name).nodes().get("me");
        (name.to_string(), entry(&config(name).spec, observation, published, NOW))
    });
    let seen = seen.collect();
    plan(&Known {
        configs,
        node_configs,
        node: "me",
        seen: &seen,
        now: NOW,
    })
}

/// What a single group is to hold; panics if the verdict is another.
fn group(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Write { groups, .. } => texts(&groups[0].cidrs),
        keep => panic!("{keep:?}"),
    }
}

fn reason(verdict: &Verdict) -> Reason {
    match verdict {
        Verdict::Keep { reason, .. } => *reason,
        write => panic!("{write:?}"),
    }
}

fn message(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Keep { message, .. } => message,
        write => panic!("{write:?}"),
    }
}

#[test]
fn the_main_job() {
    let plan = run(
        &[lan()],
        &[node_config("n", &[])],
        &[("n", sees(&["2001:db8:1234:5671::/64"]))],
    );
    assert_eq!(
        plan.verdicts,
        [Verdict::Write {
            delegated: vec![prefix("2001:db8:1234:5670::/60")],
            groups: vec![WantedGroup {
                name: "ip6-local-lan".into(),
                cidrs: vec![
                    prefix("2001:db8:1234:5670::/64"),
                    prefix("2001:db8:1234:5671::/64"),
                    prefix("2001:db8:1234:5672::/64"),
                ],
            }],
            contested: vec![],
            oversized: vec![],
        }]
    );
    assert_eq!(plan.stale, []);
}

#[test]
fn nodes_in_one_delegated_prefix_agree() {
    let nodes = node_config(
        "n",
        &[
            ("b", &["2001:db8:1234:5672::/64"], 10),
            ("c", &["2001:db8:1234:5670::/64"], 20),
        ],
    );
    let plan = run(&[lan()], &[nodes], &[("n", sees(&["2001:db8:1234:5671::/64"]))]);
    assert_eq!(group(&plan.verdicts[0]).len(), 3);
}

#[test]
fn while_nodes_differ_old_and_new_are_held() {
    let nodes = node_config(
        "n",
        &[("b", &["2001:db8:1:10::/64"], 10), ("me", &["2001:db8:1:10::/64"], 10)],
    );
    let plan = run(&[lan()], &[nodes], &[("n", sees(&["2001:db8:2:20::/64"]))]);
    assert_eq!(
        group(&plan.verdicts[0]),
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
fn the_own_entry_is_what_is_seen_right_now() {
    // Published just now, but the address is gone since.
    let nodes = node_config("n", &[("me", &["2001:db8:1:10::/64"], 0)]);
    let plan = run(&[lan()], &[nodes], &[("n", sees(&["2001:db8:2:20::/64"]))]);
    assert_eq!(group(&plan.verdicts[0])[0], "2001:db8:2:20::/64");
}

#[test]
fn every_node_computes_the_same() {
    let entries: [(&str, &[&str], i64); 3] = [
        ("a", &["2001:db8:1::/64"], 5),
        ("b", &["2001:db8:2::/64"], 5),
        ("c", &["2001:db8:1:1::/64"], 5),
    ];
    let of = |me: &str| {
        let seen = entries
            .iter()
            .find(|(node, ..)| *node == me)
            .map(|(_, prefixes, _)| sees(prefixes))
            .unwrap();
        let seen = BTreeMap::from([("n".to_string(), entry(&node_config("n", &[]).spec, &seen, None, NOW))]);
        let (configs, node_configs) = ([lan()], [node_config("n", &entries)]);
        plan(&Known {
            configs: &configs,
            node_configs: &node_configs,
            node: me,
            seen: &seen,
            now: NOW,
        })
    };
    assert_eq!(of("a"), of("b"));
    assert_eq!(of("b"), of("c"));
}

#[test]
fn two_sites_and_two_uplinks_keep_both() {
    let sites = [
        node_config("site1", &[("b", &["2001:db8:1:1::/64"], 10)]),
        node_config("site2", &[("c", &["3fff:0:2:1::/64"], 10)]),
    ];
    let plan = run(&[lan()], &sites, &[]);
    assert_eq!(group(&plan.verdicts[0]).len(), 6);

    let uplinks = [node_config("dsl", &[]), node_config("cable", &[])];
    let seen = [
        ("dsl", sees(&["2001:db8:1:1::/64"])),
        ("cable", sees(&["3fff:0:2:1::/64"])),
    ];
    assert_eq!(group(&run(&[lan()], &uplinks, &seen).verdicts[0]).len(), 6);
}

#[test]
fn freshness_ends_after_five_minutes() {
    let at = |age| {
        run(
            &[lan()],
            &[node_config("n", &[("b", &["2001:db8:1:1::/64"], age)])],
            &[],
        )
    };
    for age in [-300, 0, 299, 300] {
        assert_eq!(group(&at(age).verdicts[0]).len(), 3, "{age}");
        assert_eq!(at(age).stale, [], "{age}");
    }
    for age in [-301, 301, 86_400 * 365, -86_400 * 365] {
        assert_eq!(reason(&at(age).verdicts[0]), Reason::NoPrefix, "{age}");
        assert_eq!(at(age).stale, [("n".to_string(), "b".to_string())], "{age}");
    }
}

#[test]
fn an_entry_without_a_readable_time_is_stale() {
    let mut nodes = node_config("n", &[("b", &["2001:db8:1:1::/64"], 0)]);
    nodes.status.0.nodes.0.get_mut("b").unwrap().observed_time = None;
    let plan = run(&[lan()], &[nodes], &[]);
    assert_eq!(reason(&plan.verdicts[0]), Reason::NoPrefix);
    assert_eq!(plan.stale.len(), 1);
}

#[test]
fn the_own_entry_goes_where_the_config_no_longer_selects_this_node() {
    let (old, new) = (
        node_config("old", &[("me", &["2001:db8:1:1::/64"], 0)]),
        node_config("new", &[]),
    );
    let plan = run(&[lan()], &[old, new], &[("new", sees(&["2001:db8:2:20::/64"]))]);
    assert_eq!(plan.stale, [("old".to_string(), "me".to_string())]);
    assert_eq!(group(&plan.verdicts[0])[0], "2001:db8:2:20::/64");
}

#[test]
fn no_prefix_keeps_the_groups() {
    let nothing = run(&[lan()], &[], &[]);
    assert_eq!(reason(&nothing.verdicts[0]), Reason::NoPrefix);
    assert!(message(&nothing.verdicts[0]).contains("is there an IP6UpdateNodeConfig"));

    let blind = run(
        &[lan()],
        &[node_config("n", &[])],
        &[(
            "n",
            Observation {
                absent: true,
                ..sees(&[])
            },
        )],
    );
    assert_eq!(
        message(&blind.verdicts[0]),
        "No node sees a global IPv6 prefix (me: there is no interface eth0). The groups keep what they hold; check \
         the router and the interface."
    );
}

#[test]
fn only_allowed_prefixes_count() {
    let mut with_list = spec(60, &[("lan", &[0])]);
    with_list["allowedPrefixes"] = json!(["2001:db8::/32"]);
    let config = [config_with("a", "", with_list)];
    let node_configs = [node_config("n", &[])];
    let both = run(
        &config,
        &node_configs,
        &[("n", sees(&["2001:db8:1:1::/64", "2a00:bad::/64"]))],
    );
    assert_eq!(group(&both.verdicts[0]), ["2001:db8:1::/64"]);
    let rogue = run(&config, &node_configs, &[("n", sees(&["2a00:bad::/64"]))]);
    assert_eq!(reason(&rogue.verdicts[0]), Reason::NoPrefix);
    assert!(message(&rogue.verdicts[0]).contains("not inside allowedPrefixes (2001:db8::/32): 2a00:bad::/64"));
}

#[test]
fn an_allowed_prefix_longer_than_the_delegated_one_allows_nothing() {
    let mut narrow = spec(56, &[("lan", &[0])]);
    narrow["allowedPrefixes"] = json!(["2001:db8:1::/64"]);
    let plan = run(
        &[config_with("a", "", narrow)],
        &[node_config("n", &[])],
        &[("n", sees(&["2001:db8:1::/64"]))],
    );
    assert_eq!(reason(&plan.verdicts[0]), Reason::NoPrefix);
}

#[test]
fn a_bad_spec_changes_no_group() {
    let bad = config_with("a", "", spec(60, &[("good", &[0]), ("bad", &[200])]));
    let plan = run(&[bad], &[node_config("n", &[])], &[("n", sees(&["2001:db8:1:1::/64"]))]);
    assert_eq!(reason(&plan.verdicts[0]), Reason::InvalidSpec);
    assert_eq!(
        message(&plan.verdicts[0]),
        "spec.ciliumCIDRGroups[1].prefixIds[0] is 200, but a /60 holds the prefix ids 0 to 15 only. The groups keep \
         what they hold; correct the spec."
    );
}

#[test]
fn of_two_configs_the_older_has_the_group() {
    let younger = config_with(
        "a",
        "2026-02-01T00:00:00Z",
        spec(60, &[("shared", &[0]), ("own", &[1])]),
    );
    let older = config_with("b", "2026-01-01T00:00:00Z", spec(60, &[("shared", &[5])]));
    let plan = run(
        &[younger, older],
        &[node_config("n", &[])],
        &[("n", sees(&["2001:db8:1::/64"]))],
    );
    match &plan.verdicts[0] {
        Verdict::Write { groups, contested, .. } => {
            assert_eq!(*contested, [("shared".to_string(), "b".to_string())]);
            assert_eq!((groups.len(), groups[0].name.as_str()), (1, "own"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(group(&plan.verdicts[1]), ["2001:db8:1:5::/64"]);
}

#[test]
fn of_two_configs_of_one_second_the_name_decides() {
    let same = "2026-01-01T00:00:00Z";
    let configs = [
        config_with("z", same, spec(60, &[("shared", &[0])])),
        config_with("y", same, spec(60, &[("shared", &[1])])),
    ];
    let plan = run(&configs, &[node_config("n", &[])], &[("n", sees(&["2001:db8:1::/64"]))]);
    assert!(
        matches!(&plan.verdicts[0], Verdict::Write { contested, groups, .. } if contested.len() == 1 && groups.is_empty())
    );
    assert_eq!(group(&plan.verdicts[1]), ["2001:db8:1:1::/64"]);
}

#[test]
fn a_typing_error_in_the_older_config_hands_its_group_to_nobody() {
    let older = config_with("a", "2026-01-01T00:00:00Z", spec(60, &[("shared", &[200])]));
    let younger = config_with("b", "2026-02-01T00:00:00Z", spec(60, &[("shared", &[1])]));
    let plan = run(
        &[older, younger],
        &[node_config("n", &[])],
        &[("n", sees(&["2001:db8:1::/64"]))],
    );
    assert!(matches!(&plan.verdicts[1], Verdict::Write { contested, .. } if contested.len() == 1));
}

#[test]
fn a_group_without_ids_is_emptied_on_purpose() {
    let plan = run(
        &[config_with("a", "", spec(60, &[("lan", &[])]))],
        &[node_config("n", &[])],
        &[("n", sees(&["2001:db8:1::/64"]))],
    );
    assert_eq!(group(&plan.verdicts[0]), [""; 0]);
}

#[test]
fn a_group_that_no_policy_map_holds_is_refused() {
    let ids: Vec<u64> = (0..257).collect();
    let prefixes: Vec<String> = (0..64).map(|n| format!("2001:db8:{n:x}::/64")).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    let config = [config_with("a", "", spec(48, &[("big", &ids), ("small", &[0])]))];
    let plan = run(&config, &[node_config("n", &[])], &[("n", sees(&prefixes))]);
    match &plan.verdicts[0] {
        Verdict::Write { oversized, groups, .. } => {
            assert_eq!(*oversized, [("big".to_string(), 64 * 257)]);
            assert_eq!(groups[0].cidrs.len(), 64);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_published_prefix_shorter_than_the_delegated_length_counts_for_nothing() {
    let plan = run(&[lan()], &[node_config("n", &[("b", &["2001:db8::/32"], 10)])], &[]);
    assert_eq!(reason(&plan.verdicts[0]), Reason::NoPrefix);
}

#[test]
fn when_to_publish() {
    let entry = |prefixes: &[&str], time: i64, message: &str| NodeEntry {
        prefixes: prefixes.iter().map(|text| prefix(text)).collect(),
        deprecated: Vec::new(),
        observed_time: Some(Timestamp(time)),
        message: message.into(),
    };
    let seen = entry(&["2001:db8::/64"], 1000, "");
    let published = |age: i64| entry(&["2001:db8::/64"], 1000 - age, "");
    assert!(must_publish(None, &seen));
    assert!(!must_publish(Some(&published(0)), &seen));
    assert!(!must_publish(Some(&published(119)), &seen));
    assert!(must_publish(Some(&published(120)), &seen));
    assert!(must_publish(Some(&published(-1)), &seen), "an entry from the future");
    assert!(must_publish(Some(&entry(&["2001:db8:1::/64"], 1000, "")), &seen));
    assert!(must_publish(Some(&entry(&["2001:db8::/64"], 1000, "x")), &seen));
    // That time passes is no news.
    let old = entry(
        &[],
        1000,
        "x; 2001:db8::/64 left out: not refreshed for 34 min, while a was 1 s ago",
    );
    let new = entry(
        &[],
        1001,
        "x; 2001:db8::/64 left out: not refreshed for 35 min, while a was 2 s ago",
    );
    assert!(!must_publish(Some(&old), &new));
    assert!(must_publish(
        Some(&NodeEntry {
            observed_time: None,
            ..seen.clone()
        }),
        &seen
    ));
}

/// A node that sees this prefix living and that one deprecated.
fn sees_deprecated(living: &[&str], deprecated: &[&str]) -> Observation {
    Observation {
        deprecated: deprecated.iter().map(|text| prefix(text)).collect(),
        ..sees(living)
    }
}

fn keeping(seconds: u32) -> Config {
    let mut spec = spec(60, &[("lan", &[0])]);
    spec["keepDeprecatedSeconds"] = json!(seconds);
    config_with("a", "", spec)
}

#[test]
fn a_deprecated_prefix_is_kept_as_long_as_the_config_says() {
    let both = ["2001:db8:1::/64", "2001:db8:2::/64"];
    let group_after = |keep, age: i64| {
        let mut nodes = node_config("n", &[("b", &["2001:db8:2::/64"], 5)]);
        let since = Timestamp(NOW.0 - age);
        let deprecated = Deprecated {
            prefix: prefix("2001:db8:1::/64"),
            since,
        };
        nodes.status.0.nodes.0.get_mut("b").unwrap().deprecated = vec![deprecated];
        group(&run(&[keeping(keep)], &[nodes], &[]).verdicts[0])
    };
    assert_eq!(group_after(0, 0), both[1..], "at once by default");
    assert_eq!(group_after(600, 0), both);
    assert_eq!(group_after(600, 599), both);
    assert_eq!(group_after(600, 600), both[1..]);
}

#[test]
fn a_restart_does_not_restart_the_clock_of_a_deprecated_prefix() {
    let seen = sees_deprecated(&["2001:db8:2::/64"], &["2001:db8:1::/64"]);
    let config = node_config("n", &[]);
    let first = entry(&config.spec, &seen, None, NOW);
    assert_eq!(first.deprecated[0].since, NOW);
    let later = Timestamp(NOW.0 + 500);
    assert_eq!(
        entry(&config.spec, &seen, Some(&first), later).deprecated,
        first.deprecated
    );
    // Preferred again, and deprecated once more: that is another deprecation.
    let alive = entry(&config.spec, &sees(&["2001:db8:1::/64"]), Some(&first), later);
    assert_eq!(alive.deprecated, []);
    assert_eq!(
        entry(&config.spec, &seen, Some(&alive), later).deprecated[0].since,
        later
    );
}

#[test]
fn a_prefix_that_was_stale_before_does_not_come_back_deprecated() {
    let mut seen = sees_deprecated(&["2001:db8:2::/64"], &["2001:db8:1::/64"]);
    let first = entry(&node_config("n", &[]).spec, &seen, None, NOW);
    seen.long_gone = seen.deprecated.clone();
    assert_eq!(entry(&node_config("n", &[]).spec, &seen, None, NOW).deprecated, []);
    // But one that is kept stays kept, though nobody announces it any more.
    assert_eq!(
        entry(&node_config("n", &[]).spec, &seen, Some(&first), NOW).deprecated,
        first.deprecated
    );
}

#[test]
fn deprecated_prefixes_alone_are_no_knowledge() {
    let plan = run(
        &[keeping(600)],
        &[node_config("n", &[])],
        &[("n", sees_deprecated(&[], &["2001:db8:1::/64"]))],
    );
    assert_eq!(reason(&plan.verdicts[0]), Reason::NoPrefix);
}

proptest! {
    /// Whatever nodes publish, a group holds nothing outside the delegated prefixes of fresh nodes.
    #[test]
    fn nothing_outside_what_fresh_nodes_see(
        length in 1u8..=64,
        ids in proptest::collection::btree_set(0u64..300, 0..5),
        nodes in proptest::collection::vec((0u16..40, -700i64..700), 0..8),
        own in proptest::option::of(0u16..40),
    ) {
        let links: Vec<String> = (0..40).map(|n: u16| format!("2001:db8:{:x}:{:x}::/64", n / 7, n * 37)).collect();
        let names: Vec<String> = (0..nodes.len()).map(|n| format!("node{n}")).collect();
        let prefixes: Vec<[&str; 1]> = nodes.iter().map(|(n, _)| [links[usize::from(*n)].as_str()]).collect();
        let entries: Vec<(&str, &[&str], i64)> = nodes
            .iter()
            .enumerate()
            .map(|(at, (_, age))| (names[at].as_str(), prefixes[at].as_slice(), *age))
            .collect();
        let seen: Vec<(&str, Observation)> = own.iter().map(|n| ("n", sees(&[&links[usize::from(*n)]]))).collect();
        let ids: Vec<u64> = ids.into_iter().collect();
        let config = [config_with("a", "", spec(length, &[("lan", &ids)]))];
        let plan = run(&config, &[node_config("n", &entries)], &seen);

        let mut fresh: Vec<Prefix> = nodes
            .iter()
            .filter(|(_, age)| age.abs() <= FRESH_SECONDS)
            .map(|(n, _)| prefix(&links[usize::from(*n)]).cut(length))
            .collect();
        fresh.extend(own.map(|n| prefix(&links[usize::from(n)]).cut(length)));
        match &plan.verdicts[0] {
            Verdict::Write { delegated, groups, .. } => {
                prop_assert!(!fresh.is_empty() && delegated.iter().all(|p| fresh.contains(p)));
                prop_assert!(fresh.iter().all(|p| delegated.contains(p)));
                for cidr in &groups[0].cidrs {
                    prop_assert!(fresh.iter().any(|p| p.contains(*cidr)));
                }
                prop_assert_eq!(groups[0].cidrs.len(), delegated.len() * ids.len());
            }
            Verdict::Keep { reason: Reason::NoPrefix, .. } => prop_assert!(fresh.is_empty()),
            Verdict::Keep { reason: Reason::InvalidSpec, .. } => {
                let highest = crate::prefix::highest_id(length).unwrap();
                prop_assert!(ids.iter().any(|id| *id > highest));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

/// The first one that sees something, the last one that sees it no more, and nobody else.
#[test]
fn news_are_told_once() {
    let entry = |prefixes: &[&str], deprecated: &[&str]| NodeEntry {
        prefixes: prefixes.iter().map(|text| prefix(text)).collect(),
        deprecated: deprecated
            .iter()
            .map(|text| Deprecated {
                prefix: prefix(text),
                since: NOW,
            })
            .collect(),
        observed_time: Some(NOW),
        message: String::new(),
    };
    let (old, new) = ("2001:db8:1::/64", "2001:db8:2::/64");
    let became_new = |others: &[(&str, &[&str], i64)]| {
        let config = node_config("all", others);
        is_news(&config, "me", &entry(&[old], &[]), &entry(&[new], &[]), NOW)
    };
    assert!(became_new(&[("a", &[old], 0), ("b", &[old], 0)]), "the first");
    assert!(!became_new(&[("a", &[old], 0), ("b", &[new], 0)]), "one of many");
    assert!(became_new(&[("a", &[new], 0), ("b", &[new], 0)]), "the last");
    assert!(became_new(&[]), "the only one");
    assert!(became_new(&[("me", &[new], 0)]), "its own entry is no witness");
    assert!(
        became_new(&[("a", &[old], 0), ("b", &[new], 301)]),
        "nor is one that is out of date"
    );

    let config = node_config("all", &[("a", &[old], 0)]);
    let news = |before: &NodeEntry, after: &NodeEntry| is_news(&config, "me", before, after, NOW);
    assert!(
        news(&entry(&[old], &[]), &entry(&[], &[old])),
        "the first that calls it deprecated"
    );
    let told = NodeEntry {
        message: "eth0 is odd".into(),
        ..entry(&[old], &[])
    };
    assert!(!news(&entry(&[old], &[]), &told), "no group follows from a message");
}

#[test]
fn who_publishes() {
    let config = node_config(
        "all",
        &[
            ("a", &[], 0),
            ("b", &["2001:db8::/64"], 300),
            ("c", &[], 301),
            ("me", &[], 0),
        ],
    );
    let known = |seen| Known {
        configs: &[],
        node_configs: std::slice::from_ref(&config),
        node: "me",
        seen,
        now: NOW,
    };
    let nothing = BTreeMap::new();
    assert_eq!(publishers(&known(&nothing)), BTreeSet::from(["a", "b"]));
    let seen = BTreeMap::from([("all".to_string(), NodeEntry::default())]);
    assert_eq!(publishers(&known(&seen)), BTreeSet::from(["a", "b", "me"]));
}
