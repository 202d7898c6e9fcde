//! Room for private views is promised when they are opened, or they are not opened.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use common::files::{SOON, assert_refused, bytes_at, error_line, open_ro, open_rw};
use common::ground::Ground;
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options};

const SIZE: u64 = 512 << 10;

fn mounted(arguments: &[&'static str]) -> Mounted {
    let mounted = Mounted::start(Options::with(arguments));
    mounted.template("t", &[7; SIZE as usize]);
    mounted
}

/// What is promised to open views, once it is `wanted`: a close is told to the daemon a little later.
#[track_caller]
fn promised(mounted: &Mounted, wanted: u64) {
    let metrics = || fs::read_to_string(mounted.path(".templatefs/metrics")).unwrap();
    let line = format!("templatefs_promised_bytes {wanted}\n");
    assert!(poll(SOON, || metrics().contains(&line).then_some(())).is_some(), "{}", metrics());
}

#[test]
fn a_view_that_cannot_be_promised_its_pages_is_not_opened() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&["--budget", "1MiB"]);
    let path = mounted.path("t?rom=off");
    let first = open_rw(&path).unwrap();
    let second = open_rw(mounted.path("t?rom=off&view=a")).unwrap();
    promised(&mounted, 2 * SIZE);
    assert_refused(open_rw(&path), Errno::NOSPC, "a third view");
    mounted.wait_for_log("512.0 KiB more cannot be promised");
    // These own nothing in the state directory.
    let read_only = open_ro(&path).unwrap();
    open_ro(mounted.path("t")).unwrap();
    let again = open_rw(mounted.path("t?rom=off&view=a")).unwrap();
    // What was promised can be used, to the last page.
    let map = Mapping::shared(&first).unwrap();
    map.write(SIZE as usize - 1, b"!");
    map.sync_all().unwrap();
    second.write_all_at(&[1; 5000], 0).unwrap();
    drop((first, map));
    promised(&mounted, SIZE);
    drop(open_rw(&path).unwrap());
    drop((second, again, read_only));
    promised(&mounted, 0);
    // At rest the view with a name counts as the two pages that it owns.
    let whole = open_rw(&path).unwrap();
    assert_refused(open_rw(&path), Errno::NOSPC, "beside the view at rest");
    drop(whole);
}

#[test]
fn more_than_the_budget_is_promised_where_that_is_wished() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&["--budget", "1MiB", "--overcommit", "1.5"]);
    let views = [(); 3].map(|()| open_rw(mounted.path("t?rom=off")).unwrap());
    assert_refused(open_rw(mounted.path("t?rom=off")), Errno::NOSPC, "a fourth view");
    drop(views);
}

#[test]
fn a_view_grows_as_far_as_there_is_room() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&["--budget", "1MiB"]);
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    view.set_len(2 * SIZE).unwrap();
    view.write_all_at(b"the end", 2 * SIZE - 7).unwrap();
    assert_refused(view.set_len(2 * SIZE + 1), Errno::NOSPC, "ftruncate");
    assert_refused(view.write_all_at(b"beyond", 2 * SIZE), Errno::NOSPC, "pwrite");
    assert_eq!(bytes_at(&view, 2 * SIZE - 7, 7).unwrap(), b"the end");
    assert_eq!(view.metadata().unwrap().len(), 2 * SIZE);
    assert_refused(open_rw(mounted.path("t?rom=off")), Errno::NOSPC, "another view");
}

#[test]
fn what_was_promised_stays_promised_when_another_process_serves() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&["--budget", "1MiB"]);
    let views = [(); 2].map(|()| open_rw(mounted.path("t?rom=off")).unwrap());
    kill_process(mounted.serving(), Signal::KILL).unwrap();
    views[0].write_all_at(&[2; SIZE as usize], 0).unwrap();
    promised(&mounted, 2 * SIZE);
    assert_refused(open_rw(mounted.path("t?rom=off")), Errno::NOSPC, "a third view");
    drop(views);
    promised(&mounted, 0);
}

#[test]
fn no_private_view_is_larger_than_the_mount_lets_it_be() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&["--max-private", "600KiB"]);
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    view.set_len(600 << 10).unwrap();
    assert_refused(view.set_len((600 << 10) + 1), Errno::FBIG, "ftruncate");
    mounted.template("large", &[0; 700 << 10]);
    assert_refused(open_rw(mounted.path("large?rom=off")), Errno::FBIG, "a large template");
    open_ro(mounted.path("large")).unwrap();
}

#[test]
fn a_budget_that_is_no_size_is_refused_in_one_line() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    for (option, value, wanted) in [
        ("--budget", "much", "budget=much: it is a number of bytes, or as 64GiB"),
        ("--overcommit", "0.5", "overcommit=0.5: it is a number from 1 to 1000"),
        ("--max-private", "-1", "max_private=-1"),
    ] {
        let line = error_line(&ground.mount(&[&format!("{option}={value}")]));
        assert!(line.contains(wanted), "{line}");
    }
}
