//! kill -9 of the process that serves, at random instants, under several processes that use the mount in
//! every way; each checks every byte that it reads against a model.
//!
//! The numbers come again with their seed, the instants do not: `TEMPLATEFS_SEED=N`. The long form is in
//! docs/RECOVERY.md: `TEMPLATEFS_KILLS=1000 cargo test --release --test kills -- --nocapture`.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use common::files::open_rw;
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, again_as_ordinary_user};
use common::random::Random;
use common::users::{self, Users, number, seed};

const KILLS: &str = "TEMPLATEFS_KILLS";

/// One of the users of the mount.
#[test]
#[ignore = "run by other tests"]
fn child() {
    users::run();
}

/// The process that serves or is about to: the latest that the holder has started.
fn newest(mounted: &Mounted) -> Option<Pid> {
    let holder = mounted.daemon().as_raw_pid();
    let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).max().and_then(Pid::from_raw)
}

#[test]
fn nothing_is_lost_however_often_the_serving_process_is_killed() {
    drop(run(&[], 250));
}

/// Views whose pages the kernel was given by a process that is dead by the time they are opened.
#[test]
fn nor_where_views_are_warm() {
    let log = run(&["--warm", "4"], 1500);
    println!("{} views were warmed", log.matches(" is warm with ").count());
}

/// Lets a process serve for at most `pause` milliseconds, mostly. Returns what the daemons logged.
fn run(arguments: &[&'static str], pause: u64) -> String {
    let kills = number(KILLS, 25);
    let _limit = limit(Duration::from_secs(120 + 4 * kills));
    let seed = seed();
    println!("{KILLS}={kills}");
    let mounted = Mounted::start(Options::with(arguments));
    let mut users = Users::start(&mounted, seed);
    // What a view touches is on record before the first kill.
    open_rw(mounted.path("t?rom=off")).unwrap().write_all_at(&[1; 64 * 4096], 0).unwrap();
    let learned = || fs::read_dir(mounted.state.join("profiles")).unwrap().next().map(drop);
    poll(Duration::from_secs(60), learned).expect("a profile");
    let mut random = Random::new(seed);
    let (mut killed, mut served) = (Vec::new(), 0);
    while (killed.len() as u64) < kills {
        // Most have begun to serve; some die while they take over.
        let patient = !random.one_in(4);
        if patient {
            let serves = || {
                let serving = mounted.serving();
                (newest(&mounted) == Some(serving) && killed.last() != Some(&serving)).then_some(())
            };
            poll(Duration::from_secs(60), serves).expect("a process that serves");
            served += 1;
        }
        thread::sleep(Duration::from_millis(random.below(if patient { pause } else { 40 })));
        match newest(&mounted) {
            Some(serving) if killed.last() != Some(&serving) => {
                kill_process(serving, Signal::KILL).unwrap();
                killed.push(serving);
            }
            _ => continue,
        }
        users.assert_all_go_on(format_args!("after {} kills", killed.len()));
    }
    users.finish(&mounted);
    let takeovers = mounted.log().matches("was taken over from a process that died").count();
    println!("{} kills, {takeovers} takeovers", killed.len());
    assert!(takeovers + 1 >= served, "{takeovers} takeovers, and {served} that served");
    mounted.log()
}

#[test]
fn nor_in_an_ordinary_users_mount() {
    let _limit = limit(Duration::from_secs(240));
    again_as_ordinary_user("nothing_is_lost_however_often_the_serving_process_is_killed");
}
