//! What is read of each kind and what is written to it.

use super::*;
use crate::kube::decode::decode;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| cidr(text)).collect()
}

fn kind(name: &str) -> &'static Kind {
    Kind::named(name).unwrap()
}

fn held(kind: &'static Kind, spec: Value) -> Result<Held, String> {
    let object = json!({"apiVersion": "x/v1", "kind": kind.name, "metadata": {"name": "a", "resourceVersion": "7"},
        "spec": spec, "status": {"x": [1, {}]}});
    let stored = decode::<Stored>(&mut object.to_string().as_bytes()).map_err(|e| e.to_string())?;
    Held::read(kind, stored)
}

/// The list of a CiliumCIDRGroup that holds these.
fn group(list: &[&str]) -> Cidrs {
    held(CIDR_GROUP, json!({"externalCIDRs": list})).unwrap().list
}

#[test]
fn a_set_in_any_order() {
    let wanted = cidrs(&["2001:db8::/64", "2001:db8:1::/64"]);
    assert!(group(&["2001:db8:1::/64", "2001:db8::/64"]).are(&wanted));
    assert!(group(&["2001:DB8:1:0::/64", "2001:db8::/64", "2001:db8::/64"]).are(&wanted));
    for other in [
        vec![],
        vec!["2001:db8::/64"],
        vec!["2001:db8::/64", "2001:db8:1::/64", "2001:db8:2::/64"],
        vec!["2001:db8::/64", "2001:db8:1::/63"],
        vec!["2001:db8::/64", "2001:db8:1::/64", "10.0.0.0/8"],
        vec!["2001:db8::/64", "2001:db8:1::/64", "nonsense"],
    ] {
        assert!(!group(&other).are(&wanted), "{other:?}");
    }
    assert!(group(&[]).are(&[]));
    assert!(group(&["192.168.1.1/16", "2001:db8::/64"]).are(&cidrs(&["192.168.0.0/16", "2001:db8::/64"])));
}

#[test]
fn the_list_of_each_kind_is_read_and_written_where_it_is() {
    let wanted = ["2001:db8::/64", "192.168.0.0/16"];
    for (name, spec) in [
        ("CiliumCIDRGroup", json!({"externalCIDRs": wanted})),
        (
            "CiliumLoadBalancerIPPool",
            json!({"blocks": [{"cidr": wanted[0]}, {"cidr": wanted[1]}]}),
        ),
        ("IPAddressPool", json!({"addresses": wanted})),
        ("GlobalNetworkSet", json!({"nets": wanted})),
        ("Middleware", json!({"ipAllowList": {"sourceRange": wanted}})),
    ] {
        let kind = kind(name);
        assert_eq!(kind.spec(&elements(&cidrs(&wanted))), spec, "{name}");
        let mut spec = spec;
        spec["another"] = json!({"field": ["stays"]});
        let held = held(kind, spec).unwrap();
        assert_eq!(held.metadata.resource_version, "7", "{name}");
        assert!(
            held.list.are(&cidrs(&wanted)) && !held.is_something_else,
            "{name}: {held:?}"
        );
    }
    assert_eq!(KINDS.len(), 5, "each kind has its line above");
}

#[test]
fn elements_are_compared_by_meaning() {
    let pool = kind("CiliumLoadBalancerIPPool");
    let wanted = cidrs(&["2001:db8::/112"]);
    let are = |blocks: Value| held(pool, json!({"blocks": blocks})).unwrap().list.are(&wanted);
    assert!(are(json!([{"cidr": "2001:DB8:0::/112"}])));
    for other in [
        json!([{"start": "2001:db8::", "stop": "2001:db8::ffff"}]),
        json!([{"cidr": "2001:db8::/112", "start": "2001:db8::"}]),
        json!(["2001:db8::/112"]),
        json!([{"cidr": ["2001:db8::/112"]}]),
        json!([null]),
    ] {
        assert!(!are(other.clone()), "{other}");
    }
    let addresses = |list: Value| held(kind("IPAddressPool"), json!({"addresses": list})).unwrap().list;
    assert!(!addresses(json!(["2001:db8::-2001:db8::ffff"])).are(&wanted));
    assert!(!addresses(json!([{"cidr": "2001:db8::/112"}])).are(&wanted));
}

