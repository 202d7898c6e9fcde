//! Space is promised when a view is opened, since it cannot be refused when a mapped page is written
//! back: what all private views of a mount may come to own together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytesize::ByteSize;

use crate::error::{Error, Result};

#[derive(Debug)]
pub struct Budget {
    /// In bytes; None: whatever there is.
    limit: Option<u64>,
    promised: AtomicU64,
}

/// Room for one view, given back when it is dropped.
#[derive(Debug)]
pub struct Promise {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self { limit, promised: AtomicU64::new(0) })
    }

    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// To views that are open, in bytes.
    pub fn promised(&self) -> u64 {
        self.promised.load(Ordering::Relaxed)
    }

    /// Room for a view that may come to own `bytes`. `at_rest` is what views own that nobody has
    /// open.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn promise(self: &Arc<Self>, bytes: u64, at_rest: u64) -> Result<Promise> {
        let mut promise = self.owe(0);
        promise.cover(bytes, at_rest)?;
        Ok(promise)
    }

    /// Room that was promised before, by an earlier daemon: it counts whatever the limit is now.
    pub fn owe(self: &Arc<Self>, bytes: u64) -> Promise {
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        Promise { budget: self.clone(), bytes }
    }
}

impl Promise {
    /// Promises as much more as it takes to `bytes`; never less than before.
    pub fn cover(&mut self, bytes: u64, at_rest: u64) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        let limit = self.budget.limit.unwrap_or(u64::MAX);
        let fits = |promised: u64| {
            promised.checked_add(more).filter(|sum| sum.saturating_add(at_rest) <= limit || more == 0)
        };
        let promised = self.budget.promised.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        promised.map(|_| self.bytes += more).map_err(|promised| {
            let shown = |bytes: u64| ByteSize(bytes).display().iec().to_string();
            Error::NoRoom(format!(
                "{} more cannot be promised: {} of the budget of {} are promised to open views, and {} belong to views \
                 at rest; close or discard some, or raise --budget or --overcommit",
                shown(more),
                shown(promised),
                shown(limit),
                shown(at_rest)
            ))
        })
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.budget.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn no_more_is_promised_than_there_is_and_all_of_it_comes_back() {
        let budget = Budget::new(Some(100));
        let mut one = budget.promise(40, 0).unwrap();
        assert_eq!(budget.promise(61, 0).unwrap_err().errno(), Errno::NOSPC);
        assert_eq!(budget.promise(60, 1).unwrap_err().errno(), Errno::NOSPC);
        let two = budget.promise(50, 10).unwrap();
        assert_eq!(one.cover(51, 0).unwrap_err().errno(), Errno::NOSPC);
        one.cover(50, 0).unwrap();
        one.cover(3, 1000).unwrap();
        assert_eq!(budget.promised(), 100);
        drop(two);
        let owed = budget.owe(1000);
        assert_eq!(budget.promised(), 1050);
        assert!(budget.promise(1, 0).is_err());
        drop((one, owed));
        assert_eq!(budget.promised(), 0);
    }

    #[test]
    fn without_a_limit_all_is_promised() {
        let budget = Budget::new(None);
        let all = [(); 3].map(|()| budget.promise(1 << 60, 1 << 60).unwrap());
        assert_eq!(budget.promised(), 3 << 60);
        drop(all);
    }
}
