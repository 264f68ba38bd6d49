//! What is told of a round: the status of the configs, and Events.

use log::{debug, info, warn};
use serde_json::json;

use super::condition::{self, Notice};
use super::plan::{DesiredTarget, Plan, Reason, Verdict};
use super::publication::Published;
use super::targets::Targets;
use super::{Failure, Reconciler, status_path};
use crate::kube::objects::Metadata;
use crate::node::Host;
use crate::problems::Subject;
use crate::resources::GROUP;
use crate::resources::config::{CONFIGS, Config};
use crate::resources::node_config::NodeConfig;
use crate::schedule::Ended;

/// Events about cluster-scoped objects belong in this namespace (Kubernetes, pkg/apis/core/validation/events.go).
///
/// Of core/v1, not events.k8s.io/v1: kubectl and others sort Events by lastTimestamp, which that refuses.
const EVENTS: &str = "/api/v1/namespaces/default/events";
/// The name of an object has at most so many characters (RFC 1123 subdomain).
const MOST_NAME: usize = 253;

/// What is to be told of a config.
struct News {
    is_ready: bool,
    /// `None` if its status says it already.
    change: Option<condition::StatusChange>,
}

impl Reconciler {
    /// Writes the statuses that changed, and their Events. Says how that ended, and whether all is Ready.
    ///
    /// A node that is not heard tells only what no longer holds, and only if nobody did: others of its kind
    /// have other words for it.
    pub(super) fn report(
        &mut self,
        configs: &[Config],
        plan: &Plan,
        targets: &Targets,
        published: &Published,
        host: &mut dyn Host,
    ) -> Result<(Ended, bool), Failure> {
        let (mut ended, mut is_ready) = (Ended::Quiet, true);
        for (config, verdict) in configs.iter().zip(&plan.verdicts) {
            let Some(news) = self.news(config, verdict, plan, targets, published) else {
                is_ready = false;
                continue;
            };
            is_ready &= news.is_ready;
            let subject = Subject::Config(config.metadata.name.clone());
            match news.change {
                None => self.works(&subject),
                Some(_) if self.not_now(&subject, host.now()).is_some() => {}
                Some(change) => ended = ended.max(self.write_status(config, subject, &change, host)?),
            }
        }
        Ok((ended, is_ready))
    }

    /// Whether a status would be written. It may follow from what was read before somebody else wrote that status.
    pub(super) fn has_news(&self, configs: &[Config], plan: &Plan, targets: &Targets, published: &Published) -> bool {
        let mut all = configs.iter().zip(&plan.verdicts);
        all.any(|(config, verdict)| {
            let news = self.news(config, verdict, plan, targets, published);
            news.is_some_and(|news| news.change.is_some())
        })
    }

    /// What is to be told of a config; `None` as long as its targets are not settled, or if others told it.
    fn news(
        &self,
        config: &Config,
        verdict: &Verdict,
        plan: &Plan,
        targets: &Targets,
        published: &Published,
    ) -> Option<News> {
        // Others that publish know nothing of what this node cannot say, and would contradict.
        let mut failures = match self.silence.does_nobody_publish() && !published.waits {
            true => published.failures.clone(),
            false => Vec::new(),
        };
        let mut delegated = None;
        if let Verdict::Write {
            delegated: prefixes,
            targets: desired,
            oversized,
            ..
        } = verdict
        {
            let failed = |target: &DesiredTarget| targets.failures.get(&target.key).cloned();
            failures.extend(desired.iter().filter_map(failed));
            let mut right = desired.iter().map(|target| targets.is_right(target));
            if failures.is_empty() && !right.clone().all(|is_right| is_right) {
                return None;
            }
            let is_written = failures.is_empty() && oversized.is_empty() || right.any(|is_right| is_right);
            delegated = is_written.then_some(prefixes.as_slice());
        }
        let (reason, message) = condition::judge(verdict, &failures, &plan.without_entry);
        // Nodes that are not heard have different words for it, but for what follows from the objects alone.
        let has_same_words = published.is_idle && reason == Reason::NoPrefix;
        let told = condition::told_not_ready(config).filter(|_| !published.is_heard);
        if told.is_some_and(|told| !has_same_words || told != reason.to_string()) {
            return None;
        }
        Some(News {
            is_ready: reason == Reason::Updated,
            change: condition::change(config, reason, &message, delegated, self.time()),
        })
    }

