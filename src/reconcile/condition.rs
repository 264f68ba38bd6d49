//! The condition Ready of an IP6UpdateConfig, and the Events that tell of its changes: pure.

use serde_json::{Value, json};

use super::plan::{Reason, Verdict, nobody_publishes};
use crate::kube::decode::cut;
use crate::kube::objects::Condition;
use crate::prefix::{Prefix, join, texts};
use crate::resources::config::Config;
use crate::resources::targets::MAX_ITEMS;
use crate::time::Timestamp;

/// The type of the one condition that is k6u's.
const READY: &str = "Ready";
/// events.k8s.io/v1 takes no longer ones (Event, `note`).
const MOST_NOTE: usize = 1024;

/// A status that has to be written, and the Events that go with it.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusChange {
    /// The body of the merge patch; carries the resourceVersion, so one node only makes the change.
    pub patch: Value,
    /// Whether Ready turned, and to what, for the log: reason and message.
    pub turned: Option<(Reason, String)>,
    /// What to report.
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

/// Reason and message of Ready. `failures` says what could not be done for this config, and why;
/// `without_entry` names the IP6UpdateNodeConfigs in which no node publishes.
pub fn judge(verdict: &Verdict, failures: &[String], without_entry: &[String]) -> (Reason, String) {
    let mut failures = failures.to_vec();
    match verdict {
        Verdict::Keep { reason, message } if failures.is_empty() || *reason == Reason::InvalidSpec => {
            (*reason, message.clone())
        }
        Verdict::Keep { .. } => (Reason::UpdateFailed, failures.join("; ")),
        Verdict::Write {
            delegated,
            targets,
            contested,
            oversized,
        } => {
            failures.extend(oversized.iter().map(|(target, count)| {
                format!(
                    "{target} would hold {count} CIDRs, more than the {MAX_ITEMS} that k6u writes (Cilium's policy \
                     map takes as many), so it keeps what it holds; name fewer prefix ids or suffixes, or set \
                     allowedPrefixes"
                )
            }));
            if !failures.is_empty() {
                return (Reason::UpdateFailed, failures.join("; "));
            }
            if !contested.is_empty() {
                let list: Vec<String> = contested
                    .iter()
                    .map(|(target, owner)| format!("{target} belongs to the older {owner}"))
                    .collect();
                let message = format!("{}; take it out of one of the two IP6UpdateConfigs", list.join("; "));
                return (Reason::GroupConflict, message);
            }
            let plural = if targets.len() == 1 {
                "target follows"
            } else {
                "targets follow"
            };
            let nobody = nobody_publishes(without_entry).map_or(String::new(), |nobody| format!(". {nobody}"));
            (
                Reason::Updated,
                format!("{} {plural} {}{nobody}", targets.len(), join(delegated)),
            )
        }
    }
}

/// The reason why this generation is not Ready, if the stored status tells that already.
pub fn told_not_ready(config: &Config) -> Option<&str> {
    let mut conditions = config.status.conditions.iter();
    let ready = conditions.find(|condition| condition.kind == READY)?;
    let is_told = ready.status == "False" && ready.observed_generation == Some(config.metadata.generation);
    is_told.then_some(ready.reason.as_str())
}

/// What has to change in the status of `config`, or `None` if it says all that already.
pub fn change(
    config: &Config,
    reason: Reason,
    message: &str,
    delegated: Option<&[Prefix]>,
    now: Timestamp,
) -> Option<StatusChange> {
    let stored = &config.status;
    let old_ready = stored.conditions.iter().find(|c| c.kind == READY);
    // What is read back is cut, too: a longer text would differ in every round.
    let message = cut(message);
    let new_ready = ready(config, old_ready, reason, message, now);

    // Of each type one entry stays; 0.3 left several.
    let mut conditions = vec![new_ready.clone()];
    for condition in &stored.conditions {
        if conditions.iter().all(|c| c.kind != condition.kind) {
            conditions.push(condition.clone());
        }
    }
    // What the targets were last written for stays, when they keep what they hold.
    let delegated = delegated.unwrap_or(&stored.delegated_prefixes);
    let prefix = join(delegated);
    let same = stored.conditions.len() == conditions.len()
        && old_ready == Some(&new_ready)
        && stored.delegated_prefixes == delegated
        && stored.prefix.as_ref().is_none_or(|text| text == cut(&prefix))
        && stored.observed_generation == Some(config.metadata.generation);
    if same {
        return None;
    }

    let mut events = Vec::new();
    if stored.delegated_prefixes != delegated {
        let note = format!("{} -> {}", join(&stored.delegated_prefixes), join(delegated));
        events.push(notice("Normal", "PrefixChanged", &note));
    }
    let turned = old_ready.is_none_or(|old| old.status != new_ready.status || old.reason != new_ready.reason);
    if turned && reason != Reason::Updated {
        events.push(notice("Warning", &reason.to_string(), message));
    }
    let patch = json!({
        "metadata": {"resourceVersion": config.metadata.resource_version},
        "status": {
            "observedGeneration": config.metadata.generation,
            "delegatedPrefixes": texts(delegated),
            "prefix": cut(&prefix),
            "conditions": conditions,
        },
    });
    Some(StatusChange {
        patch,
        turned: turned.then(|| (reason, message.to_string())),
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

/// An Event of this type and reason; the note is cut to what the API takes.
pub fn notice(kind: &'static str, reason: &str, note: &str) -> Notice {
    Notice {
        kind,
        reason: reason.into(),
        note: note[..note.floor_char_boundary(MOST_NOTE)].into(),
    }
}

#[cfg(test)]
mod tests;
