//! Lists of each kind, as they are read and written.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::cidr::SuffixRange;
use crate::kube::decode::decode;

/// An item as MetalLB writes it.
fn item(text: &str) -> Item {
    match text.split_once('-') {
        Some((first, last)) => Item::from_ends(first.parse().unwrap(), last.parse().unwrap()).unwrap(),
        None => Item::Cidr(text.parse().unwrap()),
    }
}

fn items(texts: &[&str]) -> Vec<Item> {
    let mut items: Vec<Item> = texts.iter().map(|text| item(text)).collect();
    items.sort();
    items
}

fn kind(name: &str) -> &'static Kind {
    Kind::named(name).unwrap()
}

fn key(name: &str, namespace: &str) -> TargetKey {
    TargetKey {
        kind: kind(name),
        namespace: namespace.into(),
        name: "lan".into(),
    }
}

fn nas(ttl: Option<u32>) -> Record {
    Record {
        dns_name: "nas.example.com".into(),
        ttl,
    }
}

fn desired(name: &str, texts: &[&str]) -> DesiredTarget {
    DesiredTarget {
        key: key(name, if kind(name).is_namespaced { "web" } else { "" }),
        items: items(texts),
        lingering: BTreeSet::new(),
        record: kind(name).has_records().then(|| nas(Some(60))),
        is_constant: false,
    }
}

fn held(kind: &'static Kind, spec: Value) -> Result<Held, String> {
    let object = json!({"apiVersion": "x/v1", "kind": kind.name, "metadata": {"name": "a", "resourceVersion": "7"},
        "spec": spec, "status": {"x": [1, {}]}});
    let stored = decode::<Stored>(object.to_string().as_bytes()).map_err(|e| e.to_string())?;
    Held::read(kind, stored)
}

/// The list of an object of this kind with these elements.
fn stored(name: &str, elements: Value) -> StoredList {
    let kind = kind(name);
    let spec = kind
        .list
        .iter()
        .rev()
        .fold(elements, |value, field| json!({*field: value}));
    held(kind, spec).unwrap().list
}

/// Whether these elements mean exactly these items.
fn means(name: &str, elements: Value, texts: &[&str]) -> bool {
    stored(name, elements).matches(&desired(name, texts))
}

/// The list of a CiliumCIDRGroup with these CIDRs.
fn group(list: &[&str]) -> StoredList {
    stored("CiliumCIDRGroup", json!(list))
}

#[test]
fn the_order_of_a_list_has_no_meaning() {
    let wanted = desired("CiliumCIDRGroup", &["2001:db8::/64", "2001:db8:1::/64"]);
    assert!(group(&["2001:db8:1::/64", "2001:db8::/64"]).matches(&wanted));
    assert!(group(&["2001:DB8:1:0::/64", "2001:db8::/64", "2001:db8::/64"]).matches(&wanted));
    for other in [
        vec![],
        vec!["2001:db8::/64"],
        vec!["2001:db8::/64", "2001:db8:1::/64", "2001:db8:2::/64"],
        vec!["2001:db8::/64", "2001:db8:1::/63"],
        vec!["2001:db8::/64", "2001:db8:1::/64", "10.0.0.0/8"],
        vec!["2001:db8::/64", "2001:db8:1::/64", "nonsense"],
    ] {
        assert!(!group(&other).matches(&wanted), "{other:?}");
    }
    assert!(group(&[]).matches(&desired("CiliumCIDRGroup", &[])));
    let both = desired("CiliumCIDRGroup", &["192.168.0.0/16", "2001:db8::/64"]);
    assert!(group(&["192.168.1.1/16", "2001:db8::/64"]).matches(&both));
}

