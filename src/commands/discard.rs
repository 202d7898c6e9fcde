//! `discard`: a view with a name is removed as a file is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::DiscardArgs;
use crate::error::{Error, Result};

pub fn run(args: &DiscardArgs) -> Result<ExitCode> {
    let path = match &args.view {
        Some(view) => path_of(&args.target, view)?,
        None => args.target.clone(),
    };
    std::fs::remove_file(&path)
        .map_err(|e| Error::io(format!("{}: the view cannot be discarded", path.display()), e))?;
    Ok(ExitCode::SUCCESS)
}

fn path_of(mountpoint: &Path, view: &str) -> Result<PathBuf> {
    let list = super::views::read(mountpoint)?;
    let template = list.views.iter().find(|entry| entry.id == view).map(|entry| entry.template.clone());
    let is_aside = || list.set_aside.iter().any(|entry| entry.id == view);
    // One of which nothing is known can be removed below any name.
    let template = template.or_else(|| is_aside().then(|| format!("{view}.set-aside")));
    match template.filter(|_| !view.starts_with('@')) {
        Some(template) => Ok(mountpoint.join(format!("{template}?rom=off&view={view}"))),
        None => Err(Error::NotFound(format!(
            "{}: there is no view named {view}; `templatefs views {0}` lists those of this user",
            mountpoint.display()
        ))),
    }
}
