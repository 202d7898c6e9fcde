//! Descriptors that outlive the holder too: they are left with the service manager (sd_notify(3), FDSTORE=1), which
//! hands them to the unit's next process (handed.rs).
//!
//! ```text
//! mount      what is mounted where (record.rs)
//! holder     a pidfd of this process
//! serving    a pidfd of the one that serves
//! socket     this process's end of the socket to that one: what it has sent and nobody has read stays in there
//! others     what is kept, each under its key with `/` for `:`
//! ```
//!
//! A message of a process that was killed counts. No answer comes to any.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{PidfdFlags, pidfd_open};

use super::record::Record;
use super::wire::{self, Message};
use crate::keeper::Kept;

pub const ENVIRONMENT: &str = "NOTIFY_SOCKET";

pub const MOUNT: &str = "mount";
pub const HOLDER: &str = "holder";
pub const SERVING: &str = "serving";
pub const SOCKET: &str = "socket";

/// A manager that does not read is not waited for any longer at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// All names together: the next process finds them in its environment, where one string has at most 128 KiB
/// (execve(2)); with more the unit could not be started at all.
const NAMES: usize = 100 << 10;

pub struct FdStore {
    manager: OwnedFd,
    /// The holder's own, beside what it keeps.
    own: Kept,
    /// The keys of what the manager has.
    told: BTreeSet<String>,
    /// Those of them that mean another descriptor by now.
    replaced: BTreeSet<String>,
    /// It has not been told everything.
    behind: bool,
    /// Some have found no room.
    full: bool,
}

impl FdStore {
    /// None where no manager listens.
    pub fn of_manager<'a>(has_already: impl Iterator<Item = &'a String>) -> Option<Self> {
        let address = std::env::var_os(ENVIRONMENT)?;
        let manager = connected(&address)
            .inspect_err(|e| {
                log::warn!("{ENVIRONMENT}={}: no descriptor is left there: {e}", address.display())
            })
            .ok()?;
        let told = has_already.cloned().collect();
        let (own, replaced) = (Kept::new(), BTreeSet::new());
        Some(Self { manager, own, told, replaced, behind: false, full: false })
    }

    /// This process begins to hold a mount.
    pub fn begin(&mut self, record: &Record, kept: &Kept) -> io::Result<()> {
        let this = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        self.keep_own(MOUNT, record.to_file()?.as_fd());
        self.keep_own(HOLDER, this.as_fd());
        kept.iter().for_each(|(key, descriptor)| self.keep(key, descriptor.as_fd()));
        Ok(())
    }

    /// One of the holder's own, in place of what had its name before.
    pub fn keep_own(&mut self, key: &str, descriptor: BorrowedFd<'_>) {
        if self.told.contains(key) {
            self.replaced.insert(key.into());
        }
        self.forget(key);
        self.own.remove(key);
        match descriptor.try_clone_to_owned() {
            Ok(copy) => drop(self.own.insert(key.into(), copy)),
            Err(error) => log::warn!("{key} is not left with the service manager: {error}"),
        }
        self.keep(key, descriptor);
    }

    /// What the serving process says is about to be done.
    pub fn follow(&mut self, message: &Message) {
        match message {
            Message::Keep(key, descriptor) => self.keep(key, descriptor.as_fd()),
            Message::Forget(key) => self.forget(key),
            _ => {}
        }
    }

    pub fn keep(&mut self, key: &str, descriptor: BorrowedFd<'_>) {
        if self.behind || self.told.contains(key) {
            return;
        }
        let Some(name) = name_of(key) else {
            return log::warn!("{key:?} is not left with the service manager: it is no name there");
        };
        if self.told.iter().map(|told| told.len() + 1).sum::<usize>() + name.len() > NAMES {
            if !std::mem::replace(&mut self.full, true) {
                log::warn!("too much is in use to leave all of it with the service manager");
            }
            return;
        }
        if self.say(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"), Some(descriptor)) {
            self.told.insert(key.into());
        }
    }

    fn forget(&mut self, key: &str) {
        if self.behind || !self.told.contains(key) {
            return;
        }
        let Some(name) = name_of(key) else { return };
        if self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), None) {
            self.told.remove(key);
            self.replaced.remove(key);
            // Now there is room for one of them.
            self.behind |= std::mem::take(&mut self.full);
        }
    }

    /// Tells what could not be told before. A manager that does not read is not waited for here.
    pub fn catch_up(&mut self, kept: &Kept) {
        if !self.behind || !is_listening(&self.manager) {
            return;
        }
        self.behind = false;
        let is_wanted = |key: &str| kept.contains_key(key) || self.own.contains_key(key);
        let is_stale = |key: &&String| !is_wanted(key) || self.replaced.contains(*key);
        let stale: Vec<String> = self.told.iter().filter(is_stale).cloned().collect();
        stale.iter().for_each(|key| self.forget(key));
        let own = std::mem::take(&mut self.own);
        for (key, descriptor) in own.iter().chain(kept) {
            self.keep(key, descriptor.as_fd());
        }
        self.own = own;
    }

    /// The mount is gone: the unit's next process is to begin anew.
    pub fn clear(&mut self) {
        self.own.clear();
        self.full = false;
        self.behind = true;
        self.catch_up(&Kept::new());
    }

    fn say(&mut self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> bool {
        let said = wire::send_parts(&self.manager, &[IoSlice::new(text.as_bytes())], descriptor);
        if let Err(error) = &said {
            log::warn!("the service manager cannot be told what to keep: {error}; it is tried again");
        }
        self.behind |= said.is_err();
        said.is_ok()
    }
}

