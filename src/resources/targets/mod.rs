//! The objects that hold the prefix: the table of their kinds, and how each is read and written.
//!
//! The table of kinds is closed. A free path into any object would let everyone who may write an
//! IP6UpdateConfig write everything that k6u may patch.

mod api;
mod element;
mod list;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::cidr::Item;
use crate::kube::Error;
pub use api::{Api, TargetApi};
use element::Shape;
pub use list::{Held, MAX_ITEMS, Stored, StoredList};

/// A kind of object that holds the prefix.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The name that its objects have in `kind`.
    pub name: &'static str,
    /// API groups and versions: the first that the API server serves is used.
    apis: &'static [Api],
    /// The plural name.
    plural: &'static str,
    /// Whether its objects are in namespaces.
    pub is_namespaced: bool,
    /// The path of the list inside the spec.
    list: &'static [&'static str],
    /// The form of its elements.
    shape: Shape,
    /// Whether k6u creates one that is missing.
    pub is_created: bool,
    /// The folder in manifests/components with the rights; empty if k6u has them always.
    component: &'static str,
    /// The software that serves it, and its oldest version.
    source: &'static str,
}

/// All kinds.
pub static KINDS: [Kind; 10] = [
    Kind {
        name: "CiliumCIDRGroup",
        apis: &[("cilium.io", "v2"), ("cilium.io", "v2alpha1")],
        plural: "ciliumcidrgroups",
        is_namespaced: false,
        list: &["externalCIDRs"],
        shape: Shape::Cidr,
        is_created: true,
        component: "",
        source: "Cilium 1.14 or newer",
    },
    Kind {
        name: "CiliumLoadBalancerIPPool",
        apis: &[("cilium.io", "v2"), ("cilium.io", "v2alpha1")],
        plural: "ciliumloadbalancerippools",
        is_namespaced: false,
        list: &["blocks"],
        shape: Shape::BlockOrRange,
        is_created: false,
        component: "ciliumloadbalancerippool",
        source: "Cilium 1.15 or newer",
    },
    Kind {
        name: "IPAddressPool",
        apis: &[("metallb.io", "v1beta1")],
        plural: "ipaddresspools",
        is_namespaced: true,
        list: &["addresses"],
        shape: Shape::CidrOrRange,
        is_created: false,
        component: "ipaddresspool",
        source: "MetalLB 0.14 or newer",
    },
    Kind {
        name: "GlobalNetworkSet",
        apis: &[("projectcalico.org", "v3"), ("crd.projectcalico.org", "v1")],
        plural: "globalnetworksets",
        is_namespaced: false,
        list: &["nets"],
        shape: Shape::Cidr,
        is_created: false,
        component: "globalnetworkset",
        source: "Calico",
    },
    Kind {
        name: "NetworkSet",
        apis: &[("projectcalico.org", "v3"), ("crd.projectcalico.org", "v1")],
        plural: "networksets",
        is_namespaced: true,
        list: &["nets"],
        shape: Shape::Cidr,
        is_created: false,
        component: "networkset",
        source: "Calico",
    },
    Kind {
        name: "ClusterGroup",
        apis: &[("crd.antrea.io", "v1beta1")],
        plural: "clustergroups",
        is_namespaced: false,
        list: &["ipBlocks"],
        shape: Shape::Block,
        is_created: false,
        component: "clustergroup",
        source: "Antrea 1.13 or newer",
    },
    Kind {
        name: "NetworkAuthentication",
        apis: &[("policy.linkerd.io", "v1alpha1")],
        plural: "networkauthentications",
        is_namespaced: true,
        list: &["networks"],
        shape: Shape::Block,
        is_created: false,
        component: "networkauthentication",
        source: "Linkerd 2.12 or newer",
    },
    Kind {
        name: "Middleware",
        apis: &[("traefik.io", "v1alpha1")],
        plural: "middlewares",
        is_namespaced: true,
        list: &["ipAllowList", "sourceRange"],
        shape: Shape::Cidr,
        is_created: false,
        component: "middleware",
        source: "Traefik 2.11 or newer, with its Kubernetes CRDs",
    },
    Kind {
        name: "MiddlewareTCP",
        apis: &[("traefik.io", "v1alpha1")],
        plural: "middlewaretcps",
        is_namespaced: true,
        list: &["ipAllowList", "sourceRange"],
        shape: Shape::Cidr,
        is_created: false,
        component: "middlewaretcp",
        source: "Traefik 2.11 or newer, with its Kubernetes CRDs",
    },
    Kind {
        name: "DNSEndpoint",
        apis: &[("externaldns.k8s.io", "v1alpha1")],
        plural: "dnsendpoints",
        is_namespaced: true,
        list: &["endpoints"],
        shape: Shape::Record,
        is_created: true,
        component: "dnsendpoint",
        source: "the CRD of external-dns",
    },
];

