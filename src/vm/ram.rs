//! The file behind a memory backend: the one that QEMU has open, since its path may lead to another by now. The
//! path of a private view without a name always does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub fn open(pid: Option<u32>, mem_path: &Path, size: u64) -> Result<File> {
    let shown = mem_path.display();
    let unfit = |why: String| Error::Invalid(format!("the guest's memory {shown}: {why}"));
    let mut files = pid.map(|pid| opened(pid, mem_path)).unwrap_or_default();
    let path = match files.len() {
        1 => files.pop_first().map(|(_, path)| path).unwrap_or_default(),
        0 => {
            return Err(unfit(
                "QEMU's process does not have it open, or not for this user to see; capture as root or as QEMU's user, on \
                 the host that it runs on"
                    .into(),
            ));
        }
        n => {
            return Err(unfit(format!(
                "QEMU has {n} files of this name open; give each memory backend its own"
            )));
        }
    };
    let file = File::open(&path).map_err(|e| Error::io(format!("the guest's memory {shown}"), e))?;
    let metadata = file.metadata().map_err(|e| Error::io(format!("the guest's memory {shown}"), e))?;
    match metadata.is_file() && metadata.len() >= size {
        true => Ok(file),
        false => Err(unfit(format!("it is no file of {size} bytes: use memory-backend-file with a file"))),
    }
}

/// The files that a process has open under this path, each once.
fn opened(pid: u32, mem_path: &Path) -> BTreeMap<(u64, u64), PathBuf> {
    let working = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let wanted = working.join(mem_path);
    // The kernel shows a path without links in it; a file that is gone has none but its last.
    let real = wanted.canonicalize().unwrap_or_else(|_| wanted.clone());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(link) = std::fs::read_link(&path).ok().map(without_deleted) else { continue };
        if (link == wanted || link == real)
            && let Ok(metadata) = std::fs::metadata(&path)
        {
            found.insert((metadata.dev(), metadata.ino()), path);
        }
    }
    found
}

fn without_deleted(link: PathBuf) -> PathBuf {
    match link.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(path) => OsString::from_vec(path.to_vec()).into(),
        None => link,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_file_is_the_one_that_is_open_and_not_what_its_path_became() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ram");
        std::fs::write(&path, b"first").unwrap();
        let held = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"other").unwrap();
        let pid = Some(std::process::id());
        let mut text = String::new();
        open(pid, &path, 5).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        assert!(open(pid, &path, 6).is_err(), "too short");
        let second = File::open(&path).unwrap();
        assert!(open(pid, &path, 5).unwrap_err().to_string().contains("2 files of this name"));
        drop((held, second));
        assert!(open(pid, &path, 5).is_err() && open(None, &path, 5).is_err());
    }
}
