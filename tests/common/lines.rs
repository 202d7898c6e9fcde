//! A line-wise conversation over a unix socket in which every wait ends.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub struct Lines {
    stream: UnixStream,
    /// Received, but not yet asked for: a time-out in the middle of a line loses nothing.
    pending: Vec<u8>,
}

impl Lines {
    pub fn new(stream: UnixStream) -> Lines {
        Lines { stream, pending: Vec::new() }
    }

    pub fn send(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(format!("{line}\n").as_bytes())
    }

    /// The next line without its end; `TimedOut` at `end`.
    pub fn next(&mut self, end: Instant) -> io::Result<String> {
        loop {
            if let Some(length) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=length).collect();
                let text = String::from_utf8_lossy(&line[..length]);
                return Ok(text.trim_end_matches('\r').to_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            // A zero time-out would mean none at all.
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut part = [0; 4096];
            match self.stream.read(&mut part) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.pending.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
