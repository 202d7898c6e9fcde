//! `umount`: the mount is gone when this returns, or is as it was.

use std::process::ExitCode;

use super::own;
use crate::cli::UmountArgs;
use crate::error::Result;
use crate::mount;

pub fn run(args: &UmountArgs) -> Result<ExitCode> {
    own::each(args.mountpoint.as_ref(), |entry| mount::detach(&entry.mountpoint).map(|()| String::new()))
}
