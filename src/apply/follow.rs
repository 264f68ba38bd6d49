//! The groups: which differ from what is wanted, and the writes that end that.

use std::collections::{BTreeMap, BTreeSet};

use log::{debug, info};

use super::{Failure, Operator, Outcome, config_subject};
use crate::groups;
use crate::kube::objects::{CidrGroup, List};
use crate::kube::{Cause, Error};
use crate::objects::{CONFIGS, Config, NODE_CONFIGS, NodeConfig, NodeEntry};
use crate::plan::{self, Plan, Verdict, WantedGroup};
use crate::prefix::join;
use crate::time::Timestamp;

/// A group that has to be written: what it holds, if it exists, and what it is to hold.
struct Due {
    held: Option<CidrGroup>,
    wanted: WantedGroup,
}

impl Operator {
    /// Makes the groups what they should be, and tells of it.
    pub(super) fn follow(
        &mut self,
        node_configs: &mut Vec<NodeConfig>,
        seen: &BTreeMap<String, NodeEntry>,
        now: Timestamp,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let mut configs = self.client.get::<List<Config>>(CONFIGS)?.items;
        let mut plan = plan::plan(&self.known(&configs, node_configs, seen, now));
        let mut failures = BTreeMap::new();
        let mut due = self.due(&plan, &mut failures)?;
        if !due.is_empty() {
            // The second look, later than the groups were read.
            configs = self.client.get::<List<Config>>(CONFIGS)?.items;
            *node_configs = self.client.get::<List<NodeConfig>>(NODE_CONFIGS)?.items;
            plan = plan::plan(&self.known(&configs, node_configs, seen, now));
            let still_due = |due: &Due| wanted_groups(&plan).any(|wanted| *wanted == due.wanted);
            outcome.again = !due.iter().all(still_due);
            due.retain(still_due);
        }
        for due in &due {
            outcome.again |= self.write_group(due, &mut failures)?;
        }
        // A status tells of groups; until those are settled it is not known what to tell.
        if !outcome.again {
            outcome.again = self.report(&configs, &plan, &failures, now, &mut outcome.ready)?;
        }
        self.remove_stale(node_configs, &plan.stale)?;
        self.forget_troubles(&configs, &plan);
        Ok(())
    }

    /// The groups that differ from what is wanted. A group that cannot be read is a failure of its own.
    fn due(&mut self, plan: &Plan, failures: &mut BTreeMap<String, String>) -> Result<Vec<Due>, Failure> {
        let mut due = Vec::new();
        for wanted in wanted_groups(plan) {
            match self.groups.read(&mut self.client, &wanted.name) {
                Ok(Some(held)) if groups::holds(&held, &wanted.cidrs) => {
                    self.journal.works(&group_subject(&wanted.name))
                }
                Ok(held) => due.push(Due {
                    held,
                    wanted: wanted.clone(),
                }),
                Err(e) => self.group_failed(&wanted.name, e, failures)?,
            }
        }
        Ok(due)
    }

    /// Notes a failure that is about one group only; passes on any other.
    fn group_failed(
        &mut self,
        name: &str,
        error: Error,
        failures: &mut BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let concerns_group = error.is_about_this_object() || matches!(error.cause, Cause::Unclear(_));
        if !concerns_group {
            return Err(error.into());
        }
        let text = if error.is_absent_api() {
            format!("the API server serves no ciliumcidrgroups.cilium.io: is Cilium 1.13 or newer installed? ({error})")
        } else {
            error.to_string()
        };
        self.journal.fails(&group_subject(name), &text);
        failures.insert(name.to_string(), format!("{name}: {text}"));
        Ok(())
    }

    /// Writes one group; says whether somebody else was faster.
    fn write_group(&mut self, due: &Due, failures: &mut BTreeMap<String, String>) -> Result<bool, Failure> {
        let name = &due.wanted.name;
        match self.groups.write(&mut self.client, due.held.as_ref(), &due.wanted) {
            Ok(()) => {
                self.journal.works(&group_subject(name));
                let old = due.held.as_ref().map_or("not there".to_string(), groups::describe);
                info!("CiliumCIDRGroup {name}: {old} -> {}", join(&due.wanted.cidrs));
                Ok(false)
            }
            // Changed, created or deleted since it was read.
            Err(e) if e.is_conflict() || e.is_absent_object() => {
                debug!("{e}");
                Ok(true)
            }
            Err(e) => self.group_failed(name, e, failures).map(|()| false),
        }
    }

    /// Troubles end with the objects that they are about.
    fn forget_troubles(&mut self, configs: &[Config], plan: &Plan) {
        let mut known: BTreeSet<String> = configs
            .iter()
            .map(|config| config_subject(&config.metadata.name))
            .collect();
        known.extend(wanted_groups(plan).map(|group| group_subject(&group.name)));
        self.journal.retain(|subject| {
            let is_about_object = subject.starts_with("IP6UpdateConfig ") || subject.starts_with("CiliumCIDRGroup ");
            !is_about_object || known.contains(subject)
        });
    }
}

/// Every group that a plan wants to hold something.
fn wanted_groups(plan: &Plan) -> impl Iterator<Item = &WantedGroup> {
    plan.verdicts.iter().flat_map(|verdict| match verdict {
        Verdict::Write { groups, .. } => groups.as_slice(),
        Verdict::Keep { .. } => &[],
    })
}

fn group_subject(name: &str) -> String {
    format!("CiliumCIDRGroup {name}")
}
