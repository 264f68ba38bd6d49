use super::*;

/// The time of the first look.
const NOW: Time = 5_000_000;

/// An address that was created and last written at these seconds of the kernel's time.
fn address(created: u32, updated: u32, valid: u32) -> Address {
    Address {
        flags: 0,
        valid,
        preferred: valid,
        created: created * 100,
        updated: updated * 100,
        ..Address::permanent("2001:db8:1::1".parse().unwrap())
    }
}

fn other(created: u32, updated: u32) -> Address {
    Address {
        ip: "2001:db8:2::1".parse().unwrap(),
        ..address(created, updated, 7_200)
    }
}

/// Looks at the interface this many seconds after the first look. Returns when the first address was written, in
/// seconds after the first look.
fn look(past: &mut Announcements, addresses: &[Address], seconds: i64) -> i64 {
    let dated = past.date(2, addresses, NOW + seconds * 1000);
    let first = dated.iter().find(|dated| dated.address == addresses[0]).unwrap();
    (first.written - NOW) / 1000
}

/// The same for an address at the first look, and its state a minute later.
fn then(before: Address, after: Address) -> i64 {
    let mut past = Announcements::default();
    assert_eq!(look(&mut past, &[before], 0), 0);
    look(&mut past, &[after], 60)
}

#[test]
fn at_the_first_look_the_newest_stamp_is_now() {
    let mut past = Announcements::default();
    assert_eq!(look(&mut past, &[address(100, 200, 7_200), other(100, 300)], 0), -100);
    assert_eq!(look(&mut past, &[other(100, 300), address(100, 200, 7_200)], 10), 0);
    // Also where the stamps wrap in between.
    let mut past = Announcements::default();
    let (old, new) = (
        Address {
            updated: u32::MAX - 9_999,
            ..other(0, 0)
        },
        address(0, 100, 7_200),
    );
    assert_eq!(look(&mut past, &[old, new], 0), -200);
}

/// A 32-bit kernel's stamps start again at 17,179,869, two days at 250 ticks a second: 17,179,800 is younger than 60 by
/// either a second or two days.
#[test]
fn an_age_that_a_32_bit_kernel_cannot_show_is_0() {
    let max = 85_899_000;
    assert_eq!(age(60, 17_179_800, max), 0);
    assert_eq!(age(60, 8_589_960, max), max);
    assert_eq!(age(60, 8_589_961, max), 0);
    assert_eq!(age(60, 17_179_800, Time::MAX), 171_797_400);
    assert_eq!(age(u32::MAX - 9, 10, max), 200, "and 64-bit ones within 32 bits");
    assert_eq!(age(10, u32::MAX - 9, max), 0);
}

#[test]
fn an_announcement_counts() {
    assert_eq!(then(address(100, 200, 7_200), address(100, 260, 7_200)), 60);
    // Also by a router that counts the lifetime down.
    assert_eq!(then(address(100, 200, 7_200), address(100, 260, 7_140)), 60);
    // Also the first one after the link was down: it lives longer.
    assert_eq!(then(address(100, 200, 7_200), address(260, 260, 7_200)), 60);
    // Also if there were more since the address was created again.
    assert_eq!(then(address(100, 200, 7_200), address(240, 260, 7_140)), 60);
    // An address that was created again is another one, with any stamp.
    assert_eq!(then(address(100, 200, 7_200), address(100, 3, 7_200)), 60);
    assert_eq!(then(address(100, 200, 7_200), address(100, 200, 7_140)), 0);
}

#[test]
fn an_address_that_is_written_again_and_lives_no_longer_was_not_announced() {
    assert_eq!(then(address(100, 200, 7_200), address(260, 260, 7_140)), 0);
    // NetworkManager rounds up, the kernel down.
    assert_eq!(then(address(100, 200, 7_199), address(260, 260, 7_142)), 0);
    assert_eq!(then(address(100, 200, 7_199), address(260, 260, 7_143)), 60);
    let for_ever = u32::MAX;
    assert_eq!(then(address(100, 200, for_ever), address(260, 260, for_ever)), 0);
}

