//! What all commands that make a template have in common: its files are copied, then read again for their
//! digests, and then it is there.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::progress::Progress;
use crate::cli::AboutTemplate;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::manifest::{Lineage, Machine, Manifest, Origin, Part, Role, SCHEMA};
use crate::publish::Draft;
use crate::sparse::Pieces;
use crate::steps::step;

pub struct Making {
    draft: Draft,
    files: Vec<(String, Role, File)>,
}

/// What its maker knows of it.
pub struct Told<'a> {
    pub origin: Origin,
    pub machine: Option<Machine>,
    pub lineage: Option<Lineage>,
    pub about: &'a AboutTemplate,
}

impl Making {
    /// A template that is one file is named as its only part is.
    pub fn new(store: &Path, name: &Path) -> Result<Self> {
        Ok(Self { draft: Draft::new(store, name)?, files: Vec::new() })
    }

    pub fn own_name(&self) -> String {
        self.draft.own_name()
    }

    /// A file for somebody else to write.
    pub fn create(&mut self, part: &str, role: Role) -> Result<&File> {
        let file = self.draft.create(part)?;
        self.files.push((part.to_owned(), role, file));
        Ok(&self.files[self.files.len() - 1].2)
    }

    /// Copies the first `size` bytes of a file, less its zeros.
    pub fn copy(&mut self, part: &str, role: Role, from: &File, size: u64) -> Result<()> {
        let name = self.draft.name().display().to_string();
        let to = self.create(part, role)?;
        let copy = || {
            to.set_len(size)?;
            let pieces = Pieces::of(from, size)?;
            let progress = Progress::new(format!("copied {part}"), pieces.bytes());
            pieces.copy(from, to, &|bytes| progress.add(bytes))?;
            progress.done();
            Ok(())
        };
        copy().map_err(|e| full(&format!("{name}: {part}"), e))
    }

    /// It becomes a directory with all its files.
    pub fn publish_set(self, told: Told<'_>) -> Result<Manifest> {
        self.publish(told, Draft::publish_set)
    }

    /// It becomes a file.
    pub fn publish_file(self, told: Told<'_>) -> Result<Manifest> {
        self.publish(told, Draft::publish_file)
    }

    fn publish(self, told: Told<'_>, publish: fn(Draft, &Manifest) -> Result<()>) -> Result<Manifest> {
        let manifest = Manifest {
            schema: SCHEMA,
            name: self.draft.name().display().to_string(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            made_by: concat!("templatefs ", env!("CARGO_PKG_VERSION")).into(),
            notes: told.about.notes.clone(),
            origin: told.origin,
            parts: self.parts()?,
            machine: told.machine,
            lineage: told.lineage,
            safe: told.about.safe.clone(),
        };
        step("capture 6: read");
        publish(self.draft, &manifest)?;
        Ok(manifest)
    }

    /// All files read at once, each by a thread of its own.
    fn parts(&self) -> Result<Vec<Part>> {
        let mut sizes = Vec::new();
        for (part, _, file) in &self.files {
            let size = file.metadata().map_err(|e| full(part, e))?.len();
            sizes.push(size);
        }
        let progress = Progress::new("read for its digests", sizes.iter().sum());
        let parts = thread::scope(|scope| {
            let reading: Vec<_> = self
                .files
                .iter()
                .zip(sizes)
                .map(|((part, role, file), size)| {
                    let progress = &progress;
                    scope.spawn(move || self.part(part, *role, file, size, progress))
                })
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Part>>| {
                thread.join().unwrap_or_else(|_| Err(Error::Invalid("a thread that reads panicked".into())))
            };
            reading.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        progress.done();
        Ok(parts)
    }

    fn part(&self, part: &str, role: Role, file: &File, size: u64, progress: &Progress) -> Result<Part> {
        let file = self.draft.finish(file, part)?;
        let read = || {
            Ok(Part {
                file: part.to_owned(),
                role,
                size_bytes: size,
                data_bytes: Pieces::of(&file, size)?.bytes(),
                sha256: sha256(&file, size, &|bytes| progress.add(bytes))?,
            })
        };
        read().map_err(|e: std::io::Error| full(part, e))
    }
}

/// What went wrong with a file of a store, and what to do where that is known.
pub fn full(what: &str, error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            Error::io(format!("{what}: there is no room for it; nothing was published: make room"), error)
        }
        _ => Error::io(what.to_owned(), error),
    }
}
