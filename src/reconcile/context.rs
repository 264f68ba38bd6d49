//! What a step of a round may use, and the one place for a request about one object.

use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use log::debug;

use super::events::Event;
use super::problems::{Passing, Problem, Problems, Subject};
use super::{Failure, fingerprint};
use crate::kube::{Client, Error};
use crate::limits::STEP_TIME;
use crate::node::Host;
use crate::time::Timestamp;

/// Everything that a step of a round may use.
pub struct Context<'a> {
    /// The name of this node.
    pub node: &'a str,
    /// The reporting instance of Events.
    pub reporter: &'a str,
    /// The longest time between two rounds of this node when nothing happens.
    pub interval: Duration,
    /// This round is early because of a change of address: reports wait for the next one.
    pub is_reaction: bool,
    /// The API server.
    pub client: &'a mut Client,
    /// Current problems, by object.
    pub problems: &'a mut Problems,
    /// Events to send at the end of the round.
    pub events: &'a mut Vec<Event>,
    /// This machine.
    pub host: &'a mut dyn Host,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Result of a request about one object.
#[derive(Debug)]
pub enum Tried<T> {
    /// The API server did it.
    Done(T),
    /// The object changed since it was read, or is gone: read it again (404, 409). Or the API server may not have read
    /// the roles yet: try again soon (403).
    Overtaken,
    /// The request failed, and is tried again after a pause.
    Refused(Refused),
}

/// The reason why a request about one object was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The problem.
    pub problem: Problem,
    /// Not sent, because the pause after an earlier failure is not over.
    pub is_retry_pending: bool,
    /// The problem was not known before.
    pub is_new: bool,
}

impl Context<'_> {
    /// Sends a request about one object, unless the same failed shortly before: `content` is what it would write.
    /// `explain` says what a failure means. The failure stays with that object (I7).
    ///
    /// # Errors
    /// Only if others would fail, too: whatever the answer says is the failure of this object.
    pub fn attempt<T>(
        &mut self,
        subject: &Subject,
        content: &impl Hash,
        explain: impl FnOnce(&Error) -> Problem,
        request: impl FnOnce(&mut Client) -> Result<T, Error>,
    ) -> Result<Tried<T>, Failure> {
        let content = fingerprint(content);
        if let Some(problem) = self.problems.blocked(subject, content, self.host.now()) {
            return Ok(Tried::Refused(Refused {
                problem: problem.clone(),
                is_retry_pending: true,
                is_new: false,
            }));
        }
        self.problems.sends(subject, self.host.now());
        let error = match request(self.client) {
            Ok(done) => {
                self.problems.works(subject);
                return Ok(Tried::Done(done));
            }
            Err(error) => error,
        };
        if error.is_unreachable() {
            return Err(error.into());
        }
        let passing = match &error {
            e if e.is_conflict() || e.is_absent_object() => Some(Passing::Overtaken),
            // An Event is not sent again, and comes last in a round: all else was allowed.
            e if e.is_forbidden_by_rbac() && *subject != Subject::Events => Some(Passing::Starting),
            _ => None,
        };
        let now = self.host.now();
        if passing.is_some_and(|failure| !self.problems.has_lasted(subject, failure, now)) {
            debug!("{error}");
            return Ok(Tried::Overtaken);
        }
        let problem = explain(&error);
        let random = self.host.random();
        let is_new = self
            .problems
            .backs_off(subject, content, problem.clone(), error.retry_after(), now, random);
        Ok(Tried::Refused(Refused {
            problem,
            is_retry_pending: false,
            is_new,
        }))
    }

    /// The objects of a step in the order of their turns: those that failed last time come last, so that an object that
    /// hangs keeps no other waiting; and whoever has waited for longest is first.
    pub fn in_turn<T>(&self, all: impl Iterator<Item = T>, subject: impl Fn(&T) -> Subject) -> Vec<T> {
        let mut all: Vec<T> = all.collect();
        all.sort_by_cached_key(|one| self.problems.turn(&subject(one)));
        all
    }

    /// Until when a step that begins now may begin requests, in steady time.
    pub fn step_ends(&self) -> Duration {
        self.host.now() + STEP_TIME
    }

    /// A text from outside made fit for a status or an Event: one line, without the token.
    pub fn clean(&self, text: &str) -> String {
        self.client.redactor().clean(text)
    }

    /// The API server's clock, or, should it send none, this machine's: for people, nothing follows from it.
    pub fn time(&self) -> Timestamp {
        self.client.server_time().unwrap_or_else(Timestamp::of_this_machine)
    }
}
