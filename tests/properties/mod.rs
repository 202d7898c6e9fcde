//! What holds for any bytes that come from outside. The fuzz targets (fuzz/) look for bytes for which it
//! does not; tests/corpus.rs replays what they found, with a stable compiler.
#![allow(dead_code)]

pub mod names;
pub mod records;
pub mod requests;

use std::path::Path;

/// In memory where the machine has a place for that.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}
