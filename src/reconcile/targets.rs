//! The targets: reading what they hold, and the writes that make it right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::info;

use super::condition::Failing;
use super::context::{Context, Tried};
use super::plan::Plan;
use super::problems::{Problem, Problems, Subject};
use super::{Failure, Outcome};
use crate::kube::Client;
use crate::limits::{CONTESTED_AFTER, CONTESTED_WITHIN, MAX_READ, TARGETS_TIME};
use crate::resources::targets::{Api, DesiredTarget, Held, TargetApi, TargetKey};
use crate::schedule::RoundEnd;

/// Cilium keeps groups with such a label itself, from outside sources (Cilium, `extgrp.cilium.io/`).
const CILIUMS_OWN: &str = "extgrp.cilium.io/";

/// The targets of the last plan, and what is known of each.
#[derive(Debug, Default)]
pub struct Targets {
    api: TargetApi,
    keys: Vec<TargetKey>,
    states: BTreeMap<TargetKey, State>,
    histories: BTreeMap<TargetKey, History>,
}

/// What became of a target in this round. One that was not reached has none.
#[derive(Debug)]
enum State {
    /// As it was read; `None` for one that does not exist.
    Read(Option<Held>),
    /// It holds what it should.
    Right,
    /// It could not be read or written.
    Failed(Failing),
}

/// What happened to a target in earlier rounds, in steady time.
#[derive(Debug, Default)]
struct History {
    /// When it was last its turn to be read.
    tried_at: Option<Duration>,
    /// What it had to hold when it was last found right or written.
    right: Option<DesiredTarget>,
    /// When somebody else changed it although it was right.
    changed_at: Vec<Duration>,
    /// Since when it is reported that somebody else changes it: another node may have seen what this one has not.
    reported_at: Option<Duration>,
}

