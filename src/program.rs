//! This program again, or another version of it, as a process of its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, openat};

/// By its path, so that it goes by its name; by the kernel's link once that was replaced.
pub fn command() -> Command {
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    by_path(path.as_deref().unwrap_or(Path::new("/proc/self/exe")))
}

fn by_path(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.arg0("templatefs");
    command
}

/// A program that may be started again and again: what became of its path meanwhile does not matter.
pub struct Program(File);

impl Program {
    pub fn this() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/exe"))
    }

    pub fn open(path: &Path) -> io::Result<Self> {
        let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Self::received(file)
    }

    /// One that another process has opened.
    pub fn received(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let metadata = file.metadata()?;
        match metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            true => Ok(Self(file)),
            false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is no program")),
        }
    }

    pub fn file(&self) -> &File {
        &self.0
    }

    pub fn path(&self) -> PathBuf {
        std::fs::read_link(self.link()).unwrap_or_else(|_| self.link())
    }

    pub fn command(&self) -> Command {
        let key = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let path = self.path();
        let is_there = std::fs::metadata(&path).ok().map(key) == self.0.metadata().ok().map(key);
        by_path(&if is_there { path } else { self.link() })
    }

    fn link(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
