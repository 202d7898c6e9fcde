//! What is known of a template beside its bytes, as a file that lies beside it: where it comes from, what it must
//! be by its digests, the machine that it was captured from, and what makes it safe to clone. docs/TEMPLATES.md
//! is the schema. Pure; publish.rs writes it and the store reads it.
//!
//! ```text
//! debian/12/manifest.json            of a set: of the files ram, state, ... beside it
//! debian/12.ram.manifest.json        of the one file debian/12.ram
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The number changes when a field goes or changes its meaning; fields may be added.
pub const SCHEMA: u32 = 1;
/// In the directory of a set.
pub const FILE: &str = "manifest.json";
/// After the name of a template that is one file.
pub const SUFFIX: &str = ".manifest.json";
/// More than any manifest needs.
pub const MAX_LENGTH: u64 = 1 << 20;

/// The files of a captured machine.
pub const RAM: &str = "ram";
pub const STATE: &str = "state";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    /// The template's path in its store when it was made.
    pub name: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// Which version of templatefs made it.
    pub made_by: String,
    #[serde(default)]
    pub notes: Option<String>,
    pub origin: Origin,
    /// Each file of the template; of one file alone it is the only one.
    pub parts: Vec<Part>,
    /// The machine that it is the memory of, where that is known.
    #[serde(default)]
    pub machine: Option<Machine>,
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// What its maker vouches for.
    #[serde(default)]
    pub safe: Vec<Fact>,
}

/// How it came into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// From a running virtual machine.
    Capture,
    /// From a private view.
    Commit,
    /// From a file of this format.
    Import { format: String },
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the manifest's directory.
    pub file: String,
    pub role: Role,
    pub size_bytes: u64,
    /// Of it, what was no hole when it was written.
    pub data_bytes: u64,
    /// Of all of its bytes, holes as zeros, in lower case hexadecimal: what sha256sum(1) prints.
    pub sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The memory of a machine, or of one of its memory backends.
    Ram,
    /// QEMU's migration stream without shared memory (x-ignore-shared).
    State,
    Disk,
    /// Whatever else.
    Image,
}

/// What a clone must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `qemu`; there may be others.
    pub vmm: String,
    /// `10.0.2`
    pub version: String,
    /// `x86_64`, as in the name of the program.
    pub arch: String,
    /// As `-machine` takes it: `pc-i440fx-10.0`. Never an alias such as `pc`, which another version takes for
    /// another machine.
    #[serde(rename = "type")]
    pub kind: String,
    /// As `-m` takes it; DIMMs that were plugged aside.
    pub memory_bytes: u64,
    /// `tcg`, `kvm`
    pub accelerator: String,
    pub cpus: u32,
    /// As `-cpu` takes it, without its features: `qemu64`. None where the VMM does not tell.
    #[serde(default)]
    pub cpu: Option<String>,
    /// The machine's own one first.
    pub memory: Vec<MemoryBackend>,
    /// The arguments that the VMM was started with, its program first. None where they cannot be read, or where
    /// one may hold a secret. Paths in them are those of then.
    #[serde(default)]
    pub command_line: Option<Vec<String>>,
}

/// A memory backend as it was. QEMU's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBackend {
    pub id: String,
    /// The part that holds it; None where it is in the state, or a file of its own elsewhere.
    #[serde(default)]
    pub part: Option<String>,
    pub size_bytes: u64,
    pub share: bool,
    /// Where it was.
    #[serde(default)]
    pub mem_path: Option<String>,
    #[serde(default)]
    pub readonly: bool,
    pub merge: bool,
    pub dump: bool,
    pub prealloc: bool,
}

/// What it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// A template of the same store, as it is written in a path of a mount.
    pub template: String,
    /// Its digest, where its manifest knows it.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The private view of it; None for one without a name.
    #[serde(default)]
    pub view: Option<String>,
}

/// What makes a template safe to run more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    /// It has a VM generation ID device, by which a guest notices that it was cloned
    Vmgenid,
    /// There are no SSH host keys in it: each clone makes its own
    NoSshKeys,
    /// Its machine-id is empty: each clone makes its own
    NoMachineId,
    /// Nothing in it is secret from any tenant: clones may be given to several
    Shareable,
}

