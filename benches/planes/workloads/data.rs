//! read(2) and write(2) at offsets, of a fresh view.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::{Log, Task, make, micros, scattered};
use crate::common::random::{Random, pattern};
use crate::report::figures::{PREAD_1M, PREAD_4K, PWRITE_1M, PWRITE_4K};
use crate::subjects::Subject;
use crate::{PAGE, Result};

const LARGE: usize = 1 << 20;

pub fn measure(subject: &mut dyn Subject, task: Task, log: &mut Log) -> Result<()> {
    let Task { template, plan, seed } = task;
    let mut random = Random::new(seed);
    let view = make(subject, template, log)?;
    let file = view.open()?;
    let mut buffer = pattern(seed, LARGE);
    let sizes = [(PAGE, PREAD_4K, PWRITE_4K), (LARGE, PREAD_1M, PWRITE_1M)];
    for (size, pread, pwrite) in sizes {
        let blocks = template.size as usize / size;
        // No block is both read and written.
        let count = (blocks / plan.touched / 2).max(1);
        let blocks = scattered(&mut random, blocks, 2 * count);
        let offset = |block: &usize| (block * size) as u64;
        let begin = Instant::now();
        for block in &blocks[..count] {
            file.read_exact_at(&mut buffer[..size], offset(block))?;
        }
        log.add(pread, micros(begin.elapsed()) / count as f64);
        if view.writable {
            let begin = Instant::now();
            for block in &blocks[count..] {
                file.write_all_at(&buffer[..size], offset(block))?;
            }
            log.add(pwrite, micros(begin.elapsed()) / count as f64);
        }
    }
    Ok(())
}
