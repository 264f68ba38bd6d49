//! Responses with an error status, of the API server or of a proxy in between.

use std::time::Duration;

use serde::Deserialize;

use super::decode::{decode, null_is_default};
use super::redact::{Redactor, excerpt};
use crate::time::Timestamp;

/// The bytes of a refusal's body that are read.
pub const MAX_REFUSAL: usize = 16 * 1024;
/// The longest pause that a server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// A response with a status of 300 or more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The machine-readable reason of the Status object; empty if the body was none.
    pub reason: String,
    /// The message of the Status object, or the start of the body if that was none.
    pub message: String,
    /// How long to wait, if the server says so (RFC 9110 section 10.2.3); a minute at most.
    pub retry_after: Option<Duration>,
    /// Whether the body was a Status object: then the API is served.
    pub is_status: bool,
    /// Whether the Status object is about a namespace.
    pub names_namespace: bool,
}

/// The Status object of an error (Kubernetes API conventions, "Response Status Kind").
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    kind: String,
    #[serde(deserialize_with = "null_is_default")]
    reason: String,
    #[serde(deserialize_with = "null_is_default")]
    message: String,
    #[serde(deserialize_with = "null_is_default")]
    details: Details,
}

/// The subject of the error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    #[serde(deserialize_with = "null_is_default")]
    kind: String,
}

impl Refusal {
    /// Reads the start of a body, which is a Status object or any text. The token is removed from it.
    pub fn read(status: u16, body: &[u8], retry_after: Option<Duration>, redactor: &Redactor) -> Self {
        let text = |text: &str| excerpt(&redactor.clean(text));
        let retry_after = retry_after.map(|time| time.min(MAX_RETRY_AFTER));
        match decode::<Status>(body) {
            Ok(known) if known.kind == "Status" => Refusal {
                status,
                reason: text(&known.reason),
                message: text(&known.message),
                retry_after,
                is_status: true,
                names_namespace: known.details.kind == "namespaces",
            },
            _ => Refusal {
                status,
                message: text(&String::from_utf8_lossy(body)),
                retry_after,
                ..Refusal::default()
            },
        }
    }

    /// Whether an admission webhook refused, with any status (Kubernetes,
    /// apiserver/pkg/admission/plugin/webhook/errors `ToStatusErr`).
    pub fn is_denied_by_webhook(&self) -> bool {
        self.message.starts_with("admission webhook ") && self.message.contains(" denied the request")
    }
}

/// Reads Retry-After: seconds, or a date (RFC 9110 section 10.2.3).
pub fn retry_after(value: &str, now: Option<Timestamp>) -> Option<Duration> {
    let value = value.trim();
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => u64::MAX,
        Err(_) => u64::try_from(Timestamp::from_http_date(value)?.since(now?)).unwrap_or(0),
    };
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_seconds_or_as_a_date() {
        let now = Timestamp::from_http_date("Mon, 23 Nov 2026 05:40:27 GMT");
        let seconds = |value| retry_after(value, now).map(|d| d.as_secs());
        assert_eq!(seconds("1"), Some(1));
        assert_eq!(seconds(" 30 "), Some(30));
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds("86400"), Some(86_400));
        assert_eq!(seconds("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(seconds("Mon, 23 Nov 2026 05:40:47 GMT"), Some(20));
        assert_eq!(seconds("Mon, 23 Nov 2026 05:40:07 GMT"), Some(0));
        for nonsense in ["", "soon", "-1", "1.5", "Mon, 23 Nov"] {
            assert_eq!(seconds(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(retry_after("Mon, 23 Nov 2026 05:40:47 GMT", None), None);
    }

    #[test]
    fn a_refusal_asks_for_a_minute_at_most() {
        for (asked, wait) in [(0, 0), (59, 59), (60, 60), (61, 60), (u64::MAX, 60)] {
            let refusal = Refusal::read(503, b"", Some(Duration::from_secs(asked)), &Redactor::default());
            assert_eq!(refusal.retry_after, Some(Duration::from_secs(wait)));
        }
    }

    #[test]
    fn bodies_of_refusals() {
        let read = |body: &str| Refusal::read(404, body.as_bytes(), None, &Redactor::default());
        let text = read("404 page not found\n");
        assert_eq!((text.message.as_str(), text.is_status), ("404 page not found", false));
        let status =
            read(r#"{"kind":"Status","reason":"NotFound","message":"x","details":{"kind":"widgets","name":"a"}}"#);
        assert!(status.is_status);
        assert_eq!((status.reason.as_str(), status.names_namespace), ("NotFound", false));
        assert!(read(r#"{"kind":"Status","reason":null,"message":null,"details":{"kind":null}}"#).is_status);
        assert!(!read(r#"{"kind":"Error","message":"a proxy's"}"#).is_status);
    }

    #[test]
    fn a_token_that_the_bodys_end_cuts_off() {
        let token = "0123456789abcdefghijklmnopqrstuvwxyz";
        let redactor = Redactor::default();
        redactor.set_token(token);
        for cut in 16..=token.len() {
            let body = [b"you sent ", &token.as_bytes()[..cut]].concat();
            assert_eq!(
                Refusal::read(403, &body, None, &redactor).message,
                "you sent [token]",
                "{cut}"
            );
        }
    }
}
