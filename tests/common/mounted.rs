//! A store and a real mount of it, by a daemon of its own that ends with the test.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::limit::{Registered, on_expiry, poll};
use super::manager::Manager;
use super::qemu::id_of;

/// How long the daemon itself may take to start or end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to mount.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// As this user, through fusermount3; None: as whoever runs the test.
    pub user: Option<&'static str>,
    /// Further arguments of `templatefs mount`.
    pub arguments: Vec<&'static str>,
    /// What the daemon finds in its environment.
    pub environment: Option<(&'static str, PathBuf)>,
    /// Instead of a directory of its own.
    pub store: Option<PathBuf>,
    /// Instead of a directory beside the store.
    pub state: Option<PathBuf>,
    /// Who starts the daemon and keeps descriptors of it; then its processes outlive each other.
    pub manager: Option<Arc<Manager>>,
}

impl Options {
    pub fn with(arguments: &[&'static str]) -> Self {
        Self { arguments: arguments.to_vec(), ..Self::default() }
    }

    pub fn as_user(user: &'static str) -> Self {
        Self { user: Some(user), ..Self::default() }
    }
}

pub struct Mounted {
    pub store: PathBuf,
    pub mountpoint: PathBuf,
    pub state: PathBuf,
    options: Options,
    log: PathBuf,
    daemon: Option<Child>,
    /// The daemon's process id, or 0: for whoever ends a test that hangs.
    running: Arc<AtomicI32>,
    _directory: TempDir,
    _detached_on_expiry: Registered,
}

impl Mounted {
    /// Mounts an empty store; [`Self::template`] fills it.
    pub fn start(options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("templatefs-test-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["store", "mnt", "state"] {
            fs::create_dir(at(name)).unwrap();
            if let Some(user) = options.user {
                chown(at(name), Some(id_of(user, "-u")), Some(id_of(user, "-g"))).unwrap();
            }
        }
        if let Some(user) = options.user {
            chown(directory.path(), Some(id_of(user, "-u")), None).unwrap();
        }
        fs::set_permissions(at("state"), Permissions::from_mode(0o700)).unwrap();
        let mountpoint = at("mnt");
        let running = Arc::new(AtomicI32::new(0));
        let registered = on_expiry({
            let (mountpoint, running) = (mountpoint.clone(), running.clone());
            move || {
                detach_lazily(&mountpoint);
                // Whoever waits for an answer from it cannot even be killed.
                if let Some(daemon) = Pid::from_raw(running.load(Ordering::Relaxed)) {
                    let _ = kill_process(daemon, Signal::KILL);
                }
            }
        });
        let mut mounted = Self {
            store: options.store.clone().unwrap_or_else(|| at("store")),
            mountpoint,
            state: options.state.clone().unwrap_or_else(|| at("state")),
            log: at("log"),
            options,
            daemon: None,
            running,
            _directory: directory,
            _detached_on_expiry: registered,
        };
        mounted.mount();
        mounted
    }

