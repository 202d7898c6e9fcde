//! What lies at a mem-path. A view is looked at by stat(2) alone: opening it might make it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, SeekFrom, accessat, openat, seek};
use rustix::io::Errno;

use crate::admit;
use crate::doctor::qemu::{File, Found, OnMount, Place};
use crate::explain::{Refusal, explain};
use crate::mount::{FILESYSTEM, MountEntry, holding, mounts};
use crate::name;
use crate::rules::Kind;

/// `path` as QEMU would open it; relative ones are this process's.
pub fn file(path: &str) -> File {
    let mut path = resolved(Path::new(path));
    let mounts = mounts().unwrap_or_default();
    for _ in 0..MAX_LINKS {
        let entry = holding(&mounts, &path);
        if let Some(entry) = entry.filter(|entry| entry.filesystem == format!("fuse.{FILESYSTEM}")) {
            return on_mount(entry, &path);
        }
        // A link elsewhere may lead to a path with a query.
        let Ok(target) = fs::read_link(&path) else {
            let huge = entry.is_some_and(|entry| entry.filesystem == "hugetlbfs");
            return elsewhere(&path, if huge { Place::HugePages } else { Place::Elsewhere });
        };
        path = resolved(&path.parent().unwrap_or(Path::new("/")).join(target));
    }
    elsewhere(&path, Place::Elsewhere)
}

/// Linux follows no more.
const MAX_LINKS: usize = 40;

/// Its directories without symlinks. The last part stays as it is: a query is the mount's alone to understand.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let parent = path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

fn elsewhere(path: &Path, place: Place) -> File {
    let (found, size) = found(path);
    let has_data = found != Found::Regular || has_data(path);
    File {
        size,
        has_data,
        unreadable: refused(path, Access::READ_OK),
        unwritable: refused(path, Access::WRITE_OK),
        found,
        place,
    }
}

fn on_mount(entry: &MountEntry, path: &Path) -> File {
    let below = path.strip_prefix(&entry.mountpoint).unwrap_or(path).as_os_str().as_bytes();
    let explanation = explain(below);
    let (found, size) = match found(path) {
        // Directories are shown as writable to whoever may remove views; names are made in the store.
        (Found::Missing { .. }, size) => (Found::Missing { creatable: false }, size),
        other => other,
    };
    let kind = match &found {
        Found::Directory => Ok(Kind::Rom),
        _ => kind(below, explanation.refusal),
    };
    let template = explanation.template.map(|name| entry.source.join(name));
    let base = PathBuf::from(OsStr::from_bytes(before_query(path.as_os_str().as_bytes())));
    let unwritable = match (&kind, &template) {
        (Ok(Kind::Private), _) => None,
        // Who may write the file itself may open these for writing.
        (Ok(Kind::PrivateIfWritable | Kind::Template), Some(template)) => refused(template, Access::WRITE_OK),
        _ => Some("Permission denied".to_owned()),
    };
    let written = explanation.view.is_some() && fs::metadata(path).is_ok_and(|view| view.blocks() > 0);
    File {
        size,
        has_data: found != Found::Regular || written || has_data(&base),
        unreadable: refused(&base, Access::READ_OK),
        unwritable,
        found,
        place: Place::Templatefs(OnMount { kind, view: explanation.view }),
    }
}

fn kind(below: &[u8], refusal: Option<Refusal>) -> Result<Kind, Refusal> {
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let last = below.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let kind = name::parse(last).ok().and_then(|request| admit::check(&request).ok());
    Ok(kind.unwrap_or(Kind::Rom))
}

fn before_query(path: &[u8]) -> &[u8] {
    let start = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    let end = path[start..].iter().position(|b| *b == b'?').map_or(path.len(), |at| start + at);
    &path[..end]
}

fn found(path: &Path) -> (Found, u64) {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => (Found::Directory, 0),
        Ok(metadata) if metadata.is_file() => (Found::Regular, metadata.len()),
        // A device has a size of its own kind, and a FIFO none; QEMU opens them.
        Ok(_) => (Found::Regular, u64::MAX),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let creatable = path.parent().is_some_and(|parent| refused(parent, Access::WRITE_OK).is_none());
            (Found::Missing { creatable }, 0)
        }
        Err(e) => (Found::Failed(words(&e)), 0),
    }
}

/// Only a regular file is opened, and only to be read.
fn has_data(path: &Path) -> bool {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return true;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(CWD, path, flags, Mode::empty()) else { return true };
    seek(&file, SeekFrom::Data(0)) != Err(Errno::NXIO)
}

fn refused(path: &Path, access: Access) -> Option<String> {
    accessat(CWD, path, access, AtFlags::EACCESS).err().map(|errno| words(&errno.into()))
}

/// As strerror(3) says it, which QEMU prints.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_cut_off_the_last_part_alone() {
        assert_eq!(before_query(b"/mnt/what?/a?rom=off"), b"/mnt/what?/a");
        assert_eq!(before_query(b"/mnt/a"), b"/mnt/a");
    }

    #[test]
    fn plain_files_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ram");
        let at = |path: &Path| file(path.to_str().unwrap());
        assert_eq!(at(&path).found, Found::Missing { creatable: true });
        fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let holes = at(&path);
        assert_eq!((holes.found, holes.size, holes.has_data), (Found::Regular, 1 << 20, false));
        fs::write(&path, b"data").unwrap();
        assert!(at(&path).has_data);
        assert_eq!(at(directory.path()).found, Found::Directory);
        assert_eq!(at(&path.join("below")).found, Found::Failed("Not a directory".into()));
    }
}
