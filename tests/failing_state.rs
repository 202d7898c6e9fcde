//! A state directory whose disk answers EIO for a while.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use common::child;
use common::clones::open_directory;
use common::files::{SOON, assert_refused, bytes_at, error_line, open_rw, opened, templatefs};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, is_root};
use common::random::pattern;
use common::stuck::{self, Stuck};
use common::views::{metric, view};
use templatefs::steps::{ENVIRONMENT, PANIC, WRITE};

const PAGE: usize = 4096;
const SIZE: usize = 4 << 20;
const HELD: &str = "mapped pages wait until the state directory can be written and are not lost";

// What closes a file waits for its write-back, and a program that is started closes what its parent had
// open. So no test that starts one has a view open of which pages are held.

/// A guest that stores to its memory, and syncs it; or what else has to be a process of its own.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let stored = stored();
    stuck::run(|map| runs().for_each(|pages| map.write(pages.start, &stored[pages])), &stored);
}

/// Of pages, of different lengths, which are written back one by one; in bytes.
fn runs() -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..40).map(|run| run * 25 * PAGE..(run * 25 + run % 7 + 1) * PAGE)
}

fn template() -> Vec<u8> {
    pattern(1, SIZE)
}

/// The template with the guest's stores.
fn stored() -> Vec<u8> {
    let (mut content, new) = (template(), pattern(2, SIZE));
    runs().for_each(|pages| content[pages.clone()].copy_from_slice(&new[pages]));
    content
}

