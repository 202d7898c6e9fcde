//! The screen of `top`: totals, a row a view, and what the keys do. Pure but for the frame.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{HighlightSpacing, Row as Cells, Table, TableState};

use super::app::{App, Row};
use super::bar::PARTS;
use super::columns::{Column, bar_width, columns};
use super::detail;
use crate::commands::table::{iec, iec_or_dash, iec_short};
use crate::commands::views::{plural, several_mounts};

/// Lines of the screen that are no rows: two of totals, the header, two of help.
pub const FRAME: u16 = 5;

pub fn draw(frame: &mut Frame, app: &App, now: Instant) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(2)])
            .areas(frame.area());
    frame.render_widget(heading(app, now), head);
    if app.detail {
        detail::draw(frame, app, body);
    } else {
        list(frame, app, body);
    }
    frame.render_widget(help(app), foot);
}

fn heading(app: &App, now: Instant) -> Text<'_> {
    let mut place = Line::from(format!("templatefs top - {}", app.place)).bold();
    let age = app.read.map(|read| now.saturating_duration_since(read)).unwrap_or_default();
    if age >= app.patience {
        let seconds = age.as_secs();
        place.push_span(Span::styled(
            format!("  (no new figures for {seconds} s)"),
            Style::new().fg(Color::Red),
        ));
    }
    Text::from(vec![place, Line::from(totals(app))])
}

/// One line about all views.
pub fn totals(app: &App) -> String {
    let growth = growth_per_second(app.growth);
    let aside = match app.set_aside {
        0 => String::new(),
        views => format!("  {views} set aside"),
    };
    format!(
        "{}  {}  cost {}  saved {}  growth {growth}{aside}",
        plural(app.rows().len(), "view"),
        plural(app.vms, "VM"),
        iec_or_dash(app.totals.cost_bytes),
        iec_or_dash(app.totals.saved_bytes),
    )
}

pub fn growth_per_second(growth: Option<i64>) -> String {
    growth.map_or_else(|| "-".into(), |growth| format!("{}/s", signed(growth, iec)))
}

/// The same for a column that says so.
pub fn growth(growth: Option<i64>) -> String {
    growth.map_or_else(|| "-".into(), |growth| signed(growth, iec_short))
}

fn signed(value: i64, size: fn(u64) -> String) -> String {
    let sign = match value {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", size(value.unsigned_abs()))
}

fn help(app: &App) -> Text<'static> {
    let mut legend = Line::default();
    for (character, colour, what) in PARTS {
        legend.push_span(Span::styled(character.to_string(), Style::new().fg(colour)));
        legend.push_span(format!(" {what}   "));
    }
    let keys = match app.detail {
        false => "c cost  p private  g growth  n name  v VM  r reverse  ↑↓ Enter detail  q quit",
        true => "↑↓ other views  PageUp/PageDown processes  Esc back  q quit",
    };
    Text::from(vec![legend, Line::from(keys).dim()])
}

