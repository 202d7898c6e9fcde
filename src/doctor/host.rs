//! Is this host one for templatefs? Pure.

use super::{Finding, Level};

/// What was found of it; None where it could not be read.
#[derive(Debug, Clone)]
pub struct Host {
    /// Is it root who asks, and so who would mount?
    pub root: bool,
    /// Major and minor.
    pub kernel: (u32, u32),
    pub release: String,
    pub openat2: bool,
    pub pagemap_scan: bool,
    pub cachestat: bool,
    /// Permission bits of /dev/fuse.
    pub fuse_device: Option<u32>,
    pub fusermount3: bool,
    pub user_allow_other: bool,
    /// Hard limit on open files.
    pub files: Option<u64>,
    /// The chosen word of /sys/kernel/mm/transparent_hugepage/shmem_enabled.
    pub shmem_huge_pages: Option<String>,
    pub default_request_timeout: Option<u64>,
    pub max_request_timeout: Option<u64>,
    pub max_pages_limit: Option<u64>,
    pub uring: Option<bool>,
    /// Of this process's memory cgroup, in bytes.
    pub memory_limit: Option<u64>,
    /// Bytes of reserved huge pages that nobody uses.
    pub reserved: u64,
    pub available: Option<u64>,
    pub state: Option<Place>,
}

/// Where private pages would be kept.
#[derive(Debug, Clone)]
pub struct Place {
    pub path: String,
    pub filesystem: String,
    /// Of its mount.
    pub options: String,
    pub total: u64,
    pub free: u64,
}

const MIB: u64 = 1 << 20;
/// Of the room in a state directory; below it views soon wait for room.
const TIGHT: u64 = 10;

pub fn findings(host: &Host) -> Vec<Finding> {
    let mut found = vec![kernel(host), device(host)];
    found.extend(looks(host));
    found.extend(ordinary_users(host));
    found.push(files(host));
    found.extend([timeouts(host), requests(host), huge_pages(host), memory(host)]);
    found.push(match &host.state {
        Some(place) => state(place),
        None => Finding::new(
            Level::Warning,
            "state directory",
            "no tmpfs at /run, /dev/shm or $XDG_RUNTIME_DIR",
            "private pages are kept there unless the mount says where",
            "name a place with --state-dir",
        ),
    });
    found
}

fn kernel(host: &Host) -> Finding {
    let about = "kernel";
    let release = format!("Linux {}", host.release);
    if !host.openat2 {
        return Finding::new(
            Level::Error,
            about,
            format!("{release} has no openat2(2)"),
            "a store is reached in no other way: a path must not lead out of it",
            "use Linux 5.6 or later, or allow the call in this container's seccomp filter",
        );
    }
    if host.kernel < (6, 9) {
        return Finding::new(
            Level::Warning,
            about,
            format!("{release} has neither FUSE passthrough nor resending"),
            "templates are read through the daemon, clones share no page cache, and a daemon that dies has no \
             successor",
            "use Linux 6.9 or later",
        );
    }
    if !host.root {
        return Finding::new(
            Level::Note,
            about,
            format!("{release}; an ordinary user's mount is not passed through"),
            "the kernel's passthrough needs CAP_SYS_ADMIN: templates are read through the daemon, and each private view \
             caches its own pages",
            "mount as root with --allow-other, where clones of several VMs are to share memory",
        );
    }
    Finding::ok(about, format!("{release}: passthrough, resending after a death"))
}

fn device(host: &Host) -> Finding {
    let about = "/dev/fuse";
    match host.fuse_device {
        None => Finding::new(
            Level::Error,
            about,
            "not there",
            "nothing can be mounted without it",
            "load the kernel's module (modprobe fuse), or give this container the device",
        ),
        Some(mode) if mode & 0o006 != 0o006 => {
            let level = if host.root { Level::Note } else { Level::Error };
            Finding::new(
                level,
                about,
                format!("mode {mode:04o}"),
                "ordinary users cannot mount; where udev runs it is 0666",
                "as root: chmod 0666 /dev/fuse",
            )
        }
        Some(mode) => Finding::ok(about, format!("mode {mode:04o}")),
    }
}

