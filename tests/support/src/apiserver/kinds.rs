//! The kinds of targets other than CiliumCIDRGroup: their CRDs as their projects ship them, and an object of each.

use serde_json::{Value, json};

use crate::apiserver::store::{Key, Store};

/// A kind, with one object of it.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// The API group and version.
    pub api: (&'static str, &'static str),
    /// The plural name.
    pub plural: &'static str,
    /// The namespace of the object; empty if it has none.
    pub namespace: &'static str,
    /// Its CRD.
    pub crd: &'static str,
    /// The manifest with the rights that k6u needs.
    pub rights: &'static str,
    /// The place of the list (a JSON pointer).
    pub list: &'static str,
    /// The form of the list's elements.
    pub element: Element,
    /// The spec of the object, without the list, as JSON.
    pub spec: &'static str,
}

/// The form of a list's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A CIDR.
    Text,
    /// A map with a CIDR in `cidr`.
    Map,
    /// A DNS record with the addresses of one type.
    Record,
}

/// The CRD of Cilium's pool from the time when its list had another name.
pub const POOL_BEFORE_BLOCKS: &str = include_str!("../../cilium/ciliumloadbalancerippools-cidrs.yaml");
/// Calico's sets in the API group of its API server: kind and CRD.
pub const CALICO_V3: [(&str, &str); 2] = [
    (
        "GlobalNetworkSet",
        include_str!("../../calico/globalnetworksets-3.32.1.yaml"),
    ),
    ("NetworkSet", include_str!("../../calico/networksets-3.32.1.yaml")),
];
/// The name of each object.
pub const NAME: &str = "lan";
/// The name in each DNS record.
pub const DNS_NAME: &str = "nas.example.com";
/// The TTL of each DNS record.
pub const TTL: u32 = 60;

/// All kinds.
pub const KINDS: [Kind; 9] = [
    Kind {
        name: "CiliumLoadBalancerIPPool",
        api: ("cilium.io", "v2"),
        plural: "ciliumloadbalancerippools",
        namespace: "",
        crd: include_str!("../../cilium/ciliumloadbalancerippools-v2.yaml"),
        rights: include_str!("../../../../manifests/components/ciliumloadbalancerippool/rbac.yaml"),
        list: "/spec/blocks",
        element: Element::Map,
        spec: r#"{"serviceSelector": {"matchLabels": {"pool": "lan"}}, "allowFirstLastIPs": "No", "disabled": false}"#,
    },
    Kind {
        name: "IPAddressPool",
        api: ("metallb.io", "v1beta1"),
        plural: "ipaddresspools",
        namespace: "metallb-system",
        crd: include_str!("../../metallb/ipaddresspools-0.16.1.yaml"),
        rights: include_str!("../../../../manifests/components/ipaddresspool/rbac.yaml"),
        list: "/spec/addresses",
        element: Element::Text,
        spec: r#"{"autoAssign": false, "avoidBuggyIPs": true, "serviceAllocation": {"priority": 50, "namespaces": ["web"]}}"#,
    },
    Kind {
        name: "GlobalNetworkSet",
        api: ("crd.projectcalico.org", "v1"),
        plural: "globalnetworksets",
        namespace: "",
        crd: include_str!("../../calico/globalnetworksets-crd-3.32.1.yaml"),
        rights: include_str!("../../../../manifests/components/globalnetworkset/rbac.yaml"),
        list: "/spec/nets",
        element: Element::Text,
        spec: "{}",
    },
    Kind {
        name: "NetworkSet",
        api: ("crd.projectcalico.org", "v1"),
        plural: "networksets",
        namespace: "web",
        crd: include_str!("../../calico/networksets-crd-3.32.1.yaml"),
        rights: include_str!("../../../../manifests/components/networkset/rbac.yaml"),
        list: "/spec/nets",
        element: Element::Text,
        spec: "{}",
    },
    Kind {
        name: "ClusterGroup",
        api: ("crd.antrea.io", "v1beta1"),
        plural: "clustergroups",
        namespace: "",
        crd: include_str!("../../antrea/clustergroups-2.7.0.yaml"),
        rights: include_str!("../../../../manifests/components/clustergroup/rbac.yaml"),
        list: "/spec/ipBlocks",
        element: Element::Map,
        spec: "{}",
    },
    Kind {
        name: "NetworkAuthentication",
        api: ("policy.linkerd.io", "v1alpha1"),
        plural: "networkauthentications",
        namespace: "web",
        crd: include_str!("../../linkerd/networkauthentications-2.20.yaml"),
        rights: include_str!("../../../../manifests/components/networkauthentication/rbac.yaml"),
        list: "/spec/networks",
        element: Element::Map,
        spec: "{}",
    },
    Kind {
        name: "Middleware",
        api: ("traefik.io", "v1alpha1"),
        plural: "middlewares",
        namespace: "traefik",
        crd: include_str!("../../traefik/middlewares-3.7.9.yaml"),
        rights: include_str!("../../../../manifests/components/middleware/rbac.yaml"),
        list: "/spec/ipAllowList/sourceRange",
        element: Element::Text,
        spec: r#"{"ipAllowList": {"rejectStatusCode": 404, "ipStrategy": {"ipv6Subnet": 64}}}"#,
    },
    Kind {
        name: "MiddlewareTCP",
        api: ("traefik.io", "v1alpha1"),
        plural: "middlewaretcps",
        namespace: "traefik",
        crd: include_str!("../../traefik/middlewaretcps-3.7.9.yaml"),
        rights: include_str!("../../../../manifests/components/middlewaretcp/rbac.yaml"),
        list: "/spec/ipAllowList/sourceRange",
        element: Element::Text,
        spec: r#"{"ipAllowList": {}, "inFlightConn": {"amount": 7}}"#,
    },
    Kind {
        name: "DNSEndpoint",
        api: ("externaldns.k8s.io", "v1alpha1"),
        plural: "dnsendpoints",
        namespace: "external-dns",
        crd: include_str!("../../external-dns/dnsendpoints-0.22.0.yaml"),
        rights: include_str!("../../../../manifests/components/dnsendpoint/rbac.yaml"),
        list: "/spec/endpoints",
        element: Element::Record,
        spec: "{}",
    },
];

