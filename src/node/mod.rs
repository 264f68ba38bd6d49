//! This machine: the addresses of its interfaces, which of them count, and waiting for a change.

pub mod address;
pub mod announcements;
pub mod getifaddrs;
pub mod host;
pub mod netlink;
pub mod observe;
pub mod select;
pub mod wait;
pub mod watchdog;

use std::io;
use std::time::Duration;

use select::{Observation, Watch};
use wait::Woken;

use crate::prefix::Prefix;

/// Services of the machine that k6u runs on. The simulation has one of its own.
pub trait Host {
    /// Steady time since k6u started, which does not depend on the clock.
    fn now(&self) -> Duration;

    /// A random number in 0..1.
    fn random(&mut self) -> f64;

    /// Observes an interface. Only prefixes inside `allowed` count; `None` lets all count. An interface that
    /// does not exist is an observation, not an error.
    ///
    /// # Errors
    /// When the kernel does not answer: nothing is known then, which is not the same as no address.
    fn observe(&mut self, watch: &Watch, allowed: Option<&[Prefix]>) -> io::Result<Observation>;

    /// Sleeps until this steady time.
    fn sleep(&mut self, until: Duration);

    /// Waits until this steady time, or for a change of addresses, whichever is first.
    fn wait_for_change(&mut self, until: Duration) -> Woken;
}
