//! This project's own API: its CRDs are applied at the start, and missed when somebody deletes them.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;

use super::Failure;
use super::context::Context;
use super::problems::Subject;
use crate::kube::objects::List;
use crate::resources::crds::{self, Crds, Deployment};

/// What is known of this project's own API.
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
        match self.crds.deploy(cx.client, cx.host.now())? {
            Deployment::Unchanged => {}
            Deployment::Established => cx.problems.works(&Subject::Crds),
            Deployment::Served(problem) => {
                cx.problems.fails(Subject::Crds, &problem);
            }
            Deployment::NotYet(name) => return Err(Failure::NotServed(name)),
        }
        Ok(())
    }

    /// Applies the CRDs again: somebody may have replaced them.
    pub fn suspect(&mut self) {
        self.crds.forget();
    }

    /// Reads a list of objects of this project.
    ///
    /// # Errors
    /// Whatever the API server answers but the list.
    pub fn list<T: DeserializeOwned>(&mut self, cx: &mut Context<'_>, path: &'static str) -> Result<Vec<T>, Failure> {
        match cx.client.get::<List<T>>(path) {
            Ok(list) => {
                self.lists.insert(path);
                Ok(list.items)
            }
            Err(e) if e.is_absent_api() => {
                self.crds.forget();
                if self.lists.remove(path) {
                    report_deleted(cx, &e.to_string());
                }
                Err(Failure::NotServed(path.to_string()))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// An API that was served is gone: whoever deleted a CRD deleted all objects of its kind.
fn report_deleted(cx: &mut Context<'_>, error: &str) {
    let kinds = crds::missing(cx.client).unwrap_or_default();
    if kinds.is_empty() {
        return;
    }
    let text = format!(
        "somebody deleted them, and all {}s went with them; the targets keep what they hold. k6u deploys the \
         definitions again: apply your objects again ({error})",
        kinds.join("s and ")
    );
    cx.problems.fails(Subject::Crds, &text);
}
