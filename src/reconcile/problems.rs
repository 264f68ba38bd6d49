//! The problems that last, by subject. Each is logged when it starts and when it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use log::{info, warn};

use crate::kube::Error;
use crate::kube::objects::Metadata;
use crate::limits::{CRD_TIME, MAX_CONFLICTS, STARTUP_TIME};
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
    /// An IP6UpdateConfig.
    Config(Id),
    /// Publishing in an IP6UpdateNodeConfig.
    NodeConfig(Id),
    /// This node's entry in an IP6UpdateNodeConfig, as it is stored.
    Entry(Id),
    /// The removal of the entries of silent nodes, by name, from an IP6UpdateNodeConfig.
    Removal(Id, Vec<String>),
    /// Reading an object that holds the prefix.
    Read(TargetKey),
    /// Writing such an object, or a property of it that keeps k6u from writing it.
    Target(TargetKey),
}

/// An object of this project. One that is recreated is another, with problems of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    name: String,
    uid: String,
}

impl Id {
    /// The object with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Id {
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
        }
    }

    /// Whether this is the object with this metadata.
    pub fn is(&self, metadata: &Metadata) -> bool {
        self.name == metadata.name && self.uid == metadata.uid
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
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

impl Problem {
    /// What a request met, in other words than the error's.
    pub fn explained(error: &Error, text: String) -> Self {
        let kind = format!("{} {}", error.verb, error.kind());
        Problem { kind, text }
    }

    /// What a request met.
    pub fn met(error: &Error) -> Self {
        Problem::explained(error, error.to_string())
    }

    /// A problem whose words are always the same, so that they are its kind as well.
    pub fn of(text: &str) -> Self {
        Problem {
            kind: text.into(),
            text: text.into(),
        }
    }
}

/// The problems that last, and the requests that were sent.
#[derive(Debug, Default)]
pub struct Problems(BTreeMap<Subject, Known>);

/// Knowledge of one subject; times are steady time.
#[derive(Debug, Default)]
struct Known {
    /// When the last request about it was sent.
    sent_at: Option<Duration>,
    /// Fingerprint of the content that was refused last.
    content: Option<u64>,
    /// Failures of one kind in a row that are normal for a moment: which, how many, and since when.
    passing: Option<(Passing, u32, Duration)>,
    /// The problem that lasts.
    problem: Option<Problem>,
    /// How often in a row it failed.
    failures: u32,
    /// How often in a row that content was refused.
    tries: u32,
    /// That content is not to be tried again before.
    retry_at: Duration,
    /// The server asked for rest until then, whatever is written.
    rest_until: Duration,
}

/// A failure that is normal for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Somebody else wrote the object at the same time.
    Overtaken,
    /// The API server starts: the right is missing, or the roles have not been read yet.
    Starting,
    /// The API server does not serve a CRD yet.
    NotServed,
}

impl Problems {
    fn known(&mut self, subject: &Subject) -> &mut Known {
        self.0.entry(subject.clone()).or_default()
    }

    /// Records that something about `subject` fails. Logged if it is new or of another kind now; returns whether it was.
    pub fn fails(&mut self, subject: &Subject, problem: Problem) -> bool {
        let known = self.known(subject);
        let is_new = known.problem.as_ref().is_none_or(|before| before.kind != problem.kind);
        if is_new {
            warn!("{subject}: {}", problem.text);
        }
        known.failures = known.failures.saturating_add(1);
        known.problem = Some(problem);
        is_new
    }

    /// The same for a request that failed and is tried again after a pause, which doubles with each failure and is
    /// at least as long as the server asked for. `now` is steady time, `random` is in 0..1.
    pub fn backs_off(
        &mut self,
        subject: &Subject,
        content: u64,
        problem: Problem,
        retry_after: Option<Duration>,
        now: Duration,
        random: f64,
    ) -> bool {
        let is_new = self.fails(subject, problem);
        let known = self.known(subject);
        let is_same = known.content.replace(content) == Some(content);
        known.tries = if is_same { known.tries.saturating_add(1) } else { 1 };
        known.retry_at = now + backoff(known.tries, random);
        known.rest_until = now + retry_after.unwrap_or_default();
        is_new
    }

