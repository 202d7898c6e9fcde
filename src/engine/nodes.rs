//! The node ids of a mount.
//!
//! Invariants:
//! - a node id means one thing for ever; ids are never reused. A warm node means nothing yet: it
//!   becomes one private view, once;
//! - the page cache belongs to the node id: what may share content (a ROM view, a view with a
//!   name, a directory) is found again under the same id, and a private view without a name gets
//!   a new one at each LOOKUP, so that no two path walks ever share one;
//! - a node stays until the kernel has forgotten each LOOKUP and released each OPEN of it, in
//!   whichever order these arrive.

mod warm;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::counters::Counters;
use super::ledger::{Entry, path_bytes};
use super::recorder::Recorder;
use crate::budget::Promise;
#[cfg(test)]
pub use warm::WARM_LOOKUPS;
pub use warm::Warmth;

use crate::error::Result;
use crate::memory::MemoryView;
use crate::name::Label;
use crate::pins::{Authored, Pinned};
use crate::rules::Backing;
use crate::store::{Identity, Metadata};
use crate::views::View;

pub const ROOT: u64 = 1;
const FIRST_FREE: u64 = 64;
/// Ids from here on are not the engine's.
pub const FIRST_FOREIGN: u64 = 1 << 62;

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
    pub state: Mutex<OpenState>,
    pub since: SystemTime,
    pub counters: Counters,
    /// Of a view that was handed out warm.
    pub warmth: Option<Warmth>,
    /// Guarded by the index lock for nodes that can be found again.
    lookups: AtomicU64,
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
}

impl OpenState {
    /// Ends what the node is, with the room that it was promised.
    pub fn take_content(&mut self) -> Option<Content> {
        self.promise = None;
        self.content.take()
    }
}

/// What makes two LOOKUPs find the same node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Directory(PathBuf),
    /// With a label, where ROM views of different VMs have nodes of their own.
    Rom(Identity, Option<Label>),
    Template((u64, u64)),
    /// Two templates may each have a candidate for a name; only one becomes the view.
    Named(Label, Identity),
}

/// What a FORGET has done.
pub enum Forgotten {
    Kept,
    Gone(Arc<Node>),
    /// The kernel threw away the LOOKUP that a warm node was handed out to: it is nobody's again.
    Unused(u64, Warmth),
}

pub struct Nodes {
    nodes: DashMap<u64, Arc<Node>>,
    index: Mutex<HashMap<Key, u64>>,
    ids: Mutex<Ids>,
    recorder: Arc<Recorder>,
    /// Until when each LOOKUP is put on record.
    unsettled: Option<Instant>,
}

/// An OPEN of a node that is not on record gets ESTALE from a successor, and the kernel looks the
/// path up again: once. For this long the result of that outlives another death.
const UNSETTLED: Duration = Duration::from_secs(10);

struct Ids {
    next: u64,
    /// It is on record that ids below this one may have been dealt out.
    recorded: u64,
}

/// So many ids are put on record at once.
const IDS_AHEAD: u64 = 1024;

impl Nodes {
    pub fn new(recorder: Arc<Recorder>) -> Self {
        let next = recorder.read(|ledger| ledger.dealt_nodes).max(FIRST_FREE);
        let ids = Mutex::new(Ids { next, recorded: next });
        let is_successor = recorder.read(|ledger| ledger.takeovers > 0);
        let unsettled = is_successor.then(|| Instant::now() + UNSETTLED);
        let nodes = Self { nodes: DashMap::new(), index: Mutex::default(), ids, recorder, unsettled };
        let root = What::Directory { path: PathBuf::new() };
        nodes.nodes.insert(ROOT, Arc::new(Node::new(ROOT, root, None)));
        nodes
    }

