//! What a person names: templates, stores and views.

use std::ffi::OsString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::views;
use crate::error::{Error, Result};
use crate::inspect::{OpenFiles, ViewReport};
use crate::manifest::{self, Lineage};
use crate::mount;
use crate::name::{self, printable};
use crate::overlay::PAGE;
use crate::sys;

/// A template's path in its store, from how it is written in a path of a mount.
pub fn template(written: &str) -> Result<PathBuf> {
    let mut own = PathBuf::new();
    for part in written.split('/') {
        let request =
            name::parse(part.as_bytes()).map_err(|why| Error::Invalid(format!("{written}: {why}")))?;
        if request.query.is_some() {
            return Err(Error::Invalid(format!("{written}: name a template, without a query")));
        }
        own.push(OsString::from_vec(request.base));
    }
    Ok(own)
}

/// The inverse: how a template's path in its store is written in a path of a mount.
pub fn written(own: &Path) -> String {
    name::written(own.as_os_str().as_bytes())
}

/// The store itself: what is mounted there, or the directory.
pub fn store(store_or_mount: &Path) -> Result<PathBuf> {
    let shown = store_or_mount.display();
    let real = store_or_mount.canonicalize().map_err(|e| Error::io(format!("{shown}"), e))?;
    let mounts = mount::own_mounts()?;
    let here = mounts.into_iter().rev().find(|entry| entry.mountpoint == real);
    match here {
        Some(entry) => Ok(entry.source),
        None if mount::own_mounts()?.iter().any(|entry| real.starts_with(&entry.mountpoint)) => {
            Err(Error::Invalid(format!("{shown}: name the store or the mountpoint, not what is below it")))
        }
        None => Ok(real),
    }
}

/// The mounts of this store.
pub fn mounts_of(store: &Path) -> Result<Vec<PathBuf>> {
    let of_store = |entry: &mount::MountEntry| is_same(&entry.source, store);
    Ok(mount::own_mounts()?.into_iter().filter(of_store).map(|entry| entry.mountpoint).collect())
}

pub fn is_same(one: &Path, other: &Path) -> bool {
    let key = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    key(one).is_some() && key(one) == key(other)
}

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
        n => Err(Error::Invalid(format!("{n} mounts have a view {id}: give the mountpoint before it"))),
    }
}

/// `[ID] WORD`
pub fn split(words: &[String]) -> (Option<&str>, &str) {
    match words {
        [id, word] => (Some(id), word),
        _ => (None, words.first().map_or("", String::as_str)),
    }
}

/// Bytes of a view that are not the template's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub bytes: Range<u64>,
    /// Zeros, and no page of the view.
    pub is_zero: bool,
}

fn changes<'a>(runs: impl Iterator<Item = (Range<u64>, &'a str)>, view: &ViewReport) -> Vec<Change> {
    let mut found: Vec<Change> = Vec::new();
    let mut add = |pages: Range<u64>, is_zero: bool| {
        let bytes = pages.start * PAGE..(pages.end * PAGE).min(view.size_bytes);
        match found.last_mut() {
            _ if bytes.is_empty() => {}
            Some(last) if last.is_zero == is_zero && last.bytes.end == bytes.start => {
                last.bytes.end = bytes.end
            }
            _ => found.push(Change { bytes, is_zero }),
        }
    };
    // In the page that the template shows in part the rest is zeros, which only the view itself shows.
    let whole = view.shown_bytes / PAGE;
    let partly = match view.shown_bytes < view.template_bytes {
        true => view.shown_bytes.div_ceil(PAGE),
        false => whole,
    };
    let beyond = partly.max(view.shown_bytes.div_ceil(PAGE));
    for (pages, word) in runs {
        match word {
            "template" => {
                let clamp = |from: u64, to: u64| pages.start.clamp(from, to)..pages.end.clamp(from, to);
                add(clamp(whole, partly), false);
                add(clamp(beyond, u64::MAX), true);
            }
            word => add(pages, word == "zero"),
        }
    }
    found
}

impl Found {
    /// The store of its mount.
    pub fn store(&self) -> Result<PathBuf> {
        store(&self.mountpoint)
    }

    /// Its content, all that was stored to its mappings with it.
    pub fn open(&self) -> Result<File> {
        let shown = format!("view {} on {}", self.view.id, self.mountpoint.display());
        let file = match self.view.id.strip_prefix('@') {
            None => File::open(self.path()).map_err(|e| Error::io(shown.clone(), e))?,
            Some(node) => self.open_unnamed(node.parse().unwrap_or_default()).ok_or_else(|| {
                Error::NotFound(format!(
                    "{shown}: it cannot be opened: it has no name, and its template was replaced, or this user does not see \
                     who has it open"
                ))
            })?,
        };
        // The kernel writes back what it has of the view: then the mount knows all of its pages.
        file.sync_all().map_err(|e| Error::io(shown, e))?;
        Ok(file)
    }

    /// Where a view with a name is opened.
    fn path(&self) -> PathBuf {
        self.mountpoint.join(format!("{}?rom=off&view={}", self.view.template, self.view.id))
    }

    /// No path leads there: root finds it by its node, its user through who has it open.
    fn open_unnamed(&self, node: u64) -> Option<File> {
        let device = mount::device_of(&self.mountpoint).ok()?;
        let mut files = OpenFiles::default();
        let by_node = || sys::open_node(File::open(&self.mountpoint).ok()?, node, OFlags::RDONLY).ok();
        let by_process =
            || self.view.processes.iter().find_map(|process| files.open_as(process.pid, device, node));
        by_node().or_else(by_process)
    }

