use std::os::unix::fs::symlink;

use super::*;
use crate::manifest::{Fact, Origin, Part, Role, SCHEMA};

fn manifest(name: &str, parts: &[&str]) -> Manifest {
    let part = |file: &&str| Part {
        file: (*file).to_owned(),
        role: Role::Image,
        size_bytes: 1,
        data_bytes: 1,
        sha256: String::new(),
    };
    Manifest {
        schema: SCHEMA,
        name: name.into(),
        created: 0,
        made_by: "a test".into(),
        notes: None,
        origin: Origin::Commit,
        parts: parts.iter().map(part).collect(),
        machine: None,
        lineage: None,
        safe: vec![Fact::Shareable],
    }
}

/// All names below a directory, sorted.
fn tree(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.strip_prefix(directory).unwrap().display().to_string());
            if !path.is_symlink() {
                pending.extend(path.is_dir().then_some(path));
            }
        }
    }
    names.sort();
    names
}

fn write(draft: &Draft, part: &str) {
    let mut file = draft.create(part).unwrap();
    io::Write::write_all(&mut file, b"x").unwrap();
    draft.finish(&file, part).unwrap();
}

#[test]
fn a_set_and_a_file_are_there_at_once_and_unwritable() {
    let store = tempfile::tempdir().unwrap();
    let draft = Draft::new(store.path(), Path::new("debian/12")).unwrap();
    write(&draft, "ram");
    write(&draft, "state");
    assert!(!store.path().join("debian/12").exists());
    draft.publish_set(&manifest("debian/12", &["ram", "state"])).unwrap();
    let draft = Draft::new(store.path(), Path::new("disk")).unwrap();
    write(&draft, "disk");
    draft.publish_file(&manifest("disk", &["disk"])).unwrap();
    let found = tree(store.path());
    let expected = [
        "debian",
        "debian/12",
        "debian/12/manifest.json",
        "debian/12/ram",
        "debian/12/state",
        "disk",
        "disk.manifest.json",
    ];
    assert_eq!(found, expected);
    for file in ["debian/12/ram", "debian/12/manifest.json", "disk", "disk.manifest.json"] {
        let mode = std::fs::metadata(store.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "{file}");
    }
    for name in ["debian/12", "disk", "debian"] {
        let error = Draft::new(store.path(), Path::new(name)).err().expect(name);
        assert_eq!(error.errno(), Errno::EXIST, "{error}");
    }
    assert_eq!(tree(store.path()), expected);
}

#[test]
fn what_was_not_published_goes_with_its_maker_or_after_it() {
    let store = tempfile::tempdir().unwrap();
    let draft = Draft::new(store.path(), Path::new("a/b")).unwrap();
    write(&draft, "ram");
    // Somebody else at work sweeps no one away who lives.
    let other = Draft::new(store.path(), Path::new("c")).unwrap();
    write(&other, "c");
    assert_eq!(tree(store.path()).len(), 5);
    drop(draft);
    assert_eq!(tree(store.path()).len(), 3, "its own and the directory a");

    let left = store.path().join("a").join(format!("{UNFINISHED}1-0"));
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("ram"), b"half").unwrap();
    drop(Draft::new(store.path(), Path::new("d")).unwrap());
    assert!(!left.exists());
    other.publish_file(&manifest("c", &["c"])).unwrap();
    assert_eq!(tree(store.path()), ["a", "c", "c.manifest.json"]);
}

#[test]
fn of_two_who_publish_one_name_one_does() {
    let store = tempfile::tempdir().unwrap();
    for is_set in [true, false] {
        let name = if is_set { "set" } else { "file" };
        let drafts = [0, 1].map(|_| Draft::new(store.path(), Path::new(name)).unwrap());
        let results = drafts.map(|draft| {
            write(&draft, name);
            match is_set {
                true => draft.publish_set(&manifest(name, &[name])),
                false => draft.publish_file(&manifest(name, &[name])),
            }
        });
        assert!(results[0].is_ok());
        assert_eq!(results[1].as_ref().unwrap_err().errno(), Errno::EXIST);
    }
    assert_eq!(tree(store.path()), ["file", "file.manifest.json", "set", "set/manifest.json", "set/set"]);
}

#[test]
fn what_is_taken_away_can_be_put_back_and_goes_else() {
    let store = tempfile::tempdir().unwrap();
    let at = |name: &str| store.path().join(name);
    std::fs::create_dir(at("set")).unwrap();
    for name in ["set/ram", "set/manifest.json", "f", "f.manifest.json", "bare"] {
        std::fs::write(at(name), b"x").unwrap();
    }
    let before = tree(store.path());
    for name in ["set", "f", "bare"] {
        let draft = Draft::of(store.path(), Path::new(name)).unwrap();
        draft.take_away().unwrap();
        assert!(!at(name).exists());
        draft.put_back().unwrap();
        drop(draft);
        assert_eq!(tree(store.path()), before, "{name}");
    }
    for name in ["set", "f", "bare"] {
        Draft::of(store.path(), Path::new(name)).unwrap().take_away().unwrap();
    }
    assert_eq!(tree(store.path()), [""; 0]);
    let none = Draft::of(store.path(), Path::new("none")).unwrap().take_away().unwrap_err();
    assert_eq!(none.errno(), Errno::NOENT);
}

#[test]
fn no_name_leads_out_of_the_store() {
    let (store, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(outside.path(), store.path().join("link")).unwrap();
    for name in [
        "link/a",
        "../a",
        "/a",
        "",
        ".",
        "templatefs.toml",
        ".templatefs/x",
        "a/manifest.json",
        "b.manifest.json",
    ] {
        assert!(Draft::new(store.path(), Path::new(name)).is_err(), "{name}");
    }
    assert!(Draft::new(store.path(), Path::new(&format!("{UNFINISHED}a/b"))).is_err());
    assert_eq!(tree(outside.path()), [""; 0]);
    assert!(tree(store.path()).iter().all(|name| name == "link" || name == "a"), "{:?}", tree(store.path()));
}
