//! Many nodes, in virtual time: k6u's own loop against a cluster in memory.
//!
//! [`stories`] says what may happen, [`check`] what must hold whatever happens, [`measure`] what a day costs.
//! `make test` lives through two hundred stories, `make ci` through seven hundred, `make simulate` through thousands, and prints the table.

mod cases;
mod check;
mod clock;
mod cluster;
mod json;
mod measure;
mod site;
mod stories;
mod wire;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::measure::{Figures, HEAD};
use crate::site::Layout;
use crate::stories::{TROUBLES, Trouble, story};

/// The sizes that people have.
const SMALL: [usize; 6] = [1, 2, 3, 4, 6, 10];

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Lives through stories, on all cores; panics with what went wrong in them.
fn live_through(stories: &[(Trouble, usize, u64)]) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((trouble, count, seed)) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
            let story = story(*trouble, *count, *seed);
            let wrongs = check::wrongs(&story, &site::run(&story));
            if !wrongs.is_empty() {
                let text = format!("{trouble:?}, {count} nodes, seed {seed}: {}", wrongs.join("\n    "));
                failed.lock().expect("no panic meanwhile").push((*trouble, text));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..cores).for_each(|_| {
            scope.spawn(work);
        });
    });
    let failed = failed.into_inner().expect("no panic meanwhile");
    let mut counts = BTreeMap::new();
    for (trouble, _) in &failed {
        *counts.entry(format!("{trouble:?}")).or_insert(0) += 1;
    }
    let examples: Vec<&str> = failed.iter().take(8).map(|(_, text)| text.as_str()).collect();
    let all = stories.len();
    assert!(
        failed.is_empty(),
        "{} of {all} stories, {counts:?}:\n{}",
        failed.len(),
        examples.join("\n")
    );
}

/// For each small size so many stories of each trouble, or all of one.
fn of_small_sizes(seeds: u64) -> Vec<(Trouble, usize, u64)> {
    let only = std::env::var("K6U_TROUBLE").unwrap_or_default();
    let troubles = TROUBLES
        .into_iter()
        .filter(|trouble| format!("{trouble:?}").contains(&only));
    let of = |trouble| {
        SMALL
            .into_iter()
            .flat_map(move |count| (0..seeds).map(move |seed| (trouble, count, seed)))
    };
    troubles.flat_map(of).collect()
}

/// Two stories of each trouble and each small size; `make ci` lives through a hundred of each size.
#[test]
fn whatever_happens() {
    let seeds = number("K6U_SEEDS", 2);
    live_through(&of_small_sizes(seeds));
}

/// What a day may cost, and how soon all must be right in it.
fn check_day(count: usize, layout: Layout, seed: u64) -> Figures {
    let day = Figures::of(count, layout, seed);
    let what = format!("{count} nodes, {layout:?}, seed {seed}: {day:?}");
    let within = |time: Option<Duration>, seconds: u64| time.is_some_and(|time| time < Duration::from_secs(seconds));
    assert_eq!(day.wrongs, [""; 0], "{what}");
    assert!(day.requests <= 20.0, "{what}");
    let kilobytes = match layout {
        Layout::Shared => 1500.0,
        Layout::PerNode => 3000.0,
    };
    assert!(day.kilobytes <= kilobytes, "{what}");
    assert!(day.group_writes <= 3, "{what}");
    assert!(
        within(day.new_in, 1) && within(day.old_out, 3) && within(day.alone_in, 3),
        "{what}"
    );
    // Three nodes look after the targets in every interval, by lot: none does with a probability of one in twenty.
    assert!(within(day.drift_undone, 70) && within(day.edit_done, 70), "{what}");
    assert!(within(day.death_out, 340), "{what}");
    day
}

#[test]
fn days_of_few_nodes_and_many() {
    for layout in [Layout::Shared, Layout::PerNode] {
        for count in [1, 2, 3, 10, 30] {
            check_day(count, layout, 1);
        }
    }
}

/// K6U_STORY="MadeAnew 3 0" RUST_LOG=debug: this one, and what happens in it.
#[test]
#[ignore = "to look at one story"]
fn one_story() {
    let text = std::env::var("K6U_STORY").expect("a trouble, a number of nodes, a seed");
    let words: Vec<&str> = text.split_whitespace().collect();
    let [trouble, count, seed] = words[..] else {
        panic!("{text}");
    };
    let trouble = TROUBLES.into_iter().find(|known| format!("{known:?}") == trouble);
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let story = (trouble.expect("a trouble"), number(count) as usize, number(seed));
    println!("{:#?}", crate::stories::story(story.0, story.1, story.2));
    live_through(&[story]);
}

#[test]
#[ignore = "takes minutes: make simulate"]
fn thousands_of_stories() {
    live_through(&of_small_sizes(number("K6U_SEEDS", 100)));
}

#[test]
#[ignore = "takes minutes: make simulate"]
fn table() {
    println!("{HEAD}");
    let sizes = std::env::var("K6U_NODES").unwrap_or_else(|_| "1 2 3 10 30 100 300".into());
    for count in sizes.split_whitespace().map(|size| size.parse().expect("a number")) {
        for layout in [Layout::Shared, Layout::PerNode] {
            println!("{}", Figures::of(count, layout, 1).line());
        }
    }
}
