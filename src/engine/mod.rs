//! What a mount does, without the kernel's protocol: every operation takes node ids and returns a
//! result, and can be called without a mount.

mod admission;
mod aside;
mod attributes;
mod authoring;
mod counters;
mod data;
mod filling;
mod ledger;
mod lookup;
mod nodes;
mod open;
mod opened;
mod promises;
mod recorder;
mod recover;
mod shares;
mod snapshot;
mod walks;
mod warming;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dashmap::DashMap;

pub use aside::SetAside;
pub use attributes::{Attributes, Changes, FileKind};
pub use counters::CounterValues;
pub use data::{Allocate, Seek};
pub use ledger::{Entry, Ledger, Negotiated, RESENT};
pub use lookup::DirectoryEntry;
pub use nodes::{Content, FIRST_FOREIGN, ROOT, TemplateRef};
pub use opened::{Access, Opened, Plane, ReadOnly, Released};
pub use recorder::Recorder;
pub use recover::Recovered;
pub use shares::{Limits, Shares, Thing};
pub use snapshot::{Child, Opener, PageRun, ViewSnapshot};
pub use warming::{Lesson, WarmWork};

use crate::access::{Caller, Guarded, permitted};
use crate::budget::Budget;
use crate::caller;
use crate::error::{Error, Result};
use crate::keeper::Keeper;
use crate::memory::Pool;
use crate::pins::Pins;
use crate::policy::Guard;
use crate::rules::Backing;
use crate::store::{Metadata, Store};
use crate::views::Views;
use aside::Lost;
use counters::{Counters, Totals};
use nodes::{Forgotten, Node, Nodes, What};
use opened::{Handle, HandleId};
use recover::Waiting;
use warming::Warming;

/// What an operator decides for a whole mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub allow_template_writes: bool,
    /// Of private views without a name whose path does not say.
    pub backing: Backing,
    /// How many filled copies wait for the next views in memory.
    pub pool: usize,
    /// How many nodes whose first pages the kernel has already wait for the next views.
    pub warm: usize,
    /// What all private views may come to own together, in bytes; None: whatever there is.
    pub budget: Option<u64>,
    /// How large one private view may be, in bytes.
    pub max_private: Option<u64>,
    /// What each user may have at once.
    pub per_user: Limits,
}

impl Options {
    /// May a view not become as large as it likes?
    fn bounds_views(&self) -> bool {
        self.budget.is_some() || self.max_private.is_some()
    }
}

pub struct Engine {
    store: Box<dyn Store>,
    views: Views,
    pins: Pins,
    nodes: Nodes,
    totals: Totals,
    handles: DashMap<u64, Arc<Handle>>,
    next_handle: AtomicU64,
    /// OPEN requests that a dead daemon has done, perhaps without answering them, and what they
    /// opened.
    unanswered: DashMap<u64, HandleId>,
    waiting: Waiting,
    lost: Lost,
    recorder: Arc<Recorder>,
    keeper: Arc<Keeper>,
    /// Threads that open views to look at their page cache: no users of them.
    inspectors: DashMap<u32, ()>,
    options: Options,
    pool: Arc<Pool>,
    guard: Guard,
    budget: Arc<Budget>,
    shares: Arc<Shares>,
    warming: Warming,
    /// Does the kernel read templates by itself? Then their page cache is shared between nodes.
    passthrough: AtomicBool,
}

impl Engine {
    /// `recorder` and `keeper` are where a successor finds what it must know.
    pub fn new(
        store: Box<dyn Store>,
        views: Views,
        options: Options,
        recorder: Arc<Recorder>,
        keeper: Arc<Keeper>,
    ) -> Self {
        let shares = Arc::new(Shares::new(options.per_user, rustix::process::geteuid().as_raw()));
        Self {
            store,
            views,
            pins: Pins::new(keeper.clone(), recorder.read(|ledger| ledger.takeovers)),
            nodes: Nodes::new(recorder.clone(), shares.clone()),
            shares,
            keeper,
            totals: Totals::default(),
            handles: DashMap::new(),
            next_handle: AtomicU64::new(recorder.read(|ledger| ledger.dealt_handles).max(1)),
            unanswered: DashMap::new(),
            waiting: Waiting::default(),
            lost: Lost::default(),
            recorder,
            inspectors: DashMap::new(),
            options,
            pool: Pool::new(options.pool),
            warming: Warming::new(options.warm),
            guard: Guard::default(),
            budget: Budget::new(options.budget),
            passthrough: AtomicBool::new(false),
        }
    }

