//! A view's own pages in two files of the state directory, or three where it has a name.
//!
//! ```text
//! KEY.data     page p of the view at offset p * 4096; sparse
//! KEY.map      the record and the page states (map_file.rs)
//! KEY.synced   the same, as it was last brought to disk (synced.rs); of views with a name
//! ```
//!
//! A view exists if its map file does. The kernel keeps what was written to them when this
//! process dies. Nothing is mapped: on a full filesystem a write fails where a store to a
//! mapping would kill.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::io::Errno;

use super::disk::{self, DiskFile};
use super::map_file::MapFile;
use super::pages::Words;
use super::paths::{self, Paths};
use super::synced::Synced;
use super::{Backing, Extent, PAGE, PageMap, Record, State};
use crate::error::{Error, Result};

pub struct ViewFiles {
    data: DiskFile,
    map: MapFile,
    synced: Option<Synced>,
    /// It belongs to one open node now, and goes with it.
    is_discarded: AtomicBool,
    is_unsure: AtomicBool,
}

/// Does a view outlive the machine?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    Yes,
    No,
}

impl ViewFiles {
    /// Makes a new view's files; the view exists once this returns.
    pub fn create(directory: &Path, key: &str, record: Record, lasts: Lasts) -> Result<Self> {
        let paths = Paths::new(directory, key);
        let context = |e: io::Error| Error::io(format!("{}: cannot create a view", paths.map.display()), e);
        let make = || {
            let data = DiskFile::create(&paths.data).map_err(context)?;
            let map = MapFile::create(&paths.new, record)?;
            let synced = match lasts {
                Lasts::Yes => Some(Synced::create(&paths.synced, &map)?),
                Lasts::No => None,
            };
            // A map that is not whole must not be found: it gets its name when it is.
            disk::rename(&paths.new, &paths.map).map_err(context)?;
            Ok(Self::over(data, map, synced))
        };
        let gone = |error: Error| match error.errno() {
            // A VMM that hears ENOENT of what it was shown would try to make it, for ever.
            Errno::NOENT => Error::io(
                format!("{error}: the state directory is gone; its mount can be used no more than it is"),
                Errno::IO,
            ),
            _ => error,
        };
        make().inspect_err(|_| drop(paths::remove(directory, key))).map_err(gone)
    }

    /// Opens a view's files as the last daemon left them, and finishes what it had begun: nothing
    /// beyond the view's size stays. None where the view was made, and never brought to disk before
    /// the machine went down.
    pub fn open(directory: &Path, key: &str, lasts: Lasts) -> Result<Option<(Self, PageMap)>> {
        let paths = Paths::new(directory, key);
        let context =
            |e: io::Error| Error::io(format!("{}: cannot open this view's state", paths.map.display()), e);
        let (map, synced, found) = match lasts {
            Lasts::No => (MapFile::open(&paths.map)?, None, Found::AsLeft),
            Lasts::Yes => match open_both(&paths)? {
                Some((map, synced, found)) => (map, Some(synced), found),
                None => return Ok(None),
            },
        };
        let mut pages = map.pages().map_err(context)?;
        let size = map.record().extent.size;
        pages.truncate(size.div_ceil(PAGE));
        let data = match DiskFile::open(&paths.data) {
            // Its name may not have reached the disk, nor anything that it would be needed for.
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    && found == Found::AfterRestart
                    && pages.private() == 0 =>
            {
                DiskFile::create(&paths.data)
            }
            opened => opened,
        };
        let data = data.map_err(context)?;
        let length = data.len().map_err(context)?;
        match pages.last_private() {
            // A page that is a view's own was written before its state said so.
            Some(last) if length <= last * PAGE && found == Found::AsLeft => {
                return Err(Error::Stale(format!(
                    "{}: this view cannot be used: its data was cut short; discard it, or restore the file",
                    paths.data.display()
                )));
            }
            // It was being cut when the machine went down.
            Some(last) if length <= last * PAGE => {
                data.set_len(size.min((last + 1) * PAGE)).map_err(context)?;
            }
            _ => {}
        }
        let files = Self::over(data, map, synced);
        files.finish(&pages, found).map_err(context)?;
        Ok(Some((files, pages)))
    }

