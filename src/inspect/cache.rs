//! What the kernel caches of views' inodes: cachestat(2) of open files, by a process of its own.
//!
//! A daemon must not wait for its own mount: one that is killed while it does can neither die nor
//! be answered. The process that looks gets lines `NODE PID...` and answers each with
//! `CACHED DIRTY` in pages, or `-` where it cannot tell.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::processes::OpenFiles;
use crate::broker::{Conversation, Looker};
use crate::engine::Engine;
use crate::mount::{self, Device};
use crate::sys;

/// Pages in the page cache, and those of them that are not written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cached {
    pub pages: u64,
    pub dirty: u64,
}

/// A node, and the processes that have it open.
pub type Wanted = (u64, Vec<u32>);

/// Looks at these nodes of a mount, in their order; what the looker opens is no use of them.
pub fn look(engine: &Engine, wanted: &[Wanted]) -> io::Result<Vec<Option<Cached>>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut looker = Conversation::begin(Looker::PageCache)?;
    let _inspecting = engine.inspecting(looker.process);
    let mut question = String::new();
    for (node, pids) in wanted {
        let pids: String = pids.iter().map(|pid| format!(" {pid}")).collect();
        let _ = writeln!(question, "{node}{pids}");
    }
    let mut asking = looker.questions()?;
    // Written elsewhere: neither side may wait for the other to empty what is full.
    let asking = std::thread::spawn(move || {
        let asked = asking.write_all(question.as_bytes());
        asking.shutdown(Shutdown::Write).and(asked)
    });
    let answers = looker.rest()?;
    let _ = asking.join();
    let mut found: Vec<Option<Cached>> = answers.lines().map(parse_answer).collect();
    found.resize(wanted.len(), None);
    Ok(found)
}

/// The process that looks.
pub fn answer(mountpoint: &Path, questions: impl BufRead, answers: impl Write) -> io::Result<()> {
    let mut answers = BufWriter::new(answers);
    writeln!(answers, "{}", std::process::id())?;
    answers.flush()?;
    let device = mount::device_of(mountpoint).map_err(io::Error::other)?;
    // Only root can reach an inode by its node id.
    let root = rustix::process::geteuid().is_root();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mount = root.then(|| openat(CWD, mountpoint, flags, Mode::empty())).transpose()?;
    let mut files = OpenFiles::default();
    for line in questions.lines() {
        let cached =
            open(&line?, device, mount.as_ref(), &mut files).and_then(|file| sys::cachestat(&file).ok());
        match cached {
            Some(stat) => writeln!(answers, "{} {}", stat.cached, stat.dirty + stat.writeback)?,
            None => writeln!(answers, "-")?,
        }
    }
    answers.flush()
}

fn open(line: &str, device: Device, mount: Option<&OwnedFd>, files: &mut OpenFiles) -> Option<File> {
    let mut words = line.split_ascii_whitespace().map(str::parse::<u64>);
    let node = words.next()?.ok()?;
    match mount {
        Some(mount) => sys::open_node(mount, node, OFlags::RDONLY).ok(),
        None => words.flatten().find_map(|pid| files.open_as(u32::try_from(pid).ok()?, device, node)),
    }
}

fn parse_answer(line: &str) -> Option<Cached> {
    let (pages, dirty) = line.split_once(' ')?;
    Some(Cached { pages: pages.parse().ok()?, dirty: dirty.parse().ok()? })
}
