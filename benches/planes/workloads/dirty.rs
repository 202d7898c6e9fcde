//! A shared view whose pages are dirtied at random, at an even pace, for long enough that the kernel writes back.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Log, Task, make, micros, open};
use crate::common::random::Random;
use crate::report::figures::{DIRTY_CPU, DIRTY_RATE, DIRTY_STALL, DIRTY_WORST, DIRTY_WRITTEN, Sharing};
use crate::report::stats::quantile;
use crate::subjects::{Subject, View};
use crate::{Result, memory};

/// Stores come in bursts this far apart.
const BURST: Duration = Duration::from_millis(2);
/// Kernel and user time in /proc/PID/stat count in this unit (USER_HZ).
const TICKS_A_SECOND: f64 = 100.0;

pub fn measure(subject: &mut dyn Subject, task: Task, log: &mut Log) -> Result<()> {
    let Task { template, plan, seed } = task;
    let view = make(subject, template, log)?;
    let (_file, mapping) = open(&view, Sharing::Shared)?;
    let pages = template.pages() / 4;
    for page in 0..pages {
        mapping.store(page, 1);
    }
    mapping.sync_all()?;

    let mut random = Random::new(seed);
    let burst = (f64::from(plan.pace) * BURST.as_secs_f64()) as u32;
    let mut stores = Vec::new();
    let (written, cpu) = (written(&view)?, cpu_seconds(&view));
    let begin = Instant::now();
    let mut next = begin;
    while begin.elapsed() < plan.dirty {
        for _ in 0..burst {
            let page = random.below(pages as u64) as usize;
            let before = Instant::now();
            mapping.store(page, seed);
            stores.push(micros(before.elapsed()));
        }
        // After a stall it goes on at the same pace, and does not make up for it.
        next = (next + BURST).max(Instant::now());
        sleep(next - Instant::now().min(next));
    }
    mapping.sync_all()?;
    let seconds = begin.elapsed().as_secs_f64();
    log.add(DIRTY_RATE, stores.len() as f64 / seconds);
    if let (Some(before), Some(after)) = (written, self::written(&view)?) {
        log.add(DIRTY_WRITTEN, after.saturating_sub(before) as f64 / seconds);
    }
    if view.server.is_some() {
        log.add(DIRTY_CPU, (cpu_seconds(&view) - cpu) / seconds * 100.0);
    }
    stores.sort_by(f64::total_cmp);
    log.add(DIRTY_STALL, quantile(&stores, 0.999).ok_or("no stores")?);
    log.add(DIRTY_WORST, quantile(&stores, 1.0).ok_or("no stores")?);
    Ok(())
}

/// By the servers' write(2)s, or to the device. Some for memory that nothing is written back from: 0.
fn written(view: &View) -> Result<Option<u64>> {
    if let Some(device) = &view.device {
        let stat = fs::read_to_string(format!("/sys/block/{device}/stat"))?;
        // Documentation/block/stat.rst: the seventh field is sectors of 512 bytes written.
        let sectors: u64 = stat.split_whitespace().nth(6).ok_or("no sectors")?.parse()?;
        return Ok(Some(sectors * 512));
    }
    let Some(server) = view.server else { return Ok(view.stores.is_empty().then_some(0)) };
    let mut total = 0;
    for pid in memory::family(server) {
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let bytes = io.lines().find_map(|line| line.strip_prefix("wchar: ")).ok_or("no wchar")?;
        total += bytes.parse::<u64>()?;
    }
    Ok(Some(total))
}

fn cpu_seconds(view: &View) -> f64 {
    let of = |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        // utime and stime (proc(5)) are the 12th and 13th after the name.
        fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
    };
    view.server.into_iter().flat_map(memory::family).map(of).sum::<f64>() / TICKS_A_SECOND
}
