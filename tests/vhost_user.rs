//! vhost-user: other processes map a guest's RAM, so it must be a shared file. QEMU's own templating has none to
//! offer; a clone whose RAM is a `share=on` view of the mount has.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use common::clones::{
    Captured, TEMPLATING, assert_keeps_its_data, at_once, digest, mount_for_guests, open_directory, work,
};
use common::guest::{Backend, Guest, Machine, Template};
use common::limit::{limit, poll};
use common::mounted::Mounted;
use common::vhost_user::{Server, virtiofsd};
use common::views::views;

const TIME: Duration = Duration::from_secs(240);
const SECTOR: usize = 512;

/// A disk and a directory of one guest, on the host, and the processes that serve them.
struct Devices {
    _directory: TempDir,
    image: PathBuf,
    shared: PathBuf,
    disk: Server,
    /// None where there is no virtiofsd.
    filesystem: Option<Server>,
}

impl Devices {
    /// Their content says whose they are.
    fn of(name: &str) -> Devices {
        let directory = open_directory();
        let (image, shared) = (directory.path().join("disk.img"), directory.path().join("shared"));
        let mut disk = vec![0; 4 << 20];
        disk[..name.len()].copy_from_slice(name.as_bytes());
        fs::write(&image, disk).unwrap();
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("host"), name).unwrap();
        let disk = Server::of_disk(&image);
        let filesystem = virtiofsd().map(|program| Server::of_directory(&program, &shared));
        if filesystem.is_none() {
            println!("skipped: virtio-fs needs virtiofsd, which tests/run builds");
        }
        Devices { _directory: directory, image, shared, disk, filesystem }
    }

    fn plug(&self, guest: &mut Guest) {
        self.disk.plug(guest, "disk").unwrap();
        if let Some(filesystem) = &self.filesystem {
            filesystem.plug(guest, "filesystem").unwrap();
        }
    }

    fn options(&self) -> Vec<String> {
        let filesystem = self.filesystem.iter().flat_map(|filesystem| filesystem.options("filesystem"));
        self.disk.options("disk").into_iter().chain(filesystem).collect()
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.disk).chain(&self.filesystem)
    }

    /// The guest reads what the host has put there, and the host what the guest then writes, of both.
    fn are_used_by(&self, guest: &mut Guest, name: &str, sector: usize) {
        assert_eq!(guest.ok(&format!("head -c {} /dev/vda", name.len())), name);
        let written = format!("{name} wrote sector {sector}");
        guest.ok(&format!("echo {written} | dd of=/dev/vda bs={SECTOR} seek={sector} conv=notrunc,fsync"));
        let mut found = vec![0; written.len()];
        File::open(&self.image).unwrap().read_exact_at(&mut found, (sector * SECTOR) as u64).unwrap();
        assert_eq!(String::from_utf8_lossy(&found), written);
        // Not from the guest's cache: the backend writes to the guest's RAM once more.
        guest.ok("echo 3 >/proc/sys/vm/drop_caches");
        let read = format!("dd if=/dev/vda bs={SECTOR} skip={sector} count=1 2>/dev/null");
        assert_eq!(guest.ok(&format!("{read} | head -n 1")), written);

        if self.filesystem.is_some() {
            assert_eq!(guest.ok("cat /shared/host"), name);
            guest.ok(&format!("echo {written} >/shared/guest-{sector}"));
            let found = fs::read_to_string(self.shared.join(format!("guest-{sector}"))).unwrap();
            assert_eq!(found.trim_end(), written);
        }
    }
}

/// Waits in the guest for devices that were plugged, and mounts the directory.
fn settle_devices(guest: &mut Guest, devices: &Devices) {
    guest.ok("for i in $(seq 500); do [ -b /dev/vda ] && break; sleep 0.1; done; [ -b /dev/vda ]");
    if devices.filesystem.is_some() {
        guest.ok("mkdir /shared; for i in $(seq 500); do mount -t virtiofs shared /shared && break; sleep 0.1; done");
    }
}

