//! `serve`: the process that serves a mount for the one that holds it.

use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::mount::leave_terminal;
use crate::cli::ServeArgs;
use crate::config::MountConfig;
use crate::error::{Error, Result};
use crate::keeper::Keeper;
use crate::{check, logging, panics, session, sys};

/// As in sysexits.h: an internal error.
const DEFECT: i32 = 70;

pub fn run(args: ServeArgs) -> Result<ExitCode> {
    let holder = Pid::from_raw(args.held_by);
    let started = "serve: templatefs mount starts it";
    let socket = sys::inherited(args.keeper).ok_or_else(|| Error::Invalid(started.into()))?;
    if args.end_with_holder {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| Error::io(started, e))?;
        if getppid() != holder {
            return Ok(ExitCode::FAILURE);
        }
    }
    let config = MountConfig::from_args(args.mount)?;
    if args.check {
        let keeper = Keeper::new(socket);
        let checked = check::can_take_over(&config, &keeper);
        return keeper.answer(&checked).map(|()| ExitCode::SUCCESS);
    }
    logging::init(config.log_level, config.log_file.as_deref())?;
    let keeper = Arc::new(Keeper::new(socket));
    panics::watch({
        let keeper = keeper.clone();
        move || {
            if keeper.is_held() {
                std::process::exit(DEFECT);
            }
        }
    });
    let ready = || if config.foreground { Ok(()) } else { leave_terminal() };
    let served = session::serve(&config, &keeper, args.held_by.unsigned_abs(), ready);
    // Whoever asked for the mount may have gone long ago.
    served.inspect_err(|error| log::error!("{error}")).map(|()| ExitCode::SUCCESS)
}
