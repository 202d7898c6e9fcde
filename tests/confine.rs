//! What the process that serves a mount has given up, and that it goes on without. That each way of using
//! a mount works so is shown by all other tests: there is no mount that is not confined.

mod common;

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use common::files::{SOON, bytes_at, open_ro, open_rw};
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, again_as_ordinary_user, binary, is_root};

const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;

/// A field of each thread of a process.
fn of_threads(process: Pid, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).unwrap();
    let status = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let value =
        |status: String| status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
    status.map(value).collect()
}

#[track_caller]
fn assert_confined(mounted: &Mounted, kept: u64) {
    let process = mounted.serving();
    // An ordinary user cannot make it smaller, and has no use for it.
    let bounding = if is_root() { kept } else { own_set("CapBnd:") };
    for (field, wanted) in [
        ("NoNewPrivs:", "1".to_owned()),
        ("Seccomp:", "2".to_owned()),
        ("CapEff:", format!("{kept:016x}")),
        ("CapPrm:", format!("{kept:016x}")),
        ("CapInh:", format!("{:016x}", 0)),
        ("CapAmb:", format!("{:016x}", 0)),
        ("CapBnd:", format!("{bounding:016x}")),
    ] {
        let found = of_threads(process, field);
        assert!(
            found.len() > 2 && found.iter().all(|value| *value == wanted),
            "{field} {found:?}, not {wanted}"
        );
    }
}

/// One of this process's sets of capabilities.
fn own_set(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap()
}

fn successor_of(mounted: &Mounted) -> Pid {
    let before = mounted.serving();
    kill_process(before, Signal::KILL).unwrap();
    poll(SOON, || Some(mounted.serving()).filter(|serving| *serving != before)).expect("a successor")
}

/// Each thread of it, from the first request on; a successor and another program too.
#[test]
fn the_serving_process_keeps_what_it_needs_and_its_successors_do_too() {
    let _limit = limit(Duration::from_secs(90));
    let kept = if is_root() { SYS_ADMIN | DAC_READ_SEARCH } else { 0 };
    let mounted = Mounted::start(Options::with(&["--warm", "2", "--metrics-listen", "127.0.0.1:0"]));
    mounted.template("t", &[b'T'; 8192]);
    assert_eq!(bytes_at(&open_rw(mounted.path("t?rom=off")).unwrap(), 0, 1).unwrap(), b"T");
    mounted.wait_for_log("confined: no_new_privs; no capability");
    assert_confined(&mounted, kept);
    successor_of(&mounted);
    assert_eq!(bytes_at(&open_ro(mounted.path("t")).unwrap(), 0, 1).unwrap(), b"T");
    assert_confined(&mounted, kept);
    let before = mounted.serving();
    let upgraded =
        mounted.command().arg("upgrade").arg("--binary").args([binary(), &mounted.mountpoint]).output();
    assert!(upgraded.unwrap().status.success());
    assert_ne!(mounted.serving(), before);
    assert_confined(&mounted, kept);
}

#[test]
fn an_ordinary_users_serving_process_does_too() {
    let _limit = limit(Duration::from_secs(90));
    again_as_ordinary_user("the_serving_process_keeps_what_it_needs_and_its_successors_do_too");
}

#[test]
fn templates_of_others_can_be_written_only_where_that_was_asked_for() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: an ordinary user has no capability anyway");
        return;
    }
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    mounted.template("t", &[b'T'; 8192]);
    open_ro(mounted.path("t")).unwrap();
    assert_confined(&mounted, SYS_ADMIN | DAC_READ_SEARCH | DAC_OVERRIDE);
}

/// What the log says that it is in force is in force: seen from the kernel, or from the machine's list of
/// what it has.
#[test]
fn the_log_says_what_is_in_force_and_what_this_kernel_lacks() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.wait_for_log("confined: ");
    let log = mounted.log();
    assert!(log.contains("a filter that lets"), "{log}");
    let says = (log.contains("; Landlock"), log.contains("confined without Landlock"));
    assert!(says == (true, false) || says == (false, true), "{log}");
    if says.1 {
        println!("skipped: Landlock, which this kernel lacks");
    }
}

/// The broker does for the serving process what that one may not do; without it nothing is left behind.
#[test]
fn the_process_that_looks_ends_with_the_one_that_it_looks_for() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = Mounted::start(Options::default());
    mounted.template("t", &[b'T'; 8192]);
    let brokers = || {
        let listed = Command::new("ps").args(["-eo", "args"]).output().unwrap();
        let wanted = format!("templatefs broker {} ", mounted.mountpoint.display());
        String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.starts_with(&wanted)).count()
    };
    assert_eq!(brokers(), 1);
    successor_of(&mounted);
    assert!(poll(SOON, || (brokers() == 1).then_some(())).is_some(), "one for the successor");
    let mountpoint = mounted.mountpoint.clone();
    assert!(mounted.stop().success());
    let gone = poll(SOON, || {
        let listed = Command::new("ps").args(["-eo", "args"]).output().unwrap();
        (!String::from_utf8_lossy(&listed.stdout)
            .contains(&format!("templatefs broker {}", mountpoint.display())))
        .then_some(())
    });
    assert!(gone.is_some());
}

/// When memory is short neither is to be the first that goes.
#[test]
fn both_processes_ask_to_be_spared_when_memory_is_short() {
    let _limit = limit(Duration::from_secs(60));
    if own_set("CapEff:") & SYS_RESOURCE == 0 {
        println!("skipped: it takes CAP_SYS_RESOURCE to ask for it");
        return;
    }
    let mounted = Mounted::start(Options::default());
    for process in [mounted.serving(), mounted.daemon()] {
        let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", process.as_raw_nonzero())).unwrap();
        assert_eq!(score.trim(), "-900");
    }
}
