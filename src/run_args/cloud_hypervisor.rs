//! Cloud Hypervisor: docs/memory.md (`--memory-zone`), docs/snapshot_restore.md, and the schema MemoryConfig of
//! its API. It opens a zone's file read-write whatever it does with it (vmm/src/memory_manager.rs).

use serde_json::json;

use super::{RunArgs, SCHEMA, Step, Template, Vmm, Wish};

pub fn run_args(template: &Template, wish: &Wish) -> RunArgs {
    let shared = wish.shares();
    let switch = if shared { "on" } else { "off" };
    let mut args = vec!["--memory".to_owned(), "size=0".to_owned()];
    let mut zones = Vec::new();
    for (number, memory) in template.memory.iter().filter(|memory| !memory.readonly).enumerate() {
        let path = match number {
            0 => wish.private(&memory.path),
            _ => wish.beside(&memory.path, &memory.id),
        };
        let id = &memory.id;
        let zone = format!("id={id},size={},file={},shared={switch}", memory.size, quoted(&path));
        args.extend(["--memory-zone".to_owned(), zone]);
        zones.push(json!({ "id": id, "size": memory.size, "file": path, "shared": shared }));
    }
    for memory in template.memory.iter().filter(|memory| memory.readonly) {
        // Discarded where it lies: the guest may write, and nothing of it lasts.
        args.extend(["--pmem".to_owned(), format!("file={},discard_writes=on", quoted(&memory.path))]);
    }
    for (number, disk) in template.disks.iter().enumerate() {
        let path = wish.beside(disk, &format!("disk{number}"));
        args.extend(["--disk".to_owned(), format!("path={}", quoted(&path))]);
    }
    let steps =
        vec![Step { to: "config.json of a snapshot: memory", body: json!({ "size": 0, "zones": zones }) }];
    let notes = vec![
        "checked against its documentation; it was not run with this version of templatefs".to_owned(),
        "the options boot a machine; to restore a snapshot copy its directory, put the step's zones into config.json \
         there, and give --restore source_url=file://DIRECTORY alone"
            .to_owned(),
        "a snapshot leaves out the memory of zones with shared=on and a file: take the template's so".to_owned(),
    ];
    RunArgs { schema: SCHEMA, vmm: Vmm::CloudHypervisor, args, steps, notes }
}

/// A value of its options: a comma, `[` or `]` in one must stand between quotation marks (option_parser).
fn quoted(value: &str) -> String {
    if value.contains([',', '[', ']']) { format!("\"{value}\"") } else { value.to_owned() }
}
