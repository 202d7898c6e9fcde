//! Users and operators at their worst: views that are opened, closed, removed and opened again by several
//! at once, other users, mounts that are taken away by force, and a daemon that gets no memory.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, prlimit};

use common::child;
use common::files::{SOON, assert_refused, bytes_at, errno, error_line, open_ro, open_rw, templatefs};
use common::files::{view_files, wait_for_no_view_files};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_mounted, is_root, run_as};
use common::random::Random;
use common::users::{number, seed};

const LENGTH: usize = 1 << 20;
const ROUNDS: u64 = 300;
const NAMES: u64 = 3;

#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    match what.as_str() {
        "races" => race(&path),
        other => panic!("{other}"),
    }
}

/// In the highest byte of a word that a writer wrote.
const MARK: u32 = 0xA5;

/// Each word of a view is the template's, or some writer's.
fn race(mountpoint: &Path) {
    let own = std::process::id();
    let mut random = Random::new(number(common::users::SEED, 0) ^ u64::from(own));
    for _ in 0..ROUNDS {
        let path = mountpoint.join(format!("t?rom=off&view=raced-{}", random.below(NAMES)));
        if random.one_in(3) {
            let removed = errno(fs::remove_file(&path));
            assert!(matches!(removed, None | Some(Errno::NOENT)), "unlink: {removed:?}");
            continue;
        }
        let file = match open_rw(&path) {
            Ok(file) => file,
            // It was removed between its LOOKUP and its OPEN, twice.
            Err(error) => {
                let errno = Errno::from_io_error(&error);
                assert!(matches!(errno, Some(Errno::STALE | Errno::NOENT)), "open: {error}");
                continue;
            }
        };
        let page = random.below(LENGTH as u64 / 4096);
        let word = own | MARK << 24;
        let mine: Vec<u8> = word.to_le_bytes().into_iter().cycle().take(4096).collect();
        if random.one_in(2) {
            file.write_all_at(&mine, page * 4096).unwrap();
        } else {
            let map = Mapping::shared(&file).unwrap();
            map.write(page as usize * 4096, &mine);
            map.sync_all().unwrap();
        }
        let seen = bytes_at(&file, page * 4096, 4096).unwrap();
        let whole = seen.chunks(4).all(|word| word == b"oooo" || u32::from(word[3]) == MARK);
        assert!(whole, "page {page} is nobody's");
    }
}

/// Several processes open, write, map, close and remove a few named views.
#[test]
fn named_views_that_are_opened_and_removed_by_many_at_once_stay_whole() {
    let _limit = limit(Duration::from_secs(120));
    let seed = seed();
    let mounted = Mounted::start(Options::default());
    mounted.template("t", &vec![b'o'; LENGTH]);
    let start = |_| {
        let mut command = child::command("races", &mounted.mountpoint);
        command.env(common::users::SEED, seed.to_string()).spawn().unwrap()
    };
    let children: Vec<_> = (0..5).map(start).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    for number in 0..NAMES {
        let _ = fs::remove_file(mounted.path(&format!("t?rom=off&view=raced-{number}")));
    }
    wait_for_no_view_files(&mounted);
    assert_eq!(fs::read(mounted.path("t")).unwrap(), vec![b'o'; LENGTH]);
    let log = mounted.log();
    assert!(!log.contains("a defect") && !log.contains("ERROR"), "{log}");
}

#[test]
fn an_ordinary_users_named_views_stay_whole_too() {
    let _limit = limit(Duration::from_secs(120));
    again_as_ordinary_user("named_views_that_are_opened_and_removed_by_many_at_once_stay_whole");
}

#[test]
fn another_user_can_neither_mark_nor_read_the_attributes_of_a_view() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: needs root, to be several users");
        return;
    }
    let mounted = Mounted::start(Options::with(&["--allow-other"]));
    mounted.template("t", b"template");
    let path = mounted.path("t?rom=off&view=roots");
    let view = open_rw(&path).unwrap();
    let as_another = |script: &str| {
        let mut command = run_as(4002, 4002, &[]);
        let output = command.args(["sh", "-c", script, "sh"]).arg(&path).current_dir("/").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let python = "python3 -c 'import os, sys; print(os.%s)' \"$1\"";
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: no python3, to ask for attributes as another user");
        return;
    }
    for call in [
        "setxattr(sys.argv[1], \"user.mine\", b\"x\")",
        "setxattr(sys.argv[1], \"system.posix_acl_access\", b\"x\")",
        "removexattr(sys.argv[1], \"user.templatefs.private_bytes\")",
        "getxattr(sys.argv[1], \"user.templatefs.private_bytes\")",
        "truncate(sys.argv[1], 1)",
        "link(sys.argv[1], sys.argv[1] + \"2\")",
    ] {
        let (done, said) = as_another(&python.replace("%s", call));
        assert!(!done, "{call}: {said}");
    }
    assert_eq!(bytes_at(&view, 0, 8).unwrap(), b"template");
}

fn umount(mounted: &Mounted, option: &[&str]) -> bool {
    Command::new("umount").args(option).arg(&mounted.mountpoint).output().unwrap().status.success()
}

