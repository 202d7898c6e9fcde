//! A new template, or one that goes: it is there whole or not at all, at whatever instant this is killed.
//!
//! ```text
//! .templatefs-new-X/     beside where the template will be, never served, locked while somebody works on it
//!   ram  state  ...      written, then read by no one but their maker until they are mode 0444
//!   manifest.json
//! rename(2)              of the whole directory, or of the one file in it, once all is on disk
//! ```
//!
//! The kernel takes the lock back from whoever dies. What is left of them the next one to come removes.
//! Everything is reached from descriptors beneath the store's root, so that no symlink leads outside.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, flock, fstat,
    mkdirat, openat, openat2, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::store::{UNFINISHED, is_internal};

/// A place in a store where a template is made, or from where it is taken.
pub struct Draft {
    /// The template's path in the store, and both for messages.
    name: PathBuf,
    shown: String,
    /// The directory that the template is or will be in, and the template's own name there.
    parent: OwnedFd,
    own: Vec<u8>,
    /// The hidden directory in it, locked by this descriptor.
    hidden: OwnedFd,
    hidden_name: String,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Draft {
    /// For a template `name` that is not there yet; directories on the way are made.
    pub fn new(store: &Path, name: &Path) -> Result<Self> {
        let draft = Self::at(store, name, true)?;
        match statat(&draft.parent, draft.own.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(draft),
            Err(e) => Err(Error::io(draft.shown.clone(), e)),
            Ok(_) => Err(draft.is_there()),
        }
    }

    /// For a template `name` that is to go.
    pub fn of(store: &Path, name: &Path) -> Result<Self> {
        Self::at(store, name, false)
    }

    fn at(store: &Path, name: &Path, make: bool) -> Result<Self> {
        let shown = store.join(name).display().to_string();
        check_name(name).map_err(|why| Error::Invalid(format!("{shown}: {why}")))?;
        let root = open_store(store)?;
        sweep(&root);
        let context = |e: Errno| Error::io(format!("{shown}: the directory that it is in"), e);
        let parent = name.parent().unwrap_or(Path::new(""));
        let parent = directory(root, parent, make).map_err(context)?;
        let own = name.file_name().unwrap_or_default().as_bytes().to_vec();
        let (hidden, hidden_name) = hidden(&parent)
            .map_err(|e| Error::io(format!("{shown}: nothing can be written beside it"), e))?;
        Ok(Self { name: name.to_owned(), shown, parent, own, hidden, hidden_name })
    }

    /// The template's path in its store.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The template's own name, without directories.
    pub fn own_name(&self) -> String {
        String::from_utf8_lossy(&self.own).into_owned()
    }

    fn is_there(&self) -> Error {
        Error::NameTaken(format!(
            "{}: it is there already; take another name, or remove it with `templatefs rm` first",
            self.shown
        ))
    }

    /// A new file of the template, open for reading and writing.
    pub fn create(&self, file: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = openat(&self.hidden, file, flags, Mode::RUSR | Mode::WUSR);
        made.map(File::from).map_err(|e| Error::io(format!("{}: {file}", self.shown), e))
    }

    /// A file that [`Self::create`] made, for reading only: it is never written again.
    pub fn finish(&self, file: &File, part: &str) -> Result<File> {
        let finish = || {
            file.set_permissions(Permissions::from_mode(0o444))?;
            file.sync_all()?;
            openat(&self.hidden, part, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .map_err(io::Error::from)
        };
        finish().map(File::from).map_err(|e| Error::io(format!("{}: {part}", self.shown), e))
    }

    /// All files that were made, with their manifest, become the directory `name`.
    pub fn publish_set(self, manifest: &Manifest) -> Result<()> {
        self.put(manifest::FILE, manifest)?;
        let context = |e: Errno| Error::io(format!("{}: cannot be published", self.shown), e);
        rustix::fs::fchmod(&self.hidden, Mode::from_raw_mode(0o755)).map_err(context)?;
        rustix::fs::fsync(&self.hidden).map_err(context)?;
        self.rename(&self.parent, self.hidden_name.as_bytes(), &self.own)?;
        rustix::fs::fsync(&self.parent).map_err(context)
    }

    /// The one file that was made becomes the file `name`, its manifest the one beside it.
    pub fn publish_file(self, manifest: &Manifest) -> Result<()> {
        let part = self.own_name();
        self.put(manifest::FILE, manifest)?;
        let context = |e: Errno| Error::io(format!("{}: cannot be published", self.shown), e);
        // The manifest must be there when the template is; without a template it means nothing. Who else
        // publishes here waits.
        flock(&self.parent, FlockOperation::LockExclusive).map_err(context)?;
        if statat(&self.parent, self.own.as_slice(), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(self.is_there());
        }
        let beside = manifest::beside(Path::new(OsStr::from_bytes(&self.own)));
        rustix::fs::renameat(&self.hidden, manifest::FILE, &self.parent, &beside).map_err(context)?;
        self.rename(&self.hidden, part.as_bytes(), &self.own)?;
        rustix::fs::fsync(&self.parent).map_err(context)
    }

    fn put(&self, file: &str, manifest: &Manifest) -> Result<()> {
        let mut made = self.create(file)?;
        io::Write::write_all(&mut made, &manifest.to_json()?)
            .map_err(|e| Error::io(format!("{}: {file}", self.shown), e))?;
        self.finish(&made, file).map(drop)
    }

    fn rename(&self, from: &OwnedFd, old: &[u8], new: &[u8]) -> Result<()> {
        match renameat_with(from, old, &self.parent, new, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST | Errno::NOTEMPTY) => Err(self.is_there()),
            result => result.map_err(|e| Error::io(format!("{}: cannot be published", self.shown), e)),
        }
    }

    /// The template, and its manifest where it is one file, leave the store; dropping this removes them.
    pub fn take_away(&self) -> Result<()> {
        let context = |e: Errno| match e {
            Errno::NOENT => Error::NotFound(format!("{}: there is no such template", self.shown)),
            e => Error::io(format!("{}: cannot be removed", self.shown), e),
        };
        rename_new(&self.parent, &self.own, &self.hidden, &self.own).map_err(context)?;
        let beside = self.beside();
        match rename_new(&self.parent, &beside, &self.hidden, &beside) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(context(e)),
        }
        rustix::fs::fsync(&self.parent).map_err(context)
    }

