//! A file that holds what is known of a view's pages.
//!
//! ```text
//! 0        16 KiB   two copies of the record (record.rs)
//! 16 KiB   n * 8    the words of the page map; what was never written is the template's
//! ```

use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::boot::Boot;
use super::disk::DiskFile;
use super::pages::PAGES_PER_WORD;
use super::record::{Copies, RECORD_SPACE};
use super::{PageMap, Record, RecordError};
use crate::error::{Error, Result};

pub struct MapFile {
    file: DiskFile,
    /// Held while the record is written.
    changing: Mutex<()>,
    /// As they are written; never held while a file is waited for.
    copies: Mutex<Copies>,
}

const STATES: u64 = RECORD_SPACE as u64;
const WORD: u64 = 8;

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
        Ok(Self { file, changing: Mutex::default(), copies: Mutex::new(copies) })
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
        Ok(Self { file, changing: Mutex::default(), copies: Mutex::new(copies) })
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

    pub fn keep_words(&self, first: u64, words: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.file.write_at(&bytes, STATES + first * WORD)
    }

    /// Words as they are kept.
    pub fn words(&self, first: u64, count: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; count * WORD as usize];
        self.file.read_at(&mut bytes, STATES + first * WORD)?;
        Ok(decoded(&bytes))
    }

    /// Forgets the states of all pages from `page` on. The word that also holds pages before
    /// `page` is never away: a daemon that is killed here must not have forgotten those. Nor is a
    /// hole filled, for which there may be no room. How long the file is then.
    pub fn cut(&self, page: u64) -> io::Result<u64> {
        let word = page / PAGES_PER_WORD;
        let offset = STATES + word * WORD;
        let length = self.file.len()?;
        if length <= offset {
            return Ok(length);
        }
        let mut kept = [0; WORD as usize];
        if self.file.read_at(&mut kept, offset)? < kept.len() {
            // Less than a word is none: it must not become one.
            self.file.set_len(offset)?;
            return Ok(offset);
        }
        let before = u64::from_le_bytes(kept);
        let after = before & ((1u64 << (2 * (page % PAGES_PER_WORD))) - 1);
        if after != before {
            self.keep_words(word, &[after])?;
        }
        self.shorten(offset + WORD)?;
        Ok(offset + WORD)
    }

    pub fn shorten(&self, length: u64) -> io::Result<()> {
        if self.file.len()? > length { self.file.set_len(length) } else { Ok(()) }
    }

    /// Room for the states of these pages.
    pub fn allocate(&self, pages: std::ops::Range<u64>) -> io::Result<()> {
        let words = pages.start / PAGES_PER_WORD..pages.end.div_ceil(PAGES_PER_WORD);
        self.file.allocate(STATES + words.start * WORD..STATES + words.end * WORD)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// All states that are kept.
    pub fn pages(&self) -> io::Result<PageMap> {
        let mut pages = PageMap::default();
        let mut at = STATES;
        let mut buffer = vec![0; 1 << 16];
        while let Some(data) = self.file.next_data(at)? {
            let start = data - data % WORD;
            let read = self.file.read_at(&mut buffer, start)?;
            let whole = read - read % WORD as usize;
            if whole == 0 {
                break;
            }
            if !pages.load((start - STATES) / WORD, &decoded(&buffer[..whole])) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its page states are damaged"));
            }
            at = start + whole as u64;
        }
        Ok(pages)
    }
}

fn decoded(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(WORD as usize);
    words.map(|b| u64::from_le_bytes(b.try_into().expect("chunks of 8"))).collect()
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
