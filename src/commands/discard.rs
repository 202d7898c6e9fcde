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
    match list.views.iter().find(|entry| entry.id == view && !view.starts_with('@')) {
        Some(entry) => Ok(mountpoint.join(format!("{}?rom=off&view={view}", entry.template))),
        None => Err(Error::NotFound(format!(
            "{}: there is no view named {view}; `templatefs views {0}` lists those of this user",
            mountpoint.display()
        ))),
    }
}
