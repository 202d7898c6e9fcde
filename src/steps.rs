//! Instants at which a test has this process die or panic. They are in debug builds only, and do
//! nothing unless the environment names a file that holds the name of one of them.

/// What [`ENVIRONMENT`] is set to.
pub const ENVIRONMENT: &str = "TEMPLATEFS_TEST_STEP";

/// Written before a step's name: a panic instead of a kill.
pub const PANIC: &str = "panic ";

/// All of them, by the request or errand that they belong to. docs/RECOVERY.md says what must be true
/// at each.
pub const OPEN: [&str; 4] = ["open 1: begun", "open 2: made", "open 3: passed", "open 4: recorded"];
pub const WRITE: [&str; 4] = ["write 1: begun", "write 2: data", "write 3: states", "write 4: done"];
pub const APPEND: [&str; 3] = ["append 1: begun", "append 2: half", "append 3: whole"];
pub const REWRITE: [&str; 2] = ["rewrite 1: written", "rewrite 2: renamed"];
pub const DISCARD_OPEN: [&str; 4] =
    ["discard 1: begun", "discard 2: retired", "discard 3: half renamed", "discard 4: renamed"];
pub const DISCARD_AT_REST: [&str; 3] = ["discard 1: begun", "discard 5: removed", "discard 6: recorded"];
pub const RELEASE: [&str; 2] = ["release 1: recorded", "release 2: removed"];
pub const TAKE_OVER: [&str; 5] = [
    "takeover 1: journal",
    "takeover 2: recovered",
    "takeover 3: session",
    "takeover 4: resent",
    "takeover 5: serves",
];
pub const CHECK: [&str; 2] = ["check 1: begun", "check 2: done"];
pub const CAPTURE: [&str; 6] = [
    "capture 1: begun",
    "capture 2: stopped",
    "capture 3: devices",
    "capture 4: copied",
    "capture 5: goes on",
    "capture 6: read",
];

/// Where the files are that tests arm a step with.
#[cfg(debug_assertions)]
pub fn directory() -> Option<std::path::PathBuf> {
    let file = std::path::PathBuf::from(std::env::var_os(ENVIRONMENT)?);
    file.parent().map(std::path::Path::to_owned)
}

/// Each file is for one death: who takes it away dies.
#[cfg(debug_assertions)]
pub fn step(name: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static ARMED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| std::env::var_os(ENVIRONMENT).map(PathBuf::from));
    let Some(file) = armed else { return };
    let Ok(wanted) = std::fs::read_to_string(file) else { return };
    let (panics, wanted) = match wanted.strip_prefix(PANIC) {
        Some(wanted) => (true, wanted),
        None => (false, wanted.as_str()),
    };
    if wanted != name || std::fs::remove_file(file).is_err() {
        return;
    }
    assert!(!panics, "a test wants a panic at {name}");
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn step(_: &str) {}
