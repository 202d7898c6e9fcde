//! Another program takes over a mount that is in use, or does not, and nobody who uses it notices.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::clones::open_directory;
use common::files::{bytes_at, error_line, opened};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, binary, is_root, run_as};
use common::qemu::{id_of, ordinary_user};
use common::users::{self, Users, seed};

const PAGE: usize = 4096;
const SOON: Duration = Duration::from_secs(30);

/// One of the users of the mount.
#[test]
#[ignore = "run by other tests"]
fn child() {
    users::run();
}

fn upgrade(mounted: &Mounted, binary: &Path) -> Output {
    mounted.command().arg("upgrade").arg("--binary").args([binary, &mounted.mountpoint]).output().unwrap()
}

/// Programs for the new process, where every user may run them.
struct Programs(TempDir);

impl Programs {
    fn new() -> Self {
        Self(open_directory())
    }

    fn put(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// The program under test, as another version: nothing else of it is changed. Optimised code may
    /// have the version in its instructions, where it stays what it was.
    fn version(&self, version: &str) -> PathBuf {
        let own = env!("CARGO_PKG_VERSION").as_bytes();
        assert_eq!(own.len(), version.len());
        let mut content = fs::read(binary()).unwrap();
        let mut at = 0;
        while let Some(found) = content[at..].windows(own.len()).position(|bytes| bytes == own) {
            content[at + found..at + found + own.len()].copy_from_slice(version.as_bytes());
            at += found + own.len();
        }
        self.put(version, &content, 0o755)
    }

    /// It can read the state, and does `instead` of serving.
    fn that_only_checks(&self, instead: &str) -> PathBuf {
        let real = binary().display();
        let script =
            format!("#!/bin/sh\nfor word; do [ $word != --check ] || exec {real} \"$@\"; done\n{instead}\n");
        self.put("script", script.as_bytes(), 0o755)
    }
}

fn program_of(process: Pid) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", process.as_raw_pid())).unwrap()
}

fn shown_version(mounted: &Mounted) -> String {
    fs::read_to_string(mounted.path(".templatefs/version")).unwrap().trim_end().to_owned()
}

