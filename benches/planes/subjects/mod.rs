//! Ways to get a private writable file or mapping of a template, each behind one trait.

mod clones;
mod peers;
mod plain;
mod templatefs;

pub use templatefs::Templatefs;

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::report::Role;
use crate::template::Template;

/// To add one: implement this, and add a line to [`all`].
pub trait Subject {
    fn name(&self) -> &'static str;

    fn role(&self) -> Role;

    /// One line for the report.
    fn what(&self) -> &'static str;

    /// Opened O_RDWR; else O_RDONLY and mapped privately only.
    fn writable(&self) -> bool {
        true
    }

    /// Does [`Self::make`] do work that counts as making a view? Else opening makes it.
    fn makes(&self) -> bool {
        true
    }

    /// How often a workload runs unmeasured before it is measured.
    fn training(&self) -> usize {
        0
    }

    /// Is a view other than the first only where pages of the ones before it were touched?
    fn learns(&self) -> bool {
        false
    }

    /// Called at the end of an unmeasured run, while its views are still open.
    fn dwell(&self) {}

    /// The unmeasured runs are over.
    fn trained(&mut self) {}

    /// Before each measurement: as if the template had never been used. An error is a refusal.
    fn ready(&mut self, _template: &Template) -> Result<()> {
        Ok(())
    }

    /// A new private file of the template. Undone with the value.
    fn make(&mut self, template: &Template) -> Result<View>;

    /// What the subject itself says that its views cost, in bytes.
    fn own_figure(&self) -> Option<Result<u64>> {
        None
    }
}

/// A private file.
pub struct View {
    pub path: PathBuf,
    pub writable: bool,
    /// Files that keep its data and are not open in its server.
    pub stores: Vec<PathBuf>,
    /// The process that serves it.
    pub server: Option<u32>,
    /// The block device that its data is written back to, such as `loop0`.
    pub device: Option<String>,
    _guard: Box<dyn Any>,
}

impl View {
    fn new(path: impl Into<PathBuf>, guard: impl Any) -> View {
        View {
            path: path.into(),
            writable: true,
            stores: Vec::new(),
            server: None,
            device: None,
            _guard: Box::new(guard),
        }
    }

    pub fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(self.writable).open(&self.path)
    }
}

/// All of them; `scratch` is a directory for their files.
pub fn all(scratch: &Path) -> Vec<Box<dyn Subject>> {
    let mut all: Vec<Box<dyn Subject>> = vec![
        Box::new(plain::Native),
        Box::new(plain::Memfd),
        Box::new(clones::Reflink::new("reflink-xfs", "xfs", scratch)),
        Box::new(clones::Reflink::new("reflink-btrfs", "btrfs", scratch)),
        Box::new(clones::Overlayfs::new("overlayfs-ext4", "ext4", scratch)),
        Box::new(clones::Overlayfs::new("overlayfs-xfs", "xfs", scratch)),
        Box::new(peers::FuseOverlayfs::new(scratch)),
        Box::new(peers::QemuStorageDaemon::new(scratch)),
        Box::new(peers::Xmount::new(scratch)),
        Box::new(peers::Nbdfuse::new(scratch)),
    ];
    for mode in &templatefs::MODES {
        all.push(Box::new(Templatefs::new(mode, scratch)));
    }
    all
}

/// templatefs in each mode once more, with mounts of their own: its views are a guest's RAM.
pub fn templatefs_modes(scratch: &Path) -> Vec<Templatefs> {
    let scratch = scratch.join("clones");
    templatefs::MODES.iter().map(|mode| Templatefs::new(mode, &scratch)).collect()
}

/// Directories 0, 1, 2 ... of one subject.
struct Numbered {
    below: PathBuf,
    next: usize,
}

impl Numbered {
    fn new(below: PathBuf) -> Numbered {
        Numbered { below, next: 0 }
    }

    fn directory(&mut self) -> Result<PathBuf> {
        let path = self.below.join(self.next.to_string());
        self.next += 1;
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

/// Removed with this value.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ =
            if self.0.is_dir() { std::fs::remove_dir_all(&self.0) } else { std::fs::remove_file(&self.0) };
    }
}
