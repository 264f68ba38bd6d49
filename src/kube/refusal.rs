//! What the API server, or something between, says when it refuses.

use std::time::Duration;

use serde::Deserialize;

use super::decode::decode;
use crate::time::Timestamp;

/// Of a refusal's body only so many bytes are read.
pub const MOST_REFUSAL: usize = 16 * 1024;
/// Whatever a server asks for, ask again within this time.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// An answer with a status of 300 or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The machine-readable reason of the Status object; empty if the body was none.
    pub reason: String,
    /// The message of the Status object, or the start of whatever the body was.
    pub message: String,
    /// How long to wait, if the server says so (RFC 9110 section 10.2.3).
    pub retry_after: Option<Duration>,
    /// Whether the Status object speaks of one object by name.
    pub names_object: bool,
}

/// The Status object of an error (Kubernetes API conventions, "Response Status Kind").
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    kind: String,
    reason: String,
    message: String,
    details: Option<Details>,
}

/// What the error is about.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    name: String,
}

impl Refusal {
    /// Reads the start of a body, which is a Status object, or whatever something in between sends. The
    /// token does not get into the message, whoever sent it back.
    pub fn read(status: u16, body: &[u8], retry_after: Option<Duration>, token: &str) -> Self {
        let (mut text, known) = match decode::<Status>(&mut &*body) {
            Ok(known) if known.kind == "Status" => (known.message.clone(), known),
            _ => (String::from_utf8_lossy(body).into_owned(), Status::default()),
        };
        if body.len() >= MOST_REFUSAL {
            // Its end may be the start of a token that goes on behind it.
            text = text.replace(token, "[token]");
            text.truncate(text.floor_char_boundary(text.len().saturating_sub(token.len())));
        }
        Refusal {
            status,
            reason: clean(&known.reason, token),
            message: clean(&text, token),
            retry_after,
            names_object: known.details.is_some_and(|details| !details.name.is_empty()),
        }
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3), bounded to a minute.
pub fn retry_after(value: &str, now: Option<Timestamp>) -> Option<Duration> {
    let value = value.trim();
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => u64::MAX,
        Err(_) => u64::try_from(Timestamp::from_http_date(value)?.since(now?)).unwrap_or(0),
    };
    Some(Duration::from_secs(seconds).min(MOST_RETRY_AFTER))
}

/// A text from outside made fit for a log line: control characters become spaces, the secret
/// disappears, the rest is cut off.
pub fn clean(text: &str, secret: &str) -> String {
    const MOST: usize = 512;
    let open = if secret.is_empty() {
        text.to_string()
    } else {
        text.replace(secret, "[token]")
    };
    let line: String = open.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
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
        assert_eq!(seconds("86400"), Some(60));
        assert_eq!(seconds("99999999999999999999999"), Some(60));
        assert_eq!(seconds("Mon, 23 Nov 2026 05:40:47 GMT"), Some(20));
        assert_eq!(seconds("Mon, 23 Nov 2026 05:40:07 GMT"), Some(0));
        for nonsense in ["", "soon", "-1", "1.5", "Mon, 23 Nov"] {
            assert_eq!(seconds(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(retry_after("Mon, 23 Nov 2026 05:40:47 GMT", None), None);
    }

    #[test]
    fn texts_from_outside_are_one_short_line_without_the_token() {
        assert_eq!(clean("a\r\nb\x1b[31m\tc", ""), "a b [31m c");
        assert_eq!(
            clean("you sent Bearer s3cret, s3cret!", "s3cret"),
            "you sent Bearer [token], [token]!"
        );
        assert_eq!(clean(&"ü".repeat(600), "").chars().count(), 515);
    }

    #[test]
    fn a_token_that_the_bodys_end_cuts_off() {
        let token = "0123456789abcdefghijklmnopqrstuvwxyz";
        for cut in 1..token.len() {
            let mut body = vec![b' '; MOST_REFUSAL - cut];
            body.extend(&token.as_bytes()[..cut]);
            assert_eq!(Refusal::read(403, &body, None, token).message, "", "{cut}");
        }
        let whole = [&vec![b' '; MOST_REFUSAL - token.len()][..], token.as_bytes()].concat();
        assert!(!Refusal::read(403, &whole, None, token).message.contains("0123"));
    }
}
