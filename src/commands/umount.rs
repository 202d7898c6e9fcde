//! `umount`: the mount is gone when this returns, or is as it was.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::UmountArgs;
use crate::error::{Error, Result};
use crate::mount;

pub fn run(args: &UmountArgs) -> Result<ExitCode> {
    mount::detach(&own_mount(&args.mountpoint)?).map(|()| ExitCode::SUCCESS)
}

/// The path, without symlinks, of a mount of templatefs, which need not answer.
pub fn own_mount(mountpoint: &Path) -> Result<PathBuf> {
    let path =
        std::path::absolute(mountpoint).map_err(|e| Error::io(format!("{}", mountpoint.display()), e))?;
    // A mount whose daemon is gone cannot be looked at, but its directory can.
    let real = match (path.parent().map(std::fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path,
    };
    if !mount::own_mounts()?.iter().any(|entry| entry.mountpoint == real) {
        return Err(Error::Invalid(format!("{}: no templatefs is mounted there", real.display())));
    }
    Ok(real)
}
