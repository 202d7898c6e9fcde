//! The process that serves a mount dies at any instant, and nobody who uses it loses a byte.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use common::files::{
    assert_refused, bytes_at, open_ro, open_rw, opened, reopened, tree, wait_for_no_view_files,
};
use common::ground::Ground;
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_mounted, is_root};
use common::views::views;

const PAGE: usize = 4096;
const SOON: Duration = Duration::from_secs(30);

/// Kills the serving process, and waits until another one serves.
fn kill(mounted: &Mounted) {
    let old = mounted.serving();
    kill_process(old, Signal::KILL).unwrap();
    wait_for_successor(mounted, old);
}

#[track_caller]
fn wait_for_successor(mounted: &Mounted, old: Pid) {
    let other = || (mounted.serving() != old).then_some(());
    assert!(poll(SOON, other).is_some(), "nobody takes over:\n{}", mounted.log());
}

/// Drops clean cached pages, so that they are read from the daemon again.
fn forget(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn open_files_of_every_kind_go_on() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(64 * PAGE);
    let private = opened(&mounted.path("t?rom=off"));
    let named = opened(&mounted.path("t?rom=off&view=a"));
    let read_only = open_ro(mounted.path("t?rom=off")).unwrap();
    let rom = open_ro(mounted.path("t")).unwrap();
    let memory = Mapping::shared(&private).unwrap();
    let rom_memory = Mapping::read_only(&rom).unwrap();
    let directory = fs::read_dir(&mounted.mountpoint).unwrap();
    private.write_all_at(b"private", 0).unwrap();
    named.write_all_at(b"named", 0).unwrap();
    memory.write(5 * PAGE, b"mapped");
    for round in 1..=3u8 {
        kill(&mounted);
        assert_eq!(bytes_at(&private, 0, 8).unwrap(), [b"private", &content[7..8]].concat());
        assert_eq!(bytes_at(&named, 0, 5).unwrap(), b"named");
        assert_eq!(memory.read(5 * PAGE, 6), b"mapped");
        memory.write(usize::from(round) * 8 * PAGE, &[round; PAGE]);
        memory.sync_all().unwrap();
        forget(&private);
        for before in 1..=round {
            assert_eq!(memory.read(usize::from(before) * 8 * PAGE, PAGE), [before; PAGE]);
        }
        assert_eq!(rom_memory.read(40 * PAGE, PAGE), content[40 * PAGE..41 * PAGE]);
        assert_eq!(bytes_at(&read_only, 9, 100).unwrap(), content[9..109]);
        assert_eq!(private.metadata().unwrap().len(), content.len() as u64);
        // New opens join what is there already.
        assert_eq!(bytes_at(&open_ro(mounted.path("t?rom=off&view=a")).unwrap(), 0, 5).unwrap(), b"named");
        assert!(fs::read(mounted.path("t")).unwrap() == content);
        assert!(fs::read(mounted.path("t?rom=off")).unwrap() == content);
        assert_eq!(views(&mounted).len(), 4, "round {round}");
    }
    assert_eq!(directory.count(), 1, "a directory that was open");
    assert!(mounted.log().contains("takeover 3"), "{}", mounted.log());
    drop((private, memory, read_only));
    let left = || (tree(&mounted.state.join("views")).len() == 3).then_some(());
    assert!(poll(SOON, left).is_some(), "a view without a name goes with its last close");
    assert!(fs::read(mounted.store.join("t")).unwrap() == content);
}

#[test]
fn an_ordinary_users_open_files_go_on_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("open_files_of_every_kind_go_on");
}

/// The successor looked for the mount and the store by their paths, and never came up.
#[test]
fn a_mount_that_was_detached_and_a_store_that_was_moved_are_served_on() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(16 * PAGE);
    let file = opened(&mounted.path("t?rom=off"));
    file.write_all_at(b"kept", 0).unwrap();
    let old = mounted.serving();
    fs::rename(&mounted.store, mounted.store.with_extension("moved")).unwrap();
    kill(&mounted);
    assert!(fs::read(mounted.path("t")).unwrap() == content);
    let detach = match is_root() {
        true => Command::new("umount").arg("-l").arg(&mounted.mountpoint).status(),
        false => Command::new("fusermount3").arg("-uz").arg(&mounted.mountpoint).status(),
    };
    assert!(detach.unwrap().success() && mounted.serving() != old);
    kill(&mounted);
    forget(&file);
    assert_eq!(bytes_at(&file, 0, 4).unwrap(), b"kept");
    assert_eq!(bytes_at(&file, PAGE as u64, PAGE).unwrap(), content[PAGE..2 * PAGE]);
    file.write_all_at(b"more", 0).unwrap();
}

