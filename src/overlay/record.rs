//! What is kept about a private view beside its pages, so that another daemon can serve it.
//!
//! The first 16 KiB of a map file (map_file.rs) hold it twice, at 0 and at a power of two from
//! 1,024 on; the one with the higher number counts. They are written in turn, so that one which
//! was cut short leaves the other. A sector of 512 bytes is taken to be written whole or not at all.
//!
//! ```text
//! offset  size  content
//!      0     8  magic "TFSVIEW\0"
//!      8     4  version, little endian, as all numbers
//!     12     4  length of what follows the header
//!     16     4  CRC-32 (IEEE) of the version, the length and all that follows it
//!     20     8  number
//!     28    16  the start of the machine in which it was written (boot.rs)
//!     44     4  n: length of the template's path
//!     48     n  that path
//!   48+n        JSON of [`Record`], without the path
//! ```
//!
//! A file keeps its version for as long as it lives. Up to version 2 the page states have no checksums, and
//! that of the record is of what follows it alone. Version 1 had one copy, in which the JSON, the path with it,
//! followed the CRC; it goes on as version 2.

use serde::{Deserialize, Serialize};

use super::boot::Boot;
use crate::name::Label;
use crate::store::Identity;

const MAGIC: &[u8; 8] = b"TFSVIEW\0";
const VERSION: u32 = 3;
/// The first version whose page states have checksums.
pub const SEALED: u32 = 3;
/// The first one of two copies.
const TWICE: u32 = 2;
const HEADER: usize = 48;
/// Where what the checksum is of begins.
const CHECKED: usize = 20;

/// Room for both copies, in bytes; the page states follow it in the map file.
pub const RECORD_SPACE: usize = 16384;
/// Where the second copy may be.
const SECOND: [usize; 4] = [1024, 2048, 4096, 8192];
/// By how much a record may grow: digits of the size, the owner and the mode.
const GROWTH: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// None for a view without a name.
    pub view: Option<Label>,
    pub vm: Option<Label>,
    /// The template's path in its store, as raw bytes, and which file that was.
    #[serde(default, skip_serializing)]
    pub template: Vec<u8>,
    pub identity: Identity,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub extent: Extent,
    /// Seconds since the epoch.
    pub created: u64,
}

/// How far a view reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The view's size in bytes.
    pub size: u64,
    /// The template shows through below this offset only; at most `size`. It never grows: what
    /// was cut off reads as zeros when the view is made longer again.
    pub template_len: u64,
}

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("it is no view record")]
    NotARecord,
    #[error("it has version {0}, and this templatefs reads version {VERSION}")]
    Version(u32),
    #[error("its checksum does not fit: it is torn or damaged")]
    Damaged,
    #[error("it is whole, and this templatefs does not understand it: {0}")]
    Foreign(String),
    #[error("it is too large to be kept")]
    TooLarge,
}

/// A record as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordCopy {
    pub number: u64,
    pub boot: Boot,
    pub record: Record,
    /// Version 1 knew nothing of power cuts.
    pub version: u32,
}

/// The copy that counts, and where it and the other one have their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    pub copy: RecordCopy,
    pub at: usize,
    pub second: usize,
    /// The other one was cut short, or damaged since.
    pub other_is_damaged: bool,
}

impl Copies {
    /// Both copies as they are in a new file.
    pub fn new(record: Record, boot: Boot) -> Result<(Self, Vec<u8>), RecordError> {
        let copy = RecordCopy { number: 1, boot, record, version: VERSION };
        let mut bytes = copy.encode()?;
        let second = second_for(bytes.len()).ok_or(RecordError::TooLarge)?;
        let again = bytes.clone();
        bytes.resize(second, 0);
        bytes.extend_from_slice(&again);
        Ok((Self { copy, at: 0, second, other_is_damaged: false }, bytes))
    }

    /// What is to be written where, to make `record` the one that counts.
    pub fn next(&self, record: Record, boot: Boot) -> Result<(Self, Vec<u8>), RecordError> {
        let version = self.copy.version.max(TWICE);
        let copy = RecordCopy { number: self.copy.number + 1, boot, record, version };
        let bytes = copy.encode()?;
        let at = if self.at == 0 { self.second } else { 0 };
        match bytes.len() <= self.second {
            true => Ok((Self { copy, at, second: self.second, other_is_damaged: false }, bytes)),
            false => Err(RecordError::TooLarge),
        }
    }

