//! Tests and measurements that do not run on this machine. scripts/skip.sh is the same for scripts.

/// Reports a skip because something is missing that can be installed or allowed. Panics if K6U_STRICT is 1, as in CI:
/// there a skip is a failure.
pub fn skip(what: &str) {
    report(what);
    let is_strict = std::env::var_os("K6U_STRICT").is_some_and(|value| value == "1");
    assert!(!is_strict, "a skip is a failure with K6U_STRICT=1");
}

/// Reports a skip because this machine's kernel lacks a feature that cannot be installed. This is no failure; the
/// caller gives the reason in a comment.
pub fn skip_impossible(what: &str) {
    report(what);
}

fn report(what: &str) {
    eprintln!("SKIPPED, NOT PASSED: {what}");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Runs `skips`, which is ignored otherwise, in a process with this K6U_STRICT; returns whether it passes.
    fn passes(strict: Option<&str>) -> bool {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "skip::tests::skips", "--ignored"]);
        match strict {
            Some(value) => command.env("K6U_STRICT", value),
            None => command.env_remove("K6U_STRICT"),
        };
        let output = command.output().expect("it runs");
        assert!(String::from_utf8_lossy(&output.stdout).contains("running 1 test"));
        output.status.success()
    }

    #[test]
    #[ignore = "the next test runs it"]
    fn skips() {
        super::skip_impossible("a test");
        super::skip("a test");
    }

    #[test]
    fn a_skip_fails_only_if_strict() {
        assert!(passes(None));
        assert!(passes(Some("0")));
        assert!(!passes(Some("1")));
    }
}
