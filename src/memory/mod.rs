//! Private views in memory of their own: a memfd that holds the template's data and is passed
//! through, so that the kernel serves every fault and nothing is ever written back.
//!
//! Such a view needs nothing of the template any more, nor of this process once it is mapped.

mod choose;
mod fill;
mod pool;

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

pub use choose::{Choice, Circumstances, choose};
pub use fill::filled;
pub use pool::Pool;

use crate::error::{Error, Result};
use crate::keeper::{Keeper, Kept, KeptHere};
use crate::overlay::{PAGE, State};

/// A private view that is its own file.
pub struct MemoryView {
    pub file: File,
    owner: Mutex<Owner>,
    /// It has no path: a successor finds it by what the keeper keeps.
    _kept: KeptHere,
    /// Whatever the one who serves it wants to keep exactly as long.
    pub attachment: OnceLock<Box<dyn Any + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl MemoryView {
    pub fn new(file: File, node: u64, uid: u32, gid: u32, keeper: &Arc<Keeper>) -> Self {
        let kept = KeptHere::new(keeper, key(node), &file);
        Self::with(file, kept, uid, gid)
    }

    /// The view that an earlier daemon had at `node`. Its mode is that of a new one again.
    pub fn again(node: u64, uid: u32, gid: u32, keeper: &Arc<Keeper>, kept: &mut Kept) -> Result<Self> {
        let key = key(node);
        let gone = || Error::Stale(format!("node {node}: its memory was not kept"));
        let file = File::from(kept.remove(&key).ok_or_else(gone)?);
        Ok(Self::with(file, KeptHere::again(keeper, key), uid, gid))
    }

    fn with(file: File, kept: KeptHere, uid: u32, gid: u32) -> Self {
        let owner = Mutex::new(Owner { uid, gid, mode: 0o600 });
        Self { file, owner, _kept: kept, attachment: OnceLock::new() }
    }

    pub fn owner(&self) -> Owner {
        *self.owner.lock()
    }

    pub fn change_owner(&self, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) {
        let mut owner = self.owner.lock();
        owner.uid = uid.unwrap_or(owner.uid);
        owner.gid = gid.unwrap_or(owner.gid);
        owner.mode = mode.map_or(owner.mode, |mode| mode & 0o777);
    }

    /// Its size, and the memory that it takes, both in bytes.
    pub fn size_and_usage(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.len(), metadata.blocks() * 512))
    }

    /// fallocate(FALLOC_FL_ZERO_RANGE), which a memfd does not know.
    pub fn zero_range(&self, offset: u64, length: u64, keep_size: bool) -> io::Result<()> {
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?;
        if !keep_size && end > self.file.metadata()?.len() {
            self.file.set_len(end)?;
        }
        Ok(())
    }

    /// What is in memory, as runs: first page, how many, state. What is not reads as zeros, as
    /// the template's holes do.
    pub fn page_runs(&self) -> io::Result<Vec<(u64, u64, State)>> {
        let pages = self.file.metadata()?.len().div_ceil(PAGE);
        let mut runs = Vec::new();
        let mut at = 0;
        while at < pages {
            let data = match seek(&self.file, SeekFrom::Data(at * PAGE)) {
                Err(Errno::NXIO) => pages,
                data => data? / PAGE,
            };
            let hole = match data {
                _ if data >= pages => pages,
                _ => seek(&self.file, SeekFrom::Hole(data * PAGE))?.div_ceil(PAGE),
            };
            runs.extend([(at, data - at, State::Template), (data, hole - data, State::Private)]);
            at = hole;
        }
        runs.retain(|(_, count, _)| *count > 0);
        Ok(runs)
    }
}

const KEY: &str = "memory:";

fn key(node: u64) -> String {
    format!("{KEY}{node}")
}

pub fn knows_key(kept: &str) -> bool {
    kept.starts_with(KEY)
}

/// Memory that could be had without swapping, in bytes (proc_meminfo(5), MemAvailable).
pub fn available_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))
}
