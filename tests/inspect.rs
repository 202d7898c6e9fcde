//! The figures of a view equal what was done to it, to the page, in each way of using it.

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::Duration;

use common::child;
use common::files::{open_ro, open_rw};
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user};
use common::random::{Random, pattern};
use common::views::{view, views};
use rustix::fs::{FallocateFlags, fallocate};
use templatefs::inspect::ViewReport;

const PAGE: usize = 4096;
const PAGES: u64 = 2048;

/// A mount with a template of data pages, and pages of it chosen by a printed seed.
struct Fixture {
    mounted: Mounted,
    random: Random,
}

impl Fixture {
    fn new() -> Self {
        let given = std::env::var("TEMPLATEFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        println!("TEMPLATEFS_TEST_SEED={seed}");
        let mounted = Mounted::start(Options::default());
        mounted.template("t", &pattern(7, PAGES as usize * PAGE));
        Self { mounted, random: Random::new(seed) }
    }

    fn pages(&mut self, about: u64) -> BTreeSet<usize> {
        (0..about).map(|_| self.random.below(PAGES) as usize).collect()
    }

    fn the_view(&self) -> ViewReport {
        let all = views(&self.mounted);
        assert_eq!(all.len(), 1, "{all:#?}");
        all.into_iter().next().unwrap()
    }
}

fn bytes(pages: &BTreeSet<usize>) -> u64 {
    (pages.len() * PAGE) as u64
}

fn store(mapping: &Mapping, pages: &BTreeSet<usize>) {
    for page in pages {
        mapping.write(page * PAGE + 17, b"changed");
    }
}

/// QEMU's readonly=on,rom=off: the filesystem never sees a write.
#[test]
fn what_a_private_mapping_copied_is_counted_to_the_page() {
    let _limit = limit(Duration::from_secs(60));
    let mut fixture = Fixture::new();
    let (read, written) = (fixture.pages(300), fixture.pages(200));
    let file = open_ro(fixture.mounted.path("t?rom=off&vm=web-1")).unwrap();
    let mapping = Mapping::private(&file).unwrap();
    store(&mapping, &written);
    // After the stores: these may split a huge mapping, which the kernel does by unmapping it.
    for page in &read {
        mapping.read(page * PAGE, 1);
    }
    let view = fixture.the_view();
    assert_eq!(view.cow_anon_bytes, Some(bytes(&written)), "{view:#?}");
    assert_eq!((view.private_bytes, view.backing.as_str()), (0, "template"));
    assert_eq!(view.processes[0].cow_anon_bytes, Some(bytes(&written)));
    assert_eq!(view.vm.as_ref().map(|vm| vm.as_str()), Some("web-1"));
    assert_eq!(view.cost_bytes, view.cached_bytes.map(|cached| cached + bytes(&written)));
    let only_read = read.difference(&written).count();
    assert!(view.shared_clean_bytes.unwrap() >= (only_read * PAGE) as u64, "{view:#?}");
    assert_eq!(view.data_bytes, Some(PAGES * PAGE as u64));
}

#[test]
fn what_a_shared_mapping_wrote_is_counted_to_the_page() {
    let _limit = limit(Duration::from_secs(60));
    let mut fixture = Fixture::new();
    let written = fixture.pages(200);
    let file = open_rw(fixture.mounted.path("t?rom=off")).unwrap();
    let mapping = Mapping::shared(&file).unwrap();
    store(&mapping, &written);
    mapping.sync(0, mapping.len()).unwrap();
    let view = fixture.the_view();
    assert_eq!((view.private_bytes, view.cow_anon_bytes), (bytes(&written), Some(0)), "{view:#?}");
    assert!(view.cached_bytes.unwrap() >= bytes(&written), "{view:#?}");
    assert_eq!(view.dirty_bytes, Some(0), "{view:#?}");
    assert_eq!(view.cost_bytes, Some(view.private_bytes + view.cached_bytes.unwrap()));
}

/// The kernel writes back when it wants, also while it is looked.
#[test]
fn what_is_not_yet_written_back_is_in_the_cost() {
    let _limit = limit(Duration::from_secs(60));
    let mut fixture = Fixture::new();
    let (first, second) = (fixture.pages(500), fixture.pages(500));
    let file = open_rw(fixture.mounted.path("t?rom=off")).unwrap();
    let mapping = Mapping::shared(&file).unwrap();
    let mut written = BTreeSet::new();
    for more in [first, second] {
        store(&mapping, &more);
        written.extend(more);
        let view = fixture.the_view();
        let (private, dirty, cached) =
            (view.private_bytes, view.dirty_bytes.unwrap(), view.cached_bytes.unwrap());
        assert!(private + dirty >= bytes(&written), "{view:#?}");
        assert!(private <= bytes(&written) && cached >= bytes(&written), "{view:#?}");
        assert_eq!(view.cost_bytes, Some(private + cached));
        mapping.sync_all().unwrap();
        let view = fixture.the_view();
        assert_eq!((view.private_bytes, view.dirty_bytes), (bytes(&written), Some(0)), "{view:#?}");
    }
}

#[test]
fn what_was_written_and_punched_is_counted_to_the_page() {
    let _limit = limit(Duration::from_secs(60));
    let mut fixture = Fixture::new();
    let (written, punched) = (fixture.pages(200), fixture.pages(100));
    let file = open_rw(fixture.mounted.path("t?rom=off")).unwrap();
    for page in &written {
        file.write_all_at(b"changed", (page * PAGE + 99) as u64).unwrap();
    }
    assert_eq!(fixture.the_view().private_bytes, bytes(&written));
    for page in &punched {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, flags, (page * PAGE) as u64, PAGE as u64).unwrap();
    }
    let view = fixture.the_view();
    let left: BTreeSet<usize> = written.difference(&punched).copied().collect();
    assert_eq!((view.private_bytes, view.zero_bytes), (bytes(&left), bytes(&punched)), "{view:#?}");
    assert_eq!(view.writes_total, written.len() as u64);
}

