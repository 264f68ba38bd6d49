//! The command line: arguments, help, exit codes.

use std::io::{self, Read, Write};
use std::net::Ipv6Addr;
use std::process::ExitCode;

use crate::preview::File;

/// The text of `k6u --help`.
pub const HELP: &str = "\
k6u keeps Kubernetes objects in step with the IPv6 prefix that the internet provider delegates.

  k6u                    run on a node, as the DaemonSet does
  k6u once               make one round; exit with status 0 if every config is Ready, with 1 if not
  k6u preview FILE...    read objects from YAML files (- is standard input) and print the
                         objects that k6u would write on this machine; needs no cluster
      --address ADDR     use this address instead of those of the interface; may be repeated
  k6u crds               print the CustomResourceDefinitions
  k6u --help, --version

Environment variables, with their defaults:
  NODE_NAME (required), UPDATE_INTERVAL (10, in seconds), RUST_LOG (info), POD_NAME (the hostname),
  POD_NAMESPACE (kube-system), SERVICE_ACCOUNT_DIR, KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT
";

/// The exit status for bad settings or arguments.
const USAGE: u8 = 2;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The loop.
    Run,
    /// One round.
    Once,
    /// The offline plan for files and addresses.
    Preview(Vec<String>, Vec<Ipv6Addr>),
    /// Print the CRDs.
    Crds,
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

impl Command {
    /// Reads the arguments.
    ///
    /// # Errors
    /// A message that names the bad argument and the reason.
    pub fn read(arguments: &[&str]) -> Result<Self, String> {
        match *arguments {
            [] => Ok(Command::Run),
            ["once"] => Ok(Command::Once),
            ["preview", ref rest @ ..] => preview(rest),
            ["crds"] => Ok(Command::Crds),
            ["--help" | "-h" | "help"] => Ok(Command::Help),
            ["--version" | "-V"] => Ok(Command::Version),
            _ => Err(format!("unrecognized command: {}", arguments.join(" "))),
        }
    }
}

fn preview(arguments: &[&str]) -> Result<Command, String> {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--address" => match rest.next().and_then(|text| text.parse::<Ipv6Addr>().ok()) {
                Some(address) => addresses.push(address),
                None => return Err("--address needs an IPv6 address, such as 2001:db8:1234:5671::10".into()),
            },
            option if option.starts_with("--") => return Err(format!("preview has no option {option}")),
            name => names.push(name.to_string()),
        }
    }
    if names.is_empty() {
        return Err("preview needs a YAML file with an IP6UpdateConfig, or - for standard input".into());
    }
    Ok(Command::Preview(names, addresses))
}

/// Version and commit.
pub fn version() -> String {
    let commit = option_env!("K6U_COMMIT").unwrap_or("unknown commit");
    format!("{} ({commit})", env!("CARGO_PKG_VERSION"))
}

/// Prints on standard output.
pub fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints on standard error. If that is closed, only the exit status remains.
pub fn note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Reports bad arguments or settings.
pub fn usage(problem: &str) -> ExitCode {
    note(&format!("k6u: {problem}\n"));
    ExitCode::from(USAGE)
}

/// Reports a failure.
pub fn failure(problem: &str) -> ExitCode {
    note(&format!("k6u: {problem}\n"));
    ExitCode::FAILURE
}

/// Reads the files of a preview.
///
/// # Errors
/// A message that names the unreadable file and the reason.
pub fn read_files(names: Vec<String>) -> Result<Vec<File>, String> {
    let read = |name: String| match read_file(&name) {
        Ok(text) => Ok((name, text)),
        Err(e) => Err(format!("cannot read {name}: {e}")),
    };
    names.into_iter().map(read).collect()
}

fn read_file(name: &str) -> io::Result<String> {
    const MAX_FILE: u64 = 4 * 1024 * 1024;
    let reader: Box<dyn Read> = if name == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(std::fs::File::open(name)?)
    };
    let mut text = String::new();
    if reader.take(MAX_FILE).read_to_string(&mut text)? as u64 == MAX_FILE {
        return Err(io::Error::other("it is longer than 4 MiB"));
    }
    Ok(text)
}
