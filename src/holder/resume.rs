//! A start that is handed what an earlier holder has left with the service manager: does the mount go on, and
//! with what?
//!
//! Nothing here looks at a path of the mount, which nobody serves: whoever did would wait for this process.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock, fstat};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Signal, pidfd_send_signal};

use super::fdstore::{FdStore, HOLDER, MOUNT, SERVING, SOCKET};
use super::is_served;
use super::process::is_gone_in_time;
use super::record::Record;
use super::wire::{self, Message};
use crate::config::MountConfig;
use crate::error::{Error, Result};
use crate::keeper::{self, DEVICE, Kept, LOCK};
use crate::mount;

/// A mount whose processes are all dead, or about to be.
pub struct Resumed {
    pub config: MountConfig,
    pub record: Record,
    pub kept: Kept,
}

/// What is found before anything is done.
#[derive(Debug, Clone, Copy)]
struct Found {
    holder_lives: bool,
    /// The lock is that of the recorded state directory, and nobody else's.
    locked: bool,
    /// The kernel's side of the connection is there.
    connected: bool,
    /// The connection was not kept yet: nobody had got an answer.
    unanswered: bool,
    /// The command line asks for the mount that was recorded.
    asked_for: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    Anew(&'static str),
    Refuse(&'static str),
}

fn judge(found: Found) -> Verdict {
    match found {
        Found { holder_lives: true, .. } => {
            Verdict::Refuse("the process that holds it still lives; unmount it, or end that one")
        }
        Found { connected: false, unanswered: false, .. } => Verdict::Anew("it is gone"),
        Found { asked_for: false, .. } => Verdict::Refuse(
            "another store, mountpoint or state directory is asked for; ask for the same, or unmount that one first",
        ),
        Found { locked: false, .. } => Verdict::Refuse(
            "its state directory is another one now, or another templatefs uses it; unmount it and mount again",
        ),
        Found { unanswered: true, .. } => Verdict::Anew("it never answered"),
        Found { .. } => Verdict::GoOn,
    }
}

/// The mount that goes on. None: a new one is to be made. Unless it is refused, whoever has served it is dead
/// afterwards.
///
/// # Errors
/// `Error::Invalid` where a mount is there and must not go on by this process.
pub fn look(asked: &MountConfig, mut handed: Kept, store: Option<&mut FdStore>) -> Result<Option<Resumed>> {
    let [record, holder, serving, socket] = [MOUNT, HOLDER, SERVING, SOCKET].map(|key| handed.remove(key));
    let Some(record) = record.as_ref().and_then(Record::from_file) else {
        if !handed.is_empty() {
            log::warn!("what the service manager hands over is of no mount of templatefs: mounting anew");
        }
        return Ok(None);
    };
    handed.retain(|key, _| {
        let known = keeper::knows_key(key);
        if !known {
            log::warn!("the service manager hands over what this templatefs does not know: {key:?}");
        }
        known
    });
    let mut found = Found {
        holder_lives: holder.is_some_and(|holder| !is_gone_in_time(&holder)),
        locked: handed.get(LOCK).is_some_and(|lock| is_lock_of(lock, record.state())),
        asked_for: record.is_of(asked),
        connected: is_served(&handed),
        unanswered: !handed.contains_key(DEVICE),
    };
    if !matches!(judge(found), Verdict::Refuse(_)) {
        end(serving.as_ref());
        socket.inspect(|socket| drain(socket, &mut handed, store));
        found.connected = is_served(&handed);
        found.unanswered = !handed.contains_key(DEVICE);
    }
    let shown = record.mountpoint().display();
    match judge(found) {
        Verdict::GoOn => {
            log::warn!("{shown}: the process that held this mount was ended; another one holds it now");
            let config = record.applied_to(asked.clone());
            Ok(Some(Resumed { config, record, kept: handed }))
        }
        Verdict::Anew(why) => {
            log::warn!("{shown}: the mount that was left with the service manager does not go on: {why}");
            if found.locked {
                give_up(&record, &handed);
            }
            Ok(None)
        }
        Verdict::Refuse(why) => {
            Err(Error::Invalid(format!("{shown}: this mount was left with the service manager, and {why}")))
        }
    }
}

/// Locks it too, where nobody does.
fn is_lock_of(lock: &OwnedFd, state: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(state.join("lock")) else { return false };
    let is_its = fstat(lock).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (metadata.dev(), metadata.ino()));
    is_its && flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// It may have served on without a holder, and this process is not its parent.
fn end(serving: Option<&OwnedFd>) {
    let Some(serving) = serving else { return };
    let _ = pidfd_send_signal(serving, Signal::KILL);
    if !is_gone_in_time(serving) {
        log::warn!("one of the threads of the process that served waits for the mount itself");
    }
}

/// What the process that served had sent and no holder has read. One that had just been started and was told
/// nothing yet ends by this.
fn drain(socket: &OwnedFd, kept: &mut Kept, mut store: Option<&mut FdStore>) {
    loop {
        // As in the life of a holder: what was taken from the socket is in the store already.
        match wire::peek(socket) {
            Ok(Some(message)) => store.iter_mut().for_each(|store| store.follow(&message)),
            Ok(None) => break,
            Err(_) => {}
        }
        match wire::receive(socket) {
            Ok(Some(Message::Keep(key, descriptor))) => drop(kept.insert(key, descriptor)),
            Ok(Some(Message::Forget(key))) => drop(kept.remove(&key)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                log::warn!("the process that served: {error}")
            }
            Err(_) => break,
        }
    }
    let _ = shutdown(socket, Shutdown::Both);
}

/// The service manager has the same lock still, and what was begun there is left.
fn give_up(record: &Record, kept: &Kept) {
    if let Some(lock) = kept.get(LOCK) {
        let _ = flock(lock, FlockOperation::Unlock);
    }
    if !kept.contains_key(DEVICE)
        && mount::device_of(record.mountpoint()).is_ok()
        && let Err(error) = mount::detach(record.mountpoint())
    {
        log::error!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn a_mount_goes_on_where_everything_fits_and_is_never_taken_from_somebody() {
        let fits =
            Found { holder_lives: false, locked: true, connected: true, unanswered: false, asked_for: true };
        assert_eq!(judge(fits), Verdict::GoOn);
        for misfit in [
            Found { holder_lives: true, ..fits },
            Found { holder_lives: true, connected: false, ..fits },
            Found { locked: false, ..fits },
            Found { asked_for: false, ..fits },
            Found { asked_for: false, connected: false, unanswered: true, ..fits },
        ] {
            assert!(matches!(judge(misfit), Verdict::Refuse(_)), "{misfit:?}");
        }
        for anew in [
            Found { connected: false, ..fits },
            Found { connected: false, locked: false, asked_for: false, ..fits },
            Found { connected: false, unanswered: true, ..fits },
        ] {
            assert!(matches!(judge(anew), Verdict::Anew(_)), "{anew:?}");
        }
    }

    #[test]
    fn a_lock_is_that_of_its_directory_and_held_by_nobody_else() {
        let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |at: &Path| OwnedFd::from(std::fs::File::create(at.join("lock")).unwrap());
        let lock = open(state.path());
        assert!(is_lock_of(&lock, state.path()));
        assert!(!is_lock_of(&lock, other.path()), "there is none");
        let second = open(other.path());
        assert!(!is_lock_of(&lock, other.path()));
        assert!(!is_lock_of(&open(state.path()), state.path()), "another has locked it");
        assert!(is_lock_of(&second, other.path()));
    }

    #[test]
    fn what_was_sent_and_not_read_counts() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        let mut kept = Kept::from([("old".into(), file()), ("stays".into(), file())]);
        wire::send(&theirs, b'L', "", None).unwrap();
        wire::send(&theirs, b'K', "new", Some(file().as_fd())).unwrap();
        wire::send(&theirs, b'F', "old", None).unwrap();
        drain(&ours, &mut kept, None);
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["new", "stays"]);
        assert!(matches!(wire::receive(&theirs), Ok(None)), "nobody is there any more");
    }
}
