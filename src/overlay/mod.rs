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

mod boot;
mod disk;
mod files;
mod map_file;
mod pages;
mod record;
mod shape;
mod synced;

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustix::io::Errno;

pub use boot::Boot;
pub use files::{Lasts, ViewFiles, peek, remove as remove_files, rename as rename_files};
pub use map_file::foreign;
pub use pages::{PAGE, PageMap, State};
pub use record::{Copies, Extent, Record, RecordError};
use shape::{Change, Shape, Shaped, Unfinished};

use crate::steps::step;
use crate::store::Template;

/// No offset or size beyond what off_t holds.
pub const MAX_SIZE: u64 = i64::MAX as u64;

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
    /// Keeps the words of the page map from word `first` on.
    fn keep_pages(&self, first: u64, words: &[u64]) -> io::Result<()>;
    /// The words as they are kept.
    fn kept_pages(&self, first: u64, count: usize) -> io::Result<Vec<u64>>;
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

    /// Before each change.
    fn change(&self) -> io::Result<Change<'_>> {
        let mut shape = self.shape.change();
        self.finish(&mut shape)?;
        Ok(shape)
    }

    /// Finishes what a failure left half done.
    fn finish(&self, shape: &mut Shape) -> io::Result<()> {
        while let Some(page) = shape.unfinished.states.first().copied() {
            let (first, words) = shape.pages.piece(page);
            // What failed for lack of room has changed nothing, and there still is none.
            if self.backing.kept_pages(first, words.len())? != words {
                self.backing.keep_pages(first, &words)?;
            }
            shape.unfinished.states.remove(&page);
        }
        if shape.unfinished.cut {
            let size = shape.extent.size;
            self.backing.truncate_pages(size.div_ceil(PAGE))?;
            self.backing.truncate(size)?;
            shape.unfinished.cut = false;
        }
        // Room that cannot be given back is no reason to refuse a change.
        let unclaimed = std::mem::take(&mut shape.unfinished.unclaimed);
        shape.unfinished.unclaimed =
            unclaimed.into_iter().filter(|pages| self.give_back(shape, pages.clone()).is_err()).collect();
        Ok(())
    }

    /// There is nothing beyond the view's end, as soon as that can be kept.
    fn forget_beyond(&self, shape: &mut Shape) {
        shape.pages.truncate(shape.extent.size.div_ceil(PAGE));
        shape.unfinished.cut = true;
    }

    /// Gives back the memory of those of `pages` that are not private.
    fn give_back(&self, shape: &Shape, pages: Range<u64>) -> io::Result<()> {
        let mut page = pages.start;
        while page < pages.end {
            let (state, stop) = shape.pages.run(page, pages.end);
            if state != State::Private {
                self.backing.punch(page * PAGE..stop * PAGE)?;
            }
            page = stop;
        }
        Ok(())
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

    /// Writes `data` and makes its pages private. If it fails each page is as it was or as it was
    /// to be, but for bytes within pages that were private before.
    fn write_pages(&self, shape: &mut Shape, offset: u64, data: &[u8]) -> io::Result<()> {
        let pages = offset / PAGE..(offset + data.len() as u64).div_ceil(PAGE);
        let written = self.write_data(shape, offset, data, pages.clone()).and_then(|()| {
            step("write 2: data");
            self.set_pages(shape, pages.clone(), State::Private)
        });
        if written.is_err() {
            shape.unfinished.unclaimed.push(pages);
        }
        written
    }

    fn write_data(&self, shape: &Shape, offset: u64, data: &[u8], pages: Range<u64>) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let (head, tail) = (pages.start, pages.end - 1);
        let mut from = offset;
        let mut to = end;
        let partial = |page: u64| offset > page * PAGE || end < (page + 1) * PAGE;
        if partial(head) && shape.pages.get(head) != State::Private {
            self.write_composed(shape, head, offset, data)?;
            from = ((head + 1) * PAGE).min(end);
        }
        if tail > head && partial(tail) && shape.pages.get(tail) != State::Private {
            self.write_composed(shape, tail, offset, data)?;
            to = tail * PAGE;
        }
        if from < to {
            self.backing.write_at(&data[(from - offset) as usize..(to - offset) as usize], from)?;
        }
        Ok(())
    }

    /// Writes one whole page: what it holds now, with the part of `data` that falls into it.
    fn write_composed(&self, shape: &Shape, page: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = page * PAGE;
        let mut content = [0; PAGE as usize];
        let known = (shape.extent.size.saturating_sub(start)).min(PAGE) as usize;
        self.fill(shape, start, &mut content[..known])?;
        let from = offset.max(start);
        let to = (offset + data.len() as u64).min(start + PAGE);
        content[(from - start) as usize..(to - start) as usize]
            .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
        self.backing.write_at(&content, start)
    }

    /// Makes `bytes`, as far as they lie within the view, read as zeros.
    fn zero(&self, shape: &mut Shape, bytes: Range<u64>) -> io::Result<()> {
        let size = shape.extent.size;
        let end = bytes.end.min(size);
        if bytes.start >= end {
            return Ok(());
        }
        // Beyond the view's end there is nothing to keep: its last page may go as a whole.
        let whole_end = if end == size { end.div_ceil(PAGE) } else { end / PAGE };
        let whole = bytes.start.div_ceil(PAGE)..whole_end;
        if whole.start >= whole.end {
            return self.zero_within_pages(shape, bytes.start..end);
        }
        self.zero_within_pages(shape, bytes.start..whole.start * PAGE)?;
        self.zero_within_pages(shape, (whole.end * PAGE).min(end)..end)?;
        self.zero_pages(shape, whole.clone())?;
        // They are zero; that their memory cannot be given back must not say otherwise.
        if self.backing.punch(whole.start * PAGE..whole.end * PAGE).is_err() {
            shape.unfinished.unclaimed.push(whole);
        }
        Ok(())
    }

    /// Overwrites less than two pages with zeros, where they are not zero anyway.
    fn zero_within_pages(&self, shape: &mut Shape, bytes: Range<u64>) -> io::Result<()> {
        let mut at = bytes.start;
        while at < bytes.end {
            let stop = ((at / PAGE + 1) * PAGE).min(bytes.end);
            let state = shape.pages.get(at / PAGE);
            let in_template = state == State::Template && at < shape.extent.template_len;
            if state == State::Private || in_template {
                self.write_pages(shape, at, &[0; PAGE as usize][..(stop - at) as usize])?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Whole pages become zero. Where the template has none but holes, they become the
    /// template's again: a hole reads the same and needs no state of its own.
    fn zero_pages(&self, shape: &mut Shape, pages: Range<u64>) -> io::Result<()> {
        let limit = shape.template_pages().clamp(pages.start, pages.end);
        let mut at = pages.start;
        while at < limit {
            let data = match self.template.next_data(at * PAGE)? {
                Some(data) => (data / PAGE).min(limit),
                None => limit,
            };
            let hole = match data < limit {
                true => self
                    .template
                    .next_hole((data * PAGE).max(at * PAGE))?
                    .div_ceil(PAGE)
                    .clamp(data + 1, limit),
                false => limit,
            };
            self.set_pages(shape, at..data, State::Template)?;
            self.set_pages(shape, data..hole, State::Zero)?;
            at = hole;
        }
        self.set_pages(shape, limit..pages.end, State::Template)
    }

    /// Gives `pages` one state, kept before it is believed; a piece at a time, and only pieces
    /// that change, so that a long range costs what is in it.
    fn set_pages(&self, shape: &mut Shape, pages: Range<u64>, state: State) -> io::Result<()> {
        let mut at = pages.start;
        while at < pages.end {
            let (current, run_end) = shape.pages.run(at, pages.end);
            if current == state {
                at = run_end;
                continue;
            }
            let stop = PageMap::piece_end(at).min(pages.end);
            let (first, words) = shape.pages.words_with(at..stop, state);
            if let Err(error) = self.backing.keep_pages(first, &words) {
                shape.unfinished.states.insert(at);
                return Err(error);
            }
            shape.pages.set(at..stop, state);
            at = stop;
        }
        Ok(())
    }

    /// Makes the view longer where it ends before `end`.
    fn reach(&self, shape: &mut Shape, end: u64) -> io::Result<()> {
        if end > shape.extent.size { self.set_extent(shape, |extent| extent.size = end) } else { Ok(()) }
    }

    fn set_extent(&self, shape: &mut Shape, change: impl FnOnce(&mut Extent)) -> io::Result<()> {
        let mut extent = shape.extent;
        change(&mut extent);
        self.backing.keep_extent(extent)?;
        shape.extent = extent;
        Ok(())
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
