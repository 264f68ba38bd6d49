//! The problems that last, by subject. Each is logged when it starts and when it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use log::{info, warn};

use crate::limits::{AUTHORIZER_START, MAX_CONFLICTS};
use crate::resources::targets::TargetKey;
use crate::schedule::backoff;

/// Subject of a problem.
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
    /// An item of a list of this project's objects that cannot be read: its kind and name.
    Item(&'static str, String),
    /// An IP6UpdateConfig, by name.
    Config(String),
    /// Publishing in an IP6UpdateNodeConfig, by name.
    NodeConfig(String),
    /// This node's entry in an IP6UpdateNodeConfig, as it is stored; by name.
    Entry(String),
    /// The removal of the entries of silent nodes from an IP6UpdateNodeConfig: its name, and theirs.
    Removal(String, Vec<String>),
    /// Reading an object that holds the prefix.
    Read(TargetKey),
    /// Writing such an object, or a property of it that keeps k6u from writing it.
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
            Subject::Item(kind, name) => write!(f, "{kind} {name}"),
            Subject::Config(name) => write!(f, "IP6UpdateConfig {name}"),
            Subject::NodeConfig(name) | Subject::Entry(name) => write!(f, "IP6UpdateNodeConfig {name}"),
            Subject::Removal(name, nodes) => {
                write!(f, "removal of {} from IP6UpdateNodeConfig {name}", nodes.join(", "))
            }
            Subject::Read(key) | Subject::Target(key) => key.fmt(f),
        }
    }
}

/// A problem with an object. Problems of the same kind have different words at each try and on each node (ports, times,
/// request ids).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The same for all problems of this kind.
    pub kind: String,
    /// For people.
    pub text: String,
}

/// The problems that last.
#[derive(Debug, Default)]
pub struct Problems {
    current: BTreeMap<Subject, Lasting>,
    /// Failures in a row that are normal for a moment: how many, and since when, in steady time.
    passing: BTreeMap<Subject, (u32, Duration)>,
    /// When the last request about each subject was sent, in steady time.
    sent_at: BTreeMap<Subject, Duration>,
}

/// A failure that is normal for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Somebody else wrote the object at the same time.
    Overtaken,
    /// The right is missing, or the API server has not read the roles yet.
    Forbidden,
}

#[derive(Debug)]
struct Lasting {
    problem: Problem,
    failures: u32,
    /// Not to be tried again before, in steady time.
    retry_at: Duration,
}

impl Problems {
    /// Records that something about `subject` fails. Logged if it is new or has another text now; returns whether
    /// it was.
    pub fn fails(&mut self, subject: Subject, text: &str) -> bool {
        self.fails_by(subject, text, text)
    }

    /// The same, logged only if the problem is new or is of another kind now: its text may change.
    pub fn fails_by(&mut self, subject: Subject, kind: &str, text: &str) -> bool {
        let problem = Problem {
            kind: kind.into(),
            text: text.into(),
        };
        let before = self.current.remove(&subject);
        let is_new = before.as_ref().is_none_or(|before| before.problem.kind != kind);
        if is_new {
            warn!("{subject}: {text}");
        }
        let lasting = Lasting {
            problem,
            failures: before.as_ref().map_or(0, |before| before.failures).saturating_add(1),
            retry_at: before.map_or(Duration::ZERO, |before| before.retry_at),
        };
        self.current.insert(subject, lasting);
        is_new
    }

    /// The same for a request that failed and is tried again after a pause, which doubles with each failure and is
    /// at least as long as the server asked for. `now` is steady time, `random` is in 0..1.
    pub fn backs_off(
        &mut self,
        subject: &Subject,
        problem: &Problem,
        retry_after: Option<Duration>,
        now: Duration,
        random: f64,
    ) -> bool {
        let is_new = self.fails_by(subject.clone(), &problem.kind, &problem.text);
        if let Some(lasting) = self.current.get_mut(subject) {
            lasting.retry_at = now + backoff(lasting.failures, random).max(retry_after.unwrap_or_default());
        }
        is_new
    }

    /// The problem with `subject`, while it is too early to try again.
    pub fn blocked(&self, subject: &Subject, now: Duration) -> Option<&Problem> {
        let lasting = self.current.get(subject).filter(|lasting| now < lasting.retry_at)?;
        Some(&lasting.problem)
    }

    /// Records that a request about `subject` is sent at `now`, in steady time.
    pub fn sends(&mut self, subject: &Subject, now: Duration) {
        match self.sent_at.get_mut(subject) {
            Some(at) => *at = now,
            None => drop(self.sent_at.insert(subject.clone(), now)),
        }
    }

    /// When the last request about `subject` was sent, in steady time.
    pub fn sent_at(&self, subject: &Subject) -> Option<Duration> {
        self.sent_at.get(subject).copied()
    }

    /// Whether something is wrong with `subject`.
    pub fn has(&self, subject: &Subject) -> bool {
        self.current.contains_key(subject)
    }

