//! What is made of a private view: a template, a second view, a list of its changes, a file.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use serde_json::{Value, json};

use common::clones::{Captured, assert_keeps_its_data, digest, publish, work};
use common::files::{error_line, opened, templatefs};
use common::guest::{Backend, Guest};
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};
use common::qemu::ordinary_user;
use common::random::pattern;
use templatefs::manifest::{self, Lineage, Manifest, Origin};

const TIME: Duration = Duration::from_secs(240);
const PAGE: u64 = 4096;
const PAGES: u64 = 1500;
const VIEW: &str = "t?rom=off&view=a";

/// A mount with a template of data and holes, less than a page longer than [`PAGES`].
fn mounted() -> Mounted {
    let mounted = Mounted::start(Options::default());
    let new = mounted.store.join("new");
    let file = File::create(&new).unwrap();
    file.set_len(PAGES * PAGE + 1000).unwrap();
    file.write_all_at(&pattern(1, 300 * PAGE as usize), 0).unwrap();
    file.write_all_at(&pattern(2, 600 * PAGE as usize), 700 * PAGE).unwrap();
    fs::rename(new, mounted.store.join("t")).unwrap();
    mounted
}

fn run(words: &[&str], paths: &[&Path]) -> Output {
    let words = words.iter().map(|word| word.into());
    templatefs(words.chain(paths.iter().map(|path| path.as_os_str().to_owned())))
}

