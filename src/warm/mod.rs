//! Warms nodes: gives the kernel the pages that the next view of a template will touch, before
//! that view is anybody's (engine/warming.rs).
//!
//! ```text
//! daemon, thread `warm`        a process of its own         kernel
//! new node X
//! "X"  ------------------->    open(O_PATH) warm/X -------> LOOKUP: inode X   (the daemon answers
//!                              and again ------------------> LOOKUP: the same   this process alone)
//!      <------------------     closes both                  X stays cached: its entry is unused
//! pages of the profile ------------------------------------> FUSE_NOTIFY_STORE into X
//! X is ready; a LOOKUP of a new view takes it
//! ```

mod instantiate;
mod pressure;
mod push;

use std::io;
use std::time::Duration;

pub use instantiate::answer;

use crate::engine::{Engine, WarmWork};
use crate::profile::Profiles;
use push::Prepared;

/// Of the thread that works (sched(7)): setpriority(2) takes a thread's id.
const NICE: i32 = 10;

/// How long after memory was short it is looked at again.
const PAUSE: Duration = Duration::from_secs(2);

/// What the kernel is asked to do.
pub trait Kernel {
    /// Puts data into the page cache of a node, over whatever is there. Never beyond its end: that
    /// would make it longer. An error where the kernel does not know the node any more.
    fn store(&self, node: u64, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Lets go of the entry by which a node was warmed: it is forgotten, unless it is in use.
    fn drop_entry(&self, node: u64);

    /// Lets go of all nodes that were warmed: those of a daemon that died are of no use to anybody.
    fn drop_all_entries(&self);
}

/// Works until the process ends. On a thread of its own: it waits for the mount's answers.
pub fn work(engine: &Engine, profiles: &Profiles, kernel: &impl Kernel) {
    // The guest that has just started comes before the one that may start next.
    let own = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(own), NICE) {
        log::debug!("views are warmed at full priority: {error}");
    }
    if engine.takeovers() > 0 {
        kernel.drop_all_entries();
    }
    loop {
        match engine.next_warm_work() {
            WarmWork::Drop(node) => kernel.drop_entry(node),
            WarmWork::Prepare(template) => {
                let shown = template.path.display();
                match push::prepare(engine, profiles, kernel, &template) {
                    Ok(Prepared::Warm { node, pages }) => {
                        log::debug!("{shown}: node {node} is warm with {pages} pages");
                        engine.publish_warm(node, template, pages);
                    }
                    Ok(Prepared::NothingLearned) => engine.give_up_warming(&template),
                    Ok(Prepared::MemoryIsShort) => {
                        log::debug!("{shown}: no view of it is kept warm while memory is short");
                        engine.pause_warming(PAUSE);
                    }
                    Err(error) => {
                        log::info!("{shown}: no view of it is kept warm for now: {error}");
                        engine.give_up_warming(&template);
                    }
                }
            }
        }
    }
}
