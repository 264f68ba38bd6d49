//! The condition Ready of an IP6UpdateConfig, and the Events about its changes. Pure.

use std::fmt;

use serde_json::{Value, json};

use super::plan::{Keep, Reason, Verdict};
use super::problems::{Problem, Subject};
use crate::kube::objects::Condition;
use crate::limits::MAX_PLANNED;
use crate::prefix::{Prefix, join, texts};
use crate::resources::config::Config;
use crate::resources::targets::{MAX_ITEMS, TargetKey};
use crate::time::Timestamp;

/// The type of the one condition that is k6u's.
const READY: &str = "Ready";
/// A message, a name in `failing` and the note of an Event have at most this many bytes: no more of a text is read back,
/// and events.k8s.io/v1 takes no longer notes.
const MAX_TEXT: usize = 1024;

/// Something that could not be done for a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Which object, and what kind of failure. The same on every node and at each try.
    pub what: String,
    /// For people: the words of a refusal, and what to do next.
    pub text: String,
}

/// Content of a config's Ready condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// [`Failing::what`] of everything that could not be done.
    pub failing: Vec<String>,
}

/// The delegated prefixes of a config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delegated {
    /// Those that the targets were last written for.
    pub written: Vec<Prefix>,
    /// Those that the nodes see; `None` if they see none, and the status keeps those that they saw last.
    pub observed: Option<Vec<Prefix>>,
}

/// A status that has to be written, and the Events that go with it.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusChange {
    /// The body of the merge patch. It carries the resourceVersion (I3), so only one node makes the change.
    pub patch: Value,
    /// The reason and message that Ready has now, for the log; `None` if only words change.
    pub transition: Option<(Reason, String)>,
    /// The Events to send.
    pub events: Vec<Notice>,
}

/// An Event, but for the fields that are the same in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `Normal` or `Warning`.
    pub kind: &'static str,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people, at most 1024 bytes.
    pub note: String,
}

impl Failing {
    /// A problem with a subject.
    pub fn new(subject: &Subject, problem: &Problem) -> Self {
        Failing {
            what: cut(&format!("{subject}: {}", problem.kind)).into(),
            text: format!("{subject}: {}", problem.text),
        }
    }

    /// A failure that a status reports, whichever node met it.
    pub fn reported(what: &str) -> Self {
        Failing {
            what: what.into(),
            text: what.into(),
        }
    }

    /// Whether it is about this subject.
    pub fn is_about(what: &str, subject: &impl fmt::Display) -> bool {
        what.strip_prefix(&subject.to_string())
            .is_some_and(|rest| rest.starts_with(": "))
    }
}

/// Decides on the Ready condition of a config. `failures` lists what could not be done for it, `remarks` what needs
/// attention although its targets are right.
pub fn judge(verdict: &Verdict, failures: &[Failing], remarks: &[String]) -> Judgement {
    let say = |reason, message| Judgement {
        reason,
        message,
        failing: Vec::new(),
    };
    if let Some(Keep {
        reason: reason @ Reason::InvalidSpec,
        message,
    }) = &verdict.keep
    {
        return say(*reason, message.clone());
    }
    let oversized = verdict
        .oversized
        .iter()
        .map(|(target, count)| too_large(target, *count));
    let failures: Vec<Failing> = failures.iter().cloned().chain(oversized).collect();
    if !failures.is_empty() {
        let texts: Vec<&str> = failures.iter().map(|failing| failing.text.as_str()).collect();
        return Judgement {
            reason: Reason::UpdateFailed,
            message: texts.join("; "),
            failing: failures.into_iter().map(|failing| failing.what).collect(),
        };
    }
    if let Some(Keep { reason, message }) = &verdict.keep {
        return say(*reason, message.clone());
    }
    if !verdict.contested.is_empty() {
        let contested = verdict.contested.iter();
        let list: Vec<String> = contested
            .map(|(target, owner)| format!("{target} belongs to the older {owner}"))
            .collect();
        let message = format!("{}; take it out of one of the two IP6UpdateConfigs", list.join("; "));
        return say(Reason::GroupConflict, message);
    }
    let count = verdict.targets.len();
    let plural = if count == 1 { "target" } else { "targets" };
    let mut sentences = vec![format!("{count} {plural} up to date with {}", join(&verdict.delegated))];
    sentences.extend_from_slice(remarks);
    say(Reason::Updated, sentences.join(". "))
}

