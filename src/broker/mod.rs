//! A process beside the one that serves, which does the few things that need rights the serving
//! process gives up (confine/): no system call filter lets it start programs, and Landlock would let
//! it neither unmount (security/landlock/fs.c, hook_sb_umount) nor look at other processes
//! (security/landlock/task.c, hook_ptrace_access_check). `fusermount3`, which is setuid, could not
//! be run by it at all.
//!
//! It is started before the serving process confines itself, ends with it, and is asked over a SEQPACKET
//! socket. Each request brings the stream on which it is answered:
//!
//! ```text
//! 'P' "PID FILE" + stream   open /proc/PID/FILE  -> 'P' + descriptor, or 'X' ERRNO
//! 'D' + stream              list the processes   -> one number a line
//! 'C' + stream              look at the page cache: a process whose stdin and stdout the stream is
//! 'W' + stream              make the kernel know nodes: the same
//! 'U' + stream              unmount              -> nothing, or why not
//! ```
//!
//! No request names a path: whatever becomes of the serving process, this one does nothing
//! else for it than to open these files of /proc, and to look at and unmount this one mount.

mod process;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

pub use process::answer;

use crate::error::{Error, Result};
use crate::holder::wire;
use crate::mount;
use crate::program;

/// Of this process; rights are a process's own too.
static BROKER: OnceLock<OwnedFd> = OnceLock::new();

/// What may be opened of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessFile {
    Status,
    Comm,
    Maps,
    Pagemap,
    Smaps,
}

impl ProcessFile {
    const ALL: [Self; 5] = [Self::Status, Self::Comm, Self::Maps, Self::Pagemap, Self::Smaps];

    fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Comm => "comm",
            Self::Maps => "maps",
            Self::Pagemap => "pagemap",
            Self::Smaps => "smaps",
        }
    }

    /// Everybody may read these, unless /proc is mounted with hidepid.
    fn is_public(self) -> bool {
        matches!(self, Self::Status | Self::Comm)
    }

    fn open(self, pid: u32) -> io::Result<File> {
        File::open(format!("/proc/{pid}/{}", self.name()))
    }
}

/// What is started to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looker {
    PageCache,
    Warm,
}

/// Starts it, for the rest of this process's life. No thread may have been started that starts
/// programs itself: it would inherit the socket.
pub fn start(mountpoint: &Path) -> Result<()> {
    let begin = || {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let mut command = program::command();
        command.arg("broker").arg(mountpoint).arg(theirs.as_raw_fd().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // It ends when the socket does; nobody waits for it.
        command.process_group(0).spawn()?;
        let _ = BROKER.set(ours);
        Ok(())
    };
    begin().map_err(|e: io::Error| Error::io("the process that looks and unmounts cannot be started", e))
}

/// Opens a file of a process in /proc.
pub fn open(pid: u32, file: ProcessFile) -> io::Result<File> {
    if BROKER.get().is_none() {
        return file.open(pid);
    }
    if file.is_public()
        && let Ok(opened) = file.open(pid)
    {
        return Ok(opened);
    }
    match wire::receive_packet(ask(b'P', &format!("{pid} {}", file.name()))?)? {
        Some((b'P', _, Some(opened))) => Ok(opened.into()),
        Some((b'X', errno, _)) => Err(io::Error::from_raw_os_error(errno.parse().unwrap_or(libc::EIO))),
        _ => Err(gone()),
    }
}

/// Reads a file of a process in /proc.
pub fn read(pid: u32, file: ProcessFile) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(pid, file)?.read_to_end(&mut content)?;
    Ok(content)
}

/// All processes of this host.
pub fn processes() -> io::Result<Vec<u32>> {
    if BROKER.get().is_none() {
        return process::list();
    }
    let mut text = String::new();
    ask(b'D', "")?.read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// With a process that looks, for as long as this value lives. It says first which one it is.
pub struct Conversation {
    pub process: u32,
    stream: BufReader<UnixStream>,
}

impl Conversation {
    pub fn begin(looker: Looker) -> io::Result<Self> {
        let kind = match looker {
            Looker::PageCache => b'C',
            Looker::Warm => b'W',
        };
        let mut stream = BufReader::new(ask(kind, "")?);
        let mut first = String::new();
        stream.read_line(&mut first)?;
        let process = first.trim_end().parse().map_err(|_| io::Error::other("it could not be started"))?;
        Ok(Self { process, stream })
    }

    /// Where questions are written; at their end its writing side is to be shut down.
    pub fn questions(&self) -> io::Result<UnixStream> {
        self.stream.get_ref().try_clone()
    }

    /// One line for one line.
    pub fn ask(&mut self, question: &str) -> io::Result<String> {
        writeln!(self.stream.get_ref(), "{question}")?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        Ok(answer)
    }

    /// All answers that are left.
    pub fn rest(&mut self) -> io::Result<String> {
        let mut answers = String::new();
        self.stream.read_to_string(&mut answers)?;
        Ok(answers)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // Without questions it ends, and then it has nothing open on the mount.
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
        let _ = self.rest();
    }
}

/// Unmounts `mountpoint`, as [`mount::detach`] does.
pub fn unmount(mountpoint: &Path) -> Result<()> {
    if BROKER.get().is_none() {
        return mount::detach(mountpoint);
    }
    let mut refused = String::new();
    ask(b'U', "")
        .and_then(|mut stream| stream.read_to_string(&mut refused))
        .map_err(|e| Error::io(format!("{}: it cannot be unmounted from here", mountpoint.display()), e))?;
    match refused.is_empty() {
        true => Ok(()),
        false => Err(Error::Invalid(refused)),
    }
}

fn ask(kind: u8, text: &str) -> io::Result<UnixStream> {
    let broker = BROKER.get().ok_or_else(gone)?;
    let (ours, theirs) = UnixStream::pair()?;
    wire::send(broker, kind, text, Some(theirs.as_fd()))?;
    Ok(ours)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the process that looks and unmounts has ended")
}
