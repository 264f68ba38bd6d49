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
    known: BTreeMap<TargetKey, Known>,
    /// Whether a target that is new, or failed last time, was read first in the last round.
    began_with_other: bool,
}

/// Knowledge of one target; times are steady time.
#[derive(Debug, Default)]
struct Known {
    state: State,
    /// Hash of the desired content for which it was last found right, or written.
    right_for: Option<u64>,
    /// When somebody else changed it although it was right, within the last ten minutes.
    changed_at: Vec<Duration>,
    /// Since when this node has read in the status that somebody else changes it.
    reported_since: Option<Duration>,
}

/// State of a target when it last had its turn.
#[derive(Debug, Default)]
enum State {
    /// It had no turn yet, or what was read then is outdated.
    #[default]
    Unknown,
    /// As it was read; `None` for one that does not exist.
    Read(Option<Box<Held>>),
    /// It holds the desired list.
    Right,
    /// It could not be read or written, in this round or an earlier one.
    Failed { failing: Failing, is_retry_pending: bool },
}

impl State {
    /// Begins a round.
    fn age(&mut self) {
        match self {
            State::Read(_) => *self = State::Unknown,
            State::Failed { is_retry_pending, .. } => *is_retry_pending = true,
            State::Unknown | State::Right => {}
        }
    }

    /// It failed in this round.
    fn failed(subject: &Subject, problem: &Problem) -> Self {
        State::Failed {
            failing: Failing::new(subject, problem),
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
        self.known.values_mut().for_each(|known| known.state.age());
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
        let lists = self.known.values().map(|known| match &known.state {
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
        self.known.entry(key).or_default().state = state;
        Ok(())
    }

    /// The targets in the order of their turns: those that answered last time, then those that failed and new ones; in
    /// both, whoever has waited for longest is first. In every second round one of the latter begins, so that however
    /// slow the former are, it has its turn; and however many of the latter hang, the former have theirs.
    fn turns(&mut self, cx: &Context<'_>) -> Vec<TargetKey> {
        let subject = |key: &TargetKey| Subject::Read(key.clone());
        let all = cx.in_turn(self.known.keys().cloned(), subject);
        let answered = |key: &TargetKey| matches!(cx.problems.turn(&subject(key)), (false, Some(_)));
        let (answered, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(answered);
        self.began_with_other = !self.began_with_other && !others.is_empty();
        let last = others.split_off(usize::from(self.began_with_other));
        [others, answered, last].concat()
    }

    /// Takes over which targets there are. Returns whether all of them had their turn in [`Targets::read`].
    pub fn follow(&mut self, plan: &Plan) -> bool {
        let had_turn = plan.targets().all(|target| self.known.contains_key(&target.key));
        let mut before = std::mem::take(&mut self.known);
        let known = |target: &DesiredTarget| (target.key.clone(), before.remove(&target.key).unwrap_or_default());
        self.known = plan.targets().map(known).collect();
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
        let outcomes = self.known.values().map(|known| match known.state {
            State::Right => Outcome::READY,
            State::Failed { .. } => Outcome::not_ready(RoundEnd::Quiet),
            State::Read(_) | State::Unknown => Outcome::not_ready(RoundEnd::Soon),
        });
        Ok(outcomes.fold(Outcome::READY, Outcome::and))
    }

    /// Makes one target hold what it should, if `until`, in steady time, is not over.
    fn settle(&mut self, cx: &mut Context<'_>, desired: &DesiredTarget, until: Duration) -> Result<(), Failure> {
        let (key, hash) = (
            &desired.key,
            fingerprint(&(&desired.items, &desired.lingering, &desired.record)),
        );
        let known = self.known.entry(key.clone()).or_default();
        let held = match &mut known.state {
            State::Read(held) => held.as_deref(),
            state @ State::Right if known.right_for != Some(hash) => {
                *state = State::Unknown;
                return Ok(());
            }
            _ => return Ok(()),
        };
        let subject = Subject::Target(key.clone());
        if let Some(problem) = unfit(held, desired, self.api.known(key.kind)) {
            known.state = State::failed(&subject, &problem);
            cx.problems.fails(&subject, problem);
            return Ok(());
        }
        if held.is_some_and(|held| held.list.matches(desired)) {
            cx.problems.works(&subject);
            known.state = State::Right;
            known.right_for = Some(hash);
            return Ok(());
        }
        if known.right_for.take() == Some(hash) {
            // Somebody else changed it.
            known.changed_at.push(cx.host.now());
        }
        if cx.host.now() >= until {
            return Ok(());
        }
        let mut wanted = desired.clone();
        wanted.items = held.map_or(wanted.items, |held| held.list.with_lingering(desired));
        debug_assert!(
            held.is_none_or(|held| !held.list.matches(&wanted)),
            "a target that is right is not written"
        );
        match cx.attempt(
            &subject,
            |e| key.explain(e),
            |client| self.api.write(client, &wanted, held),
        )? {
            Tried::Done(list) => {
                match held {
                    Some(held) => info!("{key}: {} -> {list}", held.list),
                    None => info!("{key}: created with {list}"),
                }
                known.right_for = Some(hash);
                known.state = State::Right;
            }
            // Changed, created or deleted since it was read.
            Tried::Overtaken => {}
            // It was read and differs, so it is wrong now, whether the write was tried again or not.
            Tried::Refused(refused) => known.state = State::failed(&subject, &refused.problem),
        }
        Ok(())
    }

    fn state(&self, key: &TargetKey) -> &State {
        self.known.get(key).map_or(&State::Unknown, |known| &known.state)
    }

    /// Whether it was read and found right, or written, when it last had its turn, and should hold the same still.
    pub fn is_right(&self, key: &TargetKey) -> bool {
        matches!(self.state(key), State::Right)
    }

    /// The reason why it could not be read or written, and whether that was in an earlier round: then it was not tried in
    /// this one.
    pub fn failure(&self, key: &TargetKey) -> Option<(&Failing, bool)> {
        match self.state(key) {
            State::Failed {
                failing,
                is_retry_pending,
            } => Some((failing, *is_retry_pending)),
            _ => None,
        }
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
                let known = self.known.get_mut(key);
                if known.is_some_and(|known| known.is_contested(is_reported, now)) {
                    contested.insert(key.clone());
                }
            }
        }
        contested
    }
}

impl Known {
    /// Whether to report that somebody else changes it, which a status does already if `is_reported`.
    fn is_contested(&mut self, is_reported: bool, now: Duration) -> bool {
        let is_recent = |at: Duration| now.saturating_sub(at) < CONTESTED_WITHIN;
        self.changed_at.retain(|at| is_recent(*at));
        let since = self.reported_since.unwrap_or(now);
        let stands = is_recent(since) || !self.changed_at.is_empty();
        self.reported_since = (is_reported && stands).then_some(since);
        self.changed_at.len() >= CONTESTED_AFTER || self.reported_since.is_some()
    }
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
