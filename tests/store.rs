//! What is done to a store: import, verify, ls and rm.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use common::clones::{digest, open_directory};
use common::files::{assert_refused, error_line, open_ro, opened, templatefs, tree};
use common::ground::Ground;
use common::limit::limit;
use common::mounted::{Mounted, Options, again_as_ordinary_user};
use common::random::pattern;
use rustix::io::Errno;
use templatefs::manifest::{self, Manifest, Origin, Role};

const TIME: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

fn run(words: &[&str], paths: &[&Path]) -> std::process::Output {
    let words = words.iter().map(|word| (*word).into());
    templatefs(words.chain(paths.iter().map(|path| path.as_os_str().to_owned())))
}

#[track_caller]
fn done(output: std::process::Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn found(store: &Path, name: &str) -> Manifest {
    manifest::find(store, Path::new(name)).unwrap().unwrap_or_else(|| panic!("{name}: no manifest")).1
}

/// A file of 8 MiB with 1 MiB of data, a page of zeros in it, and holes.
fn image(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("image.raw");
    let file = File::create(&path).unwrap();
    file.set_len(8 * MIB).unwrap();
    file.write_all_at(&pattern(3, MIB as usize), 2 * MIB).unwrap();
    file.write_all_at(&[0; 4096], 3 * MIB).unwrap();
    path
}

#[test]
fn a_file_is_imported_with_its_holes_and_served() {
    let _limit = limit(TIME);
    let (mounted, directory) = (Mounted::start(Options::default()), open_directory());
    let image = image(directory.path());
    done(run(&["import", "--name", "debian/disk", "--safe", "shareable"], &[&image, &mounted.store]));
    let manifest = found(&mounted.store, "debian/disk");
    let part = &manifest.parts[0];
    assert_eq!(
        (&*part.file, part.role, part.size_bytes, part.data_bytes),
        ("disk", Role::Image, 8 * MIB, MIB)
    );
    assert_eq!(part.sha256, digest(&image));
    assert_eq!(manifest.origin, Origin::Import { format: "raw".into() });
    let template = mounted.store.join("debian/disk");
    let metadata = fs::metadata(&template).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.blocks() * 512), (0o444, MIB));
    assert_eq!(digest(&mounted.path("debian/disk?rom=off")), part.sha256);
    // A manifest is ROM like everything else.
    let shown = fs::read(mounted.path("debian/disk.manifest.json")).unwrap();
    assert_eq!(Manifest::parse(&shown, "").unwrap(), manifest);

    done(run(&["import"], &[&image, &mounted.mountpoint]));
    assert_eq!(found(&mounted.store, "image.raw").parts[0].sha256, part.sha256);
    let again = run(&["import"], &[&image, &mounted.store]);
    assert!(error_line(&again).contains("it is there already"), "{again:?}");
    for (name, why) in
        [("../x", "no file name"), ("a/manifest.json", "name of a manifest"), ("", "no file name")]
    {
        let output = run(&["import", "--name", name], &[&image, &mounted.store]);
        assert!(error_line(&output).contains(why), "{name}: {output:?}");
    }
}

#[test]
fn an_ordinary_user_imports_too() {
    let _limit = limit(TIME);
    again_as_ordinary_user("a_file_is_imported_with_its_holes_and_served");
}

#[test]
fn other_formats_are_converted_where_they_are_named() {
    let _limit = limit(TIME);
    let (store, directory) = (open_directory(), open_directory());
    let image = image(directory.path());
    let convert = |format: &str, more: &[&str]| {
        let path = directory.path().join(format!("image-{}.{format}", more.len()));
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", format]).args(more).arg(&image).arg(&path);
        assert!(command.status().unwrap().success());
        path
    };
    for format in ["qcow2", "vmdk"] {
        let other = convert(format, &[]);
        let guessed = run(&["import"], &[&other, store.path()]);
        assert!(error_line(&guessed).contains(&format!("--format {format}")), "{guessed:?}");
        done(run(&["import", "--format", format, "--name", format], &[&other, store.path()]));
        let part = &found(store.path(), format).parts[0];
        assert_eq!(part.sha256, digest(&image), "{format}");
        assert!((MIB..2 * MIB).contains(&part.data_bytes), "{format}: {part:?}");
    }
    // The host's files are not to be had by naming them in an image.
    let backed = directory.path().join("backed.qcow2");
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).args([&image, &backed]);
    assert!(command.status().unwrap().success());
    let output = run(&["import", "--format", "qcow2"], &[&backed, store.path()]);
    assert!(error_line(&output).contains("make one file of them"), "{output:?}");
    let output = run(&["import", "--format", "qcow2"], &[&image, store.path()]);
    assert!(error_line(&output).contains("qemu-img"), "{output:?}");
    let left = tree(store.path());
    assert_eq!(left.len(), 4, "{left:?}");
}

