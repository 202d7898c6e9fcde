//! A QEMU command line, as far as it decides what guest memory is. Pure.

use super::options::{Options, size};
use crate::rules::{Properties, Rom};

/// Without -m and a backend (hw/core/machine.c; `pc` and `q35`).
const DEFAULT_RAM: u64 = 128 << 20;

#[derive(Debug, Clone, Default)]
pub struct Line {
    pub program: String,
    pub backends: Vec<Backend>,
    /// Ids of all memory backends, those without a file too.
    pub ids: Vec<String>,
    /// The machine's `memory-backend`.
    pub memory_backend: Option<String>,
    pub machine_nvdimm: bool,
    /// `-m`.
    pub ram: Option<u64>,
    pub slots: bool,
    /// `-mem-path`, and `-mem-prealloc`.
    pub mem_path: Option<String>,
    pub mem_prealloc: bool,
    pub nvdimms: Vec<Nvdimm>,
    /// Memory of a NUMA node, of a DIMM.
    pub memory_of_guest: Vec<String>,
    /// Devices and network back ends of vhost-user.
    pub vhost_user: Vec<String>,
    /// A balloon that tells of free pages.
    pub reports_free_pages: bool,
    pub incoming: bool,
}

/// A memory backend in a file.
#[derive(Debug, Clone)]
pub struct Backend {
    pub id: String,
    /// How it was written, for messages.
    pub option: String,
    pub mem_path: Option<String>,
    pub size: Option<u64>,
    pub offset: u64,
    pub properties: Properties,
    pub prealloc: bool,
    pub discard_data: bool,
    /// What QEMU says of its properties before it looks at any file.
    pub fault: Option<String>,
    /// It is `-mem-path`.
    pub implied: bool,
}

#[derive(Debug, Clone)]
pub struct Nvdimm {
    pub option: String,
    pub memdev: String,
    pub unarmed: bool,
}

/// The properties of memory-backend-file that are none of the switches below (qapi/qom.json, QEMU 10).
const OTHERS: [&str; 13] = [
    "qom-type",
    "id",
    "size",
    "mem-path",
    "rom",
    "offset",
    "align",
    "policy",
    "host-nodes",
    "prealloc-threads",
    "prealloc-context",
    "x-use-canonical-path-for-ramblock-id",
    "help",
];
const SWITCHES_BEFORE_SIZE: [&str; 5] = ["dump", "merge", "prealloc", "share", "reserve"];
const SWITCHES_AFTER: [&str; 3] = ["discard-data", "pmem", "readonly"];

/// `words` are the program and its arguments.
pub fn parse(words: &[String]) -> Line {
    let program = words.first().cloned().unwrap_or_default();
    let mut line = Line { program, ..Line::default() };
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix('-') else { continue };
        let option = option.strip_prefix('-').unwrap_or(option);
        match option {
            "mem-prealloc" => line.mem_prealloc = true,
            "object" | "machine" | "M" | "m" | "mem-path" | "device" | "numa" | "netdev" | "incoming" => {
                let Some(value) = words.next() else { break };
                line.take(option, value);
            }
            _ => {}
        }
    }
    line.imply();
    line
}

impl Line {
    fn take(&mut self, option: &str, value: &str) {
        match option {
            "object" => {
                let options = Options::parse(value, "qom-type");
                let memory = options.get("qom-type").is_some_and(|kind| kind.starts_with("memory-backend-"));
                self.ids.extend(options.get("id").filter(|_| memory).map(str::to_owned));
                self.backends.extend(backend(value, &options));
            }
            "machine" | "M" => {
                let options = Options::parse(value, "type");
                if let Some(id) = options.get("memory-backend") {
                    self.memory_backend = Some(id.to_owned());
                }
                self.machine_nvdimm |= options.switch("nvdimm") == Ok(Some(true));
            }
            "m" => {
                let options = Options::parse(value, "size");
                self.ram = options.get("size").and_then(|text| size(text, 1 << 20)).or(self.ram);
                self.slots |= options.get("slots").is_some_and(|slots| slots != "0");
            }
            "mem-path" => self.mem_path = Some(value.to_owned()),
            "device" => self.device(value),
            "numa" => {
                self.memory_of_guest.extend(Options::parse(value, "type").get("memdev").map(str::to_owned))
            }
            "netdev" if value.starts_with("vhost-user") => self.vhost_user.push(format!("-netdev {value}")),
            "incoming" => self.incoming = true,
            _ => {}
        }
    }

