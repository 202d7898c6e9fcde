//! What a name may be: every listed one opens, and one that is wrong is EINVAL and makes nothing.

mod common;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use common::files::{
    assert_refused, errno, open_create, open_ro, open_rw, templatefs, tree, truncate, view_files,
};
use common::limit::limit;
use common::mounted::{Mounted, Options, again_as_ordinary_user};

/// Names that something on the way could take for something else.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"what?"[..],
        b"what?rom=off",
        b"?",
        b"50%",
        b"%3F",
        b"%25",
        b"a%2Fb",
        b"\xff\xfe",
        b"new\nline",
        b"with space",
        b" ",
        b"a&b=c,d",
        b"tab\t",
        b"back\\slash",
        b"quote'\"",
        b"...",
        b"-o",
        b"#",
        "\u{fc}ml\u{e4}ut".as_bytes(),
    ]
    .map(<[u8]>::to_vec)
    .into();
    names.extend([vec![b'x'; 255], vec![b'?'; 255], vec![b'%'; 255], vec![0xff; 255]]);
    names
}

/// Each odd name as a template in the root, and as a directory with such templates in it.
fn fill(store: &Path) -> usize {
    let names = odd_names();
    for name in &names {
        let directory = store.join("dirs").join(OsStr::from_bytes(name));
        fs::create_dir_all(&directory).unwrap();
        for inner in [name, &b"plain".to_vec(), &b"q?%".to_vec()] {
            fs::write(directory.join(OsStr::from_bytes(inner)), inner).unwrap();
        }
        fs::write(store.join(OsStr::from_bytes(name)), name).unwrap();
    }
    names.len() * 4
}

fn with_query(path: &Path, query: &str) -> PathBuf {
    let mut whole = OsString::from(path);
    whole.push(query);
    whole.into()
}

#[test]
fn every_listed_name_opens() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    let count = fill(&mounted.store);
    let files: Vec<PathBuf> = tree(&mounted.mountpoint)
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| fs::metadata(path).unwrap().is_file())
        .collect();
    assert_eq!(files.len(), count);
    let contents: BTreeSet<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(contents.len(), odd_names().len() + 2, "each is the file that it names");
    for path in &files {
        assert!(errno(open_rw(path)) == Some(Errno::ACCESS), "{path:?}");
        let view = open_rw(with_query(path, "?rom=off")).unwrap();
        view.write_all_at(b"private", 0).unwrap();
        assert_ne!(fs::read(path).unwrap(), b"private", "{path:?}");
        assert!(fs::metadata(with_query(path, "?vm=a")).is_ok(), "{path:?}");
    }
}

#[test]
fn every_name_that_an_ordinary_user_sees_opens_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("every_listed_name_opens");
}

#[test]
fn a_listing_holds_what_the_store_holds_spelled_as_it_opens() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    for name in odd_names() {
        fs::write(mounted.store.join(OsStr::from_bytes(&name)), b"").unwrap();
    }
    let spelled = |name: &[u8]| -> Vec<u8> {
        name.iter()
            .flat_map(|byte| match byte {
                b'?' => b"%3F".to_vec(),
                b'%' => b"%25".to_vec(),
                other => vec![*other],
            })
            .collect()
    };
    let wanted: BTreeSet<Vec<u8>> = odd_names().iter().map(|name| spelled(name)).collect();
    let entries = fs::read_dir(&mounted.mountpoint).unwrap();
    let listed: BTreeSet<Vec<u8>> =
        entries.map(|entry| entry.unwrap().file_name().as_encoded_bytes().to_vec()).collect();
    assert_eq!(listed, wanted);
    assert!(fs::metadata(mounted.path("what%3f")).is_ok(), "either case of the escape's digit");
}

