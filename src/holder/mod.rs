//! The process that holds a mount: it keeps what must not be lost when the one that serves it dies,
//! and starts that one again. docs/RECOVERY.md tells the whole of it.
//!
//! It has one thread, opens nothing on the mount and asks it nothing: it must never wait for what
//! it is there to restart.

mod backoff;
mod process;
pub mod wire;

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::config::MountConfig;
use crate::error::{Error, Result};
use crate::keeper::{DEVICE, Kept, LOCK};
use crate::mount;
use crate::session::raise_file_limit;
use crate::state::StateDirectory;
use backoff::Backoff;
use process::{Ended, Serving};
use wire::Message;

/// Has the mount served until it is gone. `ready` is called once it answers for the first time.
pub fn hold(
    config: &MountConfig,
    state: &StateDirectory,
    ready: impl FnOnce() -> Result<()>,
) -> Result<ExitCode> {
    process::shield();
    raise_file_limit();
    let lock = state.lock().try_clone().map_err(|e| Error::io("the lock of the state directory", e))?;
    let mut holder = Holder {
        config,
        kept: Kept::from([(LOCK.into(), lock)]),
        signals: Signals::register().map_err(|e| Error::io("signals", e))?,
        ready: Some(ready),
    };
    let held = holder.run();
    if held.is_err() || !matches!(held, Ok(ExitCode::SUCCESS)) {
        log::error!("{} is not held any more", config.mountpoint.display());
    }
    held
}

struct Holder<'a, R> {
    config: &'a MountConfig,
    kept: Kept,
    signals: Signals,
    /// Until the mount has answered.
    ready: Option<R>,
}

impl<R: FnOnce() -> Result<()>> Holder<'_, R> {
    fn run(&mut self) -> Result<ExitCode> {
        let mut backoff = Backoff::default();
        // The dead that are not gone yet.
        let mut lingering = Vec::new();
        loop {
            let began = Instant::now();
            let ended = match Serving::start(self.config) {
                Ok(mut serving) => {
                    self.attend(&mut serving)?;
                    let ended = serving.end();
                    lingering.push(serving);
                    ended
                }
                Err(error) if self.ready.is_some() => return Err(error),
                Err(error) => Ended::NotStarted(error.to_string()),
            };
            lingering.retain_mut(|serving: &mut Serving| !serving.is_gone());
            if let Some(over) = self.is_over(&ended) {
                return over;
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
            self.signals.wait(wait);
        }
    }

    /// Is the mount gone, or can nobody serve it any more?
    fn is_over(&mut self, ended: &Ended) -> Option<Result<ExitCode>> {
        let mountpoint = &self.config.mountpoint;
        let is_served = self.kept.get(DEVICE).is_some_and(mount::is_connected);
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
            // What it sent before it died is received first.
            let [woken, asked, dead] = self.wait_for(serving, listening)?;
            if asked {
                match wire::receive(&serving.socket) {
                    Ok(Some(Message::Ready)) => {
                        answers = true;
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
            } else if dead {
                return Ok(());
            }
            if woken {
                self.signals.drain();
            }
            // A successor that does not answer yet may not have its handlers yet either, and must
            // not die of it; nobody needs the first one before it answers.
            if (answers || self.ready.is_some()) && self.signals.taken() {
                serving.signal(Signal::TERM);
            }
            // One that does not answer yet reads the policies anyway.
            if answers && self.signals.reload.swap(false, Ordering::Relaxed) {
                serving.signal(Signal::HUP);
            }
        }
    }

    fn wait_for(&self, serving: &Serving, listening: bool) -> Result<[bool; 3]> {
        let mut polled = [
            PollFd::new(&self.signals.wake, PollFlags::IN),
            PollFd::new(&serving.death, PollFlags::IN),
            PollFd::new(&serving.socket, PollFlags::IN),
        ];
        let count = if listening { 3 } else { 2 };
        match poll(&mut polled[..count], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("waiting for the serving process", e)),
        }
        let is = |index: usize| !polled[index].revents().is_empty();
        Ok([is(0), listening && is(2), is(1)])
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
            Message::Ready | Message::End => {}
        }
    }
}

/// What is meant for whoever serves.
struct Signals {
    wake: UnixStream,
    /// SIGTERM or SIGINT: it is to unmount.
    wanted: Arc<AtomicBool>,
    /// SIGHUP: it is to read the policies again.
    reload: Arc<AtomicBool>,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let (wake, signal) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let [wanted, reload] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        for (number, flag) in [(SIGTERM, &wanted), (SIGINT, &wanted), (SIGHUP, &reload)] {
            signal_hook::flag::register(number, flag.clone())?;
            signal_hook::low_level::pipe::register(number, signal.try_clone()?)?;
        }
        Ok(Self { wake, wanted, reload })
    }

    fn drain(&mut self) {
        let mut bytes = [0; 64];
        while self.wake.read(&mut bytes).is_ok_and(|length| length > 0) {}
    }

    fn taken(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    /// Until a signal comes, or for this long.
    fn wait(&self, time: Duration) {
        let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&timeout));
    }
}
