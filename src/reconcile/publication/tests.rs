use super::*;

const START: Duration = Duration::from_secs(1000);

#[test]
fn entries_that_differ_in_time_only_say_the_same() {
    let entry = NodeEntry {
        prefixes: vec!["2001:db8:1::/64".parse().unwrap()],
        ..NodeEntry::default()
    };
    let timed = NodeEntry {
        observed_time: "x".into(),
        ..entry.clone()
    };
    assert!(says_the_same(&entry, &timed));
    let told = NodeEntry {
        message: "x".into(),
        ..entry.clone()
    };
    assert!(!says_the_same(&entry, &told));
    assert!(!says_the_same(&entry, &NodeEntry::default()));
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
