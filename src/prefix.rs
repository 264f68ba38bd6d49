//! IPv6 prefix arithmetic: pure values, no I/O, no Kubernetes.
//!
//! Four kinds of prefix occur in k6u and all are a [`Prefix`]: the /64 of an address on an
//! interface, the delegated prefix that it is part of, the /64 that a prefix id names in that, and
//! the part that a [`Suffix`](crate::cidr::Suffix) names in it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The length of a prefix that SLAAC can use on a link (RFC 4862 section 5.5.3, RFC 7421).
pub const LINK_LENGTH: u8 = 64;

/// An IPv6 prefix: its host bits are always zero.
///
/// The order is by address, then by length, which is how lists are written.
///
/// ```
/// # use k6u::prefix::Prefix;
/// let delegated: Prefix = "2001:db8:1234:5670::/60".parse()?;
/// let subnet = delegated.subnet(2).expect("a /60 has the ids 0 to 15");
/// assert_eq!(subnet.to_string(), "2001:db8:1234:5672::/64");
/// # Ok::<(), k6u::prefix::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    // Not a u128: its alignment would make every item of a long list half as large again.
    address: Ipv6Addr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits (at most 128) that `address` is in.
    #[must_use]
    pub fn of(address: Ipv6Addr, length: u8) -> Self {
        let length = length.min(128);
        Prefix::from_bits(address.to_bits() & mask(length), length)
    }

    fn from_bits(bits: u128, length: u8) -> Self {
        debug_assert!(length <= 128 && bits & !mask(length) == 0, "host bits are zero");
        Prefix {
            address: Ipv6Addr::from_bits(bits),
            length,
        }
    }

    fn bits(self) -> u128 {
        self.address.to_bits()
    }

    /// The lowest address in it.
    #[must_use]
    pub fn address(self) -> Ipv6Addr {
        self.address
    }

    /// The number of leading bits that count, 0 to 128.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// The shorter prefix of `length` bits that this one is part of.
    ///
    /// A `length` beyond this prefix's own leaves it as it is: nothing is known of further bits.
    #[must_use]
    pub fn truncate(self, length: u8) -> Self {
        Prefix::of(self.address, length.min(self.length))
    }

    /// Whether every address of `other` is in this prefix.
    #[must_use]
    pub fn contains(self, other: Prefix) -> bool {
        self.length <= other.length && other.bits() & mask(self.length) == self.bits()
    }

    /// The /64 with this number inside the prefix, counted from 0, or `None` if it does not fit.
    ///
    /// Never wraps, because a number that does not fit would name a neighbour's /64.
    #[must_use]
    pub fn subnet(self, id: u64) -> Option<Prefix> {
        if id > PrefixLength::try_from(u64::from(self.length)).ok()?.highest_id() {
            return None;
        }
        let bits = self.bits() | u128::from(id) << (128 - LINK_LENGTH);
        Some(Prefix::from_bits(bits, LINK_LENGTH))
    }

    /// The longer prefix of `length` bits with these bits after this prefix's own, or `None` if it does not fit, so
    /// that it is never in a neighbour's prefix.
    #[must_use]
    pub fn part(self, bits: u128, length: u8) -> Option<Prefix> {
        let fits = (self.length..=128).contains(&length) && bits & (mask(self.length) | !mask(length)) == 0;
        fits.then(|| Prefix::from_bits(self.bits() | bits, length))
    }
}

/// The length of a delegated prefix, 1 to 64: at least one /64 is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixLength(u8);

impl PrefixLength {
    /// The number of bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The highest id of a /64 in a prefix of this length: 2^(64-length) - 1.
    #[must_use]
    pub fn highest_id(self) -> u64 {
        u64::MAX.checked_shr(self.0.into()).unwrap_or(0)
    }
}

impl TryFrom<u64> for PrefixLength {
    type Error = ParseError;

    fn try_from(bits: u64) -> Result<Self, ParseError> {
        match u8::try_from(bits) {
            Ok(bits @ 1..=LINK_LENGTH) => Ok(PrefixLength(bits)),
            _ => Err(ParseError("a whole number from 1 to 64")),
        }
    }
}

impl fmt::Display for PrefixLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bits of an address that a prefix of this length (0 to 128) fixes.
#[must_use]
pub fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    /// The canonical text: RFC 5952, then a slash and the length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length)
    }
}

/// The form that a text or a number should have, with an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError(pub &'static str);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it must be {}", self.0)
    }
}

impl std::error::Error for ParseError {}

impl FromStr for Prefix {
    type Err = ParseError;

    /// Reads `address/length`. Host bits are dropped, as Kubernetes and Cilium do on reading.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let read = || {
            let (address, length) = text.split_once('/')?;
            Some(Prefix::of(address.parse().ok()?, read_length(length, 128)?))
        };
        read().ok_or(ParseError("an IPv6 prefix such as 2001:db8::/32"))
    }
}

