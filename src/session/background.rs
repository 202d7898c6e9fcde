//! The threads beside the event loops.

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::Notifier;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::broker;
use crate::engine::Engine;
use crate::errands;
use crate::error::{Error, Result};
use crate::forget;
use crate::inspect::Inspector;
use crate::profile::{self, Profiles};
use crate::warm;

/// How often what was written to views with a name is brought to disk, if nobody asks for it before:
/// as the kernel does with files.
const SETTLE_EVERY: Duration = Duration::from_secs(30);

/// The thread that brings to disk what was written to views with a name.
pub fn start_settling(engine: &Arc<Engine>) -> Result<()> {
    let engine = engine.clone();
    let work = move || {
        loop {
            thread::sleep(SETTLE_EVERY);
            engine.views().settle();
        }
    };
    background("settle", work).map(drop)
}

/// How often it is tried to write what a successor could not.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The thread that writes to the state directory what could not be written at a takeover.
pub fn start_telling(tell: impl Fn() -> Result<()> + Send + 'static) -> Result<()> {
    let work = move || {
        loop {
            thread::sleep(TELL_EVERY);
            if tell().is_ok() {
                return log::info!("the state directory can be written again, and tells of this process");
            }
        }
    };
    background("tell", work).map(drop)
}

/// Views that were closed and not learned from yet.
const MAX_LESSONS: usize = 256;

/// The thread that learns what views touch.
pub fn start_learning(
    engine: &Arc<Engine>,
    profiles: &Arc<Profiles>,
    inspector: &Arc<OnceLock<Inspector>>,
) -> Result<JoinHandle<()>> {
    let (sender, lessons) = sync_channel(MAX_LESSONS);
    engine.set_lessons(sender);
    let (engine, profiles, inspector) = (engine.clone(), profiles.clone(), inspector.clone());
    let look = engine.warms();
    background("learn", move || profile::learn(engine, profiles, inspector, lessons, look))
}

/// The thread that warms nodes.
pub fn start_warming(engine: &Arc<Engine>, profiles: &Arc<Profiles>, notifier: Notifier) -> Result<()> {
    let kernel = errands::PageCache(notifier);
    let (engine, profiles) = (engine.clone(), profiles.clone());
    background("warm", move || warm::work(&engine, &profiles, &kernel)).map(drop)
}

/// Users who have many names looked up, and were not looked at yet; one that is left out is named again.
const MAX_CROWDED: usize = 256;

/// The thread that has the kernel forget names.
pub fn start_forgetting(engine: &Arc<Engine>, notifier: Notifier) -> Result<()> {
    let (sender, crowded) = sync_channel(MAX_CROWDED);
    engine.shares().tell_crowded(sender);
    let engine = engine.clone();
    background("forget", move || forget::work(&engine, &notifier, &crowded)).map(drop)
}

fn background(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let started = thread::Builder::new().name(name.into()).spawn(work);
    started.map_err(|e| Error::io("threads cannot be started", e))
}

/// A busy mount goes on being served: its views are guests' memory.
pub fn obey_signals(mut signals: Signals, engine: Arc<Engine>, mountpoint: PathBuf) -> Result<()> {
    let wait = move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                match engine.reload_policies() {
                    Ok(()) => log::info!("signal {signal}: the policies were read again"),
                    Err(error) => log::error!("{error}; the policies stay as they were"),
                }
                continue;
            }
            log::info!("signal {signal}: unmounting {}", mountpoint.display());
            match broker::unmount(&mountpoint) {
                Ok(()) => return,
                Err(error) => {
                    log::error!("{error}");
                    eprintln!("templatefs: {error}");
                }
            }
        }
    };
    background("signals", wait).map(drop)
}
