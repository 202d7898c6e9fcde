//! Gathers the facts that the rules are about. Nothing is changed, and no view is made.

mod file;
mod host;
mod mount;

use std::path::Path;

pub use file::file;
pub use host::host;
pub use mount::mount;

use super::host::Place;
use crate::mount::{holding, mounts};
use crate::name::printable;

/// What `path` would be on; it need not exist.
fn place(path: &Path) -> Option<Place> {
    let real = path.ancestors().find_map(|ancestor| std::fs::canonicalize(ancestor).ok())?;
    let room = rustix::fs::statvfs(&real).ok()?;
    let mounts = mounts().ok()?;
    let entry = holding(&mounts, &real)?;
    Some(Place {
        path: printable(path.as_os_str().as_encoded_bytes()),
        filesystem: entry.filesystem.clone(),
        options: entry.options.clone(),
        total: room.f_blocks * room.f_frsize,
        free: room.f_bavail * room.f_frsize,
    })
}
