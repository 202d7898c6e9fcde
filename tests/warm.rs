//! `--warm`: views whose learned working set the kernel has before anybody opens them.

mod common;

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use common::files::{SOON, assert_refused, bytes_at, error_line, open_ro, open_rw, reopened, truncate};
use common::handles::is_cached;
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root, run_as};
use common::random::{Random, pattern};
use common::views::views;
use templatefs::inspect::ViewReport;
use templatefs::profile::{ProfileList, ProfileReport};

const PAGE: usize = 4096;
/// The last page is not whole.
const LENGTH: usize = 200 * PAGE + 123;
const PATH: &str = "t?rom=off";

/// Pages that each view of these tests stores to.
const TOUCHED: [usize; 5] = [3, 40, 41, 42, 200];

fn mounted(arguments: &[&'static str]) -> (Mounted, Vec<u8>) {
    let mounted = Mounted::start(Options::with(arguments));
    let content = pattern(1, LENGTH);
    mounted.template("t", &content);
    (mounted, content)
}

/// What was learned of each template.
fn profiles(mounted: &Mounted) -> Vec<ProfileReport> {
    let output = mounted.command().args(["profile", "--json"]).arg(&mounted.mountpoint).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<ProfileList>(&output.stdout).unwrap().profiles
}

fn wait_for(mounted: &Mounted, what: &str, is_so: impl Fn(&[ProfileReport]) -> bool) {
    let found = poll(SOON, || is_so(&profiles(mounted)).then_some(()));
    assert!(found.is_some(), "{what}: {:#?}", profiles(mounted));
}

fn wait_for_ready(mounted: &Mounted, wanted: u64) {
    wait_for(mounted, "ready", |all| all.iter().map(|p| p.ready).sum::<u64>() == wanted);
}

/// One view that stores to [`TOUCHED`], and what was learned of it.
fn teach(mounted: &Mounted, name: &str) {
    let taught = |all: &[ProfileReport]| -> u64 {
        all.iter().filter(|p| name.starts_with(&p.template)).map(|p| p.views_total).sum()
    };
    let before = taught(&profiles(mounted));
    let view = open_rw(mounted.path(name)).unwrap();
    for page in TOUCHED {
        view.write_all_at(b"touched", (page * PAGE) as u64).unwrap();
    }
    drop(view);
    wait_for(mounted, "taught", |all| taught(all) > before);
}

fn report(mounted: &Mounted, file: &File) -> ViewReport {
    let id = format!("@{}", file.metadata().unwrap().ino());
    let views = views(mounted);
    views.iter().find(|view| view.id == id).unwrap_or_else(|| panic!("no {id} in {views:#?}")).clone()
}

/// The caches are the whole machine's: no other test's may be dropped.
static CACHES: RwLock<()> = RwLock::new(());

fn undisturbed() -> RwLockReadGuard<'static, ()> {
    CACHES.read().unwrap_or_else(|poison| poison.into_inner())
}

fn disturbing() -> RwLockWriteGuard<'static, ()> {
    CACHES.write().unwrap_or_else(|poison| poison.into_inner())
}

fn drop_caches(what: &str) {
    fs::write("/proc/sys/vm/drop_caches", what).unwrap();
}

#[test]
fn a_view_of_a_template_used_before_has_its_pages_when_it_is_opened() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mounted, content) = mounted(&["--warm", "1"]);
    let cold = open_rw(mounted.path(PATH)).unwrap();
    teach(&mounted, PATH);
    wait_for_ready(&mounted, 1);
    let warm = open_rw(mounted.path(PATH)).unwrap();
    let (shown, other) = (report(&mounted, &warm), report(&mounted, &cold));
    assert_eq!((shown.prefetched_pages_total, other.prefetched_pages_total), (5, 0));
    assert_eq!(shown.cached_bytes, Some(5 * PAGE as u64), "OPEN keeps them");
    assert_eq!(shown.reads_total, 0);
    let map = Mapping::shared(&warm).unwrap();
    for page in TOUCHED {
        let length = PAGE.min(LENGTH - page * PAGE);
        map.write(page * PAGE, b"stored");
        assert!(map.read(page * PAGE + 6, length - 6) == content[page * PAGE + 6..page * PAGE + length]);
    }
    assert_eq!(report(&mounted, &warm).reads_total, 0, "nobody was asked");
    assert!(map.read(0, 3 * PAGE) == content[..3 * PAGE]);
    assert_ne!(report(&mounted, &warm).reads_total, 0, "the others are");
    map.sync_all().unwrap();
    assert!(bytes_at(&cold, 0, LENGTH).unwrap() == content);
    assert!(fs::read(mounted.store.join("t")).unwrap() == content);
    let mut wanted = content.clone();
    for page in TOUCHED {
        wanted[page * PAGE..page * PAGE + 6].copy_from_slice(b"stored");
    }
    assert!(bytes_at(&reopened(&warm, false).unwrap(), 0, LENGTH).unwrap() == wanted);
}

