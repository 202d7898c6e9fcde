//! A view whose store or state hangs stalls itself and nobody else.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use common::child;
use common::files::{bytes_at, open_ro, open_rw};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, is_root};
use common::random::pattern;
use common::stuck::{self, Stuck};
use common::users::{self, Users, number, seed};
use common::views::views;

const LENGTH: usize = 4 << 20;
const PAGE: usize = 4096;
/// More than there are event loops.
const CROWD: usize = 8;

/// Uses a file that may hang, or is one of the users of the mount.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    match what.as_str() {
        "read" => read_all(&path),
        "fault" => fault(&path),
        "write" => write(&path),
        "dirty" => dirty(&path),
        stuck::SERVE => stuck::serve(&path),
        _ => users::run(),
    }
}

fn content() -> Vec<u8> {
    pattern(1, LENGTH)
}

/// All of it, in an order that no read-ahead guesses.
fn read_all(path: &Path) {
    let (file, content) = (open_rw(path).unwrap(), content());
    for page in (0..LENGTH / PAGE).rev() {
        let at = page * PAGE;
        assert!(bytes_at(&file, at as u64, PAGE).unwrap() == content[at..at + PAGE], "page {page}");
    }
}

fn fault(path: &Path) {
    let (file, content) = (open_rw(path).unwrap(), content());
    let map = Mapping::shared(&file).unwrap();
    for page in (0..LENGTH / PAGE).step_by(3) {
        map.write(page * PAGE, b"mine");
        assert_eq!(map.read(page * PAGE + 4, 60), content[page * PAGE + 4..page * PAGE + 64], "page {page}");
    }
    map.sync_all().unwrap();
    assert_is_fault(&file);
}

fn assert_is_fault(file: &File) {
    for page in (0..LENGTH / PAGE).step_by(3) {
        assert_eq!(bytes_at(file, (page * PAGE) as u64, 4).unwrap(), b"mine", "page {page}");
    }
}

fn write(path: &Path) {
    let file = open_rw(path).unwrap();
    file.write_all_at(&pattern(7, LENGTH), 0).unwrap();
    file.sync_all().unwrap();
    assert!(bytes_at(&file, 0, LENGTH).unwrap() == pattern(7, LENGTH));
}

/// As many write-backs as there are of pages that do not touch: the kernel merges none of them.
fn dirty(path: &Path) {
    let map = Mapping::shared(&open_rw(path).unwrap()).unwrap();
    for page in (0..LENGTH / PAGE).step_by(2) {
        map.write(page * PAGE, b"mine");
    }
    map.sync_all().unwrap();
}

/// Two event loops, and a store or state of which one file may hang; None where nobody may mount that.
fn mount(store: bool, more: &[&'static str]) -> Option<(Stuck, Mounted)> {
    if !is_root() {
        println!("skipped: needs root, to mount a filesystem that hangs");
        return None;
    }
    let stuck = Stuck::mount();
    let mut options = Options::with(&["--threads", "2"]);
    options.arguments.extend(more);
    match store {
        true => options.store = Some(stuck.mountpoint.clone()),
        false => options.state = Some(stuck.mountpoint.join("state")),
    }
    let mounted = Mounted::start(options);
    for name in ["bad", "good"] {
        mounted.template(name, &content());
    }
    Some((stuck, mounted))
}

struct Crowd(Vec<Child>);

impl Crowd {
    fn new(what: &str, mounted: &Mounted, names: impl Iterator<Item = String>) -> Self {
        let start = |name: String| child::command(what, &mounted.path(&name)).spawn().unwrap();
        Self(names.map(start).collect())
    }

    #[track_caller]
    fn assert_wait(&mut self) {
        for child in &mut self.0 {
            assert_eq!(child.try_wait().unwrap(), None, "it does not wait");
        }
    }

    #[track_caller]
    fn assert_end_well(self) {
        for mut child in self.0 {
            assert!(child.wait().unwrap().success());
        }
    }
}

/// What others do meanwhile, in every way; `round` tells it from other times.
fn others_go_on(mounted: &Mounted, old: &File, round: usize) {
    let content = content();
    let at = ((round + 1) * 7 * PAGE) as u64;
    assert!(bytes_at(old, at, PAGE).unwrap() == content[at as usize..at as usize + PAGE]);
    old.write_all_at(b"written", 0).unwrap();
    old.sync_all().unwrap();
    let names = [format!("good?rom=off&view=new-{round}"), "good?rom=off".into()];
    for name in &names {
        let path = mounted.path(name);
        assert_eq!(fs::metadata(&path).unwrap().len(), LENGTH as u64);
        let new = open_rw(&path).unwrap();
        let map = Mapping::shared(&new).unwrap();
        assert_eq!(map.read(LENGTH - 4, 4), content[LENGTH - 4..]);
        map.write(PAGE, b"stored");
        map.sync_all().unwrap();
        assert_eq!(bytes_at(&new, PAGE as u64, 6).unwrap(), b"stored");
        rustix::fs::fallocate(&new, rustix::fs::FallocateFlags::empty(), 0, 2 * LENGTH as u64).unwrap();
        new.set_len(PAGE as u64).unwrap();
    }
    fs::remove_file(mounted.path(&names[0])).unwrap();
    assert_eq!(bytes_at(&open_ro(mounted.path("good")).unwrap(), 0, 64).unwrap(), content[..64]);
    let listed = fs::read_dir(&mounted.mountpoint).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(listed.collect::<Vec<_>>().contains(&"good".into()));
    assert!(fs::metadata(mounted.path("bad")).unwrap().is_file());
    assert!(views(mounted).iter().any(|view| view.id == "old"));
    for file in ["metrics", "templates.json", "pages", "views/old/status", "views/old/pages"] {
        assert!(!fs::read(mounted.path(&format!(".templatefs/{file}"))).unwrap().is_empty(), "{file}");
    }
    let path = mounted.path("good?rom=off&view=old");
    assert!(fs::metadata(path).unwrap().len() > 0);
}

fn old(mounted: &Mounted) -> File {
    let old = open_rw(mounted.path("good?rom=off&view=old")).unwrap();
    old.write_all_at(b"written", 0).unwrap();
    old
}

fn of_bad(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| match number % 2 {
        0 => "bad?rom=off".to_owned(),
        _ => format!("bad?rom=off&view=bad-{number}"),
    })
}

