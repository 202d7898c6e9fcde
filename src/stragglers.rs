//! Work on many things each of which may wait for a file: those that get stuck hold up no others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// When nothing has been done for so long another thread helps.
const PATIENCE: Duration = Duration::from_millis(100);
/// When nothing has been done for so long and all is begun, what is left is stuck.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

struct Work<T, F> {
    queue: Mutex<Queue<T>>,
    done: Condvar,
    work: F,
}

struct Queue<T> {
    waiting: VecDeque<T>,
    left: usize,
}

/// Does `work` for each of `things`, in no order. Returns when all is done but what is stuck, and how many
/// that are; they go on.
pub fn each<T: Send + 'static>(
    things: impl IntoIterator<Item = T>,
    work: impl Fn(T) + Send + Sync + 'static,
) -> usize {
    let waiting: VecDeque<T> = things.into_iter().collect();
    let queue = Mutex::new(Queue { left: waiting.len(), waiting });
    let work = Arc::new(Work { queue, done: Condvar::new(), work });
    if work.queue.lock().left > 0 && !work.help() {
        work.run();
    }
    let mut idle = Duration::ZERO;
    let mut queue = work.queue.lock();
    while queue.left > 0 && idle < LAST_PATIENCE {
        let before = queue.left;
        work.done.wait_for(&mut queue, PATIENCE);
        match queue.left == before {
            true if queue.waiting.is_empty() => idle += PATIENCE,
            true => drop(work.help()),
            false => idle = Duration::ZERO,
        }
    }
    queue.left
}

impl<T: Send + 'static, F: Fn(T) + Send + Sync + 'static> Work<T, F> {
    fn help(self: &Arc<Self>) -> bool {
        let work = self.clone();
        thread::Builder::new().name("begin".into()).spawn(move || work.run()).is_ok()
    }

    fn run(&self) {
        loop {
            let Some(next) = self.queue.lock().waiting.pop_front() else { return };
            (self.work)(next);
            self.queue.lock().left -= 1;
            self.done.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_others_are_done_and_what_is_stuck_goes_on() {
        let (release, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let (tell, told) = channel();
        let stuck = each(0..100, move |number| {
            if number % 50 == 0 {
                let _ = wait.lock().recv();
            }
            let _ = tell.send(number);
        });
        assert_eq!(stuck, 2);
        assert_eq!(told.try_iter().count(), 98);
        drop(release);
        let mut late: Vec<i32> = told.iter().collect();
        late.sort_unstable();
        assert_eq!(late, [0, 50]);
        assert_eq!(each(Vec::<i32>::new(), |_| unreachable!()), 0);
    }
}
