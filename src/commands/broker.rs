//! `broker`: what the serving process must not do itself (broker/).

use std::process::ExitCode;

use crate::cli::BrokerArgs;
use crate::error::{Error, Result};
use crate::{broker, sys};

pub fn run(args: &BrokerArgs) -> Result<ExitCode> {
    let started = "broker: the process that serves a mount starts it";
    let socket = sys::inherited(args.socket).ok_or_else(|| Error::Invalid(started.into()))?;
    broker::answer(&args.mountpoint, &socket).map_err(|e| Error::io(started, e))?;
    Ok(ExitCode::SUCCESS)
}
