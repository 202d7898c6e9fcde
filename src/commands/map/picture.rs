//! What is drawn, whatever draws it: a mark for each cell, and what the marks mean. Pure.

use std::ops::Range;

use super::cells::{Grid, hottest, owners};
use crate::commands::table::{Align, Table, iec};
use crate::overlay::PAGE;

/// What stands for a cell. A level is how much of it, from 1 to 4: up to 25, 50, 75 and 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nothing but the template's pages.
    Template,
    /// Pages that the view owns.
    Private(u8),
    /// Pages that private mappings copied into their processes.
    Copied(u8),
    /// Punched pages.
    Punched(u8),
    /// How many of a template's views own the page of this cell that most of them own.
    Heat(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub mark: Mark,
    /// Are pages of it mapped, and in memory?
    pub in_memory: bool,
}

/// A line of the legend: marks, and the exact number of pages behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub samples: Vec<Cell>,
    pub pages: Option<u64>,
    pub meaning: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub title: String,
    pub grid: Grid,
    /// As many as the grid has.
    pub cells: Vec<Cell>,
    pub legend: Vec<Entry>,
    /// Lines below the legend.
    pub notes: Vec<String>,
}

/// The pages of one view. The runs of one kind do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages {
    pub pages: u64,
    pub private: Vec<Range<u64>>,
    pub punched: Vec<Range<u64>>,
    /// In memory; None where that is not known at all.
    pub mapped: Option<Vec<Range<u64>>>,
    pub copied: Option<Vec<Range<u64>>>,
    /// Processes of which is not known what they have in memory.
    pub unknown: Vec<String>,
}

/// Columns and rows at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub columns: usize,
    pub rows: usize,
}

const MOST_RANGES: usize = 8;

impl Picture {
    pub fn of_view(title: String, view: &Pages, room: Room) -> Self {
        let grid = Grid::fit(view.pages, room.columns, room.rows);
        let none = Vec::new();
        let private = grid.spread(&view.private);
        let punched = grid.spread(&view.punched);
        let mapped = grid.spread(view.mapped.as_ref().unwrap_or(&none));
        let copied = grid.spread(view.copied.as_ref().unwrap_or(&none));
        let cell = |cell: usize| {
            let level = |pages| level(pages, grid.pages_of(cell));
            let most = private[cell].max(copied[cell]).max(punched[cell]);
            let mark = match most {
                0 => Mark::Template,
                _ if private[cell] == most => Mark::Private(level(most)),
                _ if copied[cell] == most => Mark::Copied(level(most)),
                _ => Mark::Punched(level(most)),
            };
            Cell { mark, in_memory: mapped[cell] > 0 }
        };
        let total = |runs: &[Range<u64>]| count(runs, view.pages);
        let (owned, zero) = (total(&view.private), total(&view.punched));
        let entry =
            |samples: Vec<Cell>, pages, meaning: &str| Entry { samples, pages, meaning: meaning.into() };
        let levels = |mark: fn(u8) -> Mark| (1..=4).map(|n| plain(mark(n))).collect::<Vec<_>>();
        let legend = vec![
            entry(vec![plain(Mark::Template)], Some(view.pages - owned - zero), "the template's"),
            entry(
                vec![Cell { mark: Mark::Template, in_memory: true }],
                view.mapped.as_deref().map(total),
                "mapped by processes, and in memory",
            ),
            entry(levels(Mark::Private), Some(owned), "private: up to 25, 50, 75, 100 % of a cell"),
            entry(
                levels(Mark::Copied),
                view.copied.as_deref().map(total),
                "copied into processes by private mappings",
            ),
            entry(levels(Mark::Punched), Some(zero), "punched"),
        ];
        let note = |who: &String| format!("what {who} has in memory is not known, and not shown");
        let notes = view.unknown.iter().map(note).collect();
        Self { title, grid, cells: (0..grid.cells).map(cell).collect(), legend, notes }
    }

    /// Of a template: `views` are the pages that each of its views owns, without overlaps.
    pub fn of_template(
        title: String,
        pages: u64,
        views: &[Vec<Range<u64>>],
        unknown: &[String],
        room: Room,
    ) -> Self {
        let grid = Grid::fit(pages, room.columns, room.rows);
        let owners = owners(views);
        let most = views.len() as u64;
        let cell = |peak: u64| plain(if peak == 0 { Mark::Template } else { Mark::Heat(level(peak, most)) });
        let owned: Vec<Range<u64>> = owners.iter().map(|(run, _)| run.clone()).collect();
        let owned = count(&owned, pages);
        // With few views some levels mean nothing.
        let up_to = |level: u8| most * u64::from(level) / 4;
        let levels: Vec<u8> = (1..=4).filter(|level| up_to(*level) > up_to(level - 1)).collect();
        let by = levels.iter().map(|level| up_to(*level).to_string()).collect::<Vec<_>>().join(", ");
        let legend = vec![
            Entry {
                samples: vec![plain(Mark::Template)],
                pages: Some(pages - owned),
                meaning: "the template's in all views".into(),
            },
            Entry {
                samples: levels.iter().map(|level| plain(Mark::Heat(*level))).collect(),
                pages: Some(owned),
                meaning: format!("owned: some page of the cell by up to {by} of {most} views"),
            },
        ];
        let mut notes = ranges(&hottest(&owners, MOST_RANGES), most);
        notes.extend(unknown.iter().map(|who| format!("what {who} copied is not known, and not counted")));
        Self { title, grid, cells: grid.peaks(&owners).into_iter().map(cell).collect(), legend, notes }
    }

