//! The binary as a user meets it: what it prints where, and its exit codes. Needs no mount.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const COMMANDS: [&str; 23] = [
    "mount",
    "umount",
    "upgrade",
    "resolve",
    "ls",
    "views",
    "top",
    "map",
    "profile",
    "discard",
    "run-args",
    "doctor",
    "capture",
    "import",
    "verify",
    "rm",
    "commit",
    "fork",
    "diff",
    "export",
    "demo",
    "completions",
    "man",
];

fn templatefs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_templatefs"))
}

fn run<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Output {
    templatefs().args(args).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The failure, which is exit code 1 and one line.
fn error_line(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = std::str::from_utf8(&output.stderr).unwrap();
    assert!(text.starts_with("templatefs: ") && text.ends_with('\n'), "{text:?}");
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text.trim_end()
}

#[test]
fn every_help_ends_with_an_example_and_fits_100_columns() {
    let helps = std::iter::once(vec!["--help"]).chain(COMMANDS.map(|command| vec![command, "--help"]));
    for args in helps {
        let output = run(&args);
        let text = stdout(&output);
        assert!(output.status.success(), "{args:?}");
        let example = text.rsplit_once("Example:\n").unwrap_or_else(|| panic!("{args:?}: {text}")).1;
        let command = if args.len() == 1 { "" } else { args[0] };
        assert!(example.starts_with(&format!("  templatefs {command}")), "{args:?}: {example}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [&["resovle", "x"][..], &["resolve"], &["ls", "--nothing", "/"], &["/store-alone"], &[]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn resolve_explains_in_words() {
    let output = run(["resolve", "debian/12.ram?rom=off&view=web-1"]);
    let text = stdout(&output);
    assert!(output.status.success());
    for part in
        ["template    debian/12.ram\n", "kind        private\n", "view        web-1\n", "-object 'memory-"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn resolve_speaks_json() {
    let output = run(["resolve", "--json", "a?rom=off&vm=x"]);
    assert!(output.status.success());
    let value = json(&output);
    assert_eq!((&value["schema"], &value["kind"], &value["vm"]), (&1.into(), &"private".into(), &"x".into()));
    assert!(value["qemu"].as_array().is_some_and(|lines| lines.len() == 3), "{value}");

    let refused = run(["resolve", "a?share=on&rom=off", "--json"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(json(&refused)["refusal"]["errno"], "EINVAL");
}

#[test]
fn resolve_refuses_with_exit_code_1_and_says_which_key_to_change() {
    for (path, words) in [
        ("a?readonly=off&rom=on", "property 'rom' = 'on' is not supported with 'readonly' = 'off'"),
        ("a?view=x", "add rom=off"),
        ("a?colour=red", "unknown key `colour`"),
        ("a?", "empty pair"),
    ] {
        let output = run(["resolve", path]);
        assert_eq!(output.status.code(), Some(1), "{path}");
        assert!(stdout(&output).contains(words), "{path}: {}", stdout(&output));
    }
    let odd = run([OsStr::new("resolve"), OsStr::from_bytes(b"\xff\n?rom=off")]);
    assert!(odd.status.success() && stdout(&odd).contains("\\xff\\n"), "{odd:?}");
}

/// A store with everything in it that is a template, and much that is none.
fn store() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for sub in ["debian", ".templatefs", "empty"] {
        fs::create_dir(root.join(sub)).unwrap();
    }
    let sparse = File::create(root.join("debian/12.ram")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 65536], 1 << 20).unwrap();
    sparse.set_permissions(Permissions::from_mode(0o440)).unwrap();
    let odd: [&[u8]; 4] = [b"what?", b"50%", b"\xff\xfe", b"new\nline"];
    for name in odd {
        fs::write(root.join(OsStr::from_bytes(name)), b"x").unwrap();
    }
    fs::write(root.join(".templatefs/version"), b"x").unwrap();
    let fifo = root.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    for (target, link) in [
        ("../what?", "debian/inside"),
        ("debian", "to-directory"),
        ("fifo", "to-fifo"),
        ("nowhere", "dangling"),
        ("/etc/passwd", "outside"),
        ("../../../../../../etc/passwd", "debian/outside"),
        ("circle", "circle"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    dir
}

fn listed(path: &Path) -> Vec<Value> {
    let output = run([OsStr::new("ls"), path.as_os_str(), OsStr::new("--json")]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let value = json(&output);
    assert_eq!(value["schema"], 1);
    value["templates"].as_array().unwrap().clone()
}

#[test]
fn ls_lists_what_a_mount_would_serve_and_never_blocks() {
    let store = store();
    let templates = listed(store.path());
    let names: Vec<_> = templates.iter().map(|template| template["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["50%25", "debian/12.ram", "debian/inside", "new\\nline", "what%3F", "\\xff\\xfe"]);
}

#[test]
fn ls_tells_data_from_holes() {
    let store = store();
    let templates = listed(store.path());
    let ram = templates.iter().find(|template| template["name"] == "debian/12.ram").unwrap();
    let (size, data) = (ram["size_bytes"].as_u64().unwrap(), ram["data_bytes"].as_u64().unwrap());
    assert_eq!((size, ram["mode"].as_str()), (64 << 20, Some("0440")));
    assert!((65536..1 << 20).contains(&data), "{data}");
    assert_eq!(ram["hole_bytes"].as_u64(), Some(size - data));
    assert!(ram["readable_by"].as_str().unwrap().contains("group "), "{ram}");
}

#[test]
fn ls_as_text_is_one_line_each_and_a_total() {
    let store = store();
    let output = run([OsStr::new("ls"), store.path().as_os_str()]);
    let text = stdout(&output);
    assert!(output.status.success());
    assert_eq!(text.lines().count(), 8, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(text.lines().last().unwrap().trim_start().starts_with("64M "), "{text}");
    assert!(text.ends_with("6 templates\n"), "{text}");

    let empty = run([OsStr::new("ls"), store.path().join("empty").as_os_str()]);
    assert!(stdout(&empty).ends_with("0 templates\n"), "{empty:?}");
}

#[test]
fn ls_of_what_is_no_directory_is_one_line() {
    let store = store();
    for name in ["fifo", "missing", "new\nline"] {
        let output = run([OsStr::new("ls"), store.path().join(name).as_os_str()]);
        assert!(output.stdout.is_empty());
        error_line(&output);
    }
}

/// Root may open everything: the caller must be someone else to see what is unknown.
#[test]
fn ls_shows_unknown_data_as_unknown_and_goes_on_past_a_closed_directory() {
    let store = store();
    let closed = store.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(store.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(store.path().join("debian/12.ram"), Permissions::from_mode(0o000)).unwrap();

    let mut command = templatefs();
    if rustix::process::geteuid().is_root() {
        // The binary may lie where only root may go.
        let copy = store.path().parent().unwrap().join(format!("templatefs-cli-{}", std::process::id()));
        fs::copy(env!("CARGO_BIN_EXE_templatefs"), &copy).unwrap();
        command = Command::new(&copy);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
    }
    let output =
        command.args([OsStr::new("ls"), store.path().as_os_str(), OsStr::new("--json")]).output().unwrap();
    if rustix::process::geteuid().is_root() {
        fs::remove_file(command.get_program()).unwrap();
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();

    assert!(error_line(&output).starts_with("templatefs: closed: Permission denied"));
    let value = json(&output);
    let templates = value["templates"].as_array().unwrap();
    assert_eq!(templates.len(), 6);
    let ram = templates.iter().find(|template| template["name"] == "debian/12.ram").unwrap();
    assert!(ram["data_bytes"].is_null() && ram["hole_bytes"].is_null(), "{ram}");
    assert_eq!(ram["readable_by"], "root");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let store = store();
    let mut child = templatefs()
        .arg("ls")
        .arg(store.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_full_stdout_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = templatefs().args(["resolve", "a"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert!(error_line(&output).starts_with("templatefs: stdout: "));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(["completions", shell]);
        assert!(output.status.success());
        for command in COMMANDS {
            assert!(stdout(&output).contains(command), "{shell}: {command}");
        }
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(&run(["completions", "bash"]).stdout).unwrap();
    assert!(bash.wait().unwrap().success());
}

#[test]
fn man_writes_a_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("share/man1");
    assert!(run([OsStr::new("man"), target.as_os_str()]).status.success());
    let mut pages: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    pages.sort();
    let mut expected: Vec<_> =
        COMMANDS.map(|command| OsString::from(format!("templatefs-{command}.1"))).into();
    expected.push("templatefs.1".into());
    expected.sort();
    assert_eq!(pages, expected);
    for page in pages {
        let text = fs::read_to_string(target.join(&page)).unwrap();
        assert!(text.contains("Example:"), "{page:?}");
    }
    fs::write(dir.path().join("file"), b"").unwrap();
    error_line(&run([OsStr::new("man"), dir.path().join("file/below").as_os_str()]));
}
