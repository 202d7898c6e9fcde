//! Templates: found, checked and pinned behind two small traits, so that they may one day come
//! from somewhere else than a local directory. Nobody else opens a template.
//!
//! ```
//! use templatefs::store::{Content, DirectoryStore, Found, Store, Template};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # std::fs::create_dir(directory.path().join("debian"))?;
//! # std::fs::write(directory.path().join("debian/12.ram"), b"template")?;
//! # let path = directory.path();
//! let store = DirectoryStore::open(path)?;
//! let listed = store.list("debian".as_ref())?;
//! assert_eq!(listed[0].name, b"12.ram");
//!
//! let Found::Template(metadata, identity) = store.find("debian/12.ram".as_ref())? else {
//!     panic!("a directory");
//! };
//! let pinned = store.pin("debian/12.ram".as_ref(), &identity)?;
//! let mut content = vec![0; metadata.size as usize];
//! pinned.read_at(&mut content, 0)?;
//! assert_eq!(content, b"template");
//!
//! // Pinned is the file, not its name.
//! std::fs::rename(path.join("debian/12.ram"), path.join("debian/11.ram"))?;
//! assert!(store.find("debian/12.ram".as_ref()).is_err());
//! assert!(pinned.unchanged()?);
//!
//! // Nothing outside of the store is reached, whatever a path says.
//! assert!(store.find("../etc/passwd".as_ref()).is_err());
//! # Ok(())
//! # }
//! ```

mod directory;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use directory::DirectoryStore;

use crate::error::Result;
use crate::manifest::Manifest;
#[doc(inline)]
pub use crate::sparse::Content;

#[doc(hidden)]
/// The name of a store's own policy (policy/), in its root. It is not served.
pub const POLICY: &str = "templatefs.toml";

/// What begins with this, anywhere in a store, is a template that is not finished (publish.rs), or one
/// that is being removed. It is not served.
#[doc(hidden)]
pub const UNFINISHED: &str = ".templatefs-new-";

/// Is this an entry of a store that is not served whatever it is?
#[doc(hidden)]
pub fn is_internal(directory: &Path, name: &[u8]) -> bool {
    let is_policy = directory.as_os_str().is_empty() && name == POLICY.as_bytes();
    is_policy || name.starts_with(UNFINISHED.as_bytes())
}

/// Which file, with which content, as far as stat(2) can tell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// When the file was made, where its filesystem knows; tells a reused inode number apart.
    pub btime_ns: Option<i128>,
}

impl Identity {
    /// The same file, whatever it holds now.
    pub fn file(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// Is this the file that `recorded` was, perhaps before a reboot? Device numbers are dealt
    /// out anew when filesystems are mounted, and so they do not count.
    pub fn continues(&self, recorded: &Self) -> bool {
        let key = |i: &Self| (i.ino, i.size, i.mtime_ns, i.btime_ns);
        key(self) == key(recorded)
    }
}

/// What stat(2) shows of a file or directory of the store.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// Permission bits only.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    /// The value of `system.posix_acl_access`, where there is one.
    pub acl: Option<Vec<u8>>,
}

/// What a path of the store is.
#[derive(Debug, Clone)]
pub enum Found {
    Directory(Metadata),
    Template(Metadata, Identity),
}

/// One entry of a directory; `name` is the file's own, unescaped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub name: Vec<u8>,
    pub is_directory: bool,
}

/// Paths are relative to the store's root; the empty path is the root itself. It is implemented here
/// alone, and may gain methods.
pub trait Store: Send + Sync {
    /// What a path is. A file that is neither a template nor a directory is not found.
    fn find(&self, path: &Path) -> Result<Found>;

    /// The directories and templates in a directory, sorted by name.
    fn list(&self, directory: &Path) -> Result<Vec<Listed>>;

    /// Holds on to the file at `path`, which must still be `expected`.
    fn pin(&self, path: &Path, expected: &Identity) -> Result<Arc<dyn Template>>;

    /// The store's own policy (policy/), where it has one.
    #[doc(hidden)]
    fn policy(&self) -> Result<Option<File>>;

    /// The manifest that tells of the file at `path`, and its own path; None where there is none.
    #[doc(hidden)]
    fn manifest(&self, path: &Path) -> Result<Option<(PathBuf, Manifest)>>;

    /// A template that an earlier daemon had pinned, by its descriptor.
    #[doc(hidden)]
    fn adopt(&self, file: File, pinned: &Identity) -> Arc<dyn Template>;

    /// What an open template is now.
    #[doc(hidden)]
    fn metadata(&self, file: BorrowedFd<'_>) -> Result<Metadata>;

    /// Opens the template itself for reading and writing.
    #[doc(hidden)]
    fn open_for_authoring(&self, path: &Path, expected: &Identity) -> Result<File>;
}

/// A pinned template: it stays this file when the store's path comes to mean another one. It is implemented
/// here alone, and may gain methods.
///
/// Its content ends at `identity().size`.
pub trait Template: Content {
    fn identity(&self) -> &Identity;

    /// Is the file still what it was when it was pinned?
    fn unchanged(&self) -> io::Result<bool>;

    /// A descriptor that is open for reading only, where the kernel may read the template by
    /// itself.
    fn readable(&self) -> Option<BorrowedFd<'_>>;
}

#[doc(hidden)]
pub fn nanoseconds(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

#[doc(hidden)]
pub fn system_time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|t| t.checked_add(Duration::from_nanos(nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}
