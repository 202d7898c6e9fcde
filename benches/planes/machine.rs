//! What the run ran on. No host name and no path goes into a report.

use std::fs;
use std::process::Command;

use crate::Result;
use crate::report::Machine;

/// A program, and how it is asked for its version.
const PROGRAMS: [(&str, &[&str]); 9] = [
    ("qemu-system-x86_64", &["--version"]),
    ("qemu-storage-daemon", &["--version"]),
    ("xmount", &["--version"]),
    ("nbdkit", &["--version"]),
    ("nbdfuse", &["--version"]),
    ("fuse-overlayfs", &["--version"]),
    ("mkfs.xfs", &["-V"]),
    ("mkfs.btrfs", &["--version"]),
    ("cp", &["--version"]),
];

pub fn describe() -> Result<Machine> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let release = rustix::system::uname();
    Ok(Machine {
        cores: std::thread::available_parallelism()?.get(),
        processor: processor.map_or("unknown", |(_, name)| name).to_owned(),
        memory_bytes: rustix::system::sysinfo().totalram * u64::from(rustix::system::sysinfo().mem_unit),
        kernel: release.release().to_string_lossy().split('-').next().unwrap_or_default().to_owned(),
        programs: PROGRAMS.iter().map(|(name, ask)| ((*name).to_owned(), version(name, ask))).collect(),
        load: Vec::new(),
        seconds: 0.0,
    })
}

/// The first word that begins with a digit, or with `v` and one.
fn version(program: &str, ask: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(ask).output() else { return "not installed".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let is_version = |word: &&str| {
        word.contains('.') && word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit())
    };
    // fuse-overlayfs names its libraries' versions too.
    let own = said.lines().find(|line| line.contains(program)).unwrap_or(&said);
    let found = own.split_whitespace().find(is_version).or_else(|| said.split_whitespace().find(is_version));
    found.unwrap_or("unknown").to_owned()
}

pub fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}