    /// The problem with `subject`, while it is too early to try this content again. Another one may be accepted.
    pub fn blocked(&self, subject: &Subject, content: u64, now: Duration) -> Option<&Problem> {
        let known = self.0.get(subject)?;
        let is_same = known.content == Some(content);
        let is_blocked = now < known.rest_until || is_same && now < known.retry_at;
        known.problem.as_ref().filter(|_| is_blocked)
    }

    /// When the next request that failed is due again, in steady time, if that is after `now`: those that failed in the
    /// same round are due together.
    pub fn next_retry(&self, now: Duration) -> Option<Duration> {
        let failed = self.0.values().filter(|known| !known.retry_at.is_zero());
        let due = failed.filter_map(|known| Some((known.sent_at? + backoff(known.tries, 1.0)).max(known.rest_until)));
        due.filter(|due| *due > now).min()
    }

    /// Records that a request about `subject` is sent at `now`, in steady time.
    pub fn sends(&mut self, subject: &Subject, now: Duration) {
        self.known(subject).sent_at = Some(now);
    }

    /// Whether something is wrong with `subject`, and when the last request about it was sent, in steady time.
    pub fn turn(&self, subject: &Subject) -> (bool, Option<Duration>) {
        let known = self.0.get(subject);
        known.map_or((false, None), |known| (known.problem.is_some(), known.sent_at))
    }

    /// Records a failure that is normal for a moment, at `now` in steady time. Returns whether it has lasted for so long
    /// that it is a refusal.
    pub fn has_lasted(&mut self, subject: &Subject, failure: Passing, now: Duration) -> bool {
        let known = self.known(subject);
        let before = known.passing.filter(|(kind, ..)| *kind == failure);
        let (count, since) = before.map_or((1, now), |(_, count, since)| (count.saturating_add(1), since));
        known.passing = Some((failure, count, since));
        let time = now.saturating_sub(since);
        match failure {
            Passing::Overtaken => count > MAX_CONFLICTS,
            Passing::Starting => time >= STARTUP_TIME,
            Passing::NotServed => time >= CRD_TIME,
        }
    }

    /// Records that `subject` works. Logged if it did not before.
    pub fn works(&mut self, subject: &Subject) {
        let Some(known) = self.0.get_mut(subject) else {
            return;
        };
        let sent_at = known.sent_at;
        let Known { problem, failures, .. } = std::mem::take(known);
        known.sent_at = sent_at;
        if let Some(problem) = problem {
            let plural = if failures == 1 { "failure" } else { "failures" };
            info!("{subject}: recovered after {failures} {plural}: {}", problem.text);
        }
    }

    /// Records that the subjects work whose problem has ended: it is asked with the content that was refused last.
    pub fn end(&mut self, has_ended: impl Fn(&Subject, Option<u64>) -> bool) {
        let current = self.0.iter().filter(|(_, known)| known.problem.is_some());
        let ended = current.filter(|(subject, known)| has_ended(subject, known.content));
        let ended: Vec<Subject> = ended.map(|(subject, _)| subject.clone()).collect();
        for subject in &ended {
            self.works(subject);
        }
    }