#[test]
fn a_missing_list_is_an_empty_one_but_a_middleware_for_something_else_is_none() {
    for spec in [json!({}), json!(null), json!({"nets": null})] {
        let held = held(kind("GlobalNetworkSet"), spec).unwrap();
        assert!(held.list.are(&[]) && !held.is_something_else);
    }
    let middleware = |spec| held(kind("Middleware"), spec).unwrap().is_something_else;
    assert!(middleware(json!({"redirectScheme": {"scheme": "https"}})));
    assert!(middleware(json!({})) && middleware(json!(null)) && middleware(json!({"ipAllowList": null})));
    assert!(!middleware(json!({"ipAllowList": {}})));
}

#[test]
fn adding_takes_nothing_out() {
    let adds = |held: Cidrs, wanted: &[&str]| held.and(&cidrs(wanted));
    let texts = |list: Vec<Element>| list.iter().map(Element::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(
            adds(
                group(&["10.0.0.0/8", "2001:db8:1::/64", "10.0.0.1-10.0.0.9"]),
                &["2001:db8::/64", "2001:db8:1::/64"]
            )
            .unwrap()
        ),
        ["10.0.0.0/8", "2001:db8:1::/64", "10.0.0.1-10.0.0.9", "2001:db8::/64"]
    );
    let pool = kind("CiliumLoadBalancerIPPool");
    let range = json!({"start": "10.0.0.1", "stop": "10.0.0.9"});
    let blocks = held(pool, json!({"blocks": [range]})).unwrap().list;
    assert_eq!(
        pool.spec(&adds(blocks, &["2001:db8::/112"]).unwrap()),
        json!({"blocks": [range, {"cidr": "2001:db8::/112"}]})
    );
    let full = group(&vec!["10.0.0.0/8"; MOST_CIDRS]);
    assert!(full.and(&[]).is_some());
    assert_eq!(full.and(&cidrs(&["2001:db8::/64"])), None);
}

#[test]
fn long_lists_are_cut_in_the_log() {
    let many: Vec<String> = (0..20).map(|n| format!("2001:db8:{n:x}::/64")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(group(&many).to_string().ends_with("2001:db8:f::/64 and 4 more"));
    assert_eq!(group(&[]).to_string(), "none");
    assert_eq!(group(&["10.0.0.0/8"]).to_string(), "10.0.0.0/8");
}

#[test]
fn what_is_no_list_is_refused() {
    for list in [json!(3), json!("2001:db8::/64"), json!({"a": 1}), json!(true)] {
        assert!(held(CIDR_GROUP, json!({"externalCIDRs": list})).is_err(), "{list}");
    }
    assert!(held(kind("Middleware"), json!({"ipAllowList": ["2001:db8::/64"]})).is_err());
    assert!(!group(&[]).are(&cidrs(&["2001:db8::/64"])));
}

/// No more fit into an object of the 1.5 MiB that etcd takes.
#[test]
fn a_list_is_read_whole_or_not_at_all() {
    let list = |count: usize| held(CIDR_GROUP, json!({"externalCIDRs": vec!["10.0.0.0/8"; count]}));
    assert_eq!(list(50_000).unwrap().list.0.len(), 50_000);
    assert_eq!(
        list(100_000).unwrap_err(),
        "spec takes more than 6291456 bytes of memory"
    );
}

fn key(name: &str, namespace: &str) -> TargetKey {
    TargetKey {
        kind: kind(name),
        namespace: namespace.into(),
        name: "lan".into(),
    }
}

#[test]
fn the_yaml_that_creates_a_missing_object() {
    for key in [
        key("CiliumLoadBalancerIPPool", ""),
        key("IPAddressPool", "metallb-system"),
        key("GlobalNetworkSet", ""),
        key("Middleware", "web"),
    ] {
        let wanted = cidrs(&["2001:db8::/112", "2001:db8:1::/112"]);
        let text = key.create_first(key.kind.apis[0], &wanted);
        let yaml = text.strip_prefix("there is none; create it first: ").unwrap();
        assert_eq!(yaml.lines().count(), 1);
        let object: Value = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(object, key.newest_object(&wanted[..1]), "{key}");
    }
    assert_eq!(
        key("IPAddressPool", "metallb-system").create_first(("metallb.io", "v1beta1"), &cidrs(&["2001:db8::/112"])),
        "there is none; create it first: {apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: \
         \"lan\", namespace: \"metallb-system\"}, spec: {\"addresses\":[\"2001:db8::/112\"]}}"
    );
}

#[test]
fn names_for_people() {
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
fn what_to_apply_when_a_kind_or_a_right_is_missing() {
    let absent = refused("/apis/metallb.io", 404, "404 page not found");
    assert_eq!(
        key("IPAddressPool", "metallb-system").explain(&absent),
        "the API server does not serve ipaddresspools.metallb.io: install MetalLB 0.13 or newer (GET /apis/metallb.io: \
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
