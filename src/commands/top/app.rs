//! What `top` knows and what keys do to it. Pure: times are handed in.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::commands::views::Collected;
use crate::inspect::ViewReport;
use crate::inspect::summary::{Listed, Sums, by_label, by_name, count_vms, largest_first};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Cost,
    Private,
    Growth,
    Name,
    Vm,
}

pub struct Row {
    pub listed: Listed,
    /// Bytes of cost per second since the look before; None for a view that is new or whose cost
    /// is unknown.
    pub growth: Option<i64>,
}

impl Row {
    pub fn view(&self) -> &ViewReport {
        &self.listed.view
    }

    fn identity(&self) -> Identity {
        (self.listed.mountpoint.clone(), self.view().id.clone())
    }
}

/// Mountpoint and id.
type Identity = (String, String);

pub struct App {
    /// What is watched.
    pub place: String,
    pub order: Order,
    pub reversed: bool,
    pub totals: Sums,
    pub vms: usize,
    /// Of the total cost, so that views that come and go count too.
    pub growth: Option<i64>,
    /// Views that cannot be used as they are.
    pub set_aside: usize,
    /// When the figures were read.
    pub read: Option<Instant>,
    /// From this age on figures are old.
    pub patience: Duration,
    /// The detail pane is open.
    pub detail: bool,
    /// How many processes of the detail pane are scrolled away.
    pub scrolled: usize,
    /// Rows that PageUp and PageDown move by.
    pub page: usize,
    pub quit: bool,
    rows: Vec<Row>,
    selected: Option<Identity>,
    /// Where the selected view was last.
    position: usize,
}

impl App {
    /// `interval`: how often figures are to be expected.
    pub fn new(place: String, interval: Duration) -> Self {
        Self {
            place,
            patience: (3 * interval).max(Duration::from_secs(10)),
            order: Order::Cost,
            reversed: false,
            totals: Sums::of([]),
            vms: 0,
            growth: None,
            set_aside: 0,
            read: None,
            detail: false,
            scrolled: 0,
            page: 10,
            quit: false,
            rows: Vec::new(),
            selected: None,
            position: 0,
        }
    }

