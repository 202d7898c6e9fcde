//! What one user's flood costs another user's opens, and the daemon in memory.
//!
//! `cargo bench --bench flood` (root, for two ordinary users). Prints Markdown tables and judges nothing. The state is
//! on a tmpfs, as by default. Each round times the other user alone right before each flood and beside it. The first flood
//! asks the mount for nothing: it tells what the flooder's share of the CPUs costs alone.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use common::files::{open_ro, open_rw, wait_for_no_view_files};
use common::limit::limit;
use common::mounted::{Mounted, Options, is_root, run_as, this_program};

const FLOODER: u32 = 4001;
const OTHER: u32 = 4002;
/// Of the flooder, at once.
const PROCESSES: usize = 4;
const ROUNDS: usize = 3;
/// How long the other user is timed at a time.
const SLICE: Duration = Duration::from_millis(500);
/// How long the other user is timed before each flood.
const IDLE: u32 = 3;
/// A flood goes on until it has done what it wants to, for this long at least and at most.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(8);
const WORK: &str = "TEMPLATEFS_BENCH_WORK";

/// What the flooder does, and how often each of its processes wants to. `own`: it opens private views by another name
/// than the other user does, for which the kernel has an entry of its own.
const FLOODS: [(&str, &str, usize); 7] = [
    ("a loop that asks for nothing", "spin", 0),
    ("lookups of junk queries", "junk", 25_000),
    ("stat of 100,000 names", "stat", 25_000),
    ("open and close, ROM and private", "open", 0),
    ("10,000 private views, held", "view", 2_500),
    ("open and close, by names of its own", "open own", 0),
    ("10,000 views held, by names of its own", "view own", 2_500),
];

fn main() {
    if let Ok(work) = std::env::var(WORK) {
        return child(&work);
    }
    if !is_root() {
        return println!("skipped: other users need root");
    }
    let _limit = limit(Duration::from_secs(300));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    println!("kernel {}, {cpus} CPUs, {PROCESSES} flooding processes, {ROUNDS} rounds", kernel.trim());
    let state = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = Options { state: Some(state.path().to_owned()), ..Options::with(&["--allow-other"]) };
    let mounted = Mounted::start(options);
    mounted.template("t", &[b'T'; 1 << 20]);
    let mut other = Other::start(&mounted.path("t"));
    let mut results: Vec<Measured> = FLOODS.iter().map(|_| Measured::default()).collect();
    for _ in 0..ROUNDS {
        for (flood, measured) in FLOODS.iter().zip(&mut results) {
            measure(&mounted, &mut other, flood, measured);
        }
    }
    print(&results);
}

#[derive(Default)]
struct Measured {
    idle: Times,
    beside: Times,
    /// Calls of the flooder by how they ended.
    calls: BTreeMap<String, usize>,
    took: Duration,
    /// Of the serving process in KiB, from the round in which it had most: before, most, after.
    memory: [u64; 3],
}

fn measure(mounted: &Mounted, other: &mut Other, flood: &(&str, &str, usize), to: &mut Measured) {
    let before = resident(mounted, "VmRSS:");
    (0..IDLE).for_each(|_| to.idle.add(other.slice()));
    let serving = mounted.serving().as_raw_nonzero();
    // VmHWM begins anew (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{serving}/clear_refs"), "5").unwrap();
    let (_, what, count) = flood;
    let start = Instant::now();
    let mut flood: Vec<User> = (0..PROCESSES)
        .map(|_| User::start(FLOODER, &format!("{what} {count}"), &mounted.path("t")))
        .collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for user in &mut flood {
                for word in user.line().split_whitespace() {
                    let (how, often) = word.split_once('=').unwrap();
                    *to.calls.entry(how.to_owned()).or_default() += often.parse::<usize>().unwrap();
                }
                // One that is over leaves the others less to compete with.
                over.store(true, Ordering::Relaxed);
            }
        });
        while !over.load(Ordering::Relaxed) {
            let times = other.slice();
            if !over.load(Ordering::Relaxed) {
                to.beside.add(times);
            }
        }
    });
    to.took += start.elapsed();
    let most = resident(mounted, "VmHWM:");
    flood.into_iter().for_each(User::end);
    wait_for_no_view_files(mounted);
    if most > to.memory[1] {
        to.memory = [before, most, resident(mounted, "VmRSS:")];
    }
}

