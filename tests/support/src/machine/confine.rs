//! A child that has only its binary and the service account's files: restricted as by the DaemonSet, and a little more.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::machine::system::{c_path, checked, mount, write};

/// The system calls that a statically linked k6u may make. All of them are in the default profile of container runtimes
/// (containers-common, seccomp.json). Any other call kills the process.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_ioctl,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setitimer,
    libc::SYS_setsockopt,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_pointer_width = "64")]
    libc::SYS_mmap,
    #[cfg(target_pointer_width = "64")]
    libc::SYS_newfstatat,
    #[cfg(target_arch = "arm")]
    libc::SYS_clock_getres,
    #[cfg(target_arch = "arm")]
    libc::SYS_fcntl64,
    #[cfg(target_arch = "arm")]
    libc::SYS_fstat64,
    #[cfg(target_arch = "arm")]
    libc::SYS_fstatat64,
    #[cfg(target_arch = "arm")]
    libc::SYS_mmap2,
    #[cfg(target_arch = "arm")]
    libc::SYS_open,
    #[cfg(target_arch = "arm")]
    libc::SYS_poll,
    #[cfg(target_arch = "arm")]
    libc::SYS_readlink,
    #[cfg(target_arch = "arm")]
    arm::CLOCK_GETTIME64,
    #[cfg(target_arch = "arm")]
    arm::CLOCK_NANOSLEEP_TIME64,
    #[cfg(target_arch = "arm")]
    arm::PPOLL_TIME64,
    #[cfg(target_arch = "arm")]
    arm::SET_TLS,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_alarm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// System calls that libc does not name: those with 64 bits of time of 32-bit machines (asm-generic/unistd.h), and
/// __ARM_NR_set_tls (asm/unistd.h), which corresponds to arch_prctl on x86-64.
#[cfg(target_arch = "arm")]
mod arm {
    pub const CLOCK_GETTIME64: libc::c_long = 403;
    pub const CLOCK_NANOSLEEP_TIME64: libc::c_long = 407;
    pub const PPOLL_TIME64: libc::c_long = 414;
    pub const SET_TLS: libc::c_long = 0x000f_0005;
}

/// A flag of linux/statfs.h that musl does not name.
const ST_RELATIME: libc::c_ulong = 0x1000;

/// The folder of the service account's files in the child's root.
pub const ACCOUNT: &str = "/account";

/// The data for the steps between fork and exec, allocated before the fork.
struct Confinement {
    /// The folder that becomes the root, and in it the paths of the binary and of the account's folder.
    root: CString,
    binary_at: CString,
    account_at: CString,
    binary: CString,
    account: CString,
    filter: Vec<libc::sock_filter>,
}

/// Lets `command`, whose program is `/k6u`, run as user 1000 without any capability, on a read-only root
/// with nothing in it but `binary` as `/k6u` and `account` as [`ACCOUNT`], under a seccomp filter. `place`
/// is an empty folder.
pub fn confine(command: &mut Command, binary: &Path, account: &Path, place: &Path) {
    let confinement = Confinement {
        root: c_path(place),
        binary_at: c_path(&place.join("k6u")),
        account_at: c_path(&place.join("account")),
        binary: c_path(binary),
        account: c_path(account),
        filter: filter(),
    };
    // SAFETY: between fork and exec the closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(move || confinement.enter()) };
}

