//! The node itself as a [`Host`]: its clock, its addresses, its sleep.

use std::io;
use std::time::{Duration, Instant};

use super::Host;
use super::observe::Observer;
use super::select::{Observation, Watch};
use super::wait::{Sleeper, Woken};
use super::watchdog;
use crate::prefix::Prefix;
use crate::schedule::random;

/// The node that this process runs on.
#[derive(Debug)]
pub struct ThisNode {
    started: Instant,
    observer: Observer,
    sleeper: Sleeper,
}

impl ThisNode {
    /// The node at the start of its first round.
    ///
    /// # Errors
    /// The errors of opening netlink sockets.
    pub fn new() -> io::Result<Self> {
        watchdog::restart();
        Ok(ThisNode {
            started: Instant::now(),
            observer: Observer::new()?,
            sleeper: Sleeper::new()?,
        })
    }
}

impl Host for ThisNode {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn random(&mut self) -> f64 {
        random()
    }

    fn observe(&mut self, watch: &Watch, allowed: Option<&[Prefix]>) -> io::Result<Observation> {
        self.observer.observe(watch, allowed, self.started.elapsed())
    }

    fn sleep(&mut self, until: Duration) {
        watchdog::stop();
        std::thread::sleep(until.saturating_sub(self.now()));
        watchdog::restart();
    }

    fn wait_for_change(&mut self, until: Duration) -> Woken {
        watchdog::stop();
        let woken = self.sleeper.sleep_until(self.started + until);
        watchdog::restart();
        woken
    }
}
