//! Golden files: the texts that users read, in tests/golden. A test compares k6u's output with the file; with
//! `K6U_UPDATE_GOLDEN=1` it writes the file, and `git diff` shows the change that users will see.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

/// A part that differs from run to run: a regular expression, and its placeholder in the file.
pub type Varying<'a> = (&'a str, &'a str);

/// A time of day, as Kubernetes and the log write it.
pub const TIME: Varying = (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<time>");
/// The port of the API server.
pub const PORT: Varying = (r"127\.0\.0\.1:\d+", "127.0.0.1:<port>");
/// The release and its commit.
pub const RELEASE: Varying = (r"k6u \d+\.\d+\.\d+ \([^)]*\)", "k6u <release>");
/// An address that the kernel made for a link.
pub const LINK_LOCAL: Varying = (r"fe80::[0-9a-f:]+", "<link-local>");

/// The text with each part that differs from run to run replaced.
///
/// # Panics
/// If a regular expression is invalid.
pub fn normalize(text: &str, varying: &[Varying]) -> String {
    let replace = |text: String, (pattern, placeholder): &Varying| {
        let pattern = Regex::new(pattern).expect("a regular expression");
        pattern.replace_all(&text, *placeholder).into_owned()
    };
    varying.iter().fold(text.to_string(), replace)
}

/// Compares a text with tests/golden/`name`, or writes that file if the environment says so.
///
/// # Errors
/// What to do, and the first line that differs.
pub fn compare(name: &str, text: &str, varying: &[Varying]) -> Result<(), String> {
    let file = folder().join(name);
    let text = normalize(text, varying);
    if env::var_os("K6U_UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        return fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()));
    }
    let expected = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    difference(&expected, &text).map_or(Ok(()), |difference| {
        Err(format!(
            "the output differs from tests/golden/{name}; K6U_UPDATE_GOLDEN=1 updates the file: {difference}\n{text}"
        ))
    })
}

/// The same in a test.
///
/// # Panics
/// If they differ.
pub fn check(name: &str, text: &str, varying: &[Varying]) {
    compare(name, text, varying).unwrap_or_else(|difference| panic!("{difference}"));
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden")
}

/// The first line that differs, in both.
fn difference(expected: &str, text: &str) -> Option<String> {
    let (mut expected, mut text) = (expected.split('\n'), text.split('\n'));
    for number in 1.. {
        match (expected.next(), text.next()) {
            (None, None) => return None,
            (one, other) if one == other => {}
            (one, other) => {
                let line = |line: Option<&str>| line.map_or("nothing".into(), |line| format!("{line:?}"));
                return Some(format!("line {number} is {}, not {}", line(other), line(one)));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varying_parts_are_replaced() {
        let text = "2026-11-26T07:13:36Z INFO  k6u 0.4.0 (unknown commit) on fe80::1, https://127.0.0.1:44933";
        assert_eq!(
            normalize(text, &[TIME, PORT, RELEASE, LINK_LOCAL]),
            "<time> INFO  k6u <release> on <link-local>, https://127.0.0.1:<port>"
        );
    }

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(
            difference("a\nb\n", "a\nc\n").as_deref(),
            Some(r#"line 2 is "c", not "b""#)
        );
        assert_eq!(
            difference("a\nb", "a").as_deref(),
            Some(r#"line 2 is nothing, not "b""#)
        );
        assert_eq!(difference("a", "a\n").as_deref(), Some(r#"line 2 is "", not nothing"#));
    }
}