#[test]
fn the_list_of_each_kind_has_its_place() {
    let wanted = ["2001:db8::10/128", "192.0.2.10/32"];
    let blocks = json!([{"cidr": wanted[1]}, {"cidr": wanted[0]}]);
    let texts = json!([wanted[1], wanted[0]]);
    let endpoint = |record_type: &str, target: &str| json!({"dnsName": "nas.example.com", "recordType": record_type, "recordTTL": 60, "targets": [target]});
    let endpoints = json!([endpoint("A", "192.0.2.10"), endpoint("AAAA", "2001:db8::10")]);
    let lists = [
        ("CiliumCIDRGroup", json!({"externalCIDRs": texts})),
        ("CiliumLoadBalancerIPPool", json!({"blocks": blocks})),
        ("IPAddressPool", json!({"addresses": texts})),
        ("GlobalNetworkSet", json!({"nets": texts})),
        ("NetworkSet", json!({"nets": texts})),
        ("ClusterGroup", json!({"ipBlocks": blocks})),
        ("NetworkAuthentication", json!({"networks": blocks})),
        ("Middleware", json!({"ipAllowList": {"sourceRange": texts}})),
        ("MiddlewareTCP", json!({"ipAllowList": {"sourceRange": texts}})),
        ("DNSEndpoint", json!({"endpoints": endpoints})),
    ];
    assert_eq!(lists.len(), KINDS.len(), "each kind has its line above");
    for (name, spec) in lists {
        let desired = desired(name, &wanted);
        assert_eq!(desired.newest_object()["spec"], spec, "{name}");
        let mut spec = spec;
        spec["another"] = json!({"field": ["stays"]});
        let held = held(kind(name), spec).unwrap();
        assert_eq!(held.metadata.resource_version, "7", "{name}");
        assert!(held.list.matches(&desired) && !held.lacks_list, "{name}: {held:?}");
        assert_eq!(held.list.items(), desired.items, "{name}");
    }
}

#[test]
fn an_address_has_many_spellings() {
    let pool = "CiliumLoadBalancerIPPool";
    for block in [
        json!({"cidr": "2001:DB8:0::/112"}),
        json!({"cidr": "2001:0db8:0000:0000:0000:0000:0000:0000/112"}),
        json!({"cidr": "2001:db8::/112", "start": "", "stop": ""}),
        json!({"cidr": "2001:db8::/112", "stop": null}),
    ] {
        assert!(means(pool, json!([block]), &["2001:db8::/112"]), "{block}");
    }
    for block in [
        json!({"start": "2001:DB8::0010", "stop": "2001:db8:0::FF"}),
        json!({"start": "2001:db8::10", "stop": "2001:db8::ff", "cidr": ""}),
    ] {
        assert!(means(pool, json!([block]), &["2001:db8::10-2001:db8::ff"]), "{block}");
    }
    // A single address.
    for block in [
        json!({"start": "2001:db8::10"}),
        json!({"start": "2001:db8::10", "stop": ""}),
        json!({"start": "2001:db8::10", "stop": "2001:DB8::010"}),
        json!({"cidr": "2001:db8::10/128"}),
    ] {
        assert!(means(pool, json!([block]), &["2001:db8::10/128"]), "{block}");
    }
    for text in ["2001:db8::10-2001:db8::ff", "2001:DB8::0010 - 2001:db8:0::FF"] {
        assert!(
            means("IPAddressPool", json!([text]), &["2001:db8::10-2001:db8::ff"]),
            "{text}"
        );
    }
    for text in ["2001:db8::10-2001:db8::10", "2001:db8::10/128"] {
        assert!(means("IPAddressPool", json!([text]), &["2001:db8::10/128"]), "{text}");
    }
    for name in ["NetworkSet", "Middleware", "MiddlewareTCP"] {
        assert!(
            means(
                name,
                json!(["2001:DB8::10", "192.0.2.7"]),
                &["2001:db8::10/128", "192.0.2.7/32"]
            ),
            "{name}"
        );
    }
    // MetalLB refuses an address without a length.
    assert!(!means("IPAddressPool", json!(["2001:db8::10"]), &["2001:db8::10/128"]));
}

