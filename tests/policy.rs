//! `templatefs.toml`: what of a store may be opened, by whom and how much of it.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use common::files::{SOON, assert_refused, bytes_at, error_line, open_ro, open_rw, truncate};
use common::ground::Ground;
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root, run_as};

const POLICY: &str = "templatefs.toml";

/// A mount with the templates `ram` and `nvdimm/disk`, whose store's policy is `text`.
fn mounted(text: &str, arguments: &[&'static str]) -> Mounted {
    let mounted = Mounted::start(Options::with(arguments));
    for name in ["ram", "nvdimm/disk"] {
        mounted.template(name, &[b'T'; 8192]);
    }
    write(&mounted, text);
    reload(&mounted, "the policies were read again");
    mounted
}

fn write(mounted: &Mounted, text: &str) {
    fs::write(mounted.store.join(POLICY), text).unwrap();
}

/// SIGHUP, and what the log says to it.
fn reload(mounted: &Mounted, outcome: &str) {
    let before = mounted.log().matches(outcome).count();
    kill_process(mounted.daemon(), Signal::HUP).unwrap();
    let told = poll(SOON, || (mounted.log().matches(outcome).count() > before).then_some(()));
    assert!(told.is_some(), "no {outcome:?}: {}", mounted.log());
}

const NVDIMM_IS_ROM: &str = "[[rule]]\npath = 'nvdimm/**'\nallow = ['rom']\n";

#[test]
fn a_rule_takes_kinds_of_views_away() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(NVDIMM_IS_ROM, &[]);
    open_ro(mounted.path("nvdimm/disk")).unwrap();
    for path in ["nvdimm/disk?rom=off", "nvdimm/disk?rom=off&view=a"] {
        assert_refused(open_rw(mounted.path(path)), Errno::ACCESS, path);
        assert_refused(open_ro(mounted.path(path)), Errno::ACCESS, path);
        assert_refused(truncate(mounted.path(path), 0), Errno::ACCESS, path);
    }
    mounted.wait_for_log("templatefs.toml: rule 1 (nvdimm/**) allows rom of it, and this would be private");
    open_rw(mounted.path("ram?rom=off")).unwrap();
}

#[test]
fn a_rule_counts_for_an_ordinary_users_mount_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_rule_takes_kinds_of_views_away");
}

#[test]
fn the_policy_itself_is_not_served() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted("", &[]);
    assert_refused(open_ro(mounted.path(POLICY)), Errno::NOENT, POLICY);
    let listed = fs::read_dir(&mounted.mountpoint).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!listed.into_iter().any(|name| name == POLICY));
}

#[test]
fn a_policy_that_cannot_be_used_refuses_the_mount() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    let policy = ground.at("store").join(POLICY);
    fs::write(&policy, "[[rule]]\npath = 'a'\nallow = 'rom'\n").unwrap();
    let line = error_line(&ground.mount(&[]));
    assert!(line.contains("templatefs.toml: line 3"), "{line}");
    fs::write(&policy, "").unwrap();
    fs::set_permissions(&policy, Permissions::from_mode(0o666)).unwrap();
    let line = error_line(&ground.mount(&[]));
    assert!(line.contains("nobody else may write"), "{line}");
    fs::remove_file(&policy).unwrap();
    fs::create_dir(&policy).unwrap();
    let line = error_line(&ground.mount(&[]));
    assert!(line.contains("put a file there or take it away"), "{line}");
    fs::remove_dir(&policy).unwrap();
    let line = error_line(&ground.mount(&["--policy", "/nonexistent/policy.toml"]));
    assert!(line.contains("policy /nonexistent/policy.toml"), "{line}");
}

#[test]
fn a_reload_takes_all_or_nothing_and_leaves_what_is_open() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted("", &[]);
    let open = open_rw(mounted.path("nvdimm/disk?rom=off")).unwrap();
    let map = Mapping::shared(&open).unwrap();
    write(&mounted, NVDIMM_IS_ROM);
    reload(&mounted, "the policies were read again");
    assert_refused(open_rw(mounted.path("nvdimm/disk?rom=off")), Errno::ACCESS, "a new view");
    write(&mounted, "[[rule]]\npath = '**'\nallow = ['everything']\n");
    reload(&mounted, "the policies stay as they were");
    assert_refused(open_rw(mounted.path("nvdimm/disk?rom=off")), Errno::ACCESS, "as before");
    open_rw(mounted.path("ram?rom=off")).unwrap();
    map.write(4096, b"goes on");
    map.sync_all().unwrap();
    assert_eq!(bytes_at(&open, 4096, 7).unwrap(), b"goes on");
    fs::remove_file(mounted.store.join(POLICY)).unwrap();
    reload(&mounted, "the policies were read again");
    open_rw(mounted.path("nvdimm/disk?rom=off")).unwrap();
}

