//! Private views with a name: one for all who open it, kept until it is discarded, bound to its template.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::Value;

use common::files::{
    assert_refused, bytes_at, error_line, open_create, open_ro, open_rw, templatefs, view_files,
};
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};

const VIEW: &str = "dir/t?rom=off&view=web-1";

fn mounted_template() -> Mounted {
    let mounted = Mounted::start(Options::default());
    mounted.template("dir/t", &[b'T'; 20_000]);
    mounted
}

/// The entry of a view in `templatefs views --json`.
fn listed(mounted: &Mounted, id: &str) -> Option<Value> {
    let output = templatefs([OsStr::new("views"), mounted.mountpoint.as_os_str(), OsStr::new("--json")]);
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    json["views"].as_array().unwrap().iter().find(|view| view["id"] == id).cloned()
}

fn discard(mounted: &Mounted, id: &str) -> std::process::Output {
    templatefs([OsStr::new("discard"), mounted.mountpoint.as_os_str(), OsStr::new(id)])
}

fn discard_path(path: &Path) -> std::process::Output {
    templatefs([OsStr::new("discard"), path.as_os_str()])
}

#[test]
fn a_named_view_is_the_same_for_everyone_who_opens_it() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted_template();
    let path = mounted.path(VIEW);
    let (one, other) = (open_rw(&path).unwrap(), open_rw(&path).unwrap());
    one.write_all_at(b"pwrite", 0).unwrap();
    assert_eq!(bytes_at(&other, 0, 7).unwrap(), b"pwriteT");
    let (one_mapped, other_mapped) = (Mapping::shared(&one).unwrap(), Mapping::shared(&other).unwrap());
    one_mapped.write(8192, b"mapped");
    assert_eq!(other_mapped.read(8192, 7), b"mappedT");
    assert_eq!(bytes_at(&open_ro(&path).unwrap(), 8192, 7).unwrap(), b"mappedT");
    let elsewhere = Command::new("head").arg("-c7").arg(&path).output().unwrap();
    assert_eq!(elsewhere.stdout, b"pwriteT", "another process");
    let (a, b) = (one.metadata().unwrap(), fs::metadata(&path).unwrap());
    assert_eq!((a.ino(), a.dev()), (b.ino(), b.dev()));
    assert_eq!(fs::read(mounted.path("dir/t?rom=off&view=web-2")).unwrap()[..6], *b"TTTTTT");
}

#[test]
fn it_outlives_close_unmount_and_the_daemons_death() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = mounted_template();
    let path = mounted.path(VIEW);
    fs::metadata(&path).unwrap();
    assert!(view_files(&mounted).is_empty(), "it exists from its first opening");
    let view = open_rw(&path).unwrap();
    let memory = Mapping::shared(&view).unwrap();
    memory.write(4096, b"mapped");
    memory.sync_all().unwrap();
    view.write_all_at(b"written", 0).unwrap();
    view.set_len(30_000).unwrap();
    drop((view, memory));
    let check = |when: &str, pages: u64| {
        let content = fs::read(&path).unwrap();
        assert_eq!(
            (content.len(), &content[..8], &content[4096..4103]),
            (30_000, &b"writtenT"[..], &b"mappedT"[..])
        );
        assert_eq!((content[19_999], content[20_000]), (b'T', 0), "{when}");
        assert_eq!(fs::metadata(&path).unwrap().blocks(), pages * 8, "{when}");
    };
    check("after close", 2);
    assert!(mounted.stop().success());
    mounted.mount();
    check("after a restart", 2);
    mounted.kill();
    mounted.mount();
    check("after kill -9 of a daemon that had done nothing", 2);
    open_rw(&path).unwrap().write_all_at(b"WRITTEN", 12_288).unwrap();
    mounted.kill();
    mounted.mount();
    assert_eq!(bytes_at(&open_ro(&path).unwrap(), 12_288, 8).unwrap(), b"WRITTENT", "after kill -9");
    check("after kill -9", 3);
}

#[test]
fn an_ordinary_users_named_view_outlives_them_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("it_outlives_close_unmount_and_the_daemons_death");
}

