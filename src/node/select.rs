//! The rules that select the addresses of an interface whose prefixes count. Pure.
//!
//! They first judge a /64 as a whole: it is announced, over (a router deprecated it) or stale (which k6u infers). Then
//! they judge its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use super::address::Address;
use super::announcements::{Dated, Deprecated, Subnet, Subnets, Time, newest_announcement};
use crate::prefix::Prefix;

/// The longest interval at which a router announces (RFC 4861 section 6.2.1, MaxRtrAdvInterval).
pub const DEFAULT_STALE_AFTER: u32 = 1800;
/// A message names at most this many prefixes or addresses.
const MAX_PARTS: usize = 8;
/// At most this many prefixes of one interface are published; more are an attack or a mistake.
pub const MAX_PREFIXES: usize = 64;

/// An interface to watch, and how its addresses are judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch {
    /// The interface's name.
    pub interface: String,
    /// A prefix is stale when it was last announced more than this many seconds before another one; 0 is never.
    pub stale_after: u32,
    /// A deprecated prefix counts for another this many seconds.
    pub keep_deprecated: u32,
}

/// Observation of one interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The /64 prefixes that count, sorted, each once, at most [`MAX_PREFIXES`].
    pub prefixes: Vec<Prefix>,
    /// Prefixes beyond [`MAX_PREFIXES`].
    pub excess: usize,
    /// The kernel knows no interface of that name.
    pub absent: bool,
    /// The steady time at which the first prefix that counts now stops counting, if that is known.
    pub until: Option<Duration>,
    /// Every address that does not count, and why.
    pub rejected: Vec<(Ipv6Addr, Rejection)>,
    /// The state of the interface itself.
    pub remarks: Vec<Remark>,
}

/// Reason why an address is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// Another host has it (duplicate address detection failed, RFC 4862 section 5.4).
    Duplicate,
    /// The address, or its /64, is deprecated: a router that renumbers announces that (RFC 7084 L-13).
    Deprecated,
    /// The address is deprecated but has no lifetime: neither a router nor a DHCPv6 server does that.
    DeprecatedByHand,
    /// The router announces another prefix, but no longer this one (flash renumbering, RFC 8978).
    Stale,
    /// No config allows it.
    NotAllowed,
    /// Not in 2000::/3.
    NotGlobal,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rejection::Duplicate => "duplicate address detection failed",
            Rejection::Deprecated => "deprecated",
            Rejection::DeprecatedByHand => {
                "deprecated by hand (an address without a lifetime; kube-vip and keepalived write such)"
            }
            Rejection::Stale => "stale (routers announce other prefixes, but this one no longer)",
            Rejection::NotAllowed => "outside every allowedPrefixes",
            Rejection::NotGlobal => "not global unicast (2000::/3)",
        })
    }
}

/// State of an interface that its addresses cannot show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// The interface is not up.
    Down,
    /// It has no carrier: no cable, or nothing on its other end.
    NoCarrier,
    /// The kernel forwards, and accept_ra is 1.
    IgnoresRouters,
    /// The kernel makes no more addresses: it has as many as max_addresses says.
    Full(usize),
}

impl Remark {
    /// Whether it matters only where the kernel makes the addresses.
    fn is_about_routers(self) -> bool {
        matches!(self, Remark::IgnoresRouters | Remark::Full(_))
    }

    /// The remark about an interface of this name.
    pub fn text(self, interface: &str) -> String {
        match self {
            Remark::Down => format!("{interface} is down"),
            Remark::NoCarrier => format!("{interface} has no carrier"),
            Remark::IgnoresRouters => format!(
                "{interface} ignores routers, because it forwards and accept_ra is 1: set accept_ra to 2, or let \
                 networkd, NetworkManager or dhcpcd listen to routers"
            ),
            Remark::Full(max) => format!(
                "{interface} has as many addresses as the kernel makes ({max}, max_addresses): a new prefix gets none"
            ),
        }
    }
}

impl Observation {
    /// The observation of an interface that does not exist.
    pub fn absent() -> Self {
        Observation {
            absent: true,
            ..Observation::default()
        }
    }

    /// Whether the kernel does not listen to the router that announces its prefix.
    pub fn ignores_routers(&self) -> bool {
        self.remarks.contains(&Remark::IgnoresRouters)
    }

    /// Whether this and `earlier` lead to the same plan.
    pub fn is_like(&self, earlier: &Observation) -> bool {
        let facts = |o: &Observation| (o.absent, o.excess);
        facts(self) == facts(earlier) && self.prefixes == earlier.prefixes
    }