impl Confinement {
    fn enter(&self) -> io::Result<()> {
        // SAFETY: no pointers are passed; a child has one thread.
        checked(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })?;
        write(c"/proc/self/setgroups", b"deny")?;
        write(c"/proc/self/uid_map", b"1000 0 1")?;
        write(c"/proc/self/gid_map", b"1000 0 1")?;
        mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
        mount(Some(c"tmpfs"), &self.root, Some(c"tmpfs"), 0)?;
        // SAFETY: the string ends in NUL and outlives the call.
        let file = checked(unsafe { libc::open(self.binary_at.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o755) })?;
        // SAFETY: it was just opened, and nothing else uses it.
        checked(unsafe { libc::close(file) })?;
        // SAFETY: the string ends in NUL and outlives the call.
        checked(unsafe { libc::mkdir(self.account_at.as_ptr(), 0o755) })?;
        mount(Some(&self.binary), &self.binary_at, None, libc::MS_BIND)?;
        mount(Some(&self.account), &self.account_at, None, libc::MS_BIND)?;
        for place in [&self.binary_at, &self.account_at, &self.root] {
            read_only(place)?;
        }
        // SAFETY: the string ends in NUL and outlives the call.
        checked(unsafe { libc::chroot(self.root.as_ptr()) })?;
        // SAFETY: the string ends in NUL and outlives the call.
        checked(unsafe { libc::chdir(c"/".as_ptr()) })?;
        self.drop_rights()
    }

    fn drop_rights(&self) -> io::Result<()> {
        // A user who is not root loses all capabilities at exec. The bounding set has those that it could regain.
        // SAFETY: no pointers are passed. The first capability that the kernel does not know ends the loop.
        let drop = |capability: libc::c_ulong| unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        (0..64).take_while(|capability| drop(*capability) == 0).for_each(|_| {});
        // SAFETY: no pointers are passed.
        checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        let program = libc::sock_fprog {
            len: self.filter.len() as u16,
            filter: self.filter.as_ptr().cast_mut(),
        };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the program describes the filter; the kernel copies it and writes nothing.
        checked(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, 0, 0) })?;
        Ok(())
    }
}

/// A BPF program that allows [`ALLOWED`] and the sockets that k6u needs, and kills the process at any other call
/// (linux/seccomp.h; struct seccomp_data has the number at 0 and the arguments from 16 on).
fn filter() -> Vec<libc::sock_filter> {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    // Skips the first number of instructions if the loaded value is this one, else the second.
    let is = |value: u32, then: u8, otherwise: u8| libc::sock_filter {
        jt: then,
        jf: otherwise,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let answer = |answer: u32| statement(libc::BPF_RET | libc::BPF_K, answer);
    let (allow, kill) = (answer(libc::SECCOMP_RET_ALLOW), answer(libc::SECCOMP_RET_KILL_PROCESS));
    let mut program = vec![load(0)];
    for number in ALLOWED {
        program.extend([is(*number as u32, 0, 1), allow]);
    }
    // Runtimes refuse NETLINK_AUDIT; k6u needs NETLINK_ROUTE only, and the internet.
    program.extend([is(libc::SYS_socket as u32, 1, 0), kill]);
    program.extend([load(16), is(libc::AF_INET as u32, 0, 1), allow]);
    program.extend([is(libc::AF_INET6 as u32, 0, 1), allow]);
    // if_nametoindex(3) uses such a socket.
    program.extend([is(libc::AF_UNIX as u32, 0, 1), allow]);
    program.extend([is(libc::AF_NETLINK as u32, 1, 0), kill]);
    program.extend([load(32), is(libc::NETLINK_ROUTE as u32, 0, 1), allow, kill]);
    program
}

/// Makes a mount read-only. Its other restrictions have to stay (mount_namespaces(7)).
fn read_only(place: &CStr) -> io::Result<()> {
    // SAFETY: all-zero is a valid statvfs: plain integers.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the string ends in NUL, `found` is writable, and both outlive the call.
    checked(unsafe { libc::statvfs(place.as_ptr(), &mut found) })?;
    let kept = [
        (libc::ST_NOSUID, libc::MS_NOSUID),
        (libc::ST_NODEV, libc::MS_NODEV),
        (libc::ST_NOEXEC, libc::MS_NOEXEC),
        (libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (ST_RELATIME, libc::MS_RELATIME),
    ];
    let kept = kept.iter().filter(|(flag, _)| found.f_flag & flag != 0);
    let flags = kept.fold(0, |flags, (_, flag)| flags | flag);
    mount(
        None,
        place,
        None,
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | flags,
    )
}
