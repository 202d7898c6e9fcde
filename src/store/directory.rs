//! A store that is a directory tree on this host.
//!
//! Every path is resolved beneath the root by the kernel (openat2(2)), never by comparing
//! strings. A file is first opened with O_PATH, which has no effect on a FIFO or a device, then
//! checked, and only then is that very file reopened for reading.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp, openat,
    openat2, statx,
};
use rustix::io::Errno;

use super::{Found, Identity, Listed, Metadata, POLICY, Store, Template, is_internal, system_time};
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::name::printable;
use crate::sparse::Content;
use crate::sys;

/// A store on this host: see [the module](super).
pub struct DirectoryStore {
    path: PathBuf,
    /// Nothing can be opened for writing beneath this one, where the kernel and our rights allow.
    root: OwnedFd,
    writable_root: OwnedFd,
}

impl DirectoryStore {
    /// # Errors
    /// Where `path` cannot be opened as a directory.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let open = || openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let writable_root =
            open().map_err(|e| Error::io(format!("store {shown}: cannot open it as a directory"), e))?;
        let root = match sys::readonly_tree(path) {
            Ok(tree) => tree,
            Err(why) => {
                log::debug!(
                    "store {shown}: no read-only mount of its own ({why}); templates are opened read-only"
                );
                open().map_err(|e| Error::io(format!("store {shown}"), e))?
            }
        };
        Ok(Self { path: path.to_owned(), root, writable_root })
    }

    /// The same store as another process had it open, wherever its path leads by now.
    #[doc(hidden)]
    pub fn adopt(path: &Path, [root, writable_root]: [OwnedFd; 2]) -> Self {
        Self { path: path.to_owned(), root, writable_root }
    }

    /// What [`Self::adopt`] needs.
    #[doc(hidden)]
    pub fn roots(&self) -> [BorrowedFd<'_>; 2] {
        [self.root.as_fd(), self.writable_root.as_fd()]
    }

    fn shown(&self, path: &Path) -> String {
        printable(self.path.join(path).as_os_str().as_bytes())
    }

    fn not_found(&self, path: &Path, why: impl std::fmt::Display) -> Error {
        Error::NotFound(format!("{}: {why}", self.shown(path)))
    }

    /// The file or directory at `path`, opened with O_PATH, and what it is. A symlink is followed
    /// only as the last component, only to a regular file, and only within the store.
    fn locate(&self, root: &OwnedFd, path: &Path) -> Result<(OwnedFd, Statx)> {
        let mut directory = PathBuf::new();
        for name in path {
            if is_internal(&directory, name.as_bytes()) {
                return Err(
                    self.not_found(path, "it is no template but the store's own, which is not served")
                );
            }
            directory.push(name);
        }
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let explain = |errno: Errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => {
                self.not_found(path, format!("no template or directory of this store ({errno})"))
            }
            other => Error::io(self.shown(path), other),
        };
        let plain = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = resolve(root, name, plain, beneath | ResolveFlags::NO_SYMLINKS).map_err(explain)?;
        let stat = stat_fd(&fd).map_err(explain)?;
        match file_type(&stat) {
            FileType::RegularFile | FileType::Directory => Ok((fd, stat)),
            FileType::Symlink => {
                let fd = resolve(root, name, OFlags::PATH | OFlags::CLOEXEC, beneath).map_err(explain)?;
                let stat = stat_fd(&fd).map_err(explain)?;
                match file_type(&stat) {
                    FileType::RegularFile => Ok((fd, stat)),
                    _ => Err(self.not_found(path, "a symlink is served only where it leads to a template")),
                }
            }
            other => Err(self.not_found(path, format!("neither a template nor a directory but a {other:?}"))),
        }
    }

    /// As [`Self::locate`], for a file that must still be `expected`.
    fn locate_expected(&self, root: &OwnedFd, path: &Path, expected: &Identity) -> Result<OwnedFd> {
        let (fd, stat) = self.locate(root, path)?;
        if file_type(&stat) != FileType::RegularFile || identity(&stat) != *expected {
            return Err(Error::Stale(format!(
                "{}: the template changed while it was opened",
                self.shown(path)
            )));
        }
        Ok(fd)
    }
}

impl Store for DirectoryStore {
    fn find(&self, path: &Path) -> Result<Found> {
        let (fd, stat) = self.locate(&self.root, path)?;
        let metadata = metadata(&stat, acl(&fd).map_err(|e| Error::io(self.shown(path), e))?);
        Ok(match file_type(&stat) {
            FileType::Directory => Found::Directory(metadata),
            _ => Found::Template(metadata, identity(&stat)),
        })
    }

