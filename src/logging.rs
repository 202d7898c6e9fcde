//! Where the daemon's log goes: stderr, which is the journal's under systemd, or a file.

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

/// Bounds what users can make the daemon write about them: `BURST` lines at once, then
/// `PER_SECOND`.
#[derive(Debug)]
pub struct Throttle(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    lines: f64,
    filled: Option<Instant>,
    suppressed: u64,
}

const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 1.0;

impl Throttle {
    pub const fn new() -> Self {
        Self(Mutex::new(Bucket { lines: BURST, filled: None, suppressed: 0 }))
    }

    /// None if a line of this moment is to be left out; else how many were since the last one.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock();
        let passed = bucket.filled.map_or(0.0, |filled| now.saturating_duration_since(filled).as_secs_f64());
        bucket.lines = (bucket.lines + passed * PER_SECOND).min(BURST);
        bucket.filled = Some(now);
        if bucket.lines < 1.0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.lines -= 1.0;
        Some(std::mem::take(&mut bucket.suppressed))
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
        let written = (0..3000).filter(|_| throttle.admit(start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(throttle.admit(start + Duration::from_secs(1)), Some(2000));
        assert_eq!(throttle.admit(start + Duration::from_secs(1)), None);
    }
}
