//! Which LOOKUPs the kernel throws away.
//!
//! Before the kernel uses a directory entry that it knows, it asks whether it is still true
//! (`d_revalidate`): it is not, for a view without a name, since each LOOKUP makes a new one. The
//! answer is thrown away and the same thread asks at once again, and means it. A request does not
//! tell one from the other, so that this is a guess. A wrong one costs a warm node's turn and
//! nothing else.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::access::Caller;

/// Names beyond these are forgotten, all at once: then the next guesses may be wrong.
const MAX_NAMES: usize = 1024;
/// So are threads of one name.
const MAX_THREADS: usize = 256;

/// One LOOKUP: of a name in a directory, by a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    name: (u64, Vec<u8>),
    thread: u32,
}

impl Step {
    pub fn new(caller: &Caller, parent: u64, name: &[u8]) -> Self {
        Self { name: (parent, name.to_vec()), thread: caller.pid }
    }
}

#[derive(Default)]
pub struct Walks(Mutex<HashMap<(u64, Vec<u8>), Entry>>);

#[derive(Default)]
struct Entry {
    /// The node that the kernel's directory entry leads to, if it has one.
    known: Option<u64>,
    /// Threads that are believed to ask again, and what they were answered.
    asking: HashMap<u32, u64>,
}

impl Walks {
    /// The node whose directory entry the kernel only wants to check, if that is what it does.
    /// `is_there`: has the kernel not forgotten this node?
    pub fn is_check(&self, step: &Step, is_there: impl Fn(u64) -> bool) -> Option<u64> {
        let mut names = self.0.lock();
        let entry = names.get_mut(&step.name)?;
        if entry.asking.remove(&step.thread).is_some() {
            return None;
        }
        entry.known.filter(|node| is_there(*node))
    }

    /// Tells what a LOOKUP was answered, and what it was believed to be.
    pub fn answered(&self, step: &Step, was_check: bool, node: u64) {
        let mut names = self.0.lock();
        if names.len() >= MAX_NAMES && !names.contains_key(&step.name) {
            names.clear();
        }
        let entry = names.entry(step.name.clone()).or_default();
        match was_check {
            true if entry.asking.len() >= MAX_THREADS => entry.asking.clear(),
            true => drop(entry.asking.insert(step.thread, node)),
            false => entry.known = Some(node),
        }
    }

    /// A LOOKUP that was believed to be meant was thrown away.
    pub fn was_check(&self, step: &Step, node: u64) {
        let mut names = self.0.lock();
        let Some(entry) = names.get_mut(&step.name) else { return };
        match entry.asking.remove(&step.thread) {
            // It has asked again meanwhile, and was believed to check.
            Some(meant) => entry.known = Some(meant),
            None => {
                entry.asking.insert(step.thread, node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(thread: u32) -> Step {
        Step::new(&Caller { uid: 0, gid: 0, pid: thread }, 1, b"t?rom=off")
    }

    /// Whether each LOOKUP of a thread is taken for a check; the answers are numbered from 1.
    fn look_up(walks: &Walks, thread: u32, node: u64) -> bool {
        let check = walks.is_check(&step(thread), |_| true).is_some();
        walks.answered(&step(thread), check, node);
        check
    }

    #[test]
    fn a_thread_that_opens_again_and_again_checks_before_each_open_but_the_first() {
        let walks = Walks::default();
        let guesses: Vec<bool> = (1..8).map(|node| look_up(&walks, 7, node)).collect();
        assert_eq!(guesses, [false, true, false, true, false, true, false]);
    }

    #[test]
    fn an_entry_that_the_kernel_forgot_is_not_checked() {
        let walks = Walks::default();
        assert!(!look_up(&walks, 7, 1));
        assert_eq!(walks.is_check(&step(8), |node| node != 1), None);
        assert_eq!(walks.is_check(&step(8), |_| true), Some(1));
    }

    #[test]
    fn threads_that_check_at_once_each_ask_again() {
        let walks = Walks::default();
        look_up(&walks, 1, 1);
        assert!(look_up(&walks, 2, 2) && look_up(&walks, 3, 3));
        assert!(!look_up(&walks, 3, 4) && !look_up(&walks, 2, 5));
    }

    /// In whichever order the kernel's two messages are handled.
    #[test]
    fn a_wrong_guess_is_followed_by_right_ones() {
        for asked_first in [false, true] {
            let walks = Walks::default();
            look_up(&walks, 1, 1);
            // Known to the kernel, and forgotten here.
            assert_eq!(walks.is_check(&step(2), |_| false), None);
            walks.answered(&step(2), false, 2);
            if asked_first {
                assert!(look_up(&walks, 2, 3));
                walks.was_check(&step(2), 2);
            } else {
                walks.was_check(&step(2), 2);
                assert!(!look_up(&walks, 2, 3));
            }
            assert!(look_up(&walks, 2, 4) && !look_up(&walks, 2, 5));
        }
    }
}
