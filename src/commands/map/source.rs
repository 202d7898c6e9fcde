//! Where the pages of a view are read: the control directory of its mount.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::picture::Pages;
use crate::commands::views;
use crate::error::{Error, Result};
use crate::inspect::ViewReport;
use crate::mount;
use crate::name::printable;
use crate::overlay::PAGE;

/// One view, on its mount.
pub struct Found {
    pub mountpoint: PathBuf,
    pub view: ViewReport,
}

/// By MOUNTPOINT and ID, by ID alone, or by the view's path on a mount.
pub fn find(target: &Path, id: Option<&str>) -> Result<Found> {
    if let Some(id) = id {
        return on_mount(target, id)?.ok_or_else(|| no_view(id, &target.display().to_string()));
    }
    let bytes = target.as_os_str().as_encoded_bytes();
    if bytes.contains(&b'/') {
        let (mountpoint, id) = by_path(target)?;
        return on_mount(&mountpoint, &id)?.ok_or_else(|| no_view(&id, &mountpoint.display().to_string()));
    }
    let id = printable(bytes);
    let mut found = Vec::new();
    for mountpoint in mounts()? {
        // A mount that is not ours to read has no view for us.
        found.extend(on_mount(&mountpoint, &id).ok().flatten());
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(no_view(&id, "any mount")),
        n => Err(Error::Invalid(format!(
            "{n} mounts have a view {id}: write `templatefs map MOUNTPOINT {id}`"
        ))),
    }
}

/// The views of a template, on the only mount there is where none is given.
pub fn views_of(template: &str, mountpoint: Option<&Path>) -> Result<(PathBuf, Vec<ViewReport>)> {
    let mountpoint = match mountpoint {
        Some(mountpoint) => mountpoint.to_owned(),
        None => {
            let mut mounts = mounts()?;
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

fn no_view(id: &str, place: &str) -> Error {
    Error::NotFound(format!("there is no view {id} on {place}; `templatefs views` lists those of this user"))
}

fn mounts() -> Result<Vec<PathBuf>> {
    Ok(mount::own_mounts()?.into_iter().map(|entry| entry.mountpoint).collect())
}

fn on_mount(mountpoint: &Path, id: &str) -> Result<Option<Found>> {
    let view = views::read(mountpoint)?.views.into_iter().find(|view| view.id == id);
    Ok(view.map(|view| Found { mountpoint: mountpoint.to_owned(), view }))
}

/// MOUNTPOINT/NAME?...view=ID, or MOUNTPOINT/.templatefs/views/ID.
fn by_path(path: &Path) -> Result<(PathBuf, String)> {
    let shown = path.display();
    let absolute = std::path::absolute(path).map_err(|e| Error::io(format!("{shown}"), e))?;
    let is_mount = |directory: &&Path| directory.join(".templatefs/version").exists();
    let Some(mountpoint) = absolute.ancestors().skip(1).find(is_mount) else {
        return Err(Error::NotFound(format!("{shown}: it is not on a mount of templatefs")));
    };
    let name = absolute.file_name().unwrap_or_default();
    if absolute.parent() == Some(&mountpoint.join(".templatefs/views")) {
        return Ok((mountpoint.to_owned(), printable(name.as_encoded_bytes())));
    }
    match view_in(name.as_encoded_bytes())? {
        Some(id) => Ok((mountpoint.to_owned(), id)),
        None => Err(Error::Invalid(format!(
            "{shown}: this path names no view; give the ID that `templatefs views` lists"
        ))),
    }
}

fn view_in(name: &[u8]) -> Result<Option<String>> {
    let request = crate::name::parse(name).map_err(|e| Error::Invalid(e.to_string()))?;
    Ok(request.query.and_then(|query| query.view).map(|view| view.to_string()))
}

/// The pages of a view. What processes have in memory may be unknown; whose pages are is not.
pub fn pages(mountpoint: &Path, view: &ViewReport) -> Result<Pages> {
    let directory = mountpoint.join(".templatefs/views").join(&view.id);
    let text = read(&directory.join("pages"))? + &read(&directory.join("resident"))?;
    Ok(parse(view, &text))
}

/// The pages of these views, from one look of the mount at all processes. One that went away since
/// the views were listed is left out.
pub fn pages_of_all(mountpoint: &Path, views: &[ViewReport]) -> Result<Vec<Pages>> {
    let text = format!("\n{}", read(&mountpoint.join(".templatefs/pages"))?);
    let sections = text.split("\nview ").filter_map(|section| section.split_once('\n'));
    let texts: HashMap<&str, &str> = sections.collect();
    Ok(views.iter().filter_map(|view| Some(parse(view, texts.get(view.id.as_str())?))).collect())
}

fn parse(view: &ViewReport, text: &str) -> Pages {
    let mut pages = Pages { pages: view.size_bytes.div_ceil(PAGE), ..Pages::default() };
    let (mut mapped, mut copied) = (Vec::new(), Vec::new());
    for (run, word) in runs(text) {
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

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(format!("{}", path.display()), e))
}

/// `FIRST COUNT WORD`, one a line; others are passed over.
fn runs(text: &str) -> impl Iterator<Item = (Range<u64>, &str)> {
    text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let first: u64 = words.next()?.parse().ok()?;
        let count: u64 = words.next()?.parse().ok()?;
        Some((first..first.checked_add(count)?, words.next()?))
    })
}

/// `unknown PID COMM`
fn unknown(line: &str) -> Option<String> {
    let (pid, comm) = line.strip_prefix("unknown ")?.split_once(' ')?;
    Some(format!("process {pid} ({comm})"))
}
