//! Open directories: a listing is made once, so that it stays whole while it is read in parts.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use fuser::{FileType, INodeNo, ReplyDirectory};

use crate::engine::DirectoryEntry;
use crate::error::Result;

/// What DT_* a listing shows is true, but which node an entry becomes is not known before LOOKUP.
const UNKNOWN_INO: INodeNo = INodeNo(0xffff_ffff);

pub struct Directories {
    open: DashMap<u64, Arc<Vec<DirectoryEntry>>>,
    next: AtomicU64,
}

impl Directories {
    /// With other numbers than those that an earlier daemon has dealt out.
    pub fn new(takeovers: u64) -> Self {
        Self { open: DashMap::new(), next: AtomicU64::new((takeovers << 32) + 1) }
    }

    pub fn next_handle(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// What an open directory holds. One that is not known here is opened now, or an earlier daemon
    /// has opened it.
    pub fn entries(
        &self,
        handle: u64,
        list: impl FnOnce() -> Result<Vec<DirectoryEntry>>,
    ) -> Result<Arc<Vec<DirectoryEntry>>> {
        if let Some(entries) = self.open.get(&handle) {
            return Ok(entries.clone());
        }
        let entries = Arc::new(list()?);
        self.open.insert(handle, entries.clone());
        Ok(entries)
    }

    pub fn close(&self, handle: u64) {
        self.open.remove(&handle);
    }
}

/// The entries from `offset` on, as many as there is room for.
pub fn answer(directory: INodeNo, entries: &[DirectoryEntry], offset: u64, mut reply: ReplyDirectory) {
    let own = [(directory, FileType::Directory, &b"."[..]), (UNKNOWN_INO, FileType::Directory, b"..")];
    let listed = entries.iter().map(|entry| {
        let kind = if entry.is_directory { FileType::Directory } else { FileType::RegularFile };
        (UNKNOWN_INO, kind, entry.name.as_slice())
    });
    for (index, (ino, kind, name)) in own.into_iter().chain(listed).enumerate().skip(offset as usize) {
        if reply.add(ino, index as u64 + 1, kind, OsStr::from_bytes(name)) {
            break;
        }
    }
    reply.ok();
}
