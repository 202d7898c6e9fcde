//! Real guests on plain files: what QEMU does by itself. The mount has to serve the same guests.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use common::guest::{Backend, Guest, Machine, Template};
use common::limit::{limit, poll};
use common::qemu::ordinary_user;
use tempfile::TempDir;

const TIME: Duration = Duration::from_secs(240);
const PRIVATE: &str = "share=off,readonly=on,rom=off";

/// A directory that an ordinary user's QEMU can look into.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

fn digest(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// A writable copy of the template's RAM, holes included.
fn copy_of(template: &Template, directory: &TempDir) -> PathBuf {
    let copy = directory.path().join("copy");
    let mut cp = Command::new("cp");
    cp.arg("--sparse=always").args([&template.ram, &copy]);
    assert!(cp.status().unwrap().success());
    fs::set_permissions(&copy, Permissions::from_mode(0o644)).unwrap();
    copy
}

/// Writes data that no other guest has, and reads it back.
fn work(guest: &mut Guest, number: usize) {
    guest.ok(&format!("yes clone {number} | head -c 300000 >mine"));
    guest.ok("for i in 1 2 3 4 5 6 7 8; do cat mine; done >big");
    assert_eq!(guest.ok("head -n 1 big"), format!("clone {number}"));
    let whole = format!("300000 big: {}", guest.ok("head -c 300000 big | md5sum"));
    let mine = format!("300000 big: {}", guest.ok("md5sum <mine"));
    assert_eq!(whole, mine);
    assert_eq!(guest.ok("wc -c <big"), "2400000");
    assert_eq!(guest.sh("echo a; (exit 7)"), (7, "a\n".to_owned()));
}

#[test]
fn eight_clones_of_an_unwritable_template_at_once() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let template = &Template::make(directory.path(), Machine::SMALL, None);
    let before = digest(&template.ram);
    let ram = Backend { path: &template.ram, options: PRIVATE };
    let all_run = Barrier::new(8);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let all_run = &all_run;
            scope.spawn(move || {
                let mut guest = template.restore_as(ordinary_user(), ram, None);
                all_run.wait();
                work(&mut guest, number);
                all_run.wait();
                assert_eq!(guest.ok("head -n 1 mine"), format!("clone {number}"));
            });
        }
    });
    assert_eq!(digest(&template.ram), before);
}

#[test]
fn a_read_only_nvdimm_keeps_its_contents_whatever_the_guest_does() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let disk = directory.path().join("disk");
    fs::write(&disk, b"template".repeat(2 << 20)).unwrap();
    fs::set_permissions(&disk, Permissions::from_mode(0o444)).unwrap();
    let template = Template::make(directory.path(), Machine::WITH_NVDIMM, Some(&disk));
    let before = digest(&disk);
    let ram = Backend { path: &template.ram, options: PRIVATE };
    for options in ["share=on,readonly=on", "share=off,readonly=on,rom=on"] {
        let nvdimm = Backend { path: &disk, options };
        let mut guest = template.restore_as(ordinary_user(), ram, Some(nvdimm));
        assert_eq!(guest.ok("cat /sys/block/pmem0/ro"), "1");
        let write = "echo changed | dd of=/dev/pmem0 conv=notrunc,fsync 2>&1";
        let (code, output) = guest.sh(write);
        assert!(code == 1 && output.contains("not permitted"), "{output}");

        // So far the guest's driver refused, which believes unarmed=on. Told otherwise it writes, in vain.
        guest.ok("echo 0 >/sys/bus/nd/devices/region0/read_only");
        for step in ["unbind", "bind"] {
            guest.ok(&format!("echo namespace0.0 >/sys/bus/nd/drivers/nd_pmem/{step}"));
        }
        assert_eq!(guest.ok("cat /sys/block/pmem0/ro"), "0");
        guest.ok(write);
        guest.ok("echo 3 >/proc/sys/vm/drop_caches");
        assert_eq!(guest.ok("head -c 16 /dev/pmem0"), "templatetemplate");
    }
    assert_eq!(digest(&disk), before);
}

#[test]
fn a_balloon_gives_shared_memory_back_to_the_file() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let template = Template::make(directory.path(), Machine::SMALL, None);
    let copy = copy_of(&template, &directory);
    let ram = Backend { path: &copy, options: "share=on" };
    let mut guest = template.restore(ram, None);
    guest.ok("head -c 20000000 /dev/zero | tr '\\0' x >big; rm big");
    let before = fs::metadata(&copy).unwrap().blocks() * 512;
    guest.balloon(Machine::SMALL.ram_mib - 24);
    let given_back = || before.saturating_sub(fs::metadata(&copy).unwrap().blocks() * 512);
    let enough = poll(TIME, || (given_back() > 12 << 20).then_some(()));
    assert!(enough.is_some(), "gave back {} bytes", given_back());
    guest.balloon(Machine::SMALL.ram_mib);
    work(&mut guest, 0);
}

/// The trap that a private view takes away: discard-data=on with share=on empties the file at exit.
#[test]
fn discard_data_empties_a_shared_file_at_exit() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let template = Template::make(directory.path(), Machine::SMALL, None);
    let copy = copy_of(&template, &directory);
    let ram = Backend { path: &copy, options: "share=on,discard-data=on" };
    let mut guest = template.restore(ram, None);
    work(&mut guest, 0);
    guest.qemu.quit();
    assert_eq!(fs::metadata(&copy).unwrap().blocks(), 0);
}
