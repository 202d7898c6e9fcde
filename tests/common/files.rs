//! Opening files the way that a test is about, and what a refusal is.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::io::Errno;

use super::limit::poll;
use super::mounted::{Mounted, binary};

/// How long anything may take that the kernel or the daemon does behind a test's back.
pub const SOON: Duration = Duration::from_secs(20);

pub fn open_ro(path: impl AsRef<Path>) -> io::Result<File> {
    File::open(path)
}

pub fn open_rw(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// A file that is there, for reading and writing.
#[track_caller]
pub fn opened(path: &Path) -> File {
    open_rw(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// O_RDWR | O_CREAT, as QEMU tries after ENOENT.
pub fn open_create(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// O_TRUNC beside an access mode of O_RDONLY, which opens for reading and truncates.
pub fn open_ro_truncating(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(path)
}

/// truncate(2), which needs no open file.
pub fn truncate(path: impl AsRef<Path>, size: i64) -> io::Result<()> {
    Ok(nix::unistd::truncate(path.as_ref(), size)?)
}

/// The file behind an open descriptor, opened anew.
pub fn reopened(file: &File, write: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

pub fn bytes_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map(|()| bytes)
}

/// The error that a call ended with; None where it worked.
pub fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().map(|error| Errno::from_io_error(&error).unwrap_or_else(|| panic!("{error}")))
}

#[track_caller]
pub fn assert_refused<T>(result: io::Result<T>, wanted: Errno, what: impl Debug) {
    assert_eq!(errno(result), Some(wanted), "{what:?}");
}

/// Whatever lies below a directory, sorted, with each file's length. What vanishes meanwhile is
/// left out.
pub fn tree(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = match fs::symlink_metadata(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata.unwrap(),
            };
            if metadata.is_dir() {
                todo.push(path.clone());
            }
            found.push((path, if metadata.is_file() { metadata.len() } else { 0 }));
        }
    }
    found.sort();
    found
}

/// The files that the daemon keeps of its views.
pub fn view_files(mounted: &Mounted) -> Vec<PathBuf> {
    tree(&mounted.state.join("views")).into_iter().map(|(path, _)| path).collect()
}

/// Those of views without a name.
pub fn nameless_view_files(mounted: &Mounted) -> Vec<PathBuf> {
    let is_nameless = |path: &PathBuf| path.file_name().unwrap().as_encoded_bytes().starts_with(b"u-");
    view_files(mounted).into_iter().filter(is_nameless).collect()
}

/// Waits until the daemon keeps no file of any view. RELEASE comes after close(2) has returned.
#[track_caller]
pub fn wait_for_no_view_files(mounted: &Mounted) {
    let gone = poll(SOON, || view_files(mounted).is_empty().then_some(()));
    assert!(gone.is_some(), "left over: {:?}", view_files(mounted));
}

/// The program under test with these arguments, to its end.
pub fn templatefs<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The one line with which the program failed.
#[track_caller]
pub fn error_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.starts_with("templatefs: ") && text.ends_with('\n'), "{text:?}");
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text.trim_end().to_owned()
}
