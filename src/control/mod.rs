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
//! profiles.json            what was learned of templates; for root and the mount's user
//! profiles/KEY             one profile as it is exported; removed to clear it
//! profiles/import          written to, takes over a profile
//! views/ID/status          one view's figures, one `key: value` a line
//! views/ID/pages           which of its pages are whose, one run a line
//! views/ID/resident        which of them the processes that map it have in memory
//! ```

mod attributes;
mod incoming;
mod paths;
mod render;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;

use crate::access::Caller;
use crate::engine::{Attributes, DirectoryEntry, Engine, FIRST_FOREIGN, FileKind, RESENT, ROOT};
use crate::error::{Error, Result};
use crate::inspect::Inspector;
use crate::name::printable;
use crate::profile::Profiles;
pub use attributes::{Attribute, missing};
use paths::{Entry, Paths};

pub use paths::{DIRECTORY_NODE, WARM, WARM_NAME};

pub const DIRECTORY: &[u8] = b".templatefs";

pub struct Control {
    engine: Arc<Engine>,
    /// Set once the mount is there.
    inspector: Arc<OnceLock<Inspector>>,
    profiles: Arc<Profiles>,
    paths: Paths,
    open: DashMap<u64, Arc<Vec<u8>>>,
    incoming: DashMap<u64, Vec<u8>>,
    next_handle: AtomicU64,
}

impl Control {
    pub fn new(engine: Arc<Engine>, inspector: Arc<OnceLock<Inspector>>, profiles: Arc<Profiles>) -> Self {
        // What earlier daemons have dealt out comes never again.
        let first = FIRST_FOREIGN + (engine.takeovers() << 32);
        let (paths, next_handle) = (Paths::new(first), AtomicU64::new(first));
        Self {
            engine,
            inspector,
            profiles,
            paths,
            open: DashMap::new(),
            incoming: DashMap::new(),
            next_handle,
        }
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
        if parent == WARM {
            let id = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
            return self.engine.look_up_warming(caller, id.unwrap_or(0));
        }
        let entry = if parent == ROOT { Some(Entry::Root) } else { self.paths.get(parent)?.child(name) };
        let missing =
            || Error::NotFound(format!(".templatefs/{}: there is no such control file", printable(name)));
        let entry = entry.ok_or_else(missing)?;
        let is_there = match &entry {
            Entry::View(id) => self.visible(caller, id),
            Entry::Profile(key) => self.profiles.has(key),
            Entry::Warm => self.engine.warms(),
            _ => true,
        };
        match is_there {
            true => Ok(attributes(self.paths.look_up(entry.clone()), &entry)),
            false => Err(missing()),
        }
    }

    pub fn forget(&self, node: u64, lookups: u64) {
        self.paths.forget(node, lookups);
    }

    pub fn getattr(&self, node: u64) -> Result<Attributes> {
        Ok(attributes(node, &self.paths.get(node)?))
    }

    pub fn list(&self, caller: &Caller, node: u64) -> Result<Vec<DirectoryEntry>> {
        let entry = self.paths.get(node)?;
        if let Entry::Views = entry {
            let name = |id: String| DirectoryEntry { name: id.into(), is_directory: true };
            return Ok(self.engine.view_ids(caller).into_iter().map(name).collect());
        }
        if let Entry::Profiles = entry {
            let name = |key: String| DirectoryEntry { name: key.into(), is_directory: false };
            let names = self.profiles.keys().into_iter().chain(["import".into()]);
            return Ok(names.map(name).collect());
        }
        let file = |(name, is_directory): (&str, bool)| DirectoryEntry { name: name.into(), is_directory };
        Ok(entry.fixed_children().iter().copied().map(file).collect())
    }

    /// Collects what a file shows. Takes its time and opens files of the mount: never to be
    /// called by a thread that serves it.
    pub fn open(&self, caller: &Caller, node: u64) -> Result<u64> {
        let entry = self.paths.get(node)?;
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        if entry == Entry::Import {
            self.incoming.insert(handle, Vec::new());
            return Ok(handle);
        }
        let content = self.render(caller, &entry)?;
        self.open.insert(handle, Arc::new(content));
        Ok(handle)
    }

    pub fn read(&self, handle: u64, offset: u64, size: usize) -> Result<Vec<u8>> {
        let content = self.open.get(&handle).map(|content| content.clone());
        let content = content.ok_or_else(|| Error::Stale("a control file: open it again".into()))?;
        let from = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        Ok(content[from..content.len().min(from.saturating_add(size))].to_vec())
    }

    /// Removing a profile's file clears it. The kernel has asked the directory's mode.
    pub fn unlink(&self, caller: &Caller, parent: u64, name: &[u8], request: u64) -> Result<()> {
        let shown = printable(name);
        match self.paths.get(parent)?.child(name) {
            Some(Entry::Profile(key)) if self.profiles.clear(&key) => {
                log::info!("profile {key} was cleared by user {}", caller.uid);
                Ok(())
            }
            // A daemon that died has cleared it, and could not say so.
            Some(Entry::Profile(_)) if request & RESENT != 0 => Ok(()),
            Some(Entry::Profile(_)) => Err(Error::NotFound(format!("profile {shown}: there is none"))),
            _ => Err(Error::ReadOnly(format!(".templatefs/{shown}: a control file cannot be removed"))),
        }
    }

    pub fn release(&self, handle: u64) {
        self.open.remove(&handle);
        self.incoming.remove(&handle);
    }

    /// Waits until the mount is complete, which follows its first answer at once.
    fn inspector(&self) -> &Inspector {
        self.inspector.wait()
    }

    fn visible(&self, caller: &Caller, id: &str) -> bool {
        self.engine.view_ids(caller).contains(id)
    }
}

/// As in /proc, a file's size is not known before it is opened. What touches all users is for root
/// and the mount's user.
fn attributes(node: u64, entry: &Entry) -> Attributes {
    let now = SystemTime::now();
    let is_directory = entry.is_directory();
    Attributes {
        node,
        kind: if is_directory { FileKind::Directory } else { FileKind::File },
        size: 0,
        blocks: 0,
        mode: match entry {
            Entry::Profiles => 0o700,
            Entry::Warm => 0o500,
            Entry::ProfilesJson | Entry::Profile(_) => 0o400,
            Entry::Import => 0o200,
            _ if is_directory => 0o555,
            _ => 0o444,
        },
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
