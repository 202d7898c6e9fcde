//! A filesystem that shows a directory and on which files can be made to hang or to fail.
//!
//! It is served by a process of its own: whoever waits for a file that hangs cannot be killed, and must
//! not be a thread of the process that would have to answer it. With that process the connection ends,
//! and with it all that waits.

mod gate;
mod shown;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};

use fuser::{Session, SessionACL};
use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::child;
use super::files::{SOON, opened};
use super::limit::{Registered, on_expiry, poll};
use super::maps::Mapping;
use gate::{Fault, Gate};
use shown::Shown;

/// What the test program's `child` is asked, to do [`serve`].
pub const SERVE: &str = "serve a filesystem that may hang or fail";

const HANG: &str = "hang ";
const FAIL: &str = "fail ";
const LOSE: &str = "lose ";
const READ_ONLY: &str = "read-only";
const RELEASE: &str = "release";
const WAITING: &str = "waiting";

/// Mounted until it is dropped; then nothing hangs any more.
pub struct Stuck {
    pub mountpoint: PathBuf,
    server: Child,
    /// One line there, one line back.
    control: Mutex<BufReader<UnixStream>>,
    _ended_on_expiry: Registered,
    _directory: TempDir,
}

impl Stuck {
    pub fn mount() -> Self {
        let directory = tempfile::Builder::new().prefix("templatefs-stuck-").tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["root", "mnt"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let listener = UnixListener::bind(control_of(directory.path())).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut server = child::command(SERVE, directory.path()).spawn().expect("setpriv (util-linux)");
        let mountpoint = directory.path().join("mnt");
        let registered = on_expiry({
            let (mountpoint, server) = (mountpoint.clone(), Pid::from_child(&server));
            move || {
                let _ = kill_process(server, Signal::KILL);
                detach(&mountpoint);
            }
        });
        let control = poll(SOON, || match listener.accept() {
            Ok((control, _)) => Some(control),
            Err(_) => server.try_wait().unwrap().map(|status| panic!("it is not served: {status}")),
        });
        let control = control.unwrap_or_else(|| {
            let _ = server.kill();
            panic!("it is not served");
        });
        control.set_nonblocking(false).unwrap();
        Self {
            mountpoint,
            server,
            control: Mutex::new(BufReader::new(control)),
            _ended_on_expiry: registered,
            _directory: directory,
        }
    }

    /// From now on, files whose path ends so: whatever asks for their content waits.
    pub fn hang(&self, end: &str) {
        self.ask(&format!("{HANG}{end}"));
    }

    /// From now on, to write, allocate or sync files whose path ends so is EIO.
    pub fn fail(&self, end: &str) {
        self.ask(&format!("{FAIL}{end}"));
    }

    /// From now on, to open files whose path ends so is EIO.
    pub fn lose(&self, end: &str) {
        self.ask(&format!("{LOSE}{end}"));
    }

    /// From now on nothing can be changed.
    pub fn read_only(&self) {
        self.ask(READ_ONLY);
    }

    pub fn release(&self) {
        self.ask(RELEASE);
    }

    /// Until so many requests wait.
    #[track_caller]
    pub fn wait_for(&self, waiting: usize) {
        let now = || self.ask(WAITING).parse::<usize>().unwrap();
        assert!(poll(SOON, || (now() >= waiting).then_some(())).is_some(), "{} wait, not {waiting}", now());
    }

    #[track_caller]
    fn ask(&self, line: &str) -> String {
        let mut control = self.control.lock().unwrap();
        writeln!(control.get_mut(), "{line}").unwrap();
        let mut answer = String::new();
        control.read_line(&mut answer).unwrap();
        assert!(answer.ends_with('\n'), "{line}: nobody serves it");
        answer.trim_end().to_owned()
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        detach(&self.mountpoint);
    }
}

fn control_of(directory: &Path) -> PathBuf {
    directory.join("control")
}

fn detach(mountpoint: &Path) {
    let _ = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH);
}

/// The process that serves it, until the other end of its control is closed or it is killed.
pub fn serve(directory: &Path) {
    let gate = Arc::new(Gate::default());
    let mut config = fuser::Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    let shown = Shown::new(directory.join("root"), gate.clone());
    let session = Session::new(shown, directory.join("mnt"), &config).and_then(Session::spawn).unwrap();
    let mut control = UnixStream::connect(control_of(directory)).unwrap();
    let orders = BufReader::new(control.try_clone().unwrap());
    for order in orders.lines() {
        let order = order.unwrap();
        let answer = match order.split_at_checked(HANG.len()) {
            Some((HANG, end)) => set(&gate, Some(Fault::Hangs(end.into()))),
            Some((LOSE, end)) => set(&gate, Some(Fault::Unreadable(end.into()))),
            Some((FAIL, end)) => set(&gate, Some(Fault::Fails(end.into()))),
            _ if order == READ_ONLY => set(&gate, Some(Fault::ReadOnly)),
            _ if order == RELEASE => set(&gate, None),
            _ => gate.waiting(),
        };
        writeln!(control, "{answer}").unwrap();
    }
    drop(session);
}

/// What a test `child` is: who serves such a filesystem, or a guest whose state is on one. It stores to its memory as
/// `store` does, syncs it, and finds `stored` in all of it.
pub fn run(store: impl FnOnce(&Mapping), stored: &[u8]) {
    let Some((what, path)) = child::asked() else { return };
    if what == SERVE {
        return serve(&path);
    }
    let view = opened(&path);
    let map = Mapping::shared(&view).unwrap();
    store(&map);
    map.sync_all().unwrap();
    map.forget().unwrap();
    fadvise(&view, 0, None, Advice::DontNeed).unwrap();
    assert!(map.read(0, stored.len()) == stored, "every byte is there");
}

fn set(gate: &Gate, fault: Option<Fault>) -> usize {
    gate.set(fault);
    gate.waiting()
}