#[test]
fn the_operators_policy_takes_away_as_well() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    let policy = ground.at("policy.toml");
    fs::write(&policy, "[[rule]]\npath = 't'\nallow = ['rom']\n").unwrap();
    fs::write(ground.at("store").join(POLICY), "[[rule]]\npath = 't'\nallow = ['private', 'rom']\n").unwrap();
    let output = ground.mount(&["--policy", policy.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    open_ro(ground.at("mnt/t")).unwrap();
    assert_refused(open_rw(ground.at("mnt/t?rom=off")), Errno::ACCESS, "by the operator's rule");
}

#[test]
fn only_those_whom_a_rule_names_may_open() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: other users need root");
        return;
    }
    let text = "[[rule]]\npath = 'ram'\nusers = [4001]\ngroups = [5000]\n";
    let mounted = mounted(text, &["--allow-other"]);
    let reads = |user: u32, groups: &[u32]| {
        let mut cat = run_as(user, user, groups);
        cat.arg("cat").arg(mounted.path("ram")).output().unwrap().status.success()
    };
    assert!(reads(4001, &[]) && reads(4002, &[5000]) && reads(0, &[]));
    assert!(!reads(4002, &[]) && !reads(4002, &[4001]));
    mounted.wait_for_log("does not name user 4002");
}

#[test]
fn views_beyond_the_number_that_a_rule_lets_be_are_refused() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted("[[rule]]\npath = 'ram'\nmax-views = 2\n", &[]);
    let path = mounted.path("ram?rom=off");
    let first = open_rw(&path).unwrap();
    let _named = open_rw(mounted.path("ram?rom=off&view=a")).unwrap();
    let _again = open_rw(mounted.path("ram?rom=off&view=a")).unwrap();
    assert_refused(open_rw(&path), Errno::DQUOT, "a third");
    open_ro(mounted.path("ram")).unwrap();
    open_rw(mounted.path("nvdimm/disk?rom=off")).unwrap();
    drop(first);
    assert!(poll(SOON, || open_rw(&path).ok()).is_some());
}

#[test]
fn a_view_grows_as_far_as_a_rule_lets_it() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted("[[rule]]\npath = '**'\nmax-size = '16KiB'\n", &[]);
    mounted.template("large", &[1; 16385]);
    assert_refused(open_rw(mounted.path("large?rom=off")), Errno::FBIG, "a template");
    open_ro(mounted.path("large")).unwrap();
    let view = open_rw(mounted.path("ram?rom=off")).unwrap();
    view.write_all_at(b"end", 16381).unwrap();
    assert_refused(view.write_all_at(b"beyond", 16380), Errno::FBIG, "pwrite");
    assert_refused(view.set_len(16385), Errno::FBIG, "ftruncate");
    let longer = fallocate(&view, FallocateFlags::empty(), 0, 16385);
    assert_refused(longer.map_err(Into::into), Errno::FBIG, "fallocate");
    fallocate(&view, FallocateFlags::KEEP_SIZE, 0, 16385).unwrap();
    assert_eq!(view.metadata().unwrap().len(), 16384);
    if is_root() && !mounted.log().contains("read through the daemon") {
        let view = open_rw(mounted.path("ram?rom=off&backing=memory")).unwrap();
        view.write_all_at(b"within", 100).unwrap();
        assert_refused(view.write_all_at(b"beyond", 16380), Errno::PERM, "pwrite in memory");
        assert_refused(view.set_len(16385), Errno::FBIG, "ftruncate in memory");
        view.set_len(5).unwrap();
    }
}

/// Views that a dead daemon had opened, and views that were made longer and never opened, were no
/// views to the limit.
#[test]
fn the_number_that_a_rule_lets_be_counts_after_a_takeover_and_for_views_that_were_only_changed() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted("[[rule]]\npath = 'ram'\nmax-views = 2\n", &[]);
    let path = mounted.path("ram?rom=off");
    let first = open_rw(&path).unwrap();
    let _second = open_ro(&path).unwrap();
    let before = mounted.serving();
    kill_process(before, Signal::KILL).unwrap();
    assert!(poll(SOON, || (mounted.serving() != before).then_some(())).is_some());
    assert_refused(open_rw(&path), Errno::DQUOT, "a third");
    assert_refused(truncate(&path, 1), Errno::DQUOT, "one that is changed by its path");
    drop(first);
    assert!(poll(SOON, || open_rw(&path).ok()).is_some());
}

/// A successor that took a broken policy for none would open what the policy closed; one that would
/// not start for it would leave the guests waiting.
#[test]
fn a_takeover_with_a_broken_policy_goes_on_and_opens_nothing_new() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted("", &[]);
    let view = open_rw(mounted.path("ram?rom=off")).unwrap();
    view.write_all_at(b"kept", 0).unwrap();
    write(&mounted, "no policy");
    let serving = mounted.serving();
    kill_process(serving, Signal::KILL).unwrap();
    mounted.wait_for_log("nothing new can be opened until the policies are read again");
    view.write_all_at(b"goes on", 4096).unwrap();
    assert_eq!(bytes_at(&view, 0, 4).unwrap(), b"kept");
    assert_refused(open_rw(mounted.path("ram?rom=off")), Errno::ACCESS, "a new view");
    write(&mounted, "");
    let answers = poll(SOON, || (mounted.serving() != serving).then_some(()));
    assert!(answers.is_some());
    reload(&mounted, "the policies were read again");
    open_rw(mounted.path("ram?rom=off")).unwrap();
}
