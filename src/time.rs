//! Points in time as Kubernetes and HTTP write them, in UTC and the Gregorian calendar.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

const DAY: i64 = 86_400;
/// The calendar repeats itself after 400 years.
const DAYS_OF_400_YEARS: i64 = 146_097;
/// From 0000-03-01 to 1970-01-01. Years that start in March have their leap day at the end.
const DAYS_TO_1970: i64 = 719_468;

const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

impl Timestamp {
    /// The time of this machine, for log lines only: decisions use the API server's clock.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, the form of HTTP dates that is sent (RFC 9110 section 5.6.7); `None` for
    /// anything else.
    #[must_use]
    pub fn from_http_date(text: &str) -> Option<Self> {
        let [weekday, day, month, year, time, "GMT"] = text.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        if !WEEKDAYS.contains(&weekday.strip_suffix(',')?) {
            return None;
        }
        let (month, _) = (1..).zip(MONTHS).find(|(_, name)| *name == month)?;
        at(number(year, 4)?, month, number(day, 2)?, time)
    }

    /// Reads RFC 3339 in UTC (`Z`), as Kubernetes writes it; a fraction of a second is dropped.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let time = match time.split_once('.') {
            Some((time, fraction)) => (!fraction.is_empty() && is_number(fraction)).then_some(time)?,
            None => time,
        };
        let [year, month, day] = date.split('-').collect::<Vec<_>>()[..] else {
            return None;
        };
        at(number(year, 4)?, number(month, 2)?, number(day, 2)?, time)
    }

    /// Whole seconds from `earlier` to this time; negative if `earlier` is the later one.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with whole seconds, the form of `metav1.Time`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(DAY));
        let second = self.0.rem_euclid(DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// A date with a time of the form `08:49:37`.
fn at(year: i64, month: i64, day: i64, time: &str) -> Option<Timestamp> {
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>()[..] else {
        return None;
    };
    let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
    let days = days(year, month, day);
    // 60 is a leap second, which UNIX time does not count.
    let is_time = hour < 24 && minute < 60 && second <= 60;
    (is_time && date(days) == (year, month, day)).then(|| Timestamp(days * DAY + hour * 3600 + minute * 60 + second))
}

/// A number of exactly this many digits.
fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && is_number(text)).then(|| text.parse().ok())?
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Days from 1970-01-01 to a date (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * DAYS_OF_400_YEARS + year * 365 + year / 4 - year / 100 + day_of_year - DAYS_TO_1970
}

/// Year, month and day of the day this many days after 1970-01-01 (the same, civil_from_days).
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let (era, day) = (days.div_euclid(DAYS_OF_400_YEARS), days.rem_euclid(DAYS_OF_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year;
    match month {
        ..10 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
    }
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
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Son, 06 Nov 1994 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 +8:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 19994 08:49:37 GMT",
            // Those that are obsolete.
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
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

    /// The pairs are of date(1).
    #[test]
    fn known_times() {
        for (seconds, text, http) in [
            (-31_536_000, "1969-01-01T00:00:00Z", "Wed, 01 Jan 1969 00:00:00 GMT"),
            (-1, "1969-12-31T23:59:59Z", "Wed, 31 Dec 1969 23:59:59 GMT"),
            (0, "1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_399, "2000-02-28T23:59:59Z", "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "2000-02-29T00:00:00Z", "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "2000-03-01T00:00:00Z", "Wed, 01 Mar 2000 00:00:00 GMT"),
            (978_307_199, "2000-12-31T23:59:59Z", "Sun, 31 Dec 2000 23:59:59 GMT"),
            (2_147_483_647, "2038-01-19T03:14:07Z", "Tue, 19 Jan 2038 03:14:07 GMT"),
            (2_147_483_648, "2038-01-19T03:14:08Z", "Tue, 19 Jan 2038 03:14:08 GMT"),
            (4_107_542_399, "2100-02-28T23:59:59Z", "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "2100-03-01T00:00:00Z", "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "9999-12-31T23:59:59Z", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(Timestamp(seconds).to_string(), text);
            assert_eq!(Timestamp::from_rfc3339(text), Some(Timestamp(seconds)));
            assert_eq!(Timestamp::from_http_date(http), Some(Timestamp(seconds)), "{http}");
        }
    }

    #[test]
    fn invalid_dates() {
        for text in [
            "2100-02-29T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-23T05:28:61Z",
            "2026-11-23T5:28:45Z",
            " 2026-11-23T05:28:45Z",
            "-026-11-23T05:28:45Z",
            "12026-11-23T05:28:45Z",
            "2026-11-23T05:28:4\u{0665}Z",
        ] {
            assert_eq!(Timestamp::from_rfc3339(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let lengths = |year: i64| {
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            [
                31,
                if is_leap { 29 } else { 28 },
                31,
                30,
                31,
                30,
                31,
                31,
                30,
                31,
                30,
                31,
            ]
        };
        let mut next = days(1700, 1, 1);
        for year in 1700..2500 {
            for (month, length) in (1..).zip(lengths(year)) {
                for day in 1..=length {
                    assert_eq!((date(next), days(year, month, day)), ((year, month, day), next));
                    next += 1;
                }
            }
        }
    }

    #[test]
    fn any_number_of_seconds_is_written() {
        for seconds in [i64::MIN, -62_167_219_201, i64::MAX] {
            assert!(Timestamp(seconds).to_string().ends_with('Z'));
        }
    }

    #[test]
    fn times_apart() {
        assert_eq!(Timestamp(300).since(Timestamp(100)), 200);
        assert_eq!(Timestamp(i64::MIN).since(Timestamp(i64::MAX)), i64::MIN);
    }
}
