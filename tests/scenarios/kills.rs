//! kill -9 in the middle of a renumbering: afterwards the groups are right, and they were never wrong.

use std::thread;
use std::time::Duration;

use crate::Scenario;
use crate::site::{GROUP, SOON};
use crate::trio::{NAMES, Trio};

pub const ALL: &[Scenario] = &[
    ("killed_at_ten_moments_with_an_object_for_each_node", || {
        killed_at_moments(1)
    }),
    ("killed_at_ten_moments_with_one_object", || killed_at_moments(2)),
];

const MOMENTS: usize = 10;

/// The delegated prefix of a renumbering, up to its last hex digit.
fn delegated(number: usize) -> String {
    format!("2001:db8:{number:x}:567")
}

fn killed_at_moments(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut trio = if seed % 2 == 1 {
        Trio::start(1)
    } else {
        Trio::sharing(1)
    };
    trio.renumber("2001:db8:1234:567", &delegated(0));
    trio.site.wait_lan(&delegated(0));
    for number in 1..=MOMENTS {
        let before = trio.site.group_history(GROUP).len();
        // What follows a change at once takes ten milliseconds, what follows within a second takes longer.
        let moment = Duration::from_millis(if rng.u8(..4) == 0 {
            rng.u64(..1200)
        } else {
            rng.u64(..25)
        });
        let victims: Vec<usize> = (0..3).filter(|_| rng.bool()).collect();
        let links = trio.interfaces.len();
        let first = rng.usize(..links);
        let pauses = [0, 1, 2].map(|_| Duration::from_micros(rng.u64(..8000)));
        let outage = Duration::from_millis(rng.u64(..30));
        let trio_now = &trio;
        thread::scope(|scope| {
            scope.spawn(move || {
                for (step, pause) in pauses.into_iter().take(links).enumerate() {
                    trio_now.renumber_link((first + step) % links, &delegated(number - 1), &delegated(number));
                    thread::sleep(pause);
                }
            });
            thread::sleep(moment);
            for victim in &victims {
                trio.nodes[*victim].signal(libc::SIGKILL);
            }
        });
        thread::sleep(outage);
        for victim in &victims {
            trio.nodes[*victim].wait(SOON).expect("it is dead");
            trio.nodes[*victim] = trio.run(NAMES[*victim], 1);
        }
        trio.site.wait_lan(&delegated(number));

        let ours = |cidr: &String, of: usize| cidr.starts_with(&delegated(of));
        let history = trio.site.group_history(GROUP);
        let mut had_new = Vec::new();
        for held in &history[before..] {
            let strange: Vec<&String> = held
                .iter()
                .filter(|cidr| !ours(cidr, number) && !ours(cidr, number - 1))
                .collect();
            assert!(strange.is_empty(), "moment {number}: {strange:?} in {history:#?}");
            let new: Vec<String> = held.iter().filter(|cidr| ours(cidr, number)).cloned().collect();
            assert!(
                had_new.iter().all(|cidr| new.contains(cidr)),
                "moment {number}: a new one went again: {history:#?}"
            );
            had_new = new;
        }
    }
}
