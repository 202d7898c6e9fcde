//! Inodes that no path leads to.

use std::fs::File;
use std::path::Path;

use rustix::fs::OFlags;

use super::sys;

/// Does the kernel have the inode of this node id? For root; the daemon is not asked (fs/fuse/inode.c,
/// fuse_get_dentry: without export support an inode that is not there is ESTALE).
pub fn is_cached(mountpoint: &Path, node: u64) -> bool {
    let opened = sys::open_node(File::open(mountpoint).unwrap(), node, OFlags::PATH);
    if let Err(error) = &opened {
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    }
    opened.is_ok()
}