#[test]
fn elements_of_an_unexpected_type_are_not_equivalent() {
    let wanted = ["2001:db8::/112"];
    for element in [
        json!({"start": "2001:db8::", "stop": "2001:db8::ffff"}),
        json!({"cidr": "2001:db8::/112", "start": "2001:db8::"}),
        json!({"stop": "2001:db8::/112"}),
        json!("2001:db8::/112"),
        json!({"cidr": ["2001:db8::/112"]}),
        json!({"cidr": 5}),
        json!({}),
        json!(null),
        json!(7),
        json!([["2001:db8::/112"]]),
    ] {
        for list in [json!([element]), json!([{"cidr": "2001:db8::/112"}, element])] {
            assert!(!means("CiliumLoadBalancerIPPool", list.clone(), &wanted), "{list}");
            assert!(!stored("CiliumLoadBalancerIPPool", list).is_empty());
        }
    }
    for element in [
        json!("2001:db8::-2001:db8::ffff"),
        json!({"cidr": "2001:db8::/112"}),
        json!("2001:db8::ffff-2001:db8::"),
        json!("2001:db8::-192.0.2.1"),
        json!("192.168.1.10-192.168.1.20"),
        json!("-"),
    ] {
        assert!(!means("IPAddressPool", json!([element]), &wanted), "{element}");
    }
    // A range is nothing that Cilium's groups or Antrea take.
    assert!(!means(
        "ClusterGroup",
        json!([{"start": "2001:db8::10"}]),
        &["2001:db8::10/128"]
    ));
    assert!(!means(
        "CiliumCIDRGroup",
        json!(["2001:db8::10-2001:db8::10"]),
        &["2001:db8::10/128"]
    ));
}

#[test]
fn a_network_with_an_exception_is_not_equivalent() {
    for name in ["NetworkAuthentication", "ClusterGroup"] {
        let network = |except: Value| json!([{"cidr": "2001:db8::/56", "except": except}]);
        assert!(means(name, network(json!([])), &["2001:db8::/56"]), "{name}");
        assert!(
            !means(name, network(json!(["2001:db8:0:1::/64"])), &["2001:db8::/56"]),
            "{name}"
        );
    }
}

#[test]
fn a_missing_list_is_empty_but_a_middleware_without_its_map_lacks_it() {
    for spec in [json!({}), json!(null), json!({"nets": null})] {
        let held = held(kind("GlobalNetworkSet"), spec).unwrap();
        assert!(held.list.is_empty() && !held.lacks_list);
    }
    for name in ["Middleware", "MiddlewareTCP"] {
        let lacks_list = |spec| held(kind(name), spec).unwrap().lacks_list;
        assert!(lacks_list(json!({"redirectScheme": {"scheme": "https"}})));
        assert!(lacks_list(json!({})) && lacks_list(json!(null)) && lacks_list(json!({"ipAllowList": null})));
        assert!(!lacks_list(json!({"ipAllowList": {}})));
    }
    assert_eq!(
        key("Middleware", "web").lacks_list(),
        "it has no spec.ipAllowList; name a Middleware that has one"
    );
}

/// A record for the tests below.
fn endpoint(name: &str, ttl: Value, record_type: &str, targets: &[&str]) -> Value {
    json!({"dnsName": name, "recordTTL": ttl, "recordType": record_type, "targets": targets})
}

