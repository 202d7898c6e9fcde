//! The QEMU options that fit a path. Pure.

use crate::rules::Kind;

/// Words of a QEMU command line, and when to choose them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct QemuLine {
    /// One argument each, not quoted for a shell. `SIZE` stands for the template's size and
    /// `MOUNT` for the mountpoint.
    pub args: Vec<String>,
    pub when: &'static str,
}

/// The lines for a path of that kind, the most usual first. `mem_path` is the whole path as it
/// is given to open(2).
pub fn lines(kind: Kind, named: bool, mem_path: &str) -> Vec<QemuLine> {
    let ram = |properties: &str| backend("ram0", mem_path, properties);
    let line = |args: Vec<String>, when| QemuLine { args, when };
    match kind {
        Kind::Rom => vec![
            line(ram("share=off,readonly=on,rom=on"), "QEMU 8.2 or later: ROM, which the guest cannot write"),
            line(
                nvdimm(mem_path),
                "the same as a read-only NVDIMM (also needs -machine nvdimm=on, and -m with slots and maxmem)",
            ),
        ],
        Kind::Private => {
            let copied = line(
                ram("share=off,readonly=on,rom=off"),
                if named {
                    "QEMU 8.2 or later: native speed; QEMU copies what the guest writes, and the named view never sees it"
                } else {
                    "QEMU 8.2 or later: native speed; QEMU copies what the guest writes"
                },
            );
            let shared = line(
                ram("share=on,readonly=off,rom=off"),
                if named {
                    "what the guest writes stays in the named view; vhost-user and other processes may map it too"
                } else {
                    "for vhost-user and other processes that map it too: the filesystem copies what the guest writes"
                },
            );
            let older = line(
                ram("share=off,readonly=off"),
                "QEMU before 8.2, which has no rom: QEMU copies what the guest writes",
            );
            if named { vec![shared, copied, older] } else { vec![copied, shared, older] }
        }
        Kind::PrivateIfWritable => vec![
            line(ram("share=off,readonly=off,rom=off"), "QEMU copies what the guest writes"),
            line(
                ram("share=on,readonly=off,rom=off"),
                "for vhost-user and other processes that map it too: the filesystem copies what the guest writes",
            ),
        ],
        Kind::Template => vec![line(
            ram("share=on,readonly=off,rom=off"),
            "authoring: what the guest writes changes the template itself",
        )],
    }
}

fn nvdimm(mem_path: &str) -> Vec<String> {
    let mut args = backend("nv0", mem_path, "share=off,readonly=on,rom=on");
    args.extend(["-device".to_owned(), "nvdimm,memdev=nv0,unarmed=on".to_owned()]);
    args
}

fn backend(id: &str, mem_path: &str, properties: &str) -> Vec<String> {
    vec!["-object".to_owned(), memory_backend(id, "SIZE", mem_path, properties)]
}

/// The value of `-object` for memory in a file.
pub fn memory_backend(id: &str, size: &str, mem_path: &str, properties: &str) -> String {
    let (id, path) = (double_commas(id), double_commas(mem_path));
    format!("memory-backend-file,id={id},size={size},mem-path={path},{properties}")
}

/// In a QEMU option a comma ends a value, and two commas stand for one in it; nothing else in a
/// value is special (util/keyval.c, util/qemu-option.c).
pub fn double_commas(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Properties, Rom};

    fn properties(line: &QemuLine) -> Properties {
        let has = |word: &str| line.args[1].ends_with(word) || line.args[1].contains(&format!("{word},"));
        let rom = match (has("rom=on"), has("rom=off")) {
            (true, _) => Rom::On,
            (_, true) => Rom::Off,
            _ => Rom::Auto,
        };
        Properties { share: has("share=on"), readonly: has("readonly=on"), rom }
    }

    /// QEMU must accept every line, and only a ROM line may make the guest's memory read-only.
    #[test]
    fn every_line_is_one_that_qemu_accepts() {
        for kind in [Kind::Rom, Kind::Private, Kind::PrivateIfWritable, Kind::Template] {
            for line in lines(kind, false, "MOUNT/a") {
                let resolved = properties(&line).resolve().expect("QEMU's table");
                assert_eq!(resolved == Kind::Rom, kind == Kind::Rom, "{line:?}");
            }
        }
    }

    #[test]
    fn commas_in_the_path_are_doubled_and_nothing_else_changes() {
        let line = &lines(Kind::Private, false, "MOUNT/a b?rom=off,vm=x")[0];
        assert_eq!(
            line.args,
            [
                "-object",
                "memory-backend-file,id=ram0,size=SIZE,mem-path=MOUNT/a b?rom=off,,vm=x,\
                 share=off,readonly=on,rom=off"
            ]
        );
    }

    #[test]
    fn a_named_view_is_first_offered_in_the_way_that_keeps_what_is_written() {
        assert!(lines(Kind::Private, true, "a")[0].args[1].contains("share=on"));
        assert!(lines(Kind::Private, false, "a")[0].args[1].contains("share=off"));
    }

    #[test]
    fn rom_can_be_an_unarmed_nvdimm() {
        let args = &lines(Kind::Rom, false, "a")[1].args;
        assert_eq!(args[2..], ["-device", "nvdimm,memdev=nv0,unarmed=on"]);
    }
}