    fn over(data: DiskFile, map: MapFile, synced: Option<Synced>) -> Self {
        Self { data, map, synced, is_discarded: AtomicBool::new(false), is_unsure: AtomicBool::new(false) }
    }

    /// What was begun when the last daemon died, or the machine.
    fn finish(&self, pages: &PageMap, found: Found) -> io::Result<()> {
        let size = self.record().extent.size;
        self.truncate_pages(size.div_ceil(PAGE))?;
        self.truncate(size)?;
        let Some(synced) = &self.synced else { return Ok(()) };
        if found == Found::AfterRestart {
            self.give_back_unclaimed(pages)?;
            synced.begin_boot()?;
        }
        synced.note_chunks(pages.differing(&synced.file().pages()?));
        if found == Found::Unsynced { synced.follow(&self.map, &self.data) } else { Ok(()) }
    }

    pub fn record(&self) -> Record {
        self.map.record()
    }

    pub fn pages(&self) -> io::Result<PageMap> {
        let mut pages = self.map.pages()?;
        pages.truncate(self.record().extent.size.div_ceil(PAGE));
        Ok(pages)
    }

    /// When the view was last written.
    pub fn mtime(&self) -> SystemTime {
        self.data.modified().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    pub fn change_record(&self, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        self.map.change_record(change)
    }

    /// Is there nothing that a power cut could take of what must outlive it?
    pub fn is_up_to_date(&self) -> bool {
        self.lasting().is_none_or(|synced| synced.is_up_to_date(&self.map))
    }

    /// Its name leads to it no more.
    pub fn set_discarded(&self) {
        self.is_discarded.store(true, Ordering::Release);
    }

    fn bring_to_disk(&self) -> io::Result<()> {
        let Some(synced) = self.lasting() else {
            self.data.sync()?;
            return self.map.sync();
        };
        if self.map.is_of_version_1() {
            // Whoever finds one after a power cut would believe its states.
            self.map.change_record(|_| {})?;
            self.map.sync()?;
        }
        synced.follow(&self.map, &self.data)
    }

    fn lasting(&self) -> Option<&Synced> {
        self.synced.as_ref().filter(|_| !self.is_discarded.load(Ordering::Acquire))
    }

    /// Gives back what no state claims: data that came to disk without its state.
    fn give_back_unclaimed(&self, pages: &PageMap) -> io::Result<()> {
        let mut at = 0;
        while let Some(data) = self.data.next_data(at)? {
            let end = self.data.next_hole(data)?.unwrap_or(data + PAGE);
            let mut page = data / PAGE;
            while page * PAGE < end {
                let (state, stop) = pages.run(page, end.div_ceil(PAGE));
                if state != State::Private {
                    self.data.punch(page * PAGE..stop * PAGE)?;
                }
                page = stop;
            }
            at = end;
        }
        Ok(())
    }
}

impl Backing for ViewFiles {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.data.read_at(buf, offset)?;
        buf[read..].fill(0);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.data.write_at(buf, offset)
    }

    fn punch(&self, bytes: Range<u64>) -> io::Result<()> {
        self.data.punch(bytes)
    }

    fn allocate(&self, bytes: Range<u64>) -> io::Result<()> {
        let pages = bytes.start / PAGE..bytes.end.div_ceil(PAGE);
        self.map.allocate(pages.clone())?;
        if let Some(synced) = self.lasting() {
            synced.file().allocate(pages)?;
        }
        self.data.allocate(bytes)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        if self.data.len()? > size { self.data.set_len(size) } else { Ok(()) }
    }

    fn keep_chunk(&self, number: u64, words: &Words) -> io::Result<()> {
        let kept = self.map.keep_chunk(number, words);
        // Afterwards, or a sync in between would take the old one; and also after a failure, which
        // may have changed it.
        if let Some(synced) = &self.synced {
            synced.note_chunks([number]);
        }
        kept
    }

    fn keeps_chunk(&self, number: u64, words: &Words) -> io::Result<bool> {
        self.map.keeps_chunk(number, words)
    }

