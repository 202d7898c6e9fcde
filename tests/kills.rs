//! kill -9 of the process that serves, at random instants, under several processes that use the mount in
//! every way; each checks every byte that it reads against a model.
//!
//! The numbers come again with their seed, the instants do not: `TEMPLATEFS_SEED=N`. The long form is in
//! docs/RECOVERY.md: `TEMPLATEFS_KILLS=1000 cargo test --release --test kills -- --nocapture`.

mod common;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::process::{Pid, Signal, kill_process};

use common::child;
use common::clones::digest;
use common::files::{open_ro, open_rw, opened, wait_for_no_view_files};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user};
use common::random::{Random, pattern};

const PAGE: usize = 4096;
const PAGES: usize = 512;

const MEMORY: &str = "t?rom=off&backing=memory";

const SEED: &str = "TEMPLATEFS_SEED";
const KILLS: &str = "TEMPLATEFS_KILLS";

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn template() -> Vec<u8> {
    pattern(1, PAGES * PAGE)
}

/// Set once the parent has closed this process's stdin.
fn until_told() -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        tell.store(true, Ordering::Relaxed);
    });
    told
}

/// One of the users of the mount, until its stdin is closed.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    let mut random = Random::new(number(SEED, 0) ^ u64::from(std::process::id()));
    let told = until_told();
    let mut user: Box<dyn FnMut(&mut Random)> = match what.as_str() {
        "memory" => mapped(&path.join(MEMORY)),
        "mapped" => mapped(&path.join("t?rom=off")),
        "named" => mapped(&path.join("t?rom=off&view=mapped")),
        "written" => written(&path.join("t?rom=off&view=written")),
        "rom" => rom(&path),
        "opens" => opens(&path),
        other => panic!("{other}"),
    };
    let mut rounds = 0u64;
    while !told.load(Ordering::Relaxed) {
        user(&mut random);
        rounds += 1;
    }
    println!("{what}: {rounds} rounds");
    assert!(rounds > 0);
}

/// A piece of some page, and its content.
fn piece(random: &mut Random) -> (usize, Vec<u8>) {
    let offset = random.below(PAGE as u64 - 64) as usize;
    (random.below(PAGES as u64) as usize * PAGE + offset, pattern(random.next(), 64))
}

/// Stores to a shared mapping, written back and read again at random.
fn mapped(path: &Path) -> Box<dyn FnMut(&mut Random)> {
    let file = opened(path);
    let map = Mapping::shared(&file).unwrap();
    let mut model = template();
    Box::new(move |random| {
        for _ in 0..20 {
            let (at, data) = piece(random);
            map.write(at, &data);
            model[at..at + data.len()].copy_from_slice(&data);
        }
        let page = random.below(PAGES as u64) as usize * PAGE;
        match random.below(8) {
            0 => map.sync_all().unwrap(),
            1 => map.sync(page, PAGE).unwrap(),
            2 => {
                map.sync_all().unwrap();
                map.forget().unwrap();
                fadvise(&file, 0, None, Advice::DontNeed).unwrap();
                assert!(map.read(0, model.len()) == model, "the whole view");
            }
            _ => assert!(map.read(page, PAGE) == model[page..page + PAGE], "page {}", page / PAGE),
        }
    })
}

/// System calls.
fn written(path: &Path) -> Box<dyn FnMut(&mut Random)> {
    let file = opened(path);
    let mut model = template();
    let check = |file: &File, model: &[u8], at: usize| {
        let mut read = vec![0; PAGE.min(model.len() - at)];
        file.read_exact_at(&mut read, at as u64).unwrap();
        assert!(read == model[at..at + read.len()], "page {}", at / PAGE);
    };
    Box::new(move |random| {
        let (at, data) = piece(random);
        let page = random.below(PAGES as u64) as usize * PAGE;
        match random.below(10) {
            0 => file.sync_all().unwrap(),
            1 => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, flags, page as u64, PAGE as u64).unwrap();
                model[page..page + PAGE].fill(0);
            }
            2 => {
                let length = model.len() - random.below(3 * PAGE as u64) as usize;
                file.set_len(length as u64).unwrap();
                file.set_len(model.len() as u64).unwrap();
                model[length..].fill(0);
            }
            3 => fadvise(&file, 0, None, Advice::DontNeed).unwrap(),
            _ => {
                file.write_all_at(&data, at as u64).unwrap();
                model[at..at + data.len()].copy_from_slice(&data);
            }
        }
        check(&file, &model, page);
        assert_eq!(file.metadata().unwrap().len(), model.len() as u64);
    })
}

