//! One engine dies, and another goes on from what is on record, without a mount.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::io::Errno;

use super::*;
use crate::access::Caller;
use crate::engine::{Access, Changes, Options, ROOT, Recorder};
use crate::store::DirectoryStore;
use crate::views::Views;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const READ_ONLY: Access = Access { read: true, write: false };
const READ_WRITE: Access = Access { read: true, write: true };

struct Fixture {
    store: tempfile::TempDir,
    state: tempfile::TempDir,
    records: tempfile::TempDir,
}

impl Fixture {
    fn new() -> (Self, Arc<Engine>) {
        let temporary = || tempfile::tempdir().unwrap();
        let fixture = Self { store: temporary(), state: temporary(), records: temporary() };
        std::fs::create_dir(fixture.store.path().join("dir")).unwrap();
        for name in ["t", "dir/t"] {
            std::fs::write(fixture.store.path().join(name), [b'T'; 20_000]).unwrap();
        }
        let recorder = Recorder::create(&fixture.journal()).unwrap();
        let engine = fixture.engine(recorder);
        (fixture, engine)
    }

    fn journal(&self) -> std::path::PathBuf {
        self.records.path().join("journal")
    }

    fn engine(&self, recorder: Recorder) -> Arc<Engine> {
        let store = DirectoryStore::open(self.store.path()).unwrap();
        let retired = recorder.read(|ledger| ledger.retired.clone());
        let views = Views::load(self.state.path(), &recorder.open_nodes(), &retired).unwrap();
        let policy = Options { allow_template_writes: true, ..Options::default() };
        Arc::new(Engine::new(Box::new(store), views, policy, Arc::new(recorder), Arc::default()))
    }

    /// As after kill -9: nothing of the old one is tidied up.
    fn successor(&self, dead: Arc<Engine>) -> (Arc<Engine>, Recovered) {
        std::mem::forget(dead);
        let engine = self.engine(Recorder::take_over(&self.journal(), 0).unwrap());
        let recovered = engine.recover(Kept::new(), |_, _| {});
        (engine, recovered)
    }

    fn state_files(&self) -> usize {
        std::fs::read_dir(self.state.path()).unwrap().count()
    }
}

fn open_as(engine: &Engine, name: &str, access: Access, request: u64) -> (u64, HandleId) {
    let node = engine.lookup(&CALLER, ROOT, name.as_bytes()).unwrap().node;
    (node, engine.open(&CALLER, node, access, request, |_| Ok(None)).unwrap().handle)
}

fn open(engine: &Engine, name: &str, access: Access) -> (u64, HandleId) {
    open_as(engine, name, access, 2)
}

fn read(engine: &Engine, handle: HandleId, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    let read = engine.read(handle, 0, &mut buffer).unwrap();
    buffer.truncate(read);
    buffer
}

fn unlink(engine: &Engine, name: &str, request: u64) -> std::result::Result<(), Errno> {
    engine.unlink(&CALLER, ROOT, name.as_bytes(), request).map_err(|e| e.errno())
}

