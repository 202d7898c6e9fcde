//! The kernel's requests, decoded and handed to the engine; a few lines each.

macro_rules! try_reply {
    ($reply:expr, $operation:literal, $request:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $reply.error(refuse($operation, $request, &error)),
        }
    };
}

mod adapter;
mod convert;
mod data;
mod directories;
mod dropping;
mod init;
mod loops;
mod open;
mod xattr;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use crate::control::{Attribute, Control};
use crate::engine::{Allocate, Changes, Released};
use convert::{caller, file_attr, no_new_names, refuse, seek_whence, time};
use dropping::Gone;
use open::access;

pub use adapter::Adapter;
pub use loops::Loops;

/// Operations that could do nothing but make, move or remove a name: what stands before the name
/// and after it, and the reply.
macro_rules! refuse_new_names {
    ($($operation:ident($($before:ty),*; $($after:ty),*) $reply:ty;)*) => {$(
        fn $operation(
            &self,
            request: &Request,
            $(_: $before,)*
            _parent: INodeNo,
            name: &OsStr,
            $(_: $after,)*
            reply: $reply,
        ) {
            reply.error(refuse(stringify!($operation), request, &no_new_names(name)));
        }
    )*};
}

/// What is left out here is answered ENOSYS, which the kernel takes well: it asks no more for
/// FLUSH and FSYNCDIR, keeps locks by itself and copies by reading and writing.
impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if self.is_added {
            return Ok(());
        }
        self.attributes.store(init::settle(config, &self.engine)?, Ordering::Relaxed);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _at_work = self.begin();
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
        let _at_work = self.begin();
        match Control::owns(ino.0) {
            true => self.control.forget(ino.0, lookups),
            false => self.engine.forget(ino.0, lookups),
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let _at_work = self.begin();
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
        let _at_work = self.begin();
        let changes = Changes { size, mode, uid, gid, mtime: mtime.map(time) };
        let changed = self.engine.setattr(&caller(request), ino.0, handle.map(|h| h.0), &changes);
        let attributes = try_reply!(reply, "setattr", request, changed);
        reply.attr(&attributes.valid, &file_attr(&attributes));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _at_work = self.begin();
        if Control::owns(ino.0) {
            return self.open_control(caller(request), ino.0, reply);
        }
        let access = access(flags);
        let wanted =
            open::Wanted { caller: caller(request), node: ino.0, access, request: request.unique().0 };
        self.open_view(wanted, reply);
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
        let _at_work = self.begin();
        if Control::owns(handle.0) {
            let data = try_reply!(reply, "read", request, self.control.read(handle.0, offset, size as usize));
            return reply.data(&data);
        }
        self.read_view(request, handle.0, offset, size as usize, reply);
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
        let _at_work = self.begin();
        if Control::owns(handle.0) {
            try_reply!(reply, "write", request, self.control.write(handle.0, offset, data));
            return reply.written(data.len() as u32);
        }
        let is_write_back = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        self.write_view(request, handle.0, offset, data, is_write_back, reply);
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
        let _at_work = self.begin();
        if Control::owns(handle.0) {
            self.control.release(handle.0);
            return reply.ok();
        }
        let released = self.engine.release(handle.0);
        reply.ok();
        if let Released::DropCache(node) = released {
            self.dropping.add(Gone { node, warm: self.engine.warms() });
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
        let _at_work = self.begin();
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
        let _at_work = self.begin();
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
        let _at_work = self.begin();
        let (Ok(offset), Some(whence)) = (u64::try_from(offset), seek_whence(whence)) else {
            return reply.error(Errno::EINVAL);
        };
        self.seek_in_view(request, (ino.0, handle.0), offset, whence, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _at_work = self.begin();
        let (caller, parent, name) = (caller(request), parent.0, name.as_bytes());
        let removed = match Control::owns(parent) {
            true => self.control.unlink(&caller, parent, name, request.unique().0),
            false => self.engine.unlink(&caller, parent, name, request.unique().0),
        };
        try_reply!(reply, "unlink", request, removed);
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _at_work = self.begin();
        let handle = self.directories.next_handle();
        try_reply!(reply, "opendir", request, self.entries(request, ino, handle));
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let _at_work = self.begin();
        let entries = try_reply!(reply, "readdir", request, self.entries(request, ino, handle.0));
        directories::answer(ino, &entries, offset, reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.directories.close(handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _at_work = self.begin();
        self.room(reply);
    }

    refuse_new_names! {
        create(; u32, u32, i32) ReplyCreate;
        mknod(; u32, u32, u32) ReplyEntry;
        mkdir(; u32, u32) ReplyEntry;
        rmdir(;) ReplyEmpty;
        symlink(; &Path) ReplyEntry;
        link(INodeNo;) ReplyEntry;
        rename(; INodeNo, &OsStr, RenameFlags) ReplyEmpty;
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.attribute(request, ino.0, name.as_bytes(), size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.attribute_names(request, ino.0, size, reply);
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
