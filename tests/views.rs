//! Private views without a name, each its opener's alone and gone with him, and what stat(2) says of views.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use common::files::{
    SOON, assert_refused, bytes_at, open_ro, open_rw, reopened, templatefs, tree, truncate, view_files,
    wait_for_no_view_files,
};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};

const PAGE: usize = 4096;
const PAGES: usize = 16;

/// A page of a template that tells which one it is.
fn page_of_template(page: usize) -> Vec<u8> {
    vec![b'A' + page as u8; PAGE]
}

fn mounted_template() -> (Mounted, std::path::PathBuf) {
    let mounted = Mounted::start(Options::default());
    let content: Vec<u8> = (0..PAGES).flat_map(page_of_template).collect();
    let template = mounted.template("t", &content);
    (mounted, template)
}

#[test]
fn two_opens_of_one_path_never_see_each_other() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = mounted_template();
    let path = mounted.path("t?rom=off");
    let (one, other) = (open_rw(&path).unwrap(), open_rw(&path).unwrap());
    one.write_all_at(b"one", 0).unwrap();
    assert_eq!(bytes_at(&other, 0, 3).unwrap(), b"AAA");
    let (one_mapped, other_mapped) = (Mapping::shared(&one).unwrap(), Mapping::shared(&other).unwrap());
    other_mapped.write(PAGE, b"other");
    other_mapped.sync_all().unwrap();
    assert_eq!(one_mapped.read(PAGE, 5), b"BBBBB");
    assert_eq!(one_mapped.read(0, 3), b"one");
    assert_eq!(bytes_at(&open_rw(&path).unwrap(), 0, PAGE).unwrap(), page_of_template(0));
    assert_eq!(fs::read(template).unwrap()[..PAGE], page_of_template(0));
    assert_ne!(one.metadata().unwrap().ino(), other.metadata().unwrap().ino());
}

/// One of the threads: opens, writes a pattern of its own in two ways, and looks at every page.
fn one_of_many(path: &Path, thread: usize, start: &Barrier) {
    let pattern = [thread as u8; 64];
    let (mapped_page, written_page) = (thread % PAGES, (thread * 7 + 3) % PAGES);
    start.wait();
    let writable = thread % 4 != 3;
    let file = if writable { open_rw(path) } else { open_ro(path) }.unwrap();
    let memory = if writable { Mapping::shared(&file) } else { Mapping::private(&file) }.unwrap();
    let mut wanted: Vec<Vec<u8>> = (0..PAGES).map(page_of_template).collect();
    memory.write(mapped_page * PAGE, &pattern);
    wanted[mapped_page][..64].copy_from_slice(&pattern);
    if writable {
        file.write_all_at(&pattern, (written_page * PAGE + 100) as u64).unwrap();
        wanted[written_page][100..164].copy_from_slice(&pattern);
        if thread.is_multiple_of(2) {
            memory.sync_all().unwrap();
        }
    }
    start.wait();
    for (page, wanted) in wanted.iter().enumerate() {
        assert_eq!(&memory.read(page * PAGE, PAGE), wanted, "thread {thread}, page {page}, mapped");
        let content = bytes_at(&file, (page * PAGE) as u64, PAGE).unwrap();
        let wanted = if writable { wanted.clone() } else { page_of_template(page) };
        assert_eq!(content, wanted, "thread {thread}, page {page}, read");
    }
}

#[test]
fn thirty_two_threads_that_open_one_path_at_once_each_see_their_own_view() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = mounted_template();
    let path = mounted.path("t?rom=off");
    for _ in 0..20 {
        let start = Barrier::new(32);
        std::thread::scope(|scope| {
            for thread in 0..32 {
                let (path, start) = (&path, &start);
                scope.spawn(move || one_of_many(path, thread, start));
            }
        });
    }
    let content: Vec<u8> = (0..PAGES).flat_map(page_of_template).collect();
    assert!(fs::read(template).unwrap() == content);
    wait_for_no_view_files(&mounted);
}

#[test]
fn an_ordinary_users_threads_do_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("thirty_two_threads_that_open_one_path_at_once_each_see_their_own_view");
}

