//! Reports a round: writes the statuses of the configs, and Events.

use std::time::Duration;

use log::{info, warn};
use serde_json::json;

use super::condition::{self, Delegated, Judgement, Notice};
use super::context::{Context, Tried};
use super::entry::Published;
use super::plan::{Plan, Reason, Verdict};
use super::problems::{Problem, Subject};
use super::targets::Targets;
use super::{Failure, Outcome, status_path};
use crate::kube::objects::Metadata;
use crate::limits::STEP_TIME;
use crate::prefix::Prefix;
use crate::resources::GROUP;
use crate::resources::config::{CONFIGS, Config};
use crate::resources::node_config::NodeConfig;
use crate::schedule::RoundEnd;

/// Events about cluster-scoped objects belong in this namespace (Kubernetes, pkg/apis/core/validation/events.go).
///
/// Of core/v1, not events.k8s.io/v1: kubectl and others sort Events by lastTimestamp, which that refuses.
const EVENTS: &str = "/api/v1/namespaces/default/events";
/// The name of an object has at most this many characters (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// A reporting instance has at most this many bytes (Kubernetes, pkg/apis/core/validation/events.go).
const MAX_INSTANCE: usize = 128;

/// What reports are made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The configs as last read.
    pub configs: &'a [Config],
    /// What was planned for them.
    pub plan: &'a Plan,
    /// What became of the targets.
    pub targets: &'a Targets,
    /// What this node could publish.
    pub published: &'a Published,
    /// No other node publishes.
    pub are_peers_silent: bool,
}

/// How reporting went.
#[derive(Clone, Copy, Debug)]
pub struct Reported {
    /// What is left to do, and whether all configs are Ready.
    pub outcome: Outcome,
    /// A status could not be written.
    pub was_refused: bool,
}

/// Writes the statuses that changed, then their Events.
///
/// # Errors
/// As [`Context::attempt`].
pub fn report(cx: &mut Context<'_>, facts: &Facts<'_>) -> Result<Reported, Failure> {
    let mut reported = Reported {
        outcome: Outcome::READY,
        was_refused: false,
    };
    let mut events = Vec::new();
    let mut all: Vec<_> = facts.configs.iter().zip(&facts.plan.verdicts).collect();
    // One that hangs must not keep the others waiting.
    all.sort_by_key(|(config, _)| cx.problems.has(&Subject::Config(config.metadata.name.clone())));
    let until = cx.host.now() + STEP_TIME;
    for (config, verdict) in all {
        if cx.host.now() >= until {
            reported.outcome = reported.outcome.and(Outcome::not_ready(RoundEnd::Soon));
            break;
        }
        let Some(mut judgement) = judge(config, verdict, facts, cx.host.now()) else {
            reported.outcome.is_ready = false;
            continue;
        };
        judgement.message = cx.clean(&judgement.message);
        judgement.failing.iter_mut().for_each(|what| *what = cx.clean(what));
        reported.outcome.is_ready &= judgement.reason == Reason::Updated;
        let subject = Subject::Config(config.metadata.name.clone());
        let delegated = delegated(config, verdict, facts.targets);
        let Some(change) = condition::change(config, &judgement, &delegated, cx.time()) else {
            cx.problems.works(&subject);
            continue;
        };
        let path = status_path(CONFIGS, &config.metadata.name);
        let write = |client: &mut crate::kube::Client| client.merge_patch(&path, &change.patch);
        match cx.attempt(&subject, ToString::to_string, write)? {
            Tried::Done(()) => {
                log_transition(&config.metadata.name, change.transition.as_ref());
                events.extend(
                    change
                        .events
                        .into_iter()
                        .enumerate()
                        .map(|event| (&config.metadata, event)),
                );
            }
            Tried::Overtaken => reported.outcome = reported.outcome.and(Outcome::not_ready(RoundEnd::Soon)),
            Tried::Refused(refused) => {
                reported.was_refused |= !refused.is_retry_pending;
                if refused.is_new {
                    events.push((&config.metadata, (0, unreported(&judgement, &refused.problem))));
                }
            }
        }
    }
    for (about, (at, notice)) in events {
        send_event(cx, "IP6UpdateConfig", about, at, &notice);
    }
    Ok(reported)
}

