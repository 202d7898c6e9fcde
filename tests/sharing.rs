//! One named view that several have open and mapped at once, also from different processes.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, flock};

use common::child;
use common::files::opened;
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, again_as_ordinary_user};

const PAGE: usize = 4096;
const TEMPLATE: usize = 16 * PAGE + 10;
const VIEW: &str = "t?rom=off&view=shared";

fn map(path: &Path) -> Mapping {
    Mapping::shared(&opened(path)).unwrap()
}

/// The other process of the tests below.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    let path = path.as_path();
    match what.as_str() {
        "store" => {
            let map = map(path);
            assert_eq!(map.read(5 * PAGE, 6), b"parent");
            map.write(5 * PAGE + 100, b"child");
        }
        "locked" => {
            let file = opened(path);
            assert_eq!(
                flock(&file, FlockOperation::NonBlockingLockShared),
                Err(rustix::io::Errno::WOULDBLOCK)
            );
            assert_eq!(lock(&file, libc::F_WRLCK, 10), Err(Errno::EAGAIN));
            assert_eq!(lock(&file, libc::F_WRLCK, 200), Ok(()));
        }
        "unlocked" => {
            let file = opened(path);
            assert_eq!(flock(&file, FlockOperation::NonBlockingLockExclusive), Ok(()));
            assert_eq!(lock(&file, libc::F_WRLCK, 10), Ok(()));
        }
        other => panic!("{other}"),
    }
}

/// fcntl(F_SETLK) of one byte.
fn lock(file: &File, kind: i32, byte: i64) -> Result<(), Errno> {
    let lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_SETLK(&lock)).map(drop)
}

#[test]
fn mappings_of_one_view_see_each_others_stores_across_processes() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = Mounted::with_data(TEMPLATE);
    let path = mounted.path(VIEW);
    let (first, second) = (map(&path), map(&path));
    first.write(5 * PAGE, b"parent");
    assert_eq!(second.read(5 * PAGE, 6), b"parent");
    child::run("store", &path);
    assert_eq!(first.read(5 * PAGE + 100, 5), b"child");
    assert_eq!(second.read(5 * PAGE + 100, 5), b"child");
    let mut read = [0; 5];
    opened(&path).read_exact_at(&mut read, (5 * PAGE + 100) as u64).unwrap();
    assert_eq!(read, *b"child");
    assert_eq!(std::fs::read(mounted.path("t?rom=off")).unwrap(), template, "another view");
}

#[test]
fn stores_to_a_private_mapping_stay_with_it() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = Mounted::with_data(TEMPLATE);
    for path in [VIEW, "t?rom=off", "t"] {
        let path = mounted.path(path);
        let file = File::open(&path).unwrap();
        let private = Mapping::private(&file).unwrap();
        for at in [0, PAGE - 2, 3 * PAGE, TEMPLATE - 4] {
            private.write(at, b"mine");
            assert_eq!(private.read(at, 4), b"mine");
        }
        assert_eq!(Mapping::read_only(&file).unwrap().read(0, TEMPLATE), template);
        assert_eq!(std::fs::read(&path).unwrap(), template);
    }
    assert_eq!(std::fs::read(mounted.store.join("t")).unwrap(), template);
}

/// Opened first by the reader: its pages are in memory when the writer's opening comes.
#[test]
fn a_read_only_mapping_follows_what_another_writes() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = Mounted::with_data(TEMPLATE);
    let path = mounted.path(VIEW);
    let reader = File::open(&path).unwrap();
    let seen = Mapping::read_only(&reader).unwrap();
    assert_eq!(seen.read(0, TEMPLATE), template);
    let writer = opened(&path);
    writer.write_all_at(b"written", 7).unwrap();
    assert_eq!(seen.read(7, 7), b"written");
    let stores = map(&path);
    stores.write(PAGE - 3, b"stored");
    assert_eq!(seen.read(PAGE - 3, 6), b"stored");
    rustix::fs::ftruncate(&writer, 9).unwrap();
    rustix::fs::ftruncate(&writer, PAGE as u64).unwrap();
    let expected = [&template[..7], b"wr", &[0; PAGE - 9][..]].concat();
    assert_eq!(seen.read(0, PAGE), expected);
    assert_eq!(writer.write_at(b"", 0).unwrap(), 0);
    assert!(Mapping::shared(&reader).is_err(), "a file opened for reading has no writable shared mapping");
}

/// Each of four threads counts in a word of its own of each page.
#[test]
fn threads_that_store_to_the_same_pages_lose_nothing() {
    let _limit = limit(Duration::from_secs(60));
    let (mut mounted, template) = Mounted::with_data(TEMPLATE);
    let path = mounted.path(VIEW);
    const ROUNDS: u64 = 200;
    let count = |thread: usize| {
        let map = map(&path);
        for round in 1..=ROUNDS {
            for page in 0..16 {
                let at = page * PAGE + thread * 8;
                let before = map.read(at, 8);
                let expected = if round == 1 {
                    template[at..at + 8].to_vec()
                } else {
                    (round - 1).to_le_bytes().to_vec()
                };
                assert_eq!(before, expected, "thread {thread}, page {page}");
                map.write(at, &round.to_le_bytes());
            }
            if round % 20 == thread as u64 {
                map.sync(0, TEMPLATE).unwrap();
            }
        }
    };
    thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|number| scope.spawn(move || count(number)));
        let [(), (), (), ()] = threads.map(|thread| thread.join().unwrap());
    });
    mounted.kill();
    mounted.mount();
    let mut expected = template.clone();
    for (page, thread) in (0..16).flat_map(|page| (0..4).map(move |thread| (page, thread))) {
        expected[page * PAGE + thread * 8..][..8].copy_from_slice(&ROUNDS.to_le_bytes());
    }
    assert_eq!(std::fs::read(mounted.path(VIEW)).unwrap(), expected);
}

#[test]
fn advisory_locks_hold_between_processes_and_end_with_their_owner() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, _) = Mounted::with_data(TEMPLATE);
    let path = mounted.path(VIEW);
    let file = opened(&path);
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    lock(&file, libc::F_RDLCK, 10).unwrap();
    let other = opened(&path);
    assert_eq!(flock(&other, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK));
    child::run("locked", &path);
    // Another view of the same template is another file.
    assert_eq!(flock(opened(&mounted.path("t?rom=off")), FlockOperation::NonBlockingLockExclusive), Ok(()));
    drop((file, other));
    child::run("unlocked", &path);
}

#[test]
fn an_ordinary_users_views_are_shared_the_same() {
    let _limit = limit(Duration::from_secs(300));
    for test in [
        "mappings_of_one_view_see_each_others_stores_across_processes",
        "stores_to_a_private_mapping_stay_with_it",
        "a_read_only_mapping_follows_what_another_writes",
        "threads_that_store_to_the_same_pages_lose_nothing",
        "advisory_locks_hold_between_processes_and_end_with_their_owner",
    ] {
        again_as_ordinary_user(test);
    }
}
