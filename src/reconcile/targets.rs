//! Reads the targets of a plan, and writes those that differ.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::info;

use super::condition::{self, Failing};
use super::context::{Context, Tried};
use super::plan::{self, Plan, Verdict};
use super::problems::{Id, Problem, Subject};
use super::{Failure, Outcome, fingerprint};
use crate::kube::objects::Metadata;
use crate::kube::{Client, Error};
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
    /// The last plan has something for it.
    is_planned: bool,
    state: State,
    /// Hash of the desired content for which it was last found right, or written.
    right_for: Option<u64>,
    /// When somebody else changed it although it was right, within the last ten minutes.
    changed_at: Vec<Duration>,
    /// Hash of the version of its spec that was last read, and when that was new.
    version: (u64, Duration),
    /// Its failure that this node reported for a config, or has last read in its status, and when.
    reported: Option<(Id, String, Duration)>,
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
    /// It could not be read or written.
    Failed(Failing),
}

impl Targets {
    /// Reads the targets of the last plan. One that cannot be read is a failure of its own.
    ///
    /// # Errors
    /// As [`Context::attempt`].
    pub fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        for known in self.known.values_mut() {
            if matches!(known.state, State::Read(_)) {
                known.state = State::Unknown;
            }
        }
        let until = cx.step_ends();
        for key in self.turns(cx) {
            // Whatever others put into the lists, they fit into memory together.
            if cx.host.now() >= until || self.held() >= MAX_PLANNED {
                break;
            }
            self.read_one(cx, &key)?;
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

    fn read_one(&mut self, cx: &mut Context<'_>, key: &TargetKey) -> Result<(), Failure> {
        let (subject, now) = (Subject::Read(key.clone()), cx.host.now());
        let read = |client: &mut Client| client.within(MAX_READ, |client| self.api.read(client, key, now));
        let known = self.known.entry(key.clone()).or_default();
        match cx.attempt(&subject, &(), |e| Problem::explained(e, key.explain(e)), read)? {
            Tried::Done(held) => {
                let version = fingerprint(&held.as_ref().map(|held| version(&held.metadata)));
                if known.version.0 != version {
                    known.version = (version, now);
                }
                known.state = State::Read(held.map(Box::new));
            }
            Tried::Overtaken => {}
            Tried::Refused(refused) => known.state = State::Failed(Failing::new(&subject, &refused.problem)),
        }
        Ok(())
    }

    /// The targets in the order of their turns: those that answered last time, then those that failed and new ones; in
    /// both, whoever has waited for longest is first. In every second round one of the latter begins, so that however
    /// slow the former are, it has its turn; and however many of the latter hang, the former have theirs.
    fn turns(&mut self, cx: &Context<'_>) -> Vec<TargetKey> {
        let subject = |key: &TargetKey| Subject::Read(key.clone());
        let planned = self.known.iter().filter(|(_, known)| known.is_planned);
        let all = cx.in_turn(planned.map(|(key, _)| key.clone()), subject);
        let answered = |key: &TargetKey| matches!(cx.problems.turn(&subject(key)), (false, Some(_)));
        let (answered, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(answered);
        self.began_with_other = !self.began_with_other && !others.is_empty();
        let last = others.split_off(usize::from(self.began_with_other));
        [others, answered, last].concat()
    }

    /// Takes over which targets there are. Returns whether all that are planned had their turn in [`Targets::read`].
    pub fn follow(&mut self, configs: &[Config], plan: &Plan) -> bool {
        let claimed: BTreeSet<&TargetKey> = configs.iter().flat_map(plan::claims).collect();
        let planned: BTreeSet<&TargetKey> = plan.targets().map(|target| &target.key).collect();
        let had_turns = planned.iter().all(|key| self.is_planned(key));
        self.known.retain(|key, _| claimed.contains(key));
        for key in &planned {
            self.known.entry((*key).clone()).or_default();
        }
        for (key, known) in &mut self.known {
            known.is_planned = planned.contains(key);
            if !known.is_planned {
                (known.state, known.reported) = (State::Unknown, None);
            }
        }
        had_turns
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
        let planned = self.known.values().filter(|known| known.is_planned);
        let outcomes = planned.map(|known| match known.state {
            State::Right => Outcome::READY,
            State::Failed(_) => Outcome::not_ready(RoundEnd::Quiet),
            State::Read(_) | State::Unknown => Outcome::not_ready(RoundEnd::Soon),
        });
        Ok(outcomes.fold(Outcome::READY, Outcome::and))
    }

    /// Makes one target hold what it should, if `until`, in steady time, is not over.
    fn settle(&mut self, cx: &mut Context<'_>, desired: &DesiredTarget, until: Duration) -> Result<(), Failure> {
        let key = &desired.key;
        let hash = fingerprint(&(&desired.items, &desired.lingering, &desired.record));
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
            known.state = State::Failed(Failing::new(&subject, &problem));
            cx.problems.fails(&subject, problem);
            return Ok(());
        }
        if held.is_some_and(|held| held.list.matches(desired)) {
            cx.problems.works(&subject);
            known.is_right_for(hash);
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
        let write = |client: &mut Client| self.api.write(client, &wanted, held);
        let explain = |e: &Error| Problem::explained(e, key.explain(e));
        let object = held.map(|held| &held.metadata.uid);
        match cx.attempt(&subject, &(object, hash), explain, write)? {
            Tried::Done(list) => {
                match held {
                    Some(held) => info!("{key}: {} -> {list}", held.list),
                    None => info!("{key}: created with {list}"),
                }
                known.is_right_for(hash);
            }
            // Changed, created or deleted since it was read.
            Tried::Overtaken => {}
            // It was read and differs, so it is wrong now, whether the write was tried again or not.
            Tried::Refused(refused) => known.state = State::Failed(Failing::new(&subject, &refused.problem)),
        }
        Ok(())
    }

    /// Whether the last plan has something for it.
    pub fn is_planned(&self, key: &TargetKey) -> bool {
        self.known.get(key).is_some_and(|known| known.is_planned)
    }

    /// Whether it was read and found right, or written, when it last had its turn, and should hold the same still.
    pub fn is_right(&self, key: &TargetKey) -> bool {
        let known = self.known.get(key);
        known.is_some_and(|known| matches!(known.state, State::Right))
    }

    /// The failures of a config's targets to report at `now`, in steady time, and whether all is known of them.
    ///
    /// Nodes see different failures and changes, and must not contradict each other: see [`Known::failure`].
    pub fn failures(
        &mut self,
        config: &Config,
        verdict: &Verdict,
        has_peers: bool,
        now: Duration,
    ) -> (Vec<Failing>, bool) {
        let may_others_know = condition::is_judged(config) && has_peers;
        let id = Id::of(&config.metadata);
        let stored = config.status.failing.as_deref().unwrap_or_default();
        let (mut failures, mut are_known) = (Vec::new(), true);
        for key in verdict.targets.iter().map(|desired| &desired.key) {
            let contest = contest(key);
            let mut reported = stored.iter().filter(|what| Failing::is_about(what, key));
            let known = self.known.entry(key.clone()).or_default();
            let met = reported.clone().find(|what| **what != contest.what);
            let (failure, is_known) = known.failure(&id, met, may_others_know, now);
            failures.extend(failure);
            are_known &= is_known;
            if known.is_contested(reported.any(|what| *what == contest.what), now) {
                failures.push(contest);
            }
        }
        (failures, are_known)
    }

    /// A status reports these failures, at `now`, in steady time.
    pub fn were_reported(&mut self, config: &Config, failing: &[String], now: Duration) {
        for known in self.known.values_mut() {
            if let State::Failed(own) = &known.state
                && failing.contains(&own.what)
            {
                known.reported = Some((Id::of(&config.metadata), own.what.clone(), now));
            }
        }
    }
}

impl Known {
    fn is_right_for(&mut self, hash: u64) {
        self.state = State::Right;
        self.right_for = Some(hash);
        self.reported = None;
    }

    /// The failure of it to report at `now`, in steady time, and whether that is all. `stored` is the one that the status
    /// reports: it stands until this node knows better. If one that this node has reported is reported no more, another
    /// node does know better, or met another failure; then this one reports it again after ten minutes at the earliest,
    /// unless no other node can have judged it.
    fn failure(
        &mut self,
        config: &Id,
        stored: Option<&String>,
        may_others_know: bool,
        now: Duration,
    ) -> (Option<Failing>, bool) {
        let own = match &self.state {
            State::Right => return (None, true),
            State::Unknown | State::Read(_) => return (stored.map(|what| Failing::reported(what)), false),
            State::Failed(own) => own,
        };
        if stored.is_some_and(|what| *what == own.what) {
            self.reported = Some((config.clone(), own.what.clone(), now));
        }
        let is_same =
            |(of, what, at): &(Id, String, Duration)| of == config && *what == own.what && is_recent(*at, now);
        if !may_others_know || !self.reported.as_ref().is_some_and(is_same) {
            return (Some(own.clone()), true);
        }
        let with_words = |what: &String| Failing {
            what: what.clone(),
            text: own.text.clone(),
        };
        (stored.map(with_words), stored.is_some())
    }

    /// Whether to report at `now`, in steady time, that somebody else keeps changing it. Once a status does, whichever node
    /// wrote that, the report stands until the spec has not changed for ten minutes.
    fn is_contested(&mut self, is_reported: bool, now: Duration) -> bool {
        self.changed_at.retain(|at| is_recent(*at, now));
        self.changed_at.len() >= CONTESTED_AFTER || is_reported && is_recent(self.version.1, now)
    }
}

/// What changes whenever somebody changes the spec. Aggregated APIs may have no generation.
fn version(metadata: &Metadata) -> (i64, &str) {
    match metadata.generation {
        0 => (0, &metadata.resource_version),
        generation => (generation, ""),
    }
}

fn is_recent(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) < CONTESTED_WITHIN
}

/// The failure of a target that somebody else keeps changing.
fn contest(key: &TargetKey) -> Failing {
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
