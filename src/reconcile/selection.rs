//! Which IP6UpdateNodeConfigs select this node, and what they want of it.

use std::collections::BTreeMap;
use std::time::Duration;

use log::info;

use super::context::{Context, Tried};
use super::problems::{Problem, Subject};
use super::{Failure, Objects};
use crate::kube::Client;
use crate::kube::objects::Object;
use crate::limits::LABELS_FRESH;
use crate::node::select::Watch;
use crate::prefix::Prefix;
use crate::resources::node_config::NodeConfig;

/// Observations that the objects ask of this node.
#[derive(Debug, PartialEq)]
pub struct Wanted {
    /// The interface to watch, or why there is none, by the name of the IP6UpdateNodeConfig.
    pub watches: BTreeMap<String, Result<Watch, String>>,
    /// Only prefixes inside one of these count; `None` lets all count.
    pub allowed: Option<Vec<Prefix>>,
}

/// The labels of this node's Node object, as last read.
#[derive(Debug, Default)]
pub struct Selection {
    labels: Option<BTreeMap<String, String>>,
    /// When they are read again, in steady time.
    due: Duration,
    was_idle: Option<bool>,
}

impl Selection {
    /// The observations that these objects ask of this node. Before the labels of its Node could be read, a node keeps the
    /// entries that it has.
    ///
    /// # Errors
    /// As [`Context::attempt`].
    pub fn wanted(
        &mut self,
        cx: &mut Context<'_>,
        Objects {
            node_configs, allowed, ..
        }: &Objects,
    ) -> Result<Wanted, Failure> {
        if self.labels.is_none() {
            self.renew(cx, node_configs)?;
        }
        let none = BTreeMap::new();
        let is_selected = |config: &&NodeConfig| match &self.labels {
            Some(labels) => config.spec.selects(labels),
            None if config.spec.needs_labels() => config.nodes().contains_key(cx.node),
            None => config.spec.selects(&none),
        };
        let selected = node_configs.iter().filter(is_selected);
        let watches: BTreeMap<_, _> = selected
            .map(|config| (config.metadata.name.clone(), config.spec.watch.clone()))
            .collect();
        self.log_idle(cx.node, watches.is_empty());
        Ok(Wanted {
            watches,
            allowed: allowed.clone(),
        })
    }

    /// Reads the labels if they are needed, and due. A failure leaves those that were last read.
    ///
    /// # Errors
    /// As [`Context::attempt`].
    pub fn renew(&mut self, cx: &mut Context<'_>, node_configs: &[NodeConfig]) -> Result<(), Failure> {
        if !node_configs.iter().any(|config| config.spec.needs_labels()) {
            // They get old.
            (self.labels, self.due) = (None, Duration::ZERO);
            return Ok(());
        }
        if cx.host.now() < self.due {
            return Ok(());
        }
        let path = format!("/api/v1/nodes/{}", cx.node);
        let absent = Subject::Item("Node", cx.node.to_string());
        let read = |client: &mut Client| match client.get_metadata::<Object>(&path) {
            Err(e) if e.is_absent_object() => Ok(None),
            read => read.map(Some),
        };
        match cx.attempt(&Subject::Node, &(), Problem::met, read)? {
            Tried::Done(node) => {
                self.due = cx.host.now() + LABELS_FRESH;
                if let Some(node) = node {
                    self.labels = Some(node.metadata.labels.unwrap_or_default());
                    cx.problems.works(&absent);
                } else {
                    let text =
                        "there is none of this name; check that NODE_NAME is the name of a Node (kubectl get nodes)";
                    cx.problems.fails(&absent, Problem::of(text));
                }
            }
            Tried::Overtaken | Tried::Refused(_) => {}
        }
        Ok(())
    }

    fn log_idle(&mut self, node: &str, is_idle: bool) {
        match (self.was_idle, is_idle) {
            (Some(false) | None, true) => {
                info!("no IP6UpdateNodeConfig selects node {node}: idle until one does (kubectl get ip6unc -o wide)");
            }
            (Some(true), false) => info!("an IP6UpdateNodeConfig selects node {node} now"),
            _ => {}
        }
        self.was_idle = Some(is_idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_says_when_labels_are_read_again() {
        let reference = include_str!("../../docs/reference.md");
        assert!(reference.contains("k6u reads the labels of its node every five minutes"));
        assert_eq!(LABELS_FRESH, Duration::from_secs(5 * 60));
    }
}