/// What reads the template, by the kernel alone where it can.
fn rom(mount: &Path) -> Box<dyn FnMut(&mut Random)> {
    let files = [open_ro(mount.join("t")).unwrap(), open_ro(mount.join("t?rom=off")).unwrap()];
    let maps = files.each_ref().map(|file| Mapping::read_only(file).unwrap());
    let private = Mapping::private(&files[1]).unwrap();
    let content = template();
    Box::new(move |random| {
        let (at, data) = piece(random);
        private.write(at, &data);
        assert_eq!(private.read(at, data.len()), data);
        let page = at - at % PAGE;
        for map in &maps {
            assert!(map.read(page, PAGE) == content[page..page + PAGE]);
            map.forget().unwrap();
        }
    })
}

/// Files that come and go.
fn opens(mount: &Path) -> Box<dyn FnMut(&mut Random)> {
    let mount = mount.to_owned();
    let content = template();
    Box::new(move |random| {
        let (at, data) = piece(random);
        let passing = mount.join("t?rom=off&view=passing");
        let read = |file: &File| {
            let mut read = vec![0; data.len()];
            file.read_exact_at(&mut read, at as u64).unwrap();
            read
        };
        let view = opened(&mount.join("t?rom=off"));
        assert!(read(&view) == content[at..at + data.len()]);
        view.write_all_at(&data, at as u64).unwrap();
        assert_eq!(read(&view), data);
        assert!(read(&open_ro(mount.join("t")).unwrap()) == content[at..at + data.len()]);
        let named = opened(&passing);
        assert!(read(&named) == content[at..at + data.len()], "a view that was just made");
        named.write_all_at(&data, at as u64).unwrap();
        if random.one_in(2) {
            drop(named);
            assert_eq!(read(&opened(&passing)), data);
            fs::remove_file(&passing).unwrap();
        } else {
            fs::remove_file(&passing).unwrap();
            assert_eq!(read(&named), data, "who has it open keeps it");
        }
        let names = fs::read_dir(&mount).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["t"]);
    })
}

/// The process that serves or is about to: the latest that the holder has started.
fn newest(mounted: &Mounted) -> Option<Pid> {
    let holder = mounted.daemon().as_raw_pid();
    let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).max().and_then(Pid::from_raw)
}

#[test]
fn nothing_is_lost_however_often_the_serving_process_is_killed() {
    let kills = number(KILLS, 25);
    let _limit = limit(Duration::from_secs(120 + 2 * kills));
    let seed = number(SEED, u64::from(std::process::id()));
    println!("{SEED}={seed} {KILLS}={kills}");
    let mounted = Mounted::start(Options::default());
    let before = digest(&mounted.template("t", &template()));
    fs::read(mounted.path("t")).unwrap();
    let mut users = vec!["mapped", "mapped", "named", "written", "rom", "opens"];
    match open_rw(mounted.path(MEMORY)) {
        Ok(_) => users.push("memory"),
        Err(error) => println!("no view in memory here: {error}"),
    }
    let start = |what| {
        let mut command = child::command(what, &mounted.mountpoint);
        (what, command.env(SEED, seed.to_string()).stdin(Stdio::piped()).spawn().unwrap())
    };
    let mut users: Vec<_> = users.into_iter().map(start).collect();
    let mut random = Random::new(seed);
    let (mut killed, mut served) = (Vec::new(), 0);
    while (killed.len() as u64) < kills {
        // Most have begun to serve; some die while they take over.
        let patient = !random.one_in(4);
        if patient {
            let serves = || {
                let serving = mounted.serving();
                (newest(&mounted) == Some(serving) && killed.last() != Some(&serving)).then_some(())
            };
            poll(Duration::from_secs(60), serves).expect("a process that serves");
            served += 1;
        }
        thread::sleep(Duration::from_millis(random.below(if patient { 250 } else { 40 })));
        match newest(&mounted) {
            Some(serving) if killed.last() != Some(&serving) => {
                kill_process(serving, Signal::KILL).unwrap();
                killed.push(serving);
            }
            _ => continue,
        }
        for (what, user) in &mut users {
            if let Some(status) = user.try_wait().unwrap() {
                panic!("{what} ended after {} kills: {status}", killed.len());
            }
        }
    }
    for (what, mut user) in users {
        drop(user.stdin.take());
        let status = user.wait().unwrap();
        assert!(status.success(), "{what}: {status}");
    }
    let named: Vec<PathBuf> =
        vec![mounted.path("t?rom=off&view=mapped"), mounted.path("t?rom=off&view=written")];
    for view in named {
        fs::remove_file(view).unwrap();
    }
    wait_for_no_view_files(&mounted);
    assert_eq!(digest(&mounted.store.join("t")), before, "the template");
    let takeovers = mounted.log().matches("was taken over from a process that died").count();
    println!("{} kills, {takeovers} takeovers", killed.len());
    assert!(takeovers + 1 >= served, "{takeovers} takeovers, and {served} that served");
}

#[test]
fn nor_in_an_ordinary_users_mount() {
    let _limit = limit(Duration::from_secs(240));
    again_as_ordinary_user("nothing_is_lost_however_often_the_serving_process_is_killed");
}
