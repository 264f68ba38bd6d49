//! Two thousand renumberings with constant faults: `make soak`.

use std::fs;
use std::time::{Duration, Instant};

use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;

use crate::Scenario;
use k6u_testkit::apiserver::server::{cidrs, cidrs_of};
use k6u_testkit::example::cidrs_for;
use k6u_testkit::site::{GROUP, Running, SOON};
use k6u_testkit::trio::Trio;

pub const ALL: &[Scenario] = scenarios![two_thousand_renumberings_with_faults];

const RENUMBERINGS: usize = 2000;
/// The time limit of the whole scenario.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// The next renumbering waits at most this long until k6u has followed the last one. k6u follows continuous changes
/// once a second.
const PATIENCE: Duration = Duration::from_millis(1100);
/// How long after the last node lost a prefix it may still be written. No request takes longer.
const JUST_BEFORE: Duration = Duration::from_secs(15);

/// The faults of five in a hundred requests, in equal parts.
fn faults() -> Vec<Fault> {
    let answer = |status, text: &str| Fault::Answer(Response::new(status, "text/plain", text));
    vec![
        answer(500, "broken"),
        Fault::Answer(Response::new(429, "text/plain", "busy").with("Retry-After", "1")),
        Fault::Answer(Response::new(200, "application/json", "{\"items\":")),
        Fault::CutAt(30),
        Fault::CutBodyAt(10),
    ]
}

/// The anonymous resident memory in KiB.
fn resident(node: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .expect("a size");
    line.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

fn descriptors(node: &Running) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.id()))
        .expect("it runs")
        .count()
}

fn two_thousand_renumberings_with_faults() {
    let start = Instant::now();
    let trio = Trio::sharing(1);
    for fault in faults() {
        trio.site.server.inject(Plan::every(100, fault));
    }
    let delegated = |number: usize| format!("2001:db8:{:x}:567", number % 4096 + 0x2000);
    let (mut followed, mut samples, mut times) = (0, Vec::new(), Vec::new());
    for number in 0..RENUMBERINGS {
        times.push(Instant::now());
        let old = if number == 0 {
            "2001:db8:1234:567".into()
        } else {
            delegated(number - 1)
        };
        trio.renumber(&old, &delegated(number));
        let wanted = cidrs_for(&delegated(number));
        // k6u has to follow each hundredth renumbering, in up to 30 s.
        let is_strict = number % 100 == 99;
        let patience = if is_strict { Duration::from_secs(30) } else { PATIENCE };
        let right = trio
            .site
            .server
            .wait(patience, |store| (cidrs(store, GROUP)? == wanted).then_some(()));
        followed += usize::from(right.is_some());
        if is_strict {
            assert!(
                right.is_some(),
                "renumbering {number}: {:?}",
                cidrs(&trio.site.server.store(), GROUP)
            );
            samples.push(
                trio.nodes
                    .iter()
                    .map(|node| (resident(node), descriptors(node)))
                    .collect::<Vec<_>>(),
            );
            // The history that the server keeps for tests must not fill the memory.
            let mut store = trio.site.server.store();
            for past in store.history.iter().filter(|past| past.key.name == GROUP) {
                for cidr in past.object.as_ref().map(cidrs_of).unwrap_or_default() {
                    let whose = times
                        .iter()
                        .enumerate()
                        .rev()
                        .find(|(n, _)| cidr.starts_with(&delegated(*n)));
                    // The first prefix came from no renumbering.
                    let lost = whose.and_then(|(n, _)| times.get(n + 1)).filter(|_| number >= 200);
                    let is_right = lost.is_none_or(|lost| past.at < *lost + JUST_BEFORE);
                    assert!(
                        is_right,
                        "{cidr} was written {:?} after it was lost",
                        lost.map(|l| past.at - *l)
                    );
                }
            }
            store.history.clear();
            store.log.clear();
        }
        assert!(
            start.elapsed() < LONGEST,
            "renumbering {number} after {:?}",
            start.elapsed()
        );
    }
    trio.site.server.heal();
    trio.site.wait_lan(&delegated(RENUMBERINGS - 1));
    for node in &trio.nodes {
        node.wait_log("recovered after", SOON);
    }
    println!(
        "{RENUMBERINGS} renumberings in {:?}, {followed} of them followed one by one",
        start.elapsed()
    );
    for (number, sample) in samples.iter().enumerate() {
        println!("after {}: anonymous KiB and descriptors {sample:?}", (number + 1) * 100);
    }
    let (first, last) = (&samples[1], samples.last().expect("samples"));
    for (first, last) in first.iter().zip(last) {
        assert!(last.0 <= first.0 + 64, "memory grew from {} to {} KiB", first.0, last.0);
        assert!(last.1 <= first.1 + 1, "descriptors: {} and then {}", first.1, last.1);
    }
}
