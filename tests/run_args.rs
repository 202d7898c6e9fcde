//! The options that `templatefs run-args` prints, given to a real QEMU.

mod common;

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use templatefs::manifest::{Machine, Manifest, MemoryBackend, Origin, Part, Role};

use common::clones::{Captured, assert_keeps_its_data, mount_for_guests, publish, work};
use common::files::error_line;
use common::guest::{Guest, Machine as Hardware};
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options};
use common::qemu::{Starting, ordinary_user};
use common::views::{view, views};

const TIME: Duration = Duration::from_secs(240);
const RAM: u64 = Hardware::SMALL.ram_mib << 20;

fn run_args(mounted: &Mounted, template: &str, more: &[&str]) -> Output {
    mounted.command().arg("run-args").arg(mounted.path(template)).args(more).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn words(answer: &Value) -> Vec<String> {
    answer["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The captured guest as a set with a manifest, which has a comma and a quote in its name.
fn publish_set(mounted: &Mounted, captured: &Captured) -> &'static str {
    let set = "it's a,set";
    publish(mounted, &captured.template.ram, &format!("{set}/ram"));
    publish(mounted, &captured.template.state, &format!("{set}/state"));
    let part = |file: &str, role| {
        let size_bytes = fs::metadata(mounted.store.join(set).join(file)).unwrap().len();
        Part { file: file.into(), role, size_bytes, data_bytes: size_bytes, sha256: "0".repeat(64) }
    };
    let memory = MemoryBackend {
        id: "ram".into(),
        part: Some("ram".into()),
        size_bytes: RAM,
        share: true,
        mem_path: None,
        readonly: false,
        merge: true,
        dump: true,
        prealloc: false,
    };
    let machine = Machine {
        vmm: "qemu".into(),
        version: "10.0.2".into(),
        arch: "x86_64".into(),
        kind: "pc".into(),
        memory_bytes: RAM,
        accelerator: std::env::var("TEMPLATEFS_TEST_ACCEL").unwrap_or_else(|_| "tcg".to_owned()),
        cpus: 1,
        cpu: None,
        memory: vec![memory],
        command_line: None,
    };
    let manifest = Manifest {
        schema: 1,
        name: set.into(),
        created: 0,
        made_by: "0.1.0".into(),
        notes: None,
        origin: Origin::Capture,
        parts: vec![part("ram", Role::Ram), part("state", Role::State)],
        machine: Some(machine),
        lineage: None,
        safe: Vec::new(),
    };
    fs::write(mounted.store.join(set).join("manifest.json"), manifest.to_json().unwrap()).unwrap();
    set
}

/// What is said over QMP, each once the one before is done.
fn take_steps(guest: &mut Guest, answer: &Value) {
    for step in answer["steps"].as_array().unwrap() {
        if step["to"].as_str().unwrap().contains("query-migrate") {
            guest.qemu.migrated();
        }
        let arguments = step["body"].get("arguments").cloned().unwrap_or_else(|| json!({}));
        guest.qemu.qmp(step["body"]["execute"].as_str().unwrap(), arguments);
    }
}

#[test]
fn a_captured_set_is_cloned_with_what_is_printed_and_nothing_else() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let set = publish_set(&mounted, captured);
    for (number, more) in
        [&[][..], &["--share", "--vm", "web-1"], &["--view", "web-2"]].into_iter().enumerate()
    {
        let answer = json(&run_args(&mounted, set, &[&["--vmm", "qemu", "--json"], more].concat()));
        let mut guest = captured.template.start_by(ordinary_user(), &words(&answer));
        take_steps(&mut guest, &answer);
        work(&mut guest, number);
        assert_keeps_its_data(&mut guest, number);
        let views = views(&mounted);
        let found = views.iter().find(|view| view.kind == "private" && view.opens > 0).unwrap();
        match number {
            0 => assert_eq!((found.backing.as_str(), found.processes[0].writable), ("template", false)),
            1 => assert_eq!(found.vm.as_ref().map(ToString::to_string).as_deref(), Some("web-1")),
            _ => assert_eq!((found.id.as_str(), found.processes[0].writable), ("web-2", true)),
        }
        guest.qemu.quit();
        let closed =
            poll(TIME, || common::views::views(&mounted).iter().all(|view| view.opens == 0).then_some(()));
        assert!(closed.is_some());
    }
    // What the last guest wrote has stayed in its view, and not in QEMU.
    assert!(view(&mounted, "web-2").private_bytes > 2 << 20);
    captured.assert_unchanged();
}

#[test]
fn what_is_printed_is_one_line_for_a_shell() {
    let _limit = limit(TIME);
    let mounted = Mounted::start(Options::default());
    mounted.template("it's a,template?.ram", &[7; 1 << 20]);
    let name = "it's a,template%3F.ram";
    let expected = words(&json(&run_args(&mounted, name, &["--vmm", "qemu", "--share", "--json"])));
    let text = run_args(&mounted, name, &["--vmm", "qemu", "--share"]);
    let text = String::from_utf8(text.stdout).unwrap();
    let script = format!("printf '%s\\n' {text}");
    let read = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&read.stdout).lines().collect::<Vec<_>>(), expected);
    // QEMU takes them as they are: it is a template of 1 MiB.
    Starting::spawn(None, |_| expected).connected().unwrap();
}

#[test]
fn what_cannot_be_cloned_is_refused_in_one_line() {
    let _limit = limit(TIME);
    let mounted = Mounted::start(Options::default());
    let file = mounted.template("directory/t", b"template");
    let refused = |template: &str, more: &[&str]| error_line(&run_args(&mounted, template, more));
    assert!(refused("missing", &["--vmm", "qemu"]).contains("No such file"));
    assert!(refused("directory", &["--vmm", "qemu"]).contains("without a manifest"));
    assert!(refused("directory/t?rom=off", &["--vmm", "qemu"]).contains("without a query"));
    assert!(refused("directory/t", &["--vmm", "qemu", "--view", ".x"]).contains("--view .x: it is 1 to 64"));
    assert!(
        refused("directory/t", &["--vmm", "qemu", "--backing", "tape"]).contains("overlay, memory or auto")
    );
    assert!(refused("directory/t", &["--vmm", "firecracker"]).contains("--state"));
    let elsewhere = mounted.command().args(["run-args", "--vmm", "qemu"]).arg(file).output().unwrap();
    assert!(error_line(&elsewhere).contains("not on a mount"));
}
