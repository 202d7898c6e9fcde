//! An append-only file of checked entries: what was appended is there after a kill at any instant.
//!
//! ```text
//! offset  size  content
//!      0     8  magic "TFSJRNL\0"
//!      8     4  version, little endian
//!     12     4  zero
//! then entries, each at a multiple of 8:
//!      0     4  mark, no UTF-8
//!      4     4  length of the body, little endian
//!      8     4  CRC-32 (IEEE) of length and body, little endian
//!     12     n  body, then zeros up to a multiple of 8
//! ```
//!
//! One that was being written when the writer died is the last and is ignored. One that was
//! damaged later is left out, and those after it are found by their marks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use crate::error::{Error, Result};
use crate::plain;
use crate::steps::step;

const MAGIC: &[u8; 8] = b"TFSJRNL\0";
pub const VERSION: u32 = 1;
const HEADER: usize = 16;
const MARK: [u8; 4] = [0xf5, 0xc1, 0xff, 0xe3];
const FRAME: usize = 12;

/// Room is kept this far ahead, so that small entries find some on a full filesystem.
const AHEAD: u64 = 64 << 10;

pub struct Journal {
    path: PathBuf,
    /// None until it is written for the first time, which it may not be possible to do yet.
    file: Option<File>,
    end: u64,
    /// Room up to here.
    allocated: u64,
}

/// What a journal held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    pub bodies: Vec<Vec<u8>>,
    /// Where entries were damaged.
    pub damaged: Vec<u64>,
}

impl Journal {
    /// Starts a new one in the place of whatever is there.
    pub fn create(path: &Path) -> Result<Self> {
        written(path, &[]).map_err(|e| context(path, e))
    }

    /// What it holds is all that is needed of the file for now.
    pub fn open(path: &Path) -> Result<(Self, Replay)> {
        let (replay, end) = found(path)?;
        Ok((Self { path: path.to_owned(), file: None, end, allocated: end }, replay))
    }

    /// What it holds, without a change to it: another process may be writing it.
    pub fn peek(path: &Path) -> Result<Replay> {
        found(path).map(|(replay, _)| replay)
    }

    pub fn append(&mut self, body: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(FRAME + body.len() + 8);
        push(&mut bytes, body);
        self.append_framed(&bytes).map_err(|e| context(&self.path, e))
    }

    fn append_framed(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.begin_writing()?;
        self.make_room(bytes.len() as u64);
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        step("append 1: begun");
        #[cfg(debug_assertions)]
        {
            file.write_all_at(&bytes[..bytes.len() / 2], self.end)?;
            step("append 2: half");
        }
        file.write_all_at(bytes, self.end)?;
        step("append 3: whole");
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn begin_writing(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let file = plain::open(&self.path, true)?;
            // What a torn entry left behind must not be found behind a shorter one.
            file.set_len(self.end)?;
            self.file = Some(file);
        }
        Ok(())
    }

    /// Replaces all entries in one step.
    pub fn rewrite(&mut self, bodies: &[Vec<u8>]) -> Result<()> {
        *self = written(&self.path, bodies).map_err(|e| context(&self.path, e))?;
        Ok(())
    }

    pub(crate) fn len(&self) -> u64 {
        self.end
    }

    fn make_room(&mut self, length: u64) {
        let wanted = self.end + length + AHEAD;
        if wanted <= self.allocated {
            return;
        }
        // Twice as far, so that it is not asked for each time. Without room the write itself tells.
        let room = wanted + AHEAD - self.end;
        let allocated =
            self.file.as_ref().map(|file| fallocate(file, FallocateFlags::KEEP_SIZE, self.end, room));
        if allocated.is_some_and(|allocated| allocated.is_ok()) {
            self.allocated = self.end + room;
        }
    }
}

fn context(path: &Path, error: io::Error) -> Error {
    Error::io(format!("{}: the journal of this mount", path.display()), error)
}

fn found(path: &Path) -> Result<(Replay, u64)> {
    let bytes = plain::read(path).map_err(|e| context(path, e))?;
    replay(&bytes).map_err(|why| Error::Stale(format!("{}: {why}", path.display())))
}

fn written(path: &Path, bodies: &[Vec<u8>]) -> io::Result<Journal> {
    let bytes = whole(bodies);
    let new = path.with_extension("new");
    let file = plain::create(&new)?;
    file.write_all_at(&bytes, 0)?;
    step("rewrite 1: written");
    std::fs::rename(&new, path)?;
    step("rewrite 2: renamed");
    let end = bytes.len() as u64;
    let mut journal = Journal { path: path.to_owned(), file: Some(file), end, allocated: end };
    journal.make_room(0);
    Ok(journal)
}