    /// What of it is not the template's, as its mount knows once it is open and written back: see [`Self::open`].
    pub fn changes(&self) -> Result<Vec<Change>> {
        let text = read(&self.mountpoint.join(".templatefs/views").join(&self.view.id).join("pages"))?;
        Ok(changes(runs(&text), &self.view))
    }

    /// The file of its template in the store.
    pub fn template(&self) -> Result<PathBuf> {
        template(&self.view.template)
    }

    /// What a template that is made of it was made from.
    pub fn lineage(&self) -> Result<Lineage> {
        let path = self.template()?;
        let manifest = manifest::find(&self.store()?, &path).ok().flatten();
        let own = path.file_name().unwrap_or_default().to_string_lossy();
        let part = manifest.as_ref().and_then(|(_, manifest)| manifest.part(&own));
        Ok(Lineage {
            template: self.view.template.clone(),
            sha256: part.map(|part| part.sha256.clone()),
            view: Some(self.view.id.clone()).filter(|id| !id.starts_with('@')),
        })
    }

    /// What private mappings copied is in the memory of their processes, and nowhere else.
    pub fn refuse_copies(&self) -> Result<()> {
        let view = &self.view;
        let copied = view.cow_anon_bytes.unwrap_or(0) + view.cow_swap_bytes.unwrap_or(0);
        if view.kind != "private" {
            return Err(Error::Invalid(format!(
                "view {}: it is {}, and no private view",
                view.id, view.kind
            )));
        }
        if copied == 0 {
            return Ok(());
        }
        let who: Vec<String> =
            view.processes.iter().map(|process| format!("{} {}", process.comm, process.pid)).collect();
        Err(Error::Unsupported(format!(
            "view {}: {copied} bytes of it are in the memory of {} alone, which maps it privately; only a VM that maps its \
             view with share=on can be committed, forked or exported",
            view.id,
            who.join(", ")
        )))
    }
}

fn no_view(id: &str, place: &str) -> Error {
    Error::NotFound(format!("there is no view {id} on {place}; `templatefs views` lists those of this user"))
}

pub fn mounts() -> Result<Vec<PathBuf>> {
    Ok(mount::own_mounts()?.into_iter().map(|entry| entry.mountpoint).collect())
}

pub fn on_mount(mountpoint: &Path, id: &str) -> Result<Option<Found>> {
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

pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(format!("{}", path.display()), e))
}

/// `FIRST COUNT WORD`, one a line; others are passed over.
pub fn runs(text: &str) -> impl Iterator<Item = (Range<u64>, &str)> {
    text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let first: u64 = words.next()?.parse().ok()?;
        let count: u64 = words.next()?.parse().ok()?;
        Some((first..first.checked_add(count)?, words.next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_view_shows_beyond_its_template_is_a_change() {
        let changes_of = |text: &str, size_bytes: u64, shown_bytes: u64, template_bytes: u64| -> Vec<_> {
            let report = serde_json::json!({
                "id": "v", "template": "t", "vm": null, "kind": "private", "backing": "overlay", "backing_reason": null,
                "uid": 0, "size_bytes": size_bytes, "template_bytes": template_bytes, "shown_bytes": shown_bytes,
                "data_bytes": null, "private_bytes": 0, "zero_bytes": 0, "cow_anon_bytes": null, "cow_swap_bytes": null,
                "cached_bytes": null, "dirty_bytes": null, "shared_clean_bytes": null, "cost_bytes": null,
                "saved_bytes": null, "opens": 0, "opens_total": 0, "reads_total": 0, "read_bytes_total": 0,
                "writes_total": 0, "write_bytes_total": 0, "faults_served_total": 0, "prefetched_pages_total": 0,
                "errors_total": 0, "age_seconds": 0.0, "opener": null, "processes": []
            });
            let view: ViewReport = serde_json::from_value(report).unwrap();
            let changes = changes(runs(text), &view).into_iter();
            changes.map(|change| (change.bytes.start, change.bytes.end, change.is_zero)).collect()
        };
        // As it was made: a last page that is not whole is the template's too.
        assert_eq!(changes_of("0 3 template\n", 10_000, 10_000, 10_000), []);
        let text = "0 1 template\n1 1 private\n2 1 zero\n3 1 template\n";
        assert_eq!(changes_of(text, 15_000, 15_000, 15_000), [(4096, 8192, false), (8192, 12288, true)]);
        // Longer than the template; cut within a page and made longer again.
        assert_eq!(changes_of("0 4 template\n", 16384, 10_000, 10_000), [(12288, 16384, true)]);
        let cut = [(4096, 8192, false), (8192, 16384, true)];
        assert_eq!(changes_of("0 4 template\n", 16384, 5000, 16384), cut);
        assert_eq!(
            changes_of("0 2 template\n2 2 private\n", 16384, 0, 16384),
            [(0, 8192, true), (8192, 16384, false)]
        );
        assert_eq!(changes_of("0 2 template\n", 5000, 5000, 16384), [(4096, 5000, false)]);
    }

    #[test]
    fn a_template_is_named_as_in_a_path() {
        assert_eq!(template("debian/a%3Fb.ram").unwrap(), PathBuf::from("debian/a?b.ram"));
        assert_eq!(written(Path::new("debian/a?b.ram")), "debian/a%3Fb.ram");
        for wrong in ["a?rom=off", "../a", "a//b", "", "a%41", "/a", "a/"] {
            assert!(template(wrong).is_err(), "{wrong}");
        }
    }
}
