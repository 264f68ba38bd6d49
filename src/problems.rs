//! What is wrong right now, by subject. Each problem is logged when it starts and when it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use log::{info, warn};

use crate::kube::Error;
use crate::resources::targets::TargetKey;
use crate::schedule::backoff;

/// What a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Requests that do not reach the API server, or fail whatever they are about.
    ApiServer,
    /// The CRDs of this release.
    Crds,
    /// The kernel's list of addresses.
    Addresses,
    /// The Node object of this node.
    Node,
    /// Event objects.
    Events,
    /// An IP6UpdateConfig, by name.
    Config(String),
    /// An IP6UpdateNodeConfig, by name.
    NodeConfig(String),
    /// The removal of silent nodes from an IP6UpdateNodeConfig, by name.
    Removal(String),
    /// Reading an object that holds the prefix.
    Read(TargetKey),
    /// What such an object is, or writing it.
    Target(TargetKey),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::ApiServer => f.write_str("API server"),
            Subject::Crds => f.write_str("CustomResourceDefinitions"),
            Subject::Addresses => f.write_str("addresses"),
            Subject::Node => f.write_str("this node"),
            Subject::Events => f.write_str("Events"),
            Subject::Config(name) => write!(f, "IP6UpdateConfig {name}"),
            Subject::NodeConfig(name) => write!(f, "IP6UpdateNodeConfig {name}"),
            Subject::Removal(name) => write!(f, "removal of silent nodes from IP6UpdateNodeConfig {name}"),
            Subject::Read(key) | Subject::Target(key) => key.fmt(f),
        }
    }
}

/// The problems that last.
#[derive(Debug, Default)]
pub struct Problems {
    current: BTreeMap<Subject, Problem>,
}

#[derive(Debug)]
struct Problem {
    kind: String,
    text: String,
    failures: u32,
    /// Not to be tried again before, in steady time.
    retry_at: Duration,
}

impl Problems {
    /// Notes that something about `subject` fails. Logged if it is new or has another text now; says
    /// whether it was.
    pub fn fails(&mut self, subject: Subject, text: &str) -> bool {
        self.fails_by(subject, text, text)
    }

    /// The same, logged only if the problem is new or is of another kind now: its text may change.
    pub fn fails_by(&mut self, subject: Subject, kind: &str, text: &str) -> bool {
        let problem = self.current.entry(subject.clone()).or_insert_with(|| Problem {
            kind: String::new(),
            text: String::new(),
            failures: 0,
            retry_at: Duration::ZERO,
        });
        problem.failures = problem.failures.saturating_add(1);
        let is_new = problem.failures == 1 || problem.kind != kind;
        if is_new {
            warn!("{subject}: {text}");
            problem.kind = kind.to_string();
        }
        problem.text = text.to_string();
        is_new
    }

    /// The same for a request that failed by `error` and is tried again after a pause, which doubles with each
    /// failure and is as long as the server asked for at least. `now` is steady time.
    pub fn backs_off(&mut self, subject: Subject, text: &str, error: &Error, now: Duration, dice: f64) -> bool {
        let is_new = self.fails_by(subject.clone(), &error.kind().to_string(), text);
        if let Some(problem) = self.current.get_mut(&subject) {
            problem.retry_at = now + backoff(problem.failures, dice).max(error.retry_after().unwrap_or_default());
        }
        is_new
    }

    /// What is wrong with `subject`.
    pub fn of(&self, subject: &Subject) -> Option<&str> {
        self.current.get(subject).map(|problem| problem.text.as_str())
    }

    /// What is wrong with `subject`, while it is too early to try again.
    pub fn waits(&self, subject: &Subject, now: Duration) -> Option<&str> {
        let problem = self.current.get(subject).filter(|problem| now < problem.retry_at)?;
        Some(&problem.text)
    }

    /// Notes that `subject` works. Logged if it did not before.
    pub fn works(&mut self, subject: &Subject) {
        if let Some(problem) = self.current.remove(subject) {
            let plural = if problem.failures == 1 { "failure" } else { "failures" };
            info!(
                "{subject}: recovered after {} {plural}: {}",
                problem.failures, problem.text
            );
        }
    }

    /// Forgets, without a word, the problems of subjects that are gone.
    pub fn retain(&mut self, keep: impl Fn(&Subject) -> bool) {
        self.current.retain(|subject, _| keep(subject));
    }

    /// What something is wrong with.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.current.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Cause;
    use crate::kube::refusal::Refusal;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn a_problem_lasts_until_it_works() {
        let mut problems = Problems::default();
        assert!(problems.fails(Subject::ApiServer, "refused"));
        assert!(!problems.fails(Subject::ApiServer, "refused"), "told once");
        assert!(problems.fails(Subject::ApiServer, "another cause"));
        assert!(!problems.fails_by(Subject::ApiServer, "another cause", "in other words"));
        problems.works(&Subject::Events);
        assert!(problems.subjects().next().is_some());
        problems.works(&Subject::ApiServer);
        assert!(problems.subjects().next().is_none());
    }

    fn refused(seconds: Option<u64>) -> Error {
        let refusal = Refusal {
            status: 500,
            retry_after: seconds.map(Duration::from_secs),
            ..Refusal::default()
        };
        Error {
            verb: "PATCH",
            path: "/x".into(),
            cause: Cause::Refused(refusal),
        }
    }

    #[test]
    fn a_refusal_in_other_words_is_told_once() {
        let mut problems = Problems::default();
        let mut told = |text| problems.backs_off(Subject::Events, text, &refused(None), NOW, 1.0);
        assert!(told("read tcp 10.0.0.1:40001: connection reset"));
        assert!(!told("read tcp 10.0.0.1:40002: connection reset"));
    }

    #[test]
    fn pauses_get_longer() {
        let (mut problems, lan) = (Problems::default(), Subject::Target(TargetKey::group("lan")));
        assert_eq!(problems.waits(&lan, NOW), None);
        let mut pause = || {
            problems.backs_off(lan.clone(), "500", &refused(None), NOW, 1.0);
            let ends = (0..200).find(|s| problems.waits(&lan, NOW + Duration::from_secs(*s)).is_none());
            ends.expect("it ends")
        };
        let pauses: Vec<u64> = (0..8).map(|_| pause()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        problems.backs_off(Subject::Events, "429", &refused(Some(30)), NOW, 1.0);
        let waits = |seconds| {
            problems
                .waits(&Subject::Events, NOW + Duration::from_secs(seconds))
                .is_some()
        };
        assert!(waits(29) && !waits(30), "the server said how long");
        assert_eq!(problems.waits(&lan, NOW), Some("500"));
        problems.works(&lan);
        assert_eq!(problems.waits(&lan, NOW), None);
    }

    #[test]
    fn problems_of_what_is_gone_are_forgotten() {
        let mut problems = Problems::default();
        problems.fails(Subject::Config("a".into()), "x");
        problems.fails(Subject::NodeConfig("a".into()), "x");
        problems.retain(|subject| *subject == Subject::Config("a".into()));
        assert_eq!(
            problems.current.keys().collect::<Vec<_>>(),
            [&Subject::Config("a".into())]
        );
    }
}