#[test]
fn an_ordinary_users_views_are_warm_too() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    again_as_ordinary_user("a_view_of_a_template_used_before_has_its_pages_when_it_is_opened");
}

/// The kernel knew the node as the daemon's own before.
#[test]
fn another_users_warm_view_is_that_users_alone() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    if !is_root() {
        println!("skipped: only root's mount has other users");
        return;
    }
    let (mounted, _) = mounted(&["--warm", "1", "--allow-other"]);
    teach(&mounted, PATH);
    wait_for_ready(&mounted, 1);
    let script = "exec 3<>\"$1?rom=off&vm=theirs\" && stat -L -c '%u %g %a' /proc/self/fd/3 && \
                  cat \"${1%/*}/.templatefs/views.json\"";
    let mut shell = run_as(65534, 65534, &[]);
    let output = shell.args(["sh", "-c", script, "sh"]).arg(mounted.path("t")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (stat, shown) = text.split_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    assert_eq!(stat, "65534 65534 600");
    let shown: templatefs::inspect::Report = serde_json::from_str(shown).unwrap();
    let view = &shown.views[0];
    assert_eq!((shown.views.len(), view.uid, view.prefetched_pages_total), (1, 65534, 5));
    assert_eq!(view.vm.as_ref().unwrap().as_str(), "theirs");
}

/// The kernel looks a path up twice where it knows it already, and throws the first answer away.
#[test]
fn each_open_of_a_known_path_takes_one_warm_view_and_no_more() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mounted, _) = mounted(&["--warm", "4"]);
    teach(&mounted, PATH);
    let mut open = vec![open_rw(mounted.path(PATH)).unwrap()];
    for round in 0..6 {
        wait_for_ready(&mounted, 4);
        // One after the other, in this thread: only its own lookups count.
        let view = open_rw(mounted.path(PATH)).unwrap();
        assert_eq!(report(&mounted, &view).prefetched_pages_total, 5, "round {round}");
        open.push(view);
    }
    let nodes: HashSet<u64> = open.iter().map(|file| file.metadata().unwrap().ino()).collect();
    assert_eq!(nodes.len(), open.len());
}

/// Root may look anywhere; nobody gets hold of a node that is being warmed or waits.
#[test]
fn a_node_that_waits_cannot_be_reached() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mounted, _) = mounted(&["--warm", "1"]);
    teach(&mounted, PATH);
    let first = open_rw(mounted.path(PATH)).unwrap();
    wait_for_ready(&mounted, 1);
    let directory = mounted.path(".templatefs/warm");
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o500);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    let from = first.metadata().unwrap().ino();
    for node in from..from + 20 {
        assert_refused(open_ro(directory.join(node.to_string())), Errno::NOENT, node);
    }
    // The kernel dropped the entry when it was refused, and with it the node.
    wait_for_ready(&mounted, 0);
    let view = open_rw(mounted.path(PATH)).unwrap();
    assert_eq!(report(&mounted, &view).prefetched_pages_total, 0);
    wait_for_ready(&mounted, 1);
}

