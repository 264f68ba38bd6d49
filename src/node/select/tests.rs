//! Tests of the rules that select addresses, with the behaviour of real routers.

use proptest::prelude::*;

use super::*;
use crate::node::announcements::{Announcements, LINGER};

/// Some time after the system started, in hundredths of a second.
const BOOTED: u32 = 100_000_000;
const KERNEL_RA: u8 = 2;

/// An announced address that was written this many seconds ago.
fn announced(ip: &str, seconds: u32) -> Address {
    Address {
        flags: 0,
        preferred: 3600,
        valid: 7200,
        updated: BOOTED.wrapping_sub(seconds * 100),
        ..fixed(ip)
    }
}

/// An announced address that was just written.
fn new(ip: &str) -> Address {
    announced(ip, 0)
}

fn fixed(ip: &str) -> Address {
    Address {
        interface: 2,
        ..Address::permanent(ip.parse().unwrap())
    }
}

fn deprecated(address: Address) -> Address {
    Address {
        preferred: 0,
        ..address
    }
}

fn temporary(ip: &str, seconds: u32) -> Address {
    Address {
        flags: libc::IFA_F_TEMPORARY,
        ..announced(ip, seconds)
    }
}

/// A lease of DHCPv6 that was renewed this many seconds ago.
fn lease(ip: &str, seconds: u32) -> Address {
    Address {
        prefix_length: 128,
        valid: 43_200,
        preferred: 43_200,
        ..announced(ip, seconds)
    }
}

/// The address as one that the kernel made from a router advertisement.
fn kernels(address: Address) -> Address {
    Address {
        protocol: KERNEL_RA,
        ..address
    }
}

/// An interface through time.
struct Interface {
    past: Announcements,
    watch: Watch,
    allowed: Option<Vec<Prefix>>,
    kernel_slaac: bool,
    /// The kernel's time stamp of now.
    stamp: u32,
    now: Time,
}

impl Interface {
    fn new() -> Self {
        Interface {
            past: Announcements::default(),
            watch: Watch {
                interface: "eth0".into(),
                stale_after: DEFAULT_STALE_AFTER,
                keep_deprecated: 0,
            },
            allowed: None,
            kernel_slaac: true,
            stamp: BOOTED,
            now: 0,
        }
    }

    fn keeping(seconds: u32) -> Self {
        let mut interface = Interface::new();
        interface.watch.keep_deprecated = seconds;
        interface
    }

    fn allowing(allowed: &[&str]) -> Self {
        Interface {
            allowed: Some(allowed.iter().map(|text| text.parse().unwrap()).collect()),
            ..Interface::new()
        }
    }

    fn look_with(&mut self, addresses: &[Address], remarks: &[Remark]) -> Observation {
        let addresses = self.past.date(2, addresses, self.now);
        let look = Look {
            addresses: &addresses,
            watch: &self.watch,
            allowed: self.allowed.as_deref(),
            kernel_slaac: self.kernel_slaac,
            now: self.now,
        };
        self.past.remember(look.judge(&self.past.subnets), &addresses);
        look.select(&self.past.subnets, remarks.to_vec())
    }

    fn look(&mut self, addresses: &[Address]) -> Observation {
        self.look_with(addresses, &[])
    }

    /// The prefixes that count.
    fn sees(&mut self, addresses: &[Address]) -> Vec<String> {
        texts(&self.look(addresses))
    }

    /// The prefixes that count when no address lingers any more.
    fn sees_later(&mut self, addresses: &[Address]) -> Vec<String> {
        self.look(addresses);
        self.now += LINGER;
        self.sees(addresses)
    }

    /// Lets time go by.
    fn pass(&mut self, seconds: u32) {
        self.stamp = self.stamp.wrapping_add(seconds * 100);
        self.now += Time::from(seconds) * 1000;
    }

    /// The address after it is written again now.
    fn write(&self, address: Address) -> Address {
        Address {
            updated: self.stamp,
            ..address
        }
    }
}

/// The observation of a first look.
fn seen(addresses: &[Address]) -> Observation {
    Interface::new().look(addresses)
}

fn texts(observation: &Observation) -> Vec<String> {
    observation.prefixes.iter().map(Prefix::to_string).collect()
}

#[test]
fn only_global_unicast_counts() {
    let addresses = [
        "::1",
        "fe80::1",
        "fd00::1",
        "fc00::1",
        "ff02::1",
        "1fff::1",
        "4000::1",
        "64:ff9b::192.0.2.1",
        "2000::1",
        "3fff:ffff::1",
        "2001:db8:1:2::3",
    ];
    let seen = seen(&addresses.map(new));
    assert_eq!(texts(&seen), ["2000::/64", "2001:db8:1:2::/64", "3fff:ffff::/64"]);
    assert_eq!(seen.rejected.len(), 8);
    assert!(seen.rejected.iter().all(|(_, why)| *why == Rejection::NotGlobal));
    assert_eq!(seen.message("eth0"), "");
}

