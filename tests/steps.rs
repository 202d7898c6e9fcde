//! The process that serves dies, or panics, at each step of what it does: src/steps.rs numbers them.
//! After each, all that is open is compared with what was written.
//!
//! What leads to a step is done twice: alone, so that it is what meets the death, and beside processes that use the
//! mount in every way (common/users.rs), any of which may be.

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use common::clones::open_directory;
use common::files::{
    assert_refused, bytes_at, error_line, nameless_view_files, open_ro, opened, wait_for_no_view_files,
};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, binary};
use common::processes::serving;
use common::random::pattern;
use common::users::{self, Users, seed};
use templatefs::steps::{
    APPEND, CHECK, DISCARD_AT_REST, DISCARD_OPEN, ENVIRONMENT, OPEN, PANIC, RELEASE, REWRITE, TAKE_OVER,
    WRITE,
};

const PAGE: usize = 4096;
const USED: &str = "t?rom=off&view=used";
/// Where memory that needs no daemon was stored to.
const OWN: usize = 9 * PAGE - 7;
const SOON: Duration = Duration::from_secs(30);
const TIME: Duration = Duration::from_secs(120);

/// One of the users of the mount.
#[test]
#[ignore = "run by other tests"]
fn child() {
    users::run();
}

/// A mount with a view, a template, memory and a private mapping that are in use, and what they hold.
struct Used {
    mounted: Mounted,
    armed: PathBuf,
    content: Vec<u8>,
    written: File,
    mapped: Mapping,
    model: Vec<u8>,
    rom: Mapping,
    /// Where the machine has views in memory.
    memory: Option<Mapping>,
    private: Mapping,
    deaths: usize,
    beside: Option<Users>,
    _directory: TempDir,
}

impl Used {
    /// `beside` has the mount used by others too. None where the program has no steps.
    fn new(beside: bool) -> Option<Self> {
        if !cfg!(debug_assertions) {
            println!("skipped: the steps are in debug builds only");
            return None;
        }
        let directory = open_directory();
        let armed = directory.path().join("armed");
        let mounted =
            Mounted::start(Options { environment: Some((ENVIRONMENT, armed.clone())), ..Options::default() });
        let content = users::template();
        let beside = beside.then(|| Users::start(&mounted, seed()));
        if beside.is_none() {
            mounted.template("t", &content);
        }
        let written = opened(&mounted.path(USED));
        let mapped = Mapping::shared(&written).unwrap();
        let rom = Mapping::read_only(&open_ro(mounted.path("t")).unwrap()).unwrap();
        let memory = Mapping::of_memory_view(&mounted.path(users::MEMORY));
        let private = Mapping::private(&open_ro(mounted.path("t?rom=off")).unwrap()).unwrap();
        let own = memory.iter().chain([&private]);
        own.for_each(|mapping| mapping.write(OWN, b"stored before all of it"));
        let model = content.clone();
        Some(Self {
            mounted,
            armed,
            content,
            written,
            mapped,
            model,
            rom,
            memory,
            private,
            deaths: 0,
            beside,
            _directory: directory,
        })
    }

    /// Deaths in quick succession are answered more and more slowly; these are not meant to be.
    fn arm(&self, step: &str) {
        std::thread::sleep(Duration::from_millis(250));
        let new = self.armed.with_extension("new");
        fs::write(&new, step).unwrap();
        fs::rename(new, &self.armed).unwrap();
    }

