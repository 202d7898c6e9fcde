//! What inspection costs, on a real mount: `cargo bench --bench inspect [-- --quick]`.
//!
//! Prints figures beside their targets (docs/INSPECT.md) and judges nothing. The mount is that of whoever
//! runs it: an ordinary user's goes through fusermount3.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use common::maps::Mapping;
use common::mounted::{Mounted, Options};
use common::random::{Random, pattern};
use common::sparse::sparse_template;

const PAGE: usize = 4096;
const GIB: u64 = 1 << 30;
/// Pages that each view has of its own.
const DIRTY: u64 = 16;
const WORK: &str = "TEMPLATEFS_BENCH_WORK";

/// How much is measured.
struct Scale {
    views: usize,
    processes: usize,
    inspections: u32,
    /// Pairs of slices of the fault load, one with inspections and one without.
    pairs: usize,
    slice: Duration,
}

const FULL: Scale =
    Scale { views: 1000, processes: 20, inspections: 20, pairs: 40, slice: Duration::from_secs(2) };
const QUICK: Scale =
    Scale { views: 100, processes: 4, inspections: 5, pairs: 4, slice: Duration::from_secs(2) };
const INTERVAL: Duration = Duration::from_secs(2);

fn main() {
    if let Ok(work) = std::env::var(WORK) {
        return child(&work);
    }
    let scale = if std::env::args().any(|argument| argument == "--quick") { QUICK } else { FULL };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!("kernel {}, {cpus} CPUs, {} views in {} processes", kernel.trim(), scale.views, scale.processes);
    let mounted = Mounted::start(Options::default());
    mounted.template("load", &pattern(1, 256 << 20));
    for (name, size) in [("1 GiB", GIB), ("1 TiB", 1024 * GIB)] {
        sparse_template(&mounted, name, size, &[(0, &[1; PAGE]), (size - PAGE as u64, &[1; PAGE])]);
    }
    let bench = Bench { mounted, scale };
    let idle = bench.inspect();
    println!("one inspection of no view: {} ms of CPU", milliseconds(idle.cpu));
    for (template, spread) in [("1 TiB", 1024 * GIB), ("1 TiB", GIB), ("1 GiB", GIB)] {
        let users = bench.users(template, spread);
        let costs = bench.inspect();
        let views = bench.scale.views as f64;
        println!(
            "one inspection, {views} views of a sparse {template} with {DIRTY} pages of their own in {} GiB: {} ms of CPU \
             (target 1000), {} ms until it is read, {:.0} us of CPU a view",
            spread / GIB,
            milliseconds(costs.cpu),
            milliseconds(costs.wall),
            (costs.cpu - idle.cpu).max(0.0) * 1e6 / views
        );
        if template == "1 GiB" {
            bench.fault_load();
        }
        users.into_iter().for_each(Worker::end);
    }
}

struct Bench {
    mounted: Mounted,
    scale: Scale,
}

/// In seconds, of one inspection.
struct Costs {
    cpu: f64,
    wall: f64,
}

impl Bench {
    fn views_json(&self) -> PathBuf {
        self.mounted.path(".templatefs/views.json")
    }

    /// Mean CPU time of the daemon and what it starts; the median time until an inspection is read.
    fn inspect(&self) -> Costs {
        fs::read(self.views_json()).unwrap();
        let before = cpu_time(self.mounted.serving());
        let mut times = Vec::new();
        for _ in 0..self.scale.inspections {
            let start = Instant::now();
            fs::read(self.views_json()).unwrap();
            times.push(start.elapsed().as_secs_f64());
        }
        let cpu = cpu_time(self.mounted.serving()) - before;
        Costs { cpu: cpu / f64::from(self.scale.inspections), wall: median(times) }
    }

