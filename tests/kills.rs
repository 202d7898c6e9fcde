//! kill -9 of the process that serves, at random instants, under several processes that use the mount in
//! every way; each checks every byte that it reads against a model.
//!
//! The numbers come again with their seed, the instants do not: `TEMPLATEFS_SEED=N`. The long form, in which
//! two guests compute beside these processes, is in docs/RECOVERY.md:
//! `TEMPLATEFS_KILLS=1000 cargo test --release --test kills -- --nocapture --test-threads 1`.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use common::clones::{Captured, TEMPLATING, publish};
use common::computing::Computing;
use common::files::open_rw;
use common::guest::Backend;
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};
use common::processes::serving;
use common::qemu::ordinary_user;
use common::random::Random;
use common::users::{self, KILLS, Users, is_long_form, number, seed};

/// One of the users of the mount.
#[test]
#[ignore = "run by other tests"]
fn child() {
    users::run();
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

/// In which so many kills are over, or hang.
fn time(kills: u64) -> Duration {
    Duration::from_secs(120 + 4 * kills)
}

/// Lets a process serve for at most `pause` milliseconds, mostly. Returns what the daemons logged.
fn run(arguments: &[&'static str], pause: u64) -> String {
    let kills = number(KILLS, 25);
    let _limit = limit(time(kills));
    let seed = seed();
    println!("{KILLS}={kills}");
    let mut arguments = arguments.to_vec();
    let with_guests = is_long_form() && is_root();
    arguments.extend(with_guests.then_some("--allow-other"));
    let mounted = Mounted::start(Options::with(&arguments));
    let mut guests = if with_guests { Guests::start(&mounted) } else { Guests::default() };
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
                let told = mounted.serving();
                (serving(&mounted) == Some(told) && killed.last() != Some(&told)).then_some(())
            };
            poll(Duration::from_secs(60), serves).expect("a process that serves");
            served += 1;
        }
        thread::sleep(Duration::from_millis(random.below(if patient { pause } else { 40 })));
        match serving(&mounted) {
            Some(latest) if killed.last() != Some(&latest) => {
                kill_process(latest, Signal::KILL).unwrap();
                killed.push(latest);
            }
            _ => continue,
        }
        users.assert_all_go_on(format_args!("after {} kills", killed.len()));
        if killed.len() % 50 == 0 {
            guests.computing.iter_mut().for_each(Computing::add_ballast);
        }
    }
    guests.finish();
    users.finish(&mounted);
    let takeovers = mounted.log().matches("was taken over from a process that died").count();
    println!("{} kills, {takeovers} takeovers", killed.len());
    assert!(takeovers + 1 >= served, "{takeovers} takeovers, and {served} that served");
    mounted.log()
}

/// Two guests: one whose memory is a view that is written through the mount, and one whose is
/// a view in memory, or that copies the template itself where there are none.
#[derive(Default)]
struct Guests {
    computing: Vec<Computing>,
    captured: Option<Arc<Captured>>,
}

impl Guests {
    fn start(mounted: &Mounted) -> Self {
        let captured = Captured::get();
        publish(mounted, &captured.template.ram, "ram");
        let in_memory = "ram?rom=off&backing=memory&vm=second";
        let second = match open_rw(mounted.path(in_memory)) {
            Ok(_) => Backend::new(mounted.path(in_memory), "share=on"),
            Err(_) => Backend::new(mounted.path("ram?rom=off&vm=second"), TEMPLATING),
        };
        let first = Backend::new(mounted.path("ram?rom=off&vm=first"), "share=on");
        let start = |ram| Computing::start(captured.template.restore_as(ordinary_user(), ram, None));
        Self { computing: [first, second].into_iter().map(start).collect(), captured: Some(captured) }
    }

    #[track_caller]
    fn finish(self) {
        for computing in self.computing {
            println!("a guest: {} rounds, nothing lost", computing.finish());
        }
        self.captured.inspect(|captured| captured.assert_unchanged());
    }
}

#[test]
fn nor_in_an_ordinary_users_mount() {
    let _limit = limit(time(number(KILLS, 25)) + Duration::from_secs(10));
    again_as_ordinary_user("nothing_is_lost_however_often_the_serving_process_is_killed");
}