    /// From the first [`RECORD_SPACE`] bytes of a map file, or as many as it has.
    pub fn decode(space: &[u8]) -> Result<Self, RecordError> {
        let mut best: Option<Self> = None;
        let mut damaged = None;
        for at in [0].into_iter().chain(SECOND) {
            match RecordCopy::decode(space.get(at..).unwrap_or_default()) {
                Ok((copy, length)) => {
                    let second = if at == 0 { second_for(length).unwrap_or(SECOND[3]) } else { at };
                    if best.as_ref().is_none_or(|best| best.copy.number < copy.number) {
                        best = Some(Self { copy, at, second, other_is_damaged: false });
                    }
                }
                // Whoever wrote it needs it, whatever the other copy says.
                Err(error @ (RecordError::Version(_) | RecordError::Foreign(_))) => return Err(error),
                Err(RecordError::Damaged) => damaged = Some(RecordError::Damaged),
                Err(_) => {}
            }
        }
        let best = best.ok_or(damaged.clone().unwrap_or(RecordError::NotARecord))?;
        Ok(Self { other_is_damaged: damaged.is_some(), ..best })
    }
}

/// The second copy's place beside a first one of this length.
fn second_for(length: usize) -> Option<usize> {
    SECOND.into_iter().find(|second| length + GROWTH <= *second)
}

impl RecordCopy {
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let json = serde_json::to_vec(&self.record).map_err(|_| RecordError::NotARecord)?;
        let path = &self.record.template;
        let mut checked = Vec::with_capacity(HEADER - CHECKED + path.len() + json.len());
        checked.extend_from_slice(&self.number.to_le_bytes());
        checked.extend_from_slice(&self.boot.0.to_le_bytes());
        checked.extend_from_slice(&(path.len() as u32).to_le_bytes());
        checked.extend_from_slice(path);
        checked.extend_from_slice(&json);
        let mut out = Vec::with_capacity(CHECKED + checked.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&((path.len() + json.len()) as u32).to_le_bytes());
        let checksum = checksum(self.version, &out[8..], &checked);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&checked);
        Ok(out)
    }

    /// The copy at the begin of `bytes`, and its length.
    fn decode(bytes: &[u8]) -> Result<(Self, usize), RecordError> {
        if !bytes.starts_with(MAGIC) {
            return Err(RecordError::NotARecord);
        }
        let version = u32::from_le_bytes(field(bytes, 8)?);
        let length = u32::from_le_bytes(field(bytes, 12)?) as usize;
        let checked = match version {
            1 => CHECKED.checked_add(length),
            TWICE..=VERSION => HEADER.checked_add(length),
            other => return Err(RecordError::Version(other)),
        };
        let end = checked.ok_or(RecordError::Damaged)?;
        let checked = bytes.get(CHECKED..end).ok_or(RecordError::Damaged)?;
        if checksum(version, &bytes[8..16], checked) != u32::from_le_bytes(field(bytes, 16)?) {
            return Err(RecordError::Damaged);
        }
        let (number, boot, path, json) = match version {
            1 => (0, Boot::default(), None, checked),
            _ => {
                let path = u32::from_le_bytes(field(bytes, 44)?) as usize;
                let rest = bytes.get(HEADER..end).ok_or(RecordError::Damaged)?;
                let (path, json) = rest.split_at_checked(path).ok_or(RecordError::Damaged)?;
                let boot = Boot(u128::from_le_bytes(field(bytes, 28)?));
                (u64::from_le_bytes(field(bytes, 20)?), boot, Some(path), json)
            }
        };
        let mut record: Record =
            serde_json::from_slice(json).map_err(|e| RecordError::Foreign(e.to_string()))?;
        if let Some(path) = path {
            record.template = path.to_vec();
        }
        let sane = record.extent.template_len <= record.extent.size.min(record.identity.size);
        if sane { Ok((Self { number, boot, record, version }, end)) } else { Err(RecordError::Damaged) }
    }
}