    /// Processes that map the views: half by MAP_PRIVATE, half by MAP_SHARED.
    fn users(&self, template: &str, spread: u64) -> Vec<Worker> {
        let path = self.mounted.path(&format!("{template}?rom=off"));
        let each = self.scale.views / self.scale.processes;
        let work = format!("views {each} {spread}");
        let workers = (0..self.scale.processes).map(|_| Worker::start(&work, &path));
        let workers: Vec<Worker> = workers.collect();
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(self.views_json()).unwrap()).unwrap();
        let views = report["views"].as_array().unwrap();
        let unknown = views.iter().filter(|view| view["cost_bytes"].is_null()).count();
        assert_eq!((views.len(), unknown), (each * self.scale.processes, 0));
        workers
    }

    /// Pages that a process faults in through the daemon in a slice of time, with and without
    /// inspections beside it, in turn.
    fn fault_load(&self) {
        let mut worker = Worker::start("faults", &self.mounted.path("load?rom=off"));
        self.faults(&mut worker, false);
        let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..self.scale.pairs {
            // Which comes first changes, so that a drift of the machine favours neither.
            let first = self.faults(&mut worker, pair % 2 == 0);
            let second = self.faults(&mut worker, pair % 2 == 1);
            let (inspected, alone) = if pair.is_multiple_of(2) { (first, second) } else { (second, first) };
            ratios.push(inspected / alone);
            with.push(inspected);
            without.push(alone);
        }
        worker.end();
        println!(
            "fault load beside an inspection every {} s: {:.0} faults a second, {:.0} without ({} pairs of {} s, medians)",
            INTERVAL.as_secs(),
            median(with),
            median(without),
            self.scale.pairs,
            self.scale.slice.as_secs()
        );
        let slowdown = |quarter| 100.0 * (1.0 - quantile(ratios.clone(), quarter));
        println!(
            "slowed down by {:.1} % (median of the pairs; a quarter of them below {:.1} %, a quarter above {:.1} %; target 5)",
            slowdown(2),
            slowdown(3),
            slowdown(1)
        );
    }

    /// Faults a second.
    fn faults(&self, worker: &mut Worker, inspected: bool) -> f64 {
        let (before, start) = (worker.count(), Instant::now());
        let mut next = start;
        while start.elapsed() < self.scale.slice {
            next += INTERVAL;
            if inspected {
                fs::read(self.views_json()).unwrap();
            }
            std::thread::sleep(next.min(start + self.scale.slice).saturating_duration_since(Instant::now()));
        }
        (worker.count() - before) as f64 / start.elapsed().as_secs_f64()
    }
}

/// This program once more: a process that uses views until it is told to end.
struct Worker {
    process: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(work: &str, path: &Path) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        let mut process = command
            .arg(std::env::current_exe().unwrap())
            .arg(path)
            .env(WORK, work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux)");
        let asked = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut worker = Self { process, asked, answers };
        worker.count();
        worker
    }

    fn count(&mut self) -> u64 {
        self.asked.write_all(b"\n").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim().parse().expect("a worker that lives")
    }

    fn end(mut self) {
        drop(self.asked);
        self.process.wait().unwrap();
    }
}

/// A worker: does its work, and answers each line with how far it came.
fn child(work: &str) {
    let path = PathBuf::from(std::env::args_os().nth(1).unwrap());
    let done = Arc::new(AtomicU64::new(0));
    let words: Vec<&str> = work.split(' ').collect();
    let _views: Vec<_> = match words[..] {
        ["views", count, spread] => {
            let spread = spread.parse().unwrap();
            (0..count.parse().unwrap()).map(|index| view(&path, index, spread)).collect()
        }
        _ => {
            let done = done.clone();
            std::thread::spawn(move || fault(&path, &done));
            Vec::new()
        }
    };
    for _ in std::io::stdin().lines() {
        println!("{}", done.load(Ordering::Relaxed));
    }
}

/// A view that is open and mapped, and has pages of its own all over its first `spread` bytes.
fn view(path: &Path, index: usize, spread: usize) -> (File, Mapping) {
    let shared = index.is_multiple_of(2);
    let file = File::options().read(true).write(shared).open(path).unwrap();
    let map = if shared { Mapping::shared(&file) } else { Mapping::private(&file) }.unwrap();
    map.expect_random().unwrap();
    for page in 0..DIRTY as usize {
        map.write(page * (spread / DIRTY as usize), &[7]);
    }
    if shared {
        map.sync_all().unwrap();
    }
    (file, map)
}

/// Reads the pages of one view after another in an order that read-ahead cannot guess.
fn fault(path: &Path, done: &AtomicU64) {
    let mut random = Random::new(1);
    loop {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let map = Mapping::shared(&file).unwrap();
        map.expect_random().unwrap();
        let mut pages: Vec<usize> = (0..map.len() / PAGE).collect();
        for at in (1..pages.len()).rev() {
            pages.swap(at, random.below(at as u64 + 1) as usize);
        }
        for page in pages {
            map.read(page * PAGE, 1);
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// User and system time in seconds, with that of the children which have ended.
fn cpu_time(process: Pid) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap();
    // After the command's name, which may hold anything: state is field 3, utime to cstime are 14 to 17.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    let ticks: u64 = fields[11..15].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 2)
}

/// The value below which `quarters` quarters of them lie.
fn quantile(mut values: Vec<f64>, quarters: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * quarters / 4]
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.0}", seconds * 1e3)
}
