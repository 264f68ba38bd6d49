//! The node itself as a [`Host`]: its clock, its addresses, its sleep.

use std::io;
use std::time::{Duration, Instant};

use super::Host;
use super::observe::Observer;
use super::select::{Observation, Watch};
use super::wait::{self, Sleeper, Woken};
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
    /// The node as it is when its first round starts.
    ///
    /// # Errors
    /// The errors of opening netlink sockets.
    pub fn new() -> io::Result<Self> {
        wait::start_alarm();
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
        wait::stop_alarm();
        std::thread::sleep(until.saturating_sub(self.now()));
        wait::start_alarm();
    }

    fn wait_for_change(&mut self, until: Duration) -> Woken {
        wait::stop_alarm();
        let woken = self.sleeper.sleep_until(self.started + until);
        wait::start_alarm();
        woken
    }
}
