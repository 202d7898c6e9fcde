//! The engine without a mount: what the kernel would ask, in the orders in which it may ask it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::store::DirectoryStore;

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const READ_ONLY: Access = Access { read: true, write: false };
pub const READ_WRITE: Access = Access { read: true, write: true };

pub struct Fixture {
    store: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Fixture {
    pub fn new(template: &[u8]) -> Self {
        let fixture = Self { store: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() };
        std::fs::write(fixture.store.path().join("t"), template).unwrap();
        fixture
    }

    fn engine(&self) -> Engine {
        self.engine_with(Options { allow_template_writes: true, ..Options::default() })
    }

    pub fn engine_with(&self, options: Options) -> Engine {
        let store = DirectoryStore::open(self.store.path()).unwrap();
        let views = Views::load(self.state.path(), &HashSet::new(), &BTreeMap::new()).unwrap();
        Engine::new(Box::new(store), views, options, Arc::default(), Arc::default())
    }

    fn replace_template(&self, content: &[u8]) {
        let new = self.store.path().join("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.store.path().join("t")).unwrap();
    }

    fn state_files(&self) -> usize {
        std::fs::read_dir(self.state.path()).unwrap().count()
    }
}

fn look_up(engine: &Engine, name: &str) -> u64 {
    engine.lookup(&ROOT_USER, ROOT, name.as_bytes()).unwrap().node
}

fn open(engine: &Engine, name: &str, access: Access) -> (u64, u64) {
    let node = look_up(engine, name);
    (node, open_node(engine, &ROOT_USER, node, access).unwrap().handle)
}

pub fn open_node(engine: &Engine, caller: &Caller, node: u64, access: Access) -> Result<Opened> {
    engine.open(caller, node, access, 0, |_| Ok(None))
}

fn unlink(engine: &Engine, caller: &Caller, name: &[u8]) -> Result<()> {
    engine.unlink(caller, ROOT, name, 0)
}

fn content(engine: &Engine, handle: u64) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let length = engine.read(handle, 0, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn refused<T>(result: Result<T>) -> Errno {
    result.err().expect("a refusal").errno()
}

/// For each junk query the store was asked about the directory first, which other users waited for.
#[test]
fn junk_is_refused_before_the_store_is_asked() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let directory = fixture.store.path().join("d");
    std::fs::create_dir(&directory).unwrap();
    let node = look_up(&engine, "d");
    std::fs::remove_dir(&directory).unwrap();
    let ann = Caller { uid: 4001, gid: 4001, pid: 0 };
    let refusal = |name: &[u8]| engine.lookup(&ann, node, name).unwrap_err().errno();
    assert_eq!([refusal(b"t?junk=1"), refusal(b"t")], [Errno::INVAL, Errno::NOENT]);
}

#[test]
fn two_path_walks_never_share_a_view_and_leave_nothing() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let (first_node, first) = open(&engine, "t?rom=off", READ_WRITE);
    let (second_node, second) = open(&engine, "t?rom=off", READ_WRITE);
    assert_ne!(first_node, second_node);
    engine.write(first, 0, b"first").unwrap();
    engine.write(second, 3, b"second").unwrap();
    assert_eq!(content(&engine, first), b"firstate");
    assert_eq!(content(&engine, second), b"temsecond");
    assert_eq!(fixture.state_files(), 4);
    assert_eq!(engine.release(first), Released::DropCache(first_node));
    engine.release(second);
    assert_eq!(fixture.state_files(), 0);
    assert_eq!(std::fs::read(fixture.store.path().join("t")).unwrap(), b"template");
}

#[test]
fn a_closed_views_node_is_not_opened_again() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let (node, handle) = open(&engine, "t?rom=off", READ_WRITE);
    engine.release(handle);
    for access in [READ_ONLY, READ_WRITE] {
        assert_eq!(refused(open_node(&engine, &ROOT_USER, node, access)), Errno::STALE);
    }
    engine.forget(node, 1);
    assert_eq!(refused(engine.getattr(&ROOT_USER, node)), Errno::STALE);
}

#[test]
fn a_view_opened_read_only_is_the_template_and_stays_it() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let node = look_up(&engine, "t?rom=off");
    let opened = open_node(&engine, &ROOT_USER, node, READ_ONLY).unwrap();
    assert!(matches!(opened.plane, Plane::Template(_)));
    assert_eq!(refused(open_node(&engine, &ROOT_USER, node, READ_WRITE)), Errno::ACCESS);
    let shrink = Changes { size: Some(0), ..Changes::default() };
    assert_eq!(refused(engine.setattr(&ROOT_USER, node, None, &shrink)), Errno::ACCESS);
    assert_eq!(refused(engine.write(opened.handle, 0, b"x")), Errno::ACCESS);
    assert_eq!(fixture.state_files(), 0);
}

