//! A view's own pages in two files of the state directory.
//!
//! ```text
//! KEY.data   page p of the view at offset p * 4096; sparse
//! KEY.map    record (record.rs) in the first 16 KiB, then the words of the page map
//! ```
//!
//! A view exists if its map file does. The kernel keeps what was written to both when this
//! process dies. Nothing is mapped: on a full filesystem a write fails where a store to a
//! mapping would kill.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate};
use rustix::io::Errno;

use super::pages::PAGES_PER_WORD;
use super::record::RECORD_SPACE;
use super::{Backing, Extent, PAGE, PageMap, Record};
use crate::error::{Error, Result};
use crate::steps::step;

pub struct ViewFiles {
    data: File,
    map: File,
    record: Mutex<Record>,
}

const STATES: u64 = RECORD_SPACE as u64;
const WORD: u64 = 8;

impl ViewFiles {
    /// Makes a new view's files; the view exists once this returns.
    pub fn create(directory: &Path, key: &str, record: Record) -> Result<Self> {
        let (data_path, map_path) = paths(directory, key);
        let context = |e: io::Error| Error::io(format!("{}: cannot create a view", map_path.display()), e);
        let encoded = record.encode().map_err(|e| Error::Invalid(format!("{}: {e}", map_path.display())))?;
        let create = |path: &Path| {
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
        };
        let make = || {
            let data = create(&data_path)?;
            // A map that is not whole must not be found: it gets its name when it is.
            let unfinished = map_path.with_extension("new");
            let map = create(&unfinished)?;
            map.write_all_at(&encoded, 0)?;
            std::fs::rename(&unfinished, &map_path)?;
            Ok((data, map))
        };
        let (data, map) = make().map_err(|e| {
            remove(directory, key).ok();
            context(e)
        })?;
        Ok(Self { data, map, record: Mutex::new(record) })
    }

    /// Opens a view's files as the last daemon left them, and finishes what it had begun: nothing
    /// beyond the view's size stays.
    pub fn open(directory: &Path, key: &str) -> Result<(Self, PageMap)> {
        let (data_path, map_path) = paths(directory, key);
        let context =
            |e: io::Error| Error::io(format!("{}: cannot open this view's state", map_path.display()), e);
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let map = open(&map_path).map_err(context)?;
        let (record, pages) = read(&map, &map_path)?;
        let files = Self { data: open(&data_path).map_err(context)?, map, record: Mutex::new(record) };
        let size = files.record.lock().extent.size;
        files.truncate_pages(size.div_ceil(PAGE)).and_then(|()| files.truncate(size)).map_err(context)?;
        Ok((files, pages))
    }

    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// When the view was last written.
    pub fn mtime(&self) -> SystemTime {
        self.data.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    pub fn change_record(&self, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let mut record = self.record.lock();
        let mut new = record.clone();
        change(&mut new);
        let encoded = new.encode().map_err(io::Error::other)?;
        self.map.write_all_at(&encoded, 0)?;
        *record = new;
        Ok(())
    }
}

impl Backing for ViewFiles {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.data.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    buf[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.data.write_all_at(buf, offset)
    }

    fn punch(&self, bytes: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.data, flags, bytes.start, bytes.end - bytes.start) {
            Err(Errno::OPNOTSUPP) => self.zero_data(bytes),
            result => Ok(result?),
        }
    }

    fn allocate(&self, bytes: Range<u64>) -> io::Result<()> {
        Ok(fallocate(&self.data, FallocateFlags::KEEP_SIZE, bytes.start, bytes.end - bytes.start)?)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        if self.data.metadata()?.len() > size { self.data.set_len(size) } else { Ok(()) }
    }

    fn keep_pages(&self, first: u64, words: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.map.write_all_at(&bytes, STATES + first * WORD)
    }

    fn keep_extent(&self, extent: Extent) -> io::Result<()> {
        self.change_record(|record| record.extent = extent)
    }

    fn truncate_pages(&self, page: u64) -> io::Result<()> {
        let word = page / PAGES_PER_WORD;
        let offset = STATES + word * WORD;
        let length = self.map.metadata()?.len();
        if length <= offset {
            return Ok(());
        }
        // The word that also holds pages before `page` is never away: a daemon that is killed
        // here must not have forgotten those. Nor is a hole filled, for which there may be no room.
        let mut kept = [0; WORD as usize];
        self.map.read_at(&mut kept, offset)?;
        let before = u64::from_le_bytes(kept);
        let after = before & ((1u64 << (2 * (page % PAGES_PER_WORD))) - 1);
        if after != before {
            self.keep_pages(word, &[after])?;
        }
        self.map.set_len(offset + WORD)
    }

