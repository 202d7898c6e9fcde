//! A mountpoint gets its /dev/fuse, and loses it: mount(2) and umount(2) for root, fusermount3
//! for an ordinary user.
//!
//! By hand, since the session library's own mounting may unmount a newer mount than its own and
//! cannot retry a busy unmount, and since a later successor needs the descriptor.

use std::ffi::{CString, OsString};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use crate::error::{Error, Result};
use crate::holders;

pub const FILESYSTEM: &str = "templatefs";

/// Checks that `mountpoint` can show `store`, and returns both without symlinks.
pub fn check(store: &Path, mountpoint: &Path, nonempty: bool) -> Result<(PathBuf, PathBuf)> {
    let store =
        std::fs::canonicalize(store).map_err(|e| Error::io(format!("store {}", store.display()), e))?;
    if !store.is_dir() {
        return Err(Error::Invalid(format!("store {}: not a directory", store.display())));
    }
    let shown = mountpoint.display();
    let unfit = |why: String| Error::Invalid(format!("mountpoint {shown}: {why}"));
    let left_behind =
        || unfit("a mount whose daemon is gone is left there; run `templatefs umount` on it first".into());
    let real = match std::fs::canonicalize(mountpoint) {
        Ok(real) => real,
        Err(e) if is_disconnected(&e) => return Err(left_behind()),
        Err(e) => return Err(Error::io(format!("mountpoint {shown}"), e)),
    };
    if !real.is_dir() {
        return Err(unfit("not a directory".into()));
    }
    if is_mountpoint(&real)? {
        // What stat(2) says may come from the time when the daemon lived; a listing is asked for.
        if own_mounts()?.iter().any(|entry| entry.mountpoint == real)
            && std::fs::read_dir(&real).is_err_and(|e| is_disconnected(&e))
        {
            return Err(left_behind());
        }
        return Err(unfit(
            "something is mounted there already; unmount it, or choose another directory".into(),
        ));
    }
    if inside(&store, &real) {
        return Err(unfit(format!("the mount would hide its own store {}", store.display())));
    }
    if inside(&real, &store) {
        return Err(unfit(format!("it lies in the store {}; choose a directory outside", store.display())));
    }
    let empty = std::fs::read_dir(&real).map(|mut entries| entries.next().is_none());
    if !nonempty && !empty.unwrap_or(true) {
        return Err(unfit(
            "not empty, and the mount would hide what is there; use --nonempty if that is meant".into(),
        ));
    }
    Ok((store, real))
}

/// Checks a state directory, which need not exist yet, against the paths that [`check`] returned.
pub fn check_state(state: &Path, store: &Path, mountpoint: &Path) -> Result<()> {
    let existing = state.ancestors().find_map(|ancestor| std::fs::canonicalize(ancestor).ok());
    let Some(existing) = existing else { return Ok(()) };
    let unfit = |why: &str| {
        Err(Error::Invalid(format!("state directory {}: {why}; choose another --state-dir", state.display())))
    };
    if inside(&existing, mountpoint) {
        return unfit("it lies below the mountpoint, and the mount would hide it");
    }
    if inside(&existing, store) {
        return unfit("it lies in the store, and its files would be served as templates");
    }
    Ok(())
}

fn inside(inner: &Path, outer: &Path) -> bool {
    let key = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let outer = key(outer);
    outer.is_some() && inner.ancestors().any(|ancestor| key(ancestor) == outer)
}

fn is_disconnected(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// Mounts, and returns the connection to the kernel.
pub fn attach(store: &Path, mountpoint: &Path, allow_other: bool) -> Result<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        attach_as_root(store, mountpoint, allow_other)
    } else {
        attach_by_fusermount(store, mountpoint, allow_other)
    }
}

fn attach_as_root(store: &Path, mountpoint: &Path, allow_other: bool) -> Result<OwnedFd> {
    let device = openat(CWD, "/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("/dev/fuse: cannot be opened; is the kernel's fuse module loaded?", e))?;
    let mut options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if allow_other {
        options.push_str(",allow_other");
    }
    let options = CString::new(options).map_err(|e| Error::io("mount options", e))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(store, mountpoint, format!("fuse.{FILESYSTEM}"), flags, options.as_c_str())
        .map_err(|e| Error::io(format!("mountpoint {}: mount(2)", mountpoint.display()), e))?;
    Ok(device)
}

fn attach_by_fusermount(store: &Path, mountpoint: &Path, allow_other: bool) -> Result<OwnedFd> {
    // The other end must be inherited: fusermount3 sends the descriptor back over it.
    let sockets = || {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
        Ok::<_, Errno>((ours, theirs))
    };
    let (ours, theirs) = sockets().map_err(|e| Error::io("a socket for fusermount3", e))?;
    let mut options =
        OsString::from(format!("nosuid,nodev,noexec,default_permissions,subtype={FILESYSTEM},fsname="));
    options.push(escape_option(store));
    if allow_other {
        options.push(",allow_other");
    }
    let mut child = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io("fusermount3: cannot be run; install the package fuse3", e))?;
    drop(theirs);
    let received = receive_descriptor(&ours);
    let mut message = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut message);
    }
    let status = child.wait().map_err(|e| Error::io("fusermount3", e))?;
    match received {
        Ok(Some(device)) if status.success() => Ok(device),
        _ => Err(Error::Invalid(format!(
            "mountpoint {}: fusermount3 refused: {}",
            mountpoint.display(),
            one_line(&message).unwrap_or_else(|| status.to_string())
        ))),
    }
}

/// A value within fusermount3's options: a comma ends it unless escaped.
fn escape_option(path: &Path) -> OsString {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    OsString::from_vec(out)
}

fn receive_descriptor(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.flatten().next())
}