/// Longest values, and names that are no template's.
fn wrong_queries() -> Vec<String> {
    let long = "x".repeat(65);
    let mut wrong: Vec<String> = [
        // Unknown keys, also by case.
        "colour=red",
        "ROM=off",
        "rom =off",
        "Rom=off",
        "rom=off&x=1",
        "\u{fc}=1",
        // Repeated ones, even when they agree.
        "rom=off&rom=off",
        "rom=off,rom=on",
        "view=a&rom=off&view=a",
        "share=on&share=off",
        "vm=a&vm=b",
        "readonly=on&readonly=on",
        // Bad values.
        "rom=",
        "rom=1",
        "rom=yes",
        "rom=OFF",
        "rom=off ",
        "readonly=auto",
        "share=auto",
        "readonly=0",
        "share=",
        "rom=off&view=",
        "rom=off&view=.a",
        "rom=off&view=a b",
        "rom=off&view=a%20",
        "rom=off&view=a?b",
        "rom=off&view=\u{fc}",
        "vm=",
        "vm=.",
        "rom=off&vm=a:b",
        // No pair, or an empty one.
        "",
        "&",
        ",",
        "rom",
        "off",
        "rom=off&",
        "&rom=off",
        "rom=off&&vm=a",
        "rom=off,,vm=a",
        "rom=off,&vm=a",
        "?",
        "?rom=off",
        "=",
        "=off",
        "rom=off&=",
        // An identity where the result is not a private view.
        "view=a",
        "rom=on&view=a",
        "rom=auto,view=a",
        "share=on&view=a",
        "share=on&readonly=off&view=a",
        // Combinations that QEMU refuses.
        "share=on&rom=off",
        "readonly=off&rom=on",
        "share=on&readonly=off&rom=on",
        "share=on&rom=off&view=a",
    ]
    .map(str::to_owned)
    .into();
    wrong.push(format!("rom=off&view={long}"));
    wrong.push(format!("vm={long}"));
    wrong
}

fn assert_einval_and_nothing_made(mounted: &Mounted, paths: impl IntoIterator<Item = PathBuf>) {
    let before = (tree(&mounted.store), view_files(mounted));
    for path in paths {
        assert_refused(open_ro(&path), Errno::INVAL, &path);
        assert_refused(open_rw(&path), Errno::INVAL, &path);
        assert_refused(open_create(&path), Errno::INVAL, &path);
        assert_refused(File::create_new(&path), Errno::INVAL, &path);
        assert_refused(fs::metadata(&path), Errno::INVAL, &path);
        assert_refused(truncate(&path, 0), Errno::INVAL, &path);
        assert_refused(fs::remove_file(&path), Errno::INVAL, &path);
        assert_refused(fs::create_dir(&path), Errno::INVAL, &path);
    }
    assert_eq!((tree(&mounted.store), view_files(mounted)), before, "something was made");
}

#[test]
fn a_wrong_query_is_einval_and_nothing_is_created() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    mounted.template("t", b"template");
    let paths = wrong_queries().into_iter().map(|query| mounted.path(&format!("t?{query}")));
    assert_einval_and_nothing_made(&mounted, paths);
    for reason in
        ["unknown key `colour`", "the key `rom` is given twice", "rom=yes is no value", "empty pair"]
    {
        mounted.wait_for_log(reason);
    }
}

#[test]
fn an_ordinary_users_wrong_query_is_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_wrong_query_is_einval_and_nothing_is_created");
}

#[test]
fn a_broken_escape_is_einval_and_nothing_is_created() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", b"template");
    mounted.template("50%", b"template");
    mounted.template("a%2Fb", b"template");
    let names =
        ["50%", "%", "%2", "%3", "%2F", "%00", "%2e%2e", "a%2Fb", "t%", "t%3", "t%?rom=off", "%3Ga", "%%25"];
    assert_einval_and_nothing_made(&mounted, names.map(|name| mounted.path(name)));
    mounted.wait_for_log("broken escape");
    assert_eq!(fs::read(mounted.path("a%252Fb")).unwrap(), b"template");
}

