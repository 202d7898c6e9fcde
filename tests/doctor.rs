//! `templatefs doctor` against the real QEMU, real mounts and this host.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use common::clones::open_directory;
use common::files::error_line;
use common::ground::Ground;
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, binary, is_root, run_as};
use common::qemu::{Starting, id_of, ordinary_user};

const TIME: Duration = Duration::from_secs(240);
const MIB: usize = 1 << 20;

/// As whom QEMU runs here: root may open anything.
fn as_user() -> Command {
    match ordinary_user() {
        Some(user) => {
            let mut command = run_as(id_of(user, "-u"), id_of(user, "-g"), &[]);
            command.arg(binary());
            command
        }
        None => Command::new(binary()),
    }
}

fn report(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let failed = report["level"] == "error";
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{report:#}");
    for finding in report["findings"].as_array().unwrap() {
        let told = finding["why"].is_string() && finding["advice"].is_string();
        assert_eq!(told, finding["level"] != "ok", "{finding:#}");
    }
    report
}

fn diagnosed(line: &[String]) -> Value {
    let output =
        as_user().args(["doctor", "--json", "--", "qemu-system-x86_64"]).args(line).output().unwrap();
    report(&output)
}

fn refusal(report: &Value) -> Option<&str> {
    report["findings"].as_array().unwrap().iter().find_map(|finding| finding["refusal"].as_str())
}

/// Asks the real QEMU, and holds its answer against the doctor's.
fn assert_foretold(line: &[String]) -> Option<String> {
    let report = diagnosed(line);
    let qemu = Starting::spawn(ordinary_user(), |_| line.to_vec()).connected();
    match (refusal(&report), qemu) {
        (None, Ok(_)) => None,
        (Some(expected), Err(said)) => {
            assert!(
                said.contains(&format!("qemu-system-x86_64: {expected}")),
                "{line:?}\n{said}\n{report:#}"
            );
            Some(expected.to_owned())
        }
        (_, other) => panic!("{line:?}: QEMU: {:?}; the doctor: {report:#}", other.err()),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn object(path: &Path, options: &str) -> String {
    format!("memory-backend-file,id=r,size=1M,mem-path={},{options}", path.display())
}

fn mounted_for_qemu() -> Mounted {
    let mounted = Mounted::start(Options::with(if is_root() { &["--allow-other"] } else { &[] }));
    mounted.template("t", &vec![7; MIB]);
    mounted
}

/// The twelve rows of QEMU's table, on each kind of path.
#[test]
fn each_row_is_foretold_on_each_kind_of_path() {
    let _limit = limit(TIME);
    let mounted = mounted_for_qemu();
    let directory = open_directory();
    let plain = directory.path().join("plain");
    fs::write(&plain, vec![7; MIB]).unwrap();
    fs::set_permissions(&plain, Permissions::from_mode(0o444)).unwrap();
    let paths = ["t", "t?rom=off", "t?rom=off&readonly=off"].map(|name| mounted.path(name));
    let mut refused = 0;
    for path in paths.iter().chain([&plain]) {
        for share in ["on", "off"] {
            for readonly in ["on", "off"] {
                for rom in ["on", "off", "auto"] {
                    let options = format!("share={share},readonly={readonly},rom={rom}");
                    let line = ["-machine".into(), "none".into(), "-object".into(), object(path, &options)];
                    refused += usize::from(assert_foretold(&line).is_some());
                }
            }
        }
    }
    // E1 once and E2 twice for each path; the rest are files that may not be written.
    assert!(refused > 4 * 3, "{refused}");
}

#[test]
fn every_refusal_is_foretold_in_qemus_words() {
    let _limit = limit(TIME);
    let mounted = mounted_for_qemu();
    let view = mounted.path("t?rom=off");
    let on_view = |options: &str| object(&view, options);
    let clone = on_view("share=off,readonly=on,rom=off");
    let rom = object(&mounted.path("t"), "readonly=on");
    let machine = words("-machine pc,memory-backend=r -m 1M");
    let with = |head: &[String], object: &str, more: &str| {
        [head, &["-object".into(), object.to_owned()], &words(more)].concat()
    };
    let nvdimm = words("-machine pc,nvdimm=on -m 1M,slots=1,maxmem=1G");
    let plain = |text: &str| words(text);
    let path = view.display();
    for (line, message) in [
        (with(&machine, &clone, ""), None),
        (with(&machine, &on_view("share=on"), ""), None),
        (with(&words("-machine pc,memory-backend=r"), &clone, ""), None),
        (with(&machine, &clone.replace("size=1M", "size=2M"), ""), Some("is too small")),
        (with(&words("-machine pc,memory-backend=r -m 2M"), &clone, ""), Some("does not match")),
        (with(&words("-machine pc,memory-backend=x -m 1M"), &clone, ""), Some("'x' not found")),
        (with(&machine, &clone, "-mem-path /dev/shm"), Some("can't be used together")),
        (with(&machine, &on_view("shared=on"), ""), Some("Invalid parameter")),
        (with(&machine, &on_view("share=maybe"), ""), Some("expects 'on' or 'off'")),
        (with(&machine, &on_view("rom=perhaps"), ""), Some("does not accept")),
        (with(&machine, "memory-backend-file,id=r,size=1M", ""), Some("'mem-path' is missing")),
        (with(&machine, &format!("memory-backend-file,id=r,mem-path={path}"), ""), Some("'size' is missing")),
        (with(&machine, &format!("memory-backend-file,id=r,size=x,mem-path={path}"), ""), Some("size value")),
        (with(&machine, &clone.replace("id=r,", ""), ""), Some("'id' is missing")),
        (with(&machine, &object(&mounted.path("missing"), "readonly=on,rom=off"), ""), Some("No such file")),
        (with(&machine, &object(&mounted.path("missing"), "share=on"), ""), Some("Read-only file system")),
        (with(&machine, &object(&mounted.path("t?colour=red"), "readonly=on"), ""), Some("Invalid argument")),
        (
            with(&machine, &object(&mounted.path("t?rom=on,,readonly=off"), "readonly=on"), ""),
            Some("Invalid argument"),
        ),
        (with(&machine, &object(Path::new("/nowhere/x"), "share=on"), ""), Some("No such file")),
        (with(&machine, &object(&mounted.mountpoint, "readonly=on,rom=off"), ""), Some("Is a directory")),
        (with(&nvdimm, &rom, "-device nvdimm,memdev=r,unarmed=on"), None),
        (with(&nvdimm, &rom, "-device nvdimm,memdev=r"), Some("'unarmed' property must be 'on'")),
        (with(&plain("-machine pc -m 1M"), &rom, "-device nvdimm,memdev=r,unarmed=on"), Some("not enabled")),
        (
            with(&plain("-machine pc,nvdimm=on -m 1M"), &rom, "-device nvdimm,memdev=r,unarmed=on"),
            Some("no slots"),
        ),
        (plain(&format!("-machine pc -m 2M -mem-path {path}")), Some("pc.ram backing store")),
        (plain(&format!("-machine pc -m 1M -mem-path {path}")), None),
    ] {
        let said = assert_foretold(&line);
        let fits = match (&said, message) {
            (None, None) => true,
            (Some(said), Some(message)) => said.contains(message),
            _ => false,
        };
        assert!(fits, "{line:?}: {said:?}, not {message:?}");
    }
}

/// What QEMU does without a word, or with its death.
#[test]
fn what_qemu_does_not_say_is_said() {
    let _limit = limit(TIME);
    let mounted = mounted_for_qemu();
    let directory = open_directory();
    let plain = directory.path().join("plain");
    fs::write(&plain, vec![7; MIB]).unwrap();
    fs::set_permissions(&plain, Permissions::from_mode(0o666)).unwrap();
    mounted.template("empty", b"");
    let zeros = mounted.template("zeros", b"");
    fs::set_permissions(&zeros, Permissions::from_mode(0o644)).unwrap();
    File::options().write(true).open(&zeros).unwrap().set_len(MIB as u64).unwrap();
    mounted.template("long", &vec![7; 2 * MIB]);
    let machine = "-machine pc,memory-backend=r -m 1M -object";
    let at = |name: &str, options: &str| object(&mounted.path(name), options);
    let clone = "share=off,readonly=on,rom=off";
    let blk = "-device vhost-user-blk-pci,chardev=c";
    for (object, more, level, what, advice) in [
        (at("t?rom=off", clone), "", "ok", "a private copy by QEMU", ""),
        (at("t?rom=off", "share=on"), blk, "ok", "other processes may map it", ""),
        (at("t?rom=off", "share=on"), "", "note", "a shared mapping of a private view", clone),
        (at("t?rom=off", "share=off"), "", "warning", "caches what it reads for itself", clone),
        (at("t?rom=off&view=w", clone), "", "warning", "gets into the view w", "share=on"),
        (at("t?rom=off", clone), blk, "error", "share=off, and -device vhost-user-blk-pci", "share=on"),
        (at("t?rom=off", &format!("{clone},prealloc=on")), "", "warning", "copies every page", "prealloc"),
        (at("t", "readonly=on"), "", "error", "RAM would be ROM", "rom=off"),
        (
            at("t?rom=off", clone),
            "-device virtio-balloon-pci,free-page-reporting=on",
            "warning",
            "cannot be punched",
            "leave out free-page-reporting",
        ),
        (
            at("t?rom=off&view=w", "share=on,discard-data=on"),
            "",
            "warning",
            "forgets what is in the view",
            "leave out",
        ),
        (object(&plain, "share=on,discard-data=on"), "", "error", "empties the template", "leave out"),
        (object(&plain, "share=on"), "-incoming defer", "error", "writes the template itself", "?rom=off"),
        (object(&plain, "share=on"), "", "note", "writes the file itself", "?rom=off"),
        (object(&plain, clone), "", "note", "not on a mount of templatefs", "templatefs mount"),
        (at("empty?rom=off", clone), "", "error", "the template is empty", "holds the memory"),
        (at("zeros?rom=off", clone), "", "error", "nothing but zeros", "captured"),
        (at("long?rom=off", clone), "", "warning", "2097152 bytes are used", "size=2097152"),
    ] {
        let line = [words(machine), vec![object.clone()], words(more)].concat();
        let report = diagnosed(&line);
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["what"].as_str().unwrap().contains(what));
        let found = found.unwrap_or_else(|| panic!("{object} {more}: {report:#}"));
        assert_eq!(found["level"], level, "{found:#}");
        assert!(found["advice"].as_str().unwrap_or_default().contains(advice), "{found:#}");
        assert_eq!(refusal(&report), None, "{report:#}");
    }
    // A look leaves nothing behind.
    assert!(common::views::views(&mounted).is_empty());

    let crash = [words(machine), vec![at("t", "readonly=on,prealloc=on")]].concat();
    let report = diagnosed(&crash);
    assert!(report["findings"].to_string().contains("dies of SIGSEGV"), "{report:#}");
    let died = Starting::spawn(ordinary_user(), |_| crash).connected().err().expect("QEMU lives");
    assert!(died.contains("signal: 11"), "{died}");
}

#[test]
fn this_host_is_diagnosed() {
    let _limit = limit(TIME);
    let report = report(&as_user().args(["doctor", "--json"]).output().unwrap());
    let about: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|f| f["about"].as_str().unwrap()).collect();
    for expected in
        ["kernel", "/dev/fuse", "open files", "fs.fuse", "huge pages", "memory", "state directory"]
    {
        assert!(about.contains(&expected), "{expected}: {about:?}");
    }
    let text = as_user().arg("doctor").output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&text.stdout).lines().filter(|line| !line.starts_with(' ')).count(),
        about.len()
    );
}

