//! The kinds of objects that hold the prefix, beside CiliumCIDRGroup: as their projects ship them, and
//! objects as users have them.

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
    /// Where the list is (JSON pointer).
    pub list: &'static str,
    /// The field of an element with the CIDR; empty if the element is the CIDR.
    pub field: &'static str,
    /// The spec of the object, without the list, as JSON.
    pub spec: &'static str,
}

/// Cilium's pool when its list was another one.
pub const POOL_BEFORE_BLOCKS: &str = include_str!("../../cilium/ciliumloadbalancerippools-cidrs.yaml");
/// Calico's set in the API group of its API server.
pub const CALICO_V3: &str = include_str!("../../calico/globalnetworksets-3.32.1.yaml");
/// The name of each object.
pub const NAME: &str = "lan";

/// All of them.
pub const KINDS: [Kind; 4] = [
    Kind {
        name: "CiliumLoadBalancerIPPool",
        api: ("cilium.io", "v2"),
        plural: "ciliumloadbalancerippools",
        namespace: "",
        crd: include_str!("../../cilium/ciliumloadbalancerippools-v2.yaml"),
        rights: include_str!("../../../../manifests/components/ciliumloadbalancerippool/rbac.yaml"),
        list: "/spec/blocks",
        field: "cidr",
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
        field: "",
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
        field: "",
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
        field: "",
        spec: r#"{"ipAllowList": {"rejectStatusCode": 404, "ipStrategy": {"ipv6Subnet": 64}}}"#,
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
        let list = cidrs.iter().map(|cidr| self.element(cidr)).collect();
        object.pointer_mut(parent).expect("it is there")[last] = list;
        object
    }

    /// An element of the list.
    pub fn element(&self, cidr: &str) -> Value {
        match self.field {
            "" => json!(cidr),
            field => json!({field: cidr}),
        }
    }

    /// An entry of `spec.targets` for the object, with a suffix.
    pub fn target(&self, suffix: &str) -> Value {
        let mut target = json!({"kind": self.name, "name": NAME, "suffixes": [suffix]});
        if !self.namespace.is_empty() {
            target["namespace"] = json!(self.namespace);
        }
        target
    }

    /// Where the object is stored.
    pub fn key(&self) -> Key {
        Key {
            namespace: self.namespace.into(),
            ..Key::new(self.api.0, self.plural, NAME)
        }
    }

    /// The CIDRs in an object; what is none is there as JSON.
    pub fn cidrs(&self, object: &Value) -> Vec<String> {
        let list = object
            .pointer(self.list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let cidr = |element: &Value| match self.field {
            "" => element.as_str().map(String::from),
            field => element[field].as_str().map(String::from),
        };
        list.map(|element| cidr(element).unwrap_or_else(|| element.to_string()))
            .collect()
    }

    /// The CIDRs in the stored object.
    pub fn held(&self, store: &Store) -> Option<Vec<String>> {
        Some(self.cidrs(store.objects.get(&self.key())?))
    }
}
