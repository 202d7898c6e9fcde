//! Room for private views, promised before they are opened or grow (budget.rs).

use super::Engine;
use super::nodes::{Node, PrivateRef};
use crate::budget::{Budget, Promise};
use crate::error::{Error, Result};

impl Engine {
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Room for all pages of a view that is about to be opened.
    pub(super) fn promise(&self, private: &PrivateRef) -> Result<Promise> {
        let known = match &private.view {
            Some(name) => self.views.find(name)?,
            None => None,
        };
        let size = known.map_or(private.template.identity.size, |known| known.record.extent.size);
        let promise = self.budget.promise(size, self.views.at_rest_bytes(private.view.as_ref()));
        promise.map_err(|error| Error::NoRoom(format!("{}: {error}", private.template.path.display())))
    }

    /// Room for a view that grows to `size` bytes.
    pub(super) fn promise_growth(&self, node: &Node, private: &PrivateRef, size: u64) -> Result<()> {
        let mut state = node.state.lock();
        let Some(promise) = &mut state.promise else { return Ok(()) };
        let covered = promise.cover(size, self.views.at_rest_bytes(private.view.as_ref()));
        covered.map_err(|error| Error::NoRoom(format!("{}: {error}", private.template.path.display())))
    }
}