/// A process in a directory has no path along which it could look it up again.
#[test]
fn whoever_stays_in_a_directory_stays_there() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("dir/sub/t", b"template");
    let mut shell = Command::new("sh");
    shell.args(["-c", "read go; cat t; cat ../sub/t"]).current_dir(mounted.path("dir/sub"));
    let pipe = std::process::Stdio::piped;
    let mut shell = shell.stdin(pipe()).stdout(pipe()).spawn().unwrap();
    kill(&mounted);
    std::io::Write::write_all(shell.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"templatetemplate");
}

#[test]
fn a_view_whose_template_was_replaced_keeps_the_old_one() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(64 * PAGE);
    let private = opened(&mounted.path("t?rom=off"));
    let rom = open_ro(mounted.path("t")).unwrap();
    private.write_all_at(b"mine", 0).unwrap();
    mounted.template("t", b"another");
    for _ in 0..2 {
        kill(&mounted);
        assert_eq!(bytes_at(&private, PAGE as u64, PAGE).unwrap(), content[PAGE..2 * PAGE]);
        assert_eq!(bytes_at(&rom, PAGE as u64, PAGE).unwrap(), content[PAGE..2 * PAGE]);
        assert_eq!(fs::read(mounted.path("t")).unwrap(), b"another");
    }
    let kept = || fs::read_dir(format!("/proc/{}/fd", mounted.daemon().as_raw_pid())).unwrap().count();
    let before = kept();
    drop((private, rom));
    wait_for_no_view_files(&mounted);
    assert!(poll(SOON, || (kept() < before).then_some(())).is_some(), "the old file is let go of");
}

#[test]
fn a_view_that_was_discarded_while_it_is_open_stays_with_its_users() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(16 * PAGE);
    let path = mounted.path("t?rom=off&view=a");
    let held = opened(&path);
    let memory = Mapping::shared(&held).unwrap();
    memory.write(0, b"held");
    fs::remove_file(&path).unwrap();
    opened(&path).write_all_at(b"new", 0).unwrap();
    kill(&mounted);
    memory.write(PAGE, b"still");
    memory.sync_all().unwrap();
    forget(&held);
    assert_eq!((memory.read(0, 4), memory.read(PAGE, 5)), (b"held".to_vec(), b"still".to_vec()));
    assert_eq!(memory.read(2 * PAGE, PAGE), content[2 * PAGE..3 * PAGE]);
    assert_eq!(bytes_at(&open_ro(&path).unwrap(), 0, 3).unwrap(), b"new");
}

/// A page that is mapped and not in memory, and a write, wait for the successor.
#[test]
fn who_asks_while_nobody_serves_waits_and_gets_the_answer() {
    let _limit = limit(Duration::from_secs(120));
    let (mounted, content) = Mounted::with_data(256 * PAGE);
    let file = opened(&mounted.path("t?rom=off"));
    let memory = Mapping::shared(&file).unwrap();
    let old = mounted.serving();
    kill_process(mounted.daemon(), Signal::STOP).unwrap();
    kill_process(old, Signal::KILL).unwrap();
    let asked = std::thread::scope(|scope| {
        let faults = scope.spawn(|| memory.read(200 * PAGE, PAGE));
        let writes = scope.spawn(|| file.write_all_at(b"written", 0));
        let opens = scope.spawn(|| fs::read(mounted.path("t")));
        kill_process(mounted.daemon(), Signal::CONT).unwrap();
        (faults.join().unwrap(), writes.join().unwrap(), opens.join().unwrap())
    });
    wait_for_successor(&mounted, old);
    assert_eq!(asked.0, content[200 * PAGE..201 * PAGE]);
    asked.1.unwrap();
    assert!(asked.2.unwrap() == content);
    assert_eq!(bytes_at(&file, 0, 7).unwrap(), b"written");
}

/// The holder and the process that serves die both: the mount is dead, and what has a name is found
/// by the next one. One alone changes nothing.
#[test]
fn the_holder_may_die_first_and_a_clean_mount_finds_the_named_views() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    assert!(ground.mount(&[]).status.success());
    let view = ground.at("mnt/t?rom=off&view=a");
    let file = open_rw(&view).unwrap();
    file.write_all_at(b"T", 0).unwrap();
    kill_process(ground.daemon(), Signal::KILL).unwrap();
    ground.wait_for_the_daemons_end();
    file.write_all_at(b"E", 1).unwrap();
    assert_eq!(fs::read(&view).unwrap(), b"TEmplate", "it is served on");
    assert_eq!(fs::read(ground.at("mnt/t")).unwrap(), b"template");
    kill_process(ground.serving(), Signal::KILL).unwrap();
    let dead = || fs::read(&view).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)).then_some(());
    assert!(poll(SOON, dead).is_some());
    drop(file);
    let umount = Command::new(common::mounted::binary()).arg("umount").arg(ground.at("mnt")).status();
    assert!(umount.unwrap().success() && !is_mounted(&ground.at("mnt")));
    assert!(ground.mount(&[]).status.success());
    assert_eq!(fs::read(&view).unwrap(), b"TEmplate");
}