#[test]
fn dns_records_by_meaning() {
    let hosts = ["2001:db8::10/128", "2001:db8:1::10/128", "192.0.2.10/32"];
    let addresses = ["2001:DB8:1:0::10", "2001:0db8::10"];
    let a = endpoint("nas.example.com", json!(60), "A", &["192.0.2.10"]);
    let aaaa = endpoint("nas.example.com", json!(60), "AAAA", &addresses);
    let is_right = |list: Value| means("DNSEndpoint", list, &hosts);
    assert!(is_right(json!([a, aaaa])) && is_right(json!([aaaa, a])));
    assert!(is_right(json!([
        a,
        endpoint("NAS.Example.com.", json!(60), "AAAA", &addresses)
    ])));
    let mut with_empty = aaaa.clone();
    with_empty["labels"] = json!({});
    with_empty["providerSpecific"] = json!([]);
    with_empty["setIdentifier"] = json!("");
    assert!(is_right(json!([a, with_empty])));

    for other in [
        endpoint("other.example.com", json!(60), "AAAA", &addresses),
        endpoint("nas.example.com", json!(61), "AAAA", &addresses),
        endpoint("nas.example.com", json!(0), "AAAA", &addresses),
        endpoint("nas.example.com", json!(null), "AAAA", &addresses),
        endpoint("nas.example.com", json!("60"), "AAAA", &addresses),
        endpoint("nas.example.com", json!(60), "A", &addresses),
        endpoint("nas.example.com", json!(60), "CNAME", &["www.example.com"]),
        endpoint("nas.example.com", json!(60), "AAAA", &addresses[..1]),
        endpoint("nas.example.com", json!(60), "AAAA", &[]),
        endpoint(
            "nas.example.com",
            json!(60),
            "AAAA",
            &["2001:db8::10/128", "2001:db8:1::10"],
        ),
        json!("nas.example.com"),
    ] {
        assert!(!is_right(json!([a, other])), "{other}");
        assert!(!is_right(json!([a, aaaa, other])), "{other}");
    }
    let mut routed = aaaa.clone();
    routed["setIdentifier"] = json!("eu");
    assert!(!is_right(json!([a, routed])));
    let halves = [0, 1].map(|at| endpoint("nas.example.com", json!(60), "AAAA", &addresses[at..=at]));
    assert!(!is_right(json!([a, halves[0], halves[1]])), "two records of one type");
    assert!(!is_right(json!([])));
}

#[test]
fn a_record_without_a_ttl() {
    let mut wanted = desired("DNSEndpoint", &["2001:db8::10/128"]);
    wanted.record = Some(nas(None));
    assert_eq!(
        wanted.newest_object()["spec"],
        json!({"endpoints": [{"dnsName": "nas.example.com", "recordType": "AAAA", "targets": ["2001:db8::10"]}]})
    );
    for (ttl, matches) in [(json!(null), true), (json!(0), true), (json!(60), false)] {
        let list = json!([endpoint("nas.example.com", ttl, "AAAA", &["2001:db8::10"])]);
        assert_eq!(stored("DNSEndpoint", list).matches(&wanted), matches);
    }
}

#[test]
fn ranges_are_written_as_each_pool_has_them() {
    let wanted = ["2001:db8::10-2001:db8::ff", "2001:db8::/124"];
    assert_eq!(
        desired("CiliumLoadBalancerIPPool", &wanted).newest_object()["spec"],
        json!({"blocks": [{"cidr": "2001:db8::/124"}, {"start": "2001:db8::10", "stop": "2001:db8::ff"}]})
    );
    assert_eq!(
        desired("IPAddressPool", &wanted).newest_object()["spec"],
        json!({"addresses": ["2001:db8::/124", "2001:db8::10-2001:db8::ff"]})
    );
    let with_ranges: Vec<&str> = KINDS
        .iter()
        .filter(|kind| kind.has_ranges())
        .map(|kind| kind.name)
        .collect();
    assert_eq!(with_ranges, ["CiliumLoadBalancerIPPool", "IPAddressPool"]);
}

fn texts(items: &[Item]) -> Vec<String> {
    items.iter().map(Item::to_string).collect()
}

#[test]
fn lingering_items_may_stay_but_are_not_added() {
    let mut wanted = desired("CiliumCIDRGroup", &["2001:db8:2::/64"]);
    let with_old = group(&["2001:db8:1::/64", "2001:db8:2::/64"]);
    assert!(!with_old.matches(&wanted));
    wanted.lingering = BTreeSet::from_iter(items(&["2001:db8:1::/64", "2001:db8:3::/64"]));
    assert!(with_old.matches(&wanted));
    assert!(group(&["2001:db8:2::/64"]).matches(&wanted), "it is not put in");
    for other in [
        vec!["2001:db8:1::/64"],
        vec!["2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:4::/64"],
        vec!["2001:db8:1::/64", "2001:db8:2::/64", "nonsense"],
        vec![],
    ] {
        assert!(!group(&other).matches(&wanted), "{other:?}");
    }
    let both = ["2001:db8:1::/64", "2001:db8:2::/64"];
    for (list, expected) in [
        (vec!["2001:db8:1::/64", "2001:db8:4::/64", "nonsense"], &both[..]),
        (vec!["2001:db8:4::/64"], &both[1..]),
        (vec![], &both[1..]),
    ] {
        assert_eq!(texts(&group(&list).with_lingering(&wanted)), expected, "{list:?}");
    }
}

