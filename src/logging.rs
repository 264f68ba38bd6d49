//! The log: one line for each change, on standard error.

use std::io::Write;

use crate::time::Timestamp;

/// Starts the log with an env_logger filter.
pub fn start(filter: &str) {
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
