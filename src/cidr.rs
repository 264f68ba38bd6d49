//! The items of lists, which are CIDRs of both families and ranges of addresses; and suffixes, which name parts of a
//! delegated prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::prefix::{ParseError, Prefix, PrefixLength, mask, read_length};

/// An IPv4 or IPv6 network: its host bits are always zero.
///
/// The order is by family, address and length, which is how lists are written.
///
/// ```
/// # use k6u::cidr::Cidr;
/// let cidr: Cidr = "192.168.7.9/16".parse()?;
/// assert_eq!(cidr.to_string(), "192.168.0.0/16");
/// assert_eq!(cidr.host(), None);
/// # Ok::<(), k6u::prefix::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cidr {
    /// The address and the length, 0 to 32.
    V4(Ipv4Addr, u8),
    /// An IPv6 prefix.
    V6(Prefix),
}

impl Cidr {
    /// The CIDR of one address.
    #[must_use]
    pub fn of_host(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Cidr::V4(address, 32),
            IpAddr::V6(address) => Cidr::V6(Prefix::of(address, 128)),
        }
    }

    /// Its address, if it has a single one.
    #[must_use]
    pub fn host(&self) -> Option<IpAddr> {
        let is_host = match self {
            Cidr::V4(_, length) => *length == 32,
            Cidr::V6(prefix) => prefix.length() == 128,
        };
        is_host.then(|| self.address())
    }

    /// The lowest address in it.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match self {
            Cidr::V4(address, _) => IpAddr::V4(*address),
            Cidr::V6(prefix) => IpAddr::V6(prefix.address()),
        }
    }
}

impl FromStr for Cidr {
    type Err = ParseError;

    /// Reads `address/length`. Host bits are dropped, as Kubernetes does on reading.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Ok(prefix) = text.parse() {
            return Ok(Cidr::V6(prefix));
        }
        let read = || {
            let (address, length) = text.split_once('/')?;
            let (address, length): (Ipv4Addr, u8) = (address.parse().ok()?, read_length(length, 32)?);
            let kept = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Some(Cidr::V4(Ipv4Addr::from_bits(address.to_bits() & kept), length))
        };
        read().ok_or(ParseError("an IPv4 or IPv6 CIDR such as 192.168.0.0/16 or fd00:1::/48"))
    }
}

impl fmt::Display for Cidr {
    /// The canonical text: the address (RFC 5952 for IPv6), a slash and the length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cidr::V4(address, length) => write!(f, "{address}/{length}"),
            Cidr::V6(prefix) => prefix.fmt(f),
        }
    }
}

/// The IPv6 addresses from one to a higher one, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    first: Ipv6Addr,
    last: Ipv6Addr,
}

impl Range {
    /// The lowest address in it.
    #[must_use]
    pub fn first(self) -> Ipv6Addr {
        self.first
    }

    /// The highest address in it.
    #[must_use]
    pub fn last(self) -> Ipv6Addr {
        self.last
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// An item of a list of addresses.
///
/// A single address is always a CIDR, however it is written; so items are equal if they mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A CIDR.
    Cidr(Cidr),
    /// A range.
    Range(Range),
}

impl Item {
    /// The addresses from `first` to `last`; `None` if `last` is lower, and for IPv4 ranges, which k6u never writes.
    #[must_use]
    pub fn from_ends(first: IpAddr, last: IpAddr) -> Option<Self> {
        match (first, last) {
            _ if first == last => Some(Cidr::of_host(first).into()),
            (IpAddr::V6(first), IpAddr::V6(last)) if first < last => Some(Item::Range(Range { first, last })),
            _ => None,
        }
    }

    /// Its address, if it has a single one.
    #[must_use]
    pub fn host(&self) -> Option<IpAddr> {
        match self {
            Item::Cidr(cidr) => cidr.host(),
            Item::Range(_) => None,
        }
    }
}

impl From<Cidr> for Item {
    fn from(cidr: Cidr) -> Self {
        Item::Cidr(cidr)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Cidr(cidr) => cidr.fmt(f),
            Item::Range(range) => range.fmt(f),
        }
    }
}

/// The bits that follow a delegated prefix: an address whose upper bits are zero, and a length.
///
/// ```
/// # use k6u::cidr::Suffix;
/// let host: Suffix = "::1:0:0:0:10".parse()?;
/// let part = host.append_to("2001:db8:1234:5600::/56".parse()?);
/// assert_eq!(part, Some("2001:db8:1234:5601::10/128".parse()?));
/// # Ok::<(), k6u::prefix::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suffix {
    bits: u128,
    length: u8,
}

