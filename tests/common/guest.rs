//! A small Linux guest: booted once as a template, captured, and restored from there as often as wanted.
//!
//!     boot (RAM file share=on) -> stop -> migrate to STATE with x-ignore-shared -> chmod 0444 both
//!     restore: the same machine on another mem-path -> migrate-incoming STATE -> cont
//!
//! x-ignore-shared leaves shared RAM out of STATE: what a restored guest's memory holds, the mem-path holds.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::json;

use super::limit::poll;
use super::lines::Lines;
use super::qemu::{Qemu, Starting, backend};

/// A boot takes about 3 s; eight guests share two cores, and CI may be slower still.
const BOOT: Duration = Duration::from_secs(120);
const COMMAND: Duration = Duration::from_secs(60);
const OTHER_QMP: &str = "other-qmp";
/// Record separator, as tests/guest/init prints it.
const MARK: char = '\x1e';

/// What a template and its clones have in common. A clone's devices must be the template's.
#[derive(Clone, Copy)]
pub struct Machine {
    pub ram_mib: u64,
    /// Size of an R/O NVDIMM, /dev/pmem0 in the guest; 0: none.
    pub nvdimm_mib: u64,
}

impl Machine {
    /// The least RAM that boots reliably.
    pub const SMALL: Machine = Machine { ram_mib: 96, nvdimm_mib: 0 };
    /// Room for a guest that writes 64 MiB.
    pub const ROOMY: Machine = Machine { ram_mib: 192, nvdimm_mib: 0 };
    pub const WITH_NVDIMM: Machine = Machine { ram_mib: 96, nvdimm_mib: 16 };
}

/// A mem-path and the options beside it, for example `share=off,readonly=on,rom=off`.
#[derive(Clone)]
pub struct Backend {
    pub path: PathBuf,
    pub options: &'static str,
}

impl Backend {
    pub fn new(path: impl Into<PathBuf>, options: &'static str) -> Backend {
        Backend { path: path.into(), options }
    }
}

