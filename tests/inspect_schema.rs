//! docs/INSPECT.md against a real mount: each documented field is there, and each field that is
//! there is documented.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use common::files::{SOON, opened};
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, binary};
use serde_json::Value;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/INSPECT.md");

/// The names in the first column of the table below a heading, and those that may be null.
fn documented(heading: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = fs::read_to_string(DOCUMENT).unwrap();
    let below = text.split(&format!("\n### {heading}\n")).nth(1).expect(heading);
    let rows = below.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `"));
    let (mut names, mut nullable) = (BTreeSet::new(), BTreeSet::new());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{row}");
        for name in cells[0].split('`').skip(1).step_by(2) {
            if !cells[3].is_empty() {
                nullable.insert(name.to_owned());
            }
            assert!(names.insert(name.to_owned()), "{heading}: {row}");
        }
    }
    (names, nullable)
}

/// Both directions; and what is never null is not.
fn check(heading: &str, value: &Value) {
    let (names, nullable) = documented(heading);
    let fields = value.as_object().unwrap_or_else(|| panic!("{heading}: {value}"));
    let found: BTreeSet<String> = fields.keys().cloned().collect();
    assert_eq!(found, names, "{heading}");
    for (name, value) in fields {
        assert!(!value.is_null() || nullable.contains(name), "{heading}: {name} is null");
    }
}

#[test]
fn the_documented_fields_are_those_of_a_real_mount() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("debian/12.ram", &[1; 64 * 4096]);
    let view = File::options()
        .read(true)
        .write(true)
        .open(mounted.path("debian/12.ram?rom=off&view=v&vm=web-1"))
        .unwrap();
    view.write_all_at(&[7; 4096], 0).unwrap();
    let read = |name: &str| fs::read_to_string(mounted.path(".templatefs").join(name)).unwrap();

    let views: Value = serde_json::from_str(&read("views.json")).unwrap();
    assert_eq!(views["schema"], 1);
    let listed = &views["views"][0];
    check("A view", listed);
    check("opener", &listed["opener"]);
    check("A process", &listed["processes"][0]);
    let templates: Value = serde_json::from_str(&read("templates.json")).unwrap();
    assert_eq!(templates["schema"], 1);
    check("A template", &templates["templates"][0]);

    let view = File::options().read(true).write(true).open(mounted.path("debian/12.ram?rom=off")).unwrap();
    view.write_all_at(&[7; 4096], 0).unwrap();
    drop(view);
    let profile = poll(SOON, || {
        let list: Value = serde_json::from_str(&read("profiles.json")).unwrap();
        assert_eq!(list["schema"], 1);
        list["profiles"].get(0).cloned()
    });
    check("A profile", &profile.expect("what was learned"));

    let status = read("views/v/status");
    let (names, _) = documented("A view");
    let keys: BTreeSet<String> = status.lines().map(|line| line.split(':').next().unwrap().into()).collect();
    let expected = names.iter().map(|name| if name == "processes" { "process".into() } else { name.clone() });
    assert_eq!(keys, expected.collect(), "{status}");

    let output = Command::new(binary()).args(["views", "--json"]).arg(&mounted.mountpoint).output().unwrap();
    let mut printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["schema"], 1);
    let mountpoint = printed["views"][0].as_object_mut().unwrap().remove("mountpoint");
    assert_eq!(mountpoint, mounted.mountpoint.to_str().map(Value::from));
    check("A view", &printed["views"][0]);

    let output = Command::new(binary())
        .args(["views", "--by-vm", "--json"])
        .arg(&mounted.mountpoint)
        .output()
        .unwrap();
    let by_vm: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&by_vm["schema"], &by_vm["vms"][0]["vm"]), (&1.into(), &"web-1".into()));
    check("A VM", &by_vm["vms"][0]);
}

#[test]
fn so_are_those_of_a_view_that_is_set_aside() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = Mounted::start(Options::default());
    mounted.template("t", &[1; 4096]);
    drop(opened(&mounted.path("t?rom=off&view=v")));
    assert!(mounted.stop().success());
    fs::write(mounted.state.join("views/n-v.map"), b"garbage").unwrap();
    mounted.mount();
    let heading = "A view that is set aside";
    let text = fs::read(mounted.path(".templatefs/views.json")).unwrap();
    let told: Value = serde_json::from_slice(&text).unwrap();
    check(heading, &told["set_aside"][0]);
    let output = Command::new(binary()).args(["views", "--json"]).arg(&mounted.mountpoint).output().unwrap();
    let mut printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mountpoint = printed["set_aside"][0].as_object_mut().unwrap().remove("mountpoint");
    assert_eq!(mountpoint, mounted.mountpoint.to_str().map(Value::from));
    check(heading, &printed["set_aside"][0]);
}

#[test]
fn the_documented_control_files_are_there_and_have_the_documented_lines() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    mounted.template("a", &[1; 16 * 4096]);
    let view = File::options().read(true).write(true).open(mounted.path("a?rom=off&view=v")).unwrap();
    view.write_all_at(&[7; 2 * 4096], 4 * 4096).unwrap();
    let control = mounted.path(".templatefs");
    let text = fs::read_to_string(DOCUMENT).unwrap();
    let table = text.split("| file | what |\n").nth(1).unwrap();
    let rows =
        table.lines().take_while(|line| line.starts_with('|')).filter_map(|line| line.split('`').nth(1));
    let documented: BTreeSet<String> = rows.map(|name| name.replace("ID", "v")).collect();
    let names = |directory: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(control.join(directory)).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let teacher = File::options().write(true).open(mounted.path("a?rom=off")).unwrap();
    teacher.write_all_at(b"x", 0).unwrap();
    drop(teacher);
    let profiles = poll(SOON, || Some(names("profiles")).filter(|names| names.len() == 2));
    let is_key = |name: &str| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let kind = |name: String| if is_key(&name) { "profiles/KEY".into() } else { format!("profiles/{name}") };
    let mut found = names("");
    assert!(found.remove("views") && found.remove("profiles"));
    found.extend(profiles.expect("what was learned").into_iter().map(kind));
    found.extend(names("views/v").into_iter().map(|name| format!("views/v/{name}")));
    assert_eq!(found, documented);
    let pages = fs::read_to_string(control.join("views/v/pages")).unwrap();
    assert_eq!(pages, "0 4 template\n4 2 private\n6 10 template\n");
    let resident = fs::read_to_string(control.join("views/v/resident")).unwrap();
    assert_eq!(resident, "", "nobody maps it");
}
