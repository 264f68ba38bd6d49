//! Sleeping until something happens: an address changes, a signal comes, the time is over.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use super::netlink;

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The time is over; nothing happened.
    Timeout,
    /// The kernel reported a change of IPv6 addresses, or lost such a report.
    AddressChange,
    /// The loop is to end; k6u itself ends by a signal.
    Stop,
}

/// Sleeps, and hears of address changes meanwhile.
#[derive(Debug)]
pub struct Sleeper {
    changes: OwnedFd,
}

impl Sleeper {
    /// Subscribes to the kernel's reports. From here on no change is missed.
    ///
    /// # Errors
    /// Those of opening a netlink socket.
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

/// Whatever k6u does between two waits, an answer comes within seconds, or the round ends. If there is none for so
/// long, it hangs on something that no other limit catches, such as a file system or a full pipe behind standard
/// error.
const HANGING_AFTER: libc::c_uint = 5 * 60;
const HANGS: &[u8] = b"k6u: a round hangs for five minutes now, perhaps on a file system or on standard error; \
    k6u ends, so that the kubelet starts it again\n";

/// The exit status for the signal handler below.
static STATUS: AtomicI32 = AtomicI32::new(0);

/// From here on SIGTERM and SIGINT end the process at once with this status, and SIGALRM with 142.
///
/// A process with PID 1 needs a handler: the kernel ignores default actions there (kill(2)).
/// To end in the middle of whatever it does is safe for k6u: every write is one request, and the
/// next process computes all of them afresh.
///
/// # Errors
/// Those of sigaction(2).
pub fn exit_on_signals(status: i32) -> io::Result<()> {
    STATUS.store(status, Ordering::Relaxed);
    handle(libc::SIGTERM, exit)?;
    handle(libc::SIGINT, exit)?;
    handle(libc::SIGALRM, exit_of_hanging)
}

/// Ends the process if it hangs for five minutes from now: until this is called again, or [`stop_alarm`].
pub fn start_alarm() {
    // SAFETY: no pointers are passed.
    unsafe { libc::alarm(HANGING_AFTER) };
}

/// What follows is a wait: it may take its time.
pub fn stop_alarm() {
    // SAFETY: no pointers are passed.
    unsafe { libc::alarm(0) };
}

fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    // SAFETY: `action` is initialised, its handler only makes calls that are async-signal-safe.
    let done = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn exit(_signal: libc::c_int) {
    // SAFETY: _exit is async-signal-safe (signal-safety(7)) and does not return.
    unsafe { libc::_exit(STATUS.load(Ordering::Relaxed)) }
}

extern "C" fn exit_of_hanging(signal: libc::c_int) {
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: poll is async-signal-safe (signal-safety(7)), and its pointer is that of one pollfd.
    let is_writable = unsafe { libc::poll(&mut stderr, 1, 0) } == 1;
    // It may be standard error that everything waits for.
    if is_writable {
        // SAFETY: write is async-signal-safe, and the pointer and the length describe `HANGS`.
        unsafe { libc::write(libc::STDERR_FILENO, HANGS.as_ptr().cast(), HANGS.len()) };
    }
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(128 + signal) }
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
