//! `run-args`: looks at a template on a mount, and prints a VMM's options for it.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::shell;
use crate::cli::RunArgsArgs;
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest, Role};
use crate::mount;
use crate::name::{Label, NameError};
use crate::rules::Backing;
use crate::run_args::{Memory, RunArgs, Template, Wish, run_args};

pub fn run(args: &RunArgsArgs) -> Result<ExitCode> {
    let mut template = template(&args.template)?;
    if let Some(state) = &args.state {
        let state = std::fs::canonicalize(state).map_err(|e| Error::io(shown(state), e))?;
        template.state = Some(utf8(&state)?);
    }
    let answer = run_args(args.vmm, &template, &wish(args)?)?;
    match args.json {
        true => super::print_json(&answer)?,
        false => super::print(text(&answer).as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn wish(args: &RunArgsArgs) -> Result<Wish> {
    let label = |option: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match Label::try_from(text.clone()) {
            Ok(label) => Ok(Some(label)),
            Err(NameError::BadValue { value, expected, .. }) => {
                Err(Error::Invalid(format!("{option} {value}: {expected}")))
            }
            Err(other) => Err(Error::Invalid(format!("{option}: {other}"))),
        },
    };
    let backing = match &args.backing {
        None => None,
        Some(text) => Some(
            Backing::parse(text.as_bytes())
                .ok_or_else(|| Error::Invalid(format!("--backing {text}: it is overlay, memory or auto")))?,
        ),
    };
    let view = label("--view", &args.view)?;
    if view.is_some() && backing == Some(Backing::Memory) {
        return Err(Error::Unsupported(
            "--view: a view in memory has no name; leave out --view or --backing memory".into(),
        ));
    }
    Ok(Wish { share: args.share, view, vm: label("--vm", &args.vm)?, backing })
}

/// What lies at a path on a mount.
fn template(path: &Path) -> Result<Template> {
    let real = std::fs::canonicalize(path).map_err(|e| Error::io(shown(path), e))?;
    let mounts = mount::own_mounts()?;
    let mountpoint = mounts
        .iter()
        .map(|entry| &entry.mountpoint)
        .filter(|mountpoint| real.starts_with(mountpoint))
        .max_by_key(|mountpoint| mountpoint.as_os_str().len());
    let Some(mountpoint) = mountpoint else {
        return Err(Error::Invalid(format!(
            "{}: not on a mount of templatefs; mount its store, and name the template there",
            shown(path)
        )));
    };
    if real.as_os_str().as_bytes().contains(&b'?') {
        return Err(Error::Invalid(format!(
            "{}: name the template without a query; the options say which view of it",
            shown(path)
        )));
    }
    let name = real.strip_prefix(mountpoint).unwrap_or(&real);
    match manifest::find(mountpoint, name)? {
        Some((place, manifest)) => of_manifest(&place, manifest),
        None => of_file(&real),
    }
}

fn of_file(path: &Path) -> Result<Template> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(shown(path), e))?;
    if !metadata.is_file() {
        return Err(Error::Invalid(format!(
            "{}: a directory without a manifest; name a file, or a set that was captured",
            shown(path)
        )));
    }
    let memory = Memory { id: "ram0".into(), path: utf8(path)?, size: metadata.len(), readonly: false };
    Ok(Template { memory: vec![memory], ..Template::default() })
}

fn of_manifest(place: &Path, manifest: Manifest) -> Result<Template> {
    let beside = |file: &str| {
        let written = crate::name::written(file.as_bytes());
        utf8(&place.with_file_name(written))
    };
    let memory = |file: &str, id: &str, readonly| -> Result<Memory> {
        let part = manifest.part(file).ok_or_else(|| {
            Error::Invalid(format!(
                "{}: its machine has memory in {file}, which is none of its parts",
                shown(place)
            ))
        })?;
        Ok(Memory { id: id.into(), path: beside(file)?, size: part.size_bytes, readonly })
    };
    let mut template = Template::default();
    if let Some(machine) = &manifest.machine {
        for backend in &machine.memory {
            if let Some(file) = &backend.part {
                template.memory.push(memory(file, &backend.id, backend.readonly)?);
            }
        }
    }
    if template.memory.is_empty() {
        for (number, part) in manifest.of_role(Role::Ram).enumerate() {
            template.memory.push(memory(&part.file, &format!("ram{number}"), false)?);
        }
    }
    if template.memory.is_empty() {
        return Err(Error::Invalid(format!(
            "{}: no part of it is a guest's RAM; `templatefs resolve` has the options for a disk or an NVDIMM",
            shown(place)
        )));
    }
    template.state = manifest.of_role(Role::State).next().map(|part| beside(&part.file)).transpose()?;
    template.disks = manifest.of_role(Role::Disk).map(|part| beside(&part.file)).collect::<Result<_>>()?;
    template.machine = manifest.machine;
    Ok(template)
}

fn text(answer: &RunArgs) -> String {
    let mut out = String::new();
    if !answer.args.is_empty() {
        let _ = writeln!(out, "{}", shell::line(&answer.args));
    }
    for step in &answer.steps {
        let _ = writeln!(out, "# {}: {}", step.to, step.body);
    }
    for note in &answer.notes {
        let _ = writeln!(out, "# {note}");
    }
    out
}

/// VMMs take their options, and JSON its strings, in UTF-8.
fn utf8(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.map(str::to_owned).ok_or_else(|| {
        Error::Invalid(format!(
            "{}: a name that is no plain UTF-8 cannot be given to a VMM; rename it in the store",
            shown(path)
        ))
    })
}

fn shown(path: impl Into<PathBuf>) -> String {
    crate::name::printable(path.into().as_os_str().as_bytes())
}