#[track_caller]
fn done(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes, punches and stores to a mapping; what is stored is not written back.
fn change(view: &File) -> Mapping {
    view.write_all_at(b"written", 10 * PAGE + 5).unwrap();
    view.write_all_at(&vec![7; 20 * PAGE as usize], 400 * PAGE).unwrap();
    view.write_all_at(&[0; 4096], 450 * PAGE).unwrap();
    let punched = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(view, punched, 800 * PAGE, 100 * PAGE).unwrap();
    view.write_all_at(b"end", PAGES * PAGE + 900).unwrap();
    let mapping = Mapping::shared(view).unwrap();
    mapping.write(1000 * PAGE as usize, b"stored");
    mapping
}

fn found(mounted: &Mounted, name: &str) -> Manifest {
    manifest::find(&mounted.store, Path::new(name))
        .unwrap()
        .unwrap_or_else(|| panic!("{name}: no manifest"))
        .1
}

#[test]
fn a_live_view_is_committed_with_what_is_not_written_back() {
    let _limit = limit(TIME);
    let mounted = mounted();
    done(run(&["import", "--name", "base"], &[&mounted.store.join("t"), &mounted.store]));
    for (path, id) in [("base?rom=off&view=a", Some("a")), ("base?rom=off", None)] {
        let view = opened(&mounted.path(path));
        let _mapping = change(&view);
        let name = format!("new/{}", id.unwrap_or("unnamed"));
        let expected = fs::read(mounted.path("base?rom=off&view=a")).unwrap();
        match id {
            Some(id) => done(run(
                &["commit", "--notes", "n"],
                &[&mounted.mountpoint, Path::new(id), Path::new(&name)],
            )),
            None => {
                let id = format!("@{}", view.metadata().unwrap().ino());
                done(run(&["commit"], &[&mounted.mountpoint, Path::new(&id), Path::new(&name)]))
            }
        };
        assert!(fs::read(mounted.store.join(&name)).unwrap() == expected, "{path}");
        let manifest = found(&mounted, &name);
        assert_eq!((&manifest.origin, &manifest.machine), (&Origin::Commit, &None));
        let part = &manifest.parts[0];
        assert_eq!(part.sha256, digest(&mounted.path(&name)));
        // As sparse as it can be: the template's data, less what was punched, and what was written.
        assert_eq!(part.data_bytes, (300 + 600 - 100 + 20 + 1) * PAGE - (PAGE - 1000));
        let sha256 = Some(digest(&mounted.store.join("base")));
        let lineage = Lineage { template: "base".into(), sha256, view: id.map(Into::into) };
        assert_eq!(manifest.lineage, Some(lineage));
    }
    // One that rests.
    done(run(&["commit"], &[&mounted.path("base?rom=off&view=a"), Path::new("rested")]));
    assert_eq!(digest(&mounted.store.join("rested")), digest(&mounted.store.join("new/a")));
    let again = run(&["commit"], &[&mounted.path("base?rom=off&view=a"), Path::new("rested")]);
    assert!(error_line(&again).contains("there already"), "{again:?}");
    let none = run(&["commit"], &[&mounted.mountpoint, Path::new("none"), Path::new("x")]);
    assert!(error_line(&none).contains("there is no view none"), "{none:?}");
}

#[test]
fn an_ordinary_users_view_is_committed_too() {
    let _limit = limit(TIME);
    again_as_ordinary_user("a_live_view_is_committed_with_what_is_not_written_back");
}

#[test]
fn a_fork_starts_with_the_first_ones_content_and_goes_its_own_way() {
    let _limit = limit(TIME);
    let mounted = mounted();
    let view = opened(&mounted.path(VIEW));
    let mapping = change(&view);
    done(run(&["fork"], &[&mounted.path(VIEW), Path::new("b")]));
    let (first, second) = (mounted.path(VIEW), mounted.path("t?rom=off&view=b"));
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
    // Pages, and no copy: the page of zeros that was written costs nothing any more.
    assert_eq!(fs::metadata(&second).unwrap().blocks() * 512, (1 + 20 + 1 + 1) * PAGE);
    opened(&second).write_all_at(b"second", 0).unwrap();
    mapping.write(0, b"first");
    assert_eq!(
        (&fs::read(&first).unwrap()[..5], &fs::read(&second).unwrap()[..6]),
        (&b"first"[..], &b"second"[..])
    );

    let there = run(&["fork"], &[&first, Path::new("b")]);
    assert!(error_line(&there).contains("there is such a view already"), "{there:?}");
    assert_eq!(&fs::read(&second).unwrap()[..6], b"second");
    let wrong = run(&["fork"], &[&first, Path::new("a/b")]);
    assert!(error_line(&wrong).contains("it is no name of a view"), "{wrong:?}");

    // Without a name, and over a template that was replaced meanwhile.
    let unnamed = opened(&mounted.path("t?rom=off"));
    let _mapping = change(&unnamed);
    let id = format!("@{}", unnamed.metadata().unwrap().ino());
    let fork = |name: &str| run(&["fork"], &[&mounted.mountpoint, Path::new(&id), Path::new(name)]);
    done(fork("c"));
    drop((view, mapping));
    let mut expected = vec![0; (PAGES * PAGE + 1000) as usize];
    unnamed.read_exact_at(&mut expected, 0).unwrap();
    assert!(fs::read(mounted.path("t?rom=off&view=c")).unwrap() == expected);
    mounted.template("t", &expected);
    let other = fork("d");
    assert!(error_line(&other).contains("its template was replaced"), "{other:?}");
}

#[test]
fn cut_and_made_longer_again_it_is_forked_and_exported_as_it_is() {
    let _limit = limit(TIME);
    let mounted = mounted();
    let view = opened(&mounted.path(VIEW));
    view.set_len(100 * PAGE + 77).unwrap();
    view.set_len((PAGES + 40) * PAGE + 5).unwrap();
    view.write_all_at(b"x", 1200 * PAGE).unwrap();
    let expected = fs::read(mounted.path(VIEW)).unwrap();
    done(run(&["fork"], &[&mounted.path(VIEW), Path::new("b")]));
    assert!(fs::read(mounted.path("t?rom=off&view=b")).unwrap() == expected);
    compare(&mounted, "b.qcow2", "b");
    view.set_len(5000).unwrap();
    done(run(&["fork"], &[&mounted.path(VIEW), Path::new("c")]));
    assert!(fs::read(mounted.path("t?rom=off&view=c")).unwrap() == expected[..5000]);
    compare(&mounted, "c.qcow2", "c");
}

#[test]
fn diff_lists_what_is_not_the_templates() {
    let _limit = limit(TIME);
    let mounted = mounted();
    let view = opened(&mounted.path(VIEW));
    let _mapping = change(&view);
    let report: Value =
        serde_json::from_str(&done(run(&["diff", "--json"], &[&mounted.path(VIEW)]))).unwrap();
    assert_eq!(
        (&report["schema"], &report["view"], &report["template"]),
        (&1.into(), &"a".into(), &"t".into())
    );
    let range = |page: u64, pages: u64, kind: &str| json!({ "offset": page * PAGE, "length": pages * PAGE, "kind": kind });
    let mut last = range(PAGES, 1, "data");
    last["length"] = 1000.into();
    let expected = [
        range(10, 1, "data"),
        range(400, 20, "data"),
        range(450, 1, "data"),
        range(800, 100, "zero"),
        range(1000, 1, "data"),
        last,
    ];
    assert_eq!(report["ranges"], Value::from(expected.to_vec()));
    let text = done(run(&["diff"], &[&mounted.mountpoint, Path::new("a")]));
    assert!(text.ends_with("a of t: 93 KiB of data and 400 KiB of zeros in 6 ranges\n"), "{text}");
}

/// Exports the view `id` as qcow2, and has qemu-img compare it with the view.
fn compare(mounted: &Mounted, file: &str, id: &str) -> (PathBuf, u64) {
    let directory = mounted.store.parent().unwrap();
    let (image, raw) = (directory.join(file), directory.join(format!("{file}.raw")));
    for (path, format) in [(&image, "qcow2"), (&raw, "raw")] {
        done(run(&["export", "--format", format], &[&mounted.mountpoint, Path::new(id), path]));
    }
    assert!(fs::read(&raw).unwrap() == fs::read(mounted.path(&format!("t?rom=off&view={id}"))).unwrap());
    let check = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&image).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    let compared = Command::new("qemu-img")
        .args(["compare", "-f", "qcow2", "-F", "raw"])
        .arg(&image)
        .arg(&raw)
        .output()
        .unwrap();
    assert!(compared.status.success(), "{compared:?}");
    let size = fs::metadata(&image).unwrap().len();
    (image, size)
}

