//! What kind of host this is.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::place;
use crate::doctor::host::Host;
use crate::{memory, state, sys};

pub fn host() -> Host {
    let release = line("/proc/sys/kernel/osrelease").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let sysctl = |name: &str| number(&format!("/proc/sys/fs/fuse/{name}"));
    Host {
        root: rustix::process::geteuid().is_root(),
        kernel: version(&release),
        release,
        openat2: openat2(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())
            .is_ok(),
        pagemap_scan: scans_pages(),
        cachestat: File::open("/proc/self/exe").is_ok_and(|file| sys::cachestat(&file).is_ok()),
        fuse_device: fuse_device(),
        fusermount3: in_path("fusermount3"),
        user_allow_other: user_allow_other(&fs::read_to_string("/etc/fuse.conf").unwrap_or_default()),
        files: getrlimit(Resource::Nofile).maximum,
        shmem_huge_pages: line("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
            .and_then(|text| chosen(&text)),
        default_request_timeout: sysctl("default_request_timeout"),
        max_request_timeout: sysctl("max_request_timeout"),
        max_pages_limit: sysctl("max_pages_limit"),
        uring: line("/sys/module/fuse/parameters/enable_uring").map(|text| text == "Y"),
        memory_limit: memory_limit(),
        reserved: field(&meminfo, "HugePages_Free").unwrap_or(0)
            * field(&meminfo, "Hugepagesize").unwrap_or(0)
            * 1024,
        available: memory::available_bytes().ok(),
        state: state::default_base().and_then(|base| place(&base)),
    }
}

fn line(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    line(path)?.parse().ok()
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// ENOTTY before Linux 6.7; whatever else goes wrong is no word about the kernel.
fn scans_pages() -> bool {
    let Ok(pagemap) = File::open("/proc/self/pagemap") else { return false };
    match sys::scan_pages(&pagemap, 0x1_0000..0x1_1000, |_, _| {}) {
        Ok(()) => true,
        Err(error) => Errno::from_io_error(&error) != Some(Errno::NOTTY),
    }
}

fn fuse_device() -> Option<u32> {
    let metadata = fs::metadata("/dev/fuse").ok()?;
    metadata.file_type().is_char_device().then(|| metadata.permissions().mode() & 0o7777)
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn user_allow_other(conf: &str) -> bool {
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

/// `always [within_size] never`
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

/// The value of a line `NAME: VALUE ...` of /proc/meminfo.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// The least of this process's memory cgroup and those above it; None without a limit.
fn memory_limit() -> Option<u64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = cgroups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?.trim_start_matches('/'));
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            named if named.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let own = PathBuf::from(root).join(path);
        let all = own.ancestors().take_while(|directory| directory.starts_with(root));
        // `max` is no number, and version 1 writes the largest one instead.
        all.filter_map(|directory| line_number(&directory.join(file))).filter(|limit| *limit < 1 << 60).min()
    });
    limits.min()
}

fn line_number(path: &Path) -> Option<u64> {
    line(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("5.10"), (5, 10));
        assert_eq!(chosen("always within_size [never] deny"), Some("never".into()));
        assert_eq!(chosen("never"), None);
        let meminfo = "HugePages_Free:        2\nHugepagesize:       2048 kB\n";
        assert_eq!((field(meminfo, "HugePages_Free"), field(meminfo, "Hugepagesize")), (Some(2), Some(2048)));
        assert!(user_allow_other("# x\n user_allow_other\n") && !user_allow_other("#user_allow_other"));
    }

    /// Whatever the machine is like, it is looked at.
    #[test]
    fn this_host_is_looked_at() {
        let host = host();
        assert!(host.kernel >= (5, 6) && host.openat2, "{host:?}");
        assert!(host.available.is_some_and(|bytes| bytes > 1 << 20));
    }
}
