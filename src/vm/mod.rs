//! A running QEMU that stands still for a moment, so that its memory and its devices can be copied as they are
//! at one instant, and then goes on, whatever becomes of who copies.
//!
//! ```text
//! this process                 QEMU                         the rescuer (rescue.rs)
//!   query what it is  ───────>
//!   start ─────────────────────────────────────────────────> waits on a pipe, has the connection too
//!   stop ────────────────────> stands still
//!   migrate fd, x-ignore-shared ─> writes its devices
//!   copy its memory
//!   cont ────────────────────> goes on
//!   done ──────────────────────────────────────────────────> ends
//!        killed before that: the pipe closes ──────────────> migrate_cancel, cont
//! ```

mod facts;
mod ram;
mod rescue;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use rescue::{Rescuer, rescue};

use crate::error::{Error, Result};
use crate::manifest::Machine;
use crate::qmp::Qmp;

/// How long QEMU may take to write its devices, which are some megabytes.
const MIGRATION: Duration = Duration::from_secs(300);
const IGNORE_SHARED: &str = "x-ignore-shared";
/// What QEMU calls our file.
const FILE_NAME: &str = "templatefs-state";

pub struct Vm {
    qmp: Qmp,
    /// None where its process is not on this host, or not to be seen.
    pid: Option<u32>,
}

/// How a VM was before it was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    pub running: bool,
    pub ignore_shared: bool,
}

impl Vm {
    pub fn connect(socket: &Path) -> Result<Self> {
        let qmp = Qmp::connect(socket)?;
        let pid = rustix::net::sockopt::socket_peercred(qmp.stream()).ok();
        Ok(Self { qmp, pid: pid.map(|peer| peer.pid.as_raw_nonzero().get() as u32) })
    }

    /// What it is made of. Which of its memory becomes a part of a template is not said yet.
    pub fn machine(&mut self) -> Result<Machine> {
        facts::machine(&mut self.qmp, self.pid)
    }

    /// Whether it has a VM generation ID device.
    pub fn has_vmgenid(&mut self) -> bool {
        self.qmp.execute("query-vm-generation-id", json!({})).is_ok()
    }

    /// The file behind a memory backend, as QEMU has it open.
    pub fn memory(&self, mem_path: &str, size: u64) -> Result<File> {
        ram::open(self.pid, Path::new(mem_path), size)
    }

    /// Has it stand still.
    pub fn stop(mut self) -> Result<Stopped> {
        let status = self.qmp.execute("query-status", json!({}))?;
        let before =
            Before { running: status["running"] == true, ignore_shared: ignores_shared(&mut self.qmp)? };
        let rescuer = before.running.then(|| Rescuer::start(self.qmp.stream(), before)).transpose()?;
        let mut stopped = Stopped { qmp: self.qmp, before, rescuer, goes_on: false };
        stopped.qmp.execute("stop", json!({}))?;
        Ok(stopped)
    }
}

/// It stands still until it is told otherwise, or this is dropped.
pub struct Stopped {
    qmp: Qmp,
    before: Before,
    rescuer: Option<Rescuer>,
    goes_on: bool,
}

impl Stopped {
    /// Writes all of it but its shared memory to `state`, which is empty.
    pub fn save_devices(&mut self, state: &File) -> Result<()> {
        set_ignore_shared(&mut self.qmp, true)?;
        // A descriptor, since QEMU may be another user's and see other paths.
        self.qmp.give(FILE_NAME, state)?;
        self.qmp.execute("migrate", json!({ "uri": format!("fd:{FILE_NAME}") }))?;
        let status = wait_for_migration(&mut self.qmp)?;
        match status["status"].as_str() {
            Some("completed") => Ok(()),
            other => Err(Error::Invalid(format!(
                "QEMU could not write the state of its devices ({}{})",
                other.unwrap_or("unknown"),
                status["error-desc"].as_str().map(|why| format!(": {why}")).unwrap_or_default()
            ))),
        }
    }

    /// It goes on, if it ran before.
    pub fn resume(mut self) -> Result<()> {
        self.restore()
    }

    /// Its end. What it may do on its way, such as discard-data=on, it does to files that are copied.
    pub fn quit(mut self) -> Result<()> {
        self.goes_on = true;
        let asked = self.qmp.execute("quit", json!({})).map(drop);
        self.relieve();
        asked
    }

    fn restore(&mut self) -> Result<()> {
        let restored = restore(&mut self.qmp, self.before);
        if restored.is_ok() {
            self.goes_on = true;
            self.relieve();
        }
        restored
    }

    fn relieve(&mut self) {
        if let Some(rescuer) = self.rescuer.take() {
            rescuer.relieve();
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if !self.goes_on
            && let Err(error) = self.restore()
        {
            eprintln!("templatefs: {error}; the virtual machine stands still: say `cont` to it");
        }
    }
}

/// As it was before it was touched, also in the middle of a migration.
fn restore(qmp: &mut Qmp, before: Before) -> Result<()> {
    qmp.execute("migrate_cancel", json!({}))?;
    wait_for_migration(qmp)?;
    set_ignore_shared(qmp, before.ignore_shared)?;
    match before.running {
        true => qmp.execute("cont", json!({})).map(drop),
        false => Ok(()),
    }
}

/// The state of the last migration once it is over; null where there was none.
fn wait_for_migration(qmp: &mut Qmp) -> Result<Value> {
    let end = Instant::now() + MIGRATION;
    loop {
        let state = qmp.execute("query-migrate", json!({}))?;
        match state["status"].as_str() {
            None | Some("none" | "completed" | "failed" | "cancelled") => return Ok(state),
            Some(other) if Instant::now() > end => {
                return Err(Error::Invalid(format!("QEMU's migration does not end: it is {other}")));
            }
            Some(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn ignores_shared(qmp: &mut Qmp) -> Result<bool> {
    let capabilities = qmp.execute("query-migrate-capabilities", json!({}))?;
    let mut known = capabilities.as_array().into_iter().flatten();
    let found = known.find(|capability| capability["capability"] == IGNORE_SHARED);
    found.map(|capability| capability["state"] == true).ok_or_else(|| {
        Error::Unsupported(format!("this QEMU has no {IGNORE_SHARED} (since 4.0): use a newer one"))
    })
}

fn set_ignore_shared(qmp: &mut Qmp, on: bool) -> Result<()> {
    let capability = json!({ "capability": IGNORE_SHARED, "state": on });
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": [capability] })).map(drop)
}
