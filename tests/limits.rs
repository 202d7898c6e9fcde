//! Beyond a limit the answer is an error for that caller, and service goes on.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};

use common::files::{SOON, assert_refused, bytes_at, open_ro, open_rw, view_files, wait_for_no_view_files};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};
use common::small::Small;

#[test]
fn a_daemon_raises_its_limit_on_open_files() {
    let _limit = limit(Duration::from_secs(60));
    let own = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(512), ..own }).unwrap();
    let mounted = Mounted::start(Options::default());
    setrlimit(Resource::Nofile, own).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", mounted.serving().as_raw_pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "the soft limit is the hard one: {line}");
    assert_eq!(words[4].parse().ok(), own.maximum, "{line}");
}

#[test]
fn beyond_the_limit_on_open_files_the_answer_is_enfile_and_service_goes_on() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", &[b'T'; 8192]);
    let held = open_rw(mounted.path("t?rom=off")).unwrap();
    held.write_all_at(b"held", 0).unwrap();
    let rom = open_ro(mounted.path("t")).unwrap();
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(Some(mounted.serving()), Resource::Nofile, few).unwrap();

    let mut open = Vec::new();
    let refusal = loop {
        match open_rw(mounted.path("t?rom=off")) {
            Ok(file) => open.push(file),
            Err(error) => break error,
        }
        assert!(open.len() < 64);
    };
    assert_eq!(Errno::from_io_error(&refusal), Some(Errno::NFILE), "after {} opens", open.len());
    assert!(open.len() > 10);
    for name in ["t?rom=off", "t?rom=off&view=v"] {
        assert_refused(open_rw(mounted.path(name)), Errno::NFILE, name);
    }
    for (index, file) in open.iter().chain([&held]).enumerate() {
        file.write_all_at(&[index as u8], 4096).unwrap();
        assert_eq!(bytes_at(file, 4096, 2).unwrap(), [index as u8, b'T']);
    }
    assert_eq!(bytes_at(&rom, 4096, 1).unwrap(), b"T");

    drop(open);
    let again = poll(SOON, || open_rw(mounted.path("t?rom=off&view=v")).ok()).expect("there is room again");
    again.write_all_at(b"again", 0).unwrap();
    assert_eq!(bytes_at(&held, 0, 5).unwrap(), b"heldT");
    mounted.wait_for_log("Too many open files");
}

#[test]
fn an_ordinary_users_daemon_goes_on_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_daemon_raises_its_limit_on_open_files");
    again_as_ordinary_user("beyond_the_limit_on_open_files_the_answer_is_enfile_and_service_goes_on");
}

#[test]
fn a_thousand_named_views_that_were_closed_hold_no_files_open() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", &[b'T'; 8192]);
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(Some(mounted.serving()), Resource::Nofile, few).unwrap();
    for view in 0..1000 {
        // RELEASE comes after close(2): now and then the last few are still open.
        let path = mounted.path(&format!("t?rom=off&view={view}"));
        let file = poll(SOON, || open_rw(&path).ok()).unwrap();
        file.write_all_at(b"x", 0).unwrap();
    }
    let open = fs::read_dir(format!("/proc/{}/fd", mounted.serving().as_raw_pid()));
    assert!(open.unwrap().count() < 64);
    assert_eq!(view_files(&mounted).len(), 3000);
}

fn mounted_on_small() -> Option<(Small, Mounted)> {
    if !is_root() {
        println!("skipped: needs root to mount a small tmpfs");
        return None;
    }
    let small = Small::of_mib(8);
    let state = Some(small.path.join("state"));
    let mounted = Mounted::start(Options { state, ..Options::default() });
    mounted.template("t", &vec![b'T'; 32 << 20]);
    Some((small, mounted))
}

