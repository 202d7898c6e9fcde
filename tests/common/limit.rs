//! Time limits: a test that hangs says so, cleans up what it registered, and ends the run.

use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Ends the test process when it is not dropped in time. Keep it in a variable: `let _limit = limit(...)`.
#[must_use]
pub struct Limit {
    _finished: Sender<()>,
}

#[track_caller]
pub fn limit(time: Duration) -> Limit {
    let place = Location::caller();
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let (finished, watch) = channel();
    std::thread::spawn(move || {
        if watch.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
            eprintln!("test {test} ({place}) hung: not finished after {time:?}; ending the run");
            for (_, action) in actions().iter().rev() {
                action();
            }
            std::process::abort();
        }
    });
    Limit { _finished: finished }
}

type Action = Box<dyn Fn() + Send>;
static ACTIONS: Mutex<Vec<(u64, Action)>> = Mutex::new(Vec::new());

fn actions() -> MutexGuard<'static, Vec<(u64, Action)>> {
    ACTIONS.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// What [`limit`] does for a hung test (kill a child, detach a mount) for as long as this value lives.
#[must_use]
pub struct Registered(u64);

pub fn on_expiry(action: impl Fn() + Send + 'static) -> Registered {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    actions().push((id, Box::new(action)));
    Registered(id)
}

impl Drop for Registered {
    fn drop(&mut self) {
        actions().retain(|(id, _)| *id != self.0);
    }
}

/// Asks until there is an answer; None when the time is over.
pub fn poll<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
