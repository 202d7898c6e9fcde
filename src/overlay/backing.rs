//! Where a view's own pages live, as an overlay asks it.

use std::io;
use std::ops::Range;
use std::time::SystemTime;

use super::Extent;
use super::pages::Words;

/// Where a view's own pages live and are accounted; each page at its own offset in the view.
pub trait Backing: Send + Sync {
    /// Fills `buf`; what was never written, or was punched, is zero.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Gives the memory of whole pages back.
    fn punch(&self, bytes: Range<u64>) -> io::Result<()>;
    /// Makes room, so that a later write to `bytes` does not fail for lack of it.
    fn allocate(&self, bytes: Range<u64>) -> io::Result<()>;
    /// Zeroes everything from `size` on.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Keeps a chunk of the page map, all of it or nothing.
    fn keep_chunk(&self, number: u64, words: &Words) -> io::Result<()>;
    /// Is this what is kept of the chunk?
    fn keeps_chunk(&self, number: u64, words: &Words) -> io::Result<bool>;
    fn keep_extent(&self, extent: Extent) -> io::Result<()>;
    fn keep_mtime(&self, mtime: SystemTime) -> io::Result<()>;
    /// Forgets the states of all pages from `page` on.
    fn truncate_pages(&self, page: u64) -> io::Result<()>;
    /// Would it outlive the machine?
    fn lasts(&self) -> bool;
    /// Returns when what was written is on disk, and would outlive the machine where the backing does.
    fn sync(&self) -> io::Result<()>;
    /// Has a sync failed? The kernel takes what it could not write for written.
    fn is_unsure(&self) -> bool;
    /// Writes each private page as it is, so that the next sync is of all of them. Nothing else may
    /// be written meanwhile.
    fn write_again(&self) -> io::Result<()>;
}
