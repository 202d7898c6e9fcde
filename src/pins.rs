//! Which templates are in use, and by whom a template may be written meanwhile: by nobody.
//!
//! A file of the store is pinned once, however many views read it. While a pin is held a change
//! of that file in place is an error for new views, and so is writing it through the mount; and
//! while somebody writes it through the mount there are no new views of it.
//!
//! One that nobody uses any more stays pinned for a second or two: a host starts one clone after
//! the other, and each would open, register and keep the same file again. Such a pin is nobody's use:
//! it gives way at once to whoever changes or writes the file.
//!
//! The descriptor of each is left with the keeper too: the store's path may lead elsewhere when a
//! successor looks for it.

use std::any::Any;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::keeper::{Keeper, Kept, KeptHere};
use crate::store::{Found, Identity, Store, Template};

/// A template in use. It is let go of with the last reference.
pub struct Pinned {
    template: Arc<dyn Template>,
    /// Whatever the one who serves it wants to keep exactly as long.
    pub attachment: OnceLock<Box<dyn Any + Send + Sync>>,
    /// Whether the kernel reads it by itself; set when that is decided.
    pub passed_through: OnceLock<bool>,
    reported: OnceLock<()>,
    data_bytes: OnceLock<Option<u64>>,
    _kept: Option<KeptHere>,
}

impl Pinned {
    fn new(template: Arc<dyn Template>, kept: Option<KeptHere>) -> Arc<Self> {
        Arc::new(Self {
            template,
            attachment: OnceLock::new(),
            passed_through: OnceLock::new(),
            reported: OnceLock::new(),
            data_bytes: OnceLock::new(),
            _kept: kept,
        })
    }

    /// Bytes of the template that are no hole; None where its filesystem cannot tell.
    pub fn data_bytes(&self) -> Option<u64> {
        *self.data_bytes.get_or_init(|| data_bytes(self.template.as_ref()))
    }

    /// The same, if it was asked for before; no file is asked.
    pub fn known_data_bytes(&self) -> Option<Option<u64>> {
        self.data_bytes.get().copied()
    }

    pub fn template(&self) -> &Arc<dyn Template> {
        &self.template
    }

    /// Looks whether the file was changed in place, and says so once.
    pub fn watch(&self, path: &Path) {
        if self.reported.get().is_some() || self.template.unchanged().unwrap_or(true) {
            return;
        }
        if self.reported.set(()).is_ok() {
            log::error!("{}", changed_in_place(path));
        }
    }
}

/// The template itself, open for writing.
pub struct Authored {
    pub file: File,
    _kept: KeptHere,
}

#[derive(Default)]
pub struct Pins {
    files: Mutex<HashMap<(u64, u64), Users>>,
    keeper: Arc<Keeper>,
    /// Tells the keys of this daemon from those of its predecessors.
    takeovers: u64,
    kept: AtomicU64,
}

#[derive(Default)]
struct Users {
    views: Weak<Pinned>,
    author: Weak<Authored>,
    /// Keeps `views` a little longer than its last user.
    lingering: Option<Lingering>,
}

struct Lingering {
    pinned: Arc<Pinned>,
    /// Nobody had used it at the last look either.
    unused: bool,
}

impl Lingering {
    /// New references are made under the lock of [`Pins::files`] alone, or from others that count here.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.pinned) > 1
    }
}

impl Users {
    fn let_go_if_unused(&mut self) {
        if self.lingering.as_ref().is_some_and(|lingering| !lingering.is_used()) {
            self.lingering = None;
        }
    }

    fn pinned(&mut self, pinned: &Arc<Pinned>) {
        self.views = Arc::downgrade(pinned);
        self.lingering = Some(Lingering { pinned: pinned.clone(), unused: false });
    }
}

impl Pins {
    pub fn new(keeper: Arc<Keeper>, takeovers: u64) -> Self {
        Self { keeper, takeovers, ..Self::default() }
    }

    /// Never the same twice: one file may be let go of and pinned again in either order.
    fn key(&self, what: &str, identity: &Identity) -> String {
        let serial = self.kept.fetch_add(1, Ordering::Relaxed);
        format!("{}{}.{serial}", key_prefix(what, identity), self.takeovers)
    }

    /// Pins the template at `path`, which was found to be `identity`.
    pub fn pin(&self, store: &dyn Store, path: &Path, identity: &Identity) -> Result<Arc<Pinned>> {
        if let Some(pinned) = check(self.files().get_mut(&identity.file()), path, identity)? {
            return Ok(pinned);
        }
        // Whoever is first in what comes now is believed below.
        let template = store.pin(path, identity)?;
        let kept =
            template.readable().map(|file| KeptHere::new(&self.keeper, self.key(TEMPLATE, identity), file));
        let pinned = Pinned::new(template, kept);
        let mut files = self.files();
        if let Some(others) = check(files.get_mut(&identity.file()), path, identity)? {
            return Ok(others);
        }
        files.entry(identity.file()).or_default().pinned(&pinned);
        Ok(pinned)
    }

