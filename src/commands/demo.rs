//! `demo`: the whole idea on a small store of its own, in a temporary directory that is removed.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use sha2::{Digest, Sha256};

use super::table::iec;
use crate::cli::DemoArgs;
use crate::error::{Error, Result};
use crate::{mount, program};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

/// With virtual machines it is what docs/TUTORIAL.md explains, by the same script.
const WITH_VMS: &str = include_str!("../../mount-scripts/clone-vms");

pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    if let Some(n) = args.vm {
        return Err(with_vms(n, args.kernel.as_deref()));
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(Error::NotFound(
            "/dev/fuse: not there, so nothing can be mounted; load the kernel's fuse module, or give this container \
             the device"
                .into(),
        ));
    }
    let directory = tempfile::Builder::new()
        .prefix("templatefs-demo-")
        .tempdir()
        .map_err(|e| Error::io("a temporary directory", e))?;
    let demo = Demo::start(directory.path())?;
    demo.show()?;
    println!("\nUnmounted; {} is removed.", directory.path().display());
    Ok(ExitCode::SUCCESS)
}

/// This process becomes the script's, which cleans up after signals, too.
fn with_vms(n: u16, kernel: Option<&Path>) -> Error {
    let this = match std::env::current_exe() {
        Ok(this) => this,
        Err(e) => return Error::io("this program cannot be found", e),
    };
    let mut bash = process::Command::new("bash");
    bash.args(["-c", WITH_VMS, "templatefs"]).env("TEMPLATEFS", this);
    if let Some(kernel) = kernel {
        bash.arg("--kernel").arg(kernel);
    }
    let error = bash.arg(n.to_string()).exec();
    Error::io("bash: cannot be run; install it", error)
}

struct Demo {
    template: PathBuf,
    mountpoint: PathBuf,
}

impl Demo {
    fn start(directory: &Path) -> Result<Self> {
        let store = directory.join("store");
        let mountpoint = directory.join("mnt");
        let template = store.join("guest.ram");
        let make = || {
            std::fs::create_dir(&store)?;
            std::fs::create_dir(&mountpoint)?;
            let file = File::create(&template)?;
            file.set_len(SIZE)?;
            for block in 0..8u8 {
                file.write_all_at(&vec![b'a' + block; MIB as usize], u64::from(block) * 8 * MIB)?;
            }
            std::fs::set_permissions(&template, Permissions::from_mode(0o444))
        };
        make().map_err(|e| Error::io("a small store", e))?;
        println!("A template of {}, of which 8 MiB are data, that nobody may write:", iec(SIZE));
        println!("  {} (mode 0444)", template.display());
        println!("\n$ templatefs mount {} {}", store.display(), mountpoint.display());
        let status = program::command()
            .arg("mount")
            .args([&store, &mountpoint])
            .arg("--state-dir")
            .arg(directory.join("state"))
            .status()
            .map_err(|e| Error::io("templatefs mount", e))?;
        if !status.success() {
            return Err(Error::Invalid("the demo could not mount; the line above says why".into()));
        }
        Ok(Self { template, mountpoint })
    }

    fn show(&self) -> Result<()> {
        let before = digest(&self.template)?;
        self.show_rom()?;
        let (first, second) = self.show_views()?;
        self.show_cost()?;
        drop((first, second));
        let after = digest(&self.template)?;
        println!("\nThe template's SHA-256, before and after:\n  {before}\n  {after}");
        if before != after {
            return Err(Error::Invalid(
                "the template changed: this must never happen, please report it".into(),
            ));
        }
        Ok(())
    }

    fn show_rom(&self) -> Result<()> {
        println!("\nguest.ram is ROM. Opening it for writing:");
        match OpenOptions::new().write(true).open(self.mountpoint.join("guest.ram")) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => println!("  {error}"),
            Err(error) => return Err(Error::io("a ROM view refused, but not as it should", error)),
            Ok(_) => {
                return Err(Error::Invalid("a ROM view was opened for writing; please report it".into()));
            }
        }
        Ok(())
    }

    /// Two views of one template; both stay open until the costs have been shown.
    fn show_views(&self) -> Result<(File, File)> {
        println!(
            "\nguest.ram?rom=off is a private view, a new one at each open. Two of them, written differently:"
        );
        let run = || {
            let open = |vm: &str| {
                let path = self.mountpoint.join(format!("guest.ram?rom=off&vm={vm}"));
                OpenOptions::new().read(true).write(true).open(path)
            };
            let (first, second) = (open("web-1")?, open("web-2")?);
            first.write_all_at(b"written by web-1", 0)?;
            second.write_all_at(&vec![b'2'; 4 * MIB as usize], 0)?;
            for (vm, file) in [("web-1", &first), ("web-2", &second)] {
                let mut start = [0; 20];
                file.read_exact_at(&mut start, 0)?;
                println!("  {vm} reads {:?}", String::from_utf8_lossy(&start));
            }
            Ok::<_, std::io::Error>((first, second))
        };
        run().map_err(|e| Error::io("private views", e))
    }

    fn show_cost(&self) -> Result<()> {
        println!("\n$ templatefs views {}", self.mountpoint.display());
        let status = program::command().arg("views").arg(&self.mountpoint).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Error::Invalid(format!("templatefs views: {status}"))),
            Err(error) => Err(Error::io("templatefs views", error)),
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Err(error) = mount::detach(&self.mountpoint) {
            eprintln!("templatefs: {error}");
        }
    }
}

fn digest(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let copied = File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    copied.map_err(|e| Error::io(format!("{}", path.display()), e))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
