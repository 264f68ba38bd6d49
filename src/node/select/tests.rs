//! The rules of selection: which addresses count, and what routers do to them.

use proptest::prelude::*;

use super::*;

/// Some time after the system started.
const NOW: u32 = 100_000_000;

/// An announced address that was refreshed so many seconds ago.
fn announced(address: &str, seconds: u32) -> Life {
    Life {
        interface: 2,
        address: address.parse().unwrap(),
        prefix_length: 64,
        flags: 0,
        preferred: 3600,
        valid: 7200,
        created: 0,
        updated: NOW.wrapping_sub(seconds * 100),
    }
}

fn life(address: &str) -> Life {
    announced(address, 0)
}

fn fixed(address: &str) -> Life {
    Life {
        updated: 0,
        ..Life::of_preferred(address.parse().unwrap())
    }
}

fn deprecated(address: &str, seconds: u32) -> Life {
    Life {
        preferred: 0,
        ..announced(address, seconds)
    }
}

fn temporary(address: &str, seconds: u32) -> Life {
    Life {
        flags: libc::IFA_F_TEMPORARY,
        ..announced(address, seconds)
    }
}

fn seen(addresses: &[Life]) -> Observation {
    select(addresses, DEFAULT_STALE_AFTER)
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
    let seen = seen(&addresses.map(life));
    assert_eq!(texts(&seen), ["2000::/64", "2001:db8:1:2::/64", "3fff:ffff::/64"]);
    assert_eq!(seen.left_out.len(), 8);
    assert!(seen.left_out.iter().all(|(_, why)| *why == Why::NotGlobal));
    assert_eq!(seen.message("eth0"), "");
}

#[test]
fn deprecated_and_duplicate_addresses_do_not_count() {
    let flagged = Life {
        flags: libc::IFA_F_DEPRECATED,
        ..life("2001:db8:1::1")
    };
    let duplicate = Life {
        flags: libc::IFA_F_DADFAILED | libc::IFA_F_TENTATIVE,
        ..life("2001:db8:3::1")
    };
    let seen = seen(&[flagged, deprecated("2001:db8:2::1", 0), duplicate]);
    assert_eq!(texts(&seen), [""; 0]);
    let whys: Vec<Why> = seen.left_out.iter().map(|(_, why)| *why).collect();
    assert_eq!(whys, [Why::Deprecated, Why::Deprecated, Why::Duplicate]);
    assert_eq!(
        seen.message("eth0"),
        "eth0 has no global IPv6 address in use; 2001:db8:1::/64 left out: deprecated; \
         2001:db8:2::/64 left out: deprecated; 2001:db8:3::/64 left out: duplicate address detection failed"
    );
}

#[test]
fn tentative_and_temporary_addresses_and_a_128_count() {
    let tentative = Life {
        flags: libc::IFA_F_TENTATIVE,
        ..life("2001:db8:1::1")
    };
    let dhcp = Life {
        prefix_length: 128,
        ..life("2001:db8:3::1")
    };
    let seen = seen(&[dhcp, temporary("2001:db8:2::1", 0), tentative]);
    assert_eq!(texts(&seen), ["2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::/64"]);
}

#[test]
fn one_prefix_with_a_living_and_a_deprecated_address_counts() {
    let seen = seen(&[deprecated("2001:db8:1::1", 0), life("2001:db8:1::2")]);
    assert_eq!(texts(&seen), ["2001:db8:1::/64"]);
    assert_eq!(seen.deprecated, []);
    assert_eq!(seen.message("eth0"), "");
}

#[test]
fn duplicates_fold_and_order_does_not_matter() {
    let (a, b, c) = (life("2001:db8:2::1"), life("2001:db8:1::1"), life("2001:db8:2::2"));
    assert_eq!(seen(&[a, b, c]), seen(&[c, b, a]));
    assert_eq!(texts(&seen(&[a, b, c])), ["2001:db8:1::/64", "2001:db8:2::/64"]);
}

