//! Is a mount well, and as fast as it could be? Pure.

use super::host::{self, Place};
use super::{Finding, Level};

/// What was found of it; None where it could not be read.
#[derive(Debug, Clone)]
pub struct Mount {
    pub path: String,
    pub root: bool,
    /// Of this program.
    pub own_version: String,
    /// Of the one that serves; None where it does not answer.
    pub version: Option<String>,
    pub passthrough: Option<bool>,
    /// Does a process live that holds the mount, and one that serves it?
    pub holder: Option<bool>,
    pub serving: Option<bool>,
    /// Is the store reached through a mount that cannot be written through?
    pub store_read_only: Option<bool>,
    pub read_ahead_kib: Option<u64>,
    pub max_ratio: Option<u64>,
    pub strict_limit: Option<u64>,
    pub state: Option<Place>,
    /// The views that cannot be used as they are, of those that this user may see.
    pub set_aside: Option<Vec<String>>,
}

pub fn findings(mount: &Mount) -> Vec<Finding> {
    let mut found = vec![answers(mount)];
    found.extend([processes(mount), plane(mount), store(mount)]);
    found.extend([write_back(mount), read_ahead(mount)]);
    found.push(match &mount.state {
        Some(place) => host::state(place),
        None => unknown("state directory", "where the private pages are"),
    });
    found.push(views(mount));
    found
}

fn answers(mount: &Mount) -> Finding {
    let about = "service";
    match &mount.version {
        None => Finding::new(
            Level::Error,
            about,
            format!("{} does not answer", mount.path),
            "its processes are dead or stuck, or it is not this user's to look at",
            "look at the daemon's log; templatefs umount takes away a mount whose processes are dead",
        ),
        Some(version) if *version != mount.own_version => Finding::new(
            Level::Note,
            about,
            format!("served by version {version}; this is {}", mount.own_version),
            "a mount goes on with the program that it was started with",
            format!("templatefs upgrade {}", mount.path),
        ),
        Some(version) => Finding::ok(about, format!("answers; version {version}")),
    }
}

fn processes(mount: &Mount) -> Finding {
    let about = "processes";
    match (mount.holder, mount.serving) {
        (Some(true), Some(true)) => Finding::ok(about, "one holds the mount and one serves it"),
        (Some(false), Some(true)) => Finding::new(
            Level::Warning,
            about,
            "the process that holds the mount is dead",
            "the next death of the one that serves has no successor: what was not written back would be lost",
            "end its VMs, or pause them, when you can; then templatefs umount, and mount again",
        ),
        (Some(true), Some(false)) => Finding::new(
            Level::Warning,
            about,
            "the process that serves is dead and its successor not there yet",
            "requests wait for it",
            "ask again; the daemon's log says why it cannot start where it takes long",
        ),
        (Some(false), Some(false)) => Finding::new(
            Level::Error,
            about,
            "both processes are dead",
            "who uses the mount gets ENOTCONN, and SIGBUS for mapped pages that are not in memory",
            "templatefs umount, then mount again: views with a name are found",
        ),
        _ => unknown(about, "which processes hold and serve it"),
    }
}

fn plane(mount: &Mount) -> Finding {
    let about = "passthrough";
    match mount.passthrough {
        Some(true) => {
            Finding::ok(about, "the kernel reads templates by itself: clones share their page cache")
        }
        Some(false) => Finding::new(
            Level::Warning,
            about,
            "not in force",
            "each private view caches what it reads for itself, and each fault asks the daemon",
            "mount as root on Linux 6.9 or later; the log says what stood against it",
        ),
        None => unknown(about, "whether the kernel reads templates by itself"),
    }
}

fn store(mount: &Mount) -> Finding {
    let about = "store";
    match mount.store_read_only {
        Some(true) => Finding::ok(about, "reached through a mount that nobody can write through"),
        Some(false) => Finding::new(
            Level::Note,
            about,
            "reached by its own mount",
            "of two things that keep a template from being written one is missing: a read-only mount of the store needs \
             root and Linux 5.12",
            "mount as root, or mount the store's filesystem read-only",
        ),
        None => unknown(about, "how the daemon reaches its store"),
    }
}

fn views(mount: &Mount) -> Finding {
    let about = "views";
    match mount.set_aside.as_deref() {
        Some([]) => Finding::ok(about, "none is set aside"),
        Some(aside) => Finding::new(
            Level::Warning,
            about,
            format!("set aside: {}", aside.join(", ")),
            "who has them open gets errors, and nobody else can open them",
            format!(
                "templatefs views {} says why; put their files right and run templatefs upgrade, or discard them",
                mount.path
            ),
        ),
        None => unknown(about, "whether any is set aside"),
    }
}