#[test]
fn on_a_full_state_directory_a_write_is_enospc_and_other_views_go_on() {
    let _limit = limit(Duration::from_secs(60));
    let Some((small, mounted)) = mounted_on_small() else { return };
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    let other = open_rw(mounted.path("t?rom=off&view=other")).unwrap();
    other.write_all_at(&[b'o'; 8192], 0).unwrap();
    assert_eq!(fallocate(&view, FallocateFlags::KEEP_SIZE, 0, 16 << 20), Err(Errno::NOSPC), "allocating");
    assert_eq!(fallocate(&view, FallocateFlags::empty(), 0, 16 << 20), Err(Errno::NOSPC), "allocating more");
    let mut written = 0;
    let refusal = loop {
        match view.write_all_at(&[b'w'; 65536], written) {
            Ok(()) => written += 65536,
            Err(error) => break error,
        }
        assert!(written < 16 << 20);
    };
    assert_eq!(Errno::from_io_error(&refusal), Some(Errno::NOSPC));
    assert!(written > 4 << 20, "{written}");
    let filler = small.fill();
    assert_eq!(bytes_at(&view, 0, written as usize).unwrap(), vec![b'w'; written as usize]);
    assert_eq!(bytes_at(&view, 20 << 20, 1).unwrap(), b"T");
    other.write_all_at(b"OTHER", 100).unwrap();
    assert_eq!(bytes_at(&other, 99, 7).unwrap(), b"oOTHERo");
    assert_eq!(bytes_at(&open_ro(mounted.path("t?rom=off")).unwrap(), 12 << 20, 1).unwrap(), b"T");
    assert_eq!(bytes_at(&open_ro(mounted.path("t")).unwrap(), 0, 1).unwrap(), b"T");
    assert_refused(open_rw(mounted.path("t?rom=off")), Errno::NOSPC, "a new view");
    assert_refused(open_rw(mounted.path("t?rom=off&view=new")), Errno::NOSPC, "a new named view");
    mounted.wait_for_log("No space left on device");

    drop(view);
    fs::remove_file(filler).unwrap();
    let room = poll(SOON, || other.write_all_at(&[b'r'; 1 << 20], 1 << 20).ok());
    assert!(room.is_some(), "a closed view gives its room back");
    open_rw(mounted.path("t?rom=off&view=new")).unwrap().write_all_at(b"x", 0).unwrap();
}

/// Whoever stored to mapped memory has gone on: an error of its write-back would reach nobody.
#[test]
fn mapped_pages_that_find_no_room_wait_for_it_and_are_not_lost() {
    let _limit = limit(Duration::from_secs(60));
    let Some((small, mounted)) = mounted_on_small() else { return };
    let view = open_rw(mounted.path("t?rom=off&view=v")).unwrap();
    let memory = Mapping::shared(&view).unwrap();
    let filler = small.fill();
    memory.write(0, &[b'm'; 256 << 10]);
    let sync = std::thread::scope(|scope| {
        let sync = scope.spawn(|| memory.sync_all());
        mounted.wait_for_log("mapped pages wait for room and are not lost");
        assert_eq!(fs::read(mounted.path("t?vm=others")).unwrap().len(), 32 << 20, "others go on");
        fs::remove_file(&filler).unwrap();
        sync.join().unwrap()
    });
    sync.unwrap();
    mounted.wait_for_log("there is room again");
    drop((memory, view));
    assert_eq!(fs::read(mounted.path("t?rom=off&view=v")).unwrap()[..256 << 10], vec![b'm'; 256 << 10]);
    fs::remove_file(mounted.path("t?rom=off&view=v")).unwrap();
    wait_for_no_view_files(&mounted);
}

/// Names the view that [`dirties_a_view_and_calls_execve`] is to dirty.
const DIRTIED: &str = "TEMPLATEFS_TEST_DIRTIED";

/// Not a test but the process that the next one starts.
#[test]
fn dirties_a_view_and_calls_execve() {
    let Some(path) = std::env::var_os(DIRTIED) else { return };
    let memory = Mapping::shared(&open_rw(path).unwrap()).unwrap();
    memory.write(0, &[b'm'; 256 << 10]);
    panic!("{}", Command::new("true").exec());
}

/// A process that gives up dirty pages which wait for room cannot be looked at in /proc meanwhile. SIGTERM and
/// umount hung on it, whatever mount it used.
#[test]
fn a_process_that_waits_for_room_does_not_keep_other_mounts_from_saying_who_holds_them() {
    let _limit = limit(Duration::from_secs(60));
    let Some((small, mounted)) = mounted_on_small() else { return };
    let view = mounted.path("t?rom=off&view=v");
    open_rw(&view).unwrap();
    let filler = small.fill();
    let mut stuck = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "dirties_a_view_and_calls_execve"])
        .env(DIRTIED, &view)
        .spawn()
        .unwrap();
    mounted.wait_for_log("mapped pages wait for room and are not lost");
    let other = Mounted::start(Options::default());
    other.template("t", b"template");
    let held = open_ro(other.path("t")).unwrap();
    kill_process(other.daemon(), Signal::TERM).unwrap();
    other.wait_for_log(": busy: ");
    drop(held);
    fs::remove_file(filler).unwrap();
    assert!(stuck.wait().unwrap().success());
    assert_eq!(fs::read(view).unwrap()[..256 << 10], vec![b'm'; 256 << 10]);
}
