//! Which processes hold a mount busy.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

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

/// How long to look. The kernel shows a process's mappings only when that process is not changing
/// them, and one that ends or calls execve(2) while its dirty pages wait for room (errands.rs)
/// takes until there is some.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Found {
    pub holders: Vec<Holder>,
    /// False where a process could not be looked at in time.
    pub complete: bool,
}

/// The processes with a working directory, an open file or a mapping below `mountpoint`, as far
/// as /proc shows them to this user. It only reads /proc, so that a mount that does not answer
/// cannot stop it.
pub fn holders(mountpoint: &Path) -> Found {
    let (sender, receiver) = channel();
    let mountpoint = mountpoint.to_owned();
    let looking = thread::Builder::new().name("holders".into()).spawn(move || look(&mountpoint, &sender));
    let end = Instant::now() + PATIENCE;
    let mut holders = Vec::new();
    loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(holder) => holders.push(holder),
            Err(RecvTimeoutError::Disconnected) => return Found { holders, complete: looking.is_ok() },
            Err(RecvTimeoutError::Timeout) => return Found { holders, complete: false },
        }
    }
}

/// First what can be seen of a process at any time, then the mappings of the others.
fn look(mountpoint: &Path, found: &Sender<Holder>) {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others: Vec<u32> = processes.filter(|pid| *pid != std::process::id()).collect();
    let tell = |pid: u32, what| {
        let _ = found.send(Holder { pid, comm: comm(pid), what });
    };
    let mut rest = Vec::new();
    for pid in others {
        match linked(pid, mountpoint) {
            Some(what) => tell(pid, what),
            None => rest.push(pid),
        }
    }
    for pid in rest {
        if let Some(what) = mapped(pid, mountpoint) {
            tell(pid, what);
        }
    }
}

fn linked(pid: u32, mountpoint: &Path) -> Option<String> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let below = |link: &Path| std::fs::read_link(link).ok().filter(|target| target.starts_with(mountpoint));
    for (link, what) in [("cwd", "working directory"), ("root", "root directory"), ("exe", "program")] {
        if let Some(target) = below(&process.join(link)) {
            return Some(format!("{what} {}", shown(&target)));
        }
    }
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let target = open.into_iter().find_map(|fd| below(&fd.path()))?;
    Some(format!("open file {}", shown(&target)))
}

fn mapped(pid: u32, mountpoint: &Path) -> Option<String> {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
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
    let Found { holders, complete } = holders(mountpoint);
    let list: Vec<String> = holders.iter().take(8).map(Holder::to_string).collect();
    let more = match holders.len().saturating_sub(8) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let who = match (list.is_empty(), complete) {
        (true, true) => "by a process that this user cannot see".into(),
        (true, false) => "by a process that could not be looked at".into(),
        (false, true) => list.join("; "),
        (false, false) => format!("{}; not every process could be looked at", list.join("; ")),
    };
    format!("{}: busy: {who}{more}; end what uses it and unmount again", mountpoint.display())
}
