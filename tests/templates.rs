//! Templates that are replaced, truncated or rewritten while they are used, and files that are no templates.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use common::files::{assert_refused, bytes_at, errno, open_create, open_ro, open_rw, wait_for_no_view_files};
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};

/// More than the kernel reads ahead.
const LENGTH: usize = 4 << 20;
const END: u64 = LENGTH as u64 - 4096;

/// The template's file, opened past the mount for writing.
fn in_place(template: &Path) -> File {
    // Before Linux 6.13 two changes within one tick of the clock have the same time.
    std::thread::sleep(Duration::from_millis(20));
    fs::set_permissions(template, Permissions::from_mode(0o644)).unwrap();
    open_rw(template).unwrap()
}

#[test]
fn a_template_replaced_by_rename_leaves_old_views_on_the_old_file() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", &vec![b'o'; LENGTH]);
    let rom = open_ro(mounted.path("t")).unwrap();
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    let read_only = open_ro(mounted.path("t?rom=off")).unwrap();
    let mapped = Mapping::private(&read_only).unwrap();
    view.write_all_at(b"mine", 0).unwrap();
    mounted.template("t", b"new");
    assert_eq!(fs::read(mounted.path("t")).unwrap(), b"new");
    assert_eq!(fs::read(mounted.path("t?rom=off")).unwrap(), b"new");
    assert_eq!(fs::metadata(mounted.path("t")).unwrap().len(), 3);
    for old in [&rom, &view, &read_only] {
        assert_eq!(bytes_at(old, END, 4).unwrap(), b"oooo");
        assert_eq!(old.metadata().unwrap().len(), LENGTH as u64);
    }
    assert_eq!(bytes_at(&view, 0, 5).unwrap(), b"mineo");
    assert_eq!(mapped.read(LENGTH / 2, 4), b"oooo");
    fs::remove_file(mounted.store.join("t")).unwrap();
    assert_eq!(bytes_at(&view, LENGTH as u64 / 4, 4).unwrap(), b"oooo", "also when there is no new one");
    assert_refused(open_ro(mounted.path("t")), Errno::NOENT, "the removed one");
}

#[test]
fn an_ordinary_users_views_stay_on_the_old_file_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_template_replaced_by_rename_leaves_old_views_on_the_old_file");
}

/// What must hold after the file of a used template was changed in place.
fn is_noticed(mounted: &Mounted, how: &str) {
    for name in ["t", "t?rom=off", "t?rom=off&view=new", "t?readonly=off"] {
        assert_refused(open_ro(mounted.path(name)), Errno::STALE, (how, name));
        assert_refused(open_create(mounted.path(name)), Errno::STALE, (how, name));
    }
    mounted.wait_for_log("t: this template was changed in place while views of it are in use");
    let other = open_rw(mounted.path("other?rom=off")).unwrap();
    other.write_all_at(b"well", 0).unwrap();
    assert_eq!(bytes_at(&other, 0, 6).unwrap(), b"wellxx", "{how}");
}

#[test]
fn a_template_truncated_in_place_is_noticed_and_hurts_no_other() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    let template = mounted.template("t", &vec![b'o'; LENGTH]);
    mounted.template("other", &[b'x'; 8192]);
    let others = open_rw(mounted.path("other?rom=off")).unwrap();
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    let rom = open_ro(mounted.path("t")).unwrap();
    let mapped = Mapping::shared(&view).unwrap();
    assert_eq!(mapped.read(0, 1), b"o");
    in_place(&template).set_len(4096).unwrap();
    for _ in 0..2 {
        assert_refused(bytes_at(&view, END, 4), Errno::IO, "the missing part");
    }
    let gone = bytes_at(&rom, END, 4);
    assert!(gone.is_err(), "{gone:?}: of ROM too, an error or an early end");
    assert_eq!(bytes_at(&view, 0, 1).unwrap(), b"o", "the part that is there");
    view.write_all_at(&[b'm'; 4096], END).unwrap();
    assert_eq!(bytes_at(&view, END, 4).unwrap(), b"mmmm", "the view's own page");
    is_noticed(&mounted, "truncated");
    assert_eq!(bytes_at(&others, 4096, 1).unwrap(), b"x");
    drop((view, rom, mapped));
    wait_for_no_view_files_of(&mounted, &others);
    assert_eq!(fs::read(mounted.path("t")).unwrap().len(), 4096, "unused, it is a template like any other");
}

