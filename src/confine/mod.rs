//! The serving process gives up what it does not need, once it has mounted or taken over and before it
//! reads the first request: capabilities (capabilities.rs), system calls (syscalls.rs), files
//! (landlock.rs), and the gain of rights by execve(2). What it may not do any more and still wants done
//! the broker does (broker/). docs/SECURITY.md tells the whole of it.
//!
//! All of it belongs to a thread and goes on to the threads that it starts: it is done while there is
//! one.

mod capabilities;
mod landlock;
mod syscalls;

use std::os::fd::BorrowedFd;

use rustix::thread::set_no_new_privs;

use crate::config::MountConfig;
use crate::error::{Error, Result};
use crate::mount::Device;

/// Confines this process, and says in the log what is in force and what this kernel lacks.
///
/// `store` is the root through which templates are opened: the rules for files go by inode, and its
/// path may lead elsewhere. `shown` is the mount's device.
pub fn confine(config: &MountConfig, store: BorrowedFd<'_>, shown: Option<Device>) -> Result<()> {
    let failed = |what: &'static str| move |e: std::io::Error| Error::io(format!("confinement: {what}"), e);
    set_no_new_privs(true).map_err(|e| failed("no_new_privs")(e.into()))?;
    let kept = capabilities::keep(config.allow_template_writes).map_err(failed("capabilities"))?;
    let mut in_force = vec!["no_new_privs".to_owned(), capabilities::describe(kept)];
    let mut lacking = Vec::new();
    // Before the filter, which lets nobody change them.
    let files =
        landlock::restrict(&landlock::Places::of(config, store, shown)).map_err(failed("Landlock"))?;
    files.told(&mut in_force, &mut lacking);
    match syscalls::filter().map_err(failed("system calls"))? {
        Ok(calls) => in_force.push(format!("a filter that lets {calls} system calls through")),
        Err(why) => lacking.push(format!("system call filters ({why})")),
    }
    log::info!("confined: {}", in_force.join("; "));
    if !lacking.is_empty() {
        log::warn!("confined without {}, which this kernel lacks", lacking.join(" and "));
    }
    Ok(())
}
