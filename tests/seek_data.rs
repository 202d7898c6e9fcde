//! Holes of a view, of which only the kernel knows where mapped stores have filled them: it writes
//! them back when it likes. lseek must find what a program has stored.

mod common;

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use common::files::opened;
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user};
use common::random::Random;
use common::sparse::sparse_template;

const PAGE: u64 = 4096;
/// All hole but for its first page.
const SIZE: u64 = 64 * PAGE + 9;

fn mounted(arguments: &[&'static str]) -> Mounted {
    let mounted = Mounted::start(Options::with(arguments));
    sparse_template(&mounted, "t", SIZE, &[(0, &[7; PAGE as usize])]);
    mounted
}

#[test]
fn stores_to_a_hole_are_found_before_they_are_written_back() {
    let _limit = limit(Duration::from_secs(60));
    find_stores(&mounted(&[]));
}

/// The write-back that a seek waits for needs a thread: it must not be the one that waits.
#[test]
fn stores_to_a_hole_are_found_where_one_thread_serves_all() {
    let _limit = limit(Duration::from_secs(60));
    find_stores(&mounted(&["--threads", "1"]));
}

fn find_stores(mounted: &Mounted) {
    for name in ["t?rom=off", "t?rom=off&view=a"] {
        let view = opened(&mounted.path(name));
        assert_eq!(seek(&view, SeekFrom::Data(PAGE)), Err(Errno::NXIO));
        assert_eq!(seek(&view, SeekFrom::Hole(0)), Ok(PAGE));
        let map = Mapping::shared(&view).unwrap();
        for (stored, from) in [(40, 1), (20, 1), (30, 21), (64, 41)] {
            map.write((stored * PAGE) as usize + 3, b"x");
            assert_eq!(seek(&view, SeekFrom::Data(from * PAGE)), Ok(stored * PAGE), "{name}");
        }
        map.write(PAGE as usize, b"x");
        assert_eq!(seek(&view, SeekFrom::Hole(0)), Ok(2 * PAGE), "{name}");
        map.write(41 * PAGE as usize, b"x");
        assert_eq!(seek(&view, SeekFrom::Hole(40 * PAGE + 1)), Ok(42 * PAGE), "{name}");
        assert_eq!(seek(&view, SeekFrom::Hole(64 * PAGE)), Ok(SIZE), "{name}");
        assert_eq!(seek(&view, SeekFrom::Hole(SIZE)), Err(Errno::NXIO));
    }
}

/// The mapping holds the only writable open, closed long ago; the one that seeks is read-only.
#[test]
fn stores_of_another_are_found_by_a_reader() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&["--threads", "1"]);
    let path = mounted.path("t?rom=off&view=a");
    let reader = File::open(&path).unwrap();
    let map = Mapping::shared(&opened(&path)).unwrap();
    map.write(30 * PAGE as usize, b"x");
    assert_eq!(seek(&reader, SeekFrom::Data(PAGE)), Ok(30 * PAGE));
    assert_eq!(seek(&reader, SeekFrom::Hole(30 * PAGE)), Ok(31 * PAGE));
    drop(map);
    assert_eq!(seek(&reader, SeekFrom::Data(PAGE)), Ok(30 * PAGE));
}

/// Pages only ever become data here, so whatever a seek finds is still true afterwards, and what
/// was data before it is never skipped.
#[test]
fn seeks_end_and_are_true_while_others_store() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&["--threads", "1"]);
    let path = mounted.path("t?rom=off&view=a");
    let view = opened(&path);
    let filled: Vec<AtomicBool> = (0..=64).map(|page| AtomicBool::new(page == 0)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (path, filled, stop) = (&path, &filled, &stop);
            scope.spawn(move || {
                let map = Mapping::shared(&opened(path)).unwrap();
                let mut random = Random::new(seed);
                // Few new pages, many stores: the cache stays dirty for as long as seeks are made.
                while !stop.load(Ordering::Relaxed) {
                    let page = random.below(65).min(random.below(65));
                    map.write((page * PAGE) as usize, b"x");
                    filled[page as usize].store(true, Ordering::SeqCst);
                }
            });
        }
        let mut random = Random::new(9);
        for _ in 0..300 {
            let from = random.below(65);
            let before: Vec<bool> = filled.iter().map(|page| page.load(Ordering::SeqCst)).collect();
            let first = before.iter().skip(from as usize).position(|filled| *filled);
            let found = seek(&view, SeekFrom::Data(from * PAGE));
            match (found, first) {
                (Ok(at), Some(first)) => {
                    assert!(at / PAGE <= from + first as u64, "{first} pages on is data")
                }
                (Err(Errno::NXIO), None) | (Ok(_), None) => {}
                other => panic!("from page {from}: {other:?}"),
            }
            let hole = seek(&view, SeekFrom::Hole(from * PAGE)).unwrap();
            assert!(hole == SIZE || !before[(hole / PAGE) as usize], "page {} is data", hole / PAGE);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn stores_to_a_hole_are_found_on_an_ordinary_users_mount() {
    let _limit = limit(Duration::from_secs(120));
    again_as_ordinary_user("stores_to_a_hole_are_found_where_one_thread_serves_all");
    again_as_ordinary_user("seeks_end_and_are_true_while_others_store");
}