fn list(frame: &mut Frame, app: &App, area: Rect) {
    let (text, columns) = columns(area.width);
    let bar_width = bar_width(area.width, columns, text);
    let widths = columns.iter().map(|column| match column {
        Column::Bar => Constraint::Length(bar_width),
        other => Constraint::Length(other.width(text)),
    });
    let several = several_mounts(app.listed());
    // Only what is seen is drawn, however many there are.
    let height = usize::from(area.height.saturating_sub(1)).max(1);
    let selected = app.selected();
    let first = selected.map_or(0, |selected| (selected + 1).saturating_sub(height));
    let rows = app.rows().iter().skip(first).take(height);
    let cells = |row: &Row| {
        let cell = |column: &Column| column.cell(row, usize::from(column.width(text)), bar_width, several);
        Cells::new(columns.iter().map(cell).collect::<Vec<_>>())
    };
    let header = Cells::new(columns.iter().map(|column| column.header(app)).collect::<Vec<_>>());
    let table = Table::new(rows.map(cells), widths)
        .header(header.style(Style::new().bold().underlined()))
        .column_spacing(1)
        // Also to be seen without colour.
        .highlight_symbol("> ")
        .highlight_spacing(HighlightSpacing::Always)
        .row_highlight_style(Style::new().reversed());
    let mut state = TableState::new().with_selected(selected.map(|selected| selected - first));
    frame.render_stateful_widget(table, area, &mut state);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;

    use super::*;
    use crate::inspect::ProcessReport;
    use crate::inspect::summary::samples::{listed, process};

    fn looked_at(pid: u32) -> ProcessReport {
        ProcessReport {
            uid: Some(107),
            mappings: Some(1),
            mapped_bytes: Some(1 << 20),
            resident_bytes: Some(8192),
            cow_swap_bytes: Some(0),
            ..process(pid)
        }
    }

    fn app() -> App {
        let mut app = App::new("/mnt/t".into(), Duration::from_secs(2));
        let views = vec![
            listed("web-1", Some("web"), |view| {
                (view.private_bytes, view.zero_bytes, view.cost_bytes) =
                    (512 << 10, 256 << 10, Some(512 << 10));
                view.processes = (1..=30).map(looked_at).collect();
            }),
            listed(&format!("{}-7", "long".repeat(12)), None, |view| {
                (view.cow_anon_bytes, view.cost_bytes) = (None, None);
            }),
        ];
        app.update(views, Instant::now());
        app
    }

    fn screen(app: &App, width: u16, height: u16, now: Instant) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app, now)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |cells: &[ratatui::buffer::Cell]| {
            cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
        };
        buffer.content.chunks(usize::from(width)).map(line).collect()
    }

    #[test]
    fn a_row_tells_without_colour_what_is_whose() {
        let lines = screen(&app(), 100, 8, Instant::now());
        assert_eq!(
            lines,
            [
                "templatefs top - /mnt/t",
                "2 views  1 VM  cost -  saved 2.0 MiB  growth -",
                "  VIEW           VM             KIND      COST▼  GROWTH/s  PRIVATE COPIED CACHED  SAVED OF ITS SIZE",
                "  web-1          web            private    512K         -     512K      0      0   1.0M ██████░░░···",
                "  longlon…long-7 -              private       -         -        0      -      0   1.0M ????????????",
                "",
                "█ private   ░ zero   · template   ? unknown",
                "c cost  p private  g growth  n name  v VM  r reverse  ↑↓ Enter detail  q quit",
            ]
        );
    }

    #[test]
    fn views_that_are_set_aside_are_counted() {
        let mut app = app();
        app.set_aside = 3;
        assert!(totals(&app).ends_with("growth -  3 set aside"), "{}", totals(&app));
    }

    #[test]
    fn the_selected_row_is_marked_and_in_sight() {
        let mut app = app();
        app.key(KeyCode::End.into());
        let lines = screen(&app, 80, 6, Instant::now());
        assert!(lines[2].contains("COST▼") && !lines[2].contains("SAVED"), "{lines:#?}");
        assert!(lines[3].starts_with("> longlo…ong-7"), "{lines:#?}");
        assert!(lines[5].ends_with("q quit"), "{lines:#?}");
    }

    #[test]
    fn every_width_and_height_can_be_drawn() {
        let mut app = app();
        for detail in [false, true] {
            app.detail = detail;
            for width in [1, 10, 40, 80, 96, 140, 250] {
                for height in [1, 3, 6, 50] {
                    screen(&app, width, height, Instant::now());
                }
            }
            app.key(KeyCode::Down.into());
        }
        let wide = screen(
            &{
                app.detail = false;
                app
            },
            160,
            8,
            Instant::now(),
        );
        assert!(wide[3].contains("debian/12.ram"), "{wide:#?}");
    }

    #[test]
    fn the_detail_pane_shows_the_figures_and_scrolls_the_processes() {
        let mut app = app();
        app.key(KeyCode::Enter.into());
        let lines = screen(&app, 80, 24, Instant::now());
        let all = lines.join("\n");
        for part in [
            "┌ web-1  debian/12.ram ─",
            "cost               512 KiB",
            "backing      private, overlay",
            "qemu-system-x86",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert!(all.contains("more; PageDown shows them"), "{all}");
        let pid =
            |lines: &[String], pid: &str| lines.iter().any(|line| line.starts_with(&format!("│ {pid}  ")));
        assert!(pid(&lines, " 1") && !pid(&lines, "30"), "{all}");
        for _ in 0..8 {
            app.key(KeyCode::PageDown.into());
        }
        assert!(pid(&screen(&app, 80, 24, Instant::now()), "30"));
        app.update(Vec::new(), Instant::now());
        assert!(screen(&app, 80, 24, Instant::now()).join("").contains("The view is gone."));
    }

    #[test]
    fn old_figures_say_so() {
        let app = app();
        let later = Instant::now() + Duration::from_secs(12);
        assert!(screen(&app, 80, 6, later)[0].ends_with("(no new figures for 12 s)"));
    }

    #[test]
    fn growth_has_a_sign() {
        for (value, text) in [(None, "-"), (Some(0), "0"), (Some(1536), "+1.5K"), (Some(-1536), "-1.5K")] {
            assert_eq!(growth(value), text);
        }
    }
}
