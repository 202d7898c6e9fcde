//! A QEMU process and its QMP connection.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::limit::{Registered, on_expiry, poll};
use super::lines::Lines;

/// How long QEMU itself may take for anything; a guest's work has limits of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that becomes QEMU. It dies with this value, and with the thread that spawned it (the kernel's
/// parent-death signal is bound to the thread): spawn it in a thread that outlives it.
pub struct Starting {
    child: Child,
    directory: TempDir,
    _killed_on_expiry: Registered,
}

/// QEMU, paused before its guest's first instruction.
pub struct Qemu {
    process: Starting,
    qmp: Lines,
    events: Vec<Value>,
}

/// The arguments under which a memory-backend-file maps `path` (a comma in it is doubled).
pub fn backend(id: &str, mib: u64, path: &Path, options: &str) -> String {
    let path = path.to_str().expect("a mem-path in UTF-8");
    let path = path.replace(',', ",,");
    format!("memory-backend-file,id={id},size={mib}M,mem-path={path},{options}")
}

/// Whether QEMU accepts a memory-backend-file with these options, else its message. As `user` where one is
/// given: root may write files of any mode.
pub fn probe_backend(path: &Path, options: &str, user: Option<&str>) -> Result<(), String> {
    let mib = fs::metadata(path).map_or(1, |file| file.len().div_ceil(1 << 20).max(1));
    let object = backend("probe", mib, path, options);
    Starting::spawn(user, |_| ["-machine", "none", "-object", &object]).connected().map(drop)
}

impl Starting {
    /// `arguments` is given a directory for sockets that QEMU may write to, whoever `user` is, and lives as
    /// long as QEMU.
    pub fn spawn<I>(user: Option<&str>, arguments: impl FnOnce(&Path) -> I) -> Starting
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let directory = tempfile::Builder::new().prefix("qemu-").tempdir().unwrap();
        let path = directory.path();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = user {
            let (uid, gid) = (id_of(user, "-u"), id_of(user, "-g"));
            chown(path, Some(uid), Some(gid)).unwrap();
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.arg("--clear-groups");
        }
        command.args(["qemu-system-x86_64", "-S", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-qmp"]);
        command.arg(format!("unix:{}/qmp,server=on,wait=off", path.display()));
        command.args(arguments(path));
        let child = command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path.join("stderr")).unwrap())
            .spawn()
            .expect("setpriv and qemu-system-x86_64 (tests/run installs them)");
        let pid = rustix::process::Pid::from_child(&child);
        let killed_on_expiry = on_expiry(move || {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
        Starting { child, directory, _killed_on_expiry: killed_on_expiry }
    }

    /// Waits until QEMU answers; Err(its message) where it refuses its arguments.
    pub fn connected(mut self) -> Result<Qemu, String> {
        // QEMU opens the socket, and may even greet, before it looks at its other arguments.
        let socket = self.directory.path().join("qmp");
        if let Some(qmp) = connect(&socket, &mut self.child).and_then(greeted) {
            return Ok(Qemu { process: self, qmp, events: Vec::new() });
        }
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        Err(format!("QEMU ended ({status}): {}", self.stderr().trim()))
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Qemu {
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Its own, for sockets; it lives as long as QEMU.
    pub fn directory(&self) -> &Path {
        self.process.directory.path()
    }

    /// A socket that QEMU made in its directory.
    pub fn connect(&mut self, socket: &str) -> UnixStream {
        let path = self.process.directory.path().join(socket);
        match connect(&path, &mut self.process.child) {
            Some(stream) => stream,
            None => self.fail(&format!("no connection to its socket {socket}")),
        }
    }

    /// A QMP command's answer, or QEMU's description of its refusal.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let request = json!({ "execute": command, "arguments": arguments });
        if let Err(error) = self.qmp.send(&request.to_string()) {
            self.fail(&format!("QMP {command}: {error}"));
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let mut message = self.message(end, command);
            if message.get("event").is_some() {
                self.events.push(message);
            } else if message.get("return").is_some() {
                return Ok(message["return"].take());
            } else {
                return Err(message["error"]["desc"].as_str().unwrap_or("?").to_owned());
            }
        }
    }

    /// A command that must work.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Value {
        self.execute(command, arguments).unwrap_or_else(|error| self.fail(&format!("QMP {command}: {error}")))
    }

    /// The next event of this name, also one that came while something else was waited for.
    pub fn event(&mut self, name: &str, time: Duration) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
            return self.events.remove(at);
        }
        let end = Instant::now() + time;
        loop {
            let message = self.message(end, name);
            if message["event"] == name {
                return message;
            }
            self.events.push(message);
        }
    }

    /// Waits for the migration that was started, either way.
    pub fn migrated(&mut self) {
        let done = poll(PATIENCE, || {
            let state = self.qmp("query-migrate", json!({}));
            match state["status"].as_str() {
                Some("completed") => Some(()),
                Some("failed" | "cancelled") => self.fail(&format!("migration: {state}")),
                _ => None,
            }
        });
        if done.is_none() {
            self.fail("migration takes too long");
        }
    }

    /// What QEMU has complained of so far.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Asks QEMU to end, which runs its clean-up (discard-data=on), and waits for it.
    pub fn quit(mut self) {
        self.qmp("quit", json!({}));
        let ended = poll(PATIENCE, || self.process.child.try_wait().unwrap());
        if !ended.is_some_and(|status| status.success()) {
            self.fail("quit");
        }
    }

    /// Panics with what QEMU and the guest said last.
    pub fn fail(&self, what: &str) -> ! {
        let console = fs::read(self.console_log()).unwrap_or_default();
        let tail = &console[console.len().saturating_sub(2000)..];
        panic!(
            "{what}\n-- QEMU said:\n{}\n-- last console output:\n{}",
            self.process.stderr(),
            String::from_utf8_lossy(tail)
        );
    }

    fn console_log(&self) -> PathBuf {
        self.process.directory.path().join("console.log")
    }

    fn message(&mut self, end: Instant, wanted: &str) -> Value {
        let line = match self.qmp.next(end) {
            Ok(line) => line,
            Err(error) => self.fail(&format!("waiting for QMP {wanted}: {error}")),
        };
        serde_json::from_str(&line).unwrap_or_else(|_| self.fail(&format!("QMP sent {line}")))
    }
}

/// None when the process ended, or never made the socket.
fn connect(path: &Path, child: &mut Child) -> Option<UnixStream> {
    poll(PATIENCE, || match UnixStream::connect(path) {
        Ok(stream) => Some(Some(stream)),
        Err(_) => child.try_wait().unwrap().map(|_| None),
    })?
}

/// The connection past its handshake, which QEMU answers once its machine stands.
fn greeted(stream: UnixStream) -> Option<Lines> {
    let mut qmp = Lines::new(stream);
    let end = Instant::now() + PATIENCE;
    qmp.send(&json!({ "execute": "qmp_capabilities" }).to_string()).ok()?;
    while !qmp.next(end).ok()?.contains("\"return\"") {}
    Some(qmp)
}

pub fn id_of(user: &str, flag: &str) -> u32 {
    let output = Command::new("id").args([flag, user]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("no user {user}"))
}

/// Whom QEMU must run as for file modes to count: root reads and writes any file.
pub fn ordinary_user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("nobody")
}
