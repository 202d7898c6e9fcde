//! What /proc tells about the process behind a request.

use crate::access::Caller;

/// The supplementary groups of the thread that waits for this request's answer; None where the
/// daemon cannot see it.
pub fn supplementary_groups(caller: &Caller) -> Option<Vec<u32>> {
    if caller.pid == 0 {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"))?;
    line.split_whitespace().map(|group| group.parse().ok()).collect()
}

/// The command name of a process; empty where it is unknown.
pub fn comm(pid: u32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    crate::name::printable(name.trim_ascii_end())
}
