//! What is settled with the kernel once, in the life of a mount.

use std::io;

use fuser::{InitFlags, KernelConfig, Version};

use super::xattr;
use crate::engine::{Engine, Negotiated};
use crate::passthrough;
use crate::takeover;

/// One WRITE, and the largest READ.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that nobody waits for (read-ahead, write-back) at once, for all views together.
pub const MAX_BACKGROUND: u16 = 512;

/// Says whether there are extended attributes.
pub fn settle(config: &mut KernelConfig, engine: &Engine) -> io::Result<bool> {
    // A size or time that the daemon reports must never make the kernel drop pages of a
    // view: it changes only through the kernel itself.
    let wanted =
        [InitFlags::FUSE_EXPLICIT_INVAL_DATA, InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_HAS_RESEND];
    let mut granted = InitFlags::empty();
    for flag in wanted {
        match config.add_capabilities(flag) {
            Ok(()) => granted |= flag,
            Err(_) => log::info!("this kernel lacks {flag:?}"),
        }
    }
    config.set_max_write(MAX_WRITE).map_err(|_| io::Error::other("max_write"))?;
    config.set_max_background(MAX_BACKGROUND).map_err(|_| io::Error::other("max_background"))?;
    let attributes = xattr::negotiate(config);
    granted.set(InitFlags::FUSE_HANDLE_KILLPRIV_V2, attributes);
    let passthrough = passthrough::negotiate(config);
    engine.set_passthrough(passthrough);
    granted.set(InitFlags::FUSE_PASSTHROUGH, passthrough);
    let Version(major, minor) = config.kernel_abi();
    takeover::record(engine.recorder(), Negotiated { major, minor, flags: granted.bits() })
        .map_err(io::Error::other)?;
    Ok(attributes)
}