    /// Records a failure that is normal for a moment, at `now` in steady time. Returns whether it has lasted for so long
    /// that it is a refusal.
    pub fn has_lasted(&mut self, subject: &Subject, failure: Passing, now: Duration) -> bool {
        let (count, since) = self.passing.entry(subject.clone()).or_insert((0, now));
        *count = count.saturating_add(1);
        match failure {
            Passing::Overtaken => *count > MAX_CONFLICTS,
            Passing::Forbidden => now.saturating_sub(*since) >= AUTHORIZER_START,
        }
    }

    /// Records that `subject` works. Logged if it did not before.
    pub fn works(&mut self, subject: &Subject) {
        self.passing.remove(subject);
        if let Some(Lasting { problem, failures, .. }) = self.current.remove(subject) {
            let plural = if failures == 1 { "failure" } else { "failures" };
            info!("{subject}: recovered after {failures} {plural}: {}", problem.text);
        }
    }

    /// Forgets, without a word, what concerns subjects that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&Subject) -> bool) {
        self.current.retain(|subject, _| is_there(subject));
        self.passing.retain(|subject, _| is_there(subject));
        self.sent_at.retain(|subject, _| is_there(subject));
    }

    /// The subjects that have a problem.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.current.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn problem(kind: &str, text: &str) -> Problem {
        Problem {
            kind: kind.into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_problem_lasts_until_it_works() {
        let mut problems = Problems::default();
        assert!(problems.fails(Subject::ApiServer, "refused"));
        assert!(!problems.fails(Subject::ApiServer, "refused"), "logged once");
        assert!(problems.fails(Subject::ApiServer, "another cause"));
        assert!(!problems.fails_by(Subject::ApiServer, "another cause", "in other words"));
        problems.works(&Subject::Events);
        assert!(problems.subjects().next().is_some());
        problems.works(&Subject::ApiServer);
        assert!(problems.subjects().next().is_none());
    }

    #[test]
    fn a_refusal_in_other_words_is_logged_once() {
        let mut problems = Problems::default();
        let mut is_logged = |text| problems.backs_off(&Subject::Events, &problem("500", text), None, NOW, 1.0);
        assert!(is_logged("read tcp 10.0.0.1:40001: connection reset"));
        assert!(!is_logged("read tcp 10.0.0.1:40002: connection reset"));
    }

    #[test]
    fn pauses_get_longer() {
        let (mut problems, lan) = (Problems::default(), Subject::Target(TargetKey::group("lan")));
        assert_eq!(problems.blocked(&lan, NOW), None);
        let refused = problem("500", "500");
        let mut pause = || {
            problems.backs_off(&lan, &refused, None, NOW, 1.0);
            let ends = (0..200).find(|s| problems.blocked(&lan, NOW + Duration::from_secs(*s)).is_none());
            ends.expect("it ends")
        };
        let pauses: Vec<u64> = (0..8).map(|_| pause()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let asked_for = Some(Duration::from_secs(30));
        problems.backs_off(&Subject::Events, &problem("429", "429"), asked_for, NOW, 1.0);
        let is_blocked = |seconds| {
            problems
                .blocked(&Subject::Events, NOW + Duration::from_secs(seconds))
                .is_some()
        };
        assert!(is_blocked(29) && !is_blocked(30), "the server said how long");
        assert_eq!(problems.blocked(&lan, NOW), Some(&refused));
        problems.works(&lan);
        assert_eq!(problems.blocked(&lan, NOW), None);
    }

    #[test]
    fn twenty_conflicts_in_a_row_are_a_refusal() {
        let mut problems = Problems::default();
        let overtaken = |problems: &mut Problems| problems.has_lasted(&Subject::Events, Passing::Overtaken, NOW);
        assert!((0..20).all(|_| !overtaken(&mut problems)));
        assert!(overtaken(&mut problems));
        problems.works(&Subject::Events);
        assert!(!overtaken(&mut problems));
    }

    #[test]
    fn a_right_that_is_refused_for_ten_seconds_is_missing() {
        let mut problems = Problems::default();
        let has_lasted = |problems: &mut Problems, seconds| {
            problems.has_lasted(&Subject::Events, Passing::Forbidden, NOW + Duration::from_secs(seconds))
        };
        assert!([0, 1, 9].iter().all(|seconds| !has_lasted(&mut problems, *seconds)));
        assert!(has_lasted(&mut problems, 10));
        problems.works(&Subject::Events);
        assert!(!has_lasted(&mut problems, 20));
    }

    #[test]
    fn problems_of_what_is_gone_are_forgotten() {
        let mut problems = Problems::default();
        problems.fails(Subject::Config("a".into()), "x");
        problems.fails(Subject::NodeConfig("a".into()), "x");
        problems.retain(|subject| *subject == Subject::Config("a".into()));
        assert_eq!(problems.subjects().collect::<Vec<_>>(), [&Subject::Config("a".into())]);
    }
}
