//! Reports a round: writes the statuses of the configs, and Events.

use std::time::Duration;

use log::{info, warn};

use super::condition::{self, Delegated, Judgement, Notice};
use super::context::{Context, Tried};
use super::entry::Published;
use super::events::Event;
use super::plan::{Plan, Reason, Verdict};
use super::problems::{Id, Problem, Subject};
use super::targets::Targets;
use super::{Failure, Outcome, status_path};
use crate::kube::{Client, Error};
use crate::prefix::Prefix;
use crate::resources::config::{CONFIGS, Config};
use crate::resources::node_config::NodeConfig;
use crate::schedule::RoundEnd;

/// Facts that reports are made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The configs as last read.
    pub configs: &'a [Config],
    /// The node configs as last read.
    pub node_configs: &'a [NodeConfig],
    /// The plan for them.
    pub plan: &'a Plan,
    /// The result of publishing.
    pub published: &'a Published,
    /// No other node publishes.
    pub are_peers_silent: bool,
}

/// Writes the statuses that changed, and leaves their Events for the end of the round.
///
/// # Errors
/// As [`Context::attempt`].
pub fn report(cx: &mut Context<'_>, facts: &Facts<'_>, targets: &mut Targets) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::READY;
    let all = facts.configs.iter().zip(&facts.plan.verdicts);
    let until = cx.step_ends();
    for (config, verdict) in cx.in_turn(all, |(config, _)| Subject::Config(Id::of(&config.metadata))) {
        if cx.host.now() >= until {
            outcome = outcome.and(Outcome::not_ready(RoundEnd::Soon));
            break;
        }
        let Some(mut judgement) = judge(config, verdict, facts, targets, cx.host.now()) else {
            outcome.is_ready = false;
            continue;
        };
        judgement.message = cx.clean(&judgement.message);
        judgement.failing.iter_mut().for_each(|what| *what = cx.clean(what));
        outcome.is_ready &= judgement.reason == Reason::Updated;
        let subject = Subject::Config(Id::of(&config.metadata));
        let delegated = delegated(config, verdict, targets);
        let Some(change) = condition::change(config, &judgement, &delegated, cx.time()) else {
            cx.problems.works(&subject);
            continue;
        };
        let path = status_path(CONFIGS, &config.metadata.name);
        let time = cx.time();
        let write = |client: &mut Client| {
            let stored: Config = client.merge_patch_returning(&path, &change.patch)?;
            if condition::change(&stored, &judgement, &delegated, time).is_some() {
                let what = "it is not stored as it was sent: an admission webhook changes it, or the CRDs are those of \
                            another release";
                return Err(Error::malformed("PATCH", &path, what.into()));
            }
            Ok(())
        };
        match cx.attempt(&subject, ToString::to_string, write)? {
            Tried::Done(()) => {
                log_transition(&config.metadata.name, change.transition.as_ref());
                targets.were_reported(&judgement.failing, cx.host.now());
                let events = change.events.into_iter().enumerate();
                cx.events.extend(events.map(|(at, notice)| event(config, at, notice)));
            }
            Tried::Overtaken => outcome = outcome.and(Outcome::not_ready(RoundEnd::Soon)),
            Tried::Refused(refused) => {
                if refused.is_new {
                    cx.events
                        .push(event(config, 0, unreported(&judgement, &refused.problem)));
                }
            }
        }
    }
    Ok(outcome)
}

fn event(config: &Config, at: usize, notice: Notice) -> Event {
    Event {
        kind: "IP6UpdateConfig",
        about: config.metadata.clone(),
        at,
        notice,
    }
}

/// Decides on the Ready condition of a config at `now`, in steady time; `None` while its targets are not settled (I8), or
/// if another node has reported it.
fn judge(
    config: &Config,
    verdict: &Verdict,
    facts: &Facts<'_>,
    targets: &mut Targets,
    now: Duration,
) -> Option<Judgement> {
    let published = facts.published;
    let (mut failures, mut are_known) = targets.failures(config, verdict, facts.are_peers_silent, now);
    // Others that publish know nothing of what this node cannot publish, and would contradict.
    for failing in published.failures.iter().filter(|_| facts.are_peers_silent) {
        let is_reported = || config.status.failing.iter().flatten().any(|what| *what == failing.what);
        if failing.is_retry_pending && !is_reported() {
            are_known = false;
        } else {
            failures.push(failing.clone());
        }
    }
    if failures.is_empty() && !are_known {
        return None;
    }
    let judgement = condition::judge(verdict, &failures, &facts.plan.remarks());
    // Nodes that do not publish have different words for it, but for what follows from the objects alone; and
    // whoever cannot publish has said more than that.
    let is_common =
        published.is_idle() && judgement.reason == Reason::NoPrefix && !names_node_config(config, facts.node_configs);
    let is_reported = condition::is_reported_not_ready(config) && !published.has_published();
    (!is_reported || is_common).then_some(judgement)
}

/// Whether a node has reported that it cannot publish in one of these.
fn names_node_config(config: &Config, node_configs: &[NodeConfig]) -> bool {
    let mut subjects = node_configs
        .iter()
        .map(|config| Subject::NodeConfig(Id::of(&config.metadata)));
    subjects.any(|subject| {
        let mut failing = config.status.failing.iter().flatten();
        failing.any(|what| what.starts_with(&format!("{subject}: ")))
    })
}

/// The delegated prefixes: what lingers stays if it is there. Those that the targets were written for stay when nothing
/// was written.
fn delegated(config: &Config, verdict: &Verdict, targets: &Targets) -> Delegated {
    let stored = &config.status.delegated_prefixes;
    let lingering = verdict.lingering.iter().filter(|prefix| stored.contains(prefix));
    let mut observed: Vec<Prefix> = verdict.delegated.iter().chain(lingering).copied().collect();
    observed.sort();
    debug_assert!(
        observed.is_sorted_by(|one, next| one < next),
        "what lingers is not delegated"
    );
    let mut with_prefix = verdict.targets.iter().filter(|desired| !desired.is_constant).peekable();
    let is_settled = with_prefix.peek().is_none() && verdict.oversized.is_empty();
    let has_written = with_prefix.any(|desired| targets.is_right(&desired.key));
    let is_written = verdict.keep.is_none() && (has_written || is_settled);
    Delegated {
        written: if is_written { observed.clone() } else { stored.clone() },
        observed: if verdict.keep.is_none() {
            observed
        } else {
            stored.clone()
        },
    }
}

/// The Event in place of a status that cannot be written.
fn unreported(judgement: &condition::Judgement, problem: &Problem) -> Notice {
    let condition::Judgement { reason, message, .. } = judgement;
    let note = format!("{reason}: {message}; its status cannot say so: {}", problem.text);
    condition::notice("Warning", "StatusRefused", &note)
}

fn log_transition(name: &str, transition: Option<&(Reason, String)>) {
    match transition {
        Some((Reason::Updated, message)) => info!("IP6UpdateConfig {name} is Ready: {message}"),
        Some((reason, message)) => warn!("IP6UpdateConfig {name} is not Ready: {reason}: {message}"),
        None => {}
    }
}
