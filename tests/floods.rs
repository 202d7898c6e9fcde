//! A user who floods a mount meets an error, and the others meet nobody's flood: the daemon's memory is
//! bounded, others open what they like, and afterwards all is as it was. Needs root, for other users.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use common::child::{self, command_as};
use common::files::{SOON, open_ro, open_rw, wait_for_no_view_files};
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, is_root};

const ANN: u32 = 4001;
const BOB: u32 = 4002;

/// What another user does with a path, told in one line: how often it worked, and how often it was EDQUOT.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    let (what, count) = what.split_once(' ').unwrap();
    let count = count.parse::<usize>().unwrap();
    let under = |name: String| PathBuf::from(format!("{}{name}", path.display()));
    let mut held: Vec<File> = Vec::new();
    let mut one = |at: usize| match what {
        "stat" => fs::metadata(under(format!("?rom=off&vm=x{at}"))).map(drop),
        "junk" => fs::metadata(under(format!("?junk={at}"))).map(drop),
        "open" => open_ro(&path).map(|file| held.push(file)),
        "view" => open_rw(under("?rom=off".into())).map(|file| held.push(file)),
        other => panic!("{other}"),
    };
    let (mut done, mut refused) = (0, 0);
    for at in 0..count {
        match one(at).map_err(|error| Errno::from_io_error(&error)) {
            Ok(()) => done += 1,
            Err(Some(Errno::DQUOT)) => refused += 1,
            Err(Some(Errno::INVAL)) if what == "junk" => done += 1,
            Err(error) => panic!("{what} {at}: {error:?}"),
        }
    }
    println!("{done} {refused}");
    std::io::stdout().flush().unwrap();
    // What is open stays so until nobody listens any more.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// A process that floods, until it is dropped.
struct Flood(Child);

impl Flood {
    fn start(user: u32, what: &str, count: usize, path: &Path) -> Self {
        let mut command = command_as(user, &format!("{what} {count}"), path);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// How often it worked, and how often it was refused.
    fn result(&mut self) -> (usize, usize) {
        let mut said = String::new();
        let stdout = self.0.stdout.as_mut().unwrap();
        loop {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended: {said}");
            said.push(char::from(byte[0]));
            let line = said.lines().last().filter(|_| said.ends_with('\n'));
            let words: Vec<usize> =
                line.into_iter().flat_map(str::split_whitespace).flat_map(str::parse).collect();
            if let [done, refused] = words[..] {
                return (done, refused);
            }
        }
    }

    fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn mounted(arguments: &[&'static str]) -> Option<Mounted> {
    if !is_root() {
        println!("skipped: other users need root");
        return None;
    }
    let mounted = Mounted::start(Options::with(&[&["--allow-other"], arguments].concat()));
    mounted.template("t", &[b'T'; 8192]);
    Some(mounted)
}

/// What the serving process has in memory, in KiB.
fn resident(mounted: &Mounted) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", mounted.serving().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Opens as another user go on while `flood` does, each with a view of its own.
fn others_go_on(mounted: &Mounted) {
    let (done, refused) = Flood::start(BOB, "view", 20, &mounted.path("t")).result();
    assert_eq!((done, refused), (20, 0));
    open_rw(mounted.path("t?rom=off")).expect("root's");
}

/// Each name that is looked up stays in the kernel for as long as that likes, and the daemon has to know
/// it as long: without a bound a loop of stat(2) took all memory.
#[test]
fn a_flood_of_names_ends_in_bounded_memory_and_the_names_are_forgotten() {
    let _limit = limit(Duration::from_secs(180));
    let Some(mounted) = mounted(&["--max-nodes-per-user", "2000"]) else { return };
    others_go_on(&mounted);
    let before = resident(&mounted);
    let mut flood = Flood::start(ANN, "stat", 20_000, &mounted.path("t"));
    while !flood.is_over() && flood.0.stdout.is_some() {
        others_go_on(&mounted);
        if mounted.log().contains("many names looked up") {
            break;
        }
    }
    let (done, refused) = flood.result();
    assert_eq!(done + refused, 20_000);
    mounted.wait_for_log("the kernel was asked to forget");
    others_go_on(&mounted);
    let grown = resident(&mounted).saturating_sub(before);
    println!("{done} done, {refused} refused, {grown} KiB more");
    assert!(grown < 24 << 10, "{grown} KiB");
    drop(flood);
    let (_, refused) =
        poll(SOON, || Some(Flood::start(ANN, "stat", 100, &mounted.path("t")).result()).filter(|r| r.1 == 0))
            .expect("the user can go on once the kernel has forgotten");
    assert_eq!(refused, 0);
}

#[test]
fn junk_queries_leave_nothing() {
    let _limit = limit(Duration::from_secs(120));
    let Some(mounted) = mounted(&["--max-nodes-per-user", "100"]) else { return };
    assert_eq!(Flood::start(ANN, "junk", 5_000, &mounted.path("t")).result(), (5_000, 0));
    others_go_on(&mounted);
    assert_eq!(Flood::start(ANN, "view", 10, &mounted.path("t")).result(), (10, 0));
}

/// Also where many processes do it at once.
#[test]
fn open_files_of_one_user_are_bounded_and_come_back_with_its_processes_end() {
    let _limit = limit(Duration::from_secs(120));
    let Some(mounted) = mounted(&["--max-nodes-per-user", "300"]) else { return };
    let mut bombs: Vec<Flood> = (0..8).map(|_| Flood::start(ANN, "open", 100, &mounted.path("t"))).collect();
    let results: Vec<(usize, usize)> = bombs.iter_mut().map(Flood::result).collect();
    let sum = results.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!(sum, (300, 500), "{results:?}");
    mounted.wait_for_log("user 4001 has 300 files open, as many as --max-nodes-per-user lets it");
    others_go_on(&mounted);
    drop(bombs);
    let again =
        || Some(Flood::start(ANN, "open", 300, &mounted.path("t")).result()).filter(|r| *r == (300, 0));
    assert!(poll(SOON, again).is_some());
}

/// A successor knows who has what.
#[test]
fn private_views_of_one_user_are_bounded_also_after_a_takeover() {
    let _limit = limit(Duration::from_secs(120));
    let Some(mounted) = mounted(&["--max-views-per-user", "25"]) else { return };
    let mut flood = Flood::start(ANN, "view", 40, &mounted.path("t"));
    assert_eq!(flood.result(), (25, 15));
    mounted.wait_for_log("user 4001 has 25 private views open, as many as --max-views-per-user lets it");
    let before = mounted.serving();
    kill_process(before, Signal::KILL).unwrap();
    poll(SOON, || (mounted.serving() != before).then_some(())).expect("a successor");
    assert_eq!(Flood::start(ANN, "view", 5, &mounted.path("t")).result(), (0, 5));
    assert_eq!(Flood::start(ANN, "open", 50, &mounted.path("t")).result(), (50, 0), "the template itself");
    others_go_on(&mounted);
    drop(flood);
    let again = || Some(Flood::start(ANN, "view", 25, &mounted.path("t")).result()).filter(|r| *r == (25, 0));
    assert!(poll(SOON, again).is_some());
    wait_for_no_view_files(&mounted);
}