    /// What a cell and a row cover.
    pub fn scale(&self) -> String {
        let Grid { per_cell, columns, .. } = self.grid;
        let plural = if per_cell == 1 { "" } else { "s" };
        format!(
            "a cell is {per_cell} page{plural} ({}), a row {columns} cells ({})",
            exact(per_cell * PAGE),
            exact(per_cell * columns as u64 * PAGE)
        )
    }

    /// The offset at which a row begins.
    pub fn offset(&self, row: usize) -> String {
        exact(row as u64 * self.grid.columns as u64 * self.grid.per_cell * PAGE)
    }
}

fn plain(mark: Mark) -> Cell {
    Cell { mark, in_memory: false }
}

/// `part` is at least 1 and at most `whole`.
fn level(part: u64, whole: u64) -> u8 {
    (u128::from(part) * 4).div_ceil(u128::from(whole.max(1))).clamp(1, 4) as u8
}

fn count(runs: &[Range<u64>], pages: u64) -> u64 {
    runs.iter().map(|run| run.end.min(pages).saturating_sub(run.start)).sum()
}

fn ranges(hottest: &[(Range<u64>, u64)], views: u64) -> Vec<String> {
    if hottest.is_empty() {
        return vec!["no page is owned by more than one view".into()];
    }
    let mut table = Table::new([
        ("OFFSET", Align::Right),
        ("LENGTH", Align::Right),
        ("VIEWS", Align::Right),
        ("ONE COPY WOULD SPARE", Align::Right),
    ]);
    for (run, by) in hottest {
        let length = (run.end - run.start) * PAGE;
        let spared = iec(length * (by - 1));
        table.row([format!("{:#x}", run.start * PAGE), iec(length), format!("{by} of {views}"), spared]);
    }
    table.render().lines().map(str::to_owned).collect()
}

/// A multiple of a page in the largest unit that needs no fraction.
fn exact(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size));
    unit.map_or_else(|| bytes.to_string(), |(unit, size)| format!("{} {unit}", bytes / size))
}

// A run of pages is a range, and often there is one.
#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_what_it_has_most_of() {
        let view = Pages {
            pages: 16,
            private: vec![0..1, 4..8],
            punched: vec![1..4, 9..10],
            mapped: Some(vec![12..13]),
            copied: Some(vec![10..12]),
            unknown: vec![],
        };
        let picture = Picture::of_view("v".into(), &view, Room { columns: 4, rows: 1 });
        let marks: Vec<Mark> = picture.cells.iter().map(|cell| cell.mark).collect();
        assert_eq!(marks, [Mark::Punched(3), Mark::Private(4), Mark::Copied(2), Mark::Template]);
        assert!(picture.cells[3].in_memory && !picture.cells[2].in_memory);
        let totals: Vec<_> = picture.legend.iter().map(|entry| entry.pages).collect();
        assert_eq!(totals, [Some(7), Some(1), Some(5), Some(2), Some(4)]);
        assert_eq!(picture.scale(), "a cell is 4 pages (16 KiB), a row 4 cells (64 KiB)");
    }

    #[test]
    fn one_page_of_a_large_cell_is_seen() {
        let view = Pages { pages: 1 << 28, private: vec![7..8], ..Pages::default() };
        let picture = Picture::of_view("v".into(), &view, Room { columns: 64, rows: 16 });
        assert_eq!(picture.cells[0].mark, Mark::Private(1));
        assert_eq!(picture.legend[1].pages, None, "what is not known is not 0");
        assert_eq!(picture.offset(2), "128 GiB");
    }

    #[test]
    fn heat_is_how_many_views_own_the_same_page() {
        let views = [vec![0..4], vec![0..2], vec![6..7], vec![]];
        let picture = Picture::of_template("t".into(), 8, &views, &[], Room { columns: 4, rows: 1 });
        let marks: Vec<Mark> = picture.cells.iter().map(|cell| cell.mark).collect();
        assert_eq!(marks, [Mark::Heat(2), Mark::Heat(1), Mark::Template, Mark::Heat(1)]);
        assert!(
            picture.notes[1].contains("0x0") && picture.notes[1].contains("2 of 4"),
            "{:?}",
            picture.notes
        );
    }

    #[test]
    fn offsets_are_exact() {
        for (bytes, text) in [(0, "0"), (4096, "4 KiB"), (1029 << 20, "1029 MiB"), (1 << 40, "1 TiB")] {
            assert_eq!(exact(bytes), text);
        }
    }
}