#[test]
fn no_view_shows_what_the_template_was_before() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mounted, _) = mounted(&["--warm", "2"]);
    for round in 2..5 {
        teach(&mounted, PATH);
        drop(open_rw(mounted.path(PATH)).unwrap());
        wait_for_ready(&mounted, 2);
        let new = pattern(round, LENGTH);
        if round % 2 == 0 {
            mounted.template("t", &new);
        } else {
            // In place, while no view of it is open.
            let template = mounted.store.join("t");
            let file = poll(SOON, || open_rw(&template).ok()).unwrap();
            file.write_all_at(&new, 0).unwrap();
        }
        let view = open_rw(mounted.path(PATH)).unwrap();
        assert!(bytes_at(&view, 0, LENGTH).unwrap() == new, "round {round}");
        assert_eq!(report(&mounted, &view).prefetched_pages_total, 0);
    }
}

#[test]
fn a_template_cut_in_place_has_no_warm_views_of_its_old_length() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mounted, content) = mounted(&["--warm", "1"]);
    teach(&mounted, PATH);
    drop(open_rw(mounted.path(PATH)).unwrap());
    wait_for_ready(&mounted, 1);
    truncate(mounted.store.join("t"), 5 * PAGE as i64 + 1).unwrap();
    let view = poll(SOON, || open_rw(mounted.path(PATH)).ok()).unwrap();
    assert_eq!(view.metadata().unwrap().len(), 5 * PAGE as u64 + 1);
    assert!(bytes_at(&view, 0, 5 * PAGE + 1).unwrap() == content[..5 * PAGE + 1]);
}

/// stat(2) takes a warm view and leaves it; what it took does not stay in the kernel for ever.
#[test]
fn one_that_was_only_looked_at_is_nobodys_view() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mounted, content) = mounted(&["--warm", "1"]);
    teach(&mounted, PATH);
    let first = open_rw(mounted.path(PATH)).unwrap();
    wait_for_ready(&mounted, 1);
    let held: Vec<_> =
        [0, 1].map(|_| openat(CWD, mounted.path(PATH), OFlags::PATH, Mode::empty()).unwrap()).into();
    let opened: Vec<File> = held.into_iter().map(|fd| reopened(&File::from(fd), true).unwrap()).collect();
    opened[0].write_all_at(b"one", 0).unwrap();
    assert!(bytes_at(&opened[1], 0, LENGTH).unwrap() == content, "two views share a node");
    assert!(bytes_at(&first, 0, LENGTH).unwrap() == content);
    fs::metadata(mounted.path(PATH)).unwrap();
    truncate(mounted.path(PATH), PAGE as i64).unwrap();
    let view = open_rw(mounted.path(PATH)).unwrap();
    assert!(bytes_at(&view, 0, LENGTH).unwrap() == content);
}

/// One that waits is promised nothing, and one that is opened is promised room like any other.
#[test]
fn warm_views_count_against_the_budget_when_they_are_opened() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    // Room for two.
    let (mounted, _) = mounted(&["--warm", "4", "--budget", "2MiB"]);
    teach(&mounted, PATH);
    let _first = open_rw(mounted.path(PATH)).unwrap();
    wait_for_ready(&mounted, 4);
    let second = open_rw(mounted.path(PATH)).unwrap();
    assert_eq!(report(&mounted, &second).prefetched_pages_total, 5);
    wait_for_ready(&mounted, 4);
    assert_refused(open_rw(mounted.path(PATH)), Errno::NOSPC, "a third view");
    drop(second);
    let again = poll(SOON, || open_rw(mounted.path(PATH)).ok()).expect("room again");
    drop(again);
}

/// Kills the process that serves and has `meanwhile` done before another one does.
fn kill(mounted: &Mounted, meanwhile: impl FnOnce()) {
    let old = mounted.serving();
    kill_process(mounted.daemon(), Signal::STOP).unwrap();
    kill_process(old, Signal::KILL).unwrap();
    meanwhile();
    kill_process(mounted.daemon(), Signal::CONT).unwrap();
    let other = poll(SOON, || (mounted.serving() != old).then_some(()));
    assert!(other.is_some(), "nobody takes over:\n{}", mounted.log());
}

/// Nodes that were made warm, of which the log tells.
fn warmed(mounted: &Mounted) -> HashSet<u64> {
    let node = |line: &str| line.split_once(" is warm with ")?.0.rsplit_once(' ')?.1.parse().ok();
    mounted.log().lines().filter_map(node).collect()
}

