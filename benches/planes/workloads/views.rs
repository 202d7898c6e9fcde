//! Many views at once: each reads 30 % of its pages and writes another 10 %.

use std::collections::HashSet;
use std::time::Instant;

use super::{Log, make, micros, open, scattered, timed};
use crate::common::random::Random;
use crate::report::figures::{Sharing, VIEWS_MEMINFO, VIEWS_MEMORY, VIEWS_OWN, VIEWS_TIME, VIEWS_TOUCHED};
use crate::subjects::{Subject, View};
use crate::template::Template;
use crate::{PAGE, Result, memory};

const READ: usize = 30;
const WRITTEN: usize = 10;

pub fn measure(
    subject: &mut dyn Subject,
    template: &Template,
    count: usize,
    seed: u64,
    log: &mut Log,
) -> Result<()> {
    let sharing = if subject.writable() { Sharing::Shared } else { Sharing::Private };
    let mut random = Random::new(seed);
    let pages = template.pages();
    let (read, written) = (pages * READ / 100, pages * WRITTEN / 100);
    let before = memory::in_use()?;
    let mut live = Vec::new();
    let mut time = 0.0;
    for _ in 0..count {
        let touched = scattered(&mut random, pages, read + written);
        let (view, making) = timed(|| make(subject, template, log))?;
        if subject.makes() {
            time += micros(making);
        }
        let begin = Instant::now();
        let (file, mapping) = open(&view, sharing)?;
        touched[..read].iter().for_each(|page| _ = mapping.load(*page));
        touched[read..].iter().for_each(|page| mapping.store(*page, seed | 1));
        time += micros(begin.elapsed());
        live.push((mapping, file, view));
    }
    // What is dirty has to be kept somewhere: count it where it ends up.
    for (mapping, ..) in live.iter().filter(|_| sharing == Sharing::Shared) {
        mapping.sync_all()?;
    }
    if log.run.is_none() {
        subject.dwell();
    }
    let each = |bytes: u64| bytes as f64 / count as f64;
    log.add(VIEWS_TIME, time);
    log.add(VIEWS_TOUCHED, ((read + written) * PAGE) as f64);
    log.add(VIEWS_MEMINFO, each(memory::in_use()?.saturating_sub(before)));
    log.add(VIEWS_MEMORY, each(counted(template, &live)?));
    if let Some(own) = subject.own_figure() {
        log.add(VIEWS_OWN, each(own?));
    }
    Ok(())
}

/// Page cache of the views, of the files that keep their data and of what their servers have open, the
/// template aside; what mappings copied; what the servers have on their heaps.
fn counted(template: &Template, live: &[(crate::common::maps::Mapping, std::fs::File, View)]) -> Result<u64> {
    let mut known = HashSet::from([memory::identity(&template.path)?]);
    let mut total = 0;
    let mut servers = HashSet::new();
    for (mapping, file, view) in live {
        total += memory::copied(mapping)?;
        total += memory::cached([file.try_clone()?], &mut known)?;
        for store in &view.stores {
            total += memory::cached([std::fs::File::open(store)?], &mut known)?;
        }
        servers.extend(view.server.into_iter().flat_map(memory::family));
    }
    for server in servers {
        total += memory::cached(memory::open_files(server)?, &mut known)?;
        total += memory::resident(server, "RssAnon:")?;
    }
    Ok(total)
}
