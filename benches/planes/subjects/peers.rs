//! Filesystems in user space that others made. One server, or one mount, a view.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clones::overlay_options;
use super::{Numbered, Removed, Subject, View};
use crate::Result;
use crate::mounts::{Mount, Server, run};
use crate::report::{Role, figures};
use crate::template::Template;

/// What the servers have in common: a directory for each view.
macro_rules! peer {
    ($peer:ident, $name:expr, $what:literal) => {
        pub struct $peer(Numbered);

        impl $peer {
            pub fn new(scratch: &Path) -> Self {
                Self(Numbered::new(scratch.join($name)))
            }
        }

        impl Subject for $peer {
            fn name(&self) -> &'static str {
                $name
            }

            fn role(&self) -> Role {
                Role::FusePeer
            }

            fn what(&self) -> &'static str {
                $what
            }

            fn make(&mut self, template: &Template) -> Result<View> {
                let directory = self.0.directory()?;
                let removed = Removed(directory.clone());
                self.serve(template, &directory, removed)
            }
        }
    };
}

peer!(
    FuseOverlayfs,
    "fuse-overlayfs",
    "fuse-overlayfs, one mount a view; making includes the copy-up at the first opening for writing"
);
peer!(
    QemuStorageDaemon,
    figures::QEMU,
    "`qemu-storage-daemon --export type=fuse` of a qcow2 overlay, clusters of 128 KiB with subclusters"
);
peer!(Xmount, "xmount", "`xmount --in raw TEMPLATE --cache FILE`");
peer!(Nbdfuse, "nbdfuse", "`nbdkit --filter=cow file TEMPLATE cow-block-size=4096` through nbdfuse");

impl FuseOverlayfs {
    fn serve(&self, template: &Template, directory: &Path, removed: Removed) -> Result<View> {
        let options = overlay_options(&template.path, directory)?;
        let merged = made(directory.join("merged"))?;
        let words = ["-f", "-o", &options].map(Path::new);
        let server = Server::start("fuse-overlayfs", words.into_iter().chain([&*merged]), &merged)?;
        let view = served(merged.join(template.name), server, removed);
        view.open()?;
        Ok(view)
    }
}

impl QemuStorageDaemon {
    fn serve(&self, template: &Template, directory: &Path, removed: Removed) -> Result<View> {
        let overlay = directory.join("overlay.qcow2");
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&template.path);
        run(create.args(["-o", "cluster_size=128k,extended_l2=on"]).arg(&overlay))?;
        let file = directory.join("file");
        File::create(&file)?;
        let overlay = format!("driver=file,node-name=file,filename={}", overlay.display());
        let export = format!("type=fuse,id=e,node-name=view,writable=on,mountpoint={}", file.display());
        let arguments = [
            "--blockdev",
            &overlay,
            "--blockdev",
            "driver=qcow2,node-name=view,file=file",
            "--export",
            &export,
        ];
        let server = Server::start("qemu-storage-daemon", arguments, &file)?;
        Ok(served(file, server, removed))
    }
}

impl Xmount {
    /// It goes to the background, so that its mount is what is held.
    fn serve(&self, template: &Template, directory: &Path, removed: Removed) -> Result<View> {
        let mountpoint = made(directory.join("mnt"))?;
        let cache = directory.join("cache");
        let mut xmount = Command::new("xmount");
        xmount.arg("--in").arg("raw").arg(&template.path).arg("--cache").arg(&cache);
        run(xmount.arg(&mountpoint))?;
        let mount = Mount::adopt(&mountpoint);
        let file = mountpoint.join(template.name).with_extension("dd");
        fs::metadata(&file)?;
        let server = serving(&cache)?;
        Ok(View { server: Some(server), ..View::new(file, (mount, removed)) })
    }
}

impl Nbdfuse {
    fn serve(&self, template: &Template, directory: &Path, removed: Removed) -> Result<View> {
        let file = directory.join("file");
        File::create(&file)?;
        let words = ["[", "nbdkit", "--exit-with-parent", "--filter=cow", "file"].map(Path::new);
        let end = ["cow-block-size=4096", "]"].map(Path::new);
        let arguments = [&*file].into_iter().chain(words).chain([&*template.path]).chain(end);
        let server = Server::start("nbdfuse", arguments, &file)?;
        Ok(served(file, server, removed))
    }
}

fn made(directory: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn served(path: PathBuf, server: Server, removed: Removed) -> View {
    // The tuple's order: the server ends before its directory goes.
    View { server: Some(server.pid()), ..View::new(path, (server, removed)) }
}

/// The process that has a file open.
fn serving(file: &Path) -> Result<u32> {
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        if descriptors.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == file)) {
            return Ok(pid);
        }
    }
    Err(format!("no process has {} open", file.display()).into())
}
