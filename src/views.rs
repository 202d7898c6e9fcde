//! The private views of a mount: those that have a name and last, and those that belong to one
//! path walk. Each lives in files of the state directory (overlay/files.rs), `n-NAME` or
//! `u-NODE`. One whose name is discarded while it is open goes on as one without a name.

mod aside;
mod settle;
mod view;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::name::Label;
use crate::overlay::{self, Lasts, PageMap, Record, State, Usage, ViewFiles};
use crate::pins::Pinned;
use crate::steps::step;
use crate::store::Identity;
use crate::stragglers::each;
use crate::turns::Turns;
use settle::Rest;
pub use view::{Named, View};
use view::{created, new_view};

/// What has become of a view whose name was discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// It is about to become the view of its node alone, which has it open.
    Held {
        node: u64,
    },
    Gone,
}

enum Slot {
    /// Its files do not answer yet.
    Unread,
    /// Nobody has it open.
    AtRest(Box<Named>, Rest),
    Open(Arc<View>),
    /// Set aside: the reason.
    Unusable(String),
    /// Its files could not be read, and may be another time.
    Failing(Error),
}

pub struct Views {
    directory: PathBuf,
    /// Never held while a file is waited for.
    named: Arc<Mutex<HashMap<Label, Slot>>>,
    /// A view was read at last.
    read: Arc<Condvar>,
    /// Held while the files of a view with a name are opened, made or removed.
    turns: Turns<Label>,
}

impl Views {
    /// Takes over what is in `directory`: views with a name, and those without one that belong to
    /// the nodes `live`; what is left of others is removed. `retired` are live nodes whose views'
    /// names were being discarded. A view with a name that cannot be used is set aside and
    /// reported; its files stay.
    pub fn load(directory: &Path, live: &HashSet<u64>, retired: &BTreeMap<u64, Label>) -> Result<Self> {
        let context = |e| Error::io(format!("state directory {}", directory.display()), e);
        for (node, name) in retired {
            overlay::rename_files(directory, &named_key(name), &unnamed_key(*node)).map_err(context)?;
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(context)? {
            let path = entry.map_err(context)?.path();
            let (Some(key), Some(extension)) =
                (path.file_stem().and_then(|s| s.to_str()), path.extension().and_then(|s| s.to_str()))
            else {
                continue;
            };
            match (key.split_at_checked(2), extension) {
                (Some(("n-", name)), "map") => {
                    names.extend(Label::new(name.as_bytes()));
                }
                // Of a view whose map is gone, and so of none.
                (Some(("n-", _)), "data" | "synced") if !path.with_extension("map").exists() => {
                    remove_left_over(&path);
                }
                (Some(("u-", node)), "map" | "data") if node.parse().is_ok_and(|n| live.contains(&n)) => {}
                (Some(("u-", _)), _) | (_, "new") => remove_left_over(&path),
                _ => {}
            }
        }
        let unread = names.iter().map(|name| (name.clone(), Slot::Unread)).collect();
        let views = Self {
            directory: directory.to_owned(),
            named: Arc::new(Mutex::new(unread)),
            read: Arc::default(),
            turns: Turns::default(),
        };
        let (directory, named, read) = (directory.to_owned(), views.named.clone(), views.read.clone());
        let waiting = each(names, move |name| {
            let slot = at_rest(&directory, &named_key(&name));
            if let Some(Slot::Failing(error)) = &slot {
                log::error!("{error}; it is read again when somebody asks for it");
            }
            keep(&mut named.lock(), &name, slot);
            read.notify_all();
        });
        if waiting > 0 {
            log::warn!("{waiting} views with a name wait for their files, and whoever opens them does");
        }
        Ok(views)
    }

    /// Once the files of this view have answered. Those that could not be read are read again.
    fn settled(&self, name: &Label) -> MutexGuard<'_, HashMap<Label, Slot>> {
        let mut named = self.named.lock();
        if let Some(slot @ Slot::Failing(_)) = named.get_mut(name) {
            *slot = Slot::Unread;
            drop(named);
            let read = at_rest(&self.directory, &named_key(name));
            named = self.named.lock();
            keep(&mut named, name, read);
            self.read.notify_all();
        }
        while let Some(Slot::Unread) = named.get(name) {
            self.read.wait(&mut named);
        }
        named
    }

    /// What is known of the view `name`, if it exists.
    pub fn find(&self, name: &Label) -> Result<Option<Named>> {
        known(name, self.settled(name).get(name))
    }

