//! What a node id stands for, and what is open of it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Warmth;
use crate::access::Caller;
use crate::budget::Promise;
use crate::engine::counters::Counters;
use crate::engine::ledger::path_bytes;
use crate::engine::shares::{Claim, ViewClaim};
use crate::memory::MemoryView;
use crate::name::Label;
use crate::pins::{Authored, Pinned};
use crate::rules::Backing;
use crate::store::{Identity, Metadata};
use crate::views::View;

/// What a node id stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum What {
    Directory {
        #[serde(with = "path_bytes")]
        path: PathBuf,
    },
    Rom {
        template: TemplateRef,
        vm: Option<Label>,
    },
    Template {
        template: TemplateRef,
    },
    Private(PrivateRef),
    /// Nobody's yet: the kernel is given pages of it before it becomes a private view (warming.rs).
    Warm {
        template: TemplateRef,
    },
    /// A view with a name that cannot be opened: it can be looked at and discarded.
    Leftover {
        view: Label,
        reason: String,
    },
}

/// Which template, as a LOOKUP found it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TemplateRef {
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    pub identity: Identity,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrivateRef {
    pub template: TemplateRef,
    pub view: Option<Label>,
    pub vm: Option<Label>,
    /// Only for a caller who may write the template file.
    pub if_writable: bool,
    /// As asked for; what `Auto` becomes is decided at the first OPEN for writing.
    pub backing: Backing,
    /// Who walked the path.
    pub uid: u32,
    pub gid: u32,
}

/// What an open node reads and writes.
#[derive(Clone)]
pub enum Content {
    /// Nothing but the template, for reading.
    Template(Arc<Pinned>),
    View(Arc<View>),
    Authored(Arc<Authored>),
    Memory(Arc<MemoryView>),
}

impl Content {
    /// The one file that holds all of it, where there is one that may be written.
    pub fn file(&self) -> Option<&File> {
        match self {
            Self::Authored(authored) => Some(&authored.file),
            Self::Memory(memory) => Some(&memory.file),
            Self::Template(_) | Self::View(_) => None,
        }
    }
}

pub struct Node {
    pub id: u64,
    pub what: What,
    /// The template's, or the directory's, as last seen.
    pub metadata: Mutex<Option<Metadata>>,
    /// Held while a file is opened or let go of for this node, which may take any time. Taken before
    /// `state`, which is never held while a file is waited for: others look at it.
    pub opening: Mutex<()>,
    pub state: Mutex<OpenState>,
    pub since: SystemTime,
    pub counters: Counters,
    /// Of a view that was handed out warm.
    pub warmth: Option<Warmth>,
    /// Guarded by the index lock for nodes that can be found again.
    pub(super) lookups: AtomicU64,
    /// By which entry the kernel got to know it, as far as that is known.
    pub(super) origin: Option<Origin>,
    /// As one of what a user has.
    pub(super) _claim: Option<Claim>,
}

/// A directory entry, and who has looked it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub uid: u32,
    pub parent: u64,
    pub name: Box<[u8]>,
}

impl Origin {
    pub fn new(caller: &Caller, parent: u64, name: &[u8]) -> Self {
        Self { uid: caller.uid, parent, name: name.into() }
    }
}

#[derive(Default)]
pub struct OpenState {
    pub opens: u64,
    pub content: Option<Content>,
    /// A view without a name, after its last close, or one whose name was discarded: its node id
    /// must not be opened again, since the kernel may still cache pages of what it was.
    pub spent: bool,
    /// Why its backing was picked, where nobody asked for it.
    pub why: Option<&'static str>,
    /// Room for what a private view may come to own, for as long as it is open.
    pub promise: Option<Promise>,
    /// As one of the private views that are open, its user's and its template's.
    pub claim: Option<ViewClaim>,
}

impl OpenState {
    /// What could not be opened is not counted.
    pub fn claim_if_there(&mut self) {
        if self.content.is_none() {
            self.claim = None;
        }
    }

    /// Ends what the node is, with the room that it was promised.
    pub fn take_content(&mut self) -> Option<Content> {
        self.promise = None;
        self.claim = None;
        self.content.take()
    }
}

impl Node {
    /// What it reads and writes, if it is open, and whether it can be opened no more.
    pub fn content(&self) -> (Option<Content>, bool) {
        let state = self.state.lock();
        (state.content.clone(), state.spent)
    }

    pub(super) fn new(id: u64, what: What, metadata: Option<Metadata>) -> Self {
        Self {
            id,
            what,
            metadata: Mutex::new(metadata),
            opening: Mutex::default(),
            state: Mutex::default(),
            since: SystemTime::now(),
            counters: Counters::default(),
            warmth: None,
            lookups: AtomicU64::new(0),
            origin: None,
            _claim: None,
        }
    }
}
