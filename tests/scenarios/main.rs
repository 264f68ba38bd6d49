//! The real binary as a child process, over real TLS, against the API server in tests/support, on interfaces of its
//! own. tests/README.md says which file is about what.
//!
//! The process enters a user and network namespace before any thread starts; so this test has its own main.

#![allow(clippy::pedantic)]

/// Scenarios of a file, each under the name of its function.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        &[$(crate::Scenario {
            module: module_path!(),
            name: stringify!($name),
            run: $name,
        }),*]
    };
}

mod addresses;
mod announcements;
mod boards;
mod clockwork;
mod command_line;
mod configs;
mod crds;
mod groups;
mod kernel;
mod memory;
mod peers;
mod publication;
mod reports;
mod retries;
mod soak;
mod status;
mod targets;
mod transport;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};

use k6u_testkit::site::{binary, unused_rights, use_binary};
use k6u_testkit::skip::{skip, skip_impossible};
use libtest_mimic::{Arguments, Trial};

/// A scenario: the file that it is in, its name, and what it does.
#[derive(Clone, Copy)]
struct Scenario {
    module: &'static str,
    name: &'static str,
    run: fn(),
}

impl Scenario {
    /// `file::name`.
    fn title(&self) -> String {
        let file = self.module.rsplit("::").next().unwrap_or_default();
        format!("{file}::{}", self.name)
    }
}

/// All scenarios. The first file has the one that waits for longest.
const ALL: &[&[Scenario]] = &[
    memory::ALL,
    groups::ALL,
    targets::ALL,
    peers::ALL,
    publication::ALL,
    reports::ALL,
    retries::ALL,
    status::ALL,
    transport::ALL,
    crds::ALL,
    addresses::ALL,
    announcements::ALL,
    configs::ALL,
    command_line::ALL,
    kernel::ALL,
    soak::ALL,
];

/// Scenarios that take minutes by nature: `make test-long`, which is a part of `make ci`.
const LONG: &[&str] = &["thirty_targets_hang_on_write"];
/// The scenario that takes half an hour: `make soak`.
const SOAK: &[&str] = &["two_thousand_renumberings_with_faults"];
/// Scenarios that preload a library to move the clock or to shorten the alarm, which needs a dynamically linked binary.
const NEED_DYNAMIC: &[&str] = &[
    "the_nodes_clock_jumps_by_a_year",
    "reading_the_token_blocks",
    "standard_error_blocks",
    "each_round_resets_the_alarm",
    "each_response_resets_the_alarm",
];
/// The scenario in an empty root, where there is no loader and no library.
const NEED_STATIC: &[&str] = &["alone_in_an_empty_root"];
/// The scenario that hangs with glibc: its getifaddrs never returns if an interface has that many names.
const NEED_MUSL: &[&str] = &["an_interface_with_three_hundred_names"];

/// The number of scenarios that run at a time: they mostly wait for k6u, so it exceeds the number of processors.
const AT_ONCE: usize = 48;

/// Held for reading by every scenario while it runs, and for writing by one that takes the whole machine.
static MACHINE: RwLock<()> = RwLock::new(());

/// Whether a binary brings its C library along.
fn is_static(binary: &Path) -> bool {
    // The name of the loader stands in every program that needs one.
    let bytes = fs::read(binary).expect("the binary");
    let loader = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    !loader(b"/lib64/ld-linux") && !loader(b"/lib/ld-linux")
}

/// Returns the scenarios that this binary cannot run, each with the make target that runs it.
fn unsupported_by_binary() -> Vec<(&'static str, &'static str)> {
    let mut unsupported: Vec<(&[&str], &str)> = vec![if is_static(binary()) {
        (NEED_DYNAMIC, "make test")
    } else {
        (NEED_STATIC, "make test-confined")
    }];
    if !binary().to_string_lossy().contains("musl") {
        unsupported.push((NEED_MUSL, "make test-musl"));
    }
    unsupported
        .into_iter()
        .flat_map(|(names, make)| names.iter().map(move |name| (*name, make)))
        .collect()
}

fn trial(scenario: Scenario, is_ignored: bool) -> Trial {
    let run = move || {
        // A scenario that panicked poisons the lock, which does not matter to the others.
        if memory::ALONE.contains(&scenario.name) {
            let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
            (scenario.run)();
        } else {
            let _together = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
            (scenario.run)();
        }
        Ok(())
    };
    let kind = if LONG.contains(&scenario.name) { "long" } else { "" };
    Trial::test(scenario.title(), run)
        .with_kind(kind)
        .with_ignored_flag(is_ignored)
}

fn main() -> ExitCode {
    use_binary(env!("CARGO_BIN_EXE_k6u"));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let entered = k6u_testkit::machine::namespace::enter();
    if let Err(e) = &entered {
        eprintln!("Every scenario needs them: see kernel.unprivileged_userns_clone and user.max_user_namespaces.");
        skip(&format!("this machine forbids user and network namespaces ({e})"));
    }
    let mut left_out = [LONG, SOAK].concat();
    for (name, make) in unsupported_by_binary() {
        eprintln!("{name} is for another kind of binary: {make} runs it.");
        left_out.push(name);
    }
    let mut without_kernel = if entered.is_ok() {
        kernel::unsupported()
    } else {
        Vec::new()
    };
    without_kernel.extend(announcements::unsupported());
    for (name, missing) in &without_kernel {
        // No package brings these to a kernel without modules; `make test-boards` runs them on kernels that have them.
        skip_impossible(&format!("{name} needs a kernel with {missing}"));
        left_out.push(name);
    }
    let scenarios = || ALL.iter().flat_map(|file| file.iter().copied());
    for name in [boards::PART, memory::ALONE, &left_out].concat() {
        assert!(
            scenarios().any(|scenario| scenario.name == name),
            "no scenario is named {name}"
        );
    }
    let is_chosen = |scenario: &Scenario| !boards::are_chosen() || boards::PART.contains(&scenario.name);
    let mut chosen: Vec<Scenario> = scenarios().filter(is_chosen).collect();
    // Those that take the whole machine come last.
    chosen.sort_by_key(|scenario| memory::ALONE.contains(&scenario.name));
    let trials = chosen
        .into_iter()
        .map(|scenario| trial(scenario, entered.is_err() || left_out.contains(&scenario.name)));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // Only all scenarios together show that a right is not needed.
    let all_ran = !boards::are_chosen()
        && conclusion.num_filtered_out == 0
        && conclusion.num_ignored == left_out.len() as u64
        && !arguments.list;
    let unused = if all_ran { unused_rights() } else { Vec::new() };
    if !unused.is_empty() {
        eprintln!("manifests/ grant what no scenario needed: {unused:#?}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
