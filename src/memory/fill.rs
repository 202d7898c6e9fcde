//! A template's data copied into memory, less its zeros.

use std::ffi::CStr;
use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, memfd_create};

use super::available_bytes;
use crate::sparse::Pieces;
use crate::store::Template;

/// Shown in /proc/PID/maps of whoever maps such a view without the mount.
const NAME: &CStr = c"templatefs-view";

/// A new memfd with the content of `template`. Holes stay holes, and so do pages of zeros.
///
/// # Errors
/// ENOMEM where the data would take more than half of the memory that is available: the host
/// would have to end somebody for it.
pub fn filled(template: &dyn Template) -> io::Result<File> {
    let file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    let size = template.identity().size;
    file.set_len(size)?;
    let pieces = Pieces::of(template, size)?;
    if pieces.bytes() > available_bytes()? / 2 {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    pieces.copy(template, &file, &|_| {})?;
    Ok(file)
}
