//! The answer to an OPEN: which way its data moves.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::{Errno, FileHandle, FopenFlags, OpenAccMode, OpenFlags, ReplyOpen};

use super::Adapter;
use super::convert::refused;
use super::dropping::Gone;
use crate::access::Caller;
use crate::engine::{Access, Engine, Opened, Plane};
use crate::errands;
use crate::error::Result;
use crate::passthrough;
use crate::sys;

pub struct Wanted {
    pub caller: Caller,
    pub node: u64,
    pub access: Access,
    /// The id of the OPEN.
    pub request: u64,
}

impl Wanted {
    pub fn open(&self, engine: &Engine, device: &Arc<OwnedFd>) -> Result<Opened> {
        let pass = |plane: &Plane| match plane {
            Plane::Template(template) if engine.has_passthrough() => {
                Ok(passthrough::backing(device, template))
            }
            Plane::Memory(view) => passthrough::backing_of_memory(device, view).map(Some),
            Plane::Template(_) | Plane::Cached { .. } => Ok(None),
        };
        engine.open(&self.caller, self.node, self.access, self.request, pass)
    }
}

pub fn answer(opened: Opened, reply: ReplyOpen) {
    let handle = FileHandle(opened.handle);
    if let Some(backing) = opened.backing {
        let answer =
            |reply: ReplyOpen, id: &_| reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, id);
        return sys::with_backing(reply, backing, answer);
    }
    let mut flags = match opened.plane {
        Plane::Template(_) => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        Plane::Cached { keep: true } => FopenFlags::FOPEN_KEEP_CACHE,
        Plane::Cached { keep: false } | Plane::Memory(_) => FopenFlags::empty(),
    };
    if opened.inspection {
        // The kernel would write the view back when this file is closed.
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    reply.opened(handle, flags);
}

pub fn access(flags: OpenFlags) -> Access {
    match flags.acc_mode() {
        OpenAccMode::O_RDONLY => Access { read: true, write: false },
        OpenAccMode::O_WRONLY => Access { read: false, write: true },
        OpenAccMode::O_RDWR => Access { read: true, write: true },
    }
}

impl Adapter {
    pub fn open_view(&self, wanted: Wanted, reply: ReplyOpen) {
        if self.engine.must_fill(wanted.node, wanted.access) {
            return after_filling(self.engine.clone(), self.device.clone(), wanted, reply);
        }
        let opened = match wanted.open(&self.engine, &self.device) {
            Ok(opened) => opened,
            Err(error) => return reply.error(refused("open", &wanted.caller, &error)),
        };
        let drop_cache = opened.drop_cache;
        answer(opened, reply);
        if drop_cache {
            self.dropping.add(Gone { node: wanted.node, warm: true });
        }
    }

    /// What a control file shows is collected elsewhere: that takes its time, and asks this mount.
    pub fn open_control(&self, caller: Caller, node: u64, reply: ReplyOpen) {
        let control = self.control.clone();
        errands::run("control", move || match control.open(&caller, node) {
            Ok(handle) => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH)
            }
            Err(error) => reply.error(Errno::from_i32(error.errno().raw_os_error())),
        });
    }
}

/// OPEN of a view that must be filled first, which no event loop waits for.
fn after_filling(engine: Arc<Engine>, device: Arc<OwnedFd>, wanted: Wanted, reply: ReplyOpen) {
    let errand = move || {
        let filled = engine.fill(&wanted.caller, wanted.node);
        match filled.and_then(|()| wanted.open(&engine, &device)) {
            Ok(opened) => answer(opened, reply),
            Err(error) => reply.error(refused("open", &wanted.caller, &error)),
        }
    };
    // Without a thread the reply is dropped, which answers EIO.
    errands::run("fill", errand);
}