/// A mount with a named view that is open. None where this user may not call umount.
fn mounted_in_use() -> Option<(Mounted, File)> {
    if !is_root() {
        println!("skipped: needs root, to call umount");
        return None;
    }
    let mounted = Mounted::start(Options::default());
    mounted.template("t", &vec![b'o'; LENGTH]);
    let file = open_rw(mounted.path("t?rom=off&view=v")).unwrap();
    Some((mounted, file))
}

/// `umount -l` takes the path away, and who has a view open keeps it to the end.
#[test]
fn a_mount_that_is_detached_while_it_is_used_is_served_to_its_users() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mut mounted, file)) = mounted_in_use() else { return };
    let map = Mapping::shared(&file).unwrap();
    map.write(0, b"before");
    assert!(!umount(&mounted, &[]), "it is busy");
    assert!(umount(&mounted, &["-l"]));
    assert!(!is_mounted(&mounted.mountpoint));
    map.write(LENGTH - 4, b"late");
    map.sync_all().unwrap();
    assert_eq!(bytes_at(&file, 0, 6).unwrap(), b"before");
    drop((map, file));
    assert!(mounted.wait().success(), "it ends with its last user");
    mounted.mount();
    let again = open_ro(mounted.path("t?rom=off&view=v")).unwrap();
    assert_eq!(bytes_at(&again, 0, 6).unwrap(), b"before");
    assert_eq!(bytes_at(&again, LENGTH as u64 - 4, 4).unwrap(), b"late");
}

/// `umount -f` aborts the connection, also where it says that the mount is busy: what was written back
/// stays, and the next mount finds it.
#[test]
fn a_mount_that_is_aborted_by_force_ends_and_the_next_finds_its_views() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mut mounted, file)) = mounted_in_use() else { return };
    file.write_all_at(b"before", 0).unwrap();
    umount(&mounted, &["-f"]);
    let aborted = errno(bytes_at(&file, LENGTH as u64 / 2, 4));
    assert!(matches!(aborted, Some(Errno::NOTCONN | Errno::CONNABORTED | Errno::IO)), "{aborted:?}");
    drop(file);
    umount(&mounted, &["-l"]);
    mounted.wait();
    mounted.mount();
    let again = open_ro(mounted.path("t?rom=off&view=v")).unwrap();
    assert_eq!(bytes_at(&again, 0, 7).unwrap(), b"beforeo");
}

#[test]
fn a_mount_over_itself_is_refused_and_leaves_the_first() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(LENGTH);
    let file = open_rw(mounted.path("t?rom=off")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let mount = |store: &Path, mountpoint: &Path, state: &Path| {
        let arguments = [Path::new("mount"), Path::new("--state-dir"), state, store, mountpoint];
        templatefs(arguments)
    };
    let state = other.path().join("state");
    for (store, mountpoint, state) in [
        (&mounted.store, &mounted.mountpoint, &mounted.state),
        (&mounted.store, &mounted.mountpoint, &state),
        (&mounted.mountpoint, &mounted.mountpoint, &state),
        (&mounted.mountpoint, &mounted.store, &state),
        (&mounted.store, &mounted.store, &state),
    ] {
        let output = mount(store, mountpoint, state);
        println!("{}", error_line(&output));
        assert!(!output.status.success(), "{store:?} on {mountpoint:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = mounted.mountpoint.display().to_string();
    assert_eq!(mounts.lines().filter(|line| line.contains(&here)).count(), 1, "{mounts}");
    assert!(bytes_at(&file, 0, LENGTH).unwrap() == content);
    assert_refused(open_rw(mounted.path("t")), Errno::ACCESS, "it is served as before");
}

/// The daemon gets no address space: who asks for what needs some is refused or waits for a successor,
/// and what is open goes on.
#[test]
fn without_memory_the_daemon_loses_nothing_and_goes_on() {
    let _limit = limit(Duration::from_secs(120));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", &vec![b'o'; LENGTH]);
    let file = open_rw(mounted.path("t?rom=off&view=v")).unwrap();
    let map = Mapping::shared(&file).unwrap();
    map.write(0, b"before");
    let serving = mounted.serving();
    let limits =
        prlimit(Some(serving), Resource::As, Rlimit { current: Some(1 << 20), maximum: None }).unwrap();
    let mut refused = 0;
    let mut open = Vec::new();
    for round in 0..400 {
        match open_rw(mounted.path(&format!("t?rom=off&view=many-{}", round % 200))) {
            Ok(file) => open.push(file),
            Err(_) => refused += 1,
        }
        map.write(4096 * (round % 256), b"stored");
        assert_eq!(bytes_at(&file, 4096 * (round as u64 % 256), 6).unwrap(), b"stored");
    }
    let shown = fs::read(mounted.path(".templatefs/views.json"));
    println!("{refused} of 400 opens were refused, views.json: {:?}", shown.map(|text| text.len()));
    map.sync_all().unwrap();
    let now = mounted.serving();
    if now == serving {
        prlimit(Some(serving), Resource::As, limits).unwrap();
    }
    drop(open);
    let well = poll(SOON, || fs::read(mounted.path(".templatefs/views.json")).ok());
    assert!(well.is_some(), "with memory again everything is served");
    for round in 0..256 {
        assert_eq!(bytes_at(&file, 4096 * round, 7).unwrap(), b"storedo", "page {round}");
    }
    assert!(!view_files(&mounted).is_empty());
    assert_eq!(fs::read(mounted.path("t")).unwrap(), vec![b'o'; LENGTH]);
}
