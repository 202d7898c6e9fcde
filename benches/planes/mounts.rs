//! Mounts, and the programs that serve them. What a value here started ends with it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use crate::Result;

const PATIENCE: Duration = Duration::from_secs(20);

/// Mountpoints at or below a directory, as they were mounted, and what is mounted there.
fn mounted(directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let entry = |line: &str| {
        let (fields, source) = line.split_once(" - ")?;
        let mountpoint = PathBuf::from(fields.split(' ').nth(4)?);
        Some((mountpoint, source.split(' ').nth(1)?.to_owned()))
    };
    Ok(text.lines().filter_map(entry).filter(|(mountpoint, _)| mountpoint.starts_with(directory)).collect())
}

pub fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(mounted(directory)?.into_iter().map(|(mountpoint, _)| mountpoint).collect())
}

/// A mount that is undone with this value.
pub struct Mount(PathBuf);

impl Mount {
    /// mount(8) with these arguments before the mountpoint, which is made.
    pub fn new(arguments: &[&str], mountpoint: &Path) -> Result<Mount> {
        fs::create_dir_all(mountpoint)?;
        run(Command::new("mount").args(arguments).arg(mountpoint))?;
        Ok(Mount(mountpoint.to_owned()))
    }

    /// Something that is mounted already.
    pub fn adopt(mountpoint: &Path) -> Mount {
        Mount(mountpoint.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The device that is mounted, for example `/dev/loop0`.
    pub fn source(&self) -> Result<String> {
        let found = mounted(&self.0)?.into_iter().find(|(mountpoint, _)| *mountpoint == self.0);
        found.map(|(_, source)| source).ok_or_else(|| format!("{} is not mounted", self.0.display()).into())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A program in the foreground that serves a mount.
pub struct Server {
    child: Child,
    mountpoint: PathBuf,
}

impl Server {
    /// Returns when it is mounted; an error is what the program said.
    pub fn start<I: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = I>,
        mountpoint: &Path,
    ) -> Result<Server> {
        let said = mountpoint.with_extension("said");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said)?)
            .spawn()?;
        let mut server = Server { child, mountpoint: mountpoint.to_owned() };
        let end = Instant::now() + PATIENCE;
        while !below(mountpoint)?.iter().any(|mounted| mounted == mountpoint) {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let said = fs::read_to_string(&said)?;
                return Err(
                    format!("{}: {}", ended.map_or("no mount".into(), |e| e.to_string()), said).into()
                );
            }
            sleep(Duration::from_micros(500));
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = unmount(&self.mountpoint, UnmountFlags::DETACH);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; an error is what it said.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into())
}
