//! The fields of k6u's objects: accepted values, refused ones and the messages about them.

mod schema;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::config::*;
use super::node_config::*;
use super::targets::TargetKey;
use crate::kube::decode::{Item, decode};
use crate::kube::objects::{BadItem, List};
use crate::prefix::{Prefix, PrefixLength};

fn problems(spec: Value) -> Vec<String> {
    ConfigSpec::read(&spec).unwrap_err().problems
}

fn one_group(length: Value, ids: Value) -> Value {
    json!({"delegatedPrefixLength": length, "ciliumCIDRGroups": [{"ciliumCIDRGroupName": "lan", "prefixIds": ids}]})
}

#[test]
fn the_example_spec() {
    let spec = ConfigSpec::read(&one_group(json!(60), json!([0, 1, 2]))).unwrap();
    assert_eq!(spec.delegated_prefix_length.bits(), 60);
    assert_eq!(spec.allowed_prefixes, None);
    assert_eq!(spec.targets[0].key, TargetKey::group("lan"));
    assert_eq!(spec.targets[0].parts.prefix_ids, BTreeSet::from([0, 1, 2]));
}

#[test]
fn an_id_that_does_not_fit_is_refused_at_every_length() {
    for length in 1..=64u64 {
        let highest = PrefixLength::try_from(length).unwrap().highest_id();
        assert!(
            ConfigSpec::read(&one_group(json!(length), json!([0, highest]))).is_ok(),
            "/{length}"
        );
        assert_eq!(
            problems(one_group(json!(length), json!([0, highest + 1]))),
            [format!(
                "spec.ciliumCIDRGroups[0].prefixIds[1] is {}, but a /{length} holds the prefix ids 0 to {highest} only",
                highest + 1
            )]
        );
    }
}

#[test]
fn lengths_out_of_range_or_of_another_type() {
    for length in [
        json!(0),
        json!(65),
        json!(-1),
        json!(60.5),
        json!("60"),
        json!(null),
        json!([60]),
        json!(316),
    ] {
        let problems = problems(one_group(length.clone(), json!([0])));
        assert!(
            problems[0].starts_with("spec.delegatedPrefixLength is "),
            "{length}: {problems:?}"
        );
        assert_eq!(problems.len(), 1);
    }
}

#[test]
fn ids_of_another_type() {
    for id in [json!(-1), json!(1.5), json!("1"), json!(null), json!({}), json!(true)] {
        assert_eq!(problems(one_group(json!(60), json!([id]))).len(), 1, "{id}");
    }
    assert!(
        problems(one_group(json!(60), json!(3)))[0].ends_with("prefixIds is 3, but it must be a list of prefix ids")
    );
}

#[test]
fn no_ids_and_repeated_ids() {
    let spec = ConfigSpec::read(&one_group(json!(60), json!([1, 1]))).unwrap();
    assert_eq!(spec.targets[0].parts.prefix_ids.len(), 1);
    assert!(ConfigSpec::read(&one_group(json!(60), json!([]))).is_ok());
}

#[test]
fn malformed_groups() {
    for groups in [json!(null), json!("lan"), json!({}), json!(1)] {
        let spec = json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": groups});
        assert!(problems(spec)[0].starts_with("spec.ciliumCIDRGroups is "));
    }
    for name in [
        json!(null),
        json!(""),
        json!("Lan"),
        json!("a_b"),
        json!(1),
        json!("a".repeat(254)),
    ] {
        let group = json!({"ciliumCIDRGroupName": name, "prefixIds": [0]});
        let spec = json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": [group]});
        assert!(
            problems(spec)[0].starts_with("spec.ciliumCIDRGroups[0].ciliumCIDRGroupName is "),
            "{name}"
        );
    }
}

#[test]
fn a_bad_spec_still_claims_its_groups() {
    let group = |name: &str, id: u64| json!({"ciliumCIDRGroupName": name, "prefixIds": [id]});
    let spec =
        json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": [group("a", 200), group("b", 0), group("a", 1)]});
    let bad = ConfigSpec::read(&spec).unwrap_err();
    assert_eq!(bad.problems.len(), 2);
    assert_eq!(
        bad.problems[1],
        "spec.ciliumCIDRGroups[2] names a again, but each group may have one entry only"
    );
    assert_eq!(bad.claims, [TargetKey::group("a"), TargetKey::group("b")]);
}