/// A machine that was captured: files that nobody may write. All stand in one directory; who may look into
/// it may run clones.
pub struct Template {
    pub machine: Machine,
    pub ram: PathBuf,
    pub state: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Template {
    /// Boots and captures `machine` into files of `directory`. `nvdimm` is a file of the size that it says.
    pub fn make(directory: &Path, machine: Machine, nvdimm: Option<&Path>) -> Template {
        let ram = directory.join("ram");
        File::create(&ram).unwrap().set_len(machine.ram_mib << 20).unwrap();
        let template = Template::author(None, directory, machine, ram.clone(), nvdimm);
        fs::set_permissions(&ram, Permissions::from_mode(0o444)).unwrap();
        template
    }

    /// The same with further options for QEMU, and with `prepare` done in the guest before it is captured.
    pub fn prepared(
        directory: &Path,
        machine: Machine,
        more: &[String],
        prepare: impl FnOnce(&mut Guest),
    ) -> Template {
        let ram = directory.join("ram");
        File::create(&ram).unwrap().set_len(machine.ram_mib << 20).unwrap();
        let template = Template::uncaptured(directory, machine, ram.clone());
        template.boot_and_capture(None, None, more, prepare);
        fs::set_permissions(&ram, Permissions::from_mode(0o444)).unwrap();
        template
    }

    /// The same by QEMU as `user`, into the file `ram`, which is there; its mode stays what it is.
    pub fn author(
        user: Option<&str>,
        directory: &Path,
        machine: Machine,
        ram: PathBuf,
        nvdimm: Option<&Path>,
    ) -> Template {
        let template = Template::uncaptured(directory, machine, ram);
        template.boot_and_capture(user, nvdimm, &[], |_| {});
        template
    }

    fn uncaptured(directory: &Path, machine: Machine, ram: PathBuf) -> Template {
        let state = directory.join("state");
        let (kernel, initrd) = (directory.join("kernel"), directory.join("initrd"));
        // The cache may lie where an ordinary user cannot look.
        let (cached_kernel, cached_initrd) = guest_images();
        fs::copy(cached_kernel, &kernel).unwrap();
        fs::copy(cached_initrd, &initrd).unwrap();
        Template { machine, ram, state, kernel, initrd }
    }

    fn boot_and_capture(
        &self,
        user: Option<&str>,
        nvdimm: Option<&Path>,
        more: &[String],
        prepare: impl FnOnce(&mut Guest),
    ) {
        let ram = Backend::new(&self.ram, "share=on");
        // share=on, as x-ignore-shared would otherwise copy the NVDIMM into STATE and write it back into ROM.
        let nvdimm = nvdimm.map(|path| Backend::new(path, "share=on,readonly=on"));
        let mut guest = Guest::connected(self.spawn(user, ram, nvdimm, more));
        guest.qemu.qmp("cont", json!({}));
        guest.wait_for_boot();
        prepare(&mut guest);
        guest.capture(&self.state);
        fs::set_permissions(&self.state, Permissions::from_mode(0o444)).unwrap();
    }

    /// What somebody else has captured of the same machine.
    pub fn captured_as(&self, ram: PathBuf, state: PathBuf) -> Template {
        let (machine, kernel, initrd) = (self.machine, self.kernel.clone(), self.initrd.clone());
        Template { machine, ram, state, kernel, initrd }
    }

    /// A running guest that goes on where the template was captured.
    pub fn restore(&self, ram: Backend, nvdimm: Option<Backend>) -> Guest {
        self.restore_as(None, ram, nvdimm)
    }

    pub fn restore_as(&self, user: Option<&str>, ram: Backend, nvdimm: Option<Backend>) -> Guest {
        self.start_as(user, ram, nvdimm).restore_from(&self.state)
    }

    /// A QEMU that is on its way, and knows nothing of the captured state yet.
    pub fn start_as(&self, user: Option<&str>, ram: Backend, nvdimm: Option<Backend>) -> Restoring {
        self.start_with(user, ram, nvdimm, &[])
    }

    /// The same with the further options that the template was made with.
    pub fn start_with(
        &self,
        user: Option<&str>,
        ram: Backend,
        nvdimm: Option<Backend>,
        more: &[String],
    ) -> Restoring {
        let incoming = ["-incoming", "defer"].map(str::to_owned);
        Restoring(self.spawn(user, ram, nvdimm, &[more, &incoming].concat()))
    }

    fn spawn(&self, user: Option<&str>, ram: Backend, nvdimm: Option<Backend>, more: &[String]) -> Starting {
        assert_eq!(self.machine.nvdimm_mib != 0, nvdimm.is_some());
        let memory = memory_arguments(self.machine, &ram, nvdimm.as_ref());
        self.spawn_by(user, &[&memory, more].concat())
    }

    fn spawn_by(&self, user: Option<&str>, options: &[String]) -> Starting {
        Starting::spawn(user, |directory| [device_arguments(self, directory).as_slice(), options].concat())
    }

    /// A guest that stands still: the template's devices, and these options for all else.
    pub fn start_by(&self, user: Option<&str>, options: &[String]) -> Guest {
        Guest::connected(self.spawn_by(user, options))
    }
}

/// See [`Template::start_as`].
pub struct Restoring(Starting);

impl Restoring {
    pub fn restore_from(self, state: &Path) -> Guest {
        let mut guest = Guest::connected(self.0);
        guest.ignore_shared_ram();
        let uri = format!("file:{}", state.display());
        guest.qemu.qmp("migrate-incoming", json!({ "uri": uri }));
        guest.qemu.migrated();
        guest.qemu.qmp("cont", json!({}));
        guest
    }
}

pub struct Guest {
    pub qemu: Qemu,
    console: Lines,
    commands: u64,
}

impl Guest {
    fn connected(starting: Starting) -> Guest {
        let mut qemu = starting.connected().unwrap_or_else(|message| panic!("{message}"));
        // The guest stands still until `cont`: whatever it prints finds this connection.
        let console = Lines::new(qemu.connect("console"));
        Guest { qemu, console, commands: 0 }
    }

    /// Where another client may speak QMP to it.
    pub fn other_qmp(&self) -> PathBuf {
        self.qemu.directory().join(OTHER_QMP)
    }

    /// Runs one line in the guest's shell: its exit code, and all it printed.
    pub fn sh(&mut self, command: &str) -> (i32, String) {
        self.sh_within(COMMAND, command)
    }

    pub fn sh_within(&mut self, time: Duration, command: &str) -> (i32, String) {
        assert!(!command.contains('\n'), "one line: {command}");
        self.commands += 1;
        // A restored guest has seen its template's commands; the process id keeps answers apart from theirs.
        let id = format!("{}.{}", self.qemu.pid(), self.commands);
        if let Err(error) = self.console.send(&format!("{id} {command}")) {
            self.qemu.fail(&format!("sending {command:?}: {error}"));
        }
        let (output, answer) = self.read_to_mark(time, &id, command);
        match answer.trim().parse() {
            Ok(code) => (code, output),
            Err(_) => self.qemu.fail(&format!("{command:?} was answered {answer:?}")),
        }
    }

