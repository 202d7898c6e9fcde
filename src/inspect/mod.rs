//! What each view costs, for every way of using it: the engine knows what a view owns, the page
//! cache what the kernel keeps of it, and /proc what its mappings copied.

mod cache;
pub mod metrics;
mod pages;
mod patience;
mod processes;
mod report;
mod resident;
pub mod summary;
mod templates;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use cache::answer as answer_page_cache;
pub use pages::{Holding, ResidentPages};
pub use report::{OpenerReport, ProcessReport, Report, SCHEMA, ViewReport};
pub use resident::union;
pub use templates::{TemplateList, TemplateReport};

use crate::access::Caller;
use crate::caller::{comm, uid_of};
use crate::engine::{Engine, ViewSnapshot};
use crate::mount::Device;
use crate::overlay::PAGE;
use cache::{Cached, Wanted};
use patience::Patience;
use processes::{Mapper, Mappers};
use resident::{Resident, covered, resident};

/// Looks at the views of one mount.
pub struct Inspector {
    engine: Arc<Engine>,
    device: Device,
    mountpoint: PathBuf,
}

impl Inspector {
    pub fn new(engine: Arc<Engine>, device: Device, mountpoint: PathBuf) -> Self {
        Self { engine, device, mountpoint }
    }

    /// The figures of the views that `caller` may see. Asks the mount: never to be called by a
    /// thread that serves it.
    pub fn report(&self, caller: &Caller) -> Report {
        let mut views = self.engine.snapshot(caller);
        let mappers = Mappers::scan(self.device);
        let caches = self.caches(&views);
        // Later than the page cache: a dirty page that is written back meanwhile is in both, never in neither.
        for view in &mut views {
            view.usage = self.engine.usage_now(view).unwrap_or(view.usage);
        }
        let mut patience = Patience::new();
        let view = |(view, cache)| self.view(caller, view, cache, &mappers, &mut patience);
        Report { schema: SCHEMA, views: views.into_iter().zip(caches).map(view).collect() }
    }

    /// The page cache of each view's own inode. One that is passed through has none: its pages are
    /// the template's. Nor has one that nobody has open.
    fn caches(&self, views: &[ViewSnapshot]) -> Vec<Option<Cached>> {
        let own = |view: &&ViewSnapshot| view.node.is_some() && !view.passed_through;
        let pids = |view: &ViewSnapshot| view.openers.iter().map(|opener| opener.pid).collect();
        let wanted: Vec<Wanted> =
            views.iter().filter(own).filter_map(|view| Some((view.node?, pids(view)))).collect();
        let found = cache::look(&self.engine, &self.mountpoint, &wanted).unwrap_or_else(|error| {
            log::warn!("the page cache of views is unknown: {error}");
            vec![None; wanted.len()]
        });
        let mut found = found.into_iter();
        let next = |view| if own(&view) { found.next().flatten() } else { Some(Cached::default()) };
        views.iter().map(next).collect()
    }

    /// The same added up, in Prometheus' text format.
    pub fn metrics(&self, caller: &Caller) -> String {
        // What others did is theirs to know, and root's, and whose mount it is.
        let sees_all = caller.uid == 0 || caller.uid == rustix::process::geteuid().as_raw();
        let state = rustix::fs::statvfs(self.engine.views().directory()).ok();
        metrics::render(&metrics::Figures {
            report: self.report(caller),
            totals: if sees_all { self.engine.totals().to_vec() } else { Vec::new() },
            state: state.map(|s| metrics::Room {
                size_bytes: s.f_blocks.saturating_mul(s.f_frsize),
                available_bytes: s.f_bavail.saturating_mul(s.f_frsize),
            }),
        })
    }

