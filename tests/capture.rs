//! `templatefs capture`: a running guest becomes a template, or nothing, and goes on.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::json;

use common::clones::{Captured, TEMPLATING, assert_keeps_its_data, at_once, digest, open_directory, work};
use common::files::{error_line, opened, templatefs, tree};
use common::guest::{Backend, Guest, Machine};
use common::limit::limit;
use common::mounted::{Mounted, Options, binary, is_root};
use common::qemu::ordinary_user;
use common::small::Small;
use templatefs::manifest::{self, Fact, Manifest, Origin, Role};
use templatefs::steps::{CAPTURE, ENVIRONMENT};

const TIME: Duration = Duration::from_secs(240);
const RAM: u64 = Machine::SMALL.ram_mib << 20;
const NAME: &str = "debian/12";

/// A guest that runs on a plain file, as QEMU's own user.
fn guest(directory: &Path) -> Guest {
    let captured = Captured::get();
    let ram = directory.join("guest-ram");
    fs::copy(&captured.template.ram, &ram).unwrap();
    fs::set_permissions(&ram, Permissions::from_mode(0o666)).unwrap();
    captured.template.restore_as(ordinary_user(), Backend::new(ram, "share=on"), None)
}

fn capture(guest: &Guest, store: &Path, name: &str, more: &[&str]) -> Output {
    command(guest, store, name, more).output().unwrap()
}

fn command(guest: &Guest, store: &Path, name: &str, more: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("capture").arg("--qmp").arg(guest.other_qmp());
    command.args(["--name", name]).args(more).arg(store).stdin(Stdio::null());
    command
}

fn found(store: &Path, name: &str) -> Manifest {
    manifest::find(store, Path::new(name)).unwrap().unwrap_or_else(|| panic!("{name}: no manifest")).1
}

/// Everything in a store that is not a directory.
fn files(store: &Path) -> Vec<String> {
    let all = tree(store).into_iter().map(|(path, _)| path).filter(|path| !path.is_dir());
    all.map(|path| path.strip_prefix(store).unwrap().display().to_string()).collect()
}

fn mounted() -> Mounted {
    Mounted::start(Options::with(if is_root() { &["--allow-other"] } else { &[] }))
}

/// A clone of what was captured, through the mount.
fn cloned(mounted: &Mounted, name: &str, options: &'static str) -> Guest {
    let at = |part: &str| mounted.path(&format!("{name}/{part}"));
    let template = Captured::get().template.captured_as(at("ram"), at("state"));
    let ram = Backend::new(mounted.path(&format!("{name}/ram?rom=off")), options);
    template.restore_as(ordinary_user(), ram, None)
}

#[test]
fn a_running_guest_is_captured_and_goes_on_and_its_clones_run() {
    let _limit = limit(TIME);
    let (mounted, directory, _captured) = (mounted(), open_directory(), Captured::get());
    let mut guest = guest(directory.path());
    work(&mut guest, 0);
    let output = capture(&guest, &mounted.store, NAME, &["--notes", "for a test", "--safe", "no-machine-id"]);
    assert!(output.status.success(), "{output:?}");
    // It goes on, and what it does from now on is in no clone.
    assert_keeps_its_data(&mut guest, 0);
    work(&mut guest, 1);

    let manifest = found(&mounted.store, NAME);
    assert_eq!((&*manifest.name, &manifest.origin), (NAME, &Origin::Capture));
    assert_eq!((manifest.notes.as_deref(), &*manifest.safe), (Some("for a test"), &[Fact::NoMachineId][..]));
    let parts: Vec<_> = manifest.parts.iter().map(|part| (&*part.file, part.role)).collect();
    assert_eq!(parts, [("state", Role::State), ("ram", Role::Ram)]);
    for part in &manifest.parts {
        let path = mounted.store.join(NAME).join(&part.file);
        assert_eq!(digest(&path), part.sha256, "{part:?}");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (part.size_bytes, 0o444));
    }
    let ram = manifest.part("ram").unwrap();
    assert!(ram.size_bytes == RAM && ram.data_bytes > 8 << 20 && ram.data_bytes < RAM, "{ram:?}");
    let machine = manifest.machine.unwrap();
    assert!(machine.kind.starts_with("pc-i440fx-"), "{machine:?}");
    assert_eq!((&*machine.vmm, &*machine.arch, &*machine.accelerator), ("qemu", "x86_64", "tcg"));
    assert_eq!((machine.memory_bytes, machine.cpus, machine.cpu.as_deref()), (RAM, 1, Some("qemu64")));
    let backend = &machine.memory[0];
    assert_eq!((&*backend.id, backend.part.as_deref(), backend.share), ("ram", Some("ram"), true));
    assert!(machine.command_line.unwrap().iter().any(|word| word.contains("memory-backend-file")));

    let before = digest(&mounted.store.join("debian/12/ram"));
    let ways = [TEMPLATING, "share=on"];
    at_once(ways.to_vec(), |number, options| {
        let mut clone = cloned(&mounted, NAME, options);
        assert_keeps_its_data(&mut clone, 0);
        work(&mut clone, 2 + number);
    });
    assert_keeps_its_data(&mut guest, 1);
    assert_eq!(digest(&mounted.store.join("debian/12/ram")), before);

    let again = capture(&guest, &mounted.store, NAME, &[]);
    assert!(error_line(&again).contains("templatefs rm"), "{again:?}");
    assert_keeps_its_data(&mut guest, 1);
}