/// What to say of a config; `None` as long as its targets are not settled, or if others have said it.
fn judge(config: &Config, verdict: &Verdict, facts: &Facts<'_>, now: Duration) -> Option<Judgement> {
    let Facts { targets, published, .. } = facts;
    let keys = || verdict.targets.iter().map(|desired| &desired.key);
    // Others that publish know nothing of what this node cannot publish, and would contradict.
    let mut failures = match facts.are_peers_silent && !published.is_retry_pending {
        true => published.failures.clone(),
        false => Vec::new(),
    };
    // What failed before may work by now: another node may have said so.
    let is_retry_pending = keys().any(|key| targets.is_retry_pending(key));
    if is_retry_pending && !condition::is_reported_not_ready(config) {
        return None;
    }
    failures.extend(keys().filter_map(|key| targets.failure(key).cloned()));
    // I8: what was not reached says nothing.
    if failures.is_empty() && !keys().all(|key| targets.is_right(key)) {
        return None;
    }
    failures.extend(keys().filter_map(|key| targets.contest(key, now)));
    let judgement = condition::judge(verdict, &failures, &facts.plan.remarks());
    // Nodes that do not publish have different words for it, but for what follows from the objects alone; and
    // whoever cannot publish has said more than that.
    let is_common = published.is_idle && judgement.reason == Reason::NoPrefix && !names_node_config(config);
    let is_reported = condition::is_reported_not_ready(config) && !published.has_published();
    (!is_reported || is_common).then_some(judgement)
}

/// Whether a node has reported that it cannot publish.
fn names_node_config(config: &Config) -> bool {
    let mut failing = config.status.failing.iter().flatten();
    failing.any(|what| what.starts_with("IP6UpdateNodeConfig "))
}

/// The delegated prefixes: what lingers stays if it is there. Those that the targets were written for stay when nothing
/// was written.
fn delegated(config: &Config, verdict: &Verdict, targets: &Targets) -> Delegated {
    let stored = &config.status.delegated_prefixes;
    let lingering = verdict.lingering.iter().filter(|prefix| stored.contains(prefix));
    let mut observed: Vec<Prefix> = verdict.delegated.iter().chain(lingering).copied().collect();
    observed.sort();
    let has_written = verdict.targets.iter().any(|desired| targets.is_right(&desired.key));
    let is_settled = verdict.targets.is_empty() && verdict.oversized.is_empty();
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

/// What a status should say that cannot be written.
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

/// Reports that this node cannot publish in an IP6UpdateNodeConfig: its status cannot say so.
pub fn warn_of_node_config(cx: &mut Context<'_>, config: &NodeConfig, text: &str) {
    let notice = condition::notice("Warning", "PublishFailed", text);
    send_event(cx, "IP6UpdateNodeConfig", &config.metadata, 0, &notice);
}

/// Sends the `at`-th Event about a change of an object. One that is lost is no reason to fail, or to wait: the
/// status says the same.
fn send_event(cx: &mut Context<'_>, kind: &str, about: &Metadata, at: usize, notice: &Notice) {
    let now = cx.time().to_string();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(about, at, cx.host.random())},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": "k6u"},
        "reportingComponent": format!("{GROUP}/k6u"),
        "reportingInstance": cut(cx.reporter, MAX_INSTANCE),
        "reason": notice.reason,
        "type": notice.kind,
        "message": cx.clean(&notice.note),
        "involvedObject": {
            "apiVersion": format!("{GROUP}/v1"),
            "kind": kind,
            "name": about.name,
            "uid": about.uid,
        },
    });
    // A connection that is lost shows at the next request.
    let _ = cx.attempt(&Subject::Events, ToString::to_string, |client| {
        client.create(EVENTS, &event)
    });
}

/// A name for the `at`-th Event about a change of an object.
///
/// lastTimestamp has whole seconds, and kubectl leaves Events of the same second in the order of their names. So
/// the name goes by the resourceVersion from which the change was made: of two changes the later one has the
/// higher, whichever nodes made them.
fn event_name(about: &Metadata, at: usize, random: f64) -> String {
    let version: u64 = about.resource_version.parse().unwrap_or(0);
    let random = (random * f64::from(0x10_0000)) as u32;
    let order = format!(".{version:016x}.{at}.{random:05x}");
    let start = cut(&about.name, MAX_NAME - order.len()).trim_end_matches(['-', '.']);
    format!("{start}{order}")
}

fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str, version: &str) -> Metadata {
        Metadata {
            name: name.into(),
            resource_version: version.into(),
            ..Metadata::default()
        }
    }

    #[test]
    fn names_of_events_are_in_the_order_of_the_changes() {
        let changes = [
            ("9", 0, 0.9),
            ("10", 0, 0.5),
            ("10", 1, 0.1),
            ("65536", 0, 0.0),
            ("18446744073709551615", 0, 0.0),
        ];
        let names = changes.map(|(version, at, random)| event_name(&about("a", version), at, random));
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names[2], "a.000000000000000a.1.19999");
    }

    #[test]
    fn names_of_events_are_names() {
        for name in [
            format!("{}.{}", "a".repeat(228), "b".repeat(24)),
            "c".repeat(253),
            "d".into(),
        ] {
            let name = event_name(&about(&name, "not a number"), 0, 1.0);
            assert!(name.len() <= MAX_NAME, "{name}");
            assert!(!name.contains("..") && !name.contains("-."), "{name}");
        }
    }
}
