//! Whatever bytes the files of the state directory hold: read, refused or set aside, and what is read would
//! be written again as it was. Checksums are made to fit, since nobody guesses one.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use serde::de::DeserializeOwned;
use templatefs::engine::{Entry, Ledger};
use templatefs::holder::wire::{self, Message};
use templatefs::journal;
use templatefs::overlay::{self, Boot, Copies, Extent, Lasts, PAGE, PageMap, Record, Units, ViewFiles};
use templatefs::profile;
use templatefs::state::Mounted;
use templatefs::store::Identity;

use super::scratch;

/// The first byte says which of them the others are.
pub fn hold(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    match which % 8 {
        0 => the_record_of_a_view(bytes),
        1 => the_map_of_a_view(bytes),
        2 => a_journal(bytes),
        3 => entries(bytes),
        4 => a_profile(bytes),
        5 => a_message(bytes),
        6 => the_words_of_a_map(bytes),
        _ => what_is_mounted(bytes),
    }
}

/// Magic, version, and then the lengths and checksums of a body.
fn sealed(magic: &[u8; 8], version: u32, words: &[u32], body: &[u8]) -> Vec<u8> {
    let words = words.iter().flat_map(|word| word.to_le_bytes());
    magic.iter().copied().chain(version.to_le_bytes()).chain(words).chain(body.iter().copied()).collect()
}

const OF_A_VIEW: &[u8; 8] = b"TFSVIEW\0";

/// What a checksum is of begins with 28 bytes that the length does not count, from version 2 on.
fn the_record_of_a_view(bytes: &[u8]) {
    let checksum = crc32fast::hash(bytes);
    let first = sealed(OF_A_VIEW, 1, &[bytes.len() as u32, checksum], bytes);
    let length = (bytes.len() as u32).wrapping_sub(28);
    let second = sealed(OF_A_VIEW, 2, &[length, checksum], bytes);
    let header = [3u32.to_le_bytes(), length.to_le_bytes()].concat();
    let third = sealed(OF_A_VIEW, 3, &[length, crc32fast::hash(&[&header, bytes].concat())], bytes);
    for bytes in [bytes.to_vec(), first, second, third] {
        let Ok(Copies { copy, .. }) = Copies::decode(&bytes) else { continue };
        assert!(copy.record.extent.template_len <= copy.record.extent.size, "{copy:?}");
        if let Ok((_, again)) = Copies::new(copy.record.clone(), copy.boot) {
            assert_eq!(Copies::decode(&again).map(|copies| copies.copy.record), Ok(copy.record));
        }
    }
}

/// Where in the file, and of which size the view is; then words: as any bytes, and with their seals.
fn the_map_of_a_view(bytes: &[u8]) {
    let Some(((offset, size), words)) = two_numbers(bytes) else { return };
    for version in [2, 3] {
        a_map(version, size, words, offset);
    }
    let unit = offset / 512;
    let mut states = words_of(words);
    states.resize(states.len().next_multiple_of(Units::Sealed.words()), 0);
    // The records before them take 16 KiB.
    if let Some(at) = unit.checked_mul(512).and_then(|at| at.checked_add(16384)) {
        a_map(3, size, &Units::Sealed.encode(unit, &states), at);
    }
}

fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

fn a_map(version: u32, size: u64, words: &[u8], offset: u64) {
    let directory = scratch();
    let (map, data) = (directory.path().join("v.map"), directory.path().join("v.data"));
    let identity = Identity { dev: 1, ino: 2, size: u64::MAX, mtime_ns: 3, btime_ns: None };
    let record = Record {
        view: None,
        vm: None,
        template: b"t".to_vec(),
        identity,
        uid: 0,
        gid: 0,
        mode: 0o600,
        extent: Extent { size, template_len: size },
        created: 1,
    };
    let file = File::create(&map).unwrap();
    let (mut copies, _) = Copies::new(record.clone(), Boot::current()).unwrap();
    copies.copy.version = version;
    let (next, copy) = copies.next(record, Boot::current()).unwrap();
    file.write_all_at(&copy, next.at as u64).unwrap();
    // Beyond what the filesystem can hold there can be no words.
    if file.write_all_at(words, offset).is_err() {
        return;
    }
    fs::write(data, b"some data").unwrap();
    let read = overlay::peek(directory.path(), "v");
    let opened = ViewFiles::open(directory.path(), "v", Lasts::No);
    let (Ok((record, pages)), Ok(Some((files, open)))) = (read, opened) else { return };
    assert_eq!(record, files.record());
    let end = record.extent.size.div_ceil(PAGE);
    assert_eq!(pages.runs(end), open.runs(end));
    // What lay beyond the view's end is gone from the file too.
    let (_, again) = overlay::peek(directory.path(), "v").unwrap();
    assert_eq!(pages.runs(u64::MAX / PAGE), again.runs(u64::MAX / PAGE));
}

