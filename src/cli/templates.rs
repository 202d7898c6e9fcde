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
