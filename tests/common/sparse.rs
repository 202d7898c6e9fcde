//! Templates with holes.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use super::mounted::Mounted;

const PAGE: usize = 4096;

/// Puts a template of `size` bytes into the store that holds these pieces and holes else.
pub fn sparse_template(mounted: &Mounted, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> PathBuf {
    put(mounted, name, |file| {
        file.set_len(size).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
    })
}

/// Puts a template with this content into the store, its pages of zeros as holes.
pub fn template_with_holes(mounted: &Mounted, name: &str, content: &[u8]) -> PathBuf {
    let pages = content.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let pieces: Vec<_> = pages.map(|(index, page)| ((index * PAGE) as u64, page)).collect();
    sparse_template(mounted, name, content.len() as u64, &pieces)
}

fn put(mounted: &Mounted, name: &str, fill: impl FnOnce(&File)) -> PathBuf {
    let file = tempfile::NamedTempFile::new_in(&mounted.store).unwrap();
    fill(file.as_file());
    file.as_file().set_permissions(Permissions::from_mode(0o444)).unwrap();
    let path = mounted.store.join(name);
    file.persist(&path).unwrap();
    path
}
