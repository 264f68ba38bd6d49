//! The condition Ready of an IP6UpdateConfig, and the Events that tell of its changes: pure.

use serde_json::{Value, json};

use super::plan::{Reason, Verdict, nobody_publishes};
use crate::kube::decode::cut;
use crate::kube::objects::Condition;
use crate::prefix::{Prefix, join, texts};
use crate::resources::config::Config;
use crate::resources::targets::MOST_CIDRS;
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
                    "{target} would hold {count} CIDRs, more than the {MOST_CIDRS} that k6u writes (Cilium's policy \
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

/// Whether the stored status already says that this generation is not Ready.
pub fn is_told_not_ready(config: &Config) -> bool {
    let ready = config
        .status
        .conditions
        .iter()
        .find(|condition| condition.kind == READY);
    ready.is_some_and(|ready| ready.status == "False" && ready.observed_generation == Some(config.metadata.generation))
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
mod tests {
    use super::super::plan::DesiredTarget;
    use super::*;
    use crate::resources::targets::TargetKey;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    fn config(status: Value) -> Config {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "generation": 3, "resourceVersion": "77"},
            "spec": {"delegatedPrefixLength": 60, "ciliumCIDRGroups": []},
            "status": status
        }))
        .unwrap()
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn write(contested: &[(&str, &str)], oversized: &[(&str, usize)]) -> Verdict {
        Verdict::Write {
            delegated: prefixes(&["2001:db8:10::/60"]),
            targets: vec![DesiredTarget {
                key: TargetKey::group("lan"),
                cidrs: vec![],
            }],
            contested: contested
                .iter()
                .map(|(a, b)| (TargetKey::group(a), b.to_string()))
                .collect(),
            oversized: oversized.iter().map(|(a, n)| (TargetKey::group(a), *n)).collect(),
        }
    }

    /// The status after a change, as the next round reads it.
    fn stored(change: &StatusChange) -> Config {
        config(change.patch["status"].clone())
    }

    #[test]
    fn reasons_in_order_of_weight() {
        let (reason, message) = judge(&write(&[], &[]), &[], &[]);
        assert_eq!(
            (reason, message.as_str()),
            (Reason::Updated, "1 target follows 2001:db8:10::/60")
        );
        let (reason, message) = judge(&write(&[("lan", "b")], &[]), &[], &[]);
        assert_eq!(reason, Reason::GroupConflict);
        assert!(
            message.starts_with("CiliumCIDRGroup lan belongs to the older b; "),
            "{message}"
        );
        let (reason, message) = judge(&write(&[("lan", "b")], &[("big", 20_000)]), &["403".into()], &[]);
        assert_eq!(reason, Reason::UpdateFailed);
        assert!(
            message.starts_with("403; CiliumCIDRGroup big would hold 20000 CIDRs"),
            "{message}"
        );
    }

    #[test]
    fn what_nobody_publishes_is_named() {
        let (reason, message) = judge(&write(&[], &[]), &[], &["b".into(), "c".into()]);
        assert_eq!(reason, Reason::Updated);
        assert_eq!(
            message,
            "1 target follows 2001:db8:10::/60. No node publishes in IP6UpdateNodeConfig b, c: check that nodeSelector \
             matches a node and that k6u runs there"
        );
    }

    #[test]
    fn a_failure_outweighs_that_nothing_is_known_but_not_a_bad_spec() {
        let keep = |reason| Verdict::Keep {
            reason,
            message: "kept".into(),
        };
        let judged = |reason, failures: &[String]| judge(&keep(reason), failures, &[]);
        assert_eq!(judged(Reason::NoPrefix, &[]), (Reason::NoPrefix, "kept".into()));
        let failures = ["500".to_string()];
        assert_eq!(
            judged(Reason::NoPrefix, &failures),
            (Reason::UpdateFailed, "500".into())
        );
        assert_eq!(judged(Reason::InvalidSpec, &failures).0, Reason::InvalidSpec);
    }

    #[test]
    fn what_an_idle_node_leaves_alone() {
        assert!(!is_told_not_ready(&config(Value::Null)));
        let ready = |status: &str, generation: i64| {
            config(json!({"conditions": [{"type": "Ready", "status": status, "observedGeneration": generation}]}))
        };
        assert!(is_told_not_ready(&ready("False", 3)));
        assert!(!is_told_not_ready(&ready("True", 3)));
        assert!(!is_told_not_ready(&ready("False", 2)), "it is about another spec");
    }

    #[test]
    fn the_first_status() {
        let delegated = prefixes(&["2001:db8:10::/60"]);
        let change = change(&config(Value::Null), Reason::Updated, "ok", Some(&delegated), NOW).unwrap();
        assert_eq!(
            change.patch,
            json!({"metadata": {"resourceVersion": "77"}, "status": {
                "observedGeneration": 3,
                "delegatedPrefixes": ["2001:db8:10::/60"],
                "prefix": "2001:db8:10::/60",
                "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 3, "reason": "Updated",
                    "message": "ok", "lastTransitionTime": NOW.to_string()}]}})
        );
        assert_eq!(change.events.len(), 1);
        assert_eq!(change.events[0].note, "none -> 2001:db8:10::/60");
    }

    #[test]
    fn a_status_that_says_it_already_is_left_alone() {
        let delegated = prefixes(&["2001:db8:10::/60"]);
        let first = change(&config(Value::Null), Reason::Updated, "ok", Some(&delegated), NOW).unwrap();
        let later = Timestamp(NOW.0 + 60);
        assert_eq!(
            change(&stored(&first), Reason::Updated, "ok", Some(&delegated), later),
            None
        );
    }

    #[test]
    fn the_column_of_kubectl_get_shows_the_prefixes_plainly() {
        let text = |delegated: Option<&[Prefix]>| {
            let change = change(&config(Value::Null), Reason::Updated, "ok", delegated, NOW).unwrap();
            change.patch["status"]["prefix"].clone()
        };
        let two = prefixes(&["2001:db8:10::/60", "2001:db8:20::/60"]);
        assert_eq!(text(Some(&two)), "2001:db8:10::/60, 2001:db8:20::/60");
        assert_eq!(text(None), "none");
    }

    #[test]
    fn a_column_that_is_wrong_is_written_one_that_the_schema_drops_is_not() {
        let delegated = prefixes(&["2001:db8:10::/60"]);
        let again = |config: &Config| change(config, Reason::Updated, "ok", Some(&delegated), NOW);
        let first = again(&config(Value::Null)).unwrap();
        let mut status = first.patch["status"].clone();
        status["prefix"] = json!("2001:db8:bad::/60");
        assert!(again(&config(status.clone())).is_some());
        status.as_object_mut().unwrap().remove("prefix");
        assert_eq!(again(&config(status)), None);
    }

    /// A message of more than 1024 bytes is cut when it is read back.
    #[test]
    fn a_long_message_is_written_once() {
        let delegated = prefixes(&["2001:db8:10::/60"]);
        let failure = "CiliumCIDRGroup ip6-local-lan: PATCH /apis/cilium.io/v2/ciliumcidrgroups/ip6-local-lan: 403 Forbidden \
             ciliumcidrgroups.cilium.io \"ip6-local-lan\" is forbidden: User \"system:serviceaccount:kube-system:k6u\" \
             cannot patch resource \"ciliumcidrgroups\" in API group \"cilium.io\" at the cluster scope; k6u lacks the \
             right to patch ciliumcidrgroups.cilium.io: grant it (manifests/ has it)";
        let (reason, message) = judge(&write(&[], &[]), &vec![failure.to_string(); 3], &[]);
        let first = change(&config(Value::Null), reason, &message, Some(&delegated), NOW).unwrap();
        let again = change(&stored(&first), reason, &message, Some(&delegated), NOW);
        assert!(
            again.is_none(),
            "{} bytes: the status is written in every round",
            message.len()
        );
    }

    #[test]
    fn many_prefixes_are_written_once() {
        let many: Vec<Prefix> = (0..48)
            .map(|n| format!("2001:db8:1234:{n:x}0::/60").parse().unwrap())
            .collect();
        let first = change(&config(Value::Null), Reason::Updated, "ok", Some(&many), NOW).unwrap();
        let again = change(&stored(&first), Reason::Updated, "ok", Some(&many), NOW);
        assert!(again.is_none(), "the status is written in every round");
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let delegated = prefixes(&["2001:db8:10::/60"]);
        let at = |seconds| Timestamp(NOW.0 + seconds);
        let time = |change: &StatusChange| change.patch["status"]["conditions"][0]["lastTransitionTime"].clone();
        let up = change(&config(Value::Null), Reason::Updated, "ok", Some(&delegated), NOW).unwrap();
        let reworded = change(&stored(&up), Reason::Updated, "other", Some(&delegated), at(1)).unwrap();
        assert_eq!((time(&reworded), reworded.events.len()), (json!(NOW.to_string()), 0));
        let down = change(&stored(&up), Reason::NoPrefix, "gone", None, at(2)).unwrap();
        assert_eq!(time(&down), json!(at(2).to_string()));
        let worse = change(&stored(&down), Reason::InvalidSpec, "bad", None, at(3)).unwrap();
        assert_eq!(time(&worse), json!(at(2).to_string()));
    }

    #[test]
    fn not_ready_keeps_the_prefixes_and_warns_once() {
        let delegated = prefixes(&["2001:db8:10::/60"]);
        let up = change(&config(Value::Null), Reason::Updated, "ok", Some(&delegated), NOW).unwrap();
        let down = change(&stored(&up), Reason::NoPrefix, "gone", None, NOW).unwrap();
        assert_eq!(down.patch["status"]["delegatedPrefixes"], json!(["2001:db8:10::/60"]));
        let kinds: Vec<_> = down.events.iter().map(|e| (e.kind, e.reason.as_str())).collect();
        assert_eq!(kinds, [("Warning", "NoPrefix")]);
        let reworded = change(&stored(&down), Reason::NoPrefix, "still gone", None, NOW).unwrap();
        assert_eq!((reworded.events.len(), reworded.turned), (0, None));
    }

    #[test]
    fn a_change_of_prefix_is_told_with_old_and_new() {
        let up = change(
            &config(Value::Null),
            Reason::Updated,
            "ok",
            Some(&prefixes(&["2001:db8:10::/60"])),
            NOW,
        )
        .unwrap();
        let moved = change(
            &stored(&up),
            Reason::Updated,
            "ok",
            Some(&prefixes(&["2001:db8:20::/60"])),
            NOW,
        )
        .unwrap();
        assert_eq!(moved.events[0].note, "2001:db8:10::/60 -> 2001:db8:20::/60");
        assert_eq!(moved.events.len(), 1);
    }

    #[test]
    fn three_ready_conditions_of_0_3_become_one_and_others_stay() {
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "2025-01-01T00:00:00Z"})
        };
        let old = config(
            json!({"conditions": [condition("Ready"), condition("Ready"), condition("Other"), condition("Ready")]}),
        );
        let change = change(&old, Reason::Updated, "ok", Some(&[]), NOW).unwrap();
        let kinds: Vec<&str> = change.patch["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["Ready", "Other"]);
        assert_eq!(
            change.patch["status"]["conditions"][0]["lastTransitionTime"],
            "2025-01-01T00:00:00Z"
        );
    }

    #[test]
    fn long_notes_are_cut() {
        let change = change(&config(Value::Null), Reason::UpdateFailed, &"ü".repeat(2000), None, NOW).unwrap();
        assert_eq!(change.events[0].note.len(), 1024);
    }
}
