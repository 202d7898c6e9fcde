//! Filled copies that wait for the next view of a template, so that its open waits for nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use super::filled;
use crate::pins::Pinned;
use crate::store::Identity;

/// Holds at most `size` copies, of the templates that were opened last.
pub struct Pool {
    size: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<(Identity, File)>,
    /// The template to make copies of; a thread is at it.
    wanted: Option<Arc<Pinned>>,
}

impl Pool {
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, state: Mutex::default() })
    }

    pub fn has(&self, identity: &Identity) -> bool {
        self.state.lock().ready.iter().any(|(of, _)| of == identity)
    }

    /// A copy that nobody else gets.
    pub fn take(&self, identity: &Identity) -> Option<File> {
        let mut state = self.state.lock();
        let at = state.ready.iter().position(|(of, _)| of == identity)?;
        state.ready.remove(at).map(|(_, file)| file)
    }

    /// Sees to it that there are copies of this template, on a thread of its own.
    pub fn refill(self: &Arc<Self>, pinned: Arc<Pinned>) {
        if self.size == 0 {
            return;
        }
        let busy = self.state.lock().wanted.replace(pinned).is_some();
        let pool = self.clone();
        if !busy && thread::Builder::new().name("pool".into()).spawn(move || pool.work()).is_err() {
            self.state.lock().wanted = None;
        }
    }

    fn work(&self) {
        while let Some(pinned) = self.next() {
            let template = pinned.template();
            match filled(template.as_ref()) {
                // What changed while it was copied is no copy of anything.
                Ok(file) if template.unchanged().unwrap_or(false) => {
                    self.add(template.identity().clone(), file);
                }
                Ok(_) => self.stop(&pinned),
                Err(error) => {
                    log::warn!("no copy of a template is kept ready: it cannot be filled: {error}");
                    self.stop(&pinned);
                }
            }
        }
    }

    /// The template to copy next; None ends the thread, and the next refill begins another.
    fn next(&self) -> Option<Arc<Pinned>> {
        let mut state = self.state.lock();
        let identity = state.wanted.as_ref()?.template().identity().clone();
        if state.ready.iter().filter(|(of, _)| *of == identity).count() >= self.size {
            state.wanted = None;
        }
        state.wanted.clone()
    }

    fn add(&self, identity: Identity, file: File) {
        let mut state = self.state.lock();
        state.ready.push_back((identity, file));
        while state.ready.len() > self.size {
            state.ready.pop_front();
        }
    }

    /// Gives this template up, unless another one is wanted by now.
    fn stop(&self, pinned: &Arc<Pinned>) {
        let mut state = self.state.lock();
        if state.wanted.as_ref().is_some_and(|wanted| Arc::ptr_eq(wanted, pinned)) {
            state.wanted = None;
        }
    }
}