fn recorded_version(mounted: &Mounted) -> String {
    let text = fs::read(mounted.state.join("mount.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["version"].as_str().unwrap().to_owned()
}

#[test]
fn nothing_is_lost_however_often_the_program_is_replaced() {
    let _limit = limit(Duration::from_secs(180));
    let programs = Programs::new();
    let mounted = Mounted::start(Options::default());
    let holder = mounted.daemon();
    let mut users = Users::start(&mounted, seed());
    for round in 0..6 {
        let version = format!("0.{}.7", round % 3 + 4);
        let new = programs.0.path().join(&version);
        if !new.exists() {
            programs.version(&version);
        }
        let output = upgrade(&mounted, &new);
        assert!(output.status.success(), "{output:?}\n{}", mounted.log());
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(program_of(mounted.serving()), new);
        if cfg!(debug_assertions) {
            assert!(said.contains(&format!("templatefs {version} serves it now")), "{said}");
            assert_eq!(shown_version(&mounted), version);
            assert_eq!(recorded_version(&mounted), version);
        }
        users.assert_all_go_on(format_args!("after upgrade {round}"));
        if round % 2 == 1 {
            let old = mounted.serving();
            kill_process(old, Signal::KILL).unwrap();
            poll(SOON, || (mounted.serving() != old).then_some(())).expect("a successor");
            assert_eq!(program_of(mounted.serving()), new, "after a kill the new one serves on");
        }
    }
    assert_eq!(mounted.daemon(), holder);
    users.finish(&mounted);
}

#[test]
fn nor_in_an_ordinary_users_mount() {
    let _limit = limit(Duration::from_secs(180));
    again_as_ordinary_user("nothing_is_lost_however_often_the_program_is_replaced");
}

/// A mount with a view that is open and mapped.
struct Used {
    mounted: Mounted,
    file: File,
    memory: Mapping,
    content: Vec<u8>,
    serving: Pid,
}

impl Used {
    fn new() -> Self {
        let (mounted, content) = Mounted::with_data(64 * PAGE);
        let file = opened(&mounted.path("t?rom=off&view=a"));
        let memory = Mapping::shared(&file).unwrap();
        memory.write(PAGE, b"mine");
        memory.sync_all().unwrap();
        let serving = mounted.serving();
        Self { mounted, file, memory, content, serving }
    }

    #[track_caller]
    fn assert_goes_on(&self) {
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(self.memory.read(PAGE, 4), b"mine");
        assert_eq!(bytes_at(&self.file, 9 * PAGE as u64, PAGE).unwrap(), self.content[9 * PAGE..10 * PAGE]);
        self.file.write_all_at(b"more", 3 * PAGE as u64).unwrap();
        assert!(fs::read(self.mounted.path("t")).unwrap() == self.content);
        assert_eq!(program_of(self.mounted.serving()), binary());
    }

    /// The same process serves on, and the reason is said.
    #[track_caller]
    fn assert_refused(&self, binary: &Path, why: &str) {
        let line = error_line(&upgrade(&self.mounted, binary));
        assert!(line.contains(why), "{line}");
        assert_eq!(self.mounted.serving(), self.serving, "{line}");
        self.assert_goes_on();
    }

    /// Writes one byte where a version stands.
    fn with_version(&self, file: &str, version: u8) {
        let file = File::options().write(true).open(self.mounted.state.join(file)).unwrap();
        file.write_all_at(&[version], 8).unwrap();
    }
}

#[test]
fn a_program_that_cannot_read_the_state_is_refused_and_the_old_one_goes_on() {
    let _limit = limit(Duration::from_secs(120));
    let used = Used::new();
    let programs = Programs::new();
    let no_word = "does not say that it can read the state";
    used.assert_refused(&programs.put("false", b"#!/bin/sh\nexit 1\n", 0o755), no_word);
    used.assert_refused(&programs.put("true", b"#!/bin/sh\nexit 0\n", 0o755), no_word);
    used.assert_refused(&programs.put("noise", &[7; 1000], 0o755), "cannot be started");
    used.assert_refused(&programs.put("text", b"text", 0o644), "it is no program");
    used.assert_refused(&programs.0.path().join("nothing"), "No such file");
    used.assert_refused(programs.0.path(), "it is no program");
    for (file, version) in [("journal", 1), ("views/n-a.map", 3)] {
        used.with_version(file, 99);
        let refused = format!("it has version 99, and this templatefs reads version {version}");
        used.assert_refused(binary(), &refused);
        used.with_version(file, version);
    }
    assert!(upgrade(&used.mounted, binary()).status.success());
    assert_ne!(used.mounted.serving(), used.serving);
    used.assert_goes_on();
}

/// A program that can read the state and then does this instead of serving: it is told, and the old one serves.
fn assert_falls_back(instead: &[(&str, &str)]) {
    let used = Used::new();
    let programs = Programs::new();
    for (instead, why) in instead {
        let line = error_line(&upgrade(&used.mounted, &programs.that_only_checks(instead)));
        assert!(line.contains(why) && line.contains("the old program serves again"), "{line}");
        used.assert_goes_on();
    }
    assert!(upgrade(&used.mounted, binary()).status.success());
    used.assert_goes_on();
}

#[test]
fn after_a_program_that_dies_at_its_start_the_old_one_serves_again() {
    let _limit = limit(Duration::from_secs(120));
    assert_falls_back(&[
        ("exit 3", "ended with exit code 3"),
        ("exit 0", "ended with exit code 0"),
        ("kill -9 $$", "signal 9"),
    ]);
}

#[test]
fn after_a_program_that_hangs_at_its_start_the_old_one_serves_again() {
    let _limit = limit(Duration::from_secs(120));
    assert_falls_back(&[("exec sleep 1000", "did not answer within")]);
}

#[test]
fn only_the_mounts_user_and_root_may_ask() {
    let _limit = limit(Duration::from_secs(60));
    let Some(user) = ordinary_user() else { return println!("skipped: it needs root and another user") };
    let used = Used::new();
    let ask = || {
        let mut command = run_as(id_of(user, "-u"), id_of(user, "-g"), &[]);
        command
            .arg(binary())
            .arg("upgrade")
            .arg("--state-dir")
            .args([&used.mounted.state, &used.mounted.mountpoint]);
        error_line(&command.output().unwrap())
    };
    for open in [false, true] {
        if open {
            fs::set_permissions(&used.mounted.state, Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(used.mounted.state.join("holder"), Permissions::from_mode(0o777)).unwrap();
        }
        let line = ask();
        assert!(line.contains("only the user who mounted and root"), "{line}");
        assert_eq!(used.mounted.serving(), used.serving);
    }
    used.assert_goes_on();
}

#[test]
fn root_upgrades_what_a_user_has_mounted() {
    let _limit = limit(Duration::from_secs(60));
    let Some(user) = ordinary_user() else { return println!("skipped: it needs root and another user") };
    assert!(is_root());
    let mounted = Mounted::start(Options::as_user(user));
    chown(mounted.template("t", b"template"), Some(id_of(user, "-u")), None).unwrap();
    let programs = Programs::new();
    let new = programs.version("9.8.7");
    let ask = |more: &[&Path]| {
        let mut command = std::process::Command::new(binary());
        command.arg("upgrade").args(more).arg("--binary").args([&new, &mounted.mountpoint]);
        command.output().unwrap()
    };
    let line = error_line(&ask(&[]));
    assert!(line.contains("name that with --state-dir"), "{line}");
    let output = ask(&[Path::new("--state-dir"), &mounted.state]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(program_of(mounted.serving()), new);
}
