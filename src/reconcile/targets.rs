//! The targets: reading what they hold, and the writes that make it right.

use std::collections::BTreeMap;

use log::{debug, info};

use super::plan::{DesiredGroup, Plan};
use super::{Failure, Left, Reconciler};
use crate::kube::Error;
use crate::node::Host;
use crate::prefix::{join, texts};
use crate::problems::Subject;
use crate::resources::targets::CidrGroup;

/// Cilium keeps groups with such a label itself, from outside sources (Cilium, `extgrp.cilium.io/`).
const CILIUMS_OWN: &str = "extgrp.cilium.io/";

/// The targets as they were read in this round, by name; and what became of each.
#[derive(Debug, Default)]
pub(super) struct Targets {
    held: BTreeMap<String, Option<CidrGroup>>,
    /// Why a target could not be read or written.
    pub failures: BTreeMap<String, String>,
    /// What was read and found right, or written.
    pub right: Vec<String>,
}

impl Targets {
    /// Whether all that is desired, as far as it could be read, is held already.
    fn are_right(&self, plan: &Plan) -> bool {
        plan.groups().all(|desired| match self.held.get(&desired.name) {
            Some(held) => holds(held.as_ref(), desired),
            None => self.failures.contains_key(&desired.name),
        })
    }
}

fn holds(held: Option<&CidrGroup>, desired: &DesiredGroup) -> bool {
    held.is_some_and(|group| group.spec.external_cidrs.are(&desired.cidrs))
}

impl Reconciler {
    /// Reads every target. One that cannot be read is a failure of its own.
    pub(super) fn read_targets(&mut self, plan: &Plan) -> Result<Targets, Failure> {
        let mut targets = Targets::default();
        for desired in plan.groups() {
            match self.groups.read(&mut self.client, &desired.name) {
                Ok(held) => match held.as_ref().and_then(foreign_owner) {
                    Some(problem) => self.target_failed(desired, problem, &mut targets),
                    None => {
                        targets.held.insert(desired.name.clone(), held);
                    }
                },
                Err(e) => {
                    self.object_failed(&e)?;
                    self.target_failed(desired, explain(&e), &mut targets);
                }
            }
        }
        Ok(targets)
    }

    /// Whether a target differs from what is desired, so that the second look is needed.
    pub(super) fn differs(&self, plan: &Plan, targets: &Targets) -> bool {
        !targets.are_right(plan)
    }

    /// Writes the targets that were read and differ. Says what is left to do.
    pub(super) fn write_targets(
        &mut self,
        plan: &Plan,
        targets: &mut Targets,
        host: &mut dyn Host,
    ) -> Result<Left, Failure> {
        let mut left = Left::Nothing;
        for desired in plan.groups() {
            let name = &desired.name;
            let subject = Subject::Group(name.clone());
            let Some(held) = targets.held.get(name).cloned() else {
                // New in the second plan, so not read yet: the next round reads it.
                let was_tried = targets.failures.contains_key(name);
                left = left.max(if was_tried { Left::Failures } else { Left::Soon });
                continue;
            };
            if holds(held.as_ref(), desired) {
                self.problems.works(&subject);
                targets.right.push(name.clone());
                continue;
            }
            if let Some(problem) = self.problems.waits(&subject, host.now()) {
                targets.failures.insert(name.clone(), format!("{name}: {problem}"));
                left = left.max(Left::Failures);
                continue;
            }
            left = left.max(self.write_target(desired, held.as_ref(), targets, host)?);
        }
        Ok(left)
    }

    fn write_target(
        &mut self,
        desired: &DesiredGroup,
        held: Option<&CidrGroup>,
        targets: &mut Targets,
        host: &mut dyn Host,
    ) -> Result<Left, Failure> {
        let name = &desired.name;
        let (cidrs, wait) = match (self.rejoin.left(), held) {
            (Some(wait), Some(group)) => match group.spec.external_cidrs.and(&desired.cidrs) {
                Some(all) if all.len() > group.spec.external_cidrs.listed.len() => (all, Some(wait)),
                // Nothing to add, or no room for it.
                _ => return Ok(Left::After(wait)),
            },
            _ => (texts(&desired.cidrs), None),
        };
        match self.groups.write(&mut self.client, name, held, &cidrs) {
            Ok(()) => {
                self.problems.works(&Subject::Group(name.clone()));
                match held {
                    Some(group) => info!(
                        "CiliumCIDRGroup {name}: {} -> {}",
                        group.spec.external_cidrs,
                        cidrs.join(", ")
                    ),
                    None => info!("CiliumCIDRGroup {name}: created with {}", join(&desired.cidrs)),
                }
                Ok(match wait {
                    Some(wait) => Left::After(wait),
                    None => {
                        targets.right.push(name.clone());
                        Left::Nothing
                    }
                })
            }
            // Changed, created or deleted since it was read.
            Err(e) if e.is_conflict() || e.is_absent_object() => {
                debug!("{e}");
                Ok(Left::Soon)
            }
            Err(e) => {
                self.object_failed(&e)?;
                let problem = explain(&e);
                self.problems.backs_off(
                    Subject::Group(name.clone()),
                    &problem,
                    e.retry_after(),
                    host.now(),
                    host.dice(),
                );
                targets.failures.insert(name.clone(), format!("{name}: {problem}"));
                Ok(Left::Failures)
            }
        }
    }

    fn target_failed(&mut self, desired: &DesiredGroup, problem: String, targets: &mut Targets) {
        let name = &desired.name;
        self.problems.fails(Subject::Group(name.clone()), &problem);
        targets.failures.insert(name.clone(), format!("{name}: {problem}"));
    }
}

/// Why a group that exists is not k6u's to write; `None` if it is.
fn foreign_owner(group: &CidrGroup) -> Option<String> {
    let label = group
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

fn explain(error: &Error) -> String {
    if error.is_absent_api() {
        return format!(
            "the API server does not serve ciliumcidrgroups.cilium.io: install Cilium 1.14 or newer ({error})"
        );
    }
    error.to_string()
}
