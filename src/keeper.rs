//! Descriptors that must outlive this process are left with the one that holds the mount
//! (holder/). A message that was sent has arrived, whatever becomes of the sender.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};
use crate::holder::wire::{self, Message};
use crate::{memory, pins};

/// The connection to the kernel.
pub const DEVICE: &str = "device";
/// The lock on the state directory.
pub const LOCK: &str = "lock";

/// The store's root directories.
pub const ROOTS: [&str; 2] = ["root", "writable-root"];

/// Before the number of processes that have taken over, while the journal does not tell it.
pub const TAKEOVERS: &str = "takeovers.";

/// Does this version know what is kept under this key?
pub fn knows_key(key: &str) -> bool {
    let of_others = pins::knows_key(key) || memory::knows_key(key) || key.starts_with(TAKEOVERS);
    key == DEVICE || key == LOCK || ROOTS.contains(&key) || of_others
}

/// Without a socket nothing is kept: this process has no successor.
#[derive(Default)]
pub struct Keeper(Option<OwnedFd>);

pub type Kept = BTreeMap<String, OwnedFd>;

impl Keeper {
    pub fn new(socket: OwnedFd) -> Self {
        Self(Some(socket))
    }

    /// All that is kept, as descriptors of this process.
    pub fn list(&self) -> Result<Kept> {
        let mut kept = Kept::new();
        let Some(socket) = &self.0 else { return Ok(kept) };
        let mut receive = || {
            wire::send(socket, b'L', "", None)?;
            loop {
                match wire::receive(socket)? {
                    Some(Message::Keep(key, descriptor)) => drop(kept.insert(key, descriptor)),
                    Some(Message::End) => return Ok(()),
                    _ => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                }
            }
        };
        receive().map_err(|e: io::Error| Error::io("the process that holds this mount", e))?;
        Ok(kept)
    }

    pub fn keep(&self, key: &str, descriptor: BorrowedFd<'_>) {
        self.send(b'K', key, Some(descriptor));
    }

    pub fn forget(&self, key: &str) {
        self.send(b'F', key, None);
    }

    /// The mount answers.
    pub fn ready(&self) {
        self.send(b'R', "", None);
    }

    /// Whether this process, which was only asked to look, could take over.
    pub fn answer(&self, checked: &Result<()>) -> Result<()> {
        let Some(socket) = &self.0 else { return Ok(()) };
        match checked {
            Ok(()) => wire::say(socket, b'D', env!("CARGO_PKG_VERSION")),
            Err(why) => wire::say(socket, b'X', &why.to_string()),
        }
        .map_err(|e| Error::io("the process that holds this mount", e))
    }

    /// Is somebody there who would start a successor?
    pub fn is_held(&self) -> bool {
        let Some(socket) = &self.0 else { return false };
        let mut polled = [PollFd::new(socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().is_empty()
    }

    /// A holder that is gone is no reason to stop serving.
    fn send(&self, kind: u8, key: &str, descriptor: Option<BorrowedFd<'_>>) {
        let Some(socket) = &self.0 else { return };
        if let Err(error) = wire::send(socket, kind, key, descriptor) {
            log::warn!("the process that holds this mount cannot be told ({key}): {error}");
        }
    }
}

/// A descriptor that is kept for as long as this value lives, or this process does not.
pub struct KeptHere {
    keeper: Arc<Keeper>,
    key: String,
}

impl KeptHere {
    pub fn new(keeper: &Arc<Keeper>, key: String, descriptor: impl AsFd) -> Self {
        keeper.keep(&key, descriptor.as_fd());
        Self::again(keeper, key)
    }

    /// One that an earlier process has left there.
    pub fn again(keeper: &Arc<Keeper>, key: String) -> Self {
        Self { keeper: keeper.clone(), key }
    }
}

impl Drop for KeptHere {
    fn drop(&mut self) {
        self.keeper.forget(&self.key);
    }
}
