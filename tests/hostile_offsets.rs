//! Offsets and names at which a number or a buffer would end.

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use memmap2::MmapOptions;
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ftruncate, seek};
use rustix::io::{Errno, pread, pwrite};

use common::files::{bytes_at, open_ro, open_rw};
use common::limit::limit;
use common::mounted::{Mounted, Options, again_as_ordinary_user};

const PAGE: u64 = 4096;
const MOST: u64 = i64::MAX as u64;

/// Where 63 bits end, and pages before it.
const FAR: [u64; 7] = [MOST, MOST - 1, MOST - PAGE, MOST - PAGE + 1, MOST - 2 * PAGE, (1 << 62) - 1, 1 << 62];

#[test]
fn what_is_done_near_the_end_of_all_offsets_changes_nothing_else() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(3 * PAGE as usize + 5);
    for name in ["t?rom=off", "t?rom=off&view=v", "t?rom=off&backing=memory", "t"] {
        let writable = name != "t";
        let opened = if writable { open_rw(mounted.path(name)) } else { open_ro(mounted.path(name)) };
        let file = match opened {
            Err(error) if name.ends_with("memory") => {
                println!("skipped: no view in memory here: {error}");
                continue;
            }
            file => file.unwrap(),
        };
        for offset in FAR {
            assert_far(&file, offset, writable, name);
        }
        assert_eq!(file.metadata().unwrap().len(), content.len() as u64, "{name}");
        assert!(bytes_at(&file, 0, content.len()).unwrap() == content, "{name}");
    }
}

#[test]
fn an_ordinary_users_offsets_end_there_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("what_is_done_near_the_end_of_all_offsets_changes_nothing_else");
}

fn assert_far(file: &File, offset: u64, writable: bool, name: &str) {
    let at = format!("{name} at {offset:#x}");
    // The kernel refuses what would end beyond 63 bits, and the rest lies beyond the end.
    assert!(
        matches!(pread(file, &mut [0; 64][..], offset), Ok(0) | Err(Errno::INVAL | Errno::OVERFLOW)),
        "{at}"
    );
    assert_eq!(seek(file, SeekFrom::Data(offset)), Err(Errno::NXIO), "{at}");
    assert_eq!(seek(file, SeekFrom::Hole(offset)), Err(Errno::NXIO), "{at}");
    // Nothing of it is touched: there is no page.
    let mapped = MmapOptions::new().offset(offset / PAGE * PAGE).len(PAGE as usize).map_raw_read_only(file);
    drop(mapped);
    if !writable {
        return;
    }
    // A view may become as long as its state directory lets a file be.
    let length = file.metadata().unwrap().len();
    let well = |what: &str, result: Result<usize, Errno>| {
        let refusals = [Errno::INVAL, Errno::FBIG, Errno::OVERFLOW, Errno::OPNOTSUPP, Errno::NOSPC];
        assert!(result.map_or_else(|errno| refusals.contains(&errno), |_| true), "{what}, {at}: {result:?}");
        let now = file.metadata().unwrap().len();
        assert!(now == length || result.is_ok() && now >= offset.min(length), "{what}, {at}: {now}");
        ftruncate(file, length).unwrap();
    };
    well("pwrite", pwrite(file, &[1; 64], offset));
    well("ftruncate", ftruncate(file, offset).map(|()| 0));
    let modes = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
    ];
    for mode in modes {
        // No room is taken: what there is of it would be the machine's memory.
        if mode.contains(FallocateFlags::ZERO_RANGE) || mode.contains(FallocateFlags::PUNCH_HOLE) {
            well(
                &format!("fallocate {mode:?} to there"),
                fallocate(file, mode, 4 * PAGE, offset).map(|()| 0),
            );
        }
        well(&format!("fallocate {mode:?}"), fallocate(file, mode, offset, PAGE).map(|()| 0));
    }
    let (mut from, mut to) = (0, offset);
    well("copy_file_range", copy_file_range(file, Some(&mut from), file, Some(&mut to), 64));
    let (mut from, mut to) = (offset, 0);
    let copied = copy_file_range(file, Some(&mut from), file, Some(&mut to), 64);
    assert!(matches!(copied, Ok(0) | Err(Errno::INVAL | Errno::OVERFLOW)), "{at}: {copied:?}");
}

/// Names as long as a directory entry may be, and as long as reaches a FUSE filesystem.
#[test]
fn names_of_255_and_3000_bytes_are_answered_in_every_operation() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    let longest = "n".repeat(255);
    // The name of a temporary file would be longer than a name may be.
    std::fs::write(mounted.store.join(&longest), b"content").unwrap();
    let view = open_rw(mounted.path(&format!("{longest}?rom=off"))).unwrap();
    assert_eq!(bytes_at(&view, 0, 7).unwrap(), b"content");
    assert_eq!(std::fs::read(mounted.path(&longest)).unwrap(), b"content");
    for length in [255, 256, 1024, 3000, 4000] {
        for name in ["x".repeat(length), format!("{longest}?rom=off&view={}", "v".repeat(length))] {
            let path = mounted.path(&name);
            for (what, errno) in operations(&path) {
                let wanted = [
                    libc::ENOENT,
                    libc::ENAMETOOLONG,
                    libc::EINVAL,
                    libc::EROFS,
                    libc::EOPNOTSUPP,
                    libc::ENOTDIR,
                ];
                assert!(wanted.contains(&errno), "{what} of {} bytes: {errno}", name.len());
            }
        }
    }
    assert_eq!(std::fs::read_dir(&mounted.mountpoint).unwrap().count(), 1);
    assert!(!mounted.log().contains("a defect"));
}

fn operations(path: &std::path::Path) -> Vec<(&'static str, i32)> {
    let other = path.with_file_name("other");
    let results = [
        ("stat", std::fs::metadata(path).map(drop)),
        ("open", open_ro(path).map(drop)),
        ("open for writing", open_rw(path).map(drop)),
        ("create", File::create_new(path).map(drop)),
        ("mkdir", std::fs::create_dir(path)),
        ("unlink", std::fs::remove_file(path)),
        ("rmdir", std::fs::remove_dir(path)),
        ("rename", std::fs::rename(path, &other)),
        ("symlink", std::os::unix::fs::symlink("t", path)),
        (
            "mkfifo",
            rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o600),
                0,
            )
            .map_err(Into::into),
        ),
    ];
    results
        .into_iter()
        .map(|(what, result)| (what, result.expect_err(what).raw_os_error().unwrap_or(0)))
        .collect()
}

/// However much is asked for.
#[test]
fn the_longest_copy_ends_with_the_file() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(2 * PAGE as usize + 7);
    let from = open_ro(mounted.path("t")).unwrap();
    let to = open_rw(mounted.path("t?rom=off")).unwrap();
    ftruncate(&to, 0).unwrap();
    let mut copied = 0;
    loop {
        match copy_file_range(from.as_fd(), None, to.as_fd(), None, usize::MAX >> 1).unwrap() {
            0 => break,
            n => copied += n,
        }
    }
    assert_eq!(copied, content.len());
    assert!(bytes_at(&to, 0, content.len()).unwrap() == content);
}