#[test]
fn at_most_64_prefixes_count_and_the_rest_is_reported() {
    let flood: Vec<Life> = (0..1000).map(|n| life(&format!("2001:db8:{n:x}::1"))).collect();
    let all = seen(&flood);
    assert_eq!((all.prefixes.len(), all.excess), (64, 936));
    assert_eq!(all.message("eth0"), "eth0 has 1000 prefixes; only the first 64 count");
    assert_eq!(seen(&flood[..64]).excess, 0);
}

#[test]
fn messages_say_what_is_there_instead() {
    let mut absent = Observation::default();
    assert_eq!(absent.message("eth0"), "eth0 has no IPv6 address");
    absent.absent = true;
    assert_eq!(absent.message("eth0"), "there is no interface eth0");
    let local = "eth0 has no global IPv6 address in use: fd00::1 is not global unicast (2000::/3)";
    assert_eq!(
        seen(&[life("fe80::1"), life("fd00::1"), life("::1")]).message("eth0"),
        local
    );
    let link_local = "eth0 has no global IPv6 address in use: fe80::1 is not global unicast (2000::/3)";
    assert_eq!(seen(&[life("fe80::1")]).message("eth0"), link_local);
}

/// Case 1: the router announces the new prefix and deprecates the old one.
#[test]
fn by_the_book_the_old_prefix_goes_at_once() {
    let seen = seen(&[deprecated("2001:db8:1::1", 2), announced("2001:db8:2::1", 2)]);
    assert_eq!(texts(&seen), ["2001:db8:2::/64"]);
    assert_eq!(seen.deprecated, ["2001:db8:1::/64".parse().unwrap()]);
    assert_eq!(seen.long_gone, []);
    assert_eq!(seen.message("eth0"), "2001:db8:1::/64 left out: deprecated");
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
    assert_eq!(
        texts(&select(&[announced("2001:db8:1::1", 9_000), life("2001:db8:2::1")], 0)).len(),
        2,
        "0 is never"
    );
}

/// Case 3: the router announces all as deprecated when it stops; a prefix that was stale stays stale.
#[test]
fn a_router_restart_does_not_bring_back_a_stale_prefix() {
    let seen = seen(&[announced("2001:db8:1::1", 5_000), deprecated("2001:db8:2::1", 10)]);
    assert_eq!(texts(&seen), [""; 0]);
    assert_eq!(seen.deprecated, ["2001:db8:2::/64".parse().unwrap()]);
}

/// Case 4: two routers announce for good, at different intervals.
#[test]
fn two_uplinks_on_one_link_both_count() {
    assert_eq!(
        texts(&seen(&[
            announced("2001:db8:1::1", 1_800),
            announced("2001:db8:2::1", 3)
        ]))
        .len(),
        2
    );
}

