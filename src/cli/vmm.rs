//! Arguments of what deals with VMMs.

use std::path::PathBuf;

use clap::Args;

use crate::run_args::Vmm;

/// Print the options with which a VMM runs a clone of a template.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The first line is for a shell; what follows as comments is done after the start: QMP commands, \
                        an API request, or a part of a snapshot's config.json. What the template's manifest does not \
                        tell (docs/TEMPLATES.md) is yours to add.\n\n\
                        Example:\n  templatefs run-args /mnt/t/debian/12 --vmm qemu --share --vm web-1"
)]
pub struct RunArgsArgs {
    /// A template on a mount, MOUNTPOINT/NAME: a captured set, or a file that is a guest's RAM
    #[arg(value_name = "TEMPLATE")]
    pub template: PathBuf,
    /// For which VMM
    #[arg(long, value_name = "VMM", value_enum)]
    pub vmm: Vmm,
    /// RAM that other processes can map too, which vhost-user needs
    #[arg(long)]
    pub share: bool,
    /// RAM that lasts, in the private view of this name; implies --share
    #[arg(long, value_name = "ID")]
    pub view: Option<String>,
    /// Label the clone's views as those of this VM
    #[arg(long, value_name = "LABEL")]
    pub vm: Option<String>,
    /// Where the private pages are: overlay, memory or auto
    #[arg(long, value_name = "BACKING")]
    pub backing: Option<String>,
    /// The state of the devices, where no manifest names it
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
