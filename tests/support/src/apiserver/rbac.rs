//! RBAC rules, read from manifests as kubectl would apply them.

use serde_json::Value;

/// A rule of a ClusterRole or a Role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The namespace in which it holds; empty for the whole cluster.
    pub namespace: String,
    /// API groups; the core group is empty.
    pub groups: Vec<String>,
    /// Resources, also as `resource/subresource`.
    pub resources: Vec<String>,
    /// Names of objects; empty for all.
    pub names: Vec<String>,
    /// Verbs.
    pub verbs: Vec<String>,
}

/// A request, as RBAC sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    /// Such as `patch`.
    pub verb: String,
    /// The API group.
    pub group: String,
    /// The resource, also as `resource/subresource`.
    pub resource: String,
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name; empty for lists and for creation by POST.
    pub name: String,
}

/// The identity of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An administrator, who may do everything.
    Admin,
    /// A service account with these rules.
    ServiceAccount(Vec<Rule>),
}

impl Identity {
    /// The name in error messages.
    pub fn user(&self) -> &'static str {
        match self {
            Identity::Admin => "kubernetes-admin",
            Identity::ServiceAccount(_) => "system:serviceaccount:kube-system:k6u",
        }
    }

    /// Whether this identity may do this.
    pub fn may(&self, attempt: &Attempt) -> bool {
        match self {
            Identity::Admin => true,
            Identity::ServiceAccount(rules) => rules.iter().any(|rule| rule.allows(attempt)),
        }
    }
}

impl Rule {
    /// Whether this rule alone allows it.
    pub fn allows(&self, attempt: &Attempt) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == wanted || item == "*");
        has(&self.groups, &attempt.group)
            && has(&self.resources, &attempt.resource)
            && has(&self.verbs, &attempt.verb)
            && (self.names.is_empty() || self.names.contains(&attempt.name))
            && (self.namespace.is_empty() || self.namespace == attempt.namespace)
    }
}

/// The rules of the ClusterRoles and Roles in a manifest with several documents.
pub fn cluster_role(manifest: &str) -> Vec<Rule> {
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.map(|item| item.as_str().expect("a text").to_string()).collect()
    };
    let mut rules = Vec::new();
    for document in manifest.split("\n---\n") {
        let object: Value = serde_yaml::from_str(document).expect("YAML");
        if object["kind"] == "ClusterRole" || object["kind"] == "Role" {
            rules.extend(object["rules"].as_array().expect("rules").iter().map(|rule| Rule {
                namespace: object["metadata"]["namespace"].as_str().unwrap_or_default().into(),
                groups: texts(&rule["apiGroups"]),
                resources: texts(&rule["resources"]),
                names: texts(&rule["resourceNames"]),
                verbs: texts(&rule["verbs"]),
            }));
        }
    }
    assert!(!rules.is_empty(), "the manifest holds no role with rules");
    rules
}
