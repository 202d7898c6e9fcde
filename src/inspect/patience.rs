//! A look may take any time: reading a process's mappings waits for its mmap lock, which it holds
//! during its page faults, and a file of the store may not answer. What is stuck must not hold up those
//! who look at the rest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// How long one look may take.
const LIMIT: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Process(u32),
    /// A path of the store.
    Path(PathBuf),
    /// The layout of a template's file.
    Template((u64, u64)),
    StateDirectory,
    PageCache,
}

/// Looks that were given up, and whether each has come to an end since.
static STUCK: Mutex<BTreeMap<Subject, Arc<AtomicBool>>> = Mutex::new(BTreeMap::new());

type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// Runs looks on a thread of its own; a thread that gets stuck is left behind.
pub struct Patience<T> {
    worker: Option<(Sender<Job<T>>, Receiver<T>)>,
    limit: Duration,
}

impl<T: Send + 'static> Patience<T> {
    pub fn new() -> Self {
        Self { worker: None, limit: LIMIT }
    }

    /// For looks at much at once.
    pub fn longer(mut self, by: Duration) -> Self {
        self.limit += by;
        self
    }

    /// None where this is stuck.
    pub fn look(&mut self, subject: Subject, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if is_stuck(&subject) {
            return None;
        }
        let (jobs, results) = match self.worker.take() {
            Some(worker) => worker,
            None => start()?,
        };
        let over = Arc::new(AtomicBool::new(false));
        let watched = over.clone();
        let job = move || {
            let result = job();
            watched.store(true, Ordering::Release);
            result
        };
        jobs.send(Box::new(job)).ok()?;
        match results.recv_timeout(self.limit) {
            Ok(result) => {
                self.worker = Some((jobs, results));
                Some(result)
            }
            Err(_) => {
                STUCK.lock().insert(subject, over);
                None
            }
        }
    }
}

fn start<T: Send + 'static>() -> Option<(Sender<Job<T>>, Receiver<T>)> {
    let (jobs, work) = channel::<Job<T>>();
    let (done, results) = channel();
    let run = move || {
        for job in work {
            if done.send(job()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("look".into()).spawn(run).ok()?;
    Some((jobs, results))
}

fn is_stuck(subject: &Subject) -> bool {
    let mut stuck = STUCK.lock();
    match stuck.get(subject) {
        None => false,
        Some(over) if over.load(Ordering::Acquire) => {
            stuck.remove(subject);
            false
        }
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_process_is_passed_over_and_not_asked_again() {
        let mut patience = Patience::new();
        let (release, wait) = channel::<()>();
        patience.limit = Duration::from_secs(60);
        assert_eq!(patience.look(Subject::Process(1_000_000_001), || 1), Some(1));
        patience.limit = Duration::from_millis(10);
        let stuck = patience.look(Subject::Process(1_000_000_002), move || {
            let _ = wait.recv();
            2
        });
        assert_eq!(stuck, None);
        patience.limit = Duration::from_secs(60);
        assert_eq!(patience.look(Subject::Process(1_000_000_001), || 3), Some(3), "the others are looked at");
        assert_eq!(
            patience.look(Subject::Process(1_000_000_002), || 4),
            None,
            "no thread piles up behind it"
        );
        drop(release);
        let later = std::iter::repeat_with(|| {
            thread::sleep(Duration::from_millis(1));
            patience.look(Subject::Process(1_000_000_002), || 5)
        });
        assert_eq!(later.take(10_000).flatten().next(), Some(5));
    }
}
