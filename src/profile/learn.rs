//! The thread that learns: what views wrote it is told when they close, what they only read it
//! sees in the page tables of the processes that map them, some seconds after they were opened.
//!
//! READ requests would say little: the kernel reads around a fault, and asks for nothing that it
//! was given before.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;
use rustix::fs::{Advice, fadvise};

use super::{Profiles, insert, runs};
use crate::engine::{Engine, Lesson, TemplateRef};
use crate::inspect::Inspector;
use crate::overlay::PAGE;
use crate::store::Identity;

/// When a view is looked at, counted from its first OPEN.
const LOOKS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(6), Duration::from_secs(20)];
/// One look reads the mappings of all processes: no more often than this.
const BETWEEN: Duration = Duration::from_secs(1);
/// Views that are looked at; what more are open at once is learned from what they write.
const MAX_YOUNG: usize = 256;
/// Templates that are known to have been read ahead. With more, some are asked for again.
const MAX_READ_AHEAD: usize = 1024;

struct Young {
    opened: Instant,
    looks: usize,
    seen: RoaringBitmap,
}

impl Young {
    fn due(&self) -> Option<Instant> {
        LOOKS.get(self.looks).map(|after| self.opened + *after)
    }
}

/// Learns until the mount ends. Looks at processes only where `look` says so.
pub fn learn(
    engine: Arc<Engine>,
    profiles: Arc<Profiles>,
    inspector: Arc<OnceLock<Inspector>>,
    lessons: Receiver<Lesson>,
    look: bool,
) {
    let mut young: HashMap<u64, Young> = HashMap::new();
    let mut read_ahead: HashSet<Identity> = HashSet::new();
    let (mut last, mut kept) = (Instant::now(), Instant::now());
    loop {
        if kept.elapsed() >= BETWEEN {
            profiles.keep_changed();
            engine.let_go_of_unused();
            kept = Instant::now();
        }
        let due = young.values().filter_map(Young::due).min().map(|due| due.max(last + BETWEEN));
        let wait = due.map_or(BETWEEN, |due| due.saturating_duration_since(Instant::now())).min(BETWEEN);
        match lessons.recv_timeout(wait) {
            Ok(Lesson::Opened { node, template }) => {
                if young.len() >= MAX_YOUNG {
                    young.retain(|node, _| engine.knows(*node));
                }
                if look && young.len() < MAX_YOUNG {
                    let new = || Young { opened: Instant::now(), looks: 0, seen: RoaringBitmap::new() };
                    young.entry(node).or_insert_with(new);
                }
                if read_ahead.len() >= MAX_READ_AHEAD {
                    read_ahead.clear();
                }
                if read_ahead.insert(template.identity.clone()) {
                    read_template_ahead(&engine, &profiles, template);
                }
            }
            Ok(Lesson::Closed { node, template, written }) => {
                let mut pages = young.remove(&node).map(|young| young.seen).unwrap_or_default();
                written.into_iter().for_each(|range| insert(&mut pages, range));
                if profiles.teach(&template.path, &template.identity, pages) {
                    engine.warm_from_now_on(&template);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if due.is_some_and(|due| due <= Instant::now())
                    && let Some(inspector) = inspector.get()
                {
                    look_at(inspector, &mut young);
                    last = Instant::now();
                }
            }
            Ok(Lesson::End) | Err(RecvTimeoutError::Disconnected) => return profiles.keep_changed(),
        }
    }
}

/// Adds the pages that are mapped of those views whose time has come.
fn look_at(inspector: &Inspector, young: &mut HashMap<u64, Young>) {
    let now = Instant::now();
    let due: Vec<u64> =
        young.iter().filter(|(_, y)| y.due().is_some_and(|due| due <= now)).map(|(id, _)| *id).collect();
    for (node, ranges) in inspector.mapped(&due) {
        let Some(young) = young.get_mut(&node) else { continue };
        young.looks += 1;
        for range in ranges {
            insert(&mut young.seen, range.start / PAGE..range.end.div_ceil(PAGE));
        }
        log::debug!("node {node}: {} pages were seen mapped so far", young.seen.len());
    }
}

/// Asks for a template that may be cold on disk, once: what its views will touch.
fn read_template_ahead(engine: &Arc<Engine>, profiles: &Arc<Profiles>, template: TemplateRef) {
    let (engine, profiles) = (engine.clone(), profiles.clone());
    let errand = move || {
        let pages = profiles.predicted(&template.identity);
        let Some(pinned) = (!pages.is_empty()).then(|| engine.unpinned(&template).ok()).flatten() else {
            return;
        };
        for run in runs(&pages, 256) {
            let length = std::num::NonZeroU64::new((run.end - run.start) * PAGE);
            if let Some(file) = pinned.readable()
                && let Err(error) = fadvise(file, run.start * PAGE, length, Advice::WillNeed)
            {
                log::debug!("{}: not read ahead: {error}", template.path.display());
                return;
            }
        }
    };
    // Without a thread it is read when it is needed.
    let _ = thread::Builder::new().name("read-ahead".into()).spawn(errand);
}
