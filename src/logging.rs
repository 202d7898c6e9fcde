//! Where the daemon's log goes: stderr, which is the journal's under systemd, or a file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use env_logger::{Builder, Target, WriteStyle};
use log::LevelFilter;
use parking_lot::Mutex;

use crate::error::{Error, Result};

pub fn init(level: LevelFilter, file: Option<&Path>) -> Result<()> {
    let mut builder = Builder::new();
    // The session library says little that is not said better here.
    builder
        .filter_level(level)
        .filter_module("fuser", level.min(LevelFilter::Error))
        .write_style(WriteStyle::Never);
    builder.format_timestamp_millis();
    if let Some(path) = file {
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let log = open.map_err(|e| Error::io(format!("log file {}", path.display()), e))?;
        builder.target(Target::Pipe(Box::new(log)));
    }
    builder.try_init().map_err(|e| Error::io("log", std::io::Error::other(e)))
}

/// Bounds what each user can make the daemon write about them, so that one who is loud hides no other:
/// `BURST` lines at once, then `PER_SECOND`.
#[derive(Debug)]
pub struct Throttle(Mutex<BTreeMap<Option<u32>, Bucket>>);

#[derive(Debug)]
struct Bucket {
    lines: f64,
    filled: Instant,
    suppressed: u64,
}

const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 1.0;

/// Users beyond these share one.
const USERS: usize = 1024;

impl Throttle {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// None if a line of this moment is to be left out; else how many were since this user's last one.
    pub fn admit(&self, uid: u32, now: Instant) -> Option<u64> {
        let mut buckets = self.0.lock();
        if buckets.len() >= USERS && !buckets.contains_key(&Some(uid)) {
            buckets.retain(|_, bucket| !bucket.is_as_new(now));
        }
        let has_own = buckets.len() < USERS || buckets.contains_key(&Some(uid));
        buckets.entry(has_own.then_some(uid)).or_insert_with(|| Bucket::new(now)).admit(now)
    }
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { lines: BURST, filled: now, suppressed: 0 }
    }

    fn lines_at(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        (self.lines + passed * PER_SECOND).min(BURST)
    }

    fn is_as_new(&self, now: Instant) -> bool {
        self.suppressed == 0 && self.lines_at(now) >= BURST
    }

    fn admit(&mut self, now: Instant) -> Option<u64> {
        self.lines = self.lines_at(now);
        self.filled = now;
        if self.lines < 1.0 {
            self.suppressed += 1;
            return None;
        }
        self.lines -= 1.0;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let throttle = Throttle::new();
        let start = Instant::now();
        let written = (0..3000).filter(|_| throttle.admit(7, start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(throttle.admit(7, start + Duration::from_secs(1)), Some(2000));
        assert_eq!(throttle.admit(7, start + Duration::from_secs(1)), None);
    }

    #[test]
    fn one_users_flood_hides_nobody_else() {
        let throttle = Throttle::new();
        let start = Instant::now();
        let flood = |uid| while throttle.admit(uid, start).is_some() {};
        flood(7);
        assert_eq!(throttle.admit(8, start), Some(0));
        // Those who were quiet for long make room; the loud ones beyond the bound share what there is.
        (0..USERS as u32).for_each(flood);
        flood(u32::MAX);
        assert_eq!(throttle.admit(u32::MAX - 1, start), None);
        assert!(throttle.0.lock().len() <= USERS + 1);
        let later = start + Duration::from_secs(2 * BURST as u64);
        assert!((0..USERS as u32).all(|uid| throttle.admit(uid, later).is_some()));
        let much_later = later + Duration::from_secs(2 * BURST as u64);
        assert_eq!(throttle.admit(u32::MAX - 1, much_later), Some(0));
        assert!(throttle.0.lock().contains_key(&Some(u32::MAX - 1)), "it has one of its own again");
    }
}
