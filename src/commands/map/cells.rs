//! From runs of pages to cells of a picture, each of which covers as many pages. Pure.

use std::ops::Range;

/// How a file's pages are laid out: cells in rows, from left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub pages: u64,
    /// Pages that a cell covers, a power of two; the last cell may have fewer.
    pub per_cell: u64,
    pub columns: usize,
    pub cells: usize,
}

impl Grid {
    /// The finest that has at most `columns` cells in a row and `rows` rows, both at least 1.
    pub fn fit(pages: u64, columns: usize, rows: usize) -> Self {
        let most = columns.saturating_mul(rows).max(1) as u64;
        let mut per_cell = 1;
        while pages.div_ceil(per_cell) > most {
            per_cell *= 2;
        }
        let cells = pages.div_ceil(per_cell) as usize;
        Self { pages, per_cell, columns: columns.clamp(1, cells.max(1)), cells }
    }

    pub fn rows(&self) -> usize {
        self.cells.div_ceil(self.columns)
    }

    /// How many pages `cell` covers.
    pub fn pages_of(&self, cell: usize) -> u64 {
        (self.pages - cell as u64 * self.per_cell).min(self.per_cell)
    }

    /// Calls `found` with each cell that `pages` touch, and how many of them it holds.
    fn split(&self, pages: &Range<u64>, mut found: impl FnMut(usize, u64)) {
        let end = pages.end.min(self.pages);
        let mut page = pages.start;
        while page < end {
            let cell = page / self.per_cell;
            let next = ((cell + 1) * self.per_cell).min(end);
            found(cell as usize, next - page);
            page = next;
        }
    }

    /// How many pages of `runs` each cell holds.
    pub fn spread(&self, runs: &[Range<u64>]) -> Vec<u64> {
        let mut cells = vec![0; self.cells];
        for run in runs {
            self.split(run, |cell, pages| cells[cell] += pages);
        }
        cells
    }

    /// The highest of the numbers that pages of each cell have; 0 where they have none.
    pub fn peaks(&self, numbered: &[(Range<u64>, u64)]) -> Vec<u64> {
        let mut cells = vec![0; self.cells];
        for (run, number) in numbered {
            self.split(run, |cell, _| cells[cell] = cells[cell].max(*number));
        }
        cells
    }
}

/// How many of `views` own each page, as runs in order; pages of none are left out. The runs of
/// one view must not overlap.
pub fn owners(views: &[Vec<Range<u64>>]) -> Vec<(Range<u64>, u64)> {
    let mut edges: Vec<(u64, i64)> = Vec::new();
    for run in views.iter().flatten() {
        edges.push((run.start, 1));
        edges.push((run.end, -1));
    }
    edges.sort_unstable();
    let mut found: Vec<(Range<u64>, u64)> = Vec::new();
    let (mut from, mut count) = (0, 0i64);
    for (page, change) in edges {
        if page > from && count > 0 {
            match found.last_mut() {
                Some((last, number)) if last.end == from && *number == count as u64 => last.end = page,
                _ => found.push((from..page, count as u64)),
            }
        }
        from = page;
        count += change;
    }
    found
}

/// Where most would be spared by one common copy of what several views own; best first.
pub fn hottest(owners: &[(Range<u64>, u64)], most: usize) -> Vec<(Range<u64>, u64)> {
    let mut shared: Vec<_> = owners.iter().filter(|(_, views)| *views > 1).cloned().collect();
    let spared = |(run, views): &(Range<u64>, u64)| (views - 1) * (run.end - run.start);
    shared.sort_by_key(|entry| (std::cmp::Reverse(spared(entry)), entry.0.start));
    shared.truncate(most);
    shared
}

// A run of pages is a range, and often there is one.
#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_terabyte_fits_a_small_window() {
        let grid = Grid::fit(1 << 28, 64, 16);
        assert_eq!((grid.per_cell, grid.cells, grid.rows()), (1 << 18, 1024, 16));
        let small = Grid::fit(3, 64, 16);
        assert_eq!((small.per_cell, small.columns, small.rows()), (1, 3, 1));
        let empty = Grid::fit(0, 64, 16);
        assert_eq!((empty.cells, empty.rows()), (0, 0));
    }

    #[test]
    fn the_hottest_are_what_one_copy_would_spare_most() {
        let views = [vec![0..10, 20..21], vec![5..10, 20..21], vec![20..21], vec![40..90]];
        let owners = owners(&views);
        assert_eq!(owners, [(0..5, 1), (5..10, 2), (20..21, 3), (40..90, 1)]);
        assert_eq!(hottest(&owners, 9), [(5..10, 2), (20..21, 3)]);
        assert_eq!(hottest(&owners, 1).len(), 1);
    }

    /// Runs in order that do not overlap, from gaps and lengths.
    fn runs() -> impl Strategy<Value = Vec<Range<u64>>> {
        proptest::collection::vec((0u64..50, 1u64..50), 0..20).prop_map(|pieces| {
            let mut at = 0;
            let run = |(gap, length)| {
                let start = at + gap;
                at = start + length;
                start..at
            };
            pieces.into_iter().map(run).collect()
        })
    }

    proptest! {
        #[test]
        fn every_page_is_counted_once(
            runs in runs(), pages in 0u64..2000, columns in 1usize..200, rows in 1usize..40,
        ) {
            let grid = Grid::fit(pages, columns, rows);
            prop_assert!(grid.columns <= columns && grid.rows() <= rows);
            prop_assert_eq!((0..grid.cells).map(|cell| grid.pages_of(cell)).sum::<u64>(), pages);
            let spread = grid.spread(&runs);
            for (cell, count) in spread.iter().enumerate() {
                let first = cell as u64 * grid.per_cell;
                let covered = first..first + grid.pages_of(cell);
                let expected = covered.filter(|page| runs.iter().any(|run| run.contains(page))).count();
                prop_assert_eq!(*count, expected as u64);
            }
        }

        #[test]
        fn owners_are_counted_as_page_by_page(views in proptest::collection::vec(runs(), 0..5)) {
            let owners = owners(&views);
            for page in 0..2000 {
                let expected = views.iter().filter(|runs| runs.iter().any(|run| run.contains(&page))).count();
                let found: Vec<u64> =
                    owners.iter().filter(|(run, _)| run.contains(&page)).map(|(_, views)| *views).collect();
                prop_assert_eq!(found.iter().sum::<u64>(), expected as u64);
                prop_assert!(found.len() <= 1);
            }
        }
    }
}