#[test]
fn open_files_go_on_under_their_handles_and_nodes() {
    let (fixture, engine) = Fixture::new();
    let (private, writing) = open(&engine, "t?rom=off", READ_WRITE);
    let (named, naming) = open(&engine, "t?rom=off&view=a", READ_WRITE);
    let (rom, reading) = open(&engine, "t", READ_ONLY);
    let directory = engine.lookup(&CALLER, ROOT, b"dir").unwrap().node;
    let template = engine.lookup(&CALLER, directory, b"t?share=on&readonly=off").unwrap().node;
    let authoring = engine.open(&CALLER, template, READ_WRITE, 4, |_| Ok(None)).unwrap().handle;
    engine.write(writing, 1, b"private").unwrap();
    engine.write(naming, 1, b"named").unwrap();
    engine.write(authoring, 0, b"template").unwrap();
    let (engine, recovered) = fixture.successor(engine);
    assert_eq!(recovered, Recovered { directories: 1, files: 4, set_aside: 0, waiting: 0 });
    assert_eq!(read(&engine, writing, 9), b"TprivateT");
    assert_eq!(read(&engine, naming, 7), b"TnamedT");
    assert_eq!(read(&engine, reading, 3), b"TTT");
    engine.write(authoring, 0, b"TEMPLATE").unwrap();
    assert_eq!(std::fs::read(fixture.store.path().join("dir/t")).unwrap()[..9], *b"TEMPLATET");
    for node in [private, named, rom, template] {
        assert_eq!(engine.getattr(&CALLER, node).unwrap().size, 20_000);
    }
    let shorter = Changes { size: Some(5), ..Changes::default() };
    engine.setattr(&CALLER, private, Some(writing), &shorter).unwrap();
    assert_eq!(read(&engine, writing, 9), b"Tpriv");
    assert_eq!(open(&engine, "t?rom=off&view=a", READ_ONLY).0, named, "it is found again by its name");
    assert_eq!(engine.lookup(&CALLER, ROOT, b"dir").unwrap().node, directory);
    assert_eq!(engine.list(&CALLER, directory).unwrap().len(), 1);
}

#[test]
fn what_a_dead_daemon_dealt_out_comes_never_again() {
    let (fixture, mut engine) = Fixture::new();
    let (mut highest_node, mut highest_handle) = (0, 0);
    for _ in 0..3 {
        for _ in 0..3 {
            let (node, handle) = open(&engine, "t?rom=off", READ_WRITE);
            assert!(node > highest_node && handle > highest_handle, "{node} {handle}");
            (highest_node, highest_handle) = (node, handle);
            engine.release(handle);
        }
        // One that was only looked up is on no record; the kernel knows it nevertheless.
        highest_node = engine.lookup(&CALLER, ROOT, b"t?rom=off").unwrap().node;
        engine = fixture.successor(engine).0;
    }
}

#[test]
fn an_open_that_is_sent_again_is_the_same_and_another_is_not() {
    let (fixture, engine) = Fixture::new();
    let (node, handle) = open_as(&engine, "t?rom=off&view=a", READ_WRITE, 10);
    let (engine, _) = fixture.successor(engine);
    let again = |request| engine.open(&CALLER, node, READ_WRITE, request, |_| Ok(None)).unwrap().handle;
    assert_eq!(again(10 | RESENT), handle);
    assert_ne!(again(12 | RESENT), handle, "the dead one had not begun with it");
    assert_ne!(again(10), handle);
}

/// An OPEN got ESTALE from the first successor, its LOOKUP an answer, and then that one died too: ESTALE
/// for the second time, which the kernel does not bear.
#[test]
fn what_is_looked_up_after_a_death_outlives_the_next_one() {
    let (fixture, engine) = Fixture::new();
    let node = engine.lookup(&CALLER, ROOT, b"t?rom=off").unwrap().node;
    let open = |engine: &Engine, node| {
        engine.open(&CALLER, node, READ_WRITE, 2, |_| Ok(None)).map_err(|e| e.errno())
    };
    let (engine, _) = fixture.successor(engine);
    assert_eq!(open(&engine, node).err(), Some(Errno::STALE));
    let nodes = ["t?rom=off", "t?rom=off&view=a"].map(|name| engine.lookup(&CALLER, ROOT, name.as_bytes()));
    let nodes = nodes.map(|attributes| attributes.unwrap().node);
    let (engine, _) = fixture.successor(engine);
    for node in nodes {
        let handle = open(&engine, node).unwrap().handle;
        engine.release(handle);
        engine.forget(node, 1);
    }
    assert_eq!(engine.recorder.read(|ledger| ledger.looked_up.len()), 0);
}

/// Whoever held the node from before found the template again, at its full length.
#[test]
fn a_view_that_was_changed_and_never_opened_does_not_begin_anew() {
    let (fixture, engine) = Fixture::new();
    let (engine, _) = fixture.successor(engine);
    let node = engine.lookup(&CALLER, ROOT, b"t?rom=off").unwrap().node;
    let cut = Changes { size: Some(1), ..Changes::default() };
    assert_eq!(engine.setattr(&CALLER, node, None, &cut).unwrap().size, 1);
    let (engine, _) = fixture.successor(engine);
    let opened = engine.open(&CALLER, node, READ_WRITE, 2, |_| Ok(None));
    assert_eq!(opened.err().map(|error| error.errno()), Some(Errno::STALE));
}

