//! This project's own API: applies the CRDs, reads the two lists, and notices when somebody deletes a CRD.

use std::collections::BTreeSet;

use super::Failure;
use super::context::Context;
use super::problems::{Problem, Subject};
use crate::kube::decode::Item;
use crate::kube::objects::{BadItem, List};
use crate::resources::config::CONFIGS;
use crate::resources::crds::{self, Crds, Deployment};

/// State of this project's own API, as this node knows it.
#[derive(Debug, Default)]
pub struct Served {
    crds: Crds,
    /// The lists that the API server has given since it was last found not to serve them.
    lists: BTreeSet<&'static str>,
}

impl Served {
    /// Applies the CRDs, if that is due.
    ///
    /// # Errors
    /// If they are not served.
    pub fn deploy(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        match self.crds.deploy(cx.client, cx.host.now(), cx.host.random())? {
            Deployment::Unchanged => {}
            Deployment::Established => cx.problems.works(&Subject::Crds),
            Deployment::NotApplied { kind, text } => {
                cx.problems.fails(&Subject::Crds, Problem { kind, text });
            }
            Deployment::NotYet(name) => return Err(Failure::NotServed(name)),
        }
        Ok(())
    }

    /// Notes that an object is not stored as it was sent: somebody may have replaced the CRDs.
    pub fn suspect(&mut self) {
        self.crds.suspect();
    }

    /// Reads a list of objects of this project.
    ///
    /// # Errors
    /// Whatever the API server answers but the list.
    pub fn list<T: Item>(&mut self, cx: &mut Context<'_>, path: &'static str) -> Result<Vec<T>, Failure> {
        match cx.client.get::<List<T>>(path) {
            Ok(list) => {
                self.lists.insert(path);
                let (read, unreadable): (Vec<_>, Vec<_>) = list.items.into_iter().partition(Result::is_ok);
                report_unreadable(cx, path, unreadable.into_iter().filter_map(Result::err).collect());
                Ok(read.into_iter().flatten().collect())
            }
            Err(e) if e.is_absent_api() => {
                let was_served = self.lists.remove(path);
                match crds::missing(cx.client).unwrap_or_default() {
                    // Something between answers for the API server.
                    missing if missing.is_empty() => self.crds.suspect(),
                    missing => {
                        self.crds.forget();
                        if was_served {
                            report_deleted(cx, &missing, &e.to_string());
                        }
                    }
                }
                Err(Failure::NotServed(path.to_string()))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Reports items of a list that cannot be read; the others count all the same (I7).
fn report_unreadable(cx: &mut Context<'_>, path: &str, items: Vec<BadItem>) {
    let kind = if path == CONFIGS {
        "IP6UpdateConfig"
    } else {
        "IP6UpdateNodeConfig"
    };
    cx.problems.end(|subject, _| match subject {
        Subject::Item(of, name) => *of == kind && items.iter().all(|item| item.name != *name),
        _ => false,
    });
    for BadItem { name, problem } in items {
        // Those without a name share a subject.
        let cause = if name.is_empty() {
            "it has no name"
        } else {
            problem.as_str()
        };
        let problem = Problem {
            kind: cause.into(),
            text: problem,
        };
        cx.problems.fails(&Subject::Item(kind, name), problem);
    }
}

/// An API that was served is gone: whoever deleted a CRD deleted all objects of its kind.
fn report_deleted(cx: &mut Context<'_>, kinds: &[&str], error: &str) {
    let text = format!(
        "somebody deleted them, and all {}s went with them; the targets keep what they hold. k6u deploys the \
         definitions again: apply your objects again ({error})",
        kinds.join("s and ")
    );
    cx.problems.fails(&Subject::Crds, Problem::of(&text));
}
