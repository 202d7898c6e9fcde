//! The file of a view's own pages. A view that ends with its last close may never write any: its file
//! is made when it is needed, so that opening such a view costs one file less, and keeping it open one
//! descriptor less.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::disk::DiskFile;

pub struct DataFile {
    path: PathBuf,
    file: OnceLock<DiskFile>,
    /// Held while it is made.
    making: Mutex<()>,
}

impl DataFile {
    /// One that is not there until something is written.
    pub fn later(path: &Path) -> Self {
        Self { path: path.to_owned(), file: OnceLock::new(), making: Mutex::default() }
    }

    pub fn create(path: &Path) -> io::Result<Self> {
        let file = Self::later(path);
        file.made()?;
        Ok(file)
    }

    pub fn open(path: &Path) -> io::Result<Self> {
        let file = DiskFile::open(path)?;
        Ok(Self { file: file.into(), ..Self::later(path) })
    }

    /// Makes it where it is not there yet.
    pub fn made(&self) -> io::Result<&DiskFile> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let _making = self.making.lock();
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = DiskFile::create(&self.path)?;
        Ok(self.file.get_or_init(|| file))
    }

    /// What was never written is zero.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.file.get().map_or(Ok(0), |file| file.read_at(buf, offset))?;
        buf[read..].fill(0);
        Ok(())
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.made()?.write_at(bytes, offset)
    }

    pub fn punch(&self, bytes: Range<u64>) -> io::Result<()> {
        self.file.get().map_or(Ok(()), |file| file.punch(bytes))
    }

    pub fn allocate(&self, bytes: Range<u64>) -> io::Result<()> {
        self.made()?.allocate(bytes)
    }

    pub fn len(&self) -> io::Result<u64> {
        self.file.get().map_or(Ok(0), DiskFile::len)
    }

    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.made()?.set_len(length)
    }

    /// Nothing is left from `size` on.
    pub fn cut(&self, size: u64) -> io::Result<()> {
        match self.file.get() {
            Some(file) if file.len()? > size => file.set_len(size),
            _ => Ok(()),
        }
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.get().map_or(Ok(()), DiskFile::sync)
    }

    /// None where nothing was ever written.
    pub fn modified(&self) -> Option<SystemTime> {
        self.file.get()?.modified().ok()
    }

    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.made()?.set_modified(time)
    }
}
