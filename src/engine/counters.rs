//! What is counted of nodes and of a whole mount.

use std::sync::atomic::{AtomicU64, Ordering};

use super::nodes::What;

/// What was asked of a node since it was first looked up.
#[derive(Default)]
pub struct Counters {
    prefetched: AtomicU64,
    opens: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    write_bytes: AtomicU64,
    errors: AtomicU64,
    held_bytes: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CounterValues {
    /// Pages that the kernel was given before they were asked for.
    pub prefetched: u64,
    pub opens: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub errors: u64,
    /// Of mapped pages, waiting until the state directory takes them: now, not in all.
    pub held_bytes: u64,
}

impl Counters {
    pub fn opened(&self) {
        self.opens.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn written(&self, bytes: usize) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.write_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn prefetched(&self, pages: u64) {
        self.prefetched.store(pages, Ordering::Relaxed);
    }

    pub fn held(&self, bytes: usize) {
        self.held_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn held_no_more(&self, bytes: usize) {
        self.held_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub fn values(&self) -> CounterValues {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterValues {
            prefetched: get(&self.prefetched),
            opens: get(&self.opens),
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            writes: get(&self.writes),
            write_bytes: get(&self.write_bytes),
            errors: get(&self.errors),
            held_bytes: get(&self.held_bytes),
        }
    }
}

/// What was asked of all nodes since the mount was made: goes on when a node goes.
#[derive(Default)]
pub struct Totals {
    rom: Counters,
    private: Counters,
    template: Counters,
}

impl Totals {
    pub fn of(&self, what: &What) -> Option<&Counters> {
        match what {
            What::Rom { .. } => Some(&self.rom),
            What::Private(_) => Some(&self.private),
            What::Template { .. } => Some(&self.template),
            What::Directory { .. } | What::Leftover { .. } | What::Warm { .. } => None,
        }
    }

    /// By the kind of view (`ViewSnapshot::kind`).
    pub fn values(&self) -> [(&'static str, CounterValues); 3] {
        [("rom", self.rom.values()), ("private", self.private.values()), ("template", self.template.values())]
    }
}
