//! A real mount whose views cost what is said here.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::process::{Command, Output, Stdio};

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, fallocate};
use serde_json::Value;

use super::mounted::{Mounted, Options, binary};

pub const PAGE: usize = 4096;
/// What two of the views cost, in pages: no figure of one can be taken for the other's.
pub const SHARED: usize = 48;
pub const COPIED: usize = 20;

/// A mount with three views that this process uses, and one that nobody does.
pub struct Costly {
    open: Option<(File, File, File)>,
    shared: Option<MmapMut>,
    copied: Option<MmapMut>,
    /// Dropped after what uses it.
    pub mounted: Mounted,
}

impl Costly {
    pub fn new() -> Self {
        let mounted = Mounted::start(Options::default());
        mounted.template("debian/12.ram", &vec![7; 256 * PAGE]);
        mounted.template("rootfs.img", &vec![9; 64 * PAGE]);
        let writable =
            |name: &str| OpenOptions::new().read(true).write(true).open(mounted.path(name)).unwrap();
        let first = writable("debian/12.ram?rom=off&view=web-1&vm=web");
        let second = File::open(mounted.path("debian/12.ram?rom=off&vm=db")).unwrap();
        let rom = File::open(mounted.path("rootfs.img?vm=web")).unwrap();
        drop(writable("rootfs.img?rom=off&view=idle"));
        // SAFETY: nobody else maps or truncates these views.
        let shared = unsafe { MmapMut::map_mut(&first) }.unwrap();
        // SAFETY: as above.
        let mut copied = unsafe { MmapOptions::new().map_copy(&second) }.unwrap();
        for page in 0..COPIED {
            copied[page * PAGE] = 1;
        }
        let open = Some((first, second, rom));
        let mut costly = Self { open, shared: Some(shared), copied: Some(copied), mounted };
        costly.dirty_shared(0, SHARED);
        costly
    }

    /// The filesystem knows of these pages once they are written back.
    pub fn dirty_shared(&mut self, from: usize, pages: usize) {
        let shared = self.shared.as_mut().expect("views in use");
        for page in from..from + pages {
            shared[page * PAGE] = 1;
        }
        shared.flush().unwrap();
    }

    /// Punches pages of the view that is shared.
    pub fn punch(&self, pages: Range<usize>) {
        let (shared, ..) = self.open.as_ref().expect("views in use");
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(shared, flags, (pages.start * PAGE) as u64, (pages.len() * PAGE) as u64).unwrap();
    }

    /// Maps and opens nothing any more.
    pub fn let_go(&mut self) {
        (self.open, self.shared, self.copied) = (None, None, None);
    }

    pub fn templatefs(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg(&self.mounted.mountpoint).stdin(Stdio::null()).output().unwrap()
    }

    pub fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.templatefs(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(arguments)).unwrap()
    }
}

/// The id of the only view that carries this label.
pub fn id_of(views: &Value, vm: &str) -> String {
    let view = views["views"].as_array().unwrap().iter().find(|view| view["vm"] == vm).unwrap();
    view["id"].as_str().unwrap().to_owned()
}
