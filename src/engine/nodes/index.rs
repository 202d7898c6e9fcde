//! Nodes that can be found again, by what they stand for; and how a name comes to stand for another one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::{Key, Node, Nodes};
use crate::error::Result;
use crate::name::Label;
use crate::store::Metadata;

#[derive(Default)]
pub struct Index {
    pub ids: HashMap<Key, u64>,
    /// Views that are being discarded: a LOOKUP of one waits.
    pub retiring: HashSet<Label>,
}

impl Nodes {
    /// The index once nobody discards the view of this name.
    pub(super) fn settled(&self, key: &Key) -> MutexGuard<'_, Index> {
        let mut index = self.index.lock();
        while let Key::Named(view, _) = key
            && index.retiring.contains(view)
        {
            self.retired.wait(&mut index);
        }
        index
    }

    pub(super) fn look_up_known(
        &self,
        index: &Index,
        key: &Key,
        metadata: &Option<Metadata>,
    ) -> Option<Arc<Node>> {
        let node = index.ids.get(key).and_then(|id| self.get(*id))?;
        node.lookups.fetch_add(1, Ordering::Relaxed);
        *node.metadata.lock() = metadata.clone();
        Some(node)
    }

    /// Runs `discard`, after which a LOOKUP of this view's name finds a new node. Meanwhile no
    /// LOOKUP finds the old one and no OPEN of it makes the view again: a view never has two
    /// node ids. The kernel answers the ESTALE of such an OPEN by looking the path up once more.
    pub fn retire<T>(&self, view: &Label, discard: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_candidate = |key: &Key| matches!(key, Key::Named(name, _) if name == view);
        let mut index = self.index.lock();
        while !index.retiring.insert(view.clone()) {
            self.retired.wait(&mut index);
        }
        let ids: Vec<u64> =
            index.ids.iter().filter(|(key, _)| is_candidate(key)).map(|(_, id)| *id).collect();
        drop(index);
        let mark = |spent| {
            for node in ids.iter().filter_map(|id| self.get(*id)) {
                // After an OPEN that is under way, and before any other.
                let _opening = node.opening.lock();
                node.state.lock().spent = spent;
            }
        };
        mark(true);
        let done = discard();
        if done.is_err() {
            mark(false);
        }
        let mut index = self.index.lock();
        if done.is_ok() {
            index.ids.retain(|key, _| !is_candidate(key));
        }
        index.retiring.remove(view);
        self.retired.notify_all();
        done
    }
}
