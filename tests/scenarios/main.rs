//! The real binary as a child process, over real TLS, against the API server in tests/support, on
//! interfaces of its own.
//!
//! The process enters a user and network namespace before any thread starts; so this test has its own main.

#![allow(clippy::pedantic)]

/// Scenarios, each under the name of its function.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), $name as fn())),*]
    };
}

mod announcements;
mod boards;
mod cilium;
mod client;
mod clockwork;
mod command_line;
mod configs;
mod confined;
mod events;
mod failures;
mod faults;
mod hangs;
mod heavy;
mod kills;
mod links;
mod machine;
mod minutes;
mod names;
mod nodes;
mod refusals;
mod renumbering;
mod site;
mod soak;
mod start;
mod targets;
mod trio;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};

use k6u_testkit::skip::{skip, skip_impossible};
use libtest_mimic::{Arguments, Trial};

/// A scenario's name and what it does.
type Scenario = (&'static str, fn());

/// Those that take minutes by nature: `make test-long`, which is a part of `make ci`.
const LONG: &[&str] = &["thirty_targets_hang_on_write"];

/// Held for reading by every scenario while it runs, and for writing by one that takes the whole machine.
static MACHINE: RwLock<()> = RwLock::new(());

/// The binary under test; K6U_BIN names another one, such as a musl build.
fn binary() -> PathBuf {
    std::env::var_os("K6U_BIN").map_or_else(|| env!("CARGO_BIN_EXE_k6u").into(), PathBuf::from)
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Scenarios mostly wait for k6u, so many more of them than there are processors run at a time.
    arguments.test_threads.get_or_insert(48);
    let entered = k6u_testkit::machine::namespace::enter();
    if let Err(e) = &entered {
        eprintln!("Every scenario needs them: see kernel.unprivileged_userns_clone and user.max_user_namespaces.");
        skip(&format!("this machine forbids user and network namespaces ({e})"));
    }
    // The soak takes many minutes: `make soak`.
    let mut left_out: Vec<&str> = soak::ALL
        .iter()
        .map(|(name, _)| *name)
        .chain(LONG.iter().copied())
        .collect();
    let (unfit, target) = if machine::is_static(&binary()) {
        (
            [&[machine::NEEDS_DYNAMIC][..], hangs::NEED_DYNAMIC].concat(),
            "make test",
        )
    } else {
        (vec![confined::NEEDS_STATIC], "make test-confined")
    };
    if !binary().to_string_lossy().contains("musl") {
        eprintln!("{} is for the musl binary: make test-musl runs it.", names::NEEDS_MUSL);
        left_out.push(names::NEEDS_MUSL);
    }
    for name in &unfit {
        eprintln!("{name} is for another kind of binary: {target} runs it.");
    }
    left_out.extend(unfit);
    let mut without_kernel = if entered.is_ok() { links::unfit() } else { Vec::new() };
    without_kernel.extend(announcements::unfit());
    for (name, missing) in &without_kernel {
        // No package brings these to a kernel without modules; `make test-boards` runs them on kernels that have them.
        skip_impossible(&format!("{name} needs a kernel with {missing}"));
        left_out.push(name);
    }
    // Those that wait for long come first: the others run beside them.
    let all = [
        targets::ALL,
        minutes::ALL,
        hangs::ALL,
        kills::ALL,
        faults::ALL,
        refusals::ALL,
        client::ALL,
        command_line::ALL,
        start::ALL,
        renumbering::ALL,
        announcements::ALL,
        nodes::ALL,
        configs::ALL,
        cilium::ALL,
        failures::ALL,
        machine::ALL,
        names::ALL,
        links::ALL,
        events::ALL,
        confined::ALL,
        soak::ALL,
        // Last, because they run alone.
        heavy::ALL,
    ];
    let scenarios = || all.iter().flat_map(|module| module.iter());
    for name in boards::PART {
        assert!(
            scenarios().any(|scenario| scenario.0 == *name),
            "boards.rs: no scenario is named {name}"
        );
    }
    let is_chosen = |scenario: &&Scenario| !boards::are_chosen() || boards::PART.contains(&scenario.0);
    let trial = |(name, scenario): &Scenario| {
        let scenario = *scenario;
        let takes_all = heavy::ALONE.contains(name);
        let run = move || {
            // What a scenario that failed leaves behind hinders no other.
            if takes_all {
                let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
                scenario();
            } else {
                let _together = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
                scenario();
            }
            Ok(())
        };
        let kind = if LONG.contains(name) { "long" } else { "" };
        Trial::test(*name, run)
            .with_kind(kind)
            .with_ignored_flag(entered.is_err() || left_out.contains(name))
    };
    let trials = scenarios().filter(is_chosen).map(trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Only all scenarios together show that a right is not needed.
    let all_ran = !boards::are_chosen()
        && conclusion.num_filtered_out == 0
        && conclusion.num_ignored == left_out.len() as u64
        && !arguments.list;
    let unused = if all_ran { site::unused_rights() } else { Vec::new() };
    if !unused.is_empty() {
        eprintln!("manifests/ grant what no scenario needed: {unused:#?}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
