//! `backing=memory`: private views that are their own memory, served by the kernel alone.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use common::files::{SOON, assert_refused, error_line, open_ro, open_rw, reopened, truncate};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};
use common::random::pattern;
use common::sparse::template_with_holes;
use common::views::views;
use templatefs::inspect::ViewReport;

const PAGE: usize = 4096;
const LENGTH: usize = 3 << 20;

/// None where the kernel does not pass files through.
fn mounted(arguments: &[&'static str]) -> Option<(Mounted, Vec<u8>)> {
    if !is_root() {
        println!("skipped: views in memory need root");
        return None;
    }
    let mounted = Mounted::start(Options::with(arguments));
    let content = pattern(1, LENGTH);
    mounted.template("t", &content);
    drop(open_ro(mounted.path("t")).unwrap());
    if mounted.log().contains("read through the daemon") {
        println!("skipped: views in memory need Linux 6.9");
        return None;
    }
    Some((mounted, content))
}

/// How many views in memory, and copies that wait for one, the daemon holds open.
fn copies(mounted: &Mounted) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", mounted.serving().as_raw_nonzero())).unwrap();
    let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("templatefs-view")).count()
}

/// The view with this label.
fn of(mounted: &Mounted, vm: &str) -> ViewReport {
    let is_it = |view: &ViewReport| view.vm.as_ref().is_some_and(|label| label.as_str() == vm);
    views(mounted).into_iter().find(is_it).unwrap()
}

fn wait_for_copies(mounted: &Mounted, wanted: usize) {
    let found = poll(SOON, || (copies(mounted) == wanted).then_some(()));
    assert!(found.is_some(), "{} copies, not {wanted}", copies(mounted));
}

#[test]
fn each_open_is_a_view_of_its_own_and_the_template_stays_as_it_is() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mounted, content)) = mounted(&[]) else { return };
    let views = [(); 3].map(|()| open_rw(mounted.path("t?rom=off&backing=memory")).unwrap());
    let maps = [0, 1, 2].map(|n| Mapping::shared(&views[n]).unwrap());
    for (n, (view, map)) in views.iter().zip(&maps).enumerate() {
        map.write(n * PAGE, &[n as u8 + 1; 2 * PAGE]);
        view.write_all_at(b"written", (9 * PAGE) as u64).unwrap();
    }
    for (n, map) in maps.iter().enumerate() {
        let mut wanted = content.clone();
        wanted[n * PAGE..(n + 2) * PAGE].fill(n as u8 + 1);
        wanted[9 * PAGE..9 * PAGE + 7].copy_from_slice(b"written");
        assert!(map.read(0, LENGTH) == wanted, "view {n}");
        let again = reopened(&views[n], true).unwrap();
        assert!(Mapping::shared(&again).unwrap().read(0, LENGTH) == wanted, "view {n}, opened again");
    }
    assert!(fs::read(mounted.store.join("t")).unwrap() == content);
    assert!(fs::read(mounted.path("t")).unwrap() == content);
    drop((views, maps));
    wait_for_copies(&mounted, 0);
}

/// Evidence that nobody else serves it: what was never touched can be read and written when the
/// daemon is dead.
#[test]
fn a_mapped_view_needs_the_daemon_no_more() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mut mounted, content)) = mounted(&[]) else { return };
    let view = open_rw(mounted.path("t?rom=off&backing=memory")).unwrap();
    let map = Mapping::shared(&view).unwrap();
    kill_process(mounted.daemon(), Signal::KILL).unwrap();
    mounted.wait();
    for page in [0, 77, 300, 767] {
        map.write(page * PAGE, b"stored");
        assert_eq!(map.read(page * PAGE, 6), b"stored");
        let rest = page * PAGE + 6..(page + 1) * PAGE;
        assert!(map.read(rest.start, rest.len()) == content[rest], "page {page}");
    }
}

#[test]
fn holes_and_zeros_cost_nothing_and_what_is_punched_is_given_back() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mounted, _)) = mounted(&[]) else { return };
    let mut content = pattern(2, LENGTH);
    content[PAGE..100 * PAGE].fill(0);
    template_with_holes(&mounted, "holes", &content);
    content[200 * PAGE..300 * PAGE].fill(0);
    mounted.template("zeros", &content);
    for (name, zeros) in [("holes", 99), ("zeros", 199)] {
        let view = open_rw(mounted.path(&format!("{name}?rom=off&backing=memory&vm={name}"))).unwrap();
        let private = || {
            let shown = of(&mounted, name);
            assert_eq!((shown.backing.as_str(), shown.kind.as_str()), ("memory", "private"));
            assert_eq!(shown.cost_bytes, Some(shown.private_bytes));
            shown.private_bytes
        };
        let data = LENGTH / PAGE - zeros;
        assert_eq!(private(), (data * PAGE) as u64, "{name}");
        let map = Mapping::shared(&view).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&view, flags, (400 * PAGE) as u64, (7 * PAGE) as u64).unwrap();
        assert_eq!(private(), ((data - 7) * PAGE) as u64, "{name}");
        map.write(50 * PAGE, b"into a page that was none");
        assert_eq!(private(), ((data - 7 + 1) * PAGE) as u64, "{name}");
        // tmpfs gives a page to whoever looks at a hole through a mapping.
        assert_eq!(map.read(400 * PAGE, 7 * PAGE), vec![0; 7 * PAGE]);
        assert_eq!(private(), ((data + 1) * PAGE) as u64, "{name}");
        assert_eq!(view.metadata().unwrap().blocks() * 512, private());
        view.set_len(PAGE as u64).unwrap();
        assert_eq!((view.metadata().unwrap().len(), private()), (PAGE as u64, PAGE as u64));
    }
}