/// Two templates, and a state directory that can fail. None without the right to mount one.
fn mounted(arguments: &[&'static str]) -> Option<(Stuck, Mounted)> {
    mounted_as(Options::with(arguments))
}

fn mounted_as(options: Options) -> Option<(Stuck, Mounted)> {
    if !is_root() {
        println!("skipped: needs root, to mount a filesystem that fails");
        return None;
    }
    let stuck = Stuck::mount();
    let options = Options { state: Some(stuck.mountpoint.join("state")), ..options };
    let mounted = Mounted::start(options);
    for name in ["t", "other"] {
        mounted.template(name, &template());
    }
    Some((stuck, mounted))
}

/// A view of `t` that is there, and that nobody has open.
fn made(mounted: &Mounted, name: &str) -> PathBuf {
    let path = mounted.path(&format!("t?rom=off&view={name}"));
    drop(opened(&path));
    path
}

fn store(path: &Path) -> Child {
    child::command("store", path).spawn().unwrap()
}

/// Until some of the guest's pages are held, and that is told everywhere.
#[track_caller]
fn wait_until_held(mounted: &Mounted, name: &str) {
    let bytes = poll(SOON, || Some(view(mounted, name).held_bytes).filter(|bytes| *bytes > 0));
    assert!(bytes.is_some_and(|bytes| bytes <= SIZE as u64), "{bytes:?}\n{}", mounted.log());
    mounted.wait_for_log(HELD);
    assert!(held_metric(mounted) > 0);
}

fn held_metric(mounted: &Mounted) -> u64 {
    metric(mounted, "templatefs_view_held_bytes{kind=\"private\"}")
}

#[track_caller]
fn assert_goes_on_well(mounted: &Mounted, mut guest: Child, name: &str) {
    assert!(guest.wait().unwrap().success(), "{}", mounted.log());
    let settled = poll(SOON, || (view(mounted, name).held_bytes == 0).then_some(()));
    assert!(settled.is_some(), "{:?}", view(mounted, name));
    assert_eq!(held_metric(mounted), 0);
}

/// Another template's view is opened, written, mapped and read.
#[track_caller]
fn assert_others_go_on(mounted: &Mounted, old: &File, round: usize) {
    let at = (round * PAGE) as u64;
    old.write_all_at(b"written", at).unwrap();
    fadvise(old, 0, None, Advice::DontNeed).unwrap();
    assert_eq!(bytes_at(old, at, 7).unwrap(), b"written");
    old.sync_all().unwrap();
    let path = mounted.path(&format!("other?rom=off&view=new-{round}"));
    let new = opened(&path);
    let map = Mapping::shared(&new).unwrap();
    map.write(PAGE, b"stored");
    map.sync_all().unwrap();
    assert_eq!(bytes_at(&new, PAGE as u64, 6).unwrap(), b"stored");
    drop((map, new));
    fs::remove_file(path).unwrap();
    assert!(fs::read(mounted.path("t")).unwrap() == template());
}

/// EIO for mapped pages would reach nobody: the kernel would drop them, and a guest see its old memory.
#[test]
fn mapped_pages_that_a_failing_disk_does_not_take_are_held_until_it_does() {
    let _limit = limit(Duration::from_secs(120));
    hold_stores(&[]);
}

#[test]
fn they_are_held_where_one_thread_serves_all() {
    let _limit = limit(Duration::from_secs(120));
    hold_stores(&["--threads", "1"]);
}

fn hold_stores(arguments: &[&'static str]) {
    let Some((stuck, mut mounted)) = mounted(arguments) else { return };
    let old = opened(&mounted.path("other?rom=off&view=old"));
    for (round, (name, end)) in [("a", "n-a.data"), ("b", "n-b.map")].into_iter().enumerate() {
        let path = made(&mounted, name);
        stuck.fail(end);
        let mut guest = store(&path);
        wait_until_held(&mounted, name);
        for turn in 0..3 {
            assert_others_go_on(&mounted, &old, 3 * round + turn);
        }
        assert_eq!(guest.try_wait().unwrap(), None, "msync waits for what is held");
        stuck.release();
        assert_goes_on_well(&mounted, guest, name);
        assert!(fs::read(&path).unwrap() == stored());
    }
    mounted.wait_for_log("the state directory can be written again");
    drop(old);
    mounted.kill();
    mounted.mount();
    for name in ["a", "b"] {
        let path = mounted.path(&format!("t?rom=off&view={name}"));
        assert!(fs::read(path).unwrap() == stored(), "as the next daemon finds it");
    }
}

/// Who writes or syncs by himself hears of it.
#[test]
fn a_write_and_a_sync_that_the_disk_refuses_are_eio_and_work_later() {
    let _limit = limit(Duration::from_secs(60));
    let Some((stuck, mounted)) = mounted(&[]) else { return };
    let path = made(&mounted, "a");
    let view = opened(&path);
    view.write_all_at(b"before", 0).unwrap();
    for end in ["n-a.data", "n-a.map"] {
        stuck.fail(end);
        assert_refused(view.write_all_at(b"refused", (SIZE - PAGE) as u64), Errno::IO, end);
    }
    for end in ["n-a.data", "n-a.synced"] {
        stuck.release();
        view.write_all_at(b"behind", PAGE as u64).unwrap();
        stuck.fail(end);
        assert_refused(view.sync_all(), Errno::IO, end);
    }
    stuck.fail("/journal");
    assert_refused(open_rw(mounted.path("other?rom=off")), Errno::IO, "an open that cannot be recorded");
    view.write_all_at(b"beside", 2 * PAGE as u64).unwrap();
    stuck.release();
    view.sync_all().unwrap();
    opened(&mounted.path("other?rom=off"));
    let mut expected = template();
    for (page, bytes) in [b"before", b"behind", b"beside"].into_iter().enumerate() {
        expected[page * PAGE..][..6].copy_from_slice(bytes);
    }
    fadvise(&view, 0, None, Advice::DontNeed).unwrap();
    assert!(bytes_at(&view, 0, SIZE).unwrap() == expected);
}

/// What is held was not answered: whoever serves next gets it again.
#[test]
fn what_is_held_outlives_whoever_holds_it() {
    let _limit = limit(Duration::from_secs(120));
    let Some((stuck, mut mounted)) = mounted(&[]) else { return };
    let old = opened(&mounted.path("other?rom=off&view=old"));
    let path = made(&mounted, "a");
    stuck.fail("n-a.data");
    let mut guest = store(&path);
    wait_until_held(&mounted, "a");
    for round in 0..3 {
        let before = mounted.log().matches(HELD).count();
        let dead = mounted.serving();
        kill_process(dead, Signal::KILL).unwrap();
        let again = poll(SOON, || (mounted.log().matches(HELD).count() > before).then_some(()));
        assert!(again.is_some(), "{}", mounted.log());
        wait_until_held(&mounted, "a");
        assert_ne!(mounted.serving(), dead);
        assert_others_go_on(&mounted, &old, round);
        assert_eq!(guest.try_wait().unwrap(), None, "msync waits for what is held");
    }
    stuck.release();
    assert_goes_on_well(&mounted, guest, "a");
    drop(old);
    mounted.kill();
    mounted.mount();
    assert!(fs::read(&path).unwrap() == stored(), "as the next daemon finds it");
}

/// A panic while a held write was tried again dropped its reply, and with it the pages.
#[test]
fn a_panic_while_what_is_held_is_tried_again_loses_nothing() {
    let _limit = limit(Duration::from_secs(120));
    if !cfg!(debug_assertions) {
        return println!("skipped: the steps are in debug builds only");
    }
    let directory = open_directory();
    let armed = directory.path().join("armed");
    let environment = Some((ENVIRONMENT, armed.clone()));
    let Some((stuck, mounted)) = mounted_as(Options { environment, ..Options::default() }) else { return };
    let path = made(&mounted, "a");
    stuck.fail("n-a.data");
    let guest = store(&path);
    let panic = || {
        let all = runs().map(|pages| pages.len() as u64).sum::<u64>();
        let held = poll(SOON, || (view(&mounted, "a").held_bytes == all).then_some(()));
        assert!(held.is_some(), "{:?}", view(&mounted, "a"));
        let serving = mounted.serving();
        fs::write(armed.with_extension("new"), format!("{PANIC}{}", WRITE[0])).unwrap();
        fs::rename(armed.with_extension("new"), &armed).unwrap();
        assert!(poll(SOON, || (!armed.exists()).then_some(())).is_some(), "{}", mounted.log());
        serving
    };
    let first = panic();
    assert!(poll(SOON, || (mounted.serving() != first).then_some(())).is_some(), "it is replaced");
    // All successors would die of a write that they are all sent.
    let second = panic();
    stuck.release();
    assert_goes_on_well(&mounted, guest, "a");
    assert_eq!(mounted.serving(), second, "it goes on");
    assert!(fs::read(&path).unwrap() == stored());
}

/// Whoever wants to end the mount is told who needs it, and nothing that is held is given up.
#[test]
fn a_mount_that_holds_pages_is_busy_and_goes_on() {
    let _limit = limit(Duration::from_secs(120));
    let Some((stuck, mut mounted)) = mounted(&[]) else { return };
    let path = made(&mounted, "a");
    stuck.fail("n-a.data");
    let guest = store(&path);
    wait_until_held(&mounted, "a");
    kill_process(mounted.daemon(), Signal::TERM).unwrap();
    mounted.wait_for_log(": busy: ");
    let line = error_line(&templatefs(["umount".as_ref(), mounted.mountpoint.as_os_str()]));
    assert!(line.contains("busy"), "{line}");
    wait_until_held(&mounted, "a");
    stuck.release();
    assert_goes_on_well(&mounted, guest, "a");
    assert!(mounted.stop().success());
    mounted.mount();
    assert!(fs::read(&path).unwrap() == stored(), "as the next daemon finds it");
}
