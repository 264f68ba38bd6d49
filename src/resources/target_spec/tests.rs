//! Entries of configs: accepted ones, refused ones and the messages about them.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::resources::config::ConfigSpec;
use crate::resources::field::shown;

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

fn texts(items: Vec<Item>) -> Vec<String> {
    items.iter().map(Item::to_string).collect()
}

#[test]
fn three_ways_to_name_parts() {
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
        let mut target = json!({"kind": kind, "name": "lan", "suffixes": ["::10"]});
        if kind == "DNSEndpoint" {
            target["dnsName"] = json!("nas.example.com");
        }
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
             IPAddressPool, GlobalNetworkSet, NetworkSet, ClusterGroup, NetworkAuthentication, Middleware, MiddlewareTCP, \
             DNSEndpoint"
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

/// A pool with these ranges in a /56.
fn pool_with(ranges: Value) -> Result<Vec<TargetSpec>, Vec<String>> {
    one_target(json!({"kind": "CiliumLoadBalancerIPPool", "name": "lan", "ranges": ranges}))
}

#[test]
fn ranges_from_one_suffix_to_another() {
    let targets = pool_with(json!(["::1:0:0:1:0-::1:0:0:1:ff", "::7-::7"])).unwrap();
    assert_eq!(targets[0].parts.count(2), 4);
    let delegated = ["2001:db8:1:5600::/56", "2001:db8:2::/56"].map(|text| text.parse().unwrap());
    assert_eq!(
        texts(targets[0].parts.of(&delegated)),
        [
            "2001:db8:1:5600::7/128",
            "2001:db8:2::7/128",
            "2001:db8:1:5601::1:0-2001:db8:1:5601::1:ff",
            "2001:db8:2:1::1:0-2001:db8:2:1::1:ff",
        ]
    );
}

#[test]
fn ranges_that_are_refused() {
    for (range, but) in [
        (json!("::1:ff-::1:0"), "it ends before it starts"),
        (
            json!("2001:db8::1:0-2001:db8::1:ff"),
            "its first 56 bits come from the delegated prefix and must be 0 here: ::1:0-::1:ff fits",
        ),
        (
            json!("::1-::100:0:0:0:1"),
            "its first 56 bits come from the delegated prefix and must be 0 here: ::1-::1 fits",
        ),
        (json!("::1"), "it must be two IPv6 addresses"),
        (json!("::1-::2-::3"), "it must be two IPv6 addresses"),
        (json!("::1-::2/64"), "it must be two IPv6 addresses"),
        (json!("::1 - ::2"), "it must be two IPv6 addresses"),
        (json!("192.168.1.1-192.168.1.9"), "it must be two IPv6 addresses"),
        (json!(5), "it must be two IPv6 addresses"),
    ] {
        let problems = pool_with(json!([range])).unwrap_err();
        let start = format!("spec.targets[0].ranges[0] is {range}, but {but}");
        assert!(problems[0].starts_with(&start), "{problems:?}");
        assert_eq!(problems.len(), 1);
    }
    let many: Vec<String> = (0..65).map(|n| format!("::{n:x}-::ffff")).collect();
    assert_eq!(
        pool_with(json!(many)).unwrap_err(),
        ["spec.targets[0].ranges has 65 entries, but at most 64 are taken"]
    );
    assert_eq!(
        pool_with(json!([])).unwrap_err(),
        ["spec.targets[0] names no part of the delegated prefix: give it prefixIds, suffixes or ranges"]
    );
}

#[test]
fn only_pools_hold_ranges() {
    for kind in KINDS.iter().filter(|kind| !kind.has_ranges()) {
        let mut target = json!({"kind": kind.name, "name": "lan", "suffixes": ["::10"], "ranges": ["::1-::2"]});
        if kind.is_namespaced {
            target["namespace"] = json!("web");
        }
        if kind.has_records() {
            target["dnsName"] = json!("nas.example.com");
        }
        assert_eq!(
            one_target(target).unwrap_err(),
            [
                "spec.targets[0].ranges is a list, but only CiliumLoadBalancerIPPool and IPAddressPool can hold ranges: \
                 leave it out"
            ],
            "{}",
            kind.name
        );
    }
    let problems = one_group(56, "ranges", json!(["::1-::2"])).unwrap_err();
    assert!(
        problems[0].starts_with("spec.ciliumCIDRGroups[0].ranges is a list, but only "),
        "{problems:?}"
    );
}

/// A DNSEndpoint in a /56, with other fields as given.
fn record_with(fields: Value) -> Result<Vec<TargetSpec>, Vec<String>> {
    let mut target = json!({"kind": "DNSEndpoint", "namespace": "dns", "name": "nas", "dnsName": "nas.example.com",
        "suffixes": ["::1:0:0:0:10"]});
    let (target_fields, fields) = (target.as_object_mut().unwrap(), fields.as_object().unwrap());
    target_fields.extend(fields.clone());
    one_target(target)
}

#[test]
fn a_record_of_hosts() {
    let extra = json!(["192.0.2.10/32", "fd00::10/128"]);
    let targets = record_with(json!({"recordTTL": 60, "extraCIDRs": extra})).unwrap();
    let desired = targets[0].desired(&["2001:db8:1:5600::/56".parse().unwrap()], &[]);
    assert_eq!(desired.key.to_string(), "DNSEndpoint dns/nas");
    let record = desired.record.unwrap();
    assert_eq!((record.dns_name.as_str(), record.ttl), ("nas.example.com", Some(60)));
    assert_eq!(
        texts(desired.items),
        ["192.0.2.10/32", "2001:db8:1:5601::10/128", "fd00::10/128"]
    );
    assert_eq!(record_with(json!({})).unwrap()[0].record.as_ref().unwrap().ttl, None);
    assert!(record_with(json!({"suffixes": ["::10/128"], "prefixIds": []})).is_ok());
}

#[test]
fn a_record_holds_hosts_only() {
    for (fields, problem) in [
        (
            json!({"prefixIds": [1]}),
            "spec.targets[0].prefixIds is a list, but a DNS record holds hosts only: give their suffixes",
        ),
        (
            json!({"suffixes": ["::1", "::/64"]}),
            "spec.targets[0].suffixes[1] is \"::/64\", but a DNS record holds hosts only: give it no length",
        ),
        (
            json!({"extraCIDRs": ["192.0.2.0/24"]}),
            "spec.targets[0].extraCIDRs[0] is \"192.0.2.0/24\", but a DNS record holds hosts only: its length must be \
             32 or 128",
        ),
        (
            json!({"extraCIDRs": ["2001:db8::/32"]}),
            "spec.targets[0].extraCIDRs[0] is \"2001:db8::/32\", but a DNS record holds hosts only: its length must be \
             32 or 128",
        ),
        (
            json!({"suffixes": []}),
            "spec.targets[0] names no part of the delegated prefix: give it suffixes",
        ),
    ] {
        assert_eq!(record_with(fields).unwrap_err(), [problem]);
    }
}

#[test]
fn names_and_ttls_of_records() {
    for name in [
        "nas.example.com",
        "nas",
        "*.lab.example.com",
        "_x._tcp.example.com",
        "xn--bcher-kva.example",
    ] {
        assert!(record_with(json!({"dnsName": name})).is_ok(), "{name}");
    }
    let long = format!("{}.example.com", "a".repeat(64));
    let longer = vec!["a".repeat(60); 5].join(".");
    for name in [
        json!(""),
        json!("NAS.example.com"),
        json!("nas.example.com."),
        json!("nas..example.com"),
        json!("-nas.example.com"),
        json!("nas-.example.com"),
        json!("nas.*.example.com"),
        json!("*"),
        json!("n s"),
        json!(null),
        json!(5),
        json!(&long),
        json!(longer),
    ] {
        let problems = record_with(json!({"dnsName": name})).unwrap_err();
        assert!(problems[0].starts_with("spec.targets[0].dnsName is "), "{problems:?}");
        let is_long_label =
            problems[0].ends_with("a label of a DNS name has at most 63 characters, and one here has 64");
        assert_eq!(is_long_label, name == long.as_str(), "{problems:?}");
        let is_dns_name = problems[0].ends_with("it must be a DNS name in lower case such as nas.example.com");
        assert!(is_dns_name || is_long_label, "{problems:?}");
        assert_eq!(problems.len(), 1, "{name}");
    }
    assert!(record_with(json!({"recordTTL": MAX_TTL})).is_ok());
    for ttl in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!("60"),
        json!(u64::from(MAX_TTL) + 1),
        json!([60]),
    ] {
        let problems = record_with(json!({"recordTTL": ttl})).unwrap_err();
        assert!(problems[0].starts_with("spec.targets[0].recordTTL is "), "{problems:?}");
        assert_eq!(problems.len(), 1, "{ttl}");
    }
}

