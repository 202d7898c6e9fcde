//! The share of a view that is its own, in a row of characters that differ without colour. Pure.

use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

use crate::inspect::ViewReport;

/// What a part of a view is, how it is drawn, and what the legend calls it.
pub const PARTS: [(char, Color, &str); 4] = [
    ('█', Color::Yellow, "private"),
    ('░', Color::Blue, "zero"),
    ('·', Color::DarkGray, "template"),
    ('?', Color::Red, "unknown"),
];

/// Cells of each of [`PARTS`]: `width` in all.
///
/// Private is what the view owns and what its processes copied; where the latter is unknown, so is
/// whether the rest is the template's. What is there takes at least one cell.
pub fn cells(view: &ViewReport, width: usize) -> [usize; 4] {
    let size = view.size_bytes.max(1);
    let copied = view.cow_anon_bytes.zip(view.cow_swap_bytes).map(|(anon, swap)| anon.saturating_add(swap));
    let own = view.private_bytes.saturating_add(copied.unwrap_or(0));
    let scaled = |bytes: u64| {
        let cells = (bytes.min(size) as f64 / size as f64 * width as f64).round() as usize;
        cells.max(usize::from(bytes > 0))
    };
    let private = scaled(own).min(width);
    let zero = scaled(view.zero_bytes).min(width - private);
    let rest = width - private - zero;
    if copied.is_none() { [private, zero, 0, rest] } else { [private, zero, rest, 0] }
}

pub fn bar(view: &ViewReport, width: usize) -> Line<'static> {
    let part = |((character, colour, _), cells): ((char, Color, _), usize)| {
        Span::styled(character.to_string().repeat(cells), Style::new().fg(colour))
    };
    PARTS.into_iter().zip(cells(view, width)).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::summary::samples::listed;

    #[test]
    fn a_bar_is_as_wide_as_asked_and_shows_all_that_is_there() {
        for (private, copied, zero, expected) in [
            (0, Some(0), 0, [0, 0, 10, 0]),
            (1, Some(0), 1, [1, 1, 8, 0]),
            (300, Some(200), 300, [5, 3, 2, 0]),
            (1000, Some(1000), 1000, [10, 0, 0, 0]),
            (200, None, 100, [2, 1, 0, 7]),
        ] {
            let listed = listed("a", None, |view| {
                (view.size_bytes, view.private_bytes, view.zero_bytes) = (1000, private, zero);
                view.cow_anon_bytes = copied;
            });
            assert_eq!(cells(&listed.view, 10), expected);
            assert_eq!(bar(&listed.view, 10).width(), 10);
            assert_eq!(cells(&listed.view, 0), [0; 4]);
        }
        let empty = listed("a", None, |view| view.size_bytes = 0);
        assert_eq!(cells(&empty.view, 3), [0, 0, 3, 0]);
    }
}
