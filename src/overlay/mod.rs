//! A private view's content: the template, with pages of the view's own laid over it.
//!
//! Invariants that every operation keeps:
//! - a page's content reaches the backing before its state says that it is there, and its state
//!   says that it is gone before its content is given up; so a daemon that is killed between
//!   two steps leaves a view that is readable and whole;
//! - the bytes of a private page beyond the view's size are zero;
//! - what fails changes nothing, or a part of what it was to change; what it left half done is
//!   finished before anything else is changed (`Unfinished`);
//! - reads hold the lock shared, changes hold it alone: no reader sees half a change.

mod backing;
mod boot;
mod changes;
mod disk;
mod files;
mod map_file;
mod pages;
mod paths;
mod record;
mod seal;
mod shape;
mod synced;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustix::io::Errno;

pub use backing::Backing;
pub use boot::Boot;
pub use files::{Lasts, ViewFiles, peek};
pub use map_file::foreign;
pub use pages::{PAGE, PageMap, State};
pub use paths::{remove as remove_files, rename as rename_files};
pub use record::{Copies, Extent, Record, RecordError};
pub use seal::Units;
use shape::{Shape, Shaped, Unfinished};

use crate::steps::step;
use crate::store::Template;

/// No offset or size beyond what off_t holds.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// What a page count is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub private_bytes: u64,
    pub zero_bytes: u64,
}

pub struct Overlay {
    template: Arc<dyn Template>,
    backing: Arc<dyn Backing>,
    shape: Shaped,
    template_is_on_disk: OnceLock<()>,
}

impl Overlay {
    pub fn new(
        template: Arc<dyn Template>,
        backing: Arc<dyn Backing>,
        extent: Extent,
        pages: PageMap,
        mtime: SystemTime,
    ) -> Self {
        let shape = Shape { extent, pages, mtime, unfinished: Unfinished::default() };
        Self { template, backing, shape: Shaped::new(shape), template_is_on_disk: OnceLock::new() }
    }

    pub fn template(&self) -> &Arc<dyn Template> {
        &self.template
    }

    pub fn size(&self) -> u64 {
        self.shape.seen().size
    }

    pub fn mtime(&self) -> SystemTime {
        self.shape.seen().mtime
    }

    pub fn set_mtime(&self, mtime: SystemTime) -> io::Result<()> {
        let mut shape = self.shape.change();
        self.backing.keep_mtime(mtime)?;
        shape.mtime = mtime;
        Ok(())
    }

    pub fn usage(&self) -> Usage {
        self.shape.seen().usage
    }

