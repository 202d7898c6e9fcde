//! Passthrough: the kernel reads a template by itself (Linux 6.9, CAP_SYS_ADMIN).
//!
//! Of templates only a [`ReadOnly`] open gets here, and of what may be written only a view that is a
//! file of its own. Whether a template can be passed through is decided at its
//! first open and holds for as long as it is pinned: the kernel lets an inode be served in one
//! way only while it is open.

use std::any::Any;
use std::io;

use fuser::{BackingId, InitFlags, KernelConfig, ReplyOpen};

use crate::engine::ReadOnly;
use crate::memory::MemoryView;

/// Asks the kernel for passthrough; says whether it will be tried.
pub fn negotiate(config: &mut KernelConfig) -> bool {
    if !rustix::process::geteuid().is_root() {
        log::info!("templates are read through the daemon: the kernel's passthrough needs root");
        return false;
    }
    if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() {
        log::warn!("templates are read through the daemon: this kernel has no FUSE passthrough (Linux 6.9)");
        return false;
    }
    // Two is the kernel's limit: a store on one stacked filesystem (overlayfs) still works.
    config.set_max_stack_depth(2).is_ok()
}

/// The kernel's name for the template behind this open, if it takes it.
pub fn backing<'a>(reply: &ReplyOpen, template: &'a ReadOnly) -> Option<&'a BackingId> {
    let pinned = template.pinned();
    let register = || -> Box<dyn Any + Send + Sync> {
        let registered = pinned.template().readable().map(|file| reply.open_backing(file));
        Box::new(match registered {
            Some(Ok(id)) => Some(id),
            Some(Err(error)) => {
                log::warn!(
                    "a template is read through the daemon: the kernel does not pass it through: {error}"
                );
                None
            }
            None => None,
        })
    };
    let backing = pinned.attachment.get_or_init(register).downcast_ref::<Option<BackingId>>()?.as_ref();
    pinned.passed_through.get_or_init(|| backing.is_some());
    backing
}

/// The kernel's name for a view that is its own file: one for all opens of the view, which the
/// kernel insists on.
pub fn backing_of_memory<'a>(reply: &ReplyOpen, view: &'a MemoryView) -> io::Result<&'a BackingId> {
    let register = || -> Box<dyn Any + Send + Sync> { Box::new(reply.open_backing(&view.file)) };
    let registered = view.attachment.get_or_init(register).downcast_ref::<io::Result<BackingId>>();
    match registered {
        Some(Ok(id)) => Ok(id),
        Some(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
        None => Err(io::Error::other("it was registered as something else")),
    }
}
