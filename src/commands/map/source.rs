//! Where the pages of a view are read: the control directory of its mount.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::picture::Pages;
use crate::commands::{target, views};
use crate::error::{Error, Result};
use crate::inspect::ViewReport;
use crate::overlay::PAGE;

/// The views of a template, on the only mount there is where none is given.
pub fn views_of(template: &str, mountpoint: Option<&Path>) -> Result<(PathBuf, Vec<ViewReport>)> {
    let mountpoint = match mountpoint {
        Some(mountpoint) => mountpoint.to_owned(),
        None => {
            let mut mounts = target::mounts()?;
            match mounts.len() {
                1 => mounts.remove(0),
                0 => return Err(Error::NotFound("no templatefs is mounted".into())),
                _ => {
                    return Err(Error::Invalid(
                        "there is more than one mount: say which, after the template".into(),
                    ));
                }
            }
        }
    };
    let mut views = views::read(&mountpoint)?.views;
    views.retain(|view| view.template == template && view.kind != "template");
    if views.is_empty() {
        let shown = mountpoint.display();
        return Err(Error::NotFound(format!(
            "{shown}: no view of a template {template}; `templatefs views {shown}` lists the views of this user"
        )));
    }
    Ok((mountpoint, views))
}

/// The pages of a view. What processes have in memory may be unknown; whose pages are is not.
pub fn pages(mountpoint: &Path, view: &ViewReport) -> Result<Pages> {
    let directory = mountpoint.join(".templatefs/views").join(&view.id);
    let text = target::read(&directory.join("pages"))? + &target::read(&directory.join("resident"))?;
    Ok(parse(view, &text))
}

/// The pages of these views, from one look of the mount at all processes. One that went away since
/// the views were listed is left out.
pub fn pages_of_all(mountpoint: &Path, views: &[ViewReport]) -> Result<Vec<Pages>> {
    let text = format!("\n{}", target::read(&mountpoint.join(".templatefs/pages"))?);
    let sections = text.split("\nview ").filter_map(|section| section.split_once('\n'));
    let texts: HashMap<&str, &str> = sections.collect();
    Ok(views.iter().filter_map(|view| Some(parse(view, texts.get(view.id.as_str())?))).collect())
}

fn parse(view: &ViewReport, text: &str) -> Pages {
    let mut pages = Pages { pages: view.size_bytes.div_ceil(PAGE), ..Pages::default() };
    let (mut mapped, mut copied) = (Vec::new(), Vec::new());
    for (run, word) in target::runs(text) {
        match word {
            "private" => pages.private.push(run),
            "zero" => pages.punched.push(run),
            "mapped" => mapped.push(run),
            "copied" | "swapped" => copied.push(run),
            _ => {}
        }
    }
    pages.unknown = text.lines().filter_map(unknown).collect();
    // Where none could be looked at, nothing is known; a number would be read as one.
    if pages.unknown.is_empty() || !mapped.is_empty() || !copied.is_empty() {
        pages.mapped = Some(mapped);
        pages.copied = Some(union(copied));
    }
    pages
}

/// What a view keeps that is not the template's, in the state directory or in its processes.
pub fn owned(pages: &Pages) -> Vec<Range<u64>> {
    union([pages.private.as_slice(), pages.copied.as_deref().unwrap_or_default()].concat())
}

fn union(runs: Vec<Range<u64>>) -> Vec<Range<u64>> {
    crate::inspect::union(runs)
}

/// `unknown PID COMM`
fn unknown(line: &str) -> Option<String> {
    let (pid, comm) = line.strip_prefix("unknown ")?.split_once(' ')?;
    Some(format!("process {pid} ({comm})"))
}
