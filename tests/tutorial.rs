//! The tutorial's script, with real guests: once all of it as `demo --vm`, once with a template that is there.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use common::files::error_line;
use common::guest::guest_images;
use common::limit::{Registered, limit, on_expiry, poll};
use common::mounted::{Mounted, Options, binary};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mount-scripts/clone-vms");

/// It ends with this thread, and then cleans up.
fn script(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(program);
    command
}

fn terminated_on_expiry(child: &Child) -> Registered {
    let pid = Pid::from_child(child);
    on_expiry(move || {
        let _ = kill_process(pid, Signal::TERM);
    })
}

#[test]
fn from_nothing_to_clones_and_what_each_costs() {
    let _limit = limit(Duration::from_secs(400));
    let directory = tempfile::tempdir().unwrap();
    let (kernel, _) = guest_images();
    let mut demo = script(binary())
        .args(["demo", "--vm", "3", "--kernel", kernel])
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(directory.path().join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let _terminated = terminated_on_expiry(&demo);
    let said = std::io::read_to_string(demo.stdout.take().unwrap()).unwrap();
    let complaint = fs::read_to_string(directory.path().join("stderr")).unwrap();
    assert!(demo.wait().unwrap().success(), "{said}\n{complaint}");

    let row = |name: &str| -> Vec<&str> {
        let row = said.lines().rev().find(|line| line.starts_with(name));
        let row = row.unwrap_or_else(|| panic!("{name}: {said}"));
        row.split_whitespace().collect()
    };
    // VM VIEWS COST PRIVATE COPIED CACHED SAVED; each guest has written 2 MiB.
    let (copied, shared) = (row("vm-1 "), row("vm-2 "));
    assert_eq!((copied[3], copied[5], shared[4]), ("0", "0", "0"), "{said}");
    let mib =
        |text: &str| text.strip_suffix('M').and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0);
    assert!(mib(copied[4]) >= 2.0 && mib(shared[2]) >= 2.0, "{said}");
    assert_eq!(row("total ")[..4], ["total", "of", "3", "VMs"], "{said}");
    fs::remove_file(directory.path().join("stderr")).unwrap();
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A machine that is captured while it boots: for a clone it is all the same.
fn capture(mounted: &Mounted, directory: &Path, devices: &[&str]) {
    let qmp = directory.join("qmp");
    let ram = directory.join("ram");
    File::create(&ram).unwrap().set_len(128 << 20).unwrap();
    let mut qemu = script("qemu-system-x86_64")
        .args(devices)
        .args(["-m", "128M", "-machine", "pc,memory-backend=ram", "-serial", "null", "-object"])
        .arg(format!("memory-backend-file,id=ram,size=128M,share=on,mem-path={}", ram.display()))
        .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())])
        .spawn()
        .unwrap();
    let up = poll(Duration::from_secs(60), || UnixStream::connect(&qmp).ok());
    drop(up.expect("QEMU's socket"));
    let output = mounted
        .command()
        .args(["capture", "--then", "quit", "--name", "booting", "--qmp"])
        .args([&qmp, &mounted.store])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(qemu.wait().unwrap().success());
}

fn vms(mounted: &Mounted) -> Vec<String> {
    let output = mounted.command().args(["views", "--json"]).arg(&mounted.mountpoint).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let views = list["views"].as_array().unwrap().iter();
    let mut vms: Vec<String> = views.filter_map(|view| Some(view["vm"].as_str()?.to_owned())).collect();
    vms.sort();
    vms
}

#[test]
fn a_template_that_is_there_is_cloned_until_the_script_is_ended() {
    let _limit = limit(Duration::from_secs(300));
    let mounted = Mounted::start(Options::default());
    let directory = tempfile::tempdir().unwrap();
    let (kernel, initrd) = guest_images();
    let devices = ["-nodefaults", "-display", "none", "-kernel", kernel, "-initrd", initrd];
    capture(&mounted, directory.path(), &devices);

    let mut clones = script(SCRIPT)
        .arg("--template")
        .arg(mounted.path("booting"))
        .args(["2", "--"])
        .args(devices)
        .env("TEMPLATEFS", binary())
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _terminated = terminated_on_expiry(&clones);
    let lines = BufReader::new(clones.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said: Vec<String> = Vec::new();
    for line in lines {
        said.push(line);
        if said.last().unwrap().starts_with("They run until") {
            break;
        }
    }
    assert!(said.iter().any(|line| line.starts_with("total of 2 VMs")), "{said:#?}");
    assert_eq!(vms(&mounted), ["vm-1", "vm-2"]);

    kill_process(Pid::from_child(&clones), Signal::TERM).unwrap();
    assert_eq!(clones.wait().unwrap().code(), Some(130));
    // The kernel releases what they had open a moment after their end.
    assert!(poll(Duration::from_secs(30), || vms(&mounted).is_empty().then_some(())).is_some());
    assert!(mounted.path("booting/ram").exists(), "the mount is not the script's");
    let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with("templatefs-clones")));
}

#[test]
fn what_is_missing_is_said_in_one_line_before_anything_is_begun() {
    let _limit = limit(Duration::from_secs(60));
    let directory = tempfile::tempdir().unwrap();
    let demo = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["demo", "--vm"]).args(arguments).env("TMPDIR", directory.path());
        command.output().unwrap()
    };
    let without_kernel = demo(&["--kernel", "/nonexistent/vmlinuz"]);
    let line = error_line(&without_kernel);
    assert!(line.contains("/nonexistent/vmlinuz") && line.contains("--kernel FILE"), "{line}");
    assert!(without_kernel.stdout.is_empty());
    let path = std::env::var_os("PATH").unwrap();
    let bash = std::env::split_paths(&path).map(|path| path.join("bash")).find(|path| path.exists());
    let bash = bash.expect("bash");
    std::os::unix::fs::symlink(bash, directory.path().join("bash")).unwrap();
    let mut command = Command::new(binary());
    let output = command.args(["demo", "--vm"]).env("PATH", directory.path()).output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{line}");
    assert!(line.contains("qemu-system-x86_64 is missing: install") && line.lines().count() == 1, "{line}");
}
