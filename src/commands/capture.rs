//! `capture`: a running QEMU becomes a template.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use super::make::{Making, Told, full};
use super::table::iec;
use super::target;
use crate::cli::{CaptureArgs, Then};
use crate::error::{Error, Result};
use crate::manifest::{Fact, Machine, Manifest, MemoryBackend, Origin, RAM, Role, STATE};
use crate::steps::step;
use crate::vm::{Stopped, Vm};

pub fn run(args: &CaptureArgs) -> Result<ExitCode> {
    let name = target::template(&args.name)?;
    let disks = args.disk.iter().map(|disk| Disk::open(disk)).collect::<Result<Vec<_>>>()?;
    let mut vm = Vm::connect(&args.qmp)?;
    let mut machine = vm.machine()?;
    let memory = memory(&vm, &mut machine)?;
    let mut about = args.about.clone();
    note_vmgenid(&mut about.safe, vm.has_vmgenid())?;
    let mut making = Making::new(&target::store(&args.store)?, &name)?;
    let stopped = captured(vm, &mut making, &memory, &disks)?;
    let told = Told { origin: Origin::Capture, machine: Some(machine), lineage: None, about: &about };
    let manifest = match args.then {
        // What is left to do needs the copies only.
        Then::Continue => {
            stopped.resume()?;
            step("capture 5: goes on");
            making.publish_set(told)?
        }
        Then::Quit => {
            let manifest = making.publish_set(told)?;
            stopped.quit()?;
            manifest
        }
    };
    super::print(summary(&manifest).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Has a machine stand still and copies all of it.
pub fn captured(vm: Vm, making: &mut Making, memory: &[Memory], disks: &[Disk]) -> Result<Stopped> {
    step("capture 1: begun");
    let mut stopped = vm.stop()?;
    step("capture 2: stopped");
    let state = making.create(STATE, Role::State)?;
    stopped.save_devices(state)?;
    match state.metadata() {
        Ok(metadata) if metadata.len() > 0 => {}
        Ok(_) => return Err(Error::Invalid("QEMU wrote no state of its devices".into())),
        Err(e) => return Err(full(STATE, e)),
    }
    step("capture 3: devices");
    for (part, file, size) in memory {
        making.copy(part, Role::Ram, file, *size)?;
    }
    for disk in disks {
        disk.copy(making)?;
    }
    step("capture 4: copied");
    Ok(stopped)
}

/// A part, the file that it is copied from, and how much of it.
pub type Memory = (String, File, u64);

/// The files of the memory that QEMU leaves out of its state, and the parts that they become.
pub fn memory(vm: &Vm, machine: &mut Machine) -> Result<Vec<Memory>> {
    let own = machine.memory.first();
    let usable = own.is_some_and(is_copied);
    if !usable {
        let what = own.map_or("it has no memory backend".to_owned(), |own| {
            format!("{} has share={}, readonly={}", own.id, word(own.share), word(own.readonly))
        });
        return Err(Error::Unsupported(format!(
            "this machine's memory cannot be captured ({what}): start it with -object \
             memory-backend-file,id=ram,share=on,mem-path=FILE,size=... -machine memory-backend=ram"
        )));
    }
    let mut files = Vec::new();
    for (index, backend) in machine.memory.iter_mut().enumerate() {
        if !is_copied(backend) {
            continue;
        }
        let part = if index == 0 { RAM.to_owned() } else { format!("{RAM}-{}", backend.id) };
        let path = backend.mem_path.clone().unwrap_or_default();
        files.push((part.clone(), vm.memory(&path, backend.size_bytes)?, backend.size_bytes));
        backend.part = Some(part);
    }
    Ok(files)
}

/// Memory that is not shared is in the state of the devices, and what is ROM is a template already.
fn is_copied(backend: &MemoryBackend) -> bool {
    backend.share && !backend.readonly && backend.mem_path.is_some()
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// A fact that QEMU knows better than whoever types it.
pub fn note_vmgenid(safe: &mut Vec<Fact>, has: bool) -> Result<()> {
    match (has, safe.contains(&Fact::Vmgenid)) {
        (true, false) => safe.push(Fact::Vmgenid),
        (false, true) => {
            return Err(Error::Invalid(
                "--safe vmgenid: this machine has no such device: leave it out, or start QEMU with -device vmgenid".into(),
            ));
        }
        _ => {}
    }
    safe.sort_unstable();
    safe.dedup();
    Ok(())
}

/// `PART=FILE`
pub struct Disk {
    part: String,
    file: File,
    shown: String,
}

impl Disk {
    fn open(text: &str) -> Result<Self> {
        let Some((part, path)) =
            text.split_once('=').filter(|(part, path)| !part.is_empty() && !path.is_empty())
        else {
            return Err(Error::Invalid(format!(
                "--disk {text}: write PART=FILE, such as root=/var/lib/vm/root.img"
            )));
        };
        let context = |e| Error::io(format!("--disk {text}"), e);
        if !Path::new(path).metadata().map_err(context)?.is_file() {
            return Err(Error::Invalid(format!("--disk {text}: it is no file")));
        }
        Ok(Self { part: part.to_owned(), file: File::open(path).map_err(context)?, shown: text.to_owned() })
    }

    fn copy(&self, making: &mut Making) -> Result<()> {
        let size = self.file.metadata().map_err(|e| Error::io(format!("--disk {}", self.shown), e))?.len();
        making.copy(&self.part, Role::Disk, &self.file, size)
    }
}

/// What a person wants to know of a template that was just made.
pub fn summary(manifest: &Manifest) -> String {
    let mut text = format!("{}\n", manifest.name);
    for part in &manifest.parts {
        let (size, data) = (iec(part.size_bytes), iec(part.data_bytes));
        text += &format!("  {:<12} {size:>8}, {data:>8} data  sha256 {}\n", part.file, part.sha256);
    }
    text
}
