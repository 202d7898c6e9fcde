//! Clones that kernel filesystems make. Loop devices over sparse files stand for disks of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Numbered, Removed, Subject, View};
use crate::Result;
use crate::mounts::{Mount, run};
use crate::report::Role;
use crate::template::Template;

const DISK: u64 = 64 << 30;

/// A filesystem on a loop device, with copies of the templates; made when it is first needed.
pub struct Disk {
    kind: &'static str,
    directory: PathBuf,
    mount: Option<Mount>,
}

impl Disk {
    pub fn new(kind: &'static str, directory: PathBuf) -> Disk {
        Disk { kind, directory, mount: None }
    }

    /// Where it is mounted.
    pub fn path(&mut self) -> Result<&Path> {
        if self.mount.is_none() {
            fs::create_dir_all(&self.directory)?;
            let image = self.directory.join("image");
            File::create(&image)?.set_len(DISK)?;
            run(Command::new(format!("mkfs.{}", self.kind)).arg("-q").arg(&image))?;
            let image = image.to_str().ok_or("a scratch directory that is no UTF-8")?;
            // What a view leaves behind is given back: else each copy of a template would stay in the image.
            self.mount = Some(Mount::new(&["-o", "loop,discard", image], &self.directory.join("mnt"))?);
        }
        Ok(self.mount.as_ref().expect("just mounted").path())
    }

    /// Its own copy of a template, hot.
    pub fn copy_of(&mut self, template: &Template) -> Result<PathBuf> {
        let store = self.path()?.join("store");
        fs::create_dir_all(&store)?;
        let copy = store.join(template.name);
        if !copy.exists() {
            run(Command::new("cp").args(["--sparse=always"]).arg(&template.path).arg(&copy))?;
            run(Command::new("sync").arg("-f").arg(&copy))?;
        }
        crate::template::warm(&copy)?;
        Ok(copy)
    }

    pub fn device(&self) -> Result<String> {
        let source = self.mount.as_ref().ok_or("not mounted")?.source()?;
        Ok(source.trim_start_matches("/dev/").to_owned())
    }
}

fn disk_with_views(kind: &'static str, directory: PathBuf) -> (Disk, Numbered) {
    let views = Numbered::new(directory.join("mnt/views"));
    (Disk::new(kind, directory), views)
}

/// `cp --reflink=always`.
pub struct Reflink {
    name: &'static str,
    disk: Disk,
    numbered: Numbered,
}

impl Reflink {
    pub fn new(name: &'static str, kind: &'static str, scratch: &Path) -> Reflink {
        let (disk, numbered) = disk_with_views(kind, scratch.join(name));
        Reflink { name, disk, numbered }
    }
}

impl Subject for Reflink {
    fn name(&self) -> &'static str {
        self.name
    }

    fn role(&self) -> Role {
        Role::Kernel
    }

    fn what(&self) -> &'static str {
        "`cp --reflink=always` of the template, on a loop device"
    }

    fn ready(&mut self, template: &Template) -> Result<()> {
        self.disk.copy_of(template).map(drop)
    }

    fn make(&mut self, template: &Template) -> Result<View> {
        let from = self.disk.path()?.join("store").join(template.name);
        let directory = self.numbered.directory()?;
        let path = directory.join("view");
        run(Command::new("cp").arg("--reflink=always").arg(from).arg(&path))?;
        Ok(View { device: Some(self.disk.device()?), ..View::new(path, Removed(directory)) })
    }
}

/// The kernel's overlay filesystem; a view is made by the first opening for writing, which copies the file up.
pub struct Overlayfs {
    name: &'static str,
    disk: Disk,
    numbered: Numbered,
}

impl Overlayfs {
    pub fn new(name: &'static str, kind: &'static str, scratch: &Path) -> Overlayfs {
        let (disk, numbered) = disk_with_views(kind, scratch.join(name));
        Overlayfs { name, disk, numbered }
    }
}

impl Subject for Overlayfs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn role(&self) -> Role {
        Role::Kernel
    }

    fn what(&self) -> &'static str {
        "the kernel's overlayfs on a loop device, one mount a view; making includes the copy-up at the first \
         opening for writing"
    }

    fn ready(&mut self, template: &Template) -> Result<()> {
        self.disk.copy_of(template).map(drop)
    }

    fn make(&mut self, template: &Template) -> Result<View> {
        let lower = self.disk.path()?.join("store").join(template.name);
        let directory = self.numbered.directory()?;
        let removed = Removed(directory.clone());
        let options = overlay_options(&lower, &directory)?;
        let mount = Mount::new(&["-t", "overlay", "overlay", "-o", &options], &directory.join("merged"))?;
        let upper = directory.join("upper").join(template.name);
        // A tuple is dropped in its order: the mount before its directories.
        let view = View::new(directory.join("merged").join(template.name), (mount, removed));
        view.open()?;
        Ok(View { stores: vec![upper], device: Some(self.disk.device()?), ..view })
    }
}

/// As mount(8) and fuse-overlayfs take them; makes the directories.
pub fn overlay_options(lower: &Path, directory: &Path) -> Result<String> {
    let lower = lower.parent().ok_or("a template has a directory")?;
    let (upper, work) = (directory.join("upper"), directory.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    Ok(format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display()))
}
