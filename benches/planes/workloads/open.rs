//! How long opening takes by size of the template and by number of live views, and what idle views cost.

use std::time::{Duration, Instant};

use super::{Log, make, micros, open};
use crate::arguments::Plan;
use crate::report::figures::{IDLE_MEMORY, OPEN_BY_SIZE, OPEN_BY_VIEWS, Sharing};
use crate::report::stats::Summary;
use crate::subjects::{Subject, View};
use crate::template::Template;
use crate::{Result, memory};

/// An open that copies the template takes long: after this time so few are enough.
const ENOUGH: Duration = Duration::from_secs(1);
const LEAST: usize = 3;

/// Where QEMU would map it: shared where it can be.
fn sharing(subject: &dyn Subject) -> Sharing {
    if subject.writable() { Sharing::Shared } else { Sharing::Private }
}

/// Of a file that is there, or, where opening makes it, of a new one each time.
pub fn median(view: &View, sharing: Sharing, opens: usize) -> Result<f64> {
    let mut times = Vec::new();
    let end = Instant::now() + ENOUGH;
    while times.len() < LEAST || times.len() < opens && Instant::now() < end {
        let begin = Instant::now();
        let opened = open(view, sharing)?;
        times.push(micros(begin.elapsed()));
        drop(opened);
    }
    Ok(Summary::of(&times).ok_or("no opens")?.median)
}

pub fn by_size(subject: &mut dyn Subject, template: &Template, plan: &Plan, log: &mut Log) -> Result<()> {
    let view = make(subject, template, log)?;
    let median = median(&view, sharing(subject), plan.opens)?;
    log.add(OPEN_BY_SIZE, median);
    Ok(())
}

/// Keeps ever more views open; `add` records (figure, number of live views, value).
pub fn by_views(
    subject: &mut dyn Subject,
    template: &Template,
    plan: &Plan,
    mut add: impl FnMut(&str, usize, f64),
) -> Result<()> {
    let mut silent = Log { run: None, subject: subject.name(), at: "" };
    let view = make(subject, template, &mut silent)?;
    let daemon = view.server.ok_or("it has no daemon")?;
    let resident = || -> Result<u64> {
        memory::family(daemon).into_iter().map(|pid| memory::resident(pid, "VmRSS:")).sum()
    };
    let before = resident()?;
    let mut live = Vec::new();
    for &wanted in &plan.live {
        while live.len() < wanted {
            let opened = view.open().map_err(|error| format!("view {}: {error}", live.len() + 1))?;
            live.push(opened);
        }
        add(OPEN_BY_VIEWS, wanted, median(&view, sharing(subject), plan.opens)?);
        if wanted >= 100 {
            let grown = resident()?.saturating_sub(before);
            add(IDLE_MEMORY, wanted, grown as f64 / wanted as f64);
        }
    }
    Ok(())
}
