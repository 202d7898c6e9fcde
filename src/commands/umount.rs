//! `umount`: the mount is gone when this returns, or is as it was.

use std::process::ExitCode;

use crate::cli::UmountArgs;
use crate::error::{Error, Result};
use crate::mount;

pub fn run(args: &UmountArgs) -> Result<ExitCode> {
    let path = std::path::absolute(&args.mountpoint)
        .map_err(|e| Error::io(format!("{}", args.mountpoint.display()), e))?;
    // A mount whose daemon is gone cannot be looked at, but its directory can.
    let real = match (path.parent().map(std::fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path,
    };
    if !mount::own_mounts()?.iter().any(|entry| entry.mountpoint == real) {
        return Err(Error::Invalid(format!("{}: no templatefs is mounted there", real.display())));
    }
    mount::detach(&real).map(|()| ExitCode::SUCCESS)
}
