//! The overlay against a plain vector, and against a daemon that dies between two steps.

use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;

use super::pages::WORDS_PER_CHUNK;
use super::*;
use crate::store::{DirectoryStore, Found, Store};

mod faults;
mod power;

const TEMPLATE: &str = "template";
const NAME: &str = "v";
const KEY: &str = "n-v";

/// SplitMix64, as in tests/common/random.rs.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// In memory where there is a place for that: many of these are made.
fn state_directory() -> tempfile::TempDir {
    let builder = tempfile::Builder::new();
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).unwrap()
}

struct Fixture {
    /// Of a view with a name, unless a test says otherwise.
    lasts: Lasts,
    state: tempfile::TempDir,
    template: Arc<dyn Template>,
    content: Vec<u8>,
    _store: tempfile::TempDir,
}

impl Fixture {
    /// A template of `size` bytes: data of a period that no page shares with another, with every
    /// third block of four pages left as a hole.
    fn new(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join(TEMPLATE)).unwrap();
        file.set_len(size).unwrap();
        let mut content = vec![0; size as usize];
        for (index, block) in content.chunks_mut(4 * PAGE as usize).enumerate() {
            if index % 3 != 2 {
                let bytes: Vec<u8> =
                    (0..block.len()).map(|i| (index * 31 + i / 7 + i % 251 + 1) as u8).collect();
                block.copy_from_slice(&bytes);
                file.write_all_at(&bytes, index as u64 * 4 * PAGE).unwrap();
            }
        }
        drop(file);
        let store = DirectoryStore::open(dir.path()).unwrap();
        let Found::Template(_, identity) = store.find(Path::new(TEMPLATE)).unwrap() else { panic!() };
        let template = store.pin(Path::new(TEMPLATE), &identity).unwrap();
        Self { lasts: Lasts::Yes, state: state_directory(), template, content, _store: dir }
    }

    fn create(&self) -> Overlay {
        let identity = self.template.identity().clone();
        let extent = Extent { size: identity.size, template_len: identity.size };
        let record = Record {
            view: crate::name::Label::new(NAME.as_bytes()),
            vm: None,
            template: TEMPLATE.into(),
            identity,
            uid: 0,
            gid: 0,
            mode: 0o600,
            extent,
            created: 0,
        };
        let files = ViewFiles::create(self.state.path(), KEY, record, self.lasts).unwrap();
        Overlay::new(self.template.clone(), Arc::new(files), extent, PageMap::default(), SystemTime::now())
    }

    /// What the next daemon finds.
    fn reopen(&self) -> Overlay {
        self.open_in(self.state.path())
    }

    fn open_in(&self, state: &Path) -> Overlay {
        let (files, pages) = ViewFiles::open(state, KEY, self.lasts).unwrap().expect("a view");
        let (extent, mtime) = (files.record().extent, files.mtime());
        Overlay::new(self.template.clone(), Arc::new(files), extent, pages, mtime)
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write { at: u64, length: usize, seed: u8 },
    Read { at: u64, length: usize },
    Truncate { size: u64 },
    Punch { at: u64, length: u64 },
    Zero { at: u64, length: u64, keep: bool },
    Allocate { at: u64, length: u64, keep: bool },
    SeekData { at: u64 },
    SeekHole { at: u64 },
    Reopen,
}

fn op(limit: u64) -> impl Strategy<Value = Op> {
    // Offsets that often meet page boundaries.
    let at = (0..limit / PAGE + 1, prop_oneof![Just(0), Just(1), Just(PAGE - 1), 0..PAGE])
        .prop_map(|(p, o)| p * PAGE + o);
    let length = prop_oneof![1..64u64, Just(PAGE), 1..PAGE * 2, 1..limit / 2];
    let write_length = prop_oneof![1..64usize, Just(PAGE as usize), 1..3 * PAGE as usize];
    prop_oneof![
        4 => (at.clone(), write_length, any::<u8>()).prop_map(|(at, length, seed)| Op::Write { at, length, seed }),
        3 => (at.clone(), 1..5 * PAGE as usize).prop_map(|(at, length)| Op::Read { at, length }),
        1 => at.clone().prop_map(|size| Op::Truncate { size }),
        2 => (at.clone(), length.clone()).prop_map(|(at, length)| Op::Punch { at, length }),
        1 => (at.clone(), length.clone(), any::<bool>()).prop_map(|(at, length, keep)| Op::Zero { at, length, keep }),
        1 => (at.clone(), length, any::<bool>()).prop_map(|(at, length, keep)| Op::Allocate { at, length, keep }),
        1 => at.clone().prop_map(|at| Op::SeekData { at }),
        1 => at.prop_map(|at| Op::SeekHole { at }),
        1 => Just(Op::Reopen),
    ]
}