#[test]
fn name_and_ttl_are_fields_of_records_alone() {
    for field in ["dnsName", "recordTTL"] {
        for kind in KINDS.iter().filter(|kind| !kind.has_records()) {
            let mut target = json!({"kind": kind.name, "name": "lan", "suffixes": ["::10"], field: "nas.example.com"});
            if kind.is_namespaced {
                target["namespace"] = json!("web");
            }
            assert_eq!(
                one_target(target).unwrap_err(),
                [format!(
                    "spec.targets[0].{field} is \"nas.example.com\", but only DNSEndpoint has it: leave it out"
                )],
                "{}",
                kind.name
            );
        }
        assert_eq!(one_group(56, field, json!("x")).unwrap_err().len(), 1);
    }
}

/// One name in a pool and in a set, of two kinds and in two namespaces, is no conflict.
#[test]
fn objects_of_two_kinds_with_one_name() {
    let target = |kind: &str, namespace: Option<&str>| {
        let mut target = json!({"kind": kind, "name": "lan", "suffixes": ["::/64"]});
        if let Some(namespace) = namespace {
            target["namespace"] = json!(namespace);
        }
        target
    };
    let targets = json!([
        target("CiliumLoadBalancerIPPool", None),
        target("GlobalNetworkSet", None),
        target("IPAddressPool", Some("a")),
        target("NetworkSet", Some("a")),
        target("NetworkSet", Some("b")),
    ]);
    assert_eq!(
        read(json!({"delegatedPrefixLength": 56, "targets": targets}))
            .unwrap()
            .len(),
        5
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

    /// All accepted parts lie inside the delegated prefix, but for the extra CIDRs.
    #[test]
    fn accepted_parts_lie_inside(
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
        let inside = all.iter().filter(|item| matches!(item, Item::Cidr(Cidr::V6(part)) if delegated.contains(*part))).count();
        prop_assert_eq!(inside, all.len() - 1, "{:?}", all);
        prop_assert_eq!(all[0].to_string(), "10.0.0.0/8");
        // No part of the spec is lost, either.
        let asked: BTreeSet<String> = suffixes.iter().map(|text| text.parse::<Suffix>().unwrap().to_string()).collect();
        prop_assert!(inside >= asked.len());
    }
}

/// The schema accepts this entry, because it has prefixIds. A template may always write both lists.
#[test]
fn two_empty_lists_count_as_one() {
    let alone = json!({"ciliumCIDRGroupName": "lan", "prefixIds": [], "extraCIDRs": ["fd00::/8"]});
    let mut both = alone.clone();
    both["suffixes"] = json!([]);
    let read = |group| read(json!({"delegatedPrefixLength": 56, "ciliumCIDRGroups": [group]}));
    assert!(read(alone.clone()).is_ok());
    assert_eq!(read(both), read(alone));
}

/// The sets of the schema compare texts, so it accepts them.
#[test]
fn other_spellings_of_an_element_are_merged() {
    for (field, list) in [
        (
            "suffixes",
            json!(["::1:0:0:0:10", "::1:0:0:0:10/128", "::1:0:0:0:0010"]),
        ),
        ("extraCIDRs", json!(["fd00::/8", "FD00::/8"])),
        ("prefixIds", json!([1, 1])),
    ] {
        let once = one_group(56, field, json!([list[0]])).unwrap();
        assert_eq!(one_group(56, field, list), Ok(once), "{field}");
    }
    assert_eq!(
        pool_with(json!(["::1-::2", "::01-::02"])),
        pool_with(json!(["::1-::2"]))
    );
}
