//! How far long work is: a bar on a terminal, else a line when a step of it is done.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::table::iec;

pub struct Progress {
    what: String,
    bytes: u64,
    begun: Instant,
    /// None where stderr is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `what` is done to so many bytes.
    pub fn new(what: impl Into<String>, bytes: u64) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(bytes);
            let form = "{msg:24} {wide_bar} {binary_bytes:>10} of {binary_total_bytes:>10} {eta:>4}";
            bar.set_style(
                ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { what, bytes, begun: Instant::now(), bar }
    }

    pub fn add(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    pub fn done(self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => {
                let time = self.begun.elapsed().as_secs_f64();
                let _ = writeln!(std::io::stderr(), "{}: {} in {time:.1} s", self.what, iec(self.bytes));
            }
        }
    }
}
