//! Starting, ending and refusing a mount: the command line, fstab's form, signals and busy mounts.

mod common;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use common::files::{SOON, assert_refused, errno, error_line, open_ro, open_rw, templatefs};
use common::ground::Ground;
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, binary, is_mounted, is_root};

#[test]
fn mount_returns_when_the_mount_answers_and_leaves_its_caller() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    let output = ground.mount(&[]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(fs::read(ground.at("mnt/t")).unwrap(), b"template");
    for process in [ground.daemon(), ground.serving()] {
        let process = PathBuf::from(format!("/proc/{}", process.as_raw_pid()));
        assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
        for descriptor in 0..3 {
            let descriptor = process.join(format!("fd/{descriptor}"));
            assert_eq!(fs::read_link(descriptor).unwrap(), Path::new("/dev/null"));
        }
    }
    assert!(fs::read_to_string(ground.at("state/daemon.log")).unwrap().contains("is mounted on"));
    assert!(templatefs([OsStr::new("umount"), ground.at("mnt").as_os_str()]).status.success());
    assert!(!is_mounted(&ground.at("mnt")));
    ground.wait_for_the_daemons_end();
}

#[test]
fn an_ordinary_users_mount_does_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("mount_returns_when_the_mount_answers_and_leaves_its_caller");
}

/// What goes wrong is one line on the caller's terminal, whether the daemon was to detach or not.
#[test]
fn what_cannot_be_mounted_is_refused_in_one_line() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    fs::create_dir(ground.at("full")).unwrap();
    fs::write(ground.at("full/file"), b"").unwrap();
    fs::create_dir_all(ground.at("outer/store")).unwrap();
    assert!(ground.mount(&[]).status.success());
    let path = |name: &str| if name.starts_with('/') { PathBuf::from(name) } else { ground.at(name) };
    for (store, mountpoint, state, why) in [
        ("store", "mnt2", "state", "another templatefs uses it"),
        ("store", "mnt", "state2", "something is mounted there already"),
        ("store", "none", "state2", "No such file or directory"),
        ("none", "mnt2", "state2", "No such file or directory"),
        ("store/t", "mnt2", "state2", "not a directory"),
        ("store", "store/t", "state2", "not a directory"),
        ("store", "store", "state2", "would hide its own store"),
        ("outer/store", "outer", "state2", "would hide its own store"),
        ("store", "store/sub", "state2", "lies in the store"),
        ("store", "full", "state2", "not empty"),
        ("store", "mnt2", "full/file", "state directory"),
        ("store", "mnt2", "/proc/state", "state directory"),
        ("store", "mnt2", "mnt2/new/state", "below the mountpoint"),
        ("store", "mnt2", "store/sub/state", "in the store"),
    ] {
        for detached in [true, false] {
            let mut command = Command::new(binary());
            command.arg("mount").arg("--state-dir").arg(path(state));
            if !detached {
                command.arg("--foreground");
            }
            let output = command.arg(path(store)).arg(path(mountpoint)).output().unwrap();
            let line = error_line(&output);
            assert!(line.contains(why) && output.stdout.is_empty(), "{store} on {mountpoint}: {line}");
        }
    }
    assert!(!is_mounted(&ground.at("mnt2")));
    assert_eq!(fs::read(ground.at("mnt/t")).unwrap(), b"template", "the first goes on");
    for option in ["ro", "nonsense", "threads=0"] {
        error_line(&templatefs([
            Path::new("mount"),
            Path::new("-o"),
            Path::new(option),
            &ground.at("store"),
            &ground.at("mnt2"),
        ]));
    }
}

#[test]
fn an_ordinary_user_is_refused_in_one_line_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("what_cannot_be_mounted_is_refused_in_one_line");
}

