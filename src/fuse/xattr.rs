//! Extended attributes: figures of views, which are collected elsewhere than on an event loop.
//!
//! Before write(2), truncate and fallocate the kernel asks for `security.capability`, a round trip
//! each time, unless it may remember that a file has none (S_NOSEC; fs/inode.c,
//! dentry_needs_remove_privs). It may where the filesystem takes it on itself to drop setuid,
//! setgid and capabilities when a file is written: FUSE_HANDLE_KILLPRIV_V2, Linux 5.11. Then it
//! asks once for an inode, and once more after each fresh look at its attributes. A view has none
//! of the three (views.rs, Views::change_owner), and a template that has is not written
//! (engine/open.rs). ENOSYS for one name would end all attributes of a mount.

use fuser::{Errno, InitFlags, KernelConfig, ReplyXattr};

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

/// Answers with what `collect` says, or with its length where the caller asks for that.
pub fn answer(size: u32, reply: ReplyXattr, collect: impl FnOnce() -> Result<Vec<u8>> + Send + 'static) {
    errands::run("xattr", move || match collect() {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(Errno::from_i32(error.errno().raw_os_error())),
    });
}
