//! The Debian package, from its installation to its removal, on a root of its own.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use tempfile::TempDir;

use common::child;
use common::clean_root::CleanRoot;
use common::files::opened;
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::is_root;
use common::random::pattern;

const PAGES: usize = 256;
const PAGE: usize = 4096;
const LATER: &str = "9.9.9";

/// Maps a view and compares all of it with what it has written, each time that it is asked.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((_, path)) = child::asked() else { return };
    let file = opened(&path);
    let memory = Mapping::shared(&file).unwrap();
    let mut content = pattern(7, PAGES * PAGE);
    memory.write(0, &content);
    println!("mapped");
    for (round, line) in std::io::stdin().lines().enumerate() {
        line.unwrap();
        assert!(memory.read(0, content.len()) == content, "as it is in memory");
        memory.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert!(memory.read(0, content.len()) == content, "as it comes back from the mount");
        let at = round * 3 * PAGE;
        content[at..at + PAGE].fill(round as u8);
        memory.write(at, &content[at..at + PAGE]);
        println!("intact");
    }
}

struct User {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl User {
    fn start(root: &CleanRoot, path: &str) -> Self {
        let mut command = child::command_elsewhere(root.command("/media/user"), "hold", path);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let mut user = Self { process, said };
        user.expect("mapped");
        user
    }

    fn expect(&mut self, wanted: &str) {
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "the view's user ended before {wanted:?}");
        }
    }

    fn assert_intact(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.expect("intact");
    }

    fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

/// Packages, in a directory that the clean root sees.
struct Packages(TempDir);

impl Packages {
    /// The program under test, as packaging/build-deb packs it.
    fn build(&self) -> Option<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build-deb");
        let output = Command::new(script)
            .arg("--binary")
            .arg(env!("CARGO_BIN_EXE_templatefs"))
            .args(["--offline", "--fast", "--output"])
            .arg(self.0.path().join("first.deb"))
            .env("CARGO", env!("CARGO"))
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        if complaint.contains("cargo-deb is missing") {
            println!("skipped: cargo-deb is not installed (tests/run installs it)");
            return None;
        }
        assert!(output.status.success(), "{complaint}");
        Some(())
    }

    /// The first one as another version, with another program.
    fn other(&self, version: &str, program: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let at = |name: &str| self.0.path().join(name);
        let tree = at(version);
        let run = |arguments: &[&Path]| {
            let output = Command::new("dpkg-deb").args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(&[Path::new("-R"), &at("first.deb"), &tree]);
        let control = fs::read_to_string(tree.join("DEBIAN/control")).unwrap();
        let own = format!("Version: {}-1\n", env!("CARGO_PKG_VERSION"));
        assert!(control.contains(&own), "{control}");
        fs::write(tree.join("DEBIAN/control"), control.replace(&own, &format!("Version: {version}-1\n")))
            .unwrap();
        let path = tree.join("usr/bin/templatefs");
        fs::write(&path, program(fs::read(&path).unwrap())).unwrap();
        let package = at(&format!("{version}.deb"));
        run(&[Path::new("--root-owner-group"), Path::new("-Znone"), Path::new("-b"), &tree, &package]);
    }
}

/// Optimised code may have the version in its instructions, where it stays what it was.
fn with_later_version(mut program: Vec<u8>) -> Vec<u8> {
    let own = env!("CARGO_PKG_VERSION").as_bytes();
    assert_eq!(own.len(), LATER.len());
    let places: Vec<usize> =
        program.windows(own.len()).enumerate().filter(|(_, bytes)| *bytes == own).map(|(at, _)| at).collect();
    for at in places {
        program[at..at + own.len()].copy_from_slice(LATER.as_bytes());
    }
    program
}

fn dpkg(root: &CleanRoot, arguments: &[&str]) -> Output {
    // The triggers of man-db would index all manuals of the machine.
    root.command("dpkg").arg("--no-triggers").args(arguments).output().unwrap()
}

/// Both of its streams: maintainer scripts speak on either.
#[track_caller]
fn dpkg_ok(root: &CleanRoot, arguments: &[&str]) -> String {
    let output = dpkg(root, arguments);
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "dpkg {arguments:?}\n{said}");
    said
}

/// The program of the process that serves /mnt/t, as it is now.
fn serving(root: &CleanRoot) -> String {
    let pid = r#"sed -E 's/.*"serving_pid":([0-9]+).*/\1/' /run/templatefs/mnt-t/mount.json"#;
    root.ok(&format!("readlink /proc/$({pid})/exe"))
}

/// Where all of the machine is overlaid there is nothing to ask a network for.
fn clean_root(shared: &Path) -> Option<CleanRoot> {
    if !is_root() {
        println!("skipped: installing a package needs root");
        return None;
    }
    for tool in ["dpkg", "dpkg-deb", "fusermount3"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("skipped: {tool} is not installed");
            return None;
        }
    }
    CleanRoot::new(shared).inspect_err(|why| println!("skipped: no root to install into: {why}")).ok()
}