    /// The reason why there is no prefix, or too many, the global prefixes left out, and the interface's state; empty
    /// when all is well.
    pub fn message(&self, interface: &str) -> String {
        let mut parts = Vec::new();
        if self.excess > 0 {
            let all = self.prefixes.len() + self.excess;
            parts.push(format!(
                "{interface} has {all} prefixes; only the first {MAX_PREFIXES} count"
            ));
        }
        if self.prefixes.is_empty() {
            parts.push(self.why_none(interface));
        }
        parts.extend(self.remarks.iter().map(|remark| remark.text(interface)));
        // Foreign prefixes last: they must not take the room of reasons.
        let mut rejected: Vec<(Rejection, Prefix)> = self
            .rejected
            .iter()
            .map(|(ip, why)| (*why, Address::permanent(*ip).subnet()))
            .filter(|(why, prefix)| *why != Rejection::NotGlobal && !self.prefixes.contains(prefix))
            .collect();
        rejected.sort_by_key(|(why, prefix)| (*why == Rejection::NotAllowed, *prefix));
        let mut named = BTreeSet::new();
        for (why, prefix) in rejected {
            if named.insert(prefix) {
                parts.push(format!("{prefix} left out: {why}"));
            }
        }
        parts.truncate(MAX_PARTS);
        parts.join("; ")
    }

    fn why_none(&self, interface: &str) -> String {
        if self.absent {
            return format!("there is no interface {interface}");
        }
        let Some((first, _)) = self.rejected.first() else {
            return format!("{interface} has no IPv6 address");
        };
        let none = format!("{interface} has no global IPv6 address in use");
        if self.rejected.iter().any(|(_, why)| *why == Rejection::NotAllowed) {
            return format!("{none}; correct allowedPrefixes if the provider delegates from another range now");
        }
        if self.rejected.iter().any(|(_, why)| *why != Rejection::NotGlobal) {
            return none;
        }
        // The last in order is the most global one: fd00::/8 rather than ::1, but fe80::/10 is above both.
        let is_not_link_local = |(ip, _): &&(Ipv6Addr, Rejection)| !ip.is_unicast_link_local();
        let shown = self
            .rejected
            .iter()
            .rfind(is_not_link_local)
            .map_or(first, |(ip, _)| ip);
        format!("{none}: {shown} is {}", Rejection::NotGlobal)
    }
}

/// A look at an interface: its addresses, and the rules for them.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Its addresses.
    pub addresses: &'a [Dated],
    /// The rules of its IP6UpdateNodeConfig.
    pub watch: &'a Watch,
    /// Only prefixes inside one of these count; `None` lets all count.
    pub allowed: Option<&'a [Prefix]>,
    /// Whether the kernel may make addresses from router advertisements. Programs that do so instead of it forbid it.
    pub kernel_slaac: bool,
    /// The steady time of the look.
    pub now: Time,
}

