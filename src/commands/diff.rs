//! `diff`: what of a view is not its template's.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::table::{Align, Table, iec};
use super::target::{self, Change};
use crate::cli::DiffArgs;
use crate::error::Result;

#[derive(Serialize)]
struct Report {
    schema: u32,
    mountpoint: PathBuf,
    view: String,
    template: String,
    size_bytes: u64,
    template_bytes: u64,
    ranges: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    offset: u64,
    length: u64,
    /// `data`, or `zero` for what was punched or lies beyond the template.
    kind: &'static str,
}

pub fn run(args: &DiffArgs) -> Result<ExitCode> {
    let found = target::find(&args.view, args.id.as_deref())?;
    // What is in no file of the mount yet is told to it by this.
    let view = found.open()?;
    let changes = found.changes()?;
    drop(view);
    let copied = found.view.cow_anon_bytes.unwrap_or(0) + found.view.cow_swap_bytes.unwrap_or(0);
    if copied > 0 {
        let _ = writeln!(
            std::io::stderr(),
            "templatefs: {copied} bytes are in the memory of processes that map the view privately; `templatefs map` shows \
             them"
        );
    }
    let row = |Change { bytes, is_zero }: Change| Row {
        offset: bytes.start,
        length: bytes.end - bytes.start,
        kind: if is_zero { "zero" } else { "data" },
    };
    let report = Report {
        schema: 1,
        mountpoint: found.mountpoint,
        view: found.view.id,
        template: found.view.template,
        size_bytes: found.view.size_bytes,
        template_bytes: found.view.template_bytes,
        ranges: changes.into_iter().map(row).collect(),
    };
    match args.json {
        true => super::print_json(&report)?,
        false => super::print(text(&report).as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    let mut table = Table::new([("OFFSET", Align::Right), ("LENGTH", Align::Right), ("WHAT", Align::Left)]);
    for row in &report.ranges {
        table.row([row.offset.to_string(), row.length.to_string(), row.kind.into()]);
    }
    let sum =
        |kind: &str| iec(report.ranges.iter().filter(|row| row.kind == kind).map(|row| row.length).sum());
    format!(
        "{}{} of {}: {} of data and {} of zeros in {} ranges\n",
        table.render(),
        report.view,
        report.template,
        sum("data"),
        sum("zero"),
        report.ranges.len()
    )
}
