//! What is mounted where, as it is left with the service manager: the mount itself cannot be asked while nobody
//! serves it, and not even its directory can be looked at.
//!
//! Fields that each end with a zero byte: "1", then store, mountpoint and state directory as they were asked for (the last
//! one empty where it was not), and then as they are, without symlinks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::config::MountConfig;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    asked: [PathBuf; 3],
    actual: [PathBuf; 3],
}

/// Six paths, none longer than the kernel's limit.
const LONGEST: usize = 6 * 4096 + 2;

impl Record {
    /// `asked` is the command line's, `actual` has the paths that it came to mean.
    pub fn new(asked: &MountConfig, actual: &MountConfig) -> Self {
        Self { asked: paths(asked), actual: paths(actual) }
    }

    /// Is it the same store, mountpoint and state directory that are asked for?
    pub fn is_of(&self, asked: &MountConfig) -> bool {
        self.asked == paths(asked)
    }

    pub fn mountpoint(&self) -> &Path {
        &self.actual[1]
    }

    pub fn state(&self) -> &Path {
        &self.actual[2]
    }

    /// With the paths that were found when it was mounted.
    pub fn applied_to(&self, asked: MountConfig) -> MountConfig {
        let [store, mountpoint, state] = self.actual.clone();
        MountConfig { store, mountpoint, state_dir: Some(state), ..asked }
    }

    pub fn to_file(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("templatefs-mount", MemfdFlags::CLOEXEC)?);
        let fields = self.asked.iter().chain(&self.actual).map(|path| path.as_os_str().as_bytes());
        let fields: Vec<&[u8]> = std::iter::once(&b"1"[..]).chain(fields).collect();
        file.write_all(&fields.join(&0))?;
        file.write_all(&[0])?;
        Ok(file.into())
    }

    /// None where this is no record that this version knows.
    pub fn from_file(file: &OwnedFd) -> Option<Self> {
        let file = File::from(file.try_clone().ok()?);
        let mut bytes = vec![0; LONGEST];
        let length = file.read_at(&mut bytes, 0).ok()?;
        bytes.truncate(length);
        parse(&bytes)
    }
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let fields: Vec<&[u8]> = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0).collect();
    let [version, paths @ ..] = <[&[u8]; 7]>::try_from(fields).ok()?;
    let [a, b, c, d, e, f] = paths.map(|path| PathBuf::from(OsStr::from_bytes(path)));
    (version == b"1").then_some(Record { asked: [a, b, c], actual: [d, e, f] })
}

fn paths(config: &MountConfig) -> [PathBuf; 3] {
    [config.store.clone(), config.mountpoint.clone(), config.state_dir.clone().unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let asked = ["/srv/t", "/mnt/a b", ""].map(PathBuf::from);
        let actual = [&b"/data/\xff"[..], b"/mnt/a b", b"/run/templatefs/x"];
        let actual = actual.map(|path| PathBuf::from(OsStr::from_bytes(path)));
        let record = Record { asked, actual };
        let file = record.to_file().unwrap();
        for _ in 0..2 {
            assert_eq!(Record::from_file(&file).as_ref(), Some(&record));
        }
        for other in [
            &b""[..],
            b"1",
            b"1\0",
            b"1\0a\0b\0c\0d\0e\0f",
            b"1\0a\0b\0c\0d\0e\0f\0g\0",
            b"2\0a\0b\0c\0d\0e\0f\0",
        ] {
            assert_eq!(parse(other), None, "{other:?}");
        }
        assert!(parse(b"1\0a\0b\0c\0d\0e\0f\0").is_some());
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Record::from_file(&socket.into()), None);
    }
}