/// Opens some views at once, each of which must be `content` until it is written, and returns their nodes.
fn views_of_their_own(mounted: &Mounted, name: &str, content: &[u8]) -> Vec<(File, u64)> {
    let open = || open_rw(mounted.path(name)).unwrap();
    let views: Vec<_> = (0..8).map(|_| open()).map(|file| (file.metadata().unwrap().ino(), file)).collect();
    let mark = |node: u64, page: usize| (node << 16 | page as u64).to_le_bytes();
    for (node, file) in &views {
        assert!(bytes_at(file, 0, content.len()).unwrap() == content, "node {node}");
        let map = Mapping::shared(file).unwrap();
        TOUCHED.iter().for_each(|page| map.write(page * PAGE, &mark(*node, *page)));
    }
    for (node, file) in &views {
        let mut wanted = content.to_vec();
        TOUCHED.iter().for_each(|page| wanted[page * PAGE..][..8].copy_from_slice(&mark(*node, *page)));
        assert!(bytes_at(file, 0, content.len()).unwrap() == wanted, "node {node}");
    }
    views.into_iter().map(|(node, file)| (file, node)).collect()
}

/// Who takes over does not know which nodes the dead process had warmed, nor with which pages.
#[test]
fn warm_views_of_a_process_that_was_killed_are_nobodys() {
    let _limit = limit(Duration::from_secs(240));
    let _caches = undisturbed();
    let (mounted, content) = mounted(&["--warm", "4"]);
    mounted.template("u", &content);
    teach(&mounted, PATH);
    teach(&mounted, "u?rom=off");
    let mut held = vec![open_rw(mounted.path(PATH)).unwrap(), open_rw(mounted.path("u?rom=off")).unwrap()];
    let replaced = pattern(2, LENGTH);
    let mut mine = content.clone();
    mine[3 * PAGE..3 * PAGE + 4].copy_from_slice(b"mine");
    // One that was taken over finds what it knows of the first seconds on record, too.
    for round in 0..3 {
        wait_for_ready(&mounted, 4);
        let warm = open_rw(mounted.path(PATH)).unwrap();
        assert_ne!(report(&mounted, &warm).prefetched_pages_total, 0, "round {round}");
        warm.write_all_at(b"mine", 3 * PAGE as u64).unwrap();
        wait_for_ready(&mounted, 4);
        let waiting = warmed(&mounted);
        let known: HashSet<u64> =
            held.iter().chain([&warm]).map(|file| file.metadata().unwrap().ino()).collect();
        if is_root() {
            let cached = waiting.iter().filter(|node| is_cached(&mounted.mountpoint, **node)).count();
            assert!(cached >= 4, "{cached} of {waiting:?}");
        }
        kill(&mounted, || {
            if round == 0 {
                mounted.template("u", &replaced);
            }
        });
        let views = views_of_their_own(&mounted, PATH, &content);
        let others = views_of_their_own(&mounted, "u?rom=off", &replaced);
        let nodes: HashSet<u64> = views.iter().chain(&others).map(|(_, node)| *node).collect();
        assert_eq!(nodes.len(), 16, "two views share a node");
        assert!(nodes.is_disjoint(&waiting) && nodes.is_disjoint(&known));
        assert!(bytes_at(&warm, 0, LENGTH).unwrap() == mine, "it goes on");
        if is_root() {
            let is_left = |node: &&u64| !known.contains(*node) && is_cached(&mounted.mountpoint, **node);
            let left = || waiting.iter().find(is_left);
            assert_eq!(poll(SOON, || left().is_none().then_some(())), Some(()), "{:?} stays", left());
        }
        held.push(warm);
        drop((views, others));
        teach(&mounted, PATH);
        teach(&mounted, "u?rom=off");
    }
    drop(held);
}

/// A process that looks nodes up for one that died asks nobody any more.
#[test]
fn nothing_that_warms_outlives_a_process_that_was_killed() {
    let _limit = limit(Duration::from_secs(240));
    let _caches = undisturbed();
    let (mut mounted, content) = mounted(&["--warm", "8"]);
    teach(&mounted, PATH);
    for _ in 0..8 {
        // While it warms.
        drop(open_rw(mounted.path(PATH)).unwrap());
        kill(&mounted, || {});
        let view = open_rw(mounted.path(PATH)).unwrap();
        assert!(bytes_at(&view, 0, LENGTH).unwrap() == content);
    }
    assert_eq!(mounted.stop().code(), Some(0), "{}", mounted.log());
}

