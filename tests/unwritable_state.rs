//! The process that serves dies while nothing in the state directory can be written. What is open goes on
//! nevertheless, and what must be written waits until it can be.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use common::child;
use common::files::{SOON, assert_refused, bytes_at, nameless_view_files, open_ro, open_rw, opened};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, is_root};
use common::processes::serving;
use common::random::pattern;
use common::small::Small;
use common::stuck::{self, Stuck};
use common::views::view;

const PAGE: usize = 4096;
const SIZE: usize = 1 << 20;
const READY: &str = "the guest is ready";
const TIME: Duration = Duration::from_secs(120);

/// A guest of its own process, since whoever starts a program has its files closed, which waits for them:
/// it stores to its memory, syncs it, and compares all of it.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let stored = stored();
    let store = |map: &Mapping| {
        println!("{READY}");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        for page in (0..SIZE / PAGE).step_by(3) {
            map.write(page * PAGE, &stored[page * PAGE..][..PAGE]);
        }
    };
    stuck::run(store, &stored);
}

/// The template with the guest's stores.
fn stored() -> Vec<u8> {
    let (mut content, new) = (pattern(1, SIZE), pattern(2, SIZE));
    for page in (0..SIZE / PAGE).step_by(3) {
        content[page * PAGE..][..PAGE].copy_from_slice(&new[page * PAGE..][..PAGE]);
    }
    content
}

/// A mount that is in use, and what its users hold.
struct Used {
    mounted: Mounted,
    path: PathBuf,
    guest: Child,
    /// It says more at its end.
    _said: BufReader<ChildStdout>,
    /// A view with a page of its own, and one that only reads.
    own: File,
    rom: Mapping,
    memory: Option<Mapping>,
}

impl Used {
    /// With pages of the guest that are held, once `stop` has made them so.
    fn start(state: &Path, stop: impl FnOnce()) -> Self {
        let mounted = Mounted::start(Options { state: Some(state.join("state")), ..Options::default() });
        for name in ["t", "other"] {
            mounted.template(name, &pattern(1, SIZE));
        }
        let path = mounted.path("t?rom=off&view=a");
        drop(opened(&path));
        let own = opened(&mounted.path("other?rom=off&view=own"));
        own.write_all_at(b"own", 0).unwrap();
        own.sync_all().unwrap();
        let rom = Mapping::read_only(&open_ro(mounted.path("other")).unwrap()).unwrap();
        let memory = Mapping::of_memory_view(&mounted.path("other?rom=off&backing=memory"));
        let piped = || Stdio::piped();
        let mut guest = child::command("store", &path).stdin(piped()).stdout(piped()).spawn().unwrap();
        let mut said = BufReader::new(guest.stdout.take().unwrap());
        let is_ready = said.by_ref().lines().any(|line| line.unwrap() == READY);
        assert!(is_ready, "the guest is gone");
        stop();
        guest.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
        let held = poll(SOON, || (view(&mounted, "a").held_bytes > 0).then_some(()));
        assert!(held.is_some(), "{}", mounted.log());
        Self { mounted, path, guest, _said: said, own, rom, memory }
    }

    /// A successor serves.
    #[track_caller]
    fn kill(&self) {
        let takeovers = || self.mounted.log().matches("was taken over from a process that died").count();
        let before = takeovers();
        let dead = poll(SOON, || serving(&self.mounted)).expect("CONFIG_PROC_CHILDREN");
        kill_process(dead, Signal::KILL).unwrap();
        let taken = poll(SOON, || (takeovers() > before).then_some(()));
        assert!(taken.is_some(), "{}", self.mounted.log());
    }

    /// What is open is read, from its files and not from memory, and what is the VMs' own is written.
    #[track_caller]
    fn assert_reads_go_on(&self, round: usize, own: &[u8]) {
        fadvise(&self.own, 0, None, Advice::DontNeed).unwrap();
        let mut content = pattern(1, SIZE);
        content[..own.len()].copy_from_slice(own);
        assert!(bytes_at(&self.own, 0, SIZE).unwrap() == content, "round {round}");
        self.rom.forget().unwrap();
        assert!(self.rom.read(0, SIZE) == pattern(1, SIZE), "round {round}");
        if let Some(memory) = &self.memory {
            memory.write(round * PAGE, b"stored");
            assert_eq!(memory.read(round * PAGE, 6), b"stored");
        }
    }

