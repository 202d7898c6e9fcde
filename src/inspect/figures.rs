//! What is known of a view, put together.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::cache::Cached;
use super::looks::{Looks, has_ended};
use super::patience::{Patience, Subject};
use super::processes::Mapper;
use super::resident::{Resident, covered};
use super::{OpenerReport, ProcessReport, ViewReport};
use crate::caller::comm;
use crate::engine::{Engine, ViewSnapshot};
use crate::overlay::PAGE;
use crate::store::Identity;
use crate::sys::PageKind;

/// Is a figure known only to the kernel, so that a look at the page cache and at processes tells it?
pub fn is_looked_at(name: &str) -> bool {
    const LOOKED_AT: [&str; 7] = [
        "cow_anon_bytes",
        "cow_swap_bytes",
        "cached_bytes",
        "dirty_bytes",
        "shared_clean_bytes",
        "cost_bytes",
        "saved_bytes",
    ];
    LOOKED_AT.contains(&name)
}

/// Puts together the figures of several views.
pub struct Figures<'a> {
    engine: &'a Arc<Engine>,
    patience: Patience<Option<u64>>,
    looks: Option<Looks>,
    /// By template: reading the layout of one that nobody has open takes its time.
    data: HashMap<(PathBuf, Identity), Option<u64>>,
}

/// What the processes that use a view hold of it together; None where one could not be read.
#[derive(Default)]
struct Copied {
    anon: Option<u64>,
    swap: Option<u64>,
    shared: Option<u64>,
}

impl<'a> Figures<'a> {
    /// Without looks, what only these tell is unknown of a view in use; one that nobody has open
    /// is in no process and no page cache.
    pub fn new(engine: &'a Arc<Engine>, looks: Option<Looks>) -> Self {
        Self { engine, patience: Patience::new(), looks, data: HashMap::new() }
    }

    pub fn view(&mut self, view: ViewSnapshot, cache: Option<Cached>) -> ViewReport {
        let (processes, copied, cache) = match &mut self.looks {
            Some(looks) => {
                let (processes, copied) = processes_of(&view, looks);
                (processes, copied, cache)
            }
            None if view.openers.is_empty() => {
                let none = Copied { anon: Some(0), swap: Some(0), shared: Some(0) };
                (Vec::new(), none, Some(Cached::default()))
            }
            None => (Vec::new(), Copied::default(), None),
        };
        let cached = cache.map(|cache| cache.pages * PAGE);
        let cost = sum([Some(view.usage.private_bytes), copied.anon, copied.swap, cached]);
        let data = self.template_data(&view);
        let saved = match (data, cost) {
            (Some(data), Some(cost)) => Some(data.saturating_sub(cost)),
            _ => None,
        };
        let opener = view.openers.first().map(|opener| OpenerReport {
            pid: opener.pid,
            uid: opener.uid,
            comm: match &mut self.looks {
                Some(looks) => looks.comm(opener.pid),
                None => comm(opener.pid),
            },
        });
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
            shown_bytes: view.template_shown,
            data_bytes: data,
            private_bytes: view.usage.private_bytes,
            zero_bytes: view.usage.zero_bytes,
            cow_anon_bytes: copied.anon,
            cow_swap_bytes: copied.swap,
            cached_bytes: cached,
            dirty_bytes: cache.map(|cache| cache.dirty * PAGE),
            held_bytes: counters.held_bytes,
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
            prefetched_pages_total: counters.prefetched,
            errors_total: counters.errors,
            age_seconds: view.since.elapsed().map_or(0.0, |age| age.as_secs_f64()),
            opener,
            processes,
        }
    }

    /// The views of one template that are open share its pin, which knows it once it was read; of
    /// those that are not, each would read it again.
    fn template_data(&mut self, view: &ViewSnapshot) -> Option<u64> {
        if let Some(known) = self.engine.known_template_data(view) {
            return known;
        }
        let key = view.template_key();
        if let Some(known) = self.data.get(&key) {
            return *known;
        }
        let subject = Subject::Template(key.1.file());
        let (engine, view) = (self.engine.clone(), view.clone());
        let data = self.patience.look(subject, move || engine.template_data(&view)).flatten();
        self.data.insert(key, data);
        data
    }
}

fn processes_of(view: &ViewSnapshot, looks: &mut Looks) -> (Vec<ProcessReport>, Copied) {
    let mapping: Vec<Mapper> = view.node.map_or_else(Vec::new, |node| looks.mappers.of(node).to_vec());
    // A process may have it open, or mapped, or both.
    let mut pids: BTreeMap<u32, bool> = mapping.iter().map(|mapper| (mapper.pid, false)).collect();
    for opener in &view.openers {
        *pids.entry(opener.pid).or_default() |= opener.writable;
    }
    let shares_template = view.backing == "template";
    let mut ranges = Some(Vec::new());
    let mut file_pages = Some(0);
    let mut reports = Vec::new();
    for (pid, writable) in pids {
        let mapper = mapping.iter().find(|mapper| mapper.pid == pid);
        let known = match (mapper, view.node) {
            (Some(_), Some(node)) => looks.of(pid, node).cloned(),
            _ if looks.mappers.is_unreadable(pid) || !looks.may_see(pid) => None,
            _ => Some(Resident::none()),
        };
        // One that ended while it was looked at holds nothing any more.
        if known.is_none() && has_ended(pid) {
            continue;
        }
        let of_file = known.as_ref().and_then(|known| known.runs.as_ref()).map(|runs| {
            runs.iter().filter(|(_, kind)| *kind == PageKind::File).map(|(range, _)| range.clone())
        });
        match (&mut ranges, of_file) {
            (Some(all), Some(some)) => all.extend(some),
            _ => ranges = None,
        }
        file_pages = sum([file_pages, known.as_ref().map(|known| known.file)]);
        reports.push(ProcessReport {
            pid,
            comm: looks.comm(pid),
            uid: looks.uid(pid),
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
        // smaps tells how much is there and not which pages: enough where each page can be mapped
        // once only.
        None if overlap(&mapping) => None,
        None => file_pages,
    };
    let copied = Copied {
        anon: sum(reports.iter().map(|report| report.cow_anon_bytes)),
        swap: sum(reports.iter().map(|report| report.cow_swap_bytes)),
        shared,
    };
    (reports, copied)
}

/// Is any page of the file mapped twice?
fn overlap(mappers: &[Mapper]) -> bool {
    let mappings = mappers.iter().flat_map(|mapper| &mapper.mappings);
    let spans: Vec<_> = mappings.map(|m| m.offset..m.offset + m.addresses.end - m.addresses.start).collect();
    spans.iter().map(|span| span.end - span.start).sum::<u64>() > covered(spans)
}

/// None if one of them is unknown.
fn sum(figures: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    figures.into_iter().sum()
}
