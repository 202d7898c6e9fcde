//! Random operations through a real mount, on two views of one template at once, each compared
//! with a vector of bytes; meanwhile a third thread compares the template and its ROM view with
//! what they were. Between rounds the daemon ends, cleanly or by SIGKILL, and another takes over.
//!
//! The seed is printed. Ten minutes of it, in a release build:
//!
//!     TEMPLATEFS_TEST_SECONDS=600 cargo test --release --test model -- --nocapture as_root
//!
//! TEMPLATEFS_TEST_SEED=N does the same operations again, though not at the same moments.

mod common;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::limit::limit;
use common::maps::Mapping;
use common::model::Subject;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};
use common::ops::Op;
use common::random::{Random, pattern};
use common::sparse::template_with_holes;

const PAGE: usize = 4096;
/// In each: bytes, and how many pages of every twelve are holes.
const TEMPLATES: [(usize, usize); 8] = [
    (0, 0),
    (1, 0),
    (PAGE - 1, 0),
    (PAGE + 1, 0),
    (17 * PAGE + 5, 5),
    (64 * PAGE, 12),
    ((1 << 20) + 77, 4),
    ((3 << 20) + PAGE + 4095, 7),
];
/// How much longer than its template a view may become.
const GROWTH: usize = 70 * PAGE;
const OPERATIONS_A_ROUND: u64 = 250;

#[test]
fn two_views_at_once_agree_with_vectors_as_root() {
    drop(run(&[], seconds(7)));
}

#[test]
fn two_views_at_once_agree_with_vectors_where_one_thread_serves_all() {
    drop(run(&["--threads", "1"], seconds(3)));
}

/// Those without a name; the others are overlays as ever.
#[test]
fn two_views_at_once_agree_with_vectors_where_they_are_in_memory() {
    if is_root() {
        drop(run(&["--backing", "auto", "--pool", "1"], seconds(5)));
    } else {
        println!("skipped: views in memory need root");
    }
}

/// Those without a name, once the mount has learned what the earlier ones touched.
#[test]
fn two_views_at_once_agree_with_vectors_where_they_are_warm() {
    let log = run(&["--warm", "4"], seconds(5));
    println!("{} views were warmed", log.matches(" is warm with ").count());
}

#[test]
fn two_views_at_once_agree_with_vectors_on_an_ordinary_users_mount() {
    let _limit = limit(Duration::from_secs(300) + seconds(7));
    again_as_ordinary_user("two_views_at_once_agree_with_vectors_as_root");
}

fn seconds(default: u64) -> Duration {
    Duration::from_secs(from_environment("TEMPLATEFS_TEST_SECONDS").unwrap_or(default))
}

