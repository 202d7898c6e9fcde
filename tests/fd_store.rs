//! All processes of a mount are killed, and the mount goes on by what a service manager has kept of it: a test plays
//! systemd (common/manager.rs).

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use common::files::{bytes_at, open_ro, open_rw, opened};
use common::limit::{limit, poll};
use common::manager::{self, Manager};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, binary, is_mounted, is_root};
use common::processes::children;
use common::random::{Random, pattern};
use common::users::{self, KILLS, Users, number, seed};

const PAGE: usize = 4096;
const SOON: Duration = Duration::from_secs(60);

/// A unit's main process, or one of the users of its mount.
#[test]
#[ignore = "run by other tests"]
fn child() {
    manager::launch();
    users::run();
}

fn start(manager: &Arc<Manager>) -> Mounted {
    Mounted::start(Options { manager: Some(manager.clone()), ..Options::default() })
}

/// This process, those that it has started, and theirs.
fn family(pid: Pid) -> Vec<Pid> {
    let mut family = vec![pid];
    let mut at = 0;
    while at < family.len() {
        family.extend(children(family[at]));
        at += 1;
    }
    family
}

fn kill(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
}

/// kill -9 of each process of the unit, the holder first: who is started meanwhile is left over.
fn kill_all(mounted: &mut Mounted) {
    family(mounted.daemon()).into_iter().for_each(kill);
    mounted.wait();
}

#[track_caller]
fn wait_for_other_than(mounted: &Mounted, old: Pid) {
    let other = || (mounted.serving() != old).then_some(());
    assert!(poll(SOON, other).is_some(), "nobody takes over:\n{}", mounted.log());
}

/// All are killed and the unit is started again.
#[track_caller]
fn restart(mounted: &mut Mounted) {
    let old = mounted.serving();
    kill_all(mounted);
    mounted.mount();
    wait_for_other_than(mounted, old);
}

/// A mount with views of each kind that are open, mapped and written.
struct Used {
    manager: Arc<Manager>,
    mounted: Mounted,
    content: Vec<u8>,
    maps: Vec<Mapping>,
    rom: Mapping,
}

impl Used {
    fn new() -> Self {
        let manager = Manager::start();
        let mounted = start(&manager);
        let content = pattern(1, 64 * PAGE);
        mounted.template("t", &content);
        let mut views = vec![mounted.path("t?rom=off"), mounted.path("t?rom=off&view=a")];
        let memory = mounted.path(users::MEMORY);
        views.extend(open_rw(&memory).is_ok().then_some(memory));
        let maps: Vec<Mapping> = views.iter().map(|view| Mapping::shared(&opened(view)).unwrap()).collect();
        let rom = Mapping::read_only(&open_ro(mounted.path("t")).unwrap()).unwrap();
        maps.iter().for_each(|map| map.write(PAGE, b"mine"));
        Self { manager, mounted, content, maps, rom }
    }

    #[track_caller]
    fn assert_goes_on(&self) {
        for map in &self.maps {
            map.sync_all().unwrap();
            map.forget().unwrap();
            let mut read = map.read(0, self.content.len());
            assert_eq!(&read[PAGE..PAGE + 4], b"mine");
            read[PAGE..PAGE + 4].copy_from_slice(&self.content[PAGE..PAGE + 4]);
            assert!(read == self.content);
        }
        self.rom.forget().unwrap();
        assert!(self.rom.read(0, self.content.len()) == self.content);
        assert_eq!(
            bytes_at(&open_ro(self.mounted.path("t?rom=off&view=a")).unwrap(), PAGE as u64, 4).unwrap(),
            b"mine"
        );
        opened(&self.mounted.path("t?rom=off")).write_all_at(b"new", 0).unwrap();
    }

    /// Nobody uses the mount any more.
    fn close(&mut self) {
        self.maps.iter().for_each(|map| map.sync_all().unwrap());
        self.maps.clear();
        self.rom = Mapping::read_only(&open_ro(self.mounted.store.join("t")).unwrap()).unwrap();
    }

    /// Of the mount, with its log on stderr.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = self.mounted.arguments();
        let log = arguments.iter().position(|word| word == "--log-file").unwrap();
        arguments.drain(log..log + 2);
        arguments
    }

    /// A start with what is kept and these arguments is refused in one line, which this is, and changes nothing.
    #[track_caller]
    fn refused(&self, arguments: &[OsString]) -> String {
        let before = self.manager.names();
        let refused = self.manager.spawn(binary(), arguments, Stdio::piped());
        let output = refused.wait_with_output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert_eq!(self.manager.names(), before);
        line
    }
}

