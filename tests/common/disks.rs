//! Filesystems on loop devices, gone with their values.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, syncfs};
use tempfile::TempDir;

use super::limit::{Registered, on_expiry};

pub struct Disk {
    pub path: PathBuf,
    image: PathBuf,
    _directory: TempDir,
    _on_expiry: Registered,
}

impl Disk {
    /// A new filesystem of this kind and size in bytes; Err(why) where this machine cannot have it.
    pub fn new(kind: &str, size: u64) -> Result<Disk, String> {
        let directory = tempfile::Builder::new().prefix("templatefs-disk-").tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        done(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))?;
        Self::mount(directory, image)
    }

    /// Uses all but about `left` bytes, and returns the file that holds them.
    pub fn fill(&self, left: u64) -> PathBuf {
        let path = self.path.join("filler");
        let file = File::create(&path).unwrap();
        let mut end = 0;
        loop {
            // What was removed before gives its blocks back when the filesystem's journal is written.
            syncfs(&file).unwrap();
            let before = end;
            for step in [64 << 20, 1 << 20, 4096] {
                while fallocate(&file, FallocateFlags::empty(), end, step).is_ok() {
                    end += step;
                }
            }
            if end == before {
                break;
            }
        }
        file.set_len(end.saturating_sub(left)).unwrap();
        syncfs(&file).unwrap();
        path
    }

    /// What a power cut would leave now: the device as it is, with nothing brought there for it.
    pub fn after_power_cut(&self) -> Image {
        let directory = tempfile::Builder::new().prefix("templatefs-disk-").tempdir().unwrap();
        let image = directory.path().join("image");
        done(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&image)).unwrap();
        Image { directory, image }
    }

    fn mount(directory: TempDir, image: PathBuf) -> Result<Disk, String> {
        let path = directory.path().join("there");
        std::fs::create_dir(&path).unwrap();
        done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path))?;
        let detached = path.clone();
        let _on_expiry = on_expiry(move || detach(&detached));
        Ok(Disk { path, image, _directory: directory, _on_expiry })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(&self.path);
    }
}

/// A device that nobody has mounted.
pub struct Image {
    directory: TempDir,
    image: PathBuf,
}

impl Image {
    pub fn mount(self) -> Disk {
        Disk::mount(self.directory, self.image).unwrap()
    }
}

fn detach(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).status();
}

fn done(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
