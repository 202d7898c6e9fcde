//! The processes of a mount, as the kernel tells of them.

use std::fs;

use rustix::process::Pid;

use super::mounted::Mounted;

/// Those that a process has started and not waited for yet (CONFIG_PROC_CHILDREN).
pub fn children(of: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", of.as_raw_pid())).into_iter().flatten().flatten();
    let started = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids = |text: String| -> Vec<Pid> {
        text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    };
    started.flat_map(pids).collect()
}

/// The process that serves or is about to: the latest that the holder has started for it and that lives. Also while
/// mount.json tells of another one.
pub fn serving(mounted: &Mounted) -> Option<Pid> {
    let serves = |pid: &Pid| {
        // Of a zombie it is empty.
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"serve")
    };
    children(mounted.daemon()).into_iter().filter(serves).max_by_key(|pid| pid.as_raw_pid())
}
