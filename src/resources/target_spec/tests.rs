//! What entries may say, and what is said of those that may not.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::resources::config::ConfigSpec;

fn read(spec: Value) -> Result<Vec<TargetSpec>, Vec<String>> {
    ConfigSpec::read(&spec)
        .map(|spec| spec.targets)
        .map_err(|bad| bad.problems)
}

fn one_group(length: u8, field: &str, list: Value) -> Result<Vec<TargetSpec>, Vec<String>> {
    let group = json!({"ciliumCIDRGroupName": "lan", "prefixIds": [0], field: list});
    read(json!({"delegatedPrefixLength": length, "ciliumCIDRGroups": [group]}))
}

fn one_target(target: Value) -> Result<Vec<TargetSpec>, Vec<String>> {
    read(json!({"delegatedPrefixLength": 56, "ciliumCIDRGroups": [], "targets": [target]}))
}

fn texts(cidrs: Vec<Cidr>) -> Vec<String> {
    cidrs.iter().map(Cidr::to_string).collect()
}

#[test]
fn three_ways_to_name_what_a_list_holds() {
    let group = json!({"ciliumCIDRGroupName": "lan", "prefixIds": [0, 1],
        "suffixes": ["::4:0:0:0:0/62", "::1:0:0:0:10", "::1:0:0:0/64"], "extraCIDRs": ["fd00:1::/48", "192.168.0.0/16"]});
    let spec = json!({"delegatedPrefixLength": 60, "ciliumCIDRGroups": [group]});
    // ::1:0:0:0/64 has its bit in the interface identifier.
    assert_eq!(
        read(spec.clone()).unwrap_err(),
        [
            "spec.ciliumCIDRGroups[0].suffixes[2] is \"::1:0:0:0/64\", but the bits behind its length must be 0: ::/64 \
             fits"
        ]
    );
    let mut spec = spec;
    spec["ciliumCIDRGroups"][0]["suffixes"][2] = json!("::/64");
    let targets = read(spec).unwrap();
    assert_eq!(targets[0].parts.count(2), 2 * 5 + 2);
    assert_eq!(
        texts(targets[0].parts.of(&["2001:db8:1234:5670::/60".parse().unwrap()])),
        [
            "192.168.0.0/16",
            "2001:db8:1234:5670::/64",
            "2001:db8:1234:5671::/64",
            "2001:db8:1234:5671::10/128",
            "2001:db8:1234:5674::/62",
            "fd00:1::/48"
        ],
        "::/64 is prefix id 0"
    );
}

#[test]
fn a_whole_48_in_one_line() {
    let group = json!({"ciliumCIDRGroupName": "site", "suffixes": ["::/48"]});
    let targets = read(json!({"delegatedPrefixLength": 48, "ciliumCIDRGroups": [group]})).unwrap();
    assert_eq!(
        texts(targets[0].parts.of(&["2001:db8:1::/48".parse().unwrap()])),
        ["2001:db8:1::/48"]
    );
}

#[test]
fn suffixes_that_are_refused() {
    for (suffix, but) in [
        (json!("::/55"), "a part of a /56 has a length from 56 to 128"),
        (
            json!("2001:db8::1:0:0:0:10"),
            "its first 56 bits come from the delegated prefix and must be 0 here: ::1:0:0:0:10 fits",
        ),
        (
            json!("::1:0:0:0:10/64"),
            "the bits behind its length must be 0: 0:0:0:1::/64 fits",
        ),
        (
            json!("192.168.0.0/16"),
            "it must be an IPv6 address, with or without a length",
        ),
        (json!("::/129"), "it must be an IPv6 address, with or without a length"),
        (json!(7), "it must be an IPv6 address, with or without a length"),
    ] {
        let problems = one_group(56, "suffixes", json!([suffix])).unwrap_err();
        let start = format!("spec.ciliumCIDRGroups[0].suffixes[0] is {suffix}, but {but}");
        assert!(problems[0].starts_with(&start), "{problems:?}");
        assert_eq!(problems.len(), 1);
    }
    assert_eq!(
        one_group(56, "suffixes", json!(["::1:0:0:0:10", "::1:0:0:0:10/128"])).unwrap_err(),
        ["spec.ciliumCIDRGroups[0].suffixes[1] is \"::1:0:0:0:10/128\", but the list has it already"]
    );
    assert_eq!(
        one_group(56, "suffixes", json!("::/64")).unwrap_err(),
        ["spec.ciliumCIDRGroups[0].suffixes is \"::/64\", but it must be a list of suffixes"]
    );
    let many: Vec<String> = (0..65).map(|n| format!("::{n:x}")).collect();
    assert_eq!(
        one_group(56, "suffixes", json!(many)).unwrap_err(),
        ["spec.ciliumCIDRGroups[0].suffixes has 65 entries, but at most 64 are taken"]
    );
}