    /// The step was taken, by whomever, so many processes have taken over for it, and nothing that is open has changed.
    #[track_caller]
    fn assert_whole(&mut self, step: &str, deaths: usize) {
        let taken = poll(SOON, || (!self.armed.exists()).then_some(()));
        assert!(taken.is_some(), "{step}: nothing led there\n{}", self.mounted.log());
        self.deaths += deaths;
        let taken = poll(SOON, || (self.takeovers() >= self.deaths).then_some(()));
        assert!(taken.is_some(), "{step}: {} of {}", self.takeovers(), self.deaths);
        self.mapped.sync_all().unwrap();
        self.mapped.forget().unwrap();
        rustix::fs::fadvise(&self.written, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert!(self.mapped.read(0, self.content.len()) == self.model, "{step}: the view");
        self.rom.forget().unwrap();
        assert!(self.rom.read(0, self.content.len()) == self.content, "{step}: the ROM");
        assert!(fs::read(self.mounted.path("t")).unwrap() == self.content, "{step}: the template");
        let mut own = self.content.clone();
        own[OWN..][..23].copy_from_slice(b"stored before all of it");
        for mapping in self.memory.iter().chain([&self.private]) {
            assert!(mapping.read(0, self.content.len()) == own, "{step}: memory");
        }
        if let Some(users) = &mut self.beside {
            users.assert_all_go_on(format_args!("at {step}"));
        }
    }

    fn takeovers(&self) -> usize {
        self.mounted.log().matches("was taken over from a process that died").count()
    }

    /// Nobody died but who was meant to, and nothing is left of what was open.
    #[track_caller]
    fn finish(self) {
        assert_eq!(self.takeovers(), self.deaths, "{}", self.mounted.log());
        let Self { mounted, written, mapped, memory, private, beside, .. } = self;
        drop((written, mapped, memory, private));
        fs::remove_file(mounted.path(USED)).unwrap();
        match beside {
            Some(users) => users.finish(&mounted),
            None => wait_for_no_view_files(&mounted),
        }
    }

    fn upgrade(&self) -> Output {
        self.mounted
            .command()
            .arg("upgrade")
            .arg("--binary")
            .args([binary(), &self.mounted.mountpoint])
            .output()
            .unwrap()
    }
}

/// With nobody else, so that what leads to a step meets it.
fn alone(through_steps: fn(&mut Used)) {
    let _limit = limit(TIME);
    let Some(mut used) = Used::new(false) else { return };
    through_steps(&mut used);
    used.finish();
}

#[test]
fn of_an_open() {
    alone(open);
}

fn open(used: &mut Used) {
    for step in OPEN.into_iter().chain(APPEND) {
        for (name, write) in [("t?rom=off", true), ("t?rom=off&view=new", true), ("t", false)] {
            used.arm(step);
            let path = used.mounted.path(name);
            let file = if write { opened(&path) } else { open_ro(&path).unwrap() };
            assert!(bytes_at(&file, 0, used.content.len()).unwrap() == used.content, "{step}: {name}");
            if write {
                file.write_all_at(b"new", 5).unwrap();
                assert_eq!(bytes_at(&file, 5, 3).unwrap(), b"new");
            }
            used.assert_whole(step, 1);
            if name.contains("view=") {
                drop(file);
                assert_eq!(bytes_at(&opened(&path), 5, 3).unwrap(), b"new", "{step}");
                fs::remove_file(&path).unwrap();
            }
        }
    }
}

#[test]
fn of_a_write() {
    alone(write);
}

fn write(used: &mut Used) {
    for (round, step) in WRITE.into_iter().enumerate() {
        for (at, length) in [(round * 9 * PAGE + 100, 3 * PAGE), (round * 9 * PAGE + 4 * PAGE, PAGE)] {
            let data = pattern(at as u64, length);
            used.arm(step);
            used.written.write_all_at(&data, at as u64).unwrap();
            used.model[at..at + length].copy_from_slice(&data);
            used.assert_whole(step, 1);
        }
        let at = round * 9 * PAGE + 6 * PAGE;
        used.arm(step);
        used.mapped.write(at, b"stored to memory");
        used.model[at..at + 16].copy_from_slice(b"stored to memory");
        used.mapped.sync_all().unwrap();
        used.assert_whole(step, 1);
    }
}

#[test]
fn of_a_discard() {
    alone(discard);
}

fn discard(used: &mut Used) {
    for (is_open, step) in
        DISCARD_OPEN.map(|step| (true, step)).into_iter().chain(DISCARD_AT_REST.map(|step| (false, step)))
    {
        let path = used.mounted.path("t?rom=off&view=gone");
        let file = opened(&path);
        file.write_all_at(b"mine", 0).unwrap();
        let held = is_open.then(|| file.try_clone().unwrap());
        drop(file);
        used.arm(step);
        fs::remove_file(&path).unwrap_or_else(|e| panic!("{step}: {e}"));
        used.assert_whole(step, 1);
        assert_refused(fs::remove_file(&path), Errno::NOENT, step);
        if let Some(held) = held {
            assert_eq!(bytes_at(&held, 0, 4).unwrap(), b"mine", "{step}");
            assert!(bytes_at(&opened(&path), 0, PAGE).unwrap() == used.content[..PAGE], "{step}: a new one");
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn of_a_close() {
    alone(close);
}

fn close(used: &mut Used) {
    for step in RELEASE {
        let file = opened(&used.mounted.path("t?rom=off"));
        file.write_all_at(b"mine", 0).unwrap();
        used.arm(step);
        drop(file);
        used.assert_whole(step, 1);
    }
}

#[test]
fn of_a_rewriting_of_the_journal() {
    alone(rewrite_the_journal);
}

fn rewrite_the_journal(used: &mut Used) {
    // The last one first: a journal that was long when it was taken over grows to several times that.
    for step in REWRITE.into_iter().rev() {
        used.arm(step);
        let until_taken = || {
            for _ in 0..100 {
                drop(
                    open_ro(used.mounted.path("t?rom=off&vm=a-name-that-takes-its-room-in-each-entry"))
                        .unwrap(),
                );
            }
            (!used.armed.exists()).then_some(())
        };
        assert!(poll(TIME, until_taken).is_some(), "{step}: it does not grow");
        used.assert_whole(step, 1);
    }
}

#[test]
fn of_a_takeover() {
    alone(take_over);
}

fn take_over(used: &mut Used) {
    for (number, step) in TAKE_OVER.into_iter().enumerate() {
        used.arm(step);
        kill_process(serving(&used.mounted).unwrap(), Signal::KILL).unwrap();
        // One that dies late has said that it took over.
        used.assert_whole(step, if number < 4 { 1 } else { 2 });
    }
}

#[test]
fn of_an_upgrade() {
    alone(upgrade);
}

/// The new program dies at some step: the old one goes on, or takes over again.
fn upgrade(used: &mut Used) {
    for step in CHECK {
        let old = serving(&used.mounted);
        used.arm(step);
        let line = error_line(&used.upgrade());
        assert!(line.contains("does not say that it can read"), "{step}: {line}");
        assert_eq!(serving(&used.mounted), old);
        used.assert_whole(step, 0);
    }
    for (number, step) in TAKE_OVER.into_iter().enumerate() {
        used.arm(step);
        let line = error_line(&used.upgrade());
        assert!(
            line.contains("killed by signal 9") && line.contains("the old program serves again"),
            "{step}: {line}"
        );
        used.assert_whole(step, if number < 4 { 1 } else { 2 });
    }
    assert!(used.upgrade().status.success());
    used.assert_whole("the upgrade", 1);
}

#[test]
fn nothing_is_lost_at_any_step_beside_users_of_every_kind() {
    let _limit = limit(2 * TIME);
    let Some(mut used) = Used::new(true) else { return };
    for through_steps in [open, write, discard, close, rewrite_the_journal, take_over, upgrade] {
        through_steps(&mut used);
    }
    used.finish();
}

#[test]
fn nor_in_an_ordinary_users_mount() {
    let _limit = limit(2 * TIME);
    again_as_ordinary_user("nothing_is_lost_at_any_step_beside_users_of_every_kind");
}

/// A panic costs its own request at most, which gets EIO, and is a death as any other to all else; of what
/// was stored to memory or written it costs nothing.
#[test]
fn a_panic_costs_at_most_its_own_request() {
    let _limit = limit(TIME);
    let Some(mut used) = Used::new(false) else { return };
    let at_worst_eio = |step: &str, result: io::Result<()>| {
        assert!(matches!(common::files::errno(result), None | Some(Errno::IO)), "{step}");
    };
    for step in OPEN {
        used.arm(&format!("{PANIC}{step}"));
        at_worst_eio(step, common::files::open_rw(used.mounted.path("t?rom=off")).map(drop));
        used.assert_whole(step, 1);
        assert!(
            bytes_at(&opened(&used.mounted.path("t?rom=off")), 0, used.content.len()).unwrap()
                == used.content
        );
    }
    for (round, step) in WRITE.into_iter().enumerate() {
        let (at, data) = (round * 5 * PAGE + 7, pattern(round as u64, PAGE));
        used.arm(&format!("{PANIC}{step}"));
        used.written.write_all_at(&data, at as u64).unwrap();
        used.model[at..at + PAGE].copy_from_slice(&data);
        used.assert_whole(step, 1);
        // The kernel would tell nobody that a mapped page was not written back.
        let at = (round * 5 + 3) * PAGE;
        used.mapped.write(at, b"stored to memory");
        used.model[at..at + 16].copy_from_slice(b"stored to memory");
        used.arm(&format!("{PANIC}{step}"));
        used.mapped.sync_all().unwrap();
        used.assert_whole(step, 1);
    }
    assert!(used.mounted.log().contains("a defect of templatefs, please report it"));
    // An OPEN that was answered EIO has opened nothing.
    let gone = poll(SOON, || nameless_view_files(&used.mounted).is_empty().then_some(()));
    assert!(gone.is_some(), "left over: {:?}", nameless_view_files(&used.mounted));
}
