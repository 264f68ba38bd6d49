use super::*;
use crate::resources::targets::{DesiredTarget, TargetKey};

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
    Verdict {
        delegated: prefixes(&["2001:db8:10::/60"]),
        targets: vec![DesiredTarget {
            key: TargetKey::group("lan"),
            items: vec![],
            lingering: Default::default(),
            record: None,
            is_constant: false,
        }],
        contested: contested
            .iter()
            .map(|(a, b)| (TargetKey::group(a), b.to_string()))
            .collect(),
        oversized: oversized.iter().map(|(a, n)| (TargetKey::group(a), *n)).collect(),
        ..Verdict::default()
    }
}

/// A failure of this kind, in these words.
fn failing(what: &str, text: &str) -> Failing {
    Failing {
        what: what.into(),
        text: text.into(),
    }
}

fn judged(verdict: &Verdict, failures: &[Failing], remarks: &[&str]) -> (Reason, String) {
    let remarks: Vec<String> = remarks.iter().map(ToString::to_string).collect();
    let judgement = judge(verdict, failures, &remarks);
    (judgement.reason, judgement.message)
}

/// What has to change to say this without a failure.
fn changed(
    config: &Config,
    reason: Reason,
    message: &str,
    delegated: &[Prefix],
    now: Timestamp,
) -> Option<StatusChange> {
    let judgement = Judgement {
        reason,
        message: message.into(),
        failing: Vec::new(),
    };
    change(config, &judgement, &written(delegated), now)
}

/// Prefixes that the nodes see, and that the targets were written for.
fn written(prefixes: &[Prefix]) -> Delegated {
    Delegated {
        written: prefixes.to_vec(),
        observed: Some(prefixes.to_vec()),
    }
}

/// The status after a change, as the next round reads it.
fn stored(change: &StatusChange) -> Config {
    config(change.patch["status"].clone())
}

#[test]
fn reasons_in_order_of_weight() {
    let (reason, message) = judged(&write(&[], &[]), &[], &[]);
    assert_eq!(
        (reason, message.as_str()),
        (Reason::Updated, "1 target up to date with 2001:db8:10::/60")
    );
    let (reason, message) = judged(&write(&[("lan", "b")], &[]), &[], &[]);
    assert_eq!(reason, Reason::GroupConflict);
    assert!(
        message.starts_with("CiliumCIDRGroup lan belongs to the older b; "),
        "{message}"
    );
    let (reason, message) = judged(
        &write(&[("lan", "b")], &[("big", 20_000)]),
        &[failing("lan: 403", "403")],
        &[],
    );
    assert_eq!(reason, Reason::UpdateFailed);
    assert!(
        message.starts_with("403; CiliumCIDRGroup big would hold 20000 items, more than the 16384"),
        "{message}"
    );
}

#[test]
fn remarks_are_added_where_all_is_right() {
    let (reason, message) = judged(&write(&[], &[]), &[], &["Look at a", "Look at b"]);
    assert_eq!(reason, Reason::Updated);
    assert_eq!(
        message,
        "1 target up to date with 2001:db8:10::/60. Look at a. Look at b"
    );
}

#[test]
fn a_failure_outweighs_that_nothing_is_known_but_not_a_bad_spec() {
    let keep = |reason| Verdict {
        keep: Some(Keep {
            reason,
            message: "kept".into(),
        }),
        ..Verdict::default()
    };
    assert_eq!(
        judged(&keep(Reason::NoPrefix), &[], &[]),
        (Reason::NoPrefix, "kept".into())
    );
    let failures = [failing("lan: 500", "500")];
    assert_eq!(
        judged(&keep(Reason::NoPrefix), &failures, &[]),
        (Reason::UpdateFailed, "500".into())
    );
    assert_eq!(
        judged(&keep(Reason::InvalidSpec), &failures, &[]).0,
        Reason::InvalidSpec
    );
}

#[test]
fn a_status_judges_its_generation() {
    assert!(!is_judged(&config(Value::Null)));
    let ready = |generation: i64| {
        config(json!({"conditions": [{"type": "Ready", "status": "False", "observedGeneration": generation}]}))
    };
    assert!(is_judged(&ready(3)));
    assert!(!is_judged(&ready(2)));
}

#[test]
fn a_failure_is_about_one_subject() {
    let what = "IP6UpdateNodeConfig all: PATCH 403";
    assert!(Failing::is_about(what, &"IP6UpdateNodeConfig all"));
    assert!(!Failing::is_about(what, &"IP6UpdateNodeConfig al"));
    assert!(!Failing::is_about(what, &"IP6UpdateNodeConfig all: PATCH 403"));
}

