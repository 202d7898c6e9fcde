//! The state directory of one mount: its views' own pages, and a lock that keeps a second daemon
//! out.
//!
//! ```text
//! lock         held with flock(2) for as long as a daemon serves
//! mount.json   what is mounted where, and which processes hold and serve it
//! journal      what a successor must know (journal.rs, engine/ledger.rs)
//! views/       two or three files a view (overlay/files.rs)
//! holder       the socket at which the process that holds the mount can be asked (holder/door.rs)
//! daemon.log   the log of a daemon in the background, unless told otherwise
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, statfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mount;
use crate::name::printable;
use crate::plain;

pub struct StateDirectory {
    path: PathBuf,
    lock: OwnedFd,
}

/// What `mount.json` says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    schema: u32,
    version: String,
    /// The one that lasts as long as the mount.
    pid: u32,
    #[serde(default)]
    serving_pid: u32,
    store: String,
    mountpoint: String,
    /// Does the kernel read templates by itself? None where an older version has written this.
    #[serde(default)]
    passthrough: Option<bool>,
}

/// What a state directory says of its mount to those who may look.
pub struct Description {
    pub held_by: u32,
    pub served_by: u32,
    pub passthrough: Option<bool>,
}

impl StateDirectory {
    /// Makes the directory where it is missing, and takes it for this process.
    pub fn take(path: &Path) -> Result<Self> {
        let shown = path.display();
        let context = |e: io::Error| Error::io(format!("state directory {shown}"), e);
        make_private(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.join("lock")).map_err(context)?;
        match lock_of_live_daemon(&lock, path) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let user = read_description(path).map_or_else(String::new, |other| {
                    format!(" (process {}, mounted on {})", other.pid, other.mountpoint)
                });
                return Err(Error::Invalid(format!(
                    "state directory {shown}: another templatefs uses it{user}; unmount that one, or choose another \
                     --state-dir"
                )));
            }
            Err(e) => return Err(context(e.into())),
        }
        make_private(&path.join("views"))?;
        make_private(&path.join("profiles"))?;
        // A view that was brought to disk is found only by the names that lead to it.
        for directory in [path, path.parent().unwrap_or(path)] {
            if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
                log::warn!("{}: it cannot be brought to disk by its name: {error}", directory.display());
            }
        }
        Ok(Self { path: path.to_owned(), lock: lock.into() })
    }

    /// The one that another process has taken, and left the lock of it with this one.
    pub fn taken(path: &Path, lock: OwnedFd) -> Self {
        Self { path: path.to_owned(), lock }
    }

    pub fn lock(&self) -> &OwnedFd {
        &self.lock
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    pub fn views(&self) -> PathBuf {
        self.path.join("views")
    }

    pub fn profiles(&self) -> PathBuf {
        self.path.join("profiles")
    }

    /// There is nothing to take over any more.
    pub fn forget_journal(&self) {
        let _ = std::fs::remove_file(self.journal());
    }

    /// Tells whoever looks what is served from here.
    pub fn describe(&self, store: &Path, mountpoint: &Path, held_by: u32, passthrough: bool) -> Result<()> {
        let text = |path: &Path| printable(path.as_os_str().as_bytes());
        let mounted = Mounted {
            schema: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: held_by,
            serving_pid: std::process::id(),
            store: text(store),
            mountpoint: text(mountpoint),
            passthrough: Some(passthrough),
        };
        let write = || {
            let new = self.path.join("mount.json.new");
            std::fs::write(&new, serde_json::to_vec(&mounted)?)?;
            std::fs::rename(new, self.path.join("mount.json"))
        };
        write().map_err(|e| Error::io(format!("state directory {}", self.path.display()), e))
    }
}