#[test]
fn a_clone_on_a_view_is_captured_whether_or_not_the_view_has_a_name() {
    let _limit = limit(TIME);
    let (mounted, captured) = (mounted(), Captured::get());
    common::clones::publish(&mounted, &captured.template.ram, "ram");
    for (number, path) in ["ram?rom=off", "ram?rom=off&view=author"].into_iter().enumerate() {
        let name = format!("captured/{number}");
        let ram = Backend::new(mounted.path(path), "share=on");
        let mut guest = captured.template.restore_as(ordinary_user(), ram, None);
        work(&mut guest, number);
        let output = capture(&guest, &mounted.store, &name, &["--then", "quit"]);
        assert!(output.status.success(), "{path}: {output:?}");
        guest.qemu.event("SHUTDOWN", Duration::from_secs(30));
        let mut clone = cloned(&mounted, &name, "share=on");
        assert_keeps_its_data(&mut clone, number);
    }
    captured.assert_unchanged();
}

/// One that a private mapping copied is in QEMU's memory and in no file: a template of it would be another guest's.
#[test]
fn a_machine_whose_memory_is_not_shared_is_refused_and_goes_on() {
    let _limit = limit(TIME);
    let (store, captured) = (open_directory(), Captured::get());
    let ram = Backend::new(&captured.template.ram, TEMPLATING);
    let mut guest = captured.template.restore_as(ordinary_user(), ram, None);
    let line = error_line(&capture(&guest, store.path(), NAME, &[])).to_owned();
    assert!(line.contains("share=off") && line.contains("memory-backend-file,id=ram,share=on"), "{line}");
    assert!(files(store.path()).is_empty());
    work(&mut guest, 0);
    let line = error_line(&capture(&guest, store.path(), NAME, &["--disk", "root"]));
    assert!(line.contains("PART=FILE"), "{line}");
    let elsewhere = templatefs(["capture", "--qmp", "/nonexistent/qmp", "--name", "a", "/tmp"]);
    assert!(error_line(&elsewhere).contains("/nonexistent/qmp"));
}

#[test]
fn a_fact_that_qemu_knows_to_be_untrue_is_refused() {
    let _limit = limit(TIME);
    let (store, directory) = (open_directory(), open_directory());
    let guest = guest(directory.path());
    let line = error_line(&capture(&guest, store.path(), NAME, &["--safe", "vmgenid"])).to_owned();
    assert!(line.contains("-device vmgenid"), "{line}");
    assert!(files(store.path()).is_empty());
}

