//! Which IP6UpdateNodeConfigs select this node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::info;

use super::{Failure, Reconciler};
use crate::kube::objects::Object;
use crate::node::Host;
use crate::problems::Subject;
use crate::resources::node_config::NodeConfig;

/// Labels change rarely: they are read every two minutes.
const LABELS_LAST: Duration = Duration::from_secs(120);

/// The labels of this node's Node object, as last read.
#[derive(Debug, Default)]
pub(super) struct Labels {
    known: Option<BTreeMap<String, String>>,
    /// When they are read again, in steady time.
    due: Duration,
}

impl Reconciler {
    /// The names of the node configs that select this node.
    pub(super) fn select(
        &mut self,
        node_configs: &[NodeConfig],
        host: &mut dyn Host,
    ) -> Result<BTreeSet<String>, Failure> {
        if node_configs.iter().any(|config| config.spec.needs_labels())
            && host.now() >= self.labels.due
            && self.problems.waits(&Subject::Node, host.now()).is_none()
        {
            self.read_labels(host)?;
        }
        let none = BTreeMap::new();
        let is_selected = |config: &&NodeConfig| match &self.labels.known {
            Some(labels) => config.spec.selects(labels),
            None if config.spec.needs_labels() => config.nodes().contains_key(&self.node),
            None => config.spec.selects(&none),
        };
        let selected = node_configs.iter().filter(is_selected);
        let selected: BTreeSet<String> = selected.map(|config| config.metadata.name.clone()).collect();
        self.log_idle(selected.is_empty());
        Ok(selected)
    }

    /// Reads the labels. A failure leaves the last known ones; before the first success this node stays
    /// where it has an entry.
    fn read_labels(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
        let path = format!("/api/v1/nodes/{}", self.node);
        match self.client.get_metadata::<Object>(&path) {
            Ok(node) => {
                self.labels.known = Some(node.metadata.labels.unwrap_or_default());
                self.labels.due = host.now() + LABELS_LAST;
                self.problems.works(&Subject::Node);
            }
            Err(e) if e.is_absent_object() => {
                self.labels.due = host.now() + LABELS_LAST;
                let text = format!("{e}; check that NODE_NAME is the name of a Node (kubectl get nodes)");
                self.problems.fails(Subject::Node, &text);
            }
            Err(e) => {
                self.object_failed(Subject::Node, &e.to_string(), &e, host)?;
            }
        }
        Ok(())
    }

    fn log_idle(&mut self, is_idle: bool) {
        match (self.was_idle, is_idle) {
            (Some(false) | None, true) => info!(
                "no IP6UpdateNodeConfig selects node {}: idle until one does (kubectl get ip6unc -o wide)",
                self.node
            ),
            (Some(true), false) => info!("an IP6UpdateNodeConfig selects node {} now", self.node),
            _ => {}
        }
        self.was_idle = Some(is_idle);
    }
}