impl Kind {
    /// The path of the list of objects.
    pub fn path(&self) -> String {
        let (group, version) = self.api;
        match self.namespace {
            "" => format!("/apis/{group}/{version}/{}", self.plural),
            namespace => format!("/apis/{group}/{version}/namespaces/{namespace}/{}", self.plural),
        }
    }

    /// The object, with labels, and with these CIDRs in its list.
    pub fn object(&self, cidrs: &[&str]) -> Value {
        let mut metadata = json!({"name": NAME, "labels": {"role": "lan"}});
        if !self.namespace.is_empty() {
            metadata["namespace"] = json!(self.namespace);
        }
        let mut object = json!({"apiVersion": format!("{}/{}", self.api.0, self.api.1), "kind": self.name,
            "metadata": metadata, "spec": serde_json::from_str::<Value>(self.spec).expect("JSON")});
        let (parent, last) = self.list.rsplit_once('/').expect("a pointer");
        object.pointer_mut(parent).expect("it is there")[last] = self.elements(cidrs);
        object
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Kind {
        KINDS.into_iter().find(|kind| kind.name == name).expect("a kind")
    }

    /// Whether k6u creates a missing object.
    pub fn is_created(&self) -> bool {
        self.element == Element::Record
    }

    /// The list with these CIDRs.
    pub fn elements(&self, cidrs: &[&str]) -> Value {
        match self.element {
            Element::Text => json!(cidrs),
            Element::Map => cidrs.iter().map(|cidr| json!({"cidr": cidr})).collect(),
            Element::Record => ["A", "AAAA"]
                .into_iter()
                .filter_map(|kind| record(kind, cidrs))
                .collect(),
        }
    }

    /// A suffix that the kind takes, behind a /60.
    pub fn suffix(&self) -> &'static str {
        match self.element {
            Element::Record => "::1:0:0:0:10",
            _ => "::1:ffff:0:0:0/112",
        }
    }

    /// The part of a delegated prefix that this suffix names, by the text of the /64 with id 1 without its colons.
    pub fn part(&self, subnet: &str) -> String {
        match self.element {
            Element::Record => format!("{subnet}::10/128"),
            _ => format!("{subnet}:ffff::/112"),
        }
    }

    /// An entry of `spec.targets` for the object, with a suffix.
    pub fn target(&self, suffix: &str) -> Value {
        let mut target = json!({"kind": self.name, "name": NAME, "suffixes": [suffix]});
        if !self.namespace.is_empty() {
            target["namespace"] = json!(self.namespace);
        }
        if self.element == Element::Record {
            target["dnsName"] = json!(DNS_NAME);
            target["recordTTL"] = json!(TTL);
        }
        target
    }

    /// The key of the object in the store.
    pub fn key(&self) -> Key {
        Key {
            namespace: self.namespace.into(),
            ..Key::new(self.api.0, self.plural, NAME)
        }
    }

    /// The CIDRs in an object. An element without a CIDR is returned as JSON.
    pub fn cidrs(&self, object: &Value) -> Vec<String> {
        let list = object
            .pointer(self.list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let cidrs = |element: &Value| -> Option<Vec<String>> {
            match self.element {
                Element::Text => Some(vec![element.as_str()?.into()]),
                Element::Map => Some(vec![element["cidr"].as_str()?.into()]),
                Element::Record => {
                    let length = if element["recordType"] == "A" { 32 } else { 128 };
                    let address = |target: &Value| Some(format!("{}/{length}", target.as_str()?));
                    element["targets"].as_array()?.iter().map(address).collect()
                }
            }
        };
        list.flat_map(|element| cidrs(element).unwrap_or_else(|| vec![element.to_string()]))
            .collect()
    }

    /// The CIDRs in the stored object.
    pub fn held(&self, store: &Store) -> Option<Vec<String>> {
        Some(self.cidrs(store.objects.get(&self.key())?))
    }
}

/// The record of a type with the hosts of its family; `None` if there are none.
fn record(kind: &str, cidrs: &[&str]) -> Option<Value> {
    let hosts = cidrs.iter().filter(|cidr| cidr.contains(':') == (kind == "AAAA"));
    let targets: Vec<&str> = hosts.map(|cidr| cidr.split('/').next().expect("an address")).collect();
    let record = json!({"dnsName": DNS_NAME, "recordType": kind, "recordTTL": TTL, "targets": targets});
    (!targets.is_empty()).then_some(record)
}
