//! A file that holds what is known of a view's pages.
//!
//! ```text
//! 0        16 KiB   two copies of the record (record.rs), which has the file's version
//! 16 KiB            the page map, in units (seal.rs)
//! ```

use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::boot::Boot;
use super::disk::DiskFile;
use super::pages::{PAGES_PER_WORD, WORDS_PER_CHUNK, Words, lanes};
use super::record::{Copies, RECORD_SPACE, SEALED};
use super::seal::Units;
use super::{PageMap, Record, RecordError};
use crate::error::{Error, Result};

pub struct MapFile {
    file: DiskFile,
    units: Units,
    /// Held while the record is written.
    changing: Mutex<()>,
    /// As they are written; never held while a file is waited for.
    copies: Mutex<Copies>,
}

const STATES: u64 = RECORD_SPACE as u64;

/// What is written from one page of memory goes into a page of a file at once: no kill comes in between.
#[repr(align(512))]
struct Sector([u8; 512]);

impl MapFile {
    /// A new file, without any state.
    pub fn create(path: &Path, record: Record) -> Result<Self> {
        let (copies, bytes) = Copies::new(record, Boot::current())
            .map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
        let make = || {
            let file = DiskFile::create(path)?;
            file.write_at(&bytes, 0)?;
            Ok(file)
        };
        let file =
            make().map_err(|e: io::Error| Error::io(format!("{}: cannot be made", path.display()), e))?;
        Ok(Self::over(file, copies))
    }