/// The reason why a suffix or a range of suffixes names no part of a delegated prefix, with the nearest one that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit<T> {
    /// It is shorter than the delegated prefix.
    TooShort(PrefixLength),
    /// It has bits where the delegated prefix has its own.
    BitsAbove(PrefixLength, T),
    /// It has bits after its own length.
    BitsBelow(T),
    /// It ends before it starts.
    Reversed,
}

impl<T: fmt::Display> fmt::Display for Misfit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::TooShort(length) => write!(f, "a part of a /{length} has a length from {length} to 128"),
            Misfit::BitsAbove(length, fitting) => write!(
                f,
                "its first {length} bits come from the delegated prefix and must be 0 here: {fitting} fits"
            ),
            Misfit::BitsBelow(fitting) => write!(f, "the bits behind its length must be 0: {fitting} fits"),
            Misfit::Reversed => f.write_str("it ends before it starts"),
        }
    }
}

impl Suffix {
    /// The part of `delegated` that it names; `None` if it does not fit.
    #[must_use]
    pub fn append_to(self, delegated: Prefix) -> Option<Prefix> {
        delegated.part(self.bits, self.length)
    }

    /// Whether it names a single address.
    #[must_use]
    pub fn is_host(self) -> bool {
        self.length == 128
    }

    /// Checks that it names a part of each delegated prefix of this length.
    ///
    /// # Errors
    /// The reason why it does not, and the nearest suffix that does.
    pub fn fits(self, delegated: PrefixLength) -> Result<(), Misfit<Self>> {
        let (above, own) = (mask(delegated.bits()), mask(self.length));
        let fitting = Suffix {
            bits: self.bits & own & !above,
            ..self
        };
        if self.length < delegated.bits() {
            Err(Misfit::TooShort(delegated))
        } else if self.bits & above != 0 {
            Err(Misfit::BitsAbove(delegated, fitting))
        } else if self.bits & !own != 0 {
            Err(Misfit::BitsBelow(fitting))
        } else {
            Ok(())
        }
    }
}

impl FromStr for Suffix {
    type Err = ParseError;

    /// Reads an IPv6 address with or without a length; none is 128. All bits are kept.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (address, length) = text.split_once('/').unwrap_or((text, "128"));
        match (address.parse::<Ipv6Addr>(), read_length(length, 128)) {
            (Ok(address), Some(length)) => Ok(Suffix {
                bits: address.to_bits(),
                length,
            }),
            _ => Err(ParseError(
                "an IPv6 address, with or without a length, such as ::1:0:0:0:10 or ::10:0:0:0:0/60",
            )),
        }
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match self.length {
            128 => address.fmt(f),
            length => write!(f, "{address}/{length}"),
        }
    }
}

/// Two suffixes, for the addresses from one to the other in a delegated prefix.
///
/// ```
/// # use k6u::cidr::SuffixRange;
/// let range: SuffixRange = "::1:0-::1:ff".parse()?;
/// let item = range.append_to("2001:db8::/56".parse()?).expect("it fits");
/// assert_eq!(item.to_string(), "2001:db8::1:0-2001:db8::1:ff");
/// # Ok::<(), k6u::prefix::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SuffixRange {
    first: u128,
    last: u128,
}

impl SuffixRange {
    /// The addresses of `delegated` that it names; `None` if it does not fit.
    #[must_use]
    pub fn append_to(self, delegated: Prefix) -> Option<Item> {
        let end = |bits| Some(IpAddr::V6(delegated.part(bits, 128)?.address()));
        Item::from_ends(end(self.first)?, end(self.last)?)
    }

    /// Checks that it names addresses of each delegated prefix of this length.
    ///
    /// # Errors
    /// The reason why it does not, and the nearest range that does.
    pub fn fits(self, delegated: PrefixLength) -> Result<(), Misfit<Self>> {
        let above = mask(delegated.bits());
        if (self.first | self.last) & above != 0 {
            let (first, last) = (self.first & !above, self.last & !above);
            Err(Misfit::BitsAbove(delegated, SuffixRange { first, last }))
        } else if self.first > self.last {
            Err(Misfit::Reversed)
        } else {
            Ok(())
        }
    }
}

impl FromStr for SuffixRange {
    type Err = ParseError;

