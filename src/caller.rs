//! Who is behind a request, and what /proc tells about its process.

use crate::access::Caller;
use crate::broker::{self, ProcessFile};

/// Root, or the user who mounted.
pub fn is_operator(caller: &Caller) -> bool {
    caller.uid == 0 || caller.uid == rustix::process::geteuid().as_raw()
}

/// The supplementary groups of the thread that waits for this request's answer; None where the
/// daemon cannot see it.
pub fn supplementary_groups(caller: &Caller) -> Option<Vec<u32>> {
    if caller.pid == 0 {
        return None;
    }
    let groups = status_field(caller.pid, "Groups:")?;
    groups.split_whitespace().map(|group| group.parse().ok()).collect()
}

/// The process of a thread: the kernel names the thread that asked. A thread that has ended stays
/// what it was called.
pub fn process_of(thread: u32) -> u32 {
    status_field(thread, "Tgid:").and_then(|id| id.trim().parse().ok()).unwrap_or(thread)
}

fn status_field(thread: u32, field: &str) -> Option<String> {
    let status = broker::read(thread, ProcessFile::Status).ok()?;
    String::from_utf8_lossy(&status).lines().find_map(|line| line.strip_prefix(field)).map(str::to_owned)
}

/// The command name of a process; empty where it is unknown.
pub fn comm(pid: u32) -> String {
    let name = broker::read(pid, ProcessFile::Comm).unwrap_or_default();
    crate::name::printable(name.trim_ascii_end())
}

/// Of the real, effective, saved and filesystem's id.
const EFFECTIVE: usize = 1;

/// Who a process runs as; None where it is gone.
pub fn uid_of(pid: u32) -> Option<u32> {
    let ids = status_field(pid, "Uid:")?;
    ids.split_whitespace().nth(EFFECTIVE)?.parse().ok()
}
