//! What must not be done on an event-loop thread, since it waits for the kernel, which may be
//! waiting for that thread.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{Errno, INodeNo, Notifier, ReplyLseek, ReplyWrite};
use parking_lot::Mutex;
use rustix::io::Errno as Code;

use crate::control;
use crate::engine::{Engine, Seek};
use crate::error::{Error, Result};
use crate::{panics, warm};

/// How often a held write is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// And how often the log is told.
const REMIND_EVERY: u32 = 150;

pub fn run(name: &str, errand: impl FnOnce() + Send + 'static) -> bool {
    thread::Builder::new().name(name.into()).spawn(errand).is_ok()
}

/// Lets the kernel drop its pages of a view that is gone, and the entry by which it was warmed.
pub fn drop_cache(notifier: &Notifier, node: u64, warm: bool) {
    if warm {
        let _ = drop_warm_entry(notifier, node);
    }
    if let Err(error) = notifier.inval_inode(INodeNo(node), 0, 0) {
        log::debug!("node {node}: its cached pages stay until memory is short: {error}");
    }
}

/// The entry leads to a node that the kernel keeps for nothing else. An error where there is none.
pub fn drop_warm_entry(notifier: &Notifier, node: u64) -> io::Result<()> {
    notifier.inval_entry(INodeNo(control::WARM), node.to_string().as_ref())
}

/// The kernel's page cache, as far as nodes are warmed.
pub struct PageCache(pub Notifier);

impl warm::Kernel for PageCache {
    fn store(&self, node: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.store(INodeNo(node), offset, data)
    }

    fn drop_entry(&self, node: u64) {
        if let Err(error) = drop_warm_entry(&self.0, node) {
            log::debug!("node {node}: no warm entry to drop: {error}");
        }
    }

    /// With its directory each entry goes.
    fn drop_all_entries(&self) {
        let directory = INodeNo(control::DIRECTORY_NODE);
        if let Err(error) = self.0.inval_entry(directory, control::WARM_NAME.as_ref()) {
            log::debug!("no warm entries to drop: {error}");
        }
    }
}

/// Is there no use in trying this write-back again? A store that is full, fails or is read-only may
/// be another one tomorrow; a file that is not open, or may not be so long, will not.
pub fn is_final(error: &Error) -> bool {
    matches!(error.errno(), Code::BADF | Code::STALE | Code::ACCESS | Code::FBIG)
}

/// A write-back of mapped pages.
#[derive(Clone, Copy)]
pub struct WriteBack {
    pub handle: u64,
    pub offset: u64,
    /// No process has died of it.
    pub is_first_try: bool,
}

impl WriteBack {
    /// A panic is a death of this process, or where another one has died of it already, or there is
    /// no successor, an error like others: the pages are not lost.
    pub fn attempt(self, engine: &Engine, data: &[u8]) -> Result<()> {
        let defect = || Error::io("a defect of templatefs, of which the log tells", Code::IO);
        let write = || {
            panics::caught(|| engine.write(self.handle, self.offset, data)).unwrap_or_else(|| Err(defect()))
        };
        if self.is_first_try { panics::unanswered(write) } else { write() }
    }
}

/// One that the state directory did not take.
struct Held {
    engine: Arc<Engine>,
    write: WriteBack,
    data: Vec<u8>,
    reply: ReplyWrite,
}

/// Keeps a write-back of mapped pages until it can be done. Whoever stored to that memory has gone
/// on long ago: an error would reach nobody, and the page would later show its old content.
pub fn hold_write(engine: Arc<Engine>, write: WriteBack, data: Vec<u8>, error: Error, reply: ReplyWrite) {
    log::error!("{error}: mapped pages {}", waiting(&error));
    let held = Arc::new(Mutex::new(Some(Held { engine, write, data, reply })));
    let keep = {
        let held = held.clone();
        move || held.lock().take().into_iter().for_each(Held::keep)
    };
    if !run("held-write", keep) {
        // An event loop less is better than memory lost.
        let held = held.lock().take();
        held.into_iter().for_each(Held::keep);
    }
}

fn waiting(error: &Error) -> &'static str {
    match error.errno() {
        Code::NOSPC | Code::DQUOT => "wait for room and are not lost; free space in the state directory",
        _ => "wait until the state directory can be written and are not lost",
    }
}

impl Held {
    fn keep(self) {
        let Self { engine, write, data, reply } = self;
        let holding = engine.holding(write.handle, data.len());
        for attempt in 1.. {
            thread::sleep(RETRY);
            match write.attempt(&engine, &data) {
                Ok(()) => {
                    log::warn!(
                        "there is room again, or the state directory can be written again: {} bytes of mapped pages \
                         at {} were written",
                        data.len(),
                        write.offset
                    );
                    drop(holding);
                    return reply.written(data.len() as u32);
                }
                Err(error) if is_final(&error) => {
                    log::error!("{error}: mapped pages could not be written");
                    return reply.error(Errno::from_i32(error.errno().raw_os_error()));
                }
                Err(error) => {
                    if attempt % REMIND_EVERY == 0 {
                        log::error!("{error}: mapped pages still {}", waiting(&error));
                    }
                }
            }
        }
    }
}

/// lseek(SEEK_DATA or SEEK_HOLE) on a view that is open for writing. A hole may be covered by
/// mapped pages that were stored to and not written back yet, of which only the kernel knows: it
/// is made to write these back before a hole is believed.
pub fn seek(
    engine: Arc<Engine>,
    notifier: Notifier,
    (node, handle): (u64, u64),
    offset: u64,
    whence: Seek,
    reply: ReplyLseek,
) {
    let errand = move || match settled_seek(&engine, &notifier, node, handle, offset, whence) {
        Ok(at) => reply.offset(at as i64),
        Err(error) => reply.error(Errno::from_i32(error.errno().raw_os_error())),
    };
    // Without a thread the reply is dropped, which answers EIO.
    run("seek", errand);
}

fn settled_seek(
    engine: &Engine,
    notifier: &Notifier,
    node: u64,
    handle: u64,
    offset: u64,
    whence: Seek,
) -> Result<u64> {
    let answer = |whence, from| match engine.seek(handle, from, whence) {
        Ok(at) => Ok(Some(at)),
        Err(Error::NoMoreData) => Ok(None),
        Err(error) => Err(error),
    };
    // Each round either is the answer or has found data where a hole was; a writer that keeps
    // filling holes gets the answer that is always true.
    for _ in 0..64 {
        let found = answer(whence, offset)?;
        let hole = match (whence, found) {
            (Seek::Data, Some(data)) => offset..data,
            (Seek::Data, None) => offset..u64::MAX,
            (Seek::Hole, Some(hole)) => hole..answer(Seek::Data, hole)?.unwrap_or(u64::MAX),
            (Seek::Hole, None) => return Err(Error::NoMoreData),
        };
        if !hole.is_empty() {
            let length = i64::try_from(hole.end - hole.start).unwrap_or(0);
            notifier
                .inval_inode(INodeNo(node), hole.start as i64, length)
                .map_err(|e| Error::io("lseek: mapped pages could not be written back", e))?;
        }
        if answer(whence, offset)? == found {
            return found.ok_or(Error::NoMoreData);
        }
    }
    match whence {
        Seek::Data => Ok(offset),
        Seek::Hole => engine.getattr(&crate::access::Caller { uid: 0, gid: 0, pid: 0 }, node).map(|a| a.size),
    }
}
