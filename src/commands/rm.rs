//! `rm`: a template leaves its store, unless somebody lives on it.

use std::path::Path;
use std::process::ExitCode;

use super::{target, usage};
use crate::cli::RmArgs;
use crate::error::{Error, Result};
use crate::manifest;
use crate::publish::Draft;

pub fn run(args: &RmArgs) -> Result<ExitCode> {
    let store = target::store(&args.store)?;
    let name = target::template(&args.name)?;
    let refuse = || refuse_used(&store, &args.name, &args.state_dir);
    refuse_other_directories(&store, &name)?;
    refuse()?;
    let draft = Draft::of(&store, &name)?;
    draft.take_away()?;
    // Nobody can make a view of it any more; somebody may have, since it was asked.
    if let Err(used) = refuse() {
        draft.put_back()?;
        return Err(used);
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse_used(store: &Path, name: &str, states: &[std::path::PathBuf]) -> Result<()> {
    let all = usage::of_store(store, states)?;
    let views: Vec<_> = all.of(name).collect();
    let Some(first) = views.first() else { return Ok(()) };
    let others = match views.len() {
        1 => String::new(),
        n => format!(" and {} others", n - 1),
    };
    Err(Error::InUse(format!(
        "{}: view {}{others} of it is there ({}): discard it, or end who uses it, first",
        store.join(name).display(),
        first.view,
        first.place
    )))
}

/// A directory that is no set may hold any number of templates.
fn refuse_other_directories(store: &Path, name: &Path) -> Result<()> {
    let path = store.join(name);
    let is_directory = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
    if !is_directory || path.join(manifest::FILE).exists() {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{}: it is a directory and no set (it has no {}): remove the templates in it one by one",
        path.display(),
        manifest::FILE
    )))
}