    /// Reads up to `buf.len()` bytes; fewer only at the end of the view.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let shape = self.shape.read();
        let length = (buf.len() as u64).min(shape.extent.size.saturating_sub(offset));
        let buf = &mut buf[..length as usize];
        self.fill(&shape, offset, buf)?;
        Ok(buf.len())
    }

    /// Writes all of `data`, making the view longer where it ends beyond its size.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = checked_end(offset, data.len() as u64)?;
        let mut shape = self.change()?;
        step("write 1: begun");
        let written = self.write_pages(&mut shape, offset, data).and_then(|()| {
            step("write 3: states");
            self.reach(&mut shape, end)
        });
        if let Err(error) = written {
            if end > shape.extent.size {
                self.forget_beyond(&mut shape);
            }
            // Should it fail too, it is tried again before the next change.
            let _ = self.finish(&mut shape);
            return Err(error);
        }
        shape.mtime = SystemTime::now();
        step("write 4: done");
        Ok(())
    }

    /// fallocate(PUNCH_HOLE | KEEP_SIZE): the range reads as zeros and gives its memory back.
    pub fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero_range(offset, length, true)
    }

    /// fallocate(ZERO_RANGE): as a punched hole, and the view may become longer.
    pub fn zero_range(&self, offset: u64, length: u64, keep_size: bool) -> io::Result<()> {
        let end = checked_end(offset, length)?;
        let mut shape = self.change()?;
        self.zero(&mut shape, offset..end)?;
        if !keep_size {
            self.reach(&mut shape, end)?;
        }
        shape.mtime = SystemTime::now();
        Ok(())
    }

    /// Plain fallocate: room for the range, its content unchanged.
    pub fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> io::Result<()> {
        let end = checked_end(offset, length)?;
        let mut shape = self.change()?;
        self.backing.allocate(offset..end)?;
        if !keep_size {
            self.reach(&mut shape, end)?;
        }
        Ok(())
    }

    pub fn truncate(&self, size: u64) -> io::Result<()> {
        if size > MAX_SIZE {
            return Err(too_large());
        }
        let mut shape = self.change()?;
        if size < shape.extent.size {
            self.set_extent(&mut shape, |extent| {
                extent.size = size;
                extent.template_len = extent.template_len.min(size);
            })?;
            // From here on it is cut: an error would have the caller believe in what is gone.
            self.forget_beyond(&mut shape);
            let _ = self.finish(&mut shape);
        } else {
            self.reach(&mut shape, size)?;
        }
        shape.mtime = SystemTime::now();
        Ok(())
    }

    /// lseek(SEEK_DATA); None where there is no more data.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let shape = self.shape.read();
        let size = shape.extent.size;
        let mut at = offset;
        while at < size {
            let (state, end) = shape.pages.run(at / PAGE, size.div_ceil(PAGE));
            let end = (end * PAGE).min(size);
            match state {
                State::Private => return Ok(Some(at)),
                State::Template if at < shape.extent.template_len => {
                    let data = self.template.next_data(at)?;
                    match data.filter(|d| *d < end.min(shape.extent.template_len)) {
                        Some(data) => return Ok(Some(data)),
                        None => at = end,
                    }
                }
                State::Template | State::Zero => at = end,
            }
        }
        Ok(None)
    }

    /// lseek(SEEK_HOLE): the view's end counts as a hole. `offset` is below its size.
    pub fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let shape = self.shape.read();
        let size = shape.extent.size;
        let mut at = offset;
        while at < size {
            let (state, end) = shape.pages.run(at / PAGE, size.div_ceil(PAGE));
            let end = (end * PAGE).min(size);
            match state {
                State::Private => at = end,
                State::Zero => return Ok(at),
                State::Template => {
                    let visible = end.min(shape.extent.template_len);
                    if at >= visible {
                        return Ok(at);
                    }
                    let hole = self.template.next_hole(at)?;
                    if hole < visible || visible < end {
                        return Ok(hole.min(visible));
                    }
                    at = end;
                }
            }
        }
        Ok(size)
    }

    /// The states of all pages, as runs: first page, how many, their state. None while a change
    /// waits for a file.
    pub fn page_runs(&self) -> Option<Vec<(u64, u64, State)>> {
        let shape = self.shape.read_soon()?;
        Some(shape.pages.runs(shape.extent.size.div_ceil(PAGE)))
    }

    /// What was written before is there after a power cut, where the backing outlives one.
    pub fn sync(&self) -> io::Result<()> {
        if self.backing.lasts() && self.template_is_on_disk.get().is_none() {
            self.sync_template()?;
            let _ = self.template_is_on_disk.set(());
        }
        if self.backing.is_unsure() {
            let _alone = self.shape.change();
            self.backing.write_again()?;
        }
        self.backing.sync()
    }

    /// The view is no use without what shows through it, nor without the time that it is
    /// recognised by. A filesystem that nobody can write has nothing to do and says EINVAL.
    fn sync_template(&self) -> io::Result<()> {
        match self.template.readable().map(rustix::fs::fsync) {
            None | Some(Ok(()) | Err(Errno::INVAL | Errno::ROFS)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Content at `offset`, where nothing beyond the view's size is asked for.
    fn fill(&self, shape: &Shape, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let (state, run_end) = shape.pages.run(at / PAGE, end.div_ceil(PAGE));
            let stop = (run_end * PAGE).min(end);
            let piece = &mut buf[(at - offset) as usize..(stop - offset) as usize];
            match state {
                State::Private => self.backing.read_at(piece, at)?,
                State::Zero => piece.fill(0),
                State::Template => self.fill_from_template(shape, at, piece)?,
            }
            at = stop;
        }
        Ok(())
    }

    fn fill_from_template(&self, shape: &Shape, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let visible = shape.extent.template_len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (seen, beyond) = buf.split_at_mut(visible);
        beyond.fill(0);
        if seen.is_empty() { Ok(()) } else { self.template.read_at(seen, offset) }
    }
}

fn checked_end(offset: u64, length: u64) -> io::Result<u64> {
    offset.checked_add(length).filter(|end| *end <= MAX_SIZE).ok_or_else(too_large)
}

fn too_large() -> io::Error {
    io::Error::from_raw_os_error(libc::EFBIG)
}

#[cfg(test)]
mod tests;