    /// A command that must succeed; its output without the last line's end.
    pub fn ok(&mut self, command: &str) -> String {
        let (code, output) = self.sh(command);
        if code != 0 {
            self.qemu.fail(&format!("{command:?} exited with {code}: {output}"));
        }
        output.trim_end().to_owned()
    }

    /// Leaves `mib` to the guest and waits until the balloon holds the rest.
    pub fn balloon(&mut self, mib: u64) {
        self.qemu.qmp("balloon", json!({ "value": mib << 20 }));
        let reached = poll(COMMAND, || {
            let now = self.qemu.qmp("query-balloon", json!({}));
            (now["actual"] == (mib << 20)).then_some(())
        });
        if reached.is_none() {
            self.qemu.fail("the balloon does not inflate");
        }
    }

    fn wait_for_boot(&mut self) {
        self.read_to_mark(BOOT, "ready", "the boot");
    }

    /// Writes all but the RAM to `state`, and ends: with its RAM file it can be restored.
    pub fn capture(mut self, state: &Path) {
        self.qemu.qmp("stop", json!({}));
        self.ignore_shared_ram();
        let uri = format!("file:{}", state.display());
        self.qemu.qmp("migrate", json!({ "uri": uri }));
        self.qemu.migrated();
        self.qemu.quit();
    }

    fn ignore_shared_ram(&mut self) {
        let capability = json!({ "capability": "x-ignore-shared", "state": true });
        let arguments = json!({ "capabilities": [capability] });
        self.qemu.qmp("migrate-set-capabilities", arguments);
    }

    /// What came before the mark and `id`, and the rest of that line.
    fn read_to_mark(&mut self, time: Duration, id: &str, what: &str) -> (String, String) {
        let end = Instant::now() + time;
        let mark = format!("{MARK}{id}");
        let mut output = String::new();
        loop {
            let line = match self.console.next(end) {
                Ok(line) => line,
                Err(error) => self.qemu.fail(&format!("waiting for {what:?}: {error}")),
            };
            if let Some((before, after)) = line.split_once(&mark) {
                return (output + before, after.to_owned());
            }
            output += &line;
            output.push('\n');
        }
    }
}

/// What the machine is, and its memory.
fn memory_arguments(machine: Machine, ram: &Backend, nvdimm: Option<&Backend>) -> Vec<String> {
    let accelerator = std::env::var("TEMPLATEFS_TEST_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add("-accel", accelerator);
    add("-object", backend("ram", machine.ram_mib, &ram.path, ram.options));
    match nvdimm {
        None => {
            add("-machine", "pc,memory-backend=ram".to_owned());
            add("-m", format!("{}M", machine.ram_mib));
        }
        Some(nvdimm) => {
            let size = machine.nvdimm_mib;
            add("-machine", "pc,memory-backend=ram,nvdimm=on".to_owned());
            add("-m", format!("{}M,slots=1,maxmem=1G", machine.ram_mib));
            add("-object", backend("nvdimm", size, &nvdimm.path, nvdimm.options));
            add("-device", "nvdimm,memdev=nvdimm,unarmed=on".to_owned());
        }
    }
    arguments
}

fn device_arguments(template: &Template, directory: &Path) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    // For another client: the tests keep the first one.
    add("-qmp", format!("unix:{}/{OTHER_QMP},server=on,wait=off", directory.display()));
    add("-device", "virtio-balloon-pci".to_owned());
    let console = directory.join("console");
    let console = console.display();
    add("-chardev", format!("socket,id=con,path={console},server=on,wait=off,logfile={console}.log"));
    add("-serial", "chardev:con".to_owned());
    add("-kernel", template.kernel.display().to_string());
    add("-initrd", template.initrd.display().to_string());
    add("-append", "console=ttyS0 loglevel=1 panic=-1".to_owned());
    // A guest that panics ends its QEMU: nobody waits for it.
    add("-action", "reboot=shutdown".to_owned());
    arguments
}

/// Kernel and initrd, built where they are not there yet.
pub fn guest_images() -> &'static (String, String) {
    static IMAGES: OnceLock<(String, String)> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/build");
        let output = Command::new(build).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let paths = String::from_utf8(output.stdout).unwrap();
        let (kernel, initrd) = paths.trim().split_once('\n').unwrap();
        (kernel.to_owned(), initrd.to_owned())
    })
}
