//! The picture as SVG: equal neighbours are one rectangle, so that its size is bounded by the grid
//! and not by the view. Pure.

use std::fmt::Write;

use super::picture::{Cell, Mark, Picture, Room};
use crate::commands::table::iec;
use crate::overlay::PAGE;

/// 8,192 cells at most: about 600 KB where no two neighbours are equal.
pub const ROOM: Room = Room { columns: 128, rows: 64 };
/// Side of a cell, and height of the bar that says that it is in memory.
const CELL: usize = 8;
const BAR: usize = 2;
const LEFT: usize = 96;
const TOP: usize = 52;
const LINE: usize = 18;
const MARGIN: usize = 16;
/// A label of an offset each so many rows.
const LABEL_EVERY: usize = 4;
/// The legend's text needs that much.
const LEAST_WIDTH: usize = 820;

pub const BAR_COLOUR: [u8; 3] = [0x37, 0x41, 0x51];

/// Light to dark, so that levels can be told apart in grey too.
pub fn colour(mark: Mark) -> [u8; 3] {
    let at = |ramp: [u32; 4], level: u8| {
        let [_, r, g, b] = ramp[usize::from(level.clamp(1, 4)) - 1].to_be_bytes();
        [r, g, b]
    };
    match mark {
        Mark::Template => [0xe8, 0xea, 0xed],
        Mark::Private(level) => at([0xfdd9b5, 0xf9a65a, 0xe06c10, 0x9a3f00], level),
        Mark::Copied(level) => at([0xdccbee, 0xb894dc, 0x8a55c0, 0x55258c], level),
        Mark::Punched(level) => at([0xb2e3df, 0x6cc5bd, 0x2f9d94, 0x0c6b64], level),
        Mark::Heat(level) => at([0xffe08a, 0xfdae3c, 0xe8431f, 0x800026], level),
    }
}

pub fn render(picture: &Picture) -> String {
    let grid_height = picture.grid.rows() * CELL;
    let below = TOP + grid_height + MARGIN;
    let height = below + (picture.legend.len() + picture.notes.len() + 1) * LINE + MARGIN;
    let width = (LEFT + picture.grid.columns * CELL + MARGIN).max(LEAST_WIDTH);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"monospace\" font-size=\"12\">\n\
         <title>{title}</title>\n<desc>{scale}</desc>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        title = escape(&picture.title),
        scale = escape(&picture.scale()),
    );
    text(&mut out, MARGIN, 22, &picture.title);
    text(&mut out, MARGIN, 40, &picture.scale());
    let _ = writeln!(out, "<g id=\"cells\" shape-rendering=\"crispEdges\">");
    for (row, cells) in picture.cells.chunks(picture.grid.columns).enumerate() {
        draw(&mut out, cells, LEFT, TOP + row * CELL);
    }
    let _ = writeln!(out, "</g>\n<g fill=\"#4b5563\" text-anchor=\"end\">");
    for row in (0..picture.grid.rows()).step_by(LABEL_EVERY) {
        text(&mut out, LEFT - 8, TOP + row * CELL + CELL, &picture.offset(row));
    }
    let _ = writeln!(out, "</g>\n<g id=\"legend\">");
    let mut y = below;
    for entry in &picture.legend {
        draw(&mut out, &entry.samples, LEFT, y);
        let pages = match entry.pages {
            Some(pages) => format!("{pages:>10} pages {:>9}  {}", iec(pages * PAGE), entry.meaning),
            None => format!("   unknown {:>15}  {}", "", entry.meaning),
        };
        text(&mut out, LEFT + 5 * CELL, y + CELL, &pages);
        y += LINE;
    }
    for note in &picture.notes {
        y += LINE;
        text(&mut out, LEFT, y, note);
    }
    out.push_str("</g>\n</svg>\n");
    out
}

/// One row of cells, and the bars of those that are in memory.
fn draw(out: &mut String, cells: &[Cell], left: usize, top: usize) {
    runs(
        cells,
        |cell| Some(colour(cell.mark)),
        |from, count, colour| {
            rect(out, left + from * CELL, top, count * CELL, CELL, colour);
        },
    );
    runs(
        cells,
        |cell| cell.in_memory.then_some(BAR_COLOUR),
        |from, count, colour| {
            rect(out, left + from * CELL, top + CELL - BAR, count * CELL, BAR, colour);
        },
    );
}

fn runs(
    cells: &[Cell],
    key: impl Fn(&Cell) -> Option<[u8; 3]>,
    mut found: impl FnMut(usize, usize, [u8; 3]),
) {
    let mut from = 0;
    for run in cells.chunk_by(|a, b| key(a) == key(b)) {
        if let Some(colour) = key(&run[0]) {
            found(from, run.len(), colour);
        }
        from += run.len();
    }
}

fn rect(out: &mut String, x: usize, y: usize, width: usize, height: usize, [r, g, b]: [u8; 3]) {
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"#{r:02x}{g:02x}{b:02x}\"/>"
    );
}

fn text(out: &mut String, x: usize, y: usize, text: &str) {
    let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" xml:space=\"preserve\">{}</text>", escape(text));
}

/// Control characters are no XML, escaped or not.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::map::picture::Pages;

    #[test]
    fn a_title_cannot_break_the_document() {
        let picture = Picture::of_view("<a & \"b\" \x1b>".into(), &Pages::default(), ROOM);
        let text = render(&picture);
        let document = roxmltree::Document::parse(&text).unwrap();
        let title = document.descendants().find(|node| node.has_tag_name("title")).unwrap();
        assert_eq!(title.text(), Some("<a & \"b\" \u{fffd}>"));
    }

    #[test]
    fn a_terabyte_of_single_pages_stays_small() {
        let scattered = (0..8192).map(|n| n * 32768 * 2..n * 32768 * 2 + 1);
        let mapped = (0..8192).map(|n| n * 32768..n * 32768 + 1);
        let view = Pages {
            pages: 1 << 28,
            private: scattered.collect(),
            mapped: Some(mapped.step_by(2).collect()),
            ..Pages::default()
        };
        let text = render(&Picture::of_view("v".into(), &view, ROOM));
        assert!(text.len() < 1 << 20, "{}", text.len());
        let sparse = Pages { pages: 1 << 28, ..Pages::default() };
        let text = render(&Picture::of_view("v".into(), &sparse, ROOM));
        assert!(text.len() < 16 << 10, "{}", text.len());
    }
}
