//! The targets: reading what they hold, and the writes that make it right.

use std::collections::BTreeMap;

use log::{debug, info};

use super::plan::{DesiredTarget, Plan};
use super::{Failure, Reconciler};
use crate::node::Host;
use crate::problems::Subject;
use crate::resources::targets::{Api, Held, StoredList, TargetKey};
use crate::schedule::Ended;

/// Cilium keeps groups with such a label itself, from outside sources (Cilium, `extgrp.cilium.io/`).
const CILIUMS_OWN: &str = "extgrp.cilium.io/";

/// The targets as they were read in this round; and what became of each.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// `None` for one that k6u has to create.
    held: BTreeMap<TargetKey, Option<Held>>,
    /// Why a target could not be read or written.
    pub failures: BTreeMap<TargetKey, String>,
}

impl Targets {
    /// Whether all that is desired, as far as it could be read, is held already.
    pub fn are_right(&self, plan: &Plan) -> bool {
        plan.targets()
            .all(|desired| self.is_right(desired) || self.failures.contains_key(&desired.key))
    }

    /// Whether it was read and found right, or written.
    pub fn is_right(&self, desired: &DesiredTarget) -> bool {
        let held = self.held.get(&desired.key).and_then(Option::as_ref);
        held.is_some_and(|held| held.list.matches(desired))
    }

    fn fails(&mut self, key: &TargetKey, problem: &str) {
        self.failures.insert(key.clone(), format!("{key}: {problem}"));
    }
}

impl Reconciler {
    /// Reads every target. One that cannot be read, or is not k6u's to write, is a failure of its own.
    pub(super) fn read_targets(&mut self, plan: &Plan, host: &mut dyn Host) -> Result<Targets, Failure> {
        let mut targets = Targets::default();
        for desired in plan.targets() {
            let key = &desired.key;
            let (subject, reading) = (Subject::Target(key.clone()), Subject::Read(key.clone()));
            if let Some(problem) = self.not_now(&reading, host.now()) {
                targets.fails(key, problem);
                continue;
            }
            if self.is_kind_hanging(key.kind) {
                continue;
            }
            match self.target_api.read(&mut self.client, key, host.now()) {
                Ok(held) => {
                    self.problems.works(&reading);
                    match unfit(held.as_ref(), desired, self.target_api.known(key.kind)) {
                        Some(problem) => {
                            self.problems.fails(subject, &problem);
                            targets.fails(key, &problem);
                        }
                        None => {
                            targets.held.insert(key.clone(), held);
                        }
                    }
                }
                Err(e) => {
                    let problem = key.explain(&e);
                    self.object_failed(reading, &problem, &e, host)?;
                    targets.fails(key, &problem);
                }
            }
        }
        Ok(targets)
    }

    /// Writes the targets that were read and differ. Says what is left to do.
    pub(super) fn write_targets(
        &mut self,
        plan: &Plan,
        targets: &mut Targets,
        host: &mut dyn Host,
    ) -> Result<Ended, Failure> {
        let mut ended = Ended::Quiet;
        for desired in plan.targets() {
            let key = &desired.key;
            let subject = Subject::Target(key.clone());
            let Some(held) = targets.held.get(key).cloned() else {
                // New in the second plan, or others of its kind hang, so not read yet: the next round reads it.
                if !targets.failures.contains_key(key) {
                    ended = Ended::Unsettled;
                }
                continue;
            };
            if targets.is_right(desired) {
                self.works(&subject);
                continue;
            }
            ended = ended.max(self.write_target(desired, held.as_ref(), targets, host)?);
        }
        Ok(ended)
    }

    fn write_target(
        &mut self,
        desired: &DesiredTarget,
        held: Option<&Held>,
        targets: &mut Targets,
        host: &mut dyn Host,
    ) -> Result<Ended, Failure> {
        let key = &desired.key;
        let subject = Subject::Target(key.clone());
        if let Some(problem) = self.not_now(&subject, host.now()) {
            targets.fails(key, problem);
            return Ok(Ended::Quiet);
        }
        if self.is_kind_hanging(key.kind) {
            return Ok(Ended::Unsettled);
        }
        let mut desired = desired.clone();
        let mut wait = None;
        if let (Some(left), Some(held)) = (self.rejoin.left(), held) {
            match held.list.union(&desired) {
                Some(all) if all.len() > held.list.items().len() => desired.items = all,
                // Nothing to add, or no room for it.
                _ => return Ok(Ended::After(left)),
            }
            wait = Some(left);
        }
        match self.target_api.write(&mut self.client, &desired, held) {
            Ok(()) => {
                self.works(&subject);
                let list = StoredList::of(&desired);
                match held {
                    Some(held) => info!("{key}: {} -> {list}", held.list),
                    None => info!("{key}: created with {list}"),
                }
                let written = Held {
                    list,
                    ..held.cloned().unwrap_or_default()
                };
                targets.held.insert(key.clone(), Some(written));
                Ok(wait.map_or(Ended::Quiet, Ended::After))
            }
            // Changed, created or deleted since it was read. What is absent at a creation is the namespace.
            Err(e)
                if (e.is_conflict() || held.is_some() && e.is_absent_object())
                    && !self.has_too_many_conflicts(&subject) =>
            {
                debug!("{e}");
                Ok(Ended::Unsettled)
            }
            Err(e) => {
                let problem = key.explain(&e);
                self.object_failed(subject, &problem, &e, host)?;
                targets.fails(key, &problem);
                Ok(Ended::Quiet)
            }
        }
    }
}

/// Why a target cannot be written as it is; `None` if it can.
fn unfit(held: Option<&Held>, desired: &DesiredTarget, api: Api) -> Option<String> {
    let key = &desired.key;
    match held {
        None if key.kind.is_created => None,
        None => Some(desired.create_first(api)),
        Some(held) if held.lacks_list => Some(key.lacks_list()),
        Some(held) => foreign_owner(held),
    }
}

/// Why a group that exists is not k6u's to write; `None` if it is.
fn foreign_owner(held: &Held) -> Option<String> {
    let label = held
        .metadata
        .labels
        .iter()
        .flatten()
        .find(|(key, _)| key.starts_with(CILIUMS_OWN))?
        .0;
    Some(format!(
        "Cilium manages this group itself (label {label}), so k6u does not write it; name another group"
    ))
}