    /// Dies again and again while nothing can be written; after `go_on` all is there.
    fn dies(mut self, refused: Errno, go_on: impl FnOnce()) {
        for round in 0..3 {
            self.kill();
            self.assert_reads_go_on(round, b"own");
            assert_refused(self.own.write_all_at(b"refused", PAGE as u64), refused, "a write");
            assert_refused(open_rw(self.mounted.path("other?rom=off&view=new")), refused, "an open");
            assert_eq!(self.guest.try_wait().unwrap(), None, "msync waits for what is held");
        }
        let log = self.mounted.log();
        assert!(log.contains("it is tried again until it can be written"), "{log}");
        go_on();
        assert!(self.guest.wait().unwrap().success(), "{}", self.mounted.log());
        self.own.write_all_at(b"our", 0).unwrap();
        // Not before each process has told its number, or the next one would have it again.
        self.mounted.wait_for_log("tells of this process");
        for _ in 0..2 {
            self.kill();
            assert!(fs::read(&self.path).unwrap() == stored());
            opened(&self.mounted.path("other?rom=off&view=new"));
        }
        self.assert_reads_go_on(3, b"our");
        let log = self.mounted.log();
        (1..=5).for_each(|number| {
            assert_eq!(log.matches(&format!("; takeover {number}\n")).count(), 1, "{log}")
        });
        let Self { mut mounted, path, own, rom, memory, .. } = self;
        drop((own, rom, memory));
        mounted.kill();
        mounted.mount();
        assert!(fs::read(path).unwrap() == stored(), "as the next daemon finds it");
    }
}

fn needs_root() -> bool {
    if !is_root() {
        println!("skipped: needs root, to mount a filesystem that cannot be written");
    }
    !is_root()
}

#[test]
fn while_the_state_directory_fails_what_is_open_goes_on_over_deaths() {
    let _limit = limit(TIME);
    if needs_root() {
        return;
    }
    let stuck = Stuck::mount();
    Used::start(&stuck.mountpoint, || stuck.fail("")).dies(Errno::IO, || stuck.release());
}

#[test]
fn while_the_state_directory_is_read_only_what_is_open_goes_on_over_deaths() {
    let _limit = limit(TIME);
    if needs_root() {
        return;
    }
    let stuck = Stuck::mount();
    Used::start(&stuck.mountpoint, || stuck.read_only()).dies(Errno::ROFS, || stuck.release());
}

#[test]
fn while_the_state_directory_is_full_what_is_open_goes_on_over_deaths() {
    let _limit = limit(TIME);
    if needs_root() {
        return;
    }
    let small = Small::of_mib(4);
    let filler = small.path.join("filler");
    let fill = || drop(small.fill());
    let used = Used::start(&small.path, fill);
    // Nor is there the room that the journal keeps ahead.
    let journal = File::options().write(true).open(small.path.join("state/journal")).unwrap();
    journal.set_len(journal.metadata().unwrap().len()).unwrap();
    let mut more = File::options().append(true).open(&filler).unwrap();
    while more.write_all(&[1; 4096]).is_ok() {}
    drop(more);
    used.dies(Errno::NOSPC, || fs::remove_file(filler).unwrap());
}

/// A view whose files could not be read at that instant was set aside, and its users got errors for ever.
#[test]
fn views_whose_files_cannot_be_read_then_are_taken_over_when_they_can() {
    let _limit = limit(TIME);
    if needs_root() {
        return;
    }
    let stuck = Stuck::mount();
    for name in ["n-lost.map", "n-lost.data", "u-NODE.map"] {
        let state = Some(stuck.mountpoint.join(name.replace('.', "-")));
        let mut mounted = Mounted::start(Options { state, ..Options::default() });
        mounted.template("t", &pattern(1, SIZE));
        let lost = opened(&mounted.path("t?rom=off&view=lost"));
        let nameless = opened(&mounted.path("t?rom=off"));
        let own = opened(&mounted.path("t?rom=off&view=own"));
        [&lost, &nameless, &own].into_iter().for_each(|view| view.write_all_at(b"written", 0).unwrap());
        let nameless_files = nameless_view_files(&mounted);
        let of_nameless = nameless_files[0].file_stem().and_then(|stem| stem.to_str()).unwrap();
        stuck.lose(&name.replace("u-NODE", of_nameless));
        let dead = mounted.serving();
        kill_process(dead, Signal::KILL).unwrap();
        mounted.wait_for_log("1 wait for their files");
        fadvise(&own, 0, None, Advice::DontNeed).unwrap();
        assert_eq!(bytes_at(&own, 0, 7).unwrap(), b"written");
        stuck.release();
        for view in [&lost, &nameless] {
            fadvise(view, 0, None, Advice::DontNeed).unwrap();
            assert_eq!(bytes_at(view, 0, 7).unwrap(), b"written", "{name}");
            view.write_all_at(b"again", 0).unwrap();
        }
        assert!(mounted.log().contains("is taken over when that can be done"), "{}", mounted.log());
        drop((lost, nameless, own));
        assert!(mounted.stop().success());
        stuck.lose("n-lost.map");
        mounted.mount();
        let path = mounted.path("t?rom=off&view=lost");
        assert_refused(open_rw(&path), Errno::IO, name);
        stuck.release();
        assert_eq!(bytes_at(&opened(&path), 0, 5).unwrap(), b"again", "{name}");
    }
}
