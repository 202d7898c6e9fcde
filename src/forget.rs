//! Has the kernel forget names that a user has looked up and does not use, before that user meets
//! its bound (engine/shares.rs): how long the kernel remembers a name is its own affair, and it has no
//! reason to forget one while memory is plenty.
//!
//! On a thread of its own: the kernel takes the directory's lock for it, which a LOOKUP holds until it is
//! answered.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use crate::engine::Engine;

/// Between two rounds for all users together: a round looks at all nodes.
const PAUSE: Duration = Duration::from_millis(50);

/// Works until the process ends.
pub fn work(engine: &Arc<Engine>, notifier: &Notifier, crowded: &Receiver<u32>) {
    for uid in crowded {
        let entries = engine.forgettable(uid);
        let count = entries.len();
        for (parent, name) in entries {
            // It may be gone already.
            let _ = notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(&name));
        }
        log::debug!("user {uid} has many names looked up: the kernel was asked to forget {count}");
        thread::sleep(PAUSE);
        engine.shares().looked_at(uid);
    }
}