    /// Opens the view `name` if `allowed` says so, knowing its record, or makes it from `record`.
    pub fn open_named(
        &self,
        name: &Label,
        node: u64,
        pinned: &Arc<Pinned>,
        allowed: impl FnOnce(&Record) -> Result<()>,
        record: impl FnOnce() -> Record,
    ) -> Result<Arc<View>> {
        let key = named_key(name);
        let _turn = self.turns.take(name);
        let at_rest = match self.settled(name).get(name) {
            Some(Slot::Open(view)) => {
                allowed(&view.record())?;
                view.node.store(node, Ordering::Relaxed);
                return Ok(view.clone());
            }
            Some(Slot::Unusable(reason)) => return Err(unusable(name, reason)),
            Some(Slot::Failing(error)) => return Err(failing(name, error)),
            Some(Slot::AtRest(known, rest)) => {
                allowed(&known.record)?;
                Some((known.mtime, rest.files()))
            }
            Some(Slot::Unread) | None => None,
        };
        let view = match at_rest {
            Some((mtime, files)) => {
                let (files, pages) = match files {
                    Some(files) => {
                        let failed = |e| Error::io(format!("view {name}: its state cannot be read"), e);
                        let pages = files.pages().map_err(failed)?;
                        (files, pages)
                    }
                    None => self.opened(&key, Lasts::Yes)?,
                };
                new_view(files, pages, pinned, mtime, node)
            }
            None => {
                let files = ViewFiles::create(&self.directory, &key, record(), Lasts::Yes)?;
                created(files, pinned, node)
            }
        };
        self.named.lock().insert(name.clone(), Slot::Open(view.clone()));
        Ok(view)
    }

    /// Makes the view that belongs to the path walk that ended at `node`.
    pub fn create_unnamed(&self, node: u64, pinned: &Arc<Pinned>, record: Record) -> Result<Arc<View>> {
        let files = ViewFiles::create(&self.directory, &unnamed_key(node), record, Lasts::No)?;
        Ok(created(files, pinned, node))
    }

    /// Opens the view that belongs to `node` as an earlier daemon left it; `discarded` if it had a
    /// name once.
    pub fn reopen_unnamed(&self, node: u64, pinned: &Arc<Pinned>, discarded: bool) -> Result<Arc<View>> {
        let key = unnamed_key(node);
        let (files, pages) = self.opened(&key, Lasts::No)?;
        let mtime = files.mtime();
        let view = new_view(files, pages, pinned, mtime, node);
        if discarded {
            let _ = view.discarded.set((self.directory.clone(), key));
        }
        Ok(view)
    }

    fn opened(&self, key: &str, lasts: Lasts) -> Result<(Arc<ViewFiles>, PageMap)> {
        let gone = || Error::Stale(format!("{key}: the files of this view are gone"));
        match ViewFiles::open(&self.directory, key, lasts) {
            Ok(Some((files, pages))) => Ok((Arc::new(files), pages)),
            Ok(None) => Err(gone()),
            Err(error) if error.errno() == Errno::NOENT => Err(gone()),
            Err(error) => Err(error),
        }
    }

    /// Lets go of the files and the template of a named view after its last close. It stays as it
    /// is where somebody else has a hand on it.
    pub fn close_named(&self, name: &Label, view: Arc<View>) {
        let mut named = self.named.lock();
        let Some(slot) = named.get_mut(name) else { return };
        // The slot's reference and the one given here.
        if matches!(slot, Slot::Open(open) if Arc::ptr_eq(open, &view)) && Arc::strong_count(&view) == 2 {
            *slot = Slot::AtRest(Box::new(view.known()), Rest::of(&view.files));
        }
        // Before somebody else with a hand on it comes here and counts.
        drop(view);
        drop(named);
    }

    /// At the end of a mount the kernel does not close everything one by one.
    pub fn remove_all_unnamed(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"u-") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    pub fn remove_unnamed(&self, node: u64) {
        remove_files(&self.directory, &unnamed_key(node));
    }

    /// The view `name` is gone once this returns; those who have it open keep it until they
    /// close it. `allowed` decides, knowing its record (None for one that is set aside). `record`
    /// is told before the name can be used again.
    pub fn discard(
        &self,
        name: &Label,
        allowed: impl FnOnce(Option<&Record>) -> Result<()>,
        record: impl FnOnce(Discarded) -> Result<()>,
    ) -> Result<()> {
        let _turn = self.turns.take(name);
        let open = match self.settled(name).get(name) {
            Some(Slot::Unread) | None => {
                return Err(Error::NotFound(format!("view {name}: there is no such view")));
            }
            Some(Slot::AtRest(known, _)) => allowed(Some(&known.record)).map(|()| None)?,
            Some(Slot::Open(view)) => allowed(Some(&view.record())).map(|()| Some(view.clone()))?,
            Some(Slot::Unusable(_)) => allowed(None).map(|()| None)?,
            Some(Slot::Failing(error)) => return Err(failing(name, error)),
        };
        step("discard 1: begun");
        let failed = |e| Error::io(format!("view {name}: its files cannot be removed"), e);
        if let Some(view) = &open {
            let node = view.node.load(Ordering::Relaxed);
            record(Discarded::Held { node })?;
            step("discard 2: retired");
            view.files.set_discarded();
            let key = unnamed_key(node);
            overlay::rename_files(&self.directory, &named_key(name), &key).map_err(failed)?;
            step("discard 4: renamed");
            let _ = view.discarded.set((self.directory.clone(), key));
        } else {
            overlay::remove_files(&self.directory, &named_key(name)).map_err(failed)?;
            step("discard 5: removed");
            record(Discarded::Gone)?;
            step("discard 6: recorded");
        }
        self.named.lock().remove(name);
        Ok(())
    }