fn checksum(version: u32, header: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if version >= SEALED {
        hasher.update(header);
    }
    hasher.update(rest);
    hasher.finalize()
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], RecordError> {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).ok_or(RecordError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record {
            view: Label::new(b"web-1"),
            vm: None,
            template: b"debian/\xff.ram".to_vec(),
            identity: Identity { dev: 1, ino: u64::MAX, size: 9000, mtime_ns: -5, btime_ns: Some(1) },
            uid: 1000,
            gid: 1000,
            mode: 0o600,
            extent: Extent { size: 9000, template_len: 9000 },
            created: 1,
        }
    }

    fn new(record: Record) -> (Copies, Vec<u8>) {
        Copies::new(record, Boot(7)).unwrap()
    }

    fn written(bytes: &mut Vec<u8>, found: &Copies, copy: &[u8]) {
        bytes.resize(bytes.len().max(found.at + copy.len()), 0);
        bytes[found.at..][..copy.len()].copy_from_slice(copy);
    }

    #[test]
    fn what_was_written_is_read() {
        let (found, mut bytes) = new(record());
        assert_eq!(Copies::decode(&bytes).unwrap(), found);
        let mut changed = record();
        for size in [1, u64::MAX] {
            changed.extent = Extent { size, template_len: 1 };
            let (found, copy) = Copies::decode(&bytes).unwrap().next(changed.clone(), Boot(8)).unwrap();
            written(&mut bytes, &found, &copy);
            assert_eq!(Copies::decode(&bytes).unwrap(), found);
        }
    }

    /// A record longer than a page was written over itself, and a kill could leave half of it.
    #[test]
    fn one_that_was_cut_short_anywhere_leaves_the_one_before_it() {
        for length in [10, 1000, 3000, 4095] {
            let (mut before, mut bytes) = new(Record { template: vec![255; length], ..record() });
            for size in 1..4 {
                let extent = Extent { size, template_len: 1 };
                let new = Record { extent, ..before.copy.record.clone() };
                let (after, copy) = before.next(new, Boot(9)).unwrap();
                for cut in 0..copy.len() {
                    let mut torn = bytes.clone();
                    written(&mut torn, &after, &copy[..cut]);
                    let found = Copies::decode(&torn).unwrap();
                    assert!(found.copy == before.copy || found.copy == after.copy, "cut at {cut}");
                }
                written(&mut bytes, &after, &copy);
                before = after;
            }
        }
    }

    /// As version 1 wrote it.
    fn version_1(record: &Record) -> Vec<u8> {
        let mut json = serde_json::to_value(record).unwrap();
        json["template"] = record.template.clone().into();
        let body = serde_json::to_vec(&json).unwrap();
        let header = [&MAGIC[..], &1u32.to_le_bytes(), &(body.len() as u32).to_le_bytes()].concat();
        [header, crc32fast::hash(&body).to_le_bytes().to_vec(), body].concat()
    }

    #[test]
    fn a_record_of_version_1_is_read_and_goes_on_as_one_of_version_2() {
        for length in [10, 700, 1800] {
            let old = Record { template: vec![200; length], ..record() };
            let mut bytes = version_1(&old);
            let found = Copies::decode(&bytes).unwrap();
            assert_eq!((&found.copy.record, found.copy.version), (&old, 1));
            let (next, copy) = found.next(record(), Boot(1)).unwrap();
            assert!(next.at >= bytes.len(), "the old one stays whole while it is the only one");
            written(&mut bytes, &next, &copy);
            assert_eq!(Copies::decode(&bytes).unwrap().copy, next.copy);
        }
    }

    /// Its page states have no checksums, and there is no instant at which all of them could get theirs.
    #[test]
    fn one_of_version_2_stays_one() {
        let (mut new, _) = new(record());
        new.copy.version = 2;
        let (written, copy) = new.next(record(), Boot(8)).unwrap();
        let mut bytes = Vec::new();
        self::written(&mut bytes, &written, &copy);
        let found = Copies::decode(&bytes).unwrap();
        assert_eq!((&found.copy.record, found.copy.version), (&record(), 2));
        assert_eq!(found.next(record(), Boot(9)).unwrap().0.copy.version, 2);
        bytes[written.at + 8] = 3;
        assert_eq!(Copies::decode(&bytes), Err(RecordError::Damaged));
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let (found, mut bytes) = new(record());
        bytes[found.second + 8] = 4;
        assert_eq!(Copies::decode(&bytes), Err(RecordError::Version(4)));
    }

    #[test]
    fn the_longest_names_fit() {
        let longest = Record { template: vec![255; 4095], ..record() };
        assert_eq!(Copies::decode(&new(longest.clone()).1).unwrap().copy.record, longest);
        let longer = Record { template: vec![255; RECORD_SPACE], ..record() };
        assert_eq!(Copies::new(longer, Boot(1)).unwrap_err(), RecordError::TooLarge);
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_cut_is_noticed(at in 0usize..400, bit in 0u8..8, cut in 0usize..400) {
            let (found, mut whole) = new(record());
            whole.truncate(found.second);
            let length = RecordCopy::decode(&whole).unwrap().1;
            whole.truncate(length);
            let mut flipped = whole.clone();
            let index = at % whole.len();
            flipped[index] ^= 1 << bit;
            prop_assert!(Copies::decode(&flipped).is_err());
            prop_assert!(Copies::decode(&whole[..cut % whole.len()]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Copies::decode(&bytes);
            for version in [1, VERSION] {
                let _ = Copies::decode(&[&MAGIC[..], &version.to_le_bytes(), &bytes].concat());
            }
        }
    }
}
