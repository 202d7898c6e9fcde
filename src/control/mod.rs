//! `.templatefs/`, the control directory at a mount's root, like /proc: hidden from listings, and
//! its files hold what is known at the moment they are opened.
//!
//! ```text
//! version                  of the daemon
//! state                    its state directory
//! views.json               the figures of the views that the reader may see (docs/INSPECT.md)
//! templates.json           the templates that the reader may read
//! metrics                  the same, added up, in Prometheus' text format
//! pages                    of all views, what `pages` and `resident` are of one
//! views/ID/status          one view's figures, one `key: value` a line
//! views/ID/pages           which of its pages are whose, one run a line
//! views/ID/resident        which of them the processes that map it have in memory
//! ```

mod attributes;
mod paths;
mod render;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;

use crate::access::Caller;
use crate::engine::{Attributes, DirectoryEntry, Engine, FIRST_FOREIGN, FileKind, ROOT};
use crate::error::{Error, Result};
use crate::inspect::Inspector;
use crate::name::printable;
pub use attributes::{Attribute, missing};
use paths::{Entry, Paths};

pub const DIRECTORY: &[u8] = b".templatefs";

pub struct Control {
    engine: Arc<Engine>,
    /// Set once the mount is there.
    inspector: Arc<OnceLock<Inspector>>,
    paths: Paths,
    open: DashMap<u64, Arc<Vec<u8>>>,
    next_handle: AtomicU64,
}

impl Control {
    pub fn new(engine: Arc<Engine>, inspector: Arc<OnceLock<Inspector>>) -> Self {
        // What earlier daemons have dealt out comes never again.
        let first = FIRST_FOREIGN + (engine.takeovers() << 32);
        let (paths, next_handle) = (Paths::new(first), AtomicU64::new(first));
        Self { engine, inspector, paths, open: DashMap::new(), next_handle }
    }

    /// Is this node, or this open file, one of the control directory's?
    pub fn owns(id: u64) -> bool {
        id >= FIRST_FOREIGN
    }

    /// Does `name` in `parent` lead here?
    pub fn owns_entry(parent: u64, name: &[u8]) -> bool {
        Self::owns(parent) || (parent == ROOT && name == DIRECTORY)
    }

    pub fn lookup(&self, caller: &Caller, parent: u64, name: &[u8]) -> Result<Attributes> {
        let entry = if parent == ROOT { Some(Entry::Root) } else { self.paths.get(parent)?.child(name) };
        let missing =
            || Error::NotFound(format!(".templatefs/{}: there is no such control file", printable(name)));
        let entry = entry.ok_or_else(missing)?;
        if let Entry::View(id) = &entry
            && !self.visible(caller, id)
        {
            return Err(missing());
        }
        let is_directory = entry.is_directory();
        Ok(attributes(self.paths.look_up(entry), is_directory))
    }

    pub fn forget(&self, node: u64, lookups: u64) {
        self.paths.forget(node, lookups);
    }

    pub fn getattr(&self, node: u64) -> Result<Attributes> {
        Ok(attributes(node, self.paths.get(node)?.is_directory()))
    }

    pub fn list(&self, caller: &Caller, node: u64) -> Result<Vec<DirectoryEntry>> {
        let entry = self.paths.get(node)?;
        if let Entry::Views = entry {
            let name = |id: String| DirectoryEntry { name: id.into(), is_directory: true };
            return Ok(self.engine.view_ids(caller).into_iter().map(name).collect());
        }
        let file = |(name, is_directory): (&str, bool)| DirectoryEntry { name: name.into(), is_directory };
        Ok(entry.fixed_children().iter().copied().map(file).collect())
    }

    /// Collects what a file shows. Takes its time and opens files of the mount: never to be
    /// called by a thread that serves it.
    pub fn open(&self, caller: &Caller, node: u64) -> Result<u64> {
        let content = self.render(caller, &self.paths.get(node)?)?;
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.open.insert(handle, Arc::new(content));
        Ok(handle)
    }

    pub fn read(&self, handle: u64, offset: u64, size: usize) -> Result<Vec<u8>> {
        let content = self.open.get(&handle).map(|content| content.clone());
        let content = content.ok_or_else(|| Error::Stale("a control file: open it again".into()))?;
        let from = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        Ok(content[from..content.len().min(from.saturating_add(size))].to_vec())
    }

    pub fn release(&self, handle: u64) {
        self.open.remove(&handle);
    }

    /// Waits until the mount is complete, which follows its first answer at once.
    fn inspector(&self) -> &Inspector {
        self.inspector.wait()
    }

    fn visible(&self, caller: &Caller, id: &str) -> bool {
        self.engine.view_ids(caller).contains(id)
    }
}

/// As in /proc, a file's size is not known before it is opened.
fn attributes(node: u64, is_directory: bool) -> Attributes {
    let now = SystemTime::now();
    Attributes {
        node,
        kind: if is_directory { FileKind::Directory } else { FileKind::File },
        size: 0,
        blocks: 0,
        mode: if is_directory { 0o555 } else { 0o444 },
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        atime: now,
        mtime: now,
        ctime: now,
        valid: Duration::ZERO,
        entry_valid: Duration::ZERO,
    }
}
