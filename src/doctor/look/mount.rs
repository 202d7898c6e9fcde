//! How one mount is. It may be dead: whatever asks it has a time limit.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Pid, test_kill_process};

use super::place;
use crate::doctor::mount::Mount;
use crate::error::{Error, Result};
use crate::{bdi, mount, state};

/// A successor is there in less.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn mount(path: &Path) -> Result<Mount> {
    let entries = mount::own_mounts()?;
    // Of a dead mount no path can be resolved; its own is absolute.
    let real = std::path::absolute(path).map_err(|e| Error::io(path.display().to_string(), e))?;
    let real = match entries.iter().any(|entry| entry.mountpoint == real) {
        true => real,
        false => fs::canonicalize(&real).map_err(|e| Error::io(path.display().to_string(), e))?,
    };
    let Some(entry) = entries.into_iter().rev().find(|entry| entry.mountpoint == real) else {
        return Err(Error::NotFound(format!(
            "{}: no templatefs is mounted there; `templatefs views` lists what is mounted where",
            path.display()
        )));
    };
    let version = ask(&real, "version").map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    let state = version.as_ref().and_then(|_| ask(&real, "state"));
    let state = state.map(|text| PathBuf::from(OsStr::from_bytes(text.trim_ascii_end())));
    let set_aside = version.as_ref().and_then(|_| set_aside(&real));
    let known = state.as_deref().and_then(state::description);
    let lives = |pid: u32| Pid::from_raw(pid as i32).map(|pid| test_kill_process(pid).is_ok());
    let device = entry.device;
    Ok(Mount {
        path: real.display().to_string(),
        root: rustix::process::geteuid().is_root(),
        own_version: env!("CARGO_PKG_VERSION").into(),
        version,
        passthrough: known.as_ref().and_then(|known| known.passthrough),
        holder: known.as_ref().and_then(|known| lives(known.held_by)),
        serving: known.as_ref().and_then(|known| lives(known.served_by)),
        store_read_only: known.as_ref().and_then(|known| is_read_only(&entry.source, known.served_by)),
        read_ahead_kib: bdi::read(device, "read_ahead_kb"),
        max_ratio: bdi::read(device, "max_ratio"),
        strict_limit: bdi::read(device, "strict_limit"),
        state: state.as_deref().and_then(place),
        set_aside,
    })
}

fn set_aside(mountpoint: &Path) -> Option<Vec<String>> {
    let report: serde_json::Value = serde_json::from_slice(&ask(mountpoint, "views.json")?).ok()?;
    let views = report["set_aside"].as_array()?.iter();
    views.map(|view| view["id"].as_str().map(str::to_owned)).collect()
}

/// What a control file holds; None where it does not say in time.
fn ask(mountpoint: &Path, name: &str) -> Option<Vec<u8>> {
    let file = mountpoint.join(".templatefs").join(name);
    let (sender, answer) = channel();
    // A thread that waits for a dead mount is left behind, and ends with this process.
    thread::spawn(move || sender.send(fs::read(file)));
    answer.recv_timeout(PATIENCE).ok()?.ok()
}

/// Does the process reach its store through a mount that cannot be written? None where its
/// descriptors are not this user's to look at.
fn is_read_only(store: &Path, pid: u32) -> Option<bool> {
    let store = fs::metadata(store).ok()?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().map(|entry| entry.path());
    let is_store =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (store.dev(), store.ino()));
    let read_only =
        |path: PathBuf| statvfs(&path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    Some(descriptors.filter(is_store).any(read_only))
}