/// Waits for a daemon that is about to end: its mount is gone already.
fn lock_of_live_daemon(lock: &File, path: &Path) -> rustix::io::Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let locked = flock(lock, FlockOperation::NonBlockingLockExclusive);
        let is_mounted = || {
            let other = read_description(path)?;
            let mounts = mount::own_mounts().ok()?;
            Some(
                mounts
                    .iter()
                    .any(|entry| printable(entry.mountpoint.as_os_str().as_bytes()) == other.mountpoint),
            )
        };
        if locked != Err(Errno::WOULDBLOCK) || is_mounted() != Some(false) || Instant::now() > end {
            return locked;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Its two paths are no longer than the kernel's limit, each byte of them written as `\xNN` at worst.
const DESCRIPTION: u64 = 64 << 10;

/// It may be another user's directory, who must not be able to make its reader wait.
fn read_description(path: &Path) -> Option<Mounted> {
    let file = plain::open(&path.join("mount.json"), false).ok()?;
    let mut text = Vec::new();
    file.take(DESCRIPTION).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// None where this user may not look, or where nothing is mounted.
pub fn description(path: &Path) -> Option<Description> {
    let found = read_description(path)?;
    let (held_by, served_by) = (found.pid, found.serving_pid);
    Some(Description { held_by, served_by, passthrough: found.passthrough })
}

/// The state of what `uid` has mounted there, if it is where it is unless told.
pub fn find(mountpoint: &Path, uid: u32) -> Option<PathBuf> {
    let wanted = printable(mountpoint.as_os_str().as_bytes());
    let states = bases(uid).into_iter().map(|base| base.join(escape(mountpoint)));
    let is_its = |state: &PathBuf| {
        let owned = std::fs::symlink_metadata(state).is_ok_and(|metadata| metadata.uid() == uid);
        owned && read_description(state).is_some_and(|found| found.mountpoint == wanted)
    };
    states.into_iter().find(is_its)
}

/// Where the states of this user's mounts are unless told, the best first.
fn bases(uid: u32) -> Vec<PathBuf> {
    if uid == 0 {
        return vec!["/run/templatefs".into(), "/dev/shm/templatefs".into()];
    }
    let own = uid == rustix::process::geteuid().as_raw();
    // pam_systemd(8) makes this one.
    let runtime = match own {
        true => std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()).map(PathBuf::from),
        false => Some(format!("/run/user/{uid}").into()),
    };
    let mut places: Vec<_> = runtime.map(|runtime| runtime.join("templatefs")).into_iter().collect();
    places.push(format!("/dev/shm/templatefs-{uid}").into());
    places
}

/// Where a mount keeps its state unless told: on tmpfs, one directory a mountpoint.
pub fn default_path(mountpoint: &Path) -> Result<PathBuf> {
    let Some(base) = default_base() else {
        return Err(Error::Invalid(
            "no tmpfs for the state of the mount at /run, /dev/shm or $XDG_RUNTIME_DIR: name a place with --state-dir"
                .into(),
        ));
    };
    make_private(&base)?;
    Ok(base.join(escape(mountpoint)))
}

/// The directory of all mounts' states; it need not exist.
pub fn default_base() -> Option<PathBuf> {
    let candidates = bases(rustix::process::geteuid().as_raw());
    let on_tmpfs = |path: &PathBuf| {
        let parent = path.parent().unwrap_or(path);
        statfs(parent).is_ok_and(|s| s.f_type == libc::TMPFS_MAGIC)
    };
    candidates.into_iter().find(on_tmpfs)
}

/// The state directories in the usual places, of mounts that are and that were, as far as this user may look.
pub fn usual_places() -> Vec<PathBuf> {
    let mut bases = vec![PathBuf::from("/run/templatefs"), "/dev/shm/templatefs".into()];
    bases
        .extend(std::env::var_os("XDG_RUNTIME_DIR").map(|runtime| PathBuf::from(runtime).join("templatefs")));
    bases.extend(below("/run/user").into_iter().map(|runtime| runtime.join("templatefs")));
    let of_users = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"templatefs-"))
    };
    bases.extend(below("/dev/shm").into_iter().filter(of_users));
    bases.sort();
    bases.dedup();
    bases.into_iter().flat_map(below).collect()
}

fn below(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The store that a state directory belongs to.
pub fn store_of(path: &Path) -> Option<PathBuf> {
    read_description(path).map(|found| found.store.into())
}

/// A path as one file name: `/` becomes `-`, and what could be mistaken for it `\xNN`.
fn escape(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'/' => out.push('-'),
            b if b.is_ascii_alphanumeric() || b"._:".contains(b) => out.push(char::from(*b)),
            b => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    // A name of a deep path would be too long for a file; its digest is not.
    if out.is_empty() {
        return "-".into();
    }
    if out.len() <= 200 { out } else { format!("{:08x}-{}", crc32fast::hash(bytes), &out[out.len() - 180..]) }
}

/// A directory that is ours alone. In a place that others may write too, somebody may have been
/// there first.
fn make_private(path: &Path) -> Result<()> {
    let shown = path.display();
    let mut builder = std::fs::DirBuilder::new();
    match builder.mode(0o700).recursive(true).create(path) {
        Ok(()) => {}
        Err(e) => return Err(Error::io(format!("state directory {shown}: cannot be made"), e)),
    }
    let metadata =
        std::fs::symlink_metadata(path).map_err(|e| Error::io(format!("state directory {shown}"), e))?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || !own || metadata.mode() & 0o022 != 0 {
        return Err(Error::Invalid(format!(
            "state directory {shown}: it holds guests' memory and must be a directory of this user that nobody else \
             may write"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = StateDirectory::take(&path).unwrap();
        // A place where no templatefs is mounted would count as one whose daemon is about to end.
        let error = StateDirectory::take(&path).err().unwrap().to_string();
        assert!(error.contains("another templatefs uses it"), "{error}");
        first.describe(Path::new("/srv/t"), Path::new("/mnt/t"), 1, true).unwrap();
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| StateDirectory::take(&path).map(drop));
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
            waiting.join().unwrap()
        });
        waiting.unwrap();
        StateDirectory::take(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shared");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(StateDirectory::take(&path).is_err());
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        assert!(StateDirectory::take(&dir.path().join("link")).is_err());
    }

    #[test]
    fn mountpoints_have_states_of_their_own() {
        let names: Vec<_> =
            ["/mnt/t", "/mnt-t", "/mnt/t/", "/", "/mnt\\x2dt"].map(|p| escape(Path::new(p))).into();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), 5, "{names:?}");
        assert!(escape(Path::new(&format!("/{}", "d/".repeat(2000)))).len() <= 255);
    }
}
