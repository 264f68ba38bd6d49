//! The manifests and examples that the project ships, and the group in the examples.

use std::time::Instant;

use crate::apiserver::server::cidrs_of;
use crate::apiserver::store::Store;

/// manifests/crds.yaml.
pub const CRDS: &str = include_str!("../../../manifests/crds.yaml");
/// manifests/rbac.yaml.
pub const RBAC: &str = include_str!("../../../manifests/rbac.yaml");
/// The example of an IP6UpdateConfig.
pub const CONFIG: &str = include_str!("../../../manifests/examples/config.yaml");
/// The example of an IP6UpdateNodeConfig, with the interface eth0.
pub const NODE_CONFIG: &str = include_str!("../../../manifests/examples/nodeconfig.yaml");
/// The node that it selects.
pub const NODE: &str = "node1.example.com";
/// The group, with the prefix ids 0, 1 and 2.
pub const GROUP: &str = "ip6-local-lan";

/// The list of the group for a delegated prefix, given up to its last hex digit.
pub fn cidrs_for(start: &str) -> [String; 3] {
    [0, 1, 2].map(|id| format!("{start}{id}::/64"))
}

/// The time since which the group holds only this delegated prefix; `None` if it does not.
pub fn follows_since(store: &Store, start: &str) -> Option<Instant> {
    let past = store.history.iter().rev().find(|past| past.key.name == GROUP)?;
    (cidrs_of(past.object.as_ref()?) == cidrs_for(start)).then_some(past.at)
}