/// A view that QEMU and its vhost-user backend map at once counts once, and what each copied is its own.
#[test]
fn two_processes_that_map_one_view_are_told_apart() {
    let _limit = limit(Duration::from_secs(60));
    let mut fixture = Fixture::new();
    let written = fixture.pages(150);
    let path = fixture.mounted.path("t?rom=off&view=web-1");
    let file = open_rw(&path).unwrap();
    let mapping = Mapping::shared(&file).unwrap();
    store(&mapping, &written);
    mapping.sync(0, mapping.len()).unwrap();
    let mut other =
        child::command("copy", &path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for(other.stdout.as_mut().unwrap(), b'!');
    let view = view(&fixture.mounted, "web-1");
    assert_eq!(view.private_bytes, bytes(&written), "{view:#?}");
    assert_eq!(view.cow_anon_bytes, Some((COPIED * PAGE) as u64), "{view:#?}");
    let copied = |pid: u32| view.processes.iter().find(|process| process.pid == pid).unwrap().cow_anon_bytes;
    assert_eq!(copied(other.id()), Some((COPIED * PAGE) as u64));
    assert_eq!(copied(std::process::id()), Some(0));
    other.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(other.wait().unwrap().success());
    let after = common::views::view(&fixture.mounted, "web-1");
    assert_eq!((after.cow_anon_bytes, after.processes.len()), (Some(0), 1), "{after:#?}");
}

const COPIED: usize = 33;

fn wait_for(stream: &mut impl Read, mark: u8) {
    let mut byte = [0];
    while byte[0] != mark {
        stream.read_exact(&mut byte).unwrap();
    }
}

#[test]
#[ignore = "a process of another test"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    assert_eq!(what, "copy");
    let mapping = Mapping::private(&File::open(path).unwrap()).unwrap();
    store(&mapping, &(0..COPIED).map(|page| page * 3).collect());
    println!("!");
    let mut end = [0];
    let _ = std::io::stdin().read(&mut end);
}

#[test]
fn an_ordinary_users_figures_are_exact_too() {
    let _limit = limit(Duration::from_secs(120));
    for test in [
        "what_a_private_mapping_copied_is_counted_to_the_page",
        "what_a_shared_mapping_wrote_is_counted_to_the_page",
        "what_was_written_and_punched_is_counted_to_the_page",
        "two_processes_that_map_one_view_are_told_apart",
    ] {
        again_as_ordinary_user(test);
    }
}

#[test]
fn the_control_directory_tells_the_same_and_ends_with_its_views() {
    let _limit = limit(Duration::from_secs(60));
    let fixture = Fixture::new();
    let file = open_rw(fixture.mounted.path("t?rom=off&view=web-1")).unwrap();
    file.write_all_at(&[1; 3 * PAGE], 0).unwrap();
    let control = fixture.mounted.path(".templatefs");
    let names = |path: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(control.join(path)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(!names("..").contains(".templatefs"), "it is hidden");
    assert_eq!(names("views"), BTreeSet::from(["web-1".to_owned()]));
    let status = std::fs::read_to_string(control.join("views/web-1/status")).unwrap();
    for line in ["id: web-1", "private_bytes: 12288", "kind: private", "template: t", "opens: 1"] {
        assert!(status.lines().any(|found| found == line), "{line} in:\n{status}");
    }
    let pages = std::fs::read_to_string(control.join("views/web-1/pages")).unwrap();
    assert_eq!(pages, format!("0 3 private\n3 {} template\n", PAGES - 3));
    let metrics = std::fs::read_to_string(control.join("metrics")).unwrap();
    assert!(metrics.contains("templatefs_view_private_bytes{kind=\"private\"} 12288"), "{metrics}");
    let templates = std::fs::read_to_string(control.join("templates.json")).unwrap();
    assert!(templates.contains("\"name\":\"t\"") && templates.contains("\"views\":1"), "{templates}");
    drop(file);
    std::fs::remove_file(fixture.mounted.path("t?rom=off&view=web-1")).unwrap();
    assert!(names("views").is_empty());
    assert!(std::fs::read(control.join("views/web-1/status")).is_err());
}
