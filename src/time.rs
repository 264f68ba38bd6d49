//! Points in time as Kubernetes and HTTP write them. Formatting and parsing are libc's.
//!
//! Where time_t has 32 bits, times end at 2038-01-19T03:14:07Z, and so does a process with musl inside: the standard
//! library's clock panics from then on. `make static-musl` and `make test-boards` build armv7 with 64 bits; the
//! standard library that comes compiled for armv7 musl has 32.

use std::ffi::{CStr, CString};
use std::fmt;
use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the date of HTTP (RFC 9110 section 5.6.7).
const HTTP_DATE: &CStr = c"%a, %d %b %Y %H:%M:%S GMT";
/// `2026-11-23T05:28:45`, the part of RFC 3339 before fraction and zone.
const RFC3339_SECONDS: &CStr = c"%Y-%m-%dT%H:%M:%S";

impl Timestamp {
    /// What this machine's clock says: for log lines only. Decisions use the API server's clock.
    pub fn of_this_machine() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// Reads the preferred form of an HTTP date; `None` for anything else.
    pub fn from_http_date(text: &str) -> Option<Self> {
        let (time, rest) = parse(text, HTTP_DATE)?;
        rest.is_empty().then_some(time)
    }

    /// Reads RFC 3339 in UTC (`Z`), as Kubernetes writes it; a fraction of a second is dropped.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let (time, rest) = parse(text, RFC3339_SECONDS)?;
        let zone = match rest.strip_prefix('.') {
            Some(fraction) => {
                let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
                (zone.len() < fraction.len()).then_some(zone)?
            }
            None => rest,
        };
        (zone == "Z").then_some(time)
    }

    /// Whole seconds from `earlier` to this time; negative if `earlier` is the later one.
    pub fn since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with whole seconds, the form of `metav1.Time`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 64];
        let length = format(*self, RFC3339_SECONDS, &mut text);
        write!(f, "{}Z", String::from_utf8_lossy(&text[..length]))
    }
}

/// Reads the start of `text` by a strptime(3) format; gives the time and what is left.
#[allow(clippy::useless_conversion, reason = "time_t has 32 bits on some platforms")]
fn parse<'a>(text: &'a str, format: &CStr) -> Option<(Timestamp, &'a str)> {
    // No date is longer; and strptime skips white space, which no date here may hold at its start.
    if text.len() > 64 || text.starts_with(|c: char| c.is_ascii_whitespace()) {
        return None;
    }
    let c_text = CString::new(text).ok()?;
    let mut fields = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both strings end in NUL and outlive the call; `fields` is writable.
    let end = unsafe { libc::strptime(c_text.as_ptr(), format.as_ptr(), fields.as_mut_ptr()) };
    if end.is_null() {
        return None;
    }
    let used = end as usize - c_text.as_ptr() as usize;
    // SAFETY: zeroed before and filled by strptime; all-zero is a valid `tm` (plain integers, null zone name).
    let mut fields = unsafe { fields.assume_init() };
    // SAFETY: `fields` is an initialised tm that timegm may normalise.
    let seconds = unsafe { libc::timegm(&mut fields) };
    Some((Timestamp(seconds.into()), text.get(used..)?))
}

/// Writes `time` in UTC by a strftime(3) format; gives the length, 0 if it cannot be written.
#[allow(clippy::useless_conversion, reason = "time_t has 32 bits on some platforms")]
#[allow(
    deprecated,
    reason = "libc announces for musl that time_t will get 64 bits; both suit"
)]
fn format(time: Timestamp, format: &CStr, text: &mut [u8]) -> usize {
    // time_t has 32 bits on some platforms: a later time is written as their last second.
    let seconds = time.0.clamp(libc::time_t::MIN.into(), libc::time_t::MAX.into()) as libc::time_t;
    let mut fields = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call, and gmtime_r keeps neither.
    let filled = unsafe { libc::gmtime_r(&seconds, fields.as_mut_ptr()) };
    if filled.is_null() {
        return 0;
    }
    // SAFETY: `text` is writable for its length, the format ends in NUL, and gmtime_r filled the fields.
    unsafe { libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), fields.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_date() {
        assert_eq!(
            Timestamp::from_http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Timestamp(784_111_777))
        );
        for text in [
            "",
            "0",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            " Sun, 06 Nov 1994 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
            "Sun, 06 Nov 1994 08:49:37 GMT\0",
        ] {
            assert_eq!(Timestamp::from_http_date(text), None, "{text:?}");
        }
    }

    #[test]
    fn rfc3339() {
        let time = Timestamp(1_795_411_725);
        assert_eq!(time.to_string(), "2026-11-23T05:28:45Z");
        for text in [
            "2026-11-23T05:28:45Z",
            "2026-11-23T05:28:45.1Z",
            "2026-11-23T05:28:45.123456Z",
        ] {
            assert_eq!(Timestamp::from_rfc3339(text), Some(time), "{text:?}");
        }
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T05:28:45",
            "2026-11-23T05:28:45+01:00",
            "2026-11-23T05:28:45.Z",
            "2026-11-23T05:28:45.1",
            "2026-11-23T05:28:45Zz",
        ] {
            assert_eq!(Timestamp::from_rfc3339(text), None, "{text:?}");
        }
    }

    #[test]
    fn both_ways_over_a_long_time() {
        // To the year 2100.
        let last = if size_of::<libc::time_t>() == 8 { 47_482 } else { 24_000 };
        for days in (0..last).step_by(7) {
            let time = Timestamp(days * 86_400 + 3_661);
            assert_eq!(Timestamp::from_rfc3339(&time.to_string()), Some(time));
        }
    }

    #[test]
    fn times_apart() {
        assert_eq!(Timestamp(300).since(Timestamp(100)), 200);
        assert_eq!(Timestamp(i64::MIN).since(Timestamp(i64::MAX)), i64::MIN);
    }
}