    /// Puts a template with this content and mode 0444 into the store, in one step.
    pub fn template(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.store.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new-template");
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o444)).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }

    /// A mount with one template `t` of this many bytes of data, and that data.
    pub fn with_data(length: usize) -> (Self, Vec<u8>) {
        let mounted = Self::start(Options::default());
        let content = super::random::pattern(1, length);
        mounted.template("t", &content);
        (mounted, content)
    }

    /// A path on the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log holds `text`.
    pub fn wait_for_log(&self, text: &str) {
        let found = poll(PATIENCE, || self.log().contains(text).then_some(()));
        assert!(found.is_some(), "no {text:?} in the log:\n{}", self.log());
    }

    /// The process that serves, for the one that holds the mount.
    pub fn serving(&self) -> Pid {
        poll(PATIENCE, || process_of(&self.state, "serving_pid"))
            .expect("mount.json of a mount that is served")
    }

    /// The process that holds the mount; the other one ends with it here.
    pub fn daemon(&self) -> Pid {
        Pid::from_child(self.daemon.as_ref().expect("a running daemon"))
    }

    /// templatefs, run by the user who mounted: nobody else may look at a mount without --allow-other.
    pub fn command(&self) -> Command {
        match self.options.user {
            None => Command::new(binary()),
            Some(user) => {
                let mut command = run_as(id_of(user, "-u"), id_of(user, "-g"), &[]);
                command.arg(binary());
                command
            }
        }
    }

    /// Asks the daemon to unmount and end, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        kill_process(self.daemon(), Signal::TERM).unwrap();
        self.wait()
    }

    /// Kills the daemon and takes the dead mount away.
    pub fn kill(&mut self) {
        kill_process(self.daemon(), Signal::KILL).unwrap();
        self.wait();
        detach_lazily(&self.mountpoint);
    }

    /// Waits until the daemon has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("a running daemon");
        self.running.store(0, Ordering::Relaxed);
        let status = poll(PATIENCE, || daemon.try_wait().unwrap());
        status.unwrap_or_else(|| {
            let _ = daemon.kill();
            panic!("the daemon does not end; its log:\n{}", self.log())
        })
    }

    /// Of `templatefs`, so that it mounts.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["mount", "--foreground", "--log-level", "debug"].map(Into::into).into();
        arguments.extend(["--log-file".into(), self.log.clone().into()]);
        arguments.extend(["--state-dir".into(), self.state.clone().into()]);
        arguments.extend(self.options.arguments.iter().map(Into::into));
        arguments.extend([self.store.clone().into(), self.mountpoint.clone().into()]);
        arguments
    }

    fn daemon_command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = self.options.user {
            command.args(["--reuid", user, "--regid", &id_of(user, "-g").to_string(), "--init-groups"]);
        }
        command.arg(binary()).args(self.arguments()).envs(self.options.environment.clone());
        command
    }

    /// Mounts the same store with the same state again.
    pub fn mount(&mut self) {
        assert!(self.daemon.is_none(), "it is mounted");
        let mut daemon = match &self.options.manager {
            Some(manager) => manager.spawn(binary(), &self.arguments(), Stdio::inherit()),
            None => self.daemon_command().stdin(Stdio::null()).spawn().expect("setpriv (util-linux)"),
        };
        let version = self.mountpoint.join(".templatefs/version");
        let answers = poll(PATIENCE, || match daemon.try_wait().unwrap() {
            Some(status) => Some(Err(status)),
            None => is_mounted(&self.mountpoint).then_some(Ok(())),
        });
        match answers {
            Some(Ok(())) => {
                self.running.store(daemon.id() as i32, Ordering::Relaxed);
                self.daemon = Some(daemon);
            }
            Some(Err(status)) => panic!("templatefs mount ended: {status}; its log:\n{}", self.log()),
            None => {
                let _ = daemon.kill();
                panic!("{} does not appear; the log:\n{}", version.display(), self.log());
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        detach_lazily(&self.mountpoint);
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log, its last lines:");
            let log = self.log();
            for line in log.lines().rev().take(40).collect::<Vec<_>>().iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// A process that mount.json in this state directory names.
pub fn process_of(state: &Path, field: &str) -> Option<Pid> {
    let json: serde_json::Value = serde_json::from_slice(&fs::read(state.join("mount.json")).ok()?).ok()?;
    Pid::from_raw(json[field].as_i64()? as i32)
}

/// The program under test, where every user may run it.
pub fn binary() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| match std::env::var_os(BINARY) {
        Some(path) => path.into(),
        None => runnable_by_all(Path::new(env!("CARGO_BIN_EXE_templatefs"))),
    })
}

const BINARY: &str = "TEMPLATEFS_TEST_BINARY";

/// A copy of a program: the checkout may lie below a directory that only root may search.
fn runnable_by_all(program: &Path) -> PathBuf {
    if !is_root() {
        return program.to_owned();
    }
    // A directory for each build: another checkout's tests may run at the same time.
    let mut build = DefaultHasher::new();
    program.parent().hash(&mut build);
    let directory = std::env::temp_dir().join(format!("templatefs-tests-{:016x}", build.finish()));
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let name = program.file_name().unwrap();
    let unfinished = directory.join(format!("{}-{}", name.display(), std::process::id()));
    fs::copy(program, &unfinished).unwrap();
    fs::set_permissions(&unfinished, Permissions::from_mode(0o755)).unwrap();
    let copy = directory.join(name);
    fs::rename(unfinished, &copy).unwrap();
    remove_older(&copy);
    copy
}

/// Copies of what this test program was before it was built anew: NAME-HASH of cargo's, as this one.
fn remove_older(copy: &Path) {
    let stem = |path: &Path| path.file_name()?.to_str()?.rsplit_once('-').map(|(name, _)| name.to_owned());
    let Some(own) = stem(copy) else { return };
    for entry in fs::read_dir(copy.parent().unwrap()).unwrap().flatten() {
        let path = entry.path();
        if path != copy && stem(&path).as_ref() == Some(&own) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The program that runs the tests, where every user may run it.
pub fn this_program() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| runnable_by_all(&std::env::current_exe().unwrap()))
}

/// Runs one test of this test program again, as an ordinary user: mounts are then made through
/// fusermount3, without passthrough. Says so and does nothing where this is one already.
pub fn again_as_ordinary_user(test: &str) {
    if !is_root() {
        println!("skipped: this whole run is an ordinary user's");
        return;
    }
    let program = this_program();
    let user = super::qemu::ordinary_user().unwrap();
    let status = run_as(id_of(user, "-u"), id_of(user, "-g"), &[])
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(BINARY, binary())
        .env("HOME", "/nonexistent")
        .env_remove("XDG_RUNTIME_DIR")
        .current_dir("/")
        .status()
        .expect("setpriv (util-linux)");
    assert!(status.success(), "{test} as {user}: {status}");
}

/// A command that runs as `user` with these supplementary groups.
pub fn run_as(user: u32, group: u32, groups: &[u32]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={group}")]);
    match groups {
        [] => command.arg("--clear-groups"),
        some => {
            let list: Vec<String> = some.iter().map(u32::to_string).collect();
            command.arg(format!("--groups={}", list.join(",")))
        }
    };
    command
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Is a templatefs mounted there? Read from the kernel, since asking the mount could hang.
pub fn is_mounted(mountpoint: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let wanted = format!(" {} ", mountpoint.display());
    mounts.lines().any(|line| line.contains(&wanted) && line.contains("fuse.templatefs"))
}

fn detach_lazily(mountpoint: &Path) {
    if !is_mounted(mountpoint) {
        return;
    }
    let tool = if is_root() { ("umount", "-l") } else { ("fusermount3", "-uz") };
    let _ = Command::new(tool.0).arg(tool.1).arg(mountpoint).status();
}
