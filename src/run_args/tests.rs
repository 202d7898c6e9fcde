use super::*;
use crate::manifest::{Machine, MemoryBackend};

fn captured() -> Template {
    let memory = |id: &str, part: Option<&str>| MemoryBackend {
        id: id.into(),
        part: part.map(str::to_owned),
        size_bytes: 16 << 20,
        share: true,
        mem_path: None,
        readonly: part.is_none(),
        merge: true,
        dump: true,
        prealloc: false,
    };
    Template {
        memory: vec![Memory {
            id: "pc,ram".into(),
            path: "/mnt/t/a b/ram".into(),
            size: 96 << 20,
            readonly: false,
        }],
        state: Some("/mnt/t/a b/state".into()),
        disks: vec!["/mnt/t/a b/root".into()],
        machine: Some(Machine {
            vmm: "qemu".into(),
            version: "10.0.2".into(),
            arch: "x86_64".into(),
            kind: "pc-i440fx-10.0".into(),
            memory_bytes: 96 << 20,
            accelerator: "tcg".into(),
            cpus: 2,
            cpu: Some("qemu64".into()),
            memory: vec![memory("pc,ram", Some("ram")), memory("nv", None)],
            command_line: Some(vec!["qemu-system-x86_64".into(), "-nodefaults".into()]),
        }),
    }
}

fn plain() -> Template {
    let memory = Memory { id: "ram0".into(), path: "/mnt/t/x.ram".into(), size: 1 << 30, readonly: false };
    Template { memory: vec![memory], ..Template::default() }
}

fn named() -> Wish {
    Wish { view: Label::new(b"web-1"), vm: Label::new(b"web"), ..Wish::default() }
}

fn value<'a>(args: &'a RunArgs, option: &str) -> &'a str {
    let at =
        args.args.iter().position(|word| word == option).unwrap_or_else(|| panic!("{option} in {args:?}"));
    &args.args[at + 1]
}

#[test]
fn qemu_gets_the_machine_of_the_manifest_and_a_private_copy_of_its_memory() {
    let args = run_args(Vmm::Qemu, &captured(), &Wish::default()).unwrap();
    assert_eq!(value(&args, "-machine"), "pc-i440fx-10.0,memory-backend=pc,,ram");
    let options = ["-m", "-accel", "-cpu", "-smp", "-incoming"].map(|option| value(&args, option));
    assert_eq!(options, ["96M", "tcg", "qemu64", "2", "defer"]);
    assert_eq!(
        value(&args, "-object"),
        "memory-backend-file,id=pc,,ram,size=100663296,mem-path=/mnt/t/a b/ram?rom=off,share=off,readonly=on,rom=off"
    );
    assert_eq!(
        value(&args, "-blockdev"),
        "driver=raw,node-name=disk0,file.driver=file,file.filename=/mnt/t/a b/root?rom=off"
    );
    assert_eq!(args.steps[1].body["arguments"]["uri"], "file:/mnt/t/a b/state");
    let notes = args.notes.join("\n");
    assert!(notes.contains("10.0.2") && notes.contains("backend nv is no part"), "{notes}");
    assert!(notes.contains("qemu-system-x86_64 -nodefaults"), "{notes}");
}

/// Else what is written would go into QEMU's own copies, and nothing into the view.
#[test]
fn a_view_with_a_name_is_shared() {
    let args = run_args(Vmm::Qemu, &captured(), &named()).unwrap();
    assert!(value(&args, "-object").ends_with("ram?rom=off&view=web-1&vm=web,share=on,readonly=off,rom=off"));
    // The disk is another template: one name cannot be both.
    assert!(value(&args, "-blockdev").ends_with("root?rom=off&view=web-1-disk0&vm=web"));
    let zone = run_args(Vmm::CloudHypervisor, &plain(), &named()).unwrap();
    assert!(value(&zone, "--memory-zone").ends_with("?rom=off&view=web-1&vm=web,shared=on"));
}

#[test]
fn rom_of_the_template_stays_rom() {
    let mut template = captured();
    template.memory.push(Memory { id: "nv".into(), path: "/mnt/t/a b/nv".into(), size: 7, readonly: true });
    let args = run_args(Vmm::Qemu, &template, &named()).unwrap();
    assert!(
        args.args.iter().any(|word| word.ends_with("mem-path=/mnt/t/a b/nv,share=on,readonly=on,rom=on"))
    );
    let args = run_args(Vmm::CloudHypervisor, &template, &named()).unwrap();
    assert_eq!(value(&args, "--pmem"), "file=/mnt/t/a b/nv,discard_writes=on");
}

#[test]
fn without_a_manifest_there_is_the_memory_alone() {
    let args = run_args(Vmm::Qemu, &plain(), &Wish { share: true, ..Wish::default() }).unwrap();
    assert_eq!(
        args.args,
        [
            "-machine",
            "memory-backend=ram0",
            "-m",
            "1024M",
            "-object",
            "memory-backend-file,id=ram0,size=1073741824,mem-path=/mnt/t/x.ram?rom=off,share=on,readonly=off,rom=off"
        ]
    );
    assert!(args.steps.is_empty());
}

#[test]
fn cloud_hypervisor_gets_a_zone_for_boot_and_for_restore() {
    let mut template = plain();
    template.memory[0].path = "/mnt/t/a,b.ram".into();
    let args = run_args(Vmm::CloudHypervisor, &template, &Wish::default()).unwrap();
    assert_eq!(args.args[..2], ["--memory", "size=0"]);
    assert_eq!(
        value(&args, "--memory-zone"),
        "id=ram0,size=1073741824,file=\"/mnt/t/a,b.ram?rom=off\",shared=off"
    );
    let zone = &args.steps[0].body["zones"][0];
    assert_eq!((&zone["file"], &zone["shared"]), (&"/mnt/t/a,b.ram?rom=off".into(), &false.into()));
}

#[test]
fn firecracker_gets_a_request() {
    let mut template = plain();
    template.state = Some("/srv/state".into());
    let args =
        run_args(Vmm::Firecracker, &template, &Wish { vm: Label::new(b"web"), ..Wish::default() }).unwrap();
    let expected = serde_json::json!({
        "snapshot_path": "/srv/state",
        "mem_backend": { "backend_type": "File", "backend_path": "/mnt/t/x.ram?rom=off&vm=web" },
        "resume_vm": true,
    });
    assert_eq!(args.steps[0].body, expected);
    for wish in [named(), Wish { share: true, ..Wish::default() }] {
        assert!(run_args(Vmm::Firecracker, &template, &wish).unwrap_err().to_string().contains("leave --"));
    }
    assert!(
        run_args(Vmm::Firecracker, &plain(), &Wish::default()).unwrap_err().to_string().contains("--state")
    );
}
