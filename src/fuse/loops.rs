//! One event loop is always free.
//!
//! A request may wait for a file of the store or of the state directory as long as that file likes,
//! and its event loop with it. When all loops have been at one request each for a moment, as many
//! again are started; once enough are free, those that were added rest. So it does not matter
//! which operation waits, nor for what. As long as nothing waits this costs a request four atomic
//! operations, and no thread more than there were.
//!
//! More loops change no order: what the kernel sends one after the other it sends when the one
//! before was answered, and what it sends at once several loops have always served in any order.

use std::cell::OnceCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::init::MAX_BACKGROUND;

/// A request that takes longer than this may take any time.
const PATIENCE: Duration = Duration::from_millis(20);

/// Loops at most: as many as there may be requests that nobody waits for (read-ahead and
/// write-back, of which one stuck view can have all), and as many again that somebody does.
const MOST: usize = 2 * MAX_BACKGROUND as usize;

thread_local! {
    /// Odd while this thread is at a request.
    static TURN: OnceCell<Arc<AtomicU64>> = const { OnceCell::new() };
}

pub struct Loops {
    /// So many are free when nobody is served.
    own: usize,
    /// Loops that wait for a request, or are about to.
    free: AtomicUsize,
    turns: Mutex<Vec<Arc<AtomicU64>>>,
    resting: Mutex<Resting>,
    wake: Condvar,
    watcher: OnceLock<Thread>,
    /// It was said that there are as many as there may be.
    exhausted: AtomicBool,
}

#[derive(Default)]
struct Resting {
    loops: usize,
    called: usize,
    /// Loops there are, resting ones among them.
    all: usize,
}

/// From the begin of a request to its end, on the loop that serves it.
pub struct AtWork<'a> {
    loops: &'a Loops,
    added: bool,
}

impl Loops {
    /// Of a mount that is served by `own` loops.
    pub fn new(own: usize) -> Self {
        Self {
            own,
            free: AtomicUsize::new(own),
            turns: Mutex::default(),
            resting: Mutex::new(Resting { all: own, ..Resting::default() }),
            wake: Condvar::new(),
            watcher: OnceLock::new(),
            exhausted: AtomicBool::new(false),
        }
    }

