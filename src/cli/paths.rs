//! Arguments of what deals with templates and views by their paths.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// Explain what a path would be, and the QEMU options that fit it. Needs no mount.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes: 0 for a path that is something, 1 for one that is refused.\n\n\
                        Example:\n  templatefs resolve 'debian/12.ram?rom=off&view=web-1'")]
pub struct ResolveArgs {
    /// NAME or NAME?QUERY, below the store or the mountpoint (quote it: a shell takes `?` and `&`)
    pub path: OsString,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// List templates: size, data, holes, and who may read them.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs ls /srv/templates")]
pub struct LsArgs {
    /// A store, a mount of it, or a directory in one
    #[arg(value_name = "STORE_OR_MOUNT")]
    pub path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Discard a named view and what was written to it.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs discard '/mnt/t/debian/12.ram?rom=off&view=web-1'\n  \
                        templatefs discard /mnt/t web-1")]
pub struct DiscardArgs {
    /// MOUNTPOINT/NAME?rom=off&view=ID, or a mountpoint when ID follows
    #[arg(value_name = "PATH")]
    pub target: PathBuf,
    /// The view's name
    #[arg(value_name = "ID")]
    pub view: Option<String>,
}
