//! Which pages a view has, how long it is, and what of that can be seen while it changes.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut, Range};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Extent, PAGE, PageMap, Usage};

/// How long one who only looks at the pages waits for the end of a change.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Shape {
    pub extent: Extent,
    pub pages: PageMap,
    pub mtime: SystemTime,
    pub unfinished: Unfinished,
}

/// What a backing that failed left half done.
#[derive(Default)]
pub struct Unfinished {
    /// Chunks of the page map, by their number: what is kept of them may be what failed.
    pub chunks: BTreeSet<u64>,
    /// There may be content and states beyond the view's end.
    pub cut: bool,
    /// Pages in which there may be content that no state claims.
    pub unclaimed: Vec<Range<u64>>,
}

/// What others ask for: they do not wait for a file that a change waits for.
#[derive(Clone, Copy)]
pub struct Seen {
    pub size: u64,
    pub usage: Usage,
    pub mtime: SystemTime,
}

impl Shape {
    /// Pages that the template may show through in.
    pub fn template_pages(&self) -> u64 {
        self.extent.template_len.div_ceil(PAGE)
    }

    fn seen(&self) -> Seen {
        let pages = &self.pages;
        let usage = Usage { private_bytes: pages.private() * PAGE, zero_bytes: pages.zero() * PAGE };
        Seen { size: self.extent.size, usage, mtime: self.mtime }
    }
}

/// The lock may be held for as long as a file takes, `seen` is not.
pub struct Shaped {
    lock: RwLock<Shape>,
    seen: Mutex<Seen>,
}

impl Shaped {
    pub fn new(shape: Shape) -> Self {
        let seen = Mutex::new(shape.seen());
        Self { lock: RwLock::new(shape), seen }
    }

    pub fn seen(&self) -> Seen {
        *self.seen.lock()
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Shape> {
        self.lock.read()
    }

    /// None where a change waits for a file.
    pub fn read_soon(&self) -> Option<RwLockReadGuard<'_, Shape>> {
        self.lock.try_read_for(PATIENCE)
    }

    pub fn change(&self) -> Change<'_> {
        Change { shape: self.lock.write(), seen: &self.seen }
    }
}

/// A change, which is seen at its end, whatever came of it.
pub struct Change<'a> {
    shape: RwLockWriteGuard<'a, Shape>,
    seen: &'a Mutex<Seen>,
}

impl Deref for Change<'_> {
    type Target = Shape;

    fn deref(&self) -> &Shape {
        &self.shape
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Shape {
        &mut self.shape
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        *self.seen.lock() = self.shape.seen();
    }
}
