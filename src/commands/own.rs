//! The mounts that a command is about: one by its path, or all that this user may deal with.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::print;
use crate::error::{Error, Result};
use crate::mount::{self, MountEntry};
use crate::name::printable;

/// A mount of templatefs, which need not answer.
pub fn one(mountpoint: &Path) -> Result<MountEntry> {
    let path =
        std::path::absolute(mountpoint).map_err(|e| Error::io(format!("{}", mountpoint.display()), e))?;
    // A mount whose daemon is gone cannot be looked at, but its directory can.
    let real = match (path.parent().map(std::fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path,
    };
    let found = mount::own_mounts()?.into_iter().rev().find(|entry| entry.mountpoint == real);
    found.ok_or_else(|| {
        let shown = printable(real.as_os_str().as_bytes());
        Error::Invalid(format!("{shown}: no templatefs is mounted there"))
    })
}

/// Does `act` to one mount; or to all of this user, of which one's failure, said on stderr, keeps no other from its turn.
/// What it returns is printed.
pub fn each(mountpoint: Option<&PathBuf>, act: impl Fn(&MountEntry) -> Result<String>) -> Result<ExitCode> {
    if let Some(mountpoint) = mountpoint {
        print(act(&one(mountpoint)?)?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    // The latest first: it may lie below another one.
    for entry in all()?.iter().rev() {
        match act(entry) {
            Ok(said) => print(said.as_bytes())?,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "templatefs: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Root deals with everybody's.
fn all() -> Result<Vec<MountEntry>> {
    let uid = rustix::process::geteuid();
    let mine = |entry: &MountEntry| uid.is_root() || entry.uid() == Some(uid.as_raw());
    Ok(mount::own_mounts()?.into_iter().filter(mine).collect())
}