#[test]
fn deprecated_and_duplicate_addresses_do_not_count() {
    let flagged = Address {
        flags: libc::IFA_F_DEPRECATED,
        ..new("2001:db8:1::1")
    };
    let duplicate = Address {
        flags: libc::IFA_F_DADFAILED | libc::IFA_F_TENTATIVE,
        ..new("2001:db8:3::1")
    };
    let seen = seen(&[flagged, deprecated(new("2001:db8:2::1")), duplicate]);
    assert_eq!(texts(&seen), [""; 0]);
    let whys: Vec<Rejection> = seen.rejected.iter().map(|(_, why)| *why).collect();
    assert_eq!(
        whys,
        [Rejection::Deprecated, Rejection::Deprecated, Rejection::Duplicate]
    );
    assert_eq!(
        seen.message("eth0"),
        "eth0 has no global IPv6 address in use; 2001:db8:1::/64 left out: deprecated; \
         2001:db8:2::/64 left out: deprecated; 2001:db8:3::/64 left out: duplicate address detection failed"
    );
}

#[test]
fn tentative_and_temporary_addresses_and_a_128_count() {
    let tentative = Address {
        flags: libc::IFA_F_TENTATIVE,
        ..new("2001:db8:1::1")
    };
    let seen = seen(&[lease("2001:db8:3::1", 0), temporary("2001:db8:2::1", 0), tentative]);
    assert_eq!(texts(&seen), ["2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::/64"]);
}

#[test]
fn one_prefix_with_a_living_and_a_deprecated_address_counts() {
    let seen = seen(&[deprecated(new("2001:db8:1::1")), new("2001:db8:1::2")]);
    assert_eq!(texts(&seen), ["2001:db8:1::/64"]);
    assert_eq!(seen.message("eth0"), "");
}

#[test]
fn duplicates_fold_and_order_does_not_matter() {
    let (a, b, c) = (new("2001:db8:2::1"), new("2001:db8:1::1"), new("2001:db8:2::2"));
    assert_eq!(seen(&[a, b, c]), seen(&[c, b, a]));
    assert_eq!(texts(&seen(&[a, b, c])), ["2001:db8:1::/64", "2001:db8:2::/64"]);
}

#[test]
fn at_most_64_prefixes_count_and_the_rest_is_reported() {
    let flood: Vec<Address> = (0..1000).map(|n| new(&format!("2001:db8:{n:x}::1"))).collect();
    let all = seen(&flood);
    assert_eq!((all.prefixes.len(), all.excess), (64, 936));
    assert_eq!(all.message("eth0"), "eth0 has 1000 prefixes; only the first 64 count");
    assert_eq!(seen(&flood[..64]).excess, 0);
}

#[test]
fn messages_name_the_addresses_that_do_not_count() {
    let nothing = Observation::default();
    assert_eq!(nothing.message("eth0"), "eth0 has no IPv6 address");
    assert_eq!(Observation::absent().message("eth0"), "there is no interface eth0");
    let local = "eth0 has no global IPv6 address in use: fd00::1 is not global unicast (2000::/3)";
    assert_eq!(
        seen(&[new("fe80::1"), new("fd00::1"), new("::1")]).message("eth0"),
        local
    );
    let link_local = "eth0 has no global IPv6 address in use: fe80::1 is not global unicast (2000::/3)";
    assert_eq!(seen(&[new("fe80::1")]).message("eth0"), link_local);
}

/// Case 1: the router announces the new prefix and deprecates the old one.
#[test]
fn by_the_book_the_old_prefix_goes_at_once() {
    let seen = seen(&[deprecated(announced("2001:db8:1::1", 2)), announced("2001:db8:2::1", 2)]);
    assert_eq!(texts(&seen), ["2001:db8:2::/64"]);
    assert_eq!(seen.message("eth0"), "2001:db8:1::/64 left out: deprecated");
}

/// Case 1b: OpenWrt's default, SLAAC beside DHCPv6 with leases of twelve hours; and Talos and ISC dhclient, which write
/// a lease without a lifetime.
#[test]
fn leases_end_with_a_prefix_that_is_over() {
    let old = announced("2001:db8:1::1", 60);
    for leased in [
        lease("2001:db8:1::abc", 60),
        fixed("2001:db8:1::abc"),
        temporary("2001:db8:1::abc", 60),
    ] {
        let mut eth0 = Interface::new();
        assert_eq!(eth0.sees(&[old, leased]), ["2001:db8:1::/64"]);
        eth0.pass(60);
        let (over, new) = (eth0.write(deprecated(old)), eth0.write(new("2001:db8:2::1")));
        assert_eq!(eth0.sees(&[over, leased, new]), ["2001:db8:2::/64"], "{leased:?}");
        // The same with a k6u that starts only now.
        assert_eq!(texts(&seen(&[over, leased, new])), ["2001:db8:2::/64"], "{leased:?}");
    }
}

/// The announced address ends after two hours, and the lease does not.
#[test]
fn a_prefix_that_is_over_stays_so_when_only_a_lease_is_left() {
    let (old, leased) = (announced("2001:db8:1::1", 60), fixed("2001:db8:1::abc"));
    let mut eth0 = Interface::new();
    eth0.look(&[deprecated(old), leased, new("2001:db8:2::1")]);
    eth0.pass(7200);
    assert_eq!(eth0.sees(&[leased, new("2001:db8:2::1")]), ["2001:db8:2::/64"]);
    assert_eq!(eth0.sees_later(&[leased]), [""; 0]);
    // A router announces it again.
    let old = eth0.write(old);
    assert_eq!(eth0.sees(&[leased, old]), ["2001:db8:1::/64"]);
}