    /// In the order that was asked for.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn listed(&self) -> impl Iterator<Item = &Listed> {
        self.rows.iter().map(|row| &row.listed)
    }

    /// Which row is selected. None: none, or its view is gone.
    pub fn selected(&self) -> Option<usize> {
        let (mountpoint, id) = self.selected.as_ref()?;
        self.rows.iter().position(|row| row.listed.mountpoint == *mountpoint && row.view().id == *id)
    }

    /// What the detail pane is about, also when it is gone.
    pub fn selected_id(&self) -> &str {
        self.selected.as_ref().map_or("", |(_, id)| id)
    }

    pub fn show(&mut self, collected: Collected, now: Instant) {
        self.set_aside = collected.set_aside.len();
        self.update(collected.views, now);
    }

    pub fn update(&mut self, views: Vec<Listed>, now: Instant) {
        let elapsed = self.read.map(|before| now.saturating_duration_since(before).as_secs_f64());
        let rate = |before: Option<u64>, after: Option<u64>| {
            let elapsed = elapsed.filter(|elapsed| *elapsed > 0.0)?;
            Some(((after? as f64 - before? as f64) / elapsed).round() as i64)
        };
        let totals = Sums::of(views.iter().map(|listed| &listed.view));
        self.growth = rate(self.totals.cost_bytes, totals.cost_bytes);
        let before: HashMap<Identity, &Row> = self.rows.iter().map(|row| (row.identity(), row)).collect();
        let row = |listed: Listed| {
            let mut row = Row { listed, growth: None };
            // A younger one of the same name is another view.
            let same = before.get(&row.identity()).map(|row| row.view());
            let same = same.filter(|same| same.age_seconds <= row.view().age_seconds);
            row.growth = same.and_then(|same| rate(same.cost_bytes, row.view().cost_bytes));
            row
        };
        self.vms = count_vms(&views);
        self.rows = views.into_iter().map(row).collect();
        self.totals = totals;
        self.read = Some(now);
        self.sort();
        self.follow();
    }

    pub fn key(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let page = isize::try_from(self.page.max(1)).unwrap_or(isize::MAX);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.quit = true,
            KeyCode::Char('q') => self.quit = true,
            KeyCode::Char('c') => self.order_by(Order::Cost),
            KeyCode::Char('p') => self.order_by(Order::Private),
            KeyCode::Char('g') => self.order_by(Order::Growth),
            KeyCode::Char('n') => self.order_by(Order::Name),
            KeyCode::Char('v') => self.order_by(Order::Vm),
            KeyCode::Char('r') => {
                self.reversed = !self.reversed;
                self.sort();
            }
            KeyCode::Enter => self.open(),
            KeyCode::Esc => {
                self.detail = false;
                self.follow();
            }
            KeyCode::PageUp if self.detail => self.scroll(-5),
            KeyCode::PageDown if self.detail => self.scroll(5),
            KeyCode::Up => self.step(-1),
            KeyCode::Down => self.step(1),
            KeyCode::PageUp => self.step(-page),
            KeyCode::PageDown => self.step(page),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            _ => {}
        }
    }

    fn order_by(&mut self, order: Order) {
        self.order = order;
        self.reversed = false;
        self.sort();
    }

    fn sort(&mut self) {
        let order = self.order;
        self.rows.sort_by(|a, b| compare(a, b, order).then_with(|| by_name(&a.listed, &b.listed)));
        if self.reversed {
            self.rows.reverse();
        }
    }

    fn open(&mut self) {
        if self.selected().is_none() {
            self.select(self.position);
        }
        (self.detail, self.scrolled) = (self.selected().is_some(), 0);
    }

    /// The selection stays with its view wherever that moves. Once the view is gone it stays where
    /// it was, but a detail pane does not change to another view by itself.
    fn follow(&mut self) {
        match self.selected() {
            Some(position) => self.position = position,
            None if self.selected.is_some() && !self.detail => self.select(self.position),
            None => {}
        }
    }

    fn step(&mut self, by: isize) {
        match self.selected() {
            Some(position) => self.select(position.saturating_add_signed(by)),
            None => self.select(self.position),
        }
    }

    /// The last one where there are not so many.
    fn select(&mut self, position: usize) {
        self.scrolled = 0;
        self.position = position.min(self.rows.len().saturating_sub(1));
        self.selected = self.rows.get(self.position).map(Row::identity);
    }

    fn scroll(&mut self, by: isize) {
        let processes = self.selected().map_or(0, |row| self.rows[row].view().processes.len());
        self.scrolled = self.scrolled.saturating_add_signed(by).min(processes.saturating_sub(1));
    }
}

