//! The objects that hold the prefix: which kinds there are, and how each is read and written.
//!
//! The table of kinds is closed. A free path into any object would turn whoever may write an
//! IP6UpdateConfig into one who may write everything that k6u may patch.

mod api;
mod list;

use std::fmt;

use serde_json::{Map, Value, json};

use crate::cidr::Cidr;
use crate::kube::Error;
pub use api::{Api, TargetApi};
pub use list::{Cidrs, Element, Held, MOST_CIDRS, Stored};

/// A kind of object that holds the prefix.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// As its objects say it.
    pub name: &'static str,
    /// API groups and versions: the first that the API server serves is used.
    apis: &'static [(&'static str, &'static str)],
    /// The plural name.
    plural: &'static str,
    /// Whether its objects are in namespaces.
    pub is_namespaced: bool,
    /// Where in the spec the list is.
    list: &'static [&'static str],
    /// What an element of the list is.
    shape: Shape,
    /// Whether k6u creates one that is missing.
    pub is_created: bool,
    /// The folder in manifests/components with the rights; empty if k6u has them always.
    component: &'static str,
    /// What serves it, since which version.
    source: &'static str,
}

/// What an element of a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// The CIDR.
    Text,
    /// A map with the CIDR in this field.
    Field(&'static str),
}

/// All kinds.
pub static KINDS: [Kind; 5] = [
    Kind {
        name: "CiliumCIDRGroup",
        apis: &[("cilium.io", "v2"), ("cilium.io", "v2alpha1")],
        plural: "ciliumcidrgroups",
        is_namespaced: false,
        list: &["externalCIDRs"],
        shape: Shape::Text,
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
        shape: Shape::Field("cidr"),
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
        shape: Shape::Text,
        is_created: false,
        component: "ipaddresspool",
        source: "MetalLB 0.13 or newer",
    },
    Kind {
        name: "GlobalNetworkSet",
        apis: &[("projectcalico.org", "v3"), ("crd.projectcalico.org", "v1")],
        plural: "globalnetworksets",
        is_namespaced: false,
        list: &["nets"],
        shape: Shape::Text,
        is_created: false,
        component: "globalnetworkset",
        source: "Calico",
    },
    Kind {
        name: "Middleware",
        apis: &[("traefik.io", "v1alpha1")],
        plural: "middlewares",
        is_namespaced: true,
        list: &["ipAllowList", "sourceRange"],
        shape: Shape::Text,
        is_created: false,
        component: "middleware",
        source: "Traefik 2.11 or newer, with its Kubernetes CRDs",
    },
];

/// CiliumCIDRGroup, which `spec.ciliumCIDRGroups` is about.
pub static CIDR_GROUP: &Kind = &KINDS[0];

impl Kind {
    /// The kind of this name.
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// An element of the list as it is written.
    fn element(&self, element: &Element) -> Value {
        match (element, self.shape) {
            (Element::Cidr(cidr), Shape::Text) => Value::String(cidr.to_string()),
            (Element::Cidr(cidr), Shape::Field(name)) => json!({name: cidr.to_string()}),
            (Element::Other(value), _) => value.clone(),
        }
    }

    /// The spec that holds just these elements.
    fn spec(&self, elements: &[Element]) -> Value {
        let list = elements.iter().map(|element| self.element(element)).collect();
        let inner = self.list.iter().rev();
        inner.fold(Value::Array(list), |value, field| json!({*field: value}))
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

    /// The object in an API group and version, with nothing in it but these elements.
    fn object(&self, (group, version): (&str, &str), elements: &[Element]) -> Value {
        let mut metadata = Map::from_iter([("name".to_string(), json!(self.name))]);
        if self.kind.is_namespaced {
            metadata.insert("namespace".into(), json!(self.namespace));
        }
        if self.kind.is_created {
            metadata.insert("labels".into(), json!({"app.kubernetes.io/managed-by": "k6u"}));
        }
        json!({
            "apiVersion": format!("{group}/{version}"),
            "kind": self.kind.name,
            "metadata": metadata,
            "spec": self.kind.spec(elements),
        })
    }

    /// The object in its newest version, with nothing in it but these CIDRs.
    pub fn newest_object(&self, cidrs: &[Cidr]) -> Value {
        self.object(self.kind.apis[0], &elements(cidrs))
    }

    /// What to do about an object that is missing: one line of YAML creates it. Its list holds one CIDR,
    /// because k6u writes the others.
    pub fn create_first(&self, (group, version): Api, cidrs: &[Cidr]) -> String {
        let name = &self.name;
        let namespace = match self.namespace.as_str() {
            "" => String::new(),
            namespace => format!(", namespace: {namespace:?}"),
        };
        // JSON is YAML, too.
        let spec = self.kind.spec(&elements(&cidrs[..cidrs.len().min(1)]));
        format!(
            "there is none; create it first: {{apiVersion: {group}/{version}, kind: {}, metadata: {{name: \
             {name:?}{namespace}}}, spec: {spec}}}",
            self.kind.name
        )
    }

    /// What to do about an object that has no such list, nor the map that it would be in.
    pub fn is_something_else(&self) -> String {
        let map = self.kind.list[..self.kind.list.len() - 1].join(".");
        format!(
            "it has no spec.{map}, so it is for something else; name a {} that has one",
            self.kind.name
        )
    }

    /// What an error about this object means, and what to do.
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

/// CIDRs as elements of a list.
pub fn elements(cidrs: &[Cidr]) -> Vec<Element> {
    cidrs.iter().map(|cidr| Element::Cidr(*cidr)).collect()
}

#[cfg(test)]
mod tests;