#[test]
fn it_is_refused_over_a_template_that_was_replaced_or_rewritten() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = mounted_template();
    let path = mounted.path(VIEW);
    fs::write(&path, b"mine").unwrap();
    let template = mounted.store.join("dir/t");
    let kept = mounted.store.join("kept");
    fs::hard_link(&template, &kept).unwrap();
    let refused = |mounted: &Mounted, how: &str| {
        assert_refused(open_rw(&path), Errno::STALE, how);
        assert_refused(open_ro(&path), Errno::STALE, how);
        assert_refused(open_create(&path), Errno::STALE, how);
        mounted.wait_for_log("made from an earlier file of this name");
        assert_eq!(fs::read(mounted.path("dir/t?rom=off")).unwrap(), fs::read(&template).unwrap(), "{how}");
    };
    mounted.template("dir/t", &[b'T'; 20_000]);
    refused(&mounted, "replaced by a file with the same content");
    assert!(mounted.stop().success());
    mounted.mount();
    refused(&mounted, "replaced, and the daemon restarted");

    fs::rename(&kept, &template).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"mine", "the file that it was made from is back");
    let writable = if is_root() { open_rw(&template) } else { make_writable(&template) };
    writable.unwrap().write_all_at(b"rewritten", 0).unwrap();
    refused(&mounted, "rewritten in place");
}

fn make_writable(path: &Path) -> std::io::Result<fs::File> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    open_rw(path)
}

#[test]
fn it_opens_through_no_other_templates_path() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted_template();
    fs::write(mounted.path(VIEW), b"mine").unwrap();
    mounted.template("other", &[b'T'; 20_000]);
    let other = mounted.path("other?rom=off&view=web-1");
    assert_refused(open_ro(&other), Errno::EXIST, "reading");
    assert_refused(open_rw(&other), Errno::EXIST, "writing");
    assert_refused(open_create(&other), Errno::EXIST, "creating");
    assert_refused(fs::remove_file(&other), Errno::EXIST, "removing");
    assert!(error_line(&discard_path(&other)).contains("File exists"));
    mounted.wait_for_log("view web-1 is a view of dir/t; open it there, or choose another name");
    assert_eq!(fs::read(mounted.path(VIEW)).unwrap(), b"mine");
}

/// A symlink is served as the file it leads to, so it is no other template.
#[test]
fn it_opens_and_goes_through_a_symlink_to_its_template() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted_template();
    symlink("dir/t", mounted.store.join("link")).unwrap();
    fs::write(mounted.path(VIEW), b"mine").unwrap();
    let alias = mounted.path("link?rom=off&view=web-1");
    assert_eq!(fs::read(&alias).unwrap(), b"mine");
    fs::remove_file(&alias).unwrap();
    assert_eq!(fs::read(mounted.path(VIEW)).unwrap().len(), 20_000);
}

#[test]
fn it_goes_by_rm_and_by_discard_and_its_holder_keeps_it() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted_template();
    let path = mounted.path(VIEW);
    type Way = (&'static str, fn(&Mounted) -> bool);
    let ways: [Way; 3] = [
        ("rm", |mounted| fs::remove_file(mounted.path(VIEW)).is_ok()),
        ("discard PATH", |mounted| discard_path(&mounted.path(VIEW)).status.success()),
        ("discard MOUNTPOINT ID", |mounted| discard(mounted, "web-1").status.success()),
    ];
    for (name, way) in ways {
        fs::write(&path, b"closed").unwrap();
        assert!(way(&mounted), "{name}, closed");
        assert!(view_files(&mounted).is_empty(), "{name}");

        let held = open_rw(&path).unwrap();
        held.write_all_at(b"held", 0).unwrap();
        let memory = Mapping::shared(&held).unwrap();
        assert!(way(&mounted), "{name}, open");
        let named = |path: &PathBuf| path.to_string_lossy().contains("/n-");
        assert!(!view_files(&mounted).iter().any(named), "{name}: nothing is left under its name");
        assert_eq!(bytes_at(&held, 0, 5).unwrap(), b"heldT", "{name}");
        let fresh = open_rw(&path).unwrap();
        assert_eq!(bytes_at(&fresh, 0, 5).unwrap(), b"TTTTT", "{name}: the name leads to a fresh view");
        fresh.write_all_at(b"fresh", 4096).unwrap();
        memory.write(8192, b"still");
        memory.sync_all().unwrap();
        held.write_all_at(b"there", 12_288).unwrap();
        drop(held);
        assert_eq!(
            (memory.read(4096, 1), memory.read(12_288, 5)),
            (b"T".to_vec(), b"there".to_vec()),
            "{name}"
        );
        drop(memory);
        let content = fs::read(&path).unwrap();
        assert_eq!((&content[4096..4101], content[8192], content[0]), (&b"fresh"[..], b'T', b'T'), "{name}");
        assert!(way(&mounted), "{name}, the fresh one");
    }
    mounted.wait_for_log("was discarded by user");
}

#[test]
fn an_ordinary_user_discards_his_own_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("it_goes_by_rm_and_by_discard_and_its_holder_keeps_it");
}

