//! How an overlay is changed: data before the state that claims it, and what a failure left half done
//! before anything else.

use std::io;
use std::ops::Range;

use super::shape::{Change, Shape};
use super::{Extent, Overlay, PAGE, PageMap, State};
use crate::steps::step;

impl Overlay {
    /// Before each change.
    pub(super) fn change(&self) -> io::Result<Change<'_>> {
        let mut shape = self.shape.change();
        self.finish(&mut shape)?;
        Ok(shape)
    }

    /// Finishes what a failure left half done.
    pub(super) fn finish(&self, shape: &mut Shape) -> io::Result<()> {
        while let Some(chunk) = shape.unfinished.chunks.first().copied() {
            let words = shape.pages.chunk(chunk);
            // What failed for lack of room has changed nothing, and there still is none.
            if !self.backing.keeps_chunk(chunk, &words)? {
                self.backing.keep_chunk(chunk, &words)?;
            }
            shape.unfinished.chunks.remove(&chunk);
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
    pub(super) fn forget_beyond(&self, shape: &mut Shape) {
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

    /// Writes `data` and makes its pages private. If it fails each page is as it was or as it was
    /// to be, but for bytes within pages that were private before.
    pub(super) fn write_pages(&self, shape: &mut Shape, offset: u64, data: &[u8]) -> io::Result<()> {
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
    pub(super) fn zero(&self, shape: &mut Shape, bytes: Range<u64>) -> io::Result<()> {
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
        if let Err(error) = self.zero_pages(shape, whole.clone()) {
            // Some of them may be zero, and their memory is still there.
            shape.unfinished.unclaimed.push(whole);
            return Err(error);
        }
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

    /// Gives `pages` one state, kept before it is believed; a chunk at a time, and only chunks
    /// that change, so that a long range costs what is in it.
    fn set_pages(&self, shape: &mut Shape, pages: Range<u64>, state: State) -> io::Result<()> {
        let mut at = pages.start;
        while at < pages.end {
            let (current, run_end) = shape.pages.run(at, pages.end);
            if current == state {
                at = run_end;
                continue;
            }
            let stop = PageMap::chunk_end(at).min(pages.end);
            let chunk = PageMap::chunk_of(at);
            if let Err(error) = self.backing.keep_chunk(chunk, &shape.pages.chunk_with(at..stop, state)) {
                shape.unfinished.chunks.insert(chunk);
                return Err(error);
            }
            shape.pages.set(at..stop, state);
            at = stop;
        }
        Ok(())
    }

    /// Makes the view longer where it ends before `end`.
    pub(super) fn reach(&self, shape: &mut Shape, end: u64) -> io::Result<()> {
        if end > shape.extent.size { self.set_extent(shape, |extent| extent.size = end) } else { Ok(()) }
    }

    pub(super) fn set_extent(&self, shape: &mut Shape, change: impl FnOnce(&mut Extent)) -> io::Result<()> {
        let mut extent = shape.extent;
        change(&mut extent);
        self.backing.keep_extent(extent)?;
        shape.extent = extent;
        Ok(())
    }
}