#[test]
fn the_last_announcement_is_remembered() {
    let mut past = Announcements::default();
    let mut look = |address: Address, seconds: i64| look(&mut past, &[address], seconds);
    assert_eq!(look(address(100, 200, 7_200), 0), 0);
    assert_eq!(look(address(210, 210, 7_190), 10), 0);
    assert_eq!(look(address(210, 210, 7_180), 20), 0);
    assert_eq!(look(address(230, 230, 7_170), 30), 0, "once more");
    assert_eq!(look(address(230, 240, 7_160), 40), 40, "a router stands by it again");
    assert_eq!(look(address(230, 240, 7_150), 50), 40);
}

#[test]
fn an_address_that_is_new_was_announced_now() {
    let mut past = Announcements::default();
    look(&mut past, &[other(100, 300)], 0);
    assert_eq!(look(&mut past, &[address(100, 200, 7_200), other(100, 300)], 60), 60);
    // Another interface of the same name is looked at for the first time.
    let addresses = [address(100, 200, 7_200), other(100, 300)];
    assert_eq!(past.date(3, &addresses, NOW)[0].written, NOW - 100_000);
    past.interface_is_gone();
    assert_eq!(past.date(3, &addresses, NOW)[0].written, NOW - 100_000);
}

/// The number of addresses that count at these times after the first look, for an address with this valid lifetime.
fn lingering(valid: u32, flags: u32, milliseconds: &[Time]) -> Vec<usize> {
    let mut past = Announcements::default();
    let first = Address {
        flags,
        ..address(100, 200, valid)
    };
    past.date(2, &[first], NOW);
    let counts = milliseconds.iter().map(|at| past.date(2, &[], NOW + at).len());
    counts.collect()
}

#[test]
fn an_address_that_had_time_left_lingers() {
    assert_eq!(lingering(60, 0, &[0, 199, 200, 201]), [1, 1, 0, 0]);
    assert_eq!(lingering(60, 0, &[5_000, 5_199, 5_200]), [1, 1, 0]);
    assert_eq!(lingering(60, 0, &[60_000]), [0], "it ended");
    assert_eq!(
        lingering(u32::MAX, libc::IFA_F_PERMANENT, &[0]),
        [0],
        "it was removed on purpose"
    );
}

#[test]
fn a_lingering_address_that_comes_back_was_written_again() {
    let mut past = Announcements::default();
    look(&mut past, &[address(100, 200, 7_200)], 0);
    past.date(2, &[], NOW + 60_000);
    let again = past.date(2, &[address(260, 260, 7_140)], NOW + 60_100);
    assert_eq!((again[0].written, again[0].lingers_until), (NOW, None));
    // And one that comes later is new.
    past.date(2, &[], NOW + 60_200);
    past.date(2, &[], NOW + 60_400);
    let again = past.date(2, &[address(260, 260, 7_140)], NOW + 60_500);
    assert_eq!(again[0].written, NOW + 60_500);
}

#[test]
fn sixty_four_absent_prefixes_are_remembered() {
    let mut past = Announcements::default();
    let subnet = |n: i64| Subnet {
        announced: Some(n),
        ..Subnet::default()
    };
    let prefix = |n: i64| Prefix::of(format!("2001:db8:{n:x}::").parse().unwrap(), 64);
    let subnets = (0..1000).map(|n| (prefix(n), subnet(n))).collect();
    let present = past.date(
        2,
        &[Address {
            ip: prefix(5).address(),
            ..address(1, 1, 60)
        }],
        0,
    );
    past.remember(subnets, &present);
    let mut expected: Vec<Prefix> = (936..1000).map(prefix).collect();
    expected.push(prefix(5));
    expected.sort_unstable();
    assert!(past.subnets.keys().eq(&expected));
}
