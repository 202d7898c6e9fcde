//! What is taken over but waits for a file: whoever asks for it waits too, and nobody else.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use super::super::ledger::OpenFile;

#[derive(Default)]
pub struct Waiting {
    /// Is there anything at all?
    any: AtomicBool,
    left: Mutex<Left>,
    settled: Condvar,
}

#[derive(Default)]
struct Left {
    nodes: HashSet<u64>,
    /// The node of each open file.
    handles: HashMap<u64, u64>,
}

impl Waiting {
    pub fn begin(&self, files: &[OpenFile]) {
        let mut left = self.left.lock();
        for file in files {
            left.nodes.insert(file.node);
            left.handles.insert(file.handle, file.node);
        }
        self.any.store(true, Ordering::Release);
    }

    /// Taken over or set aside.
    pub fn end(&self, node: u64) {
        let mut left = self.left.lock();
        left.nodes.remove(&node);
        left.handles.retain(|_, of| *of != node);
        self.any.store(!left.nodes.is_empty(), Ordering::Release);
        self.settled.notify_all();
    }

    pub fn for_node(&self, node: u64) {
        self.wait_while(|left| left.nodes.contains(&node));
    }

    pub fn for_handle(&self, handle: u64) {
        self.wait_while(|left| left.handles.contains_key(&handle));
    }

    fn wait_while(&self, is_left: impl Fn(&Left) -> bool) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut left = self.left.lock();
        while is_left(&left) {
            self.settled.wait(&mut left);
        }
    }
}