    /// `added`: this loop is not one of the mount's own.
    pub fn begin(&self, added: bool) -> AtWork<'_> {
        self.turn();
        if self.free.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(watcher) = self.watcher.get()
        {
            watcher.unpark();
        }
        AtWork { loops: self, added }
    }

    fn turn(&self) {
        TURN.with(|turn| {
            let turn = turn.get_or_init(|| {
                let turn = Arc::new(AtomicU64::new(0));
                self.turns.lock().push(turn.clone());
                turn
            });
            turn.fetch_add(1, Ordering::AcqRel);
        });
    }

    /// Watches over the loops from a thread of its own; `add` starts so many more.
    pub fn watch(self: &Arc<Self>, add: impl Fn(usize) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let loops = self.clone();
        let watch = move || {
            let _ = loops.watcher.set(thread::current());
            loop {
                while loops.free.load(Ordering::Acquire) > 0 {
                    thread::park();
                }
                let before = loops.at_work();
                thread::sleep(PATIENCE);
                if loops.free.load(Ordering::Acquire) == 0 && loops.at_work() == before {
                    loops.more(before.len(), &add);
                }
            }
        };
        thread::Builder::new().name("loops".into()).spawn(watch).map(drop)
    }

    /// Which request each loop is at.
    fn at_work(&self) -> Vec<(usize, u64)> {
        let turns = self.turns.lock();
        let turns = turns.iter().map(|turn| turn.load(Ordering::Acquire)).enumerate();
        turns.filter(|(_, turn)| turn % 2 == 1).collect()
    }

    /// As many again as are stuck, so that a crowd of stuck requests is soon passed.
    fn more(&self, stuck: usize, add: impl Fn(usize) -> io::Result<()>) {
        let (called, started) = {
            let mut resting = self.resting.lock();
            let called = stuck.min(resting.loops - resting.called);
            resting.called += called;
            let started = (stuck - called).min(MOST - resting.all);
            resting.all += started;
            // Before any of them begins.
            self.free.fetch_add(called + started, Ordering::AcqRel);
            (called, started)
        };
        self.wake.notify_all();
        let failed = if started > 0 { add(started).err() } else { None };
        if failed.is_some() {
            self.free.fetch_sub(started, Ordering::AcqRel);
            self.resting.lock().all -= started;
        }
        if failed.is_none() && called + started > 0 {
            self.exhausted.store(false, Ordering::Relaxed);
            // Those that rest are called whenever a machine is busy.
            let level = if started > 0 { log::Level::Warn } else { log::Level::Debug };
            log::log!(
                level,
                "{stuck} requests have waited {} ms for files of the store or of the state directory; {} event loops more \
                 serve the others",
                PATIENCE.as_millis(),
                called + started
            );
        } else if !self.exhausted.swap(true, Ordering::Relaxed) {
            let why = failed.map_or_else(|| format!("there are {MOST}"), |error| error.to_string());
            log::error!(
                "{stuck} requests wait for files of the store or of the state directory, and no event loop more can be \
                 started ({why}): all others wait with them until one has ended"
            );
        }
    }

    /// Waits until it is called, on the thread that rests.
    fn rest(&self) {
        let mut resting = self.resting.lock();
        resting.loops += 1;
        while resting.called == 0 {
            self.wake.wait(&mut resting);
        }
        resting.called -= 1;
        resting.loops -= 1;
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.loops.turn();
        let stay = |free: usize| (free < self.loops.own || !self.added).then_some(free + 1);
        if self.loops.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, stay).is_err() {
            super::data::let_go_of_buffer();
            self.loops.rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    type Request = Box<dyn FnOnce() + Send>;

    /// Loops that take requests from one queue.
    struct Bench {
        loops: Arc<Loops>,
        queue: Sender<Request>,
        started: Arc<AtomicUsize>,
    }

    impl Bench {
        fn new(own: usize) -> Self {
            let (queue, requests) = channel::<Request>();
            let requests = Arc::new(Mutex::new(requests));
            let loops = Arc::new(Loops::new(own));
            let started = Arc::new(AtomicUsize::new(0));
            let start = {
                let (loops, started) = (loops.clone(), started.clone());
                move |count, added| {
                    started.fetch_add(count, Ordering::Relaxed);
                    for _ in 0..count {
                        let (loops, requests) = (loops.clone(), requests.clone());
                        thread::spawn(move || {
                            loop {
                                let next = requests.lock().recv();
                                let Ok(request) = next else { return };
                                let _at_work = loops.begin(added);
                                request();
                            }
                        });
                    }
                }
            };
            start(own, false);
            let more = move |count| {
                start(count, true);
                Ok(())
            };
            loops.watch(more).unwrap();
            Self { loops, queue, started }
        }

        /// Ends when it is told to, and is told to when what is returned is dropped.
        fn stick(&self) -> Sender<()> {
            let (release, wait) = channel::<()>();
            let request = move || {
                let _ = wait.recv();
            };
            self.queue.send(Box::new(request)).unwrap();
            release
        }

        fn assert_serves(&self) {
            let (done, served) = channel();
            let request = move || {
                let _ = done.send(());
            };
            self.queue.send(Box::new(request)).unwrap();
            served.recv_timeout(Duration::from_secs(60)).expect("a loop that is free");
        }
    }

    #[test]
    fn however_many_are_stuck_one_is_free_and_rests_when_they_are_not() {
        let bench = Bench::new(2);
        for _ in 0..2 {
            let stuck: Vec<_> = (0..50).map(|_| bench.stick()).collect();
            bench.assert_serves();
            drop(stuck);
            for _ in 0..100 {
                bench.assert_serves();
            }
        }
        let started = bench.started.load(Ordering::Relaxed);
        assert!((51..=2 * 51).contains(&started), "{started}: those that rested are called first");
        // Each loop beyond the own ones rests after one request more.
        for _ in 0..10 * started {
            bench.assert_serves();
        }
        let free = bench.loops.free.load(Ordering::Relaxed);
        assert!(free <= started, "{free} of {started}");
    }

    #[test]
    fn no_more_than_the_most_are_started_and_those_that_wait_are_served_later() {
        let bench = Bench::new(1);
        let mut stuck: Vec<_> = (0..MOST + 3).map(|_| bench.stick()).collect();
        while bench.loops.at_work().len() < MOST {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(bench.started.load(Ordering::Relaxed), MOST);
        stuck.truncate(3);
        bench.assert_serves();
    }
}