/// A journal of these entries.
pub fn whole(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::from(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bodies.iter().for_each(|body| push(&mut bytes, body));
    bytes
}

fn push(bytes: &mut Vec<u8>, body: &[u8]) {
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&checksum(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn checksum(body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(body.len() as u32).to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    field.try_into().ok().map(u32::from_le_bytes)
}

fn check_header(bytes: &[u8]) -> std::result::Result<(), String> {
    match word(bytes, 8) {
        _ if !bytes.starts_with(MAGIC) => Err("it is no journal of templatefs".into()),
        Some(VERSION) => Ok(()),
        Some(other) => Err(format!("it has version {other}, and this templatefs reads version {VERSION}")),
        None => Err("it is torn".into()),
    }
}

/// What a journal's bytes hold, and where the last whole entry ends; or why they are none.
pub fn replay(bytes: &[u8]) -> std::result::Result<(Replay, u64), String> {
    check_header(bytes)?;
    let mut found = Replay::default();
    let mut at = HEADER;
    while let Some(start) = (at..bytes.len()).step_by(8).find(|at| entry(bytes, *at).is_some()) {
        if start > at {
            found.damaged.push(at as u64);
        }
        let Some(body) = entry(bytes, start) else { break };
        found.bodies.push(body.to_vec());
        at = (start + FRAME + body.len()).next_multiple_of(8);
    }
    Ok((found, at as u64))
}

fn entry(bytes: &[u8], at: usize) -> Option<&[u8]> {
    if bytes.get(at..at + 4)? != MARK {
        return None;
    }
    let start = at + FRAME;
    let body = bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)?;
    (checksum(body) == word(bytes, at + 8)?).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn journal_of(bodies: &[Vec<u8>]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path).unwrap();
        bodies.iter().for_each(|body| journal.append(body).unwrap());
        (directory, path)
    }

    proptest! {
        #[test]
        fn what_was_appended_before_a_cut_is_found(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..12),
            cut in 0usize..1000,
        ) {
            let (_directory, path) = journal_of(&bodies);
            let whole = std::fs::read(&path).unwrap();
            let cut = HEADER + cut % (whole.len() - HEADER + 1);
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, found) = Journal::open(&path).unwrap();
            let mut at = HEADER;
            let mut is_whole = |body: &&Vec<u8>| {
                let end = at + FRAME + body.len();
                at = end.next_multiple_of(8);
                end <= cut
            };
            let whole: Vec<Vec<u8>> = bodies.iter().take_while(|body| is_whole(body)).cloned().collect();
            prop_assert_eq!(&found.bodies, &whole);
            prop_assert!(found.damaged.is_empty());
            journal.append(b"next").unwrap();
            drop(journal);
            let (_, again) = Journal::open(&path).unwrap();
            prop_assert_eq!(again.bodies.last().unwrap().as_slice(), b"next");
            prop_assert_eq!(again.bodies.len(), found.bodies.len() + 1);
        }

        #[test]
        fn a_flipped_bit_costs_the_entry_that_it_is_in(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 2..12),
            at in 0usize..1000,
            bit in 0u8..8,
        ) {
            let (_directory, path) = journal_of(&bodies);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = HEADER + at % (bytes.len() - HEADER);
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            let (_, found) = Journal::open(&path).unwrap();
            let missing: Vec<usize> = (0..bodies.len()).filter(|i| !found.bodies.contains(&bodies[*i])).collect();
            prop_assert!(missing.len() <= 1, "{missing:?}");
            // Padding counts for nothing; and at the end it cannot be told from a torn entry.
            if let Some(missing) = missing.first() {
                prop_assert_eq!(found.damaged.len(), usize::from(*missing + 1 < bodies.len()));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = replay(&bytes);
            let mut marked = whole(&[]);
            marked.extend_from_slice(&MARK);
            marked.extend_from_slice(&bytes);
            replay(&marked).unwrap();
        }
    }

    #[test]
    fn a_newer_version_and_another_file_are_refused() {
        let (_directory, path) = journal_of(&[b"x".to_vec()]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 2;
        std::fs::write(&path, &bytes).unwrap();
        let error = Journal::open(&path).err().unwrap().to_string();
        assert!(error.contains("it has version 2, and this templatefs reads version 1"), "{error}");
        std::fs::write(&path, b"something else").unwrap();
        assert!(Journal::open(&path).err().unwrap().to_string().contains("no journal"));
    }

    #[test]
    fn a_rewritten_journal_holds_the_new_entries_and_goes_on() {
        let (_directory, path) = journal_of(&[b"a".to_vec(), b"b".to_vec()]);
        let (mut journal, _) = Journal::open(&path).unwrap();
        let before = journal.len();
        journal.rewrite(&[b"c".to_vec()]).unwrap();
        assert!(journal.len() < before);
        journal.append(b"d").unwrap();
        let (_, found) = Journal::open(&path).unwrap();
        assert_eq!(found.bodies, [b"c".to_vec(), b"d".to_vec()]);
    }
}
