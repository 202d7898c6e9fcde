//! `fork`: a second private view that starts with what the first one holds.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::commit::size_of;
use super::progress::Progress;
use super::target::{self, Change};
use crate::cli::ForkArgs;
use crate::error::{Error, Result};
use crate::name::Label;
use crate::overlay::PAGE;
use crate::sparse::{PIECE, is_zero};

pub fn run(args: &ForkArgs) -> Result<ExitCode> {
    let (id, name) = target::split(&args.words);
    let found = target::find(&args.view, id)?;
    found.refuse_copies()?;
    let shown = format!("view {name} on {}", found.mountpoint.display());
    if Label::new(name.as_bytes()).is_none() {
        return Err(Error::Invalid(format!(
            "{name}: it is no name of a view: it is 1 to 64 of A-Z a-z 0-9 . _ - and does not start with a dot"
        )));
    }
    let there = || {
        Error::NameTaken(format!("{shown}: there is such a view already: take another name, or discard it"))
    };
    if target::on_mount(&found.mountpoint, name)?.is_some() {
        return Err(there());
    }
    let context = |e: io::Error| Error::io(shown.clone(), e);
    let from = found.open()?;
    let size = size_of(&from, &found)?;
    let path = found.mountpoint.join(format!("{}?rom=off&view={name}", found.view.template));
    let to = OpenOptions::new().read(true).write(true).open(&path).map_err(context)?;
    // Of two who fork to one name one makes it; the other finds it made.
    flock(&to, FlockOperation::LockExclusive).map_err(|e| context(e.into()))?;
    let made = target::on_mount(&found.mountpoint, name)?.is_some_and(|made| {
        made.view.private_bytes != 0
            || made.view.zero_bytes != 0
            || made.view.size_bytes != made.view.template_bytes
    });
    if made {
        return Err(there());
    }
    let changes = found.changes()?;
    copy(&from, &to, size, &changes).map_err(|e| {
        // Half of it would be taken for a view.
        let _ = std::fs::remove_file(&path);
        context(e)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn copy(from: &File, to: &File, size: u64, changes: &[Change]) -> io::Result<()> {
    if to.metadata()?.len() != size {
        to.set_len(size)?;
    }
    let bytes = changes.iter().map(|change| change.bytes.end - change.bytes.start).sum();
    let progress = Progress::new("copied", bytes);
    let mut buffer = vec![0; PIECE as usize];
    for Change { bytes, is_zero } in changes {
        if *is_zero {
            punch(to, bytes.start, bytes.end - bytes.start)?;
            progress.add(bytes.end - bytes.start);
            continue;
        }
        let mut at = bytes.start;
        while at < bytes.end {
            let piece = &mut buffer[..(bytes.end - at).min(PIECE) as usize];
            from.read_exact_at(piece, at)?;
            write(to, piece, at)?;
            progress.add(piece.len() as u64);
            at += piece.len() as u64;
        }
    }
    to.sync_all()?;
    progress.done();
    Ok(())
}

/// Pages of zeros cost the new view nothing, whatever they cost the old one.
fn write(to: &File, piece: &[u8], offset: u64) -> io::Result<()> {
    let mut at = 0;
    while at < piece.len() {
        let zeros = is_zero(&piece[at..piece.len().min(at + PAGE as usize)]);
        let run = piece[at..].chunks(PAGE as usize).take_while(|page| is_zero(page) == zeros);
        let length: usize = run.map(<[u8]>::len).sum();
        match zeros {
            true => punch(to, offset + at as u64, length as u64)?,
            false => to.write_all_at(&piece[at..at + length], offset + at as u64)?,
        }
        at += length;
    }
    Ok(())
}

fn punch(to: &File, offset: u64, length: u64) -> io::Result<()> {
    Ok(fallocate(to, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?)
}
