//! First touches of a template's learned working set, in random order, side by side in one run:
//! a warm view, a cold one, one in memory of its own, and a filled memfd as the floor.
//!
//! `cargo bench --bench warm` (root, Linux 6.9). Prints medians and their spread as a Markdown table.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use common::files::open_rw;
use common::limit::poll;
use common::maps::Mapping;
use common::mounted::{Mounted, Options};
use common::random::{Random, pattern};
use rustix::fs::{MemfdFlags, memfd_create};

const PAGE: usize = 4096;
const SIZE: usize = 512 << 20;
const PAGES: usize = 20_000;
const ROUNDS: usize = 7;

const MEMFD: &str = "filled memfd";
const MEMORY: &str = "backing=memory";
const WARM: &str = "warm view";
const WARM_AT_ONCE: &str = "warm view, while the next is warmed";
const COLD: &str = "cold view";
const SUBJECTS: [&str; 5] = [MEMFD, MEMORY, WARM, WARM_AT_ONCE, COLD];
/// What was closed before is written back and gone.
const SETTLE: Duration = Duration::from_millis(300);

/// Two mounts of equal stores: on one of them views are warm.
struct Ground {
    warm: Mounted,
    cold: Mounted,
    content: Vec<u8>,
}

impl Ground {
    fn new() -> Self {
        let content = pattern(7, SIZE);
        let warm = Mounted::start(Options::with(&["--warm", "1"]));
        let cold = Mounted::start(Options::default());
        for mounted in [&warm, &cold] {
            mounted.template("t", &content);
        }
        Self { warm, cold, content }
    }

    /// A view that is ready to be touched, and how long that took: open, fstat and mmap.
    fn open(&self, subject: &str) -> (File, Mapping, Duration) {
        thread::sleep(SETTLE);
        if subject == MEMFD {
            let file = File::from(memfd_create(c"floor", MemfdFlags::CLOEXEC).unwrap());
            file.write_all_at(&self.content, 0).unwrap();
            let start = Instant::now();
            let map = Mapping::shared(&file).unwrap();
            return (file, map, start.elapsed());
        }
        let path = match subject {
            WARM | WARM_AT_ONCE => self.warm.path("t?rom=off"),
            MEMORY => self.cold.path("t?rom=off&backing=memory"),
            _ => self.cold.path("t?rom=off"),
        };
        if let WARM | WARM_AT_ONCE = subject {
            self.wait_until_ready();
        }
        let start = Instant::now();
        let file = open_rw(path).unwrap();
        let map = Mapping::shared(&file).unwrap();
        let opened = start.elapsed();
        if subject == WARM {
            self.wait_until_ready();
        }
        (file, map, opened)
    }

    fn wait_until_ready(&self) {
        let list = self.warm.path(".templatefs/profiles.json");
        let ready = || fs::read_to_string(&list).unwrap().contains("\"ready\":1").then_some(());
        poll(Duration::from_secs(60), ready).expect("a warm view");
    }
}

/// Microseconds a page.
fn touch(map: &Mapping, pages: &[usize], write: bool) -> f64 {
    let start = Instant::now();
    for page in pages {
        match write {
            true => map.write(page * PAGE, &[1]),
            false => drop(black_box(map.read(page * PAGE, 1))),
        }
    }
    start.elapsed().as_secs_f64() * 1e6 / pages.len() as f64
}

fn median(mut of: Vec<f64>) -> (f64, f64, f64) {
    of.sort_by(f64::total_cmp);
    (of[of.len() / 2], of[0], of[of.len() - 1])
}

fn main() {
    let ground = Ground::new();
    let mut random = Random::new(3);
    let mut all: Vec<usize> = (0..SIZE / PAGE).collect();
    for at in 0..PAGES {
        let other = at + random.below((all.len() - at) as u64) as usize;
        all.swap(at, other);
    }
    let pages = &all[..PAGES];
    let first = open_rw(ground.warm.path("t?rom=off")).unwrap();
    pages.iter().for_each(|page| first.write_all_at(&[1], (page * PAGE) as u64).unwrap());
    drop(first);
    let list = ground.warm.path(".templatefs/profiles.json");
    let learned = || fs::read_to_string(&list).unwrap().contains("\"views_total\":1").then_some(());
    poll(Duration::from_secs(60), learned).expect("a profile");
    let kept = open_rw(ground.warm.path("t?rom=off")).unwrap();
    let start = Instant::now();
    ground.wait_until_ready();
    println!("one view warmed in {:.1} us a page", start.elapsed().as_secs_f64() * 1e6 / PAGES as f64);

    let mut results: Vec<[Vec<f64>; 3]> = vec![Default::default(); SUBJECTS.len()];
    for _ in 0..ROUNDS {
        for (subject, result) in SUBJECTS.iter().zip(&mut results) {
            for (write, times) in [(true, 0), (false, 1)] {
                let (_file, map, opened) = ground.open(subject);
                result[times].push(touch(&map, pages, write));
                result[2].push(opened.as_secs_f64() * 1e6);
            }
        }
    }
    drop(kept);
    println!("| | write, us a page | of the memfd | read, us a page | of the memfd | open and mmap, us |");
    println!("|---|---|---|---|---|---|");
    let floor = [0, 1].map(|what| median(results[0][what].clone()).0);
    for (subject, result) in SUBJECTS.iter().zip(results) {
        let [write, read, open] = result.map(median);
        let cell = |(median, low, high): (f64, f64, f64)| format!("{median:.2} ({low:.2} to {high:.2})");
        println!(
            "| {subject} | {} | {:.1} | {} | {:.1} | {:.0} |",
            cell(write),
            write.0 / floor[0],
            cell(read),
            read.0 / floor[1],
            open.0
        );
    }
}
