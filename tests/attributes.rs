//! `user.templatefs.*` on real mounts: the same figures as `.templatefs/views/ID/status`.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::child;
use common::files::{SOON, open_ro, open_rw, opened};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};
use common::random::pattern;
use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, listxattr_query, removexattr, setxattr};
use rustix::io::Errno;

const PAGE: usize = 4096;
const PAGES: usize = 64;

type Figures = BTreeMap<String, String>;

fn mounted(arguments: &[&'static str]) -> Mounted {
    let mounted = Mounted::start(Options::with(arguments));
    mounted.template("debian/12.ram", &pattern(3, PAGES * PAGE));
    mounted
}

/// The attributes of an open file.
fn behind(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn get(path: &Path, name: &str) -> Result<String, Errno> {
    let mut value = vec![0; 4096];
    let length = getxattr(path, format!("user.templatefs.{name}"), &mut value)?;
    Ok(String::from_utf8(value[..length].to_vec()).unwrap())
}

fn all(path: &Path) -> Figures {
    let mut names = vec![0; 4096];
    let length = listxattr(path, &mut names).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names =
        names.map(|name| std::str::from_utf8(name).unwrap().strip_prefix("user.templatefs.").unwrap());
    names.map(|name| (name.to_owned(), get(path, name).unwrap())).collect()
}

/// What the control directory says under the same names; what is not known is left out, and so
/// are the processes.
fn status(mounted: &Mounted, id: &str) -> Figures {
    let text = fs::read_to_string(mounted.path(".templatefs/views").join(id).join("status")).unwrap();
    let lines = text.lines().map(|line| line.split_once(": ").unwrap());
    let known = lines.filter(|(name, value)| *name != "process" && *value != "unknown");
    known.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Both, looked at one after the other: the kernel may drop pages of the cache in between.
#[track_caller]
fn assert_same(attributes: impl Fn() -> Figures, status: impl Fn() -> Figures) {
    let ageless = |mut figures: Figures| {
        let age: f64 = figures.remove("age_seconds").unwrap().parse().unwrap();
        assert!(age >= 0.0);
        figures
    };
    let look = || (ageless(attributes()), ageless(status()));
    let same = poll(SOON, || Some(look()).filter(|(attributes, status)| attributes == status));
    if same.is_none() {
        let (attributes, status) = look();
        assert_eq!(attributes, status);
    }
}

#[test]
fn a_views_attributes_are_the_figures_of_its_status() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&[]);
    let path = mounted.path("debian/12.ram?rom=off&view=v&vm=web");
    let view = opened(&path);
    view.write_all_at(&[7; 3 * PAGE], 0).unwrap();
    let copied = Mapping::private(&view).unwrap();
    for page in 10..15 {
        copied.write(page * PAGE, b"changed");
    }
    let attributes = all(&path);
    assert_eq!(attributes["private_bytes"], (3 * PAGE).to_string());
    assert_eq!(attributes["cow_anon_bytes"], (5 * PAGE).to_string());
    assert_eq!((&*attributes["id"], &*attributes["vm"], &*attributes["opens"]), ("v", "web", "1"));
    assert_same(|| all(&path), || status(&mounted, "v"));
    assert_same(|| all(&behind(&view)), || status(&mounted, "v"));
    drop((copied, view));
    assert_same(|| all(&path), || status(&mounted, "v"));
}

#[test]
fn a_view_without_a_name_has_them_on_its_descriptor() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&[]);
    let path = mounted.path("debian/12.ram?rom=off");
    let view = open_rw(&path).unwrap();
    view.write_all_at(&[7; 2 * PAGE], 0).unwrap();
    let attributes = all(&behind(&view));
    assert_eq!(attributes["private_bytes"], (2 * PAGE).to_string());
    let id = attributes["id"].clone();
    assert_same(|| all(&behind(&view)), || status(&mounted, &id));
    // The path leads to another view, which nobody has opened.
    let walked = all(&path);
    assert_ne!(walked["id"], id);
    for figure in ["private_bytes", "cost_bytes", "cached_bytes", "opens"] {
        assert_eq!(walked[figure], "0", "{figure}");
    }
    assert_eq!(walked["template_bytes"], (PAGES * PAGE).to_string());
    assert_eq!(fs::read_dir(mounted.path(".templatefs/views")).unwrap().count(), 1);
}

#[test]
fn a_template_has_those_of_its_rom_view() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&[]);
    let path = mounted.path("debian/12.ram");
    let closed = all(&path);
    assert_eq!((&*closed["kind"], &*closed["opens"], &*closed["cost_bytes"]), ("rom", "0", "0"));
    let rom = open_ro(&path).unwrap();
    let open = all(&path);
    assert_eq!(open["opens"], "1");
    assert_same(|| open.clone(), || status(&mounted, &open["id"]));
    assert_same(|| all(&behind(&rom)), || open.clone());
    for path in [mounted.mountpoint.clone(), mounted.path("debian"), mounted.path(".templatefs/version")] {
        assert_eq!(all(&path), Figures::new(), "{path:?}");
        assert_eq!(get(&path, "id"), Err(Errno::NODATA));
    }
}

#[test]
fn as_an_ordinary_user_they_are_the_same() {
    let _limit = limit(Duration::from_secs(120));
    for test in [
        "a_views_attributes_are_the_figures_of_its_status",
        "a_view_without_a_name_has_them_on_its_descriptor",
        "a_template_has_those_of_its_rom_view",
        "a_write_costs_no_round_trip_more",
    ] {
        again_as_ordinary_user(test);
    }
}

