//! One at a time for each key, and nobody waits for another key.

use std::collections::HashSet;
use std::hash::Hash;

use parking_lot::{Condvar, Mutex};

pub struct Turns<K> {
    taken: Mutex<HashSet<K>>,
    ended: Condvar,
}

/// Held as long as it takes.
pub struct Turn<'a, K: Eq + Hash> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { taken: Mutex::default(), ended: Condvar::new() }
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    pub fn take(&self, key: &K) -> Turn<'_, K> {
        let mut taken = self.taken.lock();
        while !taken.insert(key.clone()) {
            self.ended.wait(&mut taken);
        }
        Turn { turns: self, key: key.clone() }
    }
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.turns.taken.lock().remove(&self.key);
        self.turns.ended.notify_all();
    }
}
