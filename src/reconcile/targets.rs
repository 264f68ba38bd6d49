//! Reads the targets of a plan, and writes those that differ.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::info;

use super::condition::Failing;
use super::context::{Context, Tried};
use super::plan::Plan;
use super::problems::{Problem, Subject};
use super::{Failure, Outcome, fingerprint};
use crate::kube::Client;
use crate::limits::{CONTESTED_AFTER, CONTESTED_WITHIN, MAX_PLANNED, MAX_READ};
use crate::resources::config::Config;
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
    /// Whether a target that is new, or failed last time, was read first in the last round.
    began_with_other: bool,
}

/// State of a target when it last had its turn.
#[derive(Debug)]
enum State {
    /// As it was read; `None` for one that does not exist.
    Read(Option<Box<Held>>),
    /// It holds the desired list.
    Right,
    /// It could not be read or written, in this round or an earlier one.
    Failed { failing: Failing, is_retry_pending: bool },
}

/// Earlier rounds of a target, in steady time.
#[derive(Debug, Default)]
struct History {
    /// Hash of the desired content for which it was last found right, or written.
    right: Option<u64>,
    /// When somebody else changed it although it was right.
    changed_at: Vec<Duration>,
    /// Since when this node has read in the status that somebody else changes it.
    reported_since: Option<Duration>,
}

impl State {
    /// Notes that a round has passed.
    fn grow_old(&mut self) {
        if let State::Failed { is_retry_pending, .. } = self {
            *is_retry_pending = true;
        }
    }

    /// It failed in this round.
    fn failed(failing: Failing) -> Self {
        State::Failed {
            failing,
            is_retry_pending: false,
        }
    }
}

