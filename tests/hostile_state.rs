//! A state directory that somebody removes, or whose files become other things: whoever it is not about goes
//! on.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Advice, CWD, FileType, Mode, fadvise, mknodat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, kill_process};

use common::files::{assert_refused, bytes_at, errno, nameless_view_files, open_ro, open_rw, opened};
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};
use common::random::pattern;
use common::views::{metric, set_aside, views};

const PAGE: usize = 4096;
const SIZE: usize = 64 * PAGE;
const TIME: Duration = Duration::from_secs(120);
const SET_ASIDE: &str = "templatefs_views_set_aside";
/// Where views are written.
const AT: u64 = 20 * PAGE as u64;

fn mounted() -> Mounted {
    let mounted = Mounted::start(Options::default());
    mounted.template("t", &pattern(1, SIZE));
    mounted
}

/// From the view's files, and not from memory.
fn written(view: &File) -> std::io::Result<Vec<u8>> {
    fadvise(view, 0, None, Advice::DontNeed).unwrap();
    bytes_at(view, AT, 7)
}

#[test]
fn without_a_state_directory_what_is_open_goes_on_and_nothing_new_is_opened() {
    let _limit = limit(TIME);
    let mut mounted = mounted();
    let named = opened(&mounted.path("t?rom=off&view=a"));
    let nameless = opened(&mounted.path("t?rom=off"));
    drop(opened(&mounted.path("t?rom=off&view=rest")));
    named.sync_all().unwrap();
    let rom = Mapping::read_only(&open_ro(mounted.path("t")).unwrap()).unwrap();
    let memory = Mapping::shared(&nameless).unwrap();
    fs::remove_dir_all(&mounted.state).unwrap();
    for round in 0..3u8 {
        let data = [round; 7];
        for view in [&named, &nameless] {
            view.write_all_at(&data, AT).unwrap();
            view.sync_all().unwrap();
            assert_eq!(written(view).unwrap(), data);
        }
        memory.write(PAGE, &data);
        memory.sync_all().unwrap();
        assert_eq!(bytes_at(&nameless, PAGE as u64, 7).unwrap(), data);
        rom.forget().unwrap();
        assert!(rom.read(0, SIZE) == pattern(1, SIZE));
        // Not ENOENT: QEMU would try to make the file, which is there, and so on.
        for name in ["t?rom=off", "t?rom=off&view=new"] {
            assert_refused(open_rw(mounted.path(name)), Errno::IO, name);
        }
        assert_refused(open_rw(mounted.path("t?rom=off&view=rest")), Errno::STALE, "a view at rest");
        assert!(fs::read(mounted.path("t")).unwrap() == pattern(1, SIZE));
    }
    mounted.wait_for_log("the state directory is gone");
    drop((named, nameless, memory, rom));
    assert!(mounted.stop().success());
}

/// Nothing tells a successor what is open: the users wait for it, until the mount is given up.
#[test]
fn a_death_without_a_state_directory_can_be_given_up() {
    let _limit = limit(TIME);
    if !is_root() {
        return println!("skipped: only root can give up a mount that nobody serves");
    }
    let mut mounted = mounted();
    let view = opened(&mounted.path("t?rom=off&view=a"));
    let rom = Mapping::read_only(&open_ro(mounted.path("t")).unwrap()).unwrap();
    let serving = mounted.serving();
    fs::remove_dir_all(&mounted.state).unwrap();
    kill_process(serving, Signal::KILL).unwrap();
    mounted.wait_for_log("the journal of this mount: No such file or directory");
    rom.forget().unwrap();
    assert!(rom.read(0, SIZE) == pattern(1, SIZE), "what is passed through goes on");
    // It is busy, and given up all the same.
    let _ = unmount(&mounted.mountpoint, UnmountFlags::FORCE);
    mounted.wait();
    assert!(errno(bytes_at(&view, AT, 7)).is_some());
}