/// The mount was lost when the process that holds it and the one that serves it died together.
#[test]
fn nothing_is_lost_however_often_all_processes_are_killed() {
    let kills = number(KILLS, 12);
    let _limit = limit(Duration::from_secs(240 + 6 * kills));
    let seed = seed();
    let manager = Manager::start();
    let mut mounted = start(&manager);
    let mut users = Users::start(&mounted, seed);
    let mut random = Random::new(seed);
    for round in 1..=kills {
        let old = mounted.serving();
        thread::sleep(Duration::from_millis(random.below(300)));
        kill_all(&mut mounted);
        mounted.mount();
        // Some die before they serve.
        if random.one_in(4) {
            thread::sleep(Duration::from_millis(random.below(100)));
        } else {
            wait_for_other_than(&mounted, old);
        }
        users.assert_all_go_on(format_args!("after {round} kills"));
    }
    users.finish(&mounted);
    assert!(mounted.log().contains("the process that held this mount was ended; another one holds it now"));
    assert!(mounted.stop().success());
    assert_eq!(manager.names(), [""; 0], "and what was kept is let go of");
}

#[test]
fn what_is_open_goes_on_and_nobody_opens_it_again() {
    let _limit = limit(Duration::from_secs(120));
    let mut used = Used::new();
    for _ in 0..3 {
        restart(&mut used.mounted);
        used.assert_goes_on();
    }
    assert_eq!(used.manager.ready(), 4, "each tells the manager");
    // As after any start, one of the processes may die.
    let old = used.mounted.serving();
    kill(old);
    wait_for_other_than(&used.mounted, old);
    used.assert_goes_on();
}

#[test]
fn nor_in_an_ordinary_users_mount() {
    let _limit = limit(Duration::from_secs(180));
    again_as_ordinary_user("what_is_open_goes_on_and_nobody_opens_it_again");
}

/// The memory of a view that is open has no path: it would be lost with the message that brings it to the holder.
#[test]
fn what_the_holder_has_not_heard_of_is_not_lost() {
    let _limit = limit(Duration::from_secs(120));
    let mut used = Used::new();
    let old = used.mounted.serving();
    let kept = used.manager.names().len();
    kill_process(used.mounted.daemon(), Signal::STOP).unwrap();
    let path = used.mounted.path(users::MEMORY);
    let view = match open_rw(&path) {
        Ok(view) => view,
        Err(error) => return println!("skipped: no view in memory here: {error}"),
    };
    view.write_all_at(b"mine", 0).unwrap();
    assert_eq!(used.manager.names().len(), kept, "the holder is stopped");
    kill_all(&mut used.mounted);
    used.mounted.mount();
    wait_for_other_than(&used.mounted, old);
    assert_eq!(used.manager.names().len(), kept + 1);
    assert_eq!(bytes_at(&view, 0, 4).unwrap(), b"mine");
    assert_eq!(view.metadata().unwrap().len(), used.content.len() as u64);
    // It is the successor that knows the file, and not the kernel's own mapping of it.
    rustix::fs::fchmod(&view, rustix::fs::Mode::RUSR).unwrap();
    assert_eq!(rustix::fs::fstat(&view).unwrap().st_mode & 0o777, 0o400);
    used.assert_goes_on();
}

/// It is not the new holder's child, and would serve the same mount beside the new one.
#[test]
fn a_process_that_serves_on_without_its_holder_gives_way_to_the_next() {
    let _limit = limit(Duration::from_secs(120));
    let mut used = Used::new();
    let old = used.mounted.serving();
    kill(used.mounted.daemon());
    used.mounted.wait();
    used.assert_goes_on();
    assert_eq!(used.mounted.serving(), old);
    used.mounted.mount();
    wait_for_other_than(&used.mounted, old);
    // A zombie where nobody waits for orphans.
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", old.as_raw_pid())).unwrap_or_default();
        (test_kill_process(old).is_err() || stat.contains(") Z ")).then_some(())
    };
    assert!(poll(SOON, gone).is_some(), "it still lives");
    used.assert_goes_on();
}

#[test]
fn who_still_holds_the_mount_keeps_it() {
    let _limit = limit(Duration::from_secs(120));
    let used = Used::new();
    let (holder, serving) = (used.mounted.daemon(), used.mounted.serving());
    let line = used.refused(&used.arguments());
    assert!(line.contains("the process that holds it still lives"), "{line}");
    assert_eq!((used.mounted.daemon(), used.mounted.serving()), (holder, serving));
    used.assert_goes_on();
}

