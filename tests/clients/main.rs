//! The rows of docs/renumbering.md with each program that may write a node's addresses instead of the kernel: dhcpcd,
//! systemd-networkd, NetworkManager. Lifetimes and intervals are scaled down to seconds.
//!
//! `make test-clients` runs these as root. Each test starts this program again, in network, mount and process
//! namespaces of its own, so that no client sees the machine's interfaces. Where a program or a kernel feature is
//! missing, its tests are reported as skipped; `make test-clients-vm` has Debian's kernel. At the end the program
//! prints a table of k6u's conclusions and their times.

#![allow(clippy::pedantic)]

mod rows;
use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Command, ExitCode};
use std::sync::Mutex;

use k6u_testkit::machine::client::Client;
use k6u_testkit::machine::router::is_installed;
use k6u_testkit::site::use_binary;
use k6u_testkit::skip::{skip, skip_impossible};
use libtest_mimic::{Arguments, Failed, Trial};

use rows::{ALL, Link, Row};

/// Mounts empty folders where daemons expect the machine's own, and runs its arguments.
const SANDBOX: &str = "
for folder in /run /etc/NetworkManager /var/lib/dhcpcd /var/lib/NetworkManager; do
    [ ! -d $folder ] || mount -t tmpfs tmpfs $folder
done
mount -t sysfs -o ro sysfs /sys
ip link set lo up
mkdir /run/tmp
export TMPDIR=/run/tmp
exec \"$@\"";

/// The start of each line that belongs to the table.
const RESULT: &str = "RESULT ";

static RESULTS: Mutex<BTreeMap<(usize, usize), String>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    use_binary(env!("CARGO_BIN_EXE_k6u"));
    let given: Vec<String> = std::env::args().collect();
    if let [_, flag, row, client] = &given[..]
        && flag == "--alone"
    {
        run_alone(row, client);
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(4);
    // SAFETY: no pointers are passed.
    let is_root = unsafe { libc::getuid() } == 0;
    if !is_root {
        skip("address clients change users and mounts, so all of these need root");
    }
    let mut trials = Vec::new();
    for (number, row) in ALL.iter().enumerate() {
        for (column, client) in Client::ALL.into_iter().enumerate() {
            if row.clients.contains(&client) {
                trials.push(trial(row, client, (number, column), is_root));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for ((number, column), result) in &*RESULTS.lock().expect("no panic meanwhile") {
        println!("| {} | {} | {result} |", ALL[*number].name, Client::ALL[*column].name());
    }
    conclusion.exit_code()
}

fn trial(row: &'static Row, client: Client, place: (usize, usize), is_root: bool) -> Trial {
    let name = format!("{}_{}", row.name, client.name());
    let needed = [row.programs, client.programs(), &["unshare", "nsenter", "ip"]].concat();
    let missing: Vec<&str> = needed.into_iter().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        skip(&format!(
            "{name} needs {}, which is not installed",
            missing.join(" and ")
        ));
    }
    // A kernel without modules has no VLANs or PPP; `make test-clients-vm` runs these on one that has them.
    let without_kernel = row.link.and_then(missing_in_kernel);
    if let Some(kernel) = without_kernel {
        skip_impossible(&format!("{name} needs {kernel}"));
    }
    let run = move || {
        let own = std::env::current_exe().map_err(|e| Failed::from(e.to_string()))?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-ec", SANDBOX, "sh"]).arg(own);
        let output = command
            .args(["--alone", row.name, client.name()])
            .output()
            .map_err(|e| Failed::from(e.to_string()))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let results: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(RESULT)).collect();
        let mut all = RESULTS.lock().expect("no panic meanwhile");
        all.insert(place, results.join("; "));
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(!is_root || !missing.is_empty() || without_kernel.is_some())
}

/// Returns the kernel feature that such an interface needs, if it is missing. Loads its module, if there is one.
fn missing_in_kernel(link: Link) -> Option<&'static str> {
    match link {
        Link::Vlan => {
            let script = "ip link add k6u0 type veth peer name k6u1 && ip link add link k6u0 name k6u2 type vlan id 5";
            let made = Command::new("unshare").args(["--net", "sh", "-c", script]).output();
            (!made.is_ok_and(|output| output.status.success())).then_some("a kernel with VLANs (8021q)")
        }
        Link::Ppp => File::open("/dev/ppp")
            .is_err()
            .then_some("a kernel with PPP (/dev/ppp)"),
    }
}

/// Runs one test in the namespaces that were made for it.
fn run_alone(row: &str, client: &str) {
    let client = Client::ALL.into_iter().find(|c| c.name() == client).expect("a client");
    let row = ALL.iter().find(|r| r.name == row).expect("a row");
    (row.case)(client);
}
