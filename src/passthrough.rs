//! Passthrough: the kernel reads a template by itself (Linux 6.9, CAP_SYS_ADMIN).
//!
//! Of templates only a [`ReadOnly`] open gets here, and of what may be written only a view that is a
//! file of its own. Whether a template can be passed through is decided at its
//! first open and holds for as long as it is pinned: the kernel lets an inode be served in one
//! way only while it is open. A registered file belongs to the mount and not to this process: a
//! successor goes on with the same name for it.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::{BackingId, InitFlags, KernelConfig};

use crate::engine::ReadOnly;
use crate::error::{Error, Result};
use crate::memory::MemoryView;
use crate::pins::Pinned;
use crate::sys;

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

/// A template that is registered with the kernel, until it is let go of.
struct Registered {
    device: Arc<OwnedFd>,
    id: u32,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Err(error) = sys::close_backing(&self.device, self.id) {
            log::debug!("the kernel keeps a template open until it is unmounted: {error}");
        }
    }
}

type Attachment = Option<Registered>;

/// The kernel's name for the template behind this open, if it takes it.
pub fn backing(device: &Arc<OwnedFd>, template: &ReadOnly) -> Option<u32> {
    let pinned = template.pinned();
    let register = || -> Box<dyn Any + Send + Sync> {
        let registered = pinned.template().readable().map(|file| BackingId::create_raw(device, file));
        let attachment: Attachment = match registered {
            Some(Ok(id)) => Some(Registered { device: device.clone(), id }),
            Some(Err(error)) => {
                log::warn!(
                    "a template is read through the daemon: the kernel does not pass it through: {error}"
                );
                None
            }
            None => None,
        };
        Box::new(attachment)
    };
    let attachment = pinned.attachment.get_or_init(register).downcast_ref::<Attachment>()?.as_ref();
    pinned.passed_through.get_or_init(|| attachment.is_some());
    attachment.map(|registered| registered.id)
}

/// The kernel knows this template by a name that an earlier daemon has registered.
pub fn registered_before(device: &Arc<OwnedFd>, pinned: &Pinned, id: u32) {
    // Once for all nodes of a template: whoever owns the name lets go of it in the end.
    pinned.attachment.get_or_init(|| {
        let attachment: Attachment = Some(Registered { device: device.clone(), id });
        Box::new(attachment)
    });
    let _ = pinned.passed_through.set(true);
}

/// The kernel's name for a view that is its own file: one for all opens of the view, which the
/// kernel insists on.
pub fn backing_of_memory(device: &Arc<OwnedFd>, view: &MemoryView) -> Result<u32> {
    let register = || -> Box<dyn Any + Send + Sync> {
        let registered = BackingId::create_raw(device, &view.file);
        Box::new(registered.map(|id| Registered { device: device.clone(), id }))
    };
    let registered = view.attachment.get_or_init(register).downcast_ref::<io::Result<Registered>>();
    match registered {
        Some(Ok(registered)) => Ok(registered.id),
        refused => Err(Error::Unsupported(format!(
            "a view in memory cannot be passed through{}; leave backing out",
            refused.and_then(|r| r.as_ref().err()).map_or_else(String::new, |e| format!(": {e}"))
        ))),
    }
}

/// The kernel knows this view by a name that an earlier daemon has registered.
pub fn memory_registered_before(device: &Arc<OwnedFd>, view: &MemoryView, id: u32) {
    let registered: io::Result<Registered> = Ok(Registered { device: device.clone(), id });
    // A view is taken over once, before anybody asks for its name.
    let _ = view.attachment.set(Box::new(registered));
}