fn compare(a: &Row, b: &Row, order: Order) -> Ordering {
    let (left, right) = (a.view(), b.view());
    match order {
        Order::Cost => largest_first(left.cost_bytes, right.cost_bytes),
        Order::Private => largest_first(Some(left.private_bytes), Some(right.private_bytes)),
        Order::Growth => largest_first(a.growth, b.growth),
        Order::Name => Ordering::Equal,
        Order::Vm => by_label(left.vm.as_ref(), right.vm.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::summary::samples::listed;

    fn cost(id: &str, vm: Option<&str>, cost: Option<u64>) -> Listed {
        listed(id, vm, |view| view.cost_bytes = cost)
    }

    fn press(app: &mut App, codes: &[KeyCode]) {
        for code in codes {
            app.key((*code).into());
        }
    }

    fn ids(app: &App) -> Vec<&str> {
        app.rows().iter().map(|row| &*row.view().id).collect()
    }

    fn three() -> (App, Instant) {
        let (mut app, now) = (App::new("/mnt/t".into(), Duration::from_secs(2)), Instant::now());
        app.update(
            vec![cost("a", Some("z"), Some(100)), cost("b", None, Some(300)), cost("c", Some("y"), None)],
            now,
        );
        (app, now)
    }

    #[test]
    fn keys_sort_and_r_turns_round() {
        let (mut app, now) = three();
        assert_eq!(ids(&app), ["b", "a", "c"]);
        app.update(
            vec![cost("a", Some("z"), Some(900)), cost("b", None, Some(290)), cost("c", Some("y"), Some(1))],
            now + Duration::from_secs(2),
        );
        for (key, expected) in [
            ('c', ["a", "b", "c"]),
            ('g', ["a", "b", "c"]),
            ('r', ["c", "b", "a"]),
            ('n', ["a", "b", "c"]),
            ('r', ["c", "b", "a"]),
            ('v', ["c", "a", "b"]),
            ('p', ["a", "b", "c"]),
        ] {
            press(&mut app, &[KeyCode::Char(key)]);
            assert_eq!(ids(&app), expected, "{key}");
        }
    }

    #[test]
    fn growth_is_per_second_and_unknown_for_what_is_new_or_unknown() {
        let (mut app, now) = three();
        assert!(app.growth.is_none() && app.rows().iter().all(|row| row.growth.is_none()));
        let mut again = cost("b", None, Some(900));
        again.view.age_seconds = 0.5;
        app.update(
            vec![cost("a", Some("z"), Some(50)), again, cost("c", None, Some(7)), cost("d", None, Some(1))],
            now + Duration::from_secs(2),
        );
        press(&mut app, &[KeyCode::Char('n')]);
        assert_eq!(
            app.rows().iter().map(|row| row.growth).collect::<Vec<_>>(),
            [Some(-25), None, None, None]
        );
        // c's cost was unknown, and so was the total.
        assert_eq!(app.growth, None);
        app.update(vec![cost("a", None, Some(8))], now + Duration::from_secs(4));
        assert_eq!(app.growth, Some(-475));
        app.update(vec![cost("a", None, Some(9))], now + Duration::from_secs(4));
        assert_eq!((app.growth, app.rows()[0].growth), (None, None));
    }

    #[test]
    fn the_selection_stays_with_its_view() {
        let (mut app, now) = three();
        assert_eq!(app.selected(), None);
        press(&mut app, &[KeyCode::Down, KeyCode::Down]);
        assert_eq!((app.selected(), app.selected_id()), (Some(1), "a"));
        press(&mut app, &[KeyCode::Char('n')]);
        assert_eq!(app.selected(), Some(0));
        press(&mut app, &[KeyCode::Up, KeyCode::PageDown, KeyCode::Down, KeyCode::End]);
        assert_eq!((app.selected(), app.selected_id()), (Some(2), "c"));
        app.update(vec![cost("a", None, None), cost("b", None, None)], now);
        assert_eq!((app.selected(), app.selected_id()), (Some(1), "b"));
        press(&mut app, &[KeyCode::PageUp]);
        assert_eq!(app.selected(), Some(0));
        app.update(Vec::new(), now);
        press(&mut app, &[KeyCode::Down, KeyCode::Enter]);
        assert_eq!((app.selected(), app.detail), (None, false));
    }

    #[test]
    fn the_detail_pane_does_not_change_to_another_view_by_itself() {
        let (mut app, now) = three();
        press(&mut app, &[KeyCode::Enter]);
        assert!(app.detail && app.selected_id() == "b");
        app.update(vec![cost("a", None, Some(1))], now);
        assert_eq!((app.selected(), app.selected_id()), (None, "b"));
        press(&mut app, &[KeyCode::Esc]);
        assert_eq!((app.detail, app.selected_id(), app.quit), (false, "a", false));
        press(&mut app, &[KeyCode::Char('q')]);
        assert!(app.quit);
    }

    #[test]
    fn control_c_quits_and_c_sorts() {
        let (mut app, _) = three();
        app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(app.quit);
    }
}
