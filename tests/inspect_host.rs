//! What views cost agrees with what the host has less.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::files::{open_ro, open_rw, wait_for_no_view_files};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options};
use common::random::pattern;
use common::views::views;
use rustix::fs::{Advice, fadvise, statfs};
use templatefs::inspect::ViewReport;

const TIME: Duration = Duration::from_secs(300);
const VIEWS: usize = 16;
const PAGE: usize = 4096;
/// Of each view.
const DIRTIED: usize = 24 << 20;
const TOLERANCE: f64 = 0.05;
/// Other processes take and give memory at the same time: the first round that they leave alone decides.
const ROUNDS: usize = 40;
/// So many rounds between two looks at a host that did not change by itself are evidence; fewer are none.
const QUIET_ROUNDS: usize = 5;

/// Of MemFree or MemAvailable, in bytes, and the free pages that the kernel keeps in a list for each CPU. Those are
/// in neither, and since Linux 6.7 they may be gigabytes: what a process frees lands there first.
fn host(figure: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':')).unwrap();
    let kib: i64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    let zones = fs::read_to_string("/proc/zoneinfo").unwrap();
    let counts = zones.lines().filter_map(|line| line.trim().strip_prefix("count:"));
    let pages: i64 = counts.map(|count| count.trim().parse::<i64>().unwrap()).sum();
    kib * 1024 + pages * PAGE as i64
}

fn available() -> i64 {
    host("MemAvailable")
}

/// A view that is used in one of two ways, and mapped.
struct InUse {
    file: File,
    mapping: Mapping,
    shared: bool,
}

impl InUse {
    fn new(mounted: &Mounted, number: usize) -> Self {
        let shared = number % 2 == 1;
        let path = mounted.path("t?rom=off");
        let file = if shared { open_rw(path) } else { open_ro(path) }.unwrap();
        let mapping = if shared { Mapping::shared(&file) } else { Mapping::private(&file) }.unwrap();
        Self { file, mapping, shared }
    }

    fn dirty(&self) {
        for page in 0..DIRTIED / PAGE {
            self.mapping.write(page * PAGE, b"changed");
        }
    }

    fn write_back(&self) {
        if self.shared {
            self.mapping.sync_all().unwrap();
        }
    }

    /// MemAvailable takes the page cache for free memory.
    fn let_go_of_the_cache(&self) {
        if self.shared {
            self.mapping.forget().unwrap();
            fadvise(&self.file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}

fn sum(all: &[ViewReport], figure: impl Fn(&ViewReport) -> u64) -> u64 {
    all.iter().map(figure).sum()
}

/// What views cost, and by how much the host's figure changed.
type Compared = (&'static str, u64, i64);

fn round(mounted: &Mounted) -> [Compared; 3] {
    let in_use: Vec<InUse> = (0..VIEWS).map(|number| InUse::new(mounted, number)).collect();
    let before = (available(), host("MemFree"));
    in_use.iter().for_each(InUse::dirty);
    in_use.iter().for_each(InUse::write_back);
    let less_free = before.1 - host("MemFree");
    let cached = cost(&views(mounted));
    in_use.iter().for_each(InUse::let_go_of_the_cache);
    let less_available = before.0 - available();

    let all = views(mounted);
    let dirtied = (VIEWS * DIRTIED) as u64;
    assert_eq!(sum(&all, |view| view.private_bytes), dirtied / 2);
    assert_eq!(sum(&all, |view| view.cow_anon_bytes.unwrap()), dirtied / 2);
    let own = cost(&all);
    let full = available();
    drop(in_use);
    let gone = poll(TIME, || views(mounted).is_empty().then_some(()));
    assert!(gone.is_some(), "{:#?}", views(mounted));
    wait_for_no_view_files(mounted);
    [
        ("MemFree, with page cache", cached, less_free),
        ("MemAvailable, without", own, less_available),
        ("MemAvailable, once all are gone", own, available() - full),
    ]
}

/// Does the host keep its figures for so long, if nothing is done here?
fn is_quiet(time: Duration) -> bool {
    let before = (available(), host("MemFree"));
    thread::sleep(time);
    let drift = (available() - before.0).abs().max((host("MemFree") - before.1).abs());
    (drift as f64) < TOLERANCE / 2.0 * (VIEWS * DIRTIED) as f64
}

fn cost(all: &[ViewReport]) -> u64 {
    assert_eq!(all.len(), VIEWS);
    sum(all, |view| view.cost_bytes.unwrap())
}

#[test]
fn sixteen_views_cost_what_the_host_has_less() {
    let _limit = limit(TIME);
    // Private pages are memory where the state directory is.
    let place = Path::new("/dev/shm");
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    if !statfs(place).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(TMPFS_MAGIC)) {
        println!("skipped: /dev/shm is no tmpfs");
        return;
    }
    if available() < 3 * (VIEWS * DIRTIED) as i64 {
        println!("skipped: too little memory");
        return;
    }
    let state = tempfile::Builder::new().prefix("templatefs-test-").tempdir_in(place).unwrap();
    let mounted = Mounted::start(Options { state: Some(state.path().to_owned()), ..Options::default() });
    mounted.template("t", &pattern(7, DIRTIED));
    let mut quiet = 0;
    let agree = (1..=ROUNDS).any(|_| {
        let begin = Instant::now();
        let compared = round(&mounted).map(|(figure, cost, change)| {
            let off = (change as f64 - cost as f64) / cost as f64;
            println!("{figure}: cost {cost}, change {change}, off by {:+.1} %", off * 100.0);
            off.abs() <= TOLERANCE
        });
        quiet += usize::from(is_quiet(begin.elapsed()));
        compared.iter().all(|agrees| *agrees)
    });
    if !agree && quiet < QUIET_ROUNDS {
        println!("skipped: what others do on this host changes its memory as much as {VIEWS} views do");
        return;
    }
    assert!(agree, "none of {ROUNDS} rounds agreed, and {quiet} times nobody else disturbed");
}
