//! The removal of entries whose nodes are silent.

use log::info;
use serde_json::{Map, Value, json};

use super::context::{Context, Tried};
use super::events::warn_of_node_config;
use super::peers::Peers;
use super::problems::Subject;
use super::{Failure, Outcome, status_path};
use crate::kube::Client;
use crate::resources::node_config::{NODE_CONFIGS, NodeConfig, remove_entries};
use crate::schedule::RoundEnd;

/// Removes the entries of nodes that are silent. Only a node that publishes may: it knows that one can.
///
/// # Errors
/// As [`Context::attempt`].
pub fn remove_silent(cx: &mut Context<'_>, node_configs: &[NodeConfig], peers: &Peers) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::READY;
    let until = cx.step_ends();
    for config in cx.in_turn(node_configs.iter(), |config| {
        Subject::Removal(config.metadata.name.clone())
    }) {
        if cx.host.now() >= until {
            return Ok(outcome.and(Outcome::not_ready(RoundEnd::Soon)));
        }
        let name = &config.metadata.name;
        let silent = config
            .nodes()
            .keys()
            .filter(|node| *node != cx.node && peers.is_silent(name, node));
        let nodes: Map<String, Value> = silent.map(|node| (node.clone(), Value::Null)).collect();
        if nodes.is_empty() {
            continue;
        }
        let gone = nodes.keys().cloned().collect::<Vec<_>>().join(", ");
        // I3: if a node just came back, its new entry stays.
        let patch = json!({
            "metadata": {"resourceVersion": config.metadata.resource_version},
            "status": {"nodes": &nodes},
        });
        let subject = Subject::Removal(name.clone());
        let explain = |e: &_| format!("the entry of {gone}, silent for five minutes, cannot be removed: {e}");
        let path = status_path(NODE_CONFIGS, name);
        let remove = |client: &mut Client| remove_entries(client, &path, &patch, nodes.keys());
        match cx.attempt(&subject, explain, remove)? {
            Tried::Done(()) => info!("IP6UpdateNodeConfig {name}: removed {gone}, silent for five minutes"),
            Tried::Overtaken => {}
            Tried::Refused(refused) => {
                if refused.is_new {
                    warn_of_node_config(cx, config, &refused.problem.text);
                }
                continue;
            }
        }
        // The next round plans without these entries.
        outcome.end = RoundEnd::Soon;
    }
    Ok(outcome)
}
