//! The loop: wait, reconcile, schedule; and what an error means for the next round.
//!
//! The simulation in tests/simulation runs this loop in virtual time.

use std::time::Duration;

use log::debug;

use crate::limits::{
    BETWEEN_LOOKS, BETWEEN_REACTIONS, FIRST_BACKOFF, LOOKS_AT_ONCE, MAX_ROUNDS_OF_ONCE, REACTIONS_AT_ONCE,
    STARTUP_PAUSE,
};
use crate::node::Host;
use crate::node::wait::Woken;
use crate::reconcile::problems::{Passing, Problem, Subject};
use crate::reconcile::{Failure, Outcome, Reconciler};
use crate::schedule::{Allowance, RoundEnd, Schedule};

/// The reconciler, and when it acts.
#[derive(Debug)]
pub struct Agent {
    reconciler: Reconciler,
    schedule: Schedule,
    looks: Allowance,
    /// While no round reacts to a change, each look may log one.
    idle_looks: Allowance,
}

impl Agent {
    /// An agent that makes its rounds by this schedule.
    pub fn new(reconciler: Reconciler, schedule: Schedule) -> Self {
        Agent {
            reconciler,
            schedule,
            looks: Allowance::new(LOOKS_AT_ONCE, BETWEEN_LOOKS),
            idle_looks: Allowance::new(REACTIONS_AT_ONCE, BETWEEN_REACTIONS),
        }
    }

    /// Makes rounds until the host says stop.
    pub fn run(&mut self, host: &mut dyn Host) {
        loop {
            let end = self.step(host).end;
            let mut due = self.schedule.after_round(host.now(), end, host.random());
            if let Some(retry) = self.reconciler.problems.next_retry(host.now()) {
                due = self.schedule.retry(due, retry, host.random());
            }
            if self.wait(due, host) == Woken::Stop {
                return;
            }
        }
    }

    /// Waits for the next round: until `due`, or less if the addresses change.
    fn wait(&mut self, mut due: Duration, host: &mut dyn Host) -> Woken {
        let mut look_at = self.reconciler.look_at();
        loop {
            let woken = host.wait_for_change(look_at.map_or(due, |at| at.min(due)));
            if woken == Woken::Stop || woken == Woken::Timeout && host.now() >= due {
                return woken;
            }
            let reacts = self.schedule.reacts();
            let looks = if reacts { &mut self.looks } else { &mut self.idle_looks };
            let allowed_at = looks.take(host.now());
            host.sleep(allowed_at.min(due));
            if self.reconciler.look(host, reacts) && reacts {
                due = self.schedule.after_change(host.now(), due, host.random());
                let pause = due.saturating_sub(host.now());
                debug!("the addresses changed: next round in {} ms", pause.as_millis());
            }
            look_at = self.reconciler.look_at();
        }
    }

    /// Makes one round, or a few if others write at the same time or the CRDs are new. Returns whether all is
    /// well after it.
    ///
    /// # Errors
    /// If it gave up.
    pub fn once(&mut self, host: &mut dyn Host) -> Result<bool, String> {
        for _ in 0..MAX_ROUNDS_OF_ONCE {
            let Outcome { end, is_ready } = self.step(host);
            match end {
                RoundEnd::Changed | RoundEnd::Soon | RoundEnd::NotYet(_) => {
                    let due = self.schedule.after_round(host.now(), end, host.random());
                    host.sleep(due);
                }
                RoundEnd::Quiet => {
                    // Whether a config is Ready does not depend on these.
                    let is_minor = |subject: &Subject| {
                        matches!(
                            subject,
                            Subject::Crds | Subject::Events | Subject::Node | Subject::Item("Node", _)
                        )
                    };
                    return Ok(is_ready && self.reconciler.problems.subjects().all(is_minor));
                }
                RoundEnd::Failed { .. } => return Ok(false),
            }
        }
        Err(format!("gave up after {MAX_ROUNDS_OF_ONCE} rounds"))
    }

    /// The client's counters, for the bench.
    pub fn reconciler(&self) -> &Reconciler {
        &self.reconciler
    }

    /// One round.
    pub fn step(&mut self, host: &mut dyn Host) -> Outcome {
        let (start, requests) = (host.now(), self.reconciler.client().requests());
        let result = self.reconciler.reconcile(host, self.schedule.is_reaction());
        let requests = self.reconciler.client().requests() - requests;
        let took = host.now().saturating_sub(start).as_micros();
        debug!("round: {requests} requests, {took} us: {result:?}");
        match result {
            Ok(outcome) => {
                self.reconciler.problems.works(&Subject::ApiServer);
                self.reconciler.problems.works(&Subject::Addresses);
                self.schedule.set_nodes(self.reconciler.nodes());
                outcome
            }
            Err(failure) => Outcome {
                end: self.failed(&failure, host.now()),
                is_ready: false,
            },
        }
    }

    /// Decides what an error means for the next round.
    fn failed(&mut self, failure: &Failure, now: Duration) -> RoundEnd {
        let problems = &mut self.reconciler.problems;
        let (problem, is_overloaded, retry_after, passing) = match failure {
            Failure::Addresses(text) => {
                problems.fails(&Subject::Addresses, Problem::of(text));
                return RoundEnd::FAILED;
            }
            Failure::NotServed(name) => {
                let text = format!("the API server does not serve {name} yet");
                let passing = (Passing::NotServed, STARTUP_PAUSE);
                (Problem::of(&text), false, None, Some(passing))
            }
            Failure::Request(error) => {
                let (kind, text) = (error.kind().to_string(), error.to_string());
                let retry_after = error.retry_after();
                let is_normal_at_start = error.is_initializing() || error.is_forbidden_by_rbac();
                let passing = (Passing::Starting, retry_after.unwrap_or(FIRST_BACKOFF));
                let passing = is_normal_at_start.then_some(passing);
                (Problem { kind, text }, error.is_overloaded(), retry_after, passing)
            }
        };
        if let Some((passing, pause)) = passing
            && !problems.has_lasted(&Subject::ApiServer, passing, now)
        {
            debug!("{}", problem.text);
            return RoundEnd::NotYet(pause);
        }
        problems.fails(&Subject::ApiServer, problem);
        RoundEnd::Failed {
            is_overloaded,
            retry_after,
        }
    }
}
