//! Texts from outside made fit for a log line, a condition or an Event: one line, and without the token.

use std::sync::{Arc, Mutex};

/// A text may end within the token: its beginning is removed as well, from this many bytes on.
const MIN_MATCH: usize = 16;
/// Characters of an excerpt.
const MAX_EXCERPT: usize = 512;

/// Removes the token from texts.
///
/// The client keeps it up to date: clones know the same token.
#[derive(Clone, Debug, Default)]
pub struct Redactor(Arc<Mutex<Tokens>>);

#[derive(Default)]
struct Tokens {
    current: String,
    /// The one before: a text may be older than the current one.
    previous: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Redactor {
    /// Sets the token.
    pub fn set_token(&self, token: &str) {
        if let Ok(mut tokens) = self.0.lock()
            && tokens.current != token
        {
            tokens.previous = std::mem::replace(&mut tokens.current, token.into());
        }
    }

    /// The text as one line without the token: `[token]` stands where it was, or its beginning.
    pub fn clean(&self, text: &str) -> String {
        let mut text = one_line(text);
        if let Ok(tokens) = self.0.lock() {
            for token in [&tokens.current, &tokens.previous] {
                text = without(&text, token);
            }
        }
        text
    }
}

/// The text with a space in place of each character that ends a line, moves the cursor, or changes the direction of
/// what follows.
pub fn one_line(text: &str) -> String {
    let is_unfit = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if is_unfit(c) { ' ' } else { c }).collect()
}

/// The start of a text: one line without repeated spaces.
pub fn excerpt(text: &str) -> String {
    let line = one_line(text).split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_EXCERPT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn without(text: &str, token: &str) -> String {
    let start = &token[..token.floor_char_boundary(MIN_MATCH)];
    if start.is_empty() {
        return text.into();
    }
    let (mut open, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(start) {
        open.push_str(&rest[..at]);
        open.push_str("[token]");
        let found = rest[at..].bytes().zip(token.bytes());
        // Both are the same up to here, so it is a boundary between characters in both or in none.
        let length = found.take_while(|(one, other)| one == other).count();
        rest = &rest[rest.floor_char_boundary(at + length)..];
    }
    open + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl";

    fn redactor() -> Redactor {
        let redactor = Redactor::default();
        redactor.set_token(TOKEN);
        redactor
    }

    #[test]
    fn control_characters_end_no_line() {
        let forged = "lan\n2026-11-26T00:00:00Z ERROR forged\r\u{85}\u{2028}x\u{1b}[31m\u{202e}\0";
        assert_eq!(
            redactor().clean(forged),
            "lan 2026-11-26T00:00:00Z ERROR forged   x [31m  "
        );
    }

    #[test]
    fn the_token_is_taken_out_wherever_it_is() {
        let redactor = redactor();
        assert_eq!(
            redactor.clean(&format!("Bearer {TOKEN}, {TOKEN}{TOKEN}!")),
            "Bearer [token], [token][token]!"
        );
        redactor.set_token("another-token-of-the-same-account");
        redactor.set_token("another-token-of-the-same-account");
        assert_eq!(redactor.clean(TOKEN), "[token]", "the one before");
        assert_eq!(redactor.clean("another-token-of-the-same-account"), "[token]");
        assert_eq!(Redactor::default().clean(TOKEN), TOKEN, "there is none yet");
    }

    #[test]
    fn a_token_that_is_cut_is_taken_out_too() {
        for length in MIN_MATCH..TOKEN.len() {
            assert_eq!(redactor().clean(&TOKEN[..length]), "[token]", "{length}");
            assert_eq!(redactor().clean(&format!("{}ü", &TOKEN[..length])), "[token]ü");
        }
    }

    #[test]
    fn a_short_token() {
        let redactor = Redactor::default();
        redactor.set_token("s3cret");
        assert_eq!(redactor.clean("you sent s3cret!"), "you sent [token]!");
    }

    #[test]
    fn excerpts_are_short() {
        assert_eq!(excerpt("a\r\nb\x1b[31m\tc"), "a b [31m c");
        assert_eq!(excerpt(&"ü".repeat(600)).chars().count(), 515);
    }
}
