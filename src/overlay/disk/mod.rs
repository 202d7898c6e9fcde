//! The operations that the files of views are made of, and nothing above them: what a test wants
//! to fail, or what a power cut may undo, is one of these (script.rs).

#[cfg(test)]
pub mod script;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate};
use rustix::io::Errno;

#[cfg(test)]
use script::Op;

/// Tells the test's script of an operation before it is done; the script may have it fail.
macro_rules! told {
    ($operation:expr) => {
        #[cfg(test)]
        script::tell($operation)?;
    };
}

pub struct DiskFile(File);

impl DiskFile {
    /// A new file, or an old one emptied; for its owner alone.
    pub fn create(path: &Path) -> io::Result<Self> {
        told!(Op::Look);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        #[cfg(test)]
        script::made(path, &file);
        Ok(Self(file))
    }

    pub fn open(path: &Path) -> io::Result<Self> {
        told!(Op::Look);
        OpenOptions::new().read(true).write(true).open(path).map(Self)
    }

    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        told!(Op::Look);
        File::open(path).map(Self)
    }

    /// As much of `buf` as there is; how much that was.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        told!(Op::Look);
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
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
            script::tell(Op::Write { file: &self.0, bytes: &bytes[..part], offset })?;
            self.0.write_all_at(&bytes[..part], offset)?;
            return Err(error);
        }
        told!(Op::Write { file: &self.0, bytes, offset });
        self.0.write_all_at(bytes, offset)
    }

    pub fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    pub fn set_len(&self, length: u64) -> io::Result<()> {
        told!(Op::SetLength { file: &self.0, length });
        self.0.set_len(length)
    }

    /// The range reads as zeros, and its blocks are given back where the filesystem can.
    pub fn punch(&self, bytes: Range<u64>) -> io::Result<()> {
        told!(Op::Punch { file: &self.0, bytes: bytes.clone() });
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.0, flags, bytes.start, bytes.end - bytes.start) {
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
            self.0.write_all_at(&zeros[..piece as usize], at)?;
            at += piece;
        }
        Ok(())
    }

    /// Room for the range; the file's length and content stay.
    pub fn allocate(&self, bytes: Range<u64>) -> io::Result<()> {
        told!(Op::Look);
        Ok(fallocate(&self.0, FallocateFlags::KEEP_SIZE, bytes.start, bytes.end - bytes.start)?)
    }

    /// Returns when content and length are on disk.
    pub fn sync(&self) -> io::Result<()> {
        told!(Op::Sync { file: &self.0 });
        self.0.sync_data()
    }

    pub fn modified(&self) -> io::Result<SystemTime> {
        self.0.metadata()?.modified()
    }

    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        told!(Op::Look);
        self.0.set_modified(time)
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
        match rustix::fs::seek(&self.0, to) {
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
