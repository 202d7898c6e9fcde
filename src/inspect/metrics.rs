//! The figures in Prometheus' text format: added up by kind, by template and by VM, so that the
//! number of series is bounded by these and not by the number of views.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Report, ViewReport};

/// More VMs or templates than this are added up under `other`: users choose the labels.
const MAX_SERIES: usize = 500;
const OTHER: &str = "other";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VmLabel {
    vm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TemplateLabel {
    template: String,
}

/// A figure of a view, and how it is described.
type Figure = (&'static str, &'static str, fn(&ViewReport) -> Option<u64>);

const BYTES: [Figure; 8] = [
    ("private", "Pages that views own in the state directory", |v| Some(v.private_bytes)),
    ("zero", "Punched pages, which cost nothing", |v| Some(v.zero_bytes)),
    ("cow_anon", "Pages that private mappings of views copied into their processes", |v| v.cow_anon_bytes),
    ("cached", "Page cache of the views' own inodes", |v| v.cached_bytes),
    ("dirty", "Page cache of views that is not written back", |v| v.dirty_bytes),
    ("shared_clean", "Mapped pages in memory that are shared with the template", |v| v.shared_clean_bytes),
    ("cost", "What would be freed without the views: private, copied and cached", |v| v.cost_bytes),
    ("saved", "What full copies would have cost more", |v| v.saved_bytes),
];

const TOTALS: [Figure; 7] = [
    ("opens", "Opens of the views that are there now", |v| Some(v.opens_total)),
    ("reads", "READ requests served", |v| Some(v.reads_total)),
    ("read_bytes", "Bytes that READ requests returned", |v| Some(v.read_bytes_total)),
    ("writes", "WRITE requests served", |v| Some(v.writes_total)),
    ("write_bytes", "Bytes that WRITE requests brought", |v| Some(v.write_bytes_total)),
    ("faults_served", "Pages given on request", |v| Some(v.faults_served_total)),
    ("errors", "Requests that failed", |v| Some(v.errors_total)),
];

/// Unknown figures are left out of the sums, and counted.
pub fn render(report: &Report) -> String {
    let mut registry = Registry::with_prefix("templatefs");
    register_views(&mut registry, report);
    for (name, help, figure) in BYTES {
        let family = Family::<KindLabel, Gauge>::default();
        let by_vm = Family::<VmLabel, Gauge>::default();
        let by_template = Family::<TemplateLabel, Gauge>::default();
        for (kind, sum) in sums(report, MAX_SERIES, |v| Some(v.kind.clone()), figure) {
            family.get_or_create(&KindLabel { kind }).set(sum);
        }
        for (vm, sum) in sums(report, MAX_SERIES, |v| v.vm.as_ref().map(ToString::to_string), figure) {
            by_vm.get_or_create(&VmLabel { vm }).set(sum);
        }
        for (template, sum) in sums(report, MAX_SERIES, |v| Some(v.template.clone()), figure) {
            by_template.get_or_create(&TemplateLabel { template }).set(sum);
        }
        registry.register_with_unit(format!("view_{name}"), help, Unit::Bytes, family);
        registry.register_with_unit(format!("vm_{name}"), format!("{help}, by VM"), Unit::Bytes, by_vm);
        registry.register_with_unit(
            format!("template_{name}"),
            format!("{help}, by template"),
            Unit::Bytes,
            by_template,
        );
    }
    for (name, help, figure) in TOTALS {
        let family = Family::<KindLabel, Counter>::default();
        for (kind, sum) in sums(report, MAX_SERIES, |v| Some(v.kind.clone()), figure) {
            family.get_or_create(&KindLabel { kind }).inc_by(sum as u64);
        }
        registry.register(format!("view_{name}"), help, family);
    }
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn register_views(registry: &mut Registry, report: &Report) {
    let views = Family::<KindLabel, Gauge>::default();
    let open = Family::<KindLabel, Gauge>::default();
    for view in &report.views {
        let label = KindLabel { kind: view.kind.clone() };
        views.get_or_create(&label).inc();
        open.get_or_create(&label).inc_by(view.opens as i64);
    }
    let unknown: Gauge = Gauge::default();
    unknown.set(report.views.iter().filter(|view| view.cost_bytes.is_none()).count() as i64);
    registry.register("views", "Views that are there, open or named", views);
    registry.register("view_open_files", "Open files of views", open);
    registry.register("views_of_unknown_cost", "Views of which a process could not be read", unknown);
}

fn sums(
    report: &Report,
    limit: usize,
    key: impl Fn(&ViewReport) -> Option<String>,
    figure: fn(&ViewReport) -> Option<u64>,
) -> BTreeMap<String, i64> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for view in &report.views {
        let Some(mut key) = key(view) else { continue };
        if sums.len() >= limit && !sums.contains_key(&key) {
            key = OTHER.into();
        }
        let value = i64::try_from(figure(view).unwrap_or(0)).unwrap_or(i64::MAX);
        let sum = sums.entry(key).or_default();
        *sum = sum.saturating_add(value);
    }
    sums
}
