//! Processes that use a mount in every way at the same time, and compare every byte that they read with
//! a model.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};

use super::child;
use super::clones::digest;
use super::files::{open_ro, opened, wait_for_no_view_files};
use super::maps::Mapping;
use super::mounted::Mounted;
use super::random::{Random, pattern};

const PAGE: usize = 4096;
const PAGES: usize = 512;

pub const MEMORY: &str = "t?rom=off&backing=memory";

pub const SEED: &str = "TEMPLATEFS_SEED";
pub const KILLS: &str = "TEMPLATEFS_KILLS";

/// Asked for more than a run of all tests has time for?
pub fn is_long_form() -> bool {
    number(KILLS, 0) >= 100
}

/// What an environment variable says.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The numbers that the users take come again with this seed; the instants do not.
pub fn seed() -> u64 {
    let seed = number(SEED, u64::from(std::process::id()));
    println!("{SEED}={seed}");
    seed
}

/// What `t` holds.
pub fn template() -> Vec<u8> {
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

/// One of the users of the mount, until its stdin is closed: a test `child` calls this.
pub fn run() {
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

/// All of them, each a process of its own, on a mount with their template.
pub struct Users {
    running: Vec<(&'static str, Child)>,
    digest: String,
}

impl Users {
    pub fn start(mounted: &Mounted, seed: u64) -> Self {
        let digest = digest(&mounted.template("t", &template()));
        fs::read(mounted.path("t")).unwrap();
        let mut users = vec!["mapped", "mapped", "named", "written", "rom", "opens"];
        users.extend(Mapping::of_memory_view(&mounted.path(MEMORY)).map(|_| "memory"));
        let start = |what| {
            let mut command = child::command(what, &mounted.mountpoint);
            (what, command.env(SEED, seed.to_string()).stdin(Stdio::piped()).spawn().unwrap())
        };
        Self { running: users.into_iter().map(start).collect(), digest }
    }

    /// None has found an error, or a byte that is not what it wrote.
    #[track_caller]
    pub fn assert_all_go_on(&mut self, when: impl Display) {
        for (what, user) in &mut self.running {
            if let Some(status) = user.try_wait().unwrap() {
                panic!("{what} ended {when}: {status}");
            }
        }
    }

    /// Ends them, and looks that nothing is left of them and the template is what it was.
    #[track_caller]
    pub fn finish(self, mounted: &Mounted) {
        for (what, mut user) in self.running {
            drop(user.stdin.take());
            let status = user.wait().unwrap();
            assert!(status.success(), "{what}: {status}");
        }
        for view in ["t?rom=off&view=mapped", "t?rom=off&view=written"] {
            fs::remove_file(mounted.path(view)).unwrap();
        }
        wait_for_no_view_files(mounted);
        assert_eq!(digest(&mounted.store.join("t")), self.digest, "the template");
    }
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
    let listing = names(&mount);
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
        // Pages that all such views touch, which can be foreseen.
        (0..PAGES).step_by(8).for_each(|page| view.write_all_at(b"touched", (page * PAGE) as u64).unwrap());
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
        assert_eq!(names(&mount), listing);
    })
}

fn names(mount: &Path) -> Vec<OsString> {
    fs::read_dir(mount).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}
