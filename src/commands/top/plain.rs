//! A frame of `top` where there is no terminal: text and nothing else. Pure.

use super::app::App;
use super::draw::{growth, totals};
use crate::commands::table::{Align, Table, iec_short, iec_short_or_dash};
use crate::commands::views::{COLUMNS, several_mounts, template};

pub fn frame(app: &App) -> String {
    let mut table = Table::new([
        ("VIEW", Align::Left),
        ("VM", Align::Left),
        ("KIND", Align::Left),
        ("COST", Align::Right),
        ("GROWTH/s", Align::Right),
        ("PRIVATE", Align::Right),
        ("COPIED", Align::Right),
        ("CACHED", Align::Right),
        ("SAVED", Align::Right),
        ("TEMPLATE", Align::Left),
    ]);
    let several = several_mounts(app.listed());
    for row in app.rows() {
        let view = row.view();
        table.row([
            view.id.clone(),
            view.vm.as_ref().map_or_else(|| "-".into(), ToString::to_string),
            view.kind.clone(),
            iec_short_or_dash(view.cost_bytes),
            growth(row.growth),
            iec_short(view.private_bytes),
            iec_short_or_dash(view.cow_anon_bytes),
            iec_short_or_dash(view.cached_bytes),
            iec_short_or_dash(view.saved_bytes),
            template(&row.listed, several),
        ]);
    }
    format!("{}\n{}", totals(app), table.render_within(COLUMNS))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::inspect::summary::samples::listed;

    #[test]
    fn a_frame_is_plain_text() {
        let (mut app, now) = (App::new("/mnt/t".into(), Duration::from_secs(2)), Instant::now());
        let view = |cost| listed("web-1", Some("web"), |view| view.cost_bytes = Some(cost));
        app.update(vec![view(4096)], now);
        app.update(vec![view(4096 + (3 << 20))], now + Duration::from_secs(2));
        assert_eq!(
            frame(&app),
            "1 view  1 VM  cost 3.0 MiB  saved 1.0 MiB  growth +1.5 MiB/s\n\
             VIEW   VM   KIND     COST  GROWTH/s  PRIVATE  COPIED  CACHED  SAVED  TEMPLATE\n\
             web-1  web  private  3.0M     +1.5M        0       0       0   1.0M  debian/12.ram\n"
        );
    }
}