fn data(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| seed.wrapping_add(i as u8)).collect()
}

fn grow(model: &mut Vec<u8>, end: u64) {
    if end as usize > model.len() {
        model.resize(end as usize, 0);
    }
}

fn zero(model: &mut [u8], at: u64, length: u64) {
    let (from, to) = (model.len().min(at as usize), model.len().min((at + length) as usize));
    model[from..to].fill(0);
}

fn apply(fixture: &Fixture, view: &mut Overlay, model: &mut Vec<u8>, op: &Op) {
    match *op {
        Op::Write { at, length, seed } => {
            let data = data(length, seed);
            view.write(at, &data).unwrap();
            grow(model, at + length as u64);
            model[at as usize..at as usize + length].copy_from_slice(&data);
        }
        Op::Read { at, length } => {
            let mut buf = vec![0xEE; length];
            let n = view.read(at, &mut buf).unwrap();
            let from = model.len().min(at as usize);
            assert_eq!(&buf[..n], &model[from..model.len().min(from + length)]);
        }
        Op::Truncate { size } => {
            view.truncate(size).unwrap();
            model.resize(size as usize, 0);
        }
        Op::Punch { at, length } => {
            view.punch(at, length).unwrap();
            zero(model, at, length);
        }
        Op::Zero { at, length, keep } => {
            view.zero_range(at, length, keep).unwrap();
            zero(model, at, length);
            if !keep {
                grow(model, at + length);
            }
        }
        Op::Allocate { at, length, keep } => {
            view.allocate(at, length, keep).unwrap();
            if !keep {
                grow(model, at + length);
            }
        }
        Op::SeekData { at } => {
            let skipped = match view.next_data(at).unwrap() {
                Some(data) => {
                    assert!(data >= at && data < model.len() as u64);
                    data
                }
                None => model.len() as u64,
            };
            assert!(model[model.len().min(at as usize)..skipped as usize].iter().all(|b| *b == 0));
        }
        Op::SeekHole { at } if (at as usize) < model.len() => {
            let hole = view.next_hole(at).unwrap();
            assert!(hole >= at && hole <= model.len() as u64);
            let end = view.next_data(hole).unwrap().unwrap_or(model.len() as u64);
            assert!(model[hole as usize..end as usize].iter().all(|b| *b == 0), "a hole holds zeros");
        }
        Op::SeekHole { .. } => {}
        Op::Reopen => *view = fixture.reopen(),
    }
}

fn assert_equal(view: &Overlay, model: &[u8]) {
    assert_eq!(view.size(), model.len() as u64);
    let mut content = vec![0xEE; model.len() + 1];
    assert_eq!(view.read(0, &mut content).unwrap(), model.len());
    if let Some(at) = (0..model.len()).find(|i| content[*i] != model[*i]) {
        panic!("byte {at} (page {}) is {:#x} and not {:#x}", at as u64 / PAGE, content[at], model[at]);
    }
}

proptest! {
    /// Prints the failing case and its seed; PROPTEST_RNG_SEED reruns it, PROPTEST_CASES runs more.
    #[test]
    fn random_operations_agree_with_a_vector(
        size in prop_oneof![Just(0u64), Just(1), Just(PAGE - 1), Just(PAGE + 1), Just(24 * PAGE), 0..40 * PAGE],
        ops in proptest::collection::vec(op(44 * PAGE), 1..40),
        lasts in prop_oneof![Just(Lasts::Yes), Just(Lasts::No)],
    ) {
        let fixture = Fixture { lasts, ..Fixture::new(size) };
        let mut view = fixture.create();
        let mut model = fixture.content.clone();
        for op in &ops {
            apply(&fixture, &mut view, &mut model, op);
        }
        assert_equal(&view, &model);
        assert_equal(&fixture.reopen(), &model);
        let mut template = vec![0; fixture.content.len()];
        fixture.template.read_at(&mut template, 0).unwrap();
        prop_assert_eq!(&template, &fixture.content, "the template changed");
    }
}

