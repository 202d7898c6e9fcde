//! Another program is to serve: it is asked whether it could, the one that serves is killed, and the
//! other takes over as after any death. Whatever goes wrong, the old program serves again.
//!
//! ```text
//! Checking ── it could ──> Leaving ── the old one is dead ──> Trying ── it answers ──> done
//!    └─ it could not: refused                                    └─ it died ──> Failed ── the old one answers ──> refused
//! ```

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::process::{Ended, Errand, Serving};
use super::wire;
use crate::config::MountConfig;
use crate::error::Result;
use crate::program::Program;

/// Neither looking nor taking over lasts as long, unless the program hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Upgrade {
    /// Who has asked for it, and waits.
    client: OwnedFd,
    /// The one of the two that is not to be started next.
    other: Program,
    pub step: Step,
    end: Instant,
}

pub enum Step {
    Checking(Serving),
    /// The new program could, and is this version.
    Leaving(String),
    Trying(String),
    Failed(String),
}

impl Upgrade {
    pub fn begin(client: OwnedFd, new: Program, config: &MountConfig) -> Result<Self> {
        let check = Serving::start(config, &new, Errand::Check, None)?;
        log::info!(
            "{}: {} is asked whether it could serve",
            config.mountpoint.display(),
            new.path().display()
        );
        Ok(Self { client, other: new, step: Step::Checking(check), end: Instant::now() + PATIENCE })
    }

    /// How long the other side has, if it is its turn.
    pub fn patience(&self) -> Option<Duration> {
        let waits = matches!(self.step, Step::Checking(_) | Step::Trying(_));
        waits.then(|| self.end.saturating_duration_since(Instant::now()))
    }

    pub fn check(&self) -> Option<&Serving> {
        match &self.step {
            Step::Checking(check) => Some(check),
            _ => None,
        }
    }

    /// The new program could: from now on it is the one that is started.
    pub fn leave(&mut self, version: String, serves: &mut Program) -> Option<Serving> {
        log::info!("{} is to serve, version {version}", self.other.path().display());
        std::mem::swap(&mut self.other, serves);
        match std::mem::replace(&mut self.step, Step::Leaving(version)) {
            Step::Checking(check) => Some(check),
            _ => None,
        }
    }

    /// Somebody is about to be started, and whoever served before is dead.
    pub fn before_start(&mut self) {
        if let Step::Leaving(version) = &self.step {
            self.step = Step::Trying(version.clone());
            self.end = Instant::now() + PATIENCE;
        }
    }

    /// Whoever served, or was to, is dead. True where this was part of the upgrade.
    pub fn after_death(&mut self, ended: &Ended, serves: &mut Program) -> bool {
        match &self.step {
            Step::Leaving(_) => true,
            Step::Trying(_) => {
                let what = match self.end <= Instant::now() {
                    true => format!("did not answer within {PATIENCE:?}"),
                    false => ended.to_string(),
                };
                let why = format!("{} {what} before it served", serves.path().display());
                log::error!("{why}; the old program takes over again");
                std::mem::swap(&mut self.other, serves);
                self.step =
                    Step::Failed(format!("{why}, and the old program serves again; see the daemon's log"));
                true
            }
            Step::Checking(_) | Step::Failed(_) => false,
        }
    }

    /// Some program serves: tells how it went. None while it is not decided yet.
    pub fn conclude(self) -> Option<Self> {
        match self.step {
            Step::Trying(version) => tell(&self.client, b'D', &version),
            Step::Failed(why) => tell(&self.client, b'X', &why),
            Step::Checking(_) | Step::Leaving(_) => return Some(self),
        }
        None
    }

    pub fn refuse(self, why: &str) -> Option<Serving> {
        log::warn!("not upgraded: {why}");
        tell(&self.client, b'X', why);
        match self.step {
            Step::Checking(check) => Some(check),
            _ => None,
        }
    }
}

/// Whoever asked may not wait for the answer any more.
pub fn tell(client: &OwnedFd, kind: u8, text: &str) {
    if let Err(error) = wire::say(client, kind, text) {
        log::debug!("who asked for an upgrade cannot be told: {error}");
    }
}
