//! A state directory that is full: a tmpfs of a few MiB, or a disk with as little room. Only root can mount them.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;

use common::child;
use common::disks::Disk;
use common::files::{errno, open_rw, opened};
use common::limit::{Registered, limit, on_expiry, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, is_root};
use common::random::pattern;
use common::sparse::sparse_template;

const MIB: usize = 1 << 20;
const ROOM: usize = 4 * MIB;
/// Of the template: much more than there is room for.
const SIZE: usize = 16 * MIB;
const HELD: &str = "mapped pages wait for room and are not lost";

/// A small tmpfs; unmounted when dropped.
struct Small {
    path: PathBuf,
    _directory: tempfile::TempDir,
    _unmounted_on_expiry: Registered,
}

impl Small {
    fn new() -> Small {
        let directory = tempfile::Builder::new().prefix("templatefs-small-").tempdir().unwrap();
        let path = directory.path().to_owned();
        let options = format!("mode=0700,size={ROOM}");
        run("mount", &["-t", "tmpfs", "-o", &options, "templatefs-test", path.to_str().unwrap()]);
        let at = path.clone();
        let unmount = move || drop(Command::new("umount").arg("-l").arg(&at).status());
        Small { path, _directory: directory, _unmounted_on_expiry: on_expiry(unmount) }
    }

    fn resize(&self, bytes: usize) {
        run("mount", &["-o", &format!("remount,size={bytes}"), self.path.to_str().unwrap()]);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// A mount whose state is on a small tmpfs, with a template of holes and another of data. None
/// without the right to mount.
fn mounted(arguments: &[&'static str]) -> Option<(Mounted, Small)> {
    if !is_root() {
        println!("skipped: only root can mount a tmpfs");
        return None;
    }
    let small = Small::new();
    let mounted = mounted_over(&small.path, arguments);
    Some((mounted, small))
}

fn mounted_over(path: &Path, arguments: &[&'static str]) -> Mounted {
    let options = Options { state: Some(path.join("state")), ..Options::with(arguments) };
    let mounted = Mounted::start(options);
    sparse_template(&mounted, "big", SIZE as u64, &[(0, b"big")]);
    mounted.template("other", &pattern(1, 100_000));
    mounted
}

#[test]
fn a_write_beyond_the_room_fails_with_enospc_and_changes_nothing_else() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mut mounted, _small)) = mounted(&[]) else { return };
    let path = mounted.path("big?rom=off&view=a");
    let view = opened(&path);
    let other = opened(&mounted.path("other?rom=off&view=b"));
    other.write_all_at(b"before", 10).unwrap();

    let chunk = 100_000;
    let mut model = vec![0; SIZE];
    model[..3].copy_from_slice(b"big");
    let mut refused = None;
    for number in 0..SIZE / chunk {
        let data = pattern(number as u64, chunk);
        match view.write_at(&data, (number * chunk) as u64) {
            Ok(count) => model[number * chunk..][..count].copy_from_slice(&data[..count]),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
                refused = Some(number);
                break;
            }
        }
    }
    let refused = refused.expect("no room for all of it");
    assert_eq!(view.metadata().unwrap().len(), SIZE as u64);
    assert!(content(&view) == model, "a refused write changes nothing");
    assert_eq!(fallocate(&view, FallocateFlags::empty(), 0, SIZE as u64), Err(Errno::NOSPC));
    assert!(content(&view) == model, "nor does a refused allocation");

    // The neighbour's own page is there already.
    other.write_all_at(b"behind", 10).unwrap();
    assert_eq!(fs::read(mounted.path("other")).unwrap(), pattern(1, 100_000));

    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&view, punch, 0, MIB as u64).unwrap();
    model[..MIB].fill(0);
    let data = pattern(refused as u64, chunk);
    view.write_all_at(&data, (refused * chunk) as u64).expect("there is room again");
    model[refused * chunk..][..chunk].copy_from_slice(&data);
    assert!(content(&view) == model);
    drop((view, other));
    mounted.kill();
    mounted.mount();
    assert!(fs::read(&path).unwrap() == model, "as the next daemon finds it");
    assert_eq!(fs::read(mounted.path("other?rom=off&view=b")).unwrap()[10..16], *b"behind");
}

/// What a program stored to memory cannot be refused any more: nobody would hear of it.
#[test]
fn mapped_stores_beyond_the_room_are_held_until_there_is_room() {
    let _limit = limit(Duration::from_secs(120));
    hold_stores(&[]);
}

#[test]
fn mapped_stores_beyond_the_room_are_held_where_one_thread_serves_all() {
    let _limit = limit(Duration::from_secs(120));
    hold_stores(&["--threads", "1"]);
}

