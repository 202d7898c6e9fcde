//! QEMU 8.2 or later: options, and what is said over QMP where a state is restored.

use serde_json::json;

use super::{Memory, RunArgs, SCHEMA, Step, Template, Vmm, Wish};
use crate::manifest::Machine;
use crate::qemu::{double_commas, memory_backend};

pub fn run_args(template: &Template, wish: &Wish) -> RunArgs {
    let machine = template.machine.as_ref().filter(|machine| machine.vmm == "qemu");
    let mut args = Vec::new();
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    let kind = machine.map(|machine| format!("{},", double_commas(&machine.kind))).unwrap_or_default();
    if let Some(main) = template.memory.first() {
        add("-machine", format!("{kind}memory-backend={}", double_commas(&main.id)));
        add("-m", memory_size(machine.map_or(main.size, |machine| machine.memory_bytes)));
    }
    if let Some(machine) = machine {
        add("-accel", machine.accelerator.clone());
        if let Some(cpu) = &machine.cpu {
            add("-cpu", cpu.clone());
        }
        add("-smp", machine.cpus.to_string());
    }
    for (number, memory) in template.memory.iter().enumerate() {
        add("-object", object(memory, number, wish));
    }
    for (number, disk) in template.disks.iter().enumerate() {
        let file = double_commas(&wish.beside(disk, &format!("disk{number}")));
        add("-blockdev", format!("driver=raw,node-name=disk{number},file.driver=file,file.filename={file}"));
    }
    let steps = template.state.as_deref().map(restore).unwrap_or_default();
    if template.state.is_some() {
        add("-incoming", "defer".to_owned());
    }
    RunArgs { schema: SCHEMA, vmm: Vmm::Qemu, args, steps, notes: notes(template, machine, wish) }
}

fn object(memory: &Memory, number: usize, wish: &Wish) -> String {
    let (path, properties) = match (memory.readonly, wish.shares()) {
        // x-ignore-shared passes over shared memory alone: private ROM would be in the state.
        (true, _) => (memory.path.clone(), "share=on,readonly=on,rom=on"),
        (false, shares) => {
            let path = match number {
                0 => wish.private(&memory.path),
                _ => wish.beside(&memory.path, &memory.id),
            };
            (path, if shares { "share=on,readonly=off,rom=off" } else { "share=off,readonly=on,rom=off" })
        }
    };
    memory_backend(&memory.id, &memory.size.to_string(), &path, properties)
}

/// `-m` counts in MiB unless told.
fn memory_size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{}M", bytes >> 20) } else { format!("{bytes}B") }
}

/// The capability has no option of its own, so that the state cannot be named on the command line.
fn restore(state: &str) -> Vec<Step> {
    let capability = json!({ "capability": "x-ignore-shared", "state": true });
    let qmp = |command: &str, arguments| {
        let body = json!({ "execute": command, "arguments": arguments });
        Step { to: "QMP", body }
    };
    vec![
        qmp("migrate-set-capabilities", json!({ "capabilities": [capability] })),
        qmp("migrate-incoming", json!({ "uri": format!("file:{state}") })),
        Step { to: "QMP, once query-migrate says completed", body: json!({ "execute": "cont" }) },
    ]
}

fn notes(template: &Template, machine: Option<&Machine>, wish: &Wish) -> Vec<String> {
    let mut notes = Vec::new();
    match machine {
        Some(machine) => {
            notes.push(format!(
                "captured from QEMU {}; a clone's devices must be the template's",
                machine.version
            ));
            if let Some(words) = &machine.command_line {
                notes.push(format!("the template was started as: {}", words.join(" ")));
            }
            for memory in machine.memory.iter().filter(|memory| memory.part.is_none()) {
                notes.push(format!(
                    "its memory backend {} is no part of the template: give the clone one of {} bytes",
                    memory.id, memory.size_bytes
                ));
            }
        }
        None => notes.push(
            "no manifest tells of its machine: give the clone the type, CPUs and devices of then".into(),
        ),
    }
    if template.state.is_none() {
        notes.push(
            "without a state the machine boots, and its firmware writes to what the memory holds".into(),
        );
    }
    if !template.disks.is_empty() {
        notes.push("each -blockdev needs the -device that the template has for it".into());
    }
    if wish.shares() {
        notes.push("vhost-user: start qemu-storage-daemon, virtiofsd and the like first; they need no access to the mount".into());
    }
    notes
}