#[test]
fn punched_pages_give_their_memory_back_and_holes_need_no_state() {
    let fixture = Fixture::new(24 * PAGE);
    let view = fixture.create();
    view.write(0, &vec![7; 12 * PAGE as usize]).unwrap();
    assert_eq!(view.usage().private_bytes, 12 * PAGE);
    view.punch(0, 12 * PAGE).unwrap();
    // Eight pages of data and four of a hole were covered.
    assert_eq!(view.usage(), Usage { private_bytes: 0, zero_bytes: 8 * PAGE });
    let data = fixture.state.path().join("n-v.data");
    assert_eq!(std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(data).unwrap()), 0);
}

#[test]
fn what_was_cut_off_never_comes_back() {
    let fixture = Fixture::new(8 * PAGE);
    let view = fixture.create();
    view.write(5 * PAGE, &[1; 100]).unwrap();
    view.truncate(10).unwrap();
    view.truncate(8 * PAGE).unwrap();
    let mut expected = fixture.content[..10].to_vec();
    expected.resize(8 * PAGE as usize, 0);
    assert_equal(&view, &expected);
    assert_equal(&fixture.reopen(), &expected);
}

/// A daemon killed after the page was written and marked, but before the new size was kept,
/// left bytes beyond the view's size; growing the view later must not show them.
#[test]
fn an_append_that_was_cut_short_leaves_nothing_behind() {
    let fixture = Fixture::new(10);
    drop(fixture.create());
    let (files, _) = ViewFiles::open(fixture.state.path(), KEY, Lasts::Yes).unwrap().unwrap();
    files.write_at(&[9; 2 * PAGE as usize], 0).unwrap();
    let mut words = [0; WORDS_PER_CHUNK];
    words[0] = 0b0101;
    files.keep_chunk(0, &words).unwrap();
    drop(files);
    let view = fixture.reopen();
    assert_eq!(view.usage().private_bytes, PAGE);
    view.truncate(2 * PAGE).unwrap();
    let mut expected = vec![9; 10];
    expected.resize(2 * PAGE as usize, 0);
    assert_equal(&view, &expected);
}

/// A daemon killed while it made a view shorter forgot which of the pages that stay were private:
/// the page map was cut before the word that the cut goes through was written back.
#[test]
fn a_cut_never_forgets_the_pages_before_it() {
    let fixture = Fixture::new(20 * PAGE);
    let view = fixture.create();
    view.write(0, &[1; 3 * PAGE as usize]).unwrap();
    let map = std::fs::File::open(fixture.state.path().join("n-v.map")).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                view.write(9 * PAGE, &[1]).unwrap();
                view.truncate(5 * PAGE).unwrap();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            // What a daemon would find that starts now.
            let mut first = [0];
            map.read_exact_at(&mut first, record::RECORD_SPACE as u64)
                .expect("a page map that was cut too far");
            assert_eq!(first[0] & 0b11_1111, 0b01_0101, "the first three pages are private");
        }
    });
}

/// The times that were set of a view were forgotten with the daemon.
#[test]
fn a_time_that_was_set_is_found_again() {
    let fixture = Fixture::new(PAGE);
    let view = fixture.create();
    view.write(0, &[1]).unwrap();
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    view.set_mtime(time).unwrap();
    assert_eq!(fixture.reopen().mtime(), time);
}

#[test]
fn offsets_beyond_what_a_file_can_have_are_refused() {
    let fixture = Fixture::new(PAGE);
    let view = fixture.create();
    for result in [
        view.write(MAX_SIZE - 1, &[1, 2]),
        view.write(u64::MAX, &[1]),
        view.punch(u64::MAX - 1, 2),
        view.truncate(MAX_SIZE + 1),
        view.allocate(MAX_SIZE, 1, false),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EFBIG));
    }
    assert_eq!(view.read(u64::MAX, &mut [0; 8]).unwrap(), 0);
    assert_eq!(view.next_data(u64::MAX).unwrap(), None);
}

/// Sizes of every kind, and pages on both sides of 2^31 and 2^32.
#[test]
fn a_sparse_terabyte_is_one_views_work() {
    let dir = tempfile::tempdir().unwrap();
    let size = 1u64 << 40;
    std::fs::File::create(dir.path().join(TEMPLATE)).unwrap().set_len(size).unwrap();
    let store = DirectoryStore::open(dir.path()).unwrap();
    let Found::Template(_, identity) = store.find(Path::new(TEMPLATE)).unwrap() else { panic!() };
    let template = store.pin(Path::new(TEMPLATE), &identity).unwrap();
    let state = tempfile::tempdir().unwrap();
    let fixture = Fixture { lasts: Lasts::Yes, state, template, content: vec![], _store: dir };
    let view = fixture.create();
    let places = [0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) + 1, size - 1];
    for at in places {
        view.write(at, &[0xAB]).unwrap();
    }
    let view = fixture.reopen();
    for at in places {
        let mut byte = [0];
        assert_eq!(view.read(at, &mut byte).unwrap(), 1);
        assert_eq!(byte, [0xAB], "at {at}");
    }
    assert_eq!(view.usage().private_bytes, places.len() as u64 * PAGE);
    view.punch(0, size).unwrap();
    assert_eq!(view.usage(), Usage::default());
    assert_eq!(view.next_data(0).unwrap(), None);
}

