//! Arguments of what makes, replaces and ends a mount.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// Mount a store of templates.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "With -o the same options are written with `_` for `-`: threads=4,allow_other. A comma in \
                        a value is written `\\,` there. The usual words of fstab are accepted; ro, exec \
                        and what is unknown are errors.\n\n\
                        Example:\n  templatefs mount --allow-other /srv/templates /mnt/t"
)]
pub struct MountArgs {
    /// Directory tree that holds the templates
    pub store: PathBuf,
    /// Directory to mount on
    pub mountpoint: PathBuf,
    #[command(flatten)]
    pub options: MountOptions,
    /// Options as in fstab, separated by commas; may be repeated
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub fstab_options: Vec<OsString>,
    /// The daemon that `mount` started, which reports on stdout
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// What may also stand behind `-o`, as src/mount_options.rs reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct MountOptions {
    /// Let other users reach the mount, each with their own rights
    #[arg(long)]
    pub allow_other: bool,
    /// Let `?share=on&readonly=off` write the templates themselves, for authoring
    #[arg(long)]
    pub allow_template_writes: bool,
    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    pub foreground: bool,
    /// Mount over a directory that is not empty
    #[arg(long)]
    pub nonempty: bool,
    /// Threads that serve requests, 1 to 64 [default: one per CPU, 2 to 8]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
    /// How much to log [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log_level: Option<String>,
    /// File to append the log to
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// Directory for the private pages of views
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Serve /metrics over HTTP on 127.0.0.1:PORT or [::1]:PORT, where every user of this host can
    /// read them, or on unix:PATH, which only the user who mounts can
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<String>,
    /// Where private views without a name keep their pages unless their path says: overlay (the
    /// default; in the state directory), memory (all of it in memory of its own: native speed, and
    /// the whole template's data as its cost) or auto
    #[arg(long, value_name = "BACKING")]
    pub backing: Option<String>,
    /// Keep N filled copies of the templates last opened with backing=memory ready, so that the
    /// next opens wait for nothing (default 0); each takes its template's data in memory
    #[arg(long, value_name = "N")]
    pub pool: Option<String>,
    /// Keep N views ready of the templates last opened for writing, with their learned working set in
    /// the page cache already (default 0); see `templatefs profile`
    #[arg(long, value_name = "N")]
    pub warm: Option<String>,
    /// What the kernel reads around a fault of a view that is served through the daemon (root; the
    /// kernel's default is 128): more makes first touches faster, and every view cache more pages
    #[arg(long, value_name = "KIB")]
    pub read_ahead: Option<String>,
    /// A policy (TOML) beside the store's own `templatefs.toml`: what may be opened as what, by whom
    /// and how much of it. Read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// What all private views together may come to own, such as 64GiB: an open for writing that cannot
    /// be promised room for all of its pages fails with ENOSPC
    #[arg(long, value_name = "SIZE")]
    pub budget: Option<String>,
    /// Promise so many times the budget, since few views write all of their pages (default 1)
    #[arg(long, value_name = "RATIO")]
    pub overcommit: Option<String>,
    /// How large one private view may be, or become by write, fallocate and truncate
    #[arg(long, value_name = "SIZE")]
    pub max_private: Option<String>,
    /// How many private views each user may have open at once, but root and whoever mounts [default: 10000, or
    /// a quarter of the limit on open files]
    #[arg(long, value_name = "N")]
    pub max_views_per_user: Option<String>,
    /// How many names each user may have looked up at once, and how many files open [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_nodes_per_user: Option<String>,
    /// Open private views only of templates whose manifest vouches for these facts, such as
    /// vmgenid,no-machine-id; EACCES else
    #[arg(long, value_name = "FACT,...")]
    pub require: Option<String>,
}

/// Let another version of templatefs serve a mount, while it is in use.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Nobody who uses the mount notices more than a short wait. When the new program cannot \
                        read the state of the mount, or does not come up, the old one serves on, and this \
                        command says why. Only the user who mounted and root may do it.\n\n\
                        Example:\n  templatefs upgrade /mnt/t\n  \
                        templatefs upgrade --binary /opt/templatefs-2/templatefs /mnt/t\n  \
                        templatefs upgrade --all"
)]
pub struct UpgradeArgs {
    #[arg(required_unless_present = "all")]
    pub mountpoint: Option<PathBuf>,
    /// Every mount of this user, or as root of all users; when one cannot be upgraded the others are
    #[arg(long, conflicts_with_all = ["mountpoint", "state_dir"])]
    pub all: bool,
    /// The program that is to serve [default: the one that runs this command]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// The mount's state directory, if it has an unusual one and does not answer
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Unmount; a busy mount says who holds it.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs umount /mnt/t\n  templatefs umount --all")]
pub struct UmountArgs {
    #[arg(required_unless_present = "all")]
    pub mountpoint: Option<PathBuf>,
    /// Every mount of this user, or as root of all users, that is not busy
    #[arg(long, conflicts_with = "mountpoint")]
    pub all: bool,
}
