//! `mount`: serves in the foreground, or starts a daemon and waits until it does.
//!
//! The daemon is this program again, with `--detached`: the process that holds the mount
//! (holder/), and the one that it starts to serve it. Their stderr is the caller's until the
//! mount answers, so that what goes wrong before is seen where it was asked for; then the holder
//! says so on its stdout, which is a pipe to here, and both let go.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::cli::MountArgs;
use crate::config::MountConfig;
use crate::error::{Error, Result};
use crate::holder::fdstore::FdStore;
use crate::holder::{self, handed, resume};
use crate::{logging, program, session};

const READY: &[u8] = b"ready";

pub fn run(args: MountArgs) -> Result<ExitCode> {
    let detached = args.detached;
    let config = MountConfig::from_args(args)?;
    if !config.foreground && !detached {
        return start_daemon(&config.mountpoint);
    }
    if detached {
        return hold_detached(&config);
    }
    // Before anything is opened: these have their numbers already.
    let handed = handed::received()?;
    logging::init(config.log_level, config.log_file.as_deref())?;
    let mut store = FdStore::of_manager(handed.keys());
    if let Some(resumed) = resume::look(&config, handed, store.as_mut())? {
        return holder::go_on(resumed, store);
    }
    store.iter_mut().for_each(FdStore::clear);
    let (actual, state) = session::prepare(config.clone())?;
    holder::hold(&actual, &config, &state, store, || Ok(()))
}

fn hold_detached(asked: &MountConfig) -> Result<ExitCode> {
    let (mut config, state) = session::prepare(asked.clone())?;
    if config.log_file.is_none() {
        config.log_file = config.state_dir.as_ref().map(|state| state.join("daemon.log"));
    }
    logging::init(config.log_level, config.log_file.as_deref())?;
    holder::hold(&config, asked, &state, None, let_go)
}

fn start_daemon(mountpoint: &Path) -> Result<ExitCode> {
    let failed = |e| Error::io("the daemon cannot be started", e);
    let mut child = program::command()
        .args(crate::cli::with_mount_inserted(std::env::args_os().collect()).into_iter().skip(1))
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said).map_err(failed)?;
    }
    if said == READY {
        return match std::fs::metadata(mountpoint) {
            Ok(_) => Ok(ExitCode::SUCCESS),
            Err(e) => Err(Error::io(format!("{}: no answer", mountpoint.display()), e)),
        };
    }
    // It has said why on our stderr.
    let status = child.wait().map_err(failed)?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => Err(Error::Invalid(format!("the daemon ended before the mount answered: {status}"))),
    }
}

/// Leaves the caller's terminal, directory and descriptors.
fn let_go() -> Result<()> {
    std::io::stdout()
        .write_all(READY)
        .and_then(|()| std::io::stdout().flush())
        .map_err(|e| Error::io("detaching", e))?;
    leave_terminal()
}

pub fn leave_terminal() -> Result<()> {
    let failed = |e: rustix::io::Errno| Error::io("detaching", e);
    let null = openat(CWD, "/dev/null", OFlags::RDWR, Mode::empty()).map_err(failed)?;
    // A shell that runs this in a job of its own has made it a leader already.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").map_err(failed)?;
    rustix::stdio::dup2_stdin(&null).map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(failed)?;
    rustix::stdio::dup2_stderr(&null).map_err(failed)
}