    /// Reads two IPv6 addresses with a hyphen between them. All bits are kept.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let read = || {
            let (first, last) = text.split_once('-')?;
            let bits = |text: &str| text.parse().map(Ipv6Addr::to_bits).ok();
            Some(SuffixRange {
                first: bits(first)?,
                last: bits(last)?,
            })
        };
        read().ok_or(ParseError(
            "two IPv6 addresses with a hyphen between them, such as ::1:0:0:1:0-::1:0:0:1:ff",
        ))
    }
}

impl fmt::Display for SuffixRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}",
            Ipv6Addr::from_bits(self.first),
            Ipv6Addr::from_bits(self.last)
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn suffix(text: &str) -> Suffix {
        text.parse().unwrap()
    }

    fn delegating(bits: u8) -> PrefixLength {
        PrefixLength::try_from(u64::from(bits)).unwrap()
    }

    #[test]
    fn both_families() {
        assert_eq!(cidr("192.168.7.9/16").to_string(), "192.168.0.0/16");
        assert_eq!(cidr("10.1.2.3/0").to_string(), "0.0.0.0/0");
        assert_eq!(cidr("10.1.2.3/32").to_string(), "10.1.2.3/32");
        assert_eq!(cidr("2001:DB8::1/64").to_string(), "2001:db8::/64");
        let mut list = [
            cidr("2001:db8::/64"),
            cidr("10.0.0.0/8"),
            cidr("fd00:1::/48"),
            cidr("9.0.0.0/8"),
        ];
        list.sort();
        assert_eq!(
            list.map(|cidr| cidr.to_string()),
            ["9.0.0.0/8", "10.0.0.0/8", "2001:db8::/64", "fd00:1::/48"]
        );
    }

    #[test]
    fn invalid_cidrs() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/+8",
            "010.0.0.0/8",
            "::",
            "::/129",
            "a/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn suffixes_behind_a_56() {
        let delegated: Prefix = "2001:db8:1234:5600::/56".parse().unwrap();
        for (text, part) in [
            ("::/56", "2001:db8:1234:5600::/56"),
            ("::10:0:0:0:0/60", "2001:db8:1234:5610::/60"),
            ("::1:0:0:0:10", "2001:db8:1234:5601::10/128"),
            ("::1:0:0:0:10/128", "2001:db8:1234:5601::10/128"),
            ("::4:0:0:0:0/62", "2001:db8:1234:5604::/62"),
            ("::1:ffff:0:0:0/112", "2001:db8:1234:5601:ffff::/112"),
        ] {
            assert_eq!(suffix(text).fits(delegating(56)), Ok(()), "{text}");
            assert_eq!(suffix(text).append_to(delegated).unwrap().to_string(), part, "{text}");
        }
    }

    #[test]
    fn suffixes_that_do_not_fit() {
        for (text, misfit) in [
            ("::/55", Misfit::TooShort(delegating(56))),
            (
                "2001:db8::1:0:0:0:10",
                Misfit::BitsAbove(delegating(56), suffix("::1:0:0:0:10")),
            ),
            ("::100:0:0:0:0/64", Misfit::BitsAbove(delegating(56), suffix("::/64"))),
            ("::1:0:0:0:10/64", Misfit::BitsBelow(suffix("::1:0:0:0:0/64"))),
            (
                "2001:db8::1:0:0:0:10/64",
                Misfit::BitsAbove(delegating(56), suffix("::1:0:0:0:0/64")),
            ),
        ] {
            assert_eq!(suffix(text).fits(delegating(56)), Err(misfit), "{text}");
            assert_eq!(suffix(text).append_to("2001:db8::/56".parse().unwrap()), None, "{text}");
        }
        for text in [
            "",
            "::/129",
            "::1/",
            "192.168.0.0/16",
            "10.0.0.1",
            "::1%eth0",
            "::/-1",
            "x",
        ] {
            assert!(text.parse::<Suffix>().is_err(), "{text:?}");
        }
    }

    fn range(text: &str) -> SuffixRange {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_behind_a_56() {
        let delegated: Prefix = "2001:db8:1234:5600::/56".parse().unwrap();
        for (text, item) in [
            (
                "::1:0:0:1:0-::1:0:0:1:ff",
                "2001:db8:1234:5601::1:0-2001:db8:1234:5601::1:ff",
            ),
            (
                "::-::ff:ffff:ffff:ffff:ffff",
                "2001:db8:1234:5600::-2001:db8:1234:56ff:ffff:ffff:ffff:ffff",
            ),
            ("::7-::7", "2001:db8:1234:5600::7/128"),
        ] {
            assert_eq!(range(text).fits(delegating(56)), Ok(()), "{text}");
            assert_eq!(range(text).append_to(delegated).unwrap().to_string(), item);
        }
        for (text, misfit) in [
            ("::2-::1", Misfit::Reversed),
            ("::1-::100:0:0:0:1", Misfit::BitsAbove(delegating(56), range("::1-::1"))),
            (
                "2001:db8::2-2001:db8::1",
                Misfit::BitsAbove(delegating(56), range("::2-::1")),
            ),
        ] {
            assert_eq!(range(text).fits(delegating(56)), Err(misfit), "{text}");
            assert_eq!(range(text).append_to(delegated), None, "{text}");
        }
        for text in [
            "",
            "-",
            "::1",
            "::1-",
            "::1-::2/64",
            "::1-::2-::3",
            "10.0.0.1-10.0.0.9",
            "::1 - ::2",
        ] {
            assert!(text.parse::<SuffixRange>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_single_address_is_one_item_however_it_is_named() {
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(Item::from_ends(v6, v6), Some(Item::Cidr(cidr("2001:db8::1/128"))));
        assert_eq!(Item::from_ends(v4, v4), Some(Item::Cidr(cidr("192.0.2.1/32"))));
        assert_eq!(Item::from_ends(v4, v6), None);
        assert_eq!(Item::from_ends(v6, "2001:db8::".parse().unwrap()), None);
        assert_eq!(Item::Cidr(cidr("2001:db8::1/128")).host(), Some(v6));
        assert_eq!(cidr("2001:db8::/127").host(), None);
        assert_eq!(cidr("192.0.2.0/31").host(), None);
    }

    proptest! {
        /// An accepted range lies inside the delegated prefix.
        #[test]
        fn an_accepted_range_stays_inside(first: u128, last: u128, by in 0u32..128, address: u128, delegated in 1u8..=64) {
            let range = SuffixRange { first: first >> by, last: last >> by };
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            let prefix = Prefix::of(Ipv6Addr::from_bits(address), delegated);
            match (range.fits(delegating(delegated)), range.append_to(prefix)) {
                (Ok(()), Some(Item::Range(item))) => {
                    for (end, bits) in [(item.first(), range.first), (item.last(), range.last)] {
                        prop_assert!(prefix.contains(Prefix::of(end, 128)));
                        prop_assert_eq!(end.to_bits() & !mask(delegated), bits);
                    }
                }
                (Ok(()), Some(Item::Cidr(_))) => prop_assert_eq!(range.first, range.last),
                (Err(_), None) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }

        /// An accepted suffix lies inside the delegated prefix, and keeps its bits.
        #[test]
        fn an_accepted_suffix_stays_inside(bits: u128, address: u128, cut in 0u8..=128, length in 0u8..=128, delegated in 1u8..=64) {
            // Every other time one that has a chance to fit.
            let bits = if cut % 2 == 0 { bits } else { bits & mask(length) & !mask(delegated) };
            let suffix = Suffix { bits, length };
            let prefix = Prefix::of(Ipv6Addr::from_bits(address), delegated);
            match (suffix.fits(delegating(delegated)), suffix.append_to(prefix)) {
                (Ok(()), Some(part)) => {
                    prop_assert!(prefix.contains(part));
                    prop_assert_eq!(part.length(), length);
                    prop_assert_eq!(Prefix::of(Ipv6Addr::from_bits(address & mask(delegated) | bits), 128).truncate(length), part);
                }
                (Err(Misfit::TooShort(_)), None) => prop_assert!(length < delegated),
                (Err(Misfit::BitsAbove(_, fitting) | Misfit::BitsBelow(fitting)), None) => {
                    prop_assert_eq!(fitting.fits(delegating(delegated)), Ok(()));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn texts_are_read_back(bits: u128, address: u32, length in 0u8..=128) {
            let suffix = Suffix { bits, length };
            prop_assert_eq!(suffix.to_string().parse(), Ok(suffix));
            let v4: Cidr = format!("{}/{}", Ipv4Addr::from_bits(address), length % 33).parse().unwrap();
            prop_assert_eq!(v4.to_string().parse(), Ok(v4));
        }
    }
}