    /// What [`Self::take_away`] took is where it was, unless something else is there by now.
    pub fn put_back(&self) -> Result<()> {
        let back = |name: &[u8]| match rename_new(&self.hidden, name, &self.parent, name) {
            Err(Errno::NOENT) => Ok(()),
            result => result.map_err(|e| Error::io(format!("{}: cannot be put back", self.shown), e)),
        };
        back(&self.beside())?;
        back(&self.own)
    }

    fn beside(&self) -> Vec<u8> {
        manifest::beside(Path::new(OsStr::from_bytes(&self.own))).into_os_string().into_encoded_bytes()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Published as a set, it has another name by now, and this one is nobody's.
        let _ = remove(&self.parent, &self.hidden, self.hidden_name.as_bytes());
    }
}

/// A name that somebody may give a template.
fn check_name(name: &Path) -> std::result::Result<(), &'static str> {
    let mut directory = PathBuf::new();
    for component in name.components() {
        let Component::Normal(own) = component else {
            return Err("it is no name in a store: leave out `/` at its start, `.` and `..`");
        };
        if is_internal(&directory, own.as_bytes())
            || (directory.as_os_str().is_empty() && own == ".templatefs")
        {
            return Err("a store keeps something else under this name: take another one");
        }
        directory.push(own);
    }
    match name.file_name() {
        None => Err("it is no name: give one"),
        Some(own) if manifest::is_manifest(own.as_bytes()) => {
            Err("it is the name of a manifest: take another one")
        }
        Some(_) => Ok(()),
    }
}

pub fn open_store(store: &Path) -> Result<OwnedFd> {
    openat(CWD, store, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(format!("store {}", store.display()), e))
}

/// The directory at `path` beneath `root`; those that are missing are made where `make`.
fn directory(root: OwnedFd, path: &Path, make: bool) -> rustix::io::Result<OwnedFd> {
    let mut at = root;
    for name in path {
        let open = || {
            openat2(&at, name, DIRECTORY, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
        };
        let next = match open() {
            Err(Errno::NOENT) if make => {
                match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                open()
            }
            opened => opened,
        };
        at = next?;
    }
    Ok(at)
}

/// A new hidden directory, locked.
fn hidden(parent: &OwnedFd) -> rustix::io::Result<(OwnedFd, String)> {
    let mut last = Errno::AGAIN;
    for number in 0..1000 {
        let name = format!("{UNFINISHED}{}-{number}", std::process::id());
        match mkdirat(parent, &name, Mode::RWXU) {
            Err(Errno::EXIST) => continue,
            made => made?,
        }
        // Between these two somebody may take it for one that was left behind.
        match openat(parent, &name, DIRECTORY, Mode::empty()).and_then(|fd| lock(parent, fd, name.as_bytes()))
        {
            Ok(fd) => return Ok((fd, name)),
            Err(e @ (Errno::NOENT | Errno::AGAIN)) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// EAGAIN where somebody else has it, ENOENT where it is not there any more.
fn lock(parent: &OwnedFd, directory: OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    let (own, there) = (fstat(&directory)?, statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?);
    match (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino) {
        true => Ok(directory),
        false => Err(Errno::NOENT),
    }
}

/// Removes what dead processes left in the store, as far as this one may. What cannot be looked at is let be.
pub fn sweep(root: &OwnedFd) {
    let Ok(entries) = openat(root, ".", DIRECTORY, Mode::empty()).and_then(Dir::new) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..")
            || !matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
        {
            continue;
        }
        let Ok(directory) = openat(root, name, DIRECTORY, Mode::empty()) else { continue };
        match name.starts_with(UNFINISHED.as_bytes()) {
            false => sweep(&directory),
            true => {
                if let Ok(locked) = lock(root, directory, name) {
                    let _ = remove(root, &locked, name);
                }
            }
        }
    }
}

/// Removes a hidden directory and what is in it; one that has another name by now stays.
fn remove(parent: &OwnedFd, directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let (own, there) = (fstat(directory)?, statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?);
    if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino) {
        return Ok(());
    }
    let inside = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    for entry in std::fs::read_dir(&inside)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn rename_new(from: &OwnedFd, old: &[u8], to: &OwnedFd, new: &[u8]) -> rustix::io::Result<()> {
    renameat_with(from, old, to, new, RenameFlags::NOREPLACE)
}

#[cfg(test)]
mod tests;
