//! The figures in Prometheus' text format (version 0.0.4): added up by kind, by template and by
//! VM, so that the number of series is bounded by these and not by the number of views.

use std::collections::BTreeMap;

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::{Report, ViewReport};
use crate::engine::CounterValues;

pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// More VMs or templates than this are added up under `other`: users choose the labels.
const MAX_SERIES: usize = 500;
const OTHER: &str = "other";

/// What is known at one moment.
pub struct Figures {
    pub report: Report,
    /// By the kind of view, since the mount was made; empty for who may not see them.
    pub totals: Vec<(&'static str, CounterValues)>,
    pub state: Option<Room>,
    /// Serving processes that died and were replaced.
    pub restarts: u64,
    /// What may be promised to private views, and what is, in bytes.
    pub budget: Option<u64>,
    pub promised: u64,
}

/// The filesystem that holds the state directory.
pub struct Room {
    pub size_bytes: u64,
    pub available_bytes: u64,
}

/// A figure of a view, and how it is described.
type Figure = (&'static str, &'static str, fn(&ViewReport) -> Option<u64>);

const BYTES: [Figure; 10] = [
    ("private", "Pages that views own in the state directory", |v| Some(v.private_bytes)),
    ("zero", "Punched pages, which cost nothing", |v| Some(v.zero_bytes)),
    ("cow_anon", "Pages that private mappings of views copied into their processes", |v| v.cow_anon_bytes),
    ("cow_swap", "Pages that private mappings of views copied, and that are swapped out", |v| {
        v.cow_swap_bytes
    }),
    ("cached", "Page cache of the views' own inodes", |v| v.cached_bytes),
    ("dirty", "Page cache of views that is not written back", |v| v.dirty_bytes),
    ("held", "Mapped pages whose write-back waits until the state directory takes it", |v| {
        Some(v.held_bytes)
    }),
    ("shared_clean", "Mapped pages in memory that are shared with the template", |v| v.shared_clean_bytes),
    ("cost", "What would be freed without the views: private, copied and cached", |v| v.cost_bytes),
    ("saved", "What full copies would have cost more", |v| v.saved_bytes),
];

type Total = (&'static str, &'static str, fn(&CounterValues) -> u64);

const TOTALS: [Total; 6] = [
    ("opens", "Opens of views since the mount was made", |c| c.opens),
    ("reads", "READ requests served", |c| c.reads),
    ("read_bytes", "Bytes that READ requests returned", |c| c.read_bytes),
    ("writes", "WRITE requests served", |c| c.writes),
    ("write_bytes", "Bytes that WRITE requests brought", |c| c.write_bytes),
    ("errors", "Requests for data that failed", |c| c.errors),
];

/// Unknown figures are left out of the sums, and counted.
pub fn render(figures: &Figures) -> String {
    // Names and labels are constants; one that does not register would be missed by the tests.
    build(figures)
        .and_then(|registry| TextEncoder::new().encode_to_string(&registry.gather()))
        .unwrap_or_default()
}

fn build(figures: &Figures) -> prometheus::Result<Registry> {
    let registry = Registry::new_custom(Some("templatefs".into()), None)?;
    let build = gauge("build_info", "Always 1; the version of the daemon", "version")?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    register(&registry, build)?;
    views(&registry, &figures.report)?;
    for (name, help, figure) in BYTES {
        let report = &figures.report;
        by(&registry, report, ("view", "kind", ""), |v| Some(v.kind.clone()), (name, help, figure))?;
        by(
            &registry,
            report,
            ("vm", "vm", ", by VM"),
            |v| v.vm.as_ref().map(ToString::to_string),
            (name, help, figure),
        )?;
        by(
            &registry,
            report,
            ("template", "template", ", by template"),
            |v| Some(v.template.clone()),
            (name, help, figure),
        )?;
    }
    for (name, help, total) in TOTALS {
        let counter = IntCounterVec::new(Opts::new(format!("{name}_total"), help), &["kind"])?;
        for (kind, values) in &figures.totals {
            counter.with_label_values(&[kind]).inc_by(total(values));
        }
        register(&registry, counter)?;
    }
    let help = "Serving processes that died and were replaced since the mount was made";
    let restarts = IntCounter::new("restarts_total", help)?;
    restarts.inc_by(figures.restarts);
    register(&registry, restarts)?;
    let help = "Room promised to private views that are open, if each of their pages were written";
    single(&registry, "promised_bytes", help, figures.promised)?;
    if let Some(budget) = figures.budget {
        let help = "Room that may be promised to private views (--budget times --overcommit)";
        single(&registry, "budget_bytes", help, budget)?;
    }
    if let Some(room) = &figures.state {
        let help = "Size of the filesystem that holds the state directory";
        single(&registry, "state_filesystem_size_bytes", help, room.size_bytes)?;
        let help = "Of it, what is free for the daemon";
        single(&registry, "state_filesystem_avail_bytes", help, room.available_bytes)?;
    }
    Ok(registry)
}

fn views(registry: &Registry, report: &Report) -> prometheus::Result<()> {
    let views = gauge("views", "Views that are there, open or named", "kind")?;
    let open = gauge("view_open_files", "Open files of views", "kind")?;
    for view in &report.views {
        views.with_label_values(&[&view.kind]).inc();
        open.with_label_values(&[&view.kind]).add(signed(view.opens));
    }
    register(registry, views)?;
    register(registry, open)?;
    let help = "Views that cannot be used and are left as they are";
    single(registry, "views_set_aside", help, report.set_aside.len() as u64)?;
    let unknown = report.views.iter().filter(|view| view.cost_bytes.is_none()).count();
    single(registry, "views_of_unknown_cost", "Views of which a process could not be read", unknown as u64)
}

/// One family of sums: which figure, and what it is added up by.
fn by(
    registry: &Registry,
    report: &Report,
    (prefix, label, suffix): (&str, &str, &str),
    key: impl Fn(&ViewReport) -> Option<String>,
    (name, help, figure): Figure,
) -> prometheus::Result<()> {
    let family = gauge(&format!("{prefix}_{name}_bytes"), &format!("{help}{suffix}"), label)?;
    for (key, sum) in sums(report, MAX_SERIES, key, figure) {
        family.with_label_values(&[key]).set(sum);
    }
    register(registry, family)
}

fn gauge(name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), &[label])
}

fn single(registry: &Registry, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(signed(value));
    register(registry, gauge)
}

fn register(registry: &Registry, family: impl Collector + 'static) -> prometheus::Result<()> {
    registry.register(Box::new(family))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn sums(
    report: &Report,
    limit: usize,
    key: impl Fn(&ViewReport) -> Option<String>,
    figure: fn(&ViewReport) -> Option<u64>,
) -> BTreeMap<String, i64> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for view in &report.views {
        let (Some(mut key), Some(value)) = (key(view), figure(view)) else { continue };
        if sums.len() >= limit && !sums.contains_key(&key) {
            key = OTHER.into();
        }
        let sum = sums.entry(key).or_default();
        *sum = sum.saturating_add(signed(value));
    }
    sums
}