#[test]
fn allowed_prefixes_are_ipv6() {
    let spec =
        |allowed: Value| json!({"delegatedPrefixLength": 60, "allowedPrefixes": allowed, "ciliumCIDRGroups": []});
    let allowed = ConfigSpec::read(&spec(json!(["2001:db8::/32"])))
        .unwrap()
        .allowed_prefixes
        .unwrap();
    assert_eq!(allowed, ["2001:db8::/32".parse().unwrap()]);
    assert_eq!(
        ConfigSpec::read(&spec(json!([]))).unwrap().allowed_prefixes,
        Some(vec![])
    );
    for bad in [
        json!(["192.0.2.0/24"]),
        json!(["2001:db8::"]),
        json!([1]),
        json!("2001:db8::/32"),
    ] {
        assert_eq!(problems(spec(bad)).len(), 1);
    }
}

#[test]
fn selectors() {
    let labels = BTreeMap::from([("a".to_string(), "1".to_string()), ("b".to_string(), "2".to_string())]);
    let selects = |selector: Value| NodeSpec::read(&json!({"nodeSelector": selector})).selects(&labels);
    assert!(selects(json!(null)) && selects(json!({})));
    assert!(selects(json!({"a": "1"})) && selects(json!({"a": "1", "b": "2"})));
    assert!(!selects(json!({"a": "2"})) && !selects(json!({"a": "1", "c": "3"})));
    assert!(!selects(json!({"a": 1})) && !selects(json!("a")) && !selects(json!(["a"])));
    assert!(!NodeSpec::read(&json!({})).needs_labels());
}

#[test]
fn interface_names() {
    let read = |name: Value| {
        NodeSpec::read(&json!({"interface": name}))
            .watch
            .map(|watch| watch.interface)
    };
    for name in [
        "e",
        "eth0",
        "enp0s31f6.1000",
        "br-lan",
        "wg_0",
        "an-alternative-name",
        &"a".repeat(127),
    ] {
        assert_eq!(read(json!(name)).unwrap(), name);
    }
    for name in [
        json!(""),
        json!("a".repeat(128)),
        json!("a/b"),
        json!("a b"),
        json!("a\u{1b}[31mb"),
        json!(".."),
        json!(1),
        json!(null),
    ] {
        assert!(read(name.clone()).is_err(), "{name}");
    }
}

#[test]
fn seconds_in_range_and_beyond() {
    let watch = |seconds: Value| NodeSpec::read(&json!({"interface": "eth0", "staleAfterSeconds": seconds})).watch;
    let stale_after = |seconds: Value| watch(seconds).map(|watch| watch.stale_after);
    assert_eq!(stale_after(json!(null)), Ok(1800));
    assert_eq!(stale_after(json!(0)), Ok(0));
    assert_eq!(stale_after(json!(604_800)), Ok(604_800));
    let keep = |seconds: Value| {
        let spec = NodeSpec::read(&json!({"interface": "eth0", "keepDeprecatedSeconds": seconds}));
        spec.watch.map(|watch| watch.keep_deprecated)
    };
    assert_eq!(
        (keep(json!(null)), keep(json!(0)), keep(json!(7200))),
        (Ok(0), Ok(0), Ok(7200))
    );
    for bad in [json!(-1), json!(604_801), json!(1.5), json!("60"), json!([])] {
        assert!(watch(bad.clone()).is_err(), "{bad}");
        assert!(keep(bad.clone()).is_err(), "{bad}");
    }
    assert_eq!(
        keep(json!(7201)).unwrap_err(),
        "spec.keepDeprecatedSeconds is 7201, but it must be a whole number from 0 to 7200"
    );
}

#[test]
fn prefixes_that_some_config_allows() {
    let config = |allowed: Value| -> Config {
        let spec =
            json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": [], "targets": [], "allowedPrefixes": allowed});
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    };
    let all = |allowed: &[Value]| {
        let configs: Vec<Config> = allowed.iter().cloned().map(config).collect();
        all_allowed_prefixes(&configs).map(|prefixes| prefixes.iter().map(Prefix::to_string).collect::<Vec<_>>())
    };
    let (one, other) = (json!(["2001:db8::/32"]), json!(["2a00::/16", "2a01::/16"]));
    assert_eq!(all(&[]), None);
    assert_eq!(all(&[one.clone(), json!(null)]), None, "one that allows all");
    assert_eq!(
        all(&[one.clone(), other]),
        Some(["2001:db8::/32", "2a00::/16", "2a01::/16"].map(String::from).to_vec())
    );
    for unreadable in [json!("x"), json!(["2001:db8::/32", "x"])] {
        assert_eq!(
            all(&[unreadable, one.clone()]),
            None,
            "a list that cannot be read allows all"
        );
    }
}