    /// Told once, when the mount's features are known, before the first LOOKUP.
    pub fn set_passthrough(&self, on: bool) {
        self.passthrough.store(on, Ordering::Relaxed);
    }

    /// Can the mount be as its operator wishes? Asked once the mount's features are known.
    pub fn check_options(&self) -> Result<()> {
        if self.options.backing == Backing::Memory && !self.has_passthrough() {
            return Err(Error::Unsupported(
                "backing=memory: it needs the kernel's passthrough (Linux 6.9, mounted by root); use backing=auto, or \
                 leave it out"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Whether the kernel reads and writes files by itself on this mount.
    pub fn has_passthrough(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    pub fn views(&self) -> &Views {
        &self.views
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// How many daemons of this mount have died and were replaced.
    pub fn takeovers(&self) -> u64 {
        self.recorder.read(|ledger| ledger.takeovers)
    }

    /// Counts something for a node, and for the whole life of the mount.
    fn count(&self, node: &Node, count: impl Fn(&Counters)) {
        count(&node.counters);
        if let Some(total) = self.totals.of(&node.what) {
            count(total);
        }
    }

    /// What was counted since the mount was made, by the kind of view.
    pub fn totals(&self) -> [(&'static str, CounterValues); 3] {
        self.totals.values()
    }

    /// What each user has at once.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Directory entries, by their directory's node and their name, that the kernel had better forget: this
    /// user has looked up many that it does not use.
    pub fn forgettable(&self, uid: u32) -> Vec<(u64, Box<[u8]>)> {
        let surplus = self.shares.has(uid, Thing::Node).saturating_sub(self.shares.comfortable_nodes());
        let origins = self.nodes.forgettable(uid, usize::try_from(surplus).unwrap_or(usize::MAX));
        origins.into_iter().map(|origin| (origin.parent, origin.name)).collect()
    }

    /// The kernel has dropped `lookups` references to a node.
    pub fn forget(&self, id: u64, lookups: u64) {
        match self.nodes.forget(id, lookups) {
            Forgotten::Kept => {}
            Forgotten::Gone(node) => self.clean_up(&node),
            Forgotten::Unused(id, warmth) => self.take_back(id, warmth),
        }
    }

    /// Called about once a second.
    pub fn let_go_of_unused(&self) {
        self.pins.let_go_of_unused();
    }

    /// A view that was changed but never opened is let go of with its node.
    fn clean_up(&self, node: &Node) {
        if let What::Warm { .. } = node.what {
            return self.warming.lost(node.id);
        }
        let _opening = node.opening.lock();
        let content = node.state.lock().take_content();
        if let What::Private(private) = &node.what {
            self.closed_view(node, private, content);
        }
    }

    /// Until the result is dropped, what this thread opens does not count as use.
    pub fn inspecting(&self, thread: u32) -> impl Drop + '_ {
        struct Inspecting<'a>(&'a Engine, u32);
        impl Drop for Inspecting<'_> {
            fn drop(&mut self) {
                self.0.inspectors.remove(&self.1);
            }
        }
        self.inspectors.insert(thread, ());
        Inspecting(self, thread)
    }

    /// A node that the kernel names but that is not here: ESTALE makes it look the path up again.
    fn node(&self, id: u64) -> Result<Arc<Node>> {
        self.waiting.for_node(id);
        self.nodes.get(id).ok_or_else(|| Error::Stale(format!("node {id}: not known any more")))
    }

    fn handle(&self, id: u64) -> Result<Arc<Handle>> {
        self.waiting.for_handle(id);
        let found = self.handles.get(&id).map(|handle| handle.clone());
        found.ok_or_else(|| Error::io(format!("handle {id}: not open"), rustix::io::Errno::BADF))
    }

    /// May `caller` do `want` (access.rs) to this file of the store?
    fn check(&self, caller: &Caller, path: &Path, metadata: &Metadata, want: u32) -> Result<()> {
        let file = Guarded {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            acl: metadata.acl.as_deref(),
        };
        if permitted(&file, caller, || caller::supplementary_groups(caller), want) {
            return Ok(());
        }
        let verb = match want {
            crate::access::READ => "read",
            crate::access::WRITE => "write",
            _ => "search",
        };
        Err(Error::Denied(format!(
            "{}: user {} may not {verb} it in the store; change its mode or owner there",
            path.display(),
            caller.uid
        )))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod warm_tests;