/// CiliumCIDRGroup, the kind of `spec.ciliumCIDRGroups`.
pub static CIDR_GROUP: &Kind = &KINDS[0];

impl Kind {
    /// The kind of this name.
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Whether its list can hold ranges of addresses.
    pub fn has_ranges(&self) -> bool {
        self.shape.has_ranges()
    }

    /// Whether its list holds DNS records: single addresses with a name and a TTL.
    pub fn has_records(&self) -> bool {
        self.shape.is_record()
    }

    /// The spec with a list of just these items.
    fn spec(&self, items: &[Item], record: Option<&Record>) -> Value {
        debug_assert!(is_set(items), "a list is written sorted, each item once");
        debug_assert_eq!(self.has_records(), record.is_some(), "{}", self.name);
        let list = Value::Array(self.shape.write(items, record));
        let fields = self.list.iter().rev();
        fields.fold(list, |value, field| json!({*field: value}))
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetKey {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace; empty for objects without one.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}", self.kind.name, self.namespace, self.name)
    }
}

impl TargetKey {
    /// A CiliumCIDRGroup.
    pub fn group(name: &str) -> Self {
        TargetKey {
            kind: CIDR_GROUP,
            namespace: String::new(),
            name: name.into(),
        }
    }

    /// Advice about an object that lacks the map that the list would be in.
    pub fn lacks_list(&self) -> String {
        let map = self.kind.list[..self.kind.list.len() - 1].join(".");
        format!("it has no spec.{map}; name a {} that has one", self.kind.name)
    }

    /// Explains an error about this object, with advice.
    pub fn explain(&self, error: &Error) -> String {
        let Kind {
            plural,
            component,
            source,
            ..
        } = self.kind;
        if error.is_absent_api() {
            let group = self.kind.apis[0].0;
            return format!("the API server does not serve {plural}.{group}: install {source} ({error})");
        }
        if component.is_empty() || !error.is_forbidden_by_rbac() {
            return error.to_string();
        }
        let place = match self.namespace.as_str() {
            "" => String::new(),
            namespace => format!(", its Role in the namespace {namespace}"),
        };
        format!("{error}; manifests/components/{component} is what to apply{place}")
    }
}

/// The name and the TTL of a DNS record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// In lower case, without a trailing dot.
    pub dns_name: String,
    /// In seconds; `None` leaves it to the DNS provider.
    pub ttl: Option<u32>,
}

/// The desired content of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredTarget {
    /// Which object.
    pub key: TargetKey,
    /// Sorted, each once.
    pub items: Vec<Item>,
    /// Items that are neither added nor removed (I5).
    pub lingering: BTreeSet<Item>,
    /// The record that the items are in, for a kind that has records.
    pub record: Option<Record>,
    /// Its content does not depend on a prefix.
    pub is_constant: bool,
}

/// Whether a list is sorted and has each item once, as all lists of the plan do.
fn is_set(items: &[Item]) -> bool {
    items.is_sorted_by(|one, next| one < next)
}

impl DesiredTarget {
    fn holds(&self, item: &Item) -> bool {
        self.items.binary_search(item).is_ok()
    }

    /// The spec with just the desired list.
    fn spec(&self) -> Value {
        self.key.kind.spec(&self.items, self.record.as_ref())
    }

    /// The object in an API group and version, with nothing in it but the desired list.
    fn object(&self, (group, version): Api) -> Value {
        let TargetKey { kind, namespace, name } = &self.key;
        let mut metadata = Map::from_iter([("name".to_string(), json!(name))]);
        if kind.is_namespaced {
            metadata.insert("namespace".into(), json!(namespace));
        }
        if kind.is_created {
            metadata.insert("labels".into(), json!({"app.kubernetes.io/managed-by": "k6u"}));
        }
        json!({
            "apiVersion": format!("{group}/{version}"),
            "kind": kind.name,
            "metadata": metadata,
            "spec": self.spec(),
        })
    }

    /// The object in its newest version, with nothing in it but the desired list.
    pub fn newest_object(&self) -> Value {
        self.object(self.key.kind.apis[0])
    }

    /// Advice about an object that is missing: a line of JSON that creates it, because kubectl takes a text that starts
    /// with a brace for JSON. Its list holds one item; k6u writes the others.
    pub fn create_first(&self, api: Api) -> String {
        let first = DesiredTarget {
            items: self.items.iter().take(1).copied().collect(),
            ..self.clone()
        };
        format!("it does not exist; create it first: {}", first.object(api))
    }
}

#[cfg(test)]
mod tests;