/// Whoever only passes by, such as a stat(2), has gone after this long.
const PASSING: Duration = Duration::from_millis(500);

/// Unmounts; a busy mount stays as it is, and the error says who holds it. Never forced: that
/// would abort the connection under whoever uses it.
pub fn detach(mountpoint: &Path) -> Result<()> {
    let end = Instant::now() + PASSING;
    loop {
        if try_detach(mountpoint)? {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::io(holders::busy(mountpoint), Errno::BUSY));
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// False where it is busy.
fn try_detach(mountpoint: &Path) -> Result<bool> {
    if rustix::process::geteuid().is_root() {
        return match unmount(mountpoint, UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(Errno::INVAL) => {
                Err(Error::Invalid(format!("{}: nothing is mounted there", mountpoint.display())))
            }
            Err(e) => Err(Error::io(format!("{}: umount(2)", mountpoint.display()), e)),
        };
    }
    let output = Command::new("fusermount3")
        .args(["-u", "--"])
        .arg(mountpoint)
        .output()
        .map_err(|e| Error::io("fusermount3: cannot be run; install the package fuse3", e))?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(true),
        false if message.contains("busy") => Ok(false),
        false => Err(Error::Invalid(format!(
            "{}: fusermount3 refused: {}",
            mountpoint.display(),
            one_line(&message).unwrap_or_else(|| output.status.to_string())
        ))),
    }
}

fn one_line(message: &str) -> Option<String> {
    let line = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    (!line.is_empty()).then_some(line)
}

/// Is there still a mount that this connection belongs to?
pub fn is_connected(device: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&device, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Nothing else is an error on /dev/fuse.
    let polls = poll(&mut polled, Some(&now));
    polls.is_ok() && !polled[0].revents().contains(PollFlags::ERR)
}

/// The device number that files of a mount show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
pub struct MountEntry {
    pub device: Device,
    pub mountpoint: PathBuf,
    pub filesystem: String,
    pub source: PathBuf,
    /// Of the filesystem, whoever mounted it where.
    pub options: String,
}

impl MountEntry {
    /// Who mounted, where the filesystem tells: those of FUSE do.
    pub fn uid(&self) -> Option<u32> {
        self.options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
    }
}

/// The mounts of this process, in the order they were made.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(|e| Error::io("/proc/self/mountinfo", e))?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_mount).collect())
}

/// The mounts of templatefs.
pub fn own_mounts() -> Result<Vec<MountEntry>> {
    let own = |entry: &MountEntry| entry.filesystem == format!("fuse.{FILESYSTEM}");
    Ok(mounts()?.into_iter().filter(own).collect())
}

/// What a path lies on; it need not exist, but it must have no symlinks in it.
pub fn holding<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    // Of several on one directory the last one is on top.
    mounts
        .iter()
        .filter(|entry| path.starts_with(&entry.mountpoint))
        .max_by_key(|entry| entry.mountpoint.as_os_str().len())
}

/// The device number of what is mounted on top of `mountpoint`.
pub fn device_of(mountpoint: &Path) -> Result<Device> {
    let found = own_mounts()?.into_iter().rev().find(|entry| entry.mountpoint == mountpoint);
    let gone = || Error::NotFound(format!("{}: the mount is gone again", mountpoint.display()));
    found.map(|entry| entry.device).ok_or_else(gone)
}

/// A trigger of autofs(5) or of a systemd automount is there to be mounted over.
fn is_mountpoint(path: &Path) -> Result<bool> {
    let top = mounts()?.into_iter().rev().find(|entry| entry.mountpoint == path);
    Ok(top.is_some_and(|entry| entry.filesystem != "autofs"))
}

fn parse_mount(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    Some(MountEntry {
        device: Device { major: major.parse().ok()?, minor: minor.parse().ok()? },
        mountpoint: unescape_octal(fields.get(4)?),
        filesystem: String::from_utf8_lossy(fields.get(separator + 1)?).into_owned(),
        source: unescape_octal(fields.get(separator + 2)?),
        options: fields
            .get(separator + 3)
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .unwrap_or_default(),
    })
}

/// The kernel writes space, tab, newline and backslash as `\NNN`.
fn unescape_octal(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes() {
        let line = br"73 29 0:57 / /mnt/a\040b rw,nosuid shared:7 - fuse.templatefs /store\134x rw,user_id=7";
        let expected = MountEntry {
            device: Device { major: 0, minor: 57 },
            mountpoint: "/mnt/a b".into(),
            filesystem: "fuse.templatefs".into(),
            source: r"/store\x".into(),
            options: "rw,user_id=7".into(),
        };
        assert_eq!(expected.uid(), Some(7));
        assert_eq!(parse_mount(line), Some(expected));
        assert_eq!(parse_mount(b""), None);
        assert!(is_mountpoint(Path::new("/proc")).unwrap());
    }

    #[test]
    fn unfit_mountpoints_are_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["store/sub", "empty", "full/store"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::fs::write(at("file"), b"").unwrap();
        let refused = |store: &str, mountpoint: &str| {
            let message = check(&at(store), &at(mountpoint), false).unwrap_err().to_string();
            assert!(!message.contains('\n'));
            message
        };
        assert!(refused("none", "empty").contains("No such file"));
        assert!(refused("file", "empty").contains("not a directory"));
        assert!(refused("store", "none").contains("No such file"));
        assert!(refused("store", "file").contains("not a directory"));
        assert!(refused("store", "store").contains("hide its own store"));
        assert!(refused("full/store", "full").contains("hide its own store"));
        assert!(refused("store", "store/sub").contains("lies in the store"));
        assert!(refused("store", "full").contains("not empty"));
        assert!(check(&at("store"), &at("full"), true).is_ok());
        assert!(check(&at("store"), &at("empty"), false).is_ok());
    }
}