type Damage = (&'static str, fn(&Path));

/// What a file becomes.
const DAMAGES: [Damage; 8] = [
    ("emptied", |path| File::options().write(true).open(path).unwrap().set_len(0).unwrap()),
    ("cut short", |path| File::options().write(true).open(path).unwrap().set_len(100).unwrap()),
    ("a bit flipped", |path| {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 21).unwrap();
        file.write_all_at(&[byte[0] ^ 4], 21).unwrap();
    }),
    ("garbage", |path| fs::write(path, pattern(9, 100_000)).unwrap()),
    ("removed", |path| fs::remove_file(path).unwrap()),
    ("a symlink", |path| {
        let elsewhere = path.with_extension("elsewhere");
        fs::rename(path, &elsewhere).unwrap();
        symlink(elsewhere, path).unwrap();
    }),
    ("a FIFO", |path| {
        fs::remove_file(path).unwrap();
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }),
    ("a directory", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
];

/// A view is what was written to it, or refused; or, where its map is gone, it is.
#[track_caller]
fn assert_whole_or_refused(found: std::io::Result<Vec<u8>>, refused: Errno, what: (&str, &str)) {
    // What bytes a data file holds nobody can tell from others.
    let is_known = what != ("data", "garbage");
    match found {
        Ok(found) if what == ("map", "removed") => assert_eq!(found, pattern(1, SIZE)[AT as usize..][..7]),
        Ok(found) if is_known => assert_eq!(found, b"damaged", "{what:?}"),
        Ok(_) => {}
        refusal => assert_refused(refusal, refused, what),
    }
}

#[test]
fn damage_between_mounts_costs_the_view_that_it_is_about() {
    let _limit = limit(TIME);
    let mut mounted = mounted();
    let path = mounted.path("t?rom=off&view=damaged");
    let whole = mounted.path("t?rom=off&view=whole");
    opened(&whole).write_all_at(b"is here", AT).unwrap();
    for file in ["map", "synced", "data"] {
        for (how, damage) in DAMAGES {
            let view = opened(&path);
            view.write_all_at(b"damaged", AT).unwrap();
            view.sync_all().unwrap();
            drop(view);
            assert!(mounted.stop().success());
            damage(&mounted.state.join(format!("views/n-damaged.{file}")));
            mounted.mount();
            assert_eq!(bytes_at(&opened(&whole), AT, 7).unwrap(), b"is here", "{file} {how}");
            let found = open_rw(&path).and_then(|view| written(&view));
            let log = mounted.log();
            let log = log.rsplit("is mounted on").next().unwrap();
            assert!(found.is_ok() || log.contains("n-damaged"), "{file} {how}: {log}");
            assert_whole_or_refused(found, Errno::STALE, (file, how));
            let left = mounted.state.join(format!("views/n-damaged.{file}"));
            if left.is_dir() {
                fs::remove_dir(left).unwrap();
            }
            fs::remove_file(&path)
                .unwrap_or_else(|error| panic!("{file} {how}: it cannot be discarded: {error}"));
        }
    }
}

#[test]
fn damage_before_a_takeover_costs_the_view_that_it_is_about() {
    let _limit = limit(TIME);
    for file in ["map", "synced", "data"] {
        for (how, damage) in DAMAGES {
            let mounted = mounted();
            let view = opened(&mounted.path("t?rom=off&view=damaged"));
            view.write_all_at(b"damaged", AT).unwrap();
            view.sync_all().unwrap();
            let whole = opened(&mounted.path("t?rom=off"));
            whole.write_all_at(b"is here", AT).unwrap();
            dies(&mounted, || damage(&mounted.state.join(format!("views/n-damaged.{file}"))));
            assert_eq!(written(&whole).unwrap(), b"is here", "{file} {how}");
            let found = written(&view);
            if found.is_err() {
                mounted.wait_for_log("is set aside, and its users get errors");
            }
            assert_whole_or_refused(found, Errno::BADF, (file, how));
            assert!(fs::read(mounted.path("t")).unwrap() == pattern(1, SIZE));
        }
    }
}

/// Both copies of a view's record. Returns what was there.
fn tear(map: &Path) -> Vec<u8> {
    let before = fs::read(map).unwrap();
    File::options().write(true).open(map).unwrap().write_all_at(&[b'X'; 1500], 100).unwrap();
    before
}

fn stdout(mounted: &Mounted, command: &str) -> String {
    let output = mounted.command().arg(command).arg(&mounted.mountpoint).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Only the log and the refusals told of it, and an operator looks at the views.
#[test]
fn views_that_are_set_aside_are_listed_until_they_are_put_right_or_discarded() {
    let _limit = limit(TIME);
    let mut mounted = mounted();
    let open = ["t?rom=off&view=a", "t?rom=off", "t?rom=off&view=whole"].map(|name| {
        let view = opened(&mounted.path(name));
        view.write_all_at(b"written", AT).unwrap();
        view.sync_all().unwrap();
        view
    });
    drop(opened(&mounted.path("t?rom=off&view=rest")));
    assert_eq!(set_aside(&mounted), []);
    let is_map = |path: &PathBuf| path.extension().is_some_and(|end| end == "map");
    let nameless = nameless_view_files(&mounted).into_iter().find(is_map);
    let maps = ["n-a.map", "n-rest.map"].map(|name| mounted.state.join("views").join(name));
    let maps = [maps[0].clone(), nameless.unwrap(), maps[1].clone()];
    let mut before = Vec::new();
    dies(&mounted, || before = maps.iter().map(|map| tear(map)).collect());
    assert_eq!(written(&open[2]).unwrap(), b"written");
    let told = set_aside(&mounted);
    let [nameless, a, rest] = told.as_slice() else { panic!("{told:?}") };
    assert!(nameless.id.starts_with('@'), "{nameless:?}");
    assert_eq!((a.id.as_str(), a.template.as_deref(), a.opens), ("a", Some("t"), 1));
    assert_eq!((rest.id.as_str(), &rest.template, rest.opens), ("rest", &None, 0));
    for (view, map) in [(a, &maps[0]), (nameless, &maps[1]), (rest, &maps[2])] {
        assert_eq!(view.files.as_deref(), map.with_extension("*").to_str());
        assert!(view.reason.contains("torn or damaged"), "{view:?}");
    }
    assert_eq!(views(&mounted).iter().map(|view| view.id.as_str()).collect::<Vec<_>>(), ["whole"]);
    let table = stdout(&mounted, "views");
    let below: Vec<&str> = table.lines().skip_while(|line| !line.starts_with("total")).skip(1).collect();
    assert!(
        below.len() == 3 && below[1].starts_with("a is set aside, with errors for who has it"),
        "{table}"
    );
    assert_eq!(metric(&mounted, SET_ASIDE), 3);
    let top = mounted.command().args(["top", "--once"]).arg(&mounted.mountpoint).output().unwrap();
    assert!(String::from_utf8(top.stdout).unwrap().contains("  3 set aside\n"));
    assert!(stdout(&mounted, "doctor").contains(&format!("set aside: {}, a, rest", nameless.id)));

    for (map, bytes) in maps[..2].iter().zip(&before) {
        fs::write(map, bytes).unwrap();
    }
    stdout(&mounted, "upgrade");
    assert_eq!(set_aside(&mounted).iter().map(|view| view.id.as_str()).collect::<Vec<_>>(), ["rest"]);
    open.iter().for_each(|view| assert_eq!(written(view).unwrap(), b"written"));
    drop(open);
    assert!(mounted.stop().success());
    File::options().write(true).open(&maps[2]).unwrap().write_all_at(&[99], 8).unwrap();
    mounted.mount();
    let told = set_aside(&mounted);
    assert_eq!((told.len(), metric(&mounted, SET_ASIDE)), (1, 1), "as long as its files are there");
    assert!(told[0].reason.contains("it has version 99"), "{told:?}");
    let discarded = mounted.command().arg("discard").arg(&mounted.mountpoint).arg("rest").status().unwrap();
    assert!(discarded.success());
    assert_eq!((set_aside(&mounted).len(), metric(&mounted, SET_ASIDE)), (0, 0));
    assert!(!maps[2].exists());
}

#[test]
fn an_ordinary_user_sees_his_own_that_are_set_aside() {
    let _limit = limit(TIME);
    again_as_ordinary_user("views_that_are_set_aside_are_listed_until_they_are_put_right_or_discarded");
}

/// The process that serves dies, and another one takes over after `meanwhile`.
fn dies(mounted: &Mounted, meanwhile: impl FnOnce()) {
    let old = mounted.serving();
    kill_process(mounted.daemon(), Signal::STOP).unwrap();
    kill_process(old, Signal::KILL).unwrap();
    meanwhile();
    kill_process(mounted.daemon(), Signal::CONT).unwrap();
}

/// The users wait as long as it is not what it was.
#[test]
fn whatever_becomes_of_the_journal_before_a_takeover_who_puts_it_back_has_lost_nothing() {
    let _limit = limit(TIME);
    let mounted = mounted();
    let view = opened(&mounted.path("t?rom=off"));
    view.write_all_at(b"is here", AT).unwrap();
    let journal = mounted.state.join("journal");
    for (how, damage) in DAMAGES.into_iter().filter(|(how, _)| !["cut short", "a bit flipped"].contains(how))
    {
        let copy = mounted.state.join("copy");
        let refused = || mounted.log().matches("ended with exit code").count();
        let before = refused();
        dies(&mounted, || {
            fs::copy(&journal, &copy).unwrap();
            damage(&journal);
        });
        let tried = common::limit::poll(TIME, || (refused() > before).then_some(()));
        assert!(tried.is_some(), "{how}: {}", mounted.log());
        if journal.is_dir() {
            fs::remove_dir(&journal).unwrap();
        }
        fs::rename(copy, &journal).unwrap();
        assert_eq!(written(&view).unwrap(), b"is here", "{how}");
        // Deaths in quick succession are answered more and more slowly; these are not meant to be.
        std::thread::sleep(Duration::from_millis(250));
    }
}
