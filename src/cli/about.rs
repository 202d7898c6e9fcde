//! Arguments of what tells about templatefs itself.

use std::path::PathBuf;

use clap::Args;

/// Show it all on a small store of its own, then clean up.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs demo")]
pub struct DemoArgs {}

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