#[test]
fn extra_cidrs_that_are_refused() {
    let extra = |list: Value| one_group(56, "extraCIDRs", list);
    assert!(extra(json!(["10.0.0.0/8", "::/0", "2001:DB8::/32"])).is_ok());
    for (cidr, but) in [
        (
            json!("10.0.0.1/8"),
            "the bits behind its length must be 0: 10.0.0.0/8 fits",
        ),
        (
            json!("fd00:1::1/48"),
            "the bits behind its length must be 0: fd00:1::/48 fits",
        ),
        (json!("10.0.0.1"), "it must be an IPv4 or IPv6 CIDR"),
        (json!("::ffff:10.0.0.0/104"), "it must be an IPv4 or IPv6 CIDR"),
        (json!("10.0.0.0/33"), "it must be an IPv4 or IPv6 CIDR"),
        (json!({}), "it must be an IPv4 or IPv6 CIDR"),
    ] {
        let problems = extra(json!([cidr])).unwrap_err();
        let what = shown(&cidr);
        let start = format!("spec.ciliumCIDRGroups[0].extraCIDRs[0] is {what}, but {but}");
        assert!(problems[0].starts_with(&start), "{problems:?}");
    }
    let problems = extra(json!(["2001:DB8::/32", "2001:db8:0::/32"])).unwrap_err();
    assert!(
        problems[0].contains("extraCIDRs[1] is \"2001:db8:0::/32\", but the list has it already"),
        "{problems:?}"
    );
    let many: Vec<String> = (0..=256).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    assert_eq!(
        extra(json!(many)).unwrap_err(),
        ["spec.ciliumCIDRGroups[0].extraCIDRs has 257 entries, but at most 256 are taken"]
    );
}

#[test]
fn an_entry_without_a_part() {
    let group = json!({"ciliumCIDRGroupName": "lan", "extraCIDRs": ["10.0.0.0/8"]});
    assert_eq!(
        read(json!({"delegatedPrefixLength": 56, "ciliumCIDRGroups": [group]})).unwrap_err(),
        ["spec.ciliumCIDRGroups[0] names no part of the delegated prefix: give it prefixIds or suffixes"]
    );
    for target in [
        json!({"kind": "GlobalNetworkSet", "name": "lan"}),
        json!({"kind": "GlobalNetworkSet", "name": "lan", "prefixIds": [], "suffixes": []}),
    ] {
        assert_eq!(
            one_target(target).unwrap_err(),
            ["spec.targets[0] names no part of the delegated prefix: give it prefixIds or suffixes"]
        );
    }
}

#[test]
fn targets_and_their_namespaces() {
    let target = |kind: &str, namespace: Value| {
        let mut target = json!({"kind": kind, "name": "lan", "suffixes": ["::/64"]});
        if !namespace.is_null() {
            target["namespace"] = namespace;
        }
        one_target(target)
    };
    for kind in &KINDS {
        let namespace = if kind.is_namespaced { json!("web") } else { Value::Null };
        let key = target(kind.name, namespace).unwrap().remove(0).key;
        let namespace = if kind.is_namespaced { "web" } else { "" };
        assert_eq!(
            (key.kind, key.namespace.as_str(), key.name.as_str()),
            (kind, namespace, "lan")
        );
        let other = if kind.is_namespaced { Value::Null } else { json!("web") };
        let problems = target(kind.name, other).unwrap_err();
        assert!(problems[0].starts_with("spec.targets[0].namespace is "), "{problems:?}");
    }
    for namespace in [json!(""), json!("a.b"), json!("A"), json!(3), json!("x".repeat(64))] {
        assert_eq!(target("IPAddressPool", namespace).unwrap_err().len(), 1);
    }
    assert_eq!(
        target("NetworkPolicy", Value::Null).unwrap_err(),
        [
            "spec.targets[0].kind is \"NetworkPolicy\", but it must be one of CiliumCIDRGroup, CiliumLoadBalancerIPPool, \
             IPAddressPool, GlobalNetworkSet, Middleware"
        ]
    );
    let problems = one_target(json!({"kind": "GlobalNetworkSet", "name": "A_b", "suffixes": ["::/64"]})).unwrap_err();
    assert!(problems[0].starts_with("spec.targets[0].name is \"A_b\", but it must be the name of the"));
}

