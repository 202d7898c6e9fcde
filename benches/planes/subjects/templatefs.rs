//! templatefs itself, one subject for each way to open a template through it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Subject, View};
use crate::Result;
use crate::common::mounted::binary;
use crate::mounts::{Mount, Server};
use crate::report::{Role, figures};
use crate::template::Template;

/// A mount with `--warm` looks at what a view has mapped two to three seconds after it was opened.
const SEEN: Duration = Duration::from_millis(3500);
/// How long warming a view may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Mode {
    name: &'static str,
    what: &'static str,
    /// Stands behind the template's name.
    query: &'static str,
    writable: bool,
    /// Further arguments of `templatefs mount`.
    mount: &'static [&'static str],
    /// Its views are warm once it was trained.
    warm: bool,
    training: usize,
    /// QEMU's options beside the mem-path.
    qemu: &'static str,
}

const PLAIN: Mode = Mode {
    name: "",
    what: "",
    query: "?rom=off",
    writable: true,
    mount: &[],
    warm: false,
    training: 0,
    qemu: "share=on",
};

pub const MODES: [Mode; 7] = [
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
    Mode {
        name: figures::DEFAULT,
        what: "`?rom=off` opened O_RDWR (an overlay), template never used before",
        ..PLAIN
    },
    Mode {
        name: figures::LEARNED,
        what: "`?rom=off` opened O_RDWR, mounted with `--warm 2`, after a view that touched the same pages for \
               some seconds; before each view it is waited, unmeasured, until one is warm",
        mount: &["--warm", "2"],
        warm: true,
        training: 1,
        ..PLAIN
    },
    Mode {
        name: figures::MEMORY,
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
        name: "templatefs:lean",
        what: "`?rom=off` opened O_RDWR, mounted with `--read-ahead 4`: nothing is read around a fault",
        mount: &["--read-ahead", "4"],
        ..PLAIN
    },
];

pub struct Templatefs {
    mode: &'static Mode,
    scratch: PathBuf,
    mounted: Option<Mounted>,
    trained: bool,
}

/// Dropped in this order.
struct Mounted {
    server: Server,
    mountpoint: PathBuf,
    _tmpfs: Mount,
}

impl Templatefs {
    pub fn new(mode: &'static Mode, scratch: &Path) -> Templatefs {
        let scratch = scratch.join(mode.name.replace(':', "-"));
        Templatefs { mode, scratch, mounted: None, trained: false }
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
        self.trained = false;
        // As by default: /run is a tmpfs.
        let tmpfs = Mount::new(&["-t", "tmpfs", "tmpfs"], &self.scratch.join("tmpfs"))?;
        let (store, state) = (template.directory()?, tmpfs.path().join("state"));
        let mountpoint = self.scratch.join("mount");
        fs::create_dir_all(&mountpoint)?;
        let words = ["mount", "--foreground", "--allow-other", "--log-level", "warn"];
        let paths = [Path::new("--state-dir"), &state, &store, &mountpoint];
        let arguments = words.iter().chain(self.mode.mount).map(Path::new).chain(paths);
        let server = Server::start(binary(), arguments, &mountpoint)?;
        self.mounted = Some(Mounted { server, mountpoint, _tmpfs: tmpfs });
        Ok(())
    }

    fn open(&self, template: &Template) -> Result<File> {
        let opened = OpenOptions::new().read(true).write(self.mode.writable).open(self.path(template)?);
        Ok(opened.map_err(|error| format!("the mount refuses TEMPLATE{}: {error}", self.mode.query))?)
    }

    fn wait_until_warm(&self) -> Result<()> {
        let is_ready = || -> Result<bool> {
            let report = self.report("profiles.json")?;
            let profiles = report["profiles"].as_array().ok_or("profiles.json has no profiles")?;
            Ok(profiles.iter().any(|profile| profile["ready"].as_u64() > Some(0)))
        };
        let end = Instant::now() + PATIENCE;
        while !is_ready()? {
            if Instant::now() > end {
                return Err("no view became warm".into());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// A file of the control directory.
    fn report(&self, name: &str) -> Result<serde_json::Value> {
        let mounted = self.mounted.as_ref().ok_or("not mounted")?;
        let text = fs::read(mounted.mountpoint.join(".templatefs").join(name))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// A figure of `.templatefs/views.json`, summed over all views; an unknown one is an error.
    pub fn sum(&self, field: &str) -> Result<u64> {
        let report = self.report("views.json")?;
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
        self.mount(template)?;
        self.open(template).map(drop)
    }

    fn learns(&self) -> bool {
        self.mode.warm
    }

    fn dwell(&self) {
        if self.mode.warm {
            sleep(SEEN);
        }
    }

    fn trained(&mut self) {
        self.trained = true;
    }

    fn make(&mut self, template: &Template) -> Result<View> {
        if self.mode.warm && self.trained {
            self.wait_until_warm()?;
        }
        let view = View::new(self.path(template)?, ());
        Ok(View { writable: self.mode.writable, server: self.daemon(), ..view })
    }

    fn own_figure(&self) -> Option<Result<u64>> {
        Some(self.sum("cost_bytes"))
    }
}