#[test]
fn a_query_on_a_directory_is_einval() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("dir/t", b"template");
    let names = ["dir?rom=off", "dir?rom=on", "dir?vm=a", "dir?rom=off&view=a", "dir?readonly=off"];
    assert_einval_and_nothing_made(&mounted, names.map(|name| mounted.path(name)));
    let nameless = ["..?rom=off", ".?rom=off", "?rom=off", "dir/..?rom=off", "dir/?rom=off", "?"];
    assert_einval_and_nothing_made(&mounted, nameless.map(|name| mounted.path(name)));
    assert_refused(fs::metadata(mounted.path("t?rom=off/x")), Errno::NOENT, "a template is no directory");
    assert_refused(fs::metadata(mounted.path("dir/t?rom=off/x")), Errno::NOTDIR, "nor is a view");
}

#[test]
fn new_names_are_made_in_the_store_only() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    mounted.template("t", b"template");
    let before = tree(&mounted.store);
    for name in ["new", "new?rom=off", "new?rom=off&view=a", "new?share=on&readonly=off"] {
        let path = mounted.path(name);
        assert_refused(open_rw(&path), Errno::NOENT, name);
        assert_refused(fs::metadata(&path), Errno::NOENT, name);
        assert_refused(open_create(&path), Errno::ROFS, name);
        assert_refused(fs::create_dir(&path), Errno::ROFS, name);
        assert_refused(std::os::unix::fs::symlink("t", &path), Errno::ROFS, name);
        assert_refused(fs::rename(mounted.path("t"), &path), Errno::ROFS, name);
        assert_refused(fs::hard_link(mounted.path("t"), &path), Errno::ROFS, name);
    }
    assert_refused(fs::remove_file(mounted.path("t")), Errno::ROFS, "a template");
    assert_refused(fs::remove_file(mounted.path("t?rom=off")), Errno::ROFS, "a view without a name");
    assert_eq!(tree(&mounted.store), before);
    assert!(view_files(&mounted).is_empty());
}

#[test]
fn one_request_has_many_spellings() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", b"template");
    let id = "A.z_0-".to_owned() + &"9".repeat(58);
    fs::write(mounted.path(&format!("t?rom=off&view={id}")), b"mine").unwrap();
    for query in [
        format!("rom=off,view={id}"),
        format!("view={id}&rom=off"),
        format!("view={id},readonly=on&share=off,rom=off"),
        format!("vm=any&view={id}&rom=off"),
    ] {
        assert_eq!(fs::read(mounted.path(&format!("t?{query}"))).unwrap(), b"mine", "{query}");
    }
    let listed = templatefs([OsStr::new("views"), mounted.mountpoint.as_os_str(), OsStr::new("--json")]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&id), "{listed:?}");
}

#[test]
fn names_of_any_length_leave_the_mount_well() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("t", b"template");
    let before = tree(&mounted.store);
    for length in [256, 1000, 1023, 1024, 1025, 2000, 2999, 3000, 3500, 4000] {
        let name = "n".repeat(length);
        let found = errno(fs::metadata(mounted.path(&name)));
        assert!(matches!(found, Some(Errno::NOENT | Errno::NAMETOOLONG)), "{length}: {found:?}");
        for query in [format!("t?vm={name}"), format!("t?{name}"), format!("t?rom=off&view={name}")] {
            let found = errno(open_create(mounted.path(&query)));
            assert!(matches!(found, Some(Errno::INVAL | Errno::NAMETOOLONG)), "{length}: {found:?}");
        }
        let created = errno(open_create(mounted.path(&name)));
        let wanted = [Errno::ROFS, Errno::NAMETOOLONG, Errno::NOENT];
        assert!(created.is_some_and(|errno| wanted.contains(&errno)), "{length}: {created:?}");
    }
    assert_eq!(tree(&mounted.store), before);
    assert!(view_files(&mounted).is_empty());
    assert_eq!(fs::read(mounted.path("t")).unwrap(), b"template");
}
