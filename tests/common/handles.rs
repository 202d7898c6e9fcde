//! Inodes that no path leads to.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;

/// Does the kernel have the inode of this node id? For root; the daemon is not asked (fs/fuse/inode.c,
/// fuse_get_dentry: without export support an inode that is not there is ESTALE).
pub fn is_cached(mountpoint: &Path, node: u64) -> bool {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        words: [u32; 3],
    }
    const FILEID_INO64_GEN: i32 = 0x81;
    let mut handle =
        Handle { bytes: 12, kind: FILEID_INO64_GEN, words: [(node >> 32) as u32, node as u32, 0] };
    let mount = File::open(mountpoint).unwrap();
    // SAFETY: `handle` begins as struct file_handle does and `bytes` is the size of what follows;
    // the kernel only reads it.
    let fd = unsafe {
        let handle = (&raw mut handle).cast::<libc::file_handle>();
        libc::open_by_handle_at(mount.as_raw_fd(), handle, libc::O_PATH | libc::O_CLOEXEC)
    };
    if fd < 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
        return false;
    }
    // SAFETY: the descriptor was just opened and nobody else knows it.
    drop(unsafe { File::from_raw_fd(fd) });
    true
}