impl Targets {
    /// Reads the targets of the last plan. One that cannot be read is a failure of its own.
    ///
    /// # Errors
    /// As [`Context::attempt`].
    pub fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        // A target that is not reached in this round keeps its last state, but a list that was read then is outdated.
        self.states.retain(|_, state| !matches!(state, State::Read(_)));
        self.states.values_mut().for_each(State::grow_old);
        let until = cx.step_ends();
        for key in self.turns(cx) {
            // Whatever others put into the lists, they fit into memory together.
            if cx.host.now() >= until || self.held() >= MAX_PLANNED {
                break;
            }
            self.read_one(cx, key)?;
        }
        Ok(())
    }

    /// The number of elements of the lists that were read and are kept.
    fn held(&self) -> usize {
        let lists = self.states.values().map(|state| match state {
            State::Read(Some(held)) => held.list.len(),
            _ => 0,
        });
        lists.sum()
    }

    fn read_one(&mut self, cx: &mut Context<'_>, key: TargetKey) -> Result<(), Failure> {
        let (subject, now) = (Subject::Read(key.clone()), cx.host.now());
        let read = |client: &mut Client| client.within(MAX_READ, |client| self.api.read(client, &key, now));
        let state = match cx.attempt(&subject, |e| key.explain(e), read)? {
            Tried::Done(held) => State::Read(held.map(Box::new)),
            Tried::Overtaken => return Ok(()),
            Tried::Refused(refused) => State::Failed {
                failing: Failing::new(&subject, &refused.problem),
                is_retry_pending: refused.is_retry_pending,
            },
        };
        self.states.insert(key, state);
        Ok(())
    }

    /// The targets in the order of their turns: those that answered last time, then those that failed and new ones; in
    /// both, whoever has waited for longest is first. In every second round one of the latter begins, so that however
    /// slow the former are, it has its turn; and however many of the latter hang, the former have theirs.
    fn turns(&mut self, cx: &Context<'_>) -> Vec<TargetKey> {
        let subject = |key: &TargetKey| Subject::Read(key.clone());
        let all = cx.in_turn(self.keys.iter().cloned(), subject);
        let answered = |key: &TargetKey| {
            let subject = subject(key);
            cx.problems.sent_at(&subject).is_some() && !cx.problems.has(&subject)
        };
        let (answered, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(answered);
        self.began_with_other = !self.began_with_other && !others.is_empty();
        let last = others.split_off(usize::from(self.began_with_other));
        [others, answered, last].concat()
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
        let until = cx.step_ends();
        for desired in cx.in_turn(plan.targets(), |desired| Subject::Target(desired.key.clone())) {
            self.settle(cx, desired, until)?;
        }
        let states = plan.targets().map(|desired| self.states.get(&desired.key));
        let outcome = states.map(|state| match state {
            Some(State::Right) => Outcome::READY,
            Some(State::Failed { .. }) => Outcome::not_ready(RoundEnd::Quiet),
            Some(State::Read(_)) | None => Outcome::not_ready(RoundEnd::Soon),
        });
        Ok(outcome.fold(Outcome::READY, Outcome::and))
    }

    /// Makes one target hold what it should, if `until`, in steady time, is not over.
    fn settle(&mut self, cx: &mut Context<'_>, desired: &DesiredTarget, until: Duration) -> Result<(), Failure> {
        let key = &desired.key;
        let was_right_for = self.histories.get(key).and_then(|history| history.right);
        let held = match self.states.get(key) {
            Some(State::Read(held)) => held,
            // It was right for another plan.
            Some(State::Right) if was_right_for != Some(fingerprint_of(desired)) => {
                self.states.remove(key);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let subject = Subject::Target(key.clone());
        if let Some(problem) = unfit(held.as_deref(), desired, self.api.known(key.kind)) {
            cx.problems.fails(subject.clone(), &problem.text);
            let state = State::failed(Failing::new(&subject, &problem));
            self.states.insert(key.clone(), state);
            return Ok(());
        }
        let is_right = held.as_deref().is_some_and(|held| held.list.matches(desired));
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
        debug_assert!(
            held.as_deref().is_none_or(|held| !held.list.matches(&wanted)),
            "a target that is right is not written"
        );
        let write = |client: &mut Client| self.api.write(client, &wanted, held.as_deref());
        match cx.attempt(&subject, |e| key.explain(e), write)? {
            Tried::Done(list) => {
                match held {
                    Some(held) => info!("{key}: {} -> {list}", held.list),
                    None => info!("{key}: created with {list}"),
                }
                history.right = Some(fingerprint_of(desired));
                self.states.insert(key.clone(), State::Right);
            }
            // Changed, created or deleted since it was read.
            Tried::Overtaken => {}
            // It was read and differs, so it is wrong now, whether the write was tried again or not.
            Tried::Refused(refused) => {
                let failing = Failing::new(&subject, &refused.problem);
                self.states.insert(key.clone(), State::failed(failing));
            }
        }
        Ok(())
    }

    /// Whether it was read and found right, or written, when it last had its turn, and should hold the same still.
    pub fn is_right(&self, key: &TargetKey) -> bool {
        matches!(self.states.get(key), Some(State::Right))
    }

    /// The reason why it could not be read or written.
    pub fn failure(&self, key: &TargetKey) -> Option<&Failing> {
        match self.states.get(key) {
            Some(State::Failed { failing, .. }) => Some(failing),
            _ => None,
        }
    }

    /// Whether it failed in an earlier round, and was not tried in this one.
    pub fn is_retry_pending(&self, key: &TargetKey) -> bool {
        matches!(
            self.states.get(key),
            Some(State::Failed {
                is_retry_pending: true,
                ..
            })
        )
    }

    /// The planned targets that somebody else keeps changing, at `now`, in steady time. Once a status reports it, whichever
    /// node wrote that, the report stands for ten minutes: nodes see different changes, and must not contradict each
    /// other.
    pub fn contested(&mut self, configs: &[Config], plan: &Plan, now: Duration) -> BTreeSet<TargetKey> {
        let mut contested = BTreeSet::new();
        for (config, verdict) in configs.iter().zip(&plan.verdicts) {
            for DesiredTarget { key, .. } in &verdict.targets {
                let mut failing = config.status.failing.iter().flatten();
                let is_reported = failing.any(|reported| *reported == contest(key).what);
                let history = self.histories.entry(key.clone()).or_default();
                if history.is_contested(is_reported, now) {
                    contested.insert(key.clone());
                }
            }
        }
        contested
    }
}

impl History {
    /// The target was read at `now`, in steady time. If it was right before, should hold the same still, and does
    /// not, somebody else changed it.
    fn saw(&mut self, desired: &DesiredTarget, is_right: bool, now: Duration) {
        self.changed_at.retain(|at| is_recent(*at, now));
        let desired = fingerprint_of(desired);
        if !is_right && self.right == Some(desired) {
            self.changed_at.push(now);
            self.changed_at
                .drain(..self.changed_at.len().saturating_sub(CONTESTED_AFTER));
        }
        self.right = is_right.then_some(desired);
    }

    /// Whether to report that somebody else changes it, which a status does already if `is_reported`.
    fn is_contested(&mut self, is_reported: bool, now: Duration) -> bool {
        let since = self.reported_since.unwrap_or(now);
        let stands = is_recent(since, now) || !self.changed_at.is_empty();
        self.reported_since = (is_reported && stands).then_some(since);
        self.changed_at.len() >= CONTESTED_AFTER || self.reported_since.is_some()
    }
}

fn is_recent(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) < CONTESTED_WITHIN
}

fn fingerprint_of(desired: &DesiredTarget) -> u64 {
    fingerprint(&(&desired.items, &desired.lingering, &desired.record))
}

/// The failure of a target that somebody else keeps changing.
pub fn contest(key: &TargetKey) -> Failing {
    let text = format!(
        "somebody else changed it {CONTESTED_AFTER} times within ten minutes; k6u puts it right each time. Find out who \
         (kubectl get --show-managed-fields), and leave its list to k6u (docs/gitops.md)"
    );
    let kind = "somebody else changes it".into();
    Failing::new(&Subject::Target(key.clone()), &Problem { kind, text })
}

/// The reason why a target cannot be written as it is; `None` if it can.
fn unfit(held: Option<&Held>, desired: &DesiredTarget, api: Api) -> Option<Problem> {
    let key = &desired.key;
    let (kind, text) = match held {
        None if key.kind.is_created => return None,
        None => ("it does not exist", desired.create_first(api)),
        Some(held) if held.lacks_list => ("it lacks the list", key.lacks_list()),
        Some(held) => ("Cilium manages it", foreign_owner(held)?),
    };
    Some(Problem {
        kind: kind.into(),
        text,
    })
}

/// The reason why k6u must not write a group that exists; `None` if it may.
fn foreign_owner(held: &Held) -> Option<String> {
    let mut labels = held.metadata.labels.iter().flatten();
    let (label, _) = labels.find(|(key, _)| key.starts_with(CILIUMS_OWN))?;
    Some(format!(
        "Cilium manages this group itself (label {label}), so k6u does not write it; name another group"
    ))
}
