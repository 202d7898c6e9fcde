//! `map`: a picture of a view's pages, or of what the views of a template own.

mod cells;
mod picture;
mod png;
mod source;
mod svg;
mod text;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::MapArgs;
use crate::commands::table::iec;
use crate::commands::target;
use crate::error::{Error, Result};
use crate::inspect::ViewReport;
use crate::overlay::PAGE;
use picture::{Picture, Room};

pub fn run(args: &MapArgs) -> Result<ExitCode> {
    let subject = match (&args.template, &args.target) {
        (Some(template), mountpoint) => of_template(template, mountpoint.as_deref())?,
        (None, Some(target)) => of_view(target, args.view.as_deref())?,
        (None, None) => return Err(Error::Invalid("name a view, or a template with --template".into())),
    };
    if let Some(path) = &args.svg {
        write(path, svg::render(&subject(svg::ROOM)).as_bytes())?;
    }
    if let Some(path) = &args.png {
        let image = png::render(&subject(png::ROOM))
            .map_err(|e| Error::io(format!("{}", path.display()), std::io::Error::from(e)))?;
        write(path, &image)?;
    }
    if args.svg.is_none() && args.png.is_none() {
        let (columns, lines) = window();
        super::print(text::render(&subject(text::room(columns, lines)), colour()).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws what was read once, for any size.
type Subject = Box<dyn Fn(Room) -> Picture>;

fn of_view(target: &Path, id: Option<&str>) -> Result<Subject> {
    let found = target::find(target, id)?;
    let pages = source::pages(&found.mountpoint, &found.view)?;
    let title = title(&found.view);
    Ok(Box::new(move |room| Picture::of_view(title.clone(), &pages, room)))
}

fn title(view: &ViewReport) -> String {
    let vm = view.vm.as_ref().map_or_else(String::new, |vm| format!(", VM {vm}"));
    format!("view {} of {} ({}{vm}): {}", view.id, view.template, view.kind, iec(view.size_bytes))
}

fn of_template(template: &str, mountpoint: Option<&Path>) -> Result<Subject> {
    let (mountpoint, views) = source::views_of(template, mountpoint)?;
    let mut owned = Vec::new();
    let mut unknown = Vec::new();
    for pages in source::pages_of_all(&mountpoint, &views)? {
        owned.push(source::owned(&pages));
        unknown.extend(pages.unknown);
    }
    let size = views.iter().map(|view| view.size_bytes.max(view.template_bytes)).max().unwrap_or(0);
    let plural = if owned.len() == 1 { "" } else { "s" };
    let title = format!("template {template}: {}, {} view{plural}", iec(size), owned.len());
    Ok(Box::new(move |room| Picture::of_template(title.clone(), size.div_ceil(PAGE), &owned, &unknown, room)))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if path == Path::new("-") {
        return super::print(bytes);
    }
    std::fs::write(path, bytes).map_err(|e| Error::io(format!("{}", path.display()), e))
}

/// COLUMNS and LINES, else the terminal's, else what any terminal has.
fn window() -> (usize, usize) {
    let terminal = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let given = |name: &str| std::env::var(name).ok()?.parse().ok();
    let size = |name, real: Option<u16>, usual| {
        given(name).or(real.map(usize::from)).filter(|size| *size > 0).unwrap_or(usual)
    };
    (
        size("COLUMNS", terminal.map(|size| size.ws_col), 80),
        size("LINES", terminal.map(|size| size.ws_row), 26),
    )
}

/// <https://no-color.org>
fn colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}
