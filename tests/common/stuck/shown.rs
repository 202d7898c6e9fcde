//! The filesystem itself: what it shows is in a directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::gate::Gate;

/// How long the kernel believes what it was told.
const VALID: Duration = Duration::from_secs(1);

pub struct Shown {
    gate: Arc<Gate>,
    /// By inode number; a file that is renamed keeps its own.
    inodes: Mutex<Vec<PathBuf>>,
    /// By handle: which inode it is, and the file.
    files: Mutex<HashMap<u64, (INodeNo, Arc<File>)>>,
}

impl Shown {
    pub fn new(root: PathBuf, gate: Arc<Gate>) -> Self {
        Self { gate, inodes: Mutex::new(vec![root.clone(), root]), files: Mutex::default() }
    }

    fn path(&self, ino: INodeNo) -> PathBuf {
        self.inodes.lock().unwrap()[ino.0 as usize].clone()
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> PathBuf {
        self.path(parent).join(name)
    }

    fn number(&self, path: &Path) -> u64 {
        let mut inodes = self.inodes.lock().unwrap();
        let known = inodes.iter().rposition(|known| known == path);
        let number = known.unwrap_or_else(|| {
            inodes.push(path.to_owned());
            inodes.len() - 1
        });
        number as u64
    }

    fn attributes(&self, path: &Path) -> io::Result<FileAttr> {
        Ok(attributes(self.number(path), &fs::symlink_metadata(path)?))
    }

    /// An open file, and what it is called now.
    fn file(&self, handle: FileHandle) -> (PathBuf, Arc<File>) {
        let (ino, file) = self.files.lock().unwrap()[&handle.0].clone();
        (self.path(ino), file)
    }

    fn keep(&self, ino: INodeNo, file: File) -> FileHandle {
        let mut files = self.files.lock().unwrap();
        let handle = files.keys().max().map_or(1, |last| last + 1);
        files.insert(handle, (ino, Arc::new(file)));
        FileHandle(handle)
    }

    /// What a change of a file here is refused with.
    fn refusal(&self, path: &Path) -> Option<io::Error> {
        match self.gate.is_read_only() {
            true => Some(erofs()),
            false => self.gate.fails(path).then(eio),
        }
    }

    fn entry(&self, path: &Path, reply: ReplyEntry) {
        match self.attributes(path) {
            Ok(attributes) => reply.entry(&VALID, &attributes, Generation(0)),
            Err(e) => reply.error(e.into()),
        }
    }
}

fn attributes(number: u64, m: &fs::Metadata) -> FileAttr {
    let time = |seconds: i64, nanoseconds: i64| -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds as u64, nanoseconds as u32)
    };
    FileAttr {
        ino: INodeNo(number),
        size: m.len(),
        blocks: m.blocks(),
        atime: time(m.atime(), m.atime_nsec()),
        mtime: time(m.mtime(), m.mtime_nsec()),
        ctime: time(m.ctime(), m.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: if m.is_dir() { FileType::Directory } else { FileType::RegularFile },
        perm: (m.mode() & 0o7777) as u16,
        nlink: m.nlink() as u32,
        uid: m.uid(),
        gid: m.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

fn erofs() -> io::Error {
    io::Error::from_raw_os_error(libc::EROFS)
}

fn done(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e.into()),
    }
}

