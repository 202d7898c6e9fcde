//! What a test does to the file operations of its own thread: it has the operation of a number fail,
//! writes down all that are done, and says which start of the machine this is.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::super::boot::Boot;

/// An operation that is about to be done.
pub enum Op<'a> {
    /// One that changes nothing that a power cut could undo.
    Look,
    Write {
        file: &'a File,
        bytes: &'a [u8],
        offset: u64,
    },
    SetLength {
        file: &'a File,
        length: u64,
    },
    Punch {
        file: &'a File,
        bytes: Range<u64>,
    },
    Sync {
        file: &'a File,
    },
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    Remove {
        path: &'a Path,
    },
    SyncDirectory,
}

/// One that was done. Files are named by their inode numbers.
#[derive(Debug, Clone)]
pub enum Done {
    Make { path: PathBuf, file: u64 },
    Write { file: u64, bytes: Vec<u8>, offset: u64 },
    SetLength { file: u64, length: u64 },
    Punch { file: u64, bytes: Range<u64> },
    Sync { file: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    SyncDirectory,
}

/// The operations `first..first + count` fail, counted from 1.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub first: u64,
    pub count: u64,
    pub errno: Errno,
    /// Half of what was to be written is written before.
    pub short: bool,
}

#[derive(Default)]
struct Script {
    boot: Option<Boot>,
    failure: Option<Failure>,
    told: u64,
    /// The next one was counted already.
    counted: bool,
    is_paused: bool,
    done: Option<Vec<Done>>,
}

impl Script {
    fn fails(&self, number: u64) -> Option<Failure> {
        let failure = self.failure.filter(|_| !self.is_paused)?;
        (number >= failure.first && number - failure.first < failure.count).then_some(failure)
    }
}

thread_local! {
    static SCRIPT: RefCell<Script> = RefCell::default();
}

/// From now on the operations count from 1, and those that `failure` names fail.
pub fn fail(failure: Option<Failure>) {
    SCRIPT.with_borrow_mut(|script| (script.failure, script.told) = (failure, 0));
}

/// What `look` does is no part of the run.
pub fn pause<T>(look: impl FnOnce() -> T) -> T {
    let before = SCRIPT.with_borrow_mut(|script| {
        script.is_paused = true;
        (script.told, script.done.take())
    });
    let seen = look();
    SCRIPT.with_borrow_mut(|script| {
        (script.told, script.done) = before;
        script.is_paused = false;
    });
    seen
}

/// How many operations there were since.
pub fn count() -> u64 {
    SCRIPT.with_borrow(|script| script.told)
}

/// This thread lives in another start of the machine; None: in the real one.
pub fn set_boot(boot: Option<Boot>) {
    SCRIPT.with_borrow_mut(|script| script.boot = boot);
}

pub fn boot() -> Option<Boot> {
    SCRIPT.with_borrow(|script| script.boot)
}

/// Begins to write down what is done.
pub fn record() {
    SCRIPT.with_borrow_mut(|script| script.done = Some(Vec::new()));
}

/// How many operations were written down so far.
pub fn recorded() -> usize {
    SCRIPT.with_borrow(|script| script.done.as_ref().map_or(0, Vec::len))
}

/// What was done since [`record`].
pub fn take_record() -> Vec<Done> {
    SCRIPT.with_borrow_mut(|script| script.done.take().unwrap_or_default())
}

/// How much of a write is done before it fails, and how it does.
pub fn cut_short(length: usize) -> Option<(usize, io::Error)> {
    SCRIPT.with_borrow_mut(|script| {
        let failure = script.fails(script.told + 1).filter(|failure| failure.short)?;
        script.told += 1;
        script.counted = true;
        // A sector is written whole or not at all.
        let part = if length <= 512 { 0 } else { length / 2 };
        Some((part, failure.errno.into()))
    })
}

pub fn tell(op: Op) -> io::Result<()> {
    SCRIPT.with_borrow_mut(|script| {
        if !std::mem::take(&mut script.counted) {
            script.told += 1;
            if let Some(failure) = script.fails(script.told) {
                return Err(failure.errno.into());
            }
        }
        if let (Some(record), Some(done)) = (&mut script.done, done(op)?) {
            record.push(done);
        }
        Ok(())
    })
}

pub fn made(path: &Path, file: &File) {
    let file = number(file).expect("a new file");
    SCRIPT.with_borrow_mut(|script| {
        if let Some(record) = &mut script.done {
            record.push(Done::Make { path: path.to_owned(), file });
        }
    });
}

fn number(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.ino())
}

fn done(op: Op) -> io::Result<Option<Done>> {
    Ok(Some(match op {
        Op::Look => return Ok(None),
        Op::Write { file, bytes, offset } => {
            Done::Write { file: number(file)?, bytes: bytes.to_owned(), offset }
        }
        Op::SetLength { file, length } => Done::SetLength { file: number(file)?, length },
        Op::Punch { file, bytes } => Done::Punch { file: number(file)?, bytes },
        Op::Sync { file } => Done::Sync { file: number(file)? },
        Op::Rename { from, to } => Done::Rename { from: from.to_owned(), to: to.to_owned() },
        Op::Remove { path } => Done::Remove { path: path.to_owned() },
        Op::SyncDirectory => Done::SyncDirectory,
    }))
}
