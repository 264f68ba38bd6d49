//! This project's own API: its CRDs are applied at the start, and missed when somebody deletes them.

use super::{Failure, Reconciler};
use crate::kube::Error;
use crate::kube::decode::Item;
use crate::kube::objects::{BadItem, List};
use crate::node::Host;
use crate::problems::Subject;
use crate::resources::config::{CONFIGS, Config};
use crate::resources::crds::{self, Deployment};

impl Reconciler {
    /// All IP6UpdateConfigs.
    pub(super) fn list_configs(&mut self) -> Result<Vec<Config>, Failure> {
        self.list(CONFIGS)
    }

    /// Reads a list of objects of this project.
    pub(super) fn list<T: Item>(&mut self, path: &'static str) -> Result<Vec<T>, Failure> {
        match self.client.get::<List<T>>(path) {
            Ok(list) => {
                self.served.insert(path);
                let read = |item| match item {
                    Ok(item) => Some(item),
                    Err(bad) => {
                        self.item_failed(path, bad);
                        None
                    }
                };
                Ok(list.items.into_iter().filter_map(read).collect())
            }
            Err(e) if e.is_absent_api() => {
                self.crds.forget();
                if self.served.remove(path) {
                    self.tell_deleted(&e);
                }
                Err(Failure::NotServed(path.to_string()))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn item_failed(&mut self, path: &str, bad: BadItem) {
        let subject = match path == CONFIGS {
            true => Subject::Config(bad.name),
            false => Subject::NodeConfig(bad.name),
        };
        self.problems.fails(subject, &bad.problem);
    }

    /// An API that was served is gone: whoever deleted a CRD deleted all objects of its kind.
    fn tell_deleted(&mut self, error: &Error) {
        let Ok(kinds) = crds::missing(&mut self.client) else {
            return;
        };
        if kinds.is_empty() {
            return;
        }
        let text = format!(
            "somebody deleted them, and all {}s went with them; the targets keep what they hold. k6u deploys the \
             definitions again: apply your objects again ({error})",
            kinds.join("s and ")
        );
        self.problems.fails(Subject::Crds, &text);
    }

    /// Applies the CRDs, if that is due.
    pub(super) fn deploy_crds(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
        match self.crds.deploy(&mut self.client, host.now(), host.dice())? {
            Deployment::Unchanged => {}
            Deployment::Established => self.problems.works(&Subject::Crds),
            Deployment::Served(problem) => {
                self.problems.fails(Subject::Crds, &problem);
            }
            Deployment::NotYet(name) => return Err(Failure::NotServed(name)),
        }
        Ok(())
    }
}
