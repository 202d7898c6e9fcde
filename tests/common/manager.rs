//! What systemd does for a unit with FileDescriptorStoreMax=: it keeps descriptors that the unit's main process sends
//! to NOTIFY_SOCKET, and hands them to the next one that it starts (sd_notify(3), sd_listen_fds(3)).
//!
//! It maps nothing of any mount.

use std::ffi::{OsStr, OsString};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use rustix::process::set_parent_process_death_signal;
use templatefs::holder::wire::{self, Message};

use super::child;
use super::limit::poll;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Manager {
    directory: tempfile::TempDir,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The latest first, as systemd has them.
    kept: Vec<(String, OwnedFd)>,
    ready: usize,
    marks: usize,
}

impl Manager {
    pub fn start() -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let known = Arc::new(Mutex::new(Known::default()));
        let listening = known.clone();
        // It ends with the test program.
        thread::spawn(move || {
            while let Some((text, descriptors)) = received(&socket) {
                listening.lock().unwrap().hear(&text, descriptors);
            }
        });
        Arc::new(Self { directory, known })
    }

    /// All that was sent so far has been heard, and by whom it was sent is dead or waits.
    pub fn settle(&self) {
        let before = self.known.lock().unwrap().marks;
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"MARK=1", self.directory.path().join("notify")).unwrap();
        let heard = || (self.known.lock().unwrap().marks > before).then_some(());
        poll(PATIENCE, heard).expect("the manager hears");
    }

    pub fn names(&self) -> Vec<String> {
        self.settle();
        self.known.lock().unwrap().kept.iter().map(|(name, _)| name.clone()).collect()
    }

    pub fn put(&self, name: &str, descriptor: OwnedFd) {
        self.known.lock().unwrap().kept.push((name.into(), descriptor));
    }

    /// How many processes have said that they are ready.
    pub fn ready(&self) -> usize {
        self.settle();
        self.known.lock().unwrap().ready
    }

    /// Copies of all that is kept.
    fn kept(&self) -> Vec<(String, OwnedFd)> {
        self.settle();
        let known = self.known.lock().unwrap();
        known.kept.iter().map(|(name, kept)| (name.clone(), kept.try_clone().unwrap())).collect()
    }

    /// Starts the unit's main process, with all that is kept. It outlives this thread, and its own processes outlive
    /// it.
    pub fn spawn(&self, program: &Path, arguments: &[OsString], stderr: Stdio) -> Child {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut command = child::command(LAUNCH, program);
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        command.env(ARGUMENTS, arguments.join(OsStr::new("\n")));
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(stderr);
        let launched = command.spawn().expect("setpriv (util-linux)");
        drop(command);
        for (name, descriptor) in self.kept() {
            wire::send(&ours, b'K', &name, Some(descriptor.as_fd())).unwrap();
        }
        launched
    }
}

impl Known {
    fn hear(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let name = field("FDNAME").unwrap_or_default().to_owned();
        if field("FDSTORE") == Some("1") {
            let valid = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
            assert!((1..=255).contains(&name.len()) && name.bytes().all(valid), "{text}");
            assert_eq!((field("FDPOLL"), descriptors.len()), (Some("0"), 1), "{text}");
            assert!(self.kept.iter().all(|(other, _)| *other != name), "{name} is kept already");
            self.kept.splice(0..0, descriptors.into_iter().map(|descriptor| (name.clone(), descriptor)));
        } else if field("FDSTOREREMOVE") == Some("1") {
            self.kept.retain(|(other, _)| *other != name);
        }
        self.ready += usize::from(field("READY") == Some("1"));
        self.marks += usize::from(field("MARK") == Some("1"));
    }
}

fn received(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let length = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags).ok()?.bytes;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Some((String::from_utf8(bytes[..length].to_vec()).unwrap(), descriptors.flatten().collect()))
}

/// Beyond as many as a test has kept.
const FAR: i32 = 500;

const LAUNCH: &str = "launch";
const ARGUMENTS: &str = "TEMPLATEFS_TEST_ARGUMENTS";

/// In the child that becomes the unit's main process: the test `child` calls this first.
pub fn launch() {
    let Some((what, program)) = child::asked() else { return };
    if what != LAUNCH {
        return;
    }
    // Nobody of the unit ends with who starts it.
    set_parent_process_death_signal(None).unwrap();
    let stdin = std::io::stdin();
    let mut names = Vec::new();
    let mut script = String::new();
    while let Ok(Some(Message::Keep(name, descriptor))) = wire::receive(stdin.as_fd()) {
        // Out of the way of the numbers that they get.
        let far = fcntl_dupfd_cloexec(&descriptor, FAR).unwrap();
        fcntl_setfd(&far, FdFlags::empty()).unwrap();
        script.push_str(&format!("exec {}<&{} {}<&-\n", 3 + names.len(), far.as_raw_fd(), far.as_raw_fd()));
        std::mem::forget(far);
        names.push(name);
    }
    let environment =
        format!("LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES='{}'", names.len(), names.join(":"));
    script.push_str(&format!("{environment} exec \"$0\" \"$@\"\n"));
    let arguments = std::env::var(ARGUMENTS).unwrap();
    let error = Command::new("bash")
        .arg("-c")
        .arg(script)
        .arg(program)
        .args(arguments.lines())
        .stdin(Stdio::null())
        .exec();
    panic!("bash: {error}");
}
