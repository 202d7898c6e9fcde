//! What is kept about a private view beside its pages, so that another daemon can serve it: one
//! page at the start of the view's map file.
//!
//! ```text
//! offset  size  content
//!      0     8  magic "TFSVIEW\0"
//!      8     4  version, little endian
//!     12     4  length of the body, little endian
//!     16     4  CRC-32 (IEEE) of the body, little endian
//!     20     n  body: JSON of [`Record`]
//! ```

use serde::{Deserialize, Serialize};

use crate::name::Label;
use crate::store::Identity;

const MAGIC: &[u8; 8] = b"TFSVIEW\0";
const VERSION: u32 = 1;
const HEADER: usize = 20;

/// Room for a record, in bytes; the page states follow it in the map file.
pub const RECORD_SPACE: usize = 16384;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// None for a view without a name.
    pub view: Option<Label>,
    pub vm: Option<Label>,
    /// The template's path in its store, as raw bytes, and which file that was.
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
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
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

impl Record {
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let body = serde_json::to_vec(self).map_err(|_| RecordError::NotARecord)?;
        if HEADER + body.len() > RECORD_SPACE {
            return Err(RecordError::TooLarge);
        }
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let word = |at: usize| {
            let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            field.map(u32::from_le_bytes).ok_or(RecordError::NotARecord)
        };
        if !bytes.starts_with(MAGIC) {
            return Err(RecordError::NotARecord);
        }
        match word(8)? {
            VERSION => {}
            other => return Err(RecordError::Version(other)),
        }
        let end = HEADER.checked_add(word(12)? as usize).ok_or(RecordError::Damaged)?;
        let body = bytes.get(HEADER..end).ok_or(RecordError::Damaged)?;
        if crc32fast::hash(body) != word(16)? {
            return Err(RecordError::Damaged);
        }
        let record: Self = serde_json::from_slice(body).map_err(|e| RecordError::Foreign(e.to_string()))?;
        let sane = record.extent.template_len <= record.extent.size.min(record.identity.size);
        if sane { Ok(record) } else { Err(RecordError::Damaged) }
    }
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

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(Record::decode(&record().encode().unwrap()), Ok(record()));
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = record().encode().unwrap();
        bytes[8] = 2;
        assert_eq!(Record::decode(&bytes), Err(RecordError::Version(2)));
    }

    #[test]
    fn the_longest_names_fit() {
        let long = Record { template: vec![255; 3000], ..record() };
        assert_eq!(Record::decode(&long.encode().unwrap()), Ok(long));
        let longer = Record { template: vec![255; 4096], ..record() };
        assert!(matches!(longer.encode(), Ok(_) | Err(RecordError::TooLarge)));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_cut_is_noticed(at in 0usize..400, bit in 0u8..8, cut in 0usize..400) {
            let whole = record().encode().unwrap();
            let mut flipped = whole.clone();
            let index = at % whole.len();
            flipped[index] ^= 1 << bit;
            prop_assert!(Record::decode(&flipped).is_err());
            prop_assert!(Record::decode(&whole[..cut % whole.len()]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
            let _ = Record::decode(&[&MAGIC[..], &VERSION.to_le_bytes(), &bytes].concat());
        }
    }
}