#[test]
fn an_address_written_after_its_prefix_was_over_counts() {
    let old = deprecated(announced("2001:db8:1::1", 60));
    for leased in [lease("2001:db8:1::abc", 60), fixed("2001:db8:1::abc")] {
        let mut eth0 = Interface::new();
        assert_eq!(eth0.sees(&[old, leased]), [""; 0]);
        eth0.pass(60);
        let renewed = eth0.write(leased);
        assert_eq!(eth0.sees(&[old, renewed]), ["2001:db8:1::/64"], "{leased:?}");
    }
    // The kernel makes temporary addresses by itself.
    let mut eth0 = Interface::new();
    let privacy = temporary("2001:db8:1::abc", 60);
    eth0.look(&[old, privacy]);
    eth0.pass(60);
    let again = eth0.write(privacy);
    assert_eq!(eth0.sees(&[old, again]), [""; 0]);
}

/// Case 2: the router lost its state and announces only the new prefix.
#[test]
fn after_a_flash_renumbering_the_old_prefix_goes_when_it_is_stale() {
    let at = |old| seen(&[announced("2001:db8:1:1::1", old), announced("2001:db8:2:2::1", 12)]);
    assert_eq!(texts(&at(1812)).len(), 2);
    assert_eq!(texts(&at(1813)), ["2001:db8:2:2::/64"]);
    assert_eq!(
        at(34 * 60).message("eth0"),
        "2001:db8:1:1::/64 left out: stale (routers announce other prefixes, but this one no longer)"
    );
    let mut never = Interface::new();
    never.watch.stale_after = 0;
    let addresses = [announced("2001:db8:1::1", 9_000), new("2001:db8:2::1")];
    assert_eq!(never.sees(&addresses).len(), 2, "0 is never");
}

/// Case 3: the router announces all as deprecated when it stops; a prefix that was stale stays stale.
#[test]
fn a_router_restart_does_not_bring_back_a_stale_prefix() {
    let seen = seen(&[
        announced("2001:db8:1::1", 5_000),
        deprecated(announced("2001:db8:2::1", 10)),
    ]);
    assert_eq!(texts(&seen), [""; 0]);
}

/// Case 4: two routers announce for good, at different intervals.
#[test]
fn two_uplinks_on_one_link_both_count() {
    let uplinks = [announced("2001:db8:1::1", 1_800), announced("2001:db8:2::1", 3)];
    assert_eq!(texts(&seen(&uplinks)).len(), 2);
}

/// Case 5: a /128 is renewed hours apart, where routers announce no prefix for SLAAC.
#[test]
fn a_lease_in_a_prefix_that_was_never_announced_is_not_judged() {
    let old = lease("2001:db8:1::1", 40_000);
    assert_eq!(texts(&seen(&[old])), ["2001:db8:1::/64"]);
    assert_eq!(texts(&seen(&[old, announced("2001:db8:2::1", 1)])).len(), 2);
}

/// Case 5b: DHCPv6 beside SLAAC. After a flash renumbering the lease goes with its prefix.
#[test]
fn a_lease_goes_with_its_stale_prefix() {
    let both = |leased| {
        seen(&[
            announced("2001:db8:1::1", 5_000),
            lease("2001:db8:1::abc", leased),
            announced("2001:db8:2::1", 10),
        ])
    };
    // The prefix went stale 3,200 s ago.
    assert_eq!(texts(&both(9_000)), ["2001:db8:2::/64"]);
    assert_eq!(texts(&both(3_200)), ["2001:db8:2::/64"]);
    assert_eq!(
        both(9_000).message("eth0"),
        "2001:db8:1::/64 left out: stale (routers announce other prefixes, but this one no longer)"
    );
    assert_eq!(
        texts(&both(3_199)).len(),
        2,
        "a server that renews it still stands by it"
    );
}

#[test]
fn a_stale_prefix_stays_so_when_only_a_lease_is_left() {
    let mut eth0 = Interface::new();
    let (old, leased) = (announced("2001:db8:1::1", 5_000), lease("2001:db8:1::abc", 5_000));
    let (one, other) = (new("2001:db8:2::1"), fixed("2001:db8:3::1"));
    assert_eq!(eth0.sees(&[old, leased, one, other]).len(), 2);
    eth0.pass(7200);
    assert_eq!(eth0.sees(&[leased, one, other]), ["2001:db8:2::/64", "2001:db8:3::/64"]);
}

/// Case 6: temporary addresses appear in a prefix that is stale.
#[test]
fn temporary_addresses_are_no_evidence() {
    let old = announced("2001:db8:1::1", 5_000);
    let seen = seen(&[old, temporary("2001:db8:1::abcd", 0), announced("2001:db8:2::1", 10)]);
    assert_eq!(texts(&seen), ["2001:db8:2::/64"]);
    assert_eq!(seen.rejected.len(), 2);
}

/// Case 7: static addresses, alone and beside announced ones.
#[test]
fn static_addresses_are_never_stale() {
    assert_eq!(texts(&seen(&[fixed("2001:db8:1::1")])), ["2001:db8:1::/64"]);
    assert_eq!(
        texts(&seen(&[fixed("2001:db8:1::1"), announced("2001:db8:2::1", 1)])).len(),
        2
    );
    // Also where the prefix was announced once.
    let beside = [
        fixed("2001:db8:1::1"),
        announced("2001:db8:1::2", 9_000),
        announced("2001:db8:2::1", 1),
    ];
    assert_eq!(texts(&seen(&beside)).len(), 2);
}

