//! What of a view would outlive the machine.
//!
//! The kernel brings data and page states to disk in whatever order it likes, so that after a power
//! cut a state may claim data that never arrived. So the states exist twice. Those of the map
//! file are changed with each write and count as long as the machine runs, whoever is killed
//! meanwhile. Those here follow them at each sync, and only when the data that they claim is on disk;
//! after another start of the machine they alone count.
//!
//! A sync: what has changed since the last one is noted; the data is brought to disk; then the
//! record, then the states. The record goes before: it tells how far the template shows
//! through, and pages that were cut off and came back would show it again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::boot::Boot;
use super::disk::{DiskFile, sync_directory};
use super::map_file::MapFile;
use super::pages::PageMap;
use crate::error::Result;

pub struct Synced {
    file: MapFile,
    directory: PathBuf,
    changed: Mutex<Changed>,
    /// Held by whoever brings the file up to date.
    syncing: Mutex<()>,
    /// Are the names of the view's files on disk?
    named: AtomicBool,
}

/// What of the map file may differ from the file here.
#[derive(Default)]
struct Changed {
    /// Chunks of the page map.
    chunks: BTreeSet<u64>,
    /// The first page that the map file held nothing of in between.
    shortest: Option<u64>,
}

impl Changed {
    fn add(&mut self, other: Self) {
        self.chunks.extend(other.chunks);
        self.shortest = self.shortest.into_iter().chain(other.shortest).min();
    }

    fn is_nothing(&self) -> bool {
        self.chunks.is_empty() && self.shortest.is_none()
    }
}

impl Synced {
    /// Of a view that is being made; on disk once this returns.
    pub fn create(path: &Path, of: &MapFile) -> Result<Self> {
        let made = Self::over(MapFile::create(path, of.record())?, path);
        // Its name before the map file's: a map alone, torn, would be a view that is damaged.
        made.file.sync().and_then(|()| sync_directory(&made.directory)).map_err(|e| {
            crate::error::Error::io(format!("{}: cannot be brought to disk", path.display()), e)
        })?;
        Ok(made)
    }

    pub fn over(file: MapFile, path: &Path) -> Self {
        Self {
            file,
            directory: path.parent().unwrap_or(path).to_owned(),
            changed: Mutex::default(),
            syncing: Mutex::new(()),
            named: AtomicBool::new(false),
        }
    }

    pub fn file(&self) -> &MapFile {
        &self.file
    }

    /// From now on the map file counts, until the next start of the machine.
    pub fn begin_boot(&self) -> io::Result<()> {
        self.file.change_record(|_| {})
    }

    /// The map file was cut at `page`, and ends with the page before `end`.
    pub fn note_cut(&self, page: u64, end: u64) {
        let chunks = BTreeSet::from([PageMap::chunk_of(page)]);
        self.changed.lock().add(Changed { chunks, shortest: Some(end) });
    }

    pub fn note_chunks(&self, chunks: impl IntoIterator<Item = u64>) {
        self.changed.lock().chunks.extend(chunks);
    }

    /// Is there nothing that a power cut could take, but for a view that nobody has written?
    pub fn is_up_to_date(&self, now: &MapFile) -> bool {
        self.changed.lock().is_nothing() && self.file.record() == now.record()
    }

    fn named(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    pub fn follow(&self, now: &MapFile, data: &DiskFile) -> io::Result<()> {
        let _alone = self.syncing.lock();
        let changed = std::mem::take(&mut *self.changed.lock());
        let done = self.follow_changed(now, data, &changed);
        if done.is_err() {
            self.changed.lock().add(changed);
        }
        done
    }

    fn follow_changed(&self, now: &MapFile, data: &DiskFile, changed: &Changed) -> io::Result<()> {
        let mut chunks = Vec::with_capacity(changed.chunks.len());
        for chunk in &changed.chunks {
            chunks.push((*chunk, now.chunk(*chunk)?));
        }
        // After the states: with an older record they would show the template where it was cut off.
        let record = now.record();
        data.sync()?;
        if !self.named() {
            sync_directory(&self.directory)?;
            self.named.store(true, Ordering::Release);
        }
        if self.file.record() != record || self.file.boot() != Boot::current() {
            self.file.change_record(|kept| *kept = record)?;
            self.file.sync()?;
        }
        if changed.is_nothing() {
            return Ok(());
        }
        if let Some(end) = changed.shortest {
            self.file.end_at(end)?;
        }
        for (number, words) in chunks {
            self.file.keep_chunk(number, &words)?;
        }
        self.file.sync()
    }
}
