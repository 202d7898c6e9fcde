//! A store, mountpoints and a state directory for daemons in the background, as `templatefs mount` starts them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use super::files::{SOON, templatefs};
use super::limit::{Registered, on_expiry, poll};
use super::mounted::{is_mounted, is_root, process_of};

/// Directories for a daemon in the background, which is ended with this value.
pub struct Ground {
    directory: TempDir,
    _on_expiry: Registered,
}

impl Ground {
    pub fn new() -> Ground {
        let directory = tempfile::Builder::new().prefix("templatefs-test-").tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["store/sub", "mnt", "mnt2"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("store/t"), b"template").unwrap();
        let path = directory.path().to_owned();
        Ground { directory, _on_expiry: on_expiry(move || end_daemon(&path)) }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn mount(&self, more: &[&str]) -> Output {
        let mut arguments = vec!["mount".into(), "--state-dir".into(), self.at("state")];
        arguments.extend(more.iter().map(PathBuf::from));
        arguments.extend([self.at("store"), self.at("mnt")]);
        templatefs(arguments)
    }

    /// The process that holds the mount.
    pub fn daemon(&self) -> Pid {
        process_of(&self.at("state"), "pid").expect("mount.json of a daemon")
    }

    /// The one that serves it.
    pub fn serving(&self) -> Pid {
        process_of(&self.at("state"), "serving_pid").expect("mount.json of a daemon")
    }

    /// Ends both, the one that would start the other first.
    pub fn kill(&self) {
        let processes = [self.daemon(), self.serving()];
        processes.iter().for_each(|process| kill_process(*process, Signal::KILL).unwrap());
    }

    pub fn wait_for_the_daemons_end(&self) {
        let pid = self.daemon();
        let ended = poll(SOON, || match test_kill_process(pid) {
            Err(Errno::SRCH) => Some(()),
            _ => is_zombie(pid).then_some(()),
        });
        assert!(ended.is_some(), "the daemon goes on");
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        end_daemon(self.directory.path());
    }
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// The daemon has this directory in its arguments: a number that was given to another process is let be.
fn end_daemon(ground: &Path) {
    for name in ["mnt", "mnt2"] {
        if is_mounted(&ground.join(name)) {
            let tool = if is_root() { ("umount", "-l") } else { ("fusermount3", "-uz") };
            let _ = Command::new(tool.0).arg(tool.1).arg(ground.join(name)).status();
        }
    }
    for field in ["pid", "serving_pid"] {
        let Some(pid) = process_of(&ground.join("state"), field) else { continue };
        let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
        if String::from_utf8_lossy(&arguments).contains(&*ground.to_string_lossy()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