/// A router may announce infinite lifetimes: the kernel's address has one, and is not permanent.
#[test]
fn an_infinite_lifetime_is_announced_too() {
    let infinite = Address {
        preferred: u32::MAX,
        valid: u32::MAX,
        ..announced("2001:db8:1::1", 9_000)
    };
    let seen = seen(&[infinite, new("2001:db8:2::1")]);
    assert_eq!(texts(&seen), ["2001:db8:2::/64"]);
    assert_eq!(seen.rejected, [(infinite.ip, Rejection::Stale)]);
}

/// PureLB puts a Service's address on the interface with the pool's mask and a lifetime, and refreshes it.
#[test]
fn a_load_balancer_is_no_router() {
    // The router's prefix was announced 600 s ago, the Service is in another one.
    let (router, service) = (kernels(announced("2001:db8:2::1", 600)), announced("2001:db8:1::80", 5));
    let mut eth0 = Interface::new();
    eth0.watch.stale_after = 60;
    assert_eq!(
        eth0.sees(&[router, service]),
        ["2001:db8:1::/64", "2001:db8:2::/64"],
        "it makes nothing stale"
    );
    // The Service is in the prefix that the router deprecates, and is refreshed.
    let (old, new) = (kernels(announced("2001:db8:1::1", 600)), kernels(new("2001:db8:2::1")));
    let mut eth0 = Interface::new();
    eth0.look(&[old, new, service]);
    eth0.pass(100);
    let refreshed = eth0.write(service);
    assert_eq!(eth0.sees(&[deprecated(old), new, refreshed]), ["2001:db8:2::/64"]);
    eth0.pass(100);
    let refreshed = eth0.write(service);
    assert_eq!(eth0.sees(&[deprecated(old), new, refreshed]), ["2001:db8:2::/64"]);
    // Where the kernel does not report the origin, it looks like an address that networkd wrote.
    let old = announced("2001:db8:1::1", 600);
    assert_eq!(
        texts(&seen(&[deprecated(old), announced("2001:db8:2::1", 9), service])).len(),
        2
    );
}

#[test]
fn a_prefix_that_no_config_allows_is_no_evidence() {
    let mut eth0 = Interface::allowing(&["2001:db8::/32", "2001:db9::/32"]);
    let (real, foreign) = (announced("2001:db8:1::1", 9_000), new("2a00:bad:bad:bad1::1"));
    let seen = eth0.look(&[real, foreign]);
    assert_eq!(texts(&seen), ["2001:db8:1::/64"], "it makes nothing stale");
    assert_eq!(
        seen.message("eth0"),
        "2a00:bad:bad:bad1::/64 left out: outside every allowedPrefixes"
    );
    assert_eq!(
        eth0.look(&[foreign]).message("eth0"),
        "2a00:bad:bad:bad1::/64 left out: outside every allowedPrefixes",
        "the other one lingers"
    );
    eth0.now += LINGER;
    assert_eq!(
        eth0.look(&[foreign]).message("eth0"),
        "eth0 has no global IPv6 address in use; correct allowedPrefixes if the provider delegates from another range \
         now; 2a00:bad:bad:bad1::/64 left out: outside every allowedPrefixes"
    );
    assert_eq!(texts(&self::seen(&[real, foreign])), ["2a00:bad:bad:bad1::/64"]);
}

#[test]
fn a_prefix_that_no_config_allows_is_not_counted() {
    let mut eth0 = Interface::allowing(&["2001:db8::/32"]);
    let mut addresses: Vec<Address> = (0..64).map(|n| new(&format!("2000:bad:{n:x}::1"))).collect();
    addresses.push(deprecated(new("2001:db8:2::1")));
    addresses.push(new("2001:db8:1::1"));
    let seen = eth0.look(&addresses);
    assert_eq!((texts(&seen), seen.excess), (vec!["2001:db8:1::/64".to_string()], 0));
    let message = seen.message("eth0");
    assert!(
        message.starts_with("2001:db8:2::/64 left out: deprecated; 2000:bad:"),
        "{message}"
    );
}

/// A stale prefix whose lifetime then ends is not kept, because no connection uses it any more.
#[test]
fn a_stale_prefix_that_runs_out_does_not_come_back() {
    let (old, new) = (announced("2001:db8:1::1", 5_000), new("2001:db8:2::1"));
    let mut eth0 = Interface::keeping(600);
    assert_eq!(eth0.sees(&[old, new]), ["2001:db8:2::/64"]);
    assert_eq!(eth0.sees(&[deprecated(old), new]), ["2001:db8:2::/64"]);
    // It does not come back when the prefix that made it stale is gone, either.
    eth0.pass(10);
    assert_eq!(eth0.sees_later(&[deprecated(old)]), [""; 0]);
    assert_eq!(
        Interface::keeping(600).sees(&[deprecated(old), new]),
        ["2001:db8:2::/64"]
    );
}

