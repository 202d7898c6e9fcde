//! System calls that no well-kept library wraps: the only home of `unsafe` in this crate.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

/// A detached copy of the mounts at and below `path` that nobody can write through: files opened
/// beneath it cannot be opened for writing whatever their mode, by this process or by the kernel
/// on its behalf. It is visible nowhere and goes away with the last file opened beneath it.
/// Needs CAP_SYS_ADMIN and Linux 5.12 (mount_setattr(2)).
pub fn readonly_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags)?;
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let empty = c"";
    // SAFETY: the path is a NUL-terminated string, `attr` is a live struct mount_attr and its
    // own size is passed; the kernel reads both and keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}

/// _IOW(229, 1, struct fuse_backing_map): three words of 4, 4 and 8 bytes.
pub const BACKING_OPEN: libc::c_ulong = (1 << 30) | (16 << 16) | (229 << 8) | 1;
/// _IOW(229, 2, uint32_t)
pub const BACKING_CLOSE: libc::c_ulong =
    (1 << 30) | ((size_of::<u32>() as libc::c_ulong) << 16) | (229 << 8) | 2;

/// Lets go of a backing file that was registered on this /dev/fuse (FUSE_DEV_IOC_BACKING_CLOSE).
pub fn close_backing(device: impl AsFd, id: u32) -> io::Result<()> {
    // SAFETY: the kernel reads one u32 during the call.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_CLOSE, &raw const id) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Calls `reply` with the library's form of a backing id that stays registered.
pub fn with_backing(
    open: fuser::ReplyOpen,
    id: u32,
    reply: impl FnOnce(fuser::ReplyOpen, &fuser::BackingId),
) {
    // SAFETY: the id's owner is whoever registered it. The library would let go of it when this
    // value is dropped, which does not happen.
    let backing = unsafe { open.wrap_backing(id) };
    reply(open, &backing);
    let _ = backing.into_raw();
}

/// Makes the descriptor `target` another name of the open file `with`, atomically.
pub fn replace_descriptor(target: BorrowedFd<'_>, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open. Whoever owns `target` goes on owning an open descriptor;
    // that it means another file is what the caller wants.
    let result = unsafe { libc::dup3(with.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor that this process was started with; None if there is none of that
/// number. The caller must be the only one who does so.
pub fn inherited(number: i32) -> Option<OwnedFd> {
    // SAFETY: fcntl(2) of any number is safe; it fails where no descriptor has it.
    let flags = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the descriptor is open, and it was handed over on the command line or in the
    // environment for this process alone: nothing else in it knows the number.
    (number > 2 && flags >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whose page it is that a process has at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// The process's own, in memory.
    Anon,
    /// The process's own, swapped out.
    Swap,
    /// A file's.
    File,
}

/// struct pm_scan_arg and struct page_region of include/uapi/linux/fs.h.
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// _IOWR('f', 16, struct pm_scan_arg)
pub const PAGEMAP_SCAN: libc::c_ulong =
    (3 << 30) | ((size_of::<ScanArg>() as libc::c_ulong) << 16) | (0x66 << 8) | 16;

/// Calls `found` with each run of pages in `addresses` that a process has, and what they are, in
/// the order of their addresses. `pagemap` is its open /proc/PID/pagemap. ENOTTY before Linux 6.7.
pub fn scan_pages(
    pagemap: &File,
    addresses: Range<u64>,
    mut found: impl FnMut(Range<u64>, PageKind),
) -> io::Result<()> {
    let mut regions = [PageRegion::default(); 256];
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        flags: 0,
        start: addresses.start,
        end: addresses.end,
        walk_end: 0,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        max_pages: 0,
        category_inverted: 0,
        category_mask: 0,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_FILE | PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    };
    while arg.start < arg.end {
        // SAFETY: `arg` has the size and layout of struct pm_scan_arg, and `vec` and `vec_len`
        // name the live array `regions`, whose elements have the layout of struct page_region
        // and which is only read after the call.
        let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for region in &regions[..count.min(regions.len())] {
            let kind = match region.categories {
                c if c & PAGE_IS_FILE != 0 => PageKind::File,
                c if c & PAGE_IS_SWAPPED != 0 => PageKind::Swap,
                _ => PageKind::Anon,
            };
            found(region.start..region.end, kind);
        }
        if arg.walk_end <= arg.start {
            break;
        }
        arg.start = arg.walk_end;
    }
    Ok(())
}

/// struct cachestat of include/uapi/linux/mman.h; in pages.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStat {
    pub cached: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub evicted: u64,
    pub recently_evicted: u64,
}

/// cachestat(2) of a whole file; ENOSYS before Linux 6.5.
pub fn cachestat(file: impl AsFd) -> io::Result<CacheStat> {
    const CACHESTAT: libc::c_long = 451;
    let whole: [u64; 2] = [0, 0];
    let mut stat = CacheStat::default();
    // SAFETY: `whole` has the layout of struct cachestat_range and `stat` that of struct
    // cachestat; the kernel reads the one and writes the other during the call only.
    let result =
        unsafe { libc::syscall(CACHESTAT, file.as_fd().as_raw_fd(), whole.as_ptr(), &raw mut stat, 0) };
    if result == 0 { Ok(stat) } else { Err(io::Error::last_os_error()) }
}

/// Opens the inode with this node id on the FUSE filesystem of `mount`, by its file handle
/// (fs/fuse/inode.c, fuse_encode_fh: node id and generation): no path leads to a view
/// without a name. With O_PATH whoever serves the filesystem is not asked. ESTALE where the kernel
/// does not know the node; needs CAP_DAC_READ_SEARCH.
pub fn open_node(mount: impl AsFd, node: u64, flags: OFlags) -> io::Result<File> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        words: [u32; 3],
    }
    const FILEID_INO64_GEN: i32 = 0x81;
    let mut handle =
        Handle { bytes: 12, kind: FILEID_INO64_GEN, words: [(node >> 32) as u32, node as u32, 0] };
    let flags = (flags | OFlags::CLOEXEC).bits() as i32;
    // SAFETY: `handle` begins as struct file_handle does and `bytes` is the size of what follows;
    // the kernel only reads it.
    let fd = unsafe {
        let handle = (&raw mut handle).cast::<libc::file_handle>();
        libc::open_by_handle_at(mount.as_fd().as_raw_fd(), handle, flags)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Adds a filter for the system calls of this thread and of those that it starts (seccomp(2)), with
/// flags of SECCOMP_SET_MODE_FILTER that make it return 0. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn filter_syscalls(program: &[seccompiler::sock_filter], flags: u32) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `program` names `length` live instructions of the layout of struct sock_filter, which the
    // kernel copies during the call; it writes none of them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
