//! Page states as they are in a file: in units that are read whole, or refused.
//!
//! ```text
//! offset  size  content of a unit of 512 bytes: the states of 2,016 pages
//!      0   504  63 words, little endian, as all numbers
//!    504     4  CRC-32 (IEEE) of the unit's number (8 bytes) and of these words
//!    508     4  "TFSP"
//! ```
//!
//! A unit of zeros was never written, or lies in a hole: its pages are the template's. A sector of 512 bytes
//! is taken to be written whole or not at all. Records of versions 1 and 2 are followed by words alone, each
//! of them a unit.

use std::io;

use super::pages::{PAGES_PER_WORD, WORDS_PER_CHUNK};

const MAGIC: &[u8; 4] = b"TFSP";
const WORD: usize = 8;
const SEAL: usize = 8;

/// How a file keeps page states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units {
    Words,
    Sealed,
}

impl Units {
    /// In bytes.
    pub fn size(self) -> u64 {
        match self {
            Self::Words => WORD as u64,
            Self::Sealed => (WORDS_PER_CHUNK * WORD + SEAL) as u64,
        }
    }

    pub fn words(self) -> usize {
        match self {
            Self::Words => 1,
            Self::Sealed => WORDS_PER_CHUNK,
        }
    }

    pub fn per_chunk(self) -> usize {
        WORDS_PER_CHUNK / self.words()
    }

    pub fn pages(self) -> u64 {
        self.words() as u64 * PAGES_PER_WORD
    }

    /// Whole units, from the one with this number on.
    pub fn encode(self, number: u64, words: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(words.len().div_ceil(self.words()) * self.size() as usize);
        for (number, unit) in (number..).zip(words.chunks_exact(self.words())) {
            let start = bytes.len();
            bytes.extend(unit.iter().flat_map(|word| word.to_le_bytes()));
            if self == Self::Sealed {
                let seal = checksum(number, &bytes[start..]);
                bytes.extend_from_slice(&seal.to_le_bytes());
                bytes.extend_from_slice(MAGIC);
            }
        }
        bytes
    }

    /// # Errors
    /// InvalidData where a unit is torn or damaged. Part of a word at the end is none.
    pub fn decode(self, number: u64, bytes: &[u8]) -> io::Result<Vec<u64>> {
        let mut words = Vec::with_capacity(bytes.len() / WORD);
        for (number, unit) in (number..).zip(bytes.chunks(self.size() as usize)) {
            let kept = match self {
                Self::Words => unit,
                Self::Sealed => unsealed(number, unit).ok_or_else(|| {
                    let pages = number.saturating_mul(self.pages());
                    let why = format!("the states of its pages from {pages} on are torn or damaged");
                    io::Error::new(io::ErrorKind::InvalidData, why)
                })?,
            };
            let (kept, _) = kept.as_chunks::<WORD>();
            words.extend(kept.iter().map(|word| u64::from_le_bytes(*word)));
        }
        Ok(words)
    }
}

fn unsealed(number: u64, unit: &[u8]) -> Option<&[u8]> {
    let (words, seal) = unit.split_at_checked(WORDS_PER_CHUNK * WORD)?;
    let is_whole = seal.len() == SEAL
        && (unit.iter().all(|byte| *byte == 0)
            || seal[4..] == *MAGIC && seal[..4] == checksum(number, words).to_le_bytes());
    is_whole.then_some(words)
}

fn checksum(number: u64, words: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(words);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sealed_unit_comes_back_whole_or_is_refused(
            number in any::<u64>(),
            words in proptest::array::uniform32(any::<u64>()),
            (at, bit) in (0..512_usize, 0..8_u8),
            cut in 1..512_usize,
        ) {
            let unit: Vec<u64> = words.iter().cycle().take(WORDS_PER_CHUNK).copied().collect();
            let mut bytes = Units::Sealed.encode(number, &unit);
            prop_assert_eq!(bytes.len() as u64, Units::Sealed.size());
            prop_assert_eq!(Units::Sealed.decode(number, &bytes).unwrap(), unit);
            prop_assert!(Units::Sealed.decode(number.wrapping_add(1), &bytes).is_err());
            prop_assert!(Units::Sealed.decode(number, &bytes[..cut]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(Units::Sealed.decode(number, &bytes).is_err());
        }
    }

    #[test]
    fn what_was_never_written_is_the_templates() {
        assert_eq!(Units::Sealed.decode(7, &[0; 1024]).unwrap(), [0; 2 * WORDS_PER_CHUNK]);
        assert!(Units::Sealed.decode(7, &[]).unwrap().is_empty());
    }

    #[test]
    fn words_alone_are_read_as_far_as_they_are_whole() {
        let bytes = Units::Words.encode(3, &[5, 6]);
        assert_eq!(Units::Words.decode(3, &bytes).unwrap(), [5, 6]);
        assert_eq!(Units::Words.decode(3, &bytes[..15]).unwrap(), [5]);
    }
}
