//! `templatefs ls`: the templates of a store, and what is in them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::LsArgs;
use crate::error::Result;
use crate::manifest::{FILE, Manifest};
use crate::name::printable;

use super::listing::{Listing, Template, list};
use super::readers::Names;
use super::table::{Align, Table, iec_short, iec_short_or_dash};
use super::target;
use super::usage::{self, Usage};

/// What could not be looked at is one line each on stderr, and exit code 1, after the list.
pub fn run(args: &LsArgs) -> Result<ExitCode> {
    let listing = list(&args.path)?;
    let usage = target::store(&args.path).and_then(|store| usage::of_store(&store, &[])).ok();
    let report = Report::new(&listing, usage.filter(|usage| usage.places > 0).as_ref());
    if args.json {
        super::print_json(&report)?;
    } else {
        super::print(text(&report).as_bytes())?;
    }
    for skipped in &listing.skipped {
        let _ = writeln!(std::io::stderr(), "templatefs: {}: {}", skipped.path, skipped.reason);
    }
    Ok(if listing.skipped.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The JSON form. Sizes in bytes; null is unknown.
#[derive(serde::Serialize)]
struct Report {
    schema: u32,
    templates: Vec<Row>,
    sets: Vec<Set>,
    #[serde(skip)]
    total: Total,
}

/// Each file once, under however many names it is listed.
#[derive(Default)]
struct Total {
    size: u64,
    data: u64,
    disk: u64,
    unknown: usize,
}

#[derive(serde::Serialize)]
struct Row {
    /// As it is written in a path, printable.
    name: String,
    size_bytes: u64,
    data_bytes: Option<u64>,
    hole_bytes: Option<u64>,
    /// What its filesystem keeps for it.
    disk_bytes: u64,
    /// Views of it that this user sees; null where no mount of the store is known.
    views: Option<u64>,
    /// Octal permission bits.
    mode: String,
    uid: u32,
    gid: u32,
    readable_by: String,
}

/// Templates that belong together.
#[derive(serde::Serialize)]
struct Set {
    name: String,
    /// Names of files in it.
    parts: Vec<String>,
    created: u64,
    notes: Option<String>,
}

impl Report {
    fn new(listing: &Listing, usage: Option<&Usage>) -> Self {
        let mut names = Names::default();
        let row = |template| Row::new(template, &mut names, usage);
        let templates = listing.templates.iter().map(row).collect();
        let sets = listing.manifests.iter().filter_map(|(path, manifest)| Set::new(path, manifest)).collect();
        Self { schema: 1, templates, sets, total: Total::new(&listing.templates) }
    }
}

impl Set {
    /// None for the manifest of one file.
    fn new(path: &Path, manifest: &Manifest) -> Option<Self> {
        let directory = path.parent().filter(|_| path.file_name() == Some(OsStr::new(FILE)))?;
        Some(Self {
            name: target::written(directory),
            parts: manifest.parts.iter().map(|part| printable(part.file.as_bytes())).collect(),
            created: manifest.created,
            notes: manifest.notes.clone(),
        })
    }
}

impl Total {
    fn new(templates: &[Template]) -> Self {
        let mut seen = HashSet::new();
        let mut total = Self::default();
        for template in templates.iter().filter(|template| seen.insert(template.file)) {
            total.size = total.size.saturating_add(template.size);
            total.disk = total.disk.saturating_add(template.disk);
            match template.data {
                Some(data) => {
                    total.data = total.data.saturating_add(data);
                }
                None => total.unknown += 1,
            }
        }
        total
    }
}

impl Row {
    fn new(template: &Template, names: &mut Names, usage: Option<&Usage>) -> Self {
        let name = printable(&template.name);
        Self {
            views: usage.map(|usage| usage.of(&name).count() as u64),
            disk_bytes: template.disk,
            name,
            size_bytes: template.size,
            data_bytes: template.data,
            hole_bytes: template.data.map(|data| template.size - data),
            mode: format!("{:04o}", template.mode),
            uid: template.uid,
            gid: template.gid,
            readable_by: names.readable_by(template.mode, template.uid, template.gid),
        }
    }
}

fn text(report: &Report) -> String {
    let mut table = Table::new([
        ("SIZE", Align::Right),
        ("DATA", Align::Right),
        ("DISK", Align::Right),
        ("VIEWS", Align::Right),
        ("READABLE BY", Align::Left),
        ("NAME", Align::Left),
    ]);
    for row in &report.templates {
        table.row([
            iec_short(row.size_bytes),
            iec_short_or_dash(row.data_bytes),
            iec_short(row.disk_bytes),
            row.views.map_or_else(|| "-".to_owned(), |views| views.to_string()),
            row.readable_by.clone(),
            row.name.clone(),
        ]);
    }
    let Total { size, data, disk, unknown } = report.total;
    let count = count(report.templates.len(), report.sets.len(), unknown);
    let nothing = String::new();
    table.row([iec_short(size), iec_short(data), iec_short(disk), nothing, "total".to_owned(), count]);
    table.render()
}

fn count(templates: usize, sets: usize, unknown: usize) -> String {
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let unknown = if unknown == 0 { String::new() } else { format!(", {unknown} with data unknown") };
    let sets = if sets == 0 { String::new() } else { format!(", {sets} set{}", plural(sets)) };
    format!("{templates} template{}{sets}{unknown}", plural(templates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(names: &[&str]) -> Report {
        let template = |(inode, name): (usize, &&str)| Template {
            name: name.as_bytes().to_vec(),
            path: name.into(),
            disk: 4096,
            size: 1023 << 50,
            data: (*name != "secret").then_some(1023 << 40),
            mode: 0o400,
            uid: 4_000_000_001,
            gid: 0,
            file: (0, inode as u64),
        };
        let templates = names.iter().enumerate().map(template).collect();
        Report::new(&Listing { templates, ..Listing::default() }, None)
    }

    #[test]
    fn the_table_fits_100_columns() {
        let text = text(&report(&[&"n".repeat(50), "secret"]));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn unknown_is_not_zero() {
        let report = report(&["a", "secret"]);
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["templates"][1]["data_bytes"].is_null() && json["templates"][1]["hole_bytes"].is_null());
        let text = text(&report);
        assert!(text.lines().nth(2).unwrap().contains("  -  "), "{text}");
        assert!(text.ends_with("total            2 templates, 1 with data unknown\n"), "{text}");
    }
}