    fn over(file: DiskFile, copies: Copies) -> Self {
        let units = if copies.copy.version < SEALED { Units::Words } else { Units::Sealed };
        Self { file, units, changing: Mutex::default(), copies: Mutex::new(copies) }
    }

    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, DiskFile::open)
    }

    /// Without a change to it: it may be in use.
    pub fn open_to_read(path: &Path) -> Result<Self> {
        Self::read(path, DiskFile::open_to_read)
    }

    fn read(path: &Path, open: fn(&Path) -> io::Result<DiskFile>) -> Result<Self> {
        let shown = path.display();
        let context = |e: io::Error| Error::io(format!("{shown}: this view's state cannot be read"), e);
        let file = open(path).map_err(context)?;
        let copies = read_copies(&file).map_err(context)?.map_err(|e| {
            Error::Stale(format!("{shown}: this view cannot be used: {e}; discard it, or restore the file"))
        })?;
        if copies.other_is_damaged {
            log::warn!(
                "{shown}: one of two copies of this view's record is torn or damaged; the other one is used"
            );
        }
        Ok(Self::over(file, copies))
    }

    pub fn record(&self) -> Record {
        self.copies.lock().copy.record.clone()
    }

    /// When it was written last: in which start of the machine.
    pub fn boot(&self) -> Boot {
        self.copies.lock().copy.boot
    }

    /// Is it as a version wrote it that knew nothing of power cuts?
    pub fn is_of_version_1(&self) -> bool {
        self.copies.lock().copy.version == 1
    }

    /// All of it or nothing; what failed may have happened.
    pub fn change_record(&self, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let _changing = self.changing.lock();
        let mut record = self.record();
        change(&mut record);
        let (next, bytes) = self.copies.lock().next(record, Boot::current()).map_err(io::Error::other)?;
        self.file.write_at(&bytes, next.at as u64)?;
        *self.copies.lock() = next;
        Ok(())
    }

    fn offset(&self, unit: u64) -> u64 {
        STATES + unit * self.units.size()
    }

    /// The first unit of a chunk of the page map, and the bytes of all of it.
    fn chunk_as_kept(&self, number: u64, words: &Words) -> (u64, Vec<u8>) {
        let unit = self.first_unit(number);
        (unit, self.units.encode(unit, words))
    }

    fn first_unit(&self, chunk: u64) -> u64 {
        chunk * self.units.per_chunk() as u64
    }

    /// The words of so many units, as far as the file has them.
    fn read_units(&self, first: u64, count: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; count * self.units.size() as usize];
        let read = self.file.read_at(&mut bytes, self.offset(first))?;
        self.units.decode(first, &bytes[..read])
    }

    pub fn keep_chunk(&self, number: u64, words: &Words) -> io::Result<()> {
        let (unit, bytes) = self.chunk_as_kept(number, words);
        self.write_units(unit, &bytes)
    }

    fn write_units(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        match bytes.try_into() {
            Ok(sector) => self.file.write_at(&Sector(sector).0, self.offset(first)),
            Err(_) => self.file.write_at(bytes, self.offset(first)),
        }
    }

    /// Is this what is kept?
    pub fn keeps_chunk(&self, number: u64, words: &Words) -> io::Result<bool> {
        let (unit, bytes) = self.chunk_as_kept(number, words);
        let mut kept = vec![0; bytes.len()];
        self.file.read_at(&mut kept, self.offset(unit))?;
        // What was never written says the same as a unit of zeros that was.
        let is_nothing = words.iter().all(|word| *word == 0) && kept.iter().all(|byte| *byte == 0);
        Ok(kept == bytes || is_nothing)
    }

    pub fn chunk(&self, number: u64) -> io::Result<Words> {
        let kept = self.read_units(self.first_unit(number), self.units.per_chunk())?;
        let mut words = [0; WORDS_PER_CHUNK];
        words[..kept.len()].copy_from_slice(&kept);
        Ok(words)
    }

    /// Forgets the states of all pages from `page` on. The unit that also holds pages before
    /// `page` is never away: a daemon that is killed here must not have forgotten those. Nor is a
    /// hole filled, for which there may be no room. The page at which the file ends then.
    pub fn cut(&self, page: u64) -> io::Result<u64> {
        let unit = page / self.units.pages();
        let offset = self.offset(unit);
        let length = self.file.len()?;
        if length <= offset {
            return Ok(length.saturating_sub(STATES) / self.units.size() * self.units.pages());
        }
        let before = self.read_units(unit, 1)?;
        if before.is_empty() {
            // Less than a word is none: it must not become one.
            self.file.set_len(offset)?;
            return Ok(unit * self.units.pages());
        }
        let states = |(word, at): (&u64, u64)| word & lanes(0, page.saturating_sub(at).min(PAGES_PER_WORD));
        let starts = (unit * self.units.pages()..).step_by(PAGES_PER_WORD as usize);
        let after: Vec<u64> = before.iter().zip(starts).map(states).collect();
        if after != before {
            self.write_units(unit, &self.units.encode(unit, &after))?;
        }
        let end = (unit + 1) * self.units.pages();
        self.end_at(end)?;
        Ok(end)
    }

    /// There is nothing of the units that hold no page before this one.
    pub fn end_at(&self, page: u64) -> io::Result<()> {
        let length = self.offset(page.div_ceil(self.units.pages()));
        if self.file.len()? > length { self.file.set_len(length) } else { Ok(()) }
    }

    /// Room for the states of these pages.
    pub fn allocate(&self, pages: std::ops::Range<u64>) -> io::Result<()> {
        let units = pages.start / self.units.pages()..pages.end.div_ceil(self.units.pages());
        self.file.allocate(self.offset(units.start)..self.offset(units.end))
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// All states that are kept.
    ///
    /// # Errors
    /// InvalidData where they are damaged, also those of files without checksums, as far as it shows.
    pub fn pages(&self) -> io::Result<PageMap> {
        let mut pages = PageMap::default();
        let mut at = STATES;
        let mut buffer = vec![0; 1 << 16];
        while let Some(data) = self.file.next_data(at)? {
            let unit = (data - STATES) / self.units.size();
            let read = self.file.read_at(&mut buffer, self.offset(unit))?;
            let words = self.units.decode(unit, &buffer[..read])?;
            if words.is_empty() {
                break;
            }
            if !pages.load(unit * self.units.words() as u64, &words) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its page states are damaged"));
            }
            at = self.offset(unit + (words.len() / self.units.words()) as u64);
        }
        Ok(pages)
    }
}

fn read_copies(file: &DiskFile) -> io::Result<std::result::Result<Copies, RecordError>> {
    let mut space = vec![0; RECORD_SPACE];
    let length = file.read_at(&mut space, 0)?;
    Ok(Copies::decode(&space[..length]))
}

/// Why this program does not read a map file that another version of it may. None where it does, or
/// where the file is damaged or gone, for every version alike.
pub fn foreign(path: &Path) -> Option<RecordError> {
    use RecordError::{Foreign, Version};
    let copies = DiskFile::open_to_read(path).and_then(|file| read_copies(&file)).ok()?;
    copies.err().filter(|why| matches!(why, Version(_) | Foreign(_)))
}