/// The router that forgot a prefix gets it back from its backup, and deprecates it.
#[test]
fn a_stale_prefix_that_is_then_deprecated_does_not_come_back() {
    let (old, new) = (announced("2001:db8:1::1", 5_000), new("2001:db8:2::1"));
    let mut eth0 = Interface::keeping(600);
    assert_eq!(eth0.sees(&[old, new]), ["2001:db8:2::/64"]);
    eth0.pass(10);
    let over = eth0.write(deprecated(old));
    assert_eq!(eth0.sees(&[over, new]), ["2001:db8:2::/64"]);
    eth0.pass(10);
    assert_eq!(eth0.sees(&[over, new]), ["2001:db8:2::/64"]);
}

#[test]
fn a_deprecated_prefix_is_kept_for_a_while() {
    let (old, new) = (announced("2001:db8:1::1", 60), new("2001:db8:2::1"));
    let mut eth0 = Interface::keeping(600);
    assert_eq!(eth0.look(&[old, new]).until, None);
    eth0.pass(60);
    let over = [eth0.write(deprecated(old)), new, lease("2001:db8:1::abc", 60)];
    let seen = eth0.look(&over);
    assert_eq!(texts(&seen), ["2001:db8:1::/64", "2001:db8:2::/64"]);
    assert_eq!(seen.until, Some(Duration::from_secs(660)));
    assert_eq!(seen.message("eth0"), "");
    eth0.pass(599);
    assert_eq!(eth0.sees(&over).len(), 2);
    eth0.pass(1);
    let seen = eth0.look(&over);
    assert_eq!((texts(&seen), seen.until), (vec!["2001:db8:2::/64".to_string()], None));
}

#[test]
fn a_deprecated_prefix_that_comes_back_is_not_kept_longer() {
    let (old, new) = (deprecated(new("2001:db8:1::1")), new("2001:db8:2::1"));
    let mut eth0 = Interface::keeping(600);
    assert_eq!(eth0.sees(&[old, new]).len(), 2);
    eth0.pass(500);
    eth0.past.interface_is_gone();
    assert_eq!(eth0.sees(&[new]).len(), 1);
    eth0.pass(50);
    assert_eq!(eth0.sees(&[old, new]).len(), 2);
    eth0.pass(50);
    assert_eq!(eth0.sees(&[old, new]).len(), 1, "600 s are over");
    eth0.past.interface_is_gone();
    eth0.look(&[]);
    eth0.pass(50);
    assert_eq!(eth0.sees(&[old, new]).len(), 1, "it is not written once more");
    // Preferred again, and deprecated once more: that is another deprecation.
    let alive = Address { preferred: 3600, ..old };
    assert_eq!(eth0.sees(&[alive, new]).len(), 2);
    eth0.pass(10);
    let over = eth0.write(old);
    assert_eq!(eth0.sees(&[over, new]).len(), 2);
}

#[test]
fn a_lease_that_is_deprecated_is_kept_too() {
    let (old, new) = (lease("2001:db8:1::abc", 60), lease("2001:db8:2::abc", 0));
    let mut eth0 = Interface::keeping(600);
    eth0.look(&[old, new]);
    eth0.pass(60);
    assert_eq!(eth0.sees(&[deprecated(old), new]).len(), 2);
    eth0.pass(600);
    assert_eq!(eth0.sees(&[deprecated(old), new]).len(), 1);
}

#[test]
fn an_address_removed_before_its_end_lingers() {
    let (old, new) = (announced("2001:db8:1::1", 60), new("2001:db8:2::1"));
    let mut eth0 = Interface::new();
    eth0.look(&[old]);
    let seen = eth0.look(&[new]);
    assert_eq!(
        texts(&seen),
        ["2001:db8:1::/64", "2001:db8:2::/64"],
        "the new one is there at once"
    );
    assert_eq!(seen.until, Some(Duration::from_millis(200)));
    eth0.now += LINGER - 1;
    assert_eq!(eth0.look(&[new]).until, Some(Duration::from_millis(200)));
    eth0.now += 1;
    let seen = eth0.look(&[new]);
    assert_eq!((texts(&seen), seen.until), (vec!["2001:db8:2::/64".to_string()], None));
}

#[test]
fn a_permanent_address_that_is_deprecated_by_hand() {
    let by_hand = deprecated(fixed("2001:db8:1::1"));
    let message = seen(&[by_hand]).message("eth0");
    assert_eq!(
        message,
        "eth0 has no global IPv6 address in use; 2001:db8:1::/64 left out: deprecated by hand (an address without a \
         lifetime; kube-vip and keepalived write such)"
    );
    assert_eq!(seen(&[by_hand, new("2001:db8:1::2")]).message("eth0"), "");
}

#[test]
fn remarks_on_the_interface() {
    let say = |addresses: &[Address], remark| Interface::new().look_with(addresses, &[remark]).message("eth0");
    let (slaac, by_hand) = ([new("2001:db8:1::1")], [fixed("2001:db8:1::1")]);
    assert_eq!(say(&slaac, Remark::NoCarrier), "eth0 has no carrier");
    assert_eq!(say(&[], Remark::Down), "eth0 has no IPv6 address; eth0 is down");
    let ignores = "eth0 ignores routers, because it forwards and accept_ra is 1: set accept_ra to 2, or let networkd, \
                   NetworkManager or dhcpcd listen to routers";
    assert_eq!(say(&slaac, Remark::IgnoresRouters), ignores);
    assert!(ignores.contains("ignores routers"));
    assert_eq!(say(&by_hand, Remark::IgnoresRouters), "", "no router is needed");
    assert_eq!(
        say(&[deprecated(new("2001:db8:1::1"))], Remark::Full(16)),
        "eth0 has no global IPv6 address in use; eth0 has as many addresses as the kernel makes (16, \
         max_addresses): a new prefix gets none; 2001:db8:1::/64 left out: deprecated"
    );
}

