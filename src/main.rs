//! The command line and the loop.

use std::io::{self, Read, Write};
use std::net::Ipv6Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use k6u::apply::{Failure, Operator};
use k6u::crds::{self, Deployed};
use k6u::interface::{Observation, Observer, Watch};
use k6u::kube::{Client, Error};
use k6u::objects::GROUP;
use k6u::pace::{Ended, Pace, dice};
use k6u::preview::{self, Interfaces};
use k6u::settings::{self, Settings};
use k6u::time::Timestamp;
use k6u::wake::{self, Sleeper, Woken};
use log::{debug, info};

const HELP: &str = "\
k6u keeps CiliumCIDRGroups in step with the IPv6 prefix that a provider delegates.

  k6u                    run on a node, as the DaemonSet does
  k6u once               one round; status 0 if all is well after it, 1 if not
  k6u preview FILE...    print the CiliumCIDRGroups that the objects in these YAML files would give
                         on this machine, without a cluster; - reads standard input
      --address ADDR     use this address instead of the interface's (may be repeated)
  k6u crds               print the CustomResourceDefinitions
  k6u --help, --version

Settings come from the environment: NODE_NAME, UPDATE_INTERVAL (seconds, 10), RUST_LOG (info),
POD_NAME, POD_NAMESPACE, KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT, SERVICE_ACCOUNT_DIR.
";

/// Bad settings or arguments.
const USAGE: u8 = 2;
/// Killed by a signal, as a shell reports SIGTERM.
const TERMINATED: i32 = 128 + libc::SIGTERM;
/// While addresses keep changing, they are looked at this often at the most.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// What the API server sets up at the start takes about a second; longer is worth a warning.
const PATIENCE: u32 = 10;
/// `k6u once` gives up on others that write at the same time, or on CRDs, after so many tries.
const TRIES: u32 = 60;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => operate(false),
        ["once"] => operate(true),
        ["preview", ref rest @ ..] => preview_command(rest),
        ["crds"] => print(crds::MANIFEST),
        ["--help" | "-h" | "help"] => print(HELP),
        ["--version" | "-V"] => print(&format!("k6u {}\n", version())),
        _ => usage(&format!("what is meant by: {}", arguments.join(" "))),
    }
}

fn version() -> String {
    let commit = option_env!("K6U_COMMIT").unwrap_or("unknown commit");
    format!("{} ({commit})", env!("CARGO_PKG_VERSION"))
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("k6u: {problem}; try k6u --help");
    ExitCode::from(USAGE)
}

fn failure(problem: &str) -> ExitCode {
    eprintln!("k6u: {problem}");
    ExitCode::FAILURE
}

/// The loop, or one round of it.
fn operate(once: bool) -> ExitCode {
    let settings = match read_settings() {
        Ok(settings) => settings,
        Err(bad) => {
            eprintln!("k6u: {bad}");
            return ExitCode::from(USAGE);
        }
    };
    let started = || -> io::Result<(Sleeper, Observer)> {
        wake::exit_on_signals(if once { TERMINATED } else { 0 })?;
        Ok((Sleeper::new()?, Observer::new()?))
    };
    let (sleeper, observer) = match started() {
        Ok(started) => started,
        Err(e) => return failure(&format!("cannot listen to the kernel (netlink and signals): {e}")),
    };
    info!(
        "k6u {} on node {}, every {} s, API server {}",
        version(),
        settings.node_name,
        settings.interval.as_secs(),
        settings.api_server
    );
    let client = Client::new(settings.api_server, settings.service_account);
    let mut pace = Pace::new(settings.interval);
    let mut work = Work {
        operator: Operator::new(client, settings.node_name, settings.reporter, pace.interval()),
        observer,
        started: Instant::now(),
        is_deployed: false,
        waits: 0,
    };
    if once {
        work.once(&sleeper, &mut pace)
    } else {
        work.for_ever(&sleeper, &mut pace)
    }
}

fn read_settings() -> Result<Settings, settings::BadSetting> {
    let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let filter = settings::log_filter(variable)?;
    start_log(&filter);
    Settings::read(variable, k6u::interface::hostname)
}

fn start_log(filter: &str) {
    env_logger::Builder::new()
        .parse_filters(filter)
        .format(|line, record| {
            // Other crates log what is sent, and so the token: no level may show that.
            if record.target() != "k6u" && !record.target().starts_with("k6u::") {
                return Ok(());
            }
            writeln!(
                line,
                "{} {:5} {}",
                Timestamp::of_this_machine(),
                record.level(),
                record.args()
            )
        })
        .init();
}

/// What the loop works with.
struct Work {
    operator: Operator,
    observer: Observer,
    started: Instant,
    is_deployed: bool,
    waits: u32,
}

impl Work {
    fn for_ever(&mut self, sleeper: &Sleeper, pace: &mut Pace) -> ExitCode {
        let mut next_look = Instant::now();
        loop {
            let (ended, _) = self.step();
            let mut due = pace.after_round(Instant::now(), ended, dice());
            if let (Ended::Well | Ended::Turn, Some(turn)) = (ended, self.operator.until_turn()) {
                due = due.min(Instant::now() + turn);
            }
            loop {
                match sleeper.sleep_until(due) {
                    Woken::TimeOver => break,
                    Woken::AddressChange => {
                        // Changes come in swarms, most of them of other interfaces: one look sees them all.
                        std::thread::sleep(next_look.saturating_duration_since(Instant::now()));
                        next_look = Instant::now() + BETWEEN_LOOKS;
                        if self.operator.sees_change(&mut |watch| self.observer.observe(watch)) {
                            let delay = self.operator.spread().mul_f64(dice());
                            due = pace.after_change(Instant::now(), due, delay);
                        }
                    }
                }
            }
        }
    }