#[test]
fn an_error_in_another_field_keeps_the_allowed_prefixes() {
    for (field, typing_error) in [
        ("delegatedPrefixLength", json!(65)),
        (
            "ciliumCIDRGroups",
            json!([{"ciliumCIDRGroupName": "lan", "prefixIds": [16]}]),
        ),
        ("targets", json!(1)),
    ] {
        let mut spec = one_group(json!(60), json!([0]));
        spec["allowedPrefixes"] = json!(["2001:db8::/32"]);
        spec[field] = typing_error;
        let config: Config = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        assert!(config.spec.is_err(), "{field}");
        assert_eq!(
            all_allowed_prefixes(&[config]),
            Some(vec!["2001:db8::/32".parse().unwrap()]),
            "{field}"
        );
    }
}

/// The values that a spec is read from are dropped: they take no room from the next one.
#[test]
fn large_specs_fit_together() {
    let ids: Vec<u64> = (0..256).collect();
    let large = |name: &str| {
        let group = |n: usize| json!({"ciliumCIDRGroupName": format!("{name}-{n}"), "prefixIds": ids});
        let groups: Vec<Value> = (0..100).map(group).collect();
        json!({"metadata": {"name": name}, "spec": {"delegatedPrefixLength": 56, "ciliumCIDRGroups": groups}})
    };
    let items = ["a", "b", "c", "d"].map(large);
    let text = json!({"items": items}).to_string();
    let list: List<Config> = decode(text.as_bytes()).unwrap();
    for config in list.items {
        let spec = config.unwrap().spec.map_err(|bad| bad.problems);
        assert_eq!(spec.unwrap().targets.len(), 100);
    }
}

#[test]
fn a_spec_that_is_too_large_keeps_its_claims() {
    let ids: Vec<u64> = (0..256).collect();
    let suffixes: Vec<String> = (1..=64).map(|n| format!("::{n:x}")).collect();
    let extra: Vec<String> = (0..256).map(|n| format!("10.1.{n}.0/24")).collect();
    let group = |n: usize| json!({"ciliumCIDRGroupName": format!("g{n}"), "prefixIds": ids, "suffixes": suffixes, "extraCIDRs": extra});
    let condition = json!({"type": "Ready", "status": "False", "reason": "InvalidSpec", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let large = |name: &str| {
        json!({"metadata": {"name": name},
            "spec": {"delegatedPrefixLength": 56, "ciliumCIDRGroups": (0..100).map(group).collect::<Vec<_>>()},
            "status": {"conditions": [condition]}})
    };
    let items = ["a", "b", "c"].map(large);
    let text = json!({"items": items}).to_string();
    assert!(text.len() < 3 * 1_500_000, "etcd takes each: {}", text.len());
    let list: List<Config> = decode(text.as_bytes()).unwrap();
    assert_eq!(list.items.len(), 3);
    for config in list.items {
        let config = config.expect("a config");
        let bad = config.spec.unwrap_err();
        assert_eq!(
            bad.problems,
            ["spec takes more than 4194304 bytes of memory, or all specs together more than 5767168"]
        );
        assert_eq!(
            bad.claims,
            Vec::from_iter((0..100).map(|n| TargetKey::group(&format!("g{n}"))))
        );
        // The status is read as well, so the report is not repeated.
        assert_eq!(config.status.conditions.len(), 1);
    }
}

#[test]
fn a_config_with_the_status_of_release_0_3() {
    let ready = |message: &str| {
        json!({"type": "Ready", "status": "True", "reason": "Updated", "message": message,
               "lastTransitionTime": "2025-01-01T00:00:00Z"})
    };
    let config: Config = serde_json::from_value(json!({
        "metadata": {"name": "ip6-update-config", "generation": 2},
        "spec": one_group(json!(60), json!([0])),
        "status": {"conditions": [ready("a"), ready("b"), ready("c")]}
    }))
    .unwrap();
    assert!(config.spec.is_ok());
    assert_eq!(config.status.conditions.len(), 3);
    assert_eq!(config.status.observed_generation, None);
}

#[test]
fn statuses_of_other_types_count_as_empty() {
    for status in [
        json!(1),
        json!("x"),
        json!([]),
        json!(null),
        json!({"conditions": 1, "delegatedPrefixes": {}}),
    ] {
        let config: Config =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {}, "status": status})).unwrap();
        assert_eq!(config.status, ConfigStatus::default());
    }
    // No schema of any release lets other types through; 0.3 allowed null.
    for status in [json!(null), json!({"nodes": null}), json!({"conditions": []})] {
        let config: NodeConfig = serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).unwrap();
        assert!(config.nodes().is_empty());
    }
}

