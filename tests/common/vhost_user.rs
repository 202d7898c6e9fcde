//! Processes that serve a device to a guest from outside its VMM: vhost-user. QEMU sends them the guest's RAM
//! as a file, and they map it themselves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::guest::Guest;
use super::limit::{Registered, on_expiry, poll};

const PATIENCE: Duration = Duration::from_secs(30);

/// A process that serves one device to one guest. It dies with this value.
pub struct Server {
    device: &'static str,
    child: Child,
    directory: TempDir,
    _killed_on_expiry: Registered,
}

impl Server {
    /// The disk image `file`, by qemu-storage-daemon: /dev/vda in the guest.
    pub fn of_disk(file: &Path) -> Server {
        let image = format!("driver=file,node-name=disk,filename={}", file.display());
        Server::start("vhost-user-blk-pci", |socket| {
            let mut command = Command::new("qemu-storage-daemon");
            let address = format!("addr.type=unix,addr.path={}", socket.display());
            command.args(["--blockdev", &image, "--export"]);
            command.arg(format!("type=vhost-user-blk,id=export,node-name=disk,writable=on,{address}"));
            command
        })
    }

    /// The directory `shared`, by virtiofsd: a virtio-fs with the tag `shared` in the guest.
    pub fn of_directory(virtiofsd: &Path, shared: &Path) -> Server {
        Server::start("vhost-user-fs-pci,tag=shared", |socket| {
            let mut command = Command::new(virtiofsd);
            command.arg("--shared-dir").arg(shared).arg("--socket-path").arg(socket);
            // The directory is the test's own: no namespaces, which a container may refuse.
            command.args(["--sandbox", "none", "--log-level", "warn"]);
            // What the template had open need not be in a clone's directory: the guest gets an error for it.
            command.args(["--migration-on-error", "guest-error"]);
            command
        })
    }

    fn start(device: &'static str, command: impl FnOnce(&Path) -> Command) -> Server {
        let directory = tempfile::Builder::new().prefix("vhost-user-").tempdir().unwrap();
        let served = command(&directory.path().join("socket"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(served.get_program())
            .args(served.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join("stderr")).unwrap())
            .spawn()
            .expect("setpriv (util-linux)");
        let pid = rustix::process::Pid::from_child(&child);
        let killed_on_expiry = on_expiry(move || {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
        let mut server = Server { device, child, directory, _killed_on_expiry: killed_on_expiry };
        let listens = || match server.child.try_wait().unwrap() {
            Some(status) => Some(Err(status)),
            None => server.socket().exists().then_some(Ok(())),
        };
        match poll(PATIENCE, listens) {
            Some(Ok(())) => server,
            ended => panic!("{device} is not served: {ended:?}: {}", server.stderr()),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// QEMU's options for a machine that has the device from its start; `id` is one of the machine's own.
    pub fn options(&self, id: &str) -> [String; 4] {
        let chardev = format!("socket,id={id}-socket,path={}", self.socket().display());
        let device = format!("{},id={id},chardev={id}-socket", self.device);
        ["-chardev".into(), chardev, "-device".into(), device]
    }

    /// Gives the device to a guest that runs already; QEMU's words where it refuses.
    pub fn plug(&self, guest: &mut Guest, id: &str) -> Result<(), String> {
        let socket = self.socket();
        let address = json!({ "type": "unix", "data": { "path": socket.to_str().unwrap() } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        let chardev = format!("{id}-socket");
        guest.qemu.qmp("chardev-add", json!({ "id": chardev, "backend": backend }));
        let (driver, tag) = self.device.split_once(",tag=").unwrap_or((self.device, ""));
        let mut device = json!({ "driver": driver, "id": id, "chardev": chardev });
        if !tag.is_empty() {
            device["tag"] = tag.into();
        }
        guest.qemu.execute("device_add", device).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// virtiofsd where tests/run has built it or it is installed.
pub fn virtiofsd() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let cache =
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
    let built = cache.join("templatefs-tests/virtiofsd/bin/virtiofsd");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|directory| directory.join("virtiofsd"));
    // Not /usr/lib/qemu/virtiofsd: QEMU's own of before 8.0 has other options.
    let packaged = PathBuf::from("/usr/libexec/virtiofsd");
    std::iter::once(built).chain(installed).chain([packaged]).find(|program| program.exists())
}