impl Targets {
    /// Reads the targets of the last plan. One that cannot be read is a failure of its own.
    ///
    /// # Errors
    /// As [`Context::attempt`].
    pub fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.states.clear();
        let until = cx.host.now() + TARGETS_TIME;
        for key in self.turns(cx.problems) {
            let (subject, now) = (Subject::Read(key.clone()), cx.host.now());
            if now >= until {
                break;
            }
            self.histories.entry(key.clone()).or_default().tried_at = Some(now);
            let read = |client: &mut Client| client.within(MAX_READ, |client| self.api.read(client, &key, now));
            let read = cx.attempt(&subject, |e| key.explain(e), read)?;
            match read {
                Tried::Done(held) => self.states.insert(key.clone(), State::Read(held)),
                Tried::Overtaken => None,
                Tried::Refused(refused) => {
                    let failing = Failing::new(&subject, &refused.problem);
                    self.states.insert(key.clone(), State::Failed(failing))
                }
            };
        }
        Ok(())
    }

    /// In which order they are read: those that answered last time and the others take turns, and among these whoever
    /// has waited for longest is first. So neither many targets nor some that hang keep any from its turn.
    fn turns(&self, problems: &Problems) -> Vec<TargetKey> {
        let tried_at = |key: &TargetKey| self.histories.get(key).and_then(|history| history.tried_at);
        let answered = |key: &TargetKey| tried_at(key).is_some() && !problems.has(&Subject::Read(key.clone()));
        let mut keys = self.keys.clone();
        keys.sort_by_key(tried_at);
        let (answered, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(answered);
        let count = answered.len().max(others.len());
        (0..count)
            .flat_map(|at| [answered.get(at).cloned(), others.get(at).cloned()])
            .flatten()
            .collect()
    }

    /// Takes over which targets there are. Returns whether all of them had their turn in [`Targets::read`].
    pub fn follow(&mut self, plan: &Plan) -> bool {
        let planned: BTreeSet<&TargetKey> = plan.targets().map(|target| &target.key).collect();
        let had_turn = plan.targets().all(|target| self.keys.contains(&target.key));
        self.states.retain(|key, _| planned.contains(key));
        self.histories.retain(|key, _| planned.contains(key));
        self.keys = plan.targets().map(|target| target.key.clone()).collect();
        had_turn
    }

    /// Writes the targets that were read and differ.
    ///
    /// # Errors
    /// As [`Context::attempt`].
    pub fn write(&mut self, cx: &mut Context<'_>, plan: &Plan) -> Result<Outcome, Failure> {
        let mut desired: Vec<&DesiredTarget> = plan.targets().collect();
        desired.sort_by_key(|desired| cx.problems.has(&Subject::Target(desired.key.clone())));
        let until = cx.host.now() + TARGETS_TIME;
        for desired in desired {
            self.settle(cx, desired, until)?;
        }
        let states = plan.targets().map(|desired| self.states.get(&desired.key));
        let outcome = states.map(|state| match state {
            Some(State::Right) => Outcome::READY,
            Some(State::Failed(_)) => Outcome::not_ready(RoundEnd::Quiet),
            Some(State::Read(_)) | None => Outcome::not_ready(RoundEnd::Soon),
        });
        Ok(outcome.fold(Outcome::READY, Outcome::and))
    }

    /// Makes one target hold what it should, if `until`, in steady time, is not over.
    fn settle(&mut self, cx: &mut Context<'_>, desired: &DesiredTarget, until: Duration) -> Result<(), Failure> {
        let key = &desired.key;
        let Some(State::Read(held)) = self.states.get(key) else {
            return Ok(());
        };
        let subject = Subject::Target(key.clone());
        if let Some(text) = unfit(held.as_ref(), desired, self.api.known(key.kind)) {
            cx.problems.fails(subject.clone(), &text);
            let kind = "it is not k6u's to write".into();
            let failing = Failing::new(&subject, &Problem { kind, text });
            self.states.insert(key.clone(), State::Failed(failing));
            return Ok(());
        }
        let is_right = held.as_ref().is_some_and(|held| held.list.matches(desired));
        let history = self.histories.entry(key.clone()).or_default();
        history.saw(desired, is_right, cx.host.now());
        if is_right {
            cx.problems.works(&subject);
            self.states.insert(key.clone(), State::Right);
            return Ok(());
        }
        if cx.host.now() >= until {
            return Ok(());
        }
        let mut wanted = desired.clone();
        wanted.items = held
            .as_ref()
            .map_or(wanted.items, |held| held.list.with_lingering(desired));
        let write = |client: &mut Client| self.api.write(client, &wanted, held.as_ref());
        match cx.attempt(&subject, |e| key.explain(e), write)? {
            Tried::Done(list) => {
                match held {
                    Some(held) => info!("{key}: {} -> {list}", held.list),
                    None => info!("{key}: created with {list}"),
                }
                history.right = Some(desired.clone());
                self.states.insert(key.clone(), State::Right);
            }
            // Changed, created or deleted since it was read.
            Tried::Overtaken => {}
            Tried::Refused(refused) => {
                let failing = Failing::new(&subject, &refused.problem);
                self.states.insert(key.clone(), State::Failed(failing));
            }
        }
        Ok(())
    }

    /// Whether it was read and found right, or written, in this round.
    pub fn is_right(&self, key: &TargetKey) -> bool {
        matches!(self.states.get(key), Some(State::Right))
    }

    /// Why it could not be read or written.
    pub fn failure(&self, key: &TargetKey) -> Option<&Failing> {
        match self.states.get(key) {
            Some(State::Failed(failing)) => Some(failing),
            _ => None,
        }
    }

    /// How often somebody else changed it of late: as far as this node saw, but once at least if that is reported.
    pub fn contests(&mut self, key: &TargetKey, is_reported: bool, now: Duration) -> usize {
        let Some(history) = self.histories.get_mut(key) else {
            return 0;
        };
        history.reported_at = is_reported.then(|| history.reported_at.unwrap_or(now));
        let is_lately = history
            .reported_at
            .is_some_and(|at| now.saturating_sub(at) < CONTESTED_WITHIN);
        history.changed_at.len().max(usize::from(is_lately))
    }
}

impl History {
    /// The target was read at `now`, in steady time. If it was right before, should hold the same still, and does
    /// not, somebody else changed it.
    fn saw(&mut self, desired: &DesiredTarget, is_right: bool, now: Duration) {
        self.changed_at.retain(|at| now.saturating_sub(*at) < CONTESTED_WITHIN);
        if !is_right && self.right.as_ref() == Some(desired) {
            self.changed_at.push(now);
            self.changed_at
                .drain(..self.changed_at.len().saturating_sub(CONTESTED_AFTER));
        }
        self.right = is_right.then(|| desired.clone());
    }
}

/// Why a target cannot be written as it is; `None` if it can.
fn unfit(held: Option<&Held>, desired: &DesiredTarget, api: Api) -> Option<String> {
    let key = &desired.key;
    match held {
        None if key.kind.is_created => None,
        None => Some(desired.create_first(api)),
        Some(held) if held.lacks_list => Some(key.lacks_list()),
        Some(held) => foreign_owner(held),
    }
}

/// Why a group that exists is not k6u's to write; `None` if it is.
fn foreign_owner(held: &Held) -> Option<String> {
    let mut labels = held.metadata.labels.iter().flatten();
    let (label, _) = labels.find(|(key, _)| key.starts_with(CILIUMS_OWN))?;
    Some(format!(
        "Cilium manages this group itself (label {label}), so k6u does not write it; name another group"
    ))
}