#[test]
fn node_entries_with_fields_of_any_type() {
    let config: NodeConfig = serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"nodes": {
        "good": {"prefixes": ["2001:db8::/64", "x", 1], "observedTime": "2026-11-23T05:28:45Z", "extra": [{}]},
        "odd": {"prefixes": "2001:db8::/64", "observedTime": 3, "message": []},
        "none": null, "list": [1, 2], "number": 7
    }}}))
    .unwrap();
    assert_eq!(config.nodes()["good"].prefixes, ["2001:db8::/64".parse().unwrap()]);
    assert_eq!(config.nodes()["good"].observed_time, "2026-11-23T05:28:45Z");
    for name in ["odd", "none", "list", "number"] {
        assert_eq!(config.nodes()[name], NodeEntry::default(), "{name}");
    }
}

#[test]
fn a_spec_that_is_too_large_fails_alone() {
    let group = |ids: usize| {
        json!({"metadata": {"name": "a"}, "spec": {"delegatedPrefixLength": 1, "ciliumCIDRGroups": [
            {"ciliumCIDRGroupName": "lan", "prefixIds": (0..ids).collect::<Vec<_>>()}]}})
    };
    let text = json!({"items": [group(200_000), group(256), group(30_000)]}).to_string();
    let list: List<Config> = decode(text.as_bytes()).unwrap();
    let bad = list.items[0].as_ref().unwrap().spec.as_ref().unwrap_err();
    assert_eq!(
        bad.problems,
        ["spec takes more than 4194304 bytes of memory, or all specs together more than 5767168"]
    );
    assert_eq!(bad.claims, [TargetKey::group("lan")]);
    assert_eq!(list.items[1].as_ref().unwrap().spec.as_ref().unwrap().targets.len(), 1);
    assert!(list.items[2].as_ref().unwrap().spec.is_ok());
}

/// One object for 1,200 nodes.
#[test]
fn one_object_with_1200_entries_is_read() {
    let prefixes: Vec<String> = (0..4).map(|n| format!("2001:db8:{n:x}::/64")).collect();
    let message = "x".repeat(600);
    let entry = json!({"prefixes": prefixes, "observedTime": "2026-11-23T05:28:45Z", "message": message});
    let nodes: BTreeMap<String, Value> = (0..1200).map(|n| (format!("node{n}"), entry.clone())).collect();
    let text = json!({"items": [{"metadata": {"name": "a"}, "spec": {}, "status": {"nodes": nodes}}]}).to_string();
    let list: List<NodeConfig> = decode(text.as_bytes()).unwrap();
    let config = list.items[0].as_ref().unwrap();
    assert_eq!(config.nodes().len(), 1200);
    assert!(
        config
            .nodes()
            .values()
            .all(|entry| entry.prefixes.len() == 4 && entry.message == message)
    );
}

#[test]
fn at_most_64_prefixes_of_an_entry_are_read() {
    let many: Vec<String> = (0..1000).map(|n| format!("2001:db8:{n:x}::/64")).collect();
    let entry: NodeEntry = serde_json::from_value(json!({"prefixes": many})).unwrap();
    assert_eq!(entry.prefixes.len(), 64);
}