fn the_words_of_a_map(bytes: &[u8]) {
    let Some(((first, page), words)) = two_numbers(bytes) else { return };
    let words = words_of(words);
    let mut map = PageMap::default();
    if !map.load(first, &words) {
        assert_eq!((map.private(), map.zero()), (0, 0));
        return;
    }
    for (at, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
        let index = first + at as u64;
        let start = index * 32;
        let state = map.get(start);
        let chunk = map.chunk_with(start..start + 1, state);
        assert_eq!(chunk[index as usize % chunk.len()], *word);
    }
    let private: u64 = words.iter().map(|word| u64::from((word & 0x5555_5555_5555_5555).count_ones())).sum();
    assert_eq!(map.private(), private);
    map.truncate(page);
    assert_eq!(map.run(page, u64::MAX).1, u64::MAX);
}

fn a_journal(bytes: &[u8]) {
    let headed = [journal::whole(&[]), bytes.to_vec()].concat();
    for bytes in [bytes, &headed] {
        let Ok((replay, end)) = journal::replay(bytes) else { continue };
        assert!(replay.bodies.iter().map(Vec::len).sum::<usize>() <= bytes.len());
        assert!(end >= 16 && end % 8 == 0);
        let whole = journal::whole(&replay.bodies);
        let (again, _) = journal::replay(&whole).unwrap();
        assert_eq!((again.bodies, again.damaged), (replay.bodies, vec![]));
    }
}

/// One a line.
fn entries(bytes: &[u8]) {
    let mut ledger = Ledger::default();
    for line in bytes.split(|b| *b == b'\n') {
        if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
            ledger.apply(entry);
        }
    }
    let mut again = Ledger::default();
    for entry in ledger.entries() {
        again.apply(serde_json::from_slice(&serde_json::to_vec(&entry).unwrap()).unwrap());
    }
    assert_eq!(format!("{again:?}"), format!("{ledger:?}"));
}

/// How many of the bytes are the head; they, and the bitmaps.
fn a_profile(bytes: &[u8]) {
    let body = match bytes.split_first() {
        Some((length, rest)) => [&u32::from(*length).to_le_bytes()[..], rest].concat(),
        None => vec![],
    };
    for bytes in [bytes.to_vec(), sealed(b"TFSPROF\0", 1, &[crc32fast::hash(&body)], &body)] {
        let Ok(profile) = profile::decode(&bytes) else { continue };
        let pages = profile.predicted();
        assert!(pages.iter().all(|page| u64::from(page) < profile.identity.size.div_ceil(PAGE)));
        let encoded = profile::encode(&profile).unwrap();
        assert_eq!(profile::decode(&encoded), Ok(profile));
    }
}

/// A packet as it is, without and with a descriptor.
fn a_message(bytes: &[u8]) {
    let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (ours, theirs) = pair();
    send(&theirs, bytes, SendFlags::empty()).unwrap();
    let plain = wire::receive(&ours);
    if let Some((kind, key)) = bytes.split_first()
        && let Ok(key) = std::str::from_utf8(key)
    {
        let _ = wire::send(&theirs, *kind, key, Some(theirs.as_fd()));
    }
    drop(theirs);
    let descriptor = wire::receive(&ours);
    for message in [plain, descriptor].into_iter().filter_map(Result::ok).flatten() {
        let (kind, key, descriptor) = match &message {
            Message::Keep(key, descriptor) => (b'K', key.as_str(), Some(descriptor)),
            Message::Forget(key) => (b'F', key.as_str(), None),
            Message::List => (b'L', "", None),
            Message::Ready => (b'R', "", None),
            Message::End => (b'E', "", None),
            Message::Upgrade(descriptor) => (b'U', "", Some(descriptor)),
            Message::Done(text) => (b'D', text.as_str(), None),
            Message::Refused(text) => (b'X', text.as_str(), None),
        };
        let (ours, theirs) = pair();
        if wire::send(&theirs, kind, key, descriptor.map(AsFd::as_fd)).is_ok() {
            let again = wire::receive(&ours).unwrap().unwrap();
            let shown = |message: &Message| match message {
                Message::Keep(key, _) => format!("Keep {key}"),
                Message::Upgrade(_) => "Upgrade".to_owned(),
                other => format!("{other:?}"),
            };
            assert_eq!(shown(&again), shown(&message));
        }
    }
}

fn what_is_mounted(bytes: &[u8]) {
    again::<Mounted>(bytes);
}

fn again<T: DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return };
    let encoded = serde_json::to_vec(&value).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&encoded).unwrap(), value);
}

fn two_numbers(bytes: &[u8]) -> Option<((u64, u64), &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    let (second, rest) = rest.split_first_chunk()?;
    Some(((u64::from_le_bytes(*first), u64::from_le_bytes(*second)), rest))
}
