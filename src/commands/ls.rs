//! `templatefs ls`: the templates of a store, and what is in them.

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;

use crate::cli::LsArgs;
use crate::error::Result;
use crate::name::printable;

use super::listing::{Listing, Template, list};
use super::readers::Names;
use super::table::{Align, Table, iec, iec_or_dash};

/// What could not be looked at is one line each on stderr, and exit code 1, after the list.
pub fn run(args: &LsArgs) -> Result<ExitCode> {
    let listing = list(&args.path)?;
    let report = Report::new(&listing);
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
    #[serde(skip)]
    total: Total,
}

/// Each file once, under however many names it is listed.
#[derive(Default)]
struct Total {
    size: u64,
    data: u64,
    holes: u64,
    unknown: usize,
}

#[derive(serde::Serialize)]
struct Row {
    /// As it is written in a path, printable.
    name: String,
    size_bytes: u64,
    data_bytes: Option<u64>,
    hole_bytes: Option<u64>,
    /// Octal permission bits.
    mode: String,
    uid: u32,
    gid: u32,
    readable_by: String,
}

impl Report {
    fn new(listing: &Listing) -> Self {
        let mut names = Names::default();
        let templates = listing.templates.iter().map(|template| Row::new(template, &mut names)).collect();
        Self { schema: 1, templates, total: Total::new(&listing.templates) }
    }
}

impl Total {
    fn new(templates: &[Template]) -> Self {
        let mut seen = HashSet::new();
        let mut total = Self::default();
        for template in templates.iter().filter(|template| seen.insert(template.file)) {
            total.size = total.size.saturating_add(template.size);
            match template.data {
                Some(data) => {
                    total.data = total.data.saturating_add(data);
                    total.holes = total.holes.saturating_add(template.size - data);
                }
                None => total.unknown += 1,
            }
        }
        total
    }
}

impl Row {
    fn new(template: &Template, names: &mut Names) -> Self {
        Self {
            name: printable(&template.name),
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
        ("HOLES", Align::Right),
        ("READABLE BY", Align::Left),
        ("NAME", Align::Left),
    ]);
    for row in &report.templates {
        table.row([
            iec(row.size_bytes),
            iec_or_dash(row.data_bytes),
            iec_or_dash(row.hole_bytes),
            row.readable_by.clone(),
            row.name.clone(),
        ]);
    }
    let Total { size, data, holes, unknown } = report.total;
    let count = count(report.templates.len(), unknown);
    table.row([iec(size), iec(data), iec(holes), "total".to_owned(), count]);
    table.render()
}

fn count(templates: usize, unknown: usize) -> String {
    let plural = if templates == 1 { "" } else { "s" };
    let unknown = if unknown == 0 { String::new() } else { format!(", {unknown} with data unknown") };
    format!("{templates} template{plural}{unknown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(names: &[&str]) -> Report {
        let template = |(inode, name): (usize, &&str)| Template {
            name: name.as_bytes().to_vec(),
            size: 1023 << 50,
            data: (*name != "secret").then_some(1023 << 40),
            mode: 0o400,
            uid: 4_000_000_001,
            gid: 0,
            file: (0, inode as u64),
        };
        let templates = names.iter().enumerate().map(template).collect();
        Report::new(&Listing { templates, skipped: Vec::new() })
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
