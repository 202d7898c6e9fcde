//! The answer to an OPEN: which way its data moves.

use std::sync::Arc;

use fuser::{Errno, FileHandle, FopenFlags, ReplyOpen};

use super::convert::refused;
use crate::access::Caller;
use crate::engine::{Access, Engine, Opened, Plane};
use crate::errands;
use crate::passthrough;

pub fn answer(engine: &Engine, opened: Opened, reply: ReplyOpen) {
    let handle = FileHandle(opened.handle);
    match opened.plane {
        Plane::Template(template) => {
            if engine.has_passthrough()
                && let Some(backing) = passthrough::backing(&reply, &template)
            {
                return reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, backing);
            }
            reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
        }
        Plane::Memory(view) => match passthrough::backing_of_memory(&reply, &view) {
            Ok(backing) => reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, backing),
            Err(error) => {
                log::error!("open: a view in memory cannot be passed through: {error}; leave backing out");
                let _ = engine.release(opened.handle);
                reply.error(Errno::EOPNOTSUPP);
            }
        },
        Plane::Cached { keep: true } => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
        Plane::Cached { keep: false } => reply.opened(handle, FopenFlags::empty()),
    }
}

/// OPEN of a view that must be filled first, which no event loop waits for.
pub fn after_filling(engine: Arc<Engine>, caller: Caller, node: u64, access: Access, reply: ReplyOpen) {
    let errand = move || match engine.fill(&caller, node).and_then(|()| engine.open(&caller, node, access)) {
        Ok(opened) => answer(&engine, opened, reply),
        Err(error) => reply.error(refused("open", &caller, &error)),
    };
    // Without a thread the reply is dropped, which answers EIO.
    errands::run("fill", errand);
}