#[test]
fn the_first_status() {
    let delegated = prefixes(&["2001:db8:10::/60"]);
    let change = changed(&config(Value::Null), Reason::Updated, "ok", &delegated, NOW).unwrap();
    assert_eq!(
        change.patch,
        json!({"metadata": {"resourceVersion": "77"}, "status": {
            "observedGeneration": 3,
            "delegatedPrefixes": ["2001:db8:10::/60"],
            "prefix": "2001:db8:10::/60",
            "failing": null,
            "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 3, "reason": "Updated",
                "message": "ok", "lastTransitionTime": NOW.to_string()}]}})
    );
    assert_eq!(change.events.len(), 1);
    assert_eq!(change.events[0].note, "none -> 2001:db8:10::/60");
}

#[test]
fn a_status_that_says_it_already_is_left_alone() {
    let delegated = prefixes(&["2001:db8:10::/60"]);
    let first = changed(&config(Value::Null), Reason::Updated, "ok", &delegated, NOW).unwrap();
    let later = Timestamp(NOW.0 + 60);
    assert_eq!(changed(&stored(&first), Reason::Updated, "ok", &delegated, later), None);
}

#[test]
fn the_column_of_kubectl_get_shows_the_prefixes_plainly() {
    let text = |delegated: &[Prefix]| {
        let change = changed(&config(Value::Null), Reason::Updated, "ok", delegated, NOW).unwrap();
        change.patch["status"]["prefix"].clone()
    };
    let two = prefixes(&["2001:db8:10::/60", "2001:db8:20::/60"]);
    assert_eq!(text(&two), "2001:db8:10::/60, 2001:db8:20::/60");
    assert_eq!(text(&[]), "none");
}

#[test]
fn a_column_that_is_wrong_is_written_one_that_the_schema_drops_is_not() {
    let delegated = prefixes(&["2001:db8:10::/60"]);
    let again = |config: &Config| changed(config, Reason::Updated, "ok", &delegated, NOW);
    let first = again(&config(Value::Null)).unwrap();
    let mut status = first.patch["status"].clone();
    status["prefix"] = json!("2001:db8:bad::/60");
    assert!(again(&config(status.clone())).is_some());
    status.as_object_mut().unwrap().remove("prefix");
    assert_eq!(again(&config(status)), None);
}

/// A message of more than 1024 bytes is cut when it is written.
#[test]
fn a_long_message_is_written_once() {
    let delegated = written(&prefixes(&["2001:db8:10::/60"]));
    let failure = "CiliumCIDRGroup ip6-local-lan: PATCH /apis/cilium.io/v2/ciliumcidrgroups/ip6-local-lan: 403 Forbidden \
         ciliumcidrgroups.cilium.io \"ip6-local-lan\" is forbidden: User \"system:serviceaccount:kube-system:k6u\" \
         cannot patch resource \"ciliumcidrgroups\" in API group \"cilium.io\" at the cluster scope; k6u lacks the \
         right to patch ciliumcidrgroups.cilium.io: grant it (manifests/ has it)";
    let judgement = judge(&write(&[], &[]), &vec![failing("lan: 403", failure); 3], &[]);
    let first = change(&config(Value::Null), &judgement, &delegated, NOW).unwrap();
    let again = change(&stored(&first), &judgement, &delegated, NOW);
    assert!(
        again.is_none(),
        "{} bytes: the status is written in every round",
        judgement.message.len()
    );
}

/// Its words have ports, times and request ids in them, which differ from node to node.
#[test]
fn the_same_failures_in_other_words_are_written_once() {
    let delegated = prefixes(&["2001:db8:10::/60"]);
    let judgement = |what: &str, text: &str| judge(&write(&[], &[]), &[failing(what, text)], &[]);
    let first = judgement("lan: 500 InternalError", "dial tcp 10.0.0.1:40001: refused");
    let both = written(&delegated);
    let mut config = stored(&change(&config(Value::Null), &first, &both, NOW).unwrap());
    let again = |config: &Config, what: &str, text: &str| change(config, &judgement(what, text), &both, NOW);
    let other_port = "dial tcp 10.0.0.1:40002: refused";
    assert_eq!(again(&config, "lan: 500 InternalError", other_port), None);
    assert!(
        again(&config, "lan: 403 Forbidden", other_port).is_some(),
        "another kind"
    );
    let recovered = changed(&config, Reason::Updated, "ok", &delegated, NOW).unwrap();
    assert_eq!(recovered.patch["status"]["failing"], Value::Null);
    // Where the schema drops the field only the words are left to go by.
    config.status.failing = None;
    assert!(again(&config, "lan: 500 InternalError", other_port).is_some());
}