fn too_large(target: &TargetKey, count: usize) -> Failing {
    let limit = if count > MAX_ITEMS {
        format!("more than the {MAX_ITEMS} that k6u writes (Cilium's policy map takes as many)")
    } else {
        format!("and all targets together more than the {MAX_PLANNED} that k6u has room for")
    };
    Failing {
        what: format!("{target}: too many items"),
        text: format!(
            "{target} would hold {count} items, {limit}, so it keeps what it holds; name fewer prefix ids or suffixes, \
             or set allowedPrefixes"
        ),
    }
}

/// Whether the stored status is about this generation.
pub fn is_judged(config: &Config) -> bool {
    stored_ready(config).is_some_and(|ready| ready.observed_generation == Some(config.metadata.generation))
}

fn stored_ready(config: &Config) -> Option<&Condition> {
    config
        .status
        .conditions
        .iter()
        .find(|condition| condition.kind == READY)
}

/// The change that the status of `config` needs; `None` if it is equivalent already.
pub fn change(
    config: &Config,
    judgement: &Judgement,
    Delegated { written, observed }: &Delegated,
    now: Timestamp,
) -> Option<StatusChange> {
    let Judgement {
        reason,
        message,
        failing,
    } = judgement;
    let stored = &config.status;
    let old_ready = stored_ready(config);
    let message = cut(message);
    let new_ready = ready(config, old_ready, *reason, message, now);

    // One condition of each type stays; 0.3 left several.
    let mut conditions = vec![new_ready.clone()];
    for condition in &stored.conditions {
        if conditions.iter().all(|c| c.kind != condition.kind) {
            conditions.push(condition.clone());
        }
    }
    let observed = observed.as_ref().map(|observed| cut(&join(observed)).to_string());
    let prefix = observed.or_else(|| stored.prefix.clone());
    let has_same_words = |old: &Condition| match &stored.failing {
        // The words of a refusal differ from node to node, and from try to try.
        Some(stored) if !failing.is_empty() => stored == failing,
        _ => old.message == message,
    };
    let is_equivalent = |old: &Condition| {
        let facts = |c: &Condition| (c.status.clone(), c.reason.clone(), c.observed_generation);
        facts(old) == facts(&new_ready) && has_same_words(old)
    };
    let same = stored.conditions.len() == conditions.len()
        && old_ready.is_some_and(is_equivalent)
        && stored.delegated_prefixes == *written
        && (stored.prefix.is_none() || stored.prefix == prefix)
        && stored.observed_generation == Some(config.metadata.generation);
    if same {
        return None;
    }

    let mut events = Vec::new();
    if stored.delegated_prefixes != *written {
        let note = format!("{} -> {}", join(&stored.delegated_prefixes), join(written));
        events.push(notice("Normal", "PrefixChanged", &note));
    }
    let turned = old_ready.is_none_or(|old| old.status != new_ready.status || old.reason != new_ready.reason);
    if turned && *reason != Reason::Updated {
        events.push(notice("Warning", &reason.to_string(), message));
    }
    let patch = json!({
        "metadata": {"resourceVersion": config.metadata.resource_version},
        "status": {
            "observedGeneration": config.metadata.generation,
            "delegatedPrefixes": texts(written),
            "prefix": prefix,
            "failing": (!failing.is_empty()).then_some(failing),
            "conditions": conditions,
        },
    });
    Some(StatusChange {
        patch,
        transition: turned.then(|| (*reason, message.to_string())),
        events,
    })
}

fn ready(config: &Config, old: Option<&Condition>, reason: Reason, message: &str, now: Timestamp) -> Condition {
    let status = if reason == Reason::Updated { "True" } else { "False" };
    let since = old.filter(|c| c.status == status && Timestamp::from_rfc3339(&c.last_transition_time).is_some());
    Condition {
        kind: READY.into(),
        status: status.into(),
        observed_generation: Some(config.metadata.generation),
        last_transition_time: since.map_or_else(|| now.to_string(), |c| c.last_transition_time.clone()),
        reason: reason.to_string(),
        message: message.into(),
    }
}

/// The start of a text, as long as it is read back.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// An Event of this type and reason; the note is cut to what the API takes.
pub fn notice(kind: &'static str, reason: &str, note: &str) -> Notice {
    Notice {
        kind,
        reason: reason.into(),
        note: cut(note).into(),
    }
}

#[cfg(test)]
mod tests;
