//! The names of a view's files; how a view goes, or gets another key.

use std::io;
use std::path::{Path, PathBuf};

use super::disk;
use crate::steps::step;

/// Where a view's files are.
pub struct Paths {
    pub data: PathBuf,
    pub map: PathBuf,
    /// What becomes the map.
    pub new: PathBuf,
    pub synced: PathBuf,
}

impl Paths {
    pub fn new(directory: &Path, key: &str) -> Self {
        let path = |extension: &str| directory.join(format!("{key}.{extension}"));
        Self { data: path("data"), map: path("map"), new: path("new"), synced: path("synced") }
    }
}

/// Removes a view's files; it is gone once the map file is, and where it would outlive the
/// machine, gone on disk before the rest goes. Open ones go on working.
pub fn remove(directory: &Path, key: &str) -> io::Result<()> {
    let paths = Paths::new(directory, key);
    disk::remove(&paths.new)?;
    disk::remove(&paths.map)?;
    if paths.synced.try_exists()? {
        disk::sync_directory(directory)?;
        disk::remove(&paths.synced)?;
    }
    disk::remove(&paths.data)
}

/// Gives the files of a view that has a name the key of one that has none, where there is none of
/// that key yet: it can be done again after a kill at any instant.
pub fn rename(directory: &Path, from: &str, to: &str) -> io::Result<()> {
    let (from, to) = (Paths::new(directory, from), Paths::new(directory, to));
    if to.map.try_exists()? && from.map.try_exists()? {
        // All is done, and the name is another view's by now.
        return Ok(());
    }
    let move_on = |from: &Path, to: &Path| {
        if !to.try_exists()? {
            disk::rename(from, to).or_else(disk::ignore_missing)?;
        }
        io::Result::Ok(())
    };
    move_on(&from.map, &to.map)?;
    step("discard 3: half renamed");
    if from.synced.try_exists()? {
        disk::sync_directory(directory)?;
    }
    move_on(&from.data, &to.data)?;
    if from.synced.try_exists()? { disk::remove(&from.synced) } else { Ok(()) }
}
