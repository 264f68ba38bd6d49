//! k6u keeps `CiliumCIDRGroup` objects in step with the IPv6 prefix that a provider delegates.
//!
//! Data flows one way: [`interface`] observes, [`apply`] publishes what was seen, [`plan`] decides,
//! [`apply`] writes the difference. The library is there for k6u's own binary, tests and fuzz
//! targets; it promises nobody else a stable interface.

pub mod apply;
pub mod clock;
pub mod crds;
pub mod groups;
pub mod interface;
pub mod journal;
pub mod kube;
pub mod netlink;
pub mod objects;
pub mod pace;
pub mod plan;
pub mod prefix;
pub mod preview;
pub mod settings;
pub mod status;
pub mod time;
pub mod turns;
pub mod wake;
