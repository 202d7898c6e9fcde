//! Who reads a template: in root's mount the kernel itself, where nothing can be written; in any other the
//! daemon, with the same outcome.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use common::files::{assert_refused, bytes_at, open_ro, open_rw, reopened};
use common::limit::{Registered, limit, on_expiry};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};

/// More than the kernel reads ahead.
const LENGTH: usize = 2 << 20;

fn content() -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| (0..LENGTH).map(|at| (at / 4096 * 7 + at) as u8).collect())
}

/// Linux 6.9, and a kernel that was built with it.
fn passes_through(mounted: &Mounted) -> bool {
    is_root() && !mounted.log().contains("read through the daemon")
}

/// Evidence: with the daemon dead, whatever was never read before can still be read.
#[test]
fn rom_and_read_only_views_are_read_without_the_daemon() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = Mounted::start(Options::default());
    let (content, template) = (content(), mounted.template("t", content()));
    if !passes_through(&mounted) {
        println!("skipped: passthrough needs root and Linux 6.9");
        return;
    }
    let rom = open_ro(mounted.path("t")).unwrap();
    let labelled = open_ro(mounted.path("t?vm=web-1")).unwrap();
    let view = open_ro(mounted.path("t?rom=off")).unwrap();
    let rom_mapped = Mapping::read_only(&rom).unwrap();
    let view_mapped = Mapping::private(&view).unwrap();
    let shared = Mapping::read_only(&view).unwrap();
    let writable = open_rw(mounted.path("t?rom=off")).unwrap();
    // One that is used already goes on; FUSE itself would refuse new opens.
    kill_process(mounted.daemon(), Signal::KILL).unwrap();
    mounted.wait();
    for page in [0, 100, 300, 511] {
        let at = page * 4096;
        let wanted = &content[at..at + 4096];
        for file in [&rom, &labelled, &view] {
            assert_eq!(bytes_at(file, at as u64, 4096).unwrap(), wanted, "page {page}");
        }
        for mapping in [&rom_mapped, &view_mapped, &shared] {
            assert_eq!(mapping.read(at, 4096), wanted, "page {page}, mapped");
        }
    }
    view_mapped.write(0, b"copied by the VMM");
    assert_eq!(view_mapped.read(0, 17), b"copied by the VMM");
    assert_eq!(rom_mapped.read(0, 17), content[..17]);
    assert_refused(bytes_at(&writable, 0, 1), Errno::NOTCONN, "a writable view is the daemon's");
    drop(rom);
    assert_eq!(rom_mapped.read(4096 * 3, 16), content[4096 * 3..][..16]);
    assert_eq!(fs::read(template).unwrap(), content);
}

/// Opens, stores to and syncs writable views in every way there is.
fn writes_everywhere(mounted: &Mounted) {
    // A template that is passed through already, whose views must not be.
    let rom = open_ro(mounted.path("t")).unwrap();
    let read_only = open_ro(mounted.path("t?rom=off")).unwrap();
    let copied = Mapping::private(&read_only).unwrap();
    copied.write(8192, b"private copy");
    assert_refused(reopened(&read_only, true), Errno::ACCESS, "a writable open of a read-only view");
    assert_refused(reopened(&rom, true), Errno::ACCESS, "a writable open of ROM");
    for name in ["t?rom=off", "t?rom=off&view=v", "t?rom=off&vm=m", "t?readonly=off"] {
        let view = match open_rw(mounted.path(name)) {
            Err(error)
                if Errno::from_io_error(&error) == Some(Errno::ACCESS) && name.contains("readonly") =>
            {
                continue;
            }
            opened => opened.unwrap(),
        };
        let memory = Mapping::shared(&view).unwrap();
        memory.write(4096, b"stored");
        memory.write(LENGTH - 6, b"stored");
        memory.sync_all().unwrap();
        view.write_all_at(b"written", 0).unwrap();
        view.sync_all().unwrap();
        let again = reopened(&view, false).unwrap();
        let mapped_again = Mapping::read_only(&again).unwrap();
        assert_eq!(mapped_again.read(0, 7), b"written", "{name}");
        assert_eq!(bytes_at(&again, 4096, 6).unwrap(), b"stored", "{name}");
        drop(view);
        memory.write(12_288, b"after close");
        memory.sync_all().unwrap();
        assert_eq!(bytes_at(&again, 12_288, 11).unwrap(), b"after close", "{name}");
    }
    assert_refused(File::create(mounted.path("t")), Errno::ACCESS, "ROM");
    let reader = Mapping::read_only(&rom).unwrap();
    assert_eq!(reader.read(0, 16), content()[..16]);
}