    fn once(&mut self, sleeper: &Sleeper, pace: &mut Pace) -> ExitCode {
        for _ in 0..TRIES {
            let (ended, is_ready) = self.step();
            match ended {
                Ended::Again | Ended::NotYet(_) => {
                    let due = pace.after_round(Instant::now(), ended, dice());
                    while sleeper.sleep_until(due) != Woken::TimeOver {}
                }
                Ended::Well | Ended::Turn if is_ready && self.operator.journal.is_clean() => return ExitCode::SUCCESS,
                Ended::Well | Ended::Turn | Ended::Failed { .. } => return ExitCode::FAILURE,
            }
        }
        failure(&format!("gave up after {TRIES} tries"))
    }

    /// Deploys the CRDs if need be, and makes a round. Says how it ended, and whether all is Ready.
    fn step(&mut self) -> (Ended, bool) {
        let (start, requests) = (Instant::now(), self.operator.client().requests());
        let result = match self.deploy() {
            Ok(Deployed::NotYet(name)) => {
                self.wait_for(&format!("the API server does not serve {name} yet"));
                let soon = (self.waits < PATIENCE).then_some(Duration::from_millis(200));
                return (Ended::NotYet(soon), false);
            }
            Ok(Deployed::Established) => {
                let uptime = self.started.elapsed();
                self.operator.round(uptime, &mut |watch| self.observer.observe(watch))
            }
            Err(e) => Err(e.into()),
        };
        let requests = self.operator.client().requests() - requests;
        debug!(
            "round: {requests} requests, {} us: {result:?}",
            start.elapsed().as_micros()
        );
        match result {
            Ok(outcome) => {
                self.waits = 0;
                for subject in ["API server", "addresses", "start"] {
                    self.operator.journal.works(subject);
                }
                (outcome.ended(), outcome.ready)
            }
            Err(Failure::Addresses(what)) => {
                self.operator.journal.fails("addresses", &what);
                (
                    Ended::Failed {
                        wants_rest: false,
                        retry_after: None,
                    },
                    false,
                )
            }
            Err(Failure::Request(e)) => (self.failed(&e), false),
        }
    }

    fn deploy(&mut self) -> Result<Deployed, Error> {
        if self.is_deployed {
            return Ok(Deployed::Established);
        }
        let client = self.operator.client();
        client.read_account()?;
        let deployed = crds::deploy(client)?;
        self.is_deployed = deployed == Deployed::Established;
        Ok(deployed)
    }

    fn failed(&mut self, error: &Error) -> Ended {
        if error.is_initializing() {
            self.wait_for(&error.to_string());
            return Ended::NotYet(error.retry_after());
        }
        if error.is_conflict() {
            // So many nodes publish in the same object that the API server gave up.
            self.wait_for(&error.to_string());
            return Ended::Again;
        }
        if error.is_absent_api() && error.path.contains(GROUP) {
            // Somebody deleted the CRDs, or the cluster is a new one: deploy them again.
            self.is_deployed = false;
        }
        self.operator
            .journal
            .fails_by("API server", &error.kind(), &error.to_string());
        Ended::Failed {
            wants_rest: error.wants_rest(),
            retry_after: error.retry_after(),
        }
    }

    /// Notes something that is normal at the start, but not for long.
    fn wait_for(&mut self, what: &str) {
        self.waits += 1;
        debug!("{what}");
        if self.waits >= PATIENCE {
            self.operator.journal.fails("start", what);
        }
    }
}

struct ThisMachine(Observer);

impl Interfaces for ThisMachine {
    fn observe(&mut self, watch: &Watch) -> io::Result<Observation> {
        self.0.observe(watch)
    }

    fn with_prefix(&mut self) -> io::Result<Vec<String>> {
        self.0.interfaces_with_prefix()
    }
}

fn preview_command(arguments: &[&str]) -> ExitCode {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--address" => match rest.next().and_then(|text| text.parse::<Ipv6Addr>().ok()) {
                Some(address) => addresses.push(address),
                None => return usage("--address needs an IPv6 address, such as 2001:db8:1234:5671::10"),
            },
            option if option.starts_with("--") => return usage(&format!("preview has no option {option}")),
            name => names.push(name),
        }
    }
    if names.is_empty() {
        return usage("preview needs a YAML file with an IP6UpdateConfig, or - for standard input");
    }
    let mut files = Vec::new();
    for name in names {
        match read_file(name) {
            Ok(text) => files.push((name.to_string(), text)),
            Err(e) => return failure(&format!("cannot read {name}: {e}")),
        }
    }
    let observer = match Observer::new() {
        Ok(observer) => observer,
        Err(e) => return failure(&format!("cannot ask the kernel for addresses (netlink): {e}")),
    };
    match preview::preview(&files, &addresses, &mut ThisMachine(observer)) {
        Ok(preview) => {
            eprint!("{}", preview.notes);
            let printed = print(&preview.yaml);
            if preview.ready { printed } else { ExitCode::FAILURE }
        }
        Err(problem) => failure(&problem),
    }
}

fn read_file(name: &str) -> io::Result<String> {
    const MOST: u64 = 4 * 1024 * 1024;
    let reader: Box<dyn Read> = if name == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(std::fs::File::open(name)?)
    };
    let mut text = String::new();
    if reader.take(MOST).read_to_string(&mut text)? as u64 == MOST {
        return Err(io::Error::other("it is longer than 4 MiB"));
    }
    Ok(text)
}