#[test]
fn sizes_are_told_and_a_short_buffer_is_erange() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&[]);
    let path = mounted.path("debian/12.ram");
    let name = "user.templatefs.template";
    assert_eq!(getxattr_query(&path, name), Ok("debian/12.ram".len()));
    assert_eq!(getxattr(&path, name, &mut [0; 12]), Err(Errno::RANGE));
    let mut exact = [0; 13];
    assert_eq!((getxattr(&path, name, &mut exact), &exact), (Ok(13), b"debian/12.ram"));
    let names = listxattr_query(&path).unwrap();
    assert_eq!(listxattr(&path, &mut vec![0; names]), Ok(names));
    assert_eq!(listxattr(&path, &mut vec![0; names - 1]), Err(Errno::RANGE));
    for absent in ["vm", "opener", "processes", "none", ""] {
        assert_eq!(get(&path, absent), Err(Errno::NODATA), "{absent:?}: it has none");
    }
    assert_eq!(getxattr(&path, "user.other", &mut [0; 8]), Err(Errno::NODATA));
    assert_eq!(getxattr(&path, "system.posix_acl_access", &mut [0; 8]), Err(Errno::OPNOTSUPP));
}

#[test]
fn they_cannot_be_changed_and_the_log_says_why() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&[]);
    let path = mounted.path("debian/12.ram?rom=off&view=v");
    let _view = opened(&path);
    let flags = XattrFlags::empty();
    assert_eq!(setxattr(&path, "user.templatefs.id", b"x", flags), Err(Errno::PERM));
    assert_eq!(removexattr(&path, "user.templatefs.id"), Err(Errno::PERM));
    mounted.wait_for_log("user.templatefs.id: extended attributes of this name are figures of the view");
    assert_eq!(setxattr(&path, "user.other", b"x", flags), Err(Errno::OPNOTSUPP));
    mounted.wait_for_log("user.other: a view keeps no extended attributes");
    assert_eq!(get(&path, "id"), Ok("v".into()));
}

#[test]
fn they_are_for_those_who_may_see_the_view() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: needs root, who can be several users");
        return;
    }
    let mounted = mounted(&["--allow-other"]);
    let view = mounted.path("debian/12.ram?rom=off&view=v");
    drop(opened(&view));
    // Root's view, which by its mode everybody may read; the figures are root's all the same.
    fs::set_permissions(&view, fs::Permissions::from_mode(0o644)).unwrap();
    let rom = mounted.path("debian/12.ram");
    let secret = mounted.template("secret", &[1; PAGE]);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    let seen = |user: u32, path: &Path| {
        let output = child::command_as(user, "count", path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let counted = text.lines().find_map(|line| line.strip_prefix("attributes: ")?.parse::<usize>().ok());
        counted.unwrap_or_else(|| panic!("{output:?}"))
    };
    assert!(seen(0, &view) > 20 && seen(0, &mounted.path("secret")) > 20);
    assert_eq!(seen(4001, &view), 0, "another user's view");
    assert_eq!(seen(4001, &mounted.path("secret")), 0, "a template that one may not read");
    assert!(seen(4001, &rom) > 20, "nobody's yet");
    let _rom = open_ro(&rom).unwrap();
    assert_eq!(seen(4001, &rom), 0, "root's, as .templatefs has it");
    assert!(seen(4001, &mounted.path("debian/12.ram?rom=off")) > 20, "a view of one's own");
}

#[test]
#[ignore = "a process of another test"]
fn child() {
    let Some((what, path)) = child::asked() else { return };
    assert_eq!(what, "count");
    println!("\nattributes: {}", all(&path).len());
}

/// Before it writes a file the kernel asks whether that has `security.capability`, each time,
/// unless it may remember the answer.
#[test]
fn a_write_costs_no_round_trip_more() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&[]);
    let view = opened(&mounted.path("debian/12.ram?rom=off"));
    let asked = || mounted.log().matches("getxattr by user").count();
    let write = |times: usize| -> io::Result<()> {
        (0..times).try_for_each(|page| view.write_all_at(&[1; PAGE], (page * PAGE) as u64))
    };
    write(1).unwrap();
    let first = asked();
    assert_eq!(first, 1, "who would count none might not count at all");
    write(PAGES).unwrap();
    assert_eq!(asked(), first);
    // It asks for the file's size: the kernel forgets with each fresh look at the attributes.
    let mapping = Mapping::shared(&view).unwrap();
    for page in 0..PAGES {
        mapping.write(page * PAGE, b"changed");
    }
    mapping.sync_all().unwrap();
    assert_eq!(asked(), first, "stores to a mapping ask nothing");
    write(PAGES).unwrap();
    assert_eq!(asked(), first + 1);
}

/// A setuid template that somebody may write would stay setuid with what they wrote.
#[test]
fn a_setuid_template_is_not_written() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted(&["--allow-template-writes"]);
    let file = mounted.template("t", &[1; PAGE]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    let path = mounted.path("t?share=on&readonly=off");
    common::files::assert_refused(open_rw(&path), Errno::ACCESS, "setuid");
    common::files::assert_refused(common::files::truncate(&path, 0), Errno::ACCESS, "setuid");
    mounted.wait_for_log("it is setuid or setgid");
    assert_eq!(fs::read(&file).unwrap(), [1; PAGE]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    open_rw(&path).unwrap().write_all_at(&[2], 0).unwrap();
    assert_eq!(fs::read(&file).unwrap()[..2], [2, 1]);
}
