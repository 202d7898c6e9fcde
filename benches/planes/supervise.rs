//! Two processes: one measures, and one waits for its end, however it comes about, and cleans up after it.
//! All that a run makes lies below one scratch directory, and TMPDIR of the measuring process points there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Result;

const OPEN_FILES: u64 = 65536;
const SCRATCH: &str = "TEMPLATEFS_PLANES_SCRATCH";

/// In the measuring process: where all its files go.
pub fn scratch() -> Option<PathBuf> {
    std::env::var_os(SCRATCH).map(PathBuf::from)
}

/// Runs this program again to measure, and leaves nothing of it.
pub fn run(below: &Path) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let directory = tempfile::Builder::new().prefix("templatefs-planes-").tempdir_in(below)?;
    // An ordinary user's QEMU looks into it.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let scratch = directory.path().canonicalize()?;
    fs::create_dir(scratch.join("tmp"))?;
    raise_file_limit();
    let mut measuring = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(SCRATCH, &scratch)
        .env("TMPDIR", scratch.join("tmp"))
        .spawn()?;
    let status = loop {
        if let Some(status) = measuring.try_wait()? {
            break status;
        }
        if stop.load(Ordering::Relaxed) {
            measuring.kill()?;
        }
        sleep(Duration::from_millis(50));
    };
    // Servers die with the measuring process, a little later.
    sleep(Duration::from_millis(200));
    unmount_below(&scratch)?;
    directory.close()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ten thousand views are open at once, in the measuring process and, two files each, in the daemon. Not
/// every root may raise the hard limit; what does not fit is then refused, and the report says so.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let enough = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    if limit.maximum.is_none_or(|most| most >= OPEN_FILES) || setrlimit(Resource::Nofile, enough).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// Lazily, since what is mounted may have lost its server; loop devices go with their mounts.
fn unmount_below(scratch: &Path) -> Result<()> {
    let mut mountpoints = crate::mounts::below(scratch)?;
    mountpoints.reverse();
    for mountpoint in mountpoints {
        unmount(&mountpoint, UnmountFlags::DETACH)?;
    }
    Ok(())
}
