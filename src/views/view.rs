//! A private view that somebody has open, and what is known of one that nobody has.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::remove_files;
use crate::error::{Error, Result};
use crate::overlay::{Overlay, PageMap, Record, Usage, ViewFiles};
use crate::pins::Pinned;

pub struct View {
    pub overlay: Overlay,
    /// Held for as long as the view is: its template may not change under it.
    pub pinned: Arc<Pinned>,
    pub(super) files: Arc<ViewFiles>,
    /// The node that it was last opened as.
    pub(super) node: AtomicU64,
    /// Where its files are once its name was discarded. They go with the view.
    pub(super) discarded: OnceLock<(PathBuf, String)>,
}
impl Drop for View {
    fn drop(&mut self) {
        if let Some((directory, key)) = self.discarded.get() {
            remove_files(directory, key);
        }
    }
}

impl View {
    pub fn record(&self) -> Record {
        self.files.record()
    }

    pub(super) fn known(&self) -> Named {
        Named { record: self.record(), usage: self.overlay.usage(), mtime: self.overlay.mtime() }
    }

    pub fn change_owner(&self, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) -> Result<()> {
        let change = |record: &mut Record| {
            record.uid = uid.unwrap_or(record.uid);
            record.gid = gid.unwrap_or(record.gid);
            record.mode = mode.map_or(record.mode, |mode| mode & 0o777);
        };
        self.files.change_record(change).map_err(|e| Error::io("cannot keep the view's owner", e))
    }
}

/// A named view as it is known without opening it.
#[derive(Debug, Clone)]
pub struct Named {
    pub record: Record,
    pub usage: Usage,
    pub mtime: SystemTime,
}

pub(super) fn created(files: ViewFiles, pinned: &Arc<Pinned>, node: u64) -> Arc<View> {
    let mtime = files.mtime();
    new_view(Arc::new(files), PageMap::default(), pinned, mtime, node)
}

pub(super) fn new_view(
    files: Arc<ViewFiles>,
    pages: PageMap,
    pinned: &Arc<Pinned>,
    mtime: SystemTime,
    node: u64,
) -> Arc<View> {
    let extent = files.record().extent;
    let overlay = Overlay::new(pinned.template().clone(), files.clone(), extent, pages, mtime);
    let (node, discarded) = (AtomicU64::new(node), OnceLock::new());
    Arc::new(View { overlay, pinned: pinned.clone(), files, node, discarded })
}
