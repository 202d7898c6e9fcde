//! A root of its own to install into: what is written there goes with it, and nothing outside sees it.
//!
//! It is an overlay over this machine's root, in namespaces for mounts and processes. Against a root made by
//! debootstrap(8) it costs no download and half a second, and it is as good for what is asked of it: dpkg works on
//! the machine's real database. What it cannot show is a dependency that the package does not name and this machine
//! happens to have; that list is dpkg-shlibdeps' work.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::limit::{Registered, on_expiry};

/// Prints the process id of the one that keeps it all, which ends with its stdin.
const SETUP: &str = r#"
    set -e
    read -r pid rest </proc/self/stat
    mount -t tmpfs -o size=3g clean "$1"
    mkdir "$1/upper" "$1/work" "$1/root"
    mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" clean "$1/root"
    mount --bind "$2" "$1/root/media"
    mount --bind /dev "$1/root/dev"
    cd "$1/root"
    for place in dev/shm run tmp srv mnt; do mount -t tmpfs clean $place; done
    chmod 1777 tmp dev/shm
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mkdir run/old
    pivot_root . run/old
    # With it go the mounts of others, whose processes would else serve them for as long as this lives.
    umount -l /run/old
    rmdir /run/old
    echo "$pid"
    exec cat >/dev/null
"#;

pub struct CleanRoot {
    keeper: Child,
    pid: String,
    _directory: tempfile::TempDir,
    _killed_on_expiry: Registered,
}

impl CleanRoot {
    /// `shared` is at /media in it; /mnt and /srv are empty. Err: why this machine cannot have one.
    pub fn new(shared: &Path) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let mut keeper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", SETUP, "sh"])
            .args([directory.path(), shared])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv and unshare (util-linux)");
        let process = rustix::process::Pid::from_child(&keeper);
        let killed = on_expiry(move || {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        });
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        if pid.is_empty() {
            let output = keeper.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
        }
        let pid = pid.trim().to_owned();
        Ok(Self { keeper, pid, _directory: directory, _killed_on_expiry: killed })
    }

    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--mount", "--pid", "--root", "--wd=/", "--"]).arg(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null());
        command
    }

    pub fn sh(&self, script: &str) -> Output {
        self.command("sh").args(["-c", script]).output().unwrap()
    }

    /// What a script that must succeed prints.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        let output = self.sh(script);
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.status.success(), "{script}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

impl Drop for CleanRoot {
    /// The first of its processes ends, and all others with it.
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