fn print(results: &[Measured]) {
    println!("\nAnother user's open and close, us: median and 95th percentile, and their ratio to idle.\n");
    println!("| beside | view, idle | view | ratio | ROM, idle | ROM | ratio | opens, errors |");
    println!("|---|---|---|---|---|---|---|---|");
    for ((name, ..), of) in FLOODS.iter().zip(results) {
        let cells =
            [(&of.idle.view, &of.beside.view), (&of.idle.rom, &of.beside.rom)].map(|(idle, beside)| {
                let [idle, beside] =
                    [idle, beside].map(|times| [0.5, 0.95].map(|part| quantile(times, part)));
                let ratio = [0, 1].map(|at| beside[at] / idle[at]);
                let pair = |[median, p95]: [f64; 2]| format!("{median:.0}, {p95:.0}");
                format!("{} | {} | {:.1}, {:.1}", pair(idle), pair(beside), ratio[0], ratio[1])
            });
        let opens = of.beside.view.len() + of.beside.rom.len();
        println!("| {name} | {} | {opens}, {} |", cells.join(" | "), of.beside.errors + of.idle.errors);
    }
    println!("\n| flood | its calls, all rounds | a second | daemon's memory before, MiB | most | after |");
    println!("|---|---|---|---|---|---|");
    for ((name, ..), of) in FLOODS.iter().zip(results) {
        let calls: Vec<String> = of.calls.iter().map(|(how, often)| format!("{often} {how}")).collect();
        let rate = of.calls.values().sum::<usize>() as f64 / of.took.as_secs_f64();
        let memory = of.memory.map(|kib| format!("{:.1}", kib as f64 / 1024.0)).join(" | ");
        println!("| {name} | {} | {rate:.0} | {memory} |", calls.join(", "));
    }
}

/// In microseconds.
#[derive(Default)]
struct Times {
    view: Vec<f64>,
    rom: Vec<f64>,
    errors: usize,
}

impl Times {
    fn add(&mut self, more: Self) {
        self.view.extend(more.view);
        self.rom.extend(more.rom);
        self.errors += more.errors;
    }
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

/// What the serving process has in memory, in KiB.
fn resident(mounted: &Mounted, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mounted.serving().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// This program once more, by another user, until its stdin is closed.
struct User {
    process: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl User {
    fn start(user: u32, work: &str, path: &Path) -> Self {
        let mut command = run_as(user, user, &[]);
        command.args(["--pdeathsig", "KILL"]).arg(this_program()).arg(path).env(WORK, work).current_dir("/");
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv (util-linux)");
        let asked = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, asked, answers }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "a user's process ended");
        line
    }

    fn end(mut self) {
        drop(self.asked);
        self.process.wait().unwrap();
    }
}

/// The user who is timed.
struct Other(User);

impl Other {
    fn start(path: &Path) -> Self {
        let mut other = Self(User::start(OTHER, "time", path));
        other.slice();
        other
    }

    fn slice(&mut self) -> Times {
        self.0.asked.write_all(b"\n").unwrap();
        let [view, rom] = [(), ()].map(|()| self.0.line());
        let numbers = |line: &str| line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        Times { view: numbers(&view), rom: numbers(&rom), errors: self.0.line().trim().parse().unwrap() }
    }
}

fn child(work: &str) {
    let path = PathBuf::from(std::env::args_os().nth(1).unwrap());
    match work.rsplit_once(' ') {
        None => io::stdin().lines().for_each(|_| time(&path)),
        Some((what, count)) => flood(what, count.parse().unwrap(), &path),
    }
}

/// Tells how long each open and close of a private view took, of the template, and how many failed.
fn time(path: &Path) {
    let private = private(path);
    let (mut view, mut rom, mut errors) = (Vec::new(), Vec::new(), 0);
    let end = Instant::now() + SLICE;
    while Instant::now() < end {
        let mut timed = |times: &mut Vec<String>, open: &dyn Fn() -> io::Result<fs::File>| {
            let start = Instant::now();
            errors += usize::from(open().map(drop).is_err());
            times.push(format!("{:.1}", start.elapsed().as_secs_f64() * 1e6));
        };
        timed(&mut view, &|| open_rw(&private));
        timed(&mut rom, &|| open_ro(path));
    }
    println!("{}\n{}\n{errors}", view.join(" "), rom.join(" "));
}

fn private(path: &Path) -> PathBuf {
    query(path, "rom=off")
}

fn query(path: &Path, query: &str) -> PathBuf {
    format!("{}?{query}", path.display()).into()
}

/// Floods, tells how its calls ended, and keeps what is open until nobody listens any more.
fn flood(what: &str, count: usize, path: &Path) {
    let own = std::process::id();
    let (what, private) = match what.strip_suffix(" own") {
        Some(what) => (what, query(path, &format!("rom=off&vm=f{own}"))),
        None => (what, private(path)),
    };
    let mut held = Vec::new();
    let mut calls = BTreeMap::<String, usize>::new();
    let start = Instant::now();
    let goes_on = |at| start.elapsed() < if at < count { LONGEST } else { SHORTEST };
    for at in (0..).take_while(|at| goes_on(*at)) {
        let result = match what {
            "spin" => {
                black_box(own);
                Ok(())
            }
            "junk" => fs::metadata(query(path, &format!("junk={own}-{at}"))).map(drop),
            "stat" => fs::metadata(query(path, &format!("rom=off&vm=x{own}-{at}"))).map(drop),
            "open" if at % 2 == 0 => open_ro(path).map(drop),
            "open" => open_rw(&private).map(drop),
            "view" => open_rw(&private).map(|file| held.push(file)),
            other => panic!("{other}"),
        };
        let how = match result {
            Ok(()) => "done".to_owned(),
            Err(error) => format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        };
        *calls.entry(how).or_default() += 1;
    }
    let calls: Vec<String> = calls.iter().map(|(how, often)| format!("{how}={often}")).collect();
    println!("{}", calls.join(" "));
    let _ = io::stdin().read_to_end(&mut Vec::new());
}
