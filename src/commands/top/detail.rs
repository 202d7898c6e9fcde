//! The detail pane of `top`: all figures of a view, and the processes that use it.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph};

use super::app::{App, Row};
use super::bar::bar;
use super::draw::growth_per_second;
use crate::commands::table::{Align, Table, iec, iec_or_dash, shorten};
use crate::name::printable;

pub fn draw(frame: &mut Frame, app: &App, area: Rect) {
    let selected = app.selected().map(|selected| &app.rows()[selected]);
    let template = selected.map_or_else(String::new, |row| printable(row.view().template.as_bytes()));
    let room = usize::from(area.width).saturating_sub(6 + app.selected_id().len());
    let title = Line::from(format!(" {}  {} ", app.selected_id(), shorten(&template, room)));
    let block = Block::bordered().title(title.bold());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let Some(row) = selected else {
        frame.render_widget(Line::from("The view is gone."), inner);
        return;
    };
    let figures = figures(row);
    let height = u16::try_from(figures.len().div_ceil(2)).unwrap_or(u16::MAX);
    let [line, middle, bottom] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(height), Constraint::Min(2)])
            .areas(inner);
    frame.render_widget(bar(row.view(), usize::from(inner.width)), line);
    let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(2).areas(middle);
    let (first, second) = figures.split_at(usize::from(height));
    frame.render_widget(column(first, left.width), left);
    frame.render_widget(column(second, right.width), right);
    frame.render_widget(Paragraph::new(processes(row, app.scrolled, usize::from(bottom.height))), bottom);
}

fn column(figures: &[(&'static str, String)], width: u16) -> Text<'static> {
    const NAMES: usize = 18;
    let width = usize::from(width).saturating_sub(NAMES + 1);
    let line =
        |(name, value): &(&str, String)| Line::from(format!("{name:<NAMES$} {}", shorten(value, width)));
    figures.iter().map(line).collect()
}

/// Every figure of a view that is no name, in the order of a first column and a second.
fn figures(row: &Row) -> Vec<(&'static str, String)> {
    let view = row.view();
    let opener = view.opener.as_ref();
    let opener = opener.map(|opener| format!("{}:{} uid {}", opener.comm, opener.pid, opener.uid));
    vec![
        ("cost", iec_or_dash(view.cost_bytes)),
        ("growth", growth_per_second(row.growth)),
        ("private", iec(view.private_bytes)),
        ("copied", iec_or_dash(view.cow_anon_bytes)),
        ("copied, swapped", iec_or_dash(view.cow_swap_bytes)),
        ("cached", iec_or_dash(view.cached_bytes)),
        ("of it dirty", iec_or_dash(view.dirty_bytes)),
        ("of that held", iec_or_dash(Some(view.held_bytes))),
        ("zero", iec(view.zero_bytes)),
        ("saved", iec_or_dash(view.saved_bytes)),
        ("shared, clean", iec_or_dash(view.shared_clean_bytes)),
        ("size", iec(view.size_bytes)),
        ("template, data", format!("{}, {}", iec(view.template_bytes), iec_or_dash(view.data_bytes))),
        ("vm", view.vm.as_ref().map_or_else(|| "-".into(), ToString::to_string)),
        ("kind, backing", format!("{}, {}", view.kind, view.backing)),
        ("mount", row.listed.mountpoint.clone()),
        ("uid", view.uid.to_string()),
        ("opener", opener.map_or_else(|| "-".into(), |opener| printable(opener.as_bytes()))),
        ("open, ever", format!("{}, {}", view.opens, view.opens_total)),
        ("reads", format!("{} of {}", view.reads_total, iec(view.read_bytes_total))),
        ("writes", format!("{} of {}", view.writes_total, iec(view.write_bytes_total))),
        ("pages served", view.faults_served_total.to_string()),
        ("pages prefetched", view.prefetched_pages_total.to_string()),
        ("errors", view.errors_total.to_string()),
        ("age", age(view.age_seconds)),
    ]
}

fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A table of `height` lines, without the first `scrolled`; where more follow, the last line says so.
fn processes(row: &Row, scrolled: usize, height: usize) -> Text<'static> {
    let all = row.view().processes.get(scrolled..).unwrap_or_default();
    let mut table = Table::new([
        ("PID", Align::Right),
        ("UID", Align::Right),
        ("MAPPED", Align::Right),
        ("RESIDENT", Align::Right),
        ("COPIED", Align::Right),
        ("SWAPPED", Align::Right),
        ("MODE", Align::Left),
        ("COMMAND", Align::Left),
    ]);
    let room = height.saturating_sub(1);
    let shown = if all.len() > room { room.saturating_sub(1) } else { room };
    for process in all.iter().take(shown) {
        table.row([
            process.pid.to_string(),
            process.uid.map_or_else(|| "-".into(), |uid| uid.to_string()),
            iec_or_dash(process.mapped_bytes),
            iec_or_dash(process.resident_bytes),
            iec_or_dash(process.cow_anon_bytes),
            iec_or_dash(process.cow_swap_bytes),
            if process.writable { "rw" } else { "ro" }.into(),
            printable(process.comm.as_bytes()),
        ]);
    }
    let mut text: Vec<Line> = table.render().lines().map(|line| Line::from(line.to_owned())).collect();
    if let Some(header) = text.first_mut() {
        *header = std::mem::take(header).style(Style::new().bold().underlined());
    }
    let more = all.len().saturating_sub(shown);
    if more > 0 {
        text.push(Line::from(format!("and {more} more; PageDown shows them")));
    }
    Text::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_two_units() {
        for (seconds, text) in
            [(0.9, "0 s"), (61.0, "1 min 1 s"), (7260.0, "2 h 1 min"), (90000.0, "1 d 1 h"), (-1.0, "0 s")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
