//! `warm`: what a daemon has looked up for it (warm/instantiate.rs).

use std::process::ExitCode;

use crate::cli::WarmArgs;
use crate::error::{Error, Result};
use crate::warm;

pub fn run(args: &WarmArgs) -> Result<ExitCode> {
    warm::answer(&args.mountpoint, args.parent, std::io::stdin().lock(), std::io::stdout().lock())
        .map_err(|e| Error::io(format!("{}", args.mountpoint.display()), e))?;
    Ok(ExitCode::SUCCESS)
}
