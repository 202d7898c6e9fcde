//! The serving process, seen from the one that holds the mount.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, parent_process_death_signal, pidfd_open};

use super::fdstore::{self, FdStore, SERVING, SOCKET};
use super::handed;
use crate::config::MountConfig;
use crate::error::{Error, Result};
use crate::program::Program;

/// Its threads are gone this long after its first one, or wait for the mount themselves.
const GRACE: Duration = Duration::from_secs(1);

/// Neither is to be the first that goes when memory is short; where only root may say so it is
/// left as it is.
const HOLDER_SCORE: &str = "-900";

pub struct Serving {
    child: Child,
    pub socket: OwnedFd,
    /// Readable once it is dead; but see [`Self::is_dead`].
    pub death: OwnedFd,
    gone: OwnedFd,
    status: Option<std::process::ExitStatus>,
}

/// How it ended.
pub enum Ended {
    NotStarted(String),
    Exited(i32),
    Killed(i32),
    /// It is dead, but one of its threads waits for the mount and cannot go before it is served.
    Lingers,
}

/// What a process is started for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    Serve,
    /// It only looks whether it could.
    Check,
}

pub fn shield() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", HOLDER_SCORE) {
        log::debug!("the score for when memory is short stays as it is: {error}");
    }
}

impl Serving {
    /// Where it is to serve, whoever holds the mount after this process learns of it by `store`.
    pub fn start(
        config: &MountConfig,
        program: &Program,
        errand: Errand,
        mut store: Option<&mut FdStore>,
    ) -> Result<Self> {
        let failed = |e: std::io::Error| Error::io("the serving process cannot be started", e);
        let sockets = || {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            // Nobody else is started meanwhile who could inherit it: this process has one thread.
            fcntl_setfd(&theirs, FdFlags::empty())?;
            Ok((ours, theirs))
        };
        let (socket, theirs) = sockets().map_err(failed)?;
        // Before that process can send anything, which would be lost with this one.
        if let Some(store) = &mut store {
            store.keep_own(SOCKET, socket.as_fd());
        }
        let mut command = program.command();
        // What a service manager tells its process is for that one.
        for variable in handed::ENVIRONMENT.iter().chain([&fdstore::ENVIRONMENT]) {
            command.env_remove(variable);
        }
        command.arg("serve").arg("--keeper").arg(theirs.as_raw_fd().to_string());
        command.arg("--held-by").arg(std::process::id().to_string());
        if errand == Errand::Check {
            command.arg("--check").process_group(0);
        }
        // Whoever wants this process to end with them wants the mount to.
        if parent_process_death_signal().is_ok_and(|signal| signal.is_some()) {
            command.arg("--end-with-holder");
        }
        command.args(config.to_args()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        drop(theirs);
        match watch(&child) {
            Ok((death, gone)) => {
                // Before it is told what is kept: until then it can do nothing.
                if let Some(store) = store {
                    store.keep_own(SERVING, gone.as_fd());
                }
                Ok(Self { child, socket, death, gone, status: None })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(failed(error))
            }
        }
    }

    /// How it ended, once `death` is readable. A thread of the dead that waits for the mount would
    /// wait for ever if its successor waited for that thread.
    pub fn end(&mut self) -> Ended {
        is_gone_in_time(&self.gone);
        if !self.is_gone() {
            return Ended::Lingers;
        }
        match self.status {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Exited(code),
                (None, signal) => Ended::Killed(signal.unwrap_or(0)),
            },
            None => Ended::Lingers,
        }
    }

    /// Since Linux 6.15 no descriptor tells that a process is dead whose threads are not all gone
    /// (kernel/exit.c, `delay_group_leader`), and one that waits for a file that hangs may stay
    /// for ever. /proc does.
    pub fn is_dead(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('Z' | 'X'))
    }

    pub fn is_gone(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status.is_some()
    }

    pub fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            log::warn!("the serving process: {error}");
        }
    }
}

/// Waits for a process that is dead or dies, by its pidfd.
pub fn is_gone_in_time(process: &OwnedFd) -> bool {
    let timeout = Timespec { tv_sec: GRACE.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Descriptors that are readable once its first thread has ended (until Linux 6.14), and once all have.
fn watch(child: &Child) -> std::io::Result<(OwnedFd, OwnedFd)> {
    /// PIDFD_THREAD (Linux 6.9); before that there are no successors either.
    const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
    let pid = Pid::from_child(child);
    let gone = pidfd_open(pid, PidfdFlags::empty())?;
    let death = pidfd_open(pid, THREAD).or_else(|_| fcntl_dupfd_cloexec(&gone, 3))?;
    Ok((death, gone))
}

impl Ended {
    pub fn is_killed(&self) -> bool {
        matches!(self, Self::Killed(libc::SIGKILL) | Self::Lingers)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(why) => write!(f, "did not start ({why})"),
            Self::Exited(code) => write!(f, "ended with exit code {code}"),
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Self::Lingers => write!(f, "is dead, and one of its threads waits for the mount itself"),
        }
    }
}
