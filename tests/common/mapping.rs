//! A file mapped into the test's memory, touched through copies only: other threads and the daemon may
//! change it at any time, so that there must be no reference into it.

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

pub struct Mapping(MmapRaw);

// SAFETY: memory that is touched through raw copies only, and mapped for as long as the value lives.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// MAP_SHARED, readable and writable.
    pub fn shared(file: &File) -> io::Result<Mapping> {
        MmapOptions::new().map_raw(file).map(Mapping)
    }

    /// MAP_SHARED, readable.
    pub fn read_only(file: &File) -> io::Result<Mapping> {
        MmapOptions::new().map_raw_read_only(file).map(Mapping)
    }

    /// MAP_PRIVATE, readable and writable, also of a file that is open for reading only.
    pub fn private(file: &File) -> io::Result<Mapping> {
        // SAFETY: the value becomes a raw mapping at once; no reference to its bytes is ever made.
        let map = unsafe { MmapOptions::new().map_copy(file) }?;
        Ok(Mapping(map.into()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.len());
        let mut copy = vec![0; length];
        // SAFETY: the range lies within the mapping, as was just checked, and `copy` has its length.
        unsafe { self.0.as_ptr().add(offset).copy_to_nonoverlapping(copy.as_mut_ptr(), length) };
        copy
    }

    /// On a mapping that is not read-only.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len());
        // SAFETY: the range lies within the mapping, as was just checked.
        unsafe { self.0.as_mut_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// msync(2) with MS_SYNC.
    pub fn sync(&self) -> io::Result<()> {
        self.0.flush()
    }
}
