//! Arguments of what deals with VMMs and with the host that they run on.

use std::ffi::OsString;
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

/// Look at the host, a mount or a VMM's command line, and say what is wrong and what to do.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A command line is read and not run. Of QEMU's it is said what QEMU itself would refuse, in \
                        QEMU's words, and what it would do without a word.\n\n\
                        Exit codes: 1 where an error was found, else 0.\n\n\
                        Example:\n  templatefs doctor\n  templatefs doctor /mnt/t\n  \
                        templatefs doctor -- qemu-system-x86_64 -m 1G ..."
)]
pub struct DoctorArgs {
    /// A mount; without it the host
    #[arg(conflicts_with = "line")]
    pub mountpoint: Option<PathBuf>,
    /// A command line, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub line: Vec<OsString>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