    /// Does a view with a name need this content of this file?
    pub fn any_of(&self, identity: &Identity) -> Option<Label> {
        let named = self.named.lock();
        let needs = |slot: &Slot| match slot {
            Slot::AtRest(known, _) => identity.continues(&known.record.identity),
            Slot::Open(view) => identity.continues(&view.record().identity),
            Slot::Unusable(_) => false,
            // It may.
            Slot::Unread | Slot::Failing(_) => true,
        };
        named.iter().find(|(_, slot)| needs(slot)).map(|(name, _)| name.clone())
    }

    /// The page states of a view that nobody has open.
    pub fn page_runs_at_rest(&self, name: &Label) -> Result<Vec<(u64, u64, State)>> {
        let (record, pages) = overlay::peek(&self.directory, &named_key(name))?;
        Ok(pages.runs(record.extent.size.div_ceil(overlay::PAGE)))
    }

    /// All views with a name that can be used, in no order; without those whose files do not answer.
    pub fn all(&self) -> Vec<(Label, Named)> {
        let named = self.named.lock();
        let usable = |(name, slot)| Some((Label::clone(name), known(name, Some(slot)).ok()??));
        named.iter().filter_map(usable).collect()
    }

    /// What views own that nobody has open, in bytes, those of `except` aside.
    pub fn at_rest_bytes(&self, except: Option<&Label>) -> u64 {
        let named = self.named.lock();
        let others = named.iter().filter(|(name, _)| Some(*name) != except);
        let owned = others.map(|(_, slot)| match slot {
            Slot::AtRest(known, _) => known.usage.private_bytes,
            Slot::Open(_) | Slot::Unusable(_) | Slot::Failing(_) | Slot::Unread => 0,
        });
        owned.sum()
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// That another version of this program made no view in `directory` that this one does not read.
pub fn check_all_known(directory: &Path) -> Result<()> {
    let entries = std::fs::read_dir(directory)
        .map_err(|e| Error::io(format!("state directory {}", directory.display()), e))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "map")
            && let Some(why) = overlay::foreign(&path)
        {
            return Err(Error::Stale(format!("{}: the record of this view: {why}", path.display())));
        }
    }
    Ok(())
}

/// What is known of a view without its files.
fn known(name: &Label, slot: Option<&Slot>) -> Result<Option<Named>> {
    match slot {
        Some(Slot::Unread) | None => Ok(None),
        Some(Slot::AtRest(known, _)) => Ok(Some(Named::clone(known))),
        Some(Slot::Open(view)) => Ok(Some(view.known())),
        Some(Slot::Unusable(reason)) => Err(unusable(name, reason)),
        Some(Slot::Failing(error)) => Err(failing(name, error)),
    }
}

fn unusable(name: &Label, reason: &str) -> Error {
    Error::Stale(format!("view {name}: {reason}"))
}

fn failing(name: &Label, error: &Error) -> Error {
    Error::io(format!("view {name}: {error}"), error.errno())
}

fn keep(named: &mut HashMap<Label, Slot>, name: &Label, slot: Option<Slot>) {
    match slot {
        Some(slot) => drop(named.insert(name.clone(), slot)),
        None => drop(named.remove(name)),
    }
}

fn named_key(name: &Label) -> String {
    format!("n-{name}")
}

fn remove_files(directory: &Path, key: &str) {
    if let Err(e) = overlay::remove_files(directory, key) {
        log::error!(
            "state directory {}: the files of a closed view cannot be removed: {e}",
            directory.display()
        );
    }
}

fn unnamed_key(node: u64) -> String {
    format!("u-{node}")
}

/// None of one that had not come to disk when the machine went down: nobody was promised it.
fn at_rest(directory: &Path, key: &str) -> Option<Slot> {
    match ViewFiles::open(directory, key, Lasts::Yes) {
        Ok(Some((files, pages))) => {
            let usage = Usage {
                private_bytes: pages.private() * overlay::PAGE,
                zero_bytes: pages.zero() * overlay::PAGE,
            };
            let known = Named { record: files.record(), usage, mtime: files.mtime() };
            Some(Slot::AtRest(Box::new(known), Rest::of(&Arc::new(files))))
        }
        Ok(None) => {
            log::warn!("{key}: this view was not yet on disk when the machine went down, and is gone");
            remove_files(directory, key);
            None
        }
        Err(error) if error.may_pass() => Some(Slot::Failing(error)),
        Err(error) => {
            log::error!("{error}");
            Some(Slot::Unusable(error.to_string()))
        }
    }
}

/// What stays is nobody's, and makes room for what is made under its name.
fn remove_left_over(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            log::warn!("{}: what is left over of a view cannot be removed: {error}", path.display());
        }
        _ => {}
    }
}
