//! What truncation, punching, allocation, appending and copying do to a private view.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::Duration;

use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use rustix::io::Errno;

use common::files::opened;
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, again_as_ordinary_user};

const PAGE: usize = 4096;
const TEMPLATE: usize = 20 * PAGE + 100;
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0xEE; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[track_caller]
fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(differs.is_none(), "byte {differs:?} differs");
}

#[test]
fn a_view_made_longer_than_its_template_ends_in_zeros() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, mut expected) = Mounted::with_data(TEMPLATE);
    let view = opened(&mounted.path("t?rom=off"));
    expected.resize(TEMPLATE + 3 * PAGE, 0);
    view.set_len(expected.len() as u64).unwrap();
    assert_same(&content(&view), &expected);
    let map = Mapping::shared(&view).unwrap();
    assert_same(&map.read(0, expected.len()), &expected);
}

/// The template must not show through where it was cut off once.
#[test]
fn a_view_made_shorter_and_longer_again_holds_zeros_and_not_the_template() {
    let _limit = limit(Duration::from_secs(60));
    let (mut mounted, template) = Mounted::with_data(TEMPLATE);
    let path = mounted.path("t?rom=off&view=a");
    for (number, cut) in [0, 1, PAGE - 1, PAGE, PAGE + 1, 7 * PAGE + 9].into_iter().enumerate() {
        let view = opened(&mounted.path(&format!("t?rom=off&view=cut-{number}")));
        let map = Mapping::shared(&view).unwrap();
        map.write(10 * PAGE, b"stored before the cut");
        view.set_len(cut as u64).unwrap();
        view.set_len(TEMPLATE as u64).unwrap();
        let mut expected = template[..cut].to_vec();
        expected.resize(TEMPLATE, 0);
        assert_same(&content(&view), &expected);
        assert_same(&map.read(0, TEMPLATE), &expected);
    }
    nix::unistd::truncate(&path, 5).unwrap();
    nix::unistd::truncate(&path, 2 * PAGE as i64).unwrap();
    assert!(mounted.stop().success());
    mounted.mount();
    let mut expected = template[..5].to_vec();
    expected.resize(2 * PAGE, 0);
    assert_same(&fs::read(&path).unwrap(), &expected);
    OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn punched_pages_read_zero_and_give_their_memory_back() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = Mounted::with_data(TEMPLATE);
    let view = opened(&mounted.path("t?rom=off&view=a"));
    let data = mounted.state.join("views/n-a.data");
    view.write_all_at(&vec![7; TEMPLATE], 0).unwrap();
    assert_eq!(view.metadata().unwrap().blocks(), 21 * 8);
    let full = fs::metadata(&data).unwrap().blocks();
    assert!(full >= 21 * 8);

    // Whole pages go; the two that are touched in part stay.
    fallocate(&view, PUNCH, PAGE as u64 + 1, 8 * PAGE as u64).unwrap();
    let mut expected = vec![7; TEMPLATE];
    expected[PAGE + 1..9 * PAGE + 1].fill(0);
    assert_same(&content(&view), &expected);
    assert_eq!(view.metadata().unwrap().blocks(), 14 * 8);
    assert!(fs::metadata(&data).unwrap().blocks() <= full - 7 * 8);

    // MADV_REMOVE of a mapping is how QEMU punches.
    let map = Mapping::shared(&view).unwrap();
    map.remove(0, TEMPLATE).unwrap();
    assert_same(&content(&view), &vec![0; TEMPLATE]);
    assert_same(&map.read(0, TEMPLATE), &vec![0; TEMPLATE]);
    assert_eq!(view.metadata().unwrap().blocks(), 0);
    assert_eq!(fs::metadata(&data).unwrap().blocks(), 0);

    // A page that is stored to after it was punched starts from zeros.
    map.write(3 * PAGE + 5, b"x");
    map.sync(0, TEMPLATE).unwrap();
    assert_same(&content(&view)[3 * PAGE..4 * PAGE], &[&[0; 5][..], b"x", &[0; PAGE - 6]].concat());
    assert_eq!(view.metadata().unwrap().blocks(), 8);
    assert_same(&fs::read(mounted.store.join("t")).unwrap(), &template);
}

/// The kernel may believe the attributes of a view without a name for a while, and must ask again by itself.
#[test]
fn stat_of_an_open_view_tells_at_once_what_was_written_in_any_way() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, _template) = Mounted::with_data(TEMPLATE);
    let view = opened(&mounted.path("t?rom=off"));
    let shown = || view.metadata().map(|m| (m.len(), m.blocks())).unwrap();
    let whole = TEMPLATE as u64;
    assert_eq!(shown(), (whole, 0));
    let made = view.metadata().unwrap().modified().unwrap();
    view.write_all_at(b"x", 0).unwrap();
    assert_eq!(shown(), (whole, 8));
    assert!(view.metadata().unwrap().modified().unwrap() > made);
    let map = Mapping::shared(&view).unwrap();
    map.write(3 * PAGE, b"y");
    map.sync(0, TEMPLATE).unwrap();
    assert_eq!(shown(), (whole, 16));
    fallocate(&view, PUNCH, 0, PAGE as u64).unwrap();
    assert_eq!(shown(), (whole, 8));
    view.set_len(PAGE as u64).unwrap();
    assert_eq!(shown(), (PAGE as u64, 0));
    view.write_all_at(b"z", 2 * PAGE as u64).unwrap();
    assert_eq!(shown(), (2 * PAGE as u64 + 1, 8));
}

