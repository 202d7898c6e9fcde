//! templatefs itself, one subject for each way to open a template through it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clones::Disk;
use super::{Subject, View};
use crate::Result;
use crate::common::mounted::binary;
use crate::mounts::{Mount, Server};
use crate::report::{Role, figures};
use crate::template::Template;

pub struct Mode {
    name: &'static str,
    what: &'static str,
    /// Stands behind the template's name.
    query: &'static str,
    writable: bool,
    /// The state directory lies on XFS, and so must the store.
    xfs: bool,
    /// Further arguments of `templatefs mount`.
    mount: &'static [&'static str],
    /// A subcommand that a mount must know, else the mode is refused.
    needs: Option<&'static str>,
    training: usize,
    /// QEMU's options beside the mem-path.
    qemu: &'static str,
}

const PLAIN: Mode = Mode {
    name: "",
    what: "",
    query: "?rom=off",
    writable: true,
    xfs: false,
    mount: &[],
    needs: None,
    training: 0,
    qemu: "share=on",
};

pub const MODES: [Mode; 8] = [
    Mode {
        name: figures::ROM,
        what: "the template as ROM: no query",
        query: "",
        writable: false,
        qemu: "share=off,readonly=on,rom=off",
        ..PLAIN
    },
    Mode {
        name: figures::READ_ONLY,
        what: "`?rom=off` opened O_RDONLY, as QEMU's readonly=on,rom=off does",
        writable: false,
        qemu: "share=off,readonly=on,rom=off",
        ..PLAIN
    },
    Mode { name: figures::DEFAULT, what: "`?rom=off` opened O_RDWR, template never used before", ..PLAIN },
    Mode {
        name: "templatefs:overlay",
        what: "`?rom=off&backing=overlay`, O_RDWR, template never used before",
        query: "?rom=off&backing=overlay",
        ..PLAIN
    },
    Mode {
        name: figures::LEARNED,
        what: "`?rom=off` opened O_RDWR, after three views that touched the same pages",
        needs: Some("profile"),
        training: 3,
        ..PLAIN
    },
    Mode {
        name: "templatefs:memory",
        what: "`?rom=off&backing=memory`, O_RDWR",
        query: "?rom=off&backing=memory",
        ..PLAIN
    },
    Mode {
        name: "templatefs:pool",
        what: "`?rom=off&backing=memory`, O_RDWR, mounted with `--pool 2`; after one view that was opened before",
        query: "?rom=off&backing=memory",
        mount: &["--pool", "2"],
        training: 1,
        ..PLAIN
    },
    Mode {
        name: "templatefs:reflink",
        what: "`?rom=off&backing=reflink`, O_RDWR, store and state directory on XFS (loop)",
        query: "?rom=off&backing=reflink",
        xfs: true,
        ..PLAIN
    },
];

pub struct Templatefs {
    mode: &'static Mode,
    scratch: PathBuf,
    disk: Option<Disk>,
    mounted: Option<Mounted>,
}

/// Dropped in this order.
struct Mounted {
    server: Server,
    mountpoint: PathBuf,
    _tmpfs: Option<Mount>,
}

impl Templatefs {
    pub fn new(mode: &'static Mode, scratch: &Path) -> Templatefs {
        let scratch = scratch.join(mode.name.replace(':', "-"));
        let disk = mode.xfs.then(|| Disk::new("xfs", scratch.clone()));
        Templatefs { mode, scratch, disk, mounted: None }
    }

    pub fn path(&self, template: &Template) -> Result<PathBuf> {
        let mounted = self.mounted.as_ref().ok_or("not mounted")?;
        Ok(mounted.mountpoint.join(format!("{}{}", template.name, self.mode.query)))
    }

    pub fn qemu(&self) -> &'static str {
        self.mode.qemu
    }

    pub fn daemon(&self) -> Option<u32> {
        self.mounted.as_ref().map(|mounted| mounted.server.pid())
    }

    /// Mounts with an empty state directory: nothing is remembered of earlier views.
    fn mount(&mut self, template: &Template) -> Result<()> {
        self.mounted = None;
        let (store, state, tmpfs) = match &mut self.disk {
            Some(disk) => {
                let store = disk.copy_of(template)?;
                let state = disk.path()?.join("state");
                let _ = fs::remove_dir_all(&state);
                (store.parent().ok_or("no directory")?.to_owned(), state, None)
            }
            // As by default: /run is a tmpfs.
            None => {
                let tmpfs = Mount::new(&["-t", "tmpfs", "tmpfs"], &self.scratch.join("tmpfs"))?;
                (template.directory()?, tmpfs.path().join("state"), Some(tmpfs))
            }
        };
        let mountpoint = self.scratch.join("mount");
        fs::create_dir_all(&mountpoint)?;
        let words = ["mount", "--foreground", "--allow-other", "--log-level", "warn"];
        let paths = [Path::new("--state-dir"), &state, &store, &mountpoint];
        let arguments = words.iter().chain(self.mode.mount).map(Path::new).chain(paths);
        let server = Server::start(binary(), arguments, &mountpoint)?;
        self.mounted = Some(Mounted { server, mountpoint, _tmpfs: tmpfs });
        Ok(())
    }

    /// A figure of `.templatefs/views.json`, summed over all views; an unknown one is an error.
    pub fn sum(&self, field: &str) -> Result<u64> {
        let mounted = self.mounted.as_ref().ok_or("not mounted")?;
        let text = fs::read(mounted.mountpoint.join(".templatefs/views.json"))?;
        let report: serde_json::Value = serde_json::from_slice(&text)?;
        let views = report["views"].as_array().ok_or("views.json has no views")?;
        let values = views.iter().map(|view| view[field].as_u64());
        values.sum::<Option<u64>>().ok_or_else(|| format!("{field} of a view is unknown").into())
    }
}

impl Subject for Templatefs {
    fn name(&self) -> &'static str {
        self.mode.name
    }

    fn role(&self) -> Role {
        Role::Templatefs
    }

    fn what(&self) -> &'static str {
        self.mode.what
    }

    fn writable(&self) -> bool {
        self.mode.writable
    }

    fn makes(&self) -> bool {
        false
    }

    fn training(&self) -> usize {
        self.mode.training
    }

    fn ready(&mut self, template: &Template) -> Result<()> {
        if let Some(command) = self.mode.needs {
            let output = Command::new(binary()).args([command, "--help"]).output()?;
            if !output.status.success() {
                return Err(format!("this templatefs has no `templatefs {command}`").into());
            }
        }
        self.mount(template)?;
        let path = self.path(template)?;
        let opened: std::io::Result<File> =
            OpenOptions::new().read(true).write(self.mode.writable).open(&path);
        opened.map_err(|error| format!("the mount refuses TEMPLATE{}: {error}", self.mode.query))?;
        Ok(())
    }

    fn make(&mut self, template: &Template) -> Result<View> {
        let view = View::new(self.path(template)?, ());
        Ok(View { writable: self.mode.writable, server: self.daemon(), ..view })
    }

    fn own_figure(&self) -> Option<Result<u64>> {
        Some(self.sum("cost_bytes"))
    }
}
