//! k6u keeps Kubernetes objects that hold the site's IPv6 prefix in step with the prefix that a provider
//! delegates.
//!
//! Data flows one way: [`node`] observes, [`reconcile`] publishes what was seen, plans, and writes the
//! difference to the [`resources`]; [`agent`] is the loop around that, [`schedule`] says when it acts.
//! [`kube`] knows how Kubernetes talks, and nothing of prefixes.
//!
//! The library is there for k6u's own binary, tests and fuzz targets; it promises nobody else a stable
//! interface.

#![deny(unsafe_code)]

pub mod agent;
pub mod cidr;
pub mod cli;
pub mod kube;
pub mod limits;
pub mod logging;
#[allow(unsafe_code, reason = "netlink, signals and poll are libc's")]
pub mod node;
pub mod prefix;
pub mod preview;
pub mod reconcile;
pub mod resources;
pub mod schedule;
pub mod settings;
pub mod time;