    pub fn get(&self, id: u64) -> Option<Arc<Node>> {
        self.nodes.get(&id).map(|node| node.clone())
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The node for one LOOKUP of `what`, which is counted.
    pub fn look_up(&self, what: What, metadata: Option<Metadata>) -> Result<Arc<Node>> {
        let Some(key) = key(&what) else {
            return self.insert(what, metadata);
        };
        let mut index = self.index.lock();
        if let Some(node) = index.get(&key).and_then(|id| self.get(*id)) {
            node.lookups.fetch_add(1, Ordering::Relaxed);
            *node.metadata.lock() = metadata;
            return Ok(node);
        }
        let node = self.insert(what, metadata)?;
        index.insert(key, node.id);
        Ok(node)
    }

    fn insert(&self, what: What, metadata: Option<Metadata>) -> Result<Arc<Node>> {
        let id = self.next_id()?;
        self.record_lookup(id, &what)?;
        Ok(self.insert_with(id, what, metadata, 1))
    }

    fn insert_with(&self, id: u64, what: What, metadata: Option<Metadata>, lookups: u64) -> Arc<Node> {
        let node = Arc::new(Node { lookups: AtomicU64::new(lookups), ..Node::new(id, what, metadata) });
        self.nodes.insert(id, node.clone());
        node
    }

    /// Before the answer to the LOOKUP that made `id` what it is.
    fn record_lookup(&self, id: u64, what: &What) -> Result<()> {
        // Processes may stay in a directory, and have no path along which to look it up again.
        if let What::Directory { path } = what {
            self.recorder.record(Entry::Directory { node: id, path: path.clone() })?;
        } else if self.unsettled.is_some_and(|end| Instant::now() < end) {
            self.recorder.record(Entry::LookedUp { node: id, what: what.clone() })?;
        }
        Ok(())
    }

    fn record_forgotten(&self, node: &Node) {
        let is_recorded = || self.recorder.read(|ledger| ledger.looked_up.contains_key(&node.id));
        if matches!(node.what, What::Directory { .. }) || is_recorded() {
            self.recorder.record_past(Entry::Forgotten { node: node.id });
        }
    }

    fn next_id(&self) -> Result<u64> {
        let mut ids = self.ids.lock();
        if ids.next == ids.recorded {
            let nodes = ids.recorded + IDS_AHEAD;
            self.recorder.record(Entry::Dealt { nodes, handles: 0 })?;
            ids.recorded = nodes;
        }
        ids.next += 1;
        Ok(ids.next - 1)
    }

    /// A node that the kernel knows from an earlier daemon, and how often it was looked up
    /// nobody knows: it goes as if that had never been, with its last FORGET or its last close.
    pub fn restore(&self, id: u64, what: What, metadata: Option<Metadata>) -> Arc<Node> {
        let key = key(&what);
        let node = Arc::new(Node::new(id, what, metadata));
        self.nodes.insert(id, node.clone());
        if let Some(key) = key {
            self.index.lock().entry(key).or_insert(id);
        }
        node
    }

    /// No LOOKUP finds the node any more.
    pub fn hide(&self, node: &Node) {
        node.state.lock().spent = true;
        self.index.lock().retain(|_, id| *id != node.id);
    }

    pub fn forget(&self, id: u64, lookups: u64) -> Forgotten {
        let mut index = self.index.lock();
        let Some(node) = self.get(id) else { return Forgotten::Kept };
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(lookups);
        node.lookups.store(left, Ordering::Relaxed);
        if self.remove_if_unused(&mut index, &node) {
            return Forgotten::Gone(node);
        }
        self.forgotten_of_warm(&node, lookups, left)
    }

    /// Removes the node of a last close that the kernel has forgotten before.
    pub fn closed(&self, node: &Node) {
        self.remove_if_unused(&mut self.index.lock(), node);
    }

    /// Runs `discard`, after which a LOOKUP of this view's name finds a new node. Meanwhile no
    /// LOOKUP finds the old one and no OPEN of it makes the view again: a view never has two
    /// node ids. The kernel answers the ESTALE of such an OPEN by looking the path up once more.
    pub fn retire<T>(&self, view: &Label, discard: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut index = self.index.lock();
        let is_candidate = |key: &Key| matches!(key, Key::Named(name, _) if name == view);
        let ids: Vec<u64> = index.iter().filter(|(key, _)| is_candidate(key)).map(|(_, id)| *id).collect();
        let mark = |spent| {
            for node in ids.iter().filter_map(|id| self.get(*id)) {
                node.state.lock().spent = spent;
            }
        };
        mark(true);
        let done = discard().inspect_err(|_| mark(false))?;
        index.retain(|key, _| !is_candidate(key));
        Ok(done)
    }

    /// Nodes that are open now.
    pub fn open(&self) -> Vec<Arc<Node>> {
        let open = |node: &Arc<Node>| node.state.lock().opens > 0;
        self.nodes.iter().map(|entry| entry.value().clone()).filter(open).collect()
    }

    fn remove_if_unused(&self, index: &mut HashMap<Key, u64>, node: &Node) -> bool {
        let unused = node.lookups.load(Ordering::Relaxed) == 0 && node.state.lock().opens == 0;
        if !unused || node.id < FIRST_FREE {
            return false;
        }
        self.nodes.remove(&node.id);
        self.record_forgotten(node);
        if let Some(key) = key(&node.what)
            && index.get(&key) == Some(&node.id)
        {
            index.remove(&key);
        }
        true
    }
}

impl Node {
    fn new(id: u64, what: What, metadata: Option<Metadata>) -> Self {
        Self {
            id,
            what,
            metadata: Mutex::new(metadata),
            state: Mutex::default(),
            since: SystemTime::now(),
            counters: Counters::default(),
            warmth: None,
            lookups: AtomicU64::new(0),
        }
    }
}

fn key(what: &What) -> Option<Key> {
    match what {
        What::Directory { path } => Some(Key::Directory(path.clone())),
        What::Rom { template, vm } => Some(Key::Rom(template.identity.clone(), vm.clone())),
        What::Template { template } => Some(Key::Template(template.identity.file())),
        What::Private(PrivateRef { view: Some(view), template, .. }) => {
            Some(Key::Named(view.clone(), template.identity.clone()))
        }
        What::Private(_) | What::Leftover { .. } | What::Warm { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { dev: 1, ino: 2, size: 3, mtime_ns: 4, btime_ns: None }
    }

    fn private(view: Option<&str>) -> What {
        What::Private(PrivateRef {
            template: TemplateRef { path: "t".into(), identity: identity() },
            view: view.map(|name| Label::new(name.as_bytes()).unwrap()),
            vm: None,
            if_writable: false,
            backing: Backing::Overlay,
            uid: 0,
            gid: 0,
        })
    }

    #[test]
    fn a_view_without_a_name_is_new_at_each_lookup_and_a_named_one_is_not() {
        let nodes = Nodes::new(Arc::default());
        assert_ne!(
            nodes.look_up(private(None), None).unwrap().id,
            nodes.look_up(private(None), None).unwrap().id
        );
        assert_eq!(
            nodes.look_up(private(Some("a")), None).unwrap().id,
            nodes.look_up(private(Some("a")), None).unwrap().id
        );
        assert_ne!(
            nodes.look_up(private(Some("a")), None).unwrap().id,
            nodes.look_up(private(Some("b")), None).unwrap().id
        );
    }

    #[test]
    fn a_node_goes_with_its_last_lookup_or_its_last_close_whichever_is_later() {
        let nodes = Nodes::new(Arc::default());
        let before = nodes.count();
        let node = nodes.look_up(private(Some("a")), None).unwrap();
        nodes.look_up(private(Some("a")), None).unwrap();
        nodes.forget(node.id, 1);
        assert!(nodes.get(node.id).is_some());
        node.state.lock().opens = 1;
        nodes.forget(node.id, 1);
        assert!(nodes.get(node.id).is_some(), "FORGET may overtake RELEASE");
        node.state.lock().opens = 0;
        nodes.closed(&node);
        assert!(nodes.get(node.id).is_none());
        assert_ne!(nodes.look_up(private(Some("a")), None).unwrap().id, node.id, "ids are never reused");
        assert_eq!(nodes.count(), before + 1);
        nodes.forget(ROOT, 1000);
        assert!(nodes.get(ROOT).is_some());
    }

    #[test]
    fn a_discarded_views_name_leads_to_a_new_node() {
        let nodes = Nodes::new(Arc::default());
        let old = nodes.look_up(private(Some("a")), None).unwrap();
        nodes.retire(&Label::new(b"a").unwrap(), || Ok(())).unwrap();
        assert!(old.state.lock().spent, "an OPEN that is under way must not make the view again");
        let new = nodes.look_up(private(Some("a")), None).unwrap();
        assert_ne!(old.id, new.id);
        nodes.forget(old.id, 1);
        assert_eq!(
            nodes.look_up(private(Some("a")), None).unwrap().id,
            new.id,
            "the old node does not take the name along"
        );
    }
}
