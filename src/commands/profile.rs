//! `profile`: what was learned of templates, shown, exported, imported and cleared.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::table::{Align, Table, iec_short};
use super::target;
use crate::cli::ProfileArgs;
use crate::error::{Error, Result};
use crate::profile::{self, MAX_FILE, Profile, ProfileList, ProfileReport};

pub fn run(args: &ProfileArgs) -> Result<ExitCode> {
    let control = args.mountpoint.join(".templatefs");
    if let (Some(file), Some(template)) = (&args.import, &args.template) {
        import(&args.mountpoint, template, file)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut list = read(&args.mountpoint)?;
    list.profiles.retain(|profile| args.template.as_ref().is_none_or(|name| profile.template == *name));
    let paths = || list.profiles.iter().map(|profile| control.join("profiles").join(&profile.key));
    if list.profiles.is_empty()
        && let Some(template) = &args.template
    {
        return Err(Error::NotFound(format!(
            "{template}: nothing was learned of it; `templatefs profile {}` lists what was",
            args.mountpoint.display()
        )));
    }
    if args.clear {
        for path in paths() {
            std::fs::remove_file(&path).map_err(|e| Error::io(path.display().to_string(), e))?;
        }
    } else if let Some(file) = &args.export {
        // Of a template that was replaced there may be two: the one that was taught last.
        let last = list.profiles.iter().max_by_key(|profile| profile.updated);
        let path = last.map(|profile| control.join("profiles").join(&profile.key)).unwrap_or_default();
        let bytes = std::fs::read(&path).map_err(|e| Error::io(path.display().to_string(), e))?;
        std::fs::write(file, bytes).map_err(|e| Error::io(file.display().to_string(), e))?;
    } else if args.json {
        super::print_json(&list)?;
    } else {
        super::print(table(&list.profiles).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(mountpoint: &Path) -> Result<ProfileList> {
    let path = mountpoint.join(".templatefs/profiles.json");
    let text = std::fs::read(&path).map_err(|e| {
        let why = match e.kind() {
            io::ErrorKind::PermissionDenied => "only root and who mounted it may see what was learned",
            _ => "no templatefs is mounted there, or it does not answer",
        };
        Error::io(format!("{}: {why}", mountpoint.display()), e)
    })?;
    serde_json::from_slice(&text).map_err(|e| Error::io(path.display().to_string(), io::Error::from(e)))
}

fn table(profiles: &[ProfileReport]) -> String {
    let mut table = Table::new([
        ("PAGES", Align::Right),
        ("BYTES", Align::Right),
        ("OF", Align::Right),
        ("VIEWS", Align::Right),
        ("READY", Align::Right),
        ("TEMPLATE", Align::Left),
    ]);
    for profile in profiles {
        table.row([
            profile.pages.to_string(),
            iec_short(profile.bytes),
            iec_short(profile.template_bytes),
            profile.views_total.to_string(),
            profile.ready.to_string(),
            profile.template.clone(),
        ]);
    }
    table.render()
}

/// The mount keeps it for the file that TEMPLATE is now.
fn import(mountpoint: &Path, template: &str, file: &Path) -> Result<()> {
    let shown = file.display();
    let bytes = read_bounded(file).map_err(|e| Error::io(shown.to_string(), e))?;
    let other = profile::decode(&bytes).map_err(|why| {
        Error::Invalid(format!("{shown}: {why}; a profile is written by `templatefs profile --export`"))
    })?;
    let path = mountpoint.join(template);
    let size = std::fs::metadata(&path).map_err(|e| Error::io(path.display().to_string(), e))?.len();
    if size != other.identity.size {
        return Err(Error::Invalid(format!(
            "{shown}: it is of a template of {} bytes, and {} has {size}: import it for a template that is the same",
            other.identity.size,
            path.display()
        )));
    }
    let profile =
        Profile { template: target::template(template)?.into_os_string().into_encoded_bytes(), ..other };
    let import = mountpoint.join(".templatefs/profiles/import");
    let send = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&import)?;
        file.write_all(&profile::encode(&profile)?)?;
        file.sync_all()
    };
    send().map_err(|e| Error::io(format!("{}: the mount's log says why", import.display()), e))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    match file.metadata()?.len() {
        length if length > MAX_FILE => Err(io::Error::other("it is too long for a profile")),
        _ => std::fs::read(path),
    }
}