    /// The files that are in use. No file is waited for while this is held: one that hangs concerns
    /// its own users alone.
    fn files(&self) -> MutexGuard<'_, HashMap<(u64, u64), Users>> {
        let mut files = self.files.lock();
        files.retain(|_, users| users.views.strong_count() + users.author.strong_count() > 0);
        files
    }

    /// Called about once a second: lets go of what nobody has used since the last time.
    pub fn let_go_of_unused(&self) {
        let mut gone = Vec::new();
        for users in self.files.lock().values_mut() {
            let Some(lingering) = &mut users.lingering else { continue };
            let unused = !lingering.is_used();
            if std::mem::replace(&mut lingering.unused, unused) && unused {
                gone.extend(users.lingering.take());
            }
        }
        // Closing a file may take its time, and the lock is for those who open one.
        drop(gone);
    }

    /// May the template at `path` have new views now?
    pub fn admit(&self, path: &Path, identity: &Identity) -> Result<()> {
        check(self.files.lock().get_mut(&identity.file()), path, identity).map(drop)
    }

    /// Opens the template itself; several may write it at once, as they may any file.
    pub fn author(&self, store: &dyn Store, path: &Path, identity: &Identity) -> Result<Arc<Authored>> {
        let known = |users: Option<&mut Users>| {
            let Some(users) = users else { return Ok(None) };
            users.let_go_if_unused();
            match users.views.strong_count() {
                0 => Ok(users.author.upgrade()),
                _ => Err(Error::InUse(format!(
                    "{}: views of this template are in use; write a new file and rename it over this one",
                    path.display()
                ))),
            }
        };
        if let Some(authored) = known(self.files().get_mut(&identity.file()))? {
            return Ok(authored);
        }
        let file = store.open_for_authoring(path, identity)?;
        let _kept = KeptHere::new(&self.keeper, self.key(AUTHORED, identity), &file);
        let authored = Arc::new(Authored { file, _kept });
        let mut files = self.files();
        if let Some(others) = known(files.get_mut(&identity.file()))? {
            return Ok(others);
        }
        files.entry(identity.file()).or_default().author = Arc::downgrade(&authored);
        Ok(authored)
    }

    /// Pins a template again as a dead daemon had it pinned: by the descriptor that was kept, or
    /// else by its path.
    pub fn pin_again(
        &self,
        store: &dyn Store,
        path: &Path,
        identity: &Identity,
        kept: &Mutex<Kept>,
    ) -> Result<Arc<Pinned>> {
        let mut files = self.files.lock();
        let users = files.entry(identity.file()).or_default();
        if let Some(pinned) = users.views.upgrade() {
            return Ok(pinned);
        }
        let Some((key, descriptor)) = take(&mut kept.lock(), TEMPLATE, identity) else {
            drop(files);
            return self.pin(store, path, identity);
        };
        let template = store.adopt(File::from(descriptor), identity);
        let pinned = Pinned::new(template, Some(KeptHere::again(&self.keeper, key)));
        users.pinned(&pinned);
        Ok(pinned)
    }

    /// As [`Self::pin_again`], for one who writes the template itself.
    pub fn author_again(
        &self,
        store: &dyn Store,
        path: &Path,
        identity: &Identity,
        kept: &Mutex<Kept>,
    ) -> Result<Arc<Authored>> {
        let mut files = self.files.lock();
        let users = files.entry(identity.file()).or_default();
        if let Some(authored) = users.author.upgrade() {
            return Ok(authored);
        }
        let Some((key, descriptor)) = take(&mut kept.lock(), AUTHORED, identity) else {
            drop(files);
            // Writing it has changed all but which file it is.
            return match store.find(path)? {
                Found::Template(_, now) if now.file() == identity.file() => self.author(store, path, &now),
                _ => Err(Error::Stale(format!("{}: it is another file now", path.display()))),
            };
        };
        let (file, _kept) = (File::from(descriptor), KeptHere::again(&self.keeper, key));
        let authored = Arc::new(Authored { file, _kept });
        users.author = Arc::downgrade(&authored);
        Ok(authored)
    }

    /// Lets go of what was kept and nobody needs any more.
    pub fn forget_rest(&self, kept: Kept) {
        kept.keys().filter(|key| key.contains(':')).for_each(|key| self.keeper.forget(key));
    }
}

const TEMPLATE: &str = "template";
const AUTHORED: &str = "authored";

pub fn knows_key(kept: &str) -> bool {
    kept.split_once(':').is_some_and(|(what, _)| [TEMPLATE, AUTHORED].contains(&what))
}

fn key_prefix(what: &str, identity: &Identity) -> String {
    format!("{what}:{}:{}:", identity.dev, identity.ino)
}

fn take(kept: &mut Kept, what: &str, identity: &Identity) -> Option<(String, OwnedFd)> {
    let prefix = key_prefix(what, identity);
    let key = kept.keys().find(|key| key.starts_with(&prefix))?.clone();
    kept.remove_entry(&key)
}

fn check(users: Option<&mut Users>, path: &Path, identity: &Identity) -> Result<Option<Arc<Pinned>>> {
    let Some(users) = users else { return Ok(None) };
    if users.author.strong_count() > 0 {
        return Err(Error::InUse(format!(
            "{}: this template is being written through the mount; close the writer first",
            path.display()
        )));
    }
    if users.views.upgrade().is_some_and(|pinned| pinned.template.identity() != identity) {
        users.let_go_if_unused();
    }
    match users.views.upgrade() {
        Some(pinned) if pinned.template.identity() == identity => Ok(Some(pinned)),
        Some(_) => Err(Error::Stale(changed_in_place(path))),
        None => Ok(None),
    }
}

fn changed_in_place(path: &Path) -> String {
    format!(
        "{}: this template was changed in place while views of it are in use; they may see either content, and new \
         views are refused until they are gone: replace a template by renaming a new file over it",
        path.display()
    )
}

/// Bytes of a template that are no hole.
fn data_bytes(template: &dyn Template) -> Option<u64> {
    let size = template.identity().size;
    let mut total = 0;
    let mut at = 0;
    while at < size {
        let Some(data) = template.next_data(at).ok()? else { break };
        let hole = template.next_hole(data).ok()?.min(size);
        total += hole.saturating_sub(data);
        at = hole.max(data + 1);
    }
    Some(total)
}
