//! The operations that the files of views are made of, and nothing above them: what a test wants
//! to fail, or what a power cut may undo, is one of these (script.rs).

#[cfg(test)]
pub mod script;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate};
use rustix::io::Errno;

use crate::plain;
#[cfg(test)]
use script::Op;

/// Tells the test's script of an operation before it is done; the script may have it fail.
macro_rules! told {
    ($operation:expr) => {
        #[cfg(test)]
        script::tell($operation)?;
    };
}

pub struct DiskFile {
    file: File,
    /// The same one, open for writing: where it could not be when it was opened, from the first time
    /// that it can.
    again: Option<OnceLock<File>>,
}

impl DiskFile {
    /// A new file, or an old one emptied; for its owner alone.
    pub fn create(path: &Path) -> io::Result<Self> {
        told!(Op::Look);
        let file = plain::create(path)?;
        #[cfg(test)]
        script::made(path, &file);
        Ok(Self { file, again: None })
    }

    /// On a filesystem that is read-only now it can be read, and written once that is over.
    pub fn open(path: &Path) -> io::Result<Self> {
        told!(Op::Look);
        match plain::open(path, true) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ROFS) => Self::open_to_read(path),
            opened => Ok(Self { file: opened?, again: None }),
        }
    }

    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        told!(Op::Look);
        Ok(Self { file: plain::open(path, false)?, again: Some(OnceLock::new()) })
    }

    /// By its descriptor: it may have another name by now.
    fn to_write(&self) -> io::Result<&File> {
        let Some(again) = &self.again else { return Ok(&self.file) };
        if let Some(file) = again.get() {
            return Ok(file);
        }
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(again.get_or_init(|| file))
    }

    /// As much of `buf` as there is; how much that was.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        told!(Op::Look);
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some((part, error)) = script::cut_short(bytes.len()) {
            script::tell(Op::Write { file: &self.file, bytes: &bytes[..part], offset })?;
            self.to_write()?.write_all_at(&bytes[..part], offset)?;
            return Err(error);
        }
        told!(Op::Write { file: &self.file, bytes, offset });
        self.to_write()?.write_all_at(bytes, offset)
    }

    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub fn set_len(&self, length: u64) -> io::Result<()> {
        told!(Op::SetLength { file: &self.file, length });
        self.to_write()?.set_len(length)
    }

    /// The range reads as zeros, and its blocks are given back where the filesystem can.
    pub fn punch(&self, bytes: Range<u64>) -> io::Result<()> {
        told!(Op::Punch { file: &self.file, bytes: bytes.clone() });
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(self.to_write()?, flags, bytes.start, bytes.end - bytes.start) {
            Err(Errno::OPNOTSUPP) => self.zero(bytes),
            result => Ok(result?),
        }
    }

    /// Zeros in place, as far as the file goes.
    fn zero(&self, bytes: Range<u64>) -> io::Result<()> {
        let end = bytes.end.min(self.len()?);
        let zeros = vec![0; 1 << 16];
        let mut at = bytes.start;
        while at < end {
            let piece = (end - at).min(zeros.len() as u64);
            self.to_write()?.write_all_at(&zeros[..piece as usize], at)?;
            at += piece;
        }
        Ok(())
    }

    /// Room for the range; the file's length and content stay.
    pub fn allocate(&self, bytes: Range<u64>) -> io::Result<()> {
        told!(Op::Look);
        Ok(fallocate(self.to_write()?, FallocateFlags::KEEP_SIZE, bytes.start, bytes.end - bytes.start)?)
    }

    /// Returns when content and length are on disk.
    pub fn sync(&self) -> io::Result<()> {
        told!(Op::Sync { file: &self.file });
        self.to_write()?.sync_data()
    }

    pub fn modified(&self) -> io::Result<SystemTime> {
        self.file.metadata()?.modified()
    }

    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        told!(Op::Look);
        self.to_write()?.set_modified(time)
    }

    /// The next data at or after `offset`; None where there is none any more.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.seek(SeekFrom::Data(offset))
    }

    /// The end of the data at `offset`.
    pub fn next_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.seek(SeekFrom::Hole(offset))
    }

    fn seek(&self, to: SeekFrom) -> io::Result<Option<u64>> {
        told!(Op::Look);
        match rustix::fs::seek(&self.file, to) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    told!(Op::Rename { from, to });
    std::fs::rename(from, to)
}

/// What is not there is removed already.
pub fn remove(path: &Path) -> io::Result<()> {
    told!(Op::Remove { path });
    std::fs::remove_file(path).or_else(ignore_missing)
}

pub fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Returns when what was made, renamed and removed in a directory is on disk.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    told!(Op::SyncDirectory);
    File::open(path)?.sync_all()
}
