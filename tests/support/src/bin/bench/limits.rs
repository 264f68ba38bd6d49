//! The pod's limits, as the kubelet sets them for 8m CPU and 16Mi memory.

use std::ffi::CString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use k6u_testkit::machine::system::{c_path, write};

/// The minimum quota of the kernel; 8m of 100 ms would be 800 us.
const QUOTA_US: u32 = 1000;
const PERIOD_US: u32 = 100_000;
const MEMORY: u32 = 16 * 1024 * 1024;

/// Control groups with these limits, which are removed when this is dropped.
pub struct Limits(Vec<PathBuf>);

impl Limits {
    /// New control groups, of the machine's version; `None` where that is forbidden.
    pub fn make() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("k6u-bench-{}", std::process::id());
        let set = |file: PathBuf, value: String| fs::write(file, value).ok();
        if root.join("cgroup.controllers").exists() {
            // Version 2 has to enable controllers for the children. If they are enabled, this changes nothing.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu +memory");
            let limits = Limits(vec![root.join(name)]);
            let folder = &limits.0[0];
            fs::create_dir(folder).ok()?;
            set(folder.join("cpu.max"), format!("{QUOTA_US} {PERIOD_US}"))?;
            set(folder.join("memory.max"), MEMORY.to_string())?;
            return Some(limits);
        }
        let limits = Limits(
            ["cpu", "memory"]
                .map(|controller| root.join(controller).join(&name))
                .to_vec(),
        );
        for folder in &limits.0 {
            fs::create_dir(folder).ok()?;
        }
        set(limits.0[0].join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
        set(limits.0[0].join("cpu.cfs_quota_us"), QUOTA_US.to_string())?;
        set(limits.0[1].join("memory.limit_in_bytes"), MEMORY.to_string())?;
        Some(limits)
    }

    /// Puts a child under the limits before its first instruction.
    pub fn hold(&self, command: &mut Command) {
        let files = self.0.iter().map(|folder| folder.join("cgroup.procs"));
        let files: Vec<CString> = files.map(|file| c_path(&file)).collect();
        // 0 stands for the writing process.
        let enter = move || files.iter().try_for_each(|file| write(file, b"0"));
        // SAFETY: between fork and exec the closure makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(enter) };
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for folder in &self.0 {
            // It is empty once the process has ended.
            let _ = fs::remove_dir(folder);
        }
    }
}
