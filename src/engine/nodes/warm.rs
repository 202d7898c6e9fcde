//! Nodes that the kernel knows before they are anybody's view (engine/warming.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Forgotten, Node, Nodes, TemplateRef, What};
use crate::engine::shares::Thing;
use crate::engine::walks::Step;
use crate::error::Result;
use crate::store::Metadata;

/// How many LOOKUPs make a node warm. Both are of one inode (warm/instantiate.rs), so that the
/// kernel forgets both at once and with it the pages that it was given. One alone is then always
/// the LOOKUP that the node was handed out to: either the kernel threw it away, since it only
/// wanted to know whether a directory entry was still true, or the inode that it made for it is
/// gone. In both cases nobody has the node.
pub const WARM_LOOKUPS: u64 = 2;

/// What a view that was handed out warm has from before.
#[derive(Debug, Clone)]
pub struct Warmth {
    pub template: TemplateRef,
    pub pages: u64,
    /// The LOOKUP that it was handed out to.
    pub step: Step,
}

impl Nodes {
    /// A node that the kernel shall know before it is anybody's view. No LOOKUP of it is counted. It
    /// is not on record: a successor hands out none, and knows by the ids on record that it may
    /// not use this one.
    pub fn insert_warm(&self, template: TemplateRef) -> Result<Arc<Node>> {
        Ok(self.add(Node::new(self.next_id()?, What::Warm { template }, None)))
    }

    /// Counts one of the LOOKUPs by which the kernel gets to know a warm node.
    pub fn look_up_warm(&self, id: u64) -> Option<Arc<Node>> {
        let _index = self.index.lock();
        let node = self.get(id).filter(|node| matches!(node.what, What::Warm { .. }))?;
        node.lookups.fetch_add(1, Ordering::Relaxed);
        Some(node)
    }

    /// Does the kernel know this warm node as it must to be handed out?
    pub fn is_warm(&self, id: u64) -> bool {
        let is = |node: Arc<Node>| {
            matches!(node.what, What::Warm { .. }) && node.lookups.load(Ordering::Relaxed) == WARM_LOOKUPS
        };
        self.get(id).is_some_and(is)
    }

    /// Makes a warm node the private view of one LOOKUP, which is counted; None if it cannot be.
    pub fn hand_out(
        &self,
        uid: u32,
        id: u64,
        what: What,
        metadata: Option<Metadata>,
        warmth: Warmth,
    ) -> Result<Option<Arc<Node>>> {
        let claim = self.shares.claim(uid, Thing::Node)?;
        self.record_lookup(id, &what)?;
        let index = self.index.lock();
        let Some(node) = self.get(id).filter(|_| self.is_warm(id)) else {
            drop(index);
            self.record_forgotten(id, &what);
            return Ok(None);
        };
        node.lookups.fetch_add(1, Ordering::Relaxed);
        let new = Node { warmth: Some(warmth), _claim: Some(claim), ..Node::new(id, what, metadata) };
        Ok(Some(self.replace(&node, new)))
    }

    /// The index lock must be held: what a node id means changes only while nobody can use it.
    fn replace(&self, node: &Node, new: Node) -> Arc<Node> {
        let lookups = AtomicU64::new(node.lookups.load(Ordering::Relaxed));
        new.counters.prefetched(new.warmth.as_ref().map_or(0, |warmth| warmth.pages));
        self.add(Node { lookups, ..new })
    }

    /// After a FORGET of `lookups` that left `left` of a node that was handed out warm, or of any other. The
    /// index lock must be held.
    pub(super) fn forgotten_of_warm(&self, node: &Node, lookups: u64, left: u64) -> Forgotten {
        let Some(warmth) = &node.warmth else { return Forgotten::Kept };
        match (lookups, left) {
            (1, WARM_LOOKUPS) if is_untouched(node) => {
                let what = What::Warm { template: warmth.template.clone() };
                self.replace(node, Node::new(node.id, what, None));
                return Forgotten::Unused(node.id, warmth.clone());
            }
            // The inode that was warm is gone, and the kernel has made another one for this view.
            (WARM_LOOKUPS, 1) => node.counters.prefetched(0),
            _ => {}
        }
        Forgotten::Kept
    }
}

fn is_untouched(node: &Node) -> bool {
    let state = node.state.lock();
    state.opens == 0 && state.content.is_none() && !state.spent
}