#[test]
fn a_dead_mount_is_named_and_can_be_unmounted() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    assert!(ground.mount(&[]).status.success());
    ground.kill();
    ground.wait_for_the_daemons_end();
    let dead = poll(SOON, || (errno(fs::metadata(ground.at("mnt/t"))) == Some(Errno::NOTCONN)).then_some(()));
    assert!(dead.is_some(), "its threads end one by one");
    assert!(error_line(&ground.mount(&[])).contains("run `templatefs umount` on it first"));
    assert!(templatefs([OsStr::new("umount"), ground.at("mnt").as_os_str()]).status.success());
    assert!(ground.mount(&[]).status.success(), "the state is free again");
    assert_eq!(fs::read(ground.at("mnt/t")).unwrap(), b"template");
    assert!(
        error_line(&templatefs([OsStr::new("umount"), ground.at("store").as_os_str()]))
            .contains("no templatefs")
    );
}

/// A process that holds a mount busy, named `tail`.
struct Holder(Child);

impl Holder {
    fn of(file: &Path) -> Holder {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "tail", "-f"]).arg(file).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Its first output: it has the file open.
        let mut first = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_busy_mount_goes_on_being_served_and_says_who_holds_it() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = Mounted::start(Options::default());
    mounted.template("t", b"template");
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    let memory = Mapping::shared(&view).unwrap();
    drop(view);
    let holder = Holder::of(&mounted.path("t"));
    let holds = format!("tail ({})", holder.0.id());
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        kill_process(mounted.daemon(), signal).unwrap();
        let said = poll(SOON, || (mounted.log().matches(": busy: ").count() > round).then_some(()));
        assert!(said.is_some(), "{}", mounted.log());
        assert_eq!(fs::read(mounted.path("t?rom=off")).unwrap(), b"template");
    }
    let line = error_line(&templatefs([OsStr::new("umount"), mounted.mountpoint.as_os_str()]));
    assert!(line.contains("busy") && line.contains(&holds), "{line}");
    assert!(
        line.contains("mounting") || line.contains(&format!("({})", std::process::id())),
        "a mapping: {line}"
    );
    assert!(mounted.log().contains(&holds), "{}", mounted.log());
    memory.write(0, b"still");
    memory.sync_all().unwrap();
    drop((memory, holder));
    let unmounted = poll(SOON, || {
        templatefs([OsStr::new("umount"), mounted.mountpoint.as_os_str()]).status.success().then_some(())
    });
    assert!(unmounted.is_some());
    assert!(mounted.wait().success());
}

#[test]
fn an_ordinary_users_busy_mount_does_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_busy_mount_goes_on_being_served_and_says_who_holds_it");
}

#[test]
fn sigterm_and_sigint_unmount() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = Mounted::start(Options::default());
    mounted.template("t", b"template");
    for signal in [Signal::TERM, Signal::INT] {
        drop(open_ro(mounted.path("t")).unwrap());
        kill_process(mounted.daemon(), signal).unwrap();
        assert!(mounted.wait().success());
        assert!(!is_mounted(&mounted.mountpoint));
        mounted.mount();
    }
}

fn mount_line(mountpoint: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let wanted = format!(" {} ", mountpoint.display());
    mounts.lines().find(|line| line.contains(&wanted)).unwrap().to_owned()
}

#[test]
fn a_mount_is_nosuid_nodev_noexec_and_checked_by_the_kernel() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    let program = mounted.template("program", b"#!/bin/sh\n");
    fs::set_permissions(program, Permissions::from_mode(0o555)).unwrap();
    let line = mount_line(&mounted.mountpoint);
    for flag in ["nosuid", "nodev", "noexec", "default_permissions", "fuse.templatefs"] {
        assert!(line.contains(flag), "{flag}: {line}");
    }
    assert!(line.contains(&format!(" {} ", mounted.store.display())), "{line}");
    assert!(!line.contains("allow_other"), "{line}");
    assert_refused(Command::new(mounted.path("program")).status(), Errno::ACCESS, "noexec");
}

#[test]
fn an_ordinary_users_mount_has_the_same_flags() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_mount_is_nosuid_nodev_noexec_and_checked_by_the_kernel");
}