#[test]
fn a_rom_view_refuses_even_root_and_a_writable_view_is_never_passed_through() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let node = look_up(&engine, "t");
    assert_eq!(refused(open_node(&engine, &ROOT_USER, node, READ_WRITE)), Errno::ACCESS);
    let shrink = Changes { size: Some(0), ..Changes::default() };
    assert_eq!(refused(engine.setattr(&ROOT_USER, node, None, &shrink)), Errno::ACCESS);
    for name in ["t?rom=off", "t?readonly=off", "t?share=on&readonly=off", "t?rom=off&view=a"] {
        let (node, handle) = open(&engine, name, READ_WRITE);
        let again = open_node(&engine, &ROOT_USER, node, READ_ONLY).unwrap();
        assert!(matches!(again.plane, Plane::Cached { .. }), "{name}");
        engine.release(again.handle);
        engine.release(handle);
    }
}

#[test]
fn truncating_a_path_that_nobody_opened_leaves_nothing() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let node = look_up(&engine, "t?rom=off");
    let shrink = Changes { size: Some(3), ..Changes::default() };
    assert_eq!(engine.setattr(&ROOT_USER, node, None, &shrink).unwrap().size, 3);
    engine.forget(node, 1);
    assert_eq!(fixture.state_files(), 0);
}

#[test]
fn a_named_view_is_found_by_the_next_daemon_and_fits_one_template_only() {
    let fixture = Fixture::new(b"template");
    std::fs::write(fixture.store.path().join("other"), b"template").unwrap();
    let engine = fixture.engine();
    let (node, handle) = open(&engine, "t?rom=off&view=a", READ_WRITE);
    assert_eq!(look_up(&engine, "t?rom=off,view=a"), node);
    engine.write(handle, 0, b"kept").unwrap();
    drop(engine);

    let engine = fixture.engine();
    let (_, handle) = open(&engine, "t?rom=off&view=a", READ_ONLY);
    assert_eq!(content(&engine, handle), b"keptlate");
    assert_eq!(refused(engine.lookup(&ROOT_USER, ROOT, b"other?rom=off&view=a")), Errno::EXIST);
    fixture.replace_template(b"replaced");
    let node = look_up(&engine, "t?rom=off&view=a");
    assert_eq!(refused(open_node(&engine, &ROOT_USER, node, READ_ONLY)), Errno::STALE);
    assert_eq!(content(&engine, handle), b"keptlate", "who has it open keeps it");
}

#[test]
fn a_discarded_view_goes_on_for_those_who_have_it_and_its_name_starts_anew() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let (old_node, old) = open(&engine, "t?rom=off&view=a", READ_WRITE);
    engine.write(old, 0, b"old").unwrap();
    unlink(&engine, &ROOT_USER, b"t?rom=off&view=a").unwrap();
    assert_eq!(refused(unlink(&engine, &ROOT_USER, b"t?rom=off&view=a")), Errno::NOENT);
    let (new_node, new) = open(&engine, "t?rom=off&view=a", READ_WRITE);
    assert_ne!(old_node, new_node);
    assert_eq!(content(&engine, new), b"template");
    engine.write(old, 0, b"OLD").unwrap();
    assert_eq!(content(&engine, old), b"OLDplate");
    assert_eq!(content(&engine, new), b"template");
    for name in ["t", "t?rom=off", "none"] {
        assert_eq!(refused(unlink(&engine, &ROOT_USER, name.as_bytes())), Errno::ROFS, "{name}");
    }
}

#[test]
fn another_users_view_is_out_of_reach() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let (alice, bob) = (Caller { uid: 1001, gid: 1001, pid: 0 }, Caller { uid: 1002, gid: 1002, pid: 0 });
    let name = b"t?rom=off&view=a";
    let node = engine.lookup(&alice, ROOT, name).unwrap().node;
    open_node(&engine, &alice, node, READ_WRITE).unwrap();
    let shown = engine.lookup(&bob, ROOT, name).unwrap();
    assert_eq!((shown.uid, shown.mode), (1001, 0o600), "so the kernel refuses too");
    assert_eq!(refused(unlink(&engine, &bob, name)), Errno::ACCESS);
    drop(engine);
    let engine = fixture.engine();
    let node = engine.lookup(&bob, ROOT, name).unwrap().node;
    assert_eq!(refused(open_node(&engine, &bob, node, READ_ONLY)), Errno::ACCESS);
    unlink(&engine, &alice, name).unwrap();
}

