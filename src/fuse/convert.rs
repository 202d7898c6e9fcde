//! Between the protocol's types and the engine's.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Instant, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo, Request, TimeOrNow};

use crate::access::Caller;
use crate::engine::{Attributes, FileKind, Seek};
use crate::error::Error;
use crate::logging::Throttle;

pub fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

static REFUSALS: Throttle = Throttle::new();

pub fn refuse(operation: &str, request: &Request, error: &Error) -> Errno {
    refused(operation, &caller(request), error)
}

/// The errno for the caller, and the reason for the log: what an errno cannot say.
pub fn refused(operation: &str, caller: &Caller, error: &Error) -> Errno {
    let Caller { uid, pid, .. } = caller;
    if matches!(error, Error::NotFound(_) | Error::NoMoreData | Error::NoAttribute(_)) {
        log::debug!("{operation} by user {uid} (process {pid}): {error}");
    } else if let Some(suppressed) = REFUSALS.admit(*uid, Instant::now()) {
        if suppressed > 0 {
            log::warn!("{suppressed} refusals before this one were left out of this log");
        }
        log::warn!("{operation} by user {uid} (process {pid}): {error}");
    }
    Errno::from_i32(error.errno().raw_os_error())
}

pub fn file_attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.node),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: attributes.atime,
        mtime: attributes.mtime,
        ctime: attributes.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: match attributes.kind {
            FileKind::File => FileType::RegularFile,
            FileKind::Directory => FileType::Directory,
        },
        perm: attributes.mode as u16,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

pub fn time(given: TimeOrNow) -> SystemTime {
    match given {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

pub fn seek_whence(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}

pub fn no_new_names(name: &OsStr) -> Error {
    Error::ReadOnly(format!(
        "{}: a mount shows what is in the store, and names are made and changed there",
        crate::name::printable(name.as_bytes())
    ))
}
