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

mod index;
mod node;
mod warm;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::{Condvar, Mutex};

use super::ledger::Entry;
use super::recorder::Recorder;
use super::shares::{Shares, Thing};
use index::Index;
pub use node::{Content, Node, OpenState, Origin, PrivateRef, TemplateRef, What};
#[cfg(test)]
pub use warm::WARM_LOOKUPS;
pub use warm::Warmth;

use crate::error::Result;
use crate::name::Label;
use crate::store::{Identity, Metadata};

pub const ROOT: u64 = 1;
const FIRST_FREE: u64 = 64;
/// Ids from here on are not the engine's.
pub const FIRST_FOREIGN: u64 = 1 << 62;

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
    /// Never held while a file is waited for.
    index: Mutex<Index>,
    /// A discard has ended.
    retired: Condvar,
    ids: Mutex<Ids>,
    recorder: Arc<Recorder>,
    shares: Arc<Shares>,
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
    pub fn new(recorder: Arc<Recorder>, shares: Arc<Shares>) -> Self {
        let next = recorder.read(|ledger| ledger.dealt_nodes).max(FIRST_FREE);
        let ids = Mutex::new(Ids { next, recorded: next });
        let is_successor = recorder.read(|ledger| ledger.takeovers > 0);
        let unsettled = is_successor.then(|| Instant::now() + UNSETTLED);
        let (index, retired) = Default::default();
        let nodes = Self { nodes: DashMap::new(), index, retired, ids, recorder, shares, unsettled };
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
    pub fn look_up(&self, origin: Origin, what: What, metadata: Option<Metadata>) -> Result<Arc<Node>> {
        let Some(key) = key(&what) else {
            return Ok(self.add(self.prepared(origin, what, metadata)?));
        };
        if let Some(node) = self.look_up_known(&self.settled(&key), &key, &metadata) {
            return Ok(node);
        }
        let node = self.prepared(origin, what, metadata.clone())?;
        let mut index = self.settled(&key);
        if let Some(known) = self.look_up_known(&index, &key, &metadata) {
            drop(index);
            self.record_forgotten(node.id, &node.what);
            return Ok(known);
        }
        index.ids.insert(key, node.id);
        Ok(self.add(node))
    }

    /// A node for one LOOKUP, on record and known to nobody yet.
    fn prepared(&self, origin: Origin, what: What, metadata: Option<Metadata>) -> Result<Node> {
        let claim = Some(self.shares.claim(origin.uid, Thing::Node)?);
        let id = self.next_id()?;
        self.record_lookup(id, &what)?;
        let (lookups, origin) = (AtomicU64::new(1), Some(origin));
        Ok(Node { lookups, origin, _claim: claim, ..Node::new(id, what, metadata) })
    }

    fn add(&self, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        self.nodes.insert(node.id, node.clone());
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

    fn record_forgotten(&self, id: u64, what: &What) {
        let is_recorded = || self.recorder.read(|ledger| ledger.looked_up.contains_key(&id));
        if matches!(what, What::Directory { .. }) || is_recorded() {
            self.recorder.record_past(Entry::Forgotten { node: id });
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
    pub fn restore(&self, uid: u32, id: u64, what: What, metadata: Option<Metadata>) -> Arc<Node> {
        let key = key(&what);
        let claim = Some(self.shares.owe(uid, Thing::Node));
        let node = self.add(Node { _claim: claim, ..Node::new(id, what, metadata) });
        if let Some(key) = key {
            self.index.lock().ids.entry(key).or_insert(id);
        }
        node
    }

    /// A restored node that cannot be what it was: as if it had never been.
    pub fn abandon(&self, id: u64) {
        let mut index = self.index.lock();
        index.ids.retain(|_, known| *known != id);
        self.nodes.remove(&id);
    }

    /// No LOOKUP finds the node any more.
    pub fn hide(&self, node: &Node) {
        node.state.lock().spent = true;
        self.index.lock().ids.retain(|_, id| *id != node.id);
    }

    pub fn forget(&self, id: u64, lookups: u64) -> Forgotten {
        let mut index = self.index.lock();
        let Some(node) = self.get(id) else { return Forgotten::Kept };
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(lookups);
        node.lookups.store(left, Ordering::Relaxed);
        if self.remove_if_unused(&mut index, &node) {
            drop(index);
            self.record_forgotten(id, &node.what);
            return Forgotten::Gone(node);
        }
        let forgotten = self.forgotten_of_warm(&node, lookups, left);
        drop(index);
        if let Forgotten::Unused(..) = forgotten {
            self.record_forgotten(id, &node.what);
        }
        forgotten
    }

    /// Removes the node of a last close that the kernel has forgotten before.
    pub fn closed(&self, node: &Node) {
        let removed = self.remove_if_unused(&mut self.index.lock(), node);
        if removed {
            self.record_forgotten(node.id, &node.what);
        }
    }

    /// The entries of up to `count` files that a user has looked up and does not use, longest known
    /// first. Not of directories: processes may stay in them.
    pub fn forgettable(&self, uid: u32, count: usize) -> Vec<Origin> {
        let entry = |node: &Arc<Node>| {
            let origin = node.origin.as_ref().filter(|origin| origin.uid == uid)?;
            let is_file = !matches!(node.what, What::Directory { .. });
            (is_file && node.state.lock().opens == 0).then(|| (node.id, origin.clone()))
        };
        let mut unused: Vec<(u64, Origin)> =
            self.nodes.iter().filter_map(|node| entry(node.value())).collect();
        unused.sort_unstable_by_key(|(id, _)| *id);
        unused.into_iter().take(count).map(|(_, origin)| origin).collect()
    }

    /// Nodes that are open now.
    pub fn open(&self) -> Vec<Arc<Node>> {
        let open = |node: &Arc<Node>| node.state.lock().opens > 0;
        self.nodes.iter().map(|entry| entry.value().clone()).filter(open).collect()
    }

    /// True if it is gone, which is to be recorded once the index is let go of.
    fn remove_if_unused(&self, index: &mut Index, node: &Node) -> bool {
        let unused = node.lookups.load(Ordering::Relaxed) == 0 && node.state.lock().opens == 0;
        if !unused || node.id < FIRST_FREE {
            return false;
        }
        self.nodes.remove(&node.id);
        if let Some(key) = key(&node.what)
            && index.ids.get(&key) == Some(&node.id)
        {
            index.ids.remove(&key);
        }
        true
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
mod tests;
