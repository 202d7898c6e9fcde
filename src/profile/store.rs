//! A profile as a file.
//!
//! ```text
//! offset  size  content
//!      0     8  magic "TFSPROF\0"
//!      8     4  version, little endian
//!     12     4  CRC-32 (IEEE) of all that follows, little endian
//!     16     4  length of the head, little endian
//!     20     n  head: JSON of [`Head`]
//!   20+n        the pages of each view, oldest first: Roaring bitmaps in their portable format
//! ```

use std::io;
use std::path::{Path, PathBuf};

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::set::{MAX_PAGES, Profile, VIEWS};
use crate::overlay::PAGE;
use crate::store::Identity;

const MAGIC: &[u8; 8] = b"TFSPROF\0";
const VERSION: u32 = 1;
const HEADER: usize = 20;
pub const EXTENSION: &str = "profile";
/// No profile is longer, in bytes: the pages of a view take at most two bytes each.
pub const MAX_FILE: u64 = 2 * MAX_PAGES * VIEWS as u64 + (1 << 20);

#[derive(Serialize, Deserialize)]
struct Head {
    template: Vec<u8>,
    identity: Identity,
    taught: u64,
    updated: u64,
    views: usize,
}

/// Why bytes are no profile.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("it is no profile")]
    NotAProfile,
    #[error("it has version {0}, and this templatefs reads version {VERSION}")]
    Version(u32),
    #[error("it is torn or damaged")]
    Damaged,
}

pub fn encode(profile: &Profile) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(&Head {
        template: profile.template.clone(),
        identity: profile.identity.clone(),
        taught: profile.taught,
        updated: profile.updated,
        views: profile.views.len(),
    })?;
    let length = u32::try_from(head.len()).map_err(io::Error::other)?;
    let mut body = [&length.to_le_bytes()[..], &head].concat();
    for view in &profile.views {
        view.serialize_into(&mut body)?;
    }
    Ok([&MAGIC[..], &VERSION.to_le_bytes(), &crc32fast::hash(&body).to_le_bytes(), &body].concat())
}

pub fn decode(bytes: &[u8]) -> Result<Profile, ProfileError> {
    let word = |at: usize| {
        let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        field.map(u32::from_le_bytes).ok_or(ProfileError::NotAProfile)
    };
    if !bytes.starts_with(MAGIC) {
        return Err(ProfileError::NotAProfile);
    }
    match word(8)? {
        VERSION => {}
        other => return Err(ProfileError::Version(other)),
    }
    let head_end = HEADER.checked_add(word(16)? as usize).ok_or(ProfileError::Damaged)?;
    let head = bytes.get(HEADER..head_end).ok_or(ProfileError::Damaged)?;
    if crc32fast::hash(&bytes[HEADER - 4..]) != word(12)? {
        return Err(ProfileError::Damaged);
    }
    let head: Head = serde_json::from_slice(head).map_err(|_| ProfileError::Damaged)?;
    let mut rest = &bytes[head_end..];
    let mut profile = Profile::new(&head.template, &head.identity);
    let end = head.identity.size.div_ceil(PAGE);
    for _ in 0..head.views {
        let view = RoaringBitmap::deserialize_from(&mut rest).map_err(|_| ProfileError::Damaged)?;
        let sane = view.len() <= MAX_PAGES && view.max().is_none_or(|page| u64::from(page) < end);
        if !sane || profile.views.len() == VIEWS {
            return Err(ProfileError::Damaged);
        }
        profile.views.push_back(view);
    }
    (profile.taught, profile.updated) = (head.taught, head.updated);
    if rest.is_empty() { Ok(profile) } else { Err(ProfileError::Damaged) }
}

/// What a template's profile goes by: which file it is and with which content. Device numbers are
/// dealt out anew when filesystems are mounted, and so they do not count.
pub fn key(identity: &Identity) -> String {
    let Identity { dev: _, ino, size, mtime_ns, btime_ns } = identity;
    let digest = Sha256::digest(format!("{ino} {size} {mtime_ns} {btime_ns:?}"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Replaces the file of a profile in one step.
pub fn write(directory: &Path, profile: &Profile) -> io::Result<()> {
    let path = path(directory, &key(&profile.identity));
    let new = path.with_extension("new");
    std::fs::write(&new, encode(profile)?)?;
    std::fs::rename(new, path)
}

pub fn path(directory: &Path, key: &str) -> PathBuf {
    directory.join(key).with_extension(EXTENSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn profile() -> Profile {
        let identity = Identity { dev: 1, ino: 7, size: 1 << 30, mtime_ns: -5, btime_ns: Some(9) };
        let mut profile = Profile::new(b"debian/\xff.ram", &identity);
        profile.teach((0..5000).filter(|page| page % 3 == 0).collect());
        profile.teach((100..9000).collect());
        profile.updated = 12;
        profile
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &profile()).unwrap();
        let bytes = std::fs::read(path(dir.path(), &key(&profile().identity))).unwrap();
        assert_eq!(decode(&bytes), Ok(profile()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = encode(&profile()).unwrap();
        bytes[8] = 2;
        assert_eq!(decode(&bytes), Err(ProfileError::Version(2)));
        assert_eq!(decode(b"#!/bin/sh"), Err(ProfileError::NotAProfile));
    }

    /// A device number changes when the store is mounted again, and the profile is found all the same.
    #[test]
    fn a_profile_goes_by_the_file_and_its_content() {
        let identity = profile().identity;
        assert_eq!(key(&identity), key(&Identity { dev: 2, ..identity.clone() }));
        for other in [
            Identity { ino: 8, ..identity.clone() },
            Identity { size: 1 << 20, ..identity.clone() },
            Identity { mtime_ns: 5, ..identity.clone() },
            Identity { btime_ns: None, ..identity.clone() },
        ] {
            assert_ne!(key(&identity), key(&other));
        }
    }

    #[test]
    fn the_longest_profile_fits() {
        let identity = Identity { size: MAX_PAGES * 64 * PAGE, ..profile().identity };
        let mut longest = Profile::new(&[255; 3000], &identity);
        for _ in 0..VIEWS {
            longest.teach((0..MAX_PAGES as u32).map(|page| page * 64).collect());
        }
        assert!(encode(&longest).unwrap().len() as u64 <= MAX_FILE);
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_cut_is_noticed(at in any::<usize>(), bit in 0u8..8, cut in any::<usize>()) {
            let whole = encode(&profile()).unwrap();
            let mut flipped = whole.clone();
            flipped[at % whole.len()] ^= 1 << bit;
            prop_assert!(decode(&flipped).is_err());
            prop_assert!(decode(&whole[..cut % whole.len()]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            let crc = crc32fast::hash(&bytes).to_le_bytes();
            let _ = decode(&[&MAGIC[..], &VERSION.to_le_bytes(), &crc, &bytes].concat());
        }
    }
}