/// What memory pressure takes is gone, and nothing else.
#[test]
fn warm_views_that_the_kernel_dropped_are_not_handed_out() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = disturbing();
    if !is_root() {
        println!("skipped: caches are dropped by root");
        return;
    }
    let (mounted, content) = mounted(&["--warm", "2"]);
    teach(&mounted, PATH);
    let _first = open_rw(mounted.path(PATH)).unwrap();
    wait_for_ready(&mounted, 2);
    let gone = poll(SOON, || {
        drop_caches("2");
        profiles(&mounted).iter().all(|profile| profile.ready == 0).then_some(())
    });
    assert!(gone.is_some());
    let view = open_rw(mounted.path(PATH)).unwrap();
    assert_eq!(report(&mounted, &view).prefetched_pages_total, 0);
    assert!(bytes_at(&view, 0, LENGTH).unwrap() == content);
}

/// Threads open views of two templates at once, with fewer warm ones than there are threads, while
/// the kernel is made to drop what it can: none sees another's stores, each sees its template.
#[test]
fn many_at_once_never_share_a_view() {
    let _limit = limit(Duration::from_secs(300));
    let _caches = disturbing();
    let seed = std::env::var("TEMPLATEFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| std::process::id().into());
    println!("seed {seed} (TEMPLATEFS_TEST_SEED)");
    let (mounted, content) = mounted(&["--warm", "3", "--threads", "4"]);
    let mounted = Arc::new(mounted);
    let other = pattern(2, 64 * PAGE + 1);
    mounted.template("u", &other);
    teach(&mounted, PATH);
    teach(&mounted, "u?rom=off");
    let templates = Arc::new([("t", content), ("u", other)]);
    let (warm, ended) = (Arc::new(Mutex::new(0)), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (0..8)
        .map(|thread| {
            let (mounted, templates, warm) = (mounted.clone(), templates.clone(), warm.clone());
            thread::spawn(move || {
                let mut random = Random::new(seed ^ (thread + 1));
                let mut held = Vec::new();
                for round in 0..60 {
                    let mark = (thread * 1000 + round + 1).to_le_bytes();
                    held.push(one_view(&mounted, &templates[random.below(2) as usize], mark, &mut random));
                    if held.len() > 4 {
                        let at = random.below(held.len() as u64) as usize;
                        *warm.lock().unwrap() += u64::from(held.swap_remove(at).check());
                    }
                }
                held.into_iter().for_each(|view| *warm.lock().unwrap() += u64::from(view.check()));
            })
        })
        .collect();
    let dropping = is_root().then(|| {
        let ended = ended.clone();
        thread::spawn(move || {
            let mut random = Random::new(seed);
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(random.below(150)));
                drop_caches(random.pick(&["2", "3"]));
            }
        })
    });
    let results: Vec<_> = workers.into_iter().map(thread::JoinHandle::join).collect();
    ended.store(true, Ordering::Relaxed);
    dropping.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(results.iter().all(Result::is_ok), "seed {seed}");
    println!("{} of 480 views were warm", warm.lock().unwrap());
}

/// An open view, and all that it must hold.
struct Held {
    file: File,
    map: Option<Mapping>,
    wanted: Vec<u8>,
    warm: bool,
}

fn one_view(mounted: &Mounted, template: &(&str, Vec<u8>), mark: [u8; 8], random: &mut Random) -> Held {
    let path = mounted.path(&format!("{}?rom=off", template.0));
    match random.below(8) {
        0 => drop(fs::metadata(&path).unwrap()),
        1 => drop(open_ro(&path).unwrap()),
        _ => {}
    }
    let file = open_rw(&path).unwrap();
    let mut wanted = template.1.clone();
    // Nothing of it was read yet: what is there was there before.
    let warm = Mapping::shared(&file).unwrap().in_memory(3 * PAGE);
    let map = random.one_in(2).then(|| Mapping::shared(&file).unwrap());
    for write in 0..7 {
        let at = match random.below(2) {
            _ if write == 0 => 3 * PAGE,
            0 => (random.pick(&TOUCHED) * PAGE) % (wanted.len() - 8),
            _ => random.below(wanted.len() as u64 - 8) as usize,
        };
        match &map {
            Some(map) => map.write(at, &mark),
            None => file.write_all_at(&mark, at as u64).unwrap(),
        }
        wanted[at..at + 8].copy_from_slice(&mark);
    }
    Held { file, map, wanted, warm }
}

