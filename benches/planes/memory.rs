//! What views cost the host, counted page by page, and what the host says itself.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::maps::Mapping;
use crate::common::sys::{self, PageKind};
use crate::{PAGE, Result};

/// MemTotal - MemFree: all that anybody on this machine uses, page cache included.
pub fn in_use() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |name| field(&text, name).ok_or_else(|| format!("/proc/meminfo has no {name}"));
    Ok(of("MemTotal:")? - of("MemFree:")?)
}

/// Resident memory of a process; `which` is `VmRSS:` or `RssAnon:`.
pub fn resident(pid: u32, which: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field(&text, which).unwrap_or(0))
}

/// A line `NAME   123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// Pages that a private mapping in this process copied, in bytes.
pub fn copied(mapping: &Mapping) -> Result<u64> {
    let mut pages = 0;
    sys::scan_pages(&File::open("/proc/self/pagemap")?, mapping.addresses(), |run, kind| {
        if kind != PageKind::File {
            pages += (run.end - run.start) / PAGE as u64;
        }
    })?;
    Ok(pages * PAGE as u64)
}

/// Page cache of files, each file once; `known` are those that were counted, or do not count.
pub fn cached(files: impl IntoIterator<Item = File>, known: &mut HashSet<(u64, u64)>) -> Result<u64> {
    let mut pages = 0;
    for file in files {
        // Asked first: of some filesystems a mere fstat drops the cached pages.
        let cached = sys::cachestat(&file)?.cached;
        let metadata = file.metadata()?;
        if known.insert((metadata.dev(), metadata.ino())) {
            pages += cached;
        }
    }
    Ok(pages * PAGE as u64)
}

/// A file by its identity.
pub fn identity(path: &Path) -> Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The regular files that a process has open.
pub fn open_files(pid: u32) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path: PathBuf = entry?.path();
        // A socket or a FIFO must not be opened.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            files.extend(File::open(&path));
        }
    }
    Ok(files)
}

/// A process and all that descend from it.
pub fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all = vec![pid];
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        all.extend(family(child));
    }
    all
}