/// A history of announcements: the second, and the number of one of four prefixes.
type History = Vec<(u32, usize)>;

/// The addresses after the first `until` seconds of a history; each is valid for long.
fn after(history: &History, until: u32) -> Vec<Address> {
    let mut addresses: BTreeMap<usize, Address> = BTreeMap::new();
    for (at, prefix) in history.iter().filter(|(at, _)| *at <= until) {
        let address = Address {
            updated: at * 100,
            ..new(&format!("2001:db8:{}::1", prefix + 1))
        };
        addresses.insert(*prefix, address);
    }
    addresses.into_values().collect()
}

fn with_stale_after(addresses: &[Address], stale_after: u32) -> Observation {
    let mut eth0 = Interface::new();
    eth0.watch.stale_after = stale_after;
    eth0.look(addresses)
}

proptest! {
    #[test]
    fn the_prefix_announced_last_counts_and_silent_ones_go(
        mut history in proptest::collection::vec((0u32..20_000, 0usize..4), 1..40),
        until in 0u32..30_000,
        stale_after in 1u32..4_000,
    ) {
        history.sort_unstable();
        let addresses = after(&history, until);
        let seen = with_stale_after(&addresses, stale_after);
        let last = history.iter().rfind(|(at, _)| *at <= until);
        if let Some((last_at, _)) = last {
            for address in &addresses {
                let counts = seen.prefixes.contains(&address.subnet());
                let age = last_at - address.updated / 100;
                prop_assert_eq!(counts, age <= stale_after, "age {} stale after {}", age, stale_after);
            }
        } else {
            prop_assert!(seen.prefixes.is_empty());
        }
    }

    /// A k6u that starts at any time comes to the same result as one that looked all the time.
    #[test]
    fn a_restart_changes_nothing(
        mut history in proptest::collection::vec((1u32..20_000, 0usize..4), 1..40),
        until in 0u32..20_000,
    ) {
        history.sort_unstable();
        let mut eth0 = Interface::new();
        for (at, _) in history.iter().filter(|(at, _)| *at <= until) {
            eth0.now = Time::from(*at) * 1000;
            eth0.look(&after(&history, *at));
        }
        let addresses = after(&history, until);
        prop_assert_eq!(eth0.look(&addresses), seen(&addresses));
    }

    #[test]
    fn two_prefixes_announced_for_good_never_flap(
        one in 3u32..=1800, other in 3u32..=1800, offset in 0u32..1800,
    ) {
        let mut history: History = (0..20_000 / one).map(|n| (n * one, 0)).collect();
        history.extend((0..20_000 / other).map(|n| (offset + n * other, 1)));
        history.sort_unstable();
        // As soon as both were announced.
        for until in (offset..offset + 10_000).step_by(997) {
            prop_assert_eq!(seen(&after(&history, until)).prefixes.len(), 2);
        }
    }
}

#[test]
fn a_preferred_lifetime_of_a_second_counts_as_deprecated() {
    // NetworkManager rounds lifetimes up: each announcement of a deprecated prefix makes it preferred for a second.
    let rounded = Address {
        preferred: 1,
        ..new("2001:db8:1::1")
    };
    assert_eq!(texts(&seen(&[rounded, new("2001:db8:2::1")])), ["2001:db8:2::/64"]);
}

#[test]
fn routers_that_announce_every_65535_seconds() {
    // RFC 8319 section 4 allows that. Two of them, one nine hours after the other.
    let uplinks = [announced("2001:db8:1::1", 9 * 3600), announced("2001:db8:2::1", 60)];
    let prefixes = |stale_after| texts(&with_stale_after(&uplinks, stale_after));
    assert_eq!(
        prefixes(DEFAULT_STALE_AFTER),
        ["2001:db8:2::/64"],
        "the default drops one that works"
    );
    // Half of the time the other prefix is stale.
    let later = [announced("2001:db8:1::1", 60), announced("2001:db8:2::1", 9 * 3600)];
    assert_eq!(texts(&seen(&later)), ["2001:db8:1::/64"]);
    assert_eq!(prefixes(65_535), ["2001:db8:1::/64", "2001:db8:2::/64"]);
    assert_eq!(prefixes(0), ["2001:db8:1::/64", "2001:db8:2::/64"]);
}

/// A T1 of 1800 s, beside a prefix that is announced every few seconds: each renewal comes a little late.
#[test]
fn a_delegated_prefix_that_is_renewed_every_1800_seconds() {
    let after = |seconds| {
        let addresses = [announced("2001:db8:1::1", seconds), announced("2001:db8:2::1", 0)];
        texts(&seen(&addresses)).len()
    };
    assert_eq!((after(1_800), after(1_801)), (2, 1));
}

