//! An open file, and how its data moves.

use std::sync::Arc;

use super::nodes::{Content, Node};
use super::shares::Claim;
use crate::access::Caller;
use crate::error::{Error, Result};
use crate::memory::MemoryView;
use crate::pins::Pinned;

pub type HandleId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Access {
    pub read: bool,
    pub write: bool,
}

pub struct Opened {
    pub handle: HandleId,
    pub plane: Plane,
    /// The kernel's name for the file that it reads by itself.
    pub backing: Option<u32>,
    /// The kernel was given pages of this node that it has no use for.
    pub drop_cache: bool,
    /// By one who looks at its page cache, and must not wait for it to be written back.
    pub inspection: bool,
}

/// How an open file's data moves.
#[derive(Clone)]
pub enum Plane {
    /// Nothing but the template, opened for reading only: the kernel may read it by itself. This
    /// is the only plane that may be passed through, and [`ReadOnly`] can be made nowhere else:
    /// the kernel reopens a backing file with its caller's flags and asks no permission.
    Template(ReadOnly),
    /// READ and WRITE, and the page cache belongs to the node. Unless `keep`, an open drops what
    /// is cached: the file may have been changed elsewhere.
    Cached { keep: bool },
    /// A view that is its own file: the kernel reads and writes it by itself, for every open of
    /// the node.
    Memory(Arc<MemoryView>),
}

/// A template that was opened without the right to write.
#[derive(Clone)]
pub struct ReadOnly(Arc<Pinned>);

impl ReadOnly {
    pub(super) fn new(pinned: Arc<Pinned>, access: Access) -> Result<Self> {
        match access.write {
            false => Ok(Self(pinned)),
            true => Err(Error::Denied("a template is never opened for writing by a view".into())),
        }
    }

    pub fn pinned(&self) -> &Arc<Pinned> {
        &self.0
    }
}

/// What RELEASE leaves to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Released {
    Nothing,
    /// The node's view is gone: the kernel should drop the pages it caches of it.
    DropCache(u64),
}

/// One open file.
pub struct Handle {
    pub node: Arc<Node>,
    pub content: Content,
    pub access: Access,
    /// As in [`Opened`].
    pub backing: Option<u32>,
    pub opener: Caller,
    /// Opened by the daemon, to look at it.
    pub inspection: bool,
    pub _claim: Claim,
}