/// The other items are read.
#[test]
fn an_item_that_cannot_be_read_fails_alone() {
    let bad = [
        ("null", "", "it is not an object"),
        ("7", "", "it is not an object"),
        (r#"[{"metadata":{"name":"x"}}]"#, "", "it is not an object"),
        ("{}", "", "it has no name"),
        (r#"{"metadata":null}"#, "", "metadata is not a map"),
        (r#"{"metadata":[]}"#, "", "metadata is not a map"),
        (r#"{"metadata":{"name":null}}"#, "", "it has no name"),
        (r#"{"metadata":{"name":1}}"#, "", "metadata.name is not a text"),
        (
            r#"{"metadata":{"name":"x","uid":[[1]]}}"#,
            "x",
            "metadata.uid is not a text",
        ),
        (
            r#"{"metadata":{"name":"x","generation":1.5}}"#,
            "x",
            "metadata.generation is not a whole number",
        ),
        (
            r#"{"metadata":{"name":"x","labels":{"a":1}}}"#,
            "x",
            "metadata.labels is not a map of texts",
        ),
        (
            r#"{"metadata":{"name":"x","labels":"a"}}"#,
            "x",
            "metadata.labels is not a map of texts",
        ),
    ];
    fn check<T: Item>(bad: &[(&str, &str, &str)]) {
        for (item, name, problem) in bad {
            let text = format!(r#"{{"items":[{{"metadata":{{"name":"a"}}}},{item},{{"metadata":{{"name":"b"}}}}]}}"#);
            let list: List<T> = decode(text.as_bytes()).unwrap();
            let names: Vec<_> = list.items.iter().map(|item| item.as_ref().map(|_| ())).collect();
            let expected = BadItem {
                name: name.to_string(),
                problem: problem.to_string(),
            };
            assert_eq!(names, [Ok(()), Err(&expected), Ok(())], "{item}");
        }
    }
    check::<Config>(&bad);
    check::<NodeConfig>(&bad);
}

/// The API takes `null` for a field that is absent.
#[test]
fn null_is_absent() {
    let text = r#"{"items":[{"metadata":{"name":"a","uid":null,"resourceVersion":null,"generation":null,
        "creationTimestamp":null,"labels":null,"annotations":null},"spec":null,"status":null},
        {"metadata":{"name":"b","labels":{"x":null}},"spec":{"interface":"eth0"},
        "status":{"nodes":{"n":{"prefixes":null,"observedTime":null,"message":null},"m":null}}}]}"#;
    let configs: List<Config> = decode(text.as_bytes()).unwrap();
    assert!(configs.items.iter().all(Result::is_ok), "{configs:?}");
    let nodes: List<NodeConfig> = decode(text.as_bytes()).unwrap();
    let last = nodes.items[1].as_ref().unwrap();
    assert_eq!(last.metadata.labels.as_ref().unwrap()["x"], "");
    assert_eq!(last.nodes()["n"], NodeEntry::default());
    let empty: List<Config> = decode(br#"{"items":null}"#).unwrap();
    assert!(empty.items.is_empty());
}

#[test]
fn a_response_without_a_list_is_an_error() {
    for text in [
        "{}",
        "null",
        "[]",
        r#"{"items":{}}"#,
        r#"{"items":7}"#,
        r#"{"kind":"Status","status":"Success"}"#,
    ] {
        assert!(decode::<List<Config>>(text.as_bytes()).is_err(), "{text}");
    }
}

/// An IP6UpdateNodeConfig of its own for each of a thousand nodes.
#[test]
fn a_large_cluster_is_read() {
    let items: Vec<Value> = (0..1000)
        .map(|n| {
            let node = format!("worker{n}.example.com");
            json!({"metadata": {"name": format!("ip6-update-worker{n}"), "uid": "0e9c8b4e-6b0f-4c55-9d32-7e5b6a2f1c10",
                "resourceVersion": "123456789", "generation": 1, "creationTimestamp": "2026-11-23T05:28:45Z",
                "annotations": {"meta.helm.sh/release-name": "k6u"}, "labels": {"app.kubernetes.io/name": "k6u"}},
                "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "interface": "eth0", "staleAfterSeconds": 1800},
                "status": {"nodes": {node: {"prefixes": ["2001:db8:1234:5671::/64", "2001:db8:9876:5431::/64"],
                    "observedTime": "2026-11-23T05:28:45Z", "message": ""}}}})
        })
        .collect();
    let text = json!({"items": items}).to_string();
    let list: List<NodeConfig> = decode(text.as_bytes()).unwrap();
    assert!(list.items.iter().all(Result::is_ok) && list.items.len() == 1000);
}

/// The list is bounded as a whole, not each item only.
#[test]
fn a_list_that_is_too_large_is_refused() {
    for item in [
        r#"{"metadata":{}}"#,
        "{}",
        "0",
        r#"{"metadata":{"name":"a"}}"#,
        r#"{"status":{"nodes":{"a":{}}}}"#,
    ] {
        let text = format!(r#"{{"items":[{item}{}]}}"#, format!(",{item}").repeat(100_000));
        for error in [
            decode::<List<Config>>(text.as_bytes()).unwrap_err(),
            decode::<List<NodeConfig>>(text.as_bytes()).unwrap_err(),
        ] {
            assert!(error.to_string().starts_with("the list is too large: "), "{error}");
        }
    }
}