#[test]
fn descriptors_of_another_mount_or_state_directory_are_refused_and_the_right_start_goes_on() {
    let _limit = limit(Duration::from_secs(120));
    let mut used = Used::new();
    let old = used.mounted.serving();
    kill_all(&mut used.mounted);
    let arguments = used.arguments();
    let state = arguments.iter().position(|word| word == "--state-dir").unwrap() + 1;
    let last = arguments.len() - 1;
    for (at, other) in
        [(state, "/nonexistent/state"), (last, "/nonexistent/mnt"), (last - 1, "/nonexistent/store")]
    {
        let mut arguments = arguments.clone();
        arguments[at] = other.into();
        let line = used.refused(&arguments);
        assert!(line.contains("another store, mountpoint or state directory is asked for"), "{line}");
    }
    // The path leads to another directory by now.
    let moved = used.mounted.state.with_extension("moved");
    fs::rename(&used.mounted.state, &moved).unwrap();
    fs::create_dir(&used.mounted.state).unwrap();
    fs::write(used.mounted.state.join("lock"), b"").unwrap();
    let line = used.refused(&arguments);
    assert!(line.contains("its state directory is another one now"), "{line}");
    fs::remove_dir_all(&used.mounted.state).unwrap();
    fs::rename(&moved, &used.mounted.state).unwrap();
    used.mounted.mount();
    wait_for_other_than(&used.mounted, old);
    used.assert_goes_on();
}

/// The first start of all is one with LISTEN_FDS=0 and an empty LISTEN_FDNAMES.
#[test]
fn after_an_unmount_nothing_is_kept_and_the_next_start_mounts_anew() {
    let _limit = limit(Duration::from_secs(120));
    let mut used = Used::new();
    assert!(used.manager.names().iter().any(|name| name == "device"), "{:?}", used.manager.names());
    used.close();
    let umount = Command::new(binary()).arg("umount").arg(&used.mounted.mountpoint).status().unwrap();
    assert!(umount.success() && used.mounted.wait().success());
    assert_eq!(used.manager.names(), [""; 0]);
    used.mounted.mount();
    used.assert_goes_on();
    assert!(!used.mounted.log().contains("another one holds it now"), "{}", used.mounted.log());
}

#[test]
fn a_mount_that_was_unmounted_while_all_were_dead_is_made_anew() {
    let _limit = limit(Duration::from_secs(120));
    if !is_root() {
        println!("skipped: it unmounts by umount(2)");
        return;
    }
    let mut used = Used::new();
    used.close();
    kill_all(&mut used.mounted);
    let umount = Command::new("umount").arg("-l").arg(&used.mounted.mountpoint).status().unwrap();
    assert!(umount.success() && !is_mounted(&used.mounted.mountpoint));
    used.mounted.mount();
    used.assert_goes_on();
    let log = used.mounted.log();
    assert!(log.contains("does not go on: it is gone") && !log.contains("another one holds it now"), "{log}");
}

/// Killed at any instant of its start, the next one mounts: nobody had got an answer.
#[test]
fn a_start_that_was_killed_leaves_nothing_that_would_stop_the_next() {
    let _limit = limit(Duration::from_secs(240));
    let manager = Manager::start();
    let mut mounted = start(&manager);
    mounted.template("t", &pattern(1, PAGE));
    assert!(mounted.stop().success());
    let mut random = Random::new(seed());
    for _ in 0..10 {
        let mut daemon = manager.spawn(binary(), &mounted.arguments(), Stdio::inherit());
        thread::sleep(Duration::from_millis(random.below(250)));
        family(Pid::from_child(&daemon)).into_iter().for_each(kill);
        daemon.wait().unwrap();
    }
    mounted.mount();
    fs::read(mounted.path("t?rom=off")).unwrap();
    assert!(mounted.stop().success());
    assert_eq!(manager.names(), [""; 0]);
}

#[test]
fn sockets_that_somebody_else_hands_over_are_no_mount() {
    let _limit = limit(Duration::from_secs(60));
    let manager = Manager::start();
    let mut mounted = start(&manager);
    mounted.template("t", &pattern(1, PAGE));
    assert!(mounted.stop().success());
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    manager.put("templatefs.socket", socket.into());
    mounted.mount();
    fs::read(mounted.path("t?rom=off")).unwrap();
    assert!(mounted.log().contains("is of no mount of templatefs: mounting anew"), "{}", mounted.log());
}