/// As systemd's `fdname_is_valid`: up to 255 of the printable characters of ASCII, without a colon, which
/// separates the names in LISTEN_FDNAMES.
fn name_of(key: &str) -> Option<String> {
    let is_fit = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'/';
    (key.len() <= 255 && key.bytes().all(is_fit)).then(|| key.replace(':', "/"))
}

pub fn key_of(name: &str) -> String {
    name.replace('/', ":")
}

fn connected(address: &OsStr) -> io::Result<OwnedFd> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    connect(&socket, &address)?;
    Ok(socket)
}

/// Does it read what it is told?
fn is_listening(manager: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polled = [PollFd::new(manager, PollFlags::OUT)];
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::OUT)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn store() -> (FdStore, UnixDatagram) {
        let (manager, ours) = UnixDatagram::pair().unwrap();
        manager.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        let store = FdStore {
            manager: ours.into(),
            own: Kept::new(),
            told: BTreeSet::new(),
            replaced: BTreeSet::new(),
            behind: false,
            full: false,
        };
        (store, manager)
    }

    fn said(manager: &UnixDatagram) -> Vec<String> {
        let mut bytes = [0; 512];
        let texts =
            std::iter::from_fn(|| manager.recv(&mut bytes).ok().map(|length| bytes[..length].to_vec()));
        texts.map(|text| String::from_utf8(text).unwrap()).collect()
    }

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    #[test]
    fn a_key_is_a_name_that_leads_back_to_it() {
        assert_eq!(name_of("memory:7").unwrap(), "memory/7");
        for key in ["device", "template:64769:1234:0.7", "writable-root"] {
            assert_eq!(key_of(&name_of(key).unwrap()), key);
            assert!(!name_of(key).unwrap().contains(':'));
        }
        for key in ["a/b", "tab\t", "newline\n", "ä", &"k".repeat(256)] {
            assert_eq!(name_of(key), None, "{key}");
        }
    }

    #[test]
    fn each_is_told_once_and_taken_back_once() {
        let (mut store, manager) = store();
        for _ in 0..2 {
            store.keep("memory:7", file().as_fd());
        }
        store.follow(&Message::Forget("never kept".into()));
        for _ in 0..2 {
            store.follow(&Message::Forget("memory:7".into()));
        }
        let kept = "FDSTORE=1\nFDNAME=memory/7\nFDPOLL=0\n";
        assert_eq!(said(&manager), [kept, "FDSTOREREMOVE=1\nFDNAME=memory/7\n"]);
    }

    #[test]
    fn what_the_manager_had_no_room_for_is_told_when_it_reads_again() {
        let (mut store, manager) = store();
        let kept: Kept = (0..1000).map(|n| (format!("memory:{n}"), file())).collect();
        kept.iter().for_each(|(key, descriptor)| store.keep(key, descriptor.as_fd()));
        store.keep_own(MOUNT, file().as_fd());
        assert!(store.behind, "its socket takes fewer");
        let mut all = said(&manager);
        while store.behind {
            store.catch_up(&kept);
            all.extend(said(&manager));
        }
        let names: BTreeSet<&str> = all.iter().filter_map(|text| text.lines().nth(1)).collect();
        assert_eq!((all.len(), names.len()), (1001, 1001));
        store.clear();
        while store.behind {
            all.extend(said(&manager));
            store.catch_up(&Kept::new());
        }
        all.extend(said(&manager));
        assert_eq!(all.iter().filter(|text| text.starts_with("FDSTOREREMOVE=1\n")).count(), 1001);
    }

    /// A descriptor that had its name before stayed with the manager.
    #[test]
    fn what_is_replaced_while_the_manager_does_not_read_is_replaced_there_later() {
        let (mut store, manager) = store();
        store.keep_own(SOCKET, file().as_fd());
        said(&manager);
        store.behind = true;
        store.keep_own(SOCKET, file().as_fd());
        assert!(said(&manager).is_empty());
        store.catch_up(&Kept::new());
        assert_eq!(
            said(&manager),
            ["FDSTOREREMOVE=1\nFDNAME=socket\n", "FDSTORE=1\nFDNAME=socket\nFDPOLL=0\n"]
        );
        store.catch_up(&Kept::new());
        assert!(said(&manager).is_empty());
    }

    /// With more the unit's next process could not be started.
    #[test]
    fn all_names_together_fit_into_one_string_of_an_environment() {
        let (mut store, manager) = store();
        let key = |n: usize| format!("{n:0255}");
        let count = NAMES / 250;
        for n in 0..count {
            store.keep(&key(n), file().as_fd());
            said(&manager);
        }
        let joined = store.told.iter().map(|key| key.len() + 1).sum::<usize>();
        assert!(store.told.len() < count && joined <= 128 << 10, "{joined}");
        // One that goes makes room for one that did not fit.
        let kept: Kept = (1..count).map(|n| (key(n), file())).collect();
        store.follow(&Message::Forget(key(0)));
        let before = store.told.len();
        store.catch_up(&kept);
        assert_eq!(store.told.len(), before + 1);
    }
}