    fn write_status(
        &mut self,
        config: &Config,
        subject: Subject,
        change: &condition::StatusChange,
        host: &mut dyn Host,
    ) -> Result<Ended, Failure> {
        let name = &config.metadata.name;
        match self.client.merge_patch(&status_path(CONFIGS, name), &change.patch) {
            Ok(()) => {
                self.works(&subject);
                match &change.turned {
                    Some((Reason::Updated, message)) => info!("IP6UpdateConfig {name} is Ready: {message}"),
                    Some((reason, message)) => warn!("IP6UpdateConfig {name} is not Ready: {reason}: {message}"),
                    None => {}
                }
                for (at, notice) in change.events.iter().enumerate() {
                    let name = event_name(&config.metadata, at, host.dice());
                    self.send_event("IP6UpdateConfig", &config.metadata, &name, notice, host);
                }
                Ok(Ended::Quiet)
            }
            Err(e) if e.is_conflict() && !self.has_too_many_conflicts(&subject) => Ok(Ended::Unsettled),
            Err(e) if e.is_absent_object() => {
                debug!("{e}");
                Ok(Ended::Quiet)
            }
            Err(e) => {
                self.silence.wait_for_others();
                self.object_failed(subject, &e.to_string(), &e, host)?;
                Ok(Ended::Quiet)
            }
        }
    }

    /// Tells of an IP6UpdateNodeConfig in which this node cannot publish: its status cannot say so.
    pub(super) fn warn_of_node_config(&mut self, config: &NodeConfig, text: &str, host: &mut dyn Host) {
        let notice = condition::notice("Warning", "PublishFailed", text);
        let name = event_name(&config.metadata, 0, host.dice());
        self.send_event("IP6UpdateNodeConfig", &config.metadata, &name, &notice, host);
    }

    /// Reports an Event. One that is lost is no reason to fail, or to wait: the status says the same.
    fn send_event(&mut self, kind: &str, about: &Metadata, name: &str, notice: &Notice, host: &mut dyn Host) {
        if self.not_now(&Subject::Events, host.now()).is_some() {
            return;
        }
        let now = self.time().to_string();
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": "k6u"},
            "reportingComponent": format!("{GROUP}/k6u"),
            "reportingInstance": cut(&self.reporter, 128),
            "reason": notice.reason,
            "type": notice.kind,
            "message": notice.note,
            "involvedObject": {
                "apiVersion": format!("{GROUP}/v1"),
                "kind": kind,
                "name": about.name,
                "uid": about.uid,
            },
        });
        match self.client.create(EVENTS, &event) {
            Ok(()) => self.problems.works(&Subject::Events),
            Err(e) => {
                self.problems
                    .backs_off(Subject::Events, &e.to_string(), &e, host.now(), host.dice());
            }
        }
    }
}

/// A name for the `at`-th Event that tells of a change of an object.
///
/// lastTimestamp has whole seconds, and kubectl leaves Events of the same second in the order of their names. So
/// the name goes by the resourceVersion from which the change was made: of two changes the later one has the
/// higher, whichever nodes made them.
fn event_name(about: &Metadata, at: usize, dice: f64) -> String {
    let version: u64 = about.resource_version.parse().unwrap_or(0);
    let random = (dice * f64::from(0x10_0000)) as u32;
    let order = format!(".{version:016x}.{at}.{random:05x}");
    let start = cut(&about.name, MOST_NAME - order.len()).trim_end_matches(['-', '.']);
    format!("{start}{order}")
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str, version: &str) -> Metadata {
        Metadata {
            name: name.into(),
            resource_version: version.into(),
            ..Metadata::default()
        }
    }

    #[test]
    fn names_of_events_are_in_the_order_of_the_changes() {
        let changes = [
            ("9", 0, 0.9),
            ("10", 0, 0.5),
            ("10", 1, 0.1),
            ("65536", 0, 0.0),
            ("18446744073709551615", 0, 0.0),
        ];
        let names = changes.map(|(version, at, dice)| event_name(&about("a", version), at, dice));
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names[2], "a.000000000000000a.1.19999");
    }

    #[test]
    fn names_of_events_are_names() {
        for name in [
            format!("{}.{}", "a".repeat(228), "b".repeat(24)),
            "c".repeat(253),
            "d".into(),
        ] {
            let name = event_name(&about(&name, "not a number"), 0, 1.0);
            assert!(name.len() <= MOST_NAME, "{name}");
            assert!(!name.contains("..") && !name.contains("-."), "{name}");
        }
    }
}
