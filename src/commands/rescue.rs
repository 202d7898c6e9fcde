//! `rescue`: what has a machine go on when the process that stopped it was killed (vm/rescue.rs).

use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::cli::RescueArgs;
use crate::error::{Error, Result};
use crate::vm;

pub fn run(args: &RescueArgs) -> Result<ExitCode> {
    let connection = std::io::stdout().as_fd().try_clone_to_owned().map_err(|e| Error::io("stdout", e))?;
    vm::rescue(args.ignore_shared, std::io::stdin().lock(), connection)?;
    Ok(ExitCode::SUCCESS)
}
