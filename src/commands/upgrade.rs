//! `upgrade`: another program serves a mount when this returns without an error; else the old one does.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::own;
use crate::cli::UpgradeArgs;
use crate::error::{Error, Result};
use crate::holder::door;
use crate::holder::wire::{self, Message};
use crate::mount::MountEntry;
use crate::name::printable;
use crate::program::Program;
use crate::state;

pub fn run(args: &UpgradeArgs) -> Result<ExitCode> {
    let program = match &args.binary {
        Some(path) => Program::open(path),
        None => Program::this(),
    };
    let shown = |path: &PathBuf| path.display().to_string();
    let named = args.binary.as_ref().map_or_else(|| "this program".into(), shown);
    let program = program.map_err(|e| Error::io(format!("{named}: it cannot serve a mount"), e))?;
    own::each(args.mountpoint.as_ref(), |entry| {
        let state = match &args.state_dir {
            Some(path) => path.clone(),
            None => state_of(entry, args.all)?,
        };
        upgrade(&entry.mountpoint, &state, &program)
    })
}

/// What to tell of it.
fn upgrade(mountpoint: &Path, state: &Path, program: &Program) -> Result<String> {
    let shown = mountpoint.display();
    let failed = |e| {
        Error::io(
            format!(
                "{shown}: the process that holds the mount cannot be asked ({}); only the user who mounted and root \
                 may ask it",
                state.display()
            ),
            e,
        )
    };
    let socket = door::knock(state).map_err(failed)?;
    // It may have refused before it was asked.
    let sent = wire::send(&socket, b'U', "", Some(program.file().as_fd()));
    let mut answer = wire::receive(&socket).map_err(failed)?;
    if answer.is_none() {
        answer = wire::receive(&socket).map_err(failed)?;
    }
    match answer {
        Some(Message::Done(version)) => {
            Ok(format!("{shown}: templatefs {} serves it now\n", printable(version.as_bytes())))
        }
        Some(Message::Refused(why)) => {
            Err(Error::Invalid(format!("{shown}: not upgraded: {}", printable(why.as_bytes()))))
        }
        _ if sent.is_err() => Err(failed(sent.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()))),
        _ => Err(Error::Invalid(format!("{shown}: not upgraded: the process that holds the mount ended"))),
    }
}

/// The place that it has unless told otherwise, or what the mount says. Where `all` are meant, another user's mount is
/// not asked: it need not be what it says it is, and could keep those after it waiting.
fn state_of(entry: &MountEntry, all: bool) -> Result<PathBuf> {
    let mountpoint = &entry.mountpoint;
    if let Some(usual) = entry.uid().and_then(|uid| state::find(mountpoint, uid)) {
        return Ok(usual);
    }
    let own = entry.uid() == Some(rustix::process::geteuid().as_raw());
    let said = match all && !own {
        true => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's and is not asked")),
        false => std::fs::read(mountpoint.join(".templatefs/state")),
    };
    let mut text = said.map_err(|e| {
        Error::io(
            format!(
                "{}: it does not tell its state directory; name that with --state-dir",
                mountpoint.display()
            ),
            e,
        )
    })?;
    text.pop();
    Ok(OsString::from_vec(text).into())
}
