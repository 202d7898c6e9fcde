//! What the holder does for others than the serving process: for who asks it for an upgrade, and for
//! the new program, which looks whether it could serve.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::Signal;

use super::process::Serving;
use super::upgrade::{self, Upgrade};
use super::wire::{self, Message};
use super::{Holder, Source};
use crate::error::{Error, Result};
use crate::keeper::DEVICE;
use crate::program::Program;

const NO_WORD: &str = "the new program does not say that it can read the state of the mount";

impl<R: FnOnce() -> Result<()>> Holder<'_, R> {
    /// Whoever else wants something than the serving process.
    pub(super) fn oblige(&mut self, woken: &[Source]) {
        if woken.contains(&Source::Signal) {
            self.signals.drain();
        }
        if woken.contains(&Source::Check) {
            self.hear_check();
        }
        if self
            .upgrade
            .as_ref()
            .is_some_and(|upgrade| upgrade.check().is_some() && upgrade.patience() == Some(Duration::ZERO))
        {
            self.refuse_upgrade(NO_WORD);
        }
        // From the last to the first: those before one that goes keep their places.
        for index in (0..self.door.clients.len()).rev() {
            if woken.contains(&Source::Client(index)) {
                let client = self.door.clients.remove(index);
                if let Ok(Some(Message::Upgrade(program))) = wire::receive(&client) {
                    self.begin_upgrade(client, program);
                }
            }
        }
        if woken.contains(&Source::Knock) {
            self.door.let_in();
        }
    }

    fn begin_upgrade(&mut self, client: OwnedFd, program: OwnedFd) {
        let refuse = |why: &str| upgrade::tell(&client, b'X', why);
        self.bury();
        if self.upgrade.is_some() {
            return refuse("another upgrade is under way");
        }
        if self.ready.is_some() {
            return refuse("the mount does not answer yet");
        }
        if !self.kept.contains_key(DEVICE) {
            return refuse("this kernel lets no other process take over (Linux 6.9)");
        }
        let program = match Program::received(program) {
            Ok(program) => program,
            Err(error) => return refuse(&error.to_string()),
        };
        match client
            .try_clone()
            .map_err(|e| Error::io("upgrade", e))
            .and_then(|client| Upgrade::begin(client, program, self.config))
        {
            Ok(upgrade) => self.upgrade = Some(upgrade),
            Err(error) => refuse(&error.to_string()),
        }
    }

    /// The new program asks for what is kept, says whether it could serve, or is gone.
    fn hear_check(&mut self) {
        let Some(check) = self.upgrade.as_ref().and_then(Upgrade::check) else { return };
        match wire::receive(&check.socket) {
            Ok(Some(message @ Message::List)) => {
                if let Ok(socket) = check.socket.try_clone() {
                    self.handle(&socket, message);
                }
            }
            Ok(Some(Message::Done(version))) => {
                let program = &mut self.program;
                let done = self.upgrade.as_mut().and_then(|upgrade| upgrade.leave(version, program));
                self.dismiss(done);
            }
            Ok(Some(Message::Refused(why))) => self.refuse_upgrade(&why),
            _ => self.refuse_upgrade(NO_WORD),
        }
    }

    fn refuse_upgrade(&mut self, why: &str) {
        let done = self.upgrade.take().and_then(|upgrade| upgrade.refuse(why));
        self.dismiss(done);
    }

    fn dismiss(&mut self, check: Option<Serving>) {
        if let Some(check) = check {
            check.signal(Signal::KILL);
            self.lingering.push(check);
        }
    }

    pub(super) fn bury(&mut self) {
        self.lingering.retain_mut(|serving| !serving.is_gone());
    }
}