/// A store with a template of each kind: `set`, `file` and `bare`.
fn filled(store: &Path) {
    let directory = open_directory();
    let image = image(directory.path());
    done(run(&["import", "--name", "file"], &[&image, store]));
    fs::create_dir(store.join("set")).unwrap();
    fs::copy(&image, store.join("set/ram")).unwrap();
    let mut manifest = found(store, "file");
    manifest.parts[0].file = "ram".into();
    fs::write(store.join("set/manifest.json"), manifest.to_json().unwrap()).unwrap();
    fs::write(store.join("bare"), b"bare").unwrap();
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let _limit = limit(TIME);
    let store = open_directory();
    filled(store.path());
    let text = done(run(&["verify"], &[store.path()]));
    assert_eq!(text, "ok     file\nok     set/ram\n2 as they should be, 0 wrong, 1 without a manifest\n");

    let file = store.path().join("file");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    opened(&file).write_all_at(&[1], 7 * MIB + 5).unwrap();
    let output = run(&["verify"], &[store.path()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.starts_with("WRONG  file: its SHA-256 is ") && text.contains("\nok     set/ram\n"),
        "{text}"
    );
    assert!(text.ends_with("1 as they should be, 1 wrong, 1 without a manifest\n"), "{text}");
    for name in ["set", "set/ram"] {
        assert_eq!(done(run(&["verify"], &[store.path(), Path::new(name)])).lines().count(), 2, "{name}");
    }
    assert_eq!(run(&["verify"], &[store.path(), Path::new("file")]).status.code(), Some(1));

    File::options().write(true).open(store.path().join("set/ram")).unwrap().set_len(5).unwrap();
    let text = String::from_utf8(run(&["verify"], &[store.path(), Path::new("set")]).stdout).unwrap();
    assert!(text.contains("it has 5 bytes, and should have"), "{text}");
    fs::remove_file(store.path().join("set/ram")).unwrap();
    let text = String::from_utf8(run(&["verify"], &[store.path(), Path::new("set")]).stdout).unwrap();
    assert!(text.contains("WRONG  set/ram: it cannot be read"), "{text}");
    let none = run(&["verify"], &[store.path(), Path::new("bare")]);
    assert!(error_line(&none).contains("it has no manifest"), "{none:?}");
}

#[test]
fn what_views_live_on_is_not_removed() {
    let _limit = limit(TIME);
    let mut mounted = Mounted::start(Options::default());
    filled(&mounted.store);
    let before = tree(&mounted.store);
    let refused = |what: &Path, name: &str, more: &[&str]| {
        let words: Vec<&str> = ["rm"].iter().chain(more).copied().collect();
        let line = error_line(&run(&words, &[what, Path::new(name)]));
        assert!(line.contains("discard it, or end who uses it"), "{line}");
        assert_eq!(tree(&mounted.store), before, "{name}");
    };
    // Open: as ROM, as a private view of a set, and one that only rests.
    let rom = open_ro(mounted.path("file")).unwrap();
    refused(&mounted.store, "file", &[]);
    let view = opened(&mounted.path("set/ram?rom=off"));
    refused(&mounted.mountpoint, "set", &[]);
    drop((rom, view));
    fs::write(mounted.path("bare?rom=off&view=rests"), b"mine").unwrap();
    refused(&mounted.store, "bare", &[]);

    // Not mounted any more, it is still somebody's memory.
    assert!(mounted.stop().success());
    let state = mounted.state.to_str().unwrap().to_owned();
    let refused = run(&["rm", "--state-dir", &state], &[&mounted.store, Path::new("bare")]);
    assert!(error_line(&refused).contains("view rests of it"), "{refused:?}");
    mounted.mount();

    fs::remove_file(mounted.path("bare?rom=off&view=rests")).unwrap();
    for name in ["file", "set", "bare"] {
        let gone = common::limit::poll(common::files::SOON, || {
            run(&["rm"], &[&mounted.store, Path::new(name)]).status.success().then_some(())
        });
        assert!(gone.is_some(), "{name}");
        assert_refused(open_ro(mounted.path(name)), Errno::NOENT, name);
    }
    assert!(tree(&mounted.store).is_empty(), "{:?}", tree(&mounted.store));
    let none = run(&["rm"], &[&mounted.store, Path::new("file")]);
    assert!(error_line(&none).contains("no such template"), "{none:?}");
}

#[test]
fn a_directory_that_is_no_set_is_not_removed() {
    let _limit = limit(TIME);
    let store = open_directory();
    fs::create_dir(store.path().join("debian")).unwrap();
    filled(&store.path().join("debian"));
    let line = error_line(&run(&["rm"], &[store.path(), Path::new("debian")]));
    assert!(line.contains("it is a directory and no set"), "{line}");
    done(run(&["rm"], &[store.path(), Path::new("debian/set")]));
    assert_eq!(tree(store.path()).len(), 4);
}

#[test]
fn ls_shows_sets_views_and_disk_use() {
    let _limit = limit(TIME);
    let ground = Ground::new();
    let store = ground.at("store");
    filled(&store);
    let listed =
        |path: &Path| -> Value { serde_json::from_str(&done(run(&["ls", "--json"], &[path]))).unwrap() };
    let row = |list: &Value, name: &str| -> Value {
        let rows = list["templates"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).cloned().unwrap_or_else(|| panic!("{name}: {list}"))
    };
    assert!(row(&listed(&store), "file")["views"].is_null(), "nobody knows of any mount");
    assert!(ground.mount(&[]).status.success());
    let _held = opened(&ground.at("mnt/set/ram?rom=off"));
    fs::write(ground.at("mnt/set/ram?rom=off&view=a"), b"a").unwrap();
    for path in [&store, &ground.at("mnt")] {
        let list = listed(path);
        let names: Vec<_> =
            list["templates"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
        assert_eq!(names, ["bare", "file", "set/ram", "t"]);
        assert_eq!(
            (row(&list, "set/ram")["views"].clone(), row(&list, "file")["views"].clone()),
            (2.into(), 0.into())
        );
        assert_eq!(row(&list, "file")["disk_bytes"], MIB);
        assert_eq!((&list["sets"][0]["name"], &list["sets"][0]["parts"][0]), (&"set".into(), &"ram".into()));
    }
    let text = done(run(&["ls"], &[&store]));
    assert!(text.ends_with("4 templates, 1 set\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}