fn map_path(fixture: &Fixture) -> std::path::PathBuf {
    fixture.state.path().join(format!("{KEY}.map"))
}

/// Writes the map file anew as version 2 did: words without checksums. Its handle.
fn as_version_2(fixture: &Fixture) -> std::fs::File {
    let (record, pages) = peek(fixture.state.path(), KEY).unwrap();
    let (mut copies, _) = Copies::new(record.clone(), Boot::current()).unwrap();
    copies.copy.version = 2;
    let (copy, bytes) = copies.next(record, Boot::current()).unwrap();
    let map = std::fs::File::create(map_path(fixture)).unwrap();
    map.write_all_at(&bytes, copy.at as u64).unwrap();
    for (number, words) in pages.chunks() {
        let first = number * WORDS_PER_CHUNK as u64;
        map.write_all_at(&Units::Words.encode(first, words), record::RECORD_SPACE as u64 + 8 * first)
            .unwrap();
    }
    map
}

/// A part of a word at the end of a map was no state when a view was opened, and became one by that.
#[test]
fn a_torn_word_at_the_end_of_a_map_never_counts() {
    let fixture = Fixture::new(3 * PAGE);
    fixture.create().write(0, &[1]).unwrap();
    let map = as_version_2(&fixture);
    map.set_len(record::RECORD_SPACE as u64).unwrap();
    map.write_all_at(&[0xff; 3], record::RECORD_SPACE as u64).unwrap();
    for _ in 0..2 {
        let (_, pages) = ViewFiles::open(fixture.state.path(), KEY, Lasts::Yes).unwrap().expect("a view");
        assert_eq!((pages.private(), pages.zero()), (0, 0));
    }
}

/// A bit that flips there would show the template where a guest has written, and the other way round.
#[test]
fn page_states_that_are_damaged_are_no_view() {
    let fixture = Fixture::new(3 * PAGE);
    fixture.create().write(0, &[1]).unwrap();
    let map = std::fs::OpenOptions::new().read(true).write(true).open(map_path(&fixture)).unwrap();
    let open = || ViewFiles::open(fixture.state.path(), KEY, Lasts::Yes);
    let states = record::RECORD_SPACE as u64;
    let mut kept = [0; 512];
    map.read_exact_at(&mut kept, states).unwrap();
    for at in [0, 7, 300, 504, 511] {
        map.write_all_at(&[kept[at as usize] ^ 4], states + at).unwrap();
        let error = open().err().expect("it is damaged").to_string();
        assert!(error.contains("from 0 on are torn or damaged"), "{error}");
        map.write_all_at(&kept, states).unwrap();
    }
    map.set_len(states + 511).unwrap();
    assert!(open().is_err());
    map.write_all_at(&kept, states).unwrap();
    assert_eq!(open().unwrap().expect("a view").1.private(), 1);
}

#[test]
fn a_view_of_version_2_goes_on() {
    let pages = 3 * 2048;
    let fixture = Fixture::new(pages * PAGE);
    let mut model = fixture.content.clone();
    let view = fixture.create();
    let mut write = |view: &Overlay, page: u64, byte: u8| {
        view.write(page * PAGE + 5, &[byte; 2 * PAGE as usize]).unwrap();
        model[(page * PAGE) as usize + 5..][..2 * PAGE as usize].fill(byte);
    };
    [0, 2015, 2047, 4031, 6000].into_iter().for_each(|page| write(&view, page, 1));
    drop(view);
    drop(as_version_2(&fixture));
    let view = fixture.reopen();
    [31, 2014, 4032].into_iter().for_each(|page| write(&view, page, 2));
    view.sync().unwrap();
    view.truncate(4040 * PAGE + 1).unwrap();
    model.truncate(4040 * PAGE as usize + 1);
    for _ in 0..2 {
        assert_equal(&fixture.reopen(), &model);
    }
    let length = std::fs::metadata(map_path(&fixture)).unwrap().len();
    assert_eq!(length, record::RECORD_SPACE as u64 + 8 * 4041u64.div_ceil(32));
}