/// Reads a length of at most `max` bits, in digits only.
#[must_use]
pub fn read_length(text: &str, max: u8) -> Option<u8> {
    let all_digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|length| all_digits && *length <= max)
}

/// Prefixes as a person reads them: `a, b, c`, or `none`.
#[must_use]
pub fn join(prefixes: &[Prefix]) -> String {
    if prefixes.is_empty() {
        return "none".into();
    }
    texts(prefixes).join(", ")
}

/// Prefixes as JSON has them.
pub fn texts(prefixes: &[Prefix]) -> Vec<String> {
    prefixes.iter().map(Prefix::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn highest_id(length: u64) -> Option<u64> {
        PrefixLength::try_from(length).ok().map(PrefixLength::highest_id)
    }

    #[test]
    fn id_2_of_a_60() {
        assert_eq!(
            prefix("2001:db8:1234:5670::/60").subnet(2),
            Some(prefix("2001:db8:1234:5672::/64"))
        );
    }

    #[test]
    fn ids_at_both_ends_of_every_length() {
        for length in 1..=64u8 {
            let delegated = Prefix::of(Ipv6Addr::from_bits(u128::MAX), length);
            let highest = if length == 1 {
                (1u64 << 63) - 1
            } else {
                (1u64 << (64 - length)) - 1
            };
            assert_eq!(highest_id(length.into()), Some(highest), "/{length}");

            let first = delegated.subnet(0).unwrap();
            assert_eq!(first, Prefix::from_bits(delegated.bits(), 64), "/{length}");

            let last = delegated.subnet(highest).unwrap();
            assert_eq!(last.bits() >> 64, u128::from(u64::MAX), "/{length}");
            assert!(delegated.contains(first) && delegated.contains(last), "/{length}");

            assert_eq!(delegated.subnet(highest + 1), None, "/{length}");
            assert_eq!(delegated.subnet(u64::MAX), None, "/{length}");
        }
    }

    #[test]
    fn every_subnet_maps_back_to_its_delegated_prefix() {
        for length in 1..=64u8 {
            let delegated = prefix("2001:db8:1234:5678::/64").truncate(length);
            let highest = highest_id(length.into()).unwrap();
            for id in [0, 1, highest / 2, highest] {
                if let Some(subnet) = delegated.subnet(id) {
                    assert_eq!(subnet.truncate(length), delegated, "/{length} id {id}");
                }
            }
        }
    }

    #[test]
    fn no_subnet_in_a_prefix_longer_than_64() {
        assert_eq!(prefix("2001:db8::/65").subnet(0), None);
        for length in [0, 65, 128, 256 + 60] {
            assert_eq!(highest_id(length), None, "/{length}");
        }
    }

    #[test]
    fn truncate_never_lengthens() {
        assert_eq!(prefix("2001:db8::/48").truncate(64), prefix("2001:db8::/48"));
        assert_eq!(
            prefix("2001:db8:0:ffff::/64").truncate(60),
            prefix("2001:db8:0:fff0::/60")
        );
        assert_eq!(prefix("ffff::/64").truncate(0), prefix("::/0"));
    }

    #[test]
    fn containment() {
        let site = prefix("2001:db8::/32");
        assert!(site.contains(site));
        assert!(site.contains(prefix("2001:db8:ffff::/48")));
        assert!(!site.contains(prefix("2001:db9::/48")));
        assert!(!prefix("2001:db8::/48").contains(site));
        assert!(prefix("::/0").contains(prefix("::1/128")));
    }

    #[test]
    fn text_round_trips_and_drops_host_bits() {
        assert_eq!(prefix("2001:DB8:0:0::1/64").to_string(), "2001:db8::/64");
        assert_eq!(prefix("::1/128").to_string(), "::1/128");
    }

    #[test]
    fn invalid_prefixes() {
        for text in [
            "",
            "/",
            "2001:db8::",
            "2001:db8::/",
            "2001:db8::/129",
            "2001:db8::/+64",
            "2001:db8::/-1",
            "192.0.2.0/24",
            "2001:db8::/64 ",
            " 2001:db8::/64",
            "2001:db8::/64/64",
            "x/64",
            "fe80::1%eth0/64",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn order_is_by_address() {
        let mut list = vec![
            prefix("2001:db8:2::/48"),
            prefix("2001:db8:10::/48"),
            prefix("2001:db8:1::/48"),
        ];
        list.sort();
        assert_eq!(join(&list), "2001:db8:1::/48, 2001:db8:2::/48, 2001:db8:10::/48");
        assert_eq!(join(&[]), "none");
    }
}
