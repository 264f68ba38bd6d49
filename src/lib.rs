//! k6u keeps Kubernetes objects that hold the site's IPv6 prefix in step with the prefix that a provider
//! delegates.
//!
//! ```text
//!             +--------------------- agent: the loop ---------------------+
//!             |                                                           |
//!             v                                                           |
//!  kernel --> node --------> reconcile: one round --------> schedule -----+
//!             which          1 observe                      when the next
//!             addresses      2 publish       --> |          one is due
//!             count          3 read targets  <-- |
//!                            4 read objects  <-- | resources, kube <--> API server
//!                            5 plan              |
//!                            6 write         --> |
//! ```
//!
//! A walk through the parts:
//!
//! - [`agent`] is the loop. It waits for an address to change or the interval to end, makes a round, and asks
//!   [`schedule`] when the next one is due.
//! - [`node`] is this machine. It lists the addresses of an interface by netlink; [`node::announcements`] and
//!   [`node::select`] are the rules that say which of them count.
//! - [`reconcile`] is a round: [`Reconciler`](reconcile::Reconciler) takes its six steps in order.
//!   [`reconcile::plan`] says what each target should hold, [`reconcile::condition`] what the status says.
//! - [`resources`] are the objects: the fields of this project's own two kinds, and the table of the kinds that hold
//!   the prefix.
//! - [`kube`] is the client of the API server. It knows nothing of prefixes.
//! - [`prefix`], [`cidr`] and [`time`] are values; [`limits`] are the numbers, each with its reason.
//! - [`preview`] makes the same plan without a cluster. [`cli`], [`settings`] and [`logging`] make it a program.
//!
//! The rules are pure functions: begin with [`reconcile::plan::plan`] and [`node::select`], then read the round in
//! [`reconcile`]. docs/design.md says why nodes agree, in eight invariants (I1 to I8) that the code cites, and has the
//! code map: what each file does, and who may use whom.
//!
//! The library is for k6u's own binary, tests and fuzz targets: its interface is not stable.

#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::pedantic))]

pub mod agent;
pub mod cidr;
pub mod cli;
pub mod kube;
pub mod limits;
pub mod logging;
#[allow(
    unsafe_code,
    clippy::borrow_as_ptr,
    clippy::cast_lossless,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::single_match_else,
    reason = "netlink, signals and poll are libc's, whose constants are wider than the kernel's fields"
)]
pub mod node;
pub mod prefix;
pub mod preview;
pub mod reconcile;
pub mod resources;
#[allow(clippy::cast_precision_loss, reason = "53 bits of a random number fit")]
pub mod schedule;
pub mod settings;
pub mod time;
