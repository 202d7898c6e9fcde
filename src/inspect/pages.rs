//! Which pages of a view the processes that map it have in memory.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::Inspector;
use super::looks::{Looks, has_ended};
use super::resident::union;
use crate::access::Caller;
use crate::engine::{PageRun, ViewSnapshot};
use crate::overlay::PAGE;
use crate::sys::PageKind;

/// How processes hold a page of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holding {
    /// The file's own page is in memory, and mapped.
    Mapped,
    /// A private mapping copied it, and the copy is in memory.
    Copied,
    /// The copy is swapped out.
    Swapped,
}

/// Each page at most once for each way of holding it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResidentPages {
    /// Page numbers, in order.
    pub runs: Vec<(Range<u64>, Holding)>,
    /// Processes whose pages are not among them, since they could not be read: pid and name.
    pub unknown: Vec<(u32, String)>,
}

impl Inspector {
    /// What processes that map these nodes have in memory of them, in bytes of the file; nothing of
    /// a process that cannot be looked at. Takes its time, as below.
    pub fn mapped(&self, nodes: &[u64]) -> HashMap<u64, Vec<Range<u64>>> {
        let daemon = Caller { uid: 0, gid: 0, pid: 0 };
        let looks = Looks::take(&daemon, self.device, nodes.iter().copied());
        let pages = |node: &u64| {
            let pids = looks.mappers.of(*node).iter().map(|mapper| mapper.pid);
            let runs = pids.filter_map(|pid| looks.of(pid, *node)?.runs.as_ref()).flatten();
            (*node, union(runs.map(|(range, _)| range.clone()).collect()))
        };
        nodes.iter().map(pages).collect()
    }

    /// None where there is no such view for `caller`. Takes its time: never to be called by a
    /// thread that serves the mount.
    pub fn resident_pages(&self, caller: &Caller, id: &str) -> Option<ResidentPages> {
        let view = self.engine.snapshot_of(caller, id)?;
        let mut looks = self.looks(caller, std::slice::from_ref(&view));
        Some(resident_pages(&view, &mut looks))
    }

    /// The pages of all views that `caller` may see, from one look at the processes: each view's
    /// id, whose its pages are, and which are in memory.
    pub fn all_pages(&self, caller: &Caller) -> Vec<(String, Vec<PageRun>, ResidentPages)> {
        let views = self.engine.snapshot(caller);
        let mut looks = self.looks(caller, &views);
        let pages = |view: ViewSnapshot| {
            let resident = resident_pages(&view, &mut looks);
            Some((view.id.clone(), self.engine.page_runs(&view)?, resident))
        };
        views.into_iter().filter_map(pages).collect()
    }
}

fn resident_pages(view: &ViewSnapshot, looks: &mut Looks) -> ResidentPages {
    let Some(node) = view.node else { return ResidentPages::default() };
    let openers = view.openers.iter().map(|opener| opener.pid);
    let mut unknown: BTreeSet<u32> = openers.filter(|pid| looks.mappers.is_unreadable(*pid)).collect();
    let mut found = Vec::new();
    for pid in looks.mappers.of(node).iter().map(|mapper| mapper.pid) {
        match looks.of(pid, node).and_then(|resident| resident.runs.as_ref()) {
            Some(runs) => found.extend(runs.iter().cloned()),
            None if has_ended(pid) => {}
            None => {
                unknown.insert(pid);
            }
        }
    }
    let unknown = unknown.into_iter().map(|pid| (pid, looks.comm(pid))).collect();
    ResidentPages { runs: merged(found), unknown }
}

fn merged(found: Vec<(Range<u64>, PageKind)>) -> Vec<(Range<u64>, Holding)> {
    let kinds = [
        (PageKind::File, Holding::Mapped),
        (PageKind::Anon, Holding::Copied),
        (PageKind::Swap, Holding::Swapped),
    ];
    let mut runs = Vec::new();
    for (kind, holding) in kinds {
        let of_kind = found.iter().filter(|(_, k)| *k == kind);
        let pages = of_kind.map(|(range, _)| range.start / PAGE..range.end.div_ceil(PAGE));
        runs.extend(union(pages.collect()).into_iter().map(|range| (range, holding)));
    }
    runs.sort_by_key(|(range, holding)| (range.start, *holding));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_processes_hold_alike_counts_once() {
        let page = |first: u64, end: u64| first * PAGE..end * PAGE;
        let found = vec![
            (page(4, 8), PageKind::File),
            (page(0, 2), PageKind::Anon),
            (page(6, 9), PageKind::File),
            (page(6, 7), PageKind::Swap),
        ];
        let expected = [(0..2, Holding::Copied), (4..9, Holding::Mapped), (6..7, Holding::Swapped)];
        assert_eq!(merged(found), expected);
    }
}
