//! System calls for the time between fork and exec, which allocate nothing.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path for the kernel. It allocates, so it has to be made before the fork.
///
/// # Panics
/// If the path contains NUL.
pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path without NUL")
}

/// Calls mount(2) without data.
///
/// # Errors
/// Those of mount(2).
pub fn mount(source: Option<&CStr>, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    let (source, kind) = (pointer(source), pointer(kind));
    // SAFETY: each pointer is null, which mount allows for it, or a string that outlives the call.
    checked(unsafe { libc::mount(source, target.as_ptr(), kind, flags, std::ptr::null()) }).map(drop)
}

/// Writes a short text into an existing file.
///
/// # Errors
/// Those of open(2), write(2) and close(2).
pub fn write(path: &CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: the string ends in NUL and outlives the call.
    let file = checked(unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) })?;
    // SAFETY: the pointer and the length describe the text, which outlives the call.
    let written = unsafe { libc::write(file, text.as_ptr().cast(), text.len()) };
    let result = checked(written as libc::c_int);
    // SAFETY: it was just opened, and nothing else uses it.
    checked(unsafe { libc::close(file) })?;
    result.map(drop)
}

/// The result of a system call, or its error.
///
/// # Errors
/// errno, if it is negative.
pub fn checked(status: libc::c_int) -> io::Result<libc::c_int> {
    if status >= 0 {
        Ok(status)
    } else {
        Err(io::Error::last_os_error())
    }
}
