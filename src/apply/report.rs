//! What is told of a round: the status of the configs, and Events.

use std::collections::BTreeMap;

use log::{debug, info, warn};
use serde_json::json;

use super::{Failure, Operator, config_subject, status_path};
use crate::objects::{CONFIGS, Config, GROUP};
use crate::plan::{self, Plan, Verdict};
use crate::status::{self, Notice};
use crate::time::Timestamp;

/// Events about cluster-scoped objects belong in this namespace (Kubernetes, pkg/apis/core/validation/events.go).
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

impl Operator {
    /// Writes the statuses that changed, and their Events; says whether somebody else was faster.
    pub(super) fn report(
        &mut self,
        configs: &[Config],
        plan: &Plan,
        failures: &BTreeMap<String, String>,
        now: Timestamp,
        all_ready: &mut bool,
    ) -> Result<bool, Failure> {
        let mut again = false;
        for (config, verdict) in configs.iter().zip(&plan.verdicts) {
            let (delegated, own_failures) = match verdict {
                Verdict::Keep { .. } => (None, Vec::new()),
                Verdict::Write { delegated, groups, .. } => {
                    let own = groups.iter().filter_map(|group| failures.get(&group.name).cloned());
                    (Some(delegated.as_slice()), own.collect())
                }
            };
            let (reason, message) = status::judge(verdict, &own_failures);
            *all_ready &= reason == plan::Reason::Updated;
            let name = &config.metadata.name;
            let subject = config_subject(name);
            let Some(change) = status::change(config, reason, &message, delegated, now) else {
                self.journal.works(&subject);
                continue;
            };
            match self.client.merge_patch(&status_path(CONFIGS, name), &change.patch) {
                Ok(()) => {
                    self.journal.works(&subject);
                    match change.turned {
                        Some((plan::Reason::Updated, message)) => info!("IP6UpdateConfig {name} is Ready: {message}"),
                        Some((reason, message)) => warn!("IP6UpdateConfig {name} is not Ready: {reason}: {message}"),
                        None => {}
                    }
                    for notice in &change.events {
                        self.send_event(config, notice, now);
                    }
                }
                Err(e) if e.is_conflict() => again = true,
                Err(e) if e.is_absent_object() => debug!("{e}"),
                Err(e) if e.is_about_this_object() => {
                    *all_ready = false;
                    self.journal.fails(&subject, &e.to_string());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(again)
    }

    /// Reports an Event. One that is lost is no reason to fail: the status says the same.
    fn send_event(&mut self, config: &Config, notice: &Notice, now: Timestamp) {
        let name = &config.metadata.name;
        let seconds = now.to_string();
        let event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": format!("{name}-")},
            "eventTime": seconds.replace('Z', ".000000Z"),
            "reportingController": format!("{GROUP}/k6u"),
            "reportingInstance": cut(&self.reporter, 128),
            "action": "UpdateGroups",
            "reason": notice.reason,
            "type": notice.kind,
            "note": notice.note,
            "regarding": {
                "apiVersion": format!("{GROUP}/v1"),
                "kind": "IP6UpdateConfig",
                "name": name,
                "uid": config.metadata.uid,
            },
        });
        let sent = self.client.create(EVENTS, &event);
        self.journal.note("Events", sent);
    }
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