    fn keep_extent(&self, extent: Extent) -> io::Result<()> {
        self.change_record(|record| record.extent = extent)
    }

    fn truncate_pages(&self, page: u64) -> io::Result<()> {
        let end = self.map.cut(page)?;
        if let Some(synced) = &self.synced {
            synced.note_cut(page, end);
        }
        Ok(())
    }

    fn keep_mtime(&self, mtime: SystemTime) -> io::Result<()> {
        self.data.set_modified(mtime)
    }

    fn lasts(&self) -> bool {
        self.lasting().is_some()
    }

    fn sync(&self) -> io::Result<()> {
        self.bring_to_disk().inspect_err(|_| self.is_unsure.store(true, Ordering::Release))
    }

    fn is_unsure(&self) -> bool {
        self.is_unsure.load(Ordering::Acquire)
    }

    /// A page whose content the kernel has dropped already is lost: that is the disk's end.
    fn write_again(&self) -> io::Result<()> {
        let mut piece = vec![0; 1 << 20];
        for (first, count, state) in self.pages()?.runs(self.record().extent.size.div_ceil(PAGE)) {
            let (mut at, end) = (first * PAGE, (first + count) * PAGE);
            while state == State::Private && at < end {
                let bytes = &mut piece[..(end - at).min(1 << 20) as usize];
                self.read_at(bytes, at)?;
                self.data.write_at(bytes, at)?;
                at += bytes.len() as u64;
            }
        }
        self.is_unsure.store(false, Ordering::Release);
        Ok(())
    }
}

/// How a view's files were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    AsLeft,
    /// The machine was started anew since: the map file is made anew from what was synced.
    AfterRestart,
    /// There is nothing that was synced, or nothing that can be used, and it is not needed.
    Unsynced,
}

fn open_both(paths: &Paths) -> Result<Option<(MapFile, Synced, Found)>> {
    let context = |e: io::Error| Error::io(format!("{}: cannot be made anew", paths.map.display()), e);
    let synced = match paths.synced.try_exists().map_err(context)? {
        true => Some(MapFile::open(&paths.synced).map(|file| Synced::over(file, &paths.synced))),
        false => None,
    };
    let map = MapFile::open(&paths.map);
    // An older version wrote it last, and what was synced is of the time before.
    let is_old = map.as_ref().is_ok_and(MapFile::is_of_version_1);
    let is_over = match (&synced, &map) {
        (Some(Ok(synced)), _) => synced.file().boot().is_over(),
        (_, Ok(map)) => map.boot().is_over(),
        _ => false,
    };
    match synced {
        Some(Ok(synced)) if is_over && !is_old => {
            let states = synced.file().pages().map_err(context)?;
            if !map
                .and_then(|map| map.pages().map_err(context))
                .is_ok_and(|map| map.differing(&states).is_empty())
            {
                log::warn!(
                    "{}: the machine went down before all of this view was on disk; it is as it was last synced",
                    paths.map.display()
                );
            }
            let map = MapFile::create(&paths.new, synced.file().record())?;
            states.chunks().try_for_each(|(number, words)| map.keep_chunk(number, words)).map_err(context)?;
            disk::rename(&paths.new, &paths.map).map_err(context)?;
            Ok(Some((map, synced, Found::AfterRestart)))
        }
        Some(Err(error)) if is_over && !is_old => Err(error),
        None if is_over && !is_old => Ok(None),
        Some(Ok(synced)) if !is_old => Ok(Some((map?, synced, Found::AsLeft))),
        _ => {
            let map = map?;
            let synced = Synced::create(&paths.synced, &map)?;
            Ok(Some((map, synced, Found::Unsynced)))
        }
    }
}

/// What a view's files say, without changing them: they may be in use.
pub fn peek(directory: &Path, key: &str) -> Result<(Record, PageMap)> {
    let path = Paths::new(directory, key).map;
    let map = MapFile::open_to_read(&path)?;
    let record = map.record();
    let mut pages = map
        .pages()
        .map_err(|e| Error::io(format!("{}: this view's state cannot be read", path.display()), e))?;
    pages.truncate(record.extent.size.div_ceil(PAGE));
    Ok((record, pages))
}
