//! Operations on one open file, and on the vector of bytes that it must agree with.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{Advice, FallocateFlags, SeekFrom, copy_file_range, fadvise, fallocate, seek};
use rustix::io::Errno;

use super::maps::{Mapping, aligned};
use super::ops::Op;
use super::random::pattern;

const PAGE: u64 = 4096;
/// How many operations a failure shows.
const REMEMBERED: usize = 40;

/// A file under test.
pub struct Subject {
    path: PathBuf,
    file: File,
    map: Option<Mapping>,
    /// What the file must hold.
    pub model: Vec<u8>,
    /// How far plain fallocate asked for room.
    allocated: u64,
    /// Another file of the same mount to copy from, and what it holds.
    source: (PathBuf, Vec<u8>),
    /// A path of the same mount that is a new file at each opening.
    scratch: PathBuf,
    /// `path` leads to the same file at each opening.
    named: bool,
    history: VecDeque<String>,
    /// Operations done.
    pub done: u64,
}

impl Subject {
    pub fn open(
        path: PathBuf,
        named: bool,
        model: Vec<u8>,
        source: (PathBuf, Vec<u8>),
        scratch: PathBuf,
    ) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Self {
            path,
            file,
            map: None,
            model,
            allocated: 0,
            source,
            scratch,
            named,
            history: VecDeque::new(),
            done: 0,
        }
    }

    pub fn apply(&mut self, op: Op) {
        self.done += 1;
        self.remember(&format!("{op:?}"));
        match op {
            Op::Read { at, length } => self.read(at, length),
            Op::Write { at, length, tag } => {
                let data = pattern(tag, length as usize);
                self.file
                    .write_all_at(&data, at)
                    .unwrap_or_else(|error| self.fail(&format!("pwrite: {error}")));
                self.write_model(at, &data);
            }
            Op::Append { length, tag } => {
                let data = pattern(tag, length as usize);
                let done = self.another(libc::O_APPEND).write_all(&data);
                done.unwrap_or_else(|error| self.fail(&format!("append: {error}")));
                self.model.extend_from_slice(&data);
            }
            Op::DirectRead { at, length } => {
                let mut memory = aligned(&vec![0xEE; length as usize]);
                let count = self.another(libc::O_DIRECT).read_at(&mut memory, at).unwrap();
                self.compare("O_DIRECT read", at, &memory[..count], self.clip(at, length));
            }
            Op::DirectWrite { at, length, tag } => {
                let data = pattern(tag, length as usize);
                let done = self.another(libc::O_DIRECT).write_all_at(&aligned(&data), at);
                done.unwrap_or_else(|error| self.fail(&format!("O_DIRECT write: {error}")));
                self.write_model(at, &data);
            }
            Op::Map => self.map = Mapping::of_some(&self.file, Mapping::shared).unwrap(),
            Op::Truncate { size } => {
                self.file.set_len(size).unwrap();
                self.model.resize(size as usize, 0);
            }
            Op::Punch { at, length } => self.allocate(FallocateFlags::PUNCH_HOLE, at, length, true),
            Op::Zero { at, length, keep } => self.allocate(FallocateFlags::ZERO_RANGE, at, length, keep),
            Op::Allocate { at, length, keep } => {
                self.allocated = self.allocated.max(at + length);
                self.allocate(FallocateFlags::empty(), at, length, keep);
            }
            Op::SeekData { at } => self.seek_data(at),
            Op::SeekHole { at } => self.seek_hole(at),
            Op::Sync => self.file.sync_all().unwrap(),
            Op::Stat => self.stat(),
            Op::DropCache { unmap } => {
                if let Some(map) = self.map.as_ref().filter(|_| unmap) {
                    map.forget().unwrap();
                }
                fadvise(&self.file, 0, None, Advice::DontNeed).unwrap();
            }
            Op::CopyIn { from, at, length } => self.copy_in(from, at, length),
            Op::CopyOut { at, length } => self.copy_out(at, length),
            Op::CopyWithin { from, at, length } => self.copy_within(from, at, length),
            Op::Reopen => {
                let new = if self.named { None } else { Some(self.another(0)) };
                self.map = None;
                // Closed before it is opened again, where that does not end it.
                let _ = new
                    .is_none()
                    .then(|| std::mem::replace(&mut self.file, File::open("/dev/null").unwrap()));
                self.file = new
                    .unwrap_or_else(|| OpenOptions::new().read(true).write(true).open(&self.path).unwrap());
            }
            _ => self.apply_to_mapping(op),
        }
    }

    fn apply_to_mapping(&mut self, op: Op) {
        let (Op::MapRead { at, length }
        | Op::MapWrite { at, length, .. }
        | Op::MapSync { at, length }
        | Op::MapRemove { at, length }
        | Op::PrivateMapWrite { at, length, .. }) = op
        else {
            unreachable!("{op:?}")
        };
        if self.map.is_none() {
            self.map = Mapping::of_some(&self.file, Mapping::shared).unwrap();
        }
        let Some(map) = &self.map else { return };
        // What is mapped and, since the file may have been cut, there.
        let end = self.model.len().min(map.len());
        let at = (at as usize).min(end);
        let length = (length as usize).min(end - at);
        match op {
            Op::MapRead { .. } => self.compare("mapped read", at as u64, &map.read(at, length), (at, length)),
            Op::MapWrite { tag, .. } => {
                let data = pattern(tag, length);
                map.write(at, &data);
                self.model[at..at + length].copy_from_slice(&data);
            }
            Op::MapSync { .. } => map.sync(at, length).unwrap(),
            // EINVAL for nothing at all.
            Op::MapRemove { .. } if length == 0 => {}
            Op::MapRemove { .. } => {
                map.remove(at, length).unwrap_or_else(|error| self.fail(&format!("MADV_REMOVE: {error}")));
                // Whole pages, also where the mapping ends within one.
                let (at, length) = self.clip(at as u64, (length as u64).next_multiple_of(PAGE));
                self.model[at..at + length].fill(0);
            }
            Op::PrivateMapWrite { tag, .. } => {
                let Some(private) = Mapping::of_some(&self.file, Mapping::private).unwrap() else { return };
                let data = pattern(tag, length);
                private.write(at, &data);
                assert_eq!(private.read(at, length), data);
                self.compare("mapping beside a private one", at as u64, &map.read(at, length), (at, length));
                drop(private);
                self.read(at as u64, length as u64);
            }
            _ => unreachable!(),
        }
    }

    /// The whole file.
    pub fn check_all(&mut self) {
        self.remember("check_all");
        self.read(0, self.model.len() as u64 + 1);
        self.stat();
    }

    pub fn fail(&self, what: &str) -> ! {
        let tail: Vec<&str> = self.history.iter().map(String::as_str).collect();
        panic!("{}: {what}\nthe last operations:\n{}", self.path.display(), tail.join("\n"))
    }

    fn remember(&mut self, what: &str) {
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        self.history.push_back(format!("  {:6} size {:8}  {what}", self.done, self.model.len()));
    }

    /// The same file opened once more, also where its path would lead to a new one.
    fn another(&self, flags: i32) -> File {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
    }

    fn read(&self, at: u64, length: u64) {
        let mut bytes = vec![0xEE; length as usize];
        let mut count = 0;
        while let Ok(more @ 1..) = self.file.read_at(&mut bytes[count..], at + count as u64) {
            count += more;
        }
        self.compare("pread", at, &bytes[..count], self.clip(at, length));
    }

    /// What a read of this range gets: start and length within the model.
    fn clip(&self, at: u64, length: u64) -> (usize, usize) {
        let start = self.model.len().min(at as usize);
        (start, (self.model.len() - start).min(length as usize))
    }

    fn compare(&self, what: &str, at: u64, found: &[u8], (start, length): (usize, usize)) {
        let expected = &self.model[start..start + length];
        if found == expected {
            return;
        }
        let common = found.iter().zip(expected).position(|(a, b)| a != b);
        let Some(first) = common else {
            self.fail(&format!("{what} at {at}: {} bytes and not {length}", found.len()))
        };
        let (place, wrong) = (start + first, found.iter().zip(expected).filter(|(a, b)| a != b).count());
        let hint = match self.source.1.get(place) {
            Some(byte) if *byte == found[first] => ", as in the template",
            _ => "",
        };
        self.fail(&format!(
            "{what} at {at}, {length} bytes: byte {place} (page {}, {} in it) is {:#04x} and not {:#04x}{hint}; \
             {wrong} bytes are wrong",
            place as u64 / PAGE,
            place as u64 % PAGE,
            found[first],
            expected[first],
        ))
    }

    fn write_model(&mut self, at: u64, data: &[u8]) {
        let (start, end) = (at as usize, at as usize + data.len());
        if end > self.model.len() && !data.is_empty() {
            self.model.resize(end, 0);
        }
        self.model[start..end].copy_from_slice(data);
    }

    fn allocate(&mut self, mode: FallocateFlags, at: u64, length: u64, keep: bool) {
        let flags = if keep { mode | FallocateFlags::KEEP_SIZE } else { mode };
        fallocate(&self.file, flags, at, length)
            .unwrap_or_else(|error| self.fail(&format!("fallocate: {error}")));
        if !keep && (at + length) as usize > self.model.len() {
            self.model.resize((at + length) as usize, 0);
        }
        if !mode.is_empty() {
            let (start, length) = self.clip(at, length);
            self.model[start..start + length].fill(0);
        }
    }

    fn next_data(&self, at: u64) -> Option<u64> {
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(found) => Some(found),
            Err(Errno::NXIO) => None,
            Err(error) => self.fail(&format!("SEEK_DATA from {at}: {error}")),
        }
    }

    fn seek_data(&self, at: u64) {
        let found = self.next_data(at);
        let end = found.unwrap_or(self.model.len() as u64);
        if found.is_some_and(|found| found < at || found >= self.model.len() as u64) {
            self.fail(&format!("SEEK_DATA from {at} found {found:?}"));
        }
        self.assert_zero("SEEK_DATA skipped", at, end);
    }

    fn seek_hole(&self, at: u64) {
        match seek(&self.file, SeekFrom::Hole(at)) {
            Err(Errno::NXIO) if at >= self.model.len() as u64 => {}
            Ok(hole) if hole >= at && hole <= self.model.len() as u64 && at < self.model.len() as u64 => {
                self.assert_zero(
                    "SEEK_HOLE found",
                    hole,
                    self.next_data(hole).unwrap_or(self.model.len() as u64),
                );
            }
            other => self.fail(&format!("SEEK_HOLE from {at}: {other:?}")),
        }
    }

    fn assert_zero(&self, what: &str, from: u64, to: u64) {
        let (start, length) = self.clip(from, to.saturating_sub(from));
        if let Some(first) = self.model[start..start + length].iter().position(|byte| *byte != 0) {
            self.fail(&format!("{what} {from}..{to} as a hole, but byte {} is not zero", start + first));
        }
    }

    fn stat(&self) {
        let metadata = self.file.metadata().unwrap();
        // Where the view is its own file, room that was asked for is had, also beyond its end.
        let most = self.allocated.max(self.model.len() as u64).next_multiple_of(PAGE) / 512;
        if metadata.len() != self.model.len() as u64 || metadata.blocks() > most {
            self.fail(&format!("stat: {} bytes, {} blocks", metadata.len(), metadata.blocks()));
        }
    }

    fn copy_in(&mut self, from: u64, at: u64, length: u64) {
        let start = (from as usize).min(self.source.1.len());
        let length = (length as usize).min(self.source.1.len() - start);
        let source = File::open(&self.source.0).unwrap();
        self.copy(&source, start as u64, &self.file, at, length);
        let data = self.source.1[start..start + length].to_vec();
        self.write_model_if_any(at, &data);
    }

    fn copy_out(&self, at: u64, length: u64) {
        let (start, length) = self.clip(at, length);
        let scratch = OpenOptions::new().read(true).write(true).open(&self.scratch).unwrap();
        self.copy(&self.file, start as u64, &scratch, at % PAGE, length);
        let mut copy = vec![0xEE; length];
        scratch.read_exact_at(&mut copy, at % PAGE).unwrap();
        self.compare("copy_file_range", start as u64, &copy, (start, length));
    }

    fn copy_within(&mut self, from: u64, at: u64, length: u64) {
        let (start, length) = self.clip(from, length);
        // EINVAL where the ranges meet.
        let length = length.min((at as usize).abs_diff(start));
        self.copy(&self.file, start as u64, &self.file, at, length);
        let data = self.model[start..start + length].to_vec();
        self.write_model_if_any(at, &data);
    }

    fn copy(&self, from: &File, mut start: u64, to: &File, mut at: u64, length: usize) {
        let end = start + length as u64;
        while start < end {
            let left = (end - start) as usize;
            match copy_file_range(from, Some(&mut start), to, Some(&mut at), left) {
                Ok(1..) => {}
                other => self.fail(&format!("copy_file_range of {left} bytes: {other:?}")),
            }
        }
    }

    fn write_model_if_any(&mut self, at: u64, data: &[u8]) {
        if !data.is_empty() {
            self.write_model(at, data);
        }
    }
}
