//! Arguments of what makes templates, checks them and takes them away.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::manifest::Fact;

/// What every command that makes a template is told of it.
#[derive(Debug, Clone, Args)]
pub struct AboutTemplate {
    /// For whoever reads its manifest
    #[arg(long, value_name = "TEXT")]
    pub notes: Option<String>,
    /// What makes it safe to run more than once, for mounts and policies that require it
    #[arg(long, value_name = "FACT", value_delimiter = ',')]
    pub safe: Vec<Fact>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Then {
    /// The virtual machine goes on
    #[default]
    Continue,
    /// QEMU ends once the template is there
    Quit,
}

/// Make a template from a running QEMU: its memory, its devices, and a manifest.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Its memory must be a memory-backend-file with share=on, on a plain file, on a named view of a \
                        mount, or on a template that is being authored. The virtual machine stands still while it is \
                        copied. The template is there at once, or, whatever happens, not at all; killed, this command \
                        leaves a virtual machine that goes on.\n\n\
                        Example:\n  templatefs capture --qmp /run/vm/qmp --name debian/12 /srv/templates"
)]
pub struct CaptureArgs {
    /// The socket of QEMU's -qmp; nobody else may be connected to it
    #[arg(long, value_name = "SOCKET")]
    pub qmp: PathBuf,
    /// The template's path in the store, as it is written in a path of a mount
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// A disk of the machine, to be copied while it stands still; may be repeated
    #[arg(long, value_name = "PART=FILE")]
    pub disk: Vec<String>,
    /// What becomes of the virtual machine
    #[arg(long, value_enum, default_value_t)]
    pub then: Then,
    #[command(flatten)]
    pub about: AboutTemplate,
    /// A store, or a mount of it
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
}

/// Make a template from a file: raw, qcow2, vmdk, or the memory file of another VMM.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The memory file of a Firecracker or Cloud Hypervisor snapshot is raw. Other formats than raw are \
                        read by qemu-img. The template is one file, with a manifest beside it.\n\n\
                        Example:\n  templatefs import --format qcow2 --name debian/disk.img \
                        debian-12.qcow2 /srv/templates"
)]
pub struct ImportArgs {
    pub file: PathBuf,
    /// A store, or a mount of it
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
    /// The template's path in the store [default: the file's own name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// raw, qcow2, vmdk or another that qemu-img reads [default: raw, unless it begins as another does]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    #[command(flatten)]
    pub about: AboutTemplate,
}

/// Compare the templates of a store with the digests in their manifests.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes: 0 if all are what they should be, 1 if one is not.\n\n\
                        Example:\n  templatefs verify /srv/templates\n  \
                        templatefs verify /srv/templates debian/12")]
pub struct VerifyArgs {
    /// A store, or a mount of it
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
    /// Only this one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Remove a template or a set, unless there are views of it.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Views count where they are open on a mount of the store, and where they rest in the state \
                        directory of one, mounted or not. Unusual state directories of stores that are not mounted \
                        must be named.\n\n\
                        Example:\n  templatefs rm /srv/templates debian/12"
)]
pub struct RmArgs {
    /// A store, or a mount of it
    #[arg(value_name = "STORE_OR_MOUNT")]
    pub store: PathBuf,
    /// The template's path in the store, as it is written in a path of a mount
    #[arg(value_name = "NAME")]
    pub name: String,
    /// A state directory to look for views in, beside the usual ones; may be repeated
    #[arg(long, value_name = "DIR")]
    pub state_dir: Vec<PathBuf>,
}
