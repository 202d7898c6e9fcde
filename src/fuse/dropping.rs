//! Has the kernel drop what it caches of views that are gone. By few threads: one for each view would be as many as
//! users close views, and cost more than the view did.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::errands;

/// More than one, since the kernel may have to wait for a view that was opened again.
const MOST: usize = 4;
/// How long a thread waits for more to do before it ends.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    pub node: u64,
    /// It may have an entry by which it was warmed.
    pub warm: bool,
}

pub struct Dropping {
    drop: Box<dyn Fn(Gone) + Send + Sync>,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    gone: Vec<Gone>,
    threads: usize,
    resting: usize,
}

impl Dropping {
    pub fn new(drop: impl Fn(Gone) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { drop: Box::new(drop), state: Mutex::default(), wake: Condvar::new() })
    }

    /// Waits for nothing. Without a thread the pages stay until another view is gone, or memory is short.
    pub fn add(self: &Arc<Self>, gone: Gone) {
        let begin = {
            let mut state = self.state.lock();
            state.gone.push(gone);
            let begin = state.resting < state.gone.len() && state.threads < MOST;
            state.threads += usize::from(begin);
            begin
        };
        self.wake.notify_one();
        let own = self.clone();
        if begin && !errands::run("drop-cache", move || own.work()) {
            self.state.lock().threads -= 1;
        }
    }

    fn work(&self) {
        while let Some(gone) = self.next() {
            (self.drop)(gone);
        }
    }

    /// None ends the thread.
    fn next(&self) -> Option<Gone> {
        let mut state = self.state.lock();
        loop {
            if let Some(gone) = state.gone.pop() {
                return Some(gone);
            }
            state.resting += 1;
            let is_over = self.wake.wait_for(&mut state, REST).timed_out();
            state.resting -= 1;
            if is_over && state.gone.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    use super::*;

    /// A thread for each view that a user closed took more time than the view itself.
    #[test]
    fn few_threads_drop_many_views() {
        let (sender, dropped) = channel();
        let all_at_work = Arc::new(Barrier::new(MOST + 1));
        let wait = all_at_work.clone();
        let dropping = Dropping::new(move |gone: Gone| {
            if gone.node < MOST as u64 {
                wait.wait();
            }
            sender.send((gone.node, std::thread::current().id())).unwrap();
        });
        let add = |node| dropping.add(Gone { node, warm: false });
        (0..MOST as u64).for_each(add);
        (MOST as u64..1000).for_each(add);
        assert_eq!(dropping.state.lock().threads, MOST);
        all_at_work.wait();
        let mut all: Vec<_> =
            (0..1000).map(|_| dropped.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
        let threads: std::collections::HashSet<_> = all.iter().map(|(_, thread)| *thread).collect();
        assert!(threads.len() <= MOST, "{threads:?}");
        all.sort_by_key(|(node, _)| *node);
        assert!(all.iter().map(|(node, _)| *node).eq(0..1000));
    }
}