/// A host starts one clone after the other, so the file stays open for a moment; it is nobody's use.
#[test]
fn a_template_that_nobody_uses_may_be_written_at_once_and_is_closed_soon() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    let template = mounted.template("t", &[b'o'; 8192]);
    fs::set_permissions(&template, Permissions::from_mode(0o644)).unwrap();
    drop(open_rw(mounted.path("t?rom=off")).unwrap());
    wait_for_no_view_files(&mounted);
    // RELEASE is not waited for by close(2).
    let authored =
        common::limit::poll(common::files::SOON, || open_rw(mounted.path("t?share=on&readonly=off")).ok());
    authored.expect("nobody uses it").write_all_at(b"new", 0).unwrap();
    let again = common::limit::poll(common::files::SOON, || open_ro(mounted.path("t?rom=off")).ok());
    let again = again.expect("nobody writes it");
    assert_eq!(bytes_at(&again, 0, 4).unwrap(), b"newo");
    drop(again);
    let is_open = || {
        [mounted.serving(), mounted.daemon()].iter().any(|process| {
            let open = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap();
            open.flatten().any(|link| fs::read_link(link.path()).is_ok_and(|file| file == template))
        })
    };
    let closed = common::limit::poll(Duration::from_secs(20), || (!is_open()).then_some(()));
    assert!(closed.is_some(), "the store's file stays open");
}

/// Waits until nobody uses the template `t` any more.
fn wait_for_no_view_files_of(mounted: &Mounted, others: &File) {
    let unused = common::limit::poll(common::files::SOON, || open_ro(mounted.path("t")).ok());
    assert!(unused.is_some(), "it stays in use");
    assert_eq!(bytes_at(others, 0, 1).unwrap(), b"x");
}

#[test]
fn an_ordinary_users_truncated_template_is_noticed_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_template_truncated_in_place_is_noticed_and_hurts_no_other");
}

#[test]
fn a_template_rewritten_in_place_is_noticed_and_hurts_no_other() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    let template = mounted.template("t", &vec![b'o'; LENGTH]);
    mounted.template("other", &[b'x'; 8192]);
    let view = open_rw(mounted.path("t?rom=off")).unwrap();
    view.write_all_at(b"mine", 0).unwrap();
    in_place(&template).write_all_at(b"new content", 100).unwrap();
    assert_eq!(bytes_at(&view, 0, 4).unwrap(), b"mine");
    assert_eq!(bytes_at(&view, END, 4).unwrap(), b"oooo", "what is in use goes on");
    is_noticed(&mounted, "rewritten");
    drop(view);
    wait_for_no_view_files(&mounted);
    assert_eq!(bytes_at(&open_ro(mounted.path("t")).unwrap(), 100, 11).unwrap(), b"new content");
}

#[test]
fn what_is_no_template_is_not_served_and_never_blocks() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    mounted.template("inside/t", b"inside");
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), b"outside").unwrap();
    let at = |name: &str| mounted.store.join(name);
    let node = |name: &str, kind, device| {
        mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o666), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let mut names = vec!["fifo", "socket", "absolute", "relative", "to-directory", "to-root", "dangling"];
    names.extend(["circle", "to-fifo", "absolute-inside", "to-directory/t", "proc"]);
    if is_root() {
        node("zero", FileType::CharacterDevice, makedev(1, 5));
        node("tty", FileType::CharacterDevice, makedev(5, 0));
        node("loop", FileType::BlockDevice, makedev(7, 99));
        names.extend(["zero", "tty", "loop"]);
    }
    symlink(outside.path(), at("absolute")).unwrap();
    symlink(Path::new("../../../../../..").join(outside.path().strip_prefix("/").unwrap()), at("relative"))
        .unwrap();
    symlink("inside", at("to-directory")).unwrap();
    symlink("/", at("to-root")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("circle", at("circle")).unwrap();
    symlink("fifo", at("to-fifo")).unwrap();
    symlink(at("inside/t"), at("absolute-inside")).unwrap();
    symlink("/proc/self/root", at("proc")).unwrap();
    for name in names {
        for query in ["", "?rom=off", "?rom=off&view=a", "?readonly=off", "?share=on&readonly=off"] {
            let path = mounted.path(&format!("{name}{query}"));
            assert_refused(fs::symlink_metadata(&path), Errno::NOENT, &path);
            assert_refused(open_ro(&path), Errno::NOENT, &path);
            assert_refused(open_rw(&path), Errno::NOENT, &path);
            let created = errno(open_create(&path));
            assert!(matches!(created, Some(Errno::ROFS | Errno::NOENT)), "{path:?}: {created:?}");
        }
    }
    let listed = fs::read_dir(&mounted.mountpoint).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(listed.collect::<Vec<_>>(), ["inside"]);
}