/// What `views` and `top` ask the kernel.
fn looks(host: &Host) -> Vec<Finding> {
    let about = "figures";
    let mut found = Vec::new();
    if !host.pagemap_scan {
        found.push(Finding::new(
            Level::Note,
            about,
            "no PAGEMAP_SCAN",
            "what VMMs copied is read from smaps, which is slower and less exact",
            "use Linux 6.7 or later",
        ));
    }
    if !host.cachestat {
        found.push(Finding::new(
            Level::Note,
            about,
            "no cachestat(2)",
            "CACHED and COST of views are unknown",
            "use Linux 6.5 or later, or allow the call in this container's seccomp filter",
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(about, "PAGEMAP_SCAN and cachestat(2): costs are known to the page"));
    }
    found
}

fn ordinary_users(host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    if !host.fusermount3 {
        found.push(Finding::new(
            if host.root { Level::Note } else { Level::Error },
            "fusermount3",
            "not found in PATH",
            "ordinary users mount through it",
            "install the package fuse3",
        ));
    } else {
        found.push(Finding::ok("fusermount3", "installed"));
    }
    if !host.user_allow_other {
        found.push(Finding::new(
            Level::Note,
            "/etc/fuse.conf",
            "no user_allow_other",
            "an ordinary user's mount cannot have --allow-other, and no other user's VMM can use it",
            "as root add the line user_allow_other, or mount as root",
        ));
    }
    found
}

/// A view that is open for writing has two files, and a template one.
fn files(host: &Host) -> Finding {
    let about = "open files";
    match host.files {
        Some(limit) if limit < 8192 => Finding::new(
            Level::Warning,
            about,
            format!("at most {limit}"),
            format!("a view takes up to two: about {} at once, then opens fail with ENFILE", limit / 2),
            "raise the hard limit (ulimit -Hn, LimitNOFILE= in a unit)",
        ),
        Some(limit) => Finding::ok(about, format!("at most {limit}, for two a view")),
        None => Finding::ok(about, "without a limit"),
    }
}

fn timeouts(host: &Host) -> Finding {
    let about = "fs.fuse";
    let limits = [
        ("fs.fuse.default_request_timeout", host.default_request_timeout),
        ("fs.fuse.max_request_timeout", host.max_request_timeout),
    ];
    match limits.into_iter().find(|(_, seconds)| seconds.is_some_and(|seconds| seconds > 0)) {
        Some((name, seconds)) => Finding::new(
            Level::Error,
            about,
            format!("{name} is {}", seconds.unwrap_or_default()),
            "one request that is answered later than so many seconds aborts the whole mount, and pages that wait for \
             room in a full state directory may be",
            format!("sysctl -w {name}=0, before mounting"),
        ),
        None => Finding::ok(about, "no request has a timeout"),
    }
}

/// 1 MiB requests are 256 pages.
fn requests(host: &Host) -> Finding {
    let about = "fs.fuse";
    let uring = match host.uring {
        Some(true) => "; FUSE over io_uring is on, which templatefs does not use",
        _ => "",
    };
    match host.max_pages_limit {
        Some(pages) if pages < 256 => Finding::new(
            Level::Warning,
            about,
            format!("fs.fuse.max_pages_limit is {pages}"),
            "a request carries less than 1 MiB, and sequential reading and write-back take more of them",
            "sysctl -w fs.fuse.max_pages_limit=256, before mounting",
        ),
        _ => Finding::ok(about, format!("requests of 1 MiB{uring}")),
    }
}

fn huge_pages(host: &Host) -> Finding {
    let about = "huge pages";
    match host.shmem_huge_pages.as_deref() {
        Some(word @ ("always" | "within_size" | "force")) => Finding::new(
            Level::Warning,
            about,
            format!("shmem_enabled is {word}"),
            "a page written to a view in memory, and with `force` to a state directory on tmpfs, takes 2 MiB",
            "echo never >/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        ),
        _ if host.reserved > 0 => Finding::new(
            Level::Note,
            about,
            format!("{} MiB are reserved and free", host.reserved / MIB),
            "views are in pages of 4 KiB: this memory serves VMs on hugetlbfs and nobody else",
            "lower vm.nr_hugepages where no VM needs them",
        ),
        _ => Finding::ok(about, "none in the way of pages of 4 KiB"),
    }
}

fn memory(host: &Host) -> Finding {
    let about = "memory";
    match (host.memory_limit, host.available) {
        (Some(limit), _) => Finding::new(
            Level::Note,
            about,
            format!("a cgroup gives this process {} MiB", limit / MIB),
            "page cache of templates and private pages on a tmpfs are charged to whoever touched them first, and to the \
             daemon where it is mounted from here",
            "mount from a unit or cgroup with room for the store's hot data and all private pages",
        ),
        (None, Some(available)) => {
            Finding::ok(about, format!("{} MiB available, no cgroup limit", available / MIB))
        }
        (None, None) => Finding::ok(about, "no cgroup limit"),
    }
}

/// Also of a mount that there is.
pub fn state(place: &Place) -> Finding {
    let about = "state directory";
    let Place { path, filesystem, total, free, options } = place;
    let room = format!("{path} on {filesystem}: {} of {} MiB free", free / MIB, total / MIB);
    let huge = options.split(',').find(|option| matches!(*option, "huge=always" | "huge=within_size"));
    if *total > 0 && free * 100 / total < TIGHT {
        return Finding::new(
            Level::Warning,
            about,
            room,
            "when it is full writes to views fail with ENOSPC, and mapped pages are held in memory until there is room",
            "make room, discard views (templatefs views, discard), or mount with --budget and a larger --state-dir",
        );
    }
    if let Some(huge) = huge {
        return Finding::new(
            Level::Warning,
            about,
            format!("{room}; mounted with {huge}"),
            "one page written to a view takes 2 MiB there",
            "mount -o remount,huge=never, or another --state-dir",
        );
    }
    Finding::ok(about, room)
}

#[cfg(test)]
mod tests;
