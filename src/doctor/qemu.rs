//! What QEMU will make of a command line: where it refuses, in its own words, and what it does without a word.
//! Pure: files are looked at by whoever calls. The sources are backends/hostmem-file.c, system/physmem.c and
//! hw/mem/nvdimm.c of QEMU 10; tests/doctor.rs asks the real one.

use super::backend;
use super::line::{Line, Nvdimm};
use super::{Finding, Level};
use crate::explain::Refusal;
use crate::rules::Kind;

/// A file that a line names.
#[derive(Debug, Clone)]
pub struct File {
    pub found: Found,
    pub size: u64,
    /// Is there anything but holes in it?
    pub has_data: bool,
    /// Why whoever asks cannot read or write it, in strerror(3)'s words.
    pub unreadable: Option<String>,
    pub unwritable: Option<String>,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Regular,
    Directory,
    /// Not there; would a directory take it?
    Missing {
        creatable: bool,
    },
    /// It cannot be looked at, in strerror(3)'s words.
    Failed(String),
}

#[derive(Debug, Clone)]
pub enum Place {
    Templatefs(OnMount),
    HugePages,
    Elsewhere,
}

/// A path on a mount: what it is, or why it is nothing.
#[derive(Debug, Clone)]
pub struct OnMount {
    pub kind: Result<Kind, Refusal>,
    /// The view's name.
    pub view: Option<String>,
}

pub fn findings(line: &Line, look: impl Fn(&str) -> File) -> Vec<Finding> {
    let mut found = Vec::new();
    for memory in &line.backends {
        let file = memory.mem_path.as_deref().map(&look);
        found.extend(backend::findings(line, memory, file.as_ref()));
    }
    found.extend(machine(line));
    found.extend(line.nvdimms.iter().filter_map(|device| nvdimm(line, device)));
    if line.backends.is_empty() {
        found.push(Finding::new(
            Level::Note,
            "memory",
            "no memory of this guest comes from a file",
            "it is not a clone of a template, and shares nothing with other guests",
            "templatefs run-args TEMPLATE --vmm qemu prints the options for a clone",
        ));
    }
    found
}

fn machine(line: &Line) -> Option<Finding> {
    let about = "-machine";
    let id = line.memory_backend.as_ref()?;
    if line.mem_path.is_some() {
        return Some(Finding::refused(
            about,
            "'-mem-path' can't be used together with'-machine memory-backend'",
            "both say where the machine's RAM is",
            "leave out -mem-path",
        ));
    }
    if !line.ids.contains(id) {
        return Some(Finding::refused(
            about,
            format!("Memory backend '{id}' not found"),
            "no -object has this id",
            "give the -object for the machine's RAM this id, or name its id here",
        ));
    }
    let size = line.backends.iter().find(|memory| memory.id == *id)?.size?;
    // Without -m the machine takes the backend's size.
    let ram = line.ram.unwrap_or(size);
    (size != ram).then(|| {
        Finding::refused(
            about,
            "Machine memory size does not match the size of the memory backend",
            format!("-m is {ram} bytes and the backend {id} {size}"),
            format!("-m size={size}B, as the template has it"),
        )
    })
}

fn nvdimm(line: &Line, device: &Nvdimm) -> Option<Finding> {
    let option = &device.option;
    let memory = line.backends.iter().find(|memory| memory.id == device.memdev);
    let rom = memory.is_some_and(|memory| memory.properties.resolved_rom());
    if !line.machine_nvdimm {
        return Some(Finding::refused(
            "-device nvdimm",
            format!("{option}: nvdimm is not enabled: missing 'nvdimm' in '-M'"),
            "the machine has no NVDIMMs unless told",
            "-machine ...,nvdimm=on",
        ));
    }
    if rom && !device.unarmed {
        return Some(Finding::refused(
            "-device nvdimm",
            format!("{option}: 'unarmed' property must be 'on' since memdev {} is read-only", device.memdev),
            "a guest must be told that it cannot write",
            format!("{option},unarmed=on"),
        ));
    }
    (!line.slots).then(|| {
        Finding::refused(
            "-device nvdimm",
            format!("{option}: no slots where allocated, please specify the 'slots' option"),
            "an NVDIMM is plugged into a slot",
            "-m SIZE,slots=1,maxmem=SIZE",
        )
    })
}
