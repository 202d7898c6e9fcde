//! A private view in memory is filled before its OPEN is answered, and nobody else waits for it.

use std::sync::Arc;

use rustix::fs::{SealFlags, fcntl_add_seals};

use super::Engine;
use super::nodes::{Content, Node, PrivateRef, What};
use super::opened::Access;
use crate::access::Caller;
use crate::error::{Error, Result};
use crate::memory::{self, Circumstances, MemoryView};
use crate::pins::Pinned;
use crate::rules::Backing;

impl Engine {
    /// Must [`Engine::fill`] come before this OPEN? It takes its time.
    pub fn must_fill(&self, id: u64, access: Access) -> bool {
        let wanted = |node: &Node| {
            let state = node.state.lock();
            state.content.is_none() && state.why.is_none() && !state.spent
        };
        let unfilled = |node: Arc<Node>| match &node.what {
            What::Private(private) => private.backing != Backing::Overlay && wanted(&node),
            _ => false,
        };
        access.write && self.nodes.get(id).is_some_and(unfilled)
    }

    /// Gives a private view its memory, or decides that it needs none.
    pub fn fill(&self, caller: &Caller, id: u64) -> Result<()> {
        let node = self.node(id)?;
        let What::Private(private) = &node.what else { return Ok(()) };
        self.admit_open(caller, &node)?;
        self.claim_view(&mut node.state.lock(), private)?;
        let filled = self.fill_claimed(caller, &node, private);
        let mut state = node.state.lock();
        if filled.is_err() {
            state.claim_if_there();
        }
        filled
    }

    fn fill_claimed(&self, caller: &Caller, node: &Node, private: &PrivateRef) -> Result<()> {
        let template = &private.template;
        let metadata = self.find_unchanged(template)?;
        self.check_template_rights(caller, &template.path, &metadata, private.if_writable)?;
        let pinned = self.pins.pin(self.store.as_ref(), &template.path, &template.identity)?;
        let choice = self.choose(private, &pinned);
        if let Some(choice) = choice {
            node.state.lock().why = Some(choice.why);
        }
        if choice.is_some_and(|choice| choice.backing == Backing::Overlay) {
            return Ok(());
        }
        let promise = self.promise(private)?;
        let file = match self.pool.take(&template.identity) {
            Some(file) => file,
            None => memory::filled(pinned.template().as_ref())
                .map_err(|e| Error::io(format!("{}: a view in memory", template.path.display()), e))?,
        };
        if !pinned.template().unchanged().unwrap_or(false) {
            return Err(Error::Stale(format!(
                "{}: the template changed while a view in memory was filled from it; replace a template by renaming \
                 a new file over it",
                template.path.display()
            )));
        }
        if self.guard.max_size(&template.path).is_some() || self.options.bounds_views() {
            // The kernel would make it longer by itself, and ask nobody.
            fcntl_add_seals(&file, SealFlags::GROW)
                .map_err(|e| Error::io(format!("{}: a view in memory", template.path.display()), e))?;
        }
        let _opening = node.opening.lock();
        let mut state = node.state.lock();
        // Somebody with the same node, through a descriptor, may have been faster.
        if state.content.is_none() && !state.spent {
            let view = MemoryView::new(file, node.id, private.uid, private.gid, &self.keeper);
            state.content = Some(Content::Memory(Arc::new(view)));
            state.promise = Some(promise);
        }
        drop(state);
        self.pool.refill(pinned);
        Ok(())
    }

    /// None where the path says it.
    fn choose(&self, private: &PrivateRef, pinned: &Pinned) -> Option<memory::Choice> {
        (private.backing == Backing::Auto).then(|| {
            memory::choose(Circumstances {
                passthrough: self.has_passthrough(),
                named: private.view.is_some(),
                data_bytes: pinned.data_bytes(),
                ready: self.pool.has(&private.template.identity),
            })
        })
    }
}
