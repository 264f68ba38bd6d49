//! Signals that end the process: SIGTERM and SIGINT at once, and SIGALRM as a watchdog.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// Between two waits the API server responds within seconds, or the round ends. If there is no response for this
/// long, k6u hangs on something that no other limit catches, such as a file system or a full pipe behind standard
/// error.
const HANGING_AFTER: libc::c_uint = 5 * 60;
const HANGS: &[u8] =
    b"k6u: no API response for five minutes (stuck file system or stderr?); exiting so that the kubelet \
    restarts the container\n";

/// The exit status for the signal handler below.
static STATUS: AtomicI32 = AtomicI32::new(0);

/// Makes SIGTERM and SIGINT end the process at once with this status, and SIGALRM with 142.
///
/// A process with PID 1 needs a handler: the kernel ignores default actions there (kill(2)).
/// k6u may end at any point: every write is one request, and the next process computes all writes again.
///
/// # Errors
/// The errors of sigaction(2).
pub fn exit_on_signals(status: i32) -> io::Result<()> {
    STATUS.store(status, Ordering::Relaxed);
    handle(libc::SIGTERM, exit)?;
    handle(libc::SIGINT, exit)?;
    handle(libc::SIGALRM, exit_of_hanging)
}

/// Ends the process in five minutes, unless this or [`stop`] is called before.
pub fn restart() {
    // SAFETY: no pointers are passed.
    unsafe { libc::alarm(HANGING_AFTER) };
}

/// Stops the watchdog, because a wait of any length follows.
pub fn stop() {
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
    // Perhaps standard error is what k6u hangs on.
    if is_writable {
        // SAFETY: write is async-signal-safe, and the pointer and the length describe `HANGS`.
        unsafe { libc::write(libc::STDERR_FILENO, HANGS.as_ptr().cast(), HANGS.len()) };
    }
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(128 + signal) }
}