fn write_back(mount: &Mount) -> Finding {
    let about = "write-back";
    let (Some(ratio), strict) = (mount.max_ratio, mount.strict_limit) else {
        return unknown(about, "how the kernel writes pages back");
    };
    if ratio < 100 || strict == Some(1) {
        let strict = strict.map_or_else(String::new, |strict| format!(", strict_limit {strict}"));
        return Finding::new(
            Level::Warning,
            about,
            format!("max_ratio {ratio}{strict}"),
            "a guest that writes much to a shared view waits for write-back from its first MiB on: about three times \
             slower",
            "as root write 100 to max_ratio and 0 to strict_limit in /sys/class/bdi of the mount's device; a mount by \
             root does so itself",
        );
    }
    Finding::ok(about, "as any disk's (max_ratio 100)")
}

/// What this says of read-ahead holds for views that are served through the daemon.
fn read_ahead(mount: &Mount) -> Finding {
    let about = "read-ahead";
    match mount.read_ahead_kib {
        None => unknown(about, "what the kernel reads around a fault"),
        Some(kib) if kib < 128 => Finding::new(
            Level::Warning,
            about,
            format!("{kib} KiB"),
            "each fault of a view that is served through the daemon asks for little",
            "mount with --read-ahead 128 or more",
        ),
        Some(kib @ 128) => Finding::new(
            Level::Note,
            about,
            format!("{kib} KiB, the kernel's default"),
            "1024 makes random first touches of shared views twice as fast, and views cache more",
            "mount with --read-ahead 1024 where first touches matter more than memory",
        ),
        Some(kib) => Finding::ok(about, format!("{kib} KiB")),
    }
}

fn unknown(about: &str, what: &str) -> Finding {
    Finding::new(
        Level::Note,
        about,
        format!("{what} is not known"),
        "only the user who mounted, and root, may look at it",
        "ask as that user",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Mount {
        Mount {
            path: "/mnt/t".into(),
            root: true,
            own_version: "0.1.0".into(),
            version: Some("0.1.0".into()),
            passthrough: Some(true),
            holder: Some(true),
            serving: Some(true),
            store_read_only: Some(true),
            read_ahead_kib: Some(1024),
            max_ratio: Some(100),
            strict_limit: Some(0),
            state: Some(Place {
                path: "/run/templatefs/mnt-t".into(),
                filesystem: "tmpfs".into(),
                options: String::new(),
                total: 1 << 30,
                free: 1 << 29,
            }),
            set_aside: Some(Vec::new()),
        }
    }

    #[test]
    fn a_good_mount_is_ok() {
        assert!(findings(&good()).iter().all(|found| found.level == Level::Ok), "{:#?}", findings(&good()));
        // Before Linux 6.2 there is no strict_limit.
        let old = Mount { strict_limit: None, ..good() };
        assert!(findings(&old).iter().all(|found| found.level == Level::Ok));
    }

    #[test]
    fn what_is_wrong_is_found_and_says_what_to_do() {
        for (mount, level, advice) in [
            (Mount { version: None, ..good() }, Level::Error, "log"),
            (Mount { version: Some("0.0.9".into()), ..good() }, Level::Note, "upgrade /mnt/t"),
            (Mount { holder: Some(false), ..good() }, Level::Warning, "mount again"),
            (Mount { serving: Some(false), ..good() }, Level::Warning, "log"),
            (Mount { holder: Some(false), serving: Some(false), ..good() }, Level::Error, "umount"),
            (Mount { passthrough: Some(false), ..good() }, Level::Warning, "as root"),
            (Mount { store_read_only: Some(false), ..good() }, Level::Note, "read-only"),
            (Mount { set_aside: Some(vec!["web-1".into()]), ..good() }, Level::Warning, "views /mnt/t"),
            (Mount { max_ratio: Some(1), ..good() }, Level::Warning, "max_ratio"),
            (Mount { strict_limit: Some(1), ..good() }, Level::Warning, "strict_limit"),
            (Mount { read_ahead_kib: Some(4), ..good() }, Level::Warning, "--read-ahead"),
            (Mount { read_ahead_kib: Some(128), ..good() }, Level::Note, "--read-ahead 1024"),
            (Mount { state: None, passthrough: None, set_aside: None, ..good() }, Level::Note, "that user"),
        ] {
            let found = findings(&mount).into_iter().max_by_key(|found| found.level).unwrap();
            assert_eq!(found.level, level, "{found:#?}");
            let said = found.advice.unwrap();
            assert!(said.contains(advice), "{advice}: {said}");
        }
    }
}
