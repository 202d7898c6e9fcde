//! A template's data copied into memory, by several threads.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};

use super::available_bytes;
use crate::overlay::PAGE;
use crate::store::Template;

/// What one thread copies at a time.
const PIECE: u64 = 1 << 20;
const MAX_THREADS: usize = 8;
/// Shown in /proc/PID/maps of whoever maps such a view without the mount.
const NAME: &CStr = c"templatefs-view";

/// A new memfd with the content of `template`. Holes stay holes, and so do pages of zeros.
///
/// # Errors
/// ENOMEM where the data would take more than half of the memory that is available: the host
/// would have to end somebody for it.
pub fn filled(template: &dyn Template) -> io::Result<File> {
    let file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    let size = template.identity().size;
    file.set_len(size)?;
    let pieces = pieces(template, size)?;
    let bytes: u64 = pieces.iter().map(|(start, end)| end - start).sum();
    if bytes > available_bytes()? / 2 {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; PIECE as usize];
        while let Some((start, end)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let piece = &mut buffer[..(end - start) as usize];
            template.read_at(piece, *start)?;
            write_data(&file, piece, *start)?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_THREADS);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(pieces.len()))
            .filter_map(|_| thread::Builder::new().name("fill".into()).spawn_scoped(scope, work).ok())
            .collect();
        let own = work();
        let others = others.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that fills a view panicked")))
        });
        others.fold(own, io::Result::and)
    })?;
    Ok(file)
}

/// The template's data in pieces of at most [`PIECE`] bytes.
fn pieces(template: &dyn Template, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let Some(data) = template.next_data(at)? else { break };
        let hole = template.next_hole(data)?.clamp(data + 1, size.max(data + 1));
        let mut start = data - data % PAGE;
        while start < hole.min(size) {
            let end = (start + PIECE).min(hole).min(size);
            pieces.push((start, end));
            start = end;
        }
        at = hole;
    }
    Ok(pieces)
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

fn is_zero(page: &[u8]) -> bool {
    page.chunks(16).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;
    use crate::store::{DirectoryStore, Found, Store};

    #[test]
    fn a_filled_copy_is_the_template_less_its_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let size = 5 * PIECE + 123;
        let mut content = vec![0; size as usize];
        for (at, length) in [(0, 10), (4095, 2), (PIECE - 1, 2), (3 * PIECE, PIECE), (size - 1, 1)] {
            content[at as usize..(at + length) as usize].fill(7);
        }
        // The last MiB but one is data on disk, and all zeros.
        std::fs::write(&path, &content[..4 * PIECE as usize]).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&content[size as usize - 1..], size - 1).unwrap();
        let store = DirectoryStore::open(dir.path()).unwrap();
        let Found::Template(_, identity) = store.find(Path::new("t")).unwrap() else { panic!() };
        let template = store.pin(Path::new("t"), &identity).unwrap();
        let copy = filled(template.as_ref()).unwrap();
        let mut read = vec![1; content.len()];
        copy.read_exact_at(&mut read, 0).unwrap();
        assert!(read == content);
        // Pages 0, 1 (two for 4095), both sides of the first MiB, one MiB, the last.
        let pages = 2 + 2 + PIECE / PAGE + 1;
        assert_eq!(copy.metadata().unwrap().blocks() * 512, pages * PAGE);
    }
}
