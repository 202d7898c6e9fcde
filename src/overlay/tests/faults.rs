//! Each file operation of a run of random operations fails, one after the other: alone, with the
//! next few, with all that follow for a while; at once, or after half of what it was to write.

use rustix::io::Errno;

use super::super::disk::script::{self, Failure};
use super::*;

/// What a test does, without those that other tests are about.
pub(super) fn changes(limit: u64) -> impl Strategy<Value = Op> {
    op(limit).prop_filter("a change", |op| {
        matches!(
            op,
            Op::Write { .. } | Op::Truncate { .. } | Op::Punch { .. } | Op::Zero { .. } | Op::Allocate { .. }
        )
    })
}

/// What the view would be if `op` is done.
pub(super) fn after(model: &[u8], op: &Op) -> Vec<u8> {
    let mut model = model.to_owned();
    match *op {
        Op::Write { at, length, seed } => {
            grow(&mut model, at + length as u64);
            model[at as usize..at as usize + length].copy_from_slice(&data(length, seed));
        }
        Op::Truncate { size } => model.resize(size as usize, 0),
        Op::Punch { at, length } => zero(&mut model, at, length),
        Op::Zero { at, length, keep } => {
            zero(&mut model, at, length);
            if !keep {
                grow(&mut model, at + length);
            }
        }
        Op::Allocate { at, length, keep: false } => grow(&mut model, at + length),
        _ => {}
    }
    model
}

pub(super) fn try_to(view: &Overlay, op: &Op) -> io::Result<()> {
    match *op {
        Op::Write { at, length, seed } => view.write(at, &data(length, seed)),
        Op::Truncate { size } => view.truncate(size),
        Op::Punch { at, length } => view.punch(at, length),
        Op::Zero { at, length, keep } => view.zero_range(at, length, keep),
        Op::Allocate { at, length, keep } => view.allocate(at, length, keep),
        _ => Ok(()),
    }
}

pub(super) fn content(view: &Overlay) -> Vec<u8> {
    let mut content = vec![0xEE; view.size() as usize];
    assert_eq!(view.read(0, &mut content).unwrap(), content.len());
    content
}

/// Each byte is as in one of these, and so is the size.
fn assert_one_of(found: &[u8], contents: &[&Vec<u8>], what: &str) {
    assert!(contents.iter().any(|content| content.len() == found.len()), "{what}: {} bytes", found.len());
    let page = |content: &Vec<u8>, index: usize| {
        let mut page = content.get(index * PAGE as usize..).unwrap_or_default().to_vec();
        page.resize(PAGE as usize, 0);
        page
    };
    let changed = found.chunks(PAGE as usize).enumerate().filter(|(index, chunk)| {
        !contents.iter().any(|content| page(content, *index)[..chunk.len()] == **chunk)
    });
    for at in changed.flat_map(|(index, chunk)| (0..chunk.len()).map(move |at| index * PAGE as usize + at)) {
        let byte = &found[at];
        let known = contents.iter().any(|content| content.get(at).unwrap_or(&0) == byte);
        assert!(known, "{what}: byte {at} is {byte:#x}, which it never was");
    }
}

/// What another daemon would find, in a copy: opening changes files.
fn content_on_disk(fixture: &Fixture) -> Vec<u8> {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture.state.path()).unwrap().flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    content(&fixture.open_in(copy.path()))
}

/// There is no data in the data file but of private pages.
pub(super) fn assert_nothing_unclaimed(state: &Path, view: &Overlay) {
    let data = super::super::disk::DiskFile::open(&state.join("n-v.data")).unwrap();
    let runs = view.page_runs().expect("nothing waits");
    let mut at = 0;
    while let Some(found) = data.next_data(at).unwrap() {
        at = data.next_hole(found).unwrap().expect("the end of a file is a hole");
        for page in found / PAGE..at.div_ceil(PAGE) {
            let claimed = runs.iter().any(|(first, count, state)| {
                (*first..first + count).contains(&page) && *state == State::Private
            });
            assert!(claimed, "page {page} has data that no state claims");
        }
    }
}

