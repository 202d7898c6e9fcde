//! Copies that have as many holes as can be: those of what is copied, and its pages of zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::overlay::PAGE;

/// What one thread copies at a time.
pub const PIECE: u64 = 1 << 20;
const MAX_THREADS: usize = 8;

/// Bytes with holes in them.
pub trait Content: Send + Sync {
    /// Fills `buf` from `offset`; the range lies within the content. One that became shorter meanwhile
    /// is an error here, never a signal.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The first offset at or after `offset` that is no hole, or None if only a hole is left.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;

    /// The first hole at or after `offset`; the end of the content counts as one.
    fn next_hole(&self, offset: u64) -> io::Result<u64>;
}

impl Content for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self, SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(self, SeekFrom::Hole(offset)) {
            Ok(at) => Ok(at),
            Err(Errno::NXIO) => Ok(offset),
            Err(e) => Err(e.into()),
        }
    }
}

/// The data of some content, as it was when it was looked for.
pub struct Pieces(Vec<(u64, u64)>);

impl Pieces {
    /// In pieces of at most [`PIECE`] bytes, each from the start of a page.
    pub fn of(content: &(impl Content + ?Sized), size: u64) -> io::Result<Self> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < size {
            let Some(data) = content.next_data(at)? else { break };
            let hole = content.next_hole(data)?.clamp(data + 1, size.max(data + 1));
            let mut start = data - data % PAGE;
            while start < hole.min(size) {
                let end = (start + PIECE).min(hole).min(size);
                pieces.push((start, end));
                start = end;
            }
            at = hole;
        }
        Ok(Self(pieces))
    }

    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Offsets and ends, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// Writes them to the same places of `to`, by several threads; pages of zeros are left out.
    /// `copied` is told how many bytes were dealt with.
    pub fn copy(
        &self,
        content: &(impl Content + ?Sized),
        to: &File,
        copied: &(dyn Fn(u64) + Sync),
    ) -> io::Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> io::Result<()> {
            let mut buffer = vec![0; PIECE as usize];
            while let Some((start, end)) = self.0.get(next.fetch_add(1, Ordering::Relaxed)) {
                let piece = &mut buffer[..(end - start) as usize];
                content.read_at(piece, *start)?;
                write_data(to, piece, *start)?;
                copied(end - start);
            }
            Ok(())
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_THREADS);
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(self.0.len()))
                .filter_map(|_| thread::Builder::new().name("copy".into()).spawn_scoped(scope, work).ok())
                .collect();
            let own = work();
            let others = others.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that copies panicked")))
            });
            others.fold(own, io::Result::and)
        })
    }
}

/// A copy of the first `size` bytes of `content` in the new file `to`.
pub fn copy(
    content: &(impl Content + ?Sized),
    size: u64,
    to: &File,
    copied: &(dyn Fn(u64) + Sync),
) -> io::Result<()> {
    to.set_len(size)?;
    Pieces::of(content, size)?.copy(content, to, copied)
}

/// Writes the runs of pages that hold anything but zeros.
fn write_data(file: &File, piece: &[u8], offset: u64) -> io::Result<()> {
    let mut at = 0;
    while at < piece.len() {
        let run = piece[at..].chunks(PAGE as usize).take_while(|page| !is_zero(page));
        let length: usize = run.map(<[u8]>::len).sum();
        if length > 0 {
            file.write_all_at(&piece[at..at + length], offset + at as u64)?;
        }
        at += length + PAGE as usize;
    }
    Ok(())
}

pub fn is_zero(page: &[u8]) -> bool {
    page.chunks(16).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_is_the_content_less_its_zeros() {
        let size = 5 * PIECE + 123;
        let mut bytes = vec![0; size as usize];
        for (at, length) in [(0, 10), (4095, 2), (PIECE - 1, 2), (3 * PIECE, PIECE), (size - 1, 1)] {
            bytes[at as usize..(at + length) as usize].fill(7);
        }
        let from = tempfile::tempfile().unwrap();
        // The last MiB but one is a hole; many pages before it are data, and all zeros.
        from.write_all_at(&bytes[..4 * PIECE as usize], 0).unwrap();
        from.write_all_at(&bytes[size as usize - 1..], size - 1).unwrap();
        let to = tempfile::tempfile().unwrap();
        let seen = std::sync::atomic::AtomicU64::new(0);
        copy(&from, size, &to, &|n| {
            seen.fetch_add(n, Ordering::Relaxed);
        })
        .unwrap();
        let mut read = vec![1; bytes.len()];
        to.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes);
        // Pages 0, 1 (two for 4095), both sides of the first MiB, one MiB, the last.
        let pages = 2 + 2 + PIECE / PAGE + 1;
        assert_eq!(to.metadata().unwrap().blocks() * 512, pages * PAGE);
        assert_eq!(seen.into_inner(), Pieces::of(&from, size).unwrap().bytes());
    }
}
