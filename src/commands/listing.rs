//! Finds the templates of a directory tree: what a mount of it would serve.
//!
//! Everything is reached beneath the root that was opened first, and nothing is opened for
//! reading before fstat has called it a regular file: opening a FIFO would block and opening a
//! device may do anything.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{
    CWD, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fstat, openat, openat2, seek,
};
use rustix::io::Errno;

use crate::error::{self, Error};
use crate::manifest::{MAX_LENGTH, Manifest, is_manifest};
use crate::name::{escape, printable};
use crate::store::is_internal;

/// The directory at a mount's root that is not part of its store.
const RESERVED: &[u8] = b".templatefs";

pub struct Template {
    /// As it is written in a path below the mountpoint.
    pub name: Vec<u8>,
    /// Beneath the root, as it was read.
    pub path: PathBuf,
    pub size: u64,
    /// What its filesystem keeps for it.
    pub disk: u64,
    /// Bytes that are not in holes; None where the caller may not open the file.
    pub data: Option<u64>,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device and inode: two names may be one file.
    pub file: (u64, u64),
}

pub struct Skipped {
    /// In the tree, printable.
    pub path: String,
    pub reason: String,
}

/// All sorted by name.
#[derive(Default)]
pub struct Listing {
    pub templates: Vec<Template>,
    /// What is no template but tells of some, by path beneath the root.
    pub manifests: Vec<(PathBuf, Manifest)>,
    /// Directories and files that could not be looked at.
    pub skipped: Vec<Skipped>,
}

/// # Errors
/// When the root itself cannot be opened; what is below it is skipped instead.
pub fn list(root: &Path) -> error::Result<Listing> {
    let open = || -> Result<_, Errno> {
        let fd = openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok((fd, stat))
    };
    let (fd, stat) =
        open().map_err(|errno| Error::io(printable(root.as_os_str().as_encoded_bytes()), errno))?;
    let mut walk = Walk { root: fd, listed_names: is_templatefs(&stat), found: Listing::default() };
    let mut pending = vec![Vec::new()];
    while let Some(directory) = pending.pop() {
        if let Err(errno) = walk.directory(&directory, &mut pending) {
            walk.skip(&directory, errno);
        }
    }
    walk.found.templates.sort_by(|a, b| a.name.cmp(&b.name));
    walk.found.manifests.sort_by(|(a, _), (b, _)| a.cmp(b));
    walk.found.skipped.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk.found)
}

struct Walk {
    root: OwnedFd,
    /// The names read are written as in a path already: the root is in a mount of templatefs.
    listed_names: bool,
    found: Listing,
}

impl Walk {
    fn directory(&mut self, path: &[u8], pending: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let below = if path.is_empty() { &b"."[..] } else { path };
        let mut entries = Dir::new(openat2(&self.root, below, flags, Mode::empty(), beneath)?)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let reserved = path.is_empty() && name == RESERVED;
            let internal = is_internal(Path::new(OsStr::from_bytes(path)), name);
            if reserved || internal || matches!(name, b"." | b"..") {
                continue;
            }
            let child = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            match self.template(&child) {
                Ok(Found::Template(template)) if is_manifest(name) => self.manifest(template),
                Ok(Found::Directory) => pending.push(child),
                Ok(Found::Template(template)) => self.found.templates.push(template),
                Ok(Found::Other) => {}
                Err(errno) => self.skip(&child, errno),
            }
        }
        Ok(())
    }

    /// A file that only has such a name is a template like others.
    fn manifest(&mut self, file: Template) {
        match self.read_manifest(&file) {
            Some(manifest) => self.found.manifests.push((file.path, manifest)),
            None => self.found.templates.push(file),
        }
    }

    fn read_manifest(&self, file: &Template) -> Option<Manifest> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = openat2(&self.root, &file.path, flags, Mode::empty(), beneath).ok()?;
        let mut text = Vec::new();
        File::from(opened).take(MAX_LENGTH).read_to_end(&mut text).ok()?;
        Manifest::parse(&text, "").ok()
    }

    /// What an entry is once a symlink that stays beneath the root is followed.
    fn template(&self, path: &[u8]) -> Result<Found, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let own = openat2(&self.root, path, flags | OFlags::NOFOLLOW, Mode::empty(), ResolveFlags::BENEATH)?;
        let own_stat = fstat(&own)?;
        let (pinned, stat) = match FileType::from_raw_mode(own_stat.st_mode) {
            FileType::Directory => return Ok(Found::Directory),
            FileType::RegularFile => (own, own_stat),
            FileType::Symlink => {
                let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                // A link that dangles, leaves the tree or runs in circles is none that is served.
                let Ok(target) = openat2(&self.root, path, flags, Mode::empty(), beneath) else {
                    return Ok(Found::Other);
                };
                let stat = fstat(&target)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Ok(Found::Other);
                }
                (target, stat)
            }
            _ => return Ok(Found::Other),
        };
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        Ok(Found::Template(Template {
            name: self.written(path),
            path: PathBuf::from(OsStr::from_bytes(path)),
            size,
            disk: u64::try_from(stat.st_blocks).unwrap_or_default() * 512,
            data: reopen(&pinned).and_then(|file| data_bytes(&file)).ok().map(|data| data.min(size)),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            file: (stat.st_dev, stat.st_ino),
        }))
    }

    fn written(&self, path: &[u8]) -> Vec<u8> {
        if self.listed_names { path.to_vec() } else { escape(path).into_owned() }
    }

    fn skip(&mut self, path: &[u8], errno: Errno) {
        // What vanished while it was looked for is not there.
        if errno != Errno::NOENT {
            let reason = std::io::Error::from(errno).to_string();
            self.found.skipped.push(Skipped { path: printable(path), reason });
        }
    }
}

enum Found {
    Directory,
    Template(Template),
    Other,
}

/// Opens the very file that an O_PATH descriptor pins, known to be a regular one.
fn reopen(pinned: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    openat(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

fn data_bytes(file: &OwnedFd) -> Result<u64, Errno> {
    let file = file.as_fd();
    let (mut at, mut data) = (0, 0);
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(data),
            other => other?,
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        // The file may be changing; going on from here would go on for ever.
        if end <= start {
            return Ok(data);
        }
        data += end - start;
        at = end;
    }
}

fn is_templatefs(root: &Stat) -> bool {
    let device = format!("{}:{}", rustix::fs::major(root.st_dev), rustix::fs::minor(root.st_dev));
    std::fs::read("/proc/self/mountinfo").is_ok_and(|text| mounts_templatefs(&text, &device))
}

/// proc_pid_mountinfo(5): `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS... - TYPE SOURCE SUPER`.
fn mounts_templatefs(mountinfo: &[u8], device: &str) -> bool {
    mountinfo.split(|b| *b == b'\n').any(|line| {
        let mut words = line.split(|b| *b == b' ');
        words.nth(2) == Some(device.as_bytes())
            && words.skip_while(|word| *word != b"-").nth(1) == Some(b"fuse.templatefs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_templatefs_is_known_by_its_device() {
        let text = b"22 1 0:20 / /sys rw - sysfs sysfs rw\n\
                     36 35 0:51 / /mnt\\040t rw,nosuid shared:7 - fuse.templatefs /srv/t rw,user_id=0\n\
                     37 35 0:52 / /mnt/s rw - fuse.sshfs h:/ rw\n";
        assert!(mounts_templatefs(text, "0:51"));
        assert!(!mounts_templatefs(text, "0:52"));
        assert!(!mounts_templatefs(text, "0:5"));
        assert!(!mounts_templatefs(b"", "0:51"));
    }
}
