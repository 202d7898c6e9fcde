//! A store whose paths become other things while they are opened, and templates that are changed, taken
//! away or locked while they are mapped.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use common::child;
use common::files::{bytes_at, open_ro, open_rw};
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user};
use common::random::Random;
use common::users::seed;

const LENGTH: usize = 64 * 4096;
const SWAPS: usize = 1500;

#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    match what.as_str() {
        "faults" => fault(&path),
        other => panic!("{other}"),
    }
}

/// What a path of the store is turned into, each in one step.
fn swap(mounted: &Mounted, outside: &Path, random: &mut Random) {
    let (path, spare) = (mounted.store.join("swapped"), mounted.store.join("spare"));
    let _ = fs::remove_file(&spare);
    let _ = fs::remove_dir(&spare);
    match random.below(7) {
        0 => fs::write(&spare, b"inside: a template").unwrap(),
        1 => mknodat(CWD, &spare, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap(),
        2 => symlink(outside, &spare).unwrap(),
        3 => symlink("../../../../../../etc/passwd", &spare).unwrap(),
        4 => symlink("t", &spare).unwrap(),
        5 => symlink("swapped", &spare).unwrap(),
        _ => fs::create_dir(&spare).unwrap(),
    }
    // A directory takes no file's place, nor a file a directory's.
    let _ = fs::remove_dir(&path);
    if fs::rename(&spare, &path).is_err() {
        let _ = fs::remove_file(&path);
        let _ = fs::rename(&spare, &path);
    }
}

#[test]
fn a_path_that_becomes_anything_while_it_is_opened_shows_nothing_outside_and_never_blocks() {
    let _limit = limit(Duration::from_secs(120));
    let mut random = Random::new(seed());
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    mounted.template("t", b"inside: t");
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, b"outside").unwrap();
    fs::set_permissions(outside.path(), Permissions::from_mode(0o755)).unwrap();
    let over = AtomicBool::new(false);
    let names = [
        "swapped",
        "swapped?rom=off",
        "swapped?rom=off&view=v",
        "swapped?rom=off&backing=memory",
        "swapped?share=on&readonly=off",
    ];
    let counts = std::thread::scope(|scope| {
        let openers = names.map(|name| {
            let path = mounted.path(name);
            let over = &over;
            scope.spawn(move || {
                let (mut served, mut refused) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    for open in [open_ro(&path), open_rw(&path)] {
                        match open.and_then(|file| bytes_at(&file, 0, 7)) {
                            Ok(content) => {
                                assert_eq!(content, b"inside:", "{path:?}");
                                served += 1;
                            }
                            Err(error) => {
                                refused += 1;
                                let errno = Errno::from_io_error(&error);
                                assert!(errno.is_some_and(is_well_said), "{path:?}: {error}");
                            }
                        }
                    }
                    let _ = fs::symlink_metadata(&path);
                    let _ = fs::read_dir(path.parent().unwrap()).unwrap().count();
                }
                (served, refused)
            })
        });
        for _ in 0..SWAPS {
            swap(&mounted, &secret, &mut random);
        }
        over.store(true, Ordering::Relaxed);
        openers.map(|opener| opener.join().unwrap())
    });
    println!("served and refused: {counts:?}");
    // How many is a matter of timing.
    assert!(counts.iter().any(|(served, _)| *served > 0), "{counts:?}");
    assert!(counts.iter().any(|(_, refused)| *refused > 0), "{counts:?}");
    assert_eq!(fs::read(&secret).unwrap(), b"outside");
    assert_eq!(fs::read(mounted.path("t")).unwrap(), b"inside: t");
}

/// It is no such thing, it may not be written so, it has changed, or somebody else has it.
fn is_well_said(errno: Errno) -> bool {
    let known = [
        Errno::NOENT,
        Errno::ACCESS,
        Errno::STALE,
        Errno::EXIST,
        Errno::ISDIR,
        Errno::INVAL,
        Errno::TXTBSY,
        Errno::OPNOTSUPP,
        Errno::NOTDIR,
        Errno::LOOP,
    ];
    known.contains(&errno)
}

#[test]
fn an_ordinary_users_swapped_path_shows_nothing_outside_either() {
    let _limit = limit(Duration::from_secs(120));
    again_as_ordinary_user(
        "a_path_that_becomes_anything_while_it_is_opened_shows_nothing_outside_and_never_blocks",
    );
}

/// In every mode: the file, its first page mapped, and the first bytes of what it must go on to show.
fn mapped_in_every_mode(mounted: &Mounted) -> Vec<(&'static str, File, Mapping)> {
    let mut mapped = Vec::new();
    type Map = fn(&File) -> std::io::Result<Mapping>;
    let modes: [(&str, bool, Map); 6] = [
        ("d/t", false, Mapping::read_only),
        ("d/t", false, Mapping::private),
        ("d/t?rom=off", false, Mapping::private),
        ("d/t?rom=off", true, Mapping::private),
        ("d/t?rom=off", true, Mapping::shared),
        ("d/t?rom=off&view=v", true, Mapping::shared),
    ];
    for (name, write, map) in modes {
        let path = mounted.path(name);
        let file = if write { open_rw(path) } else { open_ro(path) }.unwrap();
        let map = map(&file).unwrap();
        assert_eq!(map.read(0, 4), b"oooo", "{name}");
        mapped.push((name, file, map));
    }
    mapped
}

