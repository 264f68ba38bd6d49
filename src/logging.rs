//! The log: one line for each change, on standard error.

use std::io::Write;

use crate::kube::Redactor;
use crate::time::Timestamp;

/// Starts the log with an env_logger filter. The redactor cleans each line, so that no name or value in it can forge
/// another line, and no line contains the token.
pub fn start(filter: &str, redactor: Redactor) {
    env_logger::Builder::new()
        .parse_filters(filter)
        .format(move |line, record| {
            // Other crates log requests, with the token in them: their lines are never written.
            if record.target() != "k6u" && !record.target().starts_with("k6u::") {
                return Ok(());
            }
            writeln!(
                line,
                "{} {:5} {}",
                Timestamp::of_this_machine(),
                record.level(),
                redactor.clean(&record.args().to_string())
            )
        })
        .init();
}
