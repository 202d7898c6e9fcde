//! The node ids of the control directory: dealt out as names are looked up, forgotten with them.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::engine::FIRST_FOREIGN;
use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    Root,
    Version,
    State,
    ViewsJson,
    TemplatesJson,
    Metrics,
    AllPages,
    Views,
    View(String),
    Status(String),
    Pages(String),
    Resident(String),
    ProfilesJson,
    Profiles,
    Profile(String),
    Import,
    /// Where nodes are looked up to be warmed; in no listing.
    Warm,
}

impl Entry {
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Root | Self::Views | Self::View(_) | Self::Profiles | Self::Warm)
    }

    /// What a directory always holds: name, and whether that is a directory.
    pub fn fixed_children(&self) -> &'static [(&'static str, bool)] {
        match self {
            Self::Root => &[
                ("metrics", false),
                ("pages", false),
                ("profiles", true),
                ("profiles.json", false),
                ("state", false),
                ("templates.json", false),
                ("version", false),
                ("views", true),
                ("views.json", false),
            ],
            Self::View(_) => &[("pages", false), ("resident", false), ("status", false)],
            _ => &[],
        }
    }

    pub fn child(&self, name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        match (self, name) {
            (Self::Root, "version") => Some(Self::Version),
            (Self::Root, "state") => Some(Self::State),
            (Self::Root, "views.json") => Some(Self::ViewsJson),
            (Self::Root, "templates.json") => Some(Self::TemplatesJson),
            (Self::Root, "metrics") => Some(Self::Metrics),
            (Self::Root, "pages") => Some(Self::AllPages),
            (Self::Root, "views") => Some(Self::Views),
            (Self::Root, "profiles.json") => Some(Self::ProfilesJson),
            (Self::Root, "profiles") => Some(Self::Profiles),
            (Self::Root, WARM_NAME) => Some(Self::Warm),
            (Self::Profiles, "import") => Some(Self::Import),
            (Self::Profiles, key) => Some(Self::Profile(key.into())),
            (Self::Views, id) => Some(Self::View(id.into())),
            (Self::View(id), "status") => Some(Self::Status(id.clone())),
            (Self::View(id), "pages") => Some(Self::Pages(id.clone())),
            (Self::View(id), "resident") => Some(Self::Resident(id.clone())),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Paths(Mutex<Table>);

#[derive(Debug)]
struct Table {
    ids: HashMap<Entry, u64>,
    /// What an id means, and how many LOOKUPs the kernel has not forgotten.
    entries: HashMap<u64, (Entry, u64)>,
    next: u64,
}

/// Ids of the directories that are always there: processes may stay in them, and the kernel is told by
/// them which entries to drop.
pub const DIRECTORY_NODE: u64 = FIRST_FOREIGN;
pub const WARM_NAME: &str = "warm";
pub const WARM: u64 = FIRST_FOREIGN + 3;
const LASTING: [(Entry, u64); 4] = [
    (Entry::Root, DIRECTORY_NODE),
    (Entry::Views, FIRST_FOREIGN + 1),
    (Entry::Profiles, FIRST_FOREIGN + 2),
    (Entry::Warm, WARM),
];
const FIRST_PASSING: u64 = 64;

impl Paths {
    /// Ids of what comes and goes are `first` and beyond.
    pub fn new(first: u64) -> Self {
        let ids = LASTING.into_iter().collect();
        let entries = LASTING.into_iter().map(|(entry, id)| (id, (entry, 0))).collect();
        Self(Mutex::new(Table { ids, entries, next: first + FIRST_PASSING }))
    }

    pub fn look_up(&self, entry: Entry) -> u64 {
        let mut table = self.0.lock();
        let id = match table.ids.get(&entry) {
            Some(id) => *id,
            None => {
                let id = table.next;
                table.next += 1;
                table.ids.insert(entry.clone(), id);
                table.entries.insert(id, (entry, 0));
                id
            }
        };
        if let Some((_, lookups)) = table.entries.get_mut(&id) {
            *lookups += 1;
        }
        id
    }

    pub fn get(&self, id: u64) -> Result<Entry> {
        let table = self.0.lock();
        let entry = table.entries.get(&id).map(|(entry, _)| entry.clone());
        entry.ok_or_else(|| Error::Stale(format!("control node {id}: not known any more")))
    }

    pub fn forget(&self, id: u64, lookups: u64) {
        let mut table = self.0.lock();
        let Some((_, left)) = table.entries.get_mut(&id) else { return };
        *left = left.saturating_sub(lookups);
        if *left == 0
            && LASTING.iter().all(|(_, lasting)| *lasting != id)
            && let Some((entry, _)) = table.entries.remove(&id)
        {
            table.ids.remove(&entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_lasts_as_long_as_the_kernel_remembers_it() {
        let paths = Paths::new(FIRST_FOREIGN);
        let id = paths.look_up(Entry::View("a".into()));
        assert_eq!(paths.look_up(Entry::View("a".into())), id);
        paths.forget(id, 1);
        assert_eq!(paths.get(id).unwrap(), Entry::View("a".into()));
        paths.forget(id, 1);
        assert!(paths.get(id).is_err());
        assert_ne!(paths.look_up(Entry::View("a".into())), id);
    }

    #[test]
    fn every_listed_child_is_found() {
        for directory in [Entry::Root, Entry::View("a".into())] {
            for (name, is_directory) in directory.fixed_children() {
                let child = directory.child(name.as_bytes()).unwrap();
                assert_eq!(child.is_directory(), *is_directory);
            }
        }
        assert_eq!(Entry::Root.child(b"passwd"), None);
    }
}
