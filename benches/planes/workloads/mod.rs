//! What is done to a view, and measured. Times are recorded in microseconds.

pub mod clones;
pub mod data;
pub mod dirty;
pub mod open;
pub mod touch;
pub mod views;

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use crate::Result;
use crate::arguments::Plan;
use crate::common::maps::Mapping;
use crate::common::random::Random;
use crate::report::Run;
use crate::report::figures::{MAKE, Sharing};
use crate::subjects::{Subject, View};
use crate::template::Template;

/// Where the samples of one subject in one circumstance go; None while it only trains.
pub struct Log<'a> {
    pub run: Option<&'a mut Run>,
    pub subject: &'static str,
    pub at: &'a str,
}

impl Log<'_> {
    pub fn add(&mut self, figure: &str, value: f64) {
        if let Some(run) = &mut self.run {
            run.add(figure, self.at, self.subject, value);
        }
    }

    pub fn time(&mut self, figure: &str, time: Duration) {
        self.add(figure, micros(time));
    }
}

/// What every subject is given alike.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    pub template: &'a Template,
    pub plan: &'a Plan,
    pub seed: u64,
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub fn timed<T>(act: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begin = Instant::now();
    let done = act()?;
    Ok((done, begin.elapsed()))
}

/// Makes a view, and records how long that took where it is the making that makes it.
pub fn make(subject: &mut dyn Subject, template: &Template, log: &mut Log) -> Result<View> {
    let (view, time) = timed(|| subject.make(template))?;
    if subject.makes() {
        log.time(MAKE, time);
    }
    Ok(view)
}

/// open, fstat (for the length) and mmap of the whole.
pub fn open(view: &View, sharing: Sharing) -> io::Result<(File, Mapping)> {
    let file = view.open()?;
    let mapping = match sharing {
        Sharing::Private => Mapping::private(&file)?,
        Sharing::Shared => Mapping::shared(&file)?,
    };
    Ok((file, mapping))
}

/// So many distinct numbers below `pages`, in random order.
pub fn scattered(random: &mut Random, pages: usize, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..pages).collect();
    for at in 0..count {
        let from = at + random.below((pages - at) as u64) as usize;
        all.swap(at, from);
    }
    all.truncate(count);
    all
}
