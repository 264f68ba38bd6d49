//! k6u keeps `CiliumCIDRGroup` objects in step with the IPv6 prefix that a provider delegates.
//!
//! Data flows one way: [`interface`] observes, [`apply`] publishes what was seen, [`plan`] decides,
//! [`apply`] writes the difference. The library is there for k6u's own binary, tests and fuzz
//! targets; it promises nobody else a stable interface.

pub mod interface;
pub mod kube;
pub mod netlink;
pub mod objects;
pub mod plan;
pub mod prefix;
pub mod settings;
pub mod status;
pub mod time;
pub mod wake;
