//! Who lives on a template: views on the mounts of its store, and those that rest in state directories.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{target, views};
use crate::error::{Error, Result};
use crate::name::printable;
use crate::{overlay, state};

/// One view, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// As it is written in a path of a mount.
    pub template: String,
    pub view: String,
    pub place: String,
}

/// What could be found.
pub struct Usage {
    /// Mounts and state directories of the store.
    pub places: usize,
    pub views: Vec<Use>,
}

impl Usage {
    /// The views of a template, or of the files of a set.
    pub fn of<'a>(&'a self, template: &'a str) -> impl Iterator<Item = &'a Use> {
        self.views.iter().filter(move |usage| {
            let rest = usage.template.strip_prefix(template);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// The views of a store: on its mounts, in their state directories, in the usual ones, and in `more`. A state
/// directory may belong to a mount that this process does not see.
pub fn of_store(store: &Path, more: &[PathBuf]) -> Result<Usage> {
    let mut found = Vec::new();
    let mut places = 0;
    let mut states = more.to_vec();
    for mountpoint in target::mounts_of(store)? {
        places += 1;
        found.extend(on_mount(&mountpoint)?);
        states.extend(
            target::read(&mountpoint.join(".templatefs/state"))
                .ok()
                .map(|path| PathBuf::from(path.trim_end())),
        );
    }
    states.extend(state::usual_places());
    states.sort();
    states.dedup();
    let given = |path: &PathBuf| more.contains(path);
    for path in &states {
        if given(path) || state::store_of(path).is_some_and(|of| target::is_same(&of, store)) {
            places += 1;
            found.extend(in_state(path, given(path))?);
        }
    }
    // One that is open on a mount is in its state directory too.
    found.sort();
    found.dedup_by(|one, other| (&one.template, &one.view) == (&other.template, &other.view));
    Ok(Usage { places, views: found })
}

/// Views on a mount, as far as this user sees them.
pub fn on_mount(mountpoint: &Path) -> Result<Vec<Use>> {
    let place = mountpoint.display().to_string();
    let listed = views::read(mountpoint)?.views.into_iter();
    Ok(listed.map(|view| Use { template: view.template, view: view.id, place: place.clone() }).collect())
}

/// Views whose files are there. Those without a name mean something only while somebody serves them.
fn in_state(path: &Path, must: bool) -> Result<Vec<Use>> {
    let place = path.display().to_string();
    let directory = path.join("views");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        // Somebody else's, or gone meanwhile.
        Err(_) if !must => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(format!("state directory {place}"), e)),
    };
    let lock = File::open(path.join("lock")).ok();
    let served = lock.is_some_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err());
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some(key) = file.to_str().and_then(|name| name.strip_suffix(".map")) else { continue };
        let Ok((record, _)) = overlay::peek(&directory, key) else { continue };
        let view = match &record.view {
            Some(name) => name.to_string(),
            None if served => printable(key.replacen("u-", "@", 1).as_bytes()),
            None => continue,
        };
        found.push(Use { template: crate::name::written(&record.template), view, place: place.clone() });
    }
    Ok(found)
}