    fn view(
        &self,
        caller: &Caller,
        view: ViewSnapshot,
        cache: Option<Cached>,
        mappers: &Mappers,
        patience: &mut Patience<std::io::Result<Resident>>,
    ) -> ViewReport {
        let (processes, copied) = processes_of(caller, &view, mappers, patience);
        let cached = cache.map(|cache| cache.pages * PAGE);
        let cost = sum([Some(view.usage.private_bytes), copied.anon, copied.swap, cached]);
        let data = self.engine.template_data(&view);
        let saved = match (data, cost) {
            (Some(data), Some(cost)) => Some(data.saturating_sub(cost)),
            _ => None,
        };
        let counters = view.counters;
        ViewReport {
            id: view.id,
            template: view.template,
            vm: view.vm,
            kind: view.kind.into(),
            backing: view.backing.into(),
            backing_reason: view.backing_reason.map(Into::into),
            uid: view.uid,
            size_bytes: view.size,
            template_bytes: view.template_size,
            data_bytes: data,
            private_bytes: view.usage.private_bytes,
            zero_bytes: view.usage.zero_bytes,
            cow_anon_bytes: copied.anon,
            cow_swap_bytes: copied.swap,
            cached_bytes: cached,
            dirty_bytes: cache.map(|cache| cache.dirty * PAGE),
            shared_clean_bytes: copied.shared,
            cost_bytes: cost,
            saved_bytes: saved,
            opens: view.openers.len() as u64,
            opens_total: counters.opens,
            reads_total: counters.reads,
            read_bytes_total: counters.read_bytes,
            writes_total: counters.writes,
            write_bytes_total: counters.write_bytes,
            faults_served_total: counters.read_bytes.div_ceil(PAGE),
            prefetched_pages_total: 0,
            errors_total: counters.errors,
            age_seconds: view.since.elapsed().map_or(0.0, |age| age.as_secs_f64()),
            opener: view.openers.first().map(|o| OpenerReport { pid: o.pid, uid: o.uid, comm: comm(o.pid) }),
            processes,
        }
    }
}

/// What the processes that use a view hold of it together; None where one could not be read.
struct Copied {
    anon: Option<u64>,
    swap: Option<u64>,
    shared: Option<u64>,
}

fn processes_of(
    caller: &Caller,
    view: &ViewSnapshot,
    mappers: &Mappers,
    patience: &mut Patience<std::io::Result<Resident>>,
) -> (Vec<ProcessReport>, Copied) {
    let mapping: &[Mapper] = view.node.map_or(&[], |node| mappers.of(node));
    // A process may have it open, or mapped, or both.
    let mut pids: BTreeMap<u32, bool> = mapping.iter().map(|mapper| (mapper.pid, false)).collect();
    for opener in &view.openers {
        *pids.entry(opener.pid).or_default() |= opener.writable;
    }
    let shares_template = view.backing == "template";
    let mut ranges = Some(Vec::new());
    let mut largest = 0;
    let mut reports = Vec::new();
    for (pid, writable) in pids {
        let uid = uid_of(pid);
        let mapper = mapping.iter().find(|mapper| mapper.pid == pid);
        let may_see = caller.uid == 0 || uid == Some(caller.uid);
        let known = match mapper {
            Some(mapper) if may_see => {
                let mapper = mapper.clone();
                patience.look(pid, move || resident(&mapper)).and_then(Result::ok)
            }
            Some(_) => None,
            None if mappers.is_unreadable(pid) || !may_see => None,
            None => Some(Resident { ranges: Some(Vec::new()), ..Resident::default() }),
        };
        // One that ended while it was looked at holds nothing any more.
        if known.is_none() && uid_of(pid).is_none() {
            continue;
        }
        match (&mut ranges, known.as_ref().and_then(|known| known.ranges.clone())) {
            (Some(all), Some(some)) => all.extend(some),
            _ => ranges = None,
        }
        largest = largest.max(known.as_ref().map_or(0, |known| known.file));
        reports.push(ProcessReport {
            pid,
            comm: comm(pid),
            uid,
            writable,
            mappings: known.as_ref().map(|_| mapper.map_or(0, |mapper| mapper.mappings.len() as u64)),
            mapped_bytes: known.as_ref().map(|_| mapper.map_or(0, Mapper::mapped_bytes)),
            resident_bytes: known.as_ref().map(|known| known.anon + known.file),
            cow_anon_bytes: known.as_ref().map(|known| known.anon),
            cow_swap_bytes: known.as_ref().map(|known| known.swap),
        });
    }
    let shared = match ranges {
        _ if !shares_template => Some(0),
        Some(ranges) => Some(covered(ranges)),
        // From smaps alone: at least what the one that has most of it has.
        None => reports.iter().all(|report| report.resident_bytes.is_some()).then_some(largest),
    };
    let copied = Copied {
        anon: sum(reports.iter().map(|report| report.cow_anon_bytes)),
        swap: sum(reports.iter().map(|report| report.cow_swap_bytes)),
        shared,
    };
    (reports, copied)
}

/// None if one of them is unknown.
fn sum(figures: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    figures.into_iter().sum()
}