/// Killed while the guest stood still, a capture left it standing, or half a template in the store.
#[test]
fn killed_at_any_step_it_leaves_a_guest_that_goes_on_and_no_template() {
    let _limit = limit(TIME);
    if !cfg!(debug_assertions) {
        println!("skipped: the steps are in debug builds only");
        return;
    }
    let (mounted, directory, _captured) = (mounted(), open_directory(), Captured::get());
    let mut guest = guest(directory.path());
    let armed = directory.path().join("armed");
    for (number, step) in CAPTURE.into_iter().enumerate() {
        fs::write(&armed, step).unwrap();
        let output = command(&guest, &mounted.store, NAME, &[]).env(ENVIRONMENT, &armed).output().unwrap();
        assert_eq!(output.status.code(), None, "{step}: {output:?}");
        // Whoever it was that had it go on.
        assert_eq!(guest.ok(&format!("echo {number}")), number.to_string());
        assert!(fs::read_dir(mounted.path("debian")).unwrap().next().is_none(), "{step}: served");
        let left = files(&mounted.store);
        assert!(left.iter().all(|file| file.starts_with("debian/.templatefs-new-")), "{step}: {left:?}");
        for file in &left {
            let path = mounted.path(file);
            assert_eq!(File::open(&path).unwrap_err().raw_os_error(), Some(libc::ENOENT), "{file}");
        }
    }
    let status = guest.qemu.qmp("query-migrate-capabilities", json!({}));
    let ignored = status.as_array().unwrap().iter().find(|known| known["capability"] == "x-ignore-shared");
    assert_eq!(ignored.unwrap()["state"], true, "as the tests had set it");
    let output = capture(&guest, &mounted.store, NAME, &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files(&mounted.store), ["debian/12/manifest.json", "debian/12/ram", "debian/12/state"]);
    work(&mut cloned(&mounted, NAME, "share=on"), 1);
}

#[test]
fn without_room_there_is_no_template_and_the_guest_goes_on() {
    let _limit = limit(TIME);
    if !is_root() {
        println!("skipped: needs root to mount a small tmpfs");
        return;
    }
    let (small, directory) = (Small::of_mib(8), open_directory());
    let mut guest = guest(directory.path());
    let line = error_line(&last_line(capture(&guest, &small.path, NAME, &[]))).to_owned();
    assert!(line.contains("no room") && line.contains("No space left"), "{line}");
    assert!(files(&small.path).is_empty(), "{:?}", files(&small.path));
    work(&mut guest, 0);

    // Not even for the devices.
    fs::remove_file(small.fill()).unwrap();
    let filler = small.fill();
    let line = error_line(&last_line(capture(&guest, &small.path, "other", &[]))).to_owned();
    assert!(line.starts_with("templatefs: "), "{line}");
    fs::remove_file(filler).unwrap();
    assert!(files(&small.path).is_empty(), "{:?}", files(&small.path));
    work(&mut guest, 1);
}

/// What was done before it failed is a line each.
fn last_line(mut output: Output) -> Output {
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().find(|line| line.starts_with("templatefs: ")).unwrap_or_default();
    output.stderr = format!("{last}\n").into_bytes();
    output
}

/// Whatever instant it is at when its guest dies: the template is whole or not there.
#[test]
fn when_qemu_dies_the_template_is_whole_or_not_there() {
    let _limit = limit(TIME);
    let (store, directory) = (open_directory(), open_directory());
    let mut guest = guest(directory.path());
    let running = command(&guest, store.path(), NAME, &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    guest.qemu.event("STOP", Duration::from_secs(60));
    let pid = rustix::process::Pid::from_raw(guest.qemu.pid() as i32).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let output = running.wait_with_output().unwrap();
    if output.status.success() {
        let manifest = found(store.path(), NAME);
        for part in &manifest.parts {
            assert_eq!(digest(&store.path().join(NAME).join(&part.file)), part.sha256);
        }
    } else {
        assert!(files(store.path()).is_empty(), "{:?}", files(store.path()));
        error_line(&last_line(output));
    }
}

#[test]
fn a_disk_is_a_part_too() {
    let _limit = limit(TIME);
    let (store, directory) = (open_directory(), open_directory());
    let guest = guest(directory.path());
    let disk = directory.path().join("disk.img");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&opened(&disk), b"root", 8192).unwrap();
    let argument = format!("root={}", disk.display());
    let output = capture(&guest, store.path(), NAME, &["--disk", &argument]);
    assert!(output.status.success(), "{output:?}");
    let manifest = found(store.path(), NAME);
    let part = manifest.part("root").unwrap();
    assert_eq!((part.role, part.size_bytes, part.data_bytes), (Role::Disk, 1 << 20, 4096));
    assert_eq!(digest(&store.path().join("debian/12/root")), digest(&disk));
}
