//! Tables and sizes for people. Pure.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Columns are as wide as their widest cell. A column that may be long comes last, so that the
/// others stay in line whatever it holds.
#[derive(Debug, Clone)]
pub struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(columns: [(&'static str, Align); N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Header and rows, two spaces between columns, a newline after each line.
    pub fn render(&self) -> String {
        self.render_within(usize::MAX)
    }

    /// The same in `limit` columns of a terminal: the widest of the columns that stand left are cut
    /// in the middle of their cells until all fit. Figures are never cut.
    pub fn render_within(&self, limit: usize) -> String {
        let header = self.columns.map(|(title, _)| title.to_owned());
        let lines: Vec<_> = std::iter::once(&header).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|cells| cells[column].width()).max().unwrap_or_default();
        let mut widths: [usize; N] = std::array::from_fn(width);
        self.narrow(&mut widths, limit.saturating_sub(2 * N.saturating_sub(1)));
        let mut out = String::new();
        for cells in lines {
            let line: [String; N] = std::array::from_fn(|i| {
                let cell = shorten(&cells[i], widths[i]);
                let space = " ".repeat(widths[i].saturating_sub(cell.width()));
                match self.columns[i].1 {
                    Align::Left => format!("{cell}{space}"),
                    Align::Right => format!("{space}{cell}"),
                }
            });
            out.push_str(line.join("  ").trim_end());
            out.push('\n');
        }
        out
    }

    fn narrow(&self, widths: &mut [usize; N], limit: usize) {
        while widths.iter().sum::<usize>() > limit {
            let cuttable = (0..N).filter(|i| {
                let (title, align) = self.columns[*i];
                align == Align::Left && widths[*i] > title.len()
            });
            let Some(widest) = cuttable.max_by_key(|i| widths[*i]) else { return };
            widths[widest] -= 1;
        }
    }
}

/// At most `width` columns of a terminal: what is too long loses its middle to `…`.
pub fn shorten(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let room = width.saturating_sub(1);
    let head = fitting(text.chars(), room - room / 2);
    // What a wide character left over at the front is of use at the end.
    let used: usize = head.iter().filter_map(|c| c.width()).sum();
    let tail = fitting(text.chars().rev(), room - used);
    let ellipsis = (width > 0).then_some('…');
    head.into_iter().chain(ellipsis).chain(tail.into_iter().rev()).collect::<String>().into()
}

fn fitting(chars: impl Iterator<Item = char>, width: usize) -> Vec<char> {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or_default();
        used <= width
    };
    chars.take_while(fits).collect()
}

/// Bytes in IEC units with two or three digits: `0 B`, `1.5 KiB`, `512 MiB`. At most 8 characters.
pub fn iec(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would be printed as 1024 of its unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// The same in at most 5 characters, for where there are many: `0`, `512B`, `1.5K`, `512M`.
pub fn iec_short(bytes: u64) -> String {
    if bytes == 0 {
        return "0".into();
    }
    let text = iec(bytes);
    let (value, unit) = text.split_once(' ').unwrap_or((&text, ""));
    format!("{value}{}", unit.get(..1).unwrap_or_default())
}

pub fn iec_short_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), iec_short)
}

/// `-` for what is not known: it is not 0.
pub fn iec_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), iec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_never_1024_of_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 * 1024 - 1, "10 KiB"),
            (512 << 20, "512 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(iec(bytes), text, "{bytes}");
            assert!(iec(bytes).len() <= 8);
        }
        assert_eq!(iec_or_dash(None), "-");
        for (bytes, text) in
            [(0, "0"), (1023, "1023B"), (1536, "1.5K"), (1023 << 20, "1023M"), (u64::MAX, "16E")]
        {
            assert_eq!(iec_short(bytes), text);
        }
        assert_eq!(iec_short_or_dash(None), "-");
    }

    #[test]
    fn what_is_too_long_loses_its_middle() {
        for (text, width, expected) in [
            ("debian/12.ram", 13, "debian/12.ram"),
            ("debian/12.ram", 12, "debian…2.ram"),
            ("debian/12.ram", 3, "d…m"),
            ("debian/12.ram", 1, "…"),
            ("debian/12.ram", 0, ""),
            // Wide characters take two columns each.
            ("模板模板", 8, "模板模板"),
            ("模板模板", 6, "模…板"),
            ("", 0, ""),
        ] {
            assert_eq!(shorten(text, width), expected, "{text} in {width}");
            assert!(shorten(text, width).width() <= width);
        }
    }

    #[test]
    fn the_widest_text_gives_way_and_figures_do_not() {
        let mut table =
            Table::new([("VIEW", Align::Left), ("COST", Align::Right), ("TEMPLATE", Align::Left)]);
        table.row(["short".into(), "123456789".into(), "a/very/long/name.ram".into()]);
        let text = table.render_within(30);
        assert_eq!(text, "VIEW        COST  TEMPLATE\nshort  123456789  a/very…e.ram\n");
    }

    #[test]
    fn columns_stand_in_line() {
        let mut table = Table::new([("SIZE", Align::Right), ("BY", Align::Left), ("NAME", Align::Left)]);
        table.row(["1 B".into(), "everyone".into(), "ä".into()]);
        table.row(["10 KiB".into(), "ü".into(), "".into()]);
        assert_eq!(table.render(), "  SIZE  BY        NAME\n   1 B  everyone  ä\n10 KiB  ü\n");
    }
}
