//! This test program once more, as another process. A test crate that uses it has a test
//! `child`, ignored, that does what [`asked`] says.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::mounted::{run_as, this_program};

const WHAT: &str = "TEMPLATEFS_TEST_CHILD";
const PATH: &str = "TEMPLATEFS_TEST_PATH";

/// Runs `what` on `path` in a process of its own, which ends with this thread.
pub fn command(what: &str, path: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env(WHAT, what).env(PATH, path);
    command
}

/// The same by another user, without supplementary groups; nothing ends it but its own end.
pub fn command_as(user: u32, what: &str, path: &Path) -> Command {
    let mut command = run_as(user, user, &[]);
    command.arg(this_program()).args(["--exact", "child", "--ignored", "--nocapture"]);
    command.env(WHAT, what).env(PATH, path).current_dir("/");
    command
}

/// The same as an argument and environment of `command`, which runs what follows it somewhere else: `program` is a copy
/// of this one there.
pub fn command_elsewhere(mut command: Command, what: &str, path: &str) -> Command {
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env(WHAT, what).env(PATH, path);
    command
}

#[track_caller]
pub fn run(what: &str, path: &Path) {
    let status = command(what, path).status().expect("setpriv (util-linux)");
    assert!(status.success(), "{what}: {status}");
}

/// In the child: what to do, and with which file. None where a person runs all ignored tests.
pub fn asked() -> Option<(String, PathBuf)> {
    Some((std::env::var(WHAT).ok()?, std::env::var_os(PATH)?.into()))
}