/// With two event loops two reads of a template that hangs stalled the whole mount.
#[test]
fn views_of_a_template_that_hangs_stall_no_others() {
    let _limit = limit(Duration::from_secs(120));
    let Some((stuck, mounted)) = mount(true, &[]) else { return };
    let old = old(&mounted);
    let held = open_rw(mounted.path("bad?rom=off&view=held")).unwrap();
    stuck.hang("/bad");
    let mut readers = Crowd::new("read", &mounted, of_bad(CROWD));
    let faulting = (0..3).map(|number| format!("bad?rom=off&view=faulting-{number}"));
    let mut faulting = Crowd::new("fault", &mounted, faulting);
    stuck.wait_for(1);
    mounted.wait_for_log("event loops more serve the others");
    for round in 0..3 {
        others_go_on(&mounted, &old, round);
    }
    readers.assert_wait();
    faulting.assert_wait();
    stuck.release();
    readers.assert_end_well();
    faulting.assert_end_well();
    assert!(bytes_at(&held, 0, LENGTH).unwrap() == content());
    others_go_on(&mounted, &old, 3);
}

/// So did two write-backs to a file of the state directory that hangs.
#[test]
fn views_whose_state_hangs_stall_no_others() {
    let _limit = limit(Duration::from_secs(120));
    let Some((stuck, mounted)) = mount(false, &[]) else { return };
    let old = old(&mounted);
    for end in ["n-bad.data", "n-bad.map"] {
        stuck.hang(end);
        let name = |_| "bad?rom=off&view=bad".to_owned();
        let mut faulting = Crowd::new("fault", &mounted, (0..2).map(name));
        stuck.wait_for(1);
        let mut readers = Crowd::new("fault", &mounted, (0..2).map(name));
        for round in 0..3 {
            others_go_on(&mounted, &old, round);
        }
        faulting.assert_wait();
        readers.assert_wait();
        stuck.release();
        faulting.assert_end_well();
        readers.assert_end_well();
        assert_is_fault(&open_ro(mounted.path("bad?rom=off&view=bad")).unwrap());
        fs::remove_file(mounted.path("bad?rom=off&view=bad")).unwrap();
    }
    assert!(mounted.log().contains("event loops more serve the others"));
}

/// A successor read all views before it served any, and one that hung kept it from all.
#[test]
fn a_takeover_while_views_hang_serves_the_others_and_those_later() {
    let _limit = limit(Duration::from_secs(180));
    for (store, end) in [(true, "/bad"), (false, "n-bad.data"), (false, "n-bad.map")] {
        let Some((stuck, mounted)) = mount(store, &[]) else { return };
        let old = old(&mounted);
        let name = |number: usize| match store {
            true => format!("bad?rom=off&view=bad-{number}"),
            false => "bad?rom=off&view=bad".to_owned(),
        };
        drop(open_rw(mounted.path("bad?rom=off&view=resting")).unwrap());
        stuck.hang(end);
        let mut faulting = Crowd::new("fault", &mounted, (0..3).map(name));
        stuck.wait_for(1);
        for round in 0..2 {
            let dead = mounted.serving();
            kill_process(dead, Signal::KILL).unwrap();
            let replaced = poll(Duration::from_secs(60), || (mounted.serving() != dead).then_some(()));
            assert!(replaced.is_some(), "{end}: no successor");
            others_go_on(&mounted, &old, round);
            faulting.assert_wait();
        }
        stuck.release();
        faulting.assert_end_well();
        let expected = open_ro(mounted.path(&name(0))).unwrap();
        assert_is_fault(&expected);
        others_go_on(&mounted, &old, 2);
    }
}

