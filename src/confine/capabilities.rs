//! Which capabilities root keeps. An ordinary user has none.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// FUSE_DEV_IOC_BACKING_OPEN and _CLOSE ask for it (fs/fuse/backing.c).
const PASSTHROUGH: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// Templates that only others than root may read, and directories that only they may search: who may
/// have them is the engine's decision.
const TEMPLATES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// The same for templates that are written. Only with --allow-template-writes.
const AUTHORING: CapabilitySet = CapabilitySet::DAC_OVERRIDE;

fn wanted(allow_template_writes: bool) -> CapabilitySet {
    let authoring = if allow_template_writes { AUTHORING } else { CapabilitySet::empty() };
    PASSTHROUGH | TEMPLATES | authoring
}

/// Gives up all others for good, and returns those that are left.
pub fn keep(allow_template_writes: bool) -> io::Result<CapabilitySet> {
    let kept = capabilities(None)?.permitted & wanted(allow_template_writes);
    if capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(kept).iter() {
            match remove_capability_from_bounding_set(capability) {
                // This kernel does not know it.
                Err(rustix::io::Errno::INVAL) => {}
                removed => removed?,
            }
        }
    }
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    Ok(kept)
}

pub fn describe(kept: CapabilitySet) -> String {
    if kept.is_empty() {
        return "no capability".into();
    }
    let names: Vec<String> = kept.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    format!("no capability but {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_can_be_written_only_where_that_was_asked_for() {
        assert_eq!(describe(wanted(false)), "no capability but CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN");
        assert!(wanted(true).contains(CapabilitySet::DAC_OVERRIDE));
        assert_eq!(describe(CapabilitySet::empty()), "no capability");
    }
}
