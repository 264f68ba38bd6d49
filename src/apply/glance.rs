//! The small round: one short request, which shows that there is nothing else to do.
//!
//! What all nodes could do, one of them does: the one whose turn it is, or the one that first sees a
//! prefix, or last. The others publish, and look whether the node configs are the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{Failure, Look, Operator, status_path};
use crate::objects::{NODE_CONFIGS, NodeConfig, NodeEntry, NodeSpec, table};
use crate::plan::{is_news, must_publish, says_the_same};
use crate::time::Timestamp;
use crate::turns::Place;

/// What the last whole round found, by which a small one knows that nothing changed.
#[derive(Debug)]
pub(super) struct Standing {
    /// This node's place among those that publish; `None` while it is idle.
    pub place: Option<Place>,
    /// Every node config's spec, by name.
    pub specs: BTreeMap<String, NodeSpec>,
    /// The names of those that select this node.
    pub selected: BTreeSet<String>,
    /// What this node published in each.
    pub published: BTreeMap<String, NodeEntry>,
    /// When the whole round was, by the API server's clock.
    pub round: Timestamp,
    /// Whether all was well then.
    pub ready: bool,
}

/// What a glance shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Glance {
    /// There is nothing to do but what was done already.
    Same,
    /// A whole round is needed.
    LookCloser,
    /// It is this node's turn to make one.
    Turn,
}

impl Standing {
    /// Whether there are other nodes that make whole rounds, or this one need make none.
    pub fn allows_glance(&self) -> bool {
        self.place.is_none_or(|place| !place.is_alone())
    }

    /// Whether an entry says another thing than what this node published there.
    fn is_changed(&self, name: &str, entry: &NodeEntry) -> bool {
        let published = self.published.get(name);
        published.is_none_or(|published| !says_the_same(published, entry))
    }
}

impl Operator {
    /// A small round.
    pub(super) fn glance(&mut self, standing: &mut Standing, look: Look) -> Result<Glance, Failure> {
        // The time of the last answer: late by an interval, which is good enough for what has no age.
        let now = self.now();
        let seen = self.observe(&standing.specs, &standing.selected, &standing.published, look, now)?;
        if seen.iter().any(|(name, entry)| standing.is_changed(name, entry)) {
            if self.publish_change(standing, &seen)? {
                return Ok(Glance::LookCloser);
            }
        } else if !self.specs_are_the_same(standing)? {
            return Ok(Glance::LookCloser);
        }
        let now = self.now();
        if self.selected(&standing.specs, now)? != standing.selected {
            return Ok(Glance::LookCloser);
        }
        if !self.publish_again(standing, &seen, now)? {
            return Ok(Glance::LookCloser);
        }
        let has_turn = |place: Place| place.has_turn(self.interval, standing.round, now);
        Ok(match standing.place {
            Some(place) if has_turn(place) => Glance::Turn,
            _ => Glance::Same,
        })
    }

    fn specs_are_the_same(&mut self, standing: &Standing) -> Result<bool, Failure> {
        let table = self.client.table(NODE_CONFIGS)?;
        Ok(table::specs(&table).as_ref() == Some(&standing.specs))
    }

    /// Publishes what changed; says whether the groups have to follow.
    fn publish_change(&mut self, standing: &mut Standing, seen: &BTreeMap<String, NodeEntry>) -> Result<bool, Failure> {
        let mut is_any_news = false;
        for (name, entry) in seen {
            if !standing.is_changed(name, entry) {
                continue;
            }
            // If the answer is lost, so is who was first: then nothing is known, and a whole round comes next.
            let before = standing.published.remove(name);
            let now = self.now();
            let patch = self.publication(entry, now);
            let path = status_path(NODE_CONFIGS, name);
            match self.client.merge_patch_for::<NodeConfig>(&path, &patch) {
                Ok(config) => {
                    is_any_news |= before.is_none_or(|before| is_news(&config, &self.node, &before, entry, now));
                    let published = NodeEntry {
                        observed_time: Some(now),
                        ..entry.clone()
                    };
                    standing.published.insert(name.clone(), published);
                }
                // Deleted: a whole round finds out.
                Err(e) if e.is_absent_object() => is_any_news = true,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(is_any_news)
    }

    /// Publishes what did not change, where that is two minutes old; says whether it could.
    fn publish_again(
        &mut self,
        standing: &mut Standing,
        seen: &BTreeMap<String, NodeEntry>,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        for (name, entry) in seen {
            let entry = NodeEntry {
                observed_time: Some(now),
                ..entry.clone()
            };
            if must_publish(standing.published.get(name), &entry) {
                let patch = self.publication(&entry, now);
                match self.client.merge_patch(&status_path(NODE_CONFIGS, name), &patch) {
                    Ok(()) => standing.published.insert(name.clone(), entry),
                    Err(e) if e.is_absent_object() => return Ok(false),
                    Err(e) => return Err(e.into()),
                };
            }
        }
        Ok(true)
    }
}
