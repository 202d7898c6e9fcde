//! Where the holder can be asked for something: a socket in the state directory, for the user who
//! mounted and for root.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, fchmod, openat};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

use super::wire;

const NAME: &str = "holder";

/// So many may ask at once.
const CLIENTS: usize = 8;

/// The holder never waits longer for one who does not read the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who asks gives it time for a new program that hangs, and for the old one to come back.
const ANSWER: Duration = Duration::from_secs(120);

/// Without a listener nobody can ask.
pub struct Door {
    pub listener: Option<OwnedFd>,
    pub clients: Vec<OwnedFd>,
    path: PathBuf,
}

impl Door {
    /// The state directory is taken: a socket that is there was left behind.
    pub fn open(state: &Path) -> Self {
        let path = state.join(NAME);
        let open = || {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let (socket, address, _directory) = socket_in(state)?;
            // The file gets the socket's mode (net/unix/af_unix.c, unix_bind_bsd).
            fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            bind(&socket, &address)?;
            listen(&socket, CLIENTS as i32)?;
            // One that went away before it was let in must not be waited for.
            rustix::io::ioctl_fionbio(&socket, true)?;
            Ok(socket)
        };
        let listener = open().inspect_err(|e| log::warn!("{}: nobody can upgrade: {e}", path.display())).ok();
        Self { listener, clients: Vec::new(), path }
    }

    /// Lets in who has knocked.
    pub fn let_in(&mut self) {
        let Some(listener) = &self.listener else { return };
        let accept = || {
            let client = accept_with(listener, SocketFlags::CLOEXEC)?;
            set_socket_timeout(&client, Timeout::Send, Some(PATIENCE))?;
            let uid = socket_peercred(&client)?.uid;
            Ok::<_, rustix::io::Errno>((client, uid))
        };
        match accept() {
            Ok((client, uid)) if !uid.is_root() && uid != rustix::process::geteuid() => {
                log::warn!("user {} asked for an upgrade, and may not", uid.as_raw());
                let _ = wire::say(&client, b'X', "only the user who mounted and root may ask for it");
            }
            Ok((client, _)) if self.clients.len() >= CLIENTS => {
                let _ = wire::say(&client, b'X', "too many ask at once");
            }
            Ok((client, _)) => self.clients.push(client),
            Err(error) => log::warn!("{}: {error}", self.path.display()),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.listener.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A connection to the holder that has its state here.
pub fn knock(state: &Path) -> io::Result<OwnedFd> {
    let (socket, address, _directory) = socket_in(state)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
    connect(&socket, &address)?;
    Ok(socket)
}

/// A socket and its address, which is good as long as the directory is open: a path that is longer
/// than 107 bytes is no address.
fn socket_in(state: &Path) -> io::Result<(OwnedFd, SocketAddrUnix, OwnedFd)> {
    let directory = openat(CWD, state, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((socket, address, directory))
}
