//! `verify`: are the templates of a store what their manifests say?

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::listing::list;
use super::progress::Progress;
use super::target;
use crate::cli::VerifyArgs;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest, Part};
use crate::name::printable;

/// A part that is wrong is a line on stdout, and exit code 1.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let store = target::store(&args.store)?;
    let (manifests, without) = match &args.name {
        Some(name) => {
            let found = manifest::find(&store, &target::template(name)?)?;
            let none = || {
                Error::NotFound(format!("{}: {name}: it has no manifest, and so no digest", store.display()))
            };
            (vec![found.ok_or_else(none)?], 0)
        }
        None => all(&store)?,
    };
    let mut todo = Vec::new();
    for (path, manifest) in manifests {
        let directory = path.parent().unwrap_or(&store).to_owned();
        todo.extend(manifest.parts.into_iter().map(|part| (directory.join(&part.file), part)));
    }
    let mut results = check_all(&todo)?;
    results.sort();
    let mut text = String::new();
    let wrong = results.iter().filter(|(_, why)| why.is_some()).count();
    for (path, why) in &results {
        let name = printable(path.strip_prefix(&store).unwrap_or(path).as_os_str().as_encoded_bytes());
        let _ = match why {
            Some(why) => writeln!(text, "WRONG  {name}: {why}"),
            None => writeln!(text, "ok     {name}"),
        };
    }
    let right = results.len() - wrong;
    let _ = write!(text, "{right} as they should be, {wrong} wrong");
    let _ = match without {
        0 => writeln!(text),
        n => writeln!(text, ", {n} without a manifest"),
    };
    super::print(text.as_bytes())?;
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Found = (PathBuf, Manifest);

/// All manifests, and how many templates have none.
fn all(store: &Path) -> Result<(Vec<Found>, usize)> {
    let listing = list(store)?;
    if let Some(skipped) = listing.skipped.first() {
        return Err(Error::Invalid(format!("{}: {}: it cannot be looked at", skipped.path, skipped.reason)));
    }
    let found: Vec<Found> =
        listing.manifests.into_iter().map(|(path, manifest)| (store.join(path), manifest)).collect();
    let parts = |(path, manifest): &Found| -> Vec<PathBuf> {
        manifest.parts.iter().map(|part| path.with_file_name(&part.file)).collect()
    };
    let known: std::collections::HashSet<PathBuf> = found.iter().flat_map(parts).collect();
    let without =
        listing.templates.iter().filter(|template| !known.contains(&store.join(&template.path))).count();
    Ok((found, without))
}

/// Several files at a time, and what is wrong with each.
fn check_all(todo: &[(PathBuf, Part)]) -> Result<Vec<(PathBuf, Option<String>)>> {
    let progress = Progress::new("verified", todo.iter().map(|(_, part)| part.size_bytes).sum());
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((path, part)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
            let why = check(path, part, &progress);
            results.lock().unwrap_or_else(|poison| poison.into_inner()).push((path.clone(), why));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(todo.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    progress.done();
    Ok(results.into_inner().unwrap_or_else(|poison| poison.into_inner()))
}

fn check(path: &Path, part: &Part, progress: &Progress) -> Option<String> {
    let look = || {
        let metadata = std::fs::symlink_metadata(path)?;
        if !metadata.is_file() {
            return Ok(Some("it is no file".to_owned()));
        }
        if metadata.len() != part.size_bytes {
            return Ok(Some(format!("it has {} bytes, and should have {}", metadata.len(), part.size_bytes)));
        }
        let digest = sha256(&File::open(path)?, part.size_bytes, &|bytes| progress.add(bytes))?;
        let differs = || format!("its SHA-256 is {digest}, and should be {}", part.sha256);
        Ok((digest != part.sha256).then(differs))
    };
    look().unwrap_or_else(|e: std::io::Error| Some(format!("it cannot be read: {e}")))
}
