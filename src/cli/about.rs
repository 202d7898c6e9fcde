//! Arguments of what tells about templatefs itself.

use std::path::PathBuf;

use clap::Args;

/// Show it all on a small store of its own, then clean up.
#[derive(Debug, Clone, Args)]
#[command(after_help = "docs/TUTORIAL.md explains what --vm does, command by command.\n\n\
                        Example:\n  templatefs demo\n  templatefs demo --vm")]
pub struct DemoArgs {
    /// With virtual machines: boot a small guest, capture it, and clone it N times (8 unless told); needs QEMU 8.2,
    /// busybox and a kernel for the guest
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "8")]
    pub vm: Option<u16>,
    /// The guest's kernel [default: this machine's in /boot, or the newest there]
    #[arg(long, value_name = "FILE", requires = "vm")]
    pub kernel: Option<PathBuf>,
}

/// Print a completion script for a shell.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs completions bash > /etc/bash_completion.d/templatefs")]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Write the man pages, one for each command.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Directory to write to; made when missing
    pub dir: PathBuf,
}