fn of_mount(mountpoint: &Path) -> Value {
    let output = Command::new(binary()).args(["doctor", "--json"]).arg(mountpoint).output().unwrap();
    report(&output)
}

fn level<'a>(report: &'a Value, about: &str) -> &'a str {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["about"] == about).unwrap()["level"].as_str().unwrap()
}

/// A mount that is well, one whose kernel was told to throttle it, and one whose processes die, one by one.
#[test]
fn a_mount_is_diagnosed_in_health_and_after_its_deaths() {
    let _limit = limit(TIME);
    if !is_root() {
        println!("skipped: an ordinary user's mount has neither passthrough nor tuning");
        return;
    }
    let ground = Ground::new();
    assert!(ground.mount(&["--read-ahead", "1024"]).status.success());
    let mountpoint = ground.at("mnt");
    let report = of_mount(&mountpoint);
    for about in ["service", "processes", "store", "write-back", "read-ahead"] {
        assert_eq!(level(&report, about), "ok", "{report:#}");
    }
    let device = templatefs::mount::device_of(&mountpoint).unwrap();
    let bdi = format!("/sys/class/bdi/{}:{}", device.major, device.minor);
    fs::write(format!("{bdi}/max_ratio"), "1").unwrap();
    fs::write(format!("{bdi}/read_ahead_kb"), "128").unwrap();
    let report = of_mount(&mountpoint);
    assert_eq!((level(&report, "write-back"), level(&report, "read-ahead")), ("warning", "note"));

    let serving = ground.serving();
    kill_process(ground.daemon(), Signal::KILL).unwrap();
    let orphaned = poll(TIME / 4, || {
        Some(of_mount(&mountpoint)).filter(|report| level(report, "processes") == "warning")
    });
    assert!(orphaned.is_some());
    kill_process(serving, Signal::KILL).unwrap();
    let dead =
        poll(TIME / 4, || Some(of_mount(&mountpoint)).filter(|report| level(report, "service") == "error"));
    assert!(dead.is_some());
}

#[test]
fn an_ordinary_users_mount_is_diagnosed_too() {
    let _limit = limit(TIME);
    let mounted = Mounted::start(ordinary_user().map_or_else(Options::default, Options::as_user));
    let output = mounted.command().args(["doctor", "--json"]).arg(&mounted.mountpoint).output().unwrap();
    let report = report(&output);
    assert_eq!((level(&report, "service"), level(&report, "processes")), ("ok", "ok"), "{report:#}");
    assert_eq!(level(&report, "passthrough"), "warning", "{report:#}");
}

#[test]
fn what_cannot_be_diagnosed_is_refused_in_one_line() {
    let _limit = limit(TIME);
    let run = |arguments: &[&str]| Command::new(binary()).arg("doctor").args(arguments).output().unwrap();
    assert!(error_line(&run(&["/"])).contains("no templatefs is mounted there"));
    assert!(error_line(&run(&["/nowhere"])).contains("No such file"));
    assert!(error_line(&run(&["--", "firecracker", "--no-api"])).contains("only QEMU's"));
}
