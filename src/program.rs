//! This program again, as a process of its own.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// By its path, so that it goes by its name; by the kernel's link once that was replaced.
pub fn command() -> Command {
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(path.as_deref().unwrap_or(Path::new("/proc/self/exe")));
    command.arg0("templatefs");
    command
}