#[test]
fn a_release_that_is_sent_again_or_was_never_done_leaves_nothing() {
    let (fixture, engine) = Fixture::new();
    let (_, done) = open(&engine, "t?rom=off", READ_WRITE);
    let (_, lost) = open(&engine, "t?rom=off", READ_WRITE);
    engine.release(done);
    assert_eq!(fixture.state_files(), 2);
    let (engine, recovered) = fixture.successor(engine);
    assert_eq!(recovered.files, 1);
    engine.release(done);
    engine.release(lost);
    assert_eq!(fixture.state_files(), 0);
    let (_, recovered) = fixture.successor(engine);
    assert_eq!(recovered, Recovered::default());
}

#[test]
fn a_view_that_is_discarded_while_it_is_open_stays_with_its_users() {
    let (fixture, engine) = Fixture::new();
    let name = "t?rom=off&view=a";
    let (old, holding) = open(&engine, name, READ_WRITE);
    engine.write(holding, 0, b"old").unwrap();
    unlink(&engine, name, 20).unwrap();
    let (new, naming) = open(&engine, name, READ_WRITE);
    engine.write(naming, 0, b"new").unwrap();
    let (engine, recovered) = fixture.successor(engine);
    assert_eq!((recovered.files, recovered.set_aside), (2, 0));
    assert_eq!((read(&engine, holding, 3), read(&engine, naming, 3)), (b"old".to_vec(), b"new".to_vec()));
    assert_eq!(open(&engine, name, READ_ONLY).0, new);
    assert_ne!(old, new);
    assert_eq!(unlink(&engine, name, 20 | RESENT), Ok(()), "it was done: the new one stays");
    assert_eq!(read(&engine, naming, 3), b"new");
    assert_eq!(fixture.state_files(), 2 + 3, "of the old one, and of the new one, which has a name");
    engine.release(holding);
    assert_eq!(fixture.state_files(), 3);
}

/// Who opened it had looked it up before. It had been cut without an open file, the discard was on record
/// before the open file was, and the next process looked for the view under its name.
#[test]
fn a_view_that_is_opened_while_it_is_discarded_is_taken_over() {
    let (fixture, engine) = Fixture::new();
    let name = "t?rom=off&view=a";
    let node = engine.lookup(&CALLER, ROOT, name.as_bytes()).unwrap().node;
    engine.setattr(&CALLER, node, None, &Changes { size: Some(3), ..Changes::default() }).unwrap();
    unlink(&engine, name, 20).unwrap();
    let handle = engine.open(&CALLER, node, READ_WRITE, 2, |_| Ok(None)).unwrap().handle;
    engine.write(handle, 0, b"m").unwrap();
    let (engine, recovered) = fixture.successor(engine);
    assert_eq!((recovered.files, recovered.set_aside), (1, 0));
    assert_eq!(read(&engine, handle, 9), b"mTT");
    engine.release(handle);
    assert_eq!(fixture.state_files(), 0);
}

/// Killed between putting a discard on record and doing it.
#[test]
fn a_discard_that_was_begun_is_finished() {
    let (fixture, engine) = Fixture::new();
    let (node, handle) = open(&engine, "t?rom=off&view=a", READ_WRITE);
    engine.write(handle, 0, b"mine").unwrap();
    let view = crate::name::Label::new(b"a").unwrap();
    engine.recorder.record(crate::engine::Entry::Retired { node, view }).unwrap();
    let from = fixture.state.path().join("n-a.map");
    std::fs::rename(from, fixture.state.path().join(format!("u-{node}.map"))).unwrap();
    let (engine, recovered) = fixture.successor(engine);
    assert_eq!((recovered.files, recovered.set_aside), (1, 0));
    assert_eq!(read(&engine, handle, 5), b"mineT");
    assert_eq!(unlink(&engine, "t?rom=off&view=a", 22), Err(Errno::NOENT));
    assert_eq!(unlink(&engine, "t?rom=off&view=a", 24 | RESENT), Ok(()), "the dead one may have done it");
    engine.release(handle);
    assert_eq!(fixture.state_files(), 0);
}

