//! The kernel's requests, decoded and handed to the engine; a few lines each.

mod convert;
mod open;
mod xattr;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use dashmap::DashMap;
use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, Version, WriteFlags,
};

use crate::access::Caller;
use crate::control::{self, Attribute, Control};
use crate::engine::{Access, Allocate, Changes, DirectoryEntry, Engine, Negotiated, RESENT, Released};
use crate::errands;
use crate::error::Result;
use crate::panics;
use crate::passthrough;
use crate::takeover;
use convert::{caller, file_attr, no_new_names, refuse, seek_whence, time};

/// One WRITE, and the largest READ.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that nobody waits for (read-ahead, write-back) at once, for all views together.
const MAX_BACKGROUND: u16 = 512;

/// What DT_* a listing shows is true, but which node an entry becomes is not known before LOOKUP.
const UNKNOWN_INO: INodeNo = INodeNo(0xffff_ffff);

pub struct Adapter {
    engine: Arc<Engine>,
    control: Arc<Control>,
    state_directory: PathBuf,
    attributes: bool,
    /// The connection to the kernel.
    device: Arc<OwnedFd>,
    notifier: Arc<OnceLock<Notifier>>,
    directories: DashMap<u64, Arc<Vec<DirectoryEntry>>>,
    next_directory: AtomicU64,
}

impl Adapter {
    /// `notifier` is set once the session is there.
    pub fn new(
        engine: Arc<Engine>,
        control: Arc<Control>,
        device: Arc<OwnedFd>,
        notifier: Arc<OnceLock<Notifier>>,
    ) -> Self {
        let state_directory = engine.views().directory().to_owned();
        // Other numbers than those that an earlier daemon has dealt out.
        let next_directory = AtomicU64::new((engine.takeovers() << 32) + 1);
        Self {
            engine,
            control,
            state_directory,
            attributes: false,
            device,
            notifier,
            directories: DashMap::new(),
            next_directory,
        }
    }

    /// What a directory holds, as it was when it was opened.
    fn entries(&self, request: &Request, ino: INodeNo, handle: u64) -> Result<Arc<Vec<DirectoryEntry>>> {
        if let Some(entries) = self.directories.get(&handle) {
            return Ok(entries.clone());
        }
        // It was opened, or an earlier daemon has opened it.
        let listed = match Control::owns(ino.0) {
            true => self.control.list(&caller(request), ino.0),
            false => self.engine.list(&caller(request), ino.0),
        };
        let entries = Arc::new(listed?);
        self.directories.insert(handle, entries.clone());
        Ok(entries)
    }

    /// What a control file shows is collected elsewhere: that takes its time, and asks this mount.
    fn open_control(&self, caller: Caller, node: u64, reply: ReplyOpen) {
        let control = self.control.clone();
        errands::run("control", move || match control.open(&caller, node) {
            Ok(handle) => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH)
            }
            Err(error) => reply.error(Errno::from_i32(error.errno().raw_os_error())),
        });
    }
}

thread_local! {
    /// One READ's data; kept, so that reading allocates nothing.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

macro_rules! try_reply {
    ($reply:expr, $operation:literal, $request:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $reply.error(refuse($operation, $request, &error)),
        }
    };
}

