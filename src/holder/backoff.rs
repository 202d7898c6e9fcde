//! How long to wait before a process that died is started again.

use std::time::Duration;

/// One that lived this long has done its work: whatever ended it, it is started again at once.
const WORKED: Duration = Duration::from_secs(10);
/// Somebody kills these, or memory is short: no fault of its own.
const WORKED_UNTIL_KILLED: Duration = Duration::from_millis(200);

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(10);

/// From this one on in a row it is said loudly.
const ALARMING: u32 = 5;

#[derive(Debug, Default)]
pub struct Backoff {
    /// Deaths in a row that came too early.
    early: u32,
}

impl Backoff {
    /// It never gives up: whatever is wrong, the guests wait for as long as they do not die.
    pub fn after_death(&mut self, lived: Duration, killed: bool) -> Duration {
        if lived >= if killed { WORKED_UNTIL_KILLED } else { WORKED } {
            self.early = 0;
            return Duration::ZERO;
        }
        self.early += 1;
        // The first one may be a coincidence.
        match self.early {
            1 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 2).min(20)).min(LONGEST),
        }
    }

    pub fn is_alarming(&self) -> bool {
        self.early >= ALARMING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_at_once_waits_longer_each_time_and_who_has_worked_does_not_wait() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.after_death(Duration::ZERO, false)).collect();
        assert_eq!(waits[0], Duration::ZERO);
        assert!(waits.is_sorted() && waits[5] > FIRST && waits[39] == LONGEST);
        assert!(backoff.is_alarming());
        assert_eq!(backoff.after_death(WORKED, false), Duration::ZERO);
        assert!(!backoff.is_alarming());
    }

    #[test]
    fn one_that_somebody_kills_is_there_again_at_once() {
        let mut backoff = Backoff::default();
        for _ in 0..1000 {
            assert_eq!(backoff.after_death(WORKED_UNTIL_KILLED, true), Duration::ZERO);
        }
    }
}
