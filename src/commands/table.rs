//! Tables and sizes for people. Pure.

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
        let header = self.columns.map(|(title, _)| title.to_owned());
        let lines: Vec<_> = std::iter::once(&header).chain(&self.rows).collect();
        let width =
            |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default();
        let widths: [usize; N] = std::array::from_fn(width);
        let mut out = String::new();
        for cells in lines {
            let line: [String; N] = std::array::from_fn(|i| match self.columns[i].1 {
                Align::Left => format!("{:<width$}", cells[i], width = widths[i]),
                Align::Right => format!("{:>width$}", cells[i], width = widths[i]),
            });
            out.push_str(line.join("  ").trim_end());
            out.push('\n');
        }
        out
    }
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
    }

    #[test]
    fn columns_stand_in_line() {
        let mut table = Table::new([("SIZE", Align::Right), ("BY", Align::Left), ("NAME", Align::Left)]);
        table.row(["1 B".into(), "everyone".into(), "ä".into()]);
        table.row(["10 KiB".into(), "ü".into(), "".into()]);
        assert_eq!(table.render(), "  SIZE  BY        NAME\n   1 B  everyone  ä\n10 KiB  ü\n");
    }
}
