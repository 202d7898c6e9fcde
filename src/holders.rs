//! Which processes hold a mount busy.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::caller::comm;
use crate::name::printable;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub comm: String,
    /// One of the things that it holds.
    pub what: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.comm, self.pid, self.what)
    }
}

/// The processes with a working directory, an open file or a mapping below `mountpoint`, as far
/// as /proc shows them to this user. It only reads /proc, so that a mount that does not answer
/// cannot stop it.
pub fn holders(mountpoint: &Path) -> Vec<Holder> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        if let Some(what) = held(&entry.path(), mountpoint) {
            found.push(Holder { pid, comm: comm(pid), what });
        }
    }
    found
}

fn held(process: &Path, mountpoint: &Path) -> Option<String> {
    let below = |link: &Path| std::fs::read_link(link).ok().filter(|target| target.starts_with(mountpoint));
    for (link, what) in [("cwd", "working directory"), ("root", "root directory"), ("exe", "program")] {
        if let Some(target) = below(&process.join(link)) {
            return Some(format!("{what} {}", shown(&target)));
        }
    }
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if let Some(target) = open.into_iter().find_map(|fd| below(&fd.path())) {
        return Some(format!("open file {}", shown(&target)));
    }
    let maps = std::fs::read(process.join("maps")).ok()?;
    let paths = maps.split(|b| *b == b'\n').filter_map(|line| {
        let at = line.iter().position(|b| *b == b'/')?;
        Some(Path::new(OsStr::from_bytes(&line[at..])))
    });
    let mapped = paths.into_iter().find(|path: &&Path| path.starts_with(mountpoint))?;
    Some(format!("mapping of {}", shown(mapped)))
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

/// The line that tells a user why a mount cannot be unmounted.
pub fn busy(mountpoint: &Path) -> String {
    let holders = holders(mountpoint);
    let list: Vec<String> = holders.iter().take(8).map(Holder::to_string).collect();
    let more = match holders.len().saturating_sub(8) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let who = if list.is_empty() { "by a process that this user cannot see".into() } else { list.join("; ") };
    format!("{}: busy: {who}{more}; end what uses it and unmount again", mountpoint.display())
}