#[test]
fn discarding_what_is_not_there_is_one_clear_line() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted_template();
    let path = mounted.path(VIEW);
    assert_refused(fs::remove_file(&path), Errno::NOENT, "rm");
    assert!(error_line(&discard_path(&path)).contains("No such file"));
    assert!(error_line(&discard(&mounted, "web-1")).contains("there is no view named web-1"));
    assert!(error_line(&discard(&mounted, "@65")).contains("there is no view named @65"));
    let held = open_rw(mounted.path("dir/t?rom=off")).unwrap();
    let unnamed = format!("@{}", held.metadata().unwrap().ino());
    assert!(listed(&mounted, &unnamed).is_some(), "it is listed, but has no name to be discarded by");
    assert!(error_line(&discard(&mounted, &unnamed)).contains("there is no view named @"));
    error_line(&discard_path(&mounted.path("dir/t")));
    error_line(&discard_path(&mounted.path("dir")));
    error_line(&templatefs([OsStr::new("discard"), mounted.store.as_os_str(), OsStr::new("web-1")]));
}

#[test]
fn views_lists_it_with_its_private_bytes_and_its_openers() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted_template();
    let path = mounted.path("dir/t?rom=off&view=web-1&vm=big");
    let view = open_rw(&path).unwrap();
    view.write_all_at(&[1; 5000], 0).unwrap();
    rustix::fs::fallocate(
        &view,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        8192,
        4096,
    )
    .unwrap();
    let entry = listed(&mounted, "web-1").unwrap();
    for (key, value) in [
        ("template", Value::from("dir/t")),
        ("kind", "private".into()),
        ("backing", "overlay".into()),
        ("vm", "big".into()),
        ("uid", rustix::process::geteuid().as_raw().into()),
        ("size_bytes", 20_000.into()),
        ("private_bytes", 8192.into()),
        ("zero_bytes", 4096.into()),
        ("opens", 1.into()),
    ] {
        assert_eq!(entry[key], value, "{key}: {entry}");
    }
    assert_eq!(entry["processes"][0]["pid"], std::process::id(), "{entry}");
    assert_eq!(entry["processes"][0]["writable"], true, "{entry}");
    drop(view);
    let text = templatefs([OsStr::new("views"), mounted.mountpoint.as_os_str()]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("web-1") && text.contains("8.0K") && text.contains("dir/t"), "{text}");
    let closed = listed(&mounted, "web-1").unwrap();
    assert_eq!(closed["private_bytes"], 8192, "{closed}");
}

/// Each of these views fits nothing any more, and its pages would stay for ever if it could not be discarded.
#[test]
fn a_view_whose_template_is_gone_or_another_can_be_discarded() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = mounted_template();
    let path = mounted.path(VIEW);
    for (by_path, gone) in [(true, false), (false, false), (true, true), (false, true)] {
        mounted.template("dir/t", &[b'T'; 20_000]);
        fs::write(&path, b"mine").unwrap();
        if gone {
            fs::remove_file(mounted.store.join("dir/t")).unwrap();
        } else {
            mounted.template("dir/t", &[b'U'; 20_000]);
        }
        assert_refused(open_rw(&path), Errno::STALE, (by_path, gone));
        assert!(listed(&mounted, "web-1").is_some());
        assert!(mounted.stop().success());
        mounted.mount();
        let output = if by_path { discard_path(&path) } else { discard(&mounted, "web-1") };
        assert!(output.status.success(), "{by_path}, {gone}: {output:?}");
        assert!(view_files(&mounted).is_empty());
        let wanted = if gone { Some(Errno::NOENT) } else { None };
        assert_eq!(common::files::errno(open_rw(&path)), wanted);
        if !gone {
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_view_whose_files_are_damaged_is_refused_and_can_be_discarded_by_root() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = mounted_template();
    let path = mounted.path(VIEW);
    fs::write(&path, b"mine").unwrap();
    assert!(mounted.stop().success());
    let map = view_files(&mounted).into_iter().find(|file| file.extension() == Some(OsStr::new("map")));
    open_rw(map.unwrap()).unwrap().write_all_at(&[b'X'; 1500], 30).unwrap();
    mounted.mount();
    mounted.wait_for_log("it is torn or damaged; discard it, or restore the file");
    assert_refused(open_rw(&path), Errno::STALE, "a damaged view");
    assert_eq!(fs::read(mounted.path("dir/t?rom=off&view=well")).unwrap().len(), 20_000, "others go on");
    if is_root() {
        assert!(discard_path(&path).status.success());
        assert_eq!(fs::read(&path).unwrap()[..4], *b"TTTT");
    }
}