    /// Forgets, without a word, what concerns subjects that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&Subject) -> bool) {
        self.0.retain(|subject, _| is_there(subject));
    }

    /// The subjects that have a problem.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.0
            .iter()
            .filter_map(|(subject, known)| known.problem.as_ref().map(|_| subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn id(name: &str) -> Id {
        Id::of(&Metadata {
            name: name.into(),
            ..Metadata::default()
        })
    }

    fn problem(kind: &str, text: &str) -> Problem {
        Problem {
            kind: kind.into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_problem_lasts_until_it_works() {
        let mut problems = Problems::default();
        assert!(problems.fails(&Subject::ApiServer, Problem::of("refused")));
        assert!(
            !problems.fails(&Subject::ApiServer, Problem::of("refused")),
            "logged once"
        );
        assert!(problems.fails(&Subject::ApiServer, Problem::of("another cause")));
        assert!(!problems.fails(&Subject::ApiServer, problem("another cause", "in other words")));
        problems.works(&Subject::Events);
        assert!(problems.subjects().next().is_some());
        problems.works(&Subject::ApiServer);
        assert!(problems.subjects().next().is_none());
    }

    #[test]
    fn a_refusal_in_other_words_is_logged_once() {
        let mut problems = Problems::default();
        let mut is_logged = |text| problems.backs_off(&Subject::Events, 0, problem("500", text), None, NOW, 1.0);
        assert!(is_logged("read tcp 10.0.0.1:40001: connection reset"));
        assert!(!is_logged("read tcp 10.0.0.1:40002: connection reset"));
    }

    #[test]
    fn pauses_get_longer() {
        let (mut problems, lan) = (Problems::default(), Subject::Target(TargetKey::group("lan")));
        assert_eq!(problems.blocked(&lan, 0, NOW), None);
        let refused = problem("500", "500");
        // What needs no request lengthens no pause.
        problems.fails(&lan, Problem::of("it does not exist"));
        let mut pause = || {
            problems.backs_off(&lan, 0, refused.clone(), None, NOW, 1.0);
            let ends = (0..200).find(|s| problems.blocked(&lan, 0, NOW + Duration::from_secs(*s)).is_none());
            ends.expect("it ends")
        };
        let pauses: Vec<u64> = (0..8).map(|_| pause()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let asked_for = Some(Duration::from_secs(30));
        problems.backs_off(&Subject::Events, 0, problem("429", "429"), asked_for, NOW, 1.0);
        let is_blocked = |seconds| {
            problems
                .blocked(&Subject::Events, 0, NOW + Duration::from_secs(seconds))
                .is_some()
        };
        assert!(is_blocked(29) && !is_blocked(30), "the server said how long");
        assert_eq!(problems.blocked(&lan, 0, NOW), Some(&refused));
        problems.backs_off(&lan, 1, refused.clone(), None, NOW, 1.0);
        assert_eq!(problems.blocked(&lan, 1, NOW), Some(&refused));
        assert_eq!(problems.blocked(&lan, 2, NOW), None, "another content may be accepted");
        problems.backs_off(&lan, 1, refused.clone(), asked_for, NOW, 1.0);
        assert_eq!(
            problems.blocked(&lan, 2, NOW),
            Some(&refused),
            "the server said how long"
        );
        problems.works(&lan);
        assert_eq!(problems.blocked(&lan, 0, NOW), None);
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
            problems.has_lasted(&Subject::Events, Passing::Starting, NOW + Duration::from_secs(seconds))
        };
        assert!([0, 1, 9].iter().all(|seconds| !has_lasted(&mut problems, *seconds)));
        assert!(has_lasted(&mut problems, 10));
        problems.has_lasted(&Subject::Events, Passing::Overtaken, NOW + Duration::from_secs(11));
        assert!(!has_lasted(&mut problems, 12), "failures of one kind in a row");
        problems.works(&Subject::Events);
        assert!(!has_lasted(&mut problems, 30));
    }

    #[test]
    fn problems_of_what_is_gone_are_forgotten() {
        let mut problems = Problems::default();
        problems.fails(&Subject::Config(id("a")), Problem::of("x"));
        problems.fails(&Subject::NodeConfig(id("a")), Problem::of("x"));
        problems.retain(|subject| *subject == Subject::Config(id("a")));
        assert_eq!(problems.subjects().collect::<Vec<_>>(), [&Subject::Config(id("a"))]);
    }
}
