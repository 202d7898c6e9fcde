//! A filesystem that is soon full, for which only root can mount.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::limit::{Registered, on_expiry};

/// A small tmpfs, gone with this value.
pub struct Small {
    pub path: PathBuf,
    _directory: tempfile::TempDir,
    _on_expiry: Registered,
}

impl Small {
    pub fn of_mib(mib: u64) -> Small {
        let directory = tempfile::Builder::new().prefix("templatefs-test-").tempdir().unwrap();
        let path = directory.path().join("small");
        fs::create_dir(&path).unwrap();
        let size = format!("size={mib}m,mode=0700");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "small"]).arg(&path).status();
        assert!(status.unwrap().success());
        let registered = on_expiry({
            let path = path.clone();
            move || detach(&path)
        });
        Small { path, _directory: directory, _on_expiry: registered }
    }

    /// Uses what is left, and returns the file that holds it.
    pub fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let file = File::create(&path).unwrap();
        let mut at = 0;
        while file.write_all_at(&[1; 4096], at).is_ok() {
            at += 4096;
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        detach(&self.path);
    }
}

fn detach(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).status();
}
