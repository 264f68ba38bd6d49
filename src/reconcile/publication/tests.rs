use super::*;

const START: Duration = Duration::from_secs(1000);

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn config() -> NodeConfig {
    serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"interface": "eth0"}})).unwrap()
}

fn observed(living: &[&str], deprecated: &[&str]) -> Observation {
    Observation {
        prefixes: living.iter().map(|text| prefix(text)).collect(),
        deprecated: deprecated.iter().map(|text| prefix(text)).collect(),
        ..Observation::default()
    }
}

/// For how long each deprecated prefix was so, at these seconds after the start.
fn seconds(publication: &mut Publication, seen: &Observation, stored: Option<&NodeEntry>, at: u64) -> Vec<u32> {
    let entry = publication.entry(&config(), seen, stored, START + Duration::from_secs(at));
    entry.deprecated.iter().map(|deprecated| deprecated.seconds).collect()
}

#[test]
fn seconds_count_from_when_a_prefix_was_first_seen_deprecated() {
    let mut publication = Publication::default();
    let seen = observed(&["2001:db8:2::/64"], &["2001:db8:1::/64"]);
    assert_eq!(seconds(&mut publication, &seen, None, 0), [0]);
    assert_eq!(seconds(&mut publication, &seen, None, 59), [59]);
    // Preferred again, and deprecated once more: that is another deprecation.
    let alive = observed(&["2001:db8:1::/64"], &[]);
    assert_eq!(seconds(&mut publication, &alive, None, 60), [0; 0]);
    assert_eq!(seconds(&mut publication, &seen, None, 70), [0]);
}

#[test]
fn a_restart_goes_on_where_the_entry_stands() {
    let seen = observed(&["2001:db8:2::/64"], &["2001:db8:1::/64"]);
    let mut before = Publication::default();
    before.entry(&config(), &seen, None, START);
    let stored = before.entry(&config(), &seen, None, START + Duration::from_secs(500));
    let mut after = Publication::default();
    assert_eq!(seconds(&mut after, &seen, Some(&stored), 0), [500]);
    assert_eq!(seconds(&mut after, &seen, None, 10), [510], "though the entry is gone");
}

#[test]
fn a_prefix_that_was_stale_before_does_not_come_back_deprecated() {
    let mut seen = observed(&["2001:db8:2::/64"], &["2001:db8:1::/64"]);
    let first = Publication::default().entry(&config(), &seen, None, START);
    seen.long_gone = seen.deprecated.clone();
    assert_eq!(seconds(&mut Publication::default(), &seen, None, 0), [0; 0]);
    // But one that is kept stays kept, though nobody announces it any more.
    assert_eq!(seconds(&mut Publication::default(), &seen, Some(&first), 0), [0]);
}

/// It is deprecated still when the prefix that made it stale is gone.
#[test]
fn a_prefix_that_was_stale_before_does_not_come_back_later_either() {
    let mut seen = observed(&["2001:db8:2::/64"], &["2001:db8:1::/64"]);
    seen.long_gone = seen.deprecated.clone();
    let mut publication = Publication::default();
    assert_eq!(seconds(&mut publication, &seen, None, 0), [0; 0]);
    seen.long_gone.clear();
    assert_eq!(seconds(&mut publication, &seen, None, 3600), [0; 0]);
}

/// A node that was moved to another IP6UpdateNodeConfig has seen the prefix deprecated all the time.
#[test]
fn a_moved_node_counts_on() {
    let seen = observed(&["2001:db8:2::/64"], &["2001:db8:1::/64"]);
    let mut publication = Publication::default();
    assert_eq!(seconds(&mut publication, &seen, None, 0), [0]);
    assert_eq!(seconds(&mut publication, &seen, None, 4000), [4000]);
    let other: NodeConfig =
        serde_json::from_value(json!({"metadata": {"name": "other"}, "spec": {"interface": "eth0"}})).unwrap();
    let entry = publication.entry(&other, &seen, None, START + Duration::from_secs(4010));
    assert_eq!(entry.deprecated[0].seconds, 4010);
}

/// The IP6UpdateNodeConfig was deleted, and is back 20 seconds later.
#[test]
fn a_node_config_made_anew_counts_on() {
    let seen = observed(&["2001:db8:2::/64"], &["2001:db8:1::/64"]);
    let mut publication = Publication::default();
    assert_eq!(seconds(&mut publication, &seen, None, 0), [0]);
    assert_eq!(seconds(&mut publication, &seen, None, 4000), [4000]);
    publication.retain(&BTreeMap::new());
    assert_eq!(seconds(&mut publication, &seen, None, 4020), [4020]);
}

#[test]
fn only_a_threshold_makes_passing_time_a_change() {
    let publication = Publication {
        thresholds: BTreeSet::from([300]),
        ..Publication::default()
    };
    let entry = |seconds: u32| NodeEntry {
        deprecated: vec![Deprecated {
            prefix: prefix("2001:db8:1::/64"),
            seconds,
        }],
        ..NodeEntry::default()
    };
    assert!(publication.says_the_same(&entry(0), &entry(299)));
    assert!(!publication.says_the_same(&entry(299), &entry(300)));
    assert!(publication.says_the_same(&entry(300), &entry(7200)));
    assert!(!publication.says_the_same(&entry(0), &NodeEntry::default()));
    let timed = NodeEntry {
        observed_time: "x".into(),
        ..entry(0)
    };
    assert!(publication.says_the_same(&entry(0), &timed));
    let told = NodeEntry {
        message: "x".into(),
        ..entry(0)
    };
    assert!(!publication.says_the_same(&entry(0), &told));
}

#[test]
fn a_sign_of_life_every_minute() {
    let mut publication = Publication::default();
    let due = |publication: &Publication, seconds: u64, interval: u64| {
        publication.is_due("n", START + Duration::from_secs(seconds), Duration::from_secs(interval))
    };
    assert!(due(&publication, 0, 10), "nothing was published yet");
    publication.published.insert("n".into(), START);
    assert!(!due(&publication, 50, 10) && due(&publication, 60, 10));
    assert!(!due(&publication, 30, 30) && due(&publication, 59, 30));
    assert!(due(&publication, 60, 60));
}