#[test]
fn a_template_is_not_written_while_views_need_it_nor_seen_while_it_is_written() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let (node, view) = open(&engine, "t?rom=off", READ_WRITE);
    let authoring = look_up(&engine, "t?share=on&readonly=off");
    assert_eq!(refused(open_node(&engine, &ROOT_USER, authoring, READ_WRITE)), Errno::TXTBSY);
    engine.release(view);
    engine.forget(node, 1);
    let author = open_node(&engine, &ROOT_USER, authoring, READ_WRITE).unwrap().handle;
    engine.write(author, 0, b"TEM").unwrap();
    for name in ["t", "t?rom=off", "t?rom=off&view=a"] {
        assert_eq!(refused(engine.lookup(&ROOT_USER, ROOT, name.as_bytes())), Errno::TXTBSY, "{name}");
    }
    engine.release(author);
    let (_, named) = open(&engine, "t?rom=off&view=a", READ_WRITE);
    assert_eq!(content(&engine, named), b"TEMplate");
    engine.release(named);
    let again = open_node(&engine, &ROOT_USER, authoring, READ_WRITE);
    assert_eq!(refused(again), Errno::TXTBSY, "a view with a name needs its template also at rest");
}

#[test]
fn a_template_changed_in_place_is_refused_for_new_views_only_while_old_ones_live() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    let (_, view) = open(&engine, "t?rom=off", READ_WRITE);
    std::fs::write(fixture.store.path().join("t"), b"rewritten").unwrap();
    assert_eq!(refused(engine.lookup(&ROOT_USER, ROOT, b"t?rom=off")), Errno::STALE);
    assert_eq!(refused(engine.lookup(&ROOT_USER, ROOT, b"t")), Errno::STALE);
    engine.release(view);
    let (_, fresh) = open(&engine, "t", READ_ONLY);
    assert_eq!(content(&engine, fresh), b"rewritten");
}

/// A damaged record must not take the other views of the mount along.
#[test]
fn a_broken_view_is_set_aside_and_the_others_are_served() {
    let fixture = Fixture::new(b"template");
    let engine = fixture.engine();
    for name in ["a", "b"] {
        let (_, handle) = open(&engine, &format!("t?rom=off&view={name}"), READ_WRITE);
        engine.write(handle, 0, name.as_bytes()).unwrap();
    }
    drop(engine);
    std::fs::write(fixture.state.path().join("n-a.map"), b"garbage").unwrap();
    let engine = fixture.engine();
    let node = look_up(&engine, "t?rom=off&view=a");
    assert_eq!(refused(open_node(&engine, &ROOT_USER, node, READ_ONLY)), Errno::STALE);
    let (_, handle) = open(&engine, "t?rom=off&view=b", READ_ONLY);
    assert_eq!(content(&engine, handle), b"bemplate");
    let told = engine.set_aside(&ROOT_USER);
    let [view] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((view.id.as_str(), &view.template, view.opens), ("a", &None, 0));
    assert!(view.reason.contains("n-a.map"), "{}", view.reason);
    assert_eq!(engine.set_aside(&Caller { uid: 12345, gid: 0, pid: 0 }), [], "whose it is nobody knows");
    unlink(&engine, &ROOT_USER, b"t?rom=off&view=a").unwrap();
    assert!(!Path::new(&fixture.state.path().join("n-a.map")).exists());
    assert_eq!(engine.set_aside(&ROOT_USER), []);
}

proptest! {
    /// Interleaved writes, punches and truncates of two views of one template.
    #[test]
    fn two_views_agree_with_two_vectors(
        ops in proptest::collection::vec((0usize..2, 0u8..3, 0u64..40_000, 1usize..9_000, any::<u8>()), 1..40),
    ) {
        let template: Vec<u8> = (0..20_000u32).map(|i| (i / 7 % 251) as u8).collect();
        let fixture = Fixture::new(&template);
        let engine = fixture.engine();
        let handles = [open(&engine, "t?rom=off", READ_WRITE), open(&engine, "t?rom=off", READ_WRITE)];
        let mut models = [template.clone(), template.clone()];
        for (which, kind, at, length, byte) in ops {
            let (node, handle) = handles[which];
            let model = &mut models[which];
            let end = at as usize + length;
            match kind {
                0 => {
                    engine.write(handle, at, &vec![byte; length]).unwrap();
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].fill(byte);
                }
                1 => {
                    engine.allocate(handle, at, length as u64, Allocate::Punch).unwrap();
                    let size = model.len();
                    model[size.min(at as usize)..size.min(end)].fill(0);
                }
                _ => {
                    let size = Changes { size: Some(at), ..Changes::default() };
                    engine.setattr(&ROOT_USER, node, Some(handle), &size).unwrap();
                    model.resize(at as usize, 0);
                }
            }
        }
        for ((_, handle), model) in handles.iter().zip(&models) {
            prop_assert!(&content(&engine, *handle) == model);
        }
        prop_assert_eq!(std::fs::read(fixture.store.path().join("t")).unwrap(), template);
    }
}
