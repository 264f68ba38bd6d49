//! What is wrong at the moment: each trouble is logged when it starts and when it ends.

use std::collections::BTreeMap;

use log::{info, warn};

/// The troubles that last, by what they are about.
#[derive(Debug, Default)]
pub struct Journal {
    troubles: BTreeMap<String, Trouble>,
}

#[derive(Debug)]
struct Trouble {
    kind: String,
    text: String,
    times: u64,
}

impl Journal {
    /// Notes that something about `subject` fails. Logged if it is new or has another text now.
    pub fn fails(&mut self, subject: &str, text: &str) {
        self.fails_by(subject, text, text);
    }

    /// The same, logged only if the trouble is new or is of another kind now: its text may change.
    pub fn fails_by(&mut self, subject: &str, kind: &str, text: &str) {
        match self.troubles.get_mut(subject) {
            Some(trouble) if trouble.kind == kind => trouble.times += 1,
            _ => {
                warn!("{subject}: {text}");
                let trouble = Trouble {
                    kind: kind.to_string(),
                    text: text.to_string(),
                    times: 1,
                };
                self.troubles.insert(subject.to_string(), trouble);
            }
        }
    }

    /// Notes that `subject` works. Logged if it did not before.
    pub fn works(&mut self, subject: &str) {
        if let Some(trouble) = self.troubles.remove(subject) {
            let times = if trouble.times == 1 {
                "once".to_string()
            } else {
                format!("{} times", trouble.times)
            };
            info!("{subject}: works again; it had failed {times}: {}", trouble.text);
        }
    }

    /// Notes how something went.
    pub fn note<E: std::fmt::Display>(&mut self, subject: &str, result: Result<(), E>) {
        match result {
            Ok(()) => self.works(subject),
            Err(e) => self.fails(subject, &e.to_string()),
        }
    }

    /// Forgets, without a word, the troubles of subjects that are gone.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.troubles.retain(|subject, _| keep(subject));
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.troubles.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_lasts_until_it_works() {
        let mut journal = Journal::default();
        journal.fails("round", "refused");
        journal.fails("round", "refused");
        assert_eq!(journal.troubles["round"].times, 2);
        journal.fails("round", "another cause");
        assert_eq!(journal.troubles["round"].times, 1);
        journal.fails_by("round", "another cause", "in other words");
        assert_eq!(journal.troubles["round"].times, 2);
        journal.works("something else");
        assert!(!journal.is_clean());
        journal.works("round");
        assert!(journal.is_clean());
    }

    #[test]
    fn troubles_of_what_is_gone_are_forgotten() {
        let mut journal = Journal::default();
        journal.fails("a", "x");
        journal.fails("b", "x");
        journal.retain(|subject| subject == "b");
        assert_eq!(journal.troubles.keys().collect::<Vec<_>>(), ["b"]);
    }
}
