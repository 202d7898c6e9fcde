//! Which plots there are. Pure.

use super::figures::{self, Access, Order, Sharing, touch};
use super::svg::{Bar, Line, bars, lines};
use super::{Role, Run};

const MIB: f64 = (1 << 20) as f64;
const LINES: [&str; 8] =
    ["#e06c10", "#2f9d94", "#8a55c0", "#374151", "#b91c1c", "#2563eb", "#a16207", "#0f766e"];

fn colour(role: Role) -> &'static str {
    match role {
        Role::Native => "#6b7280",
        Role::Kernel => "#2f9d94",
        Role::FusePeer => "#8a55c0",
        Role::Templatefs => "#e06c10",
    }
}

/// File names and contents; a plot of nothing is left out.
pub fn all(run: &Run) -> Vec<(&'static str, String)> {
    let first = touch(Order::Random, Access::Write, Sharing::Shared);
    let micros = "microseconds";
    let views = run.circumstances(figures::VIEWS_MEMORY);
    let mut all = vec![
        (
            "benchmark-first-touch.svg",
            bar_plot(run, &first, "random", "First write to a page, MAP_SHARED, random order", micros, 1.0),
        ),
        (
            "benchmark-clones.svg",
            bar_plot(
                run,
                figures::CLONE_TIME,
                "guest",
                "From starting a clone to its guest's answer",
                "milliseconds",
                1e3,
            ),
        ),
        (
            "benchmark-open-size.svg",
            line_plot(run, figures::OPEN_BY_SIZE, "open+fstat+mmap by size of the template"),
        ),
        (
            "benchmark-open-views.svg",
            line_plot(run, figures::OPEN_BY_VIEWS, "open+fstat+mmap by number of live views"),
        ),
    ];
    let count = views.iter().find(|count| **count == "8").or(views.last());
    all.extend(count.map(|count| {
        let title =
            format!("Memory per view: {count} views, each read 30 % and wrote another 10 % of its pages");
        ("benchmark-memory.svg", bar_plot(run, figures::VIEWS_MEMORY, count, &title, "MiB", MIB))
    }));
    all.into_iter().filter_map(|(name, svg)| Some((name, svg?))).collect()
}

fn bar_plot(run: &Run, figure: &str, at: &str, title: &str, unit: &str, scale: f64) -> Option<String> {
    let mut all = Vec::new();
    for subject in &run.subjects {
        let Some(mut summary) = run.summary(figure, at, &subject.name) else { continue };
        for value in
            [&mut summary.least, &mut summary.low, &mut summary.median, &mut summary.high, &mut summary.most]
        {
            *value /= scale;
        }
        all.push(Bar { label: subject.name.clone(), summary, colour: colour(subject.role) });
    }
    (!all.is_empty()).then(|| bars(title, unit, &all))
}

fn line_plot(run: &Run, figure: &str, title: &str) -> Option<String> {
    let places = run.circumstances(figure);
    let mut all = Vec::new();
    for subject in &run.subjects {
        let value = |(place, at): (usize, &&str)| Some((place, run.median(figure, at, &subject.name)?));
        let points: Vec<_> = places.iter().enumerate().filter_map(value).collect();
        if !points.is_empty() {
            all.push(Line { label: subject.name.clone(), colour: LINES[all.len() % LINES.len()], points });
        }
    }
    (!all.is_empty()).then(|| lines(title, "microseconds", &places, &all))
}