fn hold_stores(arguments: &[&'static str]) {
    let Some((mounted, small)) = mounted(arguments) else { return };
    hold_until(mounted, || small.resize(4 * SIZE));
}

fn hold_until(mut mounted: Mounted, make_room: impl FnOnce()) {
    let path = mounted.path("big?rom=off&view=a");
    let other = opened(&mounted.path("other?rom=off&view=b"));
    other.write_all_at(b"before", 10).unwrap();
    // The first sync of a view needs room of its own, and says so where there is none.
    other.sync_all().unwrap();
    let mut storing = child::command("store", &path).spawn().unwrap();
    mounted.wait_for_log(HELD);
    for _ in 0..20 {
        assert_served(&mounted, &other);
    }
    child::run("neighbour", &mounted.path("other?rom=off&view=b"));
    assert_eq!(storing.try_wait().unwrap(), None, "msync waits for what is held");
    make_room();
    assert!(storing.wait().unwrap().success());
    mounted.wait_for_log("there is room again");
    drop(other);
    mounted.kill();
    mounted.mount();
    assert!(fs::read(&path).unwrap() == stored(), "as the next daemon finds it");
}

/// A process that stores to memory more than there is room for. It is one of its own: the kernel
/// may stop a process in the middle of such a store, and with it all that its other threads do to
/// their memory.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    let view = opened(&path);
    let map = Mapping::shared(&view).unwrap();
    if what == "neighbour" {
        map.write(100, b"stored beside it");
        return map.sync(0, 4096).unwrap();
    }
    map.write(0, &stored());
    map.sync(0, SIZE).unwrap();
    map.forget().unwrap();
    fadvise(&view, 0, None, Advice::DontNeed).unwrap();
    assert!(map.read(0, SIZE) == stored(), "every byte is there");
}

fn stored() -> Vec<u8> {
    pattern(5, SIZE)
}

/// Other files of the mount go on while one view's stores wait.
fn assert_served(mounted: &Mounted, other: &File) {
    other.write_all_at(b"behind", 10).unwrap();
    let mut read = [0; 12];
    fadvise(other, 0, None, Advice::DontNeed).unwrap();
    other.read_exact_at(&mut read, 8).unwrap();
    assert_eq!(read[2..8], *b"behind");
    assert_eq!(fs::read(mounted.path("other")).unwrap(), pattern(1, 100_000));
    assert_eq!(fs::metadata(mounted.path("big?rom=off&view=a")).unwrap().size(), SIZE as u64);
}

#[test]
fn on_ext4_too_mapped_stores_are_held_and_a_view_that_finds_no_room_is_not_made() {
    let _limit = limit(Duration::from_secs(120));
    fill_disk("ext4", 64 << 20);
}

#[test]
fn on_xfs_too_mapped_stores_are_held_and_a_view_that_finds_no_room_is_not_made() {
    let _limit = limit(Duration::from_secs(120));
    fill_disk("xfs", 320 << 20);
}

fn fill_disk(kind: &str, size: u64) {
    if !is_root() {
        println!("skipped: only root can mount {kind}");
        return;
    }
    let disk = match Disk::new(kind, size) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: no {kind} here: {why}"),
    };
    let mounted = mounted_over(&disk.path, &[]);
    let filler = disk.fill(0);
    let late = mounted.path("big?rom=off&view=late");
    let refused = open_rw(&late).and_then(|view| view.write_all_at(&pattern(3, MIB), 0));
    assert_eq!(errno(refused), Some(Errno::NOSPC), "on {kind}");
    assert_eq!(fs::read(mounted.path("other")).unwrap(), pattern(1, 100_000));
    fs::remove_file(filler).unwrap();
    opened(&late).write_all_at(&pattern(3, MIB), 0).expect("there is room again");
    assert!(fs::read(&late).unwrap()[..MIB] == pattern(3, MIB));

    let filler = disk.fill(ROOM as u64);
    hold_until(mounted, || fs::remove_file(filler).unwrap());
}

/// Room that another view gives back is as good as a larger disk.
#[test]
fn held_stores_take_the_room_of_a_discarded_view() {
    let _limit = limit(Duration::from_secs(120));
    let Some((mounted, small)) = mounted(&[]) else { return };
    small.resize(SIZE + MIB);
    let old = mounted.path("big?rom=off&view=old");
    fs::write(&old, pattern(6, 8 * MIB)).unwrap();
    let path = mounted.path("big?rom=off&view=a");
    let mut storing = child::command("store", &path).spawn().unwrap();
    mounted.wait_for_log(HELD);
    fs::remove_file(old).unwrap();
    assert!(storing.wait().unwrap().success());
    assert!(fs::read(&path).unwrap() == stored());
}

/// Refused where it can be: no file of a view that could not be made stays behind.
#[test]
fn a_view_that_finds_no_room_is_not_made() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mounted, _small)) = mounted(&[]) else { return };
    let views = mounted.state.join("views");
    let filler = opened(&mounted.path("big?rom=off&view=filler"));
    let full = poll(Duration::from_secs(30), || {
        let at = filler.metadata().unwrap().blocks() * 512;
        filler.write_at(&[1; 4096], at).is_err().then_some(())
    });
    assert!(full.is_some());
    let before = fs::read_dir(&views).unwrap().count();
    let error = File::open(mounted.path("big?rom=off&view=late")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(fs::read_dir(&views).unwrap().count(), before);
    drop(filler);
    fs::remove_file(mounted.path("big?rom=off&view=filler")).unwrap();
    File::open(mounted.path("big?rom=off&view=late")).unwrap();
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0xEE; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
