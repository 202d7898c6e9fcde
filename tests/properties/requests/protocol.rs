//! The numbers of the requests (include/uapi/linux/fuse.h, enum fuse_opcode).

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const UNLINK: u32 = 10;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const STATFS: u32 = 17;
pub const RELEASE: u32 = 18;
pub const FSYNC: u32 = 20;
pub const GETXATTR: u32 = 22;
pub const OPENDIR: u32 = 27;
pub const READDIR: u32 = 28;
pub const RELEASEDIR: u32 = 29;
pub const BATCH_FORGET: u32 = 42;
pub const FALLOCATE: u32 = 43;
pub const LSEEK: u32 = 46;

/// SYMLINK, MKNOD, MKDIR, RMDIR, RENAME, LINK, SETXATTR, REMOVEXATTR, CREATE, RENAME2.
pub const NAMES_CHANGE: [u32; 10] = [6, 8, 9, 11, 12, 13, 21, 24, 35, 45];

/// How long the part of such a request is that stands before the names.
pub fn fixed_part(opcode: u32) -> usize {
    match opcode {
        8 | 35 | 45 => 16,
        9 | 12 | 13 | 21 => 8,
        _ => 0,
    }
}
