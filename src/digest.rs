//! SHA-256 of files with holes, which are not read.

use std::fs::File;
use std::io;

use sha2::{Digest, Sha256};

use crate::sparse::{Content, PIECE, Pieces};

/// Of the first `size` bytes, as sha256sum(1) prints it. `hashed` is told how many bytes were dealt with.
pub fn sha256(file: &File, size: u64, hashed: &dyn Fn(u64)) -> io::Result<String> {
    let zeros = vec![0; PIECE as usize];
    let mut buffer = vec![0; PIECE as usize];
    let mut hasher = Sha256::new();
    let mut at = 0;
    let hole_until = |hasher: &mut Sha256, at: &mut u64, end: u64| {
        while *at < end {
            let length = (end - *at).min(PIECE);
            hasher.update(&zeros[..length as usize]);
            hashed(length);
            *at += length;
        }
    };
    for (start, end) in Pieces::of(file, size)?.iter() {
        hole_until(&mut hasher, &mut at, start);
        let piece = &mut buffer[..(end - start) as usize];
        file.read_at(piece, start)?;
        hasher.update(&*piece);
        hashed(end - start);
        at = end;
    }
    hole_until(&mut hasher, &mut at, size);
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_count_as_zeros() {
        let size = 3 * PIECE + 5000;
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(size).unwrap();
        sparse.write_all_at(b"data", PIECE + 4097).unwrap();
        let mut bytes = vec![0; size as usize];
        bytes[(PIECE + 4097) as usize..][..4].copy_from_slice(b"data");
        let expected: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let seen = Cell::new(0);
        assert_eq!(sha256(&sparse, size, &|n| seen.set(seen.get() + n)).unwrap(), expected);
        assert_eq!(seen.get(), size);
    }
}