impl Look<'_> {
    /// The history of each /64, given the one before this look.
    pub fn judge(&self, before: &Subnets) -> Subnets {
        let mut subnets = before.clone();
        let is_announced = self.is_announced();
        if self.does_kernel_listen() {
            // An address that others wrote before the kernel's first announcement was no announcement either.
            for subnet in subnets.values_mut().filter(|subnet| !subnet.is_kernels) {
                subnet.announced = None;
            }
        }
        for dated in self.candidates().filter(|dated| is_announced(&dated.address)) {
            let subnet = subnets.entry(dated.address.subnet()).or_default();
            subnet.announced = subnet.announced.max(Some(dated.written));
            subnet.is_kernels |= dated.address.is_kernels();
        }
        // A /64 is what its announced addresses say; one that was never announced, what its leases say.
        let mut is_preferred = BTreeMap::new();
        for dated in self.candidates() {
            let (address, prefix) = (&dated.address, dated.address.subnet());
            let is_lease = !address.is_permanent() && !address.is_temporary();
            let was_announced = subnets.get(&prefix).is_some_and(|subnet| subnet.announced.is_some());
            if is_announced(address) || is_lease && !was_announced {
                *is_preferred.entry(prefix).or_insert(false) |= !address.is_deprecated();
            }
        }
        let (newest_before, newest) = (self.newest(before), self.newest(&subnets));
        for (prefix, is_preferred) in is_preferred {
            let subnet = subnets.entry(prefix).or_default();
            let subnet_before = before.get(&prefix).copied().unwrap_or_default();
            let first_seen = || Deprecated {
                since: self.now,
                lag: lag(&subnet_before, newest_before).max(lag(subnet, newest)),
            };
            subnet.deprecated = (!is_preferred).then(|| subnet.deprecated.unwrap_or_else(first_seen));
        }
        subnets
    }

    /// Selects the addresses that count. Tentative and temporary ones do, because only their prefix matters.
    pub fn select(&self, subnets: &Subnets, remarks: Vec<Remark>) -> Observation {
        let newest = self.newest(subnets);
        let (mut prefixes, mut rejected, mut ends) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        for dated in self.addresses {
            let subnet = subnets.get(&dated.address.subnet()).copied().unwrap_or_default();
            match self.verdict(dated, &subnet, newest) {
                Ok(until) => {
                    prefixes.insert(dated.address.subnet());
                    ends.extend(until);
                }
                Err(why) => rejected.push((dated.address.ip, why)),
            }
            ends.extend(dated.lingers_until);
        }
        rejected.sort_unstable();
        let is_announced = self.is_announced();
        let depends_on_routers = prefixes.is_empty() || self.candidates().any(|dated| is_announced(&dated.address));
        let is_worth_saying = |remark: &Remark| depends_on_routers || !remark.is_about_routers();
        let end = ends.first().and_then(|end| u64::try_from(*end).ok());
        Observation {
            excess: prefixes.len().saturating_sub(MAX_PREFIXES),
            prefixes: prefixes.into_iter().take(MAX_PREFIXES).collect(),
            absent: false,
            until: end.map(Duration::from_millis),
            rejected,
            remarks: remarks.into_iter().filter(is_worth_saying).collect(),
        }
    }

    /// Returns until when an address counts (`None` if that is open), or the reason why it does not.
    fn verdict(&self, dated: &Dated, subnet: &Subnet, newest: Time) -> Result<Option<Time>, Rejection> {
        let address = &dated.address;
        if !address.is_global_unicast() {
            return Err(Rejection::NotGlobal);
        }
        if !self.is_allowed(address.subnet()) {
            return Err(Rejection::NotAllowed);
        }
        if address.is_duplicate() {
            return Err(Rejection::Duplicate);
        }
        // A server that renews a lease still uses the prefix, and so does the writer of an address without a lifetime.
        let is_written_since = |over: &Deprecated| address.stands_for_itself() && dated.written > over.since;
        let over = subnet.deprecated.filter(|over| !is_written_since(over));
        if over.is_some() || address.is_deprecated() {
            let end = over
                .filter(|over| !self.is_stale(over.lag))
                .map(|over| self.kept_until(over));
            return match end.filter(|end| self.now < *end) {
                None if address.is_deprecated() && address.is_permanent() => Err(Rejection::DeprecatedByHand),
                None => Err(Rejection::Deprecated),
                end => Ok(end),
            };
        }
        let is_stale_at = |newest: Time| self.is_stale(lag(subnet, newest));
        let is_renewed = address.stands_for_itself() && is_stale_at(dated.newest_then);
        if is_stale_at(newest) && !address.is_permanent() && !is_renewed {
            return Err(Rejection::Stale);
        }
        Ok(None)
    }

    /// Whether a /64 that lags this far behind the newest announcement is stale.
    fn is_stale(&self, lag: Time) -> bool {
        let stale_after = Time::from(self.watch.stale_after) * 1000;
        stale_after > 0 && lag > stale_after
    }

    fn kept_until(&self, over: Deprecated) -> Time {
        over.since + Time::from(self.watch.keep_deprecated) * 1000
    }

    /// The last announcement on this interface, perhaps of a /64 that is gone: a /64 that it made stale stays stale. An
    /// announcement of a /64 as deprecated counts.
    fn newest(&self, subnets: &Subnets) -> Time {
        let allowed = subnets.iter().filter(|(prefix, _)| self.is_allowed(**prefix));
        newest_announcement(allowed.map(|(_, subnet)| subnet)).unwrap_or(Time::MIN)
    }

    /// Whether the kernel listens to routers and marks its addresses. Addresses that it made before a program took over
    /// prove nothing.
    fn does_kernel_listen(&self) -> bool {
        self.kernel_slaac && self.addresses.iter().any(|dated| dated.address.is_kernels())
    }

    /// Returns whether an address was announced: the kernel made it, or a program that listens to routers instead.
    /// Where the kernel makes addresses, only its own were announced.
    fn is_announced(&self) -> impl Fn(&Address) -> bool + use<> {
        let does_kernel_listen = self.does_kernel_listen();
        move |address| address.is_like_announced() && (!does_kernel_listen || address.is_kernels())
    }

    /// The addresses whose prefix may count. Those that no config allows are no evidence either.
    fn candidates(&self) -> impl Iterator<Item = &Dated> {
        self.addresses
            .iter()
            .filter(|dated| dated.address.is_global_unicast() && self.is_allowed(dated.address.subnet()))
    }

    fn is_allowed(&self, subnet: Prefix) -> bool {
        self.allowed
            .is_none_or(|list| list.iter().any(|range| range.contains(subnet)))
    }
}

/// The time from the last announcement of a /64 to this newest one.
fn lag(subnet: &Subnet, newest: Time) -> Time {
    subnet.announced.map_or(0, |announced| newest.saturating_sub(announced))
}

#[cfg(test)]
mod tests;
