//! A process of its own that has a VM go on when the one that stopped it was killed.
//!
//! QEMU serves one QMP client at a time: both share the connection, and the rescuer says nothing on it before
//! the other one is dead. Its stdin is the pipe whose other end dies with that one.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Stdio};

use super::{Before, restore};
use crate::error::{Error, Result};
use crate::program;
use crate::qmp::Qmp;

pub struct Rescuer {
    process: Child,
    pipe: ChildStdin,
}

const RELIEVED: &[u8] = b"relieved\n";

impl Rescuer {
    pub fn start(connection: &UnixStream, before: Before) -> Result<Self> {
        let start = || {
            let connection = OwnedFd::from(connection.try_clone()?);
            let mut command = program::command();
            command.arg("rescue").stdin(Stdio::piped()).stdout(connection);
            if before.ignore_shared {
                command.arg("--ignore-shared");
            }
            // What a terminal sends to kill the one must not kill the other.
            let mut process = command.process_group(0).spawn()?;
            let pipe = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
            Ok((process, pipe))
        };
        let (process, pipe) = start().map_err(|e: io::Error| {
            Error::io("the process that has the machine go on if this one is killed", e)
        })?;
        Ok(Self { process, pipe })
    }

    /// There is nothing left to rescue.
    pub fn relieve(mut self) {
        let _ = self.pipe.write_all(RELIEVED);
        drop(self.pipe);
        let _ = self.process.wait();
    }
}

/// The process itself: `stdin` is its pipe, `connection` what it got as stdout.
pub fn rescue(ignore_shared: bool, mut stdin: impl Read, connection: OwnedFd) -> Result<()> {
    let mut told = Vec::new();
    let _ = stdin.read_to_end(&mut told);
    if told == RELIEVED {
        return Ok(());
    }
    let mut qmp =
        Qmp::resume(UnixStream::from(connection)).map_err(|e| Error::io("the connection to QEMU", e))?;
    restore(&mut qmp, Before { running: true, ignore_shared })
}