#[test]
fn an_ordinary_users_holder_may_die_first_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("the_holder_may_die_first_and_a_clean_mount_finds_the_named_views");
}

#[test]
fn a_mount_that_was_taken_over_is_unmounted_like_any_other() {
    let _limit = limit(Duration::from_secs(60));
    let (mut mounted, _) = Mounted::with_data(PAGE);
    let file = opened(&mounted.path("t?rom=off"));
    kill(&mounted);
    kill_process(mounted.daemon(), Signal::TERM).unwrap();
    mounted.wait_for_log("busy");
    file.write_all_at(b"x", 0).unwrap();
    drop(file);
    wait_for_no_view_files(&mounted);
    assert!(mounted.stop().success());
    assert!(!is_mounted(&mounted.mountpoint));
    assert!(!mounted.state.join("journal").exists());
}

/// A record that the successor cannot use costs the view that it is about.
#[test]
fn a_damaged_view_is_set_aside_and_reported_and_the_others_go_on() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(16 * PAGE);
    let (broken, whole) = (opened(&mounted.path("t?rom=off&view=b")), opened(&mounted.path("t?rom=off")));
    whole.write_all_at(b"whole", 0).unwrap();
    broken.write_all_at(b"broken", 0).unwrap();
    let map = File::options().write(true).open(mounted.state.join("views/n-b.map")).unwrap();
    // Both copies of it.
    map.write_all_at(&[b'X'; 1500], 100).unwrap();
    kill(&mounted);
    assert_eq!(bytes_at(&whole, 0, 5).unwrap(), b"whole");
    forget(&broken);
    assert_refused(broken.write_all_at(b"x", 0), Errno::BADF, "set aside");
    mounted.wait_for_log("is set aside, and its users get errors");
    assert!(fs::read(mounted.path("t")).unwrap() == content);
    assert_refused(open_rw(mounted.path("t?rom=off&view=b")), Errno::STALE, "set aside");
}

/// A successor that cannot read what is on record changes nothing: the users wait, and go on when one
/// comes that can.
#[test]
fn while_no_successor_can_read_the_journal_the_users_wait() {
    let _limit = limit(Duration::from_secs(120));
    let (mounted, content) = Mounted::with_data(16 * PAGE);
    let file = opened(&mounted.path("t?rom=off"));
    file.write_all_at(b"kept", 0).unwrap();
    let journal = mounted.state.join("journal");
    let version = |version: u8| {
        let file = File::options().write(true).open(&journal).unwrap();
        file.write_all_at(&[version], 8).unwrap();
    };
    version(99);
    let old = mounted.serving();
    kill_process(old, Signal::KILL).unwrap();
    mounted.wait_for_log("it has version 99, and this templatefs reads version 1");
    mounted.wait_for_log("processes that serve it die one after the other");
    version(1);
    assert_eq!(bytes_at(&file, 0, 4).unwrap(), b"kept");
    assert_eq!(bytes_at(&file, PAGE as u64, PAGE).unwrap(), content[PAGE..2 * PAGE]);
}

/// It has no path, and nobody but the dead process knew its memory.
#[test]
fn a_view_in_memory_goes_on_and_is_gone_after_its_last_close() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(64 * PAGE);
    let file = match open_rw(mounted.path("t?rom=off&backing=memory")) {
        Ok(file) => file,
        Err(error) => return println!("skipped: no view in memory here: {error}"),
    };
    let memory = Mapping::shared(&file).unwrap();
    memory.write(PAGE, b"mine");
    let kept = || {
        let open = fs::read_dir(format!("/proc/{}/fd", mounted.daemon().as_raw_pid())).unwrap();
        open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
            .filter(|to| to.ends_with("memfd:templatefs-view (deleted)"))
            .count()
    };
    assert_eq!(kept(), 1);
    for round in 0..2 {
        kill(&mounted);
        let again = reopened(&file, true).unwrap();
        assert_eq!(bytes_at(&again, PAGE as u64, 4).unwrap(), b"mine");
        again.write_all_at(b"more", round * 8).unwrap();
        assert_eq!(memory.read(round as usize * 8, 4), b"more");
        assert_eq!(memory.read(2 * PAGE, PAGE), content[2 * PAGE..3 * PAGE]);
        let shown = views(&mounted);
        assert_eq!(shown.iter().map(|view| view.backing.as_str()).collect::<Vec<_>>(), ["memory"]);
    }
    drop((file, memory));
    assert!(poll(SOON, || (kept() == 0).then_some(())).is_some(), "its memory is given back");
}