#[test]
fn what_is_observed_is_shown_before_it_is_written() {
    let judgement = judge(&write(&[], &[]), &[failing("lan: 500", "webhook")], &[]);
    let mut delegated = Delegated {
        observed: Some(prefixes(&["2001:db8:10::/60"])),
        ..Delegated::default()
    };
    let first = change(&config(Value::Null), &judgement, &delegated, NOW).unwrap();
    assert_eq!(first.patch["status"]["prefix"], "2001:db8:10::/60");
    assert_eq!(first.patch["status"]["delegatedPrefixes"], json!([]));
    assert_eq!(change(&stored(&first), &judgement, &delegated, NOW), None);
    delegated.observed = Some(prefixes(&["2001:db8:20::/60"]));
    let moved = change(&stored(&first), &judgement, &delegated, NOW).unwrap();
    assert_eq!(moved.patch["status"]["prefix"], "2001:db8:20::/60");
    assert_eq!(
        (moved.events, moved.transition),
        (Vec::new(), None),
        "nothing was written"
    );
}

#[test]
fn many_prefixes_are_written_once() {
    let many: Vec<Prefix> = (0..48)
        .map(|n| format!("2001:db8:1234:{n:x}0::/60").parse().unwrap())
        .collect();
    let first = changed(&config(Value::Null), Reason::Updated, "ok", &many, NOW).unwrap();
    let again = changed(&stored(&first), Reason::Updated, "ok", &many, NOW);
    assert!(again.is_none(), "the status is written in every round");
}

#[test]
fn the_transition_time_moves_with_the_status_only() {
    let delegated = prefixes(&["2001:db8:10::/60"]);
    let at = |seconds| Timestamp(NOW.0 + seconds);
    let time = |change: &StatusChange| change.patch["status"]["conditions"][0]["lastTransitionTime"].clone();
    let up = changed(&config(Value::Null), Reason::Updated, "ok", &delegated, NOW).unwrap();
    let reworded = changed(&stored(&up), Reason::Updated, "other", &delegated, at(1)).unwrap();
    assert_eq!((time(&reworded), reworded.events.len()), (json!(NOW.to_string()), 0));
    let down = changed(&stored(&up), Reason::NoPrefix, "gone", &delegated, at(2)).unwrap();
    assert_eq!(time(&down), json!(at(2).to_string()));
    let worse = changed(&stored(&down), Reason::InvalidSpec, "bad", &delegated, at(3)).unwrap();
    assert_eq!(time(&worse), json!(at(2).to_string()));
}

#[test]
fn not_ready_keeps_the_prefixes_and_warns_once() {
    let delegated = prefixes(&["2001:db8:10::/60"]);
    let up = changed(&config(Value::Null), Reason::Updated, "ok", &delegated, NOW).unwrap();
    let down = changed(&stored(&up), Reason::NoPrefix, "gone", &delegated, NOW).unwrap();
    assert_eq!(down.patch["status"]["delegatedPrefixes"], json!(["2001:db8:10::/60"]));
    let kinds: Vec<_> = down.events.iter().map(|e| (e.kind, e.reason.as_str())).collect();
    assert_eq!(kinds, [("Warning", "NoPrefix")]);
    let reworded = changed(&stored(&down), Reason::NoPrefix, "still gone", &delegated, NOW).unwrap();
    assert_eq!((reworded.events.len(), reworded.transition), (0, None));
}

#[test]
fn a_change_of_prefix_is_told_with_old_and_new() {
    let up = changed(
        &config(Value::Null),
        Reason::Updated,
        "ok",
        &prefixes(&["2001:db8:10::/60"]),
        NOW,
    )
    .unwrap();
    let moved = changed(
        &stored(&up),
        Reason::Updated,
        "ok",
        &prefixes(&["2001:db8:20::/60"]),
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
    let old =
        config(json!({"conditions": [condition("Ready"), condition("Ready"), condition("Other"), condition("Ready")]}));
    let change = changed(&old, Reason::Updated, "ok", &[], NOW).unwrap();
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
fn conditions_of_others_are_written_back_whole() {
    let long = "ü".repeat(32_768);
    let other = json!({"type": "Other", "status": "True", "observedGeneration": 2, "reason": "R", "message": long,
        "lastTransitionTime": "2025-01-01T00:00:00Z"});
    let old = config(json!({"conditions": [other]}));
    let change = changed(&old, Reason::Updated, "ok", &[], NOW).unwrap();
    assert_eq!(change.patch["status"]["conditions"][1], other);
}

#[test]
fn long_notes_are_cut() {
    let change = changed(&config(Value::Null), Reason::UpdateFailed, &"ü".repeat(2000), &[], NOW).unwrap();
    assert_eq!(change.events[0].note.len(), 1024);
}