#[test]
fn an_export_is_the_view_and_a_qcow2_holds_its_own_pages_only() {
    let _limit = limit(TIME);
    let mounted = mounted();
    let view = opened(&mounted.path(VIEW));
    let _mapping = change(&view);
    let (image, size) = compare(&mounted, "a.qcow2", "a");
    let own = 1 + 20 + 1 + 1 + 1;
    // Header, L1 table, refcount table and block, an L2 table for each 512 pages.
    assert_eq!(size, (own + 4 + 3) * PAGE);
    let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&image).output().unwrap();
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["backing-filename"], mounted.store.join("t").to_str().unwrap());
    assert_eq!(info["backing-filename-format"], "raw");

    let again = run(&["export"], &[&mounted.path(VIEW), &image]);
    assert!(error_line(&again).contains("it is there already"), "{again:?}");
    let nowhere = run(&["export"], &[&mounted.path(VIEW), Path::new("/nonexistent/x")]);
    assert!(error_line(&nowhere).contains("/nonexistent/x"), "{nowhere:?}");
    let rom = File::open(mounted.path("t")).unwrap();
    let id = format!("@{}", rom.metadata().unwrap().ino());
    let output = run(&["export"], &[&mounted.mountpoint, Path::new(&id), Path::new("/tmp/never")]);
    assert!(error_line(&output).contains("no private view"), "{output:?}");
}

/// The refcounts of an image with more than 2,048 clusters take more than one cluster themselves.
#[test]
fn a_view_with_many_pages_is_exported_too() {
    let _limit = limit(TIME);
    let mounted = Mounted::start(Options::default());
    mounted.template("t", &pattern(1, 12_000 * PAGE as usize));
    let view = opened(&mounted.path(VIEW));
    let bytes = pattern(9, PAGE as usize);
    for page in (0..12_000).filter(|page| page % 3 != 0) {
        view.write_all_at(&bytes, page * PAGE).unwrap();
    }
    compare(&mounted, "a.qcow2", "a");
}

fn clone_of(mounted: &Mounted, name: &str) -> Guest {
    let at = |part: &str| mounted.path(&format!("{name}/{part}"));
    let template = Captured::get().template.captured_as(at("ram"), at("state"));
    let ram = Backend::new(mounted.path(&format!("{name}/ram?rom=off")), "share=on");
    template.restore_as(ordinary_user(), ram, None)
}

#[test]
fn a_running_machine_is_committed_with_its_view_and_cloned() {
    let _limit = limit(TIME);
    let captured = Captured::get();
    let mounted = Mounted::start(Options::with(if is_root() { &["--allow-other"] } else { &[] }));
    publish(&mounted, &captured.template.ram, "ram");
    let path = mounted.path("ram?rom=off&view=web-1");
    let ram = Backend::new(&path, "share=on");
    let mut guest = captured.template.restore_as(ordinary_user(), ram, None);
    work(&mut guest, 1);
    let commit = |guest: &Guest, view: &Path, name: &str| {
        run(&["commit", "--qmp"], &[&guest.other_qmp(), view, Path::new(name)])
    };
    done(commit(&guest, &path, "web/1"));
    assert_keeps_its_data(&mut guest, 1);
    work(&mut guest, 2);
    let manifest = found(&mounted, "web/1");
    assert_eq!(manifest.parts.len(), 2);
    assert_eq!(manifest.lineage.unwrap().view.as_deref(), Some("web-1"));
    assert_eq!(manifest.machine.unwrap().memory[0].part.as_deref(), Some("ram"));
    let mut clone = clone_of(&mounted, "web/1");
    assert_keeps_its_data(&mut clone, 1);
    work(&mut clone, 3);
    assert_keeps_its_data(&mut guest, 2);

    // A view that is another machine's memory, or in QEMU's own memory in part, would be another guest.
    let other = opened(&mounted.path("ram?rom=off&view=other"));
    other.write_all_at(b"x", 0).unwrap();
    let refused = commit(&guest, &mounted.path("ram?rom=off&view=other"), "web/2");
    assert!(error_line(&refused).contains("is not the view other"), "{refused:?}");
    let private = Backend::new(mounted.path("ram?rom=off&view=private"), "share=off,readonly=off");
    drop(guest);
    let mut copying = captured.template.restore_as(ordinary_user(), private, None);
    work(&mut copying, 4);
    for command in [&["commit"][..], &["fork"], &["export"]] {
        let refused = run(command, &[&mounted.mountpoint, Path::new("private"), Path::new("new")]);
        assert!(error_line(&refused).contains("maps it privately"), "{command:?}: {refused:?}");
    }
    captured.assert_unchanged();
}
