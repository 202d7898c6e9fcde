//! The picture as characters. Readable without colour. Pure.

use super::picture::{Cell, Mark, Picture, Room};
use crate::commands::table::iec;

/// Offset labels take this much of each line, and two spaces follow.
const LABEL: usize = 12;
/// Lines beside those of the grid: title, scale, legend and what sets them apart.
const OTHER_LINES: usize = 10;

/// What fits a window of this size.
pub fn room(columns: usize, lines: usize) -> Room {
    let columns = columns.saturating_sub(LABEL + 3).clamp(8, 512);
    // Rows of a multiple of 16 cells begin at offsets that are easy to read.
    let columns = if columns >= 16 { columns / 16 * 16 } else { columns };
    Room { columns, rows: lines.saturating_sub(OTHER_LINES).clamp(4, 256) }
}

pub fn render(picture: &Picture, colour: bool) -> String {
    let mut out = format!("{}\n{}\n\n", picture.title, picture.scale());
    for (row, cells) in picture.cells.chunks(picture.grid.columns).enumerate() {
        out.push_str(&format!("{:>LABEL$}  ", picture.offset(row)));
        draw(&mut out, cells, colour);
        out.push('\n');
    }
    out.push('\n');
    for entry in &picture.legend {
        draw(&mut out, &entry.samples, colour);
        let space = " ".repeat(4 - entry.samples.len());
        let (pages, bytes) = match entry.pages {
            Some(pages) => (pages.to_string(), iec(pages * crate::overlay::PAGE)),
            None => ("unknown".into(), "-".into()),
        };
        out.push_str(&format!("{space}  {pages:>10}  {bytes:>8}  {}\n", entry.meaning));
    }
    if !picture.notes.is_empty() {
        out.push('\n');
    }
    for note in &picture.notes {
        out.push_str(note);
        out.push('\n');
    }
    out
}

/// Equal neighbours share one colour sequence (ECMA-48 SGR).
fn draw(out: &mut String, cells: &[Cell], colour: bool) {
    let mut current = None;
    for cell in cells {
        let wanted = sgr(cell.mark);
        if colour && current != wanted {
            out.push_str(wanted.unwrap_or("\x1b[0m"));
            current = wanted;
        }
        out.push(character(cell));
    }
    if current.is_some() {
        out.push_str("\x1b[0m");
    }
}

fn character(cell: &Cell) -> char {
    let at = |ramp: [char; 4], level: u8| ramp[usize::from(level.clamp(1, 4)) - 1];
    match cell.mark {
        Mark::Template if cell.in_memory => ':',
        Mark::Template => '·',
        Mark::Private(level) | Mark::Heat(level) => at(['░', '▒', '▓', '█'], level),
        Mark::Copied(level) => at(['-', '=', '*', '#'], level),
        Mark::Punched(level) => at(['o', 'o', 'O', 'O'], level),
    }
}

fn sgr(mark: Mark) -> Option<&'static str> {
    match mark {
        Mark::Template => None,
        Mark::Private(_) => Some("\x1b[33m"),
        Mark::Copied(_) => Some("\x1b[35m"),
        Mark::Punched(_) => Some("\x1b[36m"),
        Mark::Heat(_) => Some("\x1b[31m"),
    }
}

// A run of pages is a range, and often there is one.
#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use crate::commands::map::picture::Pages;
    use proptest::prelude::*;

    fn picture(room: Room) -> Picture {
        let view = Pages {
            pages: 64,
            private: vec![0..1, 8..16],
            punched: vec![16..24],
            mapped: Some(vec![40..41]),
            copied: None,
            unknown: vec!["process 7 (qemu)".into()],
        };
        Picture::of_view("view v".into(), &view, room)
    }

    #[test]
    fn a_picture_in_characters() {
        let text = render(&picture(Room { columns: 4, rows: 2 }), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "a cell is 8 pages (32 KiB), a row 4 cells (128 KiB)");
        assert_eq!(lines[3..5], ["           0  ░█O·", "     128 KiB  ·:··"]);
        assert!(lines[9].starts_with("-=*#     unknown         -  copied"), "{text}");
        assert!(
            text.ends_with("what process 7 (qemu) has in memory is not known, and not shown\n"),
            "{text}"
        );
    }

    #[test]
    fn colour_is_all_that_colour_adds() {
        let room = Room { columns: 4, rows: 2 };
        let (plain, coloured) = (render(&picture(room), false), render(&picture(room), true));
        assert!(!plain.contains('\x1b'));
        let codes = ["\x1b[0m", "\x1b[33m", "\x1b[35m", "\x1b[36m"];
        assert_eq!(codes.iter().fold(coloured, |text, code| text.replace(code, "")), plain);
    }

    proptest! {
        #[test]
        fn it_fits_the_window(columns in 60usize..300, lines in 20usize..100) {
            let text = render(&picture(room(columns, lines)), false);
            prop_assert!(text.lines().all(|line| line.chars().count() <= columns.max(75)), "{}", text);
            // The note about the process comes on top.
            prop_assert!(text.lines().count() <= lines + 2, "{}", text);
        }
    }
}
