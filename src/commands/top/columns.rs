//! The columns of the list in `top`: which there are at which width, and what stands in them.

use ratatui::layout::Alignment;
use ratatui::text::Text;
use ratatui::widgets::Cell;

use super::app::{App, Order, Row};
use super::bar::bar;
use super::draw::growth;
use crate::commands::table::{iec_short, iec_short_or_dash, shorten};
use crate::commands::views::template;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Column {
    View,
    Vm,
    Kind,
    Cost,
    Growth,
    Private,
    Copied,
    Cached,
    Saved,
    Bar,
    Template,
}

use Column::{Bar, Cached, Copied, Cost, Growth, Kind, Private, Saved, Template, View, Vm};

/// From a screen of this many columns on, these are shown, and some text is this wide.
const WIDE: (u16, u16, &[Column]) =
    (140, 24, &[View, Vm, Kind, Cost, Growth, Private, Copied, Cached, Saved, Bar, Template]);
const USUAL: (u16, u16, &[Column]) =
    (96, 14, &[View, Vm, Kind, Cost, Growth, Private, Copied, Cached, Saved, Bar]);
const NARROW: (u16, u16, &[Column]) = (0, 12, &[View, Vm, Cost, Growth, Private, Copied, Bar]);

/// The columns of a screen of `width`, and how wide views and VMs are in it.
pub fn columns(width: u16) -> (u16, &'static [Column]) {
    let fitting = [WIDE, USUAL].into_iter().find(|(from, ..)| width >= *from);
    let (_, text, columns) = fitting.unwrap_or(NARROW);
    (text, columns)
}

/// What the others leave.
pub fn bar_width(width: u16, columns: &[Column], text: u16) -> u16 {
    let others: u16 =
        columns.iter().filter(|column| **column != Bar).map(|column| column.width(text) + 1).sum();
    width.saturating_sub(others + 2).clamp(4, 40)
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            View => "VIEW",
            Vm => "VM",
            Kind => "KIND",
            Cost => "COST",
            Growth => "GROWTH/s",
            Private => "PRIVATE",
            Copied => "COPIED",
            Cached => "CACHED",
            Saved => "SAVED",
            Bar => "OF ITS SIZE",
            Template => "TEMPLATE",
        }
    }

    /// Room for the title, the mark of the order, and the longest figure.
    pub fn width(self, text: u16) -> u16 {
        match self {
            View | Vm => text,
            Template => 34,
            Kind | Private => 8,
            Growth => 9,
            Cost | Copied | Cached | Saved => 6,
            Bar => 0,
        }
    }

    fn alignment(self) -> Alignment {
        match self {
            View | Vm | Kind | Bar | Template => Alignment::Left,
            Cost | Growth | Private | Copied | Cached | Saved => Alignment::Right,
        }
    }

    /// The column that orders the rows is marked.
    pub fn header(self, app: &App) -> Cell<'static> {
        let ordering = matches!(
            (self, app.order),
            (Cost, Order::Cost)
                | (Private, Order::Private)
                | (Growth, Order::Growth)
                | (View, Order::Name)
                | (Vm, Order::Vm)
        );
        let names = matches!(self, View | Vm);
        let mark = match ordering {
            false => "",
            true if names == app.reversed => "▼",
            true => "▲",
        };
        Cell::from(Text::from(format!("{}{mark}", self.title())).alignment(self.alignment()))
    }

    pub fn cell(self, row: &Row, width: usize, bar_width: u16, several_mounts: bool) -> Cell<'static> {
        let view = row.view();
        let text = match self {
            Bar => return Cell::from(bar(view, usize::from(bar_width))),
            View => shorten(&view.id, width).into_owned(),
            Vm => view.vm.as_ref().map_or_else(|| "-".into(), |vm| shorten(vm.as_str(), width).into_owned()),
            Kind => view.kind.clone(),
            Cost => iec_short_or_dash(view.cost_bytes),
            Growth => growth(row.growth),
            Private => iec_short(view.private_bytes),
            Copied => iec_short_or_dash(view.cow_anon_bytes),
            Cached => iec_short_or_dash(view.cached_bytes),
            Saved => iec_short_or_dash(view.saved_bytes),
            Template => shorten(&template(&row.listed, several_mounts), width).into_owned(),
        };
        Cell::from(Text::from(text).alignment(self.alignment()))
    }
}
