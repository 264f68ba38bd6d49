//! Time stamps of addresses, on a kernel of 32 bits.
//!
//! The kernel tells when an address was refreshed as ticks times 100, divided by the ticks of a second, and its
//! product wraps with its long (net/ipv6/addrconf.c `cstamp_delta`). With 64 bits nothing comes of that: a stamp
//! wraps with its own 32 bits, after 497 days. With 32 bits it starts again at 0 after two days at 250 ticks a second,
//! after twelve hours at 1000: a prefix that is announced now would look older than one that was announced an hour
//! ago, and be left out as stale.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use super::netlink::Life;

/// By how much ticks may be behind the steady clock, or ahead of it, in hundredths of a second.
const SLACK: u64 = 6000;

/// Gives stamps that wrap with 32 bits on every kernel.
#[derive(Debug)]
pub struct Stamps {
    /// The kernel's ticks in a second, if it has 32 bits.
    hertz: Option<u32>,
    /// What was told of an address of an interface, and what that means. To tell the same later does not make it
    /// younger, though by then it wrapped once more.
    known: BTreeMap<(u32, Ipv6Addr), (u32, u32)>,
}

impl Stamps {
    /// Those of the kernel that this process runs on.
    pub fn of_this_kernel() -> Self {
        Stamps::of(if cfg!(target_pointer_width = "64") {
            None
        } else {
            hertz()
        })
    }

    fn of(hertz: Option<u32>) -> Self {
        Stamps {
            hertz,
            known: BTreeMap::new(),
        }
    }

    /// Corrects the stamps of all addresses of an interface.
    pub fn correct(&mut self, interface: u32, lives: &mut [Life]) {
        if self.hertz.is_some() {
            self.correct_at(hundredths(libc::CLOCK_MONOTONIC), interface, lives);
        }
    }

    fn correct_at(&mut self, now: u64, interface: u32, lives: &mut [Life]) {
        let Some(hertz) = self.hertz else { return };
        let mut known = BTreeMap::new();
        for life in lives {
            let (key, told) = ((interface, life.address), life.updated);
            let meant = match self.known.get(&key) {
                Some((earlier, meant)) if *earlier == told => *meant,
                _ => meant(told, now, hertz),
            };
            known.insert(key, (told, meant));
            life.updated = meant;
        }
        self.known.retain(|(of, _), _| *of != interface);
        self.known.append(&mut known);
    }
}

/// The last time at which a kernel of 32 bits tells this stamp.
fn meant(told: u32, now: u64, hertz: u32) -> u32 {
    // As the kernel reckons: with a product that wraps.
    let product = ((now + SLACK) * u64::from(hertz)) as u32;
    let age = product.wrapping_sub(told.wrapping_mul(hertz)) / hertz;
    ((now + SLACK) as u32).wrapping_sub(age)
}

/// The ticks of a second, if this kernel has 32 bits. A process of 32 bits may run on one of 64.
fn hertz() -> Option<u32> {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: `name` is writable.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: all-zero is a valid utsname, and uname filled it.
    let name = unsafe { name.assume_init() };
    // SAFETY: uname ends each of its fields with a NUL.
    let machine = unsafe { CStr::from_ptr(name.machine.as_ptr()) };
    let machine = machine.to_string_lossy();
    // What runs processes of 32 bits may have them see armv8l or i686.
    if ["aarch64", "armv8", "x86_64"]
        .iter()
        .any(|wide| machine.starts_with(wide))
    {
        return None;
    }
    // The coarse clocks advance with the ticks.
    let mut tick = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `tick` is writable.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, tick.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: all-zero is a valid timespec, and clock_getres filled it.
    let tick = unsafe { tick.assume_init() };
    let nanoseconds = u32::try_from(tick.tv_nsec).ok().filter(|n| *n > 0)?;
    Some((1_000_000_000 + nanoseconds / 2) / nanoseconds)
}