#[test]
fn no_writable_open_is_ever_passed_through() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    for mode in [0o444, 0o666] {
        let template = mounted.template("t", content());
        fs::set_permissions(&template, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        writes_everywhere(&mounted);
        assert!(fs::read(&template).unwrap() == content(), "the template was written, mode {mode:o}");
        fs::remove_file(mounted.path("t?rom=off&view=v")).unwrap();
    }
}

#[test]
fn an_ordinary_users_mount_behaves_alike_without_passthrough() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("no_writable_open_is_ever_passed_through");
}

/// A mount of some filesystem, gone with this value.
struct Filesystem {
    path: PathBuf,
    _directory: TempDir,
    _on_expiry: Registered,
}

impl Filesystem {
    /// Err(why) where this machine cannot mount it.
    fn mount(kind: &str) -> Result<Filesystem, String> {
        let directory = tempfile::Builder::new().prefix("templatefs-test-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["there", "lower", "upper", "work"] {
            fs::create_dir(at(name)).unwrap();
        }
        let mut command = Command::new("mount");
        command.args(["-t", kind]);
        match kind {
            "tmpfs" => command.args(["-o", "size=64m", "templates"]),
            "overlay" => {
                let layer = |name: &str| at(name).display().to_string();
                let (lower, upper, work) = (layer("lower"), layer("upper"), layer("work"));
                command.args([
                    "-o",
                    &format!("lowerdir={lower},upperdir={upper},workdir={work}"),
                    "templates",
                ])
            }
            _ => {
                File::create(at("image")).unwrap().set_len(320 << 20).unwrap();
                let made = Command::new(format!("mkfs.{kind}")).arg("-q").arg(at("image")).output();
                if !made.as_ref().is_ok_and(|made| made.status.success()) {
                    return Err(format!("{made:?}"));
                }
                command.args(["-o", "loop"]).arg(at("image"))
            }
        };
        let path = at("there");
        let output = command.arg(&path).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let detached = path.clone();
        let registered = on_expiry(move || detach(&detached));
        Ok(Filesystem { path, _directory: directory, _on_expiry: registered })
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        detach(&self.path);
    }
}

fn detach(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).status();
}

/// The store itself may lie on any of these, and its templates are the same.
#[test]
fn templates_may_lie_on_any_filesystem() {
    let _limit = limit(Duration::from_secs(120));
    if !is_root() {
        println!("skipped: needs root to mount filesystems");
        return;
    }
    for kind in ["tmpfs", "ext4", "xfs", "overlay"] {
        let filesystem = match Filesystem::mount(kind) {
            Ok(filesystem) => filesystem,
            Err(why) => {
                println!("{kind} skipped: {}", why.trim());
                continue;
            }
        };
        let mut mounted = Mounted::start(Options::default());
        assert!(mounted.stop().success());
        fs::remove_dir(&mounted.store).unwrap();
        mounted.store = filesystem.path.clone();
        mounted.mount();
        let template = mounted.template("t", content());
        assert!(fs::read(mounted.path("t")).unwrap() == content(), "{kind}");
        assert!(fs::read(mounted.path("t?rom=off")).unwrap() == content(), "{kind}");
        writes_everywhere(&mounted);
        assert!(fs::read(&template).unwrap() == content(), "{kind}: the template was written");
        let rom = Mapping::read_only(&open_ro(mounted.path("t")).unwrap()).unwrap();
        fs::remove_file(&template).unwrap();
        assert_eq!(rom.read(LENGTH - 5000, 16), content()[LENGTH - 5000..][..16], "{kind}: pinned");
        println!(
            "{kind}: {}",
            if passes_through(&mounted) { "passed through" } else { "read by the daemon" }
        );
    }
}