/// mount(8) runs mount.fuse, which runs `templatefs` from where a shell finds it without PATH. The script has
/// mounts of its own, so that the machine's /usr/local/sbin is only his to see; what other tests have mounted is
/// let go of there, since their daemons serve until it is gone everywhere.
const AS_BY_FSTAB: &str = r#"
    set -e
    sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .*fuse.templatefs.*/\1/p' /proc/self/mountinfo | xargs -r -n1 umount -l
    mount --bind "$1" /usr/local/sbin
    mount -t fuse.templatefs -o "$4" "$2" "$3"
    grep " $3 " /proc/self/mountinfo
    cat "$3/t"
    umount "$3"
    if mount -t fuse.templatefs -o ro "$2" "$3"; then exit 3; fi
"#;

#[test]
fn the_lines_of_fstab_mount() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: mount(8) needs root");
        return;
    }
    let ground = Ground::new();
    let options = format!("rw,allow_other,noatime,nofail,state_dir={}", ground.at("state").display());
    let programs = binary().parent().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", AS_BY_FSTAB, "sh"])
        .args([programs, &ground.at("store"), &ground.at("mnt"), Path::new(&options)])
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("nosuid,nodev,noexec") && said.contains("allow_other"), "{said}");
    assert!(said.ends_with("template"), "{said}");
    assert!(complained.starts_with("templatefs: -o ro") && complained.lines().count() == 1, "{complained}");
    ground.wait_for_the_daemons_end();
}

#[test]
fn mount_fuse3_and_the_form_that_it_calls_mount_too() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    let path = format!("{}:{}:/sbin", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let options = format!("rw,dev,suid,noatime,state_dir={}", ground.at("state").display());
    for command in [&["mount.fuse3", "-t", "fuse.templatefs"][..], &["templatefs"]] {
        let mut arguments: Vec<&OsStr> = command[1..].iter().map(OsStr::new).collect();
        let (store, mountpoint) = (ground.at("store"), ground.at("mnt"));
        let at = if command.len() == 1 { 0 } else { arguments.len() - 2 };
        arguments.splice(at..at, [store.as_os_str(), mountpoint.as_os_str()]);
        arguments.extend([OsStr::new("-o"), OsStr::new(&options)]);
        let output =
            Command::new("env").arg(format!("PATH={path}")).arg(command[0]).args(arguments).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{command:?}: {output:?}");
        let line = mount_line(&mountpoint);
        assert!(line.contains("nosuid,nodev,noexec"), "{command:?}: {line}");
        assert_eq!(fs::read(ground.at("mnt/t")).unwrap(), b"template");
        assert!(templatefs([OsStr::new("umount"), mountpoint.as_os_str()]).status.success(), "{command:?}");
        ground.wait_for_the_daemons_end();
    }
}

/// The daemon once asked its own mount whether it answers: killed meanwhile it could not die, and nobody else
/// could take its state.
#[test]
fn a_daemon_killed_in_the_middle_of_its_start_is_gone() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = Mounted::start(Options::default());
    for round in 0..30 {
        std::thread::sleep(Duration::from_micros(round * 100));
        mounted.kill();
        mounted.mount();
    }
    mounted.template("t", b"template");
    assert_eq!(fs::read(mounted.path("t")).unwrap(), b"template");
}

/// It was told before INIT, which set it back to 128: a test that looked at once saw 512 all the same.
#[test]
fn roots_mount_writes_back_as_any_disk_does_and_reads_ahead_as_told() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::with(&["--read-ahead", "512"]));
    fs::read(mounted.path(".templatefs/version")).expect("INIT is over");
    if mounted.log().contains("stays as it is") {
        println!("skipped: this user may not write to /sys/class/bdi");
        return;
    }
    let device = fs::metadata(&mounted.mountpoint).unwrap().dev();
    let bdi = format!("/sys/class/bdi/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    for (name, wanted) in [("max_ratio", "100"), ("strict_limit", "0"), ("read_ahead_kb", "512")] {
        match fs::read_to_string(format!("{bdi}/{name}")) {
            Ok(value) => assert_eq!(value.trim(), wanted, "{name}"),
            Err(e) => println!("skipped: this kernel shows no {name}: {e}"),
        }
    }
}