#[test]
fn the_same_target_twice() {
    let pool = |namespace: &str| json!({"kind": "IPAddressPool", "namespace": namespace, "name": "lan", "suffixes": ["::/64"]});
    let group = json!({"kind": "CiliumCIDRGroup", "name": "lan", "suffixes": ["::/64"]});
    let groups = json!([{"ciliumCIDRGroupName": "lan", "prefixIds": [0]}]);
    let spec =
        |targets: Value| read(json!({"delegatedPrefixLength": 56, "ciliumCIDRGroups": groups, "targets": targets}));
    assert_eq!(spec(json!([pool("a"), pool("b")])).unwrap().len(), 3);
    assert_eq!(
        spec(json!([pool("a"), pool("a")])).unwrap_err(),
        ["spec.targets[1] names IPAddressPool a/lan again, but each object may have one entry only"]
    );
    assert_eq!(
        spec(json!([group])).unwrap_err(),
        ["spec.targets[0] names CiliumCIDRGroup lan again, but each object may have one entry only"]
    );
}

#[test]
fn groups_may_be_left_out_if_there_are_targets() {
    let target = json!({"kind": "CiliumCIDRGroup", "name": "lan", "prefixIds": [1]});
    assert_eq!(
        read(json!({"delegatedPrefixLength": 56, "targets": [target]}))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        read(json!({"delegatedPrefixLength": 56})).unwrap_err(),
        ["spec.ciliumCIDRGroups is missing, but it must be a list of groups"]
    );
    assert_eq!(
        read(json!({"delegatedPrefixLength": 56, "targets": 3})).unwrap_err(),
        ["spec.targets is 3, but it must be a list of targets"]
    );
    let many: Vec<Value> = (0..65)
        .map(|n| json!({"kind": "CiliumCIDRGroup", "name": format!("g{n}"), "prefixIds": [0]}))
        .collect();
    assert_eq!(
        read(json!({"delegatedPrefixLength": 56, "targets": many})).unwrap_err(),
        ["spec.targets has 65 entries, but at most 64 are taken"]
    );
}

fn any_suffix() -> impl Strategy<Value = String> {
    // Bits anywhere, or few of them where they may fit.
    let address = prop_oneof![
        any::<u128>(),
        (any::<u128>(), 0u32..128).prop_map(|(bits, by)| bits >> by)
    ];
    (address, 0u8..=128, any::<bool>()).prop_map(|(bits, length, is_cut)| {
        let kept = if is_cut { crate::prefix::mask(length) } else { u128::MAX };
        format!("{}/{length}", Ipv6Addr::from_bits(bits & kept))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is accepted lies inside the delegated prefix, but for the extra CIDRs.
    #[test]
    fn what_is_accepted_lies_inside(
        length in 1u8..=64,
        suffixes in proptest::collection::vec(any_suffix(), 0..3),
        ids in proptest::collection::vec(any::<u64>(), 0..3),
        by in 0u32..64,
        delegated: u128,
    ) {
        let ids: Vec<u64> = ids.iter().map(|id| id >> by).collect();
        let group = json!({"ciliumCIDRGroupName": "lan", "prefixIds": ids, "suffixes": suffixes, "extraCIDRs": ["10.0.0.0/8"]});
        let Ok(targets) = read(json!({"delegatedPrefixLength": length, "ciliumCIDRGroups": [group]})) else {
            return Ok(());
        };
        let delegated = Prefix::of(Ipv6Addr::from_bits(delegated), length);
        let all = targets[0].parts.of(&[delegated]);
        let inside = all.iter().filter(|cidr| matches!(cidr, Cidr::V6(part) if delegated.contains(*part))).count();
        prop_assert_eq!(inside, all.len() - 1, "{:?}", all);
        prop_assert_eq!(all[0].to_string(), "10.0.0.0/8");
        // Nothing that was asked for got lost, either.
        let asked: BTreeSet<String> = suffixes.iter().map(|text| text.parse::<Suffix>().unwrap().to_string()).collect();
        prop_assert!(inside >= asked.len());
    }
}