    fn device(&mut self, value: &str) {
        let options = Options::parse(value, "driver");
        let memdev = || options.get("memdev").unwrap_or_default().to_owned();
        match options.get("driver") {
            Some("nvdimm") => self.nvdimms.push(Nvdimm {
                option: format!("-device {value}"),
                memdev: memdev(),
                unarmed: options.switch("unarmed") == Ok(Some(true)),
            }),
            Some("pc-dimm") => self.memory_of_guest.push(memdev()),
            Some(driver) if driver.starts_with("virtio-balloon") => {
                self.reports_free_pages |= options.switch("free-page-reporting") == Ok(Some(true));
            }
            Some(driver) if driver.starts_with("vhost-user-") => {
                self.vhost_user.push(format!("-device {driver}"));
            }
            _ => {}
        }
    }

    /// The backend that QEMU makes itself of `-mem-path` (hw/core/machine.c, create_default_memdev). Where the
    /// machine has one it refuses.
    fn imply(&mut self) {
        if let (Some(path), None) = (&self.mem_path, &self.memory_backend) {
            self.backends.push(Backend {
                id: "pc.ram".into(),
                option: format!("-mem-path {path}"),
                mem_path: Some(path.clone()),
                size: Some(self.ram.unwrap_or(DEFAULT_RAM)),
                offset: 0,
                properties: Properties { share: false, readonly: false, rom: Rom::Auto },
                prealloc: self.mem_prealloc,
                discard_data: false,
                fault: None,
                implied: true,
            });
        }
    }

    /// Is this backend the machine's RAM, a NUMA node's or a DIMM's: memory that a guest must write?
    pub fn is_ram(&self, backend: &Backend) -> bool {
        backend.implied
            || self.memory_backend.as_ref() == Some(&backend.id)
            || self.memory_of_guest.contains(&backend.id)
    }
}

fn backend(value: &str, options: &Options) -> Option<Backend> {
    if options.get("qom-type") != Some("memory-backend-file") {
        return None;
    }
    let text = |key: &str| options.get(key).map(str::to_owned);
    let switch = |key: &str| options.switch(key).ok().flatten().unwrap_or(false);
    let number = |key: &str| options.get(key).and_then(|text| size(text, 1));
    let rom = match options.get("rom") {
        Some("on") => Rom::On,
        Some("off") => Rom::Off,
        _ => Rom::Auto,
    };
    Some(Backend {
        id: text("id").unwrap_or_default(),
        option: format!("-object {value}"),
        mem_path: text("mem-path"),
        size: number("size"),
        offset: number("offset").unwrap_or(0),
        properties: Properties { share: switch("share"), readonly: switch("readonly"), rom },
        prealloc: switch("prealloc"),
        discard_data: switch("discard-data"),
        fault: fault(options),
        implied: false,
    })
}

