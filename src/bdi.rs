//! How the kernel writes the mount's pages back and reads ahead: /sys/class/bdi of its device
//! (Documentation/ABI/testing/sysfs-class-bdi). One setting holds for all views of a mount.

use std::io;
use std::path::PathBuf;

use crate::mount::Device;

/// FUSE starts with a hundredth of the host's dirty memory, kept strictly: a guest that fills its
/// memory would wait for write-back from its first MiB on. A mount is as any disk instead.
const WRITE_BACK: [(&str, &str); 2] = [("strict_limit", "0"), ("max_ratio", "100")];

/// Does what this process may do, and says what it may not. `read_ahead` in bytes; None leaves
/// the kernel's default.
pub fn tune(device: Device, read_ahead: Option<u64>) {
    let read_ahead = read_ahead.map(|bytes| ("read_ahead_kb", (bytes / 1024).to_string()));
    let fixed = WRITE_BACK.map(|(name, value)| (name, value.to_owned()));
    for (name, value) in fixed.into_iter().chain(read_ahead) {
        let path = setting(device, name);
        match std::fs::write(&path, &value) {
            Ok(()) => {}
            // Before Linux 6.2 there is no strict_limit to turn off.
            Err(e) if e.kind() == io::ErrorKind::NotFound => log::debug!("{}: {e}", path.display()),
            Err(e) => log::info!(
                "{} stays as it is, and writable views are slower than they could be: {e}; root may write {value} \
                 to it",
                path.display()
            ),
        }
    }
}

/// What is set; None where it cannot be read, or is none of this kernel's.
pub fn read(device: Device, name: &str) -> Option<u64> {
    std::fs::read_to_string(setting(device, name)).ok()?.trim().parse().ok()
}

/// Where the settings of a mount are.
pub fn directory(device: Device) -> PathBuf {
    PathBuf::from(format!("/sys/class/bdi/{}:{}", device.major, device.minor))
}

fn setting(device: Device, name: &str) -> PathBuf {
    directory(device).join(name)
}
