//! The loop: wait, reconcile, schedule; and what an error means for the next round.
//!
//! The simulation in tests/simulation runs this loop in virtual time.

use std::time::Duration;

use log::debug;

use crate::node::Host;
use crate::node::wait::Woken;
use crate::problems::Subject;
use crate::reconcile::{Failure, Outcome, Reconciler};
use crate::schedule::{Allowance, Ended, Schedule};

/// Changes come in swarms, most of them of other interfaces: so many looks at once, then one in each
/// [`BETWEEN_LOOKS`].
const LOOKS_AT_ONCE: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// What the API server sets up at the start takes about a second; after so many tries it is a problem.
const PATIENCE: u32 = 10;
/// Until then, and if the API server does not say otherwise, it is asked again after this time.
const NOT_YET: Duration = Duration::from_millis(200);
/// [`Agent::once`] gives up on others that write at the same time, or on CRDs, after so many rounds.
const MOST_ROUNDS: u32 = 60;

/// The reconciler, and when it acts.
#[derive(Debug)]
pub struct Agent {
    reconciler: Reconciler,
    schedule: Schedule,
    looks: Allowance,
    /// Rounds in a row that ended because something is not served yet.
    waits: u32,
}

impl Agent {
    /// An agent that makes its rounds by this schedule.
    pub fn new(reconciler: Reconciler, schedule: Schedule) -> Self {
        Agent {
            reconciler,
            schedule,
            looks: Allowance::new(LOOKS_AT_ONCE, BETWEEN_LOOKS),
            waits: 0,
        }
    }

    /// Makes rounds until the host says stop.
    pub fn run(&mut self, host: &mut dyn Host) {
        loop {
            let (ended, _) = self.step(host);
            let mut due = self.schedule.after_round(host.now(), ended, host.dice());
            loop {
                let look = self.reconciler.until().map_or(due, |until| due.min(until));
                match host.wait(look, true) {
                    Woken::TimeOver if look == due => break,
                    Woken::Stop => return,
                    _ => {
                        let look = self.looks.take(host.now());
                        host.wait(look, false);
                        if self.reconciler.sees_change(host) {
                            due = self.schedule.after_change(host.now(), due, host.dice());
                            let pause = due.saturating_sub(host.now());
                            debug!("the addresses changed: next round in {} ms", pause.as_millis());
                        }
                    }
                }
            }
        }
    }

    /// Makes one round, or a few if others write at the same time or the CRDs are new. Says whether all is
    /// well after it.
    ///
    /// # Errors
    /// If it gave up.
    pub fn once(&mut self, host: &mut dyn Host) -> Result<bool, String> {
        for _ in 0..MOST_ROUNDS {
            let (ended, is_ready) = self.step(host);
            match ended {
                Ended::Unsettled | Ended::NotYet(_) | Ended::After(_) => {
                    let due = self.schedule.after_round(host.now(), ended, host.dice());
                    host.wait(due, false);
                }
                Ended::Quiet | Ended::Changed => {
                    // Whether a config is Ready does not depend on these.
                    let is_minor =
                        |subject: &Subject| matches!(subject, Subject::Crds | Subject::Events | Subject::Node);
                    return Ok(is_ready && self.reconciler.problems.subjects().all(is_minor));
                }
                Ended::Failed { .. } => return Ok(false),
            }
        }
        Err(format!("gave up after {MOST_ROUNDS} rounds"))
    }

    /// The client's counters, for the bench.
    pub fn reconciler(&self) -> &Reconciler {
        &self.reconciler
    }

    /// One round. Says how it ended, and whether all is Ready.
    pub fn step(&mut self, host: &mut dyn Host) -> (Ended, bool) {
        let (start, requests) = (host.now(), self.reconciler.client().requests());
        let result = self.reconciler.reconcile(host);
        let requests = self.reconciler.client().requests() - requests;
        let took = host.now().saturating_sub(start).as_micros();
        debug!("round: {requests} requests, {took} us: {result:?}");
        match result {
            Ok(outcome) => (self.succeeded(outcome), outcome.is_ready),
            Err(failure) => (self.failed(failure), false),
        }
    }

    fn succeeded(&mut self, outcome: Outcome) -> Ended {
        self.waits = 0;
        self.reconciler.problems.works(&Subject::ApiServer);
        self.reconciler.problems.works(&Subject::Addresses);
        self.schedule.set_nodes(outcome.nodes);
        outcome.ended
    }

    /// What an error means for the next round.
    fn failed(&mut self, failure: Failure) -> Ended {
        let again = Ended::Failed {
            wants_rest: false,
            retry_after: None,
        };
        let error = match failure {
            Failure::Request(error) => error,
            Failure::Addresses(text) => {
                self.reconciler.problems.fails(Subject::Addresses, &text);
                return again;
            }
            Failure::NotServed(name) => {
                let text = format!("the API server does not serve {name} yet");
                if self.is_normal_for_now(&text) {
                    return Ended::NotYet(Some(NOT_YET));
                }
                self.reconciler.problems.fails(Subject::ApiServer, &text);
                return again;
            }
        };
        if error.is_initializing() && self.is_normal_for_now(&error.to_string()) {
            return Ended::NotYet(error.retry_after());
        }
        self.reconciler
            .problems
            .fails_by(Subject::ApiServer, &error.kind(), &error.to_string());
        Ended::Failed {
            wants_rest: error.wants_rest(),
            retry_after: error.retry_after(),
        }
    }

    /// Whether something that is normal at the start has not lasted for too long.
    fn is_normal_for_now(&mut self, what: &str) -> bool {
        self.waits = self.waits.saturating_add(1);
        debug!("{what}");
        self.waits < PATIENCE
    }
}