#[test]
fn a_mapping_outlives_its_descriptor_and_the_view_is_gone_after_both() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, _) = mounted_template();
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    view.write_all_at(b"written", 0).unwrap();
    let memory = Mapping::shared(&view).unwrap();
    let read_only = open_ro(mounted.path("t?rom=off")).unwrap();
    let copied = Mapping::private(&read_only).unwrap();
    let rom = open_ro(mounted.path("t")).unwrap();
    let rom_mapped = Mapping::read_only(&rom).unwrap();
    drop((view, read_only, rom));
    assert_eq!(memory.read(0, 7), b"written");
    memory.write(3 * PAGE, b"after close");
    memory.sync_all().unwrap();
    assert_eq!(memory.read(3 * PAGE, 12), b"after closeD");
    assert_eq!(memory.read(9 * PAGE, 2), b"JJ", "a page that was not touched before");
    copied.write(5 * PAGE, b"copy");
    assert_eq!((copied.read(5 * PAGE, 5), copied.read(6 * PAGE, 1)), (b"copyF".to_vec(), b"G".to_vec()));
    assert_eq!(rom_mapped.read(7 * PAGE, 1), b"H");
    assert!(!view_files(&mounted).is_empty(), "its pages are kept for as long as it is mapped");
    drop(memory);
    wait_for_no_view_files(&mounted);
    assert_eq!(rom_mapped.read(8 * PAGE, 1), b"I");
}

#[test]
fn an_ordinary_users_mapping_outlives_its_descriptor_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_mapping_outlives_its_descriptor_and_the_view_is_gone_after_both");
}

#[test]
fn stat_and_ls_create_nothing_that_lasts() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, _) = mounted_template();
    for name in ["t?rom=off", "t?rom=off&view=never", "t?rom=off&vm=vm"] {
        let seen = fs::metadata(mounted.path(name)).unwrap();
        assert_eq!((seen.len(), seen.blocks()), ((PAGES * PAGE) as u64, 0), "{name}");
        assert_eq!((seen.uid(), seen.mode() & 0o7777), (own_uid(), 0o600), "{name}");
    }
    let listed = Command::new("ls").arg("-laR").arg(&mounted.mountpoint).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let read_only = open_ro(mounted.path("t?rom=off")).unwrap();
    assert_eq!(bytes_at(&read_only, 0, 1).unwrap(), b"A");
    assert!(view_files(&mounted).is_empty(), "{:?}", view_files(&mounted));
    drop(read_only);
    let views = poll(SOON, || {
        let output = templatefs(["views".as_ref(), mounted.mountpoint.as_os_str(), "--json".as_ref()]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["views"].as_array().unwrap().is_empty().then_some(())
    });
    assert!(views.is_some(), "there are views left");
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The view that was opened read-only is the template itself, and must never be written.
#[test]
fn a_view_that_was_opened_read_only_cannot_be_opened_for_writing() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = mounted_template();
    let view = open_ro(mounted.path("t?rom=off")).unwrap();
    assert_refused(reopened(&view, true), Errno::ACCESS, "a writable open");
    assert_eq!(bytes_at(&reopened(&view, false).unwrap(), 0, 1).unwrap(), b"A");
    let through_proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&view));
    assert_refused(truncate(&through_proc, 0), Errno::ACCESS, "truncate");
    let rom = open_ro(mounted.path("t")).unwrap();
    assert_refused(reopened(&rom, true), Errno::ACCESS, "ROM");
    assert_eq!(fs::read(template).unwrap().len(), PAGES * PAGE);
    mounted.wait_for_log("opened read-only first");
}

#[test]
fn an_ordinary_users_read_only_view_cannot_either() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_view_that_was_opened_read_only_cannot_be_opened_for_writing");
}

#[test]
fn a_view_that_was_opened_for_writing_is_found_again_through_its_descriptor() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, _) = mounted_template();
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    view.write_all_at(b"mine", 0).unwrap();
    for write in [false, true] {
        assert_eq!(bytes_at(&reopened(&view, write).unwrap(), 0, 5).unwrap(), b"mineA");
    }
    assert_eq!(bytes_at(&view, 0, 5).unwrap(), b"mineA");
}