impl Held {
    fn check(self) -> bool {
        let read = bytes_at(&self.file, 0, self.wanted.len()).unwrap();
        let differs = read.iter().zip(&self.wanted).position(|(a, b)| a != b);
        assert_eq!(differs, None, "at page {:?}", differs.map(|at| at / PAGE));
        if let Some(map) = &self.map {
            assert!(map.read(0, self.wanted.len()) == self.wanted);
        }
        self.warm
    }
}

#[test]
fn what_was_learned_lasts_and_can_be_shown_exported_imported_and_cleared() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mut mounted, content) = mounted(&["--warm", "1"]);
    teach(&mounted, PATH);
    assert_eq!(mounted.stop().code(), Some(0));
    mounted.mount();
    let profile = profiles(&mounted).remove(0);
    assert_eq!((profile.pages, profile.views_total, profile.template.as_str()), (5, 1, "t"));
    let file = mounted.path("../exported");
    let run = |mounted: &Mounted, words: &[&str]| {
        mounted.command().arg("profile").arg(&mounted.mountpoint).args(words).output().unwrap()
    };
    let shown = run(&mounted, &["t"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("    5    20K"), "{shown:?}");
    let file = file.to_str().unwrap();
    assert!(run(&mounted, &["t", "--export", file]).status.success());
    assert!(run(&mounted, &["t", "--clear"]).status.success());
    assert!(profiles(&mounted).is_empty());
    assert!(error_line(&run(&mounted, &["t"])).contains("nothing was learned"));
    // The same content under another name, and something else.
    mounted.template("a/b", &content);
    mounted.template("short", &content[1..]);
    let line = error_line(&run(&mounted, &["short", "--import", file]));
    assert!(line.contains("a template that is the same"), "{line}");
    assert!(error_line(&run(&mounted, &["none", "--import", file])).contains("none"));
    let imported = run(&mounted, &["a/b", "--import", file]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(profiles(&mounted)[0].template, "a/b");
    drop(open_rw(mounted.path("a/b?rom=off")).unwrap());
    wait_for_ready(&mounted, 1);
    let view = open_rw(mounted.path("a/b?rom=off")).unwrap();
    assert_eq!(report(&mounted, &view).prefetched_pages_total, 5);
    fs::write(file, b"TFSPROF\0 and nothing").unwrap();
    assert!(error_line(&run(&mounted, &["a/b", "--import", file])).contains(file));
}

/// What is only read is seen where it is mapped.
#[test]
fn pages_that_were_only_read_are_learned_too() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mounted, _) = mounted(&["--warm", "1"]);
    let view = open_rw(mounted.path(PATH)).unwrap();
    let map = Mapping::shared(&view).unwrap();
    map.read(150 * PAGE, 1);
    mounted.wait_for_log(&format!("node {}: ", view.metadata().unwrap().ino()));
    drop((map, view));
    wait_for(&mounted, "taught", |all| all.iter().any(|profile| profile.views_total == 1));
    wait_for_ready(&mounted, 1);
    let warm = open_rw(mounted.path(PATH)).unwrap();
    assert!(Mapping::shared(&warm).unwrap().in_memory(150 * PAGE));
    assert!(!Mapping::shared(&warm).unwrap().in_memory(3 * PAGE));
}

/// A profile that was damaged is learned anew, and said so.
#[test]
fn a_damaged_profile_is_ignored_with_a_word_in_the_log() {
    let _limit = limit(Duration::from_secs(120));
    let _caches = undisturbed();
    let (mut mounted, _) = mounted(&[]);
    teach(&mounted, PATH);
    mounted.stop();
    let path = mounted.state.join("profiles").read_dir().unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    bytes[30] ^= 1;
    fs::write(&path, bytes).unwrap();
    mounted.mount();
    assert!(profiles(&mounted).is_empty());
    mounted.wait_for_log("it is torn or damaged");
    teach(&mounted, PATH);
}
