//! From starting a clone's QEMU to its guest's answer on the console.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::arguments::Arguments;
use crate::common::guest::{self, Backend, Guest, Machine};
use crate::report::figures::{CLONE_MEMORY, CLONE_TIME, NATIVE};
use crate::subjects::{Subject, Templatefs, templatefs_modes};
use crate::template::Template;
use crate::{Result, report};

const AT: &str = "guest";

pub fn measure(
    store: &Path,
    scratch: &Path,
    clones: usize,
    arguments: &Arguments,
    run: &mut report::Run,
) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let captured = guest::Template::make(directory.path(), Machine::SMALL, None);
    let path = store.join("clone.ram");
    fs::copy(&captured.ram, &path)?;
    let template = Template { name: "clone.ram", size: fs::metadata(&path)?.len(), path };
    crate::template::warm(&template.path)?;

    let mut modes = templatefs_modes(scratch);
    modes.retain(|mode| arguments.includes(mode.name()));
    // What is refused was refused in the other workloads too, and its reason is in the report.
    modes.retain_mut(|mode| match mode.ready(&template) {
        Ok(()) => true,
        Err(error) => {
            run.refuse(mode.name(), "clones", &error.to_string());
            false
        }
    });
    // None: native.
    let mut ways: Vec<Option<&Templatefs>> = modes.iter().map(Some).collect();
    if arguments.includes(NATIVE) {
        ways.push(None);
    }
    for number in 0..clones {
        if !ways.is_empty() {
            ways.rotate_left(1);
        }
        for way in &ways {
            let name = way.map_or(NATIVE, Subject::name);
            let ram = match way {
                None => Backend::new(&template.path, "share=off,readonly=on,rom=off"),
                Some(mode) => Backend::new(mode.path(&template)?, mode.qemu()),
            };
            let (time, mut guest) = start(&captured, ram);
            run.add(CLONE_TIME, AT, name, time);
            if number == 0 {
                // A guest goes on writing: it stands still while it is looked at.
                guest.qemu.qmp("stop", serde_json::json!({}));
                let bytes = match way {
                    None => copied(&guest, &template.path)?,
                    Some(mode) => mode.sum("cost_bytes")?,
                };
                run.add(CLONE_MEMORY, AT, name, bytes as f64);
            }
        }
    }
    Ok(())
}

fn start(captured: &guest::Template, ram: Backend) -> (f64, Guest) {
    let begin = Instant::now();
    let mut guest = captured.restore(ram, None);
    assert_eq!(guest.ok("echo answered"), "answered");
    (super::micros(begin.elapsed()), guest)
}

/// `Anonymous` of QEMU's mapping of the RAM file: what it copied.
fn copied(guest: &Guest, ram: &Path) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/smaps", guest.qemu.pid()))?;
    let ram = ram.to_string_lossy();
    let mut within = false;
    let mut kib = 0;
    for line in text.lines() {
        if line.split_whitespace().next().is_some_and(|word| !word.ends_with(':')) {
            within = line.ends_with(&*ram);
        } else if let Some(value) = line.strip_prefix("Anonymous:").filter(|_| within) {
            kib += value.trim().trim_end_matches(" kB").parse::<u64>()?;
        }
    }
    Ok(kib << 10)
}