#[test]
fn an_ordinary_users_mount_serves_none_of_these_either() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("what_is_no_template_is_not_served_and_never_blocks");
}

#[test]
fn a_symlink_to_a_template_is_served_as_that_file() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("a/deep/t", b"template");
    symlink("a/deep/t", mounted.store.join("link")).unwrap();
    fs::create_dir(mounted.store.join("b")).unwrap();
    symlink("../link", mounted.store.join("b/of-link")).unwrap();
    symlink("../a/./deep/../deep/t", mounted.store.join("b/up")).unwrap();
    let real = fs::metadata(mounted.path("a/deep/t")).unwrap();
    for name in ["link", "b/of-link", "b/up"] {
        let seen = fs::symlink_metadata(mounted.path(name)).unwrap();
        assert!(seen.is_file(), "{name}");
        assert_eq!(seen.ino(), real.ino(), "{name}: one file, one page cache");
        assert_eq!(fs::read(mounted.path(name)).unwrap(), b"template", "{name}");
        assert_refused(open_rw(mounted.path(name)), Errno::ACCESS, name);
        let view = open_rw(mounted.path(&format!("{name}?rom=off"))).unwrap();
        view.write_all_at(b"T", 0).unwrap();
        assert_eq!(bytes_at(&view, 0, 8).unwrap(), b"Template", "{name}");
    }
    assert_eq!(fs::read(mounted.store.join("link")).unwrap(), b"template");
}

/// One thread turns a symlink to and fro between a template and a file outside the store.
#[test]
fn a_symlink_swapped_during_opens_never_shows_a_file_outside() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", b"inside!");
    mounted.template("u", b"inside?");
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), b"outside").unwrap();
    fs::set_permissions(outside.path(), Permissions::from_mode(0o644)).unwrap();
    let (link, spare) = (mounted.store.join("link"), mounted.store.join("spare"));
    symlink("t", &link).unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    let over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        scope.spawn(|| {
            let targets = [outside.path(), Path::new("t"), Path::new("/etc/passwd"), Path::new("u")];
            for target in targets.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                symlink(target, &spare).unwrap();
                fs::rename(&spare, &link).unwrap();
            }
        });
        let readers = ["link", "link?rom=off", "link?rom=off&view=v"].map(|name| {
            let path = mounted.path(name);
            scope.spawn(move || {
                let mut served = 0;
                while Instant::now() < end {
                    match open_ro(&path).and_then(|file| bytes_at(&file, 0, 7)) {
                        Ok(content) => {
                            assert!(content.starts_with(b"inside"), "{content:?}");
                            served += 1;
                        }
                        Err(error) => {
                            let errno = Errno::from_io_error(&error);
                            let wanted = [Errno::NOENT, Errno::STALE, Errno::EXIST];
                            assert!(errno.is_some_and(|errno| wanted.contains(&errno)), "{error}");
                        }
                    }
                }
                served
            })
        });
        let served = readers.map(|reader| reader.join());
        over.store(true, Ordering::Relaxed);
        served.map(Result::unwrap)
    });
    println!("opened while it was swapped: {served:?}");
    assert!(served[0] > 0 && served[1] > 0, "{served:?}");
}
