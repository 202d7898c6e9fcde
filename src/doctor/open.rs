//! What becomes of a mem-path when QEMU opens it. Pure.

use super::backend::{CLONE, Memory};
use super::qemu::{Found, OnMount};
use super::{Finding, Level};
use crate::rules::Kind;

const HINT: &str = "\nConsider opening the backing store read-only but still creating writable RAM using '-object \
                    memory-backend-file,readonly=on,rom=off...' (see \"VM templating\" documentation)";

/// file_ram_open: O_RDONLY for readonly=on, else O_RDWR, which also makes what is not there.
pub fn refused(one: &Memory<'_>) -> Option<Finding> {
    let path = one.path();
    let refused = |errno: &str, hint: &str, why: &str, advice: &str| {
        let message = format!("can't open backing store {path} for guest RAM: {errno}{hint}");
        Some(Finding::refused(&one.about, message, why, advice))
    };
    let writes = !one.memory.properties.readonly;
    if let Some(OnMount { kind: Err(refusal), .. }) = one.on_mount() {
        let why = format!("the mount refuses the path ({}): {}", refusal.errno, refusal.message);
        let errno = if refusal.errno == "ENOTDIR" { "Not a directory" } else { "Invalid argument" };
        return refused(errno, "", &why, &refusal.advice);
    }
    match &one.file.found {
        Found::Failed(errno) => {
            refused(errno, "", "it cannot be looked at", "look at the path and who may reach it")
        }
        Found::Missing { creatable: true } if writes => Some(one.finding(
            Level::Error,
            &format!("{path} is not there"),
            "QEMU makes an empty file of that name, and the guest finds zeros",
            "name a template that is there; templatefs ls lists those of a store or mount",
        )),
        Found::Missing { .. } => {
            let errno = match (writes, one.on_mount()) {
                (true, Some(_)) => "Read-only file system",
                _ => "No such file or directory",
            };
            let why = "there is no such file; on a mount of templatefs none can be made";
            refused(errno, "", why, "templatefs ls lists the templates of a store or mount")
        }
        Found::Directory if !writes => refused("Is a directory", "", "memory is a file", "name a file in it"),
        Found::Directory => Some(one.finding(
            Level::Error,
            &format!("{path} is a directory"),
            "QEMU makes a nameless file of zeros there, which is no clone of anything",
            "name a template in it",
        )),
        Found::Regular => match (&one.file.unreadable, &one.file.unwritable) {
            (Some(errno), _) => {
                refused(errno, "", "this user may not read it", "let the VMM's user read the template file")
            }
            (None, Some(errno)) if writes => {
                let hint = if gets_hint(one, errno) { HINT } else { "" };
                let why = "QEMU opens it for writing, which is not allowed";
                refused(errno, hint, why, &instead_of_writing(one))
            }
            (None, _) => None,
        },
    }
}

/// host_memory_backend_file: only where RAM could be had all the same.
fn gets_hint(one: &Memory<'_>, errno: &str) -> bool {
    !one.memory.properties.share && errno == "Permission denied"
}

fn instead_of_writing(one: &Memory<'_>) -> String {
    let path = one.path();
    match (one.on_mount().map(|found| &found.kind), one.memory.properties.share) {
        (Some(Ok(Kind::Rom)), true) => {
            format!("write {path}?rom=off: a private view that may be opened for writing")
        }
        (Some(Ok(Kind::Rom)), false) => format!("{CLONE}, or {path}?rom=off"),
        (Some(Ok(Kind::PrivateIfWritable)), _) => {
            "leave readonly=off out of the path: rom=off alone is for everyone who may read the template"
                .into()
        }
        _ => format!("{CLONE} for a private copy; or serve it with templatefs and write ?rom=off"),
    }
}