#[test]
fn two_uplinks_that_are_announced_rarely_are_seldom_both_there() {
    // The default of radvd: each interval is random, from a third of the longest to the longest.
    let mut random = fastrand::Rng::with_seed(8319);
    let mut history: History = Vec::new();
    for prefix in 0..2 {
        let mut at = 0;
        while at < 5_000_000 {
            at += random.u32(21_845..=65_535);
            history.push((at, prefix));
        }
    }
    history.sort_unstable();
    let both = |stale_after| {
        let is_both = |&until: &u32| with_stale_after(&after(&history, until), stale_after).prefixes.len() == 2;
        let moments = || (100_000..5_000_000).step_by(9_973);
        moments().filter(is_both).count() as f64 / moments().count() as f64
    };
    let share = both(DEFAULT_STALE_AFTER);
    assert!((0.03..0.15).contains(&share), "{share}");
    assert_eq!(both(65_535), 1.0);
    assert_eq!(both(0), 1.0);
}

/// A 32-bit kernel's time stamps start again at 0 after 2^32 / 100 ticks: at 250 a second, after two days.
#[test]
fn two_prefixes_while_stamps_start_again_at_0() {
    const WRAP: u32 = 17_179_869;
    let stamp = |seconds: u32| (seconds * 100) % WRAP;
    let at = |ip: &str, seconds: u32| Address {
        updated: stamp(seconds),
        created: 500,
        ..new(ip)
    };
    // Both are announced every ten minutes, one of them until ten minutes before the stamps start again.
    let start = 171_798 - 3_600;
    let silent = 171_798 - 600;
    let mut eth0 = Interface::new();
    for seconds in (start..silent + 7_200).step_by(600) {
        eth0.now = Time::from(seconds - start) * 1000;
        let prefixes = eth0.sees(&[at("2001:db8:1::1", seconds.min(silent)), at("2001:db8:2::1", seconds)]);
        let expected = if seconds <= silent + DEFAULT_STALE_AFTER { 2 } else { 1 };
        assert_eq!(prefixes.len(), expected, "after {seconds} s");
        assert_eq!(prefixes.last().unwrap(), "2001:db8:2::/64");
    }
    // The prefix is silent for days, and its age never decreases.
    for hours in 1..24 * 30 {
        let seconds = silent + 7_200 + hours * 3_600;
        eth0.now = Time::from(seconds - start) * 1000;
        let addresses = [at("2001:db8:1::1", silent), at("2001:db8:2::1", seconds)];
        assert_eq!(eth0.sees(&addresses), ["2001:db8:2::/64"], "after {hours} hours");
    }
}

/// Row 3, and a router that is switched off rather than stopped: the new prefix runs out, and the old one, a
/// stranger's by now, stays preferred for days.
#[test]
fn a_stale_prefix_does_not_come_back_when_the_new_one_is_gone() {
    let days = |address: Address| Address {
        preferred: 7 * 86_400,
        valid: 30 * 86_400,
        ..address
    };
    let (old, new) = (days(announced("2001:db8:1::1", 5_000)), new("2001:db8:2::1"));
    let mut eth0 = Interface::new();
    assert_eq!(eth0.sees(&[old, new]), ["2001:db8:2::/64"]);
    // Nothing is announced any more; the new address ends with its lifetime, and k6u has looked all the time.
    eth0.pass(7_201);
    assert_eq!(eth0.sees_later(&[old]), [""; 0], "never the stale one");
}

/// The router was away for longer than staleAfterSeconds, the DHCPv6 server renewed the lease meanwhile; then the
/// router comes back with another prefix, and only then the old one goes stale.
#[test]
fn a_lease_that_was_renewed_before_its_prefix_went_stale_goes_with_it() {
    let (old, leased) = (announced("2001:db8:1::1", 0), lease("2001:db8:1::abc", 0));
    let mut eth0 = Interface::new();
    assert_eq!(eth0.sees(&[old, leased]), ["2001:db8:1::/64"]);
    eth0.pass(1_900);
    let leased = eth0.write(leased);
    assert_eq!(
        eth0.sees(&[old, leased]),
        ["2001:db8:1::/64"],
        "it is not stale: nothing else is announced"
    );
    eth0.pass(100);
    let fresh = eth0.write(new("2001:db8:2::1"));
    assert_eq!(eth0.sees(&[old, leased, fresh]), ["2001:db8:2::/64"]);
}

/// A 64-bit kernel that runs for 300 days, with a link-local address since it started; k6u is upgraded.
#[test]
fn two_uplinks_after_300_days_both_count() {
    let days = 300 * 86_400 * 100;
    let at = |ip: &str, stamp: u32| Address {
        created: 500,
        updated: stamp,
        ..new(ip)
    };
    let local = Address {
        created: 500,
        updated: 500,
        ..fixed("fe80::1")
    };
    let mut eth0 = Interface::new();
    let (one, other) = (at("2001:db8:1::1", days), at("2001:db8:2::1", days));
    assert_eq!(eth0.sees(&[local, one, other]).len(), 2);
    // Ten seconds later one of the two is announced again.
    eth0.now += 10_000;
    let other = at("2001:db8:2::1", days + 1_000);
    assert_eq!(
        eth0.sees(&[local, one, other]).len(),
        2,
        "both were announced within ten seconds"
    );
}