/// The processes that map the view of the VM `vm`, and nobody's other.
fn assert_mapped_by(mounted: &Mounted, vm: &str, guest: &Guest, devices: &Devices) {
    let views = views(mounted);
    let view = views.iter().find(|view| view.vm.as_ref().is_some_and(|label| label.as_str() == vm)).unwrap();
    let mut mapping: Vec<u32> = view
        .processes
        .iter()
        .filter(|process| process.mappings > Some(0))
        .map(|process| process.pid)
        .collect();
    let mut expected: Vec<u32> = devices.servers().map(Server::pid).chain([guest.qemu.pid()]).collect();
    mapping.sort();
    expected.sort();
    assert_eq!(mapping, expected, "{view:#?}");
}

#[test]
fn restored_clones_use_a_disk_and_a_directory_that_other_processes_serve() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let names = ["web-0", "web-1"];
    let devices = names.map(Devices::of);
    let start = |name: &&str| {
        let ram = Backend::new(mounted.path(&format!("ram?rom=off&vm={name}")), "share=on");
        captured.template.start_as(None, ram, None)
    };
    let mut clones = at_once(names.iter().map(start).collect(), |number, restoring| {
        let mut guest = restoring.restore_from(&captured.template.state);
        devices[number].plug(&mut guest);
        settle_devices(&mut guest, &devices[number]);
        devices[number].are_used_by(&mut guest, names[number], 8);
        work(&mut guest, number);
        guest
    });
    for (number, guest) in clones.iter().enumerate() {
        assert_mapped_by(&mounted, names[number], guest, &devices[number]);
    }
    // The backends wait for a successor as QEMU does.
    kill_process(mounted.serving(), Signal::KILL).unwrap();
    at_once(clones.iter_mut().collect(), |number, guest| {
        devices[number].are_used_by(guest, names[number], 9);
        assert_keeps_its_data(guest, number);
    });
    captured.assert_unchanged();
}

/// The devices are in the captured state: a clone needs processes of its own that serve them, and no hot-plug.
#[test]
fn a_template_with_such_devices_is_captured_and_its_clones_use_their_own() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let template = {
        let devices = Devices::of("web-t");
        Template::prepared(directory.path(), Machine::SMALL, &devices.options(), |guest| {
            settle_devices(guest, &devices);
            devices.are_used_by(guest, "web-t", 8);
        })
    };
    let before = digest(&template.ram);
    let mounted = mount_for_guests(&template, "ram");
    let names = ["web-0", "web-1"];
    let devices = names.map(Devices::of);
    let start = |number: usize| {
        let ram = Backend::new(mounted.path(&format!("ram?rom=off&vm={}", names[number])), "share=on");
        template.start_with(None, ram, None, &devices[number].options())
    };
    at_once((0..2).map(start).collect(), |number, restoring| {
        let mut guest = restoring.restore_from(&template.state);
        guest.ok("echo 3 >/proc/sys/vm/drop_caches");
        devices[number].are_used_by(&mut guest, names[number], 9);
        assert_mapped_by(&mounted, names[number], &guest, &devices[number]);
    });
    assert_eq!(digest(&template.ram), before);
}

/// What this is for. QEMU accepts the device and cannot start it: its pages are copies that nobody else sees.
#[test]
fn with_templating_of_qemus_own_the_device_does_not_start() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let devices = Devices::of("web");
    let ram = Backend::new(mounted.path("ram?rom=off"), TEMPLATING);
    let mut guest = captured.template.restore(ram, None);
    devices.disk.plug(&mut guest, "disk").unwrap();
    let refused = poll(TIME / 2, || guest.qemu.stderr().contains("vhost start failed").then_some(()));
    assert!(refused.is_some(), "{}", guest.qemu.stderr());
    work(&mut guest, 0);
}
