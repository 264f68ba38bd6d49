//! Reports a round: writes the statuses of the configs, and Events.

use std::time::Duration;

use log::{info, warn};

use super::condition::{self, Delegated, Failing, Judgement, Notice, StatusChange};
use super::context::{Context, Tried};
use super::entry::Published;
use super::events::Event;
use super::plan::{Plan, Reason, Verdict};
use super::problems::{Id, Problem, Subject};
use super::targets::Targets;
use super::{Failure, Outcome, status_path};
use crate::kube::{Client, Error};
use crate::limits::SILENT_AFTER;
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
    /// Another node has an entry, so it may judge targets as well.
    pub has_peers: bool,
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
        let subject = Subject::Config(Id::of(&config.metadata));
        // Where a status is refused, the nodes that publish may not be able to either: they come back first.
        let is_theirs = match cx.problems.turn(&subject) {
            (true, Some(sent_at)) => !facts.published.is_any_published() && cx.host.now() < sent_at + SILENT_AFTER,
            _ => false,
        };
        let judgement = judge(config, verdict, facts, targets, cx.host.now());
        let Some(mut judgement) = judgement.filter(|_| !is_theirs) else {
            outcome.is_ready = false;
            continue;
        };
        judgement.message = cx.clean(&judgement.message);
        judgement.failing.iter_mut().for_each(|what| *what = cx.clean(what));
        outcome.is_ready &= judgement.reason == Reason::Updated;
        let delegated = delegated(config, verdict, targets);
        let Some(change) = condition::change(config, &judgement, &delegated, cx.time()) else {
            cx.problems.works(&subject);
            continue;
        };
        match write(cx, config, &judgement, &delegated, &change)? {
            Tried::Done(()) => {
                log_transition(&config.metadata.name, change.transition.as_ref());
                targets.were_reported(config, &judgement.failing, cx.host.now());
                let events = change.events.into_iter().enumerate();
                cx.events.extend(events.map(|(at, notice)| event(config, at, notice)));
            }
            Tried::Overtaken => outcome = outcome.and(Outcome::not_ready(RoundEnd::Soon)),
            Tried::Refused(refused) => {
                if refused.is_new {
                    let notice = condition::notice("Warning", "StatusRefused", &refused.problem.text);
                    cx.events.push(event(config, 0, notice));
                }
            }
        }
    }
    Ok(outcome)
}

/// Writes the status of a config.
fn write(
    cx: &mut Context<'_>,
    config: &Config,
    judgement: &Judgement,
    delegated: &Delegated,
    change: &StatusChange,
) -> Result<Tried<()>, Failure> {
    let Judgement {
        reason,
        message,
        failing,
    } = judgement;
    let explain = |e: &Error| {
        let Problem { kind, text } = Problem::met(e);
        Problem {
            kind: format!("{kind} of {reason}"),
            text: format!("{text}; the status should say {reason}: {message}"),
        }
    };
    let path = status_path(CONFIGS, &config.metadata.name);
    let time = cx.time();
    let request = |client: &mut Client| {
        let stored: Config = client.merge_patch_returning(&path, &change.patch)?;
        if condition::change(&stored, judgement, delegated, time).is_some() {
            let what = "it is not stored as it was sent: an admission webhook changes it, or the CRDs are those of \
                        another release";
            return Err(Error::malformed("PATCH", &path, what.into()));
        }
        Ok(())
    };
    let subject = Subject::Config(Id::of(&config.metadata));
    cx.attempt(&subject, &(reason, failing, &delegated.written), explain, request)
}

fn event(config: &Config, at: usize, notice: Notice) -> Event {
    Event {
        kind: "IP6UpdateConfig",
        about: config.metadata.clone(),
        at,
        notice,
    }
}

/// Decides on the Ready condition of a config at `now`, in steady time; `None` while its targets are not settled (I8),
/// another node has reported it, or its prefixes may come back (I5).
fn judge(
    config: &Config,
    verdict: &Verdict,
    facts: &Facts<'_>,
    targets: &mut Targets,
    now: Duration,
) -> Option<Judgement> {
    let (mut failures, are_known) = targets.failures(config, verdict, facts.has_peers, now);
    let (unpublished, are_all_known) = unpublished(config, facts);
    failures.extend(unpublished);
    let is_settled = are_known && are_all_known || !failures.is_empty();
    let judgement = is_settled.then(|| condition::judge(verdict, &failures, &facts.plan.remarks()));
    let may_come_back = !verdict.lingering.is_empty() && facts.published.has_published();
    judgement.filter(|judgement| judgement.reason != Reason::NoPrefix || !may_come_back)
}

/// Failures of nodes to publish. A node that publishes knows nothing of those of others, and would contradict them: so
/// each reports its own only while no other publishes. What the status reports stands, as long as the object is there,
/// until a node that publishes knows better. Also returns whether that is all: a failure that is not tried again yet, and is
/// not reported, may have ended by now.
fn unpublished(config: &Config, facts: &Facts<'_>) -> (Vec<Failing>, bool) {
    let published = facts.published;
    let stored = config.status.failing.as_deref().unwrap_or_default();
    let is_reported = |failing: &&Failing| stored.contains(&failing.what);
    let pending: Vec<&Failing> = published.pending.iter().filter(is_reported).collect();
    let are_known = !facts.are_peers_silent || pending.len() == published.pending.len();
    let own = published
        .failures
        .iter()
        .chain(pending)
        .filter(|_| facts.are_peers_silent);
    let mut failures: Vec<Failing> = own.cloned().collect();
    let knows_better = |name: &String| match published.tries.get(name) {
        Some(one) => one.is_published(),
        None => published.is_any_published(),
    };
    let unknown = facts.node_configs.iter().map(|config| &config.metadata);
    for metadata in unknown.filter(|metadata| !knows_better(&metadata.name)) {
        let subject = Subject::NodeConfig(Id::of(metadata));
        for what in stored {
            if Failing::is_about(what, &subject) && failures.iter().all(|known| known.what != *what) {
                failures.push(Failing::reported(what));
            }
        }
    }
    failures.sort_by(|one, other| one.what.cmp(&other.what));
    (failures, are_known)
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
    let is_settled = with_prefix.peek().is_none() && verdict.oversized.is_empty() && verdict.contested.is_empty();
    let has_written = with_prefix.any(|desired| targets.is_right(&desired.key));
    let is_written = verdict.keep.is_none() && (has_written || is_settled);
    Delegated {
        written: if is_written { observed.clone() } else { stored.clone() },
        observed: verdict.keep.is_none().then_some(observed),
    }
}

fn log_transition(name: &str, transition: Option<&(Reason, String)>) {
    match transition {
        Some((Reason::Updated, message)) => info!("IP6UpdateConfig {name} is Ready: {message}"),
        Some((reason, message)) => warn!("IP6UpdateConfig {name} is not Ready: {reason}: {message}"),
        None => {}
    }
}