#[test]
fn a_lingering_address_of_a_record() {
    let mut wanted = desired("DNSEndpoint", &["2001:db8:2::10/128"]);
    wanted.lingering = BTreeSet::from_iter(items(&["2001:db8:1::10/128"]));
    let list = |ttl: u32| {
        let addresses = ["2001:db8:1::10", "2001:db8:2::10"];
        stored(
            "DNSEndpoint",
            json!([endpoint("nas.example.com", json!(ttl), "AAAA", &addresses)]),
        )
    };
    assert!(list(60).matches(&wanted));
    assert!(!list(61).matches(&wanted));
    assert_eq!(
        list(61).with_lingering(&wanted),
        items(&["2001:db8:1::10/128", "2001:db8:2::10/128"])
    );
}

#[test]
fn long_lists_are_cut_in_the_log() {
    let many: Vec<String> = (0..20).map(|n| format!("2001:db8:{n:x}::/64")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(group(&many).to_string().ends_with("2001:db8:f::/64 and 4 more"));
    assert_eq!(group(&[]).to_string(), "none");
    assert_eq!(group(&["10.0.0.0/8"]).to_string(), "10.0.0.0/8");
    let odd = stored("CiliumCIDRGroup", json!(["a\nb", {"c": [1]}, "10.0.0.0/8"]));
    assert_eq!(odd.to_string(), "10.0.0.0/8, a b, {\"c\":[1]}");
    let odd = stored("CiliumCIDRGroup", json!(vec![json!({}); 40]));
    assert!(odd.to_string().ends_with(" and 24 more"), "{odd}");
}

#[test]
fn values_that_are_no_lists_are_refused() {
    for list in [json!(3), json!("2001:db8::/64"), json!({"a": 1}), json!(true)] {
        assert!(held(CIDR_GROUP, json!({"externalCIDRs": list})).is_err(), "{list}");
    }
    assert!(held(kind("Middleware"), json!({"ipAllowList": ["2001:db8::/64"]})).is_err());
    assert!(held(kind("DNSEndpoint"), json!({"endpoints": {"dnsName": "a"}})).is_err());
}

/// An object of 1.5 MiB, the limit of etcd, has room for no more.
#[test]
fn a_list_is_read_whole_or_not_at_all() {
    let list = |count: usize| held(CIDR_GROUP, json!({"externalCIDRs": vec!["x"; count]}));
    assert_eq!(list(50_000).unwrap().list.len(), 50_000);
    assert_eq!(
        list(100_000).unwrap_err(),
        "spec takes more than 5767168 bytes of memory"
    );
}

#[test]
fn an_item_takes_little_memory() {
    assert!(size_of::<Item>() <= 33, "{}", size_of::<Item>());
}

fn any_item(name: &'static str) -> impl Strategy<Value = Item> {
    (any::<u128>(), any::<u32>(), 0u8..=128, 0u8..4).prop_map(move |(bits, v4, length, form)| {
        let kind = kind(name);
        let v6 = std::net::Ipv6Addr::from_bits(bits);
        let length = if kind.has_records() { 128 } else { length };
        match form {
            0 => item(&format!("{}/{}", std::net::Ipv4Addr::from_bits(v4), length.min(32))),
            1 if kind.has_ranges() => {
                let range: SuffixRange = format!("{}-{v6}", std::net::Ipv6Addr::from_bits(bits >> 1))
                    .parse()
                    .unwrap();
                range.append_to("::/0".parse().unwrap()).unwrap()
            }
            _ => item(&format!("{v6}/{length}")),
        }
    })
}

proptest! {
    /// A list of any kind that was written is not written again.
    #[test]
    fn written_lists_are_read_back(
        (name, items) in (0..KINDS.len()).prop_flat_map(|at| {
            let name = KINDS[at].name;
            (Just(name), proptest::collection::btree_set(any_item(name), 0..6))
        }),
        ttl in proptest::option::of(1u32..=i32::MAX as u32),
    ) {
        let mut desired = desired(name, &[]);
        desired.items = items.into_iter().collect();
        desired.record = kind(name).has_records().then(|| nas(ttl));
        let held = held(kind(name), desired.newest_object()["spec"].clone()).unwrap();
        prop_assert!(held.list.matches(&desired), "{:?} {:?}", held, desired);
        prop_assert_eq!(held.list.len(), desired.items.len());
    }
}

#[test]
fn the_json_that_creates_a_missing_object() {
    for kind in &KINDS {
        let wanted = desired(kind.name, &["2001:db8::10/128", "2001:db8:1::10/128"]);
        let text = wanted.create_first(kind.apis[0]);
        let json = text.strip_prefix("it does not exist; create it first: ").unwrap();
        assert_eq!(json.lines().count(), 1);
        let first = DesiredTarget {
            items: wanted.items[..1].to_vec(),
            ..wanted
        };
        assert_eq!(serde_json::from_str::<Value>(json).unwrap(), first.newest_object());
    }
    assert_eq!(
        desired("IPAddressPool", &["2001:db8::/112"]).create_first(("metallb.io", "v1beta1")),
        "it does not exist; create it first: {\"apiVersion\":\"metallb.io/v1beta1\",\"kind\":\"IPAddressPool\",\
         \"metadata\":{\"name\":\"lan\",\"namespace\":\"web\"},\"spec\":{\"addresses\":[\"2001:db8::/112\"]}}"
    );
}

#[test]
fn display_names() {
    assert_eq!(
        key("IPAddressPool", "metallb-system").to_string(),
        "IPAddressPool metallb-system/lan"
    );
    assert_eq!(TargetKey::group("lan").to_string(), "CiliumCIDRGroup lan");
}

fn refused(path: &str, status: u16, message: &str) -> Error {
    let refusal = crate::kube::refusal::Refusal {
        status,
        message: message.into(),
        is_status: status != 404,
        ..crate::kube::refusal::Refusal::default()
    };
    Error {
        verb: "GET",
        path: path.into(),
        cause: crate::kube::Cause::Refused(refusal),
    }
}

#[test]
fn advice_when_a_kind_or_a_right_is_missing() {
    let absent = refused("/apis/metallb.io", 404, "404 page not found");
    assert_eq!(
        key("IPAddressPool", "metallb-system").explain(&absent),
        "the API server does not serve ipaddresspools.metallb.io: install MetalLB 0.14 or newer (GET /apis/metallb.io: \
         404 page not found)"
    );
    let rbac = "x is forbidden: User \"system:serviceaccount:kube-system:k6u\" cannot get resource";
    let denied = refused("/apis/metallb.io/v1beta1/namespaces/lb/ipaddresspools/lan", 403, rbac);
    let text = key("IPAddressPool", "lb").explain(&denied);
    assert!(
        text.ends_with(
            "cannot get resource; grant k6u this right (manifests/ has it); manifests/components/ipaddresspool is what to apply, its Role in the namespace lb"
        ),
        "{text}"
    );
    let denied = refused("/apis/cilium.io/v2/ciliumcidrgroups/lan", 403, rbac);
    assert!(
        TargetKey::group("lan")
            .explain(&denied)
            .ends_with("grant k6u this right (manifests/ has it)")
    );
}

/// The program needs only a row of the table; the rights of a kind are in the manifests.
#[test]
fn each_kind_has_a_component_with_its_rights() {
    for kind in &KINDS {
        let folder = match kind.component {
            "" => "manifests/rbac.yaml".to_string(),
            component => format!("manifests/components/{component}/rbac.yaml"),
        };
        let path = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let verbs = if kind.is_created {
            "[get, create, patch]"
        } else {
            "[get, patch]"
        };
        let rule = format!("  resources: [{}]\n  verbs: {verbs}\n", kind.plural);
        assert!(text.contains(&rule), "{folder} has no {rule:?}");
        for (group, _) in kind.apis {
            assert!(text.contains(*group), "{folder}: {group}");
        }
    }
}