/// In the order in which QEMU looks at them.
fn fault(options: &Options) -> Option<String> {
    let missing = |key: &str| options.get(key).is_none().then(|| format!("Parameter '{key}' is missing"));
    let no_switch = |keys: &[&str]| {
        let wrong = keys.iter().find(|key| options.switch(key).is_err())?;
        Some(format!("Parameter '{wrong}' expects 'on' or 'off'"))
    };
    let no_size = || match options.get("size") {
        Some(text) if size(text, 1).is_none() => Some("Parameter 'size' expects a size value".to_owned()),
        _ => None,
    };
    let no_rom = || match options.get("rom") {
        None | Some("on" | "off" | "auto") => None,
        Some(other) => Some(format!("Parameter 'rom' does not accept value '{other}'")),
    };
    let known = |key: &&str| {
        OTHERS.iter().chain(&SWITCHES_BEFORE_SIZE).chain(&SWITCHES_AFTER).any(|known| known == key)
    };
    let unknown = || options.keys().find(|key| !known(key)).map(|key| format!("Invalid parameter '{key}'"));
    missing("id")
        .or_else(|| no_switch(&SWITCHES_BEFORE_SIZE))
        .or_else(|| missing("size"))
        .or_else(no_size)
        .or_else(|| no_switch(&SWITCHES_AFTER[..1]))
        .or_else(|| missing("mem-path"))
        .or_else(|| no_switch(&SWITCHES_AFTER[1..]))
        .or_else(no_rom)
        .or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_decides_on_memory_is_read() {
        let line = parse(&words(
            "qemu-system-x86_64 -nodefaults -m 96M,slots=1,maxmem=1G -machine pc,nvdimm=on,memory-backend=ram \
             -object memory-backend-file,id=ram,size=96M,mem-path=/mnt/t/a?rom=off,,vm=x,share=on,discard-data=on \
             -object rng-random,id=r --object memory-backend-file,id=nv,size=16M,mem-path=/d,readonly=on \
             -device nvdimm,memdev=nv,unarmed=on -device vhost-user-blk-pci,chardev=c -incoming defer",
        ));
        assert_eq!(
            (line.ram, line.slots, line.machine_nvdimm, line.incoming),
            (Some(96 << 20), true, true, true)
        );
        assert_eq!(line.backends.len(), 2);
        let ram = &line.backends[0];
        assert_eq!(ram.mem_path.as_deref(), Some("/mnt/t/a?rom=off,vm=x"));
        assert_eq!(ram.properties.to_string(), "share=on,readonly=off,rom=auto");
        assert!(ram.discard_data && !ram.prealloc && line.is_ram(ram) && !line.is_ram(&line.backends[1]));
        assert!(line.nvdimms[0].unarmed && line.nvdimms[0].memdev == "nv");
        assert_eq!(line.vhost_user, ["-device vhost-user-blk-pci"]);
    }

    #[test]
    fn mem_path_is_a_private_backend_of_the_machines_size() {
        let line = parse(&words("qemu -mem-path /dev/shm/x -mem-prealloc -m 1G"));
        let backend = &line.backends[0];
        assert_eq!((backend.size, backend.prealloc, backend.properties.share), (Some(1 << 30), true, false));
        assert!(line.is_ram(backend));
        assert!(parse(&words("qemu -mem-path /x -machine pc,memory-backend=y")).backends.is_empty());
    }

    #[test]
    fn what_is_no_value_is_kept_for_the_message() {
        for (options, fault) in [
            ("id=r,size=1M,mem-path=x,share=on,rom=auto", None),
            ("size=1M", Some("Parameter 'id' is missing")),
            ("id=r,share=maybe,shared=on", Some("Parameter 'share' expects 'on' or 'off'")),
            ("id=r,mem-path=x", Some("Parameter 'size' is missing")),
            ("id=r,size=zz", Some("Parameter 'size' expects a size value")),
            ("id=r,size=1M,readonly=x", Some("Parameter 'mem-path' is missing")),
            ("id=r,size=1M,mem-path=x,rom=x", Some("Parameter 'rom' does not accept value 'x'")),
            ("id=r,size=1M,mem-path=x,shared=on", Some("Invalid parameter 'shared'")),
        ] {
            let line = parse(&words(&format!("qemu -object memory-backend-file,{options}")));
            assert_eq!(line.backends[0].fault.as_deref(), fault, "{options}");
        }
        assert_eq!(parse(&words("qemu -object")).backends.len(), 0);
        assert_eq!(parse(&[]).backends.len(), 0);
    }
}
