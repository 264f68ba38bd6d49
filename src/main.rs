//! The program: runs the command that the arguments name.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use k6u::agent::Agent;
use k6u::cli::{self, Command};
use k6u::kube::{Client, Redactor};
use k6u::node::host::ThisNode;
use k6u::node::observe::{Observer, hostname};
use k6u::node::watchdog;
use k6u::reconcile::Reconciler;
use k6u::resources::crds;
use k6u::schedule::Schedule;
use k6u::settings::{self, BadSetting, Settings};
use k6u::{logging, preview, preview::Preview};
use log::info;

/// Killed by a signal, as a shell reports SIGTERM.
const TERMINATED: i32 = 128 + libc::SIGTERM;

fn main() -> ExitCode {
    // Before anything else: as PID 1 of its container k6u loses every signal that it has no handler for.
    let is_loop = std::env::args_os().len() <= 1;
    if let Err(e) = watchdog::exit_on_signals(if is_loop { 0 } else { TERMINATED }) {
        return cli::failure(&format!("cannot handle signals: {e}"));
    }
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match Command::read(&arguments) {
        Ok(Command::Run) => run(),
        Ok(Command::Once) => once(),
        Ok(Command::Preview(names, addresses)) => {
            let previewed = cli::read_files(names).and_then(|files| {
                let mut observer = Observer::new().map_err(|e| format!("cannot open a netlink socket: {e}"))?;
                preview::preview(&files, &addresses, &mut observer)
            });
            previewed.map_or_else(|problem| cli::failure(&problem), |preview| print_preview(&preview))
        }
        Ok(Command::Crds) => cli::print(crds::MANIFEST),
        Ok(Command::Help) => cli::print(cli::HELP),
        Ok(Command::Version) => cli::print(&format!("k6u {}\n", cli::version())),
        Err(problem) => cli::usage(&format!("{problem}; try k6u --help")),
    }
}

fn run() -> ExitCode {
    match start() {
        Ok((mut agent, mut node)) => {
            agent.run(&mut node);
            ExitCode::SUCCESS
        }
        Err(status) => status,
    }
}

fn once() -> ExitCode {
    match start().map(|(mut agent, mut node)| agent.once(&mut node)) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(problem)) => cli::failure(&problem),
        Err(status) => status,
    }
}

/// Reads the settings and opens what the loop needs.
fn start() -> Result<(Agent, ThisNode), ExitCode> {
    let redactor = Redactor::default();
    let settings = read_settings(&redactor).map_err(|bad| cli::usage(&bad.to_string()))?;
    let node = ThisNode::new().map_err(|e| cli::failure(&format!("cannot open a netlink socket: {e}")))?;
    let schedule = Schedule::new(settings.interval);
    info!(
        "k6u {} on node {}, every {} s, API server {}",
        cli::version(),
        settings.node_name,
        schedule.update_interval().as_secs(),
        settings.api_server
    );
    let client = Client::new(settings.api_server, &settings.service_account)
        .with_redactor(redactor)
        .on_answer(watchdog::restart);
    let reconciler = Reconciler::new(
        client,
        settings.node_name,
        settings.reporter,
        schedule.update_interval(),
    );
    Ok((Agent::new(reconciler, schedule), node))
}

fn read_settings(redactor: &Redactor) -> Result<Settings, BadSetting> {
    let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    logging::start(&settings::log_filter(variable)?, redactor.clone());
    Settings::read(variable, hostname)
}

fn print_preview(preview: &Preview) -> ExitCode {
    cli::note(&preview.notes);
    let printed = cli::print(&preview.yaml);
    if preview.ready { printed } else { ExitCode::FAILURE }
}
