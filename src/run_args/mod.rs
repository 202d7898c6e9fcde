//! With which options a VMM runs a clone of a template. Pure: the template was looked at before.

mod cloud_hypervisor;
mod firecracker;
mod qemu;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::Value;

use crate::error::Result;
use crate::manifest::Machine;
use crate::name::Label;
use crate::rules::Backing;

/// Version of the JSON form; raised when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Vmm {
    Qemu,
    CloudHypervisor,
    Firecracker,
}

/// What the clone is to be.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Its RAM can be mapped by other processes: vhost-user.
    pub share: bool,
    /// Its RAM lasts, in the view of this name.
    pub view: Option<Label>,
    pub vm: Option<Label>,
    pub backing: Option<Backing>,
}

/// What there is to clone: paths on a mount, without a query.
#[derive(Debug, Clone, Default)]
pub struct Template {
    /// The machine's own RAM first.
    pub memory: Vec<Memory>,
    pub state: Option<String>,
    pub disks: Vec<String>,
    /// What it was captured from, where a manifest tells.
    pub machine: Option<Machine>,
}

#[derive(Debug, Clone)]
pub struct Memory {
    pub id: String,
    pub path: String,
    pub size: u64,
    /// An R/O NVDIMM and the like: it stays the template's.
    pub readonly: bool,
}

#[derive(Debug, Serialize)]
pub struct RunArgs {
    pub schema: u32,
    pub vmm: Vmm,
    /// Words of the command line, not quoted for a shell.
    pub args: Vec<String>,
    /// What comes after it was started, in this order.
    pub steps: Vec<Step>,
    pub notes: Vec<String>,
}

/// Something that is no option: a command, a request, a part of a file.
#[derive(Debug, Serialize)]
pub struct Step {
    pub to: &'static str,
    pub body: Value,
}

pub fn run_args(vmm: Vmm, template: &Template, wish: &Wish) -> Result<RunArgs> {
    match vmm {
        Vmm::Qemu => Ok(qemu::run_args(template, wish)),
        Vmm::CloudHypervisor => Ok(cloud_hypervisor::run_args(template, wish)),
        Vmm::Firecracker => firecracker::run_args(template, wish),
    }
}

impl Wish {
    /// A view that lasts holds nothing where the VMM copies for itself what the guest writes.
    fn shares(&self) -> bool {
        self.share || self.view.is_some()
    }

    /// The path of a private view. Its pairs are joined by `&`: a comma means something to every VMM.
    fn private(&self, path: &str) -> String {
        let mut path = format!("{path}?rom=off");
        let label = |label: &Option<Label>| label.as_ref().map(ToString::to_string);
        for (key, value) in [
            ("view", label(&self.view)),
            ("vm", label(&self.vm)),
            ("backing", self.backing.map(|backing| backing.as_str().to_owned())),
        ] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={value}"));
            }
        }
        path
    }

    /// The path of a private view beside the RAM: a name is one view's, and each file needs its own.
    fn beside(&self, path: &str, what: &str) -> String {
        let view = self.view.as_ref().and_then(|view| Label::new(format!("{view}-{what}").as_bytes()));
        Self { view, ..self.clone() }.private(path)
    }
}
