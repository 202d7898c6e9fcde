//! The process that holds a mount: it keeps what must not be lost when the one that serves it dies,
//! and starts that one again. docs/RECOVERY.md tells the whole of it.
//!
//! It has one thread, opens nothing on the mount and asks it nothing: it must never wait for what
//! it is there to restart.

mod backoff;
pub mod door;
pub mod fdstore;
pub mod handed;
mod process;
mod record;
mod requests;
pub mod resume;
mod signals;
mod upgrade;
pub mod wire;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use sd_notify::NotifyState;

use crate::config::MountConfig;
use crate::error::{Error, Result};
use crate::keeper::{DEVICE, Kept, LOCK};
use crate::mount;
use crate::program::Program;
use crate::session::raise_file_limit;
use crate::state::StateDirectory;
use backoff::Backoff;
use door::Door;
use fdstore::FdStore;
use process::{Ended, Errand, Serving};
use record::Record;
use resume::Resumed;
use signals::Signals;
use upgrade::{Step, Upgrade};
use wire::Message;

/// Has a new mount served until it is gone. `asked` is the command line's; `ready` is called once the mount answers
/// for the first time.
pub fn hold(
    config: &MountConfig,
    asked: &MountConfig,
    state: &StateDirectory,
    store: Option<FdStore>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<ExitCode> {
    let lock = state.lock().try_clone().map_err(|e| Error::io("the lock of the state directory", e))?;
    let kept = Kept::from([(LOCK.into(), lock)]);
    let record = Record::new(asked, config);
    run(config, &record, kept, store, Some(ready))
}

/// Goes on with a mount that a process before this one has held.
pub fn go_on(resumed: Resumed, store: Option<FdStore>) -> Result<ExitCode> {
    let Resumed { config, record, kept } = resumed;
    // Whoever starts this process waits for it, and may end it when that takes long: not because there is no memory
    // for a serving process.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    run(&config, &record, kept, store, None::<fn() -> Result<()>>)
}

fn run(
    config: &MountConfig,
    record: &Record,
    kept: Kept,
    mut store: Option<FdStore>,
    ready: Option<impl FnOnce() -> Result<()>>,
) -> Result<ExitCode> {
    process::shield();
    raise_file_limit();
    if let Some(store) = &mut store {
        let begun = store.begin(record, &kept);
        begun.map_err(|e| Error::io("what is left with the service manager", e))?;
    }
    let mut holder = Holder {
        config,
        kept,
        store,
        signals: Signals::register().map_err(|e| Error::io("signals", e))?,
        program: Program::this().map_err(|e| Error::io("this program", e))?,
        door: Door::open(record.state()),
        upgrade: None,
        lingering: Vec::new(),
        ready,
    };
    let held = holder.run();
    if let Some(store) = holder.store.as_mut().filter(|_| !is_served(&holder.kept)) {
        store.clear();
    }
    if !matches!(held, Ok(ExitCode::SUCCESS)) {
        log::error!("{} is not held any more", config.mountpoint.display());
    }
    match held {
        // Not this process, but the next one may do better.
        Err(error) if is_served(&holder.kept) => {
            log::error!("{error}");
            Ok(ExitCode::from(TRY_AGAIN))
        }
        held => held,
    }
}

/// Is there a mount, and may there be somebody to serve it?
fn is_served(kept: &Kept) -> bool {
    kept.get(DEVICE).is_some_and(mount::is_connected)
}

/// As in sysexits.h: a temporary failure. The unit starts the mount again after it, and not after an error that
/// would come again.
const TRY_AGAIN: u8 = 75;

/// How often the serving process is looked at, besides being waited for.
const LOOK: Duration = Duration::from_secs(1);

struct Holder<'a, R> {
    config: &'a MountConfig,
    kept: Kept,
    /// None where no service manager keeps it beside this process.
    store: Option<FdStore>,
    signals: Signals,
    /// The one that is started next.
    program: Program,
    door: Door,
    upgrade: Option<Upgrade>,
    /// The dead that are not gone yet.
    lingering: Vec<Serving>,
    /// Until the mount has answered.
    ready: Option<R>,
}

