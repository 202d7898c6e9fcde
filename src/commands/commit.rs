//! `commit`: a private view becomes a template.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use super::capture::{captured, memory, note_vmgenid, summary};
use super::make::{Making, Told};
use super::target::{self, Found};
use crate::cli::CommitArgs;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, Origin, Role};
use crate::vm::Vm;

pub fn run(args: &CommitArgs) -> Result<ExitCode> {
    let (id, name) = target::split(&args.words);
    let found = target::find(&args.view, id)?;
    found.refuse_copies()?;
    let name = target::template(name)?;
    let manifest = match &args.qmp {
        Some(socket) => with_machine(args, &found, &name, socket)?,
        None => alone(args, &found, &name)?,
    };
    super::print(summary(&manifest).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The view as it is: whoever uses it has paused.
fn alone(args: &CommitArgs, found: &Found, name: &Path) -> Result<Manifest> {
    let mut making = Making::new(&found.store()?, name)?;
    let part = making.own_name();
    let view = found.open()?;
    let size = size_of(&view, found)?;
    making.copy(&part, Role::Image, &view, size)?;
    making.publish_file(Told {
        origin: Origin::Commit,
        machine: None,
        lineage: Some(found.lineage()?),
        about: &args.about,
    })
}

/// The machine that has the view as its memory, at one instant.
fn with_machine(args: &CommitArgs, found: &Found, name: &Path, socket: &Path) -> Result<Manifest> {
    let mut vm = Vm::connect(socket)?;
    let mut machine = vm.machine()?;
    let files = memory(&vm, &mut machine)?;
    let view = found.open()?;
    if !files.iter().any(|(_, file, _)| same_file(file, &view)) {
        return Err(Error::Invalid(format!(
            "{}: the memory of this machine is not the view {}: name the QEMU that has it, or leave --qmp out",
            socket.display(),
            found.view.id
        )));
    }
    let mut about = args.about.clone();
    note_vmgenid(&mut about.safe, vm.has_vmgenid())?;
    let mut making = Making::new(&found.store()?, name)?;
    captured(vm, &mut making, &files, &[])?.resume()?;
    let lineage = Some(found.lineage()?);
    making.publish_set(Told { origin: Origin::Commit, machine: Some(machine), lineage, about: &about })
}

fn same_file(one: &File, other: &File) -> bool {
    let key = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
    key(one).is_some() && key(one) == key(other)
}

pub fn size_of(view: &File, found: &Found) -> Result<u64> {
    view.metadata()
        .map(|metadata| metadata.len())
        .map_err(|e| Error::io(format!("view {}", found.view.id), e))
}
