//! First touch of a fresh view's pages, then steady access to the same pages, then msync.

use std::time::Instant;

use super::{Log, Task, make, micros, open, scattered};
use crate::Result;
use crate::common::random::Random;
use crate::report::figures::{self, Access, Order, Sharing};
use crate::report::stats::Summary;
use crate::subjects::Subject;

const STEADY: usize = 1 << 20;

#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    pub order: Order,
    pub access: Access,
    pub sharing: Sharing,
}

impl Pattern {
    /// A file that is open for reading only is mapped privately only.
    pub fn fits(self, subject: &dyn Subject) -> bool {
        self.sharing == Sharing::Private || subject.writable()
    }
}

/// Views that cost a second's fraction are measured so often in each turn: their ratios are to tell 5 %.
const REPEATS: usize = 15;

pub fn measure(subject: &mut dyn Subject, task: Task, pattern: Pattern, log: &mut Log) -> Result<()> {
    // A view that is opened for writing would find a template that was used before.
    let repeats = if subject.writable() { 1 } else { REPEATS };
    (0..repeats).try_for_each(|_| once(subject, task, pattern, log))
}

fn once(subject: &mut dyn Subject, task: Task, pattern: Pattern, log: &mut Log) -> Result<()> {
    let Task { template, plan, seed } = task;
    let Pattern { order, access, sharing } = pattern;
    let mut random = Random::new(seed);
    let count = template.pages() / plan.touched;
    let pages = match order {
        Order::Random => scattered(&mut random, template.pages(), count),
        Order::Sequential => {
            let first = random.below((template.pages() - count) as u64) as usize;
            (first..first + count).collect()
        }
    };
    let view = make(subject, template, log)?;
    let (_file, mapping) = open(&view, sharing)?;
    let begin = Instant::now();
    match access {
        Access::Read => pages.iter().for_each(|page| _ = mapping.load(*page)),
        Access::Write => pages.iter().for_each(|page| mapping.store(*page, seed | 1)),
    }
    let touched = begin.elapsed();
    log.add(&figures::touch(order, access, sharing), micros(touched) / count as f64);

    if (order, access) == (Order::Random, Access::Write) {
        for access in Access::ALL {
            let passes = (0..STEADY / count).map(|pass| {
                let begin = Instant::now();
                match access {
                    Access::Read => pages.iter().for_each(|page| _ = mapping.load(*page)),
                    Access::Write => pages.iter().for_each(|page| mapping.store(*page, pass as u64)),
                }
                micros(begin.elapsed()) / count as f64
            });
            // A pass is shorter than a time slice: what runs beside it disturbs a few of them.
            let summary = Summary::of(&passes.collect::<Vec<_>>()).ok_or("no passes")?;
            log.add(&figures::steady(access, sharing), summary.median);
        }
        if sharing == Sharing::Shared {
            let begin = Instant::now();
            mapping.sync_all()?;
            log.add(figures::MSYNC, micros(begin.elapsed()) / count as f64);
        }
    }
    if (order, access) == (Order::Sequential, Access::Read)
        && subject.writable() == (sharing == Sharing::Shared)
    {
        log.add(figures::OPEN, super::open::median(&view, sharing, plan.opens)?);
    }
    if log.run.is_none() {
        subject.dwell();
    }
    Ok(())
}
