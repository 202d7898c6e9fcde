//! Real guests on plain files: what QEMU does by itself. tests/clones.rs serves the same guests from a mount.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::clones::{
    Captured, TEMPLATING, assert_nvdimm_is_rom, digest, eight, nvdimm_image, open_directory, work, work_all,
};
use common::guest::{Backend, Machine, Template};
use common::limit::{limit, poll};
use common::qemu::ordinary_user;
use tempfile::TempDir;

const TIME: Duration = Duration::from_secs(240);

/// A writable copy of the template's RAM, holes included.
fn copy_of(template: &Template, directory: &TempDir) -> PathBuf {
    let copy = directory.path().join("copy");
    let mut cp = Command::new("cp");
    cp.arg("--sparse=always").args([&template.ram, &copy]);
    assert!(cp.status().unwrap().success());
    fs::set_permissions(&copy, Permissions::from_mode(0o644)).unwrap();
    copy
}

#[test]
fn eight_clones_of_an_unwritable_template_at_once() {
    let _limit = limit(TIME);
    let captured = Captured::get();
    let template = &captured.template;
    let ram = Backend::new(&template.ram, TEMPLATING);
    let mut clones = eight(template, |_| template.start_as(ordinary_user(), ram.clone(), None));
    work_all(&mut clones);
    captured.assert_unchanged();
}

#[test]
fn a_read_only_nvdimm_keeps_its_contents_whatever_the_guest_does() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let disk = nvdimm_image(directory.path());
    let template = Template::make(directory.path(), Machine::WITH_NVDIMM, Some(&disk));
    let before = digest(&disk);
    for options in ["share=on,readonly=on", "share=off,readonly=on,rom=on"] {
        let ram = Backend::new(&template.ram, TEMPLATING);
        let nvdimm = Backend::new(&disk, options);
        let mut guest = template.restore_as(ordinary_user(), ram, Some(nvdimm));
        assert_nvdimm_is_rom(&mut guest, "templatetemplate");
    }
    assert_eq!(digest(&disk), before);
}

#[test]
fn a_balloon_gives_shared_memory_back_to_the_file() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let captured = Captured::get();
    let copy = copy_of(&captured.template, &directory);
    let ram = Backend::new(&copy, "share=on");
    let mut guest = captured.template.restore(ram, None);
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
    let captured = Captured::get();
    let copy = copy_of(&captured.template, &directory);
    let ram = Backend::new(&copy, "share=on,discard-data=on");
    let mut guest = captured.template.restore(ram, None);
    work(&mut guest, 0);
    guest.qemu.quit();
    assert_eq!(fs::metadata(&copy).unwrap().blocks(), 0);
}