/// A lease of DHCPv6 that was renewed so many seconds ago.
fn lease(address: &str, seconds: u32) -> Life {
    Life {
        prefix_length: 128,
        ..announced(address, seconds)
    }
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

/// Case 6: temporary addresses appear in a prefix that is stale.
#[test]
fn temporary_addresses_are_no_evidence() {
    let old = announced("2001:db8:1::1", 5_000);
    let seen = seen(&[old, temporary("2001:db8:1::abcd", 0), announced("2001:db8:2::1", 10)]);
    assert_eq!(texts(&seen), ["2001:db8:2::/64"]);
    assert_eq!(seen.left_out.len(), 2);
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

/// A stale prefix whose lifetime then ends is not deprecated news.
#[test]
fn a_stale_prefix_that_runs_out_is_long_gone() {
    let seen = seen(&[deprecated("2001:db8:1::1", 5_000), announced("2001:db8:2::1", 10)]);
    assert_eq!(seen.long_gone, seen.deprecated);
}

#[test]
fn time_stamps_may_wrap() {
    let at = |stamp: u32, address: &str| Life {
        updated: stamp,
        ..life(address)
    };
    let now = 1_000_u32;
    let old = at(now.wrapping_sub(300_000), "2001:db8:1::1");
    let wrapped = |leased| Life {
        prefix_length: 128,
        ..at(leased, "2001:db8:1::abc")
    };
    let prefixes = |leased| {
        let seen = select(&[old, wrapped(leased), at(now, "2001:db8:2::1")], DEFAULT_STALE_AFTER);
        seen.prefixes.len()
    };
    // It went stale 120,000 hundredths of a second before `now`.
    assert_eq!(prefixes(now.wrapping_sub(120_001)), 1);
    assert_eq!(prefixes(now.wrapping_sub(119_999)), 2);
}

/// What routers announced: at which second, which of four prefixes.
type History = Vec<(u32, usize)>;

/// The addresses after the first `until` seconds of a history; each is valid for long.
fn after(history: &History, until: u32) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for (at, prefix) in history.iter().filter(|(at, _)| *at <= until) {
        let address = format!("2001:db8:{}::1", prefix + 1);
        lives.retain(|life| life.address.to_string() != address);
        lives.push(Life {
            updated: at * 100,
            ..life(&address)
        });
    }
    lives
}

proptest! {
    #[test]
    fn the_prefix_announced_last_counts_and_silent_ones_go(
        mut history in proptest::collection::vec((0u32..20_000, 0usize..4), 1..40),
        until in 0u32..30_000,
        stale_after in 1u32..4_000,
    ) {
        history.sort_unstable();
        let lives = after(&history, until);
        let seen = select(&lives, stale_after);
        let last = history.iter().rfind(|(at, _)| *at <= until);
        if let Some((last_at, _)) = last {
            for life in &lives {
                let counts = seen.prefixes.contains(&Prefix::of(life.address, 64));
                let age = last_at - life.updated / 100;
                prop_assert_eq!(counts, age <= stale_after, "age {} stale after {}", age, stale_after);
            }
        } else {
            prop_assert!(seen.prefixes.is_empty());
        }
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
            prop_assert_eq!(select(&after(&history, until), DEFAULT_STALE_AFTER).prefixes.len(), 2);
        }
    }
}

#[test]
fn a_second_of_preference_is_none() {
    // NetworkManager rounds lifetimes up: each announcement of a deprecated prefix makes it preferred for a second.
    let rounded = Life {
        preferred: 1,
        ..announced("2001:db8:1::1", 0)
    };
    let seen = seen(&[rounded, life("2001:db8:2::1")]);
    assert_eq!(texts(&seen), ["2001:db8:2::/64"]);
    assert_eq!(
        seen.deprecated,
        [Prefix::of("2001:db8:1::".parse().unwrap(), LINK_LENGTH)]
    );
}

#[test]
fn routers_that_announce_every_65535_seconds() {
    // RFC 8319 section 4 allows that. Two of them, one nine hours after the other.
    let uplinks = [announced("2001:db8:1::1", 9 * 3600), announced("2001:db8:2::1", 60)];
    let prefixes = |stale_after| texts(&select(&uplinks, stale_after));
    assert_eq!(
        prefixes(DEFAULT_STALE_AFTER),
        ["2001:db8:2::/64"],
        "the default drops one that works"
    );
    // The other half of the time, it is the other one that goes.
    let later = [announced("2001:db8:1::1", 60), announced("2001:db8:2::1", 9 * 3600)];
    assert_eq!(texts(&select(&later, DEFAULT_STALE_AFTER)), ["2001:db8:1::/64"]);
    assert_eq!(prefixes(65_535), ["2001:db8:1::/64", "2001:db8:2::/64"]);
    assert_eq!(prefixes(0), ["2001:db8:1::/64", "2001:db8:2::/64"]);
}

#[test]
fn two_uplinks_that_are_announced_rarely_are_seldom_both_there() {
    // As radvd does unless told otherwise: each interval is a random one, from a third of the longest to the longest.
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
        let is_both = |&until: &u32| select(&after(&history, until), stale_after).prefixes.len() == 2;
        let moments = || (100_000..5_000_000).step_by(9_973);
        moments().filter(is_both).count() as f64 / moments().count() as f64
    };
    let share = both(DEFAULT_STALE_AFTER);
    assert!((0.03..0.15).contains(&share), "{share}");
    assert_eq!(both(65_535), 1.0);
    assert_eq!(both(0), 1.0);
}