/// PureLB's address is there before the first router advertisement is.
#[test]
fn a_load_balancer_that_was_first_is_no_router() {
    let service = announced("2001:db8:1::80", 5);
    let mut eth0 = Interface::new();
    assert_eq!(eth0.sees(&[service]), ["2001:db8:1::/64"]);
    eth0.pass(10);
    let router = kernels(eth0.write(new("2001:db8:2::1")));
    assert_eq!(eth0.sees(&[service, router]).len(), 2);
    // Both are refreshed as ever.
    for _ in 0..4 {
        eth0.pass(600);
        let (service, router) = (eth0.write(service), eth0.write(router));
        assert_eq!(
            eth0.sees(&[service, router]),
            ["2001:db8:1::/64", "2001:db8:2::/64"],
            "a /64 that was never announced is not judged"
        );
    }
}

/// A client that writes a lease again with the same end has got no answer from the server.
#[test]
fn a_lease_that_is_written_again_to_end_as_before_was_not_renewed() {
    let old = deprecated(announced("2001:db8:1::1", 60));
    let leased = lease("2001:db8:1::abc", 60);
    let mut eth0 = Interface::new();
    assert_eq!(eth0.sees(&[old, leased]), [""; 0]);
    eth0.pass(600);
    let again = Address {
        valid: leased.valid - 600,
        preferred: leased.preferred - 600,
        ..eth0.write(leased)
    };
    assert_eq!(eth0.sees(&[old, again]), [""; 0]);
}

/// Two IP6UpdateNodeConfigs with one interface, and rules of their own.
#[test]
fn a_prefix_that_was_stale_by_one_config_is_not_kept_by_it() {
    let (old, new) = (announced("2001:db8:1::1", 600), new("2001:db8:2::1"));
    let mut eth0 = Interface::new();
    let (patient, strict) = (
        eth0.watch.clone(),
        Watch {
            stale_after: 60,
            keep_deprecated: 3_600,
            ..eth0.watch.clone()
        },
    );
    let both = |addresses: &[Address], eth0: &mut Interface| {
        [&patient, &strict].map(|watch| {
            eth0.watch = watch.clone();
            eth0.sees(addresses)
        })
    };
    let seen = both(&[old, new], &mut eth0);
    assert_eq!(
        (seen[0].len(), seen[1].as_slice()),
        (2, ["2001:db8:2::/64".to_string()].as_slice())
    );
    eth0.pass(10);
    let over = eth0.write(deprecated(old));
    let seen = both(&[over, new], &mut eth0);
    assert_eq!(
        seen[1],
        ["2001:db8:2::/64"],
        "a prefix that was stale before is not kept"
    );
}

/// The new prefix ends in the same moment in which the stale one is deprecated.
#[test]
fn a_stale_prefix_is_not_kept_when_the_new_one_is_gone() {
    let (old, new) = (announced("2001:db8:1::1", 5_000), new("2001:db8:2::1"));
    let mut eth0 = Interface::keeping(600);
    assert_eq!(eth0.sees(&[old, new]), ["2001:db8:2::/64"]);
    eth0.pass(7_201);
    assert_eq!(
        eth0.sees(&[deprecated(old)]),
        [""; 0],
        "a prefix that was stale before is not kept"
    );
}

/// Before dhcpcd, NetworkManager or networkd took over, the kernel made an address, which is not refreshed any more.
/// The program's addresses in the same /64 are refreshed with each announcement (dhcpcd with `slaac private`). It
/// forbade the kernel to make more.
#[test]
fn an_old_address_of_the_kernel_does_not_end_a_live_prefix() {
    let left_behind = kernels(new("2001:db8:1::1"));
    let mut eth0 = Interface::new();
    assert_eq!(eth0.sees(&[left_behind]), ["2001:db8:1::/64"]);
    eth0.kernel_slaac = false;
    for _ in 0..5 {
        eth0.pass(600);
        let refreshed = eth0.write(new("2001:db8:1::2"));
        assert_eq!(eth0.sees(&[left_behind, refreshed]), ["2001:db8:1::/64"]);
    }
    eth0.pass(600);
    let refreshed = eth0.write(new("2001:db8:1::2"));
    assert_eq!(
        eth0.sees(&[deprecated(left_behind), refreshed]),
        ["2001:db8:1::/64"],
        "its preferred lifetime ran out"
    );
    eth0.pass(600);
    let refreshed = eth0.write(new("2001:db8:1::2"));
    assert_eq!(
        eth0.sees(&[deprecated(left_behind), refreshed]),
        ["2001:db8:1::/64"],
        "a router announces it still"
    );
}

/// The same, and the router comes back with another prefix, which only dhcpcd notices.
#[test]
fn an_old_address_of_the_kernel_does_not_keep_a_dead_prefix() {
    let days = |address: Address| Address {
        preferred: 7 * 86_400,
        valid: 30 * 86_400,
        ..address
    };
    let left_behind = days(kernels(new("2001:db8:1::1")));
    let mut eth0 = Interface::new();
    eth0.kernel_slaac = false;
    let old = days(eth0.write(new("2001:db8:1::2")));
    assert_eq!(eth0.sees(&[left_behind, old]), ["2001:db8:1::/64"]);
    for round in 1..10 {
        eth0.pass(600);
        let fresh = days(eth0.write(new("2001:db8:2::2")));
        let seen = eth0.sees(&[left_behind, old, fresh]);
        if round > 4 {
            assert_eq!(seen, ["2001:db8:2::/64"], "stale after {} s", round * 600);
        }
    }
}
