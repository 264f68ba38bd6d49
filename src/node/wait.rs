//! Waits until an address changes or a deadline passes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use super::netlink;

/// Reason why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The deadline has passed.
    Timeout,
    /// The kernel reported a change of IPv6 addresses, or lost such a report.
    AddressChange,
    /// The loop is to end; k6u itself ends by a signal.
    Stop,
}

/// Waits for changes of addresses.
#[derive(Debug)]
pub struct Sleeper {
    changes: OwnedFd,
}

impl Sleeper {
    /// Subscribes to the kernel's reports. From here on no change is missed.
    ///
    /// # Errors
    /// The errors of opening a netlink socket.
    pub fn new() -> io::Result<Self> {
        Ok(Sleeper {
            changes: netlink::subscribe()?,
        })
    }

    /// Sleeps until `deadline` or the next change, whichever is first.
    pub fn sleep_until(&self, deadline: Instant) -> Woken {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Asked first: changes without end must not put off what is due.
            if left.is_zero() {
                return Woken::Timeout;
            }
            match poll(&self.changes, left) {
                Ok(true) if netlink::drain(&self.changes) => return Woken::AddressChange,
                Ok(_) => {}
                // A signal that did not end the process, or a kernel out of memory: sleep on.
                Err(_) => std::thread::sleep(left.min(Duration::from_millis(10))),
            }
        }
    }
}

/// Waits until there is something to read (also an error), at most for `timeout`.
fn poll(fd: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: all-zero is a valid timespec: plain integers, on some 32-bit platforms with padding between them.
    let mut limit: libc::timespec = unsafe { std::mem::zeroed() };
    // Whatever the width of time_t: the longest interval is a day.
    limit.tv_sec = timeout.as_secs().min(i32::MAX as u64) as _;
    limit.tv_nsec = timeout.subsec_nanos() as _;
    // SAFETY: one pollfd is passed and its pointer is valid, as is the timeout's; the mask may be null.
    let ready = unsafe { libc::ppoll(&mut entry, 1, &limit, ptr::null()) };
    if ready < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_in_the_past_is_over() {
        let sleeper = Sleeper::new().unwrap();
        assert_eq!(sleeper.sleep_until(Instant::now()), Woken::Timeout);
    }

    #[test]
    fn an_idle_descriptor_times_out_and_a_readable_one_does_not() {
        let (reader, writer) = io::pipe().unwrap();
        let reader = OwnedFd::from(reader);
        assert!(!poll(&reader, Duration::from_millis(1)).unwrap());
        io::Write::write_all(&mut &writer, b"x").unwrap();
        assert!(poll(&reader, Duration::from_secs(60)).unwrap());
    }
}
