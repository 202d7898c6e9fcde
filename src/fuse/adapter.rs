//! What serves the kernel's requests.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier, Request};

use super::convert::caller;
use super::directories::Directories;
use super::dropping::{Dropping, Gone};
use super::loops::{AtWork, Loops};
use crate::control::Control;
use crate::engine::{DirectoryEntry, Engine};
use crate::errands;
use crate::error::Result;

/// Each event loop has one; they share what they serve.
#[derive(Clone)]
pub struct Adapter {
    pub(super) engine: Arc<Engine>,
    pub(super) control: Arc<Control>,
    pub(super) state_directory: PathBuf,
    /// Are there extended attributes?
    pub(super) attributes: Arc<AtomicBool>,
    /// The connection to the kernel.
    pub(super) device: Arc<OwnedFd>,
    pub(super) notifier: Arc<OnceLock<Notifier>>,
    pub(super) directories: Arc<Directories>,
    pub(super) dropping: Arc<Dropping>,
    pub(super) loops: Arc<Loops>,
    /// Serves the loops that were added to the mount's own.
    pub(super) is_added: bool,
}

impl Adapter {
    /// `notifier` is set once the session is there.
    pub fn new(
        engine: Arc<Engine>,
        control: Arc<Control>,
        device: Arc<OwnedFd>,
        notifier: Arc<OnceLock<Notifier>>,
        loops: Arc<Loops>,
    ) -> Self {
        let state_directory = engine.views().directory().to_owned();
        let to = notifier.clone();
        let dropping = Dropping::new(move |Gone { node, warm }| {
            if let Some(notifier) = to.get() {
                errands::drop_cache(notifier, node, warm);
            }
        });
        let directories = Arc::new(Directories::new(engine.takeovers()));
        Self {
            engine,
            control,
            state_directory,
            attributes: Arc::default(),
            device,
            notifier,
            dropping,
            directories,
            loops,
            is_added: false,
        }
    }

    /// For loops beside the mount's own, which serve the same.
    pub fn added(&self) -> Self {
        Self { is_added: true, ..self.clone() }
    }

    pub(super) fn begin(&self) -> AtWork<'_> {
        self.loops.begin(self.is_added)
    }

    /// What a directory holds, as it was when it was opened.
    pub(super) fn entries(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: u64,
    ) -> Result<Arc<Vec<DirectoryEntry>>> {
        self.directories.entries(handle, || match Control::owns(ino.0) {
            true => self.control.list(&caller(request), ino.0),
            false => self.engine.list(&caller(request), ino.0),
        })
    }
}
