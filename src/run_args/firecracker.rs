//! Firecracker: SnapshotLoadParams and MemoryBackend of src/firecracker/swagger/firecracker.yaml. It opens the
//! memory file read-only and maps it privately (docs/snapshotting/snapshot-support.md).

use serde_json::json;

use super::{RunArgs, SCHEMA, Step, Template, Vmm, Wish};
use crate::error::{Error, Result};

pub fn run_args(template: &Template, wish: &Wish) -> Result<RunArgs> {
    let option = match (&wish.view, wish.share, wish.backing) {
        (Some(_), ..) => Some("--view"),
        (None, true, _) => Some("--share"),
        (None, false, Some(_)) => Some("--backing"),
        (None, false, None) => None,
    };
    if let Some(option) = option {
        return Err(Error::Unsupported(format!(
            "{option}: Firecracker copies for itself what a restored guest writes, so that no view ever gets it; leave \
             {option} out, or use another VMM"
        )));
    }
    let [memory] = template.memory.as_slice() else {
        return Err(Error::Invalid(
            "Firecracker has one memory file: name a template that is one file".into(),
        ));
    };
    let Some(state) = &template.state else {
        return Err(Error::Invalid(
            "Firecracker takes a memory file together with its snapshot file: name that one with --state"
                .into(),
        ));
    };
    let body = json!({
        "snapshot_path": state,
        "mem_backend": { "backend_type": "File", "backend_path": wish.private(&memory.path) },
        "resume_vm": true,
    });
    let notes = vec![
        "checked against its published API; it was not run with this version of templatefs".to_owned(),
        "the request is the first one that a fresh Firecracker gets; disks and taps are where the snapshot had them"
            .to_owned(),
    ];
    let steps = vec![Step { to: "PUT /snapshot/load", body }];
    Ok(RunArgs { schema: SCHEMA, vmm: Vmm::Firecracker, args: Vec::new(), steps, notes })
}
