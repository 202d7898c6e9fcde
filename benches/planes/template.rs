//! Templates: random bytes, and the RAM of a guest that has worked.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::common::guest::{self, Backend, Machine};
use crate::common::random::Random;
use crate::common::sys;
use crate::mounts::run;
use crate::{PAGE, Result};

pub struct Template {
    /// Of the file in the store, and in the report.
    pub name: &'static str,
    pub path: PathBuf,
    pub size: u64,
}

impl Template {
    fn new(store: &Path, name: &'static str) -> Result<Template> {
        let path = store.join(name);
        fs::set_permissions(&path, Permissions::from_mode(0o444))?;
        warm(&path)?;
        Ok(Template { name, size: fs::metadata(&path)?.len(), path })
    }

    /// Incompressible.
    pub fn random(store: &Path, name: &'static str, size: u64, seed: u64) -> Result<Template> {
        let mut random = Random::new(seed);
        let mut file = io::BufWriter::with_capacity(1 << 20, File::create(store.join(name))?);
        for _ in 0..size / 8 {
            file.write_all(&random.next().to_le_bytes())?;
        }
        file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        Template::new(store, name)
    }

    /// One hole.
    pub fn sparse(store: &Path, name: &'static str, size: u64) -> Result<Template> {
        File::create(store.join(name))?.set_len(size)?;
        Template::new(store, name)
    }

    /// The RAM of a Linux guest that filled a third of it with files and an eighth with zeros, and removed a part again:
    /// data, pages of zeros, and holes where it never wrote.
    pub fn of_a_guest(store: &Path, name: &'static str, size: u64) -> Result<Template> {
        let directory = tempfile::tempdir()?;
        let machine = Machine { ram_mib: size >> 20, nvdimm_mib: 0 };
        let captured = guest::Template::make(directory.path(), machine, None);
        let path = store.join(name);
        run(Command::new("cp").arg("--sparse=always").arg(&captured.ram).arg(&path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        let mut guest = captured.restore(Backend::new(&path, "share=on"), None);
        // busybox has 2 MB.
        let files = (size / 3) >> 21;
        guest.ok(&format!("head -c {} /dev/zero >zeros", size / 8));
        guest.ok(&format!("i=0; while [ $i -lt {files} ]; do cat /bin/busybox >file$i; i=$((i+1)); done"));
        guest.ok("rm zeros file?");
        guest.capture(&directory.path().join("worked"));
        Template::new(store, name)
    }

    /// The directory that it lies in: the store.
    pub fn directory(&self) -> Result<PathBuf> {
        Ok(self.path.parent().ok_or("a template has a directory")?.to_owned())
    }

    pub fn pages(&self) -> usize {
        self.size as usize / PAGE
    }

    /// What is no hole.
    pub fn data(&self) -> Result<Vec<Range<u64>>> {
        let file = File::open(&self.path)?;
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            match seek(&file, SeekFrom::Data(at)) {
                Ok(start) => {
                    at = seek(&file, SeekFrom::Hole(start))?;
                    found.push(start..at);
                }
                Err(Errno::NXIO) => return Ok(found),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads a file where it is not in memory as a whole.
pub fn warm(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let data = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    if sys::cachestat(&file)?.cached * (PAGE as u64) < data.min(metadata.len()) {
        let mut buffer = vec![0; 1 << 20];
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}