/// A clock in hundredths of a second. The one that starts with the system and stands still while it sleeps does so
/// like ticks, and fits 32 bits of time for 68 years.
fn hundredths(clock: libc::clockid_t) -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    // SAFETY: all-zero is a valid timespec: plain integers.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 100 + u64::try_from(time.tv_nsec).unwrap_or(0) / 10_000_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::select::select;

    const DAY: u64 = 8_640_000;

    /// What a kernel of 32 bits tells of a time.
    fn told(at: u64, hertz: u32) -> u32 {
        ((at * u64::from(hertz) / 100) as u32).wrapping_mul(100) / hertz
    }

    fn announced(address: &str, updated: u32) -> Life {
        Life {
            preferred: 3600,
            valid: 7200,
            updated,
            ..Life::of_preferred(address.parse().unwrap())
        }
    }

    /// The prefixes that count: one announced so long before another, as a kernel tells it.
    fn counting(stamps: &mut Stamps, first: u64, second: u64, hertz: u32, now: u64) -> Vec<String> {
        let mut lives = [
            announced("2001:db8:1::1", told(first, hertz)),
            announced("2001:db8:2::1", told(second, hertz)),
        ];
        stamps.correct_at(now, 2, &mut lives);
        let seen = select(&lives, 1800);
        seen.prefixes.iter().map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn two_prefixes_while_stamps_start_again_at_0() {
        // At 250 ticks a second that is after 171,798.69 s.
        let wrap = 17_179_869;
        let all = ["2001:db8:1::/64", "2001:db8:2::/64"];
        let at = |first, second| counting(&mut Stamps::of(Some(250)), first, second, 250, second);
        assert_eq!(at(wrap - 60_000, wrap + 60_000), all);
        // The old one is silent for 40 minutes, and the new one is announced.
        assert_eq!(at(wrap - 180_000, wrap + 60_000), all[1..]);
        // As it would be without a correction.
        assert_eq!(
            counting(&mut Stamps::of(None), wrap - 180_000, wrap + 60_000, 250, 0),
            all[..1]
        );
    }

    #[test]
    fn what_was_silent_for_days_stays_old() {
        let mut stamps = Stamps::of(Some(250));
        let silent = DAY;
        for hours in 1..24 * 30 {
            let now = silent + hours * DAY / 24;
            let counts = counting(&mut stamps, silent, now, 250, now);
            assert_eq!(counts, ["2001:db8:2::/64"], "after {hours} hours");
        }
    }

    #[test]
    fn each_interface_is_remembered_until_it_has_no_address() {
        let mut stamps = Stamps::of(Some(100));
        stamps.correct_at(DAY, 2, &mut [announced("2001:db8:1::1", 5)]);
        stamps.correct_at(DAY, 3, &mut [announced("2001:db8:1::1", 5)]);
        assert_eq!(stamps.known.len(), 2);
        stamps.correct_at(DAY, 2, &mut []);
        assert_eq!(stamps.known.len(), 1);
    }

    #[test]
    fn the_clock_and_the_ticks_of_this_machine() {
        let now = hundredths(libc::CLOCK_MONOTONIC);
        assert!(now > 0 && hundredths(libc::CLOCK_MONOTONIC) - now < 6000);
        if let Some(hertz) = hertz() {
            assert!((24..=1200).contains(&hertz), "{hertz}");
        }
    }

    proptest! {
        #[test]
        fn a_stamp_means_what_it_was_made_of(
            hertz in proptest::sample::select(vec![100u32, 200, 250, 300, 1000]),
            now in 0u64..10 * 365 * DAY,
            age in 0u64..4_000_000,
            behind in 0u64..5000,
        ) {
            let at = now.saturating_sub(age);
            // The clock may be a little behind the ticks.
            let meant = meant(told(at, hertz), now.saturating_sub(behind), hertz);
            let off = (at as u32).wrapping_sub(meant);
            prop_assert!(off <= 1 || off == u32::MAX, "{} for {}", meant, at as u32);
        }
    }
}
