//! Brings to disk what a power cut could take of views with a name.

use std::sync::Arc;

use super::{Slot, View, Views};
use crate::name::Label;
use crate::overlay::{Backing, ViewFiles};

/// A view of which a power cut could take something.
enum Unsettled {
    Open(Arc<View>),
    AtRest(Arc<ViewFiles>),
}

impl Views {
    /// Brings to disk what a power cut could take of views with a name. What cannot be done is said and
    /// tried again with the next call.
    pub fn settle(&self) {
        for (name, slot) in self.unsettled() {
            let settled = match &slot {
                Unsettled::Open(view) => view.overlay.sync(),
                Unsettled::AtRest(files) => self.settle_at_rest(&name, files),
            };
            if let Err(error) = settled {
                log::error!(
                    "view {name}: what was written to it cannot be brought to disk, and would not outlive the machine: \
                     {error}"
                );
            }
            if let Unsettled::Open(view) = slot {
                self.close_named(&name, view);
            }
        }
    }

    fn unsettled(&self) -> Vec<(Label, Unsettled)> {
        let named = self.named.lock();
        let unsettled = named.iter().filter_map(|(name, slot)| match slot {
            Slot::Open(view) if !view.files.is_up_to_date() => Some((name, Unsettled::Open(view.clone()))),
            Slot::AtRest(_, Some(files)) => Some((name, Unsettled::AtRest(files.clone()))),
            _ => None,
        });
        unsettled.map(|(name, slot)| (name.clone(), slot)).collect()
    }

    fn settle_at_rest(&self, name: &Label, files: &Arc<ViewFiles>) -> std::io::Result<()> {
        let same =
            |slot: &Slot| matches!(slot, Slot::AtRest(_, Some(at_rest)) if Arc::ptr_eq(at_rest, files));
        if files.is_unsure() {
            // While nobody can open it.
            let _turn = self.turns.take(name);
            if self.named.lock().get(name).is_some_and(same) {
                files.write_again()?;
            }
        }
        files.sync()?;
        if let Some(slot) = self.named.lock().get_mut(name)
            && same(slot)
            && let Slot::AtRest(_, at_rest) = slot
        {
            *at_rest = None;
        }
        Ok(())
    }
}