    fn list(&self, directory: &Path) -> Result<Vec<Listed>> {
        let context = |e: Errno| Error::io(format!("{}: cannot be listed", self.shown(directory)), e);
        let (fd, stat) = self.locate(&self.root, directory)?;
        if file_type(&stat) != FileType::Directory {
            return Err(Error::NotADirectory(format!("{}: not a directory", self.shown(directory))));
        }
        let fd = openat(&fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(context)?;
        let mut listed = Vec::new();
        for entry in Dir::new(fd).map_err(context)? {
            let entry = entry.map_err(context)?;
            let name = entry.file_name().to_bytes().to_vec();
            if is_internal(directory, &name) || matches!(name.as_slice(), b"." | b"..") {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::RegularFile => false,
                FileType::Directory => true,
                // The cheap answer is missing or is that of a symlink: only the full one counts.
                FileType::Symlink | FileType::Unknown => {
                    let path = directory.join(std::ffi::OsStr::from_bytes(&name));
                    match self.find(&path) {
                        Ok(found) => matches!(found, Found::Directory(_)),
                        Err(_) => continue,
                    }
                }
                _ => continue,
            };
            listed.push(Listed { name, is_directory });
        }
        listed.sort_unstable();
        Ok(listed)
    }

    fn pin(&self, path: &Path, expected: &Identity) -> Result<Arc<dyn Template>> {
        let located = self.locate_expected(&self.root, path, expected)?;
        let file = reopen(&located, OFlags::RDONLY).map_err(|e| Error::io(self.shown(path), e))?;
        Ok(Arc::new(TemplateFile { file, identity: expected.clone() }))
    }

    fn policy(&self) -> Result<Option<File>> {
        let path = Path::new(POLICY);
        let context = |e: io::Error| Error::io(format!("{}: the store's policy", self.shown(path)), e);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = match resolve(&self.root, path, flags, how) {
            Err(Errno::NOENT) => return Ok(None),
            fd => fd.map_err(|e| context(e.into()))?,
        };
        match file_type(&stat_fd(&fd).map_err(|e| context(e.into()))?) {
            FileType::RegularFile => Ok(Some(reopen(&fd, OFlags::RDONLY).map_err(context)?)),
            other => Err(Error::Invalid(format!(
                "{}: the store's policy is a file, and this is a {other:?}: put a file there or take it away",
                self.shown(path)
            ))),
        }
    }

    fn manifest(&self, path: &Path) -> Result<Option<(PathBuf, Manifest)>> {
        let own = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for place in manifest::places(path) {
            let (fd, stat) = match self.locate(&self.root, &place) {
                Ok((fd, stat)) if file_type(&stat) == FileType::RegularFile => (fd, stat),
                Ok(_) | Err(Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let shown = self.shown(&place);
            if stat.stx_size > manifest::MAX_LENGTH {
                return Err(Error::TooLarge(format!("{shown}: too long for a manifest: shorten it")));
            }
            let mut text = Vec::new();
            let read = reopen(&fd, OFlags::RDONLY)
                .and_then(|file| file.take(manifest::MAX_LENGTH).read_to_end(&mut text));
            read.map_err(|e| Error::io(shown.clone(), e))?;
            let manifest = Manifest::parse(&text, &shown)?;
            // Of another file in the same directory it says nothing.
            if manifest.part(own).is_some() {
                return Ok(Some((place, manifest)));
            }
        }
        Ok(None)
    }

    fn adopt(&self, file: File, pinned: &Identity) -> Arc<dyn Template> {
        Arc::new(TemplateFile { file, identity: pinned.clone() })
    }

    fn metadata(&self, file: BorrowedFd<'_>) -> Result<Metadata> {
        let look = || Ok(metadata(&stat_fd(file)?, acl(file)?));
        look().map_err(|e: io::Error| Error::io(self.shown(Path::new("")), e))
    }

    fn open_for_authoring(&self, path: &Path, expected: &Identity) -> Result<File> {
        let located = self.locate_expected(&self.writable_root, path, expected)?;
        reopen(&located, OFlags::RDWR).map_err(|e| Error::io(self.shown(path), e))
    }
}

struct TemplateFile {
    file: File,
    identity: Identity,
}

impl Content for TemplateFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        Content::read_at(&self.file, buf, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        self.file.next_hole(offset)
    }
}

impl Template for TemplateFile {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn unchanged(&self) -> io::Result<bool> {
        Ok(identity(&stat_fd(self.file.as_fd())?) == self.identity)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// openat2(2), which gives up with EAGAIN where `..` in a symlink races a rename.
fn resolve(root: &OwnedFd, path: &Path, flags: OFlags, how: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    for _ in 0..16 {
        match openat2(root, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN) => continue,
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

fn reopen(located: &OwnedFd, access: OFlags) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", located.as_raw_fd());
    let fd = openat(CWD, path, access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())?;
    Ok(File::from(fd))
}

fn stat_fd(fd: impl AsFd) -> rustix::io::Result<Statx> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

fn timestamp_ns(t: &StatxTimestamp) -> i128 {
    i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec)
}

fn identity(stat: &Statx) -> Identity {
    let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    Identity {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        size: stat.stx_size,
        mtime_ns: timestamp_ns(&stat.stx_mtime),
        btime_ns: has_btime.then(|| timestamp_ns(&stat.stx_btime)),
    }
}

fn metadata(stat: &Statx, acl: Option<Vec<u8>>) -> Metadata {
    let time = |t: &StatxTimestamp| system_time(t.tv_sec, t.tv_nsec);
    Metadata {
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: time(&stat.stx_atime),
        mtime: time(&stat.stx_mtime),
        ctime: time(&stat.stx_ctime),
        acl,
    }
}

/// getxattr(2) through /proc, since it takes no O_PATH descriptor.
fn acl(fd: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let mut value = vec![0; 1024];
    loop {
        match rustix::fs::getxattr(&path, c"system.posix_acl_access", &mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
            Err(Errno::RANGE) if value.len() < 65536 => value.resize(value.len() * 4, 0),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn store_with(files: &[(&str, &[u8])]) -> (tempfile::TempDir, DirectoryStore) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let store = DirectoryStore::open(dir.path()).unwrap();
        (dir, store)
    }

    fn identity_of(store: &DirectoryStore, path: &str) -> Identity {
        match store.find(Path::new(path)).unwrap() {
            Found::Template(_, identity) => identity,
            Found::Directory(_) => panic!("{path} is a directory"),
        }
    }

    #[test]
    fn only_templates_and_directories_are_found_and_nothing_outside() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let (dir, store) = store_with(&[("a", b"A"), ("sub/b", b"B")]);
        let at = |name: &str| dir.path().join(name);
        symlink("sub/b", at("link")).unwrap();
        symlink("../a", at("sub/up")).unwrap();
        symlink("sub", at("dirlink")).unwrap();
        symlink(outside.path(), at("absolute")).unwrap();
        symlink("../../../../../../etc/passwd", at("escape")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();

        for name in ["a", "sub/b", "link", "sub/up"] {
            assert!(matches!(store.find(Path::new(name)), Ok(Found::Template(..))), "{name}");
        }
        assert_eq!(identity_of(&store, "link"), identity_of(&store, "sub/b"));
        assert!(matches!(store.find(Path::new("")), Ok(Found::Directory(_))));
        for name in
            ["dirlink", "absolute", "escape", "dangling", "fifo", "socket", "none", "../x", "/etc/passwd"]
        {
            let error = store.find(Path::new(name)).expect_err(name);
            assert_eq!(error.errno(), Errno::NOENT, "{name}: {error}");
        }
        assert!(store.find(Path::new("dirlink/b")).is_err(), "no symlink on the way either");
        let listed: Vec<_> = store.list(Path::new("")).unwrap().into_iter().map(|l| l.name).collect();
        assert_eq!(listed, [&b"a"[..], b"link", b"sub"]);

        let unfinished = format!("sub/{}1/ram", crate::store::UNFINISHED);
        std::fs::create_dir(at(&unfinished).parent().unwrap()).unwrap();
        std::fs::write(at(&unfinished), b"half").unwrap();
        for path in [unfinished.as_str(), unfinished.strip_suffix("/ram").unwrap()] {
            assert_eq!(store.find(Path::new(path)).unwrap_err().errno(), Errno::NOENT, "{path}");
        }
        assert_eq!(store.list(Path::new("sub")).unwrap().len(), 2, "b and up");
    }

    #[test]
    fn a_pinned_template_outlives_its_name_and_notices_a_change() {
        let (dir, store) = store_with(&[("a", b"first")]);
        let identity = identity_of(&store, "a");
        let pinned = store.pin(Path::new("a"), &identity).unwrap();
        std::fs::write(dir.path().join("new"), b"other").unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("a")).unwrap();
        let mut buf = [0; 5];
        pinned.read_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"first");
        assert!(pinned.unchanged().unwrap());
        assert_eq!(store.pin(Path::new("a"), &identity).err().unwrap().errno(), Errno::STALE);

        let pinned = store.pin(Path::new("a"), &identity_of(&store, "a")).unwrap();
        std::fs::OpenOptions::new().write(true).open(dir.path().join("a")).unwrap().set_len(2).unwrap();
        assert!(!pinned.unchanged().unwrap());
        assert_eq!(pinned.read_at(&mut buf, 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// The kernel reopens a passthrough's backing file with the caller's flags and asks no
    /// permission: a writable open that slipped through would write the template.
    #[test]
    fn as_root_no_template_can_be_reopened_for_writing() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let (_dir, store) = store_with(&[("a", b"A")]);
        let pinned = store.pin(Path::new("a"), &identity_of(&store, "a")).unwrap();
        let path = format!("/proc/self/fd/{}", pinned.readable().unwrap().as_raw_fd());
        let error = std::fs::OpenOptions::new().write(true).open(path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        assert!(store.open_for_authoring(Path::new("a"), &identity_of(&store, "a")).is_ok());
    }
}