impl<R: FnOnce() -> Result<()>> Holder<'_, R> {
    fn run(&mut self) -> Result<ExitCode> {
        let mut backoff = Backoff::default();
        loop {
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.before_start();
            }
            let began = Instant::now();
            let ended = match Serving::start(self.config, &self.program, Errand::Serve, self.store.as_mut()) {
                Ok(mut serving) => {
                    self.attend(&mut serving)?;
                    let ended = serving.end();
                    self.lingering.push(serving);
                    ended
                }
                Err(error) if self.ready.is_some() => return Err(error),
                Err(error) => Ended::NotStarted(error.to_string()),
            };
            self.bury();
            if let Some(over) = self.is_over(&ended) {
                return over;
            }
            if self.upgrade.as_mut().is_some_and(|upgrade| upgrade.after_death(&ended, &mut self.program)) {
                continue;
            }
            let wait = backoff.after_death(began.elapsed(), ended.is_killed());
            let shown = self.config.mountpoint.display();
            log::error!("{shown}: the serving process {ended}; another one takes over in {wait:?}");
            if backoff.is_alarming() {
                log::error!(
                    "{shown}: processes that serve it die one after the other; whoever uses it waits until one lives: look \
                     for what they say above"
                );
            }
            self.pause(wait);
        }
    }

    /// Is the mount gone, or can nobody serve it any more?
    fn is_over(&mut self, ended: &Ended) -> Option<Result<ExitCode>> {
        let mountpoint = &self.config.mountpoint;
        let is_served = is_served(&self.kept);
        if self.ready.is_some() && !(is_served && ended.is_killed()) {
            // It has said why, unless it was killed; what it made of the mount goes with it.
            self.kept.remove(DEVICE);
            if mount::device_of(mountpoint).is_ok()
                && let Err(error) = mount::detach(mountpoint)
            {
                log::error!("{error}");
            }
            return Some(match ended {
                Ended::Exited(_) => Ok(ExitCode::FAILURE),
                killed => {
                    Err(Error::Invalid(format!("the daemon ended before the mount answered: {killed}")))
                }
            });
        }
        match self.kept.get(DEVICE) {
            Some(_) if is_served => None,
            Some(_) => Some(Ok(ExitCode::SUCCESS)),
            None if matches!(ended, Ended::Exited(0)) => Some(Ok(ExitCode::SUCCESS)),
            None => Some(Err(Error::Invalid(format!(
                "{}: the serving process {ended}, and this kernel lets no other take over (Linux 6.9)",
                mountpoint.display()
            )))),
        }
    }

    /// Does what the serving process asks for, until it is dead.
    fn attend(&mut self, serving: &mut Serving) -> Result<()> {
        let mut answers = false;
        let mut listening = true;
        loop {
            let woken = self.wait_for(Some((&*serving, listening)), None)?;
            // What it sent before it died is received first.
            if woken.contains(&Source::Asked) {
                // What is taken from the socket would be lost with this process.
                if let Some(store) = &mut self.store
                    && let Ok(Some(message)) = wire::peek(&serving.socket)
                {
                    store.follow(&message);
                }
                match wire::receive(&serving.socket) {
                    Ok(Some(Message::Ready)) => {
                        answers = true;
                        self.upgrade = self.upgrade.take().and_then(Upgrade::conclude);
                        self.leave_nothing_that_is_of_no_use();
                        if let Err(error) = self.answer() {
                            // Nobody waits for this mount any more.
                            log::error!("{error}");
                            serving.signal(Signal::TERM);
                        }
                    }
                    Ok(Some(message)) => self.handle(&serving.socket, message),
                    Ok(None) => listening = false,
                    Err(error) => log::warn!("the serving process: {error}"),
                }
            } else if woken.contains(&Source::Dead) {
                return Ok(());
            }
            if let Some(store) = &mut self.store {
                store.catch_up(&self.kept);
            }
            self.oblige(&woken);
            let leaves = |upgrade: &Upgrade| match upgrade.step {
                Step::Leaving(_) => true,
                Step::Trying(_) => upgrade.patience() == Some(Duration::ZERO),
                Step::Checking(_) | Step::Failed(_) => false,
            };
            if self.upgrade.as_ref().is_some_and(leaves) {
                serving.signal(Signal::KILL);
            }
            // A successor that does not answer yet may not have its handlers yet either, and must
            // not die of it; nobody needs the first one before it answers.
            if (answers || self.ready.is_some()) && self.signals.take_wanted() {
                serving.signal(Signal::TERM);
            }
            // One that does not answer yet reads the policies anyway.
            if answers && self.signals.take_reload() {
                serving.signal(Signal::HUP);
            }
        }
    }

    /// While nobody serves: until a signal comes or somebody asks, or for this long.
    fn pause(&mut self, time: Duration) {
        match self.wait_for(None, Some(time)) {
            Ok(woken) => self.oblige(&woken),
            Err(error) => log::error!("{error}"),
        }
    }

    fn wait_for(&self, serving: Option<(&Serving, bool)>, time: Option<Duration>) -> Result<Vec<Source>> {
        let mut sources: Vec<(Source, BorrowedFd<'_>)> = vec![(Source::Signal, self.signals.wake.as_fd())];
        if let Some((serving, listening)) = serving {
            sources.push((Source::Dead, serving.death.as_fd()));
            sources.extend(listening.then_some((Source::Asked, serving.socket.as_fd())));
        }
        sources.extend(self.door.listener.iter().map(|door| (Source::Knock, door.as_fd())));
        let clients = self.door.clients.iter().enumerate();
        sources.extend(clients.map(|(index, client)| (Source::Client(index), client.as_fd())));
        let check = self.upgrade.as_ref().and_then(Upgrade::check);
        sources.extend(check.map(|check| (Source::Check, check.socket.as_fd())));
        let patience = self.upgrade.as_ref().and_then(Upgrade::patience);
        let look = serving.map(|_| LOOK);
        let time = time.into_iter().chain(patience).chain(look).min();
        let timeout = time
            .map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) });
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, descriptor)| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN))
            .collect();
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("waiting for the serving process", e)),
        }
        let woken = sources.iter().zip(&polled).filter(|(_, polled)| !polled.revents().is_empty());
        let mut woken: Vec<Source> = woken.map(|((source, _), _)| *source).collect();
        if woken.is_empty() && serving.is_some_and(|(serving, _)| serving.is_dead()) {
            woken.push(Source::Dead);
        }
        Ok(woken)
    }

    /// Where no other may take over (before Linux 6.9), the next holder must not end the process that serves.
    fn leave_nothing_that_is_of_no_use(&mut self) {
        if !self.kept.contains_key(DEVICE)
            && let Some(mut store) = self.store.take()
        {
            store.clear();
        }
    }

    fn answer(&mut self) -> Result<()> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        ready()?;
        // Under systemd with Type=notify; elsewhere nothing.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        Ok(())
    }

    fn handle(&mut self, socket: &OwnedFd, message: Message) {
        match message {
            Message::Keep(key, descriptor) => drop(self.kept.insert(key, descriptor)),
            Message::Forget(key) => drop(self.kept.remove(&key)),
            Message::List => {
                let send = || {
                    for (key, descriptor) in &self.kept {
                        wire::send(socket, b'K', key, Some(descriptor.as_fd()))?;
                    }
                    wire::send(socket, b'E', "", None)
                };
                if let Err(error) = send() {
                    log::warn!("the serving process cannot be told what is kept: {error}");
                }
            }
            Message::Ready | Message::End | Message::Upgrade(_) | Message::Done(_) | Message::Refused(_) => {}
        }
    }
}

/// Who may wake the holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signal,
    /// The serving process says something, or will say nothing more.
    Asked,
    Dead,
    Knock,
    Client(usize),
    /// A new program that looks whether it could serve.
    Check,
}