impl Fact {
    pub const ALL: [Self; 4] = [Self::Vmgenid, Self::NoSshKeys, Self::NoMachineId, Self::Shareable];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vmgenid => "vmgenid",
            Self::NoSshKeys => "no-ssh-keys",
            Self::NoMachineId => "no-machine-id",
            Self::Shareable => "shareable",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fact| fact.as_str() == text)
    }

    /// `vmgenid, no-ssh-keys, ...`
    pub fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl Manifest {
    /// `shown` is the file, for messages.
    pub fn parse(text: &[u8], shown: &str) -> Result<Self> {
        let unfit = |why: String| Error::Invalid(format!("{shown}: {why}"));
        #[derive(Deserialize)]
        struct Numbered {
            schema: u32,
        }
        // First the number alone: what another schema means by its fields is not known.
        let numbered: Numbered = serde_json::from_slice(text)
            .map_err(|e| unfit(format!("it is no manifest of a template: {e}")))?;
        if numbered.schema != SCHEMA {
            return Err(unfit(format!(
                "it has schema {}, and this templatefs reads schema {SCHEMA}: use a version that made it",
                numbered.schema
            )));
        }
        let manifest: Self = serde_json::from_slice(text)
            .map_err(|e| unfit(format!("it is no manifest of a template: {e}")))?;
        let is_name = |name: &str| !name.is_empty() && !name.contains('/') && !matches!(name, "." | "..");
        match manifest.parts.iter().find(|part| !is_name(&part.file)) {
            Some(part) => Err(unfit(format!("its part {:?} is no file beside it", part.file))),
            None => Ok(manifest),
        }
    }

    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|e| Error::io("a manifest", std::io::Error::from(e)))?;
        text.push(b'\n');
        Ok(text)
    }

    pub fn part(&self, file: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.file == file)
    }

    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.role == role)
    }
}

/// Is this the name of a manifest, and not of a template?
pub fn is_manifest(name: &[u8]) -> bool {
    name == FILE.as_bytes() || (name.ends_with(SUFFIX.as_bytes()) && name.len() > SUFFIX.len())
}

/// The manifest of the one file at `template`.
pub fn beside(template: &Path) -> PathBuf {
    let mut name = OsString::from(template.file_name().unwrap_or_default());
    name.push(SUFFIX);
    template.with_file_name(name)
}

/// Where the manifest of the file at `template` may be, the likelier first: its own, or that of its set.
pub fn places(template: &Path) -> [PathBuf; 2] {
    [beside(template), template.with_file_name(FILE)]
}

/// The manifest of a template of the store at `root`, and the path of that file. `name` is a set, one file of a
/// set, or one file with a manifest of its own. None where it has none.
pub fn find(root: &Path, name: &Path) -> Result<Option<(PathBuf, Manifest)>> {
    let own = name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(found) = read(&root.join(name).join(FILE))? {
        return Ok(Some(found));
    }
    for place in places(&root.join(name)) {
        if let Some(found) = read(&place)?
            && found.1.part(own).is_some()
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// None where there is none.
pub fn read(path: &Path) -> Result<Option<(PathBuf, Manifest)>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let shown = path.display().to_string();
    match std::fs::symlink_metadata(path) {
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => return Ok(None),
        Err(e) => return Err(Error::io(shown, e)),
        Ok(metadata) if !metadata.is_file() => {
            return Err(Error::Invalid(format!("{shown}: a manifest is a file, and this is none")));
        }
        Ok(metadata) if metadata.len() > MAX_LENGTH => {
            return Err(Error::TooLarge(format!(
                "{shown}: longer than {MAX_LENGTH} bytes, and so no manifest"
            )));
        }
        Ok(_) => {}
    }
    let text = std::fs::read(path).map_err(|e| Error::io(shown.clone(), e))?;
    Ok(Some((path.to_owned(), Manifest::parse(&text, &shown)?)))
}

#[cfg(test)]
mod tests;
