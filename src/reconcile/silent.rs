//! The removal of entries whose nodes are silent.

use log::info;
use serde_json::{Map, Value, json};

use super::context::{Context, Tried};
use super::events::warn_of_node_config;
use super::peers::Peers;
use super::problems::{Id, Problem, Subject};
use super::{Failure, Outcome, fingerprint, status_path};
use crate::kube::{Client, Error};
use crate::resources::node_config::{NODE_CONFIGS, NodeConfig, NodeEntry, remove_entries};
use crate::schedule::RoundEnd;

/// Removes the entries of nodes that are silent. Only a node that publishes may: it knows that one can.
///
/// # Errors
/// As [`Context::attempt`].
pub fn remove_silent(cx: &mut Context<'_>, node_configs: &[NodeConfig], peers: &Peers) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::READY;
    let until = cx.step_ends();
    let silent = |config: &NodeConfig| -> Vec<String> {
        let nodes = config.nodes().keys();
        let silent = nodes.filter(|node| *node != cx.node && peers.is_silent(&config.metadata.name, node));
        silent.cloned().collect()
    };
    let all = node_configs.iter().map(|config| (config, silent(config)));
    let all: Vec<_> = all.filter(|(_, silent)| !silent.is_empty()).collect();
    log_ended(cx, node_configs);
    let subject =
        |(config, silent): &(&NodeConfig, Vec<String>)| Subject::Removal(Id::of(&config.metadata), silent.clone());
    for one in cx.in_turn(all.into_iter(), subject) {
        if cx.host.now() >= until {
            return Ok(outcome.and(Outcome::not_ready(RoundEnd::Soon)));
        }
        let subject = subject(&one);
        let (config, silent) = one;
        let (name, gone) = (&config.metadata.name, silent.join(", "));
        let nodes: Map<String, Value> = silent.into_iter().map(|node| (node, Value::Null)).collect();
        // I3: if a node just came back, its new entry stays.
        let patch = json!({
            "metadata": {"resourceVersion": config.metadata.resource_version},
            "status": {"nodes": &nodes},
        });
        let explain = |e: &Error| {
            let text = format!("the entry of {gone}, silent for five minutes, cannot be removed: {e}");
            Problem::explained(e, text)
        };
        let path = status_path(NODE_CONFIGS, name);
        let remove = |client: &mut Client| remove_entries(client, &path, &patch, nodes.keys());
        match cx.attempt(&subject, &entries(config, nodes.keys()), explain, remove)? {
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

/// A removal that was refused is no problem any more when one of its nodes has published again.
fn log_ended(cx: &mut Context<'_>, node_configs: &[NodeConfig]) {
    cx.problems.end(|subject, refused| match subject {
        Subject::Removal(id, nodes) => node_configs.iter().any(|config| {
            let entries = fingerprint(&entries(config, nodes.iter()));
            id.is(&config.metadata) && refused.is_some_and(|refused| refused != entries)
        }),
        _ => false,
    });
}

/// The entries of these nodes.
fn entries<'a>(config: &'a NodeConfig, nodes: impl Iterator<Item = &'a String>) -> Vec<Option<&'a NodeEntry>> {
    nodes.map(|node| config.nodes().get(node)).collect()
}