#[test]
fn a_host_installs_uses_upgrades_and_removes_it() {
    let _limit = limit(Duration::from_secs(300));
    let packages = Packages(tempfile::tempdir().unwrap());
    let Some(root) = clean_root(packages.0.path()) else { return };
    if packages.build().is_none() {
        return;
    }
    packages.other(LATER, with_later_version);
    packages.other("9.9.8", |_| b"#!/bin/sh\necho no such instruction >&2\nexit 1\n".to_vec());
    fs::copy(std::env::current_exe().unwrap(), packages.0.path().join("user")).unwrap();

    dpkg_ok(&root, &["-i", "/media/first.deb"]);
    assert_eq!(root.ok("dpkg --verify templatefs"), "", "what is installed is what was packed");
    assert!(root.ok("templatefs --version").ends_with(env!("CARGO_PKG_VERSION")));
    let files = root.ok("dpkg -L templatefs");
    for file in [
        "/usr/share/man/man1/templatefs-mount.1.gz",
        "/usr/share/bash-completion/completions/templatefs",
        "/usr/lib/systemd/system/templatefs@.service",
        "/usr/share/doc/templatefs/README.Debian",
        "/usr/share/doc/templatefs/docs/TUTORIAL.md",
        "/usr/share/doc/templatefs/examples/clone-vms",
    ] {
        assert!(files.lines().any(|line| line == file), "{file}:\n{files}");
    }

    root.ok(
        "mkdir /srv/templates /mnt/t; head -c 1M /dev/zero >/srv/templates/t; chmod 444 /srv/templates/t",
    );
    root.ok("mount -t templatefs /srv/templates /mnt/t -o allow_other");
    root.ok("install -d -o nobody /mnt/users; setpriv --reuid nobody --clear-groups templatefs mount /srv/templates /mnt/users");
    let mut user = User::start(&root, "/mnt/t/t?rom=off");
    user.assert_intact();
    assert_eq!(serving(&root), "/usr/bin/templatefs");

    upgrade(&root, &mut user);
    removal(&root, user, &files);
}

fn upgrade(root: &CleanRoot, user: &mut User) {
    let said = dpkg_ok(root, &["-i", "/media/9.9.9.deb"]);
    for mount in ["/mnt/t: templatefs ", "/mnt/users: templatefs "] {
        assert!(
            said.lines().any(|line| line.starts_with(mount) && line.ends_with(" serves it now")),
            "{said}"
        );
    }
    if cfg!(debug_assertions) {
        assert_eq!(root.ok("cat /mnt/t/.templatefs/version"), LATER);
    }
    // The kernel would say "(deleted)" of the old one.
    assert_eq!(serving(root), "/usr/bin/templatefs");
    user.assert_intact();

    let said = dpkg_ok(root, &["-i", "/media/9.9.8.deb"]);
    assert!(said.contains("a mount could not be upgraded"), "{said}");
    assert_eq!(serving(root), "/usr/bin/templatefs (deleted)", "the one before goes on serving");
    user.assert_intact();
    dpkg_ok(root, &["-i", "/media/9.9.9.deb"]);
    assert_eq!(serving(root), "/usr/bin/templatefs");
    user.assert_intact();
}

fn removal(root: &CleanRoot, mut user: User, files: &str) {
    root.ok("mkdir /mnt/idle; mount -t templatefs /srv/templates /mnt/idle");
    let refused = dpkg(root, &["--remove", "templatefs"]);
    assert!(!refused.status.success());
    let complaint = String::from_utf8(refused.stderr).unwrap();
    let why: Vec<&str> = complaint.lines().filter(|line| line.starts_with("templatefs: ")).collect();
    assert_eq!(why.len(), 1, "{complaint}");
    assert!(why[0].contains("/mnt/t: busy: user (") && why[0].contains("/mnt/t/t"), "{complaint}");
    assert_eq!(root.ok("dpkg-query -W -f '${db:Status-Status}' templatefs"), "installed");
    assert_eq!(root.ok("grep -c fuse.templatefs /proc/mounts"), "1", "the idle ones went");
    user.assert_intact();
    user.end();

    // Released by the kernel a moment after its user's end.
    let purged = poll(Duration::from_secs(30), || {
        let output = dpkg(root, &["--purge", "templatefs"]);
        output.status.success().then_some(())
    });
    assert!(purged.is_some(), "{:?}", dpkg(root, &["--purge", "templatefs"]));
    for file in files.lines().filter(|file| file.contains("templatefs")) {
        assert!(!root.sh(&format!("test -e '{file}'")).status.success(), "{file} is left");
    }
    assert!(!root.sh("test -e /run/templatefs || grep -q fuse.templatefs /proc/mounts").status.success());
    let gone = poll(Duration::from_secs(30), || {
        // Nobody waits for those that have ended there.
        let alive = root.sh("ps -eo stat=,comm= | grep -v ^Z | grep -q templatefs");
        (!alive.status.success()).then_some(())
    });
    assert!(gone.is_some(), "{}", root.ok("ps -eo stat,args"));
    assert!(!root.sh("dpkg-query -W templatefs").status.success());
}
