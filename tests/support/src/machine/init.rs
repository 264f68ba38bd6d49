//! A child that is PID 1 of its PID namespace, as in a container. The kernel drops a signal to PID 1 that has no
//! handler (pid_namespaces(7)).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;

use crate::machine::system::checked;

/// A request of linux/ptrace.h that not every C library names.
const PTRACE_GET_SYSCALL_INFO: libc::c_long = 0x420e;
const PTRACE_SYSCALL_INFO_ENTRY: u64 = 1;

/// Starts `command` as PID 1 of a PID namespace of its own, and stops it (SIGSTOP) at a system call: `further` calls
/// after the first call with this number.
///
/// # Errors
/// Where the machine forbids PID namespaces or ptrace(2), or if the child ends before that.
///
/// # Panics
/// If the thread for it cannot be started.
pub fn stopped_at(mut command: Command, number: libc::c_long, further: usize) -> io::Result<Child> {
    // SAFETY: no pointers are passed that the kernel uses, and nothing is allocated.
    let trace_me = || checked(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } as libc::c_int).map(drop);
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe { command.pre_exec(trace_me) };
    // A thread has the PID namespace of its children, and traces them; so this uses a thread that ends here.
    let thread = thread::spawn(move || {
        // SAFETY: no pointers are passed.
        checked(unsafe { libc::unshare(libc::CLONE_NEWPID) })?;
        let mut child = command.spawn()?;
        let stopped = stop(child.id() as libc::pid_t, number, further);
        if stopped.is_err() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        stopped.map(|()| child)
    });
    thread.join().expect("no panic in it")
}

fn stop(process: libc::pid_t, number: libc::c_long, further: usize) -> io::Result<()> {
    wait_stopped(process, 0)?;
    trace(
        libc::PTRACE_SETOPTIONS as _,
        process,
        (libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL) as _,
    )?;
    let mut left = None;
    loop {
        trace(libc::PTRACE_SYSCALL as _, process, 0)?;
        if wait_stopped(process, 0)? != libc::SIGTRAP | 0x80 {
            continue;
        }
        // struct ptrace_syscall_info: the kind is its first byte, the number of the call its fourth word.
        let mut info = [0u64; 16];
        // SAFETY: the pointer and the length describe `info`, which outlives the call.
        let length = unsafe {
            libc::ptrace(
                PTRACE_GET_SYSCALL_INFO as _,
                process,
                size_of_val(&info),
                info.as_mut_ptr(),
            )
        };
        checked(length as libc::c_int)?;
        if u64::from(info[0].to_ne_bytes()[0]) != PTRACE_SYSCALL_INFO_ENTRY {
            continue;
        }
        left = match left {
            None if info[3] == number as u64 => Some(further),
            None => None,
            Some(left) => Some(left - 1),
        };
        if left == Some(0) {
            break;
        }
    }
    // While the child is traced, it would report a signal to the tracer. SIGSTOP and PTRACE_DETACH stop it untraced.
    // SAFETY: no pointers are passed; the child was not waited for to its end, so its id is its own.
    checked(unsafe { libc::kill(process, libc::SIGSTOP) })?;
    trace(libc::PTRACE_DETACH as _, process, 0)?;
    wait_stopped(process, libc::WUNTRACED).map(drop)
}

fn trace(request: libc::c_long, process: libc::pid_t, data: libc::c_long) -> io::Result<()> {
    // SAFETY: these requests take no pointers.
    let status = unsafe { libc::ptrace(request as _, process, 0, data) };
    checked(status as libc::c_int).map(drop)
}

/// Waits until the process stops. Returns the signal.
fn wait_stopped(process: libc::pid_t, options: libc::c_int) -> io::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    checked(unsafe { libc::waitpid(process, &mut status, options) })?;
    if !libc::WIFSTOPPED(status) {
        return Err(io::Error::other(format!("it ended early: {status:#x}")));
    }
    Ok(libc::WSTOPSIG(status))
}
