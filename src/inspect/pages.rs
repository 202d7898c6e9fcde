//! Which pages of a view the processes that map it have in memory.

use std::ops::Range;

use super::Inspector;
use super::patience::Patience;
use super::processes::Mappers;
use super::resident::{runs, union};
use crate::access::Caller;
use crate::caller::{comm, uid_of};
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
    /// None where there is no such view for `caller`. Takes its time: never to be called by a
    /// thread that serves the mount.
    pub fn resident_pages(&self, caller: &Caller, id: &str) -> Option<ResidentPages> {
        let view = self.engine.snapshot(caller).into_iter().find(|view| view.id == id)?;
        let Some(node) = view.node else { return Some(ResidentPages::default()) };
        let mappers = Mappers::scan(self.device);
        let mut patience = Patience::new();
        let mut unknown: Vec<u32> =
            view.openers.iter().map(|opener| opener.pid).filter(|pid| mappers.is_unreadable(*pid)).collect();
        let mut found = Vec::new();
        for mapper in mappers.of(node) {
            let may_see = caller.uid == 0 || uid_of(mapper.pid) == Some(caller.uid);
            let look = {
                let mapper = mapper.clone();
                move || runs(&mapper)
            };
            match may_see.then(|| patience.look(mapper.pid, look)).flatten() {
                Some(Ok(runs)) => found.extend(runs),
                // One that ended meanwhile holds nothing any more.
                _ if uid_of(mapper.pid).is_none() => {}
                _ => unknown.push(mapper.pid),
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        let unknown = unknown.into_iter().map(|pid| (pid, comm(pid))).collect();
        Some(ResidentPages { runs: merged(found), unknown })
    }
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
