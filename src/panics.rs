//! What a panic costs: the request that it met gets EIO, since its reply is dropped; and because
//! nothing is believed of what it left in memory, and its event loop is gone, the whole process is
//! replaced by a successor, which starts from what is on record.
//!
//! A WRITE is another matter: the kernel answers EIO for mapped pages to nobody, and drops them.
//! It stays without an answer, and the successor gets it again. If that one panics too, the fault
//! is in the request: whoever waits for it gets EIO, and mapped pages are kept and tried again, by the
//! same process, or each successor would die of them.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

/// How the session library names its event loops.
const EVENT_LOOP: &str = "fuser-";

struct Lost(Arc<dyn Fn() + Send + Sync>);

impl Drop for Lost {
    fn drop(&mut self) {
        (self.0)();
    }
}

thread_local! {
    /// Dropped at the end of a thread, when its panic has dropped the reply.
    static LOST: RefCell<Option<Lost>> = const { RefCell::new(None) };

    /// This thread serves a request that must not be answered EIO.
    static UNANSWERED: Cell<bool> = const { Cell::new(false) };

    /// This thread goes on after a panic.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Does what a panic is not to be an answer to.
pub fn unanswered<T>(request: impl FnOnce() -> T) -> T {
    UNANSWERED.set(true);
    let done = request();
    UNANSWERED.set(false);
    done
}

/// None where it panicked, which is in the log.
pub fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    CAUGHT.set(true);
    // What it leaves half done is done again: this is for what is tried until it works.
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    CAUGHT.set(false);
    done
}

/// Panics are logged from now on; `lost` is called once one has ended an event loop.
pub fn watch(lost: impl Fn() + Send + Sync + 'static) {
    let lost: Arc<dyn Fn() + Send + Sync> = Arc::new(lost);
    panic::set_hook(Box::new(move |info| {
        let current = thread::current();
        let name = current.name().unwrap_or("?");
        log::error!("a defect of templatefs, please report it: thread {name}: {info}");
        if UNANSWERED.try_with(Cell::get).unwrap_or(false) {
            // This ends the process if there will be another one.
            lost();
        }
        let goes_on = CAUGHT.try_with(Cell::get).unwrap_or(false);
        if name.starts_with(EVENT_LOOP) && !goes_on {
            let _ = LOST.try_with(|slot| *slot.borrow_mut() = Some(Lost(lost.clone())));
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    /// A handler's panic went unnoticed: its reply was sent, and its event loop was gone.
    #[test]
    fn a_lost_event_loop_is_noticed_after_its_reply_and_other_threads_are_not() {
        struct Reply(std::sync::mpsc::Sender<&'static str>);
        impl Drop for Reply {
            fn drop(&mut self) {
                let _ = self.0.send("reply");
            }
        }
        let (sender, said) = channel();
        let lost = Mutex::new(sender.clone());
        watch(move || drop(lost.lock().map(|sender| sender.send("lost"))));
        let run = |name: &str, defect: bool, answered: bool| {
            let reply = Reply(sender.clone());
            let handler = move || {
                let _reply = reply;
                let request = || assert!(!defect, "a defect");
                if answered { request() } else { unanswered(request) }
            };
            let _ = thread::Builder::new().name(name.into()).spawn(handler).unwrap().join();
        };
        run("fuser-0", false, false);
        run("errand", true, true);
        run("fuser-1", true, true);
        run("fuser-2", true, false);
        run("fuser-3", false, false);
        let goes_on = || assert_eq!(caught(|| -> u8 { panic!("a defect") }), None);
        thread::Builder::new().name("fuser-4".into()).spawn(goes_on).unwrap().join().unwrap();
        let _ = panic::take_hook();
        assert_eq!(
            said.try_iter().collect::<Vec<_>>(),
            ["reply", "reply", "reply", "lost", "lost", "reply", "lost", "reply"],
            "the last but one would not have come to its reply, and the last one is no loss"
        );
    }
}
