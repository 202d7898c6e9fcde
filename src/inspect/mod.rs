//! What each view costs, for every way of using it: the engine knows what a view owns, the page
//! cache what the kernel keeps of it, and /proc what its mappings copied.

mod cache;
mod figures;
mod looks;
#[doc(hidden)]
pub mod metrics;
mod pages;
mod patience;
mod processes;
mod report;
mod resident;
#[doc(hidden)]
pub mod summary;
mod templates;

use std::sync::Arc;
use std::time::Duration;

#[doc(hidden)]
pub use cache::answer as answer_page_cache;
#[doc(hidden)]
pub use figures::is_looked_at;
#[doc(hidden)]
pub use pages::{Holding, ResidentPages};
#[doc(hidden)]
pub use processes::OpenFiles;
pub use report::{OpenerReport, ProcessReport, Report, SCHEMA, SetAsideReport, ViewReport, read};
#[doc(hidden)]
pub use resident::union;
#[doc(hidden)]
pub use templates::{TemplateList, TemplateReport};

use crate::access::Caller;
use crate::caller::is_operator;
use crate::engine::{Engine, ViewSnapshot};
use crate::mount::Device;
use cache::{Cached, Wanted};
use figures::Figures;
use looks::Looks;
use patience::{Patience, Subject};

/// How much longer a look at the page cache may take for each file.
const A_LOOK: Duration = Duration::from_millis(20);

/// Looks at the views of one mount.
#[doc(hidden)]
pub struct Inspector {
    engine: Arc<Engine>,
    device: Device,
}

impl Inspector {
    pub fn new(engine: Arc<Engine>, device: Device) -> Self {
        Self { engine, device }
    }

    /// The figures of the views that `caller` may see. Asks the mount: never to be called by a
    /// thread that serves it.
    pub fn report(&self, caller: &Caller) -> Report {
        let set_aside = self.engine.set_aside(caller).into_iter().map(SetAsideReport::of).collect();
        Report { schema: SCHEMA, views: self.look(caller, self.engine.snapshot(caller)), set_aside }
    }

    /// The figures of one view, as [`Self::report`] has them; None where `caller` sees no such view.
    pub fn view(&self, caller: &Caller, id: &str) -> Option<ViewReport> {
        self.look(caller, vec![self.engine.snapshot_of(caller, id)?]).pop()
    }

    /// The figures of the view that a node stands for, which need not be open. Unless `looking`,
    /// those of a view in use that only the kernel knows ([`is_looked_at`]) are left unknown, and
    /// the rest costs little.
    pub fn node(&self, caller: &Caller, node: u64, looking: bool) -> Option<ViewReport> {
        let view = self.engine.snapshot_of_node(caller, node)?;
        if looking && !view.openers.is_empty() {
            return self.look(caller, vec![view]).pop();
        }
        Some(Figures::new(&self.engine, None).view(view, None))
    }

    fn look(&self, caller: &Caller, mut views: Vec<ViewSnapshot>) -> Vec<ViewReport> {
        let caches = self.caches(&views);
        // Later than the page cache: a dirty page that is written back meanwhile is in both, never in neither.
        for view in &mut views {
            view.usage = self.engine.usage_now(view).unwrap_or(view.usage);
        }
        let looks = self.looks(caller, &views);
        let mut figures = Figures::new(&self.engine, Some(looks));
        views.into_iter().zip(caches).map(|(view, cache)| figures.view(view, cache)).collect()
    }

    fn looks(&self, caller: &Caller, views: &[ViewSnapshot]) -> Looks {
        Looks::take(caller, self.device, views.iter().filter_map(|view| view.node))
    }

    /// The page cache of each view's own inode. One that is passed through has none: its pages are
    /// the template's. Nor has one that nobody has open.
    fn caches(&self, views: &[ViewSnapshot]) -> Vec<Option<Cached>> {
        let own = |view: &&ViewSnapshot| view.node.is_some() && !view.passed_through;
        let pids = |view: &ViewSnapshot| view.openers.iter().map(|opener| opener.pid).collect();
        let wanted: Vec<Wanted> =
            views.iter().filter(own).filter_map(|view| Some((view.node?, pids(view)))).collect();
        let (engine, count) = (self.engine.clone(), wanted.len());
        let look = move || cache::look(&engine, &wanted);
        let mut patience = Patience::new().longer(A_LOOK * count as u32);
        let found = match patience.look(Subject::PageCache, look) {
            Some(Ok(found)) => found,
            Some(Err(error)) => {
                log::warn!("the page cache of views is unknown: {error}");
                vec![None; count]
            }
            None => vec![None; count],
        };
        let mut found = found.into_iter();
        let next = |view| if own(&view) { found.next().flatten() } else { Some(Cached::default()) };
        views.iter().map(next).collect()
    }

    /// The same added up, in Prometheus' text format.
    pub fn metrics(&self, caller: &Caller) -> String {
        // What others did is theirs to know, and root's, and whose mount it is.
        let sees_all = is_operator(caller);
        let directory = self.engine.views().directory().to_owned();
        let room = move || rustix::fs::statvfs(&directory).ok();
        let state = Patience::new().look(Subject::StateDirectory, room).flatten();
        metrics::render(&metrics::Figures {
            report: self.report(caller),
            totals: if sees_all { self.engine.totals().to_vec() } else { Vec::new() },
            restarts: self.engine.takeovers(),
            budget: self.engine.budget().limit(),
            promised: self.engine.budget().promised(),
            state: state.map(|s| metrics::Room {
                size_bytes: s.f_blocks.saturating_mul(s.f_frsize),
                available_bytes: s.f_bavail.saturating_mul(s.f_frsize),
            }),
        })
    }
}