fn from_environment(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Returns what the daemons logged.
fn run(arguments: &[&'static str], time: Duration) -> String {
    let _limit = limit(time + Duration::from_secs(200));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = from_environment("TEMPLATEFS_TEST_SEED").unwrap_or_else(|| now().into());
    let who = if is_root() { "root" } else { "an ordinary user" };
    println!("TEMPLATEFS_TEST_SEED={seed} ({who}, mount arguments {arguments:?})");
    let mut stage = Stage::new(arguments, seed);
    let end = Instant::now() + time;
    while Instant::now() < end {
        stage.round();
        stage.change_daemon();
    }
    println!("{} operations in {} rounds agreed (seed {seed}, {who})", stage.operations, stage.rounds);
    stage.mounted.log()
}

struct Stage {
    mounted: Mounted,
    templates: Vec<Vec<u8>>,
    /// What the named views hold that were made in earlier rounds, by template and number.
    kept: HashMap<(usize, usize), Vec<u8>>,
    seed: u64,
    random: Random,
    rounds: u64,
    operations: u64,
}

/// What one thread does in a round.
struct Part {
    subject: Subject,
    random: Random,
    named: bool,
    limit: u64,
}

impl Stage {
    fn new(arguments: &[&'static str], seed: u64) -> Stage {
        let mounted = Mounted::start(Options::with(arguments));
        let templates = TEMPLATES.iter().enumerate().map(|(index, (size, holes))| {
            let mut content = pattern(index as u64, *size);
            for block in content.chunks_mut(12 * PAGE) {
                let length = (*holes * PAGE).min(block.len());
                block[..length].fill(0);
            }
            template_with_holes(&mounted, &name(index), &content);
            content
        });
        let templates = templates.collect();
        Stage {
            mounted,
            templates,
            kept: HashMap::new(),
            seed,
            random: Random::new(seed),
            rounds: 0,
            operations: 0,
        }
    }

    /// Two views of one template, from their opening to their closing.
    fn round(&mut self) {
        self.rounds += 1;
        let template = self.random.below(TEMPLATES.len() as u64) as usize;
        let parts: Vec<Part> = (0..2).map(|number| self.part(template, number)).collect();
        let over = AtomicBool::new(false);
        let (stage, over) = (&*self, &over);
        let finished: Vec<Part> = thread::scope(|scope| {
            let checker = scope.spawn(move || stage.check_template(template, over));
            let workers: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || work(part))).collect();
            let finished: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            over.store(true, Ordering::Relaxed);
            let checked = checker.join();
            let intact = checked.is_ok() && finished.iter().all(Result::is_ok);
            assert!(
                intact,
                "round {} with template {template}; TEMPLATEFS_TEST_SEED={}",
                stage.rounds, stage.seed
            );
            finished.into_iter().filter_map(Result::ok).collect()
        });
        for (number, part) in finished.into_iter().enumerate() {
            self.operations += part.subject.done;
            if part.named {
                self.kept.insert((template, number), part.subject.model);
            }
        }
    }

    fn part(&mut self, template: usize, number: usize) -> Part {
        let named = !self.random.one_in(4);
        let random = Random::new(self.random.next());
        let content = &self.templates[template];
        let scratch = format!("{}?rom=off", name(template));
        let path = if named { format!("{scratch}&view=v{template}-{number}") } else { scratch.clone() };
        let kept = self.kept.get(&(template, number)).filter(|_| named);
        let model = kept.unwrap_or(content).clone();
        let source = (self.mounted.path(&name(template)), content.clone());
        let scratch = self.mounted.path(&scratch);
        let subject = Subject::open(self.mounted.path(&path), named, model, source, scratch);
        Part { subject, random, named, limit: (content.len() + GROWTH) as u64 }
    }

    /// The template's file and its ROM view, read and mapped, until the round is over.
    fn check_template(&self, template: usize, over: &AtomicBool) {
        let content = &self.templates[template];
        let in_store = self.mounted.store.join(name(template));
        let rom = File::open(self.mounted.path(&name(template))).unwrap();
        let map = Mapping::of_some(&rom, Mapping::read_only).unwrap();
        let mut random = Random::new(self.seed);
        loop {
            assert!(fs::read(&in_store).unwrap() == *content, "the template changed");
            let at = random.below(content.len() as u64) as usize;
            let length = random.below((content.len() - at) as u64) as usize;
            let mut bytes = vec![0xEE; length];
            rom.read_exact_at(&mut bytes, at as u64).unwrap();
            assert!(bytes == content[at..at + length], "ROM differs in {length} bytes at {at}");
            if let Some(map) = &map {
                assert!(map.read(at, length) == content[at..at + length], "mapped ROM differs at {at}");
            }
            if over.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// All is closed: the next daemon must find what this one had accepted.
    fn change_daemon(&mut self) {
        match self.random.below(4) {
            0 => assert!(self.mounted.stop().success()),
            1 => self.mounted.kill(),
            2 if is_root() && self.random.one_in(50) => {
                // Slows the whole machine down, so rarely.
                return fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
            }
            _ => return,
        }
        self.mounted.mount();
    }
}

fn work(mut part: Part) -> Part {
    for _ in 0..OPERATIONS_A_ROUND {
        let op = Op::random(&mut part.random, part.subject.model.len() as u64, part.limit);
        part.subject.apply(op);
    }
    part.subject.check_all();
    part
}

fn name(template: usize) -> String {
    format!("t{template}")
}
