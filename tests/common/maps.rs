//! Mappings of files that others change meanwhile. No slice of such memory is ever made: bytes are
//! copied in and out.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::ptr;

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw, UncheckedAdvice};

use super::files::open_rw;

pub struct Mapping(MmapRaw);

impl Mapping {
    /// MAP_SHARED, readable and writable, of the whole file as long as it is now.
    pub fn shared(file: &File) -> io::Result<Mapping> {
        MmapOptions::new().map_raw(file).map(Self)
    }

    /// MAP_SHARED, readable only.
    pub fn read_only(file: &File) -> io::Result<Mapping> {
        MmapOptions::new().map_raw_read_only(file).map(Self)
    }

    /// MAP_PRIVATE, writable, also of a file that is open for reading only; it may be longer than memory.
    pub fn private(file: &File) -> io::Result<Mapping> {
        // SAFETY: the map becomes an MmapRaw at once, of which nobody makes a slice.
        unsafe { MmapOptions::new().no_reserve_swap().map_copy(file) }.map(MmapRaw::from).map(Self)
    }

    /// As [`Self::shared`], of a view in memory; None, and says so, where the machine has none.
    pub fn of_memory_view(path: &Path) -> Option<Mapping> {
        let file = open_rw(path).inspect_err(|error| println!("no view in memory here: {error}")).ok()?;
        Some(Self::shared(&file).unwrap())
    }

    /// `length` bytes at `offset`, MAP_SHARED and writable: for files too large to map as a whole.
    pub fn shared_part(file: &File, offset: u64, length: usize) -> io::Result<Mapping> {
        MmapOptions::new().offset(offset).len(length).map_raw(file).map(Self)
    }

    /// None for an empty file: there is nothing to map.
    pub fn of_some(file: &File, map: fn(&File) -> io::Result<Mapping>) -> io::Result<Option<Mapping>> {
        if file.metadata()?.len() == 0 { Ok(None) } else { map(file).map(Some) }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The file must reach to `at + length`: beyond its last page waits SIGBUS.
    pub fn read(&self, at: usize, length: usize) -> Vec<u8> {
        let range = self.checked(at, length);
        let mut bytes = vec![0u8; length];
        // SAFETY: the range lies within the mapping, which lives as long as `self`; `bytes` is as
        // long and its own. A racing store changes the bytes that are copied and nothing else.
        unsafe { ptr::copy_nonoverlapping(self.0.as_ptr().add(range.start), bytes.as_mut_ptr(), length) };
        // Unused, it would not be read at all where the compiler may leave that out.
        std::hint::black_box(bytes)
    }

    /// As [`Self::read`].
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let range = self.checked(at, bytes.len());
        // SAFETY: as in `read`; the mapping is writable, or the test is wrong and faults.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_mut_ptr().add(range.start), bytes.len())
        };
    }

    /// The first word of a page, by one load and nothing else: for measurements.
    pub fn load(&self, page: usize) -> u64 {
        let range = self.checked(page * 4096, 8);
        // SAFETY: as in `read`; a page's begin is aligned.
        unsafe { self.0.as_ptr().add(range.start).cast::<u64>().read_volatile() }
    }

    /// As [`Self::load`], one store.
    pub fn store(&self, page: usize, word: u64) {
        let range = self.checked(page * 4096, 8);
        // SAFETY: as in `write`; a page's begin is aligned.
        unsafe { self.0.as_mut_ptr().add(range.start).cast::<u64>().write_volatile(word) };
    }

    /// Where it lies in this process.
    pub fn addresses(&self) -> Range<u64> {
        let begin = self.0.as_ptr() as u64;
        begin..begin + self.0.len() as u64
    }

    /// mincore(2) of the page at `at`: for a file that one may write, whether it is in the page cache.
    pub fn in_memory(&self, at: usize) -> bool {
        let range = self.checked(at, 1);
        let mut pages = [0u8];
        // SAFETY: the page lies within the mapping, and the kernel writes one byte for it.
        let result =
            unsafe { libc::mincore(self.0.as_mut_ptr().add(range.start).cast(), 1, pages.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        pages[0] & 1 == 1
    }

    /// msync(MS_SYNC) of all of it.
    pub fn sync_all(&self) -> io::Result<()> {
        self.0.flush()
    }

    /// msync(MS_SYNC).
    pub fn sync(&self, at: usize, length: usize) -> io::Result<()> {
        let range = self.checked(at, length);
        self.0.flush_range(range.start, length)
    }

    /// MADV_REMOVE of whole pages: they read as zeros.
    pub fn remove(&self, at: usize, length: usize) -> io::Result<()> {
        let range = self.checked(at, length);
        // SAFETY: nobody holds a reference into the mapping.
        unsafe { self.0.unchecked_advise_range(UncheckedAdvice::Remove, range.start, length) }
    }

    /// MADV_RANDOM: nothing is read ahead.
    pub fn expect_random(&self) -> io::Result<()> {
        self.0.advise(Advice::Random)
    }

    /// MADV_DONTNEED: the page tables forget, so that the page cache may. Loses the stores to a private mapping.
    pub fn forget(&self) -> io::Result<()> {
        // SAFETY: nobody holds a reference into the mapping.
        unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) }
    }

    fn checked(&self, at: usize, length: usize) -> Range<usize> {
        assert!(at + length <= self.len(), "{at} + {length} in a mapping of {}", self.len());
        at..at + length
    }
}

/// Memory aligned to a page, as O_DIRECT wants it.
pub fn aligned(bytes: &[u8]) -> MmapMut {
    let mut memory = MmapMut::map_anon(bytes.len().max(1)).unwrap();
    memory[..bytes.len()].copy_from_slice(bytes);
    memory
}
