//! Arguments of what other commands start for themselves.

use std::path::PathBuf;

use clap::Args;

use super::MountArgs;

/// Serve a mount that another process holds, which starts this one.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub mount: MountArgs,
    /// The socket to the process that holds the mount
    #[arg(long)]
    pub keeper: i32,
    /// That process
    #[arg(long)]
    pub held_by: i32,
    /// End when that process ends
    #[arg(long)]
    pub end_with_holder: bool,
    /// Only look whether this program could
    #[arg(long)]
    pub check: bool,
}

/// Look and unmount for a daemon that has given up the right to; it starts this.
#[derive(Debug, Clone, Args)]
pub struct BrokerArgs {
    pub mountpoint: PathBuf,
    /// The socket to the daemon
    pub socket: i32,
}

/// Tell what the kernel caches of views; a daemon has this run.
#[derive(Debug, Clone, Args)]
pub struct PageCacheArgs {
    pub mountpoint: PathBuf,
}

/// Make the kernel know nodes before they are views; a daemon has this run.
#[derive(Debug, Clone, Args)]
pub struct WarmArgs {
    pub mountpoint: PathBuf,
    /// Who starts it: its end is the end of it
    pub parent: i32,
}

/// Have a virtual machine go on whose capture was killed; `capture` runs this.
#[derive(Debug, Clone, Args)]
pub struct RescueArgs {
    /// The migration capability x-ignore-shared was on before
    #[arg(long)]
    pub ignore_shared: bool,
}
