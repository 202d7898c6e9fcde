//! Which processes map the files of a mount, found through /proc/PID/maps by device and inode.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::makedev;

use super::patience::{Patience, Subject};
use crate::broker::{self, ProcessFile};
use crate::mount::Device;

/// One address range that maps a file of the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub addresses: Range<u64>,
    /// Where in the file it starts, in bytes.
    pub offset: u64,
    /// MAP_PRIVATE: what is written is copied into the process.
    pub is_private: bool,
}

/// A process and its mappings of one file.
#[derive(Debug, Clone)]
pub struct Mapper {
    pub pid: u32,
    pub mappings: Vec<Mapping>,
}

impl Mapper {
    pub fn mapped_bytes(&self) -> u64 {
        self.mappings.iter().map(|mapping| mapping.addresses.end - mapping.addresses.start).sum()
    }
}

/// The files that processes have open, as far as this user may see: no path leads to a view without
/// a name. Each process is looked at once.
#[derive(Debug, Default)]
pub struct OpenFiles(HashMap<u32, HashMap<u64, Vec<OsString>>>);

impl OpenFiles {
    /// Opens the file with this node id as `pid` has it open.
    pub fn open_as(&mut self, pid: u32, device: Device, node: u64) -> Option<File> {
        let files = self.0.entry(pid).or_insert_with(|| by_inode(pid).unwrap_or_default());
        let of_mount = |name: &OsString| {
            let path = Path::new(&format!("/proc/{pid}/fd")).join(name);
            // Another filesystem may have that number too, and opening a FIFO would wait.
            let metadata = std::fs::metadata(&path).ok()?;
            let is_it = metadata.is_file() && metadata.dev() == makedev(device.major, device.minor);
            if is_it { File::open(path).ok() } else { None }
        };
        files.get(&node)?.iter().find_map(of_mount)
    }
}

/// Descriptors by the inode number in /proc/PID/fdinfo, without asking the mount.
fn by_inode(pid: u32) -> Option<HashMap<u64, Vec<OsString>>> {
    let mut files: HashMap<u64, Vec<OsString>> = HashMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?.flatten() {
        let info = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let ino = info.lines().find_map(|line| line.strip_prefix("ino:"));
        if let Some(ino) = ino.and_then(|ino| ino.trim().parse().ok()) {
            files.entry(ino).or_default().push(entry.file_name());
        }
    }
    Some(files)
}

/// All mappings of files of a mount, and the processes whose mappings could not be read.
#[derive(Debug, Default)]
pub struct Mappers {
    by_node: HashMap<u64, Vec<Mapper>>,
    unreadable: HashSet<u32>,
}

impl Mappers {
    /// Reads the mappings of all processes. One that ends meanwhile is left out.
    pub fn scan(device: Device) -> Self {
        let mut found = Self::default();
        log::debug!("looked at all processes");
        let Ok(pids) = broker::processes() else { return found };
        let mut patience = Patience::new();
        for pid in pids {
            match patience.look(Subject::Process(pid), move || broker::read(pid, ProcessFile::Maps)) {
                Some(Ok(text)) => found.take(pid, &text, device),
                Some(Err(e)) if e.kind() != std::io::ErrorKind::PermissionDenied => {}
                _ => {
                    found.unreadable.insert(pid);
                }
            }
        }
        found
    }

    pub fn of(&self, node: u64) -> &[Mapper] {
        self.by_node.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Could this process's mappings not be read?
    pub fn is_unreadable(&self, pid: u32) -> bool {
        self.unreadable.contains(&pid)
    }

    fn take(&mut self, pid: u32, maps: &[u8], device: Device) {
        let wanted = format!(" {:02x}:{:02x} ", device.major, device.minor);
        for line in maps.split(|b| *b == b'\n') {
            // Most lines are of other files: a glance must do for them.
            let head = &line[..line.len().min(96)];
            if !head.windows(wanted.len()).any(|w| w == wanted.as_bytes()) {
                continue;
            }
            let Some((node, mapping)) = parse(line, &wanted) else { continue };
            let mappers = self.by_node.entry(node).or_default();
            match mappers.last_mut().filter(|mapper| mapper.pid == pid) {
                Some(mapper) => mapper.mappings.push(mapping),
                None => mappers.push(Mapper { pid, mappings: vec![mapping] }),
            }
        }
    }
}

/// `START-END PERM OFFSET MAJ:MIN INODE PATH` (proc_pid_maps(5)); START, END, OFFSET in hex.
fn parse(line: &[u8], device: &str) -> Option<(u64, Mapping)> {
    let line =
        std::str::from_utf8(line.get(..line.iter().position(|b| *b == b'/').unwrap_or(line.len()))?).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    if fields.next()? != device.trim() {
        return None;
    }
    let node = fields.next()?.parse().ok()?;
    let addresses = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    Some((node, Mapping { addresses, offset, is_private: permissions.ends_with('p') }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_device_are_taken_and_no_others() {
        let maps = b"55d0a000-55d0b000 r-xp 00001000 fe:01 1234   /usr/bin/qemu\n\
            7f0000000000-7f0040000000 rw-p 00200000 00:39 65   /mnt/t/12.ram?rom=off\n\
            7f1000000000-7f1000001000 rw-s 00000000 00:39 66   /mnt/t/a b (deleted)\n\
            7f2000000000-7f2000001000 rw-p 00000000 00:00 0 \n\
            7fff00000000-7fff00001000 rw-p 00000000 fe:01 9 /tmp/ 00:39 77 x\n";
        let mut found = Mappers::default();
        found.take(7, maps, Device { major: 0, minor: 0x39 });
        let expected =
            Mapping { addresses: 0x7f00_0000_0000..0x7f00_4000_0000, offset: 0x20_0000, is_private: true };
        assert_eq!(found.of(65)[0].mappings, [expected]);
        assert!(!found.of(66)[0].mappings[0].is_private);
        assert!(found.of(77).is_empty() && found.of(9).is_empty());
    }
}
