//! Views that cannot be used, whose files stay.

use std::path::PathBuf;

use super::{Slot, Views, named_key, unnamed_key};
use crate::name::Label;

impl Views {
    /// Those with a name, and why they cannot be used.
    pub fn unusable(&self) -> Vec<(Label, String)> {
        let named = self.named.lock();
        let unusable = named.iter().filter_map(|(name, slot)| match slot {
            Slot::Unusable(reason) => Some((name.clone(), reason.clone())),
            _ => None,
        });
        unusable.collect()
    }

    /// A pattern of shells.
    pub fn files_of_named(&self, name: &Label) -> PathBuf {
        self.files_of(&named_key(name))
    }

    /// Of a view without a name.
    pub fn files_of_node(&self, node: u64) -> PathBuf {
        self.files_of(&unnamed_key(node))
    }

    fn files_of(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.*"))
    }
}