#[test]
fn a_view_opened_for_reading_only_is_the_template_itself() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mounted, content)) = mounted(&["--backing", "memory"]) else { return };
    let view = open_ro(mounted.path("t?rom=off")).unwrap();
    assert_eq!(views(&mounted)[0].backing, "template");
    assert_eq!(copies(&mounted), 0);
    let map = Mapping::private(&view).unwrap();
    map.write(0, b"copied");
    assert!(fs::read(mounted.store.join("t")).unwrap() == content);
    assert_refused(reopened(&view, true), Errno::ACCESS, "for writing");
}

#[test]
fn auto_says_what_it_picked_and_why() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mounted, _)) = mounted(&["--backing=auto"]) else { return };
    let small = open_rw(mounted.path("t?rom=off&vm=a")).unwrap();
    let named = open_rw(mounted.path("t?rom=off&vm=b&view=kept&backing=auto")).unwrap();
    let asked = open_rw(mounted.path("t?rom=off&vm=c&backing=overlay")).unwrap();
    let picked = |vm| {
        let view = of(&mounted, vm);
        (view.backing, view.backing_reason)
    };
    assert_eq!(picked("a"), ("memory".into(), Some("its template is small".into())));
    let lasting = "it has a name and lasts, which memory does not";
    assert_eq!(picked("b"), ("overlay".into(), Some(lasting.into())));
    assert_eq!(picked("c"), ("overlay".into(), None));
    drop((small, named, asked));
}

#[test]
fn a_pool_keeps_copies_ready_and_none_of_an_old_template() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mounted, content)) = mounted(&["--pool", "2"]) else { return };
    let open = || open_rw(mounted.path("t?rom=off&backing=memory")).unwrap();
    let view = open();
    wait_for_copies(&mounted, 3);
    let others = [(); 3].map(|()| open());
    others[0].write_all_at(b"mine", 0).unwrap();
    for other in [&others[1], &others[2], &view] {
        let mut read = vec![0; LENGTH];
        other.read_exact_at(&mut read, 0).unwrap();
        assert!(read == content);
    }
    drop((view, others));
    wait_for_copies(&mounted, 2);
    let new = pattern(9, LENGTH);
    mounted.template("t", &new);
    let view = open();
    let mut read = vec![0; LENGTH];
    view.read_exact_at(&mut read, 0).unwrap();
    assert!(read == new, "a copy of the file that was there before");
}

#[test]
fn what_cannot_be_in_memory_is_refused() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", b"content");
    for (path, words) in [
        ("t?rom=off&view=a&backing=memory", "leave out one of the two"),
        ("t?backing=overlay", "leave out backing, or add rom=off"),
        ("t?rom=off&backing=disk", "it is overlay, memory or auto"),
    ] {
        assert_refused(open_rw(mounted.path(path)), Errno::INVAL, path);
        mounted.wait_for_log(words);
        let output = mounted.command().args(["resolve", path]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(words), "{path}: {output:?}");
    }
    if !is_root() {
        let path = "t?rom=off&backing=memory";
        assert_refused(open_rw(mounted.path(path)), Errno::OPNOTSUPP, path);
        mounted.wait_for_log("leave backing out");
        open_rw(mounted.path("t?rom=off&backing=auto")).unwrap();
        let on = mounted.path("..").join("other");
        fs::create_dir(&on).unwrap();
        let state = mounted.path("..").join("other-state");
        let mut mount = mounted.command();
        mount.args(["mount", "--backing", "memory", "--state-dir"]).arg(state).arg(&mounted.store).arg(&on);
        let line = error_line(&mount.output().unwrap());
        assert!(line.contains("backing=memory") && line.contains("use backing=auto"), "{line}");
    }
}

#[test]
fn what_cannot_be_in_memory_is_refused_to_an_ordinary_user() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("what_cannot_be_in_memory_is_refused");
}

/// A template that is changed while it is copied is no template of anything.
#[test]
fn a_template_that_was_changed_in_place_fills_no_view() {
    let _limit = limit(Duration::from_secs(60));
    let Some((mounted, _)) = mounted(&["--pool", "1"]) else { return };
    let view = open_rw(mounted.path("t?rom=off&backing=memory")).unwrap();
    wait_for_copies(&mounted, 2);
    truncate(mounted.store.join("t"), PAGE as i64).unwrap();
    let again = open_rw(mounted.path("t?rom=off&backing=memory"));
    // Refused, or a view of what the file is now; never a mix.
    if let Ok(file) = again {
        assert_eq!(file.metadata().unwrap().len(), PAGE as u64);
    }
    assert_eq!(view.metadata().unwrap().len(), LENGTH as u64);
}
