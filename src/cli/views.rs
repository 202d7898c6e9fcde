//! Arguments of what is done with a private view: commit, fork, diff and export.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::AboutTemplate;

/// Make a template of a private view, live or at rest.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "It must not change meanwhile: pause the virtual machine that has it, or name its QMP socket, and \
                        it is paused, its devices are saved too, and it goes on.\n\n\
                        Example:\n  templatefs commit '/mnt/t/debian/12/ram?rom=off&view=web-1' debian/13\n  \
                        templatefs commit /mnt/t web-1 debian/13 --qmp /run/web-1/qmp"
)]
pub struct CommitArgs {
    /// MOUNTPOINT/NAME?rom=off&view=ID, or ID; or a mountpoint when ID follows
    #[arg(value_name = "VIEW")]
    pub view: PathBuf,
    /// The new template's path in the store of the mount
    #[arg(value_name = "[ID] NAME", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
    /// The socket of QEMU's -qmp: a machine that has the view as its memory becomes a set
    #[arg(long, value_name = "SOCKET")]
    pub qmp: Option<PathBuf>,
    #[command(flatten)]
    pub about: AboutTemplate,
}

/// Make a second private view that starts with what the first one holds.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "It must not change meanwhile: pause the virtual machine that has it. Only the pages that are not \
                        the template's are copied.\n\n\
                        Example:\n  templatefs fork '/mnt/t/debian/12/ram?rom=off&view=web-1' web-2"
)]
pub struct ForkArgs {
    /// MOUNTPOINT/NAME?rom=off&view=ID, or ID; or a mountpoint when ID follows
    #[arg(value_name = "VIEW")]
    pub view: PathBuf,
    /// The new view's name
    #[arg(value_name = "[ID] NEWVIEW", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
}

/// List which ranges of a private view are not its template's.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs diff '/mnt/t/debian/12/ram?rom=off&view=web-1'")]
pub struct DiffArgs {
    /// MOUNTPOINT/NAME?rom=off&view=ID, or ID; or a mountpoint when ID follows
    #[arg(value_name = "VIEW")]
    pub view: PathBuf,
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ExportFormat {
    /// All of it, with holes
    #[default]
    Raw,
    /// What is not the template's, with the template in the store as backing file
    Qcow2,
}

/// Write a private view to a file.
#[derive(Debug, Clone, Args)]
#[command(after_help = "It must not change meanwhile: pause the virtual machine that has it.\n\n\
                        Example:\n  templatefs export --format qcow2 \
                        '/mnt/t/disk.img?rom=off&view=web-1' web-1.qcow2")]
pub struct ExportArgs {
    /// MOUNTPOINT/NAME?rom=off&view=ID, or ID; or a mountpoint when ID follows
    #[arg(value_name = "VIEW")]
    pub view: PathBuf,
    /// The new file
    #[arg(value_name = "[ID] FILE", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    pub format: ExportFormat,
}
