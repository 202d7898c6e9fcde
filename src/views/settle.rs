//! Brings to disk what a power cut could take of views with a name.

use std::sync::Arc;

use super::{Slot, View, Views, named_key};
use crate::error::{Error, Result};
use crate::name::Label;
use crate::overlay::{Backing, Lasts, ViewFiles};

/// How much of a view that nobody has open is on disk. Its files are opened again to bring the rest
/// there: thousands of views may have been closed a moment ago.
pub(super) enum Rest {
    Settled,
    Unsettled,
    /// A sync has failed, which these files know and others of the same name would not.
    Unsure(Arc<ViewFiles>),
}

impl Rest {
    pub fn of(files: &Arc<ViewFiles>) -> Self {
        match (files.is_up_to_date(), files.is_unsure()) {
            (true, _) => Self::Settled,
            (false, true) => Self::Unsure(files.clone()),
            (false, false) => Self::Unsettled,
        }
    }

    /// Those that must be gone on with.
    pub fn files(&self) -> Option<Arc<ViewFiles>> {
        match self {
            Self::Unsure(files) => Some(files.clone()),
            Self::Settled | Self::Unsettled => None,
        }
    }
}

/// A view of which a power cut could take something.
enum Unsettled {
    Open(Arc<View>),
    AtRest,
}

impl Views {
    /// Brings to disk what a power cut could take of views with a name. What cannot be done is said and
    /// tried again with the next call.
    pub fn settle(&self) {
        for (name, slot) in self.unsettled() {
            let failed = |e| Error::io("its state directory", e);
            let settled = match &slot {
                Unsettled::Open(view) => view.overlay.sync().map_err(failed),
                Unsettled::AtRest => self.settle_at_rest(&name),
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
            Slot::AtRest(_, Rest::Unsettled | Rest::Unsure(_)) => Some((name, Unsettled::AtRest)),
            _ => None,
        });
        unsettled.map(|(name, slot)| (name.clone(), slot)).collect()
    }

    /// Whoever opens the view meanwhile waits.
    fn settle_at_rest(&self, name: &Label) -> Result<()> {
        let _turn = self.turns.take(name);
        let kept = match self.named.lock().get(name) {
            Some(Slot::AtRest(_, rest)) => rest.files(),
            _ => return Ok(()),
        };
        let files = match kept {
            Some(files) => files,
            None => self.opened(&named_key(name), Lasts::Yes)?.0,
        };
        let again = if files.is_unsure() { files.write_again() } else { Ok(()) };
        let synced = again.and_then(|()| files.sync());
        if let Some(Slot::AtRest(_, rest)) = self.named.lock().get_mut(name) {
            *rest = Rest::of(&files);
        }
        synced.map_err(|e| Error::io("its state directory", e))
    }
}