fn disk_usage(path: impl AsRef<Path>) -> u64 {
    let output = Command::new("du").args(["--block-size=1"]).arg(path.as_ref()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn stat_tells_what_a_view_costs() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, _) = mounted_template();
    let path = mounted.path("t?rom=off&view=cost");
    let view = open_rw(&path).unwrap();
    let costs = |pages: u64| {
        let seen = view.metadata().unwrap();
        assert_eq!((seen.blocks(), disk_usage(&path)), (pages * 8, pages * PAGE as u64));
    };
    costs(0);
    view.write_all_at(b"x", 0).unwrap();
    view.write_all_at(&[1; 2 * PAGE], 5 * PAGE as u64 + 1).unwrap();
    costs(4);
    let memory = Mapping::shared(&view).unwrap();
    memory.write(10 * PAGE, b"mapped");
    memory.sync_all().unwrap();
    costs(5);
    fallocate(&view, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 5 << 12, 2 << 12).unwrap();
    costs(3);
    assert_eq!(view.metadata().unwrap().len(), (PAGES * PAGE) as u64);
    view.set_len(100).unwrap();
    costs(1);
    assert_eq!(view.metadata().unwrap().len(), 100);
    view.set_len(1 << 40).unwrap();
    costs(1);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 40);
}

#[test]
fn a_rom_view_shows_the_templates_owner_and_its_mode_less_all_write_bits() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = mounted_template();
    for (mode, shown) in [(0o444, 0o444), (0o666, 0o444), (0o640, 0o440), (0o777, 0o555), (0o600, 0o400)] {
        fs::set_permissions(&template, Permissions::from_mode(mode)).unwrap();
        if is_root() {
            chown(&template, Some(1234), Some(5678)).unwrap();
        }
        let shows = || {
            let (seen, real) = (fs::metadata(mounted.path("t")).unwrap(), fs::metadata(&template).unwrap());
            let same = (seen.uid(), seen.gid(), seen.len()) == (real.uid(), real.gid(), real.len())
                && (seen.blocks(), seen.mtime_nsec()) == (real.blocks(), real.mtime_nsec());
            (same && seen.mode() & 0o7777 == shown).then_some(())
        };
        // The kernel remembers attributes for a second.
        assert!(poll(SOON, shows).is_some(), "{mode:o}: {:?}", fs::metadata(mounted.path("t")));
    }
    let rom = mounted.path("t");
    assert_refused(fs::set_permissions(&rom, Permissions::from_mode(0o777)), Errno::ROFS, "chmod");
    if is_root() {
        assert_refused(chown(&rom, Some(0), None), Errno::ROFS, "chown");
    }
}

#[test]
fn a_private_view_is_its_makers_and_his_alone() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = mounted_template();
    if is_root() {
        chown(&template, Some(1234), Some(5678)).unwrap();
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for name in ["t?rom=off", "t?rom=off&view=mine"] {
        let view = open_rw(mounted.path(name)).unwrap();
        let seen = view.metadata().unwrap();
        assert_eq!((seen.uid(), seen.gid(), seen.mode()), (uid, gid, 0o100_600), "{name}");
        view.set_permissions(Permissions::from_mode(0o640)).unwrap();
        assert_eq!(view.metadata().unwrap().mode(), 0o100_640, "{name}");
    }
    for (path, _) in tree(&mounted.state) {
        // What vanishes meanwhile is the new mount.json, which becomes the old one.
        let Ok(seen) = fs::symlink_metadata(&path) else { continue };
        let is_description = path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("mount"));
        assert!(seen.mode() & 0o077 == 0 || is_description, "{path:?}: {:o}", seen.mode());
    }
}

#[test]
fn an_ordinary_users_stat_is_as_true() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("stat_tells_what_a_view_costs");
    again_as_ordinary_user("a_private_view_is_its_makers_and_his_alone");
}

/// For a program whose path cannot hold a query: its own path is a link to one that does.
#[test]
fn a_symlink_elsewhere_may_lead_to_a_view() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(8192);
    let directory = tempfile::tempdir().unwrap();
    let link = |name: &str, query: &str| {
        let link = directory.path().join(name);
        std::os::unix::fs::symlink(mounted.path(&format!("t?{query}")), &link).unwrap();
        link
    };
    let (private, named) = (link("private", "rom=off"), link("named", "rom=off&view=one"));
    let [first, second] = [&private, &private].map(|path| open_rw(path).unwrap());
    first.write_all_at(b"first", 0).unwrap();
    assert_eq!(bytes_at(&second, 0, 5).unwrap(), content[..5]);
    open_rw(&named).unwrap().write_all_at(b"named", 0).unwrap();
    assert_eq!(bytes_at(&open_rw(&named).unwrap(), 0, 5).unwrap(), b"named");
}