/// Pages that were never the view's own: nothing is stored, and the template is hidden all the same.
#[test]
fn punching_a_fresh_view_hides_the_template_and_costs_nothing() {
    let _limit = limit(Duration::from_secs(60));
    let (mut mounted, template) = Mounted::with_data(TEMPLATE);
    let path = mounted.path("t?rom=off&view=a");
    let view = opened(&path);
    fallocate(&view, PUNCH, 0, TEMPLATE as u64 * 2).unwrap();
    assert_same(&content(&view), &vec![0; TEMPLATE]);
    assert_eq!(view.metadata().unwrap().blocks(), 0);
    drop(view);
    mounted.kill();
    mounted.mount();
    assert_same(&fs::read(&path).unwrap(), &vec![0; TEMPLATE]);
    assert_same(&fs::read(mounted.path("t?rom=off")).unwrap(), &template);
}

#[test]
fn each_fallocate_mode_does_what_its_manual_says_or_is_refused() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = Mounted::with_data(TEMPLATE);
    let keep = FallocateFlags::KEEP_SIZE;
    let zero = FallocateFlags::ZERO_RANGE;
    let longer = TEMPLATE + 2 * PAGE;
    // Mode, size afterwards, whether the range reads as zeros.
    for (mode, size, zeroed) in [
        (FallocateFlags::empty(), longer, false),
        (keep, TEMPLATE, false),
        (zero, longer, true),
        (zero | keep, TEMPLATE, true),
        (PUNCH, TEMPLATE, true),
    ] {
        let view = opened(&mounted.path("t?rom=off"));
        let start = 10 * PAGE + 7;
        fallocate(&view, mode, start as u64, (longer - start) as u64).unwrap();
        let mut expected = template.clone();
        if zeroed {
            expected[start..].fill(0);
        }
        expected.resize(size, 0);
        assert_same(&content(&view), &expected);
    }
    let view = opened(&mounted.path("t?rom=off"));
    for mode in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
        FallocateFlags::PUNCH_HOLE,
    ] {
        let refused = fallocate(&view, mode, 0, PAGE as u64);
        assert_eq!(refused, Err(Errno::OPNOTSUPP), "{mode:?}");
    }
    assert_same(&content(&view), &template);
    let rom = File::open(mounted.path("t")).unwrap();
    assert_eq!(fallocate(&rom, PUNCH, 0, PAGE as u64), Err(Errno::BADF));
}

#[test]
fn two_appenders_lose_and_mix_nothing() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = Mounted::with_data(TEMPLATE);
    let path = mounted.path("t?rom=off&view=a");
    const RECORDS: usize = 150;
    let record = |who: u8, number: usize| vec![who; 1 + (number * 797) % 9001];
    let append = |who: u8| {
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        for number in 0..RECORDS {
            assert_eq!(file.write(&record(who, number)).unwrap(), record(who, number).len());
        }
    };
    thread::scope(|scope| [1, 2].map(|who| scope.spawn(move || append(who))).map(|t| t.join().unwrap()));
    let whole = fs::read(&path).unwrap();
    assert_same(&whole[..TEMPLATE], &template);
    let mut rest = &whole[TEMPLATE..];
    let mut next = [0, 0];
    while let Some(who) = rest.first().copied() {
        let expected = record(who, next[who as usize - 1]);
        assert_same(&rest[..expected.len()], &expected);
        rest = &rest[expected.len()..];
        next[who as usize - 1] += 1;
    }
    assert_eq!(next, [RECORDS; 2]);
}

#[test]
fn ranges_are_copied_between_views_and_from_rom() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, template) = Mounted::with_data(TEMPLATE);
    let (a, b) = (opened(&mounted.path("t?rom=off")), opened(&mounted.path("t?rom=off")));
    a.write_all_at(b"of a alone", 50).unwrap();
    let copy = |from: &File, start: u64, to: &File, at: u64, length: usize| {
        let (mut start, mut at, end) = (start, at, start + length as u64);
        while start < end {
            let left = (end - start) as usize;
            let count = copy_file_range(from, Some(&mut start), to, Some(&mut at), left).unwrap();
            assert_ne!(count, 0);
        }
    };
    copy(&a, 50, &b, TEMPLATE as u64 - 5, 10);
    copy(&File::open(mounted.path("t")).unwrap(), 4000, &b, 1, 2 * PAGE);
    let mut expected = template.clone();
    expected.resize(TEMPLATE + 5, 0);
    expected[TEMPLATE - 5..].copy_from_slice(b"of a alone");
    expected[1..1 + 2 * PAGE].copy_from_slice(&template[4000..4000 + 2 * PAGE]);
    assert_same(&content(&b), &expected);
    // cp, which tries to clone and to copy ranges, and falls back.
    let target = mounted.state.join("copy");
    fs::copy(mounted.path("t?rom=off"), &target).unwrap();
    assert_same(&fs::read(&target).unwrap(), &template);
}

#[test]
fn an_ordinary_users_views_behave_the_same() {
    let _limit = limit(Duration::from_secs(300));
    for test in [
        "a_view_made_shorter_and_longer_again_holds_zeros_and_not_the_template",
        "punched_pages_read_zero_and_give_their_memory_back",
        "each_fallocate_mode_does_what_its_manual_says_or_is_refused",
        "two_appenders_lose_and_mix_nothing",
        "ranges_are_copied_between_views_and_from_rom",
    ] {
        again_as_ordinary_user(test);
    }
}
