//! A successor steps in for a process that died serving a mount.
//!
//! The session library insists on an INIT, which the kernel sends once in the life of a mount.
//! So a socket tells it of one, with what was settled then; after that the connection itself is
//! put in the socket's place. What the dead process had received and not answered the kernel sends
//! again when it is asked to (Linux 6.9).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use fuser::{Filesystem, InitFlags, Session, SessionACL};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::engine::{Entry, Negotiated, Recorder};
use crate::error::{Error, Result};
use crate::keeper::{Keeper, Kept, TAKEOVERS};
use crate::sys;

/// Goes on with the records of the process that died. What processes of a mount give names by their
/// number no two of them may have in common: while the journal cannot be written the number is left
/// with the holder.
pub fn records(journal: &Path, keeper: &Keeper, kept: &mut Kept) -> Result<Recorder> {
    let number = |key: &String| key.strip_prefix(TAKEOVERS)?.parse().ok();
    let known = kept.keys().filter_map(number).max().unwrap_or(0);
    let recorder = Recorder::take_over(journal, known)?;
    if recorder.is_behind() {
        // The manager of a service keeps no file twice: this one is open nowhere else.
        let file = File::open("/dev/null").map_err(|e| Error::io("/dev/null", e))?;
        keeper.keep(&number_key(&recorder), file.as_fd());
    }
    let old: Vec<String> = kept.keys().filter(|key| key.starts_with(TAKEOVERS)).cloned().collect();
    for key in old {
        keeper.forget(&key);
        kept.remove(&key);
    }
    Ok(recorder)
}

/// The journal tells the number of this process.
pub fn caught_up(recorder: &Recorder, keeper: &Keeper) {
    keeper.forget(&number_key(recorder));
}

fn number_key(recorder: &Recorder) -> String {
    format!("{TAKEOVERS}{}", recorder.read(|ledger| ledger.takeovers))
}

/// Keeps what a new mount has settled with the kernel; for one that was taken over it is known.
pub fn record(recorder: &Recorder, negotiated: Negotiated) -> Result<()> {
    match recorder.read(|ledger| ledger.negotiated) {
        Some(_) => Ok(()),
        None => recorder.record(Entry::Negotiated(negotiated)),
    }
}

/// Can this mount be taken over at all?
pub fn is_possible(negotiated: &Negotiated) -> bool {
    InitFlags::from_bits_retain(negotiated.flags).contains(InitFlags::FUSE_HAS_RESEND)
}

/// A session on the connection `device`, which another process had served.
pub fn session<F: Filesystem>(
    filesystem: F,
    device: &OwnedFd,
    negotiated: &Negotiated,
    config: fuser::Config,
) -> Result<Session<F>> {
    let begin = || {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::write(&ours, &init(negotiated))?;
        let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)?;
        sys::replace_descriptor(session.as_fd(), device.as_fd())?;
        Ok(session)
    };
    begin().map_err(|e: io::Error| Error::io("this mount cannot be taken over", e))
}

/// Has the kernel send again what nobody has answered. Whoever received it first must be dead.
pub fn resend(device: &OwnedFd) -> Result<()> {
    /// struct fuse_out_header: length, FUSE_NOTIFY_RESEND, no request.
    const RESEND: [u32; 4] = [16, 7, 0, 0];
    let notice: Vec<u8> = RESEND.iter().flat_map(|word| word.to_ne_bytes()).collect();
    rustix::io::write(device, &notice)
        .map(drop)
        .map_err(|e| Error::io("the kernel does not send again what was not answered", e))
}

/// struct fuse_in_header and struct fuse_init_in (include/uapi/linux/fuse.h).
fn init(negotiated: &Negotiated) -> Vec<u8> {
    const LENGTH: u32 = 40 + 64;
    const FUSE_INIT: u32 = 26;
    const MAX_READAHEAD: u32 = 128 << 10;
    let flags = negotiated.flags | InitFlags::FUSE_INIT_EXT.bits();
    let mut message = Vec::with_capacity(LENGTH as usize);
    let header = [LENGTH, FUSE_INIT, 1, 0, 0, 0, 0, 0, 0, 0];
    let body = [negotiated.major, negotiated.minor, MAX_READAHEAD, flags as u32, (flags >> 32) as u32];
    header.into_iter().chain(body).for_each(|word: u32| message.extend_from_slice(&word.to_ne_bytes()));
    message.resize(LENGTH as usize, 0);
    message
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use super::*;

    struct Probe(Arc<OnceLock<(u64, u32)>>);

    impl Filesystem for Probe {
        fn init(&mut self, _: &fuser::Request, config: &mut fuser::KernelConfig) -> io::Result<()> {
            let seen = (config.capabilities().bits(), config.kernel_abi().1);
            self.0.set(seen).map_err(|_| io::Error::other("twice"))
        }
    }

    /// The library sees what was settled, and reads from the other file afterwards.
    #[test]
    fn the_session_sees_what_was_settled_and_then_the_connection() {
        let seen = Arc::new(OnceLock::new());
        let device = OwnedFd::from(tempfile::tempfile().unwrap());
        let flags = (InitFlags::FUSE_HAS_RESEND | InitFlags::FUSE_PARALLEL_DIROPS).bits();
        let negotiated = Negotiated { major: 7, minor: 45, flags };
        let session = session(Probe(seen.clone()), &device, &negotiated, fuser::Config::default()).unwrap();
        assert_eq!(seen.get(), Some(&(flags, 45)));
        let inode = |fd: std::os::fd::BorrowedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(inode(session.as_fd()), inode(device.as_fd()));
        assert!(is_possible(&negotiated));
        assert!(!is_possible(&Negotiated { flags: 0, ..negotiated }));
    }
}