#[test]
fn a_view_that_does_not_fit_is_set_aside_and_the_others_go_on() {
    let (fixture, engine) = Fixture::new();
    let (node, broken) = open(&engine, "t?rom=off", READ_WRITE);
    let (_, whole) = open(&engine, "t?rom=off", READ_WRITE);
    engine.write(whole, 0, b"whole").unwrap();
    let map = fixture.state.path().join(format!("u-{node}.map"));
    OpenOptions::new().write(true).open(&map).unwrap().write_all_at(&[b'X'; 1500], 30).unwrap();
    let (engine, recovered) = fixture.successor(engine);
    assert_eq!((recovered.files, recovered.set_aside), (1, 1));
    assert_eq!(read(&engine, whole, 6), b"wholeT");
    assert!(engine.read(broken, 0, &mut [0; 1]).is_err());
    assert!(engine.write(broken, 0, b"x").is_err());
    assert!(map.exists(), "it may still be mended");
    let told = engine.set_aside(&CALLER);
    let [view] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((view.id.clone(), view.template.as_deref(), view.opens), (format!("@{node}"), Some("t"), 1));
    assert_eq!(view.files, Some(map.with_extension("*")));
    assert!(view.reason.contains("torn or damaged"), "{}", view.reason);
    engine.release(broken);
    assert_eq!(engine.set_aside(&CALLER), []);
    assert!(!map.exists(), "it ends with its last close");
    let (_, recovered) = fixture.successor(engine);
    assert_eq!((recovered.files, recovered.set_aside), (1, 0));
}

#[test]
fn a_damaged_entry_of_the_journal_costs_one_open_file() {
    let (fixture, engine) = Fixture::new();
    let handles: Vec<HandleId> = (0..3).map(|_| open(&engine, "t?rom=off", READ_WRITE).1).collect();
    handles.iter().for_each(|handle| engine.write(*handle, 0, b"data").unwrap());
    let mut bytes = std::fs::read(fixture.journal()).unwrap();
    let entry = bytes.windows(10).position(|window| window == b"\"handle\":2").unwrap();
    bytes[entry] ^= 1;
    std::fs::write(fixture.journal(), bytes).unwrap();
    let (engine, recovered) = fixture.successor(engine);
    assert_eq!(recovered.files, 2);
    assert_eq!((read(&engine, 1, 5), read(&engine, 3, 5)), (b"dataT".to_vec(), b"dataT".to_vec()));
    assert!(engine.write(2, 0, b"x").is_err());
}

/// The path led to another file when the successor looked: the view lost its template.
#[test]
fn a_template_that_was_replaced_is_found_by_its_kept_descriptor() {
    let (fixture, engine) = Fixture::new();
    let (_, handle) = open(&engine, "t?rom=off", READ_WRITE);
    engine.write(handle, 0, b"mine").unwrap();
    let path = fixture.store.path().join("t");
    let file = std::fs::File::open(&path).unwrap();
    let metadata = file.metadata().unwrap();
    let key = format!("template:{}:{}:0.0", metadata.dev(), metadata.ino());
    std::fs::write(fixture.store.path().join("new"), [b'N'; 9]).unwrap();
    std::fs::rename(fixture.store.path().join("new"), &path).unwrap();
    std::mem::forget(engine);
    let engine = fixture.engine(Recorder::take_over(&fixture.journal(), 0).unwrap());
    let kept = Kept::from([(key, file.into())]);
    let recovered = engine.recover(kept, |_, _| {});
    assert_eq!((recovered.files, recovered.set_aside), (1, 0));
    assert_eq!(read(&engine, handle, 5), b"mineT");
    let (_, new) = open(&engine, "t?rom=off", READ_WRITE);
    assert_eq!(read(&engine, new, 5), b"NNNNN");
}