/// The kernel has 512 slots for requests that nobody waits for, for all views of a mount: one whose
/// state hangs can take them all. What others wait for themselves goes on; their write-back and read-ahead
/// wait, and nothing of it is lost (docs/DESIGN.md).
#[test]
fn a_view_that_takes_all_slots_of_the_kernel_leaves_the_others_what_needs_none() {
    const SLOTS: usize = 512;
    let _limit = limit(Duration::from_secs(180));
    let Some((stuck, mounted)) = mount(false, &[]) else { return };
    let old = old(&mounted);
    fs::metadata(mounted.path("good")).unwrap();
    stuck.hang("bad.data");
    let names = ["bad?rom=off&view=1-bad", "bad?rom=off&view=2-bad"].map(str::to_owned);
    let mut dirty = Crowd::new("dirty", &mounted, names.into_iter());
    // Each of them holds an event loop, and how many are started at once depends on who was stuck first.
    let loops =
        || fs::read_dir(format!("/proc/{}/task", mounted.serving().as_raw_nonzero())).unwrap().count();
    let taken = poll(Duration::from_secs(60), || (loops() > SLOTS).then_some(()));
    assert!(taken.is_some(), "the slots are not taken");
    for round in 0..20 {
        old.write_all_at(b"written", round * PAGE as u64).unwrap();
        assert_eq!(bytes_at(&old, round * PAGE as u64, 7).unwrap(), b"written");
        let path = mounted.path(&format!("good?rom=off&view=new-{round}"));
        let new = open_rw(&path).unwrap();
        new.write_all_at(&[7; PAGE], 0).unwrap();
        new.set_len(PAGE as u64).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), PAGE as u64);
        fs::remove_file(&path).unwrap();
    }
    let kinds = [("read", "good?rom=off"), ("write", "good?rom=off&view=w"), ("fault", "good?rom=off")];
    let mut others =
        kinds.map(|(what, name)| (what, child::command(what, &mounted.path(name)).spawn().unwrap()));
    thread::sleep(Duration::from_secs(3));
    for (what, child) in &mut others {
        println!(
            "after 3 s another view's {what}: {:?}",
            child.try_wait().unwrap().map(|status| status.code())
        );
    }
    dirty.assert_wait();
    stuck.release();
    dirty.assert_end_well();
    Crowd(others.map(|(_, child)| child).into()).assert_end_well();
}

/// A journal that hangs keeps opens and closes waiting, and nothing else.
#[test]
fn while_the_journal_hangs_what_is_open_goes_on() {
    let _limit = limit(Duration::from_secs(120));
    let Some((stuck, mounted)) = mount(false, &[]) else { return };
    let old = old(&mounted);
    fs::metadata(mounted.path("good")).unwrap();
    stuck.hang("/journal");
    let mut writers = Crowd::new("write", &mounted, of_bad(CROWD));
    stuck.wait_for(1);
    for round in 0..20 {
        let at = ((LENGTH / PAGE / 2 + round) * PAGE) as u64;
        assert!(bytes_at(&old, at + 8, 64).unwrap() == content()[at as usize + 8..at as usize + 72]);
        old.write_all_at(b"written", at).unwrap();
        assert!(fs::metadata(mounted.path("good?rom=off")).unwrap().is_file());
        assert!(fs::metadata(mounted.path("good?rom=off&view=old")).unwrap().is_file());
    }
    old.sync_all().unwrap();
    writers.assert_wait();
    stuck.release();
    writers.assert_end_well();
    others_go_on(&mounted, &old, 0);
}

/// `TEMPLATEFS_STOP_SECONDS=10` is the long form.
#[test]
fn nothing_is_lost_while_the_daemon_is_stopped() {
    let seconds = number("TEMPLATEFS_STOP_SECONDS", 3);
    let _limit = limit(Duration::from_secs(120 + seconds));
    println!("stopped for {seconds} s");
    let mounted = Mounted::start(Options::default());
    let mut users = Users::start(&mounted, seed());
    let processes = [mounted.daemon(), mounted.serving()];
    let signal = |signal| processes.map(|process: Pid| kill_process(process, signal).unwrap());
    // Each has opened what it uses, and has begun.
    let begun = || (views(&mounted).iter().filter(|view| view.opens > 0).count() >= 5).then_some(());
    assert!(poll(Duration::from_secs(60), begun).is_some(), "they do not begin");
    signal(Signal::STOP);
    thread::sleep(Duration::from_secs(seconds));
    signal(Signal::CONT);
    let path = mounted.path("t?rom=off&view=after");
    open_rw(&path).unwrap().write_all_at(b"after", 0).unwrap();
    fs::remove_file(&path).unwrap();
    users.assert_all_go_on("after the daemon was stopped");
    users.finish(&mounted);
}
