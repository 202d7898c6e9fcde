//! The kernel's side of a mount: requests as include/uapi/linux/fuse.h has them, over a socket to a session
//! with the real adapter, engine, views and journal.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fuser::{BackgroundSession, InitFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use templatefs::control::Control;
use templatefs::engine::{Engine, Negotiated, Options, Recorder, Recovered};
use templatefs::fuse::{Adapter, Loops};
use templatefs::inspect::Inspector;
use templatefs::keeper::Kept;
use templatefs::mount::Device;
use templatefs::profile::Profiles;
use templatefs::store::DirectoryStore;
use templatefs::takeover;
use templatefs::views::Views;

/// No answer takes longer on any machine.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Neither side sends longer messages: they must fit a socket's buffer.
pub const LONGEST: usize = 1 << 16;

pub struct Kernel {
    socket: OwnedFd,
    session: BackgroundSession,
    unique: u64,
    options: Options,
    state: PathBuf,
    generation: u32,
    buffer: Vec<u8>,
}

/// errno and what follows struct fuse_out_header.
pub type Reply = Result<Vec<u8>, i32>;

impl Kernel {
    /// `state` is an empty directory.
    pub fn mount(store: &Path, state: &Path, options: Options) -> Self {
        std::fs::create_dir_all(state.join("0/views")).unwrap();
        let recorder = Recorder::create(&state.join("0/journal")).unwrap();
        let (socket, session, _) = serve(store, &state.join("0"), options, recorder);
        let buffer = vec![0; 4 * LONGEST];
        Self { socket, session, unique: 0, options, state: state.to_owned(), generation: 0, buffer }
    }

    /// The process that serves is gone, and another one takes over.
    pub fn die(&mut self, store: &Path) -> Recovered {
        let state = |generation: u32| self.state.join(generation.to_string());
        let (old, new) = (state(self.generation), state(self.generation + 1));
        // What the dead one tidies up at its end is not found there any more.
        std::fs::rename(old, &new).unwrap();
        self.generation += 1;
        let recorder = Recorder::take_over(&new.join("journal"), 0).unwrap();
        let (socket, session, recovered) = serve(store, &new, self.options, recorder);
        drop(std::mem::replace(&mut self.socket, socket));
        let _ = std::mem::replace(&mut self.session, session).join();
        recovered
    }

    pub fn unmount(self) {
        drop(self.socket);
        let _ = self.session.join();
    }

    /// The id of the next request.
    pub fn next(&mut self) -> u64 {
        self.unique += 2;
        self.unique
    }

    pub fn tell(&mut self, unique: u64, opcode: u32, node: u64, uid: u32, body: &[u8]) {
        let length = (40 + body.len()) as u32;
        let mut message = Vec::with_capacity(length as usize);
        let mut word = |word: u32| message.extend_from_slice(&word.to_ne_bytes());
        word(length);
        word(opcode);
        for long in [unique, node] {
            word(long as u32);
            word((long >> 32) as u32);
        }
        for header in [uid, uid, std::process::id(), 0] {
            word(header);
        }
        message.extend_from_slice(body);
        retry_on_intr(|| send(&self.socket, &message, SendFlags::NOSIGNAL)).expect("a session that goes on");
    }

    pub fn ask(&mut self, unique: u64, opcode: u32, node: u64, uid: u32, body: &[u8]) -> Reply {
        self.tell(unique, opcode, node, uid, body);
        loop {
            let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
            let answered = retry_on_intr(|| poll(&mut polled, Some(&PATIENCE))).unwrap();
            assert_ne!(answered, 0, "no answer to {opcode} of {node}");
            let (length, _) =
                retry_on_intr(|| recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty())).unwrap();
            let message = &self.buffer[..length];
            assert!(length >= 16, "the session has ended at {opcode} of node {node}");
            assert_eq!(number(message, 0, 4) as usize, length);
            let error = number(message, 4, 4) as i32;
            match number(message, 8, 8) {
                // Pages that the kernel is to drop: there are none here.
                0 => {}
                answered if answered == unique => {
                    // A panic is answered EIO, and so is what no errno is known for.
                    assert!((-4095..=0).contains(&error) && error != -EIO, "{opcode} of {node}: {error}");
                    return if error == 0 { Ok(message[16..].to_vec()) } else { Err(-error) };
                }
                other => panic!("an answer to {other} instead of {unique}"),
            }
        }
    }
}

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

pub fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let mut word = [0; 8];
    word[..length].copy_from_slice(&bytes[at..at + length]);
    u64::from_ne_bytes(word)
}

fn serve(
    store: &Path,
    state: &Path,
    options: Options,
    recorder: Recorder,
) -> (OwnedFd, BackgroundSession, Recovered) {
    let retired: BTreeMap<_, _> = recorder.read(|ledger| ledger.retired.clone());
    let views = Views::load(&state.join("views"), &recorder.open_nodes(), &retired).unwrap();
    let store = DirectoryStore::open(store).unwrap();
    let engine = Arc::new(Engine::new(Box::new(store), views, options, Arc::new(recorder), Arc::default()));
    let recovered = engine.recover(Kept::new(), |_, _| {});
    let inspector = Arc::new(OnceLock::new());
    let nowhere = Device { major: 0, minor: 0 };
    let _ = inspector.set(Inspector::new(engine.clone(), nowhere));
    let profiles = Arc::new(Profiles::none(state));
    let control = Arc::new(Control::new(engine.clone(), inspector, profiles));

    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let theirs = Arc::new(theirs);
    let notifier = Arc::new(OnceLock::new());
    let loops = Arc::new(Loops::new(1));
    let adapter = Adapter::new(engine, control, theirs.clone(), notifier.clone(), loops);
    // Nothing that needs a real connection: no passthrough.
    let flags = InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_HAS_RESEND
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
    let negotiated = Negotiated { major: 7, minor: 45, flags: flags.bits() };
    let session = takeover::session(adapter, &theirs, &negotiated, fuser::Config::default()).unwrap();
    let _ = notifier.set(session.notifier());
    (ours, session.spawn().unwrap(), recovered)
}
