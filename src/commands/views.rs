//! `views`: what a mount's control directory says of its views, as a table or as it is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::table::{Align, Table, iec};
use crate::cli::ViewsArgs;
use crate::engine::{ViewEntry, ViewList};
use crate::error::{Error, Result};
use crate::mount;

#[derive(Serialize)]
struct Listed {
    mountpoint: String,
    #[serde(flatten)]
    view: ViewEntry,
}

#[derive(Serialize)]
struct Output {
    schema: u32,
    views: Vec<Listed>,
}

pub fn run(args: &ViewsArgs) -> Result<ExitCode> {
    let mounts: Vec<PathBuf> = match &args.mountpoint {
        Some(path) => vec![path.clone()],
        None => mount::own_mounts()?.into_iter().map(|entry| entry.mountpoint).collect(),
    };
    let mut views = Vec::new();
    for mountpoint in &mounts {
        let read = read(mountpoint);
        // Asked for all of them, one that is not ours to read is left out.
        if args.mountpoint.is_none() && read.is_err() {
            continue;
        }
        let shown = mountpoint.display().to_string();
        views.extend(read?.views.into_iter().map(|view| Listed { mountpoint: shown.clone(), view }));
    }
    if args.json {
        super::print_json(&Output { schema: 1, views })?;
    } else {
        super::print(table(&views).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The views that the caller may see on a mount.
pub fn read(mountpoint: &Path) -> Result<ViewList> {
    let path = mountpoint.join(".templatefs/views.json");
    let text = std::fs::read(&path).map_err(|e| {
        Error::io(
            format!("{}: no templatefs is mounted there, or it does not answer", mountpoint.display()),
            e,
        )
    })?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::io(format!("{}", path.display()), std::io::Error::from(e)))
}

fn table(views: &[Listed]) -> String {
    let mut table = Table::new([
        ("VIEW", Align::Left),
        ("VM", Align::Left),
        ("KIND", Align::Left),
        ("SIZE", Align::Right),
        ("PRIVATE", Align::Right),
        ("OPENERS", Align::Left),
        ("TEMPLATE", Align::Left),
    ]);
    for Listed { view, .. } in views {
        let mut openers: Vec<String> = view.openers.iter().map(|o| format!("{}:{}", o.comm, o.pid)).collect();
        openers.dedup();
        let more = openers.len().saturating_sub(2);
        openers.truncate(2);
        let mut openers = if openers.is_empty() { "-".into() } else { openers.join(" ") };
        if more > 0 {
            openers.push_str(&format!(" +{more}"));
        }
        let private = if view.kind == "private" { iec(view.private_bytes) } else { "-".into() };
        let vm = view.vm.as_ref().map_or_else(|| "-".into(), ToString::to_string);
        let (id, kind, size) = (view.id.clone(), view.kind.clone(), iec(view.size_bytes));
        table.row([id, vm, kind, size, private, openers, view.template.clone()]);
    }
    table.render()
}
