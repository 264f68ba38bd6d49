//! Events (core/v1) about this project's objects.

use serde_json::{Value, json};

use super::condition::{self, Notice};
use super::context::{Context, Tried};
use super::problems::{Problem, Subject};
use crate::kube::Client;
use crate::kube::objects::Metadata;
use crate::limits::MAX_WAITING_EVENTS;
use crate::resources::GROUP;
use crate::resources::node_config::NodeConfig;

/// Events about cluster-scoped objects belong in this namespace (Kubernetes, pkg/apis/core/validation/events.go).
///
/// Of core/v1, not events.k8s.io/v1: kubectl and others sort Events by lastTimestamp, which that refuses.
const EVENTS: &str = "/api/v1/namespaces/default/events";
/// The name of an object has at most this many characters (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// A reporting instance has at most this many bytes (Kubernetes, pkg/apis/core/validation/events.go).
const MAX_INSTANCE: usize = 128;

/// An Event about an object of this project.
#[derive(Debug)]
pub struct Event {
    /// The kind of the object.
    pub kind: &'static str,
    /// Its metadata.
    pub about: Metadata,
    /// Its place among the Events about the same change.
    pub at: usize,
    /// What it says.
    pub notice: Notice,
}

/// Reports that this node cannot publish in an IP6UpdateNodeConfig: its status cannot say so.
pub fn warn_of_node_config(cx: &mut Context<'_>, config: &NodeConfig, text: &str) {
    cx.events.push(Event {
        kind: "IP6UpdateNodeConfig",
        about: config.metadata.clone(),
        at: 0,
        notice: condition::notice("Warning", "PublishFailed", text),
    });
}

/// Sends the Events of a round. One that is refused is lost, which is no reason to fail: a status or the log says the
/// same. Those that could not be sent yet wait for the next round.
pub fn send(cx: &mut Context<'_>) {
    let until = cx.step_ends();
    while !cx.events.is_empty() && cx.host.now() < until {
        let random = cx.host.random();
        let body = body(cx, &cx.events[0], random);
        let create = |client: &mut Client| client.create(EVENTS, &body);
        match cx.attempt(&Subject::Events, &(), Problem::met, create) {
            // A connection that is lost shows at the next request.
            Err(_) => break,
            Ok(Tried::Refused(refused)) if refused.is_retry_pending => break,
            Ok(_) => {}
        }
        cx.events.remove(0);
    }
    let old = cx.events.len().saturating_sub(MAX_WAITING_EVENTS);
    cx.events.drain(..old);
}

fn body(cx: &Context<'_>, event: &Event, random: f64) -> Value {
    let Event {
        kind,
        about,
        at,
        notice,
    } = event;
    let now = cx.time().to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(about, *at, random)},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": "k6u"},
        "reportingComponent": format!("{GROUP}/k6u"),
        "reportingInstance": cut(cx.reporter, MAX_INSTANCE),
        "reason": notice.reason,
        "type": notice.kind,
        "message": cx.clean(&notice.note),
        "involvedObject": {
            "apiVersion": format!("{GROUP}/v1"),
            "kind": kind,
            "name": about.name,
            "uid": about.uid,
        },
    })
}

/// A name for the `at`-th Event about a change of an object.
///
/// lastTimestamp has whole seconds, and the API server lists Events by name: kubectl leaves those of the same second
/// in this order, if there are no more than a dozen (Go's sort.Sort is stable up to that). So the name goes by the
/// resourceVersion from which the change was made: of two changes the later one has the higher, whichever nodes made them.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is in 0..2^20"
)]
fn event_name(about: &Metadata, at: usize, random: f64) -> String {
    let version: u64 = about.resource_version.parse().unwrap_or(0);
    let random = (random * f64::from(0x10_0000)) as u32;
    let order = format!(".{version:016x}.{at}.{random:05x}");
    let start = cut(&about.name, MAX_NAME - order.len()).trim_end_matches(['-', '.']);
    format!("{start}{order}")
}

fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
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
        let names = changes.map(|(version, at, random)| event_name(&about("a", version), at, random));
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
            assert!(name.len() <= MAX_NAME, "{name}");
            assert!(!name.contains("..") && !name.contains("-."), "{name}");
        }
    }
}