    fn sync(&self) -> io::Result<()> {
        self.data.sync_data()?;
        self.map.sync_data()
    }
}

impl ViewFiles {
    /// For a filesystem that cannot punch: zeros in place, as far as there is data.
    fn zero_data(&self, bytes: Range<u64>) -> io::Result<()> {
        let end = bytes.end.min(self.data.metadata()?.len());
        let zeros = vec![0; 1 << 16];
        let mut at = bytes.start;
        while at < end {
            let piece = (end - at).min(zeros.len() as u64);
            self.data.write_all_at(&zeros[..piece as usize], at)?;
            at += piece;
        }
        Ok(())
    }
}

/// Removes a view's files; it is gone once the map file is. Open ones go on working.
pub fn remove(directory: &Path, key: &str) -> io::Result<()> {
    let (data, map) = paths(directory, key);
    std::fs::remove_file(map.with_extension("new")).or_else(ignore_missing)?;
    std::fs::remove_file(&map).or_else(ignore_missing)?;
    std::fs::remove_file(&data).or_else(ignore_missing)
}

/// Gives a view's files another key, where there is none of that key yet: it can be done again
/// after a kill at any instant.
pub fn rename(directory: &Path, from: &str, to: &str) -> io::Result<()> {
    let ((from_data, from_map), (to_data, to_map)) = (paths(directory, from), paths(directory, to));
    for (from, to) in [(from_map, to_map), (from_data, to_data)] {
        if !to.try_exists()? {
            std::fs::rename(from, to).or_else(ignore_missing)?;
            step("discard 3: half renamed");
        }
    }
    Ok(())
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn paths(directory: &Path, key: &str) -> (PathBuf, PathBuf) {
    (directory.join(format!("{key}.data")), directory.join(format!("{key}.map")))
}

/// What a view's files say, without changing them: they may be in use.
pub fn peek(directory: &Path, key: &str) -> Result<(Record, PageMap)> {
    let (_, path) = paths(directory, key);
    let map = File::open(&path).map_err(|e| Error::io(format!("{}: cannot be read", path.display()), e))?;
    read(&map, &path)
}

/// Why this program does not read a map file that another version of it may. None where it does, or
/// where the file is damaged or gone, for every version alike.
pub fn foreign(map: &Path) -> Option<super::RecordError> {
    use super::RecordError::{Foreign, Version};
    let record = File::open(map).and_then(|map| read_record(&map)).ok()?;
    record.err().filter(|why| matches!(why, Version(_) | Foreign(_)))
}

fn read(map: &File, path: &Path) -> Result<(Record, PageMap)> {
    let shown = path.display();
    let context = |e: io::Error| Error::io(format!("{shown}: this view's state cannot be read"), e);
    let record = read_record(map).map_err(context)?.map_err(|e| {
        Error::Stale(format!("{shown}: this view cannot be used: {e}; discard it, or restore the file"))
    })?;
    let mut pages = read_pages(map).map_err(context)?;
    pages.truncate(record.extent.size.div_ceil(PAGE));
    Ok((record, pages))
}

fn read_record(map: &File) -> io::Result<std::result::Result<Record, super::RecordError>> {
    let mut bytes = vec![0; RECORD_SPACE];
    let mut length = 0;
    while length < bytes.len() {
        match map.read_at(&mut bytes[length..], length as u64)? {
            0 => break,
            n => length += n,
        }
    }
    Ok(Record::decode(&bytes[..length]))
}

fn read_pages(map: &File) -> io::Result<PageMap> {
    let mut pages = PageMap::default();
    let mut at = STATES;
    let mut buffer = vec![0; 1 << 16];
    while let Some(data) = next_data(map, at)? {
        let start = data - data % WORD;
        let read = map.read_at(&mut buffer, start)?;
        let whole = read - read % WORD as usize;
        if whole == 0 {
            break;
        }
        let words: Vec<u64> = buffer[..whole]
            .chunks_exact(WORD as usize)
            .map(|b| u64::from_le_bytes(b.try_into().expect("chunks of 8")))
            .collect();
        if !pages.load((start - STATES) / WORD, &words) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its page states are damaged"));
        }
        at = start + whole as u64;
    }
    Ok(pages)
}

fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
