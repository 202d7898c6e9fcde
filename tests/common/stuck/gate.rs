//! What does not work, and who waits for it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Of the files whose path ends so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Whatever asks for their content waits.
    Hangs(String),
    /// They can be read; to write, allocate or sync them is EIO.
    Fails(String),
    /// Whatever changes anything is EROFS, and to open a file for it too.
    ReadOnly,
    /// To open them is EIO.
    Unreadable(String),
}

#[derive(Default)]
pub struct Gate {
    fault: Mutex<Option<Fault>>,
    changed: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    pub fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
        self.changed.notify_all();
    }

    /// So many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn fails(&self, path: &Path) -> bool {
        let shown = path.display().to_string();
        matches!(&*self.fault.lock().unwrap(), Some(Fault::Fails(end)) if shown.ends_with(end))
    }

    pub fn is_unreadable(&self, path: &Path) -> bool {
        let shown = path.display().to_string();
        matches!(&*self.fault.lock().unwrap(), Some(Fault::Unreadable(end)) if shown.ends_with(end))
    }

    pub fn is_read_only(&self) -> bool {
        *self.fault.lock().unwrap() == Some(Fault::ReadOnly)
    }

    /// Answers at once, or on a thread of its own when the file hangs no more.
    pub fn pass(self: &Arc<Self>, path: &Path, answer: impl FnOnce() + Send + 'static) {
        let shown = path.display().to_string();
        let hangs =
            move |fault: &Option<Fault>| matches!(fault, Some(Fault::Hangs(end)) if shown.ends_with(end));
        if !hangs(&self.fault.lock().unwrap()) {
            return answer();
        }
        let gate = self.clone();
        gate.waiting.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            let mut fault = gate.fault.lock().unwrap();
            while hangs(&fault) {
                fault = gate.changed.wait(fault).unwrap();
            }
            drop(fault);
            gate.waiting.fetch_sub(1, Ordering::Relaxed);
            answer();
        });
    }
}
