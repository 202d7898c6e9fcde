//! The picture as PNG: the cells alone; title, scale and legend are in its text chunk. Pure.

use png::{BitDepth, ColorType, Encoder, EncodingError};

use super::picture::{Cell, Mark, Picture};
use super::svg::{BAR_COLOUR, colour};

pub use super::svg::ROOM;

/// Side of a cell in pixels, and height of the bar that says that it is in memory.
const CELL: usize = 8;
const BAR: usize = 2;

const BAR_INDEX: u8 = 1;
const NOTHING: u8 = 0;

pub fn render(picture: &Picture) -> Result<Vec<u8>, EncodingError> {
    // A PNG has at least one pixel.
    let (columns, rows) = (picture.grid.columns.max(1), picture.grid.rows().max(1));
    let (width, height) = (columns * CELL, rows * CELL);
    let mut pixels = vec![NOTHING; width * height];
    for (index, cell) in picture.cells.iter().enumerate() {
        let (x, y) = (index % columns * CELL, index / columns * CELL);
        for line in 0..CELL {
            let start = (y + line) * width + x;
            pixels[start..start + CELL].fill(pixel(cell, line));
        }
    }
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(palette());
    encoder.add_itxt_chunk("Title".into(), picture.title.clone())?;
    encoder.add_itxt_chunk("Description".into(), description(picture))?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

fn pixel(cell: &Cell, line: usize) -> u8 {
    if cell.in_memory && line >= CELL - BAR { BAR_INDEX } else { index(cell.mark) }
}

/// Place in the palette, after white and the bar's colour.
fn index(mark: Mark) -> u8 {
    match mark {
        Mark::Template => 2,
        Mark::Private(level) => 2 + level,
        Mark::Copied(level) => 6 + level,
        Mark::Punched(level) => 10 + level,
        Mark::Heat(level) => 14 + level,
    }
}

fn palette() -> Vec<u8> {
    let mut palette = vec![[0xff; 3], BAR_COLOUR, colour(Mark::Template)];
    for mark in [Mark::Private, Mark::Copied, Mark::Punched, Mark::Heat] {
        palette.extend((1..=4).map(|level| colour(mark(level))));
    }
    palette.concat()
}

fn description(picture: &Picture) -> String {
    let mut lines = vec![picture.scale()];
    for entry in &picture.legend {
        let hex = |cell: &Cell| {
            let [r, g, b] = if cell.in_memory { BAR_COLOUR } else { colour(cell.mark) };
            format!("#{r:02x}{g:02x}{b:02x}")
        };
        let colours: Vec<String> = entry.samples.iter().map(hex).collect();
        let pages = entry.pages.map_or_else(|| "unknown".into(), |pages| format!("{pages} pages"));
        lines.push(format!("{}: {} ({pages})", colours.join(" "), entry.meaning));
    }
    lines.extend(picture.notes.iter().cloned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_has_its_own_colour_in_the_palette() {
        let palette = palette();
        let entry = |index: u8| &palette[usize::from(index) * 3..][..3];
        assert_eq!(entry(index(Mark::Template)), colour(Mark::Template));
        for mark in [Mark::Private, Mark::Copied, Mark::Punched, Mark::Heat] {
            for level in 1..=4 {
                assert_eq!(entry(index(mark(level))), colour(mark(level)));
            }
        }
        let colours: std::collections::HashSet<&[u8]> = palette.chunks(3).collect();
        assert_eq!(colours.len(), palette.len() / 3);
    }
}
