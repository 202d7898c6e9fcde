//! What the holder and the process that serves say to each other over a SEQPACKET socket, one
//! message a packet:
//!
//! ```text
//! serving -> holder   'K' KEY + descriptor   keep this under KEY
//!                     'F' KEY                let go of it
//!                     'L'                    list what is kept
//!                     'R'                    the mount answers
//! holder -> serving   'K' KEY + descriptor   for each that is kept, then
//!                     'E'                    that was all
//! check -> holder     'D' VERSION            it can read the state, and is this version
//!                     'X' WHY                it cannot
//! client -> holder    'U' + program          let this one serve
//! holder -> client    'D' VERSION            it does
//!                     'X' WHY                it does not, and the old one does
//! ```
//!
//! The process that serves may be of another version than the one that holds: what stands here stays.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

#[derive(Debug)]
pub enum Message {
    Keep(String, OwnedFd),
    Forget(String),
    List,
    Ready,
    End,
    Upgrade(OwnedFd),
    Done(String),
    Refused(String),
}

/// A longer key is no key.
pub const MAX_KEY: usize = 255;

/// A text for people, as much of it as fits and on one line.
pub fn say(socket: impl AsFd, kind: u8, text: &str) -> io::Result<()> {
    let line = text.replace('\n', "; ");
    let end = (0..=MAX_KEY.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    send(socket, kind, &line[..end], None)
}

pub fn send(socket: impl AsFd, kind: u8, key: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if key.len() > MAX_KEY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the key is too long"));
    }
    let parts = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(key.as_bytes())];
    send_parts(socket, &parts, descriptor)
}

pub fn send_parts(
    socket: impl AsFd,
    parts: &[IoSlice<'_>],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    loop {
        match sendmsg(&socket, parts, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// One packet: its kind, its text and the descriptor that came with it.
pub type Packet = (u8, String, Option<OwnedFd>);

/// None where the other side is gone. A message that is none is an error.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Message>> {
    message(receive_packet(socket)?)
}

/// What [`receive`] will return next. None also where there is nothing yet.
pub fn peek(socket: impl AsFd) -> io::Result<Option<Message>> {
    match packet(socket, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        packet => message(packet?),
    }
}

fn message(packet: Option<Packet>) -> io::Result<Option<Message>> {
    let Some((kind, key, descriptor)) = packet else { return Ok(None) };
    match (kind, descriptor) {
        (b'K', Some(descriptor)) => Ok(Some(Message::Keep(key, descriptor))),
        (b'F', None) => Ok(Some(Message::Forget(key))),
        (b'L', None) => Ok(Some(Message::List)),
        (b'R', None) => Ok(Some(Message::Ready)),
        (b'E', None) => Ok(Some(Message::End)),
        (b'U', Some(descriptor)) => Ok(Some(Message::Upgrade(descriptor))),
        (b'D', None) => Ok(Some(Message::Done(key))),
        (b'X', None) => Ok(Some(Message::Refused(key))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no message of templatefs")),
    }
}

/// None where the other side is gone.
pub fn receive_packet(socket: impl AsFd) -> io::Result<Option<Packet>> {
    packet(socket, RecvFlags::empty())
}

fn packet(socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<Packet>> {
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let mut bytes = [0; MAX_KEY + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Ok(message) => break message.bytes,
            Err(rustix::io::Errno::INTR) => {}
            // What it had not read yet was thrown away with it.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    };
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor = descriptors.flatten().next();
    let Some((kind, text)) = bytes[..length].split_first() else { return Ok(None) };
    Ok(Some((*kind, String::from_utf8_lossy(text).into_owned(), descriptor)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_key_also_after_its_sender_is_gone() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"kept").unwrap();
        send(&theirs, b'K', "a key", Some(file.as_fd())).unwrap();
        send(&theirs, b'F', "another", None).unwrap();
        assert!(send(&theirs, b'K', &"k".repeat(MAX_KEY + 1), Some(file.as_fd())).is_err());
        drop((theirs, file));
        let Some(Message::Keep(key, peeked)) = peek(&ours).unwrap() else { panic!() };
        assert_eq!(key, "a key");
        drop(peeked);
        let Some(Message::Keep(key, descriptor)) = receive(&ours).unwrap() else { panic!() };
        assert_eq!(key, "a key");
        let mut content = String::new();
        let mut file = std::fs::File::from(descriptor);
        file.rewind().unwrap();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "kept");
        assert!(matches!(receive(&ours), Ok(Some(Message::Forget(key))) if key == "another"));
        assert!(matches!(receive(&ours), Ok(None)));
    }

    #[test]
    fn who_peeks_takes_nothing_and_waits_for_nothing() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        assert!(matches!(peek(&ours), Ok(None)));
        send(&theirs, b'L', "", None).unwrap();
        send(&theirs, b'?', "", None).unwrap();
        for _ in 0..2 {
            assert!(matches!(peek(&ours), Ok(Some(Message::List))));
        }
        assert!(matches!(receive(&ours), Ok(Some(Message::List))));
        assert!(peek(&ours).is_err() && receive(&ours).is_err());
        assert!(matches!(peek(&ours), Ok(None)));
    }

    #[test]
    fn a_text_arrives_on_one_line_as_far_as_it_fits() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        say(&theirs, b'X', "two\nlines").unwrap();
        say(&theirs, b'D', &"模".repeat(100)).unwrap();
        assert!(matches!(receive(&ours), Ok(Some(Message::Refused(why))) if why == "two; lines"));
        assert!(matches!(receive(&ours), Ok(Some(Message::Done(text))) if text == "模".repeat(85)));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        for kind in [b'K', b'x', 0] {
            send(&theirs, kind, "key", None).unwrap();
            assert!(receive(&ours).is_err(), "{kind}");
        }
    }
}