/// What is left out here is answered ENOSYS, which the kernel takes well: it asks no more for
/// FLUSH and FSYNCDIR, keeps locks by itself and copies by reading and writing.
impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A size or time that the daemon reports must never make the kernel drop pages of a
        // view: it changes only through the kernel itself.
        let wanted = [
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_HAS_RESEND,
        ];
        let mut granted = InitFlags::empty();
        for flag in wanted {
            match config.add_capabilities(flag) {
                Ok(()) => granted |= flag,
                Err(_) => log::info!("this kernel lacks {flag:?}"),
            }
        }
        config.set_max_write(MAX_WRITE).map_err(|_| io::Error::other("max_write"))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| io::Error::other("max_background"))?;
        self.attributes = xattr::negotiate(config);
        granted.set(InitFlags::FUSE_HANDLE_KILLPRIV_V2, self.attributes);
        let passthrough = passthrough::negotiate(config);
        self.engine.set_passthrough(passthrough);
        granted.set(InitFlags::FUSE_PASSTHROUGH, passthrough);
        let Version(major, minor) = config.kernel_abi();
        takeover::record(self.engine.recorder(), Negotiated { major, minor, flags: granted.bits() })
            .map_err(io::Error::other)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, parent, name) = (caller(request), parent.0, name.as_bytes());
        let found = match Control::owns_entry(parent, name) {
            true => self.control.lookup(&caller, parent, name),
            false => self.engine.lookup(&caller, parent, name),
        };
        let attributes = try_reply!(reply, "lookup", request, found);
        reply.entry_with_ttls(
            &attributes.valid,
            &attributes.entry_valid,
            &file_attr(&attributes),
            Generation(0),
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        match Control::owns(ino.0) {
            true => self.control.forget(ino.0, lookups),
            false => self.engine.forget(ino.0, lookups),
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let shown = match Control::owns(ino.0) {
            true => self.control.getattr(ino.0),
            false => self.engine.getattr(&caller(request), ino.0),
        };
        let attributes = try_reply!(reply, "getattr", request, shown);
        reply.attr(&attributes.valid, &file_attr(&attributes));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes { size, mode, uid, gid, mtime: mtime.map(time) };
        let changed = self.engine.setattr(&caller(request), ino.0, handle.map(|h| h.0), &changes);
        let attributes = try_reply!(reply, "setattr", request, changed);
        reply.attr(&attributes.valid, &file_attr(&attributes));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if Control::owns(ino.0) {
            return self.open_control(caller(request), ino.0, reply);
        }
        let access = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Access { read: true, write: false },
            OpenAccMode::O_WRONLY => Access { read: false, write: true },
            OpenAccMode::O_RDWR => Access { read: true, write: true },
        };
        let wanted =
            open::Wanted { caller: caller(request), node: ino.0, access, request: request.unique().0 };
        if self.engine.must_fill(ino.0, access) {
            return open::after_filling(self.engine.clone(), self.device.clone(), wanted, reply);
        }
        let opened = try_reply!(reply, "open", request, wanted.open(&self.engine, &self.device));
        let drop_cache = opened.drop_cache;
        open::answer(opened, reply);
        if let (true, Some(notifier)) = (drop_cache, self.notifier.get()) {
            errands::drop_cache(notifier.clone(), ino.0, true);
        }
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if Control::owns(handle.0) {
            let data = try_reply!(reply, "read", request, self.control.read(handle.0, offset, size as usize));
            return reply.data(&data);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let read = self.engine.read(handle.0, offset, &mut buffer[..size]);
            let length = try_reply!(reply, "read", request, read);
            reply.data(&buffer[..length]);
        });
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if Control::owns(handle.0) {
            try_reply!(reply, "write", request, self.control.write(handle.0, offset, data));
            return reply.written(data.len() as u32);
        }
        let write = || self.engine.write(handle.0, offset, data);
        let is_first_try = request.unique().0 & RESENT == 0;
        match if is_first_try { panics::unanswered(write) } else { write() } {
            Ok(()) => reply.written(data.len() as u32),
            Err(error)
                if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) && errands::is_passing(&error) =>
            {
                errands::hold_write(self.engine.clone(), handle.0, offset, data.to_vec(), error, reply);
            }
            Err(error) => reply.error(refuse("write", request, &error)),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if Control::owns(handle.0) {
            self.control.release(handle.0);
            return reply.ok();
        }
        let released = self.engine.release(handle.0);
        reply.ok();
        if let (Released::DropCache(node), Some(notifier)) = (released, self.notifier.get()) {
            errands::drop_cache(notifier.clone(), node, self.engine.warms());
        }
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let synced = match Control::owns(handle.0) {
            true => self.control.commit(handle.0),
            false => self.engine.sync(handle.0),
        };
        try_reply!(reply, "fsync", request, synced);
        reply.ok();
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done =
            Allocate::from_mode(mode).and_then(|how| self.engine.allocate(handle.0, offset, length, how));
        try_reply!(reply, "fallocate", request, done);
        reply.ok();
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (Ok(offset), Some(whence)) = (u64::try_from(offset), seek_whence(whence)) else {
            return reply.error(Errno::EINVAL);
        };
        let dirty = try_reply!(reply, "lseek", request, self.engine.holes_may_be_dirty(handle.0));
        if dirty && let Some(notifier) = self.notifier.get() {
            return errands::seek(
                self.engine.clone(),
                notifier.clone(),
                (ino.0, handle.0),
                offset,
                whence,
                reply,
            );
        }
        let at = try_reply!(reply, "lseek", request, self.engine.seek(handle.0, offset, whence));
        reply.offset(at as i64);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, parent, name) = (caller(request), parent.0, name.as_bytes());
        let removed = match Control::owns(parent) {
            true => self.control.unlink(&caller, parent, name, request.unique().0),
            false => self.engine.unlink(&caller, parent, name, request.unique().0),
        };
        try_reply!(reply, "unlink", request, removed);
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.next_directory.fetch_add(1, Ordering::Relaxed);
        try_reply!(reply, "opendir", request, self.entries(request, ino, handle));
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = try_reply!(reply, "readdir", request, self.entries(request, ino, handle.0));
        let own = [(ino, FileType::Directory, &b"."[..]), (UNKNOWN_INO, FileType::Directory, b"..")];
        let listed = entries.iter().map(|entry| {
            let kind = if entry.is_directory { FileType::Directory } else { FileType::RegularFile };
            (UNKNOWN_INO, kind, entry.name.as_slice())
        });
        for (index, (ino, kind, name)) in own.into_iter().chain(listed).enumerate().skip(offset as usize) {
            if reply.add(ino, index as u64 + 1, kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.directories.remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(&self.state_directory) {
            Ok(s) => {
                let free_files = s.f_ffree;
                reply.statfs(
                    s.f_blocks,
                    s.f_bfree,
                    s.f_bavail,
                    s.f_files,
                    free_files,
                    4096,
                    255,
                    s.f_frsize as u32,
                );
            }
            Err(e) => reply.error(Errno::from_i32(e.raw_os_error())),
        }
    }

    fn create(
        &self,
        request: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(refuse("create", request, &no_new_names(name)));
    }

    fn mknod(
        &self,
        request: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(refuse("mknod", request, &no_new_names(name)));
    }

    fn mkdir(
        &self,
        request: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(refuse("mkdir", request, &no_new_names(name)));
    }

    fn rmdir(&self, request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply.error(refuse("rmdir", request, &no_new_names(name)));
    }

    fn symlink(
        &self,
        request: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        reply.error(refuse("symlink", request, &no_new_names(name)));
    }

    fn link(&self, request: &Request, _ino: INodeNo, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply.error(refuse("link", request, &no_new_names(name)));
    }

    fn rename(
        &self,
        request: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(refuse("rename", request, &no_new_names(name)));
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.attributes {
            return reply.error(Errno::ENOSYS);
        }
        let figure = match Attribute::parse(name.as_bytes()) {
            Attribute::Figure(figure) => figure.to_owned(),
            Attribute::System => return reply.error(Errno::EOPNOTSUPP),
            Attribute::Other => {
                return reply.error(refuse("getxattr", request, &control::missing(name.as_bytes())));
            }
        };
        let (control, caller) = (self.control.clone(), caller(request));
        xattr::answer(size, reply, move || control.attribute(&caller, ino.0, &figure));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.attributes {
            return reply.error(Errno::ENOSYS);
        }
        let (control, caller) = (self.control.clone(), caller(request));
        xattr::answer(size, reply, move || Ok(control.attribute_names(&caller, ino.0)));
    }

    fn setxattr(
        &self,
        request: &Request,
        _ino: INodeNo,
        name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(refuse("setxattr", request, &Attribute::refusal(name.as_bytes())));
    }

    fn removexattr(&self, request: &Request, _ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply.error(refuse("removexattr", request, &Attribute::refusal(name.as_bytes())));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