/// A view's pages stay what they were when its template is replaced, deleted, or locked away by modes
/// of its own and of the directories above it.
#[test]
fn mapped_views_go_on_whatever_becomes_of_their_templates_path() {
    let _limit = limit(Duration::from_secs(120));
    type Change = fn(&Mounted);
    let changes: [(&str, Change); 5] = [
        ("replaced", |mounted| drop(mounted.template("d/t", &[b'n'; LENGTH]))),
        ("deleted", |mounted| fs::remove_file(mounted.store.join("d/t")).unwrap()),
        ("unreadable", |mounted| set_mode(&mounted.store.join("d/t"), 0)),
        ("below a locked directory", |mounted| set_mode(&mounted.store.join("d"), 0)),
        ("with its directory elsewhere", |mounted| {
            fs::rename(mounted.store.join("d"), mounted.store.join("moved")).unwrap();
            fs::create_dir(mounted.store.join("d")).unwrap();
            fs::write(mounted.store.join("d/t"), [b'n'; LENGTH]).unwrap();
        }),
    ];
    for (how, change) in changes {
        let mounted = Mounted::start(Options::default());
        mounted.template("d/t", &[b'o'; LENGTH]);
        mounted.template("other", &[b'x'; LENGTH]);
        let mapped = mapped_in_every_mode(&mounted);
        change(&mounted);
        for (name, file, map) in &mapped {
            assert_eq!(map.read(LENGTH - 4, 4), b"oooo", "{how}: {name}, mapped");
            assert_eq!(bytes_at(file, LENGTH as u64 / 2, 4).unwrap(), b"oooo", "{how}: {name}, read");
        }
        for (name, file, map) in mapped.iter().skip(4) {
            map.write(8 * 4096, b"mine");
            map.sync_all().unwrap();
            assert_eq!(bytes_at(file, 8 * 4096, 5).unwrap(), b"mineo", "{how}: {name}");
        }
        assert_eq!(bytes_at(&open_rw(mounted.path("other?rom=off")).unwrap(), 0, 1).unwrap(), b"x", "{how}");
        set_mode(&mounted.store.join("d"), 0o755);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_ordinary_users_mapped_views_go_on_too() {
    let _limit = limit(Duration::from_secs(120));
    again_as_ordinary_user("mapped_views_go_on_whatever_becomes_of_their_templates_path");
}

/// Touches the end of a mapping, which may be gone: this process may get SIGBUS.
fn fault(path: &Path) {
    let file = match path.to_string_lossy().contains("rom=off") {
        true => open_rw(path).unwrap(),
        false => open_ro(path).unwrap(),
    };
    let map = Mapping::read_only(&file).unwrap();
    map.read(0, 1);
    println!("mapped");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    map.read(LENGTH - 1, 1);
}

/// Who maps a template that is cut in place gets SIGBUS or what it was, the daemon and others nothing.
#[test]
fn a_template_cut_or_rewritten_while_it_is_mapped_hurts_no_others() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;

    let _limit = limit(Duration::from_secs(120));
    for cut in [0, 1, 4095, 4097, LENGTH as u64] {
        let mounted = Mounted::start(Options::default());
        let template = mounted.template("t", &vec![b'o'; LENGTH]);
        mounted.template("other", &vec![b'x'; LENGTH]);
        let other = open_rw(mounted.path("other?rom=off")).unwrap();
        let other_mapped = Mapping::shared(&other).unwrap();
        let serving = mounted.serving();
        let mut children = ["t", "t?rom=off", "t?rom=off&view=v"].map(|name| {
            let mut command = child::command("faults", &mounted.path(name));
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let lines = lines.map_while(Result::ok).take_while(|line| !line.ends_with("mapped"));
            lines.for_each(drop);
            child
        });
        set_mode(&template, 0o644);
        let file = fs::OpenOptions::new().write(true).open(&template).unwrap();
        match cut < LENGTH as u64 {
            true => file.set_len(cut).unwrap(),
            false => file.write_all_at(&[b'n'; LENGTH], 0).unwrap(),
        }
        for child in &mut children {
            writeln!(child.stdin.as_ref().unwrap()).unwrap();
            let status = child.wait().unwrap();
            println!("cut to {cut}: {status}");
        }
        other_mapped.write(4096, b"mine");
        other_mapped.sync_all().unwrap();
        assert_eq!(bytes_at(&other, 4096, 5).unwrap(), b"minex", "{cut}");
        assert_eq!(mounted.serving(), serving, "the same process serves");
        assert!(open_ro(mounted.path("t?rom=off&view=v")).is_err(), "{cut}: it is not the template any more");
    }
}
