//! Extended attributes: figures of views, which are collected elsewhere than on an event loop.
//!
//! Before write(2), truncate and fallocate the kernel asks for `security.capability`, a round trip
//! each time, unless it may remember that a file has none (S_NOSEC; fs/inode.c,
//! dentry_needs_remove_privs). It may where the filesystem takes it on itself to drop setuid,
//! setgid and capabilities when a file is written: FUSE_HANDLE_KILLPRIV_V2, Linux 5.11. Then it
//! asks once for an inode, and once more after each fresh look at its attributes. A view has none
//! of the three (views.rs, Views::change_owner), and a template that has is not written
//! (engine/open.rs). ENOSYS for one name would end all attributes of a mount.

use std::sync::atomic::Ordering;

use fuser::{Errno, InitFlags, KernelConfig, ReplyXattr, Request};

use super::Adapter;
use super::convert::{caller, refuse};
use crate::control::{Attribute, missing};
use crate::errands;
use crate::error::Result;

/// Are there extended attributes? Not where they would make each write cost a round trip more.
pub fn negotiate(config: &mut KernelConfig) -> bool {
    let remembers = config.add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV_V2).is_ok();
    if !remembers {
        log::info!("this kernel has no FUSE_HANDLE_KILLPRIV_V2 (Linux 5.11): no extended attributes");
    }
    remembers
}

impl Adapter {
    pub fn attribute(&self, request: &Request, node: u64, name: &[u8], size: u32, reply: ReplyXattr) {
        if !self.attributes.load(Ordering::Relaxed) {
            return reply.error(Errno::ENOSYS);
        }
        let figure = match Attribute::parse(name) {
            Attribute::Figure(figure) => figure.to_owned(),
            Attribute::System => return reply.error(Errno::EOPNOTSUPP),
            Attribute::Other => return reply.error(refuse("getxattr", request, &missing(name))),
        };
        let (control, caller) = (self.control.clone(), caller(request));
        answer(size, reply, move || control.attribute(&caller, node, &figure));
    }

    pub fn attribute_names(&self, request: &Request, node: u64, size: u32, reply: ReplyXattr) {
        if !self.attributes.load(Ordering::Relaxed) {
            return reply.error(Errno::ENOSYS);
        }
        let (control, caller) = (self.control.clone(), caller(request));
        answer(size, reply, move || Ok(control.attribute_names(&caller, node)));
    }
}

/// Answers with what `collect` says, or with its length where the caller asks for that.
fn answer(size: u32, reply: ReplyXattr, collect: impl FnOnce() -> Result<Vec<u8>> + Send + 'static) {
    errands::run("xattr", move || match collect() {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(Errno::from_i32(error.errno().raw_os_error())),
    });
}
