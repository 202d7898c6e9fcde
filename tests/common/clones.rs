//! Eight clones of a template at once, and what each does to show that its memory is its own.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use tempfile::TempDir;

use super::guest::{Guest, Machine, Restoring, Template};
use super::mounted::{Mounted, Options, is_root};

pub const CLONES: usize = 8;

/// How QEMU clones without a filesystem's help: it copies what is written, from a file that it only reads.
pub const TEMPLATING: &str = "share=off,readonly=on,rom=off";

/// A template that is captured once for all tests that run at the same time, and what it looked like then.
pub struct Captured {
    pub template: Template,
    digest: String,
    _directory: TempDir,
}

impl Captured {
    /// [`Machine::SMALL`], on plain files that nobody may write.
    pub fn get() -> Arc<Captured> {
        // Weak: what a static holds is never dropped, and the directory would stay.
        static SHARED: Mutex<Weak<Captured>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poison| poison.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let directory = open_directory();
            let template = Template::make(directory.path(), Machine::SMALL, None);
            let digest = digest(&template.ram);
            let captured = Arc::new(Captured { template, digest, _directory: directory });
            *shared = Arc::downgrade(&captured);
            captured
        })
    }

    pub fn assert_unchanged(&self) {
        assert_eq!(digest(&self.template.ram), self.digest);
    }
}

/// A directory that an ordinary user's QEMU can look into.
pub fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

/// What [`Machine::WITH_NVDIMM`] has as its NVDIMM: words `template`, in a file that nobody may write.
pub fn nvdimm_image(directory: &Path) -> PathBuf {
    let disk = directory.join("disk");
    fs::write(&disk, b"template".repeat(2 << 20)).unwrap();
    fs::set_permissions(&disk, Permissions::from_mode(0o444)).unwrap();
    disk
}

pub fn digest(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// A mount that QEMU may use as [`ordinary_user`](super::qemu::ordinary_user), with a template's RAM in it.
pub fn mount_for_guests(template: &Template, name: &str) -> Mounted {
    let mounted = Mounted::start(Options::with(if is_root() { &["--allow-other"] } else { &[] }));
    publish(&mounted, &template.ram, name);
    mounted
}

/// Puts a file into the store, as it is.
pub fn publish(mounted: &Mounted, file: &Path, name: &str) {
    let path = mounted.store.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::hard_link(file, path).unwrap();
}

/// Lets the kernel write back what a clone stored to its RAM: until then only the kernel knows of it.
pub fn settle(guest: &Guest, mounted: &Mounted) {
    let fds = fs::read_dir(format!("/proc/{}/fd", guest.qemu.pid())).unwrap();
    let is_ram = |path: &Path| fs::read_link(path).is_ok_and(|to| to.starts_with(&mounted.mountpoint));
    let ram = fds.map(|fd| fd.unwrap().path()).find(|path| is_ram(path)).expect("an open RAM file");
    File::open(ram).unwrap().sync_all().unwrap();
}

/// Starts eight QEMUs together and restores all of them from `template`'s state.
pub fn eight(template: &Template, start: impl Fn(usize) -> Restoring) -> Vec<Guest> {
    at_once((0..CLONES).map(start).collect(), |_, restoring| restoring.restore_from(&template.state))
}

/// Does `act` to all of them at the same time, each in a thread of its own, and waits for all.
pub fn at_once<T: Send, R: Send>(all: Vec<T>, act: impl Fn(usize, T) -> R + Sync) -> Vec<R> {
    let act = &act;
    thread::scope(|scope| {
        let spawn = |(number, one)| scope.spawn(move || act(number, one));
        let running: Vec<_> = all.into_iter().enumerate().map(spawn).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// All clones write what no other has, at the same time, and none finds another's.
pub fn work_all(clones: &mut [Guest]) {
    at_once(clones.iter_mut().collect(), |number, guest| work(guest, number));
    at_once(clones.iter_mut().collect(), |number, guest| assert_keeps_its_data(guest, number));
}

/// Writes data that no other guest has, and reads it back.
pub fn work(guest: &mut Guest, number: usize) {
    guest.ok(&format!("yes clone {number} | head -c 300000 >mine; md5sum <mine >sum"));
    guest.ok("for i in 1 2 3 4 5 6 7 8; do cat mine; done >big");
    assert_eq!(guest.ok("head -n 1 big"), format!("clone {number}"));
    assert_eq!(guest.ok("head -c 300000 big | md5sum"), guest.ok("cat sum"));
    assert_eq!(guest.ok("wc -c <big"), "2400000");
    assert_eq!(guest.sh("echo a; (exit 7)"), (7, "a\n".to_owned()));
}

/// What [`work`] wrote is there.
pub fn assert_keeps_its_data(guest: &mut Guest, number: usize) {
    guest.ok("md5sum <mine | cmp - sum");
    assert_eq!(guest.ok("head -n 1 mine"), format!("clone {number}"));
    assert_eq!(guest.ok("tail -n 1 big"), format!("clone {number}"));
}

/// Writes to the guest's /dev/pmem0, a read-only NVDIMM, as hard as a guest can: in vain.
pub fn assert_nvdimm_is_rom(guest: &mut Guest, begin: &str) {
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
    assert_eq!(guest.ok(&format!("head -c {} /dev/pmem0", begin.len())), begin);
}