/// One run; how many operations there were.
fn run(fixture: &mut Fixture, ops: &[Op], failure: Failure) -> u64 {
    // An earlier run may have ended in the middle.
    script::fail(None);
    fixture.state = state_directory();
    let view = fixture.create();
    let mut model = fixture.content.clone();
    // What failed and could not be taken back on disk either: another daemon may find it done.
    let mut pending: Vec<Vec<u8>> = Vec::new();
    script::fail(Some(failure));
    for op in ops {
        let before = script::count();
        let new = after(&model, op);
        let done = try_to(&view, op);
        let failed = script::count() >= failure.first && before < failure.first - 1 + failure.count;
        assert!(done.is_ok() || failed, "{op:?}: {done:?}");
        if !failed {
            model = new;
            pending.clear();
            continue;
        }
        let what = format!("{failure:?}, {op:?}: {done:?}");
        let found = script::pause(|| content(&view));
        assert_one_of(&found, &[&model, &new], &what);
        assert!(done.is_err() || found == new, "{what}: it was not done");
        let on_disk = script::pause(|| content_on_disk(fixture));
        pending.push(new);
        let known: Vec<_> = pending.iter().chain([&model]).collect();
        assert_one_of(&on_disk, &known, &format!("{what}, on disk"));
        if done.is_ok() {
            pending.clear();
        }
        model = found;
    }
    let count = script::count();
    script::fail(None);
    let last = Op::Write { at: 5, length: 1, seed: 1 };
    try_to(&view, &last).unwrap();
    model = after(&model, &last);
    assert!(content(&view) == model, "{failure:?}: afterwards");
    view.sync().unwrap();
    // Room that was asked for may be there and look like data.
    if !ops.iter().any(|op| matches!(op, Op::Allocate { .. })) {
        assert_nothing_unclaimed(fixture.state.path(), &view);
    }
    assert!(content_on_disk(fixture) == model, "{failure:?}: on disk afterwards");
    assert!(content(&fixture.reopen()) == model, "{failure:?}: as another daemon finds it");
    count
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Prints the failing case and its seed; PROPTEST_RNG_SEED reruns it, PROPTEST_CASES runs more.
    #[test]
    fn what_fails_changes_nothing_else(
        size in prop_oneof![Just(PAGE + 1), Just(24 * PAGE), 0..40 * PAGE],
        ops in proptest::collection::vec(changes(44 * PAGE), 1..14),
        lasts in prop_oneof![Just(Lasts::Yes), Just(Lasts::No)],
    ) {
        let never = Failure { first: u64::MAX, count: 1, errno: Errno::IO, short: false };
        let mut fixture = Fixture { lasts, ..Fixture::new(size) };
        let count = run(&mut fixture, &ops, never);
        for first in 1..=count {
            run(&mut fixture, &ops, Failure { first, ..never });
            run(&mut fixture, &ops, Failure { first, count: 1, errno: Errno::NOSPC, short: true });
            run(&mut fixture, &ops, Failure { first, count: 4, errno: Errno::NOSPC, short: true });
            run(&mut fixture, &ops, Failure { first, count: 9, ..never });
        }
    }
}

/// A hole that failed half way kept the memory of its first half, which nothing gave back.
#[test]
fn a_hole_that_failed_half_way_gives_its_memory_back_before_the_next_change() {
    const FAR: u64 = 1 << 32;
    let fixture = Fixture::new(8 * PAGE);
    let view = fixture.create();
    view.truncate(FAR + PAGE).unwrap();
    for at in [8 * PAGE, FAR] {
        view.write(at, &[7; PAGE as usize]).unwrap();
    }
    // The states of the first page are kept by one operation, those of the last one by another.
    script::fail(Some(Failure { first: 2, count: 1, errno: Errno::IO, short: false }));
    assert_eq!(view.punch(8 * PAGE, FAR).unwrap_err().raw_os_error(), Some(libc::EIO));
    script::fail(None);
    view.write(0, &[1]).unwrap();
    assert_nothing_unclaimed(fixture.state.path(), &view);
}

/// A truncate whose cut failed left bytes beyond the view's end, and a longer view showed them.
#[test]
fn a_cut_that_failed_is_made_up_for_before_the_view_grows() {
    let fixture = Fixture::new(8 * PAGE);
    let view = fixture.create();
    view.write(0, &[7; 3 * PAGE as usize]).unwrap();
    // The record is kept by the first operation.
    script::fail(Some(Failure { first: 2, count: 100, errno: Errno::IO, short: false }));
    view.truncate(10).unwrap();
    assert_eq!(view.truncate(PAGE).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(view.size(), 10);
    script::fail(None);
    view.truncate(PAGE).unwrap();
    let mut expected = vec![7; 10];
    expected.resize(PAGE as usize, 0);
    assert_equal(&view, &expected);
    assert_equal(&fixture.reopen(), &expected);
}

/// A write that failed half way left blocks that nobody counted.
#[test]
fn a_write_that_failed_gives_back_what_it_took() {
    let fixture = Fixture::new(8 * PAGE);
    let view = fixture.create();
    for first in 1..6 {
        script::fail(Some(Failure { first, count: 1, errno: Errno::NOSPC, short: true }));
        let written = view.write(0, &[7; 3 * PAGE as usize]);
        script::fail(None);
        assert_nothing_unclaimed(fixture.state.path(), &view);
        if written.is_ok() {
            return;
        }
    }
    panic!("more operations than a write has");
}

/// After a sync that failed the kernel takes for written what it could not write, and the next
/// sync said that all was well.
#[test]
fn the_sync_after_one_that_failed_is_of_everything() {
    let fixture = Fixture::new(8 * PAGE);
    let view = fixture.create();
    view.write(PAGE, &[7; 2 * PAGE as usize]).unwrap();
    script::fail(Some(Failure { first: 1, count: 100, errno: Errno::IO, short: false }));
    assert!(view.sync().is_err());
    script::fail(None);
    script::record();
    view.sync().unwrap();
    let done = script::take_record();
    let rewritten = |done: &script::Done| matches!(done, script::Done::Write { bytes, offset: PAGE, .. } if *bytes == [7; 2 * PAGE as usize]);
    let at = done.iter().position(rewritten).expect("the private pages are written again");
    let synced = done.iter().position(|done| matches!(done, script::Done::Sync { .. }));
    assert!(synced.is_some_and(|synced| at < synced), "before the first sync");
}