impl Filesystem for Shown {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        config.set_max_write(1 << 20).map_err(|_| io::Error::other("max_write"))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(&self.child(parent, name), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = match handle {
            Some(handle) => self.file(handle).1.metadata().map(|m| attributes(ino.0, &m)),
            None => self.attributes(&self.path(ino)),
        };
        match found {
            Ok(attributes) => reply.attr(&VALID, &attributes),
            Err(e) => reply.error(e.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let path = self.path(ino);
        if self.gate.is_read_only() {
            return reply.error(erofs().into());
        }
        let change = {
            let path = path.clone();
            move || {
                if let Some(mode) = mode {
                    fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))?;
                }
                if let Some(size) = size {
                    OpenOptions::new().write(true).open(&path)?.set_len(size)?;
                }
                fs::symlink_metadata(&path).map(|m| attributes(ino.0, &m))
            }
        };
        self.gate.pass(&path, move || match change() {
            Ok(attributes) => reply.attr(&VALID, &attributes),
            Err(e) => reply.error(e.into()),
        });
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let path = self.child(parent, name);
        if self.gate.is_read_only() {
            return reply.error(erofs().into());
        }
        match fs::DirBuilder::new().mode(mode & 0o7777).create(&path) {
            Ok(()) => self.entry(&path, reply),
            Err(e) => reply.error(e.into()),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if self.gate.is_read_only() {
            return reply.error(erofs().into());
        }
        done(fs::remove_file(self.child(parent, name)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if self.gate.is_read_only() {
            return reply.error(erofs().into());
        }
        let (from, to) = (self.child(parent, name), self.child(new_parent, new_name));
        let renamed = fs::rename(&from, &to);
        if renamed.is_ok() {
            for path in self.inodes.lock().unwrap().iter_mut().filter(|path| **path == from || **path == to) {
                *path = if *path == from { to.clone() } else { PathBuf::from("/replaced") };
            }
        }
        done(renamed, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let path = self.path(ino);
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        if self.gate.is_unreadable(&path) {
            return reply.error(eio().into());
        }
        if writes && self.gate.is_read_only() {
            return reply.error(erofs().into());
        }
        match OpenOptions::new().read(true).write(writes).open(&path) {
            Ok(file) => {
                let handle = self.keep(ino, file);
                self.gate.pass(&path, move || reply.opened(handle, FopenFlags::empty()));
            }
            Err(e) => reply.error(e.into()),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let path = self.child(parent, name);
        if self.gate.is_read_only() {
            return reply.error(erofs().into());
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(mode & 0o7777);
        match options.open(&path).and_then(|file| Ok((file, self.attributes(&path)?))) {
            Ok((file, attributes)) => {
                let handle = self.keep(attributes.ino, file);
                reply.created(&VALID, &attributes, Generation(0), handle, FopenFlags::empty());
            }
            Err(e) => reply.error(e.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (path, file) = self.file(handle);
        self.gate.pass(&path, move || {
            let mut data = vec![0; size as usize];
            let mut length = 0;
            while length < data.len() {
                match file.read_at(&mut data[length..], offset + length as u64) {
                    Ok(0) => break,
                    Ok(read) => length += read,
                    Err(e) => return reply.error(e.into()),
                }
            }
            reply.data(&data[..length]);
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let ((path, file), data) = (self.file(handle), data.to_vec());
        let refusal = self.refusal(&path);
        self.gate.pass(&path, move || match refusal.map_or_else(|| file.write_all_at(&data, offset), Err) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e.into()),
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().unwrap().remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let path = self.file(handle).0;
        let refusal = self.refusal(&path);
        self.gate.pass(&path, move || done(refusal.map_or(Ok(()), Err), reply));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = match fs::read_dir(self.path(ino)) {
            Ok(entries) => entries.flatten(),
            Err(e) => return reply.error(e.into()),
        };
        for (at, entry) in entries.enumerate().skip(offset as usize) {
            let kind = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            if reply.add(INodeNo(self.number(&entry.path())), at as u64 + 1, kind, entry.file_name()) {
                break;
            }
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (path, file) = self.file(handle);
        let refusal = self.refusal(&path);
        self.gate.pass(&path, move || {
            let mode = FallocateFlags::from_bits_retain(mode as u32);
            let allocate = || fallocate(&*file, mode, offset, length).map_err(Into::into);
            done(refusal.map_or_else(allocate, Err), reply);
        });
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (path, file) = self.file(handle);
        let from = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset as u64),
            _ => SeekFrom::Hole(offset as u64),
        };
        self.gate.pass(&path, move || match seek(&*file, from) {
            Ok(at) => reply.offset(at as i64),
            Err(e) => reply.error(Errno::from_i32(e.raw_os_error())),
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}
